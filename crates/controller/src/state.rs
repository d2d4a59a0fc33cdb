//! What a controller knows: pools, disks, volumes and sessions.

use crate::event::{ApiId, DiskTicket};
use model::{
    BranchId, ByteSize, DiskId, Epoch, Generation, LogicalDiskId, LogicalDiskLayout, PoolId, Term, Time, UNIT_BYTES,
    UnitRun, VolumeId,
};
use pool::{Allocator, ChunkletMap};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use store::records::{DiskRecord, PoolRecord, VolumeProgress, VolumeRecord};
use wire::{AgentId, CommandId, RequestId};

/// A pool.
#[derive(Debug)]
pub(crate) struct Pool {
    pub(crate) record: PoolRecord,
    pub(crate) allocator: Allocator,
    /// Units that volumes map.
    pub(crate) mapped_units: u64,
    /// Units granted and not mapped.
    pub(crate) granted_units: u64,
    pub(crate) logical_disks: BTreeMap<LogicalDiskId, Arc<LogicalDiskLayout>>,
    /// Grants asked for that have to wait, oldest first.
    pub(crate) waiting: VecDeque<GrantRequest>,
    pub(crate) growth: Growth,
    pub(crate) recall: Option<Recall>,
}

impl Pool {
    pub(crate) fn new(record: PoolRecord) -> Self {
        Self {
            record,
            allocator: Allocator::new(),
            mapped_units: 0,
            granted_units: 0,
            logical_disks: BTreeMap::new(),
            waiting: VecDeque::new(),
            growth: Growth::Idle,
            recall: None,
        }
    }

    /// What volumes have mapped, in bytes.
    pub(crate) fn used_bytes(&self) -> u64 {
        self.mapped_units * UNIT_BYTES
    }

    /// What volumes have mapped or may map without asking, in bytes.
    pub(crate) fn committed_bytes(&self) -> u64 {
        (self.mapped_units + self.granted_units) * UNIT_BYTES
    }
}

/// A grant asked for.
#[derive(Clone, Debug)]
pub(crate) struct GrantRequest {
    pub(crate) agent: AgentId,
    pub(crate) request: RequestId,
    pub(crate) epoch: Epoch,
    pub(crate) regions: u32,
    pub(crate) urgent: u32,
    /// Others were asked to give back on its behalf: once is enough.
    pub(crate) recalled: bool,
}

/// How a pool's next logical disk is coming along.
#[derive(Debug)]
pub(crate) enum Growth {
    /// None is being made.
    Idle,
    /// Its chunklets are being prepared.
    Preparing {
        layout: LogicalDiskLayout,
        commands: BTreeSet<CommandId>,
        failed: Option<GrowthFailure>,
        /// Disks that refused an earlier attempt.
        avoided: BTreeSet<DiskId>,
    },
    /// It is being recorded.
    Recording,
    /// It failed; not before this time again.
    Blocked { until: Time },
}

/// Why a logical disk could not be made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum GrowthFailure {
    OutOfSpace(DiskId),
    Device,
}

/// Other sessions have been asked to give back what they do not use.
#[derive(Debug)]
pub(crate) struct Recall {
    pub(crate) commands: BTreeMap<CommandId, Epoch>,
    pub(crate) deadline: Time,
}

/// How a physical disk is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum DiskCondition {
    /// The shell is opening it, or the nodes are being told.
    Opening,
    /// It serves.
    Online,
    /// It could not be opened.
    Missing { reason: String },
    /// It answered with an error.
    Failed,
}

/// A physical disk.
#[derive(Debug)]
pub(crate) struct Disk {
    pub(crate) record: DiskRecord,
    pub(crate) chunklets: ChunkletMap,
    pub(crate) condition: DiskCondition,
    /// The operator who waits for it.
    pub(crate) reply_to: Option<ApiId>,
}

impl Disk {
    pub(crate) fn capacity_bytes(&self) -> u64 {
        u64::from(self.chunklets.count()) * self.chunklets.chunklet_bytes()
    }

    pub(crate) fn is_online(&self) -> bool {
        self.condition == DiskCondition::Online
    }
}

/// A disk on its way into a pool.
#[derive(Debug)]
pub(crate) struct Claim {
    pub(crate) pool: PoolId,
    pub(crate) force: bool,
    pub(crate) reply_to: ApiId,
    pub(crate) disk: Option<(DiskId, DiskRecord)>,
}

/// Claims under way.
pub(crate) type Claims = BTreeMap<DiskTicket, Claim>;

/// A volume.
#[derive(Debug)]
pub(crate) struct Volume {
    pub(crate) record: VolumeRecord,
    pub(crate) progress: VolumeProgress,
    /// Its creation is durable: hosts may see it.
    pub(crate) visible: bool,
    /// The session that has it, or had it until it is fenced.
    pub(crate) session: Option<Epoch>,
    /// An operator's order to its session is under way; nobody attaches meanwhile.
    pub(crate) ordered: bool,
    /// The job that is shrinking it.
    pub(crate) job: Option<u64>,
    /// A snapshot is being taken; nobody attaches meanwhile.
    pub(crate) cut: Option<u64>,
    /// The job that gives it places of its own.
    pub(crate) flatten: Option<u64>,
}

impl Volume {
    pub(crate) fn new(record: VolumeRecord, progress: VolumeProgress, visible: bool) -> Self {
        Self { record, progress, visible, session: None, ordered: false, job: None, cut: None, flatten: None }
    }

    /// What it has mapped, in bytes.
    pub(crate) fn used_bytes(&self) -> u64 {
        self.progress.mapped_units * UNIT_BYTES
    }

    pub(crate) fn branch_id(&self) -> BranchId {
        self.record.branch
    }

    /// How many table pages it has.
    pub(crate) fn pages(&self) -> u32 {
        self.record.size_bytes.div_ceil(self.record.region_size.page_bytes()) as u32
    }

    pub(crate) fn size(&self) -> ByteSize {
        ByteSize(self.record.size_bytes)
    }
}

/// A session.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) agent: AgentId,
    /// A volume, or a snapshot.
    pub(crate) volume: VolumeId,
    /// The branch of its view.
    pub(crate) branch: BranchId,
    pub(crate) of_snapshot: bool,
    pub(crate) pool: PoolId,
    pub(crate) term: Term,
    pub(crate) read_only: bool,
    /// The newest generation that its agent was told to begin.
    pub(crate) begun: Generation,
    /// Where its last grant ended.
    pub(crate) near: Option<UnitRun>,
    pub(crate) stage: SessionStage,
}

/// How far a session is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum SessionStage {
    /// Its record is not durable yet.
    Opening,
    /// Its agent may do I/O.
    Live,
    /// Its agent is gone; nodes are being told to refuse it.
    Fencing,
    /// Its grants are going back.
    Closing,
}

/// An attachment that has to wait: for a fence, or for a job.
#[derive(Clone, Debug)]
pub(crate) struct AttachRequest {
    pub(crate) agent: AgentId,
    pub(crate) request: RequestId,
    pub(crate) volume: VolumeId,
    pub(crate) read_only: bool,
}
