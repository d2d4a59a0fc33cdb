//! The volumes and snapshots that hosts may attach, for the servers of host protocols.

use crate::engine::Controller;
use model::{RegionSize, VolumeId};
use std::collections::BTreeSet;
use std::sync::Arc;

/// So many changed exports are put in place one by one; with more, the whole list is sorted.
const PLACED_MAX: usize = 64;

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

/// All exports there are: a list that is never changed, whose next version shares all but what differs.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Exports {
    by_name: Vec<Arc<Export>>,
    by_volume: Vec<Arc<Export>>,
}

impl FromIterator<Export> for Exports {
    fn from_iter<T: IntoIterator<Item = Export>>(exports: T) -> Self {
        Self::sorted(exports.into_iter().map(Arc::new).collect())
    }
}

impl Exports {
    fn sorted(mut by_name: Vec<Arc<Export>>) -> Self {
        let mut by_volume = by_name.clone();
        by_name.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        by_volume.sort_unstable_by_key(|export| export.volume);
        Self { by_name, by_volume }
    }

    /// Every export, by name.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Export> {
        self.by_name.iter().map(|export| &**export)
    }

    /// The exports whose names are no less than `name`, by name.
    pub fn from(&self, name: &str) -> impl Iterator<Item = &Export> {
        let first = self.by_name.partition_point(|export| export.name.as_str() < name);
        self.by_name[first..].iter().map(|export| &**export)
    }

    /// The export of this name.
    #[must_use]
    pub fn named(&self, name: &str) -> Option<&Export> {
        self.from(name).next().filter(|export| export.name == name)
    }

    /// The export of this volume or snapshot.
    #[must_use]
    pub fn of(&self, volume: VolumeId) -> Option<&Export> {
        let at = self.by_volume.binary_search_by_key(&volume, |export| export.volume).ok()?;
        Some(&self.by_volume[at])
    }

    fn remove(&mut self, volume: VolumeId) {
        if let Ok(at) = self.by_volume.binary_search_by_key(&volume, |export| export.volume) {
            let export = self.by_volume.remove(at);
            self.by_name.retain(|other| !Arc::ptr_eq(other, &export));
        }
    }

    fn insert(&mut self, export: Export) {
        let export = Arc::new(export);
        let name = self.by_name.partition_point(|other| other.name < export.name);
        let volume = self.by_volume.partition_point(|other| other.volume < export.volume);
        self.by_name.insert(name, Arc::clone(&export));
        self.by_volume.insert(volume, export);
    }

    /// Brings the exports of these volumes and snapshots to what `wanted` says; tells whether that changed anything.
    fn update(&mut self, changed: &BTreeSet<VolumeId>, wanted: impl Fn(VolumeId) -> Option<Export>) -> bool {
        let differs = |id: &VolumeId| self.of(*id) != wanted(*id).as_ref();
        let changed: BTreeSet<VolumeId> = changed.iter().copied().filter(differs).collect();
        if changed.len() > PLACED_MAX {
            let kept = self.by_name.drain(..).filter(|export| !changed.contains(&export.volume));
            let new = changed.iter().filter_map(|id| wanted(*id).map(Arc::new));
            *self = Self::sorted(kept.chain(new).collect());
        } else {
            changed.iter().for_each(|id| self.remove(*id));
            changed.iter().filter_map(|id| wanted(*id)).for_each(|export| self.insert(export));
        }
        !changed.is_empty()
    }
}

/// The list, and what of it has to be looked at again.
#[derive(Debug, Default)]
pub(crate) struct Catalog {
    version: u64,
    stale: BTreeSet<VolumeId>,
    exports: Arc<Exports>,
}

impl Catalog {
    pub(crate) fn with_version(version: u64) -> Self {
        Self { version, ..Self::default() }
    }

    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    /// Something of a volume's or a snapshot's export may have changed.
    pub(crate) fn touch(&mut self, id: VolumeId) {
        self.stale.insert(id);
    }
}

impl Controller {
    /// Every volume and snapshot that hosts may attach. Cheap; see [`Controller::catalog_version`].
    #[must_use]
    pub fn exports(&self) -> Arc<Exports> {
        Arc::clone(&self.catalog.exports)
    }

    /// Grows whenever [`Controller::exports`] may have changed.
    #[must_use]
    pub fn catalog_version(&self) -> u64 {
        self.catalog.version
    }

    /// Makes every export anew: after a start.
    pub(crate) fn catalog_everything(&mut self) {
        let all: Vec<VolumeId> = self.volumes.keys().chain(self.snapshots.keys()).copied().collect();
        all.into_iter().for_each(|id| self.catalog.touch(id));
        self.refresh_catalog();
        // Whoever published the exports of the controller before this one looks again.
        self.catalog.version += 1;
    }

    /// Brings the list up to date.
    pub(crate) fn refresh_catalog(&mut self) {
        if self.catalog.stale.is_empty() {
            return;
        }
        let stale = std::mem::take(&mut self.catalog.stale);
        let mut exports = std::mem::take(&mut self.catalog.exports);
        // (Somebody has the list that was published: this copies its pointers.)
        if Arc::make_mut(&mut exports).update(&stale, |id| self.export_of(id)) {
            self.catalog.version += 1;
        }
        self.catalog.exports = exports;
    }

    /// What hosts see of a volume or a snapshot, if they see it.
    fn export_of(&self, id: VolumeId) -> Option<Export> {
        if let Some(volume) = self.volumes.get(&id) {
            return (volume.visible && !volume.record.deleting).then(|| Export {
                name: volume.record.name.clone(),
                volume: id,
                size_bytes: volume.record.size_bytes,
                read_only: volume.record.read_only,
                region_size: volume.record.region_size,
            });
        }
        let snapshot = self.snapshots.get(&id).filter(|snapshot| snapshot.visible && !snapshot.record.deleted)?;
        let volume = self.volumes.get(&snapshot.record.volume)?;
        Some(Export {
            name: format!("{}@{}", volume.record.name, snapshot.record.name),
            volume: id,
            size_bytes: snapshot.record.size_bytes,
            read_only: true,
            region_size: volume.record.region_size,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn export(id: u32, name: &str) -> Export {
        Export {
            name: name.to_owned(),
            volume: VolumeId(id),
            size_bytes: 1 << 20,
            read_only: false,
            region_size: RegionSize::DEFAULT,
        }
    }

    #[test]
    fn a_list_brought_up_to_date_is_the_list_made_anew() {
        // Names in another order than ids; some swap names, some go, some come.
        let mut exports = Exports::default();
        for (turn, count) in [(0, 150), (1, 3), (2, 200), (3, 60), (4, 65), (5, 1)] {
            let there = |id: u32| id < 200 && !(id + turn).is_multiple_of(3);
            let named = |id: u32| if id < count { (id + turn) % count } else { id };
            let wanted = |id: VolumeId| there(id.0).then(|| export(id.0, &format!("v{:03}", named(id.0) * 37 % 211)));
            let all: BTreeSet<VolumeId> = (0..211).map(VolumeId).collect();
            let before = exports.clone();
            let changed = exports.update(&all, wanted);
            let anew: Exports = all.iter().filter_map(|id| wanted(*id)).collect();
            assert!(exports == anew, "turn {turn}");
            assert_eq!(changed, before != anew);
            assert!(!exports.update(&all, wanted), "there is nothing left to do");
            assert!(exports.iter().all(|export| exports.named(&export.name) == Some(export)));
            assert!(all.iter().all(|id| exports.of(*id) == wanted(*id).as_ref()));
        }
    }

    #[test]
    fn the_next_version_shares_what_did_not_change() {
        let mut exports: Exports = (0..1000).map(|id| export(id, &format!("v@{id:04}"))).collect();
        let before = exports.clone();
        assert!(exports.update(&BTreeSet::from([VolumeId(2000)]), |_| Some(export(2000, "v@0500x"))));
        let shared = exports.by_name.iter().filter(|new| before.by_name.iter().any(|old| Arc::ptr_eq(old, new)));
        assert_eq!((shared.count(), exports.iter().len()), (1000, 1001));
        assert_eq!(exports.from("v@0500").nth(1).map(|export| export.volume), Some(VolumeId(2000)));
    }
}
