//! Addresses on both sides of the map: regions and pages of a volume, units of a logical disk.

use crate::{BLOCK_BYTES, LogicalDiskId, REGIONS_PER_PAGE, UNIT_BYTES};
use std::fmt;

/// A half-open range of bytes, `start..start + length`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ByteRange {
    /// First byte.
    pub start: u64,
    /// How many bytes.
    pub length: u64,
}

impl ByteRange {
    /// The range `start..start + length`.
    #[must_use]
    pub const fn new(start: u64, length: u64) -> Self {
        Self { start, length }
    }

    /// One past the last byte.
    #[must_use]
    pub const fn end(self) -> u64 {
        self.start + self.length
    }

    /// Whether the two share a byte.
    #[must_use]
    pub const fn overlaps(self, other: Self) -> bool {
        self.start < other.end() && other.start < self.end()
    }
}

/// A half-open range of blocks inside one region.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct BlockRange {
    /// First block of the region.
    pub start: u32,
    /// One past the last.
    pub end: u32,
}

impl BlockRange {
    /// The blocks `start..end`.
    #[must_use]
    pub const fn new(start: u32, end: u32) -> Self {
        Self { start, end }
    }

    /// How many blocks.
    #[must_use]
    pub const fn count(self) -> u32 {
        self.end - self.start
    }
}

/// The size of a volume's regions: a power of two from 16 KiB to 4 MiB.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RegionSize {
    log2: u8,
}

impl RegionSize {
    /// 16 KiB.
    pub const MIN: Self = Self { log2: 14 };
    /// 64 KiB.
    pub const DEFAULT: Self = Self { log2: 16 };
    /// 4 MiB.
    pub const MAX: Self = Self { log2: 22 };

    /// The region size of so many bytes, if there is one.
    #[must_use]
    pub fn from_bytes(bytes: u64) -> Option<Self> {
        let log2 = u8::try_from(bytes.trailing_zeros()).ok()?;
        (bytes.is_power_of_two() && (Self::MIN.log2..=Self::MAX.log2).contains(&log2)).then_some(Self { log2 })
    }

    /// Its base-two logarithm, 14 to 22.
    #[must_use]
    pub const fn log2(self) -> u32 {
        self.log2 as u32
    }

    /// In bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        1 << self.log2
    }

    /// In blocks of 4 KiB: 4 to 1,024.
    #[must_use]
    pub const fn blocks(self) -> u32 {
        (self.bytes() / BLOCK_BYTES) as u32
    }

    /// In allocation units of 16 KiB: 1 to 256.
    #[must_use]
    pub const fn units(self) -> u32 {
        (self.bytes() / UNIT_BYTES) as u32
    }

    /// How many bytes of a volume one table page maps.
    #[must_use]
    pub const fn page_bytes(self) -> u64 {
        self.bytes() * REGIONS_PER_PAGE as u64
    }

    /// The region that holds byte `offset` of a volume.
    #[must_use]
    pub const fn region_of(self, offset: u64) -> RegionIndex {
        RegionIndex(offset >> self.log2)
    }

    /// How many regions a volume of `bytes` has, the last perhaps in part.
    #[must_use]
    pub const fn regions_in(self, bytes: u64) -> u64 {
        bytes.div_ceil(self.bytes())
    }
}

/// A region of a volume: its offset divided by the volume's region size.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct RegionIndex(pub u64);

impl RegionIndex {
    /// The table page that maps it.
    ///
    /// # Panics
    /// When the region lies beyond the largest volume.
    #[must_use]
    pub fn page(self) -> PageIndex {
        PageIndex(u32::try_from(self.0 / u64::from(REGIONS_PER_PAGE)).expect("a region lies within the largest volume"))
    }

    /// Its place within that page, 0 to 1,023.
    #[must_use]
    pub const fn slot(self) -> u16 {
        (self.0 % REGIONS_PER_PAGE as u64) as u16
    }
}

/// A table page of a volume: 1,024 regions. A `u32` of them reaches 64 PiB at the smallest region size; the controller
/// refuses to create a volume with more.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct PageIndex(pub u32);

impl PageIndex {
    /// The first region it maps.
    #[must_use]
    pub const fn first_region(self) -> RegionIndex {
        RegionIndex(self.0 as u64 * REGIONS_PER_PAGE as u64)
    }

    /// The region at `slot` of it.
    #[must_use]
    pub const fn region(self, slot: u16) -> RegionIndex {
        RegionIndex(self.first_region().0 + slot as u64)
    }
}

/// An allocation unit of a logical disk: byte offset divided by 16 KiB.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct UnitIndex(pub u32);

impl UnitIndex {
    /// Its byte offset on the logical disk.
    #[must_use]
    pub const fn byte_offset(self) -> u64 {
        self.0 as u64 * UNIT_BYTES
    }
}

/// Where a region's bytes live: so many units into a logical disk. Its length is the volume's region size, its start a
/// multiple of it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct DiskRegion {
    /// The logical disk.
    pub logical_disk: LogicalDiskId,
    /// Its first unit.
    pub unit: UnitIndex,
}

impl DiskRegion {
    /// The region `count` regions of `size` further on the same logical disk.
    #[must_use]
    pub const fn offset_by(self, count: u32, size: RegionSize) -> Self {
        Self { logical_disk: self.logical_disk, unit: UnitIndex(self.unit.0 + count * size.units()) }
    }

    /// The units it covers.
    #[must_use]
    pub const fn units(self, size: RegionSize) -> UnitRun {
        UnitRun { logical_disk: self.logical_disk, start: self.unit, count: size.units() }
    }
}

impl fmt::Display for DiskRegion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{}", self.logical_disk, self.unit.0)
    }
}

/// A run of allocation units on one logical disk.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct UnitRun {
    /// The logical disk.
    pub logical_disk: LogicalDiskId,
    /// The first unit.
    pub start: UnitIndex,
    /// How many.
    pub count: u32,
}

impl UnitRun {
    /// One past the last unit.
    #[must_use]
    pub const fn end(self) -> u32 {
        self.start.0 + self.count
    }

    /// In bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.count as u64 * UNIT_BYTES
    }
}
