//! The operator API: what can be asked, what is answered, and how it fails, as JSON types.
//!
//! The HTTP server turns requests for paths into a [`Request`], the controller answers with a [`Response`] or an
//! [`Error`], and the command line does the reverse. This crate performs nothing. Sizes and offsets are bytes
//! everywhere; field names end in `_bytes` where they are.
#![forbid(unsafe_code)]

pub mod alert;
pub mod audit;
pub mod disk;
pub mod error;
pub mod identity;
pub mod map;
pub mod name;
pub mod pool;
pub mod request;
pub mod snapshot;
pub mod status;
pub mod volume;

pub use alert::{Alert, AlertKind};
pub use audit::{AuditFinding, AuditReport, FindingKind};
pub use disk::{Disk, DiskAdd, DiskCounters, DiskState};
pub use error::{Error, ErrorKind};
pub use identity::SnapshotIdentity;
pub use map::{Extent, ExtentState, PhysicalRun, VolumeMap, VolumeMapQuery};
pub use name::{NAME_BYTES_MAX, check_name};
pub use pool::{Pool, PoolCreate, PoolState, Raid};
pub use request::{Request, Response};
pub use snapshot::{
    CloneCreate, Diff, DiffKind, DiffQuery, DiffRange, KeepRule, Schedule, ScheduleSet, Snapshot, SnapshotCreate,
    SnapshotRename, SnapshotState, VolumeRollback, split_snapshot_name,
};
pub use status::{Listener, MetadataUsage, Status, TableUsage};
pub use volume::{
    Session, Volume, VolumeCounters, VolumeCreate, VolumeRename, VolumeResize, VolumeSet, VolumeSpace, VolumeState,
};
