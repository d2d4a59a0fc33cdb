//! What a lookup in a table answers: a cheap view of one entry, without allocating.

use model::{BlockBitmap, DiskRegion, Generation, Layer, LayerStack, MapEntry, Place, RegionSize};

/// Where a run of wholly written regions starts on a logical disk, and its generations.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Extent {
    /// The place of its first region; each that follows lies one region further.
    pub place: DiskRegion,
    /// When the places were allocated.
    pub born: Generation,
    /// When their blocks last changed.
    pub written: Generation,
}

impl Extent {
    /// The extent without its first `count` regions.
    #[must_use]
    pub const fn skip(self, count: u32, size: RegionSize) -> Self {
        Self { place: self.place.offset_by(count, size), ..self }
    }

    /// Whether `next` goes on where `count` regions of this one end.
    pub(crate) fn continues_in(self, count: u32, next: Self, size: RegionSize) -> bool {
        let end = u64::from(self.place.unit.0) + u64::from(count) * u64::from(size.units());
        self.place.logical_disk == next.place.logical_disk
            && end == u64::from(next.place.unit.0)
            && self.born == next.born
            && self.written == next.written
    }

    /// A layer at its first region that holds `blocks`.
    pub(crate) fn layer(self, blocks: BlockBitmap) -> Layer {
        Layer { place: Place::Region(self.place), blocks, born: self.born, written: self.written }
    }
}

/// What a table says of one region, borrowed from it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EntryView<'a> {
    /// The agent does not hold the region's page: fault it in.
    NotLoaded,
    /// Nothing current: every I/O faults to the controller.
    Invalid,
    /// Storage lost: every I/O fails with an I/O error.
    Error,
    /// Every block is zeroes and there is no storage behind it.
    Zero,
    /// Every block lives at one place.
    Full {
        /// Where.
        place: DiskRegion,
        /// When the place was allocated.
        born: Generation,
        /// When its blocks last changed.
        written: Generation,
        /// How many regions of the page, this one included, follow one another on both sides from here.
        run_left: u32,
    },
    /// One layer over the zero disk, in a region of at most 64 blocks (larger ones come as [`EntryView::Stack`]).
    Partial {
        /// Where the layer's blocks live.
        place: DiskRegion,
        /// When the place was allocated.
        born: Generation,
        /// When its blocks last changed.
        written: Generation,
        /// Bit i set: block i lives there. Clear: it is zeroes.
        blocks: u64,
    },
    /// Any other layers, top first.
    Stack(&'a LayerStack),
}

impl EntryView<'_> {
    /// The same as an entry of its own; `None` when the page is not loaded.
    #[must_use]
    pub fn to_entry(self, size: RegionSize) -> Option<MapEntry> {
        Some(match self {
            Self::NotLoaded => return None,
            Self::Invalid => MapEntry::Invalid,
            Self::Error => MapEntry::Error,
            Self::Zero => MapEntry::Zero,
            Self::Full { .. } | Self::Partial { .. } | Self::Stack(_) => MapEntry::Layers(self.to_stack(size)),
        })
    }

    /// Its layers, top first; none when it has no storage.
    #[must_use]
    pub fn to_stack(self, size: RegionSize) -> LayerStack {
        match self {
            Self::NotLoaded | Self::Invalid | Self::Error | Self::Zero => LayerStack::new(),
            Self::Full { place, born, written, .. } => {
                let blocks = BlockBitmap::all(size.blocks());
                LayerStack::from_iter([Extent { place, born, written }.layer(blocks)])
            }
            Self::Partial { place, born, written, blocks } => {
                let blocks = bitmap_of(blocks, size);
                LayerStack::from_iter([Extent { place, born, written }.layer(blocks)])
            }
            Self::Stack(layers) => layers.clone(),
        }
    }

    /// Whether `block` is read from `place`: in the top-most layer that holds it. What a write of less than a block asks
    /// before it leaves the rest of the block to what is there.
    #[must_use]
    pub fn block_lives_at(self, block: u32, place: DiskRegion) -> bool {
        match self {
            Self::NotLoaded | Self::Invalid | Self::Error | Self::Zero => false,
            Self::Full { place: at, .. } => at == place,
            Self::Partial { place: at, blocks, .. } => at == place && blocks >> block & 1 == 1,
            Self::Stack(layers) => layers
                .iter()
                .find(|layer| layer.blocks.contains(block))
                .is_some_and(|layer| layer.place == Place::Region(place)),
        }
    }
}

/// The bitmap of a region of at most 64 blocks.
pub(crate) fn bitmap_of(word: u64, size: RegionSize) -> BlockBitmap {
    BlockBitmap::from_words(size.blocks(), &[word]).expect("an inline bitmap has no bit beyond its region")
}

/// The bits of `start..end` of at most 64 blocks.
pub(crate) const fn mask_of(start: u32, end: u32) -> u64 {
    let width = end - start;
    if width == 64 { u64::MAX } else { ((1 << width) - 1) << start }
}
