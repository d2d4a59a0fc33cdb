//! The controller's commands: to agents about their sessions, to nodes about their disks.

use crate::RequestId;
use model::{DiskId, Epoch, Generation, Term};

/// The controller's name for an order, echoed when it is done.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct CommandId(pub u64);

/// What an agent is told to do with one session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Order {
    /// Space runs short: give back granted units that nothing maps (by [`crate::AgentMessage::ReturnGrant`], before the
    /// order is done).
    ReturnGrants,
    /// Commit what has changed so far (flushing the disks first), so that the durable table is current.
    Commit,
    /// The volume has a new size. Growing: serve it. Shrinking: refuse new I/O beyond, drain what is in flight, trim
    /// what lies beyond, commit; then done.
    Resize {
        /// In bytes.
        size_bytes: u64,
    },
    /// Serve writes, or refuse them from now on (drain and commit, then done).
    SetReadOnly {
        /// Whether writes are refused.
        read_only: bool,
    },
    /// A snapshot is being taken: hold every write and trim from now on and let those in flight end. Reads and flushes go
    /// on. Done when nothing is under way any more; the volume then holds still until [`Order::Begin`], [`Order::Thaw`] or
    /// its session's end. With `begin`, no other volume's writes matter: go on at once as if told to begin that
    /// generation, and answer as to that.
    Freeze {
        /// The generation to begin, for a snapshot of this volume alone.
        begin: Option<Generation>,
    },
    /// All volumes of the snapshot hold still: what they hold now is what it sees. Note it, begin this generation and let
    /// writes go on at once, above what was noted; then flush the disks and commit what was noted. Done when that is
    /// durable, or as soon as the last commit of it is sent ([`OrderOutcome::Committing`]). No other commit is sent before
    /// [`Order::Thaw`]: what is made durable after the snapshot must not become part of it.
    Begin {
        /// The live end's new generation; all that was born before is frozen.
        generation: Generation,
    },
    /// The snapshot is durable, or was given up: this is what holds from now on. Whatever was held goes on, commits
    /// included.
    Thaw {
        /// The generation of the live end.
        generation: Generation,
        /// Layers born up to here are frozen.
        frozen_through: Generation,
    },
    /// A snapshot is gone: fewer layers are frozen. (While another is being taken, the thaw tells.)
    SetFrozen {
        /// Layers born up to here are frozen; never more than before.
        frozen_through: Generation,
    },
    /// Copies what the volume still shares with views up to a generation to places of its own, in the background; done
    /// when everything durable is its own.
    Flatten {
        /// Layers born up to here are replaced.
        through: Generation,
    },
    /// Copies no more for [`Order::Flatten`]; what was copied stays.
    StopFlattening,
    /// Drain, commit, and detach (by [`crate::AgentMessage::Detach`], before the order is done). Refused as busy while
    /// hosts have the volume open, unless `force`: then their connections are closed.
    Release {
        /// Close hosts' connections too.
        force: bool,
    },
}

/// How an order went.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OrderOutcome {
    /// Done as told.
    Done,
    /// Of [`Order::Begin`] alone: done but for this commit, which was sent before, holds all that is left to be made
    /// durable, and may be refused or fail still. What rests on it is to become durable with it or after it.
    Committing {
        /// The commit.
        request: RequestId,
    },
    /// Hosts have the volume open.
    Busy {
        /// How many connections.
        hosts: u32,
    },
    /// A disk or the store failed on the way; the session goes on as before.
    Failed,
    /// There is no such session here (any more).
    NoSession,
}

/// From the controller to a node (to every shard of it).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeCommand {
    /// Echoed in the report.
    pub command: CommandId,
    /// The controller's term; older ones are refused.
    pub term: Term,
    /// What to do.
    pub order: NodeOrder,
}

/// What a node is told to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum NodeOrder {
    /// A disk of this node is in service. (The shell has opened it and checked its label.)
    AddDisk {
        /// The disk.
        disk: DiskId,
        /// Its size, in bytes.
        size_bytes: u64,
        /// Its sector size, in bytes: 512 or 4,096.
        sector_bytes: u32,
    },
    /// A disk is out of service: I/O to it fails from now on.
    RemoveDisk {
        /// The disk.
        disk: DiskId,
    },
    /// Chunklets are about to be used: make sure that their space is there (allocate it in a disk file).
    Prepare {
        /// The disk.
        disk: DiskId,
        /// Byte offset and length of each.
        ranges: Vec<(u64, u64)>,
    },
    /// Refuse every session below `floor`, and those named. Done once no I/O of theirs is in flight.
    Fence {
        /// The lowest epoch that may still be served.
        floor: Epoch,
        /// Single epochs to refuse.
        epochs: Vec<Epoch>,
    },
}

/// From a node to the controller.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeReport {
    /// The command.
    pub command: CommandId,
    /// Whether it was carried out.
    pub result: Result<(), model::IoError>,
}
