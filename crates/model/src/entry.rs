//! Map entries: what a table page says of one region of a volume.

use crate::{BlockBitmap, DiskRegion, Generation, RegionSize};
use smallvec::SmallVec;

/// Where a layer's blocks are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// The zero logical disk: every block is zeroes and there is no storage behind it.
    Zero,
    /// A region of a logical disk.
    Region(DiskRegion),
}

/// Some blocks of a region and the one place that holds them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Layer {
    /// Where they are.
    pub place: Place,
    /// Bit i: block i lives here unless a layer above says otherwise.
    pub blocks: BlockBitmap,
    /// When the place was allocated; frozen once a snapshot is as young.
    pub born: Generation,
    /// When its blocks last changed; what diffs go by.
    pub written: Generation,
}

/// Layers of one region, top first. Never empty, at most [`crate::LAYERS_MAX`]. Blocks that no layer holds are zeroes:
/// the zero logical disk lies under every stack and is not spelled out.
pub type LayerStack = SmallVec<[Layer; 1]>;

/// What is known about one region of a volume.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum MapEntry {
    /// Nothing current: every I/O faults to the controller.
    Invalid,
    /// Storage lost: every I/O fails with an I/O error.
    Error,
    /// The zero logical disk holds every block: never written, or trimmed whole.
    Zero,
    /// Where each block lives.
    Layers(LayerStack),
}

impl MapEntry {
    /// The entry of a region wholly at `place`.
    #[must_use]
    pub fn full(place: DiskRegion, size: RegionSize, born: Generation, written: Generation) -> Self {
        let blocks = BlockBitmap::all(size.blocks());
        Self::Layers(LayerStack::from_iter([Layer { place: Place::Region(place), blocks, born, written }]))
    }
}

/// One entry for `count` neighbouring regions of a table page, from slot `first` on.
///
/// With a count above one, the entry is the first region's: in each region that follows, every place lies one region
/// further on its logical disk. That is how an extent travels and is stored.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EntryRun {
    /// The first slot, 0 to 1,023.
    pub first: u16,
    /// How many slots, 1 to 1,024.
    pub count: u16,
    /// What they hold.
    pub entry: MapEntry,
}
