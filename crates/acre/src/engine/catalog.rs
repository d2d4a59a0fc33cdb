//! The exports there are, for the handshakes of NBD clients. Written by the controller thread, never read on the I/O path.

use model::{RegionSize, VolumeId};
use nbd::server::ExportInfo;
use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

/// What a client may be told of a volume before it is attached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CatalogEntry {
    pub(crate) volume: VolumeId,
    pub(crate) size_bytes: u64,
    pub(crate) region_size: RegionSize,
    pub(crate) read_only: bool,
}

/// Volumes by name.
pub(crate) type Exports = BTreeMap<String, CatalogEntry>;

/// The current exports, shared by every thread.
#[derive(Clone, Default)]
pub(crate) struct Catalog(Arc<RwLock<Arc<Exports>>>);

impl Catalog {
    pub(crate) fn publish(&self, exports: Exports) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(exports);
    }

    pub(crate) fn current(&self) -> Arc<Exports> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The export a client means: by name, or the only volume there is when it names none (snapshots of it do not
    /// matter).
    pub(crate) fn find(&self, name: &str, visible: impl Fn(&str) -> bool) -> Option<(String, CatalogEntry)> {
        let exports = self.current();
        let (name, entry) = if name.is_empty() {
            let mut volumes = exports.iter().filter(|(name, _)| volume_of(name) == *name && visible(name));
            let only = volumes.next()?;
            if volumes.next().is_some() {
                return None;
            }
            only
        } else {
            exports.get_key_value(name).filter(|(name, _)| visible(name))?
        };
        Some((name.clone(), entry.clone()))
    }
}

/// The volume's part of an export's name: of a volume, its name; of a snapshot `VOL@NAME`, the name of the volume.
pub(crate) fn volume_of(export: &str) -> &str {
    export.split_once('@').map_or(export, |(volume, _)| volume)
}

impl CatalogEntry {
    /// What NBD says of it.
    pub(crate) fn export_info(&self, name: &str) -> ExportInfo {
        // To the byte: what is smaller than a block is merged with what surrounds it.
        ExportInfo { minimum_block_bytes: 1, read_only: self.read_only, ..ExportInfo::new(name, self.size_bytes) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn catalog(names: &[&str]) -> Catalog {
        let entry = |id| CatalogEntry {
            volume: VolumeId(id),
            size_bytes: 1 << 20,
            region_size: RegionSize::DEFAULT,
            read_only: false,
        };
        let catalog = Catalog::default();
        catalog.publish(names.iter().zip(1..).map(|(name, id)| ((*name).to_owned(), entry(id))).collect());
        catalog
    }

    #[test]
    fn a_client_that_names_nothing_gets_the_only_volume_however_many_snapshots_it_has() {
        let found = |names: &[&str]| catalog(names).find("", |_| true).map(|(name, _)| name);
        assert_eq!(found(&["a", "a@mon", "a@tue"]), Some("a".into()));
        assert_eq!(found(&["a", "b"]), None);
        assert_eq!(found(&["a@mon"]), None);
        assert_eq!(catalog(&["a", "b", "b@x"]).find("", |name| name != "a").map(|(name, _)| name), Some("b".into()));
    }

    #[test]
    fn a_snapshot_is_found_by_its_full_name_and_only_by_those_who_may_see_it() {
        let catalog = catalog(&["a", "a@mon"]);
        assert_eq!(catalog.find("a@mon", |_| true).map(|(_, entry)| entry.volume), Some(VolumeId(2)));
        assert_eq!(catalog.find("a@mon", |name| name == "a"), None);
        assert_eq!(catalog.find("a@tue", |_| true), None);
    }
}
