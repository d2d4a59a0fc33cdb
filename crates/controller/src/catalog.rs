//! The volumes and snapshots that hosts may attach, for the servers of host protocols.

use crate::branches::Snapshot;
use crate::engine::Controller;
use crate::state::Volume;
use model::{RegionSize, VolumeId};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A volume or a snapshot that hosts may attach.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Export {
    /// Its name, by which hosts ask for it.
    pub name: String,
    /// The volume, or the snapshot: attached by its id.
    pub volume: VolumeId,
    /// Its size, in bytes.
    pub size_bytes: u64,
    /// Writes are refused.
    pub read_only: bool,
    /// The size of its regions.
    pub region_size: RegionSize,
}

/// The list, made anew only when it changed.
#[derive(Debug, Default)]
pub(crate) struct Catalog {
    version: u64,
    stale: bool,
    exports: Arc<Vec<Export>>,
}

impl Catalog {
    pub(crate) fn with_version(version: u64) -> Self {
        Self { version, stale: true, exports: Arc::default() }
    }

    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    pub(crate) fn touch(&mut self) {
        self.stale = true;
    }

    pub(crate) fn refresh(&mut self, volumes: &BTreeMap<VolumeId, Volume>, snapshots: &BTreeMap<VolumeId, Snapshot>) {
        if !std::mem::take(&mut self.stale) {
            return;
        }
        let shown = volumes.iter().filter(|(_, volume)| volume.visible && !volume.record.deleting);
        let mut exports: Vec<_> = shown
            .map(|(id, volume)| Export {
                name: volume.record.name.clone(),
                volume: *id,
                size_bytes: volume.record.size_bytes,
                read_only: volume.record.read_only,
                region_size: volume.record.region_size,
            })
            .collect();
        let shown = snapshots.iter().filter(|(_, snapshot)| snapshot.visible && !snapshot.record.deleted);
        exports.extend(shown.filter_map(|(id, snapshot)| {
            let volume = volumes.get(&snapshot.record.volume)?;
            Some(Export {
                name: format!("{}@{}", volume.record.name, snapshot.record.name),
                volume: *id,
                size_bytes: snapshot.record.size_bytes,
                read_only: true,
                region_size: volume.record.region_size,
            })
        }));
        exports.sort_by(|one, other| one.name.cmp(&other.name));
        self.exports = Arc::new(exports);
        self.version += 1;
    }
}

impl Controller {
    /// Every volume and snapshot that hosts may attach, by name. Cheap; see [`Controller::catalog_version`].
    #[must_use]
    pub fn exports(&self) -> Arc<Vec<Export>> {
        Arc::clone(&self.catalog.exports)
    }

    /// Grows whenever [`Controller::exports`] may have changed.
    #[must_use]
    pub fn catalog_version(&self) -> u64 {
        self.catalog.version
    }
}
