//! Snapshots and clones for operators: everything about what a cut leaves.

use crate::branches::{Branch, DEPTH_MAX, LIVE};
use crate::engine::{After, Command, Controller, View};
use crate::event::{ApiId, Inspection};
use crate::operator::Outcome;
use crate::state::{SessionStage, Volume};
use api::{CloneCreate, Error, Response, split_snapshot_name};
use model::{BranchId, Epoch, VolumeId};
use std::collections::BTreeMap;
use store::Key;
use store::records::{BranchRecord, Record, SnapshotRecord, VolumeProgress, VolumeRecord};
use wire::{AgentId, ControllerMessage, Order, OrderOutcome};

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

    pub(crate) fn snapshot_named(&self, volume: VolumeId, name: &str) -> Option<VolumeId> {
        self.snapshot_names.get(&volume)?.get(name).copied()
    }

    /// The snapshots of a volume that are there for operators, the oldest first.
    pub(crate) fn snapshots_of(&self, volume: VolumeId) -> Vec<VolumeId> {
        let mut found: Vec<VolumeId> =
            self.snapshot_names.get(&volume).into_iter().flat_map(BTreeMap::values).copied().collect();
        found.sort_unstable();
        found
    }

    /// Refuses what must not begin while a volume is in somebody else's hands.
    pub(crate) fn check_unoccupied(&self, volume_id: VolumeId) -> Result<(), Error> {
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
        self.after.push(After::ExportChanged(snapshot_id));
        self.after.push(After::Reply(id, View::Snapshot(snapshot_id)));
        Ok(None)
    }

    pub(crate) fn snapshot_delete(&mut self, id: ApiId, full: &str, force: bool) -> Outcome {
        let snapshot_id = self.find_snapshot(full)?;
        if self.snapshots[&snapshot_id].session.is_some() && !force {
            return Err(Error::busy(format!("hosts are reading snapshot {full:?}; detach them, or force it")));
        }
        self.delete_snapshot(snapshot_id);
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
        self.after.push(After::ExportChanged(snapshot_id));
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
        self.after.push(After::ExportChanged(volume_id));
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
