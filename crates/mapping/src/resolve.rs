//! Where the bytes of a read come from, and where those of a write go: pure functions of entries and ranges.

use crate::stack;
use crate::table::PageTable;
use crate::view::EntryView;
use model::{
    BLOCK_BYTES, BlockRange, ByteRange, DiskRegion, Generation, LayerStack, LogicalDiskId, PageIndex, Place,
    RegionIndex, RegionSize,
};
use smallvec::SmallVec;

/// Some blocks of a region that are read from one place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Step {
    /// The blocks, counted within the region.
    pub blocks: BlockRange,
    /// Where they are; block i lies at block i of the place.
    pub place: Place,
}

/// The steps of a read of one region: in order, without gaps, neighbours at different places.
#[derive(Clone, Debug)]
pub struct Steps<'a> {
    view: EntryView<'a>,
    at: u32,
    end: u32,
}

/// Where each block of `blocks` of a region is read from.
///
/// An entry without layers (not loaded, invalid or in error) has no answer: the caller looks first. Its blocks come as
/// zeroes only where the entry is zero.
///
/// # Panics
/// When the entry is not loaded, invalid or in error, or the range leaves the region.
#[must_use]
pub fn resolve_read(view: EntryView<'_>, size: RegionSize, blocks: BlockRange) -> Steps<'_> {
    let readable = !matches!(view, EntryView::NotLoaded | EntryView::Invalid | EntryView::Error);
    assert!(readable, "an entry is looked at before it is read");
    assert!(blocks.start <= blocks.end && blocks.end <= size.blocks(), "{blocks:?} leaves its region");
    Steps { view, at: blocks.start, end: blocks.end }
}

impl Iterator for Steps<'_> {
    type Item = Step;

    fn next(&mut self) -> Option<Step> {
        if self.at >= self.end {
            return None;
        }
        let start = self.at;
        let place;
        (place, self.at) = piece(self.view, start, self.end);
        while self.at < self.end {
            let (next, end) = piece(self.view, self.at, self.end);
            if next != place {
                break;
            }
            self.at = end;
        }
        Some(Step { blocks: BlockRange::new(start, self.at), place })
    }
}

/// Where `block` is read from, and up to where (`limit` at most) that is so at least.
fn piece(view: EntryView<'_>, block: u32, limit: u32) -> (Place, u32) {
    match view {
        EntryView::Full { place, .. } => (Place::Region(place), limit),
        EntryView::Partial { place, blocks, .. } => {
            let rest = blocks >> block;
            if rest & 1 == 1 {
                (Place::Region(place), limit.min(block + rest.trailing_ones()))
            } else {
                (Place::Zero, limit.min(block.saturating_add(rest.trailing_zeros())))
            }
        }
        EntryView::Stack(layers) => piece_of_stack(layers, block, limit),
        _ => (Place::Zero, limit),
    }
}

fn piece_of_stack(layers: &LayerStack, block: u32, limit: u32) -> (Place, u32) {
    let mut end = limit;
    for layer in layers {
        let held;
        (held, end) = layer.blocks.run_from(block, end);
        if held {
            return (layer.place, end);
        }
    }
    (Place::Zero, end)
}

/// What keeps an I/O from being resolved.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// The page is not held: fault it in.
    NotLoaded(PageIndex),
    /// The region's entry is not current: fault it in.
    Invalid(RegionIndex),
    /// The region's storage is lost: the I/O fails.
    Error(RegionIndex),
}

impl Fault {
    /// The page concerned.
    #[must_use]
    pub fn page(self) -> PageIndex {
        match self {
            Self::NotLoaded(page) => page,
            Self::Invalid(region) | Self::Error(region) => region.page(),
        }
    }
}

/// Where the bytes of a segment are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Source {
    /// Nowhere: they are zeroes.
    Zero,
    /// On a logical disk, one after the other.
    Region {
        /// Which.
        logical_disk: LogicalDiskId,
        /// Where the first is on it, in bytes.
        byte_offset: u64,
    },
}

/// A stretch of a volume that is one stretch of its source too.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segment {
    /// Where it starts on the volume, in bytes.
    pub volume_offset: u64,
    /// How many bytes.
    pub length: u64,
    /// Where they are read from.
    pub source: Source,
}

/// The segments of a read, in order and without gaps; no two that follow one another could be one.
pub type Segments = SmallVec<[Segment; 4]>;

/// Where the bytes of a write to one region go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WriteTarget {
    /// To this place, in the entry already. The blocks' bits may still have to be set after
    /// ([`PageTable::blocks_written`]), and a block that does not live there yet ([`EntryView::block_lives_at`]) is
    /// written whole.
    InPlace(DiskRegion),
    /// Nothing of the region is writable: it is zero, or snapshots see all of it. A new place goes on top
    /// ([`PageTable::map_region`]).
    NeedsRegion,
    /// As above, but the stack is full: its blocks are merged into the new place, and the entry is set anew.
    NeedsMerge,
    /// The table cannot tell, or the storage is lost.
    Fault(Fault),
}

/// Where a write to `region`, whose entry is `view`, goes. Layers born up to `frozen_through` are not written
/// (`Generation(0)`: nothing is frozen).
#[must_use]
pub fn resolve_write(region: RegionIndex, view: EntryView<'_>, frozen_through: Generation) -> WriteTarget {
    let in_place = |place, born| {
        if stack::is_frozen(born, frozen_through) { WriteTarget::NeedsRegion } else { WriteTarget::InPlace(place) }
    };
    match view {
        EntryView::NotLoaded => WriteTarget::Fault(Fault::NotLoaded(region.page())),
        EntryView::Invalid => WriteTarget::Fault(Fault::Invalid(region)),
        EntryView::Error => WriteTarget::Fault(Fault::Error(region)),
        EntryView::Zero => WriteTarget::NeedsRegion,
        EntryView::Full { place, born, .. } | EntryView::Partial { place, born, .. } => in_place(place, born),
        EntryView::Stack(layers) => match stack::write_layer(layers, frozen_through) {
            Some(place) => WriteTarget::InPlace(place),
            None if stack::region_layers(layers) < stack::REGION_LAYERS_MAX => WriteTarget::NeedsRegion,
            None => WriteTarget::NeedsMerge,
        },
    }
}

/// A stretch of a write that goes one way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WriteSegment {
    /// Where it starts on the volume, in bytes.
    pub volume_offset: u64,
    /// How many bytes.
    pub length: u64,
    /// Where its first region goes; with [`WriteTarget::InPlace`], the regions that follow in it lie one region further
    /// each. Every other target is of one region.
    pub target: WriteTarget,
}

/// The segments of a write, in order and without gaps.
pub type WriteSegments = SmallVec<[WriteSegment; 4]>;

/// Whether a stretch of a volume has storage behind it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BlockStatus {
    /// How many bytes.
    pub length: u64,
    /// Whether they are zeroes without storage.
    pub is_zero: bool,
}

/// The status of a range, in order; no two that follow one another are alike.
pub type BlockStatuses = SmallVec<[BlockStatus; 4]>;

impl PageTable {
    /// Where the bytes of `range` are read from, appended to `segments`. A run contiguous on both sides is one segment,
    /// across regions and pages.
    ///
    /// # Errors
    /// The first fault in the range. `segments` then holds what lies before it.
    pub fn resolve_read(&self, range: ByteRange, segments: &mut Segments) -> Result<(), Fault> {
        self.each_piece(range, |piece, place| {
            let source = match place {
                None => Source::Zero,
                Some((place, within)) => {
                    Source::Region { logical_disk: place.logical_disk, byte_offset: place.unit.byte_offset() + within }
                }
            };
            push_segment(segments, Segment { volume_offset: piece.start, length: piece.length, source });
            true
        })
    }

    /// Which parts of `range` are zeroes without storage, appended to `statuses` until it holds `statuses_max`. What they
    /// cover together may then be less than the range.
    ///
    /// # Errors
    /// The first fault before the answer was complete; `statuses` then holds what lies before it.
    pub fn block_status(
        &self,
        range: ByteRange,
        statuses: &mut BlockStatuses,
        statuses_max: usize,
    ) -> Result<(), Fault> {
        self.each_piece(range, |piece, place| {
            let is_zero = place.is_none();
            if let Some(last) = statuses.last_mut()
                && last.is_zero == is_zero
            {
                last.length += piece.length;
                return true;
            }
            let has_room = statuses.len() < statuses_max;
            if has_room {
                statuses.push(BlockStatus { length: piece.length, is_zero });
            }
            has_room
        })
    }

    /// Where the bytes of a write to `range` go, appended to `segments`; see [`resolve_write`]. Regions in place that
    /// follow one another on the logical disk too are one segment.
    ///
    /// # Errors
    /// The first fault in the range. `segments` then holds what lies before it.
    pub fn resolve_write(
        &self,
        range: ByteRange,
        frozen_through: Generation,
        segments: &mut WriteSegments,
    ) -> Result<(), Fault> {
        let size = self.region_size();
        let mut at = range.start;
        while at < range.end() {
            let region = size.region_of(at);
            let (view, mut count) = self.span(region);
            let target = resolve_write(region, view, frozen_through);
            match target {
                WriteTarget::Fault(fault) => return Err(fault),
                WriteTarget::InPlace(_) => {}
                WriteTarget::NeedsRegion | WriteTarget::NeedsMerge => count = 1,
            }
            let end = ((region.0 + count) << size.log2()).min(range.end());
            push_write_segment(segments, WriteSegment { volume_offset: at, length: end - at, target }, size);
            at = end;
        }
        Ok(())
    }

    /// Calls `act` with each piece of `range` in order and with the place its bytes start at (and how many bytes into it),
    /// until `act` says to stop. Neighbouring pieces may go on in one another.
    fn each_piece(
        &self,
        range: ByteRange,
        mut act: impl FnMut(ByteRange, Option<(DiskRegion, u64)>) -> bool,
    ) -> Result<(), Fault> {
        let size = self.region_size();
        let mut at = range.start;
        while at < range.end() {
            let region = size.region_of(at);
            let (view, count) = self.span(region);
            let start = region.0 << size.log2();
            let end = ((region.0 + count) << size.log2()).min(range.end());
            let goes_on = match view {
                EntryView::NotLoaded => return Err(Fault::NotLoaded(region.page())),
                EntryView::Invalid => return Err(Fault::Invalid(region)),
                EntryView::Error => return Err(Fault::Error(region)),
                EntryView::Zero => act(ByteRange::new(at, end - at), None),
                EntryView::Full { place, .. } => act(ByteRange::new(at, end - at), Some((place, at - start))),
                EntryView::Partial { .. } | EntryView::Stack(_) => {
                    let first = ((at - start) / BLOCK_BYTES) as u32;
                    let last = (end - start).div_ceil(BLOCK_BYTES) as u32;
                    resolve_read(view, size, BlockRange::new(first, last)).all(|step| {
                        let from = (start + u64::from(step.blocks.start) * BLOCK_BYTES).max(at);
                        let to = (start + u64::from(step.blocks.end) * BLOCK_BYTES).min(end);
                        let place = match step.place {
                            Place::Zero => None,
                            Place::Region(place) => Some((place, from - start)),
                        };
                        act(ByteRange::new(from, to - from), place)
                    })
                }
            };
            if !goes_on {
                return Ok(());
            }
            at = end;
        }
        Ok(())
    }
}

fn push_segment(segments: &mut Segments, next: Segment) {
    if let Some(last) = segments.last_mut()
        && last.volume_offset + last.length == next.volume_offset
    {
        let continues = match (last.source, next.source) {
            (Source::Zero, Source::Zero) => true,
            (
                Source::Region { logical_disk, byte_offset },
                Source::Region { logical_disk: next_disk, byte_offset: next_offset },
            ) => logical_disk == next_disk && byte_offset + last.length == next_offset,
            _ => false,
        };
        if continues {
            last.length += next.length;
            return;
        }
    }
    segments.push(next);
}

fn push_write_segment(segments: &mut WriteSegments, next: WriteSegment, size: RegionSize) {
    if let (Some(last), WriteTarget::InPlace(place)) = (segments.last_mut(), next.target)
        && let WriteTarget::InPlace(last_place) = last.target
        && last.volume_offset + last.length == next.volume_offset
    {
        // Both places are those of whole regions, so they compare by how many regions lie between them.
        let regions = size.region_of(next.volume_offset).0 - size.region_of(last.volume_offset).0;
        let expected = u64::from(last_place.unit.0) + regions * u64::from(size.units());
        if last_place.logical_disk == place.logical_disk && expected == u64::from(place.unit.0) {
            last.length += next.length;
            return;
        }
    }
    segments.push(next);
}

#[cfg(test)]
mod tests;
