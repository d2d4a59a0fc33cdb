//! Tests of a table page: fusing, splitting, and what its runs take.

use super::*;
use crate::stack::Dropped;
use model::{LogicalDiskId, RegionIndex, UnitIndex};
use proptest::prelude::*;

const SIZE: RegionSize = RegionSize::DEFAULT;
const ONE: Generation = Generation(1);

fn place(region: u32) -> DiskRegion {
    DiskRegion { logical_disk: LogicalDiskId(1), unit: UnitIndex(region * SIZE.units()) }
}

fn fill(page: &mut TablePage, slot: u16, region: u32, generation: Generation) {
    page.map_region(slot, place(region), generation);
    let all = BlockRange::new(0, SIZE.blocks());
    assert!(page.insert_blocks(slot, place(region), all, generation, Generation(0), &mut Drops::new()));
}

#[test]
fn neighbours_on_both_sides_fuse_whatever_the_order_they_fill_in() {
    let mut page = TablePage::new(SIZE);
    for slot in (0..1024).step_by(2).chain((1..1024).step_by(2)) {
        fill(&mut page, slot, 500 + u32::from(slot), ONE);
    }
    let extent = Extent { place: place(500), born: ONE, written: ONE };
    assert_eq!(page.uniform(), Some(Uniform::Extent(extent)));
    assert!(page.heap_bytes() <= 2048, "a page that fused gives its memory back: {} bytes", page.heap_bytes());
}

#[test]
fn regions_that_are_neighbours_on_one_side_only_stay_apart() {
    let mut page = TablePage::new(SIZE);
    fill(&mut page, 0, 10, ONE);
    fill(&mut page, 1, 12, ONE);
    fill(&mut page, 3, 14, ONE);
    fill(&mut page, 4, 15, Generation(2));
    assert_eq!(page.run_count(), 4, "another place, a gap, another generation");
}

#[test]
fn a_hole_in_an_extent_splits_it_and_filling_it_heals_it() {
    let mut page = TablePage::from_extent(SIZE, Extent { place: place(0), born: ONE, written: ONE });
    let (mut drops, all) = (Drops::new(), BlockRange::new(0, SIZE.blocks()));
    assert!(page.remove_blocks(700, all, ONE, Generation(0), false, &mut drops));
    assert_eq!((drops.as_slice(), page.run_count()), ([Dropped { place: place(700), born: ONE }].as_slice(), 2));
    assert_eq!(page.span(0).1, 700);
    assert_eq!(page.entry(700), EntryView::Zero);
    fill(&mut page, 700, 700, ONE);
    assert_eq!(page.run_count(), 1);
}

#[test]
fn one_block_trimmed_in_an_extent_leaves_a_partial_region_between_its_halves() {
    let mut page = TablePage::from_extent(SIZE, Extent { place: place(0), born: ONE, written: ONE });
    let mut drops = Drops::new();
    assert!(page.remove_blocks(5, BlockRange::new(3, 4), ONE, Generation(0), false, &mut drops));
    assert!(drops.is_empty());
    let expected = EntryView::Partial { place: place(5), born: ONE, written: ONE, blocks: 0xfff7 };
    assert_eq!((page.entry(5), page.run_count()), (expected, 3));
    assert!(page.insert_blocks(5, place(5), BlockRange::new(3, 4), ONE, Generation(0), &mut drops));
    assert_eq!(page.run_count(), 1);
}

#[test]
fn writing_again_what_is_written_changes_nothing() {
    let mut page = TablePage::from_extent(SIZE, Extent { place: place(0), born: ONE, written: ONE });
    let before = page.clone();
    assert!(!page.insert_blocks(9, place(9), BlockRange::new(0, 7), Generation(4), Generation(0), &mut Drops::new()));
    assert_eq!(page, before);
}

#[test]
fn the_first_write_to_a_moved_region_raises_what_diffs_go_by() {
    let moved = Extent { place: place(0), born: Generation(5), written: Generation(2) };
    let mut page = TablePage::from_extent(SIZE, moved);
    assert!(page.insert_blocks(9, place(9), BlockRange::new(0, 1), Generation(6), Generation(4), &mut Drops::new()));
    assert!(matches!(page.entry(9), EntryView::Full { written: Generation(6), .. }));
    assert!(matches!(page.entry(8), EntryView::Full { written: Generation(2), .. }));
}

#[test]
#[should_panic(expected = "SNAPSHOT_NEVER_CHANGES")]
fn a_region_a_snapshot_sees_is_never_written() {
    let mut page = TablePage::from_extent(SIZE, Extent { place: place(0), born: ONE, written: ONE });
    page.insert_blocks(9, place(9), BlockRange::new(0, 1), Generation(2), Generation(1), &mut Drops::new());
}

#[test]
#[should_panic(expected = "does not map")]
fn a_write_to_a_place_that_was_freed_is_caught() {
    let mut page = TablePage::new(SIZE);
    page.insert_blocks(9, place(9), BlockRange::new(0, 1), ONE, Generation(0), &mut Drops::new());
}

/// What [`Nearest`] has to be, slot by slot.
fn nearest_by_slots(page: &TablePage, slots: impl Iterator<Item = u16>, frozen_through: Generation) -> Nearest {
    let mut nearest = Nearest::default();
    for slot in slots {
        let (place, takes_writes) = match page.entry(slot).to_entry(SIZE).unwrap() {
            MapEntry::Layers(layers) => match stack::write_layer(&layers, frozen_through) {
                Some(place) => (Some(place), true),
                None => match layers.last().unwrap().place {
                    Place::Region(place) => (Some(place), false),
                    Place::Zero => (None, false),
                },
            },
            _ => (None, false),
        };
        let found = place.map(|place| (slot, place));
        if takes_writes {
            return Nearest { taking: found, ..nearest };
        }
        nearest.frozen = nearest.frozen.or(found);
    }
    nearest
}

proptest! {
    #[test]
    fn the_nearest_places_are_those_found_slot_by_slot(
        changes in prop::collection::vec((0_u16..64, 1_u16..9, 0_u8..5, 0_u32..16), 1..120),
        looked in prop::collection::vec((0_u16..64, 0_u16..20), 1..20),
    ) {
        let mut page = TablePage::new(SIZE);
        let (mut generation, mut used, mut drops) = (ONE, 1000, Drops::new());
        for (first, count, kind, block) in changes {
            // Every few changes a snapshot.
            generation = Generation(generation.0 + u32::from(block == 0));
            let frozen_through = Generation(generation.0 - 1);
            for slot in first..first + count {
                used += 1;
                match kind {
                    0 => page.set(slot, MapEntry::Zero),
                    1 => page.set(slot, MapEntry::full(place(u32::from(slot)), SIZE, generation, generation)),
                    2 if block == 1 => page.set(slot, MapEntry::Error),
                    _ => {
                        let entry = page.entry(slot);
                        let target = crate::resolve_write(RegionIndex(u64::from(slot)), entry, frozen_through);
                        let at = match target {
                            crate::WriteTarget::InPlace(at) => at,
                            crate::WriteTarget::NeedsRegion => {
                                page.map_region(slot, place(used), generation);
                                place(used)
                            }
                            _ => continue,
                        };
                        let blocks = BlockRange::new(block, block + 1);
                        page.insert_blocks(slot, at, blocks, generation, frozen_through, &mut drops);
                    }
                }
            }
            for (slot, reach) in &looked {
                let (first, end) = (slot.saturating_sub(*reach), slot + 1 + reach);
                let left = page.nearest_left(*slot, first, frozen_through);
                prop_assert_eq!(left, nearest_by_slots(&page, (first..*slot).rev(), frozen_through));
                let right = page.nearest_right(*slot, end, frozen_through);
                prop_assert_eq!(right, nearest_by_slots(&page, *slot + 1..end, frozen_through));
            }
        }
    }

    #[test]
    fn set_runs_agree_with_a_vector_of_entries(
        runs in prop::collection::vec((0_u16..1024, 1_u16..200, 0_u8..5, 0_u32..300), 1..60),
    ) {
        let mut page = TablePage::new(SIZE);
        let mut naive = vec![MapEntry::Zero; 1024];
        for (first, count, kind, region) in runs {
            let count = count.min(1024 - first);
            let entry = match kind {
                0 => MapEntry::Zero,
                1 => MapEntry::Error,
                2 => MapEntry::Invalid,
                // Beside its neighbours more often than not.
                3 => MapEntry::full(place(u32::from(first)), SIZE, ONE, ONE),
                _ => MapEntry::full(place(2000 + region), SIZE, ONE, ONE),
            };
            for index in 0..count {
                naive[usize::from(first + index)] = match &entry {
                    MapEntry::Layers(layers) => MapEntry::Layers(advance(layers, u32::from(index), SIZE)),
                    entry => entry.clone(),
                };
            }
            page.set_run(&EntryRun { first, count, entry });
        }
        let mut fewest = 0;
        for slot in 0..1024_u16 {
            prop_assert_eq!(page.entry(slot).to_entry(SIZE), Some(naive[usize::from(slot)].clone()));
            let before = slot.checked_sub(1).map(|before| &naive[usize::from(before)]);
            fewest += usize::from(starts_a_run(before, &naive[usize::from(slot)]));
        }
        prop_assert_eq!(page.run_count(), fewest);
        prop_assert_eq!(&TablePage::from_runs(SIZE, &page.runs().collect::<Vec<_>>()), &page);
    }
}

fn starts_a_run(before: Option<&MapEntry>, entry: &MapEntry) -> bool {
    match (before, entry) {
        (_, MapEntry::Zero) => false,
        (Some(MapEntry::Layers(before)), MapEntry::Layers(entry)) => advance(before, 1, SIZE) != *entry,
        (before, entry) => before != Some(entry),
    }
}
