//! What every volume of an agent shares: tables of things in flight, logical disks, and the way out.

use crate::counters::Counters;
use crate::event::{Effect, IoId, IoResult, VolumeSlot};
use crate::memory::TableMemory;
use crate::merge_task::MergeTask;
use crate::planted::Planted;
use crate::read::ReadTask;
use crate::slab::Slab;
use crate::write::WriteTask;
use crate::zero::ZeroTask;
use model::{BufferPool, ByteRange, DiskId, IoBuffer, IoError, LogicalDiskId, LogicalDiskLayout, Time};
use std::sync::Arc;
use wire::{AgentMessage, Credentials, DiskOperation, NodeRequest, NodeRequestId, RequestId};

/// Bounds and habits of an agent.
#[derive(Clone, Copy, Debug)]
pub struct AgentConfig {
    /// Changes older than this are committed unasked, in nanoseconds.
    pub commit_after_nanos: u64,
    /// So many changed regions are committed at once, unasked.
    pub commit_regions: u32,
    /// How long a volume without hosts stays attached, in nanoseconds.
    pub linger_nanos: u64,
    /// The most regions asked for in one grant.
    pub grant_regions_max: u32,
    /// What the tables of all its volumes may take in memory, in bytes.
    pub table_bytes_max: usize,
    /// Bugs for the simulator to find.
    pub planted: Planted,
}

impl Default for AgentConfig {
    fn default() -> Self {
        Self {
            commit_after_nanos: 5_000_000_000,
            commit_regions: 64 * 1024,
            linger_nanos: 2_000_000_000,
            grant_regions_max: 16 * 1024,
            table_bytes_max: usize::MAX,
            planted: Planted::default(),
        }
    }
}

/// Something under way that waits for nodes.
#[derive(Debug)]
pub(crate) enum Task {
    Read(ReadTask),
    Write(WriteTask),
    Zero(ZeroTask),
    Merge(MergeTask),
}

/// One request to a node: whose it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Piece {
    pub(crate) slot: VolumeSlot,
    pub(crate) owner: PieceOwner,
    pub(crate) disk: DiskId,
}

/// What waits for a node's reply.
#[derive(Clone, Copy, Debug)]
pub(crate) enum PieceOwner {
    /// Part `part` of a read.
    Read { task: u32, part: u16 },
    /// A write's data.
    Write { task: u32 },
    /// An edge block that a write is merged with: the first, or the last.
    Edge { task: u32, last: bool },
    /// Piece `part` of what a merge reads.
    MergeRead { task: u32, part: u16 },
    /// What a merge writes.
    MergeWrite { task: u32 },
    /// The flush of one disk, in a round.
    Flush { round: u64 },
}

/// State that all volumes of an agent share.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    pub(crate) config: AgentConfig,
    pub(crate) tasks: Slab<Task>,
    pub(crate) pieces: Slab<Piece>,
    pub(crate) memory: TableMemory,
    layouts: Vec<Option<Arc<LogicalDiskLayout>>>,
    last_request: u64,
}

impl Shared {
    pub(crate) fn new(config: AgentConfig) -> Self {
        Self { config, memory: TableMemory::new(config.table_bytes_max), ..Self::default() }
    }

    pub(crate) fn request_id(&mut self) -> RequestId {
        self.last_request += 1;
        RequestId(self.last_request)
    }

    pub(crate) fn learn(&mut self, layout: Arc<LogicalDiskLayout>) {
        let index = layout.id.0 as usize;
        if self.layouts.len() <= index {
            self.layouts.resize(index + 1, None);
        }
        self.layouts[index] = Some(layout);
    }

    pub(crate) fn layout(&self, id: LogicalDiskId) -> Option<&Arc<LogicalDiskLayout>> {
        self.layouts.get(id.0 as usize)?.as_ref()
    }
}

/// The surroundings of one step.
pub(crate) struct Context<'a> {
    pub(crate) now: Time,
    pub(crate) shared: &'a mut Shared,
    pub(crate) buffers: &'a mut BufferPool,
    pub(crate) out: &'a mut Vec<Effect>,
}

impl Context<'_> {
    pub(crate) fn reply(&mut self, id: IoId, result: Result<(), IoError>, counters: &mut Counters) {
        let result = match result {
            Ok(()) => IoResult::Done,
            Err(error) => {
                match error {
                    IoError::OutOfSpace => counters.out_of_space += 1,
                    IoError::Device | IoError::Fenced => counters.failed += 1,
                    IoError::Invalid | IoError::ReadOnly | IoError::ShuttingDown => {}
                }
                IoResult::Failed(error)
            }
        };
        self.out.push(Effect::Reply { id, result });
    }

    pub(crate) fn to_controller(&mut self, message: AgentMessage) {
        self.out.push(Effect::ToController(message));
    }

    pub(crate) fn to_node(&mut self, credentials: Credentials, piece: Piece, operation: DiskOperation) {
        let disk = piece.disk;
        let id = NodeRequestId(u64::from(self.shared.pieces.insert(piece)));
        self.out.push(Effect::ToNode(NodeRequest { id, credentials, disk, operation }));
    }

    /// Where a range of a logical disk lies on physical disks, piece by piece; `None` for a logical disk that was never
    /// introduced or a range beyond it.
    pub(crate) fn locate(
        &self,
        disk: LogicalDiskId,
        range: ByteRange,
        mut visit: impl FnMut(DiskId, u64, u64),
    ) -> Option<()> {
        let layout = self.shared.layout(disk)?;
        let width = layout.rows.first().map_or(0, Vec::len) as u64;
        if range.end() > layout.rows.len() as u64 * width * layout.chunklet_bytes {
            return None;
        }
        for piece in pool::geometry::resolve(layout, range.start, range.length) {
            visit(piece.disk, piece.byte_offset, piece.length);
        }
        Some(())
    }

    /// Gives the memory of a shared buffer back to the pool, if nobody else holds it.
    pub(crate) fn recycle(&mut self, buffer: Arc<IoBuffer>) {
        if let Ok(buffer) = Arc::try_unwrap(buffer) {
            self.buffers.put(buffer);
        }
    }
}
