//! Tests of resolving: segments, faults, write targets.

use super::*;
use crate::table::PageTable;
use model::{BlockBitmap, ByteRange, EntryRun, Layer, LogicalDiskId, MapEntry, UnitIndex};

const SIZE: RegionSize = RegionSize::DEFAULT;
const KIB: u64 = 1024;

fn place(region: u32) -> DiskRegion {
    DiskRegion { logical_disk: LogicalDiskId(1), unit: UnitIndex(region * SIZE.units()) }
}

fn full(region: u32, born: u32) -> MapEntry {
    MapEntry::full(place(region), SIZE, Generation(born), Generation(born))
}

fn on_disk(byte_offset: u64) -> Source {
    Source::Region { logical_disk: LogicalDiskId(1), byte_offset }
}

fn read(table: &PageTable, start: u64, length: u64) -> Result<Vec<(u64, u64, Source)>, Fault> {
    let mut segments = Segments::new();
    table.resolve_read(ByteRange::new(start, length), &mut segments)?;
    Ok(segments.iter().map(|segment| (segment.volume_offset, segment.length, segment.source)).collect())
}

#[test]
fn a_read_across_pages_of_one_extent_is_one_segment() {
    let mut table = PageTable::new(SIZE);
    table.load(PageIndex(0), &[EntryRun { first: 0, count: 1024, entry: full(100, 1) }]);
    // Other generations and other runs, but the very next place.
    table.load(PageIndex(1), &[EntryRun { first: 0, count: 3, entry: full(1124, 2) }]);
    let start = SIZE.page_bytes() - 10 * KIB - 512;
    let at = place(100).unit.byte_offset() + start;
    assert_eq!(read(&table, start, 100 * KIB), Ok(vec![(start, 100 * KIB, on_disk(at))]));
    let end = SIZE.page_bytes() + 3 * 64 * KIB;
    assert_eq!(
        read(&table, end - 512, 1024),
        Ok(vec![(end - 512, 512, on_disk(place(100).unit.byte_offset() + end - 512)), (end, 512, Source::Zero)])
    );
    assert_eq!(read(&table, start, 0), Ok(vec![]));
}

#[test]
fn one_read_is_served_from_both_locations() {
    let mut table = PageTable::new(SIZE);
    let mut blocks = BlockBitmap::none(16);
    blocks.insert(BlockRange::new(2, 3));
    let top = Layer { place: Place::Region(place(7)), blocks, born: Generation(2), written: Generation(2) };
    let MapEntry::Layers(mut layers) = full(3, 1) else { panic!("a full entry has a layer") };
    layers.insert(0, top);
    table.load(PageIndex(0), &[EntryRun { first: 0, count: 1, entry: MapEntry::Layers(layers) }]);
    let (bottom, top) = (place(3).unit.byte_offset(), place(7).unit.byte_offset());
    assert_eq!(
        read(&table, 7 * KIB, 6 * KIB),
        Ok(vec![
            (7 * KIB, KIB, on_disk(bottom + 7 * KIB)),
            (8 * KIB, 4 * KIB, on_disk(top + 8 * KIB)),
            (12 * KIB, KIB, on_disk(bottom + 12 * KIB)),
        ])
    );
    let view = table.entry(RegionIndex(0));
    assert!(view.block_lives_at(2, place(7)) && !view.block_lives_at(2, place(3)) && view.block_lives_at(3, place(3)));
}

#[test]
fn a_fault_names_the_page_or_region_and_leaves_what_came_before() {
    let mut table = PageTable::new(SIZE);
    table.load(
        PageIndex(0),
        &[
            EntryRun { first: 1, count: 1, entry: MapEntry::Invalid },
            EntryRun { first: 3, count: 2, entry: MapEntry::Error },
        ],
    );
    assert_eq!(read(&table, 0, 65 * KIB), Err(Fault::Invalid(RegionIndex(1))));
    assert_eq!(read(&table, 260 * KIB, 512), Err(Fault::Error(RegionIndex(4))));
    assert_eq!(read(&table, SIZE.page_bytes() - 512, 1024), Err(Fault::NotLoaded(PageIndex(1))));
    let mut statuses = BlockStatuses::new();
    let range = ByteRange::new(SIZE.page_bytes() - 512, 1024);
    assert_eq!(table.block_status(range, &mut statuses, 9), Err(Fault::NotLoaded(PageIndex(1))));
    assert_eq!(statuses.as_slice(), [BlockStatus { length: 512, is_zero: true }]);
    assert_eq!(Fault::Error(RegionIndex(1024)).page(), PageIndex(1));
}

#[test]
fn a_write_goes_to_what_no_snapshot_sees_or_needs_a_place() {
    let region = RegionIndex(1);
    let target = |entry: &MapEntry, frozen_through| {
        let mut table = PageTable::new(SIZE);
        table.load(PageIndex(0), &[EntryRun { first: 1, count: 1, entry: entry.clone() }]);
        resolve_write(region, table.entry(region), Generation(frozen_through))
    };
    assert_eq!(target(&MapEntry::Zero, 0), WriteTarget::NeedsRegion);
    assert_eq!(target(&full(3, 4), 0), WriteTarget::InPlace(place(3)));
    assert_eq!(target(&full(3, 4), 3), WriteTarget::InPlace(place(3)));
    assert_eq!(target(&full(3, 4), 4), WriteTarget::NeedsRegion);
    assert_eq!(target(&MapEntry::Invalid, 0), WriteTarget::Fault(Fault::Invalid(region)));
    assert_eq!(target(&MapEntry::Error, 0), WriteTarget::Fault(Fault::Error(region)));
    let layer = |at: u32| {
        let mut blocks = BlockBitmap::none(16);
        blocks.insert(BlockRange::new(at, 16));
        Layer { place: Place::Region(place(at)), blocks, born: Generation(at + 1), written: Generation(at + 1) }
    };
    let stack: LayerStack = (0..7).rev().map(layer).collect();
    assert_eq!(target(&MapEntry::Layers(stack.clone()), 6), WriteTarget::InPlace(place(6)));
    assert_eq!(target(&MapEntry::Layers(stack.clone()), 7), WriteTarget::NeedsMerge);
    assert_eq!(target(&MapEntry::Layers(stack[1..].into()), 6), WriteTarget::NeedsRegion);
    let none = PageTable::new(SIZE);
    let not_loaded = WriteTarget::Fault(Fault::NotLoaded(PageIndex(0)));
    assert_eq!(resolve_write(region, none.entry(region), Generation(0)), not_loaded);
}

#[test]
fn a_write_to_an_extent_is_one_segment_and_each_new_region_its_own() {
    let mut table = PageTable::new(SIZE);
    table.load(PageIndex(0), &[EntryRun { first: 1022, count: 2, entry: full(100, 2) }]);
    table.load(
        PageIndex(1),
        &[EntryRun { first: 0, count: 1, entry: full(102, 2) }, EntryRun { first: 1, count: 1, entry: full(103, 1) }],
    );
    let start = SIZE.page_bytes() - 2 * SIZE.bytes();
    let mut segments = WriteSegments::new();
    let range = ByteRange::new(start - 70 * KIB, 74 * KIB + 4 * SIZE.bytes());
    assert_eq!(table.resolve_write(range, Generation(1), &mut segments), Ok(()));
    let segment = |volume_offset, length, target| WriteSegment { volume_offset, length, target };
    assert_eq!(
        segments.as_slice(),
        [
            segment(start - 70 * KIB, 6 * KIB, WriteTarget::NeedsRegion),
            segment(start - 64 * KIB, 64 * KIB, WriteTarget::NeedsRegion),
            segment(start, 3 * SIZE.bytes(), WriteTarget::InPlace(place(100))),
            segment(start + 3 * SIZE.bytes(), SIZE.bytes(), WriteTarget::NeedsRegion),
            segment(start + 4 * SIZE.bytes(), 4 * KIB, WriteTarget::NeedsRegion),
        ]
    );
}
