//! From the store to a controller: at start-up, and after a commit that failed.
//!
//! Table pages are not read, so this takes as long with 10 TiB mapped as with nothing (but for one allocation page each
//! 512 MiB).

use crate::alerts::Alerts;
use crate::branches::{Branch, LIVE, Snapshot};
use crate::catalog::Catalog;
use crate::engine::{After, Controller};
use crate::event::Config;
use crate::fetch::{Fetch, ScanPurpose};
use crate::jobs::Job;
use crate::purge::Purge;
use crate::state::{AttachRequest, Disk, DiskCondition, Pool, Session, SessionStage, Volume};
use model::{
    BranchId, DiskId, Epoch, Generation, LogicalDiskId, LogicalDiskLayout, PoolId, Term, Time, UNIT_BYTES, UnitRun,
    VolumeId,
};
use pool::ChunkletMap;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::Arc;
use store::keys::Tag;
use store::records::{
    BranchRecord, Counters, DiskRecord, FORMAT_VERSION, GrantRecord, JobRecord, MetaRecord, PoolRecord, Record,
    ScheduleRecord, SessionRecord, SnapshotRecord, UnitCount, VolumeProgress, VolumeRecord,
};
use store::{Key, KeyRange, Space, StoreError, StoreView, codec};
use wire::{AgentId, AttachError, CommitError, ControllerMessage, GrantError, RequestId};

/// An answer that an agent waits for.
#[derive(Clone, Debug)]
pub(crate) enum Unanswered {
    Fetch(Fetch),
    Commit { agent: AgentId, request: RequestId, epoch: Epoch },
    Grant { agent: AgentId, request: RequestId, epoch: Epoch },
    Attach { agent: AgentId, request: RequestId },
    AttachAgain(AttachRequest),
    Detach { agent: AgentId, epoch: Epoch },
    Return { agent: AgentId, epoch: Epoch, runs: Vec<UnitRun> },
}

/// What outlives a controller whose commit failed: everything that is true in this process and not in the store.
#[derive(Clone, Debug, Default)]
pub struct Survivors {
    incarnation: u32,
    term: Term,
    agents: BTreeSet<AgentId>,
    sessions: BTreeMap<Epoch, Survivor>,
    disks: BTreeMap<DiskId, DiskCondition>,
    unanswered: Vec<Unanswered>,
    alerts: Alerts,
    catalog_version: u64,
    space: Space,
    error: Option<StoreError>,
    now: Time,
}

/// What is true of a live session and not in the store.
#[derive(Clone, Copy, Debug)]
struct Survivor {
    begun: Generation,
    near: Option<UnitRun>,
}

fn collect<T>(
    view: &(impl StoreView + ?Sized),
    tag: Tag,
    mut visit: impl FnMut(Key<'_>, &[u8]) -> Result<T, StoreError>,
) -> Result<Vec<T>, StoreError> {
    let (mut all, mut failure) = (Vec::new(), None);
    view.scan(&KeyRange::tag(tag), &mut |key, value| {
        let decoded = Key::decode(key).ok_or_else(|| StoreError::Corrupt(format!("a key of {tag:?} cannot be read")));
        match decoded.and_then(|key| visit(key, value)) {
            Ok(one) => {
                all.push(one);
                ControlFlow::Continue(())
            }
            Err(error) => {
                failure = Some(error);
                ControlFlow::Break(())
            }
        }
    })?;
    failure.map_or(Ok(all), Err)
}

fn misplaced(key: Key<'_>) -> StoreError {
    StoreError::Corrupt(format!("{key:?} is not where it belongs"))
}

fn dangling(what: impl std::fmt::Display, missing: impl std::fmt::Display) -> StoreError {
    StoreError::Corrupt(format!("{what} refers to {missing}, which does not exist"))
}

impl Controller {
    /// The controller that the store holds; an empty store holds the beginning of a cluster. Follow it with
    /// [`Controller::start`].
    ///
    /// # Errors
    /// Any of [`StoreError`] but full. Nothing was changed.
    pub fn recover(config: Config, view: &(impl StoreView + ?Sized), survivors: Survivors) -> Result<Self, StoreError> {
        let meta = view.get(&Key::Meta.encode())?.map(|bytes| MetaRecord::decode(&bytes)).transpose()?;
        let cluster = meta.as_ref().map_or(config.new_cluster, |meta| meta.cluster);
        let fresh = survivors.incarnation == 0;
        let mut controller = Self::empty(config, cluster, survivors.incarnation + 1);
        controller.upgrading = meta.as_ref().is_some_and(|meta| meta.format_version < FORMAT_VERSION);
        if meta.is_none() || controller.upgrading {
            let meta = MetaRecord { format_version: FORMAT_VERSION, cluster };
            controller.batch.put(Key::Meta, meta.encode());
        }
        let counters = view.get(&Key::Counters.encode())?;
        controller.counters = counters.map(|bytes| Counters::decode(&bytes)).transpose()?.unwrap_or_default();
        // A new leadership; after a failed commit it is the same, for nodes and live sessions know its term, even if it
        // is not durable yet.
        let term = if fresh { Term(controller.counters.term.0 + 1) } else { survivors.term };
        controller.counters_changed = controller.counters.term != term;
        controller.counters.term = term;
        controller.load_pools(view, &survivors)?;
        controller.load_volumes(view)?;
        controller.load_sessions(view, &survivors)?;
        for volume in controller.volumes.keys().copied().collect::<Vec<_>>() {
            controller.catch_up(volume);
        }
        controller.take_over(survivors);
        Ok(controller)
    }

    fn load_pools(&mut self, view: &(impl StoreView + ?Sized), survivors: &Survivors) -> Result<(), StoreError> {
        for (id, record) in collect(view, Tag::Pool, |key, value| match key {
            Key::Pool(id) => Ok((id, PoolRecord::decode(value)?)),
            other => Err(misplaced(other)),
        })? {
            self.pools.insert(id, Pool::new(record));
        }
        for (id, record) in collect(view, Tag::Disk, |key, value| match key {
            Key::Disk(id) => Ok((id, DiskRecord::decode(value)?)),
            other => Err(misplaced(other)),
        })? {
            let chunklets = ChunkletMap::new(id, record.size_bytes, record.chunklet_bytes)
                .map_err(|error| StoreError::Corrupt(error.to_string()))?;
            let condition = survivors.disks.get(&id).cloned().unwrap_or(DiskCondition::Opening);
            self.disks.insert(id, Disk { record, chunklets, condition, reply_to: None });
        }
        for layout in collect(view, Tag::LogicalDisk, |_, value| LogicalDiskLayout::decode(value))? {
            self.load_logical_disk(layout)?;
        }
        let pages = collect(view, Tag::Allocation, |key, value| match key {
            Key::Allocation(id, index) => Ok((id, index, codec::open("an allocation page", value)?.to_vec())),
            other => Err(misplaced(other)),
        })?;
        let owners: BTreeMap<LogicalDiskId, PoolId> =
            (self.pools.iter()).flat_map(|(pool, state)| state.logical_disks.keys().map(|id| (*id, *pool))).collect();
        for (id, index, bytes) in pages {
            let pool = owners.get(&id).and_then(|pool| self.pools.get_mut(pool));
            let pool = pool.ok_or_else(|| dangling("an allocation page", id))?;
            let loaded = pool.allocator.load_page(id, index, &bytes);
            loaded.map_err(|error| StoreError::Corrupt(format!("page {index} of {id}: {error}")))?;
        }
        Ok(())
    }

    fn load_logical_disk(&mut self, layout: LogicalDiskLayout) -> Result<(), StoreError> {
        for chunklet in layout.rows.iter().flatten() {
            let disk = self.disks.get_mut(&chunklet.disk).ok_or_else(|| dangling(layout.id, chunklet.disk))?;
            let same_size = disk.chunklets.chunklet_bytes() == layout.chunklet_bytes;
            let taken = disk.chunklets.take(chunklet.byte_offset);
            taken.map_err(|error| StoreError::Corrupt(format!("{}: {error}", layout.id)))?;
            if !same_size {
                return Err(StoreError::Corrupt(format!(
                    "{} has chunklets of another size than {}",
                    layout.id, chunklet.disk
                )));
            }
        }
        let pool = self.pools.get_mut(&layout.pool).ok_or_else(|| dangling(layout.id, layout.pool))?;
        pool.allocator.add_disk(layout.id, layout.data_units());
        pool.logical_disks.insert(layout.id, Arc::new(layout));
        Ok(())
    }

    fn load_volumes(&mut self, view: &(impl StoreView + ?Sized)) -> Result<(), StoreError> {
        let mut progress: BTreeMap<VolumeId, VolumeProgress> =
            collect(view, Tag::VolumeProgress, |key, value| match key {
                Key::VolumeProgress(id) => Ok((id, VolumeProgress::decode(value)?)),
                other => Err(misplaced(other)),
            })?
            .into_iter()
            .collect();
        for (id, record) in collect(view, Tag::Volume, |key, value| match key {
            Key::Volume(id) => Ok((id, VolumeRecord::decode(value)?)),
            other => Err(misplaced(other)),
        })? {
            let mut progress = progress.remove(&id).unwrap_or_default();
            let pool = self.pools.get_mut(&record.pool).ok_or_else(|| dangling(id, record.pool))?;
            if self.upgrading {
                progress.logical_disks = pool.logical_disks.keys().copied().collect();
                self.batch.put(Key::VolumeProgress(id), progress.encode());
            }
            pool.mapped_units += progress.mapped_units;
            if !record.deleting {
                self.names.insert(record.name.clone(), id);
            }
            self.volumes.insert(id, Volume::new(record, progress, true));
        }
        self.load_branches(view)?;
        for (id, record) in collect(view, Tag::Schedule, |key, value| match key {
            Key::Schedule(id) => Ok((id, ScheduleRecord::decode(value)?)),
            other => Err(misplaced(other)),
        })? {
            self.schedules.insert(id, record);
        }
        for (id, record) in collect(view, Tag::Job, |key, value| match key {
            Key::Job(id) => Ok((id, JobRecord::decode(value)?)),
            other => Err(misplaced(other)),
        })? {
            self.load_job(id, record)?;
        }
        self.touched_volumes = self.volumes.keys().copied().collect();
        self.touched_pools = self.pools.keys().copied().collect();
        Ok(())
    }

    fn load_branches(&mut self, view: &(impl StoreView + ?Sized)) -> Result<(), StoreError> {
        for (id, record) in collect(view, Tag::Branch, |key, value| match key {
            Key::Branch(id) => Ok((id, BranchRecord::decode(value)?)),
            other => Err(misplaced(other)),
        })? {
            if !self.volumes.contains_key(&record.volume) {
                return Err(dangling(id, record.volume));
            }
            self.count_fork(record.origin, true);
            self.branches.insert(id, Branch::new(record));
        }
        for (id, record) in collect(view, Tag::Snapshot, |key, value| match key {
            Key::Snapshot(id) => Ok((id, SnapshotRecord::decode(value)?)),
            other => Err(misplaced(other)),
        })? {
            let branch = self.branches.get_mut(&record.branch).ok_or_else(|| dangling(id, record.branch))?;
            branch.snapshots.insert(record.generation, id);
            if !record.deleted {
                self.snapshot_names.entry(record.volume).or_default().insert(record.name.clone(), id);
            }
            self.snapshots.insert(id, Snapshot { record, visible: true, session: None });
        }
        for (branch, holder, bucket, units) in collect(view, Tag::Usage, |key, value| match key {
            Key::Usage(branch, holder, bucket) => Ok((branch, holder, bucket, UnitCount::decode(value)?.0)),
            other => Err(misplaced(other)),
        })? {
            let state = self.branches.get_mut(&branch).ok_or_else(|| dangling("a count of units", branch))?;
            state.usage.insert((holder, bucket), units);
        }
        let volumes: Vec<(VolumeId, BranchId, u64, bool)> = (self.volumes.iter())
            .map(|(id, volume)| (*id, volume.branch_id(), volume.progress.mapped_units, volume.record.deleting))
            .collect();
        for (id, branch, mapped, deleting) in volumes {
            match self.branches.get_mut(&branch) {
                // A deleted volume may have only branches left that its snapshots need.
                None if deleting => {}
                None => return Err(dangling(id, branch)),
                Some(state) => {
                    // Format version 1 knew no snapshots: everything is the live end's.
                    if self.upgrading {
                        state.record.ended = deleting;
                        let bucket = state.record.generation;
                        self.count_units(branch, LIVE, bucket, mapped as i64);
                        self.put_branch(branch);
                    }
                }
            }
        }
        let origins: Vec<_> = self.forks.keys().copied().collect();
        for (branch, generation) in origins {
            let known = self.branches.get(&branch).is_some_and(|state| state.snapshots.contains_key(&generation));
            if !known {
                return Err(dangling(format!("a clone of {branch} at {generation}"), "that snapshot"));
            }
        }
        Ok(())
    }

    fn load_job(&mut self, id: u64, record: JobRecord) -> Result<(), StoreError> {
        match record {
            JobRecord::Delete { .. } => self.batch.delete(Key::Job(id)),
            JobRecord::Shrink { volume, size_bytes } => {
                let state = self.volumes.get_mut(&volume).ok_or_else(|| dangling("a job", volume))?;
                state.job = Some(id);
                self.jobs.insert(id, Job::new(volume, size_bytes));
            }
            JobRecord::Flatten { volume } => {
                let state = self.volumes.get_mut(&volume).ok_or_else(|| dangling("a job", volume))?;
                state.flatten = Some(id);
            }
            JobRecord::Purge { branch, view, next_page } => {
                let state = self.branches.get_mut(&branch).ok_or_else(|| dangling("a job", branch))?;
                state.purge = Some(Purge::new(id, view, next_page));
            }
        }
        Ok(())
    }

    fn load_sessions(&mut self, view: &(impl StoreView + ?Sized), survivors: &Survivors) -> Result<(), StoreError> {
        for (epoch, record) in collect(view, Tag::Session, |key, value| match key {
            Key::Session(epoch) => Ok((epoch, SessionRecord::decode(value)?)),
            other => Err(misplaced(other)),
        })? {
            let view = self.view_of(record.volume).ok_or_else(|| dangling(epoch, record.volume))?;
            let of_snapshot = self.snapshots.contains_key(&record.volume);
            let volume = self.branches[&view.branch()].record.volume;
            let pool = self.volumes[&volume].record.pool;
            *self.session_of(record.volume).expect("it has a view") = Some(epoch);
            // Whoever is not known to be alive is dead.
            let survives = survivors.sessions.get(&epoch);
            let session = Session {
                agent: AgentId(record.agent),
                volume: record.volume,
                branch: view.branch(),
                of_snapshot,
                pool,
                term: record.term,
                read_only: record.read_only,
                begun: survives.map_or(view.generation(), |survivor| survivor.begun),
                near: survives.and_then(|survivor| survivor.near),
                stage: if survives.is_some() { SessionStage::Live } else { SessionStage::Fencing },
            };
            self.sessions.insert(epoch, session);
        }
        let grants = collect(view, Tag::Grant, |key, value| match key {
            Key::Grant(epoch, logical_disk, start) => {
                let GrantRecord { count } = GrantRecord::decode(value)?;
                Ok((epoch, UnitRun { logical_disk, start, count }))
            }
            other => Err(misplaced(other)),
        })?;
        for (epoch, run) in grants {
            let session = self.sessions.get(&epoch).ok_or_else(|| dangling("a grant", epoch))?;
            let pool = self.pools.get_mut(&session.pool).ok_or_else(|| dangling(epoch, session.pool))?;
            if !pool.allocator.is_allocated(run) || !self.grants.is_clear_of(run) {
                return Err(StoreError::Corrupt(format!("{epoch} was granted {run:?}, which is free or another's")));
            }
            pool.granted_units += u64::from(run.count);
            self.grants.add(epoch, run);
        }
        Ok(())
    }

    fn take_over(&mut self, survivors: Survivors) {
        self.agents = survivors.agents;
        self.alerts = survivors.alerts;
        self.space = survivors.space;
        self.now = survivors.now;
        self.catalog = Catalog::with_version(survivors.catalog_version);
        let full = survivors.error == Some(StoreError::Full);
        for owed in survivors.unanswered {
            self.owe(owed, full);
        }
    }

    /// Prepares the answer to what was left unanswered, by what is now known to be durable.
    fn owe(&mut self, unanswered: Unanswered, full: bool) {
        match unanswered {
            Unanswered::Commit { agent, request, epoch } => {
                let volume = self.sessions.get(&epoch).and_then(|session| self.volumes.get(&session.volume));
                let durable = volume.is_some_and(|volume| volume.progress.answered.contains(&(epoch, request.0)));
                let error = if full { CommitError::MetadataFull } else { CommitError::Unavailable };
                let result = if durable { Ok(()) } else { Err(error) };
                self.after.push(After::ToAgent(agent, ControllerMessage::Committed { request, epoch, result }));
            }
            Unanswered::Grant { agent, request, epoch } => {
                let error = if full { GrantError::MetadataFull } else { GrantError::Unavailable };
                let message = ControllerMessage::Granted { request, epoch, result: Err(error) };
                self.after.push(After::ToAgent(agent, message));
            }
            Unanswered::Attach { agent, request } => {
                let message = ControllerMessage::Attached { request, result: Err(AttachError::Unavailable) };
                self.after.push(After::ToAgent(agent, message));
            }
            later @ (Unanswered::Fetch(_)
            | Unanswered::AttachAgain(_)
            | Unanswered::Detach { .. }
            | Unanswered::Return { .. }) => self.owed.push(later),
        }
    }

    /// Begins: opens disks, fences former sessions, resumes jobs and answers what was left unanswered. Once, after
    /// [`Controller::recover`].
    pub fn start(&mut self, now: Time, out: &mut Vec<crate::Effect>) {
        self.now = self.now.max(now);
        let closed: Vec<DiskId> = (self.disks.iter())
            .filter(|(_, disk)| disk.condition == DiskCondition::Opening)
            .map(|(id, _)| *id)
            .collect();
        for disk in closed {
            self.open_disk(disk);
        }
        for message in std::mem::take(&mut self.after) {
            if let After::ToAgent(agent, message) = message {
                self.to_agent(agent, message);
            }
        }
        let dead = |session: &Session| session.stage == SessionStage::Fencing;
        let epochs = self.sessions.iter().filter(|(_, session)| dead(session)).map(|(epoch, _)| *epoch).collect();
        self.fence(epochs);
        for volume in self.jobs.values().map(|job| job.volume).collect::<Vec<_>>() {
            self.start_jobs_of(volume);
        }
        for branch in self.branches.keys().copied().collect::<Vec<_>>() {
            self.start_purge(branch);
        }
        // Whoever was frozen for a snapshot that did not become durable, or heard nothing more of one that did, goes on.
        for volume in self.volumes.keys().copied().collect::<Vec<_>>() {
            self.tell_generation(volume);
            self.flatten_wanted(volume);
        }
        for owed in std::mem::take(&mut self.owed) {
            match owed {
                Unanswered::Fetch(fetch) => self.scan(ScanPurpose::Fetch(fetch)),
                Unanswered::AttachAgain(wanted) => self.attach(wanted),
                Unanswered::Detach { agent, epoch } => self.detach(agent, epoch),
                Unanswered::Return { agent, epoch, runs } => self.grant_returned(agent, epoch, runs),
                Unanswered::Commit { .. } | Unanswered::Grant { .. } | Unanswered::Attach { .. } => {}
            }
        }
        self.finish_step();
        self.catalog_everything();
        self.hand_out(out);
    }

    /// What outlives this controller after [`crate::Event::CommitFailed`]: hand it to the [`Controller::recover`] of its
    /// successor. Batches and scans that it asked for and that are not done yet must not be done any more.
    #[must_use]
    pub fn salvage(mut self) -> Survivors {
        let mut unanswered = Vec::new();
        let pending = std::mem::take(&mut self.pending);
        for after in pending.into_iter().flat_map(|(_, after)| after).chain(std::mem::take(&mut self.after)) {
            unanswered.extend(unanswered_of(after));
        }
        for purpose in self.scans.into_values().chain(self.scan_retries) {
            if let ScanPurpose::Fetch(fetch) = purpose {
                unanswered.push(Unanswered::Fetch(fetch));
            }
        }
        for waiting in self.pools.into_values().flat_map(|pool| pool.waiting) {
            let (agent, request, epoch) = (waiting.agent, waiting.request, waiting.epoch);
            unanswered.push(Unanswered::Grant { agent, request, epoch });
        }
        unanswered.extend(self.attaches.into_iter().map(Unanswered::AttachAgain));
        // A session on its way out is live again should its end not be durable: its agent still waits for the answer.
        let mut sessions = BTreeMap::new();
        for (epoch, session) in self.sessions {
            let detaching =
                unanswered.iter().any(|owed| matches!(owed, Unanswered::Detach { epoch: of, .. } if *of == epoch));
            if session.stage == SessionStage::Live || detaching {
                sessions.insert(epoch, Survivor { begun: session.begun, near: session.near });
            }
        }
        let disks = self.disks.into_iter().map(|(id, disk)| (id, disk.condition));
        Survivors {
            incarnation: self.incarnation,
            term: self.counters.term,
            agents: self.agents,
            sessions,
            disks: disks.filter(|(_, condition)| *condition != DiskCondition::Opening).collect(),
            unanswered,
            alerts: self.alerts,
            catalog_version: self.catalog.version(),
            space: self.space,
            error: self.failed,
            now: self.now,
        }
    }

    /// Whether every disk has been opened (or could not be) and every former session is fenced and closed.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        let opening = self.disks.values().any(|disk| disk.condition == DiskCondition::Opening);
        let ending = |session: &Session| matches!(session.stage, SessionStage::Fencing | SessionStage::Closing);
        !opening && !self.sessions.values().any(ending) && self.pending.is_empty()
    }

    /// Checks sums that must agree at any time: what is not free is mapped, granted or in quarantine.
    ///
    /// # Panics
    /// When they do not.
    pub fn assert_consistent(&self) {
        for (id, pool) in &self.pools {
            let taken = pool.allocator.total_units() - pool.allocator.free_units() - pool.allocator.quarantined_units();
            assert_eq!(taken, pool.mapped_units + pool.granted_units, "NO_REGION_OWNED_TWICE: units of {id} add up");
            assert!(pool.allocator.total_units() * UNIT_BYTES <= self.pool_capacity_bytes(*id));
        }
    }
}

fn unanswered_of(after: After) -> Option<Unanswered> {
    match after {
        After::MapCommitted { agent, request, epoch } => Some(Unanswered::Commit { agent, request, epoch }),
        After::Granted { agent, request, epoch, .. } => Some(Unanswered::Grant { agent, request, epoch }),
        After::Attached { agent, request, .. } => Some(Unanswered::Attach { agent, request }),
        After::SessionClosed { epoch, agent: Some(agent) } => Some(Unanswered::Detach { agent, epoch }),
        After::Returned { agent, epoch, runs } => Some(Unanswered::Return { agent, epoch, runs }),
        _ => None,
    }
}
