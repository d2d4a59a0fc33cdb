//! Pools, disks, volumes and the whole as operators see them.

use crate::alerts::{POOL_ALERTS, VOLUME_ALERTS};
use crate::engine::Controller;
use crate::state::{DiskCondition, SessionStage, Volume};
use api::{
    AlertKind, DiskCounters, DiskState, MetadataUsage, PoolState, Raid, Session, TableUsage, VolumeCounters,
    VolumeState,
};
use model::{DiskId, PoolId, UNIT_BYTES, VolumeId};

impl Controller {
    /// # Panics
    /// When there is no such pool.
    pub(crate) fn pool_view(&self, id: PoolId) -> api::Pool {
        let pool = &self.pools[&id];
        let name = pool.record.name.clone();
        let volumes = || self.volumes.values().filter(|volume| volume.record.pool == id && !volume.record.deleting);
        let capacity_bytes = self.pool_capacity_bytes(id);
        let (used_bytes, granted_bytes) = (pool.used_bytes(), pool.granted_units * UNIT_BYTES);
        api::Pool {
            id: id.0,
            raid: Raid::Raid0,
            state: self.pool_state(id),
            capacity_bytes,
            used_bytes,
            granted_bytes,
            free_bytes: capacity_bytes.saturating_sub(used_bytes + granted_bytes),
            provisioned_bytes: volumes().fold(0, |sum, volume| sum.saturating_add(volume.record.size_bytes)),
            logical_disks_bytes: pool.logical_disks.values().map(|layout| layout.data_bytes()).sum(),
            logical_disks: pool.logical_disks.len() as u32,
            disks: self.disks_of(id).map(|(disk, _)| disk.0).collect(),
            volumes: volumes().count() as u32,
            warn_bytes: pool.record.warn_bytes,
            limit_bytes: pool.record.limit_bytes,
            growth_bytes: self.growth_bytes(id),
            alerts: self.alerts.of(&POOL_ALERTS, &name).cloned().collect(),
            name,
        }
    }

    fn pool_state(&self, id: PoolId) -> PoolState {
        let name = &self.pools[&id].record.name;
        let unwell = |condition: &DiskCondition| !matches!(condition, DiskCondition::Online | DiskCondition::Opening);
        let is_active = |kind| self.alerts.is_active(kind, name);
        if self.disks_of(id).any(|(_, disk)| unwell(&disk.condition)) {
            PoolState::Degraded
        } else if is_active(AlertKind::PoolFull) || is_active(AlertKind::PoolLimit) {
            PoolState::Full
        } else if is_active(AlertKind::PoolWarning) {
            PoolState::Warning
        } else {
            PoolState::Healthy
        }
    }

    /// # Panics
    /// When there is no such disk.
    pub(crate) fn disk_view(&self, id: DiskId) -> api::Disk {
        let disk = &self.disks[&id];
        let pool = self.pools.get(&disk.record.pool).map(|pool| pool.record.name.clone());
        api::Disk {
            id: id.0,
            pool: pool.unwrap_or_default(),
            path: disk.record.path.clone(),
            state: match disk.condition {
                DiskCondition::Online => DiskState::Online,
                DiskCondition::Opening | DiskCondition::Missing { .. } => DiskState::Missing,
                DiskCondition::Failed => DiskState::Failed,
            },
            size_bytes: disk.record.size_bytes,
            chunklet_bytes: disk.record.chunklet_bytes,
            chunklets: disk.chunklets.count(),
            chunklets_used: disk.chunklets.used(),
            counters: DiskCounters::default(),
        }
    }

    /// # Panics
    /// When there is no such volume.
    pub(crate) fn volume_view(&self, id: VolumeId) -> api::Volume {
        let volume = &self.volumes[&id];
        let record = &volume.record;
        let pool = self.pools.get(&record.pool).map(|pool| pool.record.name.clone());
        let session = volume.session.and_then(|epoch| Some((epoch, self.sessions.get(&epoch)?)));
        let session = session.filter(|(_, session)| session.stage == SessionStage::Live);
        api::Volume {
            id: id.0,
            name: record.name.clone(),
            pool: pool.unwrap_or_default(),
            state: self.volume_state(volume),
            size_bytes: record.size_bytes,
            region_bytes: record.region_size.bytes(),
            used_bytes: volume.used_bytes(),
            space: self.volume_space(id),
            snapshots: self.snapshots_of(id).len() as u32,
            origin: self.origin_name(id),
            flattening_percent: self.flatten_percent(id),
            warn_bytes: record.warn_bytes,
            limit_bytes: record.limit_bytes,
            read_only: record.read_only,
            sessions: (session.into_iter())
                .map(|(epoch, session)| Session {
                    epoch: epoch.0,
                    holder: format!("agent-{}", session.agent.0),
                    read_only: session.read_only,
                })
                .collect(),
            counters: VolumeCounters::default(),
            alerts: self.alerts.of(&VOLUME_ALERTS, &record.name).cloned().collect(),
        }
    }

    fn volume_state(&self, volume: &Volume) -> VolumeState {
        let name = &volume.record.name;
        let pool = self.pools.contains_key(&volume.record.pool).then(|| self.pool_state(volume.record.pool));
        if volume.record.deleting {
            VolumeState::Deleting
        } else if pool == Some(PoolState::Degraded) {
            VolumeState::Degraded
        } else if pool == Some(PoolState::Full) || self.alerts.is_active(AlertKind::VolumeLimit, name) {
            VolumeState::Full
        } else if self.alerts.is_active(AlertKind::VolumeWarning, name) {
            VolumeState::Warning
        } else {
            VolumeState::Online
        }
    }

    /// What the controller knows of the whole. The shell adds the rest: its version, uptime, threads, listeners and
    /// connections.
    pub(crate) fn status_view(&self) -> api::Status {
        let mut pools: Vec<_> = self.pools.keys().map(|id| self.pool_view(*id)).collect();
        pools.sort_by(|one, other| one.name.cmp(&other.name));
        let mut alerts: Vec<_> = self.alerts.all().cloned().collect();
        alerts.sort_by_key(|alert| std::cmp::Reverse(severity(alert.kind)));
        let live = self.sessions.values().filter(|session| session.stage == SessionStage::Live);
        api::Status {
            version: String::new(),
            cluster: self.cluster.to_string(),
            uptime_seconds: 0,
            threads: 0,
            io_engine: String::new(),
            listeners: Vec::new(),
            pools,
            disks: self.disks.len() as u32,
            volumes: self.names.len() as u32,
            sessions: live.count() as u32,
            connections: 0,
            metadata: MetadataUsage {
                used_bytes: self.space.used_bytes,
                free_bytes: self.space.available_bytes.unwrap_or(0),
            },
            tables: TableUsage::default(),
            alerts,
        }
    }
}

fn severity(kind: AlertKind) -> u8 {
    match kind {
        AlertKind::DiskFailed => 4,
        AlertKind::MetadataFull => 3,
        AlertKind::PoolFull | AlertKind::PoolLimit => 2,
        AlertKind::VolumeLimit => 1,
        AlertKind::PoolWarning | AlertKind::VolumeWarning => 0,
    }
}
