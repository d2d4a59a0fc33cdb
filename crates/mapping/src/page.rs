//! One table page: what it says of its 1,024 regions, as sorted runs. What lies between runs is zero.
//!
//! A run takes 32 bytes. Wholly written neighbours that follow one another on both sides, with equal generations, are one
//! run; a partly written region of at most 64 blocks holds its bitmap inline; only deeper stacks and larger partly written
//! regions go to the heap.

mod nearest;
mod run;

pub use self::nearest::Nearest;
use self::run::{Run, heap_bytes};
use crate::stack::{self, Drops};
use crate::view::{EntryView, Extent, mask_of};
use model::{
    BlockRange, DiskRegion, EntryRun, Generation, LAYERS_MAX, LayerStack, MapEntry, Place, REGIONS_PER_PAGE, RegionSize,
};
use smallvec::SmallVec;
use std::cell::Cell;

const SLOTS: u16 = REGIONS_PER_PAGE as u16;
/// Regions of so many blocks hold a single layer's bitmap in the run.
const INLINE_BLOCKS_MAX: u32 = 64;

/// A table page that is not uniform.
#[derive(Debug)]
pub struct TablePage {
    runs: Vec<Run>,
    /// What the stacks of its runs occupy, in bytes; kept, so that nobody has to walk them.
    stack_bytes: u32,
    size: RegionSize,
    /// Looked up since the table's hand came past.
    pub(crate) referenced: Cell<bool>,
}

const _: () = assert!(std::mem::size_of::<TablePage>() == 32);

impl Clone for TablePage {
    fn clone(&self) -> Self {
        let runs = self.runs.clone();
        // A copy has no idle room, so that its stacks may be smaller.
        Self { stack_bytes: stack_bytes(&runs), runs, size: self.size, referenced: self.referenced.clone() }
    }
}

impl PartialEq for TablePage {
    fn eq(&self, other: &Self) -> bool {
        self.runs == other.runs && self.size == other.size
    }
}

impl Eq for TablePage {}

/// What a page has come to when one value describes it whole.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Uniform {
    Zero,
    Extent(Extent),
}

impl TablePage {
    /// A page of zeroes.
    #[must_use]
    pub fn new(size: RegionSize) -> Self {
        Self::of(Vec::new(), size)
    }

    fn of(runs: Vec<Run>, size: RegionSize) -> Self {
        Self { stack_bytes: stack_bytes(&runs), runs, size, referenced: Cell::new(true) }
    }

    /// The page those runs describe; slots that none names are zero, and a later run wins.
    ///
    /// # Panics
    /// When a run leaves the page or breaks a rule of entries (the decoder refuses such runs).
    #[must_use]
    pub fn from_runs(size: RegionSize, runs: &[EntryRun]) -> Self {
        let mut page = Self::new(size);
        runs.iter().for_each(|run| page.set_run(run));
        page
    }

    pub(crate) fn from_extent(size: RegionSize, extent: Extent) -> Self {
        Self::of(vec![Run::Full { first: 0, count: SLOTS, extent }], size)
    }

    pub(crate) fn uniform(&self) -> Option<Uniform> {
        match self.runs.as_slice() {
            [] => Some(Uniform::Zero),
            [Run::Full { first: 0, count: SLOTS, extent }] => Some(Uniform::Extent(*extent)),
            _ => None,
        }
    }

    /// How many runs describe it.
    #[must_use]
    pub fn run_count(&self) -> usize {
        self.runs.len()
    }

    /// What it occupies on the heap, in bytes: its runs, and the stacks of those that have one.
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        self.runs.capacity() * std::mem::size_of::<Run>() + self.stack_bytes as usize
    }

    /// The same, counted anew: what [`TablePage::heap_bytes`] must come to.
    #[must_use]
    pub fn recounted_heap_bytes(&self) -> usize {
        self.runs.capacity() * std::mem::size_of::<Run>() + stack_bytes(&self.runs) as usize
    }

    /// What it says of `slot`.
    #[must_use]
    pub fn entry(&self, slot: u16) -> EntryView<'_> {
        self.span(slot).0
    }

    /// What it says of `slot`, and for how many slots from there on that holds (a full region's place moving along).
    #[must_use]
    pub fn span(&self, slot: u16) -> (EntryView<'_>, u32) {
        match self.find(slot) {
            Ok(index) => {
                let run = &self.runs[index];
                (run.view(slot, self.size), u32::from(run.end() - slot))
            }
            Err(index) => {
                let end = self.runs.get(index).map_or(SLOTS, Run::first);
                (EntryView::Zero, u32::from(end - slot))
            }
        }
    }

    /// The runs, in order; zero slots are left out.
    pub fn runs(&self) -> impl Iterator<Item = EntryRun> + '_ {
        self.runs_between(0, SLOTS).filter(|run| run.entry != MapEntry::Zero)
    }

    /// The runs of the slots `first..end`, zero ones too: what a delta of those slots says.
    pub fn runs_between(&self, first: u16, end: u16) -> impl Iterator<Item = EntryRun> + '_ {
        runs_between(self.size, first..end, |slot| self.span(slot))
    }

    /// Sets the entry of `slot`.
    ///
    /// # Panics
    /// As [`TablePage::from_runs`].
    pub fn set(&mut self, slot: u16, entry: MapEntry) {
        self.set_run(&EntryRun { first: slot, count: 1, entry });
    }

    /// Sets the entries of a run.
    ///
    /// # Panics
    /// As [`TablePage::from_runs`].
    pub fn set_run(&mut self, run: &EntryRun) {
        let (first, count) = (run.first, run.count);
        assert!(count > 0 && u32::from(first) + u32::from(count) <= REGIONS_PER_PAGE, "a run stays within its page");
        let end = first + count;
        match &run.entry {
            MapEntry::Zero => self.put(first, end, None),
            MapEntry::Error => self.put(first, end, Some(Run::Error { first, count })),
            MapEntry::Invalid => self.put(first, end, Some(Run::Invalid { first, count })),
            MapEntry::Layers(layers) => {
                check(layers, self.size);
                if let Some(extent) = full_extent(layers) {
                    self.put(first, end, Some(Run::Full { first, count, extent }));
                    return;
                }
                for index in 0..count {
                    let layers = advance(layers, u32::from(index), self.size);
                    self.put_stack(first + index, layers);
                }
            }
        }
    }

    /// Puts a layer at `place` that holds no block yet on top of the entry of `slot`.
    ///
    /// # Panics
    /// When the entry is invalid or in error, or its stack is full.
    pub fn map_region(&mut self, slot: u16, place: DiskRegion, born: Generation) {
        if self.size.blocks() <= INLINE_BLOCKS_MAX && self.find(slot).is_err() {
            let extent = Extent { place, born, written: born };
            return self.put(slot, slot + 1, Some(Run::Partial { first: slot, extent, blocks: 0 }));
        }
        let blocks = self.size.blocks();
        self.edit(slot, |layers| stack::push_empty(layers, place, born, blocks));
    }

    /// Takes the layer at `place`, which holds no block, off the entry of `slot`.
    ///
    /// # Panics
    /// When the entry has no such layer.
    pub fn unmap_region(&mut self, slot: u16, place: DiskRegion) {
        self.edit(slot, |layers| stack::remove_empty(layers, place));
    }

    /// Records that `blocks` of `slot` were written at `place`; tells whether that changed the entry.
    ///
    /// # Panics
    /// When the entry has no layer there, or a snapshot sees it.
    pub fn insert_blocks(
        &mut self,
        slot: u16,
        place: DiskRegion,
        blocks: BlockRange,
        generation: Generation,
        frozen_through: Generation,
        drops: &mut Drops,
    ) -> bool {
        let size = self.size;
        let found = self.find(slot);
        if let Ok(index) = found
            && let Run::Full { first, extent, .. } = &self.runs[index]
            && extent.skip(u32::from(slot - first), size).place == place
            && extent.written >= extent.born
        {
            let frozen = stack::is_frozen(extent.born, frozen_through);
            assert!(!frozen, "SNAPSHOT_NEVER_CHANGES: {place} was written under a snapshot");
            return false;
        }
        if let Ok(index) = found
            && let Run::Partial { first, extent, blocks: word } = &mut self.runs[index]
            && extent.place == place
            && extent.written >= extent.born
        {
            assert!(blocks.start <= blocks.end && blocks.end <= size.blocks(), "{blocks:?} leaves its region");
            let frozen = stack::is_frozen(extent.born, frozen_through);
            assert!(!frozen, "SNAPSHOT_NEVER_CHANGES: {place} was written under a snapshot");
            let before = *word;
            *word |= if blocks.count() == 0 { 0 } else { mask_of(blocks.start, blocks.end) };
            let changed = *word != before;
            if *word == mask_of(0, size.blocks()) {
                self.runs[index] = Run::Full { first: *first, count: 1, extent: *extent };
                self.fuse_around(index);
            }
            return changed;
        }
        self.edit(slot, |layers| stack::blocks_written(layers, place, blocks, generation, frozen_through, drops))
    }

    /// Makes `blocks` of `slot` read as zeroes; tells whether that changed the entry. See [`crate::PageTable::blocks_zeroed`].
    ///
    /// # Panics
    /// When the entry is invalid or in error.
    pub fn remove_blocks(
        &mut self,
        slot: u16,
        blocks: BlockRange,
        generation: Generation,
        frozen_through: Generation,
        keep: bool,
        drops: &mut Drops,
    ) -> bool {
        if self.find(slot).is_err() {
            return false;
        }
        self.edit(slot, |layers| stack::blocks_zeroed(layers, blocks, generation, frozen_through, keep, drops))
    }

    /// Changes the layers of `slot` by `change`.
    fn edit<R>(&mut self, slot: u16, change: impl FnOnce(&mut LayerStack) -> R) -> R {
        let found = self.find(slot);
        if let Ok(index) = found
            && let Run::Stack { newest, layers, .. } = &mut self.runs[index]
        {
            let before = heap_bytes(layers);
            let result = change(layers);
            *newest = stack::newest(layers);
            let smaller = (!stays_boxed(layers, self.size)).then(|| std::mem::take(&mut **layers));
            let after = heap_bytes(layers);
            self.stack_bytes = self.stack_bytes - before + after;
            if let Some(layers) = smaller {
                self.put_stack(slot, layers);
            }
            return result;
        }
        let mut layers = match found {
            Err(_) => LayerStack::new(),
            Ok(index) => {
                let view = self.runs[index].view(slot, self.size);
                assert!(
                    !matches!(view, EntryView::Error | EntryView::Invalid),
                    "an entry without layers is not changed"
                );
                view.to_stack(self.size)
            }
        };
        let result = change(&mut layers);
        self.put_stack(slot, layers);
        result
    }

    /// Sets the entry of `slot` to these layers, in the smallest form.
    fn put_stack(&mut self, slot: u16, layers: LayerStack) {
        let run = match layers.as_slice() {
            [] => None,
            [layer] => match layer.place {
                Place::Region(place) => {
                    let extent = Extent { place, born: layer.born, written: layer.written };
                    Some(if layer.blocks.is_all() {
                        Run::Full { first: slot, count: 1, extent }
                    } else if self.size.blocks() <= INLINE_BLOCKS_MAX {
                        Run::Partial { first: slot, extent, blocks: layer.blocks.words()[0] }
                    } else {
                        Run::Stack { first: slot, newest: stack::newest(&layers), layers: Box::new(layers) }
                    })
                }
                Place::Zero => unreachable!("a zero layer that hides nothing is dropped"),
            },
            _ => Some(Run::Stack { first: slot, newest: stack::newest(&layers), layers: Box::new(layers) }),
        };
        self.put(slot, slot + 1, run);
    }

    /// The run that holds `slot`, or where it would go.
    fn find(&self, slot: u16) -> Result<usize, usize> {
        debug_assert!(slot < SLOTS);
        let (slot_index, length) = (usize::from(slot), self.runs.len());
        // Each run has a slot of its own, which bounds how many start up to here from both sides: on a page of single
        // regions that leaves next to nothing to search.
        let low = (length + slot_index).saturating_sub(usize::from(SLOTS) - 1);
        let high = (slot_index + 1).min(length);
        let started = low + self.runs[low..high].partition_point(|run| run.first() <= slot);
        match started.checked_sub(1) {
            Some(index) if self.runs[index].end() > slot => Ok(index),
            _ => Err(started),
        }
    }

    /// Makes the slots `first..end` say `run` (which names exactly those), or zero.
    fn put(&mut self, first: u16, end: u16, run: Option<Run>) {
        let low = self.find(first).unwrap_or_else(|index| index);
        let high = low + self.runs[low..].partition_point(|run| run.first() < end);
        if low == high
            && let Some(run) = run
        {
            self.reserve(1);
            self.stack_bytes += run.stack_bytes();
            self.runs.insert(low, run);
            return self.fuse_around(low);
        }
        if high - low == 1 && self.runs[low].first() == first && self.runs[low].end() == end {
            self.stack_bytes -= self.runs[low].stack_bytes();
            match run {
                Some(run) => {
                    self.stack_bytes += run.stack_bytes();
                    self.runs[low] = run;
                    self.fuse_around(low);
                }
                None => {
                    self.runs.remove(low);
                    self.shrink();
                }
            }
            return;
        }
        self.replace(low..high, first, end, run);
    }

    /// Puts `run` over the slots `first..end` of the runs at `range`, which hold more than exactly those.
    fn replace(&mut self, range: std::ops::Range<usize>, first: u16, end: u16, run: Option<Run>) {
        let (size, at) = (self.size, range.start);
        let old = &self.runs[range.clone()];
        let left = old.first().filter(|run| run.first() < first).map(|run| run.part(run.first(), first, size));
        let right = old.last().filter(|run| run.end() > end).map(|run| run.part(end, run.end(), size));
        let at = at + usize::from(left.is_some());
        let is_some = run.is_some();
        let pieces: SmallVec<[Run; 3]> = [left, run, right].into_iter().flatten().collect();
        self.stack_bytes = self.stack_bytes - stack_bytes(old) + stack_bytes(&pieces);
        self.reserve(pieces.len().saturating_sub(range.len()));
        self.runs.splice(range, pieces);
        if is_some {
            self.fuse_around(at);
        }
        self.shrink();
    }

    /// Makes room for so many runs more.
    fn reserve(&mut self, more: usize) {
        let length = self.runs.len();
        if length + more > self.runs.capacity() {
            // Half as much again, not twice: pages are many, and most stop growing. No page has more runs than slots.
            let most = usize::from(SLOTS).saturating_sub(length);
            self.runs.reserve_exact((length / 2).max(2).min(most).max(more));
        }
    }

    /// Gives all idle memory back: most pages that are loaded do not grow.
    pub(crate) fn fit(&mut self) {
        self.runs.shrink_to_fit();
    }

    /// Gives memory back when most of it is idle.
    fn shrink(&mut self) {
        if self.runs.capacity() > 16 && self.runs.len() < self.runs.capacity() / 4 {
            self.runs.shrink_to(self.runs.len() * 2);
        }
    }

    fn fuse_around(&mut self, index: usize) {
        self.fuse(index);
        if index > 0 {
            self.fuse(index - 1);
        }
    }

    /// Fuses the run at `index` with the next, if they belong together.
    fn fuse(&mut self, index: usize) {
        let (head, tail) = self.runs.split_at_mut(index + 1);
        if let (Some(run), Some(next)) = (head.last_mut(), tail.first())
            && run.absorb(next, self.size)
        {
            self.runs.remove(index + 1);
            self.shrink();
        }
    }
}

fn stack_bytes(runs: &[Run]) -> u32 {
    runs.iter().map(Run::stack_bytes).sum()
}

/// The runs of `slots`, zero ones too, of a page that `span` looks up.
pub(crate) fn runs_between<'a>(
    size: RegionSize,
    slots: std::ops::Range<u16>,
    span: impl Fn(u16) -> (EntryView<'a>, u32),
) -> impl Iterator<Item = EntryRun> {
    let mut at = slots.start;
    std::iter::from_fn(move || {
        if at >= slots.end {
            return None;
        }
        let (view, count) = span(at);
        let count = (count as u16).min(slots.end - at);
        let entry = view.to_entry(size).expect("a loaded page knows each of its entries");
        at += count;
        Some(EntryRun { first: at - count, count, entry })
    })
}

/// The extent a lone, wholly held layer starts.
pub(crate) fn full_extent(layers: &LayerStack) -> Option<Extent> {
    match layers.as_slice() {
        [layer] => match layer.place {
            Place::Region(place) if layer.blocks.is_all() => {
                Some(Extent { place, born: layer.born, written: layer.written })
            }
            _ => None,
        },
        _ => None,
    }
}

/// The layers of the region `count` further in a run that starts with `layers`.
pub(crate) fn advance(layers: &LayerStack, count: u32, size: RegionSize) -> LayerStack {
    let mut layers = layers.clone();
    for layer in &mut layers {
        if let Place::Region(place) = &mut layer.place {
            *place = place.offset_by(count, size);
        }
    }
    layers
}

/// Whether no smaller form than a box holds these layers.
fn stays_boxed(layers: &LayerStack, size: RegionSize) -> bool {
    match layers.as_slice() {
        [] => false,
        [layer] => layer.place != Place::Zero && size.blocks() > INLINE_BLOCKS_MAX && !layer.blocks.is_all(),
        _ => true,
    }
}

/// The rules every stack keeps, wherever it comes from.
pub(crate) fn check(layers: &LayerStack, size: RegionSize) {
    assert!((1..=LAYERS_MAX).contains(&layers.len()), "an entry has 1 to {LAYERS_MAX} layers, not {}", layers.len());
    let room = stack::region_layers(layers) <= stack::REGION_LAYERS_MAX;
    assert!(room, "an entry has at most {} layers with storage", stack::REGION_LAYERS_MAX);
    let has_bottom = layers.last().is_some_and(|layer| layer.place != Place::Zero);
    assert!(has_bottom, "the bottom layer of an entry has storage: a zero layer there hides nothing");
    let fits = layers.iter().all(|layer| layer.blocks.blocks() == size.blocks());
    assert!(fits, "a layer's bitmap is that of a region of {} blocks", size.blocks());
}

#[cfg(test)]
mod tests;
