//! The seam under redb: where its bytes live, and a watch on what goes wrong there.

use redb::{BackendError, StorageBackend};
use std::fmt::Debug;
use std::io;
use std::ops::Bound;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// What a [`crate::RedbStore`] keeps its bytes on. Opened again after a failed write.
pub trait MetadataDisk: Debug + Send + 'static {
    /// What to call it in messages: a path.
    fn name(&self) -> String;

    /// Opens it for this process alone.
    ///
    /// # Errors
    /// Whatever keeps it from being opened.
    fn open(&self) -> io::Result<Box<dyn StorageBackend>>;

    /// How many bytes it may still grow by, if that is known.
    ///
    /// # Errors
    /// Whatever keeps that from being found out.
    fn available_bytes(&self) -> io::Result<Option<u64>>;
}

/// How the backing of one open database fares.
#[derive(Debug, Default)]
pub(crate) struct Health {
    length_bytes: AtomicU64,
    syncs: AtomicU64,
    first_failure: Mutex<Option<Failure>>,
}

/// The first thing that went wrong.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    /// What the system said.
    pub(crate) message: String,
    /// There was no room.
    pub(crate) full: bool,
    /// What had been committed before is still there and nothing was added to it.
    pub(crate) harmless: bool,
}

impl Health {
    pub(crate) fn length_bytes(&self) -> u64 {
        self.length_bytes.load(Ordering::Relaxed)
    }

    /// How many syncs have succeeded.
    pub(crate) fn syncs(&self) -> u64 {
        self.syncs.load(Ordering::Relaxed)
    }

    pub(crate) fn first_failure(&self) -> Option<Failure> {
        self.first_failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn note(&self, operation: &str, harmless: bool, error: &io::Error) {
        let full = matches!(
            error.kind(),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
        );
        let message = format!("{operation}: {error}");
        let mut first = self.first_failure.lock().unwrap_or_else(PoisonError::into_inner);
        first.get_or_insert(Failure { message, full, harmless });
    }
}

/// A backend that remembers its length and the first failure.
#[derive(Debug)]
pub(crate) struct Watched {
    inner: Box<dyn StorageBackend>,
    health: Arc<Health>,
}

/// redb's header, which names the valid commit, lies within the first page.
const HEADER_BYTES: u64 = 4096;

impl Watched {
    pub(crate) fn new(inner: Box<dyn StorageBackend>) -> io::Result<(Self, Arc<Health>)> {
        let health = Arc::new(Health::default());
        health.length_bytes.store(inner.len()?, Ordering::Relaxed);
        Ok((Self { inner, health: Arc::clone(&health) }, health))
    }

    fn watch<T>(&self, operation: &str, harmless: bool, result: io::Result<T>) -> io::Result<T> {
        result.inspect_err(|error| self.health.note(operation, harmless, error))
    }
}

impl StorageBackend for Watched {
    fn len(&self) -> io::Result<u64> {
        self.watch("asking for the file's length", true, self.inner.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.watch("reading", true, self.inner.read(offset, out))
    }

    fn set_len(&self, length_bytes: u64) -> io::Result<()> {
        self.watch("growing the file", true, self.inner.set_len(length_bytes))?;
        self.health.length_bytes.store(length_bytes, Ordering::Relaxed);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        // After a failed sync the kernel may call the next one a success although the pages are lost.
        self.watch("syncing", false, self.inner.sync_data())?;
        self.health.syncs.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.watch("writing", offset >= HEADER_BYTES, self.inner.write(offset, data))
    }

    fn close(&self) -> io::Result<()> {
        self.inner.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.inner.try_lock_range(start, end)
    }

    fn try_lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.inner.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.inner.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.inner.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.inner.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.inner.query_lock_range(start, end)
    }
}
