//! BLOCK_STATUS: one question of a client is one question to the agent for each metadata context it chose, and one answer
//! when all of them are answered.
//!
//! Beside `base:allocation` an export has a context for each snapshot of its volume, `acre:changed-since:NAME`: bit 0 says
//! that a block changed since that snapshot, bit 1 that it reads as zeroes now.

use crate::engine::host::{Host, io_id};
use agent::{ChangedExtent, IoKind, IoRequest, StatusExtent, VolumeSlot};
use controller::Exports;
use model::VolumeId;
use nbd::protocol::allocation_flags;
use nbd::server::{ContextIndex, ContextSet, ContextStatus, RequestId};

/// How many extents are looked up for one status request.
const STATUS_EXTENTS_MAX: u32 = 1024;
/// What the names of the contexts of snapshots begin with; the snapshot's name follows.
const CHANGED_SINCE: &str = "acre:changed-since:";
/// A block changed since the snapshot.
const CHANGED: u32 = 1;
/// It reads as zeroes now.
const NOW_ZERO: u32 = 2;

/// A status request of which some contexts are not answered yet.
#[derive(Default)]
pub(crate) struct Gathering {
    left: u32,
    statuses: Vec<(ContextIndex, Vec<nbd::Extent>)>,
    failed: Option<nbd::ErrorCode>,
}

/// The contexts of snapshots of `volume` that a client's queries name, with the snapshots. A query that ends with a colon
/// asks what there is (`all`: everything is asked for).
pub(crate) fn contexts_of(
    exports: &Exports,
    volume: &str,
    queries: &[String],
    all: bool,
    visible: impl Fn(&str) -> bool,
) -> Vec<(String, VolumeId)> {
    let prefix = format!("{volume}@");
    let of_volume = exports.from(&prefix).map_while(|export| Some((export.name.strip_prefix(&prefix)?, export)));
    let contexts = of_volume
        .filter(|(_, export)| visible(&export.name))
        .map(|(snapshot, export)| (format!("{CHANGED_SINCE}{snapshot}"), export.volume));
    let wanted = |context: &str| {
        let names = |query: &String| query == context || (query.ends_with(':') && context.starts_with(query.as_str()));
        all || queries.iter().any(names)
    };
    contexts.filter(|(context, _)| wanted(context)).collect()
}

/// The questions to the agent that a status request comes to; none when no context of it can be answered.
pub(crate) fn questions(
    host: &mut Host,
    index: u32,
    slot: VolumeSlot,
    request: RequestId,
    (offset, length, one): (u64, u64, bool),
    contexts: ContextSet,
) -> Vec<IoRequest> {
    let extents_max = if one { 1 } else { STATUS_EXTENTS_MAX };
    let mut questions = Vec::new();
    for context in contexts.iter() {
        let Some(name) = host.connection.contexts().get(usize::from(context.0)) else { continue };
        let kind = match host.snapshots.get(name) {
            Some(since) => IoKind::Changed { offset, length, since: *since, extents_max },
            None => IoKind::Status { offset, length, extents_max },
        };
        questions.push(IoRequest { id: io_id(index, request, Some(context)), volume: slot, kind });
    }
    let left = questions.len() as u32;
    host.gathering.insert(request, Gathering { left, ..Gathering::default() });
    questions
}

/// The extents of `base:allocation`.
pub(crate) fn allocation(extents: &[StatusExtent]) -> Vec<nbd::Extent> {
    let flags = |extent: &StatusExtent| {
        (if extent.hole { allocation_flags::HOLE } else { 0 }) | (if extent.zero { allocation_flags::ZERO } else { 0 })
    };
    extents.iter().map(|extent| nbd::Extent { length_bytes: extent.length, flags: flags(extent) }).collect()
}

/// The extents of `acre:changed-since:NAME`.
pub(crate) fn changes(extents: &[ChangedExtent]) -> Vec<nbd::Extent> {
    let flags =
        |extent: &ChangedExtent| if extent.changed { CHANGED | if extent.zero { NOW_ZERO } else { 0 } } else { 0 };
    extents.iter().map(|extent| nbd::Extent { length_bytes: extent.length, flags: flags(extent) }).collect()
}

/// One context is answered; the client is, when it was the last.
pub(crate) fn answered(
    host: &mut Host,
    request: RequestId,
    context: ContextIndex,
    result: Result<Vec<nbd::Extent>, nbd::ErrorCode>,
) {
    let Some(gathering) = host.gathering.get_mut(&request) else { return };
    gathering.left -= 1;
    match result {
        Ok(extents) => gathering.statuses.push((context, extents)),
        Err(error) => gathering.failed = Some(error),
    }
    if gathering.left > 0 {
        return;
    }
    let Some(mut gathering) = host.gathering.remove(&request) else { return };
    if let Some(error) = gathering.failed {
        return host.connection.reply_error(request, error);
    }
    gathering.statuses.sort_by_key(|(context, _)| *context);
    let statuses: Vec<_> =
        gathering.statuses.iter().map(|(context, extents)| ContextStatus { context: *context, extents }).collect();
    host.connection.reply_block_status(request, &statuses);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::catalog::tests::exports;

    #[test]
    fn a_volume_has_a_context_for_each_snapshot_that_may_be_seen() {
        let exports = exports(&["v", "v@a", "v@b", "v2@a", "w@a"]);
        let found = |queries: &[&str], all| {
            let queries: Vec<String> = queries.iter().map(|query| (*query).to_owned()).collect();
            let found = contexts_of(&exports, "v", &queries, all, |name| name != "v@b");
            found.into_iter().map(|(name, id)| (name, id.0)).collect::<Vec<_>>()
        };
        let a = vec![("acre:changed-since:a".to_owned(), 2)];
        assert_eq!(found(&[], true), a);
        assert_eq!(found(&["acre:"], false), a);
        assert_eq!(found(&["acre:changed-since:a", "other:x"], false), a);
        assert_eq!(found(&["acre:changed-since:b"], false), Vec::new(), "it may not be seen");
        assert_eq!(found(&["acre:changed-since:x"], false), Vec::new());
    }
}
