//! A volume's volatile table at an agent: page index to page without hashing, and the changes an agent makes.
//!
//! Pages lie in chunks of 1,024 slots, grown on first use, under one array of chunks: a lookup is two indexed loads and,
//! on a page that is not uniform, a short search. A page that is wholly one extent, or wholly zero, takes its slot and
//! nothing else, so a contiguously written TiB (64 KiB regions) takes 16 chunks, 384 KiB.
//!
//! What it occupies is counted as it changes. Lookups leave a mark on the page and its chunk, by which a table that is too
//! large tells what to evict.

mod chunk;
mod evict;
mod page_ref;

use self::chunk::{CHUNK_PAGES, Chunk, PageSlot};
pub use self::evict::Evicted;
use self::page_ref::PageContent;
pub use self::page_ref::PageRef;
use crate::page::{TablePage, Uniform};
use crate::stack::{self, Drops};
use crate::view::EntryView;
use model::{
    BlockRange, DiskRegion, EntryRun, Generation, MapEntry, PageIndex, REGIONS_PER_PAGE, RegionIndex, RegionSize,
    UnitRun,
};
use std::collections::BTreeMap;

/// What a range of pages known to be zero takes in its tree, in bytes: two indices and its part of a node.
const ABSENT_RANGE_BYTES: usize = 32;

/// What changed when blocks were written.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct WriteOutcome {
    /// Whether the entry changed, so that it must be committed.
    pub changed: bool,
    /// Places that the entry named and names no more.
    pub drops: Drops,
}

/// What changed when blocks were zeroed.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ZeroOutcome {
    /// Whether the entry changed, so that it must be committed.
    pub changed: bool,
    /// Places that the entry named and names no more.
    pub drops: Drops,
}

/// The table of one volume at one agent.
#[derive(Clone, Debug)]
pub struct PageTable {
    size: RegionSize,
    chunks: Vec<Option<Chunk>>,
    /// How many of them there are.
    chunk_count: usize,
    /// What pages occupy beside their slots, in bytes.
    page_bytes: usize,
    /// Pages with a slot that says something.
    held_pages: usize,
    /// Where eviction goes on, and how many slots it has passed since it last evicted something.
    hand: u32,
    passed: usize,
    /// Ranges of pages (first to end) known to be wholly zero without a slot of their own. A slot that is loaded wins.
    absent: BTreeMap<u32, u32>,
}

impl PageTable {
    /// A table of which no page is loaded, of a volume with regions of `size`.
    #[must_use]
    pub fn new(size: RegionSize) -> Self {
        Self {
            size,
            chunks: Vec::new(),
            chunk_count: 0,
            page_bytes: 0,
            held_pages: 0,
            hand: 0,
            passed: 0,
            absent: BTreeMap::new(),
        }
    }

    /// The volume's region size.
    #[must_use]
    pub fn region_size(&self) -> RegionSize {
        self.size
    }

    /// The page, if it is loaded; else the caller faults it in.
    #[must_use]
    pub fn page(&self, page: PageIndex) -> Option<PageRef<'_>> {
        let content = match self.slot(page) {
            Some(PageSlot::Zero) => PageContent::Zero,
            Some(PageSlot::Extent(extent)) => PageContent::Extent(*extent),
            Some(PageSlot::Runs(runs)) => {
                chunk::mark(&runs.referenced);
                PageContent::Runs(runs)
            }
            Some(PageSlot::NotLoaded) | None => {
                self.absent_end(page)?;
                PageContent::Zero
            }
        };
        Some(PageRef { content, size: self.size })
    }

    /// What the table says of `region`.
    #[must_use]
    pub fn entry(&self, region: RegionIndex) -> EntryView<'_> {
        self.page(region.page()).map_or(EntryView::NotLoaded, |page| page.entry(region.slot()))
    }

    /// What the table says of `region`, and for how many regions from there on (at least one) that holds, a full region's
    /// place moving along. Neighbouring spans may go on in one another.
    #[must_use]
    pub fn span(&self, region: RegionIndex) -> (EntryView<'_>, u64) {
        let page = region.page();
        match self.slot(page) {
            Some(PageSlot::NotLoaded) | None => match self.absent_end(page) {
                Some(end) => (EntryView::Zero, self.next_loaded(page, end).first_region().0 - region.0),
                None => (EntryView::NotLoaded, PageIndex(page.0 + 1).first_region().0 - region.0),
            },
            Some(PageSlot::Zero) => (EntryView::Zero, u64::from(REGIONS_PER_PAGE) - u64::from(region.slot())),
            Some(PageSlot::Extent(extent)) => {
                let content = PageContent::Extent(*extent);
                let (view, count) = PageRef { content, size: self.size }.span(region.slot());
                (view, u64::from(count))
            }
            Some(PageSlot::Runs(runs)) => {
                chunk::mark(&runs.referenced);
                let (view, count) = runs.span(region.slot());
                (view, u64::from(count))
            }
        }
    }

    /// Takes a page in, as the controller sent it; what was held of it before is forgotten.
    ///
    /// # Panics
    /// When a run leaves the page or breaks a rule of entries (the decoder refuses such runs).
    pub fn load(&mut self, page: PageIndex, runs: &[EntryRun]) {
        let mut loaded = TablePage::from_runs(self.size, runs);
        loaded.fit();
        let loaded = settled(loaded);
        self.put(page, loaded);
    }

    /// Takes in that the pages `first..end` are wholly zero, at the cost of one range. Pages of it that are loaded stay
    /// what they are.
    pub fn load_absent(&mut self, first: PageIndex, end: PageIndex) {
        if first >= end {
            return;
        }
        let (mut start, mut stop) = (first.0, end.0);
        // One range for all that touch it.
        while let Some((&from, &to)) = self.absent.range(..=stop).next_back() {
            if to < start {
                break;
            }
            self.absent.remove(&from);
            (start, stop) = (start.min(from), stop.max(to));
        }
        self.absent.insert(start, stop);
    }

    /// Forgets a page: the next lookup in it faults.
    pub fn unload(&mut self, page: PageIndex) {
        if self.slot(page).is_some() {
            self.put(page, PageSlot::NotLoaded);
        }
        self.forget_absent_between(page.0, page.0 + 1);
    }

    /// Puts a layer at `place` that holds no block yet on top of the region's entry.
    ///
    /// # Panics
    /// When the page is not loaded, the entry is invalid or in error, or its stack is full
    /// ([`crate::WriteTarget::NeedsMerge`]).
    pub fn map_region(&mut self, region: RegionIndex, place: DiskRegion, born: Generation) {
        self.edit(region, |page| page.map_region(region.slot(), place, born));
    }

    /// Takes back what [`PageTable::map_region`] did, when nothing was written there.
    ///
    /// # Panics
    /// When the page is not loaded, or the entry has no layer at `place` or one that holds a block.
    pub fn unmap_region(&mut self, region: RegionIndex, place: DiskRegion) {
        self.edit(region, |page| page.unmap_region(region.slot(), place));
    }

    /// Records that `blocks` of the region were written at `place`, a layer of its entry. Layers of which nothing shows
    /// any more are dropped; a region wholly at one place joins its neighbours' extent.
    ///
    /// # Panics
    /// When the page is not loaded, the entry has no layer there, or a snapshot sees that layer.
    pub fn blocks_written(
        &mut self,
        region: RegionIndex,
        place: DiskRegion,
        blocks: BlockRange,
        generation: Generation,
        frozen_through: Generation,
    ) -> WriteOutcome {
        if let Some(PageSlot::Extent(extent)) = self.slot(region.page())
            && extent.written >= extent.born
            && !stack::is_frozen(extent.born, frozen_through)
            && extent.skip(u32::from(region.slot()), self.size).place == place
        {
            return WriteOutcome::default();
        }
        let mut drops = Drops::new();
        let changed = self.edit(region, |page| {
            page.insert_blocks(region.slot(), place, blocks, generation, frozen_through, &mut drops)
        });
        WriteOutcome { changed, drops }
    }

    /// Makes `blocks` of the region read as zeroes. Where a snapshot's layer would show through, a zero layer hides it;
    /// storage of which no block is left is dropped. With `keep`, the layer that takes writes stays mapped even without a
    /// block, because a write to it is under way.
    ///
    /// # Panics
    /// When the page is not loaded, or the entry is invalid or in error.
    pub fn blocks_zeroed(
        &mut self,
        region: RegionIndex,
        blocks: BlockRange,
        generation: Generation,
        frozen_through: Generation,
        keep: bool,
    ) -> ZeroOutcome {
        let loaded = self.page(region.page()).expect("a page is loaded before it is changed");
        if loaded.entry(region.slot()) == EntryView::Zero {
            return ZeroOutcome::default();
        }
        let mut drops = Drops::new();
        let changed = self.edit(region, |page| {
            page.remove_blocks(region.slot(), blocks, generation, frozen_through, keep, &mut drops)
        });
        ZeroOutcome { changed, drops }
    }

    /// Zeroes as much as it can of the regions `region..region + count` in one step: the part at their start that is one
    /// extent, within one page. The units it dropped and when they were allocated; `None` when the first region is not
    /// such, and takes [`PageTable::blocks_zeroed`]. For trims of long ranges, when no write to them is under way.
    /// (Nothing lies below a region that is part of an extent, so that nothing has to be hidden.)
    ///
    /// # Panics
    /// When the page is not loaded.
    pub fn extent_zeroed(&mut self, region: RegionIndex, count: u64) -> Option<(UnitRun, Generation)> {
        let loaded = self.page(region.page()).expect("a page is loaded before it is changed");
        let EntryView::Full { place, born, run_left, .. } = loaded.entry(region.slot()) else { return None };
        if count == 0 {
            return None;
        }
        let regions = u64::from(run_left).min(count) as u16;
        self.set_run(region.page(), &EntryRun { first: region.slot(), count: regions, entry: MapEntry::Zero });
        let units = u32::from(regions) * self.size.units();
        Some((UnitRun { logical_disk: place.logical_disk, start: place.unit, count: units }, born))
    }

    /// Sets the region's entry: what a merge or a move comes to, or the controller says.
    ///
    /// # Panics
    /// When the page is not loaded or the entry breaks a rule.
    pub fn set(&mut self, region: RegionIndex, entry: MapEntry) {
        self.edit(region, |page| page.set(region.slot(), entry));
    }

    /// Sets the entries of a run of a page.
    ///
    /// # Panics
    /// As [`PageTable::set`].
    pub fn set_run(&mut self, page: PageIndex, run: &EntryRun) {
        self.edit(page.first_region(), |page| page.set_run(run));
    }

    /// Marks the region's storage as lost.
    ///
    /// # Panics
    /// When the page is not loaded.
    pub fn map_error(&mut self, region: RegionIndex) {
        self.set(region, MapEntry::Error);
    }

    /// Forgets the region's entry: the next I/O faults.
    ///
    /// # Panics
    /// When the page is not loaded.
    pub fn invalidate(&mut self, region: RegionIndex) {
        self.set(region, MapEntry::Invalid);
    }

    /// What the table occupies, in bytes, its directory of chunks included.
    #[must_use]
    pub fn resident_bytes(&self) -> usize {
        std::mem::size_of::<Self>()
            + self.chunks.capacity() * std::mem::size_of::<Option<Chunk>>()
            + self.evictable_bytes()
    }

    /// The part of it that eviction can give back, in bytes: all but the directory.
    #[must_use]
    pub fn evictable_bytes(&self) -> usize {
        self.page_bytes + self.chunk_count * chunk::BYTES + self.absent_bytes()
    }

    /// The part of it that ranges known to be zero take, in bytes.
    #[must_use]
    pub fn absent_bytes(&self) -> usize {
        self.absent.len() * ABSENT_RANGE_BYTES
    }

    /// What [`PageTable::evictable_bytes`] must come to, counted anew: walks everything. For tests.
    #[must_use]
    pub fn recounted_bytes(&self) -> usize {
        let chunks = self.chunks.iter().flatten();
        let pages = chunks.clone().flat_map(|chunk| chunk.slots.iter().map(PageSlot::recounted_bytes));
        pages.sum::<usize>() + chunks.count() * chunk::BYTES + self.absent_bytes()
    }

    /// How many pages it holds: loaded from the controller or touched since.
    #[must_use]
    pub fn held_pages(&self) -> usize {
        self.held_pages
    }

    /// The pages that are loaded with something in them or were touched since, in order: those worth unloading. Pages of a
    /// range known to be zero are not among them until touched.
    pub fn resident_pages(&self) -> impl Iterator<Item = PageIndex> + '_ {
        let chunks = self.chunks.iter().enumerate().filter_map(|(index, chunk)| Some((index, chunk.as_ref()?)));
        chunks.flat_map(|(index, chunk)| {
            let loaded = chunk.slots.iter().enumerate().filter(|(_, slot)| slot.is_loaded());
            loaded.map(move |(within, _)| PageIndex((index * CHUNK_PAGES + within) as u32))
        })
    }

    /// How many pages a lookup finds loaded, those of ranges known to be zero too. Walks every chunk.
    #[must_use]
    pub fn loaded_pages(&self) -> u64 {
        let ranges: u64 = self.absent.iter().map(|(from, to)| u64::from(to - from)).sum();
        let outside = self.resident_pages().filter(|page| self.absent_end(*page).is_none());
        ranges + outside.count() as u64
    }

    /// The page's slot.
    #[inline(always)]
    fn slot(&self, page: PageIndex) -> Option<&PageSlot> {
        let index = page.0 as usize;
        self.chunks.get(index / CHUNK_PAGES)?.as_ref().map(|chunk| chunk.slot(index % CHUNK_PAGES))
    }

    /// The page's chunk, made if need be.
    fn chunk_mut(&mut self, page: PageIndex) -> &mut Chunk {
        let index = page.0 as usize / CHUNK_PAGES;
        if self.chunks.len() <= index {
            self.chunks.resize_with(index + 1, || None);
        }
        if self.chunks[index].is_none() {
            self.chunk_count += 1;
        }
        self.chunks[index].get_or_insert_with(Chunk::new)
    }

    /// Sets the page's slot.
    fn put(&mut self, page: PageIndex, slot: PageSlot) {
        self.change(page, |place| *place = slot);
    }

    /// Changes the page's slot, and counts what that comes to.
    fn change<R>(&mut self, page: PageIndex, change: impl FnOnce(&mut PageSlot) -> R) -> R {
        let chunk = self.chunk_mut(page);
        let slot = &mut chunk.slots[page.0 as usize % CHUNK_PAGES];
        let (loaded, runs, bytes) = (slot.is_loaded(), slot.is_runs(), slot.bytes());
        let result = change(slot);
        let (loaded_now, runs_now, bytes_now) = (slot.is_loaded(), slot.is_runs(), slot.bytes());
        chunk.loaded = chunk.loaded - u16::from(loaded) + u16::from(loaded_now);
        chunk.runs = chunk.runs - u16::from(runs) + u16::from(runs_now);
        chunk.referenced.set(true);
        self.held_pages = self.held_pages - usize::from(loaded) + usize::from(loaded_now);
        self.page_bytes = self.page_bytes - bytes + bytes_now;
        result
    }

    /// The end of the range of zero pages that `page` lies in.
    fn absent_end(&self, page: PageIndex) -> Option<PageIndex> {
        let (_, &end) = self.absent.range(..=page.0).next_back()?;
        (page.0 < end).then_some(PageIndex(end))
    }

    /// The first page after `page` that has a slot of its own, `end` at most.
    fn next_loaded(&self, page: PageIndex, end: PageIndex) -> PageIndex {
        let mut at = page.0 + 1;
        while at < end.0 {
            let index = at as usize;
            match self.chunks.get(index / CHUNK_PAGES) {
                None => return end,
                Some(None) => at = at.saturating_add((CHUNK_PAGES - index % CHUNK_PAGES) as u32),
                Some(Some(chunk)) if !chunk.slots[index % CHUNK_PAGES].is_loaded() => at += 1,
                Some(Some(_)) => return PageIndex(at),
            }
        }
        end
    }

    /// Changes the region's page as runs, and puts it back in its smallest form.
    fn edit<R>(&mut self, region: RegionIndex, change: impl FnOnce(&mut TablePage) -> R) -> R {
        let (size, page) = (self.size, region.page());
        let index = page.0 as usize;
        if let Some(Some(chunk)) = self.chunks.get_mut(index / CHUNK_PAGES)
            && let PageSlot::Runs(runs) = &mut chunk.slots[index % CHUNK_PAGES]
        {
            let before = runs.heap_bytes();
            let result = change(runs);
            let uniform = runs.uniform();
            self.page_bytes = self.page_bytes - before + runs.heap_bytes();
            if let Some(uniform) = uniform {
                self.put(page, slot_of(uniform));
            }
            return result;
        }
        let is_absent = self.absent_end(page).is_some();
        self.change(page, |slot| {
            let mut runs = match slot {
                PageSlot::Extent(extent) => TablePage::from_extent(size, *extent),
                PageSlot::NotLoaded => {
                    assert!(is_absent, "a page is loaded before it is changed");
                    TablePage::new(size)
                }
                _ => TablePage::new(size),
            };
            let result = change(&mut runs);
            *slot = settled(runs);
            result
        })
    }
}

fn settled(page: TablePage) -> PageSlot {
    page.uniform().map_or_else(|| PageSlot::Runs(Box::new(page)), slot_of)
}

fn slot_of(uniform: Uniform) -> PageSlot {
    match uniform {
        Uniform::Zero => PageSlot::Zero,
        Uniform::Extent(extent) => PageSlot::Extent(extent),
    }
}

#[cfg(test)]
mod tests;
