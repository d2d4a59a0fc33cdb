//! Tests of layer stacks: what each change leaves of them.

use super::*;
use model::{LogicalDiskId, UnitIndex};

const BLOCKS: u32 = 16;

fn place(region: u32) -> DiskRegion {
    DiskRegion { logical_disk: LogicalDiskId(1), unit: UnitIndex(region * 4) }
}

fn bits(start: u32, end: u32) -> BlockBitmap {
    let mut bitmap = BlockBitmap::none(BLOCKS);
    bitmap.insert(BlockRange::new(start, end));
    bitmap
}

fn region(at: u32, blocks: BlockBitmap, born: u32) -> Layer {
    Layer { place: Place::Region(place(at)), blocks, born: Generation(born), written: Generation(born) }
}

fn zero(blocks: BlockBitmap, born: u32) -> Layer {
    Layer { place: Place::Zero, blocks, born: Generation(born), written: Generation(born) }
}

fn stack(layers: impl Into<Vec<Layer>>) -> LayerStack {
    LayerStack::from_vec(layers.into())
}

/// Zeroes blocks at generation 2 over a snapshot at 1; what was dropped.
fn trim(layers: &mut LayerStack, start: u32, end: u32, keep: bool) -> Vec<DiskRegion> {
    let mut drops = Drops::new();
    blocks_zeroed(layers, BlockRange::new(start, end), Generation(2), Generation(1), keep, &mut drops);
    drops.iter().map(|dropped| dropped.place).collect()
}

/// Writes blocks at generation 2 over a snapshot at 1; what was dropped.
fn write(layers: &mut LayerStack, at: u32, start: u32, end: u32) -> Vec<DiskRegion> {
    let mut drops = Drops::new();
    blocks_written(layers, place(at), BlockRange::new(start, end), Generation(2), Generation(1), &mut drops);
    drops.iter().map(|dropped| dropped.place).collect()
}

#[test]
fn a_first_write_over_a_snapshot_moves_only_its_blocks() {
    let mut layers = stack([region(1, bits(0, 16), 1)]);
    push_empty(&mut layers, place(2), Generation(2), BLOCKS);
    assert!(write(&mut layers, 2, 4, 5).is_empty());
    assert_eq!(layers, stack([region(2, bits(4, 5), 2), region(1, bits(0, 16), 1)]));
}

#[test]
fn a_layer_that_covers_what_lies_below_drops_it_whether_a_snapshot_sees_it_or_not() {
    let mut layers = stack([region(2, bits(4, 16), 2), region(1, bits(0, 16), 1)]);
    assert_eq!(write(&mut layers, 2, 0, 4), [place(1)]);
    assert_eq!(layers, stack([region(2, bits(0, 16), 2)]));

    let mut moving = stack([region(3, bits(1, 5), 2), region(2, bits(0, 6), 2)]);
    assert!(write(&mut moving, 3, 0, 1).is_empty());
    assert_eq!(write(&mut moving, 3, 5, 6), [place(2)], "a move is over once the source's blocks are all copied");
    assert_eq!(moving, stack([region(3, bits(0, 6), 2)]));
}

#[test]
fn a_trim_over_a_snapshot_hides_its_blocks_without_storage() {
    let mut layers = stack([region(1, bits(0, 8), 1)]);
    assert!(trim(&mut layers, 6, 12, false).is_empty());
    assert_eq!(layers, stack([zero(bits(6, 8), 2), region(1, bits(0, 8), 1)]));
    trim(&mut layers, 5, 6, false);
    assert_eq!(layers.len(), 2, "the zero layer grows");
    assert_eq!(trim(&mut layers, 0, 5, false), [place(1)]);
    assert!(layers.is_empty(), "with everything hidden nothing is left");
}

#[test]
fn a_trim_of_all_that_was_written_since_the_snapshot_drops_its_place() {
    let mut layers = stack([region(2, bits(4, 6), 2), region(1, bits(0, 16), 1)]);
    assert_eq!(trim(&mut layers, 4, 6, false), [place(2)]);
    assert_eq!(layers, stack([zero(bits(4, 6), 2), region(1, bits(0, 16), 1)]));
}

#[test]
fn a_trim_under_a_write_keeps_the_place_the_write_goes_to() {
    let mut layers = stack([region(2, bits(4, 6), 2), region(1, bits(0, 16), 1)]);
    assert_eq!(trim(&mut layers, 0, 16, true), [place(1)]);
    assert_eq!(layers, stack([region(2, bits(0, 0), 2)]));
    assert_eq!(trim(&mut layers, 0, 16, false), [place(2)]);
    assert!(layers.is_empty());
}

#[test]
fn a_write_over_trimmed_blocks_shows_through_the_zero_layer() {
    let mut layers = stack([zero(bits(0, 8), 2), region(2, bits(8, 9), 2), region(1, bits(0, 16), 1)]);
    write(&mut layers, 2, 4, 8);
    assert_eq!(layers, stack([zero(bits(0, 4), 2), region(2, bits(4, 9), 2), region(1, bits(0, 16), 1)]));
}

#[test]
fn a_zero_layer_a_snapshot_sees_is_left_alone_while_there_is_room() {
    let mut layers = stack([zero(bits(0, 4), 1), region(1, bits(0, 16), 1)]);
    trim(&mut layers, 4, 6, false);
    assert_eq!(layers, stack([zero(bits(0, 4), 1), zero(bits(4, 6), 2), region(1, bits(0, 16), 1)]));
}

#[test]
fn a_trim_finds_room_in_the_fullest_stack() {
    let full: Vec<_> = (0..REGION_LAYERS_MAX as u32).map(|at| region(at, bits(at * 2, 16), 1)).rev().collect();
    let mut layers = stack(full);
    trim(&mut layers, 1, 2, false);
    assert_eq!(layers.len(), LAYERS_MAX);
    layers.iter_mut().filter(|layer| layer.place == Place::Zero).for_each(|layer| layer.born = Generation(1));
    trim(&mut layers, 3, 4, false);
    assert!(layers.len() <= LAYERS_MAX);
    for block in 0..BLOCKS {
        let shown = layers.iter().find(|layer| layer.blocks.contains(block));
        let is_zero = shown.is_some_and(|layer| layer.place == Place::Zero);
        assert_eq!(is_zero, block == 1 || block == 3, "block {block}");
    }
}

#[test]
fn joining_zero_layers_hides_nothing_written_above_them() {
    // The lower zero layer holds block 0, which the top layer has written since.
    let mut layers: Vec<_> = (1..6).map(|at| region(at, bits(at * 2, 16), 1)).rev().collect();
    layers.insert(0, zero(bits(14, 15), 1));
    layers.insert(0, region(9, bits(0, 1), 1));
    layers.insert(2, zero(bits(0, 3), 1));
    let mut layers = stack(layers);
    assert_eq!(layers.len(), LAYERS_MAX);
    push_empty(&mut layers, place(10), Generation(2), BLOCKS);
    assert_eq!(layers.len(), LAYERS_MAX);
    let shown = |block| layers.iter().find(|layer| layer.blocks.contains(block)).map(|layer| layer.place);
    assert_eq!(shown(0), Some(Place::Region(place(9))));
    assert_eq!((shown(2), shown(14)), (Some(Place::Zero), Some(Place::Zero)));
}

#[test]
fn writes_go_to_the_top_most_layer_no_snapshot_sees() {
    let layers =
        stack([zero(bits(0, 1), 3), region(3, bits(1, 2), 3), region(2, bits(2, 3), 2), region(1, bits(3, 4), 1)]);
    assert_eq!(write_layer(&layers, Generation(0)), Some(place(3)));
    assert_eq!(write_layer(&layers, Generation(2)), Some(place(3)));
    assert_eq!(write_layer(&layers, Generation(3)), None);
}

#[test]
fn a_place_that_was_mapped_in_vain_is_taken_off_again() {
    let below = stack([zero(bits(0, 4), 1), region(1, bits(0, 16), 1)]);
    let mut layers = below.clone();
    push_empty(&mut layers, place(2), Generation(2), BLOCKS);
    remove_empty(&mut layers, place(2));
    assert_eq!(layers, below);
}
