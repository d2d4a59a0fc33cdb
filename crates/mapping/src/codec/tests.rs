//! Tests of the codec: sizes, refusals, and round trips of whatever entries there can be.

use super::*;
use crate::fuzzing;
use model::{BlockBitmap, BlockRange, Layer, LayerStack, MapEntry, UnitIndex};
use proptest::prelude::*;

fn place(logical_disk: u32, region: u32, size: RegionSize) -> DiskRegion {
    DiskRegion { logical_disk: LogicalDiskId(logical_disk), unit: UnitIndex(region * size.units()) }
}

fn run(first: u16, count: u16, entry: MapEntry) -> EntryRun {
    EntryRun { first, count, entry }
}

fn layer(place: Place, blocks: BlockBitmap, born: u32, written: u32) -> Layer {
    Layer { place, blocks, born: Generation(born), written: Generation(written) }
}

fn some_blocks(size: RegionSize) -> impl Strategy<Value = BlockBitmap> {
    let blocks = size.blocks();
    prop_oneof![
        Just(BlockBitmap::none(blocks)),
        Just(BlockBitmap::all(blocks)),
        prop::collection::vec((0..blocks, 1..=blocks), 1..12).prop_map(move |ranges| {
            let mut bitmap = BlockBitmap::none(blocks);
            for (start, length) in ranges {
                bitmap.insert(BlockRange::new(start, (start + 1 + length / 8).min(blocks)));
            }
            bitmap
        }),
        any::<[u64; 16]>().prop_map(move |words| {
            let used = if blocks < 64 { (1 << blocks) - 1 } else { u64::MAX };
            let words: Vec<_> = words.iter().map(|word| word & used).take(blocks.div_ceil(64) as usize).collect();
            BlockBitmap::from_words(blocks, &words).expect("no bit beyond the region")
        }),
    ]
}

fn some_place(size: RegionSize) -> impl Strategy<Value = DiskRegion> {
    let regions = u32::MAX / size.units() - 1024;
    let logical_disk = prop_oneof![3 => Just(1_u32), 1 => any::<u32>()];
    let region = prop_oneof![0_u32..64, 0..regions];
    (logical_disk, region).prop_map(move |(logical_disk, region)| place(logical_disk, region, size))
}

fn some_entry(size: RegionSize) -> impl Strategy<Value = MapEntry> {
    let generation = || prop_oneof![3 => Just(1_u32), 1 => 0_u32..9, 1 => any::<u32>()];
    let zero = (some_blocks(size), generation(), generation())
        .prop_map(|(blocks, born, written)| layer(Place::Zero, blocks, born, written));
    let region = move || {
        (some_place(size), some_blocks(size), generation(), generation())
            .prop_map(|(place, blocks, born, written)| layer(Place::Region(place), blocks, born, written))
    };
    let above = prop::collection::vec(prop_oneof![1 => zero, 3 => region()], 0..7);
    let stack = (above, region()).prop_map(|(mut layers, bottom)| {
        layers.push(bottom);
        MapEntry::Layers(LayerStack::from_vec(layers))
    });
    prop_oneof![
        1 => Just(MapEntry::Error),
        1 => Just(MapEntry::Invalid),
        1 => Just(MapEntry::Zero),
        3 => region().prop_map(|layer| MapEntry::Layers(LayerStack::from_iter([layer]))),
        1 => stack,
    ]
}

/// Runs in order, of any entries, with gaps or without.
fn some_runs(size: RegionSize) -> impl Strategy<Value = Vec<EntryRun>> {
    prop::collection::vec((0_u16..3, 1_u16..40, some_entry(size)), 0..40).prop_map(|parts| {
        let mut at = 0;
        let mut runs = Vec::new();
        for (gap, count, entry) in parts {
            let first = at + gap * gap * 7;
            if first + count > 1024 {
                break;
            }
            at = first + count;
            runs.push(run(first, count, entry));
        }
        runs
    })
}

fn some_page() -> impl Strategy<Value = (RegionSize, Vec<EntryRun>)> {
    let size = prop::sample::select(vec![14_u32, 15, 16, 18, 19, 22]);
    let size = size.prop_map(|log2| RegionSize::from_bytes(1 << log2).expect("a region size"));
    size.prop_flat_map(|size| (Just(size), some_runs(size)))
}

proptest! {
    #[test]
    fn a_page_reads_back_as_the_table_holds_it((size, runs) in some_page()) {
        let bytes = encode_page(&runs, size);
        let decoded = decode_page(&bytes, size).expect("what was encoded decodes");
        let held: Vec<_> = TablePage::from_runs(size, &runs).runs().collect();
        prop_assert_eq!(&decoded, &held);
        prop_assert_eq!(encode_page(&decoded, size), bytes);
    }

    #[test]
    fn a_delta_sets_what_it_names_and_nothing_else(
        (size, runs, delta) in some_page().prop_flat_map(|(size, runs)| (Just(size), Just(runs), some_runs(size))),
    ) {
        let bytes = encode_delta(&delta, size);
        let decoded = decode_delta(&bytes, size).expect("what was encoded decodes");
        prop_assert_eq!(encode_delta(&decoded, size), bytes);
        let before = TablePage::from_runs(size, &runs);
        let applied = apply_delta(&runs, &decoded, size);
        prop_assert_eq!(&applied, &apply_delta(&runs, &delta, size));
        let after = TablePage::from_runs(size, &applied);
        let named = TablePage::from_runs(size, &delta);
        for slot in 0..1024_u16 {
            let is_named = delta.iter().any(|run| (run.first..run.first + run.count).contains(&slot));
            let expected = if is_named { &named } else { &before };
            prop_assert_eq!(after.entry(slot).to_entry(size), expected.entry(slot).to_entry(size));
        }
    }

    #[test]
    fn any_bytes_are_refused_or_mean_one_thing(mut bytes in prop::collection::vec(any::<u8>(), 0..200), page in any::<bool>()) {
        if bytes.len() > 1 {
            bytes[1] = if page { PAGE_FORMAT } else { DELTA_FORMAT };
        }
        fuzzing::page(&bytes);
        fuzzing::delta(&bytes);
    }

    #[test]
    fn damaged_bytes_are_refused_or_mean_one_thing(
        (size, runs) in some_page(), at in any::<prop::sample::Index>(), with in any::<u8>(), cut in any::<bool>(),
    ) {
        let choice = (size.log2() - RegionSize::MIN.log2()) as u8;
        for (mut bytes, fuzz) in [
            (encode_page(&runs, size), fuzzing::page as fn(&[u8])),
            (encode_delta(&runs, size), fuzzing::delta),
        ] {
            let at = at.index(bytes.len());
            if cut { bytes.truncate(at) } else { bytes[at] = with }
            bytes.insert(0, choice);
            fuzz(&bytes);
        }
    }
}

#[test]
fn a_contiguous_page_takes_at_most_24_bytes() {
    let size = RegionSize::MIN;
    let usual = run(0, 1024, MapEntry::full(place(2, 70_000, size), size, Generation(5), Generation(5)));
    assert_eq!(encode_page(&[usual], size).len(), 10);
    let far = place(u32::MAX, u32::MAX - 1024, size);
    let worst = run(0, 1024, MapEntry::full(far, size, Generation(u32::MAX), Generation(0)));
    assert_eq!(encode_page(&[worst], size).len(), 24);
}

#[test]
fn a_scattered_partly_written_region_takes_at_most_16_bytes() {
    let size = RegionSize::DEFAULT;
    let runs: Vec<_> = (0..1024_u32)
        .map(|slot| {
            let mut blocks = BlockBitmap::none(16);
            blocks.insert(BlockRange::new(slot % 16, slot % 16 + 1));
            // Anywhere on a logical disk of 64 TiB.
            let at = place(2, slot.wrapping_mul(2_654_435_761) >> 4 & 0x03ff_ffff, size);
            let layers = LayerStack::from_iter([layer(Place::Region(at), blocks, 300, 300)]);
            run(slot as u16, 1, MapEntry::Layers(layers))
        })
        .collect();
    for step in [1, 100] {
        let runs: Vec<_> = runs.iter().step_by(step).cloned().collect();
        let bytes = encode_page(&runs, size).len();
        assert!(bytes <= runs.len() * 9 + 8, "{} runs take {bytes} bytes", runs.len());
    }
    assert!(encode_page(&runs[..1], size).len() <= 16);
}

#[test]
fn an_empty_page_is_its_version_byte() {
    assert_eq!(encode_page(&[], RegionSize::DEFAULT), [PAGE_FORMAT]);
    let zero = run(7, 3, MapEntry::Zero);
    assert_eq!(encode_page(std::slice::from_ref(&zero), RegionSize::DEFAULT), [PAGE_FORMAT]);
    assert_eq!(encode_delta(&[zero], RegionSize::DEFAULT), [DELTA_FORMAT, 7 << 4, 2]);
}

#[test]
fn the_documented_layout_is_the_one_written() {
    let size = RegionSize::DEFAULT;
    let mut blocks = BlockBitmap::none(16);
    blocks.insert(BlockRange::new(1, 3));
    let top = layer(Place::Region(place(9, 300, size)), blocks.clone(), 4, 4);
    let zero = layer(Place::Zero, blocks.clone(), 4, 4);
    let bottom = layer(Place::Region(place(9, 4, size)), BlockBitmap::all(16), 1, 2);
    let runs = [
        run(2, 3, MapEntry::full(place(9, 1, size), size, Generation(1), Generation(2))),
        run(5, 1, MapEntry::Layers(LayerStack::from_iter([layer(Place::Region(place(9, 4, size)), blocks, 1, 2)]))),
        run(9, 1, MapEntry::Layers(LayerStack::from_vec(vec![top, zero, bottom]))),
        run(10, 1014, MapEntry::Error),
    ];
    let expected = [
        0x01, //
        2 << 4 | 3,
        2,
        9,
        1,
        1,
        2, // full, 3 slots, ld-9, region 1, born 1, written one later
        5 | 8,
        0,
        0b110,
        0, // partial, same; the very next region; blocks 1 and 2
        3 << 4 | 7,
        3, // a stack of 3 after 3 zero slots
        2,
        9,
        0xac,
        0x02,
        4,
        0,
        0b110,
        0, // a place
        2 | 4 | 8,
        0b110,
        0, // zeroes, same generations
        1,
        9,
        4,
        1,
        2, // a place wholly held
        1,
        0xf5,
        0x07, // storage lost, 1,014 slots
    ];
    assert_eq!(encode_page(&runs, size), expected);
    assert_eq!(decode_page(&expected, size).as_deref(), Ok(runs.as_slice()));
}

#[test]
fn refusals_name_what_is_wrong() {
    let size = RegionSize::MIN;
    let refused = |bytes: &[u8]| decode_page(bytes, size).expect_err("it is refused");
    assert_eq!(refused(&[]), DecodeError::Truncated { what: "page" });
    assert_eq!(refused(&[0x81]), DecodeError::Format { what: "page", found: 0x81, expected: 0x01 });
    assert_eq!(refused(&[1, 3, 0, 1]), DecodeError::Truncated { what: "a region" });
    assert_eq!(refused(&[1, 1, 0xff, 0x3f]), DecodeError::BeyondPage { end: 8192 });
    assert_eq!(refused(&[1, 3, 0, 1, 0xff, 0xff, 0xff, 0xff, 0x0f, 1, 0]), DecodeError::BeyondDisk { region: 1 << 32 });
    assert_eq!(refused(&[1, 5, 1, 1, 1, 0, 0x1f]), DecodeError::BeyondRegion { blocks: 4 });
    assert_eq!(refused(&[1, 7, 9]), DecodeError::Layers { count: 9, with_storage: 0 });
    assert_eq!(refused(&[1, 7, 1, 0x10]), DecodeError::LayerHead { head: 0x10 });
    assert_eq!(refused(&[1, 7, 1, 4, 1, 0]), DecodeError::ZeroAtBottom);
    assert_eq!(refused(&[1, 11, 0, 0]), DecodeError::NoPlaceBefore);
    assert_eq!(refused(&[1, 0, 3]), DecodeError::NotCanonical, "a page does not spell out zeroes");
    assert_eq!(refused(&[1, 1, 0, 1, 0]), DecodeError::NotCanonical, "two runs that are one");
    assert_eq!(refused(&[1, 9, 0]), DecodeError::NotCanonical, "a meaningless bit");
    let eight: Vec<u8> = [1, 7, 8].into_iter().chain((0..8).flat_map(|at| [1, 1, at, 1, 0])).collect();
    assert_eq!(refused(&eight), DecodeError::Layers { count: 8, with_storage: 8 });
    assert!(refused(&eight).to_string().contains("up to 7 with storage"));
}
