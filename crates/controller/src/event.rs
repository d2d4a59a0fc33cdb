//! What a controller is told, and what it wants done.

use crate::fold::Folding;
use crate::planted::Planted;
use api::{Request, Response};
use model::{BranchId, ClusterId, DiskId, Generation, PageIndex, Time, VolumeId};
use pool::{DiskLabel, Judgement};
use std::ops::ControlFlow;
use store::versions::{self, Changes};
use store::{Batch, Key, KeyRange, Space, StoreError, StoreView};
use wire::{AgentId, AgentMessage, ControllerMessage, NodeCommand, NodeId, NodeReport};

/// The shell's name for one request of an operator, echoed in the reply.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct ApiId(pub u64);

/// One batch to be committed. Batches are committed in the order of their ids.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct BatchId(pub u64);

/// One scan of the store.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct ScanId(pub u64);

/// One disk on its way into a pool.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct DiskTicket(pub u64);

/// What a controller is told once, when it is made.
#[derive(Clone, Debug)]
pub struct Config {
    /// The cluster's id, should the store be empty and a cluster begin with it. Drawn at random by the shell.
    pub new_cluster: ClusterId,
    /// The shards of the node, all of which get every command.
    pub nodes: Vec<NodeId>,
    /// When the metadata store has less room than this, in bytes, only deletes get any.
    pub metadata_reserve_bytes: u64,
    /// The most units one grant holds.
    pub grant_units_max: u32,
    /// When pages are folded.
    pub folding: Folding,
    /// Bugs, for the simulator to find.
    pub planted: Planted,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            new_cluster: ClusterId::default(),
            nodes: vec![NodeId(0)],
            metadata_reserve_bytes: 16 << 20,
            grant_units_max: 1 << 16,
            folding: Folding::default(),
            planted: Planted::default(),
        }
    }
}

/// What a controller is told.
#[derive(Debug)]
pub enum Event {
    /// A message of an agent.
    FromAgent(AgentId, AgentMessage),
    /// A report of one shard of a node.
    FromNode(NodeId, NodeReport),
    /// An operator's request; answered by [`Effect::Reply`] or [`Effect::Inspect`].
    Api(ApiId, Request),
    /// A batch is durable, and so is every earlier one.
    Committed(BatchId),
    /// A batch is not, nor is any later one. The controller does nothing more; the shell replaces it (see
    /// [`crate::Controller::salvage`]).
    CommitFailed(BatchId, StoreError),
    /// The result of [`Effect::Scan`].
    Scanned {
        /// The scan.
        id: ScanId,
        /// What was found of each.
        result: Result<Vec<Scan>, StoreError>,
    },
    /// An agent is dead or out of reach. Should it be heard again, it is a new one.
    AgentGone(AgentId),
    /// The time of [`Effect::SetTimer`] has come.
    Timer,
    /// How much room the metadata store has. Told at the start and every now and then.
    Space(Space),
    /// The result of [`Effect::InspectDisk`].
    DiskInspected {
        /// Which.
        ticket: DiskTicket,
        /// What the disk is, or why it could not be looked at, for people.
        result: Result<DiskInspection, String>,
    },
    /// The result of [`Effect::WriteLabel`].
    LabelWritten {
        /// Which.
        ticket: DiskTicket,
        /// Durable, or why not, for people.
        result: Result<(), String>,
    },
    /// The result of [`Effect::OpenDisk`].
    DiskOpened {
        /// The disk.
        disk: DiskId,
        /// Ready for I/O on every shard, or why not, for people.
        result: Result<(), String>,
    },
    /// A disk failed at a node.
    DiskFailed(DiskId),
}

/// What is to be read of the store.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ScanRange {
    /// The first pairs of a range, keys ascending.
    Keys {
        /// Where.
        range: KeyRange,
        /// How many pairs at most.
        limit: usize,
    },
    /// What a view sees of a page in one branch, the youngest version first ([`versions::page_at`]).
    Page {
        /// The branch.
        branch: BranchId,
        /// The page.
        page: PageIndex,
        /// The youngest generation that the view sees.
        generation: Generation,
    },
    /// The versions of pages that changed, keys ascending ([`versions::changed_pages`]).
    Changed {
        /// Which.
        changes: Changes,
        /// The first page.
        first: PageIndex,
        /// After how many pairs no page is begun.
        limit: usize,
        /// After how many keys that were looked at or sought no page is begun.
        steps_max: usize,
    },
}

/// Performs an [`Effect::Scan`].
///
/// # Errors
/// The store's.
pub fn perform_scan(view: &(impl StoreView + ?Sized), ranges: &[ScanRange]) -> Result<Vec<Scan>, StoreError> {
    ranges.iter().map(|wanted| scan_one(view, wanted)).collect()
}

fn scan_one(view: &(impl StoreView + ?Sized), wanted: &ScanRange) -> Result<Scan, StoreError> {
    let mut found = Scan::default();
    match wanted {
        ScanRange::Keys { range, limit } => view.scan(range, &mut |key, value| {
            if found.pairs.len() == *limit {
                found.more = true;
                return ControlFlow::Break(());
            }
            found.pairs.push((key.to_vec(), value.to_vec()));
            ControlFlow::Continue(())
        })?,
        ScanRange::Page { branch, page, generation } => {
            versions::page_at(view, *branch, *page, *generation, &mut |key, value| {
                found.pairs.push((key.to_vec(), value.to_vec()));
                ControlFlow::Continue(())
            })?;
        }
        ScanRange::Changed { changes, first, limit, steps_max } => {
            let mut last = None;
            found.next_page = versions::changed_pages(view, changes, *first, *steps_max, &mut |key, value| {
                if let Some(Key::Table(_, page, _, _)) = Key::decode(key)
                    && last != Some(page)
                {
                    if found.pairs.len() >= *limit && last.is_some() {
                        return ControlFlow::Break(());
                    }
                    last = Some(page);
                }
                found.pairs.push((key.to_vec(), value.to_vec()));
                ControlFlow::Continue(())
            })?;
            found.more = found.next_page.is_some();
        }
    }
    Ok(found)
}

/// What the scan of one range found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Scan {
    /// Keys and values, in the order of the scan.
    pub pairs: Vec<(Vec<u8>, Vec<u8>)>,
    /// A limit ended it: more may follow.
    pub more: bool,
    /// Of [`ScanRange::Changed`], when more may follow: the page before which everything was found.
    pub next_page: Option<PageIndex>,
}

/// What a disk is that an operator wants to add.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DiskInspection {
    /// Where it is, in the form to be remembered.
    pub path: String,
    /// What its first and last bytes say.
    pub judgement: Judgement,
    /// Its size, in bytes.
    pub size_bytes: u64,
    /// Its sector size, in bytes: 512 or 4,096.
    pub sector_bytes: u32,
}

/// What a controller wants done.
#[derive(Debug)]
pub enum Effect {
    /// Send a message to an agent.
    ToAgent(AgentId, ControllerMessage),
    /// Send a command to one shard of a node.
    ToNode(NodeId, NodeCommand),
    /// Make a batch durable; then [`Event::Committed`] or [`Event::CommitFailed`]. Several may share a transaction.
    Commit {
        /// Its id.
        id: BatchId,
        /// The changes.
        batch: Batch,
    },
    /// Read these from one state of the store, in which every batch reported [`Event::Committed`] so far is there
    /// ([`perform_scan`] does it); then [`Event::Scanned`].
    Scan {
        /// Its id.
        id: ScanId,
        /// What.
        ranges: Vec<ScanRange>,
    },
    /// Answer an operator.
    Reply(ApiId, Result<Response, api::Error>),
    /// Answer an operator by reading a snapshot of the store, off this thread: [`crate::inspect`] does it.
    Inspect {
        /// Whom to answer.
        reply_to: ApiId,
        /// What to find out.
        inspection: Inspection,
    },
    /// Send [`Event::Timer`] at this time. Replaces the time of an earlier one.
    SetTimer(Time),
    /// Open (or, given a size, make) what is to be a disk and judge it by its labels; then [`Event::DiskInspected`].
    InspectDisk {
        /// Which.
        ticket: DiskTicket,
        /// Where it is.
        path: String,
        /// For a file that is not there: the size to make it, in bytes.
        size_bytes: Option<u64>,
    },
    /// Write a disk's label and its copy, durably; then [`Event::LabelWritten`].
    WriteLabel {
        /// Which.
        ticket: DiskTicket,
        /// Where the disk is.
        path: String,
        /// What to write at each of [`pool::label_offsets`].
        label: DiskLabel,
    },
    /// Open a disk on every shard, if its label is this one; then [`Event::DiskOpened`].
    OpenDisk {
        /// The disk.
        disk: DiskId,
        /// Where it is.
        path: String,
        /// What its label must say.
        label: DiskLabel,
    },
    /// A disk belongs to no pool any more: wipe its labels and close it.
    ReleaseDisk {
        /// The disk.
        disk: DiskId,
        /// Where it is.
        path: String,
    },
    /// Work on a volume waits for an agent, and nobody has it attached: have the agent that would serve it attach it. (It
    /// detaches it again when nothing is left to do.)
    Attach(VolumeId),
    /// An alert begins or ends: to be logged and counted.
    Alert(AlertChange),
}

/// What can be found out from a snapshot of the store.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Inspection {
    /// The audit.
    Audit,
    /// What changed from one view to another.
    Diff {
        /// The older view's id, a snapshot's.
        from: Option<VolumeId>,
        /// The younger view's, a snapshot's or a volume's.
        to: VolumeId,
        /// Which part.
        query: api::DiffQuery,
    },
    /// A volume's map.
    VolumeMap {
        /// The volume.
        volume: VolumeId,
        /// Which part.
        query: api::VolumeMapQuery,
    },
}

/// A change of what an operator should look at.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum AlertChange {
    /// It begins.
    Raised(api::Alert),
    /// Its cause is gone.
    Cleared(api::Alert),
}
