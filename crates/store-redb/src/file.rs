//! The usual disk of a store: a file.

use crate::MetadataDisk;
use redb::StorageBackend;
use redb::backends::FileBackend;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// A metadata store's file, readable by its owner alone.
#[derive(Clone, Debug)]
pub struct MetadataFile {
    path: PathBuf,
}

impl MetadataFile {
    /// The file at `path`, which must be there when it is opened.
    #[must_use]
    pub fn existing(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// The file at `path`; if it is not there, `fill` makes it under another name first, so that after a crash it is
    /// there as a whole or not at all.
    pub(crate) fn or_filled<E: From<io::Error>>(
        path: &Path,
        fill: impl FnOnce(Self) -> Result<(), E>,
    ) -> Result<Self, E> {
        if !path.try_exists()? {
            let unfinished = path.with_added_extension("new");
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&unfinished)?;
            fill(Self::existing(&unfinished))?;
            std::fs::rename(&unfinished, path)?;
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
            File::open(folder)?.sync_all()?;
        }
        Ok(Self::existing(path))
    }
}

impl MetadataDisk for MetadataFile {
    fn name(&self) -> String {
        self.path.display().to_string()
    }

    fn open(&self) -> io::Result<Box<dyn StorageBackend>> {
        let file = OpenOptions::new().read(true).write(true).open(&self.path)?;
        let backend = FileBackend::new(file).map_err(|error| io::Error::other(error.to_string()))?;
        Ok(Box::new(backend))
    }

    fn available_bytes(&self) -> io::Result<Option<u64>> {
        let system = rustix::fs::statvfs(&self.path)?;
        Ok(Some(system.f_bavail.saturating_mul(system.f_frsize)))
    }
}
