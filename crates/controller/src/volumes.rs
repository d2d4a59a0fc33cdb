//! Operators' requests about volumes.

use crate::alerts::VOLUME_ALERTS;
use crate::branches::Branch;
use crate::engine::{After, Command, Controller, View};
use crate::event::ApiId;
use crate::operator::{DEFAULT_POOL, Outcome};
use crate::state::{SessionStage, Volume};
use api::{Error, Response, VolumeCreate, VolumeResize, VolumeSet};
use model::{BLOCK_BYTES, ByteSize, Epoch, Generation, PoolId, RegionSize, SECTOR_BYTES, VOLUME_BYTES_MAX, VolumeId};
use store::Key;
use store::records::{BranchRecord, Record, VolumeProgress, VolumeRecord};
use wire::{AgentId, ControllerMessage, Order, OrderOutcome};

impl Controller {
    /// The volume of this name, if it is there for operators.
    pub(crate) fn find_volume(&self, name: &str) -> Result<VolumeId, Error> {
        self.names.get(name).copied().ok_or_else(|| {
            let shown: String = name.chars().take(64).collect();
            Error::not_found(format!("there is no volume {shown:?}; `acre volume list` shows those there are"))
        })
    }

    pub(crate) fn check_free_name(&self, name: &str) -> Result<(), Error> {
        api::check_name("volume", name)?;
        match self.names.get(name) {
            None => Ok(()),
            Some(_) => Err(Error::exists(format!("there is a volume {name:?} already; choose another name"))),
        }
    }

    pub(crate) fn volume_create(&mut self, id: ApiId, create: VolumeCreate) -> Outcome {
        self.check_free_name(&create.name)?;
        let pool = self.find_pool(create.pool.as_deref().unwrap_or(DEFAULT_POOL))?;
        self.check_metadata()?;
        let region_size = match create.region_bytes {
            None => RegionSize::DEFAULT,
            Some(bytes) => RegionSize::from_bytes(bytes).ok_or_else(|| {
                Error::invalid(format!("a region of {bytes} bytes is not possible; use a power of two from 16k to 4M"))
            })?,
        };
        check_size(create.size_bytes, region_size)?;
        self.counters.volume = self.counters.volume.next();
        self.counters.branch = self.counters.branch.next();
        self.counters_changed = true;
        let (volume, branch) = (self.counters.volume, self.counters.branch);
        let record = VolumeRecord {
            name: create.name.clone(),
            pool,
            branch,
            size_bytes: create.size_bytes,
            region_size,
            read_only: create.read_only,
            warn_bytes: create.warn_bytes.filter(|bytes| *bytes > 0),
            limit_bytes: create.limit_bytes.filter(|bytes| *bytes > 0),
            deleting: false,
        };
        let (generation, frozen_through) = (Generation(1), Generation(0));
        let branch_record = BranchRecord { volume, generation, frozen_through, origin: None, ended: false };
        self.batch.put(Key::Volume(volume), record.encode());
        self.batch.put(Key::VolumeName(create.name.as_bytes()), volume.encode());
        self.batch.put(Key::Branch(branch), branch_record.encode());
        self.names.insert(create.name, volume);
        self.branches.insert(branch, Branch::new(branch_record));
        self.volumes.insert(volume, Volume::new(record, VolumeProgress::default(), false));
        self.after.push(After::Visible(vec![volume]));
        self.after.push(After::Reply(id, View::Volume(volume)));
        Ok(None)
    }

    pub(crate) fn volume_list(&self, pool: Option<&str>) -> Outcome {
        let pool: Option<PoolId> = pool.map(|name| self.find_pool(name)).transpose()?;
        let of_pool = |volume: &VolumeId| pool.is_none_or(|pool| self.volumes[volume].record.pool == pool);
        let chosen = self.names.values().filter(|volume| of_pool(volume));
        let deleting = self.volumes.iter().filter(|(_, volume)| volume.record.deleting).map(|(id, _)| id);
        let deleting = deleting.filter(|volume| of_pool(volume));
        Ok(Some(Response::Volumes(chosen.chain(deleting).map(|id| self.volume_view(*id)).collect())))
    }

    pub(crate) fn volume_show(&self, name: &str) -> Outcome {
        self.find_volume(name).map(|volume| Some(Response::Volume(self.volume_view(volume))))
    }

    pub(crate) fn volume_set(&mut self, id: ApiId, name: &str, set: &VolumeSet) -> Outcome {
        let volume_id = self.find_volume(name)?;
        let volume = self.volumes.get_mut(&volume_id).expect("names point at volumes");
        let record = &mut volume.record;
        if let Some(bytes) = set.warn_bytes {
            record.warn_bytes = (bytes > 0).then_some(bytes);
        }
        if let Some(bytes) = set.limit_bytes {
            record.limit_bytes = (bytes > 0).then_some(bytes);
        }
        let changes_access = set.read_only.filter(|read_only| *read_only != record.read_only);
        record.read_only = set.read_only.unwrap_or(record.read_only);
        self.batch.put(Key::Volume(volume_id), record.encode());
        if let Some(read_only) = changes_access
            && let Some((epoch, agent)) = self.live_holder(volume_id)
        {
            let command = self.next_command();
            let order = Order::SetReadOnly { read_only };
            self.after.push(After::ToAgent(agent, ControllerMessage::Order { command, epoch, order }));
        }
        self.touched_volumes.insert(volume_id);
        self.after.push(After::ExportChanged(volume_id));
        self.after.push(After::Reply(id, View::Volume(volume_id)));
        Ok(None)
    }

    pub(crate) fn volume_rename(&mut self, id: ApiId, name: &str, new_name: &str) -> Outcome {
        let volume_id = self.find_volume(name)?;
        if name == new_name {
            return self.volume_show(name);
        }
        self.check_free_name(new_name)?;
        self.clear_all(&VOLUME_ALERTS, name);
        self.names.remove(name);
        self.names.insert(new_name.to_owned(), volume_id);
        let volume = self.volumes.get_mut(&volume_id).expect("names point at volumes");
        volume.record.name = new_name.to_owned();
        self.batch.delete(Key::VolumeName(name.as_bytes()));
        self.batch.put(Key::VolumeName(new_name.as_bytes()), volume_id.encode());
        self.batch.put(Key::Volume(volume_id), volume.record.encode());
        self.touched_volumes.insert(volume_id);
        let snapshots = self.snapshots_of(volume_id);
        self.after.extend(std::iter::once(volume_id).chain(snapshots).map(After::ExportChanged));
        self.after.push(After::Reply(id, View::Volume(volume_id)));
        Ok(None)
    }

    /// Whether a session is being opened or closed: orders have to wait until that is over.
    pub(crate) fn is_between_sessions(&self, volume: VolumeId) -> bool {
        let epoch = self.volumes.get(&volume).and_then(|volume| volume.session);
        epoch.and_then(|epoch| self.sessions.get(&epoch)).is_some_and(|session| session.stage != SessionStage::Live)
    }

    pub(crate) fn volume_resize(&mut self, id: ApiId, name: &str, resize: &VolumeResize) -> Outcome {
        let volume_id = self.find_volume(name)?;
        let volume = &self.volumes[&volume_id];
        let (old, new) = (volume.record.size_bytes, resize.size_bytes);
        check_size(new, volume.record.region_size)?;
        let is_waiting = volume.ordered || volume.cut.is_some() || self.shrinks.contains_key(&volume_id);
        if is_waiting || self.is_between_sessions(volume_id) {
            return Err(Error::busy(format!(
                "volume {name:?} is being resized, snapshotted, attached or detached; try again"
            )));
        }
        if new == old {
            return self.volume_show(name);
        }
        if new < old {
            return self.shrink(id, name, volume_id, resize);
        }
        let volume = self.volumes.get_mut(&volume_id).expect("names point at volumes");
        volume.record.size_bytes = new;
        self.batch.put(Key::Volume(volume_id), volume.record.encode());
        self.after.push(After::ExportChanged(volume_id));
        self.after.push(After::TellSize { volume: volume_id, reply_to: id });
        Ok(None)
    }

    fn shrink(&mut self, id: ApiId, name: &str, volume_id: VolumeId, resize: &VolumeResize) -> Outcome {
        let volume = &self.volumes[&volume_id];
        let (old, new) = (volume.size(), resize.size_bytes);
        if !resize.shrink {
            return Err(Error::needs_force(format!(
                "volume {name:?} has {old}; making it {} loses what lies beyond; if that is meant, ask with --shrink (in the API: \"shrink\": true)",
                ByteSize(new)
            )));
        }
        if volume.job.is_some() {
            return Err(Error::busy(format!("volume {name:?} is still being shrunk; try again when that is done")));
        }
        if let Some((epoch, agent)) = self.live_holder(volume_id) {
            self.order_resize(epoch, agent, volume_id, id, new, Some(new));
            return Ok(None);
        }
        if self.branches[&self.volumes[&volume_id].branch_id()].record.origin.is_some() {
            self.attach_to_shrink(id, volume_id, new);
            return Ok(None);
        }
        if !new.is_multiple_of(BLOCK_BYTES) {
            return Err(Error::invalid(format!(
                "volume {name:?} is not attached, and can be shrunk to a multiple of 4 KiB only, not to {new} bytes"
            )));
        }
        self.shrink_detached(id, volume_id, new);
        Ok(None)
    }

    /// Records the new size, and a job that takes back what lies beyond.
    fn shrink_detached(&mut self, id: ApiId, volume_id: VolumeId, size_bytes: u64) {
        let Some(volume) = self.volumes.get_mut(&volume_id) else { return };
        volume.record.size_bytes = size_bytes;
        self.batch.put(Key::Volume(volume_id), volume.record.encode());
        self.add_shrink(volume_id, size_bytes);
        self.after.push(After::ExportChanged(volume_id));
        self.after.push(After::Reply(id, View::Volume(volume_id)));
    }

    pub(crate) fn order_resize(
        &mut self,
        epoch: Epoch,
        agent: AgentId,
        volume: VolumeId,
        reply_to: ApiId,
        size_bytes: u64,
        shrink_to: Option<u64>,
    ) {
        let command = self.next_command();
        self.commands.insert(command, Command::Resize { epoch, volume, reply_to, shrink_to });
        if let Some(volume) = self.volumes.get_mut(&volume) {
            volume.ordered = true;
        }
        self.to_agent(agent, ControllerMessage::Order { command, epoch, order: Order::Resize { size_bytes } });
    }

    /// A larger size is durable: the session hears of it, and then the operator.
    pub(crate) fn tell_size(&mut self, volume_id: VolumeId, reply_to: ApiId) {
        let size_bytes = self.volumes.get(&volume_id).map_or(0, |volume| volume.record.size_bytes);
        match self.live_holder(volume_id) {
            Some((epoch, agent)) => self.order_resize(epoch, agent, volume_id, reply_to, size_bytes, None),
            None => self.reply_view(reply_to, &View::Volume(volume_id)),
        }
    }

    pub(crate) fn resize_told(
        &mut self,
        volume_id: VolumeId,
        reply_to: ApiId,
        shrink_to: Option<u64>,
        outcome: OrderOutcome,
    ) {
        self.session_lost(volume_id, outcome);
        let Some(volume) = self.volumes.get_mut(&volume_id) else { return };
        volume.ordered = false;
        let name = volume.record.name.clone();
        let branch = self.branches.get(&volume.record.branch);
        let has_origin = branch.is_some_and(|branch| branch.record.origin.is_some());
        match (outcome, shrink_to) {
            (OrderOutcome::Done | OrderOutcome::NoSession, None) => self.reply_view(reply_to, &View::Volume(volume_id)),
            // Its session has trimmed all that lies beyond and committed that.
            (OrderOutcome::Done, Some(size_bytes)) => {
                volume.record.size_bytes = size_bytes;
                self.batch.put(Key::Volume(volume_id), volume.record.encode());
                self.after.push(After::ExportChanged(volume_id));
                self.after.push(After::Reply(reply_to, View::Volume(volume_id)));
            }
            (OrderOutcome::NoSession, Some(size_bytes)) if size_bytes.is_multiple_of(BLOCK_BYTES) && !has_origin => {
                self.shrink_detached(reply_to, volume_id, size_bytes);
            }
            (
                OrderOutcome::Busy { .. }
                | OrderOutcome::Failed
                | OrderOutcome::NoSession
                | OrderOutcome::Committing { .. },
                _,
            ) => {
                let message = format!("volume {name:?}: its session could not follow the new size; try again");
                self.reply(reply_to, Err(Error::unavailable(message)));
            }
        }
    }

    /// An agent that knows nothing of its session will not end it: it is fenced.
    fn session_lost(&mut self, volume_id: VolumeId, outcome: OrderOutcome) {
        if outcome == OrderOutcome::NoSession
            && let Some((epoch, _)) = self.live_holder(volume_id)
        {
            if let Some(session) = self.sessions.get_mut(&epoch) {
                session.stage = SessionStage::Fencing;
            }
            self.fence(vec![epoch]);
        }
    }

    pub(crate) fn volume_delete(&mut self, id: ApiId, name: &str, force: bool, snapshots: bool) -> Outcome {
        let volume_id = self.find_volume(name)?;
        let count = self.snapshots_of(volume_id).len();
        if count > 0 && !snapshots {
            return Err(Error::needs_force(format!(
                "volume {name:?} has {count} snapshots; to delete them with it: acre volume delete {name} --snapshots"
            )));
        }
        let read = |snapshot: &VolumeId| self.snapshots[snapshot].session.is_some();
        if !force && self.snapshots_of(volume_id).iter().any(read) {
            return Err(Error::busy(format!(
                "hosts are reading snapshots of volume {name:?}; detach them, or force it"
            )));
        }
        let volume = self.volumes.get_mut(&volume_id).expect("names point at volumes");
        let is_shrinking = volume.job.is_some() || self.shrinks.contains_key(&volume_id);
        if volume.ordered || is_shrinking || volume.cut.is_some() {
            return Err(Error::busy(format!("volume {name:?} is being resized, snapshotted or deleted; try again")));
        }
        let session = volume.session.and_then(|epoch| Some((epoch, self.sessions.get(&epoch)?)));
        match session.map(|(epoch, session)| (epoch, session.agent, session.stage)) {
            Some((epoch, agent, SessionStage::Live)) => {
                volume.ordered = true;
                let command = self.next_command();
                self.commands.insert(command, Command::Release { epoch, volume: volume_id, reply_to: id });
                self.to_agent(agent, ControllerMessage::Order { command, epoch, order: Order::Release { force } });
            }
            Some((_, _, SessionStage::Opening)) => {
                return Err(Error::busy(format!("volume {name:?} is being attached; try again")));
            }
            // What is left of a former session ends before the job begins.
            Some((_, _, SessionStage::Fencing | SessionStage::Closing)) | None => self.delete_now(id, volume_id),
        }
        Ok(None)
    }

    /// An order to release a volume has been answered; its name, if it is still there.
    pub(crate) fn released(&mut self, volume_id: VolumeId, outcome: OrderOutcome) -> Option<String> {
        self.session_lost(volume_id, outcome);
        let volume = self.volumes.get_mut(&volume_id)?;
        volume.ordered = false;
        Some(volume.record.name.clone())
    }

    /// Why a volume was not released, if it was not.
    pub(crate) fn release_error(&self, name: &str, outcome: OrderOutcome) -> Option<Error> {
        match outcome {
            OrderOutcome::Done | OrderOutcome::NoSession => None,
            OrderOutcome::Busy { hosts } => {
                Some(Error::busy(format!("{hosts} hosts have volume {name:?} attached; detach them, or force it")))
            }
            OrderOutcome::Failed | OrderOutcome::Committing { .. } => Some(Error::unavailable(format!(
                "volume {name:?} could not be detached: its storage failed; try again, or force it"
            ))),
        }
    }

    pub(crate) fn release_told(&mut self, volume_id: VolumeId, reply_to: ApiId, outcome: OrderOutcome) {
        let Some(name) = self.released(volume_id, outcome) else { return };
        match self.release_error(&name, outcome) {
            Some(error) => self.reply(reply_to, Err(error)),
            None => self.delete_now(reply_to, volume_id),
        }
    }

    /// Frees the name at once and leaves the space to purges. Needs next to no room, so that it works when all is full.
    fn delete_now(&mut self, id: ApiId, volume_id: VolumeId) {
        for snapshot in self.snapshots_of(volume_id) {
            self.delete_snapshot(snapshot);
        }
        let Some(volume) = self.volumes.get_mut(&volume_id) else { return };
        volume.record.deleting = true;
        let (name, branch, flatten) = (volume.record.name.clone(), volume.branch_id(), volume.flatten.take());
        self.names.remove(&name);
        self.batch.delete(Key::VolumeName(name.as_bytes()));
        self.batch.put(Key::Volume(volume_id), volume.record.encode());
        if let Some(job) = flatten {
            self.batch.delete(Key::Job(job));
        }
        if self.schedules.remove(&volume_id).is_some() {
            self.batch.delete(Key::Schedule(volume_id));
        }
        self.clear_all(&VOLUME_ALERTS, &name);
        self.end_live(branch);
        self.after.push(After::ExportChanged(volume_id));
        self.after.push(After::Reply(id, View::Done));
    }
}

fn check_size(size_bytes: u64, region_size: RegionSize) -> Result<(), Error> {
    if size_bytes == 0 || !size_bytes.is_multiple_of(SECTOR_BYTES) {
        return Err(Error::invalid(format!(
            "a volume of {size_bytes} bytes is not possible; use a positive multiple of {SECTOR_BYTES}"
        )));
    }
    let pages_max = u64::from(u32::MAX);
    if size_bytes > VOLUME_BYTES_MAX || size_bytes.div_ceil(region_size.page_bytes()) > pages_max {
        let most = VOLUME_BYTES_MAX.min(pages_max.saturating_mul(region_size.page_bytes()));
        return Err(Error::invalid(format!(
            "a volume of {} is not possible with regions of {}; use at most {}",
            ByteSize(size_bytes),
            ByteSize(region_size.bytes()),
            ByteSize(most)
        )));
    }
    Ok(())
}
