//! Pools: free space that volumes share.

use crate::Alert;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// How a pool's logical disks spread data over its physical disks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Raid {
    /// Striped, no redundancy.
    #[default]
    Raid0,
}

impl Raid {
    /// Its name in JSON and on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Raid0 => "raid0",
        }
    }
}

/// A pool to be made.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PoolCreate {
    /// Its name.
    pub name: String,
    /// How its logical disks hold data.
    #[serde(default)]
    pub raid: Raid,
    /// Alert when more than this is used, in bytes.
    #[serde(default)]
    pub warn_bytes: Option<u64>,
    /// Grow no further than this, in bytes; allocating writes fail beyond it.
    #[serde(default)]
    pub limit_bytes: Option<u64>,
    /// How large each logical disk made on demand is, in bytes; rounded up to whole rows of chunklets.
    #[serde(default)]
    pub growth_bytes: Option<u64>,
}

/// How a pool is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PoolState {
    /// Every disk is well and there is room.
    Healthy,
    /// Above its warning size.
    Warning,
    /// Full, or at its limit: writes that need new regions fail, everything else works.
    Full,
    /// A disk of it failed or is missing.
    Degraded,
}

/// A pool.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Pool {
    /// Its id, which never changes and is never used again.
    pub id: u32,
    /// Its name.
    pub name: String,
    /// How its logical disks hold data.
    pub raid: Raid,
    /// How it is.
    pub state: PoolState,
    /// What its disks hold for volumes, at its RAID level, in bytes.
    pub capacity_bytes: u64,
    /// What volumes have mapped, in bytes.
    pub used_bytes: u64,
    /// Set aside for writers and not mapped yet, in bytes; it returns when they leave.
    pub granted_bytes: u64,
    /// Left to be mapped, in bytes: `capacity - used - granted`.
    pub free_bytes: u64,
    /// What its volumes claim to be, added up, in bytes.
    pub provisioned_bytes: u64,
    /// How much of the capacity logical disks have been made of so far, in bytes.
    pub logical_disks_bytes: u64,
    /// How many logical disks it has.
    pub logical_disks: u32,
    /// The ids of its physical disks.
    pub disks: Vec<u32>,
    /// How many volumes it has.
    pub volumes: u32,
    /// Alert above this, in bytes.
    pub warn_bytes: Option<u64>,
    /// No further than this, in bytes.
    pub limit_bytes: Option<u64>,
    /// The size of each logical disk made on demand, in bytes.
    pub growth_bytes: u64,
    /// What is wrong with it now.
    pub alerts: Vec<Alert>,
}
