//! Who sits where: a volume's map, for people.

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

/// Which part of a map to show.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct VolumeMapQuery {
    /// From this byte of the volume on; 0 unless told.
    #[serde(default)]
    pub offset: u64,
    /// At most so many extents; 1,000 unless told, at most 100,000.
    #[serde(default)]
    pub limit: Option<u32>,
}

impl VolumeMapQuery {
    /// How many extents an answer holds unless told.
    pub const LIMIT_DEFAULT: u32 = 1_000;
    /// The most extents one answer may hold.
    pub const LIMIT_MAX: u32 = 100_000;

    /// How many extents the answer may hold.
    #[must_use]
    pub fn limit(self) -> u32 {
        self.limit.unwrap_or(Self::LIMIT_DEFAULT).clamp(1, Self::LIMIT_MAX)
    }
}

/// What an extent holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ExtentState {
    /// Every block of it is written.
    Data,
    /// Some blocks of its region are written; the others read as zeroes.
    Partial,
    /// Nothing is written; it reads as zeroes and takes no space.
    Zero,
    /// Its storage is lost; it fails every I/O.
    Error,
}

/// A run of bytes on one physical disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct PhysicalRun {
    /// The disk's id.
    pub disk: u32,
    /// Where the run starts on it, in bytes.
    pub offset_bytes: u64,
    /// How long it is, in bytes.
    pub length_bytes: u64,
}

/// A run of regions of one state that lie side by side on both sides.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Extent {
    /// Where it starts in the volume, in bytes.
    pub offset_bytes: u64,
    /// How long it is, in bytes.
    pub length_bytes: u64,
    /// What it holds.
    pub state: ExtentState,
    /// For `partial`: how many of its bytes are written.
    pub written_bytes: Option<u64>,
    /// The logical disk it lies on.
    pub logical_disk: Option<u32>,
    /// Its first byte on the logical disk.
    pub logical_offset_bytes: Option<u64>,
    /// Where its first bytes lie on physical disks (the first run of each; a striped extent has more).
    pub physical: Vec<PhysicalRun>,
}

/// A part of a volume's map, and figures about the whole of it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
pub struct VolumeMap {
    /// The volume.
    pub volume: String,
    /// Its size, in bytes.
    pub size_bytes: u64,
    /// The size of its regions, in bytes.
    pub region_bytes: u64,
    /// The extents asked for, ascending and without gaps.
    pub extents: Vec<Extent>,
    /// Where to go on from, in bytes; none at the end.
    pub next_offset_bytes: Option<u64>,
    /// How many regions of the whole volume are mapped.
    pub mapped_regions: u64,
    /// How many runs, contiguous on both sides, these regions make.
    pub mapped_extents: u64,
    /// Of every two mapped neighbours in the volume, how often they are not neighbours on the disk: 0 is contiguous
    /// throughout, 1 scattered throughout.
    pub fragmentation: f64,
}
