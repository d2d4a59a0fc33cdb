//! Operators' requests: dispatch, and everything about pools and disks.

use crate::engine::{After, Command, Controller, View};
use crate::event::{ApiId, DiskInspection, DiskTicket, Effect, Inspection};
use crate::state::{Claim, Disk, DiskCondition, Pool};
use api::{Error, PoolCreate, Request, Response};
use model::{ByteSize, DiskId, IoError, LogicalDiskId, PoolId, RaidLevel, VolumeId};
use pool::{ChunkletMap, DiskLabel, Judgement, chunklets::chunklet_bytes_for};
use store::records::{DiskRecord, PoolRecord, Record};
use store::{Key, KeyRange};
use wire::NodeOrder;

/// The pool that is meant when none is named.
pub const DEFAULT_POOL: &str = "default";

/// What a request comes to at once; `None` when it is answered later.
pub(crate) type Outcome = Result<Option<Response>, Error>;

impl Controller {
    pub(crate) fn operator(&mut self, id: ApiId, request: Request) {
        self.operators.insert(id);
        let outcome = match request {
            Request::PoolCreate(create) => self.pool_create(id, &create),
            Request::PoolList => Ok(Some(self.pool_list())),
            Request::PoolShow { name } => self.find_pool(&name).map(|pool| Some(Response::Pool(self.pool_view(pool)))),
            Request::PoolDelete { name } => self.pool_delete(id, &name),
            Request::DiskAdd(add) => self.disk_add(id, add),
            Request::DiskList { pool } => self.disk_list(pool.as_deref()),
            Request::DiskShow { id: disk } => self.disk_show(disk),
            Request::VolumeCreate(create) => self.volume_create(id, create),
            Request::VolumeList { pool } => self.volume_list(pool.as_deref()),
            Request::VolumeShow { name } => self.volume_show(&name),
            Request::VolumeSet { name, set } => self.volume_set(id, &name, &set),
            Request::VolumeResize { name, resize } => self.volume_resize(id, &name, &resize),
            Request::VolumeRename { name, rename } => self.volume_rename(id, &name, &rename.new_name),
            Request::VolumeDelete { name, force, snapshots } => self.volume_delete(id, &name, force, snapshots),
            Request::VolumeMap { name, query } => self.volume_map(id, &name, query),
            Request::VolumeRollback { name, rollback } => {
                self.volume_rollback(id, &name, &rollback.snapshot, rollback.force)
            }
            Request::SnapshotCreate { create, scheduled, now_unix_seconds } => {
                self.snapshot_create(id, &create, scheduled, now_unix_seconds)
            }
            Request::SnapshotList { volume } => self.snapshot_list(volume.as_deref()),
            Request::SnapshotShow { name } => self.snapshot_show(&name),
            Request::SnapshotRename { name, rename } => self.snapshot_rename(id, &name, &rename.new_name),
            Request::SnapshotDelete { name, force } => self.snapshot_delete(id, &name, force),
            Request::CloneCreate(create) => self.clone_create(id, &create),
            Request::CloneFlatten { name } => self.clone_flatten(id, &name),
            Request::CloneFlattenCancel { name } => self.clone_flatten_cancel(id, &name),
            Request::Diff(query) => self.diff(id, query),
            Request::ScheduleSet { name, set } => self.schedule_set(id, &name, &set),
            Request::ScheduleList => Ok(Some(Response::Schedules(self.schedule_views()))),
            Request::ScheduleDelete { name } => self.schedule_delete(id, &name),
            Request::Status => Ok(Some(Response::Status(Box::new(self.status_view())))),
            Request::Audit => {
                self.inspect(id, Inspection::Audit);
                Ok(None)
            }
        };
        if let Some(result) = outcome.transpose() {
            self.reply(id, result);
        }
    }

    pub(crate) fn inspect(&mut self, id: ApiId, inspection: Inspection) {
        // A snapshot answers it, whatever becomes of this controller.
        self.operators.remove(&id);
        self.effects.push(Effect::Inspect { reply_to: id, inspection });
    }

    /// An answer is due, as things are now.
    pub(crate) fn reply_view(&mut self, id: ApiId, view: &View) {
        let response = match view {
            View::Done => Some(Response::Done),
            View::Pool(pool) => self.pools.contains_key(pool).then(|| Response::Pool(self.pool_view(*pool))),
            View::Volume(volume) => {
                self.volumes.contains_key(volume).then(|| Response::Volume(self.volume_view(*volume)))
            }
            View::Snapshot(snapshot) => self.snapshot_view(*snapshot).map(Response::Snapshot),
            View::Snapshots(snapshots) => {
                Some(Response::Snapshots(snapshots.iter().filter_map(|id| self.snapshot_view(*id)).collect()))
            }
            View::Schedule(volume) => self.schedule_view(*volume).map(Response::Schedule),
        };
        let gone = || Error::not_found("it was deleted meanwhile");
        self.reply(id, response.ok_or_else(gone));
    }

    /// What only deletes may use is all that the metadata store has left.
    pub(crate) fn check_metadata(&self) -> Result<(), Error> {
        if !self.metadata_is_low() {
            return Ok(());
        }
        Err(Error::out_of_space(format!(
            "the metadata store has only its reserve of {} left; delete volumes or give its file system more room",
            ByteSize(self.config.metadata_reserve_bytes)
        )))
    }

    pub(crate) fn find_pool(&self, name: &str) -> Result<PoolId, Error> {
        let found = self.pools.iter().find(|(_, pool)| pool.record.name == name);
        found.map(|(id, _)| *id).ok_or_else(|| {
            let shown: String = name.chars().take(64).collect();
            Error::not_found(format!("there is no pool {shown:?}; `acre pool list` shows those there are"))
        })
    }

    fn pool_create(&mut self, id: ApiId, create: &PoolCreate) -> Outcome {
        api::check_name("pool", &create.name)?;
        self.check_metadata()?;
        if self.find_pool(&create.name).is_ok() {
            return Err(Error::exists(format!("there is a pool {:?} already; choose another name", create.name)));
        }
        let raid = match create.raid {
            api::Raid::Raid0 => RaidLevel::Raid0,
        };
        let record = PoolRecord {
            name: create.name.clone(),
            raid,
            warn_bytes: create.warn_bytes.filter(|bytes| *bytes > 0),
            limit_bytes: create.limit_bytes.filter(|bytes| *bytes > 0),
            growth_bytes: create.growth_bytes.filter(|bytes| *bytes > 0),
        };
        let pool = self.counters.pool.next();
        self.counters.pool = pool;
        self.counters_changed = true;
        self.batch.put(Key::Pool(pool), record.encode());
        self.pools.insert(pool, Pool::new(record));
        self.after.push(After::Reply(id, View::Pool(pool)));
        Ok(None)
    }

    fn pool_list(&self) -> Response {
        let mut pools: Vec<_> = self.pools.keys().map(|id| self.pool_view(*id)).collect();
        pools.sort_by(|one, other| one.name.cmp(&other.name));
        Response::Pools(pools)
    }

    fn pool_delete(&mut self, id: ApiId, name: &str) -> Outcome {
        let pool_id = self.find_pool(name)?;
        let volumes: Vec<&str> = (self.volumes.values())
            .filter(|volume| volume.record.pool == pool_id)
            .map(|volume| volume.record.name.as_str())
            .collect();
        if let [first, ..] = volumes.as_slice() {
            let count = volumes.len();
            return Err(Error::busy(format!(
                "pool {name:?} has {count} volumes ({first:?}{}); delete them first (a deleted one goes in the background)",
                if count > 1 { ", …" } else { "" }
            )));
        }
        if self.claims.values().any(|claim| claim.pool == pool_id) {
            return Err(Error::busy(format!("a disk is being added to pool {name:?}; try again when it is there")));
        }
        let pool = self.pools.remove(&pool_id).expect("it was found by name");
        let logical_disks: Vec<LogicalDiskId> = pool.logical_disks.keys().copied().collect();
        for logical_disk in logical_disks {
            self.batch.delete(Key::LogicalDisk(logical_disk));
            self.batch.delete_range(KeyRange::allocation(logical_disk));
        }
        let disks: Vec<DiskId> =
            self.disks.iter().filter(|(_, disk)| disk.record.pool == pool_id).map(|(id, _)| *id).collect();
        for disk in disks {
            let gone = self.disks.remove(&disk).expect("it was just listed");
            self.clear(api::AlertKind::DiskFailed, &disk.to_string());
            self.batch.delete(Key::Disk(disk));
            let command = self.next_command();
            for node in &self.config.nodes {
                let order = NodeOrder::RemoveDisk { disk };
                let command = wire::NodeCommand { command, term: self.counters.term, order };
                self.after.push(After::Effect(Effect::ToNode(*node, command)));
            }
            self.after.push(After::Effect(Effect::ReleaseDisk { disk, path: gone.record.path }));
        }
        self.clear_all(&crate::alerts::POOL_ALERTS, name);
        self.batch.delete(Key::Pool(pool_id));
        self.after.push(After::Reply(id, View::Done));
        Ok(None)
    }

    fn disk_list(&self, pool: Option<&str>) -> Outcome {
        let pool = pool.map(|name| self.find_pool(name)).transpose()?;
        let chosen = self.disks.iter().filter(|(_, disk)| pool.is_none_or(|pool| disk.record.pool == pool));
        Ok(Some(Response::Disks(chosen.map(|(id, _)| self.disk_view(*id)).collect())))
    }

    fn disk_show(&self, id: u32) -> Outcome {
        if !self.disks.contains_key(&DiskId(id)) {
            return Err(Error::not_found(format!("there is no disk {id}; `acre disk list` shows those there are")));
        }
        Ok(Some(Response::Disk(self.disk_view(DiskId(id)))))
    }

    fn disk_add(&mut self, id: ApiId, add: api::DiskAdd) -> Outcome {
        let pool = self.find_pool(add.pool.as_deref().unwrap_or(DEFAULT_POOL))?;
        self.check_metadata()?;
        let ticket = DiskTicket(self.next_id());
        self.claims.insert(ticket, Claim { pool, force: add.force, reply_to: id, disk: None });
        self.effects.push(Effect::InspectDisk { ticket, path: add.path, size_bytes: add.size_bytes });
        Ok(None)
    }

    /// The shell has looked at a disk that is to be added: may it be ours, and is it worth having?
    pub(crate) fn disk_inspected(&mut self, ticket: DiskTicket, result: Result<DiskInspection, String>) {
        let Some(mut claim) = self.claims.remove(&ticket) else { return };
        let reply_to = claim.reply_to;
        let checked = result.map_err(Error::invalid).and_then(|found| self.check_disk(&claim, found));
        match checked {
            Err(error) => self.reply(reply_to, Err(error)),
            Ok(record) => {
                // The id is used up before it is on the disk: two disks never carry the same.
                let disk = self.counters.disk.next();
                self.counters.disk = disk;
                self.counters_changed = true;
                claim.disk = Some((disk, record));
                self.claims.insert(ticket, claim);
                self.after.push(After::Label(ticket));
            }
        }
    }

    fn check_disk(&self, claim: &Claim, found: DiskInspection) -> Result<DiskRecord, Error> {
        let path = found.path;
        let in_use = |disk: &(&DiskId, &Disk)| disk.1.record.path == path;
        let claimed =
            self.claims.values().filter_map(|claim| claim.disk.as_ref()).any(|(_, record)| record.path == path);
        if let Some((disk, _)) = self.disks.iter().find(in_use) {
            return Err(Error::exists(format!("{path:?} is {disk} already")));
        }
        if claimed {
            return Err(Error::exists(format!("{path:?} is being added already")));
        }
        match found.judgement {
            Judgement::Blank => {}
            Judgement::Ours { label, .. } if self.disks.contains_key(&label.disk) => {
                return Err(Error::exists(format!(
                    "{path:?} is labelled {}, which is in use at another path",
                    label.disk
                )));
            }
            // Labelled by us and in no pool: what a crash in the middle of adding it leaves behind.
            Judgement::Ours { .. } => {}
            Judgement::Newer { version } => {
                return Err(Error::invalid(format!(
                    "{path:?} has a label of format version {version}, newer than this program knows; run the newer version"
                )));
            }
            Judgement::OtherCluster(label) if !claim.force => {
                return Err(Error::needs_force(format!(
                    "{path:?} is {} of the other cluster {}; force takes it, and what it holds is lost",
                    label.disk, label.cluster
                )));
            }
            Judgement::Foreign if !claim.force => {
                return Err(Error::needs_force(format!(
                    "{path:?} is not empty and not ours; force takes it, and what it holds is lost"
                )));
            }
            Judgement::OtherCluster(_) | Judgement::Foreign => {}
        }
        let chunklet_bytes = chunklet_bytes_for(found.size_bytes);
        let record = DiskRecord {
            pool: claim.pool,
            path,
            size_bytes: found.size_bytes,
            sector_bytes: found.sector_bytes,
            chunklet_bytes,
        };
        let map = ChunkletMap::new(DiskId(0), found.size_bytes, chunklet_bytes);
        map.map_err(|error| Error::invalid(format!("{:?}: {error}", record.path)))?;
        Ok(record)
    }

    fn label_of(&self, disk: DiskId, record: &DiskRecord) -> DiskLabel {
        DiskLabel {
            cluster: self.cluster,
            disk,
            size_bytes: record.size_bytes,
            chunklet_bytes: record.chunklet_bytes,
            sector_bytes: record.sector_bytes,
        }
    }

    pub(crate) fn label(&mut self, ticket: DiskTicket) {
        let Some((disk, record)) = self.claims.get(&ticket).and_then(|claim| claim.disk.as_ref()) else { return };
        let label = self.label_of(*disk, record);
        let path = record.path.clone();
        self.effects.push(Effect::WriteLabel { ticket, path, label });
    }

    pub(crate) fn label_written(&mut self, ticket: DiskTicket, result: Result<(), String>) {
        let Some(Claim { reply_to, disk: Some((disk, record)), .. }) = self.claims.remove(&ticket) else { return };
        let map = ChunkletMap::new(disk, record.size_bytes, record.chunklet_bytes).map_err(|error| error.to_string());
        match result.and(map) {
            Err(reason) => {
                let message = format!("{:?} could not be labelled: {reason}", record.path);
                self.reply(reply_to, Err(Error::unavailable(message)));
            }
            Ok(chunklets) => {
                self.batch.put(Key::Disk(disk), record.encode());
                let condition = DiskCondition::Opening;
                self.disks.insert(disk, Disk { record, chunklets, condition, reply_to: Some(reply_to) });
                self.after.push(After::OpenDisk(disk));
            }
        }
    }

    pub(crate) fn open_disk(&mut self, disk: DiskId) {
        let Some(state) = self.disks.get(&disk) else { return };
        let (path, label) = (state.record.path.clone(), self.label_of(disk, &state.record));
        self.effects.push(Effect::OpenDisk { disk, path, label });
    }

    pub(crate) fn disk_opened(&mut self, disk: DiskId, result: Result<(), String>) {
        let Some(state) = self.disks.get(&disk) else { return };
        let (size_bytes, sector_bytes) = (state.record.size_bytes, state.record.sector_bytes);
        match result {
            Err(reason) => self.disk_settled(disk, DiskCondition::Missing { reason }),
            Ok(()) if self.config.nodes.is_empty() => self.disk_settled(disk, DiskCondition::Online),
            Ok(()) => {
                let command = self.next_command();
                let nodes = self.config.nodes.iter().copied().collect();
                self.commands.insert(command, Command::AddDisk { disk, nodes });
                self.to_nodes(command, &NodeOrder::AddDisk { disk, size_bytes, sector_bytes });
            }
        }
    }

    /// Every node has the disk, or one refused it.
    pub(crate) fn disk_in_service(&mut self, disk: DiskId, result: Result<(), IoError>) {
        match result {
            Ok(()) => self.disk_settled(disk, DiskCondition::Online),
            Err(error) => self.disk_settled(disk, DiskCondition::Missing { reason: error.to_string() }),
        }
    }

    pub(crate) fn disk_failed(&mut self, disk: DiskId) {
        if self.disks.contains_key(&disk) {
            self.disk_settled(disk, DiskCondition::Failed);
        }
    }

    fn disk_settled(&mut self, disk: DiskId, condition: DiskCondition) {
        let Some(state) = self.disks.get_mut(&disk) else { return };
        state.condition = condition;
        let (pool, reply_to) = (state.record.pool, state.reply_to.take());
        self.review_disk(disk);
        if let Some(id) = reply_to {
            let response = Response::Disk(self.disk_view(disk));
            self.reply(id, Ok(response));
        }
        self.touched_pools.insert(pool);
        if let Some(state) = self.pools.get_mut(&pool)
            && matches!(state.growth, crate::state::Growth::Blocked { .. })
        {
            state.growth = crate::state::Growth::Idle;
        }
        self.serve_waiting(pool);
    }

    fn volume_map(&mut self, id: ApiId, name: &str, query: api::VolumeMapQuery) -> Outcome {
        let volume: VolumeId = self.find_volume(name)?;
        self.inspect(id, Inspection::VolumeMap { volume, query });
        Ok(None)
    }
}
