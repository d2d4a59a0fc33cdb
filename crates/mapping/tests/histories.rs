//! Long random histories of a volume, checked after every step against a vector of blocks.

mod naive;

use mapping::{
    BlockStatuses, Dropped, EntryView, Fault, PageTable, Segments, Source, TablePage, WriteTarget, changed_blocks,
    resolve_write,
};
use model::{
    BLOCK_BYTES, BlockBitmap, BlockRange, ByteRange, DiskRegion, EntryRun, Layer, LayerStack, LogicalDiskId, MapEntry,
    PageIndex, Place, REGIONS_PER_PAGE, RegionIndex, RegionSize, SECTOR_BYTES, UnitIndex,
};
use naive::Naive;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

/// The regions of the volume under test: the end of one page and the start of the next.
const REGIONS: u64 = 12;
const FIRST_REGION: u64 = REGIONS_PER_PAGE as u64 - 7;

#[derive(Clone, Debug)]
enum Step {
    Write { start: u32, length: u32 },
    WriteRegions { first: u64, count: u64 },
    TrimUnderWrite { start: u32 },
    Zero { start: u32, length: u32 },
    ZeroRegions { first: u64, count: u64 },
    TakeSnapshot,
    DropNewestSnapshot,
    Reload,
    Read { start: u32, length: u32 },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let range = || (any::<u32>(), any::<u32>());
    let regions = || (0..REGIONS, 1..REGIONS);
    let step = prop_oneof![
        8 => range().prop_map(|(start, length)| Step::Write { start, length }),
        3 => regions().prop_map(|(first, count)| Step::WriteRegions { first, count }),
        1 => any::<u32>().prop_map(|start| Step::TrimUnderWrite { start }),
        4 => range().prop_map(|(start, length)| Step::Zero { start, length }),
        1 => regions().prop_map(|(first, count)| Step::ZeroRegions { first, count }),
        1 => Just(Step::TakeSnapshot),
        1 => Just(Step::DropNewestSnapshot),
        1 => Just(Step::Reload),
        4 => range().prop_map(|(start, length)| Step::Read { start, length }),
    ];
    prop::collection::vec(step, 1..120)
}

/// A table beside the naive volume, and the controller's durable pages, kept by deltas alone.
struct Pair {
    size: RegionSize,
    table: PageTable,
    naive: Naive,
    durable: BTreeMap<PageIndex, Vec<EntryRun>>,
    /// What the durable pages were when each of the naive volume's snapshots was taken.
    snapshots: Vec<BTreeMap<PageIndex, Vec<EntryRun>>>,
    next_place: u32,
    merges: u32,
}

impl Pair {
    fn new(size: RegionSize) -> Self {
        let mut table = PageTable::new(size);
        table.load_absent(PageIndex(0), PageIndex(2));
        let naive = Naive::new((REGIONS * u64::from(size.blocks())) as usize);
        Self { size, table, naive, durable: BTreeMap::new(), snapshots: Vec::new(), next_place: 64, merges: 0 }
    }

    fn blocks(&self) -> u64 {
        REGIONS * u64::from(self.size.blocks())
    }

    fn first_byte(&self) -> u64 {
        FIRST_REGION * self.size.bytes()
    }

    /// A range of blocks within the volume, short more often than long.
    fn range(&self, start: u32, length: u32) -> std::ops::Range<u64> {
        let start = u64::from(start) % self.blocks();
        let longest = if length.is_multiple_of(3) { self.blocks() } else { 6 };
        start..(start + 1 + u64::from(length / 3) % longest).min(self.blocks())
    }

    fn each_region(&self, range: std::ops::Range<u64>) -> Vec<(RegionIndex, BlockRange)> {
        let per_region = u64::from(self.size.blocks());
        let regions = range.start / per_region..=(range.end - 1) / per_region;
        let part = |region: u64| {
            let start = range.start.max(region * per_region) - region * per_region;
            let end = range.end.min((region + 1) * per_region) - region * per_region;
            (RegionIndex(FIRST_REGION + region), BlockRange::new(start as u32, end as u32))
        };
        regions.map(part).collect()
    }

    fn naive_range(&self, region: RegionIndex, blocks: BlockRange) -> std::ops::Range<usize> {
        let first = ((region.0 - FIRST_REGION) * u64::from(self.size.blocks())) as usize;
        first + blocks.start as usize..first + blocks.end as usize
    }

    /// The place beside the neighbours' on first use, any free one later.
    fn allocate(&mut self, region: RegionIndex) -> DiskRegion {
        let at = |index: u32| DiskRegion { logical_disk: LogicalDiskId(3), unit: UnitIndex(index * self.size.units()) };
        let mut place = at((region.0 - FIRST_REGION) as u32);
        if self.naive.born.contains_key(&place) {
            place = at(self.next_place);
            self.next_place += 1;
        }
        self.naive.born.insert(place, (region.0, self.naive.generation));
        place
    }

    fn write(&mut self, range: std::ops::Range<u64>) {
        for (region, blocks) in self.each_region(range) {
            let frozen_through = self.naive.frozen_through();
            let target = resolve_write(region, self.table.entry(region), frozen_through);
            let place = match target {
                WriteTarget::InPlace(place) => place,
                WriteTarget::NeedsRegion => {
                    let place = self.allocate(region);
                    self.table.map_region(region, place, self.naive.generation);
                    place
                }
                WriteTarget::NeedsMerge => self.merge(region),
                WriteTarget::Fault(fault) => panic!("the volume is loaded, but {fault:?}"),
            };
            assert!(!self.naive.is_frozen(place), "SNAPSHOT_NEVER_CHANGES");
            let (before, generation) = (self.table.entry(region).to_entry(self.size), self.naive.generation);
            let outcome = self.table.blocks_written(region, place, blocks, generation, frozen_through);
            let after = self.table.entry(region).to_entry(self.size);
            assert_eq!(outcome.changed, before != after, "{before:?} became {after:?}");
            let range = self.naive_range(region, blocks);
            self.naive.write(range, place);
            self.check(region, &outcome.drops);
        }
    }

    /// Trims a whole region between the mapping and the completion of a write to some of it.
    fn trim_under_write(&mut self, region: RegionIndex, blocks: BlockRange) {
        let (generation, frozen_through) = (self.naive.generation, self.naive.frozen_through());
        let place = match resolve_write(region, self.table.entry(region), frozen_through) {
            WriteTarget::InPlace(place) => place,
            WriteTarget::NeedsRegion => {
                let place = self.allocate(region);
                self.table.map_region(region, place, generation);
                place
            }
            _ => self.merge(region),
        };
        let all = BlockRange::new(0, self.size.blocks());
        let trimmed = self.table.blocks_zeroed(region, all, generation, frozen_through, true);
        let range = self.naive_range(region, all);
        self.naive.zero(range);
        assert_eq!(resolve_write(region, self.table.entry(region), frozen_through), WriteTarget::InPlace(place));
        self.check(region, &trimmed.drops);
        let written = self.table.blocks_written(region, place, blocks, generation, frozen_through);
        let range = self.naive_range(region, blocks);
        self.naive.write(range, place);
        self.check(region, &written.drops);
    }

    /// Brings all blocks of a full stack to one new place.
    fn merge(&mut self, region: RegionIndex) -> DiskRegion {
        self.merges += 1;
        let place = self.allocate(region);
        let mut blocks = BlockBitmap::none(self.size.blocks());
        let range = self.naive_range(region, BlockRange::new(0, self.size.blocks()));
        for (block, naive) in self.naive.blocks[range].iter_mut().enumerate() {
            if naive.place.is_some() {
                blocks.insert(BlockRange::new(block as u32, block as u32 + 1));
                naive.place = Some(place);
            }
        }
        let generation = self.naive.generation;
        let layer = Layer { place: Place::Region(place), blocks, born: generation, written: generation };
        let merged = self.naive.owned(region.0).into_iter().filter(|merged| *merged != place);
        self.naive.dropped.extend(merged.collect::<Vec<_>>());
        self.table.set(region, MapEntry::Layers(LayerStack::from_iter([layer])));
        place
    }

    fn zero(&mut self, range: std::ops::Range<u64>) {
        for (region, blocks) in self.each_region(range) {
            let (generation, frozen_through) = (self.naive.generation, self.naive.frozen_through());
            let before = self.table.entry(region).to_entry(self.size);
            let outcome = self.table.blocks_zeroed(region, blocks, generation, frozen_through, false);
            let after = self.table.entry(region).to_entry(self.size);
            assert_eq!(outcome.changed, before != after, "{before:?} became {after:?}");
            let range = self.naive_range(region, blocks);
            self.naive.zero(range);
            self.check(region, &outcome.drops);
        }
    }

    /// The entry holds exactly what it should, what it dropped nobody reads, and its delta reaches the controller.
    fn check(&mut self, region: RegionIndex, drops: &[Dropped]) {
        let owned = self.naive.owned(region.0);
        for dropped in drops {
            let place = dropped.place;
            assert_eq!(dropped.born, self.naive.born[&place].1, "{place} is dropped with its birth");
            assert!(owned.contains(&place), "{place} is dropped by the entry that held it");
            assert!(self.naive.dropped.insert(place), "{place} was dropped twice");
            assert!(self.naive.blocks.iter().all(|block| block.place != Some(place)), "{place} was dropped in use");
        }
        let stack = self.table.entry(region).to_stack(self.size);
        let mapped: BTreeSet<DiskRegion> = stack
            .iter()
            .filter_map(|layer| match layer.place {
                Place::Region(place) => Some(place),
                Place::Zero => None,
            })
            .collect();
        assert_eq!(
            mapped,
            self.naive.owned(region.0),
            "every place that leaves its entry is reported, and none is back"
        );

        assert_eq!(self.table.evictable_bytes(), self.table.recounted_bytes(), "memory is counted as it changes");
        let page = self.table.page(region.page()).expect("the volume is loaded");
        let durable = self.durable.entry(region.page()).or_default();
        let mut folded = TablePage::from_runs(self.size, durable);
        page.runs_between(region.slot(), region.slot() + 1).for_each(|run| folded.set_run(&run));
        *durable = folded.runs().collect();
    }

    /// Takes both pages out of the table and loads them again.
    fn reload(&mut self) {
        for page in [PageIndex(0), PageIndex(1)] {
            let runs: Vec<_> = self.table.page(page).expect("the volume is loaded").runs().collect();
            assert_eq!(self.durable.get(&page).cloned().unwrap_or_default(), runs, "deltas add up to the page");
            self.table.unload(page);
            assert!(self.table.page(page).is_none());
            let byte = ByteRange::new(u64::from(page.0) * self.size.page_bytes(), 1);
            assert_eq!(self.table.resolve_read(byte, &mut Segments::new()), Err(Fault::NotLoaded(page)));
            self.table.load(page, &runs);
            assert!(self.table.page(page).is_some_and(|loaded| loaded.runs().eq(runs)));
        }
    }

    /// Each sector of a range is read from where the naive volume has it, in the fewest segments.
    fn read(&self, range: ByteRange) {
        let mut segments = Segments::new();
        self.table.resolve_read(range, &mut segments).expect("the volume is loaded");
        let mut expected = Segments::new();
        let mut statuses: Vec<(u64, bool)> = Vec::new();
        for sector in range.start / SECTOR_BYTES..range.end() / SECTOR_BYTES {
            let offset = sector * SECTOR_BYTES;
            let block = self.naive.blocks[((offset - self.first_byte()) / BLOCK_BYTES) as usize];
            let within = offset % self.size.bytes();
            let source = block.place.map_or(Source::Zero, |place| Source::Region {
                logical_disk: place.logical_disk,
                byte_offset: place.unit.byte_offset() + within,
            });
            match (expected.last_mut(), source) {
                (Some(last), Source::Zero) if last.source == Source::Zero => last.length += SECTOR_BYTES,
                (Some(last), Source::Region { byte_offset, .. })
                    if matches!(last.source, Source::Region { byte_offset: from, .. }
                        if from + last.length == byte_offset) =>
                {
                    last.length += SECTOR_BYTES;
                }
                _ => expected.push(mapping::Segment { volume_offset: offset, length: SECTOR_BYTES, source }),
            }
            match statuses.last_mut() {
                Some(last) if last.1 == block.place.is_none() => last.0 += SECTOR_BYTES,
                _ => statuses.push((SECTOR_BYTES, block.place.is_none())),
            }
        }
        assert_eq!(segments, expected);
        for statuses_max in [1, 3, usize::MAX] {
            let mut answer = BlockStatuses::new();
            self.table.block_status(range, &mut answer, statuses_max).expect("the volume is loaded");
            let answer: Vec<_> = answer.iter().map(|status| (status.length, status.is_zero)).collect();
            assert_eq!(answer, statuses[..statuses.len().min(statuses_max)]);
        }
    }

    /// Every block that differs from a snapshot is told from the entries, and without merges no other one.
    fn check_diffs(&self) {
        for ((generation, seen), pages) in self.naive.snapshots.iter().zip(&self.snapshots) {
            for region in (0..REGIONS).map(|region| RegionIndex(FIRST_REGION + region)) {
                let runs = pages.get(&region.page()).map_or(&[][..], Vec::as_slice);
                let page = TablePage::from_runs(self.size, runs);
                let (older, newer) = (page.entry(region.slot()), self.table.entry(region));
                let told = |is_ancestor| changed_blocks(older, newer, self.size, *generation, is_ancestor);
                let (changed, by_place) = (told(true).expect("known"), told(false).expect("known"));
                let blocks = self.naive_range(region, BlockRange::new(0, self.size.blocks()));
                for (block, index) in blocks.enumerate() {
                    let (now, then) = (self.naive.blocks[index], seen[index]);
                    let is_told = changed.contains(block as u32);
                    assert!(now.stamp == then.stamp || is_told, "a diff with {generation} misses block {index}");
                    assert!(!is_told || by_place.contains(block as u32), "what moved alone counts for strangers");
                    let exact = self.merges > 0 || now.stamp != then.stamp || !is_told;
                    assert!(exact, "a diff with {generation} names block {index}, which is what it was");
                }
            }
        }
    }

    fn step(&mut self, step: &Step) {
        let per_region = u64::from(self.size.blocks());
        let regions = |first: u64, count: u64| first * per_region..(first + count).min(REGIONS) * per_region;
        match *step {
            Step::Write { start, length } => self.write(self.range(start, length)),
            Step::WriteRegions { first, count } => self.write(regions(first, count)),
            Step::Zero { start, length } => self.zero(self.range(start, length)),
            Step::ZeroRegions { first, count } => self.zero(regions(first, count)),
            Step::TrimUnderWrite { start } => {
                let (region, blocks) = self.each_region(self.range(start, 0))[0];
                self.trim_under_write(region, blocks);
            }
            Step::TakeSnapshot => {
                self.naive.take_snapshot();
                self.snapshots.push(self.durable.clone());
            }
            Step::DropNewestSnapshot => {
                self.naive.snapshots.pop();
                self.snapshots.pop();
            }
            Step::Reload => self.reload(),
            Step::Read { start, length } => {
                let sectors = self.blocks() * BLOCK_BYTES / SECTOR_BYTES;
                let start = u64::from(start) % sectors;
                let count = (u64::from(length) % 300).clamp(1, sectors - start);
                self.read(ByteRange::new(self.first_byte() + start * SECTOR_BYTES, count * SECTOR_BYTES));
            }
        }
    }
}

/// Runs a history; how many merges it came to.
fn run(size: RegionSize, steps: &[Step]) -> u32 {
    let mut pair = Pair::new(size);
    for step in steps {
        pair.step(step);
    }
    pair.reload();
    pair.check_diffs();
    pair.read(ByteRange::new(pair.first_byte(), pair.blocks() * BLOCK_BYTES));
    pair.zero(0..pair.blocks());
    for region in (0..REGIONS).map(|region| RegionIndex(FIRST_REGION + region)) {
        assert_eq!(pair.table.entry(region), EntryView::Zero, "nothing of a volume trimmed whole is mapped");
    }
    pair.merges
}

#[test]
fn a_write_that_finds_the_stack_full_merges_it() {
    let block = |start| Step::Write { start, length: 1 };
    let steps: Vec<_> = (0..9).flat_map(|start| [block(start), Step::TakeSnapshot]).collect();
    assert_eq!(run(RegionSize::DEFAULT, &steps), 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn a_table_agrees_with_a_vector_of_blocks(
        log2 in prop::sample::select(vec![14_u32, 16, 18, 20]),
        steps in steps(),
    ) {
        run(RegionSize::from_bytes(1 << log2).expect("a region size"), &steps);
    }

    #[test]
    fn many_snapshots_of_few_blocks_end_in_merges_and_stay_right(
        writes in prop::collection::vec((0_u32..20, 0_u32..3, 0_u8..3), 40..120),
    ) {
        let steps: Vec<_> = writes
            .iter()
            .flat_map(|&(start, length, kind)| {
                let change = if kind == 0 {
                    Step::Zero { start, length: length * 3 + 1 }
                } else {
                    Step::Write { start, length: length * 3 + 1 }
                };
                [change, Step::TakeSnapshot]
            })
            .collect();
        run(RegionSize::DEFAULT, &steps);
    }
}
