//! Volumes.

use crate::Alert;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A volume to be made.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VolumeCreate {
    /// Its name, which is its export's name too.
    pub name: String,
    /// Its size, in bytes: a multiple of 512.
    pub size_bytes: u64,
    /// The pool; `default` unless told.
    #[serde(default)]
    pub pool: Option<String>,
    /// The size of its regions, in bytes: a power of two from 16 KiB to 4 MiB; 64 KiB unless told.
    #[serde(default)]
    pub region_bytes: Option<u64>,
    /// Alert when it uses more than this, in bytes.
    #[serde(default)]
    pub warn_bytes: Option<u64>,
    /// Let it use no more than this, in bytes.
    #[serde(default)]
    pub limit_bytes: Option<u64>,
    /// Refuse writes.
    #[serde(default)]
    pub read_only: bool,
}

/// What to change of a volume; what is left out stays.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VolumeSet {
    /// Alert when it uses more than this, in bytes; 0 for no warning.
    #[serde(default)]
    pub warn_bytes: Option<u64>,
    /// Let it use no more than this, in bytes; 0 for no limit.
    #[serde(default)]
    pub limit_bytes: Option<u64>,
    /// Refuse writes, or take them again. Holds for hosts that attach from now on.
    #[serde(default)]
    pub read_only: Option<bool>,
}

/// A new size for a volume.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VolumeResize {
    /// The new size, in bytes: a multiple of 512.
    pub size_bytes: u64,
    /// Allow a smaller size: what lies beyond it is lost.
    #[serde(default)]
    pub shrink: bool,
}

/// A new name for a volume.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VolumeRename {
    /// The new name.
    pub new_name: String,
}

/// How a volume is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum VolumeState {
    /// It serves.
    Online,
    /// It uses more than its warning size.
    Warning,
    /// It is at its limit, or its pool is full: writes that need new regions fail, everything else works.
    Full,
    /// A disk it needs failed or is missing.
    Degraded,
    /// It is being deleted.
    Deleting,
}

/// One attachment of a volume.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Session {
    /// Its epoch: never used again.
    pub epoch: u64,
    /// Who holds it: an agent's name, or a host's address.
    pub holder: String,
    /// It only reads.
    pub read_only: bool,
}

/// What a volume's hosts have done since it was attached last.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct VolumeCounters {
    /// Reads.
    pub reads: u64,
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes of them that were zeroes and asked no disk.
    pub hole_bytes: u64,
    /// Writes.
    pub writes: u64,
    /// Bytes written.
    pub write_bytes: u64,
    /// Bytes of them that were zeroes and took no space.
    pub zero_write_bytes: u64,
    /// Trims and writes of zeroes.
    pub trims: u64,
    /// Flushes.
    pub flushes: u64,
    /// Faults because a page of the map was not loaded.
    pub faults_page: u64,
    /// Faults because no granted region was left.
    pub faults_grant: u64,
    /// Writes that failed for want of space.
    pub out_of_space: u64,
    /// Requests that failed otherwise.
    pub errors: u64,
}

/// Where a volume's space is, in bytes of its regions. Exact as of the last commit.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct VolumeSpace {
    /// What the volume as it is now refers to, whoever else does too.
    pub referenced_bytes: u64,
    /// Of that: what nothing else refers to.
    pub own_bytes: u64,
    /// Of that: what its snapshots refer to as well.
    pub shared_with_snapshots_bytes: u64,
    /// Of that: what belongs to the snapshot it is a clone of, or was rolled back to.
    pub shared_with_origin_bytes: u64,
    /// What only its snapshots refer to.
    pub snapshots_bytes: u64,
    /// What deleting the volume with all its snapshots would free.
    pub delete_frees_bytes: u64,
}

/// A volume.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Volume {
    /// Its id, which never changes and is never used again.
    pub id: u32,
    /// Its name, which is its export's name too.
    pub name: String,
    /// Its pool.
    pub pool: String,
    /// How it is.
    pub state: VolumeState,
    /// What it claims to be, in bytes.
    pub size_bytes: u64,
    /// The size of its regions, in bytes.
    pub region_bytes: u64,
    /// What it and its snapshots have taken from the pool, in bytes (committed; what a host wrote since its last flush may
    /// be missing). What it shares with the origin of a clone is the origin's.
    pub used_bytes: u64,
    /// Where that space is.
    pub space: VolumeSpace,
    /// How many snapshots it has.
    pub snapshots: u32,
    /// The snapshot it is a clone of, `VOL@NAME`.
    pub origin: Option<String>,
    /// It is being flattened: how far that has come, from 0 to 100.
    pub flattening_percent: Option<u8>,
    /// Alert above this, in bytes.
    pub warn_bytes: Option<u64>,
    /// No more than this, in bytes.
    pub limit_bytes: Option<u64>,
    /// Writes are refused.
    pub read_only: bool,
    /// Who has it attached.
    pub sessions: Vec<Session>,
    /// What its hosts have done since it was attached last.
    pub counters: VolumeCounters,
    /// What is wrong with it now.
    pub alerts: Vec<Alert>,
}
