//! The data directory: one server's at a time, readable by its owner alone.
//!
//! ```text
//! acre-data/
//!   lock         the process that serves it, locked as long as it does
//!   metadata     the metadata store
//!   api-token    what TCP clients of the operator API show
//!   api.sock     the operator API
//!   nbd.sock     NBD
//!   disk0        the first disk, unless --disk names another
//!   ready        the first start is complete
//! ```

use anyhow::{Context, Result};
use api::Error;
use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// How much of the free space the first disk may grow into, as parts of a hundred.
const DISK_PERCENT: u64 = 80;
/// The first disk's size is a multiple of this, in bytes.
const DISK_GRAIN_BYTES: u64 = 256 << 20;

/// A data directory that this process alone uses.
#[derive(Debug)]
pub struct DataDirectory {
    path: PathBuf,
    // Unlocked by the system when this process ends, however it ends.
    _lock: File,
}

impl DataDirectory {
    /// Opens the directory, making it if it is not there.
    ///
    /// # Errors
    /// When another process serves it, or it belongs to somebody else.
    pub fn open_or_create(path: &Path) -> Result<Self> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
        made.with_context(|| format!("cannot make the data directory {}", path.display()))?;
        Self::open(path)
    }

    /// Opens the directory, which must be there.
    ///
    /// # Errors
    /// As [`DataDirectory::open_or_create`].
    pub fn open(path: &Path) -> Result<Self> {
        let path = std::path::absolute(path)?;
        let metadata = std::fs::metadata(&path)
            .map_err(|error| Error::not_found(format!("there is no data directory {}: {error}", path.display())))?;
        if !metadata.is_dir() {
            return Err(Error::invalid(format!("{} is not a directory", path.display())).into());
        }
        if metadata.mode() & 0o022 != 0 {
            let message = format!("{} may be written by others; run `chmod go-w` on it first", path.display());
            return Err(Error::invalid(message).into());
        }
        let lock = lock(&path)?;
        Ok(Self { path, _lock: lock })
    }

    /// Where it is, absolute.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The metadata store's file.
    #[must_use]
    pub fn metadata(&self) -> PathBuf {
        self.path.join("metadata")
    }

    /// The first disk's file.
    #[must_use]
    pub fn first_disk(&self) -> PathBuf {
        self.path.join("disk0")
    }

    /// How large the first disk should be: most of the free space, in bytes.
    ///
    /// # Errors
    /// When the file system has too little room, or does not tell.
    pub fn first_disk_bytes(&self) -> Result<u64> {
        let system = rustix::fs::statvfs(&self.path)?;
        let free_bytes = system.f_bavail.saturating_mul(system.f_frsize);
        let size_bytes = free_bytes / 100 * DISK_PERCENT / DISK_GRAIN_BYTES * DISK_GRAIN_BYTES;
        if size_bytes == 0 {
            return Err(Error::out_of_space(format!(
                "{} has {} free, too little for a disk; give one with --disk PATH[:SIZE]",
                self.path.display(),
                model::ByteSize(free_bytes)
            ))
            .into());
        }
        Ok(size_bytes)
    }

    /// The API's token, made at the first call.
    ///
    /// # Errors
    /// When it can be neither read nor made.
    pub fn token(&self) -> Result<String> {
        let path = token_path(&self.path);
        if let Some(token) = read_token(&path)? {
            return Ok(token);
        }
        let token = new_token()?;
        write_whole(&path, format!("{token}\n").as_bytes())?;
        Ok(token)
    }

    /// Whether the first start has done all it does.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.path.join("ready").exists()
    }

    /// Notes that the first start has done all it does.
    ///
    /// # Errors
    /// When the note cannot be written.
    pub fn set_ready(&self) -> Result<()> {
        write_whole(&self.path.join("ready"), b"The default pool, its disk and the volume demo have been made.\n")
    }
}

/// Where the token of the server at `data` lies.
#[must_use]
pub fn token_path(data: &Path) -> PathBuf {
    data.join("api-token")
}

/// The token in the file at `path`, if there is one.
///
/// # Errors
/// When it is there and cannot be read.
pub fn read_token(path: &Path) -> Result<Option<String>> {
    match std::fs::read_to_string(path) {
        Ok(text) if !text.trim().is_empty() => Ok(Some(text.trim().to_owned())),
        Ok(_) => Ok(None),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// 128 random bits.
///
/// # Errors
/// When the system has none to give.
pub fn random_id() -> Result<u128> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| anyhow::anyhow!("no random bytes: {error}"))?;
    Ok(u128::from_le_bytes(bytes))
}

fn new_token() -> Result<String> {
    Ok(format!("{:032x}{:032x}", random_id()?, random_id()?))
}

/// Writes a file for its owner alone: after a crash it is there whole or not at all.
fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let unfinished = path.with_added_extension("new");
    let write = || -> std::io::Result<()> {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&unfinished)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&unfinished, path)?;
        File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

fn lock(data: &Path) -> Result<File> {
    let path = data.join("lock");
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .with_context(|| format!("cannot open {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            // Whoever holds the lock may not have written its number yet.
            file.read_to_string(&mut holder).ok();
            let holder = holder.trim();
            let process = if holder.is_empty() { "another process".into() } else { format!("process {holder}") };
            return Err(Error::busy(format!(
                "{} is served by {process} already; stop it first, or give another directory with --data",
                data.display()
            ))
            .into());
        }
        Err(TryLockError::Error(error)) => {
            return Err(error).with_context(|| format!("cannot lock {}", path.display()));
        }
    }
    file.set_len(0)?;
    file.write_all(format!("{}\n", std::process::id()).as_bytes())?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_opener_is_refused_and_told_the_process() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data");
        let first = DataDirectory::open_or_create(&path).unwrap();
        let error = DataDirectory::open_or_create(&path).unwrap_err().to_string();
        assert!(error.contains(&format!("process {}", std::process::id())), "{error}");
        drop(first);
        assert!(DataDirectory::open(&path).is_ok());
    }

    #[test]
    fn the_directory_and_the_token_are_for_their_owner_alone_and_the_token_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data");
        let data = DataDirectory::open_or_create(&path).unwrap();
        let token = data.token().unwrap();
        assert_eq!(token.len(), 64);
        assert_eq!(data.token().unwrap(), token);
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
        assert_eq!(std::fs::metadata(token_path(&path)).unwrap().mode() & 0o777, 0o600);
        assert!(!data.is_ready());
        data.set_ready().unwrap();
        assert!(data.is_ready());
    }
}
