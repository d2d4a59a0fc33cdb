//! What changed between two views of a region, block by block, told from their entries alone.

use crate::view::EntryView;
use model::{BlockBitmap, BlockRange, DiskRegion, Generation, Place, RegionSize};

/// The layer that shows a block.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Shown {
    place: DiskRegion,
    born: Generation,
    written: Generation,
}

/// Which blocks of a region may differ between an older view, whose entry is `older`, and a newer one; never misses one
/// that does. `since` is the older view's generation; with `is_ancestor`, the newer view descends from it, so that what was
/// last written up to then has not changed, wherever it lies now. An entry in error counts as changed; `None` when one of
/// them is not known ([`EntryView::NotLoaded`], [`EntryView::Invalid`]).
#[must_use]
pub fn changed_blocks(
    older: EntryView<'_>,
    newer: EntryView<'_>,
    size: RegionSize,
    since: Generation,
    is_ancestor: bool,
) -> Option<BlockBitmap> {
    let unknown = |view| matches!(view, EntryView::NotLoaded | EntryView::Invalid);
    if unknown(older) || unknown(newer) {
        return None;
    }
    if older == EntryView::Error || newer == EntryView::Error {
        return Some(BlockBitmap::all(size.blocks()));
    }
    let mut changed = BlockBitmap::none(size.blocks());
    let mut at = 0;
    while at < size.blocks() {
        let (before, end) = shown(older, at, size.blocks());
        let (now, end) = shown(newer, at, end);
        if differs(before, now, since, is_ancestor) {
            changed.insert(BlockRange::new(at, end));
        }
        at = end;
    }
    Some(changed)
}

fn differs(before: Option<Shown>, now: Option<Shown>, since: Generation, is_ancestor: bool) -> bool {
    match (before, now) {
        (None, None) => false,
        // A place is allocated once in a generation: with another birth it is another allocation.
        (Some(before), Some(now)) if (before.place, before.born) == (now.place, now.born) => false,
        (Some(_), Some(now)) => !is_ancestor || now.written > since,
        (None, Some(_)) | (Some(_), None) => true,
    }
}

/// The layer that shows `block`, `None` for zeroes; and up to where (`limit` at most) that is so at least.
fn shown(view: EntryView<'_>, block: u32, limit: u32) -> (Option<Shown>, u32) {
    match view {
        EntryView::Full { place, born, written, .. } => (Some(Shown { place, born, written }), limit),
        EntryView::Partial { place, born, written, blocks } => {
            let rest = blocks >> block;
            if rest & 1 == 1 {
                (Some(Shown { place, born, written }), limit.min(block + rest.trailing_ones()))
            } else {
                (None, limit.min(block.saturating_add(rest.trailing_zeros())))
            }
        }
        EntryView::Stack(layers) => {
            let mut end = limit;
            for layer in layers {
                let held;
                (held, end) = layer.blocks.run_from(block, end);
                if held {
                    let place = match layer.place {
                        Place::Region(place) => Some(place),
                        Place::Zero => None,
                    };
                    return (place.map(|place| Shown { place, born: layer.born, written: layer.written }), end);
                }
            }
            (None, end)
        }
        EntryView::NotLoaded | EntryView::Invalid | EntryView::Error | EntryView::Zero => (None, limit),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::{LogicalDiskId, UnitIndex};

    const SIZE: RegionSize = RegionSize::DEFAULT;

    fn full(unit: u32, born: u32, written: u32) -> EntryView<'static> {
        let place = DiskRegion { logical_disk: LogicalDiskId(1), unit: UnitIndex(unit) };
        EntryView::Full { place, born: Generation(born), written: Generation(written), run_left: 1 }
    }

    fn count(older: EntryView<'_>, newer: EntryView<'_>, is_ancestor: bool) -> Option<u32> {
        changed_blocks(older, newer, SIZE, Generation(3), is_ancestor).map(|changed| changed.count())
    }

    #[test]
    fn the_same_place_and_zeroes_in_both_views_are_unchanged() {
        assert_eq!(count(EntryView::Zero, EntryView::Zero, true), Some(0));
        assert_eq!(count(full(0, 1, 1), full(0, 1, 1), false), Some(0));
        assert_eq!(count(full(0, 1, 1), full(0, 4, 4), false), Some(16), "the place was freed and allocated again");
    }

    #[test]
    fn data_that_comes_or_goes_is_a_change() {
        assert_eq!(count(EntryView::Zero, full(0, 4, 4), true), Some(16));
        assert_eq!(count(full(0, 1, 1), EntryView::Zero, true), Some(16));
    }

    #[test]
    fn what_was_moved_since_but_not_written_is_unchanged_for_descendants_alone() {
        assert_eq!(count(full(0, 1, 1), full(8, 5, 3), true), Some(0));
        assert_eq!(count(full(0, 1, 1), full(8, 5, 3), false), Some(16));
        assert_eq!(count(full(0, 1, 1), full(8, 5, 4), true), Some(16));
    }

    #[test]
    fn lost_storage_counts_as_changed_and_what_is_not_known_has_no_answer() {
        assert_eq!(count(EntryView::Error, EntryView::Error, true), Some(16));
        assert_eq!(count(EntryView::NotLoaded, EntryView::Zero, true), None);
        assert_eq!(count(EntryView::Zero, EntryView::Invalid, true), None);
    }
}
