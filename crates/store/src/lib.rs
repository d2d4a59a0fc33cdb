//! The metadata store: an ordered map from byte keys to byte values, with atomic durable batches.
//!
//! [`MetaStore`] is the seam. `store-redb` is the embedded implementation, [`MemoryStore`] the reference that tests
//! compare it with. What keys and values mean is here too ([`keys`], [`records`], [`table`], [`versions`]), so that offline tools read
//! a store without the controller. Allocation pages are encoded by `pool`; here they are bytes.
#![forbid(unsafe_code)]

pub mod codec;
pub mod fuzzing;
pub mod keys;
pub mod memory;
pub mod records;
pub mod table;
pub mod versions;

pub use keys::{Key, KeyRange};
pub use memory::{MemoryStore, MemoryView};
pub use records::FORMAT_VERSION;

use std::ops::ControlFlow;
use thiserror::Error;

/// One change of one key, or of many.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    /// Sets `key` to `value`.
    Put(Vec<u8>, Vec<u8>),
    /// Removes the key, if it is there.
    Delete(Vec<u8>),
    /// Removes every key of the range.
    DeleteRange(KeyRange),
}

/// Changes that happen together, in order, or not at all.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Batch {
    /// The changes; a later one wins over an earlier one of the same key.
    pub changes: Vec<Change>,
}

impl Batch {
    /// A batch of nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds: set `key` to `value`.
    pub fn put(&mut self, key: Key<'_>, value: Vec<u8>) {
        self.changes.push(Change::Put(key.encode(), value));
    }

    /// Adds: remove `key`.
    pub fn delete(&mut self, key: Key<'_>) {
        self.changes.push(Change::Delete(key.encode()));
    }

    /// Adds: remove every key of `range`.
    pub fn delete_range(&mut self, range: KeyRange) {
        self.changes.push(Change::DeleteRange(range));
    }

    /// Whether nothing would change.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }
}

/// Called for each pair of a scan, in its order; breaks to end it.
pub type Visitor<'a> = dyn FnMut(&[u8], &[u8]) -> ControlFlow<()> + 'a;

/// Reads of one committed state of a store.
pub trait StoreView {
    /// The value of `key`, if it is there.
    ///
    /// # Errors
    /// [`StoreError::Failed`] or [`StoreError::Corrupt`].
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;

    /// Shows `visitor` every pair of `range`, keys ascending, until it breaks.
    ///
    /// # Errors
    /// [`StoreError::Failed`] or [`StoreError::Corrupt`].
    fn scan(&self, range: &KeyRange, visitor: &mut Visitor<'_>) -> Result<(), StoreError>;

    /// Shows `visitor` every pair of `range`, keys descending, until it breaks.
    ///
    /// # Errors
    /// [`StoreError::Failed`] or [`StoreError::Corrupt`].
    fn scan_back(&self, range: &KeyRange, visitor: &mut Visitor<'_>) -> Result<(), StoreError>;
}

/// A metadata store. Its reads see what was committed last. One writer.
pub trait MetaStore: StoreView {
    /// Makes all of `batches` durable, in order, in one atomic transaction: on an error nothing of them happened, now
    /// or after a crash.
    ///
    /// # Errors
    /// Any of [`StoreError`]; after [`StoreError::Failed`] the store may have to be opened again.
    fn commit(&mut self, batches: &[Batch]) -> Result<(), StoreError>;

    /// A view that stays as things are now, to be read from another thread.
    ///
    /// # Errors
    /// [`StoreError::Failed`] or [`StoreError::Corrupt`].
    fn snapshot(&self) -> Result<Box<dyn StoreView + Send>, StoreError>;

    /// How much room is taken and left.
    ///
    /// # Errors
    /// [`StoreError::Failed`].
    fn space(&self) -> Result<Space, StoreError>;
}

/// The room of a store.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Space {
    /// Bytes taken.
    pub used_bytes: u64,
    /// Bytes it may still grow by, if that is known.
    pub available_bytes: Option<u64>,
}

/// Why a store refused, told by what the caller can do.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum StoreError {
    /// There is no room for it. Nothing happened; deleting helps.
    #[error("the metadata store is full; delete volumes or give its file system more room")]
    Full,
    /// The storage under it failed. Nothing happened; opening it again may help.
    #[error("the metadata store failed: {0}")]
    Failed(String),
    /// What it holds cannot be right. Restore it, or run the audit to see how far the damage goes.
    #[error("the metadata store is damaged: {0}")]
    Corrupt(String),
    /// A newer version wrote it; nothing of it may be touched. Run that version.
    #[error("{what} has format version {found}, this program knows up to {known}; run the newer version")]
    NewerVersion {
        /// What was read.
        what: &'static str,
        /// Its version.
        found: u32,
        /// The newest version this program knows.
        known: u32,
    },
}
