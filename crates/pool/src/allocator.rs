//! Which units of a pool's logical disks are free.
//!
//! Pages of 32,768 units are one word each while they are wholly free or wholly taken, so a pool that is written
//! contiguously costs some bytes a GiB. Units that a batch frees are in *quarantine* until the batch is durable: the
//! pages to be written say free already, but nothing gives the units out.

use crate::page::{Page, PageError, UNITS_PER_PAGE};
use model::{LogicalDiskId, UnitIndex, UnitRun};
use std::collections::{BTreeMap, BTreeSet};
use thiserror::Error;

/// How many bitmap pages one search looks at before it makes do with what it has.
const SEARCH_PAGES_MAX: u32 = 64;
/// How many free runs one search gathers at most.
const SEARCH_RUNS_MAX: usize = 4096;
/// How far apart, in units, the first grants of different volumes are put, so that each can go on contiguously: 1 GiB.
const GAP_UNITS: u32 = 65_536;

/// Why the allocator refused.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum AllocatorError {
    /// The units are not all taken: a double free, or a peer that lies.
    #[error("units {start}..{end} of {logical_disk} are not all allocated")]
    NotAllocated {
        /// The logical disk.
        logical_disk: LogicalDiskId,
        /// The first unit.
        start: u32,
        /// One past the last.
        end: u32,
    },
    /// The units are not all within a logical disk of this pool.
    #[error("{logical_disk} has no units {start}..{end} in this pool")]
    OutOfRange {
        /// The logical disk.
        logical_disk: LogicalDiskId,
        /// The first unit.
        start: u32,
        /// One past the last.
        end: u32,
    },
    /// A page of the bitmap cannot be read.
    #[error(transparent)]
    Page(#[from] PageError),
}

/// What is to be allocated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Wish {
    /// The size of a region: a power of two of units. Every run starts at a multiple of it and holds whole regions.
    pub units_per_region: u32,
    /// How many regions would be welcome.
    pub regions: u32,
    /// Where the last allocation for the same volume ended, to go on from there.
    pub near: Option<UnitRun>,
}

/// A page that changed: what to store, or `None` to store nothing, for all of it is free.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DirtyPage {
    /// The logical disk.
    pub logical_disk: LogicalDiskId,
    /// Which page of it.
    pub index: u32,
    /// Its encoding.
    pub value: Option<Vec<u8>>,
}

/// The free space of one pool.
#[derive(Clone, Debug, Default)]
pub struct Allocator {
    disks: BTreeMap<LogicalDiskId, DiskMap>,
    dirty: BTreeSet<(LogicalDiskId, u32)>,
}

#[derive(Clone, Debug)]
struct DiskMap {
    units: u32,
    free: u32,
    pages: Vec<Page>,
    /// Units that the durable bitmap has, or will have, free, and that are not to be given out yet: start → length.
    quarantine: BTreeMap<u32, u32>,
    quarantined: u32,
    cursor: u32,
}

impl DiskMap {
    fn new(units: u32) -> Self {
        let mut pages = vec![Page::Free; units.div_ceil(UNITS_PER_PAGE) as usize];
        if let (Some(last), over @ 1..) = (pages.last_mut(), units % UNITS_PER_PAGE) {
            last.set(over..UNITS_PER_PAGE, true);
        }
        Self { units, free: units, pages, quarantine: BTreeMap::new(), quarantined: 0, cursor: 0 }
    }

    fn page_units(&self, index: u32) -> u32 {
        (self.units - index * UNITS_PER_PAGE).min(UNITS_PER_PAGE)
    }

    /// Calls `act` with each page that the units `start..end` touch and the part of it they are.
    fn for_each_page(start: u32, end: u32, mut act: impl FnMut(u32, std::ops::Range<u32>)) {
        let mut at = start;
        while at < end {
            let index = at / UNITS_PER_PAGE;
            let base = index * UNITS_PER_PAGE;
            let stop = end.min(base.saturating_add(UNITS_PER_PAGE));
            act(index, at - base..stop - base);
            at = stop;
        }
    }

    /// Whether every unit of `start..end` is in the state `set`.
    fn all(&self, start: u32, end: u32, set: bool) -> bool {
        let mut all = true;
        Self::for_each_page(start, end, |index, range| {
            let page = &self.pages[index as usize];
            all &= page.is_set(range.start) == set && page.run_end(range.start, range.end) == range.end;
        });
        all
    }

    fn mark(&mut self, start: u32, end: u32, set: bool) {
        Self::for_each_page(start, end, |index, range| self.pages[index as usize].set(range, set));
        if set {
            self.free -= end - start;
        } else {
            self.free += end - start;
        }
    }

    /// The end of the free run at `start`, at most `limit`.
    fn free_end(&self, start: u32, limit: u32) -> u32 {
        let mut at = start;
        while at < limit {
            let index = at / UNITS_PER_PAGE;
            let page = &self.pages[index as usize];
            if page.is_set(at % UNITS_PER_PAGE) {
                break;
            }
            let base = index * UNITS_PER_PAGE;
            let stop = (limit - base).min(UNITS_PER_PAGE);
            let end = base + page.run_end(at - base, stop);
            if end < base + stop {
                return end;
            }
            at = end;
        }
        at
    }

    fn is_quarantined(&self, start: u32, end: u32) -> bool {
        self.quarantine.range(..end).next_back().is_some_and(|(first, length)| first + length > start)
    }

    /// The page as it is to be stored.
    fn encode(&self, index: u32) -> Option<Vec<u8>> {
        let base = index * UNITS_PER_PAGE;
        let page = &self.pages[index as usize];
        let stored = if self.quarantine.is_empty() {
            page.clone()
        } else {
            let mut stored = page.clone();
            let end = base.saturating_add(UNITS_PER_PAGE);
            for (start, length) in self.quarantine.range(..end).rev() {
                let (low, high) = ((*start).max(base), (start + length).min(end));
                if low < high {
                    stored.set(low - base..high - base, false);
                } else if start + length <= base {
                    break;
                }
            }
            stored
        };
        let units = self.page_units(index);
        let all_free = !stored.is_set(0) && stored.run_end(0, units) == units;
        (!all_free).then(|| stored.encode())
    }
}

/// A free run found by a search.
#[derive(Clone, Copy)]
struct Found {
    start: u32,
    units: u32,
}

impl Allocator {
    /// An allocator without logical disks.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a logical disk of so many units, all free.
    ///
    /// # Panics
    /// When it is there already.
    pub fn add_disk(&mut self, logical_disk: LogicalDiskId, units: u32) {
        let before = self.disks.insert(logical_disk, DiskMap::new(units));
        assert!(before.is_none(), "{logical_disk} is in the allocator already");
    }

    /// Takes a logical disk away.
    pub fn remove_disk(&mut self, logical_disk: LogicalDiskId) {
        self.disks.remove(&logical_disk);
        self.dirty.retain(|(disk, _)| *disk != logical_disk);
    }

    /// Sets page `index` of a logical disk to what was stored.
    ///
    /// # Errors
    /// [`AllocatorError`] when it cannot be read or does not fit the disk.
    pub fn load_page(&mut self, logical_disk: LogicalDiskId, index: u32, bytes: &[u8]) -> Result<(), AllocatorError> {
        let (start, end) =
            (index.saturating_mul(UNITS_PER_PAGE), index.saturating_add(1).saturating_mul(UNITS_PER_PAGE));
        let out_of_range = AllocatorError::OutOfRange { logical_disk, start, end };
        let Some(disk) = self.disks.get_mut(&logical_disk) else { return Err(out_of_range) };
        if index as usize >= disk.pages.len() {
            return Err(out_of_range);
        }
        let page = Page::decode(bytes)?;
        let units = disk.page_units(index);
        let tail_set =
            units == UNITS_PER_PAGE || (page.is_set(units) && page.run_end(units, UNITS_PER_PAGE) == UNITS_PER_PAGE);
        if !tail_set {
            return Err(out_of_range);
        }
        let slot = &mut disk.pages[index as usize];
        disk.free = disk.free + slot.set_count() - page.set_count();
        *slot = page;
        Ok(())
    }

    /// How many units may be given out now.
    #[must_use]
    pub fn free_units(&self) -> u64 {
        self.disks.values().map(|disk| u64::from(disk.free)).sum()
    }

    /// How many units are about to be free.
    #[must_use]
    pub fn quarantined_units(&self) -> u64 {
        self.disks.values().map(|disk| u64::from(disk.quarantined)).sum()
    }

    /// How many units there are.
    #[must_use]
    pub fn total_units(&self) -> u64 {
        self.disks.values().map(|disk| u64::from(disk.units)).sum()
    }

    /// Whether the run lies within a logical disk of this pool.
    #[must_use]
    pub fn contains(&self, run: UnitRun) -> bool {
        let end = u64::from(run.start.0) + u64::from(run.count);
        self.disks.get(&run.logical_disk).is_some_and(|disk| end <= u64::from(disk.units))
    }

    /// Whether every unit of the run is within the pool, taken, and not on its way out.
    #[must_use]
    pub fn is_allocated(&self, run: UnitRun) -> bool {
        let Some(disk) = self.disks.get(&run.logical_disk) else { return false };
        self.contains(run) && disk.all(run.start.0, run.end(), true) && !disk.is_quarantined(run.start.0, run.end())
    }

    /// Gives out up to as many regions as wished for, in as few and as long runs as can be found with bounded effort:
    /// first where the last allocation ended, else in the emptiest logical disk away from other volumes, else in pieces
    /// down to single regions. Nothing when no region is free.
    ///
    /// # Panics
    /// When the region's size is not a power of two.
    pub fn allocate(&mut self, wish: Wish) -> Vec<UnitRun> {
        assert!(wish.units_per_region.is_power_of_two(), "a region is a power of two of units");
        let mut runs = Vec::new();
        let mut wanted = u64::from(wish.regions) * u64::from(wish.units_per_region);
        if let Some(run) = self.go_on(wish, wanted) {
            wanted -= u64::from(run.count);
            runs.push(run);
        }
        let mut order: Vec<_> = self.disks.iter().map(|(id, disk)| (std::cmp::Reverse(disk.free), *id)).collect();
        order.sort_unstable();
        for (_, id) in order {
            if wanted == 0 {
                break;
            }
            self.allocate_on(id, wish.units_per_region, &mut wanted, &mut runs);
        }
        runs
    }

    /// The run right behind the last one, if it is free.
    fn go_on(&mut self, wish: Wish, wanted: u64) -> Option<UnitRun> {
        let near = wish.near?;
        let disk = self.disks.get(&near.logical_disk)?;
        let start = near.end().checked_next_multiple_of(wish.units_per_region)?;
        if start >= disk.units {
            return None;
        }
        let limit = (u64::from(start) + wanted).min(u64::from(disk.units)) as u32;
        let count = (disk.free_end(start, limit) - start) / wish.units_per_region * wish.units_per_region;
        (count > 0).then(|| self.take(near.logical_disk, start, count))
    }

    fn allocate_on(&mut self, id: LogicalDiskId, region: u32, wanted: &mut u64, runs: &mut Vec<UnitRun>) {
        let Some(disk) = self.disks.get(&id) else { return };
        let mut found = search(disk, region, *wanted);
        found.sort_by_key(|run| (std::cmp::Reverse(run.units), run.start));
        for run in found {
            if *wanted == 0 {
                break;
            }
            let count = u64::from(run.units).min(*wanted) as u32;
            *wanted -= u64::from(count);
            runs.push(self.take(id, run.start, count));
        }
    }

    fn take(&mut self, id: LogicalDiskId, start: u32, count: u32) -> UnitRun {
        let run = UnitRun { logical_disk: id, start: UnitIndex(start), count };
        let disk = self.disks.get_mut(&id).expect("units are taken on a disk that was searched");
        assert!(disk.all(start, run.end(), false), "NO_REGION_OWNED_TWICE: {run:?} is given out twice");
        disk.mark(start, run.end(), true);
        let gap = GAP_UNITS.min(disk.units / 16 / UNITS_PER_PAGE.min(64) * 64);
        disk.cursor = run.end().saturating_add(gap) % disk.units;
        self.make_dirty(run);
        run
    }

    fn make_dirty(&mut self, run: UnitRun) {
        DiskMap::for_each_page(run.start.0, run.end(), |index, _| {
            self.dirty.insert((run.logical_disk, index));
        });
    }

    /// Frees units at once: for those whose freeing is durable already, or that never were.
    ///
    /// # Errors
    /// [`AllocatorError`] when they are not all allocated; nothing is changed then.
    pub fn free(&mut self, run: UnitRun) -> Result<(), AllocatorError> {
        self.quarantine(run)?;
        self.release(run);
        Ok(())
    }

    /// Frees units in the pages to be stored, but keeps them from being given out until [`Allocator::release`].
    ///
    /// # Errors
    /// [`AllocatorError`] when they are not all allocated; nothing is changed then.
    pub fn quarantine(&mut self, run: UnitRun) -> Result<(), AllocatorError> {
        let (logical_disk, start, end) = (run.logical_disk, run.start.0, run.start.0.saturating_add(run.count));
        if !self.contains(run) {
            return Err(AllocatorError::OutOfRange { logical_disk, start, end });
        }
        if run.count == 0 {
            return Ok(());
        }
        if !self.is_allocated(run) {
            return Err(AllocatorError::NotAllocated { logical_disk, start, end });
        }
        let disk = self.disks.get_mut(&logical_disk).expect("contains() found it");
        disk.quarantine.insert(start, run.count);
        disk.quarantined += run.count;
        self.make_dirty(run);
        Ok(())
    }

    /// Ends the quarantine of a run: it may be given out.
    ///
    /// # Panics
    /// When that very run is not in quarantine.
    pub fn release(&mut self, run: UnitRun) {
        let Some(disk) = self.disks.get_mut(&run.logical_disk) else { return };
        if run.count == 0 {
            return;
        }
        let length = disk.quarantine.remove(&run.start.0);
        assert_eq!(length, Some(run.count), "a run leaves quarantine as it came");
        disk.quarantined -= run.count;
        disk.mark(run.start.0, run.end(), false);
    }

    /// The pages changed since the last call, as they are to be stored: with what is in quarantine free.
    pub fn drain_dirty(&mut self) -> Vec<DirtyPage> {
        let dirty = std::mem::take(&mut self.dirty);
        dirty
            .into_iter()
            .filter_map(|(logical_disk, index)| {
                let value = self.disks.get(&logical_disk)?.encode(index);
                Some(DirtyPage { logical_disk, index, value })
            })
            .collect()
    }
}

/// Free runs of whole, aligned regions: one that holds all that is wanted, if it is found early, or what the pages
/// looked at have. Goes on looking until it has at least one, if there is one at all.
fn search(disk: &DiskMap, region: u32, wanted: u64) -> Vec<Found> {
    let mut found = Vec::new();
    let (mut gathered, mut pages_looked_at) = (0_u64, 0);
    let start = disk.cursor / region * region;
    for (from, to) in [(start, disk.units), (0, start)] {
        let mut at = from;
        while at < to {
            let (index, within) = (at / UNITS_PER_PAGE, at % UNITS_PER_PAGE);
            let base = index * UNITS_PER_PAGE;
            let page = &disk.pages[index as usize];
            if page.is_set(within) {
                at = base.saturating_add(page.run_end(within, UNITS_PER_PAGE)).min(to);
            } else {
                let limit = (u64::from(at) + wanted + u64::from(region)).min(u64::from(to)) as u32;
                let end = disk.free_end(at, limit);
                let first = at.next_multiple_of(region);
                let units = end.saturating_sub(first) / region * region;
                if units > 0 {
                    found.push(Found { start: first, units });
                    gathered += u64::from(units);
                    if u64::from(units) >= wanted {
                        return vec![Found { start: first, units }];
                    }
                }
                at = end;
            }
            pages_looked_at += u32::from(at / UNITS_PER_PAGE != index && matches!(page, Page::Bitmap(_)));
            if gathered >= wanted && (pages_looked_at >= SEARCH_PAGES_MAX || found.len() >= SEARCH_RUNS_MAX) {
                return found;
            }
        }
    }
    found
}

#[cfg(test)]
#[path = "allocator_tests.rs"]
mod tests;
