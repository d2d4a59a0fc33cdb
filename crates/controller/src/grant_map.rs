//! Units granted to sessions and not mapped yet: which run is whose. A unit is in at most one.

use model::{Epoch, LogicalDiskId, UnitIndex, UnitRun};
use std::collections::{BTreeMap, BTreeSet};
use store::records::{GrantRecord, Record};
use store::{Batch, Key};

/// Every grant of every session.
#[derive(Clone, Debug, Default)]
pub(crate) struct GrantMap {
    runs: BTreeMap<(LogicalDiskId, u32), Held>,
    sessions: BTreeMap<Epoch, Holder>,
}

#[derive(Clone, Copy, Debug)]
struct Held {
    epoch: Epoch,
    count: u32,
}

#[derive(Clone, Debug, Default)]
struct Holder {
    starts: BTreeSet<(LogicalDiskId, u32)>,
    units: u64,
}

impl GrantMap {
    /// How many units a session holds.
    pub(crate) fn units_of(&self, epoch: Epoch) -> u64 {
        self.sessions.get(&epoch).map_or(0, |holder| holder.units)
    }

    /// The runs a session holds.
    pub(crate) fn runs_of(&self, epoch: Epoch) -> Vec<UnitRun> {
        let Some(holder) = self.sessions.get(&epoch) else { return Vec::new() };
        let run = |(disk, start): &(LogicalDiskId, u32)| UnitRun {
            logical_disk: *disk,
            start: UnitIndex(*start),
            count: self.runs[&(*disk, *start)].count,
        };
        holder.starts.iter().map(run).collect()
    }

    /// Adds a run that nobody holds.
    ///
    /// # Panics
    /// When somebody does.
    pub(crate) fn add(&mut self, epoch: Epoch, run: UnitRun) {
        assert!(self.overlapping(run).is_empty(), "NO_REGION_OWNED_TWICE: {run:?} is granted already");
        let key = (run.logical_disk, run.start.0);
        self.runs.insert(key, Held { epoch, count: run.count });
        let holder = self.sessions.entry(epoch).or_default();
        holder.starts.insert(key);
        holder.units += u64::from(run.count);
    }

    /// Whether nobody holds any unit of `run`.
    pub(crate) fn is_clear_of(&self, run: UnitRun) -> bool {
        self.overlapping(run).is_empty()
    }

    /// The whole runs that share units with `run`, ascending, and who holds them.
    fn overlapping(&self, run: UnitRun) -> Vec<(UnitRun, Epoch)> {
        let disk = run.logical_disk;
        let whole = |((_, start), held): (&(LogicalDiskId, u32), &Held)| {
            (UnitRun { logical_disk: disk, start: UnitIndex(*start), count: held.count }, held.epoch)
        };
        let before = self.runs.range(..(disk, run.start.0)).next_back().filter(|((before, _), _)| *before == disk);
        let before = before.map(whole).filter(|(held, _)| held.end() > run.start.0);
        before.into_iter().chain(self.runs.range((disk, run.start.0)..(disk, run.end())).map(whole)).collect()
    }

    /// The parts of `run` that are granted, and to whom.
    pub(crate) fn parts(&self, run: UnitRun) -> Vec<(UnitRun, Epoch)> {
        let part = |(held, epoch): (UnitRun, Epoch)| {
            let (low, high) = (held.start.0.max(run.start.0), held.end().min(run.end()));
            (UnitRun { logical_disk: run.logical_disk, start: UnitIndex(low), count: high - low }, epoch)
        };
        self.overlapping(run).into_iter().map(part).collect()
    }

    /// Whether `epoch` holds every unit of `run`.
    pub(crate) fn covers(&self, epoch: Epoch, run: UnitRun) -> bool {
        let parts = self.parts(run);
        parts.iter().all(|(_, holder)| *holder == epoch)
            && parts.iter().map(|(part, _)| part.count).sum::<u32>() == run.count
    }

    /// Takes the units of `run` out of whatever grants hold them, and writes down what is left of those. How many units
    /// that were.
    pub(crate) fn remove(&mut self, run: UnitRun, batch: &mut Batch) -> u64 {
        let mut removed = 0;
        for (held, epoch) in self.overlapping(run) {
            let holder = self.sessions.get_mut(&epoch).expect("a run's holder is known");
            let key = (held.logical_disk, held.start.0);
            self.runs.remove(&key);
            holder.starts.remove(&key);
            let (low, high) = (held.start.0.max(run.start.0), held.end().min(run.end()));
            removed += u64::from(high - low);
            holder.units -= u64::from(high - low);
            if low == held.start.0 {
                batch.delete(Key::Grant(epoch, held.logical_disk, held.start));
            }
            for (start, end) in [(held.start.0, low), (high, held.end())] {
                if start < end {
                    self.runs.insert((held.logical_disk, start), Held { epoch, count: end - start });
                    holder.starts.insert((held.logical_disk, start));
                    let record = GrantRecord { count: end - start };
                    batch.put(Key::Grant(epoch, held.logical_disk, UnitIndex(start)), record.encode());
                }
            }
        }
        removed
    }

    /// Forgets a session and all it holds.
    pub(crate) fn forget(&mut self, epoch: Epoch) -> Vec<UnitRun> {
        let runs = self.runs_of(epoch);
        for run in &runs {
            self.runs.remove(&(run.logical_disk, run.start.0));
        }
        self.sessions.remove(&epoch);
        runs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(start: u32, count: u32) -> UnitRun {
        UnitRun { logical_disk: LogicalDiskId(1), start: UnitIndex(start), count }
    }

    #[test]
    fn what_is_taken_out_of_the_middle_leaves_two_runs() {
        let (mut grants, mut batch) = (GrantMap::default(), Batch::new());
        grants.add(Epoch(1), run(0, 100));
        grants.add(Epoch(2), run(100, 100));
        assert!(grants.covers(Epoch(1), run(40, 20)) && !grants.covers(Epoch(1), run(90, 20)));
        assert_eq!(grants.remove(run(40, 20), &mut batch), 20);
        assert_eq!(grants.runs_of(Epoch(1)), [run(0, 40), run(60, 40)]);
        assert_eq!(grants.units_of(Epoch(1)), 80);
        assert_eq!(grants.parts(run(90, 20)), [(run(90, 10), Epoch(1)), (run(100, 10), Epoch(2))]);
        assert_eq!(grants.remove(run(0, 1000), &mut batch), 180);
        assert!(grants.is_clear_of(run(0, 1000)));
        let keys: Vec<_> = batch.changes.iter().filter(|change| matches!(change, store::Change::Put(..))).collect();
        assert_eq!(keys.len(), 2, "what was left was written down once");
    }
}
