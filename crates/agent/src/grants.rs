//! Regions granted to this agent for one volume, and where the next one is best put.
//!
//! Neighbours belong together: a region goes right beside a neighbour of its window (1 MiB of the volume) that is
//! mapped already. The first region of a window *softly* reserves the run that its neighbours would need; nothing is
//! recorded of that anywhere else, and when space is short such reservations are used like any other free region. They last
//! as long as their generation: what is written after a snapshot is never one extent with what lies below.

use model::{DiskRegion, LogicalDiskId, RegionSize, UnitIndex, UnitRun};
use std::collections::{BTreeMap, VecDeque};

/// How many bytes of a volume share a soft reservation.
const WINDOW_BYTES: u64 = 1 << 20;

/// Free runs of units: (logical disk, first unit) → count.
#[derive(Debug, Default)]
struct FreeRuns {
    runs: BTreeMap<(LogicalDiskId, u32), u32>,
    units: u64,
}

impl FreeRuns {
    fn insert(&mut self, run: UnitRun) {
        let (mut start, mut count) = (run.start.0, run.count);
        self.units += u64::from(run.count);
        if let Some((&(disk, before), &length)) = self.runs.range(..(run.logical_disk, start)).next_back()
            && disk == run.logical_disk
        {
            assert!(before + length <= start, "units freed twice: {run:?}");
            if before + length == start {
                self.runs.remove(&(disk, before));
                (start, count) = (before, count + length);
            }
        }
        if let Some((&(disk, after), &length)) = self.runs.range((run.logical_disk, start)..).next()
            && disk == run.logical_disk
        {
            assert!(start + count <= after, "units freed twice: {run:?}");
            if start + count == after {
                self.runs.remove(&(disk, after));
                count += length;
            }
        }
        self.runs.insert((run.logical_disk, start), count);
    }

    /// The run that holds all of `wanted`, if one does.
    fn run_around(&self, wanted: UnitRun) -> Option<UnitRun> {
        let (&(disk, start), &count) = self.runs.range(..=(wanted.logical_disk, wanted.start.0)).next_back()?;
        (disk == wanted.logical_disk && start + count >= wanted.end()).then_some(UnitRun {
            logical_disk: disk,
            start: UnitIndex(start),
            count,
        })
    }

    fn take(&mut self, wanted: UnitRun) -> bool {
        let Some(around) = self.run_around(wanted) else { return false };
        self.units -= u64::from(wanted.count);
        self.runs.remove(&(around.logical_disk, around.start.0));
        if around.start < wanted.start {
            self.runs.insert((around.logical_disk, around.start.0), wanted.start.0 - around.start.0);
        }
        if wanted.end() < around.end() {
            self.runs.insert((around.logical_disk, wanted.end()), around.end() - wanted.end());
        }
        true
    }

    fn first(&self) -> Option<UnitRun> {
        let (&(logical_disk, start), &count) = self.runs.first_key_value()?;
        Some(UnitRun { logical_disk, start: UnitIndex(start), count })
    }

    fn drain(&mut self) -> impl Iterator<Item = UnitRun> + use<> {
        self.units = 0;
        std::mem::take(&mut self.runs).into_iter().map(|((logical_disk, start), count)| UnitRun {
            logical_disk,
            start: UnitIndex(start),
            count,
        })
    }
}

/// The free part of what the controller granted for one volume.
#[derive(Debug)]
pub(crate) struct Grants {
    size: RegionSize,
    /// Not spoken for.
    fresh: FreeRuns,
    /// Softly reserved for neighbours of mapped regions.
    soft: FreeRuns,
    /// What was softly reserved in generations that are over: free like any other, and taken before more is asked for.
    /// (Apart, because there may be many runs, and a snapshot must not wait until they are brought together.)
    over: VecDeque<FreeRuns>,
    /// How many units those are: asked at every write, while there may be as many generations as snapshots.
    over_units: u64,
    /// Space is short: no new soft reservations.
    pub(crate) scarce: bool,
}

/// A mapped neighbour in the same window: how many regions to the right of the wanted one it lies, and where it is.
pub(crate) type Neighbour = (i64, DiskRegion);

impl Grants {
    pub(crate) fn new(size: RegionSize) -> Self {
        Self {
            size,
            fresh: FreeRuns::default(),
            soft: FreeRuns::default(),
            over: VecDeque::new(),
            over_units: 0,
            scarce: false,
        }
    }

    /// How many regions share a window.
    pub(crate) fn window_regions(size: RegionSize) -> u64 {
        (WINDOW_BYTES / size.bytes()).max(1)
    }

    pub(crate) fn add(&mut self, run: UnitRun) {
        self.fresh.insert(run);
    }

    /// How many regions can be taken.
    pub(crate) fn regions(&self) -> u64 {
        self.fresh_regions() + self.soft.units / u64::from(self.size.units())
    }

    /// How many of them are not softly reserved.
    pub(crate) fn fresh_regions(&self) -> u64 {
        (self.fresh.units + self.over_units) / u64::from(self.size.units())
    }

    /// Another generation begins: nobody's neighbours come any more.
    pub(crate) fn generation_begins(&mut self) {
        if self.soft.units > 0 {
            self.over_units += self.soft.units;
            self.over.push_back(std::mem::take(&mut self.soft));
        }
    }

    /// Sees that there is a window's worth of fresh regions, as far as there is anything left over.
    fn refresh(&mut self) {
        let wanted = Self::window_regions(self.size) * u64::from(self.size.units());
        while self.fresh.units < wanted
            && let Some(runs) = self.over.front_mut()
        {
            match runs.first() {
                Some(run) => {
                    assert!(runs.take(run));
                    self.over_units -= u64::from(run.count);
                    self.fresh.insert(run);
                }
                None => drop(self.over.pop_front()),
            }
        }
    }

    /// Everything, to give it back.
    pub(crate) fn drain(&mut self) -> Vec<UnitRun> {
        let mut all = FreeRuns::default();
        self.fresh.drain().chain(self.soft.drain()).for_each(|run| all.insert(run));
        self.over_units = 0;
        self.over.drain(..).for_each(|mut runs| runs.drain().for_each(|run| all.insert(run)));
        all.drain().collect()
    }

    /// Takes the best free region for region `index` of the volume; `None` when there is none at all.
    /// `neighbours` are mapped regions near by, the ones to go by first.
    pub(crate) fn take(&mut self, index: u64, neighbours: &[Neighbour]) -> Option<DiskRegion> {
        self.refresh();
        let window = Self::window_regions(self.size);
        for (distance, place) in neighbours {
            if let Some(wanted) = shifted(*place, -*distance, self.size) {
                let units = wanted.units(self.size);
                // Beside a neighbour of another window lies what somebody else's neighbours are to have: robbing them
                // would scatter them, and strand what they have reserved.
                let same_window =
                    index.checked_add_signed(*distance).is_some_and(|other| other / window == index / window);
                if same_window && self.soft.take(units) {
                    return Some(wanted);
                }
                if self.fresh.run_around(units).is_some() {
                    self.reserve_window(wanted, index % window, window);
                    return Some(wanted);
                }
            }
        }
        if self.scarce
            && let Some(run) = self.soft.first()
        {
            let place = DiskRegion { logical_disk: run.logical_disk, unit: run.start };
            self.soft.take(place.units(self.size));
            return Some(place);
        }
        if let Some(run) = self.fresh.first() {
            // The run's first region stands for the window's first, if the window then still fits.
            let lead = if self.scarce { 0 } else { (index % window) as u32 };
            let room = run.count / self.size.units();
            let lead = lead.min(room - 1);
            let place = DiskRegion { logical_disk: run.logical_disk, unit: run.start }.offset_by(lead, self.size);
            self.reserve_window(place, index % window, window);
            return Some(place);
        }
        let run = self.soft.first()?;
        let place = DiskRegion { logical_disk: run.logical_disk, unit: run.start };
        self.soft.take(place.units(self.size));
        Some(place)
    }

    /// Takes `place` out of the fresh runs, and moves what of its window lies around it to the soft ones.
    fn reserve_window(&mut self, place: DiskRegion, slot: u64, window: u64) {
        let units = self.size.units();
        let around = self.fresh.run_around(place.units(self.size)).expect("the caller has seen it free");
        assert!(self.fresh.take(place.units(self.size)));
        if self.scarce {
            return;
        }
        let before = ((slot as u32) * units).min(place.unit.0 - around.start.0);
        let after = ((window - 1 - slot) as u32 * units).min(around.end() - place.unit.0 - units);
        for (start, count) in [(place.unit.0 - before, before), (place.unit.0 + units, after)] {
            if count > 0 {
                let run = UnitRun { logical_disk: place.logical_disk, start: UnitIndex(start), count };
                assert!(self.fresh.take(run));
                self.soft.insert(run);
            }
        }
    }
}

fn shifted(place: DiskRegion, regions: i64, size: RegionSize) -> Option<DiskRegion> {
    let unit = i64::from(place.unit.0) + regions * i64::from(size.units());
    Some(DiskRegion { logical_disk: place.logical_disk, unit: UnitIndex(u32::try_from(unit).ok()?) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generations_of_scattered_writes_take_no_more_than_they_use_and_one_generation_reserves() {
        let mut free = Grants::new(RegionSize::DEFAULT);
        let mut granted = 0;
        // 64 scattered windows in each of a hundred generations, a region of each.
        for generation in 0..100_u64 {
            free.generation_begins();
            for write in 0..64 {
                if free.fresh_regions() < 16 {
                    let units = 256 * RegionSize::DEFAULT.units();
                    free.add(UnitRun { logical_disk: LogicalDiskId(1), start: UnitIndex(granted), count: units });
                    granted += units;
                }
                assert!(free.take(write * 16 + generation % 16, &[]).is_some());
            }
        }
        let granted = u64::from(granted / RegionSize::DEFAULT.units());
        assert!(granted <= 6400 + 64 * 16 + 512, "{granted} regions for 6,400 writes");
        assert_eq!(free.regions(), granted - 6400, "nothing is lost");
        let all = free.drain();
        assert_eq!(
            all.iter().map(|run| u64::from(run.count / RegionSize::DEFAULT.units())).sum::<u64>(),
            granted - 6400
        );
        assert_eq!(free.regions(), 0);
    }

    fn grants(regions: u32) -> Grants {
        let mut grants = Grants::new(RegionSize::DEFAULT);
        grants.add(UnitRun { logical_disk: LogicalDiskId(1), start: UnitIndex(64), count: regions * 4 });
        grants
    }

    #[test]
    fn a_stream_gets_one_contiguous_run() {
        let mut grants = grants(64);
        let mut before: Vec<Neighbour> = Vec::new();
        let mut places = Vec::new();
        for index in 0..64 {
            let place = grants.take(index, &before).expect("granted");
            before = vec![(-1, place)];
            places.push(place.unit.0);
        }
        assert_eq!(places, (0..64).map(|i| 64 + 4 * i).collect::<Vec<_>>());
        assert_eq!(grants.take(64, &before), None);
    }

    #[test]
    fn scattered_regions_leave_room_for_their_neighbours_until_space_is_short() {
        let mut grants = grants(64);
        let far: Vec<_> = [5, 100, 1000].iter().map(|i| grants.take(*i, &[]).expect("granted")).collect();
        assert_eq!(grants.take(6, &[(-1, far[0])]), Some(far[0].offset_by(1, RegionSize::DEFAULT)));
        assert_eq!(grants.regions(), 60);
        assert!(grants.fresh_regions() <= 16);
        grants.scarce = true;
        let mut rest = std::collections::BTreeSet::new();
        while let Some(place) = grants.take(rest.len() as u64 * 97, &[]) {
            assert!(rest.insert(place) && !far.contains(&place));
        }
        assert_eq!(rest.len(), 60, "soft reservations are used up to the last region");
    }
}
