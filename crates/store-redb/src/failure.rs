//! redb's errors in the words of the store.

use crate::disk::Health;
use redb::{CommitError, DatabaseError, StorageError, TableError, TransactionError};
use std::io;
use store::StoreError;

/// Any error of redb's that a transaction meets.
#[derive(Debug)]
pub(crate) enum RedbError {
    Storage(StorageError),
    Other(String),
}

impl From<StorageError> for RedbError {
    fn from(error: StorageError) -> Self {
        Self::Storage(error)
    }
}

impl From<TableError> for RedbError {
    fn from(error: TableError) -> Self {
        match error {
            TableError::Storage(error) => Self::Storage(error),
            // The tables are ours alone, so a wrong type or a missing one is damage, not a caller's mistake.
            other => Self::Storage(StorageError::Corrupted(other.to_string())),
        }
    }
}

impl From<TransactionError> for RedbError {
    fn from(error: TransactionError) -> Self {
        match error {
            TransactionError::Storage(error) => Self::Storage(error),
            other => Self::Other(other.to_string()),
        }
    }
}

impl From<CommitError> for RedbError {
    fn from(error: CommitError) -> Self {
        match error {
            CommitError::Storage(error) => Self::Storage(error),
            other => Self::Other(other.to_string()),
        }
    }
}

impl RedbError {
    /// What the caller is told. redb reports a failing disk's first error once and then only that there was one, so
    /// the watch on the disk is asked first.
    pub(crate) fn into_store_error(self, health: &Health) -> StoreError {
        if let Some(failure) = health.first_failure() {
            return if failure.full { StoreError::Full } else { StoreError::Failed(failure.message) };
        }
        match self {
            Self::Storage(StorageError::Corrupted(message)) => StoreError::Corrupt(message),
            Self::Storage(other) => StoreError::Failed(other.to_string()),
            Self::Other(message) => StoreError::Failed(message),
        }
    }
}

/// What the caller is told when the store at `name` cannot be opened.
pub(crate) fn opening(name: &str, error: DatabaseError) -> StoreError {
    match error {
        DatabaseError::DatabaseAlreadyOpen => {
            StoreError::Failed(format!("{name} is open in another process; stop that one first"))
        }
        DatabaseError::Storage(StorageError::Corrupted(message)) => StoreError::Corrupt(format!("{name}: {message}")),
        DatabaseError::Storage(StorageError::Io(error)) => io_opening(name, &error),
        DatabaseError::UpgradeRequired(version) => {
            StoreError::Corrupt(format!("{name} is a redb file of version {version}, which Acreage never wrote"))
        }
        other => StoreError::Failed(format!("{name}: {other}")),
    }
}

/// The same for an error of the system's.
pub(crate) fn io_opening(name: &str, error: &io::Error) -> StoreError {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StoreError::Full,
        io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => {
            StoreError::Corrupt(format!("{name} is not a metadata store, or a part of one: {error}"))
        }
        _ => StoreError::Failed(format!("{name}: {error}")),
    }
}
