//! Alerts: raised once when a limit is crossed, and cleared when its cause is gone (D7, D8).

use crate::engine::Controller;
use crate::event::{AlertChange, Effect};
use crate::state::{DiskCondition, Growth};
use api::{Alert, AlertKind};
use model::{ByteSize, DiskId, PoolId, UNIT_BYTES, VolumeId};
use std::collections::BTreeMap;

/// What an operator should look at now.
#[derive(Clone, Debug, Default)]
pub(crate) struct Alerts {
    active: BTreeMap<(AlertKind, String), Alert>,
}

impl Alerts {
    pub(crate) fn of<'a>(&'a self, kinds: &'a [AlertKind], subject: &'a str) -> impl Iterator<Item = &'a Alert> {
        kinds.iter().filter_map(move |kind| self.active.get(&(*kind, subject.to_owned())))
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &Alert> {
        self.active.values()
    }

    pub(crate) fn is_active(&self, kind: AlertKind, subject: &str) -> bool {
        self.active.contains_key(&(kind, subject.to_owned()))
    }
}

pub(crate) const VOLUME_ALERTS: [AlertKind; 2] = [AlertKind::VolumeLimit, AlertKind::VolumeWarning];
pub(crate) const POOL_ALERTS: [AlertKind; 3] = [AlertKind::PoolFull, AlertKind::PoolLimit, AlertKind::PoolWarning];

impl Controller {
    /// Raises an alert, unless it is up already.
    pub(crate) fn raise(&mut self, kind: AlertKind, subject: &str, message: String) {
        let key = (kind, subject.to_owned());
        if self.alerts.active.contains_key(&key) {
            return;
        }
        let alert = Alert { kind, subject: subject.to_owned(), message };
        self.alerts.active.insert(key, alert.clone());
        self.effects.push(Effect::Alert(AlertChange::Raised(alert)));
    }

    /// Ends an alert, if it is up.
    pub(crate) fn clear(&mut self, kind: AlertKind, subject: &str) {
        if let Some(alert) = self.alerts.active.remove(&(kind, subject.to_owned())) {
            self.effects.push(Effect::Alert(AlertChange::Cleared(alert)));
        }
    }

    /// Ends every alert about a volume or a pool that is gone or renamed.
    pub(crate) fn clear_all(&mut self, kinds: &[AlertKind], subject: &str) {
        kinds.iter().for_each(|kind| self.clear(*kind, subject));
    }

    /// Looks at the limits of everything whose usage this step changed.
    pub(crate) fn review_touched(&mut self) {
        for volume in std::mem::take(&mut self.touched_volumes) {
            self.review_volume(volume);
        }
        for pool in std::mem::take(&mut self.touched_pools) {
            self.review_pool(pool);
        }
    }

    fn review_volume(&mut self, id: VolumeId) {
        let Some(volume) = self.volumes.get(&id).filter(|volume| !volume.record.deleting) else { return };
        let (name, used) = (volume.record.name.clone(), volume.used_bytes());
        let (warn, limit) = (volume.record.warn_bytes, volume.record.limit_bytes);
        let region = volume.record.region_size.bytes();
        let held = used + volume.session.map_or(0, |epoch| self.grants.units_of(epoch)) * UNIT_BYTES;
        match warn {
            Some(warn) if used > warn => {
                let message = format!(
                    "volume {name:?} uses {}, more than its warning size of {}; trim it or raise the warning",
                    ByteSize(used),
                    ByteSize(warn)
                );
                self.raise(AlertKind::VolumeWarning, &name, message);
            }
            _ => self.clear(AlertKind::VolumeWarning, &name),
        }
        if limit.is_none_or(|limit| held + region <= limit) {
            self.clear(AlertKind::VolumeLimit, &name);
        }
    }

    fn review_pool(&mut self, id: PoolId) {
        let Some(pool) = self.pools.get(&id) else { return };
        let (name, used, committed) = (pool.record.name.clone(), pool.used_bytes(), pool.committed_bytes());
        let (warn, limit) = (pool.record.warn_bytes, pool.record.limit_bytes);
        let free_units = pool.allocator.free_units();
        let may_grow = !matches!(pool.growth, Growth::Blocked { .. }) && self.can_grow(id);
        match warn {
            Some(warn) if used > warn => {
                let message = format!(
                    "pool {name:?} uses {}, more than its warning size of {}; trim, delete or add a disk",
                    ByteSize(used),
                    ByteSize(warn)
                );
                self.raise(AlertKind::PoolWarning, &name, message);
            }
            _ => self.clear(AlertKind::PoolWarning, &name),
        }
        if limit.is_none_or(|limit| committed + UNIT_BYTES <= limit) {
            self.clear(AlertKind::PoolLimit, &name);
        }
        if free_units > 0 || may_grow {
            self.clear(AlertKind::PoolFull, &name);
        }
    }

    pub(crate) fn review_disk(&mut self, id: DiskId) {
        let Some(disk) = self.disks.get(&id) else { return };
        let (subject, path) = (id.to_string(), disk.record.path.clone());
        match &disk.condition {
            DiskCondition::Online => self.clear(AlertKind::DiskFailed, &subject),
            DiskCondition::Opening => {}
            DiskCondition::Missing { reason } => {
                let message =
                    format!("{subject} ({path}) could not be put in service: {reason}; mend it and start again");
                self.raise(AlertKind::DiskFailed, &subject, message);
            }
            DiskCondition::Failed => {
                let message = format!("{subject} ({path}) failed; what is on it is not to be had until it is back");
                self.raise(AlertKind::DiskFailed, &subject, message);
            }
        }
    }

    pub(crate) fn review_metadata(&mut self) {
        if !self.metadata_is_low() {
            return self.clear(AlertKind::MetadataFull, "");
        }
        let available = self.space.available_bytes.unwrap_or(0);
        let message = format!(
            "the metadata store has {} left, less than its reserve of {}; delete volumes or give its file system more room",
            ByteSize(available),
            ByteSize(self.config.metadata_reserve_bytes)
        );
        self.raise(AlertKind::MetadataFull, "", message);
    }
}
