//! Between an agent and the controller: attachments, faults, grants and commits.

use crate::data::Credentials;
use crate::order::{CommandId, Order, OrderOutcome};
use model::{
    BranchId, EntryRun, Epoch, Generation, LogicalDiskId, LogicalDiskLayout, PageIndex, RegionSize, UnitRun, VolumeId,
};
use std::sync::Arc;

/// An agent's name for a request of its own, echoed in the answer. Unique within that agent's life.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct RequestId(pub u64);

/// What an agent means to do with a volume.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// Read only; changes nothing in the map and gets no grants.
    ReadOnly,
    /// Read and write.
    ReadWrite,
}

/// From an agent to the controller.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum AgentMessage {
    /// Opens a session on a volume. Answered by [`ControllerMessage::Attached`], once the session is durable.
    Attach {
        /// Echoed in the answer.
        request: RequestId,
        /// The volume.
        volume: VolumeId,
        /// Read or write.
        access: Access,
    },
    /// Ends a session: everything is committed and drained, and the node takes no more I/O of it from this agent. What
    /// was granted and not taken goes back to the pool. Answered by [`ControllerMessage::Detached`].
    Detach {
        /// The session.
        epoch: Epoch,
    },
    /// A fault: the page is not loaded. Answered by [`ControllerMessage::Page`].
    FetchPage {
        /// Echoed in the answer.
        request: RequestId,
        /// The session.
        epoch: Epoch,
        /// The page.
        page: PageIndex,
    },
    /// How a page was in a snapshot that is no session of this agent's: what a host asks that wants to know what changed
    /// since. Answered by [`ControllerMessage::SnapshotPage`].
    FetchSnapshotPage {
        /// Echoed in the answer.
        request: RequestId,
        /// The session that asks; its volume's view is compared with the snapshot.
        epoch: Epoch,
        /// The snapshot.
        snapshot: VolumeId,
        /// The page.
        page: PageIndex,
    },
    /// A fault or the wish to avoid one: regions to map are short. Answered by [`ControllerMessage::Granted`].
    RequestGrant {
        /// Echoed in the answer.
        request: RequestId,
        /// The session.
        epoch: Epoch,
        /// How many regions are wished for; more or fewer may be granted.
        regions: u32,
        /// How many regions held writes wait for: the controller recalls other agents' unused grants and makes logical
        /// disks before it grants less than this. Zero when nothing waits.
        urgent: u32,
    },
    /// Makes changes of the map durable: their data already is. Answered by [`ControllerMessage::Committed`].
    /// Resending the same request after a lost answer gets the same answer.
    Commit {
        /// Echoed in the answer.
        request: RequestId,
        /// The session.
        epoch: Epoch,
        /// The changes.
        commit: MapCommit,
    },
    /// Gives granted, untaken units back (asked to by [`Order::ReturnGrants`], or unasked).
    ReturnGrant {
        /// The session.
        epoch: Epoch,
        /// The units.
        runs: Vec<UnitRun>,
    },
    /// An order has been carried out, or refused.
    OrderDone {
        /// Which.
        command: CommandId,
        /// The session it was for.
        epoch: Epoch,
        /// How it went.
        outcome: OrderOutcome,
    },
}

/// Changes of one volume's map, valid alone: one atomic batch.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct MapCommit {
    /// The changed pages, ascending.
    pub pages: Vec<PageDelta>,
    /// Granted units that these changes map for the first time.
    pub takes: Vec<UnitRun>,
    /// Places that these changes (or earlier uncommitted ones) dropped from their entries and that no I/O of this session
    /// can still address. Those that no snapshot sees are free with this commit; the controller knows which. A unit of a
    /// grant that was never taken may be among them; it then leaves the grant and is free.
    pub drops: Vec<Drop>,
}

/// Units that the entries of one table page named and name no more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Drop {
    /// The page.
    pub page: PageIndex,
    /// The units.
    pub run: UnitRun,
    /// When they were allocated: what snapshots see them goes by it.
    pub born: Generation,
}

/// Changed entries of one table page: each replaces what stood at its slots.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PageDelta {
    /// The page.
    pub page: PageIndex,
    /// The new entries, ascending and without overlap.
    pub runs: Vec<EntryRun>,
}

/// From the controller to an agent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ControllerMessage {
    /// Answers [`AgentMessage::Attach`].
    Attached {
        /// The request.
        request: RequestId,
        /// The session, or why there is none.
        result: Result<Attachment, AttachError>,
    },
    /// Answers [`AgentMessage::Detach`].
    Detached {
        /// The session.
        epoch: Epoch,
    },
    /// A logical disk of a pool with attached volumes is new or changed. Sent before anything that names it.
    LogicalDisk {
        /// Its layout.
        layout: Arc<LogicalDiskLayout>,
    },
    /// Answers [`AgentMessage::FetchPage`] with the page's committed state.
    Page {
        /// The request.
        request: RequestId,
        /// The session.
        epoch: Epoch,
        /// The page.
        page: PageIndex,
        /// Its entries, ascending; slots that no run covers are zero.
        runs: Vec<EntryRun>,
        /// Every page after `page` and before this one is wholly zero (at least `page + 1`).
        absent_until: PageIndex,
    },
    /// Answers [`AgentMessage::FetchSnapshotPage`].
    SnapshotPage {
        /// The request.
        request: RequestId,
        /// The session.
        epoch: Epoch,
        /// The page.
        page: PageIndex,
        /// What the snapshot holds there; `None` when there is no such snapshot (any more).
        found: Option<SnapshotPage>,
    },
    /// Answers [`AgentMessage::RequestGrant`].
    Granted {
        /// The request.
        request: RequestId,
        /// The session.
        epoch: Epoch,
        /// Runs of units, each starting at and holding a whole number of the volume's regions; or why there are none.
        result: Result<Vec<UnitRun>, GrantError>,
    },
    /// Answers [`AgentMessage::Commit`].
    Committed {
        /// The request.
        request: RequestId,
        /// The session.
        epoch: Epoch,
        /// Whether it is durable. On an error nothing of it happened, and the agent may send it again.
        result: Result<(), CommitError>,
    },
    /// An order; answered by [`AgentMessage::OrderDone`].
    Order {
        /// Which, to be echoed.
        command: CommandId,
        /// The session it is for.
        epoch: Epoch,
        /// What to do.
        order: Order,
    },
}

/// A table page as a snapshot sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SnapshotPage {
    /// The snapshot's generation.
    pub generation: Generation,
    /// Whether the view that asked descends from the snapshot: then a block last written at or before
    /// `generation` has not changed since, wherever it lies now.
    pub is_ancestor: bool,
    /// The snapshot's size, in bytes: what lies beyond is zeroes in it.
    pub size_bytes: u64,
    /// Its entries, ascending; slots that no run covers are zero.
    pub runs: Vec<EntryRun>,
}

/// A session.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Attachment {
    /// The volume, or the snapshot: snapshots have ids of the same kind and are attached to be read.
    pub volume: VolumeId,
    /// Its branch.
    pub branch: BranchId,
    /// What every data message of the session carries; `credentials.epoch` is the session's name.
    pub credentials: Credentials,
    /// Its size, in bytes: a multiple of 512.
    pub size_bytes: u64,
    /// The size of its regions.
    pub region_size: RegionSize,
    /// The generation of the branch's live end.
    pub generation: Generation,
    /// Layers born at or before this generation are frozen; zero when there is no snapshot or origin.
    pub frozen_through: Generation,
    /// Writes are refused.
    pub read_only: bool,
    /// Every logical disk of its pool.
    pub layouts: Vec<Arc<LogicalDiskLayout>>,
    /// Those of them that may hold something that a session before this one wrote: what its first flush covers.
    pub written: Vec<LogicalDiskId>,
}

/// Why a volume could not be attached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AttachError {
    /// There is no such volume (any more).
    NoSuchVolume,
    /// Another agent has it.
    Busy,
    /// The controller cannot record the session now: its store is full or failing.
    Unavailable,
}

/// Why no region was granted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GrantError {
    /// No free region in the pool, and none to be made.
    PoolFull,
    /// The pool's own limit is reached.
    PoolLimit,
    /// The volume's hard limit is reached.
    VolumeLimit,
    /// The metadata store is nearly full; what is left is for deletes.
    MetadataFull,
    /// The session is not (any more) one that may have grants.
    Fenced,
    /// The store failed; asking again later may help.
    Unavailable,
}

/// Why a commit did not happen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CommitError {
    /// The session is over.
    Fenced,
    /// The metadata store has no room for it.
    MetadataFull,
    /// The store failed; nothing was changed.
    Unavailable,
    /// The commit contradicts the durable state (units that were not granted, a page out of range): a bug, or a peer
    /// that lies. Nothing was changed.
    Refused,
}
