//! The exports there are, for the handshakes of NBD clients. Written by the controller thread, never read on the I/O path.

use controller::{Export, Exports};
use nbd::server::ExportInfo;
use std::sync::{Arc, PoisonError, RwLock};

/// The current exports, shared by every thread.
#[derive(Clone, Default)]
pub(crate) struct Catalog(Arc<RwLock<Arc<Exports>>>);

impl Catalog {
    pub(crate) fn publish(&self, exports: Arc<Exports>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = exports;
    }

    pub(crate) fn current(&self) -> Arc<Exports> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The export a client means: by name, or the only volume there is when it names none (snapshots of it do not
    /// matter).
    pub(crate) fn find(&self, name: &str, visible: impl Fn(&str) -> bool) -> Option<Export> {
        let exports = self.current();
        if !name.is_empty() {
            return exports.named(name).filter(|export| visible(&export.name)).cloned();
        }
        let mut volumes = exports.iter().filter(|export| !export.name.contains('@') && visible(&export.name));
        let only = volumes.next()?;
        if volumes.next().is_some() { None } else { Some(only.clone()) }
    }
}

/// The volume's part of an export's name: of a volume, its name; of a snapshot `VOL@NAME`, the name of the volume.
pub(crate) fn volume_of(export: &str) -> &str {
    export.split_once('@').map_or(export, |(volume, _)| volume)
}

/// What NBD says of an export.
pub(crate) fn export_info(name: String, size_bytes: u64, read_only: bool) -> ExportInfo {
    // To the byte: what is smaller than a block is merged with what surrounds it.
    ExportInfo { minimum_block_bytes: 1, read_only, ..ExportInfo::new(name, size_bytes) }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use model::{RegionSize, VolumeId};

    /// Exports of these names, numbered from one on.
    pub(crate) fn exports(names: &[&str]) -> Exports {
        let export = |(name, id): (&&str, u32)| Export {
            name: (*name).to_owned(),
            volume: VolumeId(id),
            size_bytes: 1 << 20,
            region_size: RegionSize::DEFAULT,
            read_only: false,
        };
        names.iter().zip(1..).map(export).collect()
    }

    fn catalog(names: &[&str]) -> Catalog {
        let catalog = Catalog::default();
        catalog.publish(Arc::new(exports(names)));
        catalog
    }

    #[test]
    fn a_client_that_names_nothing_gets_the_only_volume_however_many_snapshots_it_has() {
        let found = |names: &[&str]| catalog(names).find("", |_| true).map(|export| export.name);
        assert_eq!(found(&["a", "a@mon", "a@tue"]), Some("a".into()));
        assert_eq!(found(&["a", "b"]), None);
        assert_eq!(found(&["a@mon"]), None);
        assert_eq!(
            catalog(&["a", "b", "b@x"]).find("", |name| name != "a").map(|export| export.name),
            Some("b".into())
        );
    }

    #[test]
    fn a_snapshot_is_found_by_its_full_name_and_only_by_those_who_may_see_it() {
        let catalog = catalog(&["a", "a@mon"]);
        assert_eq!(catalog.find("a@mon", |_| true).map(|export| export.volume), Some(VolumeId(2)));
        assert_eq!(catalog.find("a@mon", |name| name == "a"), None);
        assert_eq!(catalog.find("a@tue", |_| true), None);
    }
}
