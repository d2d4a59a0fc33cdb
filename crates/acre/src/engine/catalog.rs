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

    /// The export a client means: by name, or the only one there is when it names none.
    pub(crate) fn find(&self, name: &str, visible: impl Fn(&str) -> bool) -> Option<(String, CatalogEntry)> {
        let exports = self.current();
        let mut seen = exports.iter().filter(|(name, _)| visible(name));
        let (name, entry) = if name.is_empty() {
            let only = seen.next()?;
            if seen.next().is_some() {
                return None;
            }
            only
        } else {
            seen.find(|(candidate, _)| *candidate == name)?
        };
        Some((name.clone(), entry.clone()))
    }
}

impl CatalogEntry {
    /// What NBD says of it.
    pub(crate) fn export_info(&self, name: &str) -> ExportInfo {
        // To the byte: what is smaller than a block is merged with what surrounds it.
        ExportInfo { minimum_block_bytes: 1, read_only: self.read_only, ..ExportInfo::new(name, self.size_bytes) }
    }
}
