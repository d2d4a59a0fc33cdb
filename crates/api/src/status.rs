//! The whole server at a glance.

use crate::{Alert, Pool};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Where something is served.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Listener {
    /// What: `nbd` or `api`.
    pub protocol: String,
    /// Where: `unix:PATH` or `HOST:PORT`.
    pub address: String,
    /// Whether TLS is `off`, `allow`ed or `require`d.
    pub tls: String,
}

/// The metadata store's size.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct MetadataUsage {
    /// What it takes, in bytes.
    pub used_bytes: u64,
    /// What it may still take, in bytes.
    pub free_bytes: u64,
}

/// The volumes' tables in the server's memory, all together.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct TableUsage {
    /// What they take, in bytes.
    pub used_bytes: u64,
    /// What they may take, in bytes.
    pub limit_bytes: u64,
    /// How many pages they hold.
    pub pages: u64,
    /// How many pages had to be asked for since the server started.
    pub misses: u64,
    /// How many were evicted.
    pub evictions: u64,
    /// How often changes were committed early because they stood in the way of that.
    pub early_commits: u64,
}

/// The whole server at a glance.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Status {
    /// The server's version.
    pub version: String,
    /// The cluster's id, 32 hexadecimal digits.
    pub cluster: String,
    /// Seconds since the server started.
    pub uptime_seconds: u64,
    /// How many data threads it runs.
    pub threads: u32,
    /// How they do I/O: `uring` or `fallback`.
    pub io_engine: String,
    /// Where it listens.
    pub listeners: Vec<Listener>,
    /// Its pools.
    pub pools: Vec<Pool>,
    /// How many disks it has.
    pub disks: u32,
    /// How many volumes it has.
    pub volumes: u32,
    /// How many attachments are live.
    pub sessions: u32,
    /// How many hosts are connected.
    pub connections: u32,
    /// The metadata store's size.
    pub metadata: MetadataUsage,
    /// The volumes' tables in memory.
    #[serde(default)]
    pub tables: TableUsage,
    /// What is wrong now, worst first.
    pub alerts: Vec<Alert>,
}
