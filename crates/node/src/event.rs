//! What a node is told, and what it asks to be done.

use model::{DiskId, IoBuffer, IoError};
use std::sync::Arc;
use wire::{AgentId, DiskOperation, NodeCommand, NodeReply, NodeReport, NodeRequest};

/// A node's name for a disk operation in flight, echoed in its completion. Never used twice by one node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct DiskIoId(pub(crate) u64);

impl DiskIoId {
    /// The id as a number, for a completion queue that carries one.
    #[must_use]
    pub const fn to_u64(self) -> u64 {
        self.0
    }

    /// The id that [`DiskIoId::to_u64`] gave.
    #[must_use]
    pub const fn from_u64(number: u64) -> Self {
        Self(number)
    }
}

/// What happens to a node.
#[derive(Debug)]
pub enum Event {
    /// An agent asks for I/O.
    FromAgent(AgentId, NodeRequest),
    /// The controller commands.
    FromController(NodeCommand),
    /// An [`Effect::DiskIo`] is over.
    DiskCompleted {
        /// Which.
        id: DiskIoId,
        /// [`IoError::OutOfSpace`] when the file system under a disk file is full, else [`IoError::Device`].
        result: Result<(), IoError>,
        /// A read's buffer, whether it succeeded or not.
        buffer: Option<IoBuffer>,
    },
    /// Another shard saw a flush of this disk fail.
    DiskFailed(DiskId),
}

/// What a node wants done.
#[derive(Debug)]
pub enum Effect {
    /// I/O on a disk; answered by [`Event::DiskCompleted`].
    DiskIo {
        /// To be echoed.
        id: DiskIoId,
        /// The disk.
        disk: DiskId,
        /// What to do.
        operation: Operation,
    },
    /// A reply to an agent.
    ToAgent(AgentId, NodeReply),
    /// A report to the controller.
    ToController(NodeReport),
    /// A flush of this disk failed: it takes no more writes until the process restarts. To be told to the operator, and
    /// to the other shards by [`Event::DiskFailed`].
    DiskFailed(DiskId),
}

/// An operation on a physical disk. Offsets and lengths are in bytes, checked against the disk's size and multiples of
/// its sector size.
#[derive(Debug)]
pub enum Operation {
    /// Reads `length` bytes at `offset` to the start of `buffer`.
    Read {
        /// Where on the disk.
        offset: u64,
        /// How many bytes.
        length: u32,
        /// Goes back with the completion.
        buffer: IoBuffer,
    },
    /// Writes `length` bytes of `buffer` from `start` on.
    Write {
        /// Where on the disk.
        offset: u64,
        /// Where in the buffer.
        start: u32,
        /// How many bytes.
        length: u32,
        /// The data. To be held until the write is over.
        buffer: Arc<IoBuffer>,
    },
    /// Makes every write completed before it durable.
    Flush,
    /// Says that a range's bytes are of no more use. Advisory: a disk that cannot may call it done.
    Discard {
        /// Where on the disk.
        offset: u64,
        /// How many bytes.
        length: u64,
    },
    /// Makes sure that a range has space behind it (in a disk file), whatever its bytes.
    Allocate {
        /// Where on the disk.
        offset: u64,
        /// How many bytes.
        length: u64,
    },
}

impl From<DiskOperation> for Operation {
    fn from(operation: DiskOperation) -> Self {
        match operation {
            DiskOperation::Read { offset, length, buffer } => Self::Read { offset, length, buffer },
            DiskOperation::Write { offset, start, length, buffer } => Self::Write { offset, start, length, buffer },
            DiskOperation::Flush => Self::Flush,
            DiskOperation::Discard { offset, length } => Self::Discard { offset, length },
        }
    }
}
