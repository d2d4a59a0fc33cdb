//! Between an agent and a node: reads, writes, flushes and discards of physical disks.

use model::{ClusterId, DiskId, Epoch, IoBuffer, IoError, Term};
use std::sync::Arc;

/// Who asks. A node refuses the wrong cluster, older terms and fenced epochs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Credentials {
    /// The cluster.
    pub cluster: ClusterId,
    /// The term of the controller that opened the session.
    pub term: Term,
    /// The session.
    pub epoch: Epoch,
}

/// An agent's name for a request to a node, echoed in the reply. Unique among those in flight.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct NodeRequestId(pub u64);

/// From an agent to a node.
#[derive(Debug)]
pub struct NodeRequest {
    /// Echoed in the reply.
    pub id: NodeRequestId,
    /// Who asks.
    pub credentials: Credentials,
    /// The physical disk.
    pub disk: DiskId,
    /// What to do.
    pub operation: DiskOperation,
}

/// An operation on a physical disk. Offsets and lengths are in bytes and multiples of the disk's sector size (512 or
/// 4,096, see [`crate::NodeCommand::AddDisk`]).
#[derive(Debug)]
pub enum DiskOperation {
    /// Reads `length` bytes at `offset` to the start of `buffer`.
    Read {
        /// Where on the disk.
        offset: u64,
        /// How many bytes; at most the buffer's length.
        length: u32,
        /// Comes back, filled, with the reply.
        buffer: IoBuffer,
    },
    /// Writes `length` bytes of `buffer` from `start` on.
    Write {
        /// Where on the disk.
        offset: u64,
        /// Where in the buffer; aligned as the disk asks.
        start: u32,
        /// How many bytes.
        length: u32,
        /// The data; other writes may share it.
        buffer: Arc<IoBuffer>,
    },
    /// Makes every write completed before it durable.
    Flush,
    /// Says that a range's bytes are of no more use. Advisory.
    Discard {
        /// Where on the disk.
        offset: u64,
        /// How many bytes.
        length: u64,
    },
}

/// From a node to an agent.
#[derive(Debug)]
pub struct NodeReply {
    /// The request.
    pub id: NodeRequestId,
    /// [`IoError::Fenced`] when refused; [`IoError::Device`] when the disk failed or is not there;
    /// [`IoError::OutOfSpace`] when the file system under a disk file is full.
    pub result: Result<(), IoError>,
    /// A read's buffer, filled if it succeeded.
    pub buffer: Option<IoBuffer>,
}
