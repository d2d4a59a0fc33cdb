//! Snapshots and clones for operators: taking a cut through several volumes, and everything about what it leaves.

use crate::branches::{Branch, DEPTH_MAX, LIVE, Snapshot};
use crate::engine::{After, Command, Controller, View};
use crate::event::{ApiId, Inspection};
use crate::operator::Outcome;
use crate::planted::Bug;
use crate::state::{SessionStage, Volume};
use api::{CloneCreate, Error, Response, SnapshotCreate, split_snapshot_name};
use model::{BranchId, ClusterId, Epoch, Generation, Time, VolumeId};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use store::Key;
use store::records::{BranchRecord, Record, SnapshotRecord, VolumeProgress, VolumeRecord};
use wire::{AgentId, CommandId, ControllerMessage, Order, OrderOutcome};

/// How long agents have to freeze their volumes.
const FREEZE_PATIENCE: Duration = Duration::from_secs(30);

/// Snapshots of several volumes on their way.
#[derive(Debug)]
pub(crate) struct Cut {
    reply_to: ApiId,
    /// The volumes, and what their snapshots are to be called.
    snapshots: Vec<(VolumeId, String)>,
    scheduled: bool,
    created_unix_seconds: u64,
    imported_from: Option<(ClusterId, u32)>,
    /// Agents that have not frozen their volume yet.
    waiting: BTreeSet<CommandId>,
    deadline: Time,
}

impl Controller {
    /// The snapshot of this name, if it is there for operators.
    pub(crate) fn find_snapshot(&self, full: &str) -> Result<VolumeId, Error> {
        let (volume, name) = split_snapshot_name(full)?;
        let volume_id = self.find_volume(volume)?;
        self.snapshot_named(volume_id, name).ok_or_else(|| {
            Error::not_found(format!(
                "there is no snapshot {full:?}; `acre snapshot list {volume}` shows those there are"
            ))
        })
    }

    fn snapshot_named(&self, volume: VolumeId, name: &str) -> Option<VolumeId> {
        self.snapshot_names.get(&volume)?.get(name).copied()
    }

    /// The snapshots of a volume that are there for operators, the oldest first.
    pub(crate) fn snapshots_of(&self, volume: VolumeId) -> Vec<VolumeId> {
        let mut found: Vec<VolumeId> =
            self.snapshot_names.get(&volume).into_iter().flat_map(BTreeMap::values).copied().collect();
        found.sort_unstable();
        found
    }

    /// Begins a cut: every volume that is attached is frozen first.
    pub(crate) fn snapshot_create(
        &mut self,
        id: ApiId,
        create: &SnapshotCreate,
        scheduled: bool,
        now_unix_seconds: u64,
    ) -> Outcome {
        let most = SnapshotCreate::SNAPSHOTS_MAX;
        if create.snapshots.is_empty() || create.snapshots.len() > most {
            let count = create.snapshots.len();
            return Err(Error::invalid(format!("a cut goes through 1 to {most} volumes, not {count}")));
        }
        self.check_metadata()?;
        let mut snapshots: Vec<(VolumeId, String)> = Vec::new();
        for full in &create.snapshots {
            let (volume, name) = split_snapshot_name(full)?;
            let volume_id = self.find_volume(volume)?;
            if snapshots.iter().any(|(other, _)| *other == volume_id) {
                return Err(Error::invalid(format!("volume {volume:?} is named twice; name each volume once")));
            }
            if self.snapshot_named(volume_id, name).is_some() {
                return Err(Error::exists(format!("there is a snapshot {full:?} already; choose another name")));
            }
            self.check_unoccupied(volume_id)?;
            if self.branches[&self.volumes[&volume_id].branch_id()].record.generation >= Generation(u32::MAX - 2) {
                return Err(Error::invalid(format!("volume {volume:?} has had all the snapshots it can; clone it")));
            }
            snapshots.push((volume_id, name.to_owned()));
        }
        if create.imported_from.is_some() && snapshots.len() != 1 {
            return Err(Error::invalid("an import takes a snapshot of one volume, the one it made"));
        }
        let imported_from = create.imported_from.map(|from| (ClusterId(from.cluster), from.snapshot));
        let cut = self.next_id();
        let mut waiting = BTreeSet::new();
        for (volume, _) in &snapshots {
            self.volumes.get_mut(volume).expect("it was found above").cut = Some(cut);
            if let Some((epoch, agent)) = self.live_holder(*volume) {
                let command = self.next_command();
                waiting.insert(command);
                self.commands.insert(command, Command::Freeze { epoch, cut });
                self.to_agent(agent, ControllerMessage::Order { command, epoch, order: Order::Freeze });
            }
        }
        let deadline = self.now + FREEZE_PATIENCE;
        self.wake_at(deadline);
        let created_unix_seconds = now_unix_seconds;
        let is_ready = waiting.is_empty();
        let state = Cut { reply_to: id, snapshots, scheduled, created_unix_seconds, imported_from, waiting, deadline };
        self.cuts.insert(cut, state);
        if is_ready {
            self.take_cut(cut);
        }
        Ok(None)
    }

    /// Refuses what must not begin while a volume is in somebody else's hands.
    fn check_unoccupied(&self, volume_id: VolumeId) -> Result<(), Error> {
        let volume = &self.volumes[&volume_id];
        let name = &volume.record.name;
        let what = if volume.ordered || volume.job.is_some() || self.shrinks.contains_key(&volume_id) {
            "resized, rolled back or deleted"
        } else if volume.cut.is_some() {
            "snapshotted"
        } else if volume.flatten.is_some() {
            "flattened"
        } else if self.is_between_sessions(volume_id) {
            "attached or detached"
        } else {
            return Ok(());
        };
        Err(Error::busy(format!("volume {name:?} is being {what}; try again when that is done")))
    }

    /// An agent has frozen its volume, or could not.
    pub(crate) fn freeze_told(&mut self, cut_id: u64, command: CommandId, epoch: Epoch, outcome: OrderOutcome) {
        let Some(cut) = self.cuts.get_mut(&cut_id) else { return };
        cut.waiting.remove(&command);
        let is_ready = cut.waiting.is_empty();
        let is_frozen = match outcome {
            OrderOutcome::Done => true,
            // It was taken, so that what follows is durable no sooner than it. (Refused, it never will be.)
            OrderOutcome::Committing { request } => self.has_taken(epoch, request),
            // It was detached in order meanwhile: everything of it is durable.
            OrderOutcome::NoSession => !self.sessions.contains_key(&epoch),
            OrderOutcome::Busy { .. } | OrderOutcome::Failed => false,
        };
        if !is_frozen {
            let lost = outcome == OrderOutcome::NoSession;
            let why = if lost { "a host's session was lost" } else { "a disk or the metadata store failed" };
            self.give_up_cut(cut_id, &format!("{why} while the volumes were frozen"));
        } else if is_ready {
            self.take_cut(cut_id);
        }
    }

    /// Every volume is frozen: their snapshots become durable together.
    fn take_cut(&mut self, cut_id: u64) {
        let Some(cut) = self.cuts.get(&cut_id) else { return };
        let (snapshots, reply_to) = (cut.snapshots.clone(), cut.reply_to);
        let (scheduled, created_unix_seconds) = (cut.scheduled, cut.created_unix_seconds);
        let imported_from = cut.imported_from;
        let mut taken = Vec::new();
        for (volume_id, name) in &snapshots {
            let Some(volume) = self.volumes.get(volume_id) else { continue };
            let (branch_id, size_bytes) = (volume.branch_id(), volume.record.size_bytes);
            self.counters.volume = self.counters.volume.next();
            self.counters_changed = true;
            let id = self.counters.volume;
            let Some(branch) = self.branches.get_mut(&branch_id) else { continue };
            let generation = branch.record.generation;
            branch.record.frozen_through = generation;
            branch.record.generation = generation.next();
            branch.snapshots.insert(generation, id);
            let record = SnapshotRecord {
                volume: *volume_id,
                branch: branch_id,
                generation,
                name: name.clone(),
                created_unix_seconds,
                size_bytes,
                scheduled,
                deleted: false,
                imported_from,
            };
            self.batch.put(Key::Snapshot(id), record.encode());
            self.put_branch(branch_id);
            self.snapshot_names.entry(*volume_id).or_default().insert(name.clone(), id);
            self.snapshots.insert(id, Snapshot { record, visible: false, session: None });
            taken.push(id);
        }
        if self.config.planted.has(Bug::ThawBeforeCommit) {
            self.thaw(&snapshots);
        }
        self.after.push(After::CutDone(cut_id));
        self.after.push(After::Visible(taken.clone()));
        self.after.push(After::Reply(reply_to, View::Snapshots(taken)));
    }

    /// The snapshots are durable: everybody goes on.
    pub(crate) fn cut_done(&mut self, cut_id: u64) {
        let Some(cut) = self.cuts.remove(&cut_id) else { return };
        for (volume, _) in &cut.snapshots {
            if let Some(volume) = self.volumes.get_mut(volume) {
                volume.cut = None;
            }
        }
        self.commands.retain(|_, command| !matches!(command, Command::Freeze { cut, .. } if *cut == cut_id));
        self.thaw(&cut.snapshots);
        self.retry_attaches();
    }

    fn give_up_cut(&mut self, cut_id: u64, why: &str) {
        let Some(reply_to) = self.cuts.get(&cut_id).map(|cut| cut.reply_to) else { return };
        self.cut_done(cut_id);
        self.reply(reply_to, Err(Error::unavailable(format!("no snapshot was taken: {why}; try again"))));
    }

    /// Tells the holders of volumes where they are; those that are frozen go on.
    fn thaw(&mut self, snapshots: &[(VolumeId, String)]) {
        for (volume, _) in snapshots {
            self.tell_generation(*volume);
        }
    }

    pub(crate) fn tell_generation(&mut self, volume: VolumeId) {
        let Some((epoch, agent)) = self.live_holder(volume) else { return };
        let branch = self.volumes.get(&volume).and_then(|volume| self.branches.get(&volume.branch_id()));
        let Some(branch) = branch else { return };
        let (generation, frozen_through) = (branch.record.generation, branch.record.frozen_through);
        let order = Order::Thaw { generation, frozen_through };
        let command = self.next_command();
        self.to_agent(agent, ControllerMessage::Order { command, epoch, order });
    }

    /// A view is gone: the live end's agent may write to what only it froze.
    pub(crate) fn tell_frozen(&mut self, branch: BranchId) {
        let Some(state) = self.branches.get(&branch).filter(|branch| !branch.record.ended) else { return };
        let (volume, frozen_through) = (state.record.volume, state.record.frozen_through);
        if let Some((epoch, agent)) = self.live_holder(volume) {
            let command = self.next_command();
            let order = Order::SetFrozen { frozen_through };
            self.to_agent(agent, ControllerMessage::Order { command, epoch, order });
        }
    }

    /// Agents that take too long to freeze are not waited for.
    pub(crate) fn cut_timer(&mut self) {
        let now = self.now;
        let late: Vec<u64> = self.cuts.iter().filter(|(_, cut)| cut.deadline <= now).map(|(id, _)| *id).collect();
        for cut in late {
            if self.cuts.get(&cut).is_some_and(|cut| !cut.waiting.is_empty()) {
                self.give_up_cut(cut, "a host's agent took too long to hold its writes");
            }
        }
        if let Some(deadline) = self.cuts.values().map(|cut| cut.deadline).filter(|deadline| *deadline > now).min() {
            self.wake_at(deadline);
        }
    }

    pub(crate) fn snapshot_list(&self, volume: Option<&str>) -> Outcome {
        let chosen = match volume {
            Some(name) => vec![self.find_volume(name)?],
            None => self.names.values().copied().collect(),
        };
        // Without a volume, those of deleted volumes too: their space has to be somewhere.
        let is_of = |of: &VolumeId| volume.is_none() || chosen.contains(of);
        let gone = |id: &&VolumeId| self.snapshots[*id].record.deleted && is_of(&self.snapshots[*id].record.volume);
        let mut found: Vec<VolumeId> = chosen.iter().flat_map(|volume| self.snapshots_of(*volume)).collect();
        found.extend(self.snapshots.keys().filter(gone));
        let views = found.into_iter().filter_map(|id| self.snapshot_view(id));
        Ok(Some(Response::Snapshots(views.collect())))
    }

    pub(crate) fn snapshot_show(&self, full: &str) -> Outcome {
        let id = self.find_snapshot(full)?;
        Ok(self.snapshot_view(id).map(Response::Snapshot))
    }

    pub(crate) fn snapshot_rename(&mut self, id: ApiId, full: &str, new_name: &str) -> Outcome {
        let snapshot_id = self.find_snapshot(full)?;
        api::check_name("snapshot", new_name)?;
        let volume_id = self.snapshots[&snapshot_id].record.volume;
        let volume = self.volumes[&volume_id].record.name.clone();
        split_snapshot_name(&format!("{volume}@{new_name}"))?;
        match self.snapshot_named(volume_id, new_name) {
            Some(other) if other != snapshot_id => {
                return Err(Error::exists(format!(
                    "there is a snapshot \"{volume}@{new_name}\" already; choose another name"
                )));
            }
            _ => {}
        }
        let snapshot = self.snapshots.get_mut(&snapshot_id).expect("it was found by name");
        let names = self.snapshot_names.entry(volume_id).or_default();
        names.remove(&snapshot.record.name);
        names.insert(new_name.to_owned(), snapshot_id);
        snapshot.record.name = new_name.to_owned();
        self.batch.put(Key::Snapshot(snapshot_id), snapshot.record.encode());
        self.after.push(After::CatalogChanged);
        self.after.push(After::Reply(id, View::Snapshot(snapshot_id)));
        Ok(None)
    }

    pub(crate) fn snapshot_delete(&mut self, id: ApiId, full: &str, force: bool) -> Outcome {
        let snapshot_id = self.find_snapshot(full)?;
        if self.snapshots[&snapshot_id].session.is_some() && !force {
            return Err(Error::busy(format!("hosts are reading snapshot {full:?}; detach them, or force it")));
        }
        self.delete_snapshot(snapshot_id);
        self.after.push(After::CatalogChanged);
        self.after.push(After::Reply(id, View::Done));
        Ok(None)
    }

    /// Frees a snapshot's name at once, and leaves its space to a purge. Needs next to no room, so that it works when all
    /// is full.
    pub(crate) fn delete_snapshot(&mut self, snapshot_id: VolumeId) {
        let Some(snapshot) = self.snapshots.get_mut(&snapshot_id) else { return };
        snapshot.record.deleted = true;
        let (volume, branch, session) = (snapshot.record.volume, snapshot.record.branch, snapshot.session);
        self.batch.put(Key::Snapshot(snapshot_id), snapshot.record.encode());
        if let Some(names) = self.snapshot_names.get_mut(&volume) {
            names.remove(&snapshot.record.name);
            if names.is_empty() {
                self.snapshot_names.remove(&volume);
            }
        }
        if let Some(epoch) = session
            && let Some(agent) = self.sessions.get(&epoch).filter(|session| session.stage == SessionStage::Live)
        {
            let agent = agent.agent;
            let command = self.next_command();
            self.commands.insert(command, Command::Evict { epoch });
            let order = Order::Release { force: true };
            self.to_agent(agent, ControllerMessage::Order { command, epoch, order });
        }
        self.after.push(After::StartPurge(branch));
    }

    /// The reader of a deleted snapshot was told to go.
    pub(crate) fn evicted(&mut self, epoch: Epoch, outcome: OrderOutcome) {
        // An agent that does not let go in order is fenced.
        let is_live = self.sessions.get(&epoch).is_some_and(|session| session.stage == SessionStage::Live);
        if outcome != OrderOutcome::Done && is_live {
            self.sessions.get_mut(&epoch).expect("it was seen above").stage = SessionStage::Fencing;
            self.fence(vec![epoch]);
        }
    }

    pub(crate) fn clone_create(&mut self, id: ApiId, create: &CloneCreate) -> Outcome {
        let snapshot_id = self.find_snapshot(&create.snapshot)?;
        self.check_free_name(&create.name)?;
        self.check_metadata()?;
        let snapshot = self.snapshots[&snapshot_id].record.clone();
        let source = self.volumes[&snapshot.volume].record.clone();
        self.counters.volume = self.counters.volume.next();
        self.counters_changed = true;
        let volume_id = self.counters.volume;
        let branch = self.fork(volume_id, &snapshot)?;
        let record = VolumeRecord {
            name: create.name.clone(),
            branch,
            size_bytes: snapshot.size_bytes,
            read_only: false,
            warn_bytes: None,
            limit_bytes: None,
            deleting: false,
            ..source
        };
        self.batch.put(Key::Volume(volume_id), record.encode());
        self.batch.put(Key::VolumeName(create.name.as_bytes()), volume_id.encode());
        self.names.insert(create.name.clone(), volume_id);
        // (What it inherits was made durable before the snapshot was taken.)
        self.volumes.insert(volume_id, Volume::new(record, VolumeProgress::default(), false));
        self.after.push(After::Visible(vec![volume_id]));
        self.after.push(After::Reply(id, View::Volume(volume_id)));
        Ok(None)
    }

    /// Makes a branch that begins as a snapshot is.
    fn fork(&mut self, volume: VolumeId, snapshot: &SnapshotRecord) -> Result<BranchId, Error> {
        if self.chain(snapshot.branch, snapshot.generation).len() >= DEPTH_MAX {
            return Err(Error::invalid(format!(
                "snapshot {:?} lies {DEPTH_MAX} clones deep already; flatten its volume first (acre clone flatten)",
                snapshot.name
            )));
        }
        let origin = (snapshot.branch, snapshot.generation);
        self.counters.branch = self.counters.branch.next();
        self.counters_changed = true;
        let id = self.counters.branch;
        let record = BranchRecord {
            volume,
            generation: snapshot.generation.next(),
            frozen_through: snapshot.generation,
            origin: Some(origin),
            ended: false,
        };
        let referenced = self.branches.get(&snapshot.branch).map_or(0, |branch| branch.referenced(snapshot.generation));
        self.branches.insert(id, Branch::new(record));
        self.count_fork(Some(origin), true);
        self.count_units(id, LIVE, snapshot.generation, referenced as i64);
        self.put_branch(id);
        Ok(id)
    }

    pub(crate) fn volume_rollback(&mut self, id: ApiId, name: &str, snapshot: &str, force: bool) -> Outcome {
        let volume_id = self.find_volume(name)?;
        let snapshot_id = self.find_snapshot(&format!("{name}@{snapshot}"))?;
        self.check_metadata()?;
        self.check_unoccupied(volume_id)?;
        match self.live_holder(volume_id) {
            Some((epoch, agent)) => {
                let command = self.next_command();
                let rollback = Command::Rollback { epoch, volume: volume_id, snapshot: snapshot_id, reply_to: id };
                self.commands.insert(command, rollback);
                self.volumes.get_mut(&volume_id).expect("it was found by name").ordered = true;
                self.to_agent(agent, ControllerMessage::Order { command, epoch, order: Order::Release { force } });
            }
            None => self.roll_back(id, volume_id, snapshot_id),
        }
        Ok(None)
    }

    /// The holder of a volume that is to be rolled back was told to let go.
    pub(crate) fn rollback_told(
        &mut self,
        volume_id: VolumeId,
        snapshot_id: VolumeId,
        reply_to: ApiId,
        outcome: OrderOutcome,
    ) {
        if let Some(name) = self.released(volume_id, outcome) {
            match self.release_error(&name, outcome) {
                Some(error) => self.reply(reply_to, Err(error)),
                None => self.roll_back(reply_to, volume_id, snapshot_id),
            }
        }
    }

    /// A branch that begins as the snapshot is takes over the volume's name; what the old live end alone holds is taken
    /// back.
    fn roll_back(&mut self, id: ApiId, volume_id: VolumeId, snapshot_id: VolumeId) {
        let gone = || Error::not_found("the snapshot was deleted meanwhile");
        let snapshot = self.snapshots.get(&snapshot_id).filter(|snapshot| !snapshot.record.deleted);
        let Some(snapshot) = snapshot.map(|snapshot| snapshot.record.clone()) else {
            return self.reply(id, Err(gone()));
        };
        let branch = match self.fork(volume_id, &snapshot) {
            Ok(branch) => branch,
            Err(error) => return self.reply(id, Err(error)),
        };
        let Some(volume) = self.volumes.get_mut(&volume_id) else { return self.reply(id, Err(gone())) };
        let former = std::mem::replace(&mut volume.record.branch, branch);
        volume.record.size_bytes = snapshot.size_bytes;
        self.batch.put(Key::Volume(volume_id), volume.record.encode());
        self.end_live(former);
        self.after.push(After::CatalogChanged);
        self.after.push(After::Reply(id, View::Volume(volume_id)));
    }

    /// A branch has no live end any more; what only that held is taken back.
    pub(crate) fn end_live(&mut self, id: BranchId) {
        if let Some(branch) = self.branches.get_mut(&id) {
            branch.record.ended = true;
        }
        self.folds.drop_branch(id);
        self.put_branch(id);
        self.after.push(After::StartPurge(id));
    }

    /// What changed between two views. The younger one's agent, if it is a volume's, commits first.
    pub(crate) fn diff(&mut self, id: ApiId, query: api::DiffQuery) -> Outcome {
        let from = query.from.as_deref().map(|name| self.find_snapshot(name)).transpose()?;
        let to = if query.to.contains('@') { self.find_snapshot(&query.to)? } else { self.find_volume(&query.to)? };
        if let Some(from) = from {
            let sizes = [from, to].map(|id| self.view_of(id).map(|view| view.region_size));
            if sizes[0] != sizes[1] {
                return Err(Error::invalid("the two views have regions of different sizes; they are not related"));
            }
        }
        match self.live_holder(to) {
            Some((epoch, agent)) => {
                let command = self.next_command();
                self.commands.insert(command, Command::Diff { epoch, reply_to: id, from, to, query });
                self.to_agent(agent, ControllerMessage::Order { command, epoch, order: Order::Commit });
            }
            None => self.inspect(id, Inspection::Diff { from, to, query }),
        }
        Ok(None)
    }

    pub(crate) fn diff_told(
        &mut self,
        reply_to: ApiId,
        (from, to): (Option<VolumeId>, VolumeId),
        query: api::DiffQuery,
        outcome: OrderOutcome,
    ) {
        match outcome {
            // Without a session, what is durable is all there is.
            OrderOutcome::Done | OrderOutcome::NoSession => {
                self.after.push(After::Inspect(reply_to, Inspection::Diff { from, to, query }));
            }
            OrderOutcome::Busy { .. } | OrderOutcome::Failed | OrderOutcome::Committing { .. } => {
                let message = format!("{:?} could not make its changes durable; try again", query.to);
                self.reply(reply_to, Err(Error::unavailable(message)));
            }
        }
    }

    pub(crate) fn clone_flatten(&mut self, id: ApiId, name: &str) -> Outcome {
        let volume_id = self.find_volume(name)?;
        let branch = &self.branches[&self.volumes[&volume_id].branch_id()];
        if branch.record.origin.is_none() {
            return Err(Error::invalid(format!("volume {name:?} is no clone: it shares nothing with an origin")));
        }
        if !branch.snapshots.is_empty() {
            return Err(Error::busy(format!(
                "volume {name:?} has snapshots that share with its origin too; delete them first (acre snapshot list {name})"
            )));
        }
        if self.volumes[&volume_id].flatten.is_some() {
            self.flatten_wanted(volume_id);
            return self.volume_show(name);
        }
        self.check_unoccupied(volume_id)?;
        self.add_flatten(volume_id);
        self.after.push(After::Reply(id, View::Volume(volume_id)));
        Ok(None)
    }

    pub(crate) fn clone_flatten_cancel(&mut self, id: ApiId, name: &str) -> Outcome {
        let volume_id = self.find_volume(name)?;
        if self.volumes[&volume_id].flatten.is_none() {
            return Err(Error::invalid(format!("volume {name:?} is not being flattened; there is nothing to cancel")));
        }
        self.cancel_flatten(volume_id);
        self.after.push(After::Reply(id, View::Volume(volume_id)));
        Ok(None)
    }

    /// The live session of a volume or a snapshot.
    pub(crate) fn live_holder(&self, id: VolumeId) -> Option<(Epoch, AgentId)> {
        let epoch = match self.volumes.get(&id) {
            Some(volume) => volume.session?,
            None => self.snapshots.get(&id)?.session?,
        };
        let session = self.sessions.get(&epoch).filter(|session| session.stage == SessionStage::Live)?;
        Some((epoch, session.agent))
    }
}
