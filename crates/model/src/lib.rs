//! Acreage's nouns: ids, addresses, sizes, states and buffers.
//!
//! This crate decides nothing and performs nothing. Every other crate speaks in its words, and `docs/glossary.md`
//! defines each of them once.
#![forbid(unsafe_code)]

pub mod address;
pub mod bitmap;
pub mod buffer;
pub mod entry;
pub mod error;
pub mod ids;
pub mod layout;
pub mod size;
pub mod time;
pub mod zero_scan;

pub use address::{BlockRange, ByteRange, DiskRegion, PageIndex, RegionIndex, RegionSize, UnitIndex, UnitRun};
pub use bitmap::BlockBitmap;
pub use buffer::{BufferPool, IoBuffer, Slab};
pub use entry::{EntryRun, Layer, LayerStack, MapEntry, Place};
pub use error::IoError;
pub use ids::{BranchId, ClusterId, DiskId, Epoch, Generation, LogicalDiskId, PoolId, Term, VolumeId};
pub use layout::{ChunkletAddress, LogicalDiskLayout, RaidLevel};
pub use size::ByteSize;
pub use time::Time;

/// What hosts may address: the logical block size, in bytes.
pub const SECTOR_BYTES: u64 = 512;
/// One bit of a [`BlockBitmap`], and the grain of zero detection, in bytes.
pub const BLOCK_BYTES: u64 = 4096;
/// The grain of a pool's allocator, in bytes: the smallest region there is.
pub const UNIT_BYTES: u64 = 16 << 10;
/// How many regions one table page maps.
pub const REGIONS_PER_PAGE: u32 = 1024;
/// The most layers one entry may have.
pub const LAYERS_MAX: usize = 8;
/// The largest volume, in bytes (4 EiB): offsets then fit an `i64` with room to spare.
pub const VOLUME_BYTES_MAX: u64 = 1 << 62;
