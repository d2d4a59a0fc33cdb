//! How a logical disk is made of chunklets of physical disks.

use crate::{DiskId, LogicalDiskId, PoolId, UNIT_BYTES};
use std::fmt;

/// How a logical disk spreads its data over physical disks.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum RaidLevel {
    /// Striped, no redundancy. With one disk wide: linear.
    Raid0,
}

impl fmt::Display for RaidLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Raid0 => f.write_str("raid0"),
        }
    }
}

/// A chunklet: a slice of one physical disk.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ChunkletAddress {
    /// The physical disk.
    pub disk: DiskId,
    /// Where the slice starts on it, in bytes; a multiple of 4 KiB. (Its length is the layout's `chunklet_bytes`.)
    pub byte_offset: u64,
}

/// A logical disk: rows of RAID sets of chunklets on different physical disks.
///
/// Row after row, the bytes of a row are dealt out over its chunklets in steps of `step_bytes`. All rows are of one width.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogicalDiskLayout {
    /// Which logical disk.
    pub id: LogicalDiskId,
    /// The pool it grows.
    pub pool: PoolId,
    /// How its rows hold data.
    pub raid: RaidLevel,
    /// How many bytes go to one chunklet before the next gets some; a multiple of 16 KiB that divides `chunklet_bytes`.
    pub step_bytes: u32,
    /// The size of each chunklet, in bytes.
    pub chunklet_bytes: u64,
    /// The rows; each a RAID set.
    pub rows: Vec<Vec<ChunkletAddress>>,
}

impl LogicalDiskLayout {
    /// How many bytes it holds for volumes.
    #[must_use]
    pub fn data_bytes(&self) -> u64 {
        match self.raid {
            RaidLevel::Raid0 => self.rows.iter().map(|row| row.len() as u64 * self.chunklet_bytes).sum(),
        }
    }

    /// The same, in allocation units.
    ///
    /// # Panics
    /// When the logical disk is larger than `u32` units reach (64 TiB), which its maker refuses.
    #[must_use]
    pub fn data_units(&self) -> u32 {
        u32::try_from(self.data_bytes() / UNIT_BYTES).expect("a logical disk is at most 64 TiB")
    }
}
