//! The server's side of one NBD connection, between a byte stream and an agent: what the reactor's shell does with
//! sockets, done with vectors.

use agent::{HostId, HostVolume, IoId, IoKind, IoRequest, IoResult, ReadSegment};
use model::{BufferPool, VolumeId};
use nbd::protocol::allocation_flags;
use nbd::server::{self, Connection, ContextStatus, ExportInfo, RequestKind};
use nbd::{ErrorCode, Extent};

/// What the contexts of snapshots are called; the snapshot's name follows.
pub(crate) const CHANGED_SINCE: &str = "acre:changed-since:";
/// A block changed since the snapshot.
pub(crate) const CHANGED: u32 = 1;
/// It reads as zeroes now.
pub(crate) const NOW_ZERO: u32 = 2;

/// One connection.
#[derive(Debug)]
pub(crate) struct Door {
    /// The host at the other end.
    pub(crate) host: usize,
    pub(crate) connection: Connection,
    /// Bytes that came and were not taken yet.
    pub(crate) inbox: Vec<u8>,
    /// The agent that serves it, once an export was chosen.
    pub(crate) agent: Option<usize>,
    /// The export's name, while it is being opened.
    pub(crate) opening: String,
    pub(crate) volume: Option<HostVolume>,
    /// The snapshot whose context was chosen: status requests ask what changed since.
    pub(crate) since: Option<VolumeId>,
    /// I/O at the agent that has not been answered.
    pub(crate) outstanding: u32,
    /// Nothing is sent or taken any more.
    pub(crate) closed: bool,
}

impl Door {
    pub(crate) fn new(host: usize, connection: Connection) -> Self {
        Self {
            host,
            connection,
            inbox: Vec::new(),
            agent: None,
            opening: String::new(),
            volume: None,
            since: None,
            outstanding: 0,
            closed: false,
        }
    }

    /// Feeds what came, as far as the connection takes it.
    pub(crate) fn feed(&mut self, pool: &mut BufferPool) -> bool {
        if self.closed || self.inbox.is_empty() {
            return false;
        }
        let taken = self.connection.received_bytes(&self.inbox, pool);
        self.inbox.drain(..taken);
        taken > 0
    }
}

/// The agent's name of a door.
pub(crate) fn host_id(door: u64) -> HostId {
    HostId(door)
}

/// An I/O as the agent wants it; or the error that answers it at once.
pub(crate) fn io_request(
    id: IoId,
    volume: HostVolume,
    since: Option<VolumeId>,
    kind: RequestKind,
) -> Result<IoRequest, ErrorCode> {
    let kind = match kind {
        RequestKind::Read { offset, length } => IoKind::Read { offset, length },
        RequestKind::Write { offset, length, data, fua } => IoKind::Write { offset, length, data, fua },
        RequestKind::Flush => IoKind::Flush,
        RequestKind::Trim { offset, length, fua } => IoKind::Zero { offset, length, fua, keep_space: false },
        RequestKind::WriteZeroes { fast: true, no_hole: true, .. } => return Err(ErrorCode::NotSupported),
        RequestKind::WriteZeroes { offset, length, fua, no_hole, .. } => {
            IoKind::Zero { offset, length, fua, keep_space: no_hole }
        }
        RequestKind::Cache { offset, length } => IoKind::Prefetch { offset, length },
        RequestKind::BlockStatus { offset, length, one, .. } => {
            let extents_max = if one { 1 } else { 64 };
            match since {
                Some(since) => IoKind::Changed { offset, length, since, extents_max },
                None => IoKind::Status { offset, length, extents_max },
            }
        }
    };
    Ok(IoRequest { id, volume: volume.slot, kind })
}

/// Hands an agent's result to the connection.
pub(crate) fn answer(
    connection: &mut Connection,
    request: server::RequestId,
    contexts: server::ContextSet,
    result: IoResult,
) {
    match result {
        IoResult::Done => connection.reply_ok(request),
        IoResult::Read(segments) => {
            let segments = segments.into_iter().map(|segment| match segment {
                ReadSegment::Hole { length } => server::ReadSegment::Hole { length },
                ReadSegment::Data { buffer, start, length } => server::ReadSegment::Data { buffer, start, length },
            });
            connection.reply_read(request, segments);
        }
        IoResult::Status(extents) => {
            let extents: Vec<_> = extents
                .into_iter()
                .map(|extent| {
                    let zero = if extent.zero { allocation_flags::ZERO } else { 0 };
                    let hole = if extent.hole { allocation_flags::HOLE } else { 0 };
                    Extent { length_bytes: extent.length, flags: zero | hole }
                })
                .collect();
            reply_status(connection, request, contexts, &extents);
        }
        IoResult::Changed(extents) => {
            let flags = |changed: bool, zero: bool| match (changed, zero) {
                (true, true) => CHANGED | NOW_ZERO,
                (true, false) => CHANGED,
                (false, _) => 0,
            };
            let extents: Vec<_> = (extents.iter())
                .map(|extent| Extent { length_bytes: extent.length, flags: flags(extent.changed, extent.zero) })
                .collect();
            reply_status(connection, request, contexts, &extents);
        }
        IoResult::Failed(error) => connection.reply_error(request, error),
    }
}

fn reply_status(
    connection: &mut Connection,
    request: server::RequestId,
    contexts: server::ContextSet,
    extents: &[Extent],
) {
    let statuses: Vec<_> = contexts.iter().map(|context| ContextStatus { context, extents }).collect();
    connection.reply_block_status(request, &statuses);
}

/// What clients are told of a volume.
pub(crate) fn export_info(name: &str, size_bytes: u64, read_only: bool) -> ExportInfo {
    ExportInfo { read_only, ..ExportInfo::new(name, size_bytes) }
}

/// A failed attachment, in NBD's words.
pub(crate) fn export_error(error: wire::AttachError) -> server::ExportError {
    match error {
        wire::AttachError::NoSuchVolume => server::ExportError::Unknown,
        wire::AttachError::Busy | wire::AttachError::Unavailable => server::ExportError::Unavailable,
    }
}
