//! Resolving over a whole table: ranges of a volume become the fewest stretches of logical disks.

use super::{Fault, WriteTarget, resolve_read, resolve_write};
use crate::table::PageTable;
use crate::view::EntryView;
use model::{BLOCK_BYTES, BlockRange, ByteRange, DiskRegion, Generation, LogicalDiskId, Place, RegionSize};
use smallvec::SmallVec;

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
