//! Which chunklets of a physical disk are in use.
//!
//! ```text
//! 0                1 MiB                                                 size
//! | label, reserved | chunklet 0 | chunklet 1 | …  | rest, unused | tail |
//! ```
//!
//! The first MiB and at least the last 64 KiB of a disk are kept for its label and its copy.

use crate::label;
use model::{ChunkletAddress, DiskId};
use thiserror::Error;

/// Where chunklet 0 starts, in bytes.
pub const CHUNKLETS_START: u64 = 1 << 20;
/// The size of a chunklet on a disk that is large enough, in bytes.
pub const CHUNKLET_BYTES_MAX: u64 = 256 << 20;
/// The smallest chunklet, in bytes.
pub const CHUNKLET_BYTES_MIN: u64 = 1 << 20;
/// A disk is given at least so many chunklets, if they can be large enough.
const CHUNKLETS_WISHED: u64 = 16;
/// The most chunklets one disk may have (1 PiB at the largest size).
const CHUNKLETS_MAX: u64 = 4 << 20;

/// Why a chunklet map refused.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum ChunkletError {
    /// The disk has no room for even one chunklet.
    #[error("a disk of {size_bytes} bytes is too small: it needs at least 3 MiB")]
    TooSmall {
        /// The disk's size.
        size_bytes: u64,
    },
    /// A chunklet is not one of this disk's.
    #[error("{disk} has no chunklet at byte {byte_offset}")]
    NoSuchChunklet {
        /// The disk.
        disk: DiskId,
        /// Where the chunklet should start.
        byte_offset: u64,
    },
    /// A chunklet is in use already, or (giving it back) is not.
    #[error("the chunklet at byte {byte_offset} of {disk} has two owners, or none")]
    WrongOwner {
        /// The disk.
        disk: DiskId,
        /// Where the chunklet starts.
        byte_offset: u64,
    },
}

/// How large the chunklets of a disk of `size_bytes` are: the largest power of two up to 256 MiB that leaves it at
/// least 16 of them, but never less than 1 MiB.
#[must_use]
pub fn chunklet_bytes_for(size_bytes: u64) -> u64 {
    let share = usable_bytes(size_bytes) / CHUNKLETS_WISHED;
    let power = if share == 0 { 0 } else { 1 << share.ilog2() };
    power.clamp(CHUNKLET_BYTES_MIN, CHUNKLET_BYTES_MAX)
}

fn usable_bytes(size_bytes: u64) -> u64 {
    label::tail_start(size_bytes).saturating_sub(CHUNKLETS_START)
}

/// The chunklets of one physical disk.
#[derive(Clone, Debug)]
pub struct ChunkletMap {
    disk: DiskId,
    chunklet_bytes: u64,
    used: Vec<bool>,
    used_count: u32,
    first_free: usize,
}

impl ChunkletMap {
    /// The chunklets of `disk`, which has `size_bytes`; none is in use.
    ///
    /// # Errors
    /// [`ChunkletError::TooSmall`].
    pub fn new(disk: DiskId, size_bytes: u64, chunklet_bytes: u64) -> Result<Self, ChunkletError> {
        let count = usable_bytes(size_bytes).checked_div(chunklet_bytes).unwrap_or(0).min(CHUNKLETS_MAX);
        if count == 0 {
            return Err(ChunkletError::TooSmall { size_bytes });
        }
        Ok(Self { disk, chunklet_bytes, used: vec![false; count as usize], used_count: 0, first_free: 0 })
    }

    /// The disk.
    #[must_use]
    pub fn disk(&self) -> DiskId {
        self.disk
    }

    /// The size of each, in bytes.
    #[must_use]
    pub fn chunklet_bytes(&self) -> u64 {
        self.chunklet_bytes
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.used.len() as u32
    }

    /// How many are in use.
    #[must_use]
    pub fn used(&self) -> u32 {
        self.used_count
    }

    /// How many are free.
    #[must_use]
    pub fn free(&self) -> u32 {
        self.count() - self.used_count
    }

    fn index_of(&self, byte_offset: u64) -> Result<usize, ChunkletError> {
        let within = byte_offset.checked_sub(CHUNKLETS_START);
        within
            .filter(|within| within.is_multiple_of(self.chunklet_bytes))
            .and_then(|within| usize::try_from(within / self.chunklet_bytes).ok())
            .filter(|index| *index < self.used.len())
            .ok_or(ChunkletError::NoSuchChunklet { disk: self.disk, byte_offset })
    }

    /// Marks the chunklet that starts at `byte_offset` as in use.
    ///
    /// # Errors
    /// [`ChunkletError`] when there is none, or it is in use already.
    pub fn take(&mut self, byte_offset: u64) -> Result<(), ChunkletError> {
        let index = self.index_of(byte_offset)?;
        if self.used[index] {
            return Err(ChunkletError::WrongOwner { disk: self.disk, byte_offset });
        }
        self.used[index] = true;
        self.used_count += 1;
        Ok(())
    }

    /// Marks the chunklet that starts at `byte_offset` as free again.
    ///
    /// # Errors
    /// [`ChunkletError`] when there is none, or it is free already.
    pub fn give_back(&mut self, byte_offset: u64) -> Result<(), ChunkletError> {
        let index = self.index_of(byte_offset)?;
        if !self.used[index] {
            return Err(ChunkletError::WrongOwner { disk: self.disk, byte_offset });
        }
        self.used[index] = false;
        self.used_count -= 1;
        self.first_free = self.first_free.min(index);
        Ok(())
    }

    /// Takes the lowest free chunklet, so that those of a logical disk lie side by side.
    pub fn take_lowest(&mut self) -> Option<ChunkletAddress> {
        let index = self.first_free + self.used[self.first_free..].iter().position(|used| !used)?;
        self.used[index] = true;
        self.used_count += 1;
        self.first_free = index + 1;
        Some(ChunkletAddress { disk: self.disk, byte_offset: CHUNKLETS_START + index as u64 * self.chunklet_bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunklets_shrink_with_the_disk() {
        for (size, chunklet) in
            [(3 << 20, 1 << 20), (20 << 20, 1 << 20), (1 << 30, 32 << 20), (10 << 30, 256 << 20), (1 << 50, 256 << 20)]
        {
            assert_eq!(chunklet_bytes_for(size), chunklet, "{size}");
        }
        for size in [18_u64 << 20, 100 << 20, 7 << 30, 10 << 40] {
            let map = ChunkletMap::new(DiskId(1), size, chunklet_bytes_for(size)).unwrap();
            assert!(map.count() >= 16, "{size} has {}", map.count());
        }
    }

    #[test]
    fn chunklets_stay_clear_of_both_labels() {
        let size = 64 << 20;
        let mut map = ChunkletMap::new(DiskId(1), size, 1 << 20).unwrap();
        let (mut last, mut count) = (0, 0);
        while let Some(chunklet) = map.take_lowest() {
            assert!(chunklet.byte_offset >= 1 << 20);
            (last, count) = (chunklet.byte_offset + map.chunklet_bytes(), count + 1);
        }
        assert!(last <= size - (64 << 10));
        assert_eq!((map.free(), map.used()), (0, count));
        assert_eq!(
            ChunkletMap::new(DiskId(1), 2 << 20, 1 << 20).unwrap_err(),
            ChunkletError::TooSmall { size_bytes: 2 << 20 }
        );
    }

    #[test]
    fn a_chunklet_has_one_owner() {
        let mut map = ChunkletMap::new(DiskId(1), 64 << 20, 1 << 20).unwrap();
        map.take(3 << 20).unwrap();
        assert!(matches!(map.take(3 << 20), Err(ChunkletError::WrongOwner { .. })));
        assert!(matches!(map.take((3 << 20) + 1), Err(ChunkletError::NoSuchChunklet { .. })));
        assert!(matches!(map.take(0), Err(ChunkletError::NoSuchChunklet { .. })));
        map.give_back(3 << 20).unwrap();
        assert!(map.give_back(3 << 20).is_err());
        assert_eq!(map.take_lowest().unwrap().byte_offset, 1 << 20);
    }
}
