//! Whether a volume is what an incremental stream builds on.

use super::operator::{Operator, cluster, diff, find_volume, identity, snapshots};
use super::plan::Changes;
use api::{DiffQuery, Error, Snapshot, SnapshotIdentity, Volume};
use model::ByteRange;
use stream::{Base, Header};

/// How many ranges one question after foreign writes asks for.
const RANGES_MAX: u32 = 1_000;

/// What stands in the target volume.
#[derive(Debug)]
pub(super) enum Standing {
    /// It holds the stream's base, under this snapshot's name, and perhaps some of the stream if that was allowed.
    AtBase(Volume, String),
    /// It holds what the stream would make of it, under this snapshot's name.
    Applied(String),
}

/// Judges the volume `name`. With `resume`, it may differ from the base: by what an interrupted import wrote, which
/// [`Foreign`] checks.
pub(super) fn judge(
    server: &dyn Operator,
    header: &Header,
    base: &Base,
    name: &str,
    resume: bool,
) -> Result<Standing, Error> {
    let Some(volume) = find_volume(server, name)? else {
        return Err(Error::not_found(format!(
            "there is no volume {name:?}, and this stream holds only what changed since {}@{}; import the full stream of \
             that first",
            header.volume, base.name
        )));
    };
    let cluster = cluster(server)?;
    let all = snapshots(server, name)?;
    let of = |wanted: stream::Identity| {
        let wanted = SnapshotIdentity { cluster: wanted.cluster, snapshot: wanted.snapshot };
        all.iter().rev().find(|snapshot| identity(cluster, snapshot) == wanted)
    };
    if let Some(applied) = of(header.identity) {
        return match first_change(server, &applied.name, name)? {
            None => Ok(Standing::Applied(applied.name.clone())),
            Some(_) => Err(Error::exists(format!(
                "{} is what this stream makes, and {name} has changed since; to have it back: acre volume rollback {}",
                applied.name, applied.name
            ))),
        };
    }
    let Some(found) = of(base.identity) else {
        let names: Vec<&str> = all.iter().map(|snapshot| snapshot.name.as_str()).collect();
        return Err(Error::invalid(format!(
            "this stream holds what changed since {}@{} (taken at {} seconds since 1970), and none of {name}'s snapshots \
             ({}) is a copy of that one; import the streams in between first, or a full one",
            header.volume,
            base.name,
            base.created_unix_seconds,
            if names.is_empty() { "it has none".into() } else { names.join(", ") },
        )));
    };
    if let Some(taken) = all.iter().find(|snapshot| short(snapshot) == header.snapshot) {
        return Err(Error::exists(format!(
            "{} is there already, and is not what this stream makes; rename or delete it first",
            taken.name
        )));
    }
    let sizes = [found.size_bytes, header.size_bytes];
    if found.size_bytes != base.size_bytes || !sizes.contains(&volume.size_bytes) {
        return Err(Error::invalid(format!(
            "{name} has {} bytes, and {} had {}; go back to it: acre volume rollback {}",
            volume.size_bytes, found.name, base.size_bytes, found.name
        )));
    }
    if !resume && let Some(change) = first_change(server, &found.name, name)? {
        return Err(Error::needs_force(format!(
            "{name} was written to since {} (first at byte {}). If that was an import of this stream that was cut short, go \
             on with --resume; else go back first: acre volume rollback {}",
            found.name, change.start, found.name
        )));
    }
    Ok(Standing::AtBase(volume, found.name.clone()))
}

fn short(snapshot: &Snapshot) -> &str {
    snapshot.name.split_once('@').map_or(&snapshot.name, |(_, name)| name)
}

fn first_change(server: &dyn Operator, from: &str, to: &str) -> Result<Option<ByteRange>, Error> {
    let query = DiffQuery { from: Some(from.into()), to: to.into(), offset: 0, limit: Some(1) };
    let answer = diff(server, query)?;
    Ok(answer.ranges.first().map(|range| ByteRange::new(range.offset_bytes, range.length_bytes)))
}

/// What changed in a volume since the base and is not the doing of the stream that is being applied.
pub(super) struct Foreign<'a> {
    changes: Changes<'a>,
    volume: String,
    base: String,
    ahead: Option<ByteRange>,
    /// Everything before this byte was looked at.
    seen: u64,
}

impl<'a> Foreign<'a> {
    pub(super) fn new(server: &'a dyn Operator, base: &str, volume: &str) -> Self {
        let changes = Changes::new(server, base, volume, 0).with_limit(RANGES_MAX);
        Self { changes, volume: volume.into(), base: base.into(), ahead: None, seen: 0 }
    }

    /// The stream is about to write this range, and nothing between it and the one before.
    pub(super) fn check(&mut self, offset: u64, length: u64) -> Result<(), Error> {
        loop {
            let range = match self.ahead.take() {
                Some(range) => Some(range),
                None => self.changes.next_range()?.map(|(range, _)| range),
            };
            let Some(range) = range else { break };
            // What was written behind our back while we went by is our own.
            let start = range.start.max(self.seen);
            if start >= range.end() {
                continue;
            }
            if start < offset {
                return Err(Error::needs_force(format!(
                    "{} was written to at byte {start} since {}, which is no doing of this stream; go back first: acre volume \
                     rollback {}",
                    self.volume, self.base, self.base
                )));
            }
            self.ahead = Some(ByteRange::new(start, range.end() - start));
            break;
        }
        self.seen = offset.saturating_add(length);
        Ok(())
    }
}
