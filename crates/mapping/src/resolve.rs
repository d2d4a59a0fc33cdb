//! Where the bytes of a read come from, and where those of a write go: pure functions of entries and ranges.

mod volume;

pub use self::volume::{BlockStatus, BlockStatuses, Segment, Segments, Source, WriteSegment, WriteSegments};

use crate::stack;
use crate::view::EntryView;
use model::{BlockRange, DiskRegion, Generation, LayerStack, PageIndex, Place, RegionIndex, RegionSize};

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

/// Where the bytes of a write to one region go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WriteTarget {
    /// To this place, in the entry already. The blocks' bits may still have to be set after
    /// ([`crate::PageTable::blocks_written`]), and a block that does not live there yet ([`EntryView::block_lives_at`]) is
    /// written whole.
    InPlace(DiskRegion),
    /// Nothing of the region is writable: it is zero, or snapshots see all of it. A new place goes on top
    /// ([`crate::PageTable::map_region`]).
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

#[cfg(test)]
mod tests;
