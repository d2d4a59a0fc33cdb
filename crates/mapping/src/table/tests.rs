//! Tests of a volume's table: loading, memory, and the collapse of pages.

use super::*;
use crate::stack::Dropped;
use model::{LogicalDiskId, UnitIndex};

const SIZE: RegionSize = RegionSize::DEFAULT;
const ONE: Generation = Generation(1);
const NOTHING: Generation = Generation(0);

fn place(region: u32) -> DiskRegion {
    DiskRegion { logical_disk: LogicalDiskId(1), unit: UnitIndex(region * SIZE.units()) }
}

fn all() -> BlockRange {
    BlockRange::new(0, SIZE.blocks())
}

fn write(table: &mut PageTable, region: u64, at: u32, blocks: BlockRange) {
    table.map_region(RegionIndex(region), place(at), ONE);
    let outcome = table.blocks_written(RegionIndex(region), place(at), blocks, ONE, NOTHING);
    assert!(outcome.changed && outcome.drops.is_empty());
}

#[test]
fn an_empty_pebibyte_takes_less_than_a_mebibyte() {
    let mut table = PageTable::new(SIZE);
    let pages = PageIndex((SIZE.regions_in(1 << 50) / u64::from(REGIONS_PER_PAGE)) as u32);
    table.load_absent(PageIndex(0), pages);
    assert!(table.resident_bytes() < 1024, "{} bytes", table.resident_bytes());
    write(&mut table, pages.first_region().0 - 1, 9, BlockRange::new(0, 1));
    assert!(table.resident_bytes() < 512 << 10, "{} bytes", table.resident_bytes());
    assert_eq!(table.loaded_pages(), u64::from(pages.0));
    assert_eq!(table.span(RegionIndex(5)), (EntryView::Zero, PageIndex(pages.0 - 1).first_region().0 - 5));
}

#[test]
fn a_tebibyte_written_in_order_takes_far_less_than_a_mebibyte() {
    let mut table = PageTable::new(SIZE);
    let regions = SIZE.regions_in(1 << 40);
    table.load_absent(PageIndex(0), PageIndex((regions / u64::from(REGIONS_PER_PAGE)) as u32));
    for page in 0..(regions / u64::from(REGIONS_PER_PAGE)) as u32 {
        let first = PageIndex(page).first_region().0;
        // Every other page at an address of its own, so that extents do not all follow one another.
        let at = first as u32 + page % 2 * 4096;
        if page % 64 < 2 {
            (0..REGIONS_PER_PAGE).for_each(|slot| write(&mut table, first + u64::from(slot), at + slot, all()));
        } else {
            let entry = MapEntry::full(place(at), SIZE, ONE, ONE);
            table.load(PageIndex(page), &[EntryRun { first: 0, count: 1024, entry }]);
        }
    }
    assert!(table.resident_bytes() < 400 << 10, "{} bytes", table.resident_bytes());
    assert_eq!(
        table.resident_pages().filter(|page| table.page(*page).is_some_and(|page| page.run_count() == 1)).count(),
        16_384
    );
}

#[test]
fn single_blocks_at_random_take_32_bytes_a_region() {
    let mut table = PageTable::new(SIZE);
    let pages = 16_u32;
    table.load_absent(PageIndex(0), PageIndex(pages));
    let regions = u64::from(pages * REGIONS_PER_PAGE);
    for index in 0..regions {
        // An odd factor visits every region once.
        let region = index * 7_919 % regions;
        write(&mut table, region, index as u32, BlockRange::new(3, 4));
    }
    let bytes_each = table.resident_bytes() as f64 / regions as f64;
    assert!(bytes_each < 40.0, "{bytes_each} bytes a region, chunk and all");
}

#[test]
fn what_is_not_loaded_says_so_and_what_is_loaded_wins_over_a_zero_range() {
    let mut table = PageTable::new(SIZE);
    assert!(table.page(PageIndex(3)).is_none());
    assert_eq!(table.entry(RegionIndex(3 * 1024)), EntryView::NotLoaded);
    table.load(PageIndex(3), &[EntryRun { first: 1, count: 2, entry: MapEntry::Error }]);
    table.load_absent(PageIndex(2), PageIndex(4));
    table.load_absent(PageIndex(4), PageIndex(9));
    assert_eq!(table.entry(RegionIndex(3 * 1024 + 1)), EntryView::Error);
    assert!(table.page(PageIndex(2)).is_some_and(PageRef::is_zero));
    assert!(table.page(PageIndex(9)).is_none());
    assert_eq!((table.loaded_pages(), table.absent.len()), (7, 1));
    assert_eq!(table.resident_pages().collect::<Vec<_>>(), [PageIndex(3)]);
}

#[test]
fn unloading_a_page_of_a_zero_range_forgets_that_page_alone() {
    let mut table = PageTable::new(SIZE);
    table.load_absent(PageIndex(2), PageIndex(9));
    write(&mut table, 5 * 1024, 0, all());
    table.unload(PageIndex(5));
    table.unload(PageIndex(5));
    table.unload(PageIndex(100_000));
    for (page, is_loaded) in [(1, false), (2, true), (4, true), (5, false), (6, true), (8, true), (9, false)] {
        assert_eq!(table.page(PageIndex(page)).is_some(), is_loaded, "page {page}");
    }
    assert_eq!(table.span(RegionIndex(2 * 1024)), (EntryView::Zero, 3 * 1024));
}

#[test]
fn trimming_a_page_whole_gives_its_memory_back() {
    let mut table = PageTable::new(SIZE);
    table.load(PageIndex(0), &[]);
    let empty = table.resident_bytes();
    for region in 0..500 {
        write(&mut table, region * 2, region as u32 * 3, BlockRange::new(1, 2));
    }
    for region in 0..500 {
        let outcome = table.blocks_zeroed(RegionIndex(region * 2), all(), ONE, NOTHING, false);
        assert_eq!(outcome.drops.as_slice(), [Dropped { place: place(region as u32 * 3), born: ONE }]);
    }
    assert!(table.page(PageIndex(0)).is_some_and(PageRef::is_zero));
    assert_eq!(table.resident_bytes(), empty);
}

#[test]
fn a_long_trim_takes_an_extent_at_a_time() {
    let mut table = PageTable::new(SIZE);
    let entry = MapEntry::full(place(0), SIZE, ONE, ONE);
    table.load(PageIndex(0), &[EntryRun { first: 0, count: 1024, entry }]);
    let run = table.extent_zeroed(RegionIndex(1000), 5000);
    let units = |start: u32, count: u32| UnitRun {
        logical_disk: LogicalDiskId(1),
        start: UnitIndex(start * SIZE.units()),
        count: count * SIZE.units(),
    };
    assert_eq!(run, Some((units(1000, 24), ONE)));
    assert_eq!(table.extent_zeroed(RegionIndex(1000), 24), None, "it is zero already");
    assert_eq!(table.extent_zeroed(RegionIndex(10), 5), Some((units(10, 5), ONE)));
    assert_eq!(table.page(PageIndex(0)).map(PageRef::run_count), Some(2));
}

#[test]
fn the_first_write_to_a_page_moved_whole_is_a_change() {
    let mut table = PageTable::new(SIZE);
    let entry = MapEntry::full(place(0), SIZE, Generation(5), Generation(2));
    table.load(PageIndex(0), &[EntryRun { first: 0, count: 1024, entry }]);
    let mut write =
        || table.blocks_written(RegionIndex(7), place(7), BlockRange::new(0, 1), Generation(6), Generation(4));
    assert!(write().changed);
    assert!(!write().changed);
}

#[test]
fn lost_and_invalid_regions_stand_apart_from_their_extent() {
    let mut table = PageTable::new(SIZE);
    let entry = MapEntry::full(place(0), SIZE, ONE, ONE);
    table.load(PageIndex(0), &[EntryRun { first: 0, count: 1024, entry: entry.clone() }]);
    table.map_error(RegionIndex(3));
    table.invalidate(RegionIndex(4));
    assert_eq!(table.entry(RegionIndex(3)), EntryView::Error);
    assert_eq!(table.entry(RegionIndex(4)), EntryView::Invalid);
    assert_eq!(table.page(PageIndex(0)).map(PageRef::run_count), Some(4));
    table.set_run(PageIndex(0), &EntryRun { first: 0, count: 1024, entry });
    assert_eq!(table.page(PageIndex(0)).map(PageRef::run_count), Some(1));
}

#[test]
#[should_panic(expected = "loaded before it is changed")]
fn a_page_that_is_not_loaded_is_not_changed() {
    PageTable::new(SIZE).map_region(RegionIndex(0), place(0), ONE);
}

/// Pages of single blocks, each some 32 KiB, in a table that knew the whole to be zero.
fn scattered(pages: u32) -> PageTable {
    let mut table = PageTable::new(SIZE);
    table.load_absent(PageIndex(0), PageIndex(pages));
    for region in (0..u64::from(pages * REGIONS_PER_PAGE)).step_by(2) {
        write(&mut table, region, region as u32, BlockRange::new(0, 1));
    }
    table
}

#[test]
fn an_evicted_page_faults_and_is_not_taken_for_zero_again() {
    let mut table = scattered(8);
    let before = table.evictable_bytes();
    let evicted = table.evict(1, |first, _| first == PageIndex(5));
    assert_eq!((evicted.pages, evicted.ranges.as_slice()), (1, &[(PageIndex(5), PageIndex(6))][..]));
    assert_eq!(before - evicted.bytes, table.evictable_bytes());
    assert_eq!(table.evictable_bytes(), table.recounted_bytes());
    assert!(evicted.bytes > 10_000 && table.page(PageIndex(5)).is_none());
    assert!((0..8).filter(|page| *page != 5).all(|page| table.page(PageIndex(page)).is_some()));
    assert_eq!(table.held_pages(), 7);
}

#[test]
fn what_was_looked_up_is_passed_over_once() {
    let mut table = scattered(8);
    // The first time round takes the marks that making the pages left.
    assert_eq!(table.evict(1, |_, _| true).ranges[0].0, PageIndex(0));
    let _ = table.entry(RegionIndex(1024));
    let _ = table.entry(RegionIndex(3 * 1024));
    let next: Vec<_> = (0..3).map(|_| table.evict(1, |_, _| true).ranges[0].0.0).collect();
    assert_eq!(next, [2, 4, 5]);
    let rest: Vec<_> = (0..4).map(|_| table.evict(1, |_, _| true).ranges[0].0.0).collect();
    assert_eq!(rest, [6, 7, 1, 3]);
}

#[test]
fn a_chunk_goes_when_nothing_in_it_is_worth_keeping_and_is_forgotten_as_a_whole() {
    let mut table = scattered(4);
    let entry = MapEntry::full(place(0), SIZE, ONE, ONE);
    table.load(PageIndex(2), &[EntryRun { first: 0, count: 1024, entry }]);
    table.load(PageIndex(3), &[]);
    let mut asked = Vec::new();
    let evicted = table.evict(usize::MAX, |first, end| {
        asked.push((first.0, end.0));
        true
    });
    assert_eq!((evicted.pages, evicted.exhausted), (4, true));
    assert_eq!(asked, [(0, 1), (1, 2), (0, 1024)]);
    assert!((0..4).all(|page| table.page(PageIndex(page)).is_none()), "no range says that these are zero");
    assert_eq!((table.evictable_bytes(), table.recounted_bytes(), table.held_pages()), (0, 0, 0));
}

#[test]
fn a_table_that_may_give_nothing_up_says_so_and_gives_nothing_up() {
    let mut table = scattered(3);
    let before = table.evictable_bytes();
    let evicted = table.evict(usize::MAX, |_, _| false);
    assert_eq!((evicted.bytes, evicted.pages, evicted.exhausted), (0, 0, true));
    assert_eq!(table.evictable_bytes(), before);
    assert!(PageTable::new(SIZE).evict(1, |_, _| true).exhausted);
}

#[test]
fn memory_is_counted_as_it_changes_with_stacks_too() {
    for size in [SIZE, RegionSize::from_bytes(1 << 22).expect("a region size")] {
        let mut table = PageTable::new(size);
        table.load_absent(PageIndex(0), PageIndex(2));
        let at = |region: u32| DiskRegion { logical_disk: LogicalDiskId(1), unit: UnitIndex(region * size.units()) };
        let mut next = 0;
        for generation in (1..6).map(Generation) {
            let frozen = Generation(generation.0 - 1);
            for slot in (0..600).step_by(generation.0 as usize) {
                table.map_region(RegionIndex(slot), at(next), generation);
                table.blocks_written(RegionIndex(slot), at(next), BlockRange::new(0, 2), generation, frozen);
                next += 1;
                assert_eq!(table.evictable_bytes(), table.recounted_bytes());
            }
            for slot in (0..600).step_by(7) {
                let all = BlockRange::new(0, if slot % 2 == 0 { 1 } else { size.blocks() });
                table.blocks_zeroed(RegionIndex(slot), all, generation, frozen, false);
                assert_eq!(table.evictable_bytes(), table.recounted_bytes());
            }
        }
        let copy = table.clone();
        assert_eq!(copy.page(PageIndex(0)).map(PageRef::run_count), table.page(PageIndex(0)).map(PageRef::run_count));
        table.set_run(PageIndex(0), &EntryRun { first: 0, count: 1024, entry: MapEntry::Zero });
        assert_eq!(table.evictable_bytes(), table.recounted_bytes());
    }
}
