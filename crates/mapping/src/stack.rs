//! How writes and trims change the layers of one region.
//!
//! A layer is *frozen* when a snapshot sees it: when it was born no later than the newest snapshot. The bytes at a frozen
//! place never change. The *entry* of the live end may still drop or hide a frozen layer, because a snapshot has its own
//! version of the page. Every place an entry drops is reported with its birth; whether it is free is not for here to say.
//!
//! Every change ends by settling: a layer of which nothing shows is dropped, and a zero layer keeps only the blocks it
//! hides. `born` and `written` are what later diffs go by, together with one more rule: a block that no layer holds has no
//! `written`, so a diff takes it as changed when the older view had data there.

use model::{BlockBitmap, BlockRange, DiskRegion, Generation, LAYERS_MAX, Layer, LayerStack, Place};
use smallvec::SmallVec;

/// A place that an entry named and names no more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Dropped {
    /// The place.
    pub place: DiskRegion,
    /// When it was allocated: whether snapshots hold it goes by that.
    pub born: Generation,
}

/// Places that a change dropped from its entry, whether snapshots hold them or not.
pub type Drops = SmallVec<[Dropped; 2]>;

/// The most layers with storage one entry may have. One fewer than layers in all, so that a trim, which must not need
/// space, always finds room for its zero layer.
pub const REGION_LAYERS_MAX: usize = LAYERS_MAX - 1;

/// Whether a layer born then is seen by a snapshot.
#[must_use]
pub fn is_frozen(born: Generation, frozen_through: Generation) -> bool {
    born <= frozen_through
}

/// How many layers have storage.
#[must_use]
pub fn region_layers(stack: &LayerStack) -> usize {
    stack.iter().filter(|layer| layer.place != Place::Zero).count()
}

/// When the youngest of its places was allocated; [`Generation`] 0 when it has none.
#[must_use]
pub fn newest(stack: &LayerStack) -> Generation {
    let born = |layer: &Layer| (layer.place != Place::Zero).then_some(layer.born);
    stack.iter().filter_map(born).max().unwrap_or_default()
}

/// The layer that takes writes: the top-most one with storage that no snapshot sees.
#[must_use]
pub fn write_layer(stack: &LayerStack, frozen_through: Generation) -> Option<DiskRegion> {
    stack.iter().find_map(|layer| match layer.place {
        Place::Region(place) if !is_frozen(layer.born, frozen_through) => Some(place),
        _ => None,
    })
}

/// Puts a layer at `place` on top that holds no block yet.
///
/// # Panics
/// When the stack has no room: [`crate::resolve_write`] asks for a merge before that.
pub(crate) fn push_empty(stack: &mut LayerStack, place: DiskRegion, born: Generation, blocks: u32) {
    assert!(region_layers(stack) < REGION_LAYERS_MAX, "a full stack is merged before it gets another layer");
    if stack.len() == LAYERS_MAX {
        join_zero_layers(stack, BlockBitmap::none(blocks), born);
    }
    let layer = Layer { place: Place::Region(place), blocks: BlockBitmap::none(blocks), born, written: born };
    stack.insert(0, layer);
}

/// Takes the layer at `place` away again, which holds no block.
///
/// # Panics
/// When there is none, or it holds a block.
pub(crate) fn remove_empty(stack: &mut LayerStack, place: DiskRegion) {
    let found = stack.iter().position(|layer| layer.place == Place::Region(place) && layer.blocks.is_none());
    let found = found.unwrap_or_else(|| panic!("{place} is no empty layer of its entry"));
    stack.remove(found);
}

/// Records that `blocks` were written at `place`; tells whether that changed anything.
///
/// `written` is raised only when it lies before `born` (a moved layer keeps its old one). Otherwise it already lies after
/// every snapshot, as `born` does, so no diff could tell the difference, and leaving it alone keeps extents whole.
///
/// # Panics
/// When no layer has that place, or a snapshot sees it.
pub(crate) fn blocks_written(
    stack: &mut LayerStack,
    place: DiskRegion,
    blocks: BlockRange,
    generation: Generation,
    frozen_through: Generation,
    drops: &mut Drops,
) -> bool {
    let target = stack.iter().position(|layer| layer.place == Place::Region(place));
    let target = target.unwrap_or_else(|| panic!("blocks were written at {place}, which the entry does not map"));
    let mut changed = false;
    for above in &mut stack[..target] {
        changed |= remove(&mut above.blocks, blocks);
    }
    let layer = &mut stack[target];
    assert!(!is_frozen(layer.born, frozen_through), "SNAPSHOT_NEVER_CHANGES: {place} was written under a snapshot");
    changed |= insert(&mut layer.blocks, blocks);
    if layer.written < layer.born {
        layer.written = generation;
        changed = true;
    }
    if changed {
        settle(stack, write_layer(stack, frozen_through), drops);
    }
    changed
}

/// Makes `blocks` read as zeroes; tells whether that changed anything. With `keep`, the layer that takes writes stays even
/// when it holds no block any more, because a write to it is under way.
pub(crate) fn blocks_zeroed(
    stack: &mut LayerStack,
    blocks: BlockRange,
    generation: Generation,
    frozen_through: Generation,
    keep: bool,
    drops: &mut Drops,
) -> bool {
    let Some(top) = stack.first() else { return false };
    let mut changed = false;
    let (mut covered, mut showing) = (BlockBitmap::none(top.blocks.blocks()), BlockBitmap::none(top.blocks.blocks()));
    for layer in stack.iter_mut() {
        let has_storage = layer.place != Place::Zero;
        if has_storage && !is_frozen(layer.born, frozen_through) {
            changed |= remove(&mut layer.blocks, blocks);
        } else if has_storage {
            let mut visible = layer.blocks.clone();
            visible.subtract(&covered);
            showing.union(&visible);
        }
        covered.union(&layer.blocks);
    }
    keep_only(&mut showing, blocks);
    if !showing.is_none() {
        hide(stack, showing, generation, frozen_through);
        changed = true;
    }
    let kept = if keep { write_layer(stack, frozen_through) } else { None };
    let layers_before = stack.len();
    settle(stack, kept, drops);
    changed || stack.len() != layers_before
}

/// Puts `blocks`, which frozen layers show, into a zero layer above them.
fn hide(stack: &mut LayerStack, blocks: BlockBitmap, generation: Generation, frozen_through: Generation) {
    let above = first_frozen(stack, frozen_through);
    let zero = stack[..above].iter_mut().find(|layer| {
        // A zero layer that a snapshot sees keeps its own `written`, so that a diff does not report its blocks again.
        layer.place == Place::Zero && !is_frozen(layer.born, frozen_through)
    });
    if let Some(layer) = zero {
        // Its `written` lies after every snapshot already, as in `blocks_written`.
        layer.blocks.union(&blocks);
    } else if stack.len() < LAYERS_MAX {
        stack.insert(above, Layer { place: Place::Zero, blocks, born: generation, written: generation });
    } else {
        join_zero_layers(stack, blocks, generation);
    }
}

/// The index of the top-most frozen layer with storage; the stack's length when there is none.
fn first_frozen(stack: &LayerStack, frozen_through: Generation) -> usize {
    let frozen = |layer: &Layer| layer.place != Place::Zero && is_frozen(layer.born, frozen_through);
    stack.iter().position(frozen).unwrap_or(stack.len())
}

/// Makes one zero layer of all there are, with `more` blocks that no other layer above the top-most zero layer holds. A
/// block that shows a zero layer is held by no layer above it, so moving it up hides nothing. Diffs may then report more.
fn join_zero_layers(stack: &mut LayerStack, more: BlockBitmap, generation: Generation) {
    let mut joined = more;
    let mut covered = BlockBitmap::none(joined.blocks());
    for layer in stack.iter() {
        if layer.place == Place::Zero {
            let mut visible = layer.blocks.clone();
            visible.subtract(&covered);
            joined.union(&visible);
        }
        covered.union(&layer.blocks);
    }
    stack.retain(|layer| layer.place != Place::Zero);
    if joined.is_none() {
        return;
    }
    // As low as it may lie: right above the first layer that holds one of its blocks.
    let holds_one = |layer: &Layer| {
        let mut rest = layer.blocks.clone();
        rest.subtract(&joined);
        rest != layer.blocks
    };
    if let Some(above) = stack.iter().position(holds_one) {
        stack.insert(above, Layer { place: Place::Zero, blocks: joined, born: generation, written: generation });
    }
}

/// Drops every layer of which nothing shows, but not the one at `kept`. Then takes from zero layers what hides nothing.
fn settle(stack: &mut LayerStack, kept: Option<DiskRegion>, drops: &mut Drops) {
    let Some(top) = stack.first() else { return };
    let blocks = top.blocks.blocks();
    let mut covered = BlockBitmap::none(blocks);
    stack.retain(|layer| {
        let covered_before = covered.count();
        covered.union(&layer.blocks);
        let place = match layer.place {
            Place::Region(place) => Some(place),
            Place::Zero => None,
        };
        if covered.count() > covered_before || (place.is_some() && place == kept) {
            return true;
        }
        drops.extend(place.map(|place| Dropped { place, born: layer.born }));
        false
    });
    let mut below = BlockBitmap::none(blocks);
    for layer in stack.iter_mut().rev() {
        if layer.place == Place::Zero {
            let mut idle = layer.blocks.clone();
            idle.subtract(&below);
            layer.blocks.subtract(&idle);
        } else {
            below.union(&layer.blocks);
        }
    }
    stack.retain(|layer| layer.place != Place::Zero || !layer.blocks.is_none());
}

/// Adds `range`; tells whether one of its blocks was missing.
fn insert(bitmap: &mut BlockBitmap, range: BlockRange) -> bool {
    if range.count() == 0 || bitmap.run_from(range.start, range.end) == (true, range.end) {
        return false;
    }
    bitmap.insert(range);
    true
}

/// Takes `range` away; tells whether one of its blocks was there.
fn remove(bitmap: &mut BlockBitmap, range: BlockRange) -> bool {
    if range.count() == 0 || bitmap.run_from(range.start, range.end) == (false, range.end) {
        return false;
    }
    bitmap.remove(range);
    true
}

/// Takes everything but `range` away.
fn keep_only(bitmap: &mut BlockBitmap, range: BlockRange) {
    bitmap.remove(BlockRange::new(0, range.start));
    bitmap.remove(BlockRange::new(range.end, bitmap.blocks()));
}

#[cfg(test)]
mod tests;
