//! What changed in a volume's map since the last commit.

use crate::inflight::Sequence;
use mapping::PageTable;
use model::{
    DiskRegion, EntryRun, Generation, MapEntry, PageIndex, Place, REGIONS_PER_PAGE, RegionIndex, RegionSize, UnitRun,
};
use smallvec::SmallVec;
use std::collections::{BTreeMap, VecDeque};
use wire::{MapCommit, PageDelta};

/// How many changed regions one commit message carries at most (a page more or less).
const COMMIT_REGIONS_MAX: u32 = 32 * 1024;

type SlotSet = Box<[u64; (REGIONS_PER_PAGE / 64) as usize]>;

/// Units that their entry dropped, and since when nothing new addresses them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Freed {
    pub(crate) page: PageIndex,
    pub(crate) run: UnitRun,
    pub(crate) born: Generation,
    pub(crate) since: Sequence,
}

/// Changes not yet handed to a commit.
#[derive(Debug, Default)]
pub(crate) struct MapChanges {
    /// Regions whose entry differs from the durable one, by page and slot.
    dirty: BTreeMap<PageIndex, SlotSet>,
    dirty_regions: u32,
    /// Granted regions that are mapped here and that no commit has taken. (Two of one region: one of the generation before,
    /// whose commit failed.)
    untaken: BTreeMap<RegionIndex, SmallVec<[DiskRegion; 1]>>,
    freed: Vec<Freed>,
}

/// One commit's worth of changes, being made durable; kept to be put back should that fail.
#[derive(Debug, Default)]
pub(crate) struct Cut {
    pub(crate) commit: MapCommit,
    /// Everything it frees was given up before this.
    pub(crate) freed_before: Sequence,
    dirty: Vec<(PageIndex, SlotSet)>,
    taken: Vec<(RegionIndex, DiskRegion)>,
    freed: Vec<Freed>,
}

impl MapChanges {
    pub(crate) fn is_clean(&self) -> bool {
        self.dirty.is_empty() && self.freed.is_empty()
    }

    pub(crate) fn dirty_regions(&self) -> u32 {
        self.dirty_regions
    }

    /// Whether one of the pages `first..end` has changes, or regions whose assignment nobody has heard of.
    pub(crate) fn holds(&self, first: PageIndex, end: PageIndex) -> bool {
        self.dirty.range(first..end).next().is_some()
            || self.untaken.range(first.first_region()..end.first_region()).next().is_some()
    }

    pub(crate) fn has_freed(&self) -> bool {
        !self.freed.is_empty()
    }

    pub(crate) fn mark(&mut self, region: RegionIndex) {
        let slots = self.dirty.entry(region.page()).or_insert_with(|| Box::new([0; 16]));
        let (word, bit) = (usize::from(region.slot() / 64), region.slot() % 64);
        self.dirty_regions += u32::from(slots[word] >> bit & 1 == 0);
        slots[word] |= 1 << bit;
    }

    /// A granted region is mapped for the first time. It is no change until some block of it is.
    pub(crate) fn assigned(&mut self, region: RegionIndex, place: DiskRegion) {
        self.untaken.entry(region).or_default().push(place);
    }

    /// Regions that are mapped at granted places, without a block and without a word about them to the controller: what is
    /// left of writes that failed. They are forgotten here, and the caller unmaps them.
    pub(crate) fn take_unused(&mut self) -> Vec<(RegionIndex, DiskRegion)> {
        let dirty = &self.dirty;
        let is_dirty = |region: &RegionIndex| {
            let (word, bit) = (usize::from(region.slot() / 64), region.slot() % 64);
            dirty.get(&region.page()).is_some_and(|slots| slots[word] >> bit & 1 == 1)
        };
        let unused = self.untaken.iter().filter(|(region, _)| !is_dirty(region));
        let unused: Vec<_> = unused.flat_map(|(region, places)| places.iter().map(|place| (*region, *place))).collect();
        for (region, _) in &unused {
            self.untaken.remove(region);
        }
        unused
    }

    pub(crate) fn is_untaken(&self, region: RegionIndex) -> bool {
        self.untaken.contains_key(&region)
    }

    /// The entry of `region` no longer names `place`, which was allocated in `born`. `since` is the next I/O to begin.
    pub(crate) fn freed(
        &mut self,
        region: RegionIndex,
        place: DiskRegion,
        born: Generation,
        size: RegionSize,
        since: Sequence,
    ) {
        if let Some(places) = self.untaken.get_mut(&region) {
            places.retain(|untaken| *untaken != place);
            if places.is_empty() {
                self.untaken.remove(&region);
            }
        }
        let run = place.units(size);
        if let Some(last) = self.freed.last_mut()
            && last.page == region.page()
            && (last.born, last.since) == (born, since)
            && last.run.logical_disk == run.logical_disk
            && last.run.end() == run.start.0
        {
            last.run.count += run.count;
            return;
        }
        self.freed.push(Freed { page: region.page(), run, born, since });
    }

    /// Takes all changes so far, as commits made from the entries that `table` holds now; each is valid alone.
    pub(crate) fn cut(&mut self, table: &PageTable, size: RegionSize) -> VecDeque<Cut> {
        let dirty = std::mem::take(&mut self.dirty);
        let mut freed = std::mem::take(&mut self.freed);
        freed.sort_by_key(|freed| freed.page);
        let mut freed = freed.into_iter().peekable();
        self.dirty_regions = 0;
        let mut cuts = VecDeque::new();
        let mut cut = Cut::default();
        let mut regions = 0;
        for (page, slots) in dirty {
            let delta = self.delta(page, &slots, table, size, &mut cut);
            regions += slots.iter().map(|word| word.count_ones()).sum::<u32>();
            cut.commit.pages.push(delta);
            cut.dirty.push((page, slots));
            while let Some(freed) = freed.next_if(|freed| freed.page <= page) {
                cut.free(freed);
            }
            if regions >= COMMIT_REGIONS_MAX {
                cuts.push_back(std::mem::take(&mut cut));
                regions = 0;
            }
        }
        freed.for_each(|freed| cut.free(freed));
        if cut.commit != MapCommit::default() {
            cuts.push_back(cut);
        }
        cuts
    }

    fn delta(
        &mut self,
        page: PageIndex,
        slots: &SlotSet,
        table: &PageTable,
        size: RegionSize,
        cut: &mut Cut,
    ) -> PageDelta {
        let mut runs: Vec<EntryRun> = Vec::new();
        for slot in set_slots(slots) {
            let region = page.region(slot);
            let entry = entry_of(table, region, size);
            for place in self.untaken.remove(&region).unwrap_or_default() {
                assert!(entry_names(&entry, place), "an untaken region is mapped where it was assigned");
                push_unit_run(&mut cut.commit.takes, place.units(size));
                cut.taken.push((region, place));
            }
            if let Some(last) = runs.last_mut()
                && last.first + last.count == slot
                && continues(&last.entry, last.count, &entry, size)
            {
                last.count += 1;
            } else {
                runs.push(EntryRun { first: slot, count: 1, entry });
            }
        }
        PageDelta { page, runs }
    }

    /// Puts a cut whose commit failed back: the entries as they are now will be sent again.
    pub(crate) fn restore(&mut self, cut: Cut, table: &PageTable, size: RegionSize) {
        for (page, slots) in cut.dirty {
            for slot in set_slots(&slots) {
                self.mark(page.region(slot));
            }
        }
        for (region, place) in cut.taken {
            if entry_names(&entry_of(table, region, size), place) {
                self.assigned(region, place);
            }
        }
        // What was given up since is already here; what this cut frees comes first again.
        let later = std::mem::replace(&mut self.freed, cut.freed);
        self.freed.extend(later);
    }
}

impl Cut {
    /// Whether it says something of one of the pages `first..end`.
    pub(crate) fn holds(&self, first: PageIndex, end: PageIndex) -> bool {
        let at = self.dirty.partition_point(|(page, _)| *page < first);
        self.dirty.get(at).is_some_and(|(page, _)| *page < end)
    }

    fn free(&mut self, freed: Freed) {
        self.freed_before = self.freed_before.max(freed.since);
        self.commit.drops.push(wire::Drop { page: freed.page, run: freed.run, born: freed.born });
        self.freed.push(freed);
    }
}

fn entry_of(table: &PageTable, region: RegionIndex, size: RegionSize) -> MapEntry {
    table.entry(region).to_entry(size).expect("a page with changes stays loaded")
}

fn set_slots(slots: &SlotSet) -> impl Iterator<Item = u16> + '_ {
    slots.iter().enumerate().flat_map(|(index, word)| {
        let mut left = *word;
        std::iter::from_fn(move || {
            let bit = left.trailing_zeros();
            (left != 0).then(|| {
                left &= left - 1;
                (index as u32 * 64 + bit) as u16
            })
        })
    })
}

pub(crate) fn entry_names(entry: &MapEntry, place: DiskRegion) -> bool {
    matches!(entry, MapEntry::Layers(layers) if layers.iter().any(|layer| layer.place == Place::Region(place)))
}

/// Whether `next` is what a run of `count` regions that begins with `entry` would hold next.
fn continues(entry: &MapEntry, count: u16, next: &MapEntry, size: RegionSize) -> bool {
    match (entry, next) {
        (MapEntry::Zero, MapEntry::Zero) | (MapEntry::Error, MapEntry::Error) => true,
        (MapEntry::Layers(first), MapEntry::Layers(next)) => match (first.as_slice(), next.as_slice()) {
            ([a], [b]) => match (a.place, b.place) {
                (Place::Region(from), Place::Region(to)) => {
                    to == from.offset_by(u32::from(count), size)
                        && a.blocks.is_all()
                        && b.blocks.is_all()
                        && (a.born, a.written) == (b.born, b.written)
                }
                _ => false,
            },
            _ => false,
        },
        _ => false,
    }
}

fn push_unit_run(runs: &mut Vec<UnitRun>, run: UnitRun) {
    if let Some(last) = runs.last_mut()
        && last.logical_disk == run.logical_disk
        && last.end() == run.start.0
    {
        last.count += run.count;
        return;
    }
    runs.push(run);
}
