//! Physical disks.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A disk to be added to a pool.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DiskAdd {
    /// The pool; `default` unless told.
    #[serde(default)]
    pub pool: Option<String>,
    /// A file (made if it is not there and a size is given) or a raw block device, as the server sees it.
    pub path: String,
    /// For a file: its size in bytes. None: the size it has.
    #[serde(default)]
    pub size_bytes: Option<u64>,
    /// Take it even if it holds something that is not ours. What it holds is lost.
    #[serde(default)]
    pub force: bool,
}

/// How a disk is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DiskState {
    /// It serves.
    Online,
    /// It could not be opened, or is not the disk it was.
    Missing,
    /// It answers with errors.
    Failed,
}

/// What a disk has done since the server started.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct DiskCounters {
    /// Reads.
    pub reads: u64,
    /// Bytes read.
    pub read_bytes: u64,
    /// Writes.
    pub writes: u64,
    /// Bytes written.
    pub write_bytes: u64,
    /// Flushes.
    pub flushes: u64,
    /// Discards.
    pub discards: u64,
    /// Operations that failed.
    pub errors: u64,
}

/// A physical disk.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Disk {
    /// Its id, which never changes and is never used again.
    pub id: u32,
    /// The pool it belongs to.
    pub pool: String,
    /// Where the server opens it.
    pub path: String,
    /// How it is.
    pub state: DiskState,
    /// Its size, in bytes.
    pub size_bytes: u64,
    /// The size of its chunklets, in bytes.
    pub chunklet_bytes: u64,
    /// How many chunklets it has.
    pub chunklets: u32,
    /// How many of them belong to a logical disk.
    pub chunklets_used: u32,
    /// What it has done since the server started.
    pub counters: DiskCounters,
}
