//! The allocator against a vector of bools.

use super::*;
use proptest::prelude::*;

const LD: LogicalDiskId = LogicalDiskId(1);

fn run(start: u32, count: u32) -> UnitRun {
    UnitRun { logical_disk: LD, start: UnitIndex(start), count }
}

fn wish(units_per_region: u32, regions: u32) -> Wish {
    Wish { units_per_region, regions, near: None }
}

fn allocator(units: u32) -> Allocator {
    let mut allocator = Allocator::new();
    allocator.add_disk(LD, units);
    allocator
}

#[test]
fn a_stream_gets_neighbouring_runs_and_another_volume_starts_elsewhere() {
    let mut allocator = allocator(1 << 20);
    let first = allocator.allocate(wish(4, 256));
    let other = allocator.allocate(wish(4, 256));
    let second = allocator.allocate(Wish { near: Some(first[0]), ..wish(4, 256) });
    assert_eq!((first.len(), second.len(), other.len()), (1, 1, 1));
    assert_eq!(second[0].start.0, first[0].end());
    assert!(other[0].start.0 >= first[0].end() + 1024, "room was left between two volumes");
}

#[test]
fn a_contiguously_filled_tebibyte_needs_no_bitmaps() {
    let mut allocator = allocator(64 << 20);
    let mut near = None;
    for _ in 0..1024 {
        let runs = allocator.allocate(Wish { near, ..wish(4, 16384) });
        assert_eq!(runs.len(), 1);
        near = Some(runs[0]);
    }
    assert_eq!(allocator.free_units(), 0);
    let bitmaps = allocator.disks[&LD].pages.iter().filter(|page| matches!(page, Page::Bitmap(_))).count();
    assert_eq!(bitmaps, 0);
    assert!(allocator.drain_dirty().iter().all(|page| page.value.as_ref().is_some_and(|bytes| bytes.len() == 1)));
}

#[test]
fn a_full_pool_gives_its_last_pieces_and_then_nothing() {
    let mut allocator = allocator(1000);
    let all = allocator.allocate(wish(1, 2000));
    assert_eq!(all.iter().map(|run| run.count).sum::<u32>(), 1000);
    assert!(allocator.allocate(wish(1, 1)).is_empty());
    for start in (0..1000).step_by(10) {
        allocator.free(run(start, 3)).unwrap();
    }
    assert!(allocator.allocate(wish(4, 1)).is_empty(), "no aligned region of four is free");
    assert_eq!(allocator.allocate(wish(1, 300)).iter().map(|run| run.count).sum::<u32>(), 300);
    assert_eq!(allocator.free_units(), 0);
}

#[test]
fn what_is_in_quarantine_is_stored_as_free_and_not_given_out() {
    let mut allocator = allocator(64);
    allocator.allocate(wish(1, 64));
    allocator.drain_dirty();
    allocator.quarantine(run(8, 4)).unwrap();
    assert!(allocator.quarantine(run(9, 1)).is_err(), "freed twice");
    assert!(allocator.allocate(wish(1, 1)).is_empty());
    let dirty = allocator.drain_dirty();
    let mut reloaded = Allocator::new();
    reloaded.add_disk(LD, 64);
    reloaded.load_page(LD, dirty[0].index, dirty[0].value.as_ref().unwrap()).unwrap();
    assert_eq!(reloaded.free_units(), 4);
    allocator.release(run(8, 4));
    assert_eq!(allocator.allocate(wish(4, 1)), [run(8, 4)]);
}

#[test]
fn double_frees_and_foreign_units_are_refused() {
    let mut allocator = allocator(100);
    allocator.allocate(wish(1, 10));
    assert!(matches!(allocator.free(run(5, 50)), Err(AllocatorError::NotAllocated { .. })));
    assert!(matches!(allocator.free(run(90, 50)), Err(AllocatorError::OutOfRange { .. })));
    assert!(matches!(allocator.free(run(u32::MAX, u32::MAX)), Err(AllocatorError::OutOfRange { .. })));
    let foreign = UnitRun { logical_disk: LogicalDiskId(9), start: UnitIndex(0), count: 1 };
    assert!(matches!(allocator.free(foreign), Err(AllocatorError::OutOfRange { .. })));
    assert_eq!(allocator.free_units(), 90);
}

#[derive(Clone, Debug)]
enum Step {
    Allocate { region: u32, regions: u32, near: bool },
    Free { pick: usize, part: bool },
    Release,
    Reload,
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0_u32..5, 1_u32..300, any::<bool>())
            .prop_map(|(log2, regions, near)| Step::Allocate { region: 1 << log2, regions, near }),
        4 => (any::<usize>(), any::<bool>()).prop_map(|(pick, part)| Step::Free { pick, part }),
        1 => Just(Step::Release),
        1 => Just(Step::Reload),
    ]
}

/// The allocator, and everything it should know.
struct Checked {
    allocator: Allocator,
    naive: BTreeMap<LogicalDiskId, Vec<bool>>,
    stored: BTreeMap<(LogicalDiskId, u32), Vec<u8>>,
    owned: Vec<UnitRun>,
    quarantine: Vec<UnitRun>,
}

impl Checked {
    fn new(sizes: &[u32]) -> Self {
        let (mut allocator, mut naive) = (Allocator::new(), BTreeMap::new());
        for (id, units) in sizes.iter().enumerate() {
            allocator.add_disk(LogicalDiskId(id as u32), *units);
            naive.insert(LogicalDiskId(id as u32), vec![false; *units as usize]);
        }
        Self { allocator, naive, stored: BTreeMap::new(), owned: Vec::new(), quarantine: Vec::new() }
    }

    fn slice(&mut self, run: UnitRun) -> &mut [bool] {
        &mut self.naive.get_mut(&run.logical_disk).unwrap()[run.start.0 as usize..run.end() as usize]
    }

    fn free_regions_exist(&self, region: u32) -> bool {
        self.naive.values().any(|units| units.chunks_exact(region as usize).any(|chunk| chunk.iter().all(|set| !set)))
    }

    fn allocate(&mut self, region: u32, regions: u32, near: bool) {
        let near = self.owned.last().copied().filter(|_| near);
        let possible = self.free_regions_exist(region);
        let runs = self.allocator.allocate(Wish { units_per_region: region, regions, near });
        assert_eq!(runs.is_empty(), !possible, "a region is given exactly if one is free");
        assert!(runs.iter().map(|run| run.count / region).sum::<u32>() <= regions);
        for run in runs {
            assert!(run.start.0.is_multiple_of(region) && run.count.is_multiple_of(region) && run.count > 0);
            assert!(self.slice(run).iter().all(|set| !set), "{run:?} had an owner");
            self.slice(run).fill(true);
            self.owned.push(run);
        }
    }

    fn free(&mut self, pick: usize, part: bool) {
        if self.owned.is_empty() {
            return;
        }
        let index = pick % self.owned.len();
        let mut run = self.owned.swap_remove(index);
        if part && run.count > 1 {
            let kept = UnitRun { start: UnitIndex(run.start.0 + 1), count: run.count - 1, ..run };
            self.owned.push(kept);
            run.count = 1;
        }
        self.allocator.quarantine(run).unwrap();
        assert!(!self.allocator.is_allocated(run));
        self.quarantine.push(run);
    }

    fn store(&mut self) {
        for page in self.allocator.drain_dirty() {
            match page.value {
                Some(value) => self.stored.insert((page.logical_disk, page.index), value),
                None => self.stored.remove(&(page.logical_disk, page.index)),
            };
        }
    }

    fn release(&mut self) {
        self.store();
        for run in std::mem::take(&mut self.quarantine) {
            self.allocator.release(run);
            self.slice(run).fill(false);
        }
    }

    fn reload(&mut self) {
        self.release();
        let mut fresh = Allocator::new();
        for (id, units) in &self.naive {
            fresh.add_disk(*id, units.len() as u32);
        }
        for ((id, index), bytes) in &self.stored {
            fresh.load_page(*id, *index, bytes).unwrap();
        }
        self.allocator = fresh;
    }

    fn check(&self) {
        let free: usize = self.naive.values().map(|units| units.iter().filter(|set| !**set).count()).sum();
        assert_eq!(self.allocator.free_units(), free as u64);
        let waiting: u32 = self.quarantine.iter().map(|run| run.count).sum();
        assert_eq!(self.allocator.quarantined_units(), u64::from(waiting));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn the_allocator_agrees_with_vectors_of_bools(
        sizes in prop::collection::vec(1_u32..70_000, 1..4), steps in prop::collection::vec(any_step(), 1..60),
    ) {
        let mut checked = Checked::new(&sizes);
        for step in steps {
            match step {
                Step::Allocate { region, regions, near } => checked.allocate(region, regions, near),
                Step::Free { pick, part } => checked.free(pick, part),
                Step::Release => checked.release(),
                Step::Reload => checked.reload(),
            }
            checked.check();
        }
        checked.reload();
        checked.check();
    }
}
