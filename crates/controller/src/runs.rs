//! Sets of allocation units, as runs.

use model::{LogicalDiskId, UnitIndex, UnitRun};
use std::collections::BTreeMap;

/// A set of units: disjoint runs, each start → end.
#[derive(Clone, Debug, Default)]
pub(crate) struct RunSet {
    runs: BTreeMap<(LogicalDiskId, u32), u32>,
}

impl RunSet {
    /// The set of the units of `runs`; `None` when a run is empty, overflows or overlaps another.
    pub(crate) fn from_disjoint(runs: &[UnitRun]) -> Option<Self> {
        let mut set = Self::default();
        for run in runs {
            run.start.0.checked_add(run.count).filter(|_| run.count > 0)?;
            if set.overlaps(*run) {
                return None;
            }
            set.runs.insert((run.logical_disk, run.start.0), run.end());
        }
        Some(set)
    }

    /// The set of the units of `runs`, which may overlap.
    pub(crate) fn of(runs: impl Iterator<Item = UnitRun>) -> Self {
        let mut sorted: Vec<UnitRun> = runs.collect();
        sorted.sort_unstable_by_key(|run| (run.logical_disk, run.start));
        let mut set = Self::default();
        let mut last: Option<UnitRun> = None;
        for run in sorted {
            match &mut last {
                Some(last) if last.logical_disk == run.logical_disk && run.start.0 <= last.end() => {
                    last.count = last.count.max(run.end() - last.start.0);
                }
                _ => {
                    set.insert(last.replace(run));
                }
            }
        }
        set.insert(last);
        set
    }

    fn insert(&mut self, run: Option<UnitRun>) {
        if let Some(run) = run {
            self.runs.insert((run.logical_disk, run.start.0), run.end());
        }
    }

    /// The set without the units of `runs`.
    pub(crate) fn without(mut self, runs: &[UnitRun]) -> Self {
        for run in runs {
            let parts: Vec<UnitRun> = self.overlapping(*run).collect();
            for part in parts {
                let around = self.runs.range(..=(part.logical_disk, part.start.0)).next_back();
                let (&(disk, start), &end) = around.expect("a part of the set lies in one of its runs");
                self.runs.remove(&(disk, start));
                if start < part.start.0 {
                    self.runs.insert((disk, start), part.start.0);
                }
                if part.end() < end {
                    self.runs.insert((disk, part.end()), end);
                }
            }
        }
        self
    }

    /// Calls `visit` with each part of `run` that is not in the set.
    pub(crate) fn outside(&self, run: UnitRun, mut visit: impl FnMut(UnitRun)) {
        let mut at = run.start.0;
        let part = |start: u32, end: u32| UnitRun { start: UnitIndex(start), count: end - start, ..run };
        for inside in self.overlapping(run) {
            if at < inside.start.0 {
                visit(part(at, inside.start.0));
            }
            at = inside.end();
        }
        if at < run.end() {
            visit(part(at, run.end()));
        }
    }

    /// The parts of `run` that are in the set, ascending.
    pub(crate) fn overlapping(&self, run: UnitRun) -> impl Iterator<Item = UnitRun> + '_ {
        let first = self
            .runs
            .range(..=(run.logical_disk, run.start.0))
            .next_back()
            .filter(|((disk, _), end)| *disk == run.logical_disk && **end > run.start.0)
            .map_or(run.start.0, |((_, start), _)| *start);
        self.runs.range((run.logical_disk, first)..(run.logical_disk, run.end())).map(move |((_, start), end)| {
            let (low, high) = ((*start).max(run.start.0), (*end).min(run.end()));
            UnitRun { logical_disk: run.logical_disk, start: UnitIndex(low), count: high - low }
        })
    }

    /// All of the set, neighbours as one run.
    pub(crate) fn merged(&self) -> Vec<UnitRun> {
        let mut merged: Vec<UnitRun> = Vec::new();
        for ((disk, start), end) in &self.runs {
            match merged.last_mut() {
                Some(last) if last.logical_disk == *disk && last.end() == *start => last.count += end - start,
                _ => merged.push(UnitRun { logical_disk: *disk, start: UnitIndex(*start), count: end - start }),
            }
        }
        merged
    }

    pub(crate) fn overlaps(&self, run: UnitRun) -> bool {
        self.overlapping(run).next().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(start: u32, count: u32) -> UnitRun {
        UnitRun { logical_disk: LogicalDiskId(1), start: UnitIndex(start), count }
    }

    #[test]
    fn a_set_knows_what_it_holds_and_refuses_overlaps() {
        let set = RunSet::from_disjoint(&[run(10, 5), run(15, 5), run(30, 1)]).unwrap();
        assert_eq!(set.overlapping(run(12, 6)).collect::<Vec<_>>(), [run(12, 3), run(15, 3)]);
        assert_eq!(set.merged(), [run(10, 10), run(30, 1)]);
        assert!(set.overlaps(run(0, 11)) && !set.overlaps(run(20, 10)) && set.overlaps(run(20, 11)));
        let overlapping = RunSet::of([run(14, 4), run(10, 5), run(30, 1)].into_iter());
        assert_eq!(overlapping.merged(), [run(10, 8), run(30, 1)]);
        let holed = overlapping.without(&[run(12, 2), run(30, 5)]);
        assert_eq!(holed.merged(), [run(10, 2), run(14, 4)]);
        let mut outside = Vec::new();
        holed.outside(run(8, 12), |part| outside.push(part));
        assert_eq!(outside, [run(8, 2), run(12, 2), run(18, 2)]);
        assert!(RunSet::from_disjoint(&[run(10, 5), run(14, 1)]).is_none());
        assert!(RunSet::from_disjoint(&[run(14, 1), run(10, 5)]).is_none());
        assert!(RunSet::from_disjoint(&[run(u32::MAX, 1)]).is_none());
        assert!(RunSet::from_disjoint(&[run(1, 0)]).is_none());
    }
}
