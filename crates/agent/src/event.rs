//! What an agent is told, and what it wants done.

use model::{IoBuffer, IoError, RegionSize, VolumeId};
use smallvec::SmallVec;
use wire::{AgentMessage, AttachError, ControllerMessage, NodeReply, NodeRequest};

/// The shell's name for one host connection.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct HostId(pub u64);

/// The shell's name for one host I/O, echoed in its result. Unique among those in flight.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct IoId(pub u64);

/// An attached volume at this agent: the index that I/O requests carry, so that none needs a search.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct VolumeSlot(pub u32);

/// What an agent is told.
#[derive(Debug)]
pub enum Event {
    /// A host wants to use a volume. Answered by [`Effect::HostAttached`].
    HostAttach {
        /// The host.
        host: HostId,
        /// The volume.
        volume: VolumeId,
    },
    /// A host is gone. Its I/O in flight goes on to its end; the shell ignores the results.
    HostDetach {
        /// The host.
        host: HostId,
    },
    /// A host's I/O.
    Io(IoRequest),
    /// A node's answer.
    FromNode(NodeReply),
    /// The controller's answer or order.
    FromController(ControllerMessage),
    /// The time [`crate::Agent::next_deadline`] asked for has come.
    Tick,
    /// The process is on its way out: commit and detach everything; then [`crate::Agent::is_drained`].
    Shutdown,
}

/// One I/O of a host.
#[derive(Debug)]
pub struct IoRequest {
    /// Echoed in the result.
    pub id: IoId,
    /// The volume.
    pub volume: VolumeSlot,
    /// What to do.
    pub kind: IoKind,
}

/// What a host asks for. Offsets and lengths are in bytes, any of them, within the volume (else
/// [`IoError::Invalid`]).
#[derive(Debug)]
pub enum IoKind {
    /// Read `length` bytes at `offset`.
    Read {
        /// Where.
        offset: u64,
        /// How many bytes.
        length: u32,
    },
    /// Write the first `length` bytes of `data` at `offset`.
    Write {
        /// Where.
        offset: u64,
        /// How many bytes.
        length: u32,
        /// The data, from the buffer's first byte on.
        data: IoBuffer,
        /// Durable before it is answered.
        fua: bool,
    },
    /// Everything answered before this was asked is made durable.
    Flush,
    /// Zeroes from now on; with `keep_space`, space is assigned too, so that later writes cannot run out of it.
    Zero {
        /// Where.
        offset: u64,
        /// How many bytes.
        length: u64,
        /// Durable before it is answered.
        fua: bool,
        /// Assign space rather than give it back.
        keep_space: bool,
    },
    /// Have the map of a range at hand.
    Prefetch {
        /// Where.
        offset: u64,
        /// How many bytes.
        length: u64,
    },
    /// Which ranges hold data.
    Status {
        /// Where.
        offset: u64,
        /// How many bytes.
        length: u64,
        /// At most so many extents in the answer (at least 1); it may then end early.
        extents_max: u32,
    },
    /// Which ranges changed since a snapshot was taken; [`IoError::Invalid`] when there is no such snapshot.
    Changed {
        /// Where.
        offset: u64,
        /// How many bytes.
        length: u64,
        /// The snapshot.
        since: VolumeId,
        /// At most so many extents in the answer (at least 1); it may then end early.
        extents_max: u32,
    },
}

/// A piece of what was read, in order.
#[derive(Debug)]
pub enum ReadSegment {
    /// So many bytes of zeroes, for which no device was asked.
    Hole {
        /// In bytes.
        length: u32,
    },
    /// Bytes of a buffer.
    Data {
        /// The buffer.
        buffer: IoBuffer,
        /// Where they begin in it.
        start: u32,
        /// How many.
        length: u32,
    },
}

/// One extent of a status answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StatusExtent {
    /// In bytes; never zero.
    pub length: u64,
    /// Reads as zeroes and holds no data of its own.
    pub zero: bool,
    /// Nothing is stored for it. (Space may be assigned to its region all the same.)
    pub hole: bool,
}

/// One extent of the answer to what changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ChangedExtent {
    /// In bytes; never zero.
    pub length: u64,
    /// May differ from the snapshot; if not, it does not.
    pub changed: bool,
    /// Reads as zeroes now.
    pub zero: bool,
}

/// How an I/O went.
#[derive(Debug)]
pub enum IoResult {
    /// Done.
    Done,
    /// Read.
    Read(SmallVec<[ReadSegment; 2]>),
    /// The extents from the offset asked for on; together at least one byte, perhaps less than asked for.
    Status(Vec<StatusExtent>),
    /// The same for what changed.
    Changed(Vec<ChangedExtent>),
    /// Failed; nothing else is affected.
    Failed(IoError),
}

/// A volume as a host may use it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HostVolume {
    /// Which to name in I/O.
    pub slot: VolumeSlot,
    /// Its size, in bytes.
    pub size_bytes: u64,
    /// The size of its regions.
    pub region_size: RegionSize,
    /// Writes fail.
    pub read_only: bool,
}

/// What an agent wants done.
#[derive(Debug)]
pub enum Effect {
    /// Answers [`Event::HostAttach`].
    HostAttached {
        /// The host.
        host: HostId,
        /// The volume, or why not.
        result: Result<HostVolume, AttachError>,
    },
    /// The host's volume is taken away: close its connection. Its I/O has been answered.
    HostEvicted {
        /// The host.
        host: HostId,
    },
    /// Answers an I/O.
    Reply {
        /// The I/O.
        id: IoId,
        /// How it went.
        result: IoResult,
    },
    /// For the node that has the disk.
    ToNode(NodeRequest),
    /// For the controller.
    ToController(AgentMessage),
}
