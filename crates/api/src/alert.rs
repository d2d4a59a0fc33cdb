//! Alerts: what an operator should look at, as long as it lasts.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What an alert is about.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum AlertKind {
    /// A volume uses more than its warning size.
    VolumeWarning,
    /// A volume is at its hard limit: writes that need new regions fail.
    VolumeLimit,
    /// A pool uses more than its warning size.
    PoolWarning,
    /// A pool is at its hard limit: writes that need new regions fail.
    PoolLimit,
    /// A pool's disks are full: writes that need new regions fail.
    PoolFull,
    /// A disk failed, or is missing.
    DiskFailed,
    /// The metadata store is nearly full.
    MetadataFull,
}

impl AlertKind {
    /// Its name in JSON and in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::VolumeWarning => "volume_warning",
            Self::VolumeLimit => "volume_limit",
            Self::PoolWarning => "pool_warning",
            Self::PoolLimit => "pool_limit",
            Self::PoolFull => "pool_full",
            Self::DiskFailed => "disk_failed",
            Self::MetadataFull => "metadata_full",
        }
    }
}

/// Something an operator should look at. It is gone when its cause is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Alert {
    /// What it is about.
    pub kind: AlertKind,
    /// The volume, pool or disk it is about, by name (a disk by id: `disk-3`); empty for the metadata store.
    pub subject: String,
    /// For people: the value seen, the limit, the way out.
    pub message: String,
}
