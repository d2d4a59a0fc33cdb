//! The controller itself: dispatches events, and holds back whatever others may see until the batch it rests on is
//! durable.

use crate::alerts::Alerts;
use crate::branches::{Branch, Snapshot};
use crate::catalog::Catalog;
use crate::cut::Cut;
use crate::event::{ApiId, BatchId, Config, DiskTicket, Effect, Event, Inspection, ScanId};
use crate::fetch::ScanPurpose;
use crate::fold::Folds;
use crate::grant_map::GrantMap;
use crate::jobs::Job;
use crate::recover::Unanswered;
use crate::shrink::Shrink;
use crate::state::{AttachRequest, Claims, Disk, Growth, Pool, Session, Volume};
use api::{Error, Response};
use model::{BranchId, ClusterId, DiskId, Epoch, Generation, LogicalDiskId, PoolId, Time, UnitRun, VolumeId};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use store::records::{Counters, Record, ScheduleRecord};
use store::{Batch, Key, Space, StoreError};
use wire::{
    AgentId, AgentMessage, CommandId, ControllerMessage, NodeCommand, NodeId, NodeOrder, NodeReport, OrderOutcome,
};

/// The controller engine. See the crate's documentation.
#[derive(Debug)]
pub struct Controller {
    pub(crate) config: Config,
    pub(crate) cluster: ClusterId,
    pub(crate) counters: Counters,
    pub(crate) counters_changed: bool,
    pub(crate) pools: BTreeMap<PoolId, Pool>,
    pub(crate) disks: BTreeMap<DiskId, Disk>,
    pub(crate) claims: Claims,
    pub(crate) volumes: BTreeMap<VolumeId, Volume>,
    pub(crate) names: BTreeMap<String, VolumeId>,
    pub(crate) branches: BTreeMap<BranchId, Branch>,
    /// How many branches have each view for their origin.
    pub(crate) forks: BTreeMap<(BranchId, Generation), u32>,
    pub(crate) snapshots: BTreeMap<VolumeId, Snapshot>,
    /// Those that are not deleted, by volume and name.
    pub(crate) snapshot_names: BTreeMap<VolumeId, BTreeMap<String, VolumeId>>,
    pub(crate) cuts: BTreeMap<u64, Cut>,
    /// Volumes that are to be shrunk once they are attached.
    pub(crate) shrinks: BTreeMap<VolumeId, Shrink>,
    pub(crate) schedules: BTreeMap<VolumeId, ScheduleRecord>,
    pub(crate) sessions: BTreeMap<Epoch, Session>,
    pub(crate) grants: GrantMap,
    pub(crate) jobs: BTreeMap<u64, Job>,
    pub(crate) attaches: VecDeque<AttachRequest>,
    pub(crate) scans: BTreeMap<ScanId, ScanPurpose>,
    pub(crate) scan_retries: Vec<ScanPurpose>,
    pub(crate) fence_retries: Vec<Vec<Epoch>>,
    pub(crate) folds: Folds,
    pub(crate) commands: BTreeMap<CommandId, Command>,
    pub(crate) operators: BTreeSet<ApiId>,
    pub(crate) alerts: Alerts,
    pub(crate) catalog: Catalog,
    pub(crate) space: Space,
    pub(crate) agents: BTreeSet<AgentId>,
    /// Answers owed from before a failed commit, given by [`Controller::start`].
    pub(crate) owed: Vec<Unanswered>,
    /// How often this process made a controller: part of every id, so that answers to a former one are recognised.
    pub(crate) incarnation: u32,
    /// The store is of an older format, and becomes one of this.
    pub(crate) upgrading: bool,
    last_id: u64,
    pub(crate) now: Time,
    pub(crate) deadline: Option<Time>,
    announced_deadline: Option<Time>,
    pub(crate) batch: Batch,
    pub(crate) after: Vec<After>,
    pub(crate) pending: VecDeque<(BatchId, Vec<After>)>,
    commits: Vec<Effect>,
    pub(crate) effects: Vec<Effect>,
    pub(crate) touched_pools: BTreeSet<PoolId>,
    pub(crate) touched_volumes: BTreeSet<VolumeId>,
    pub(crate) failed: Option<StoreError>,
}

/// What happens once a batch is durable.
#[derive(Debug)]
pub(crate) enum After {
    /// An agent is answered.
    ToAgent(AgentId, ControllerMessage),
    /// A commit is answered.
    MapCommitted { agent: AgentId, request: wire::RequestId, epoch: Epoch },
    /// A grant is answered.
    Granted { agent: AgentId, request: wire::RequestId, epoch: Epoch, runs: Vec<UnitRun> },
    /// A session is open.
    Attached { agent: AgentId, request: wire::RequestId, epoch: Epoch },
    /// A session is over, and its agent is told if it asked.
    SessionClosed { epoch: Epoch, agent: Option<AgentId> },
    /// Units a session gave back are durably free.
    Returned { agent: AgentId, epoch: Epoch, runs: Vec<UnitRun> },
    /// Units may be given out.
    Release(PoolId, Vec<UnitRun>),
    /// A logical disk is in service.
    Grown(PoolId, LogicalDiskId),
    /// An operator is answered.
    Reply(ApiId, View),
    /// Volumes and snapshots may be seen by hosts.
    Visible(Vec<VolumeId>),
    /// Snapshots were taken: their volumes' holders go on.
    CutDone(u64),
    /// Fewer layers of a branch's live end are frozen.
    TellFrozen(BranchId),
    /// Something of a branch may be taken back.
    StartPurge(BranchId),
    /// A purge's step is done.
    PurgeStep(BranchId),
    /// A clone is to be flattened.
    Flatten(VolumeId),
    /// An operator is answered from a snapshot of the store.
    Inspect(ApiId, Inspection),
    /// What hosts see of a volume or a snapshot changed.
    ExportChanged(VolumeId),
    /// A session is told its volume's new size, and then the operator is answered.
    TellSize { volume: VolumeId, reply_to: ApiId },
    /// A disk's id is reserved: label it.
    Label(DiskTicket),
    /// A disk's record is durable: open it.
    OpenDisk(DiskId),
    /// A job's step is done.
    JobStep(u64),
    /// A page's folding is done.
    Folded(model::BranchId, model::PageIndex),
    /// Any other effect.
    Effect(Effect),
}

/// An answer that is made when it is given, from what is then true.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum View {
    Done,
    Pool(PoolId),
    Volume(VolumeId),
    Snapshot(VolumeId),
    Snapshots(Vec<VolumeId>),
    Schedule(VolumeId),
}

/// A command under way, to an agent or to nodes.
#[derive(Debug)]
pub(crate) enum Command {
    /// Every node is to refuse these sessions.
    Fence { epochs: Vec<Epoch>, nodes: BTreeSet<NodeId> },
    /// Every node is to serve a disk.
    AddDisk { disk: DiskId, nodes: BTreeSet<NodeId> },
    /// Chunklets of one disk are to be prepared.
    Prepare { pool: PoolId, disk: DiskId },
    /// A session is to return what it does not use.
    Recall { pool: PoolId, epoch: Epoch },
    /// A session is to serve its volume at a new size.
    Resize { epoch: Epoch, volume: VolumeId, reply_to: ApiId, shrink_to: Option<u64> },
    /// A session is to end, so that its volume can be deleted.
    Release { epoch: Epoch, volume: VolumeId, reply_to: ApiId },
    /// A session is to end, so that its volume can be rolled back.
    Rollback { epoch: Epoch, volume: VolumeId, snapshot: VolumeId, reply_to: ApiId },
    /// A session is to do its part of a snapshot of its volume.
    Cut { epoch: Epoch, cut: u64 },
    /// A session is to end, because the snapshot it reads is deleted.
    Evict { epoch: Epoch },
    /// A session is to make its changes durable, so that they can be compared with.
    Diff { epoch: Epoch, reply_to: ApiId, from: Option<VolumeId>, to: VolumeId, query: api::DiffQuery },
    /// A session is to copy what its volume shares with its origin.
    Flatten { epoch: Epoch, volume: VolumeId },
}

impl Command {
    /// The session it was given to, if it was an agent's.
    pub(crate) fn epoch(&self) -> Option<Epoch> {
        match self {
            Self::Recall { epoch, .. }
            | Self::Resize { epoch, .. }
            | Self::Release { epoch, .. }
            | Self::Rollback { epoch, .. }
            | Self::Cut { epoch, .. }
            | Self::Evict { epoch, .. }
            | Self::Diff { epoch, .. }
            | Self::Flatten { epoch, .. } => Some(*epoch),
            Self::Fence { .. } | Self::AddDisk { .. } | Self::Prepare { .. } => None,
        }
    }
}

impl Controller {
    /// Takes one event and says what is to be done about it.
    pub fn step(&mut self, now: Time, event: Event, out: &mut Vec<Effect>) {
        self.now = self.now.max(now);
        if self.failed.is_none() {
            self.dispatch(event);
            self.finish_step();
        } else if let Event::Api(id, _) = event {
            self.effects.push(Effect::Reply(id, Err(Error::unavailable("the metadata store failed; try again"))));
        }
        self.hand_out(out);
    }

    /// Batches lead: a shell that performs an effect at once, and so comes to another batch, keeps their order.
    pub(crate) fn hand_out(&mut self, out: &mut Vec<Effect>) {
        out.append(&mut self.commits);
        out.append(&mut self.effects);
    }

    fn dispatch(&mut self, event: Event) {
        match event {
            Event::FromAgent(agent, message) => self.from_agent(agent, message),
            Event::FromNode(node, report) => self.from_node(node, report),
            Event::Api(id, request) => self.operator(id, request),
            Event::Committed(id) => self.committed(id),
            Event::CommitFailed(_, error) => self.commit_failed(error),
            Event::Scanned { id, result } => self.scanned(id, result),
            Event::AgentGone(agent) => self.agent_gone(agent),
            Event::Timer => self.timer(),
            Event::Space(space) => self.space_known(space),
            Event::DiskInspected { ticket, result } => self.disk_inspected(ticket, result),
            Event::LabelWritten { ticket, result } => self.label_written(ticket, result),
            Event::DiskOpened { disk, result } => self.disk_opened(disk, result),
            Event::DiskFailed(disk) => self.disk_failed(disk),
        }
    }

    fn from_agent(&mut self, agent: AgentId, message: AgentMessage) {
        self.agents.insert(agent);
        match message {
            AgentMessage::Attach { request, volume, access } => {
                let read_only = access == wire::Access::ReadOnly;
                self.attach(AttachRequest { agent, request, volume, read_only });
            }
            AgentMessage::Detach { epoch } => self.detach(agent, epoch),
            AgentMessage::FetchPage { request, epoch, page } => self.fetch_page(agent, request, epoch, page, None),
            AgentMessage::FetchSnapshotPage { request, epoch, snapshot, page } => {
                self.fetch_page(agent, request, epoch, page, Some(snapshot));
            }
            AgentMessage::RequestGrant { request, epoch, regions, urgent } => {
                self.grant_requested(crate::state::GrantRequest {
                    agent,
                    request,
                    epoch,
                    regions,
                    urgent,
                    recalled: false,
                });
            }
            AgentMessage::Commit { request, epoch, commit } => self.map_commit(agent, request, epoch, commit),
            AgentMessage::ReturnGrant { epoch, runs } => self.grant_returned(agent, epoch, runs),
            AgentMessage::OrderDone { command, epoch, outcome } => self.order_done(command, epoch, outcome),
        }
    }

    pub(crate) fn order_done(&mut self, id: CommandId, epoch: Epoch, outcome: OrderOutcome) {
        if self.commands.get(&id).and_then(Command::epoch) != Some(epoch) {
            return;
        }
        match self.commands.remove(&id) {
            Some(Command::Recall { pool, .. }) => self.recall_done(pool, id),
            Some(Command::Resize { volume, reply_to, shrink_to, .. }) => {
                self.resize_told(volume, reply_to, shrink_to, outcome);
            }
            Some(Command::Release { volume, reply_to, .. }) => self.release_told(volume, reply_to, outcome),
            Some(Command::Rollback { volume, snapshot, reply_to, .. }) => {
                self.rollback_told(volume, snapshot, reply_to, outcome);
            }
            Some(Command::Cut { cut, .. }) => self.cut_told(cut, id, epoch, outcome),
            Some(Command::Evict { .. }) => self.evicted(epoch, outcome),
            Some(Command::Diff { reply_to, from, to, query, .. }) => {
                self.diff_told(reply_to, (from, to), query, outcome);
            }
            Some(Command::Flatten { volume, .. }) => self.flatten_told(volume, outcome),
            Some(Command::Fence { .. } | Command::AddDisk { .. } | Command::Prepare { .. }) | None => {}
        }
    }

    fn from_node(&mut self, node: NodeId, report: NodeReport) {
        let id = report.command;
        match self.commands.get_mut(&id) {
            Some(Command::Fence { nodes, epochs }) => {
                if report.result.is_err() {
                    // Until a node has said that it refuses them, nothing of theirs may be used again.
                    let epochs = std::mem::take(epochs);
                    self.commands.remove(&id);
                    self.fence_retries.push(epochs);
                    return self.wake_in(crate::sessions::FENCE_RETRY);
                }
                nodes.remove(&node);
                if nodes.is_empty()
                    && let Some(Command::Fence { epochs, .. }) = self.commands.remove(&id)
                {
                    self.fenced(&epochs);
                }
            }
            Some(Command::AddDisk { disk, nodes }) => {
                let disk = *disk;
                nodes.remove(&node);
                let all = nodes.is_empty();
                if all || report.result.is_err() {
                    self.commands.remove(&id);
                    self.disk_in_service(disk, report.result);
                }
            }
            Some(Command::Prepare { pool, disk }) => {
                let (pool, disk) = (*pool, *disk);
                self.commands.remove(&id);
                self.prepared(pool, disk, id, report.result);
            }
            Some(_) | None => {}
        }
    }

    /// Everything that waits for time.
    fn timer(&mut self) {
        self.announced_deadline = None;
        if self.deadline.is_none_or(|deadline| deadline > self.now) {
            return;
        }
        self.deadline = None;
        for epochs in std::mem::take(&mut self.fence_retries) {
            self.fence(epochs);
        }
        self.cut_timer();
        self.shrink_timer();
        for purpose in std::mem::take(&mut self.scan_retries) {
            self.scan_again(purpose);
        }
        let pools: Vec<PoolId> = self.pools.keys().copied().collect();
        for id in pools {
            self.pool_timer(id);
        }
    }

    fn pool_timer(&mut self, id: PoolId) {
        let now = self.now;
        let Some(pool) = self.pools.get_mut(&id) else { return };
        match pool.growth {
            Growth::Blocked { until } if until <= now => pool.growth = Growth::Idle,
            Growth::Blocked { until } => self.wake_at(until),
            Growth::Idle | Growth::Preparing { .. } | Growth::Recording => {}
        }
        self.recall_timer(id);
        self.serve_waiting(id);
    }

    fn space_known(&mut self, space: Space) {
        self.space = space;
        self.review_metadata();
    }

    /// Whether the metadata store has only its reserve left, which is for deletes.
    pub(crate) fn metadata_is_low(&self) -> bool {
        self.space.available_bytes.is_some_and(|available| available < self.config.metadata_reserve_bytes)
    }

    fn committed(&mut self, id: BatchId) {
        while self.pending.front().is_some_and(|(first, _)| *first <= id) {
            let (_, after) = self.pending.pop_front().expect("just looked at");
            after.into_iter().for_each(|next| self.act(next));
        }
    }

    /// Does what waited for a batch.
    fn act(&mut self, after: After) {
        match after {
            After::ToAgent(agent, message) => self.to_agent(agent, message),
            After::MapCommitted { agent, request, epoch } => {
                self.to_agent(agent, ControllerMessage::Committed { request, epoch, result: Ok(()) });
            }
            After::Granted { agent, request, epoch, runs } => {
                self.to_agent(agent, ControllerMessage::Granted { request, epoch, result: Ok(runs) });
            }
            After::Attached { agent, request, epoch } => self.attached(agent, request, epoch),
            After::SessionClosed { epoch, agent } => self.session_closed(epoch, agent),
            After::Returned { .. } => {}
            After::Release(pool, runs) => self.release(pool, &runs),
            After::Grown(pool, logical_disk) => self.grown(pool, logical_disk),
            After::Reply(id, view) => self.reply_view(id, &view),
            After::Visible(ids) => {
                for id in ids {
                    if let Some(volume) = self.volumes.get_mut(&id) {
                        volume.visible = true;
                    } else if let Some(snapshot) = self.snapshots.get_mut(&id) {
                        snapshot.visible = true;
                    }
                    self.catalog.touch(id);
                }
            }
            After::CutDone(cut) => self.cut_done(cut),
            After::TellFrozen(branch) => self.tell_frozen(branch),
            After::StartPurge(branch) => self.start_purge(branch),
            After::PurgeStep(branch) => self.purge_step_done(branch),
            After::Flatten(volume) => self.flatten_wanted(volume),
            After::Inspect(id, inspection) => self.inspect(id, inspection),
            After::ExportChanged(id) => self.catalog.touch(id),
            After::TellSize { volume, reply_to } => self.tell_size(volume, reply_to),
            After::Label(ticket) => self.label(ticket),
            After::OpenDisk(disk) => self.open_disk(disk),
            After::JobStep(job) => self.job_step_done(job),
            After::Folded(branch, page) => self.folded(branch, page),
            After::Effect(effect) => self.effects.push(effect),
        }
    }

    /// A batch failed: nothing that waits for one will happen. Operators are told; agents are answered by the controller
    /// that follows, which sees what is durable.
    fn commit_failed(&mut self, error: StoreError) {
        let answer = match &error {
            StoreError::Full => Error::out_of_space(error.to_string()),
            StoreError::Failed(_) => Error::unavailable(format!("{error}; nothing was changed, try again")),
            StoreError::Corrupt(_) | StoreError::NewerVersion { .. } => Error::corrupt(error.to_string()),
        };
        for id in std::mem::take(&mut self.operators) {
            self.effects.push(Effect::Reply(id, Err(answer.clone())));
        }
        self.batch = Batch::new();
        self.failed = Some(error);
    }

    /// Sends off what the step changed.
    pub(crate) fn finish_step(&mut self) {
        if self.failed.is_some() {
            return;
        }
        self.review_touched();
        self.send_folds_if_due();
        self.send_batch();
        self.refresh_catalog();
        if let Some(deadline) = self.deadline
            && self.announced_deadline != Some(deadline)
        {
            self.announced_deadline = Some(deadline);
            self.effects.push(Effect::SetTimer(deadline));
        }
    }

    /// Sends off the changes gathered so far as one batch.
    pub(crate) fn send_batch(&mut self) {
        if self.counters_changed {
            self.counters_changed = false;
            self.batch.put(Key::Counters, self.counters.encode());
        }
        self.store_allocation();
        if !self.batch.is_empty() || !self.after.is_empty() {
            let id = BatchId(self.next_id());
            let (batch, after) = (std::mem::take(&mut self.batch), std::mem::take(&mut self.after));
            self.pending.push_back((id, after));
            self.commits.push(Effect::Commit { id, batch });
        }
    }

    fn store_allocation(&mut self) {
        for pool in self.pools.values_mut() {
            for page in pool.allocator.drain_dirty() {
                let key = Key::Allocation(page.logical_disk, page.index);
                match page.value {
                    Some(value) => self.batch.put(key, store::codec::seal(&value)),
                    None => self.batch.delete(key),
                }
            }
        }
    }

    /// A number never given out before in this process.
    pub(crate) fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        u64::from(self.incarnation) << 40 | self.last_id
    }

    pub(crate) fn next_command(&mut self) -> CommandId {
        CommandId(self.next_id())
    }

    pub(crate) fn wake_in(&mut self, delay: std::time::Duration) {
        self.wake_at(self.now + delay);
    }

    pub(crate) fn wake_at(&mut self, time: Time) {
        self.deadline = Some(self.deadline.map_or(time, |deadline| deadline.min(time)));
    }

    pub(crate) fn to_agent(&mut self, agent: AgentId, message: ControllerMessage) {
        if self.agents.contains(&agent) {
            self.effects.push(Effect::ToAgent(agent, message));
        }
    }

    /// Sends an order to every shard of the node.
    pub(crate) fn to_nodes(&mut self, command: CommandId, order: &NodeOrder) {
        for node in &self.config.nodes {
            let command = NodeCommand { command, term: self.counters.term, order: order.clone() };
            self.effects.push(Effect::ToNode(*node, command));
        }
    }

    /// Answers an operator now.
    pub(crate) fn reply(&mut self, id: ApiId, result: Result<Response, Error>) {
        if self.operators.remove(&id) {
            self.effects.push(Effect::Reply(id, result));
        }
    }

    /// Frees units in this step's batch; they may be given out when it is durable.
    ///
    /// # Panics
    /// When they are not all allocated: whoever lets a peer choose them checks first.
    pub(crate) fn free_units(&mut self, pool_id: PoolId, runs: Vec<UnitRun>) {
        let Some(pool) = self.pools.get_mut(&pool_id) else { return };
        for run in &runs {
            let freed = pool.allocator.quarantine(*run);
            assert!(freed.is_ok(), "NO_REGION_OWNED_TWICE: freeing {run:?}: {freed:?}");
        }
        if !runs.is_empty() {
            self.after.push(After::Release(pool_id, runs));
        }
    }

    fn release(&mut self, pool_id: PoolId, runs: &[UnitRun]) {
        if let Some(pool) = self.pools.get_mut(&pool_id) {
            runs.iter().for_each(|run| pool.allocator.release(*run));
            self.touched_pools.insert(pool_id);
            self.serve_waiting(pool_id);
        }
    }

    pub(crate) fn empty(config: Config, cluster: ClusterId, incarnation: u32) -> Self {
        Self {
            folds: Folds::new(config.folding),
            config,
            cluster,
            counters: Counters::default(),
            counters_changed: false,
            pools: BTreeMap::new(),
            disks: BTreeMap::new(),
            claims: Claims::new(),
            volumes: BTreeMap::new(),
            names: BTreeMap::new(),
            branches: BTreeMap::new(),
            forks: BTreeMap::new(),
            snapshots: BTreeMap::new(),
            snapshot_names: BTreeMap::new(),
            cuts: BTreeMap::new(),
            shrinks: BTreeMap::new(),
            schedules: BTreeMap::new(),
            sessions: BTreeMap::new(),
            grants: GrantMap::default(),
            jobs: BTreeMap::new(),
            attaches: VecDeque::new(),
            scans: BTreeMap::new(),
            scan_retries: Vec::new(),
            fence_retries: Vec::new(),
            commands: BTreeMap::new(),
            operators: BTreeSet::new(),
            alerts: Alerts::default(),
            catalog: Catalog::default(),
            space: Space::default(),
            agents: BTreeSet::new(),
            owed: Vec::new(),
            incarnation,
            upgrading: false,
            last_id: 0,
            now: Time::default(),
            deadline: None,
            announced_deadline: None,
            batch: Batch::new(),
            after: Vec::new(),
            pending: VecDeque::new(),
            commits: Vec::new(),
            effects: Vec::new(),
            touched_pools: BTreeSet::new(),
            touched_volumes: BTreeSet::new(),
            failed: None,
        }
    }
}
