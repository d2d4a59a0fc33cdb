//! The goals, P1 to P14, and whether a run meets them: each is one figure, taken from every round by itself, and a bound.

use serde::{Deserialize, Serialize};

use crate::results::{Results, Spread};

/// What is asked of a figure.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Bound {
    AtLeast(f64),
    AtMost(f64),
    /// Nothing: it is to be told.
    Told,
}

/// A workload on a target.
type On = (&'static str, &'static str);

/// Where a figure comes from.
#[derive(Clone, Copy, Debug)]
enum Measure {
    /// One rate over another of the same round.
    Rate(On, On),
    /// The server's processor time for each I/O, in microseconds.
    Processor(On),
    /// One such time over another of the same round.
    ProcessorRatio(On, On),
    /// Our median latency above the disk's and the transport's together, in microseconds.
    AboveFloor(&'static str),
    /// Device flushes and commits of the map for each flush.
    Barriers(On),
    /// What a part tells at this place.
    Part(&'static str),
}

impl Measure {
    /// The figure over all rounds that have it.
    fn of(self, results: &Results) -> Option<Spread> {
        match self {
            Self::Part(pointer) => results.told(pointer),
            _ => Spread::of(results.rounds().into_iter().filter_map(|round| self.of_round(results, round))),
        }
    }

    fn of_round(self, results: &Results, round: u32) -> Option<f64> {
        let figures = |(workload, target): On| results.round(round, workload, target);
        let over = |above: f64, below: f64| (below > 0.0).then_some(above / below);
        match self {
            Self::Rate(one, other) => over(figures(one)?.iops, figures(other)?.iops),
            Self::Processor(one) => Some(figures(one)?.processor_micros),
            Self::ProcessorRatio(one, other) => over(figures(one)?.processor_micros, figures(other)?.processor_micros),
            Self::AboveFloor(workload) => {
                let median = |target| Some(figures((workload, target))?.p50_micros);
                Some(median("acre")? - median("disk")? - median("nbdkit-null")?)
            }
            Self::Barriers(one) => figures(one)?.barriers,
            Self::Part(_) => None,
        }
    }
}

struct Goal {
    id: &'static str,
    what: &'static str,
    measure: Measure,
    bound: Bound,
}

const fn goal(id: &'static str, what: &'static str, measure: Measure, bound: Bound) -> Goal {
    Goal { id, what, measure, bound }
}

/// Our rate over another's.
const fn ratio(workload: &'static str, peer: &'static str) -> Measure {
    Measure::Rate((workload, "acre"), (workload, peer))
}

/// Our rate at one workload over our rate at another.
const fn own(workload: &'static str, other: &'static str) -> Measure {
    Measure::Rate((workload, "acre"), (other, "acre"))
}

const fn processor(workload: &'static str) -> Measure {
    Measure::Processor((workload, "acre"))
}

/// Our rate right after a snapshot over that of an overlay with subclusters.
const fn over_overlay(workload: &'static str, overlay: &'static str) -> Measure {
    Measure::Rate((workload, "acre"), (overlay, "qcow2-ext"))
}

use Bound::{AtLeast, AtMost, Told};
use Measure::{AboveFloor, Barriers, Part};

/// Every goal, in the order of reports.
const GOALS: &[Goal] = &[
    goal("P1", "4K read QD64 over the disk", ratio("read-4k-qd64", "disk"), AtLeast(0.92)),
    goal("P1", "4K read QD64, server µs per I/O", processor("read-4k-qd64"), AtMost(6.0)),
    goal("P2", "4K write QD64 over the disk", ratio("write-4k-qd64", "disk"), AtLeast(0.78)),
    goal("P2", "4K write QD64, server µs per I/O", processor("write-4k-qd64"), AtMost(8.0)),
    goal("P2", "4K write QD16 over qemu-nbd raw", ratio("write-4k-qd16", "qemu-raw"), AtLeast(1.4)),
    goal("P3", "4K read QD1, p50 above disk + transport, µs", AboveFloor("read-4k-qd1"), AtMost(20.0)),
    goal("P3", "4K write QD1, p50 above disk + transport, µs", AboveFloor("write-4k-qd1"), AtMost(20.0)),
    goal("P3", "4K read QD1 over qemu-nbd raw", ratio("read-4k-qd1", "qemu-raw"), AtLeast(1.2)),
    goal("P3", "4K write QD1 over qemu-nbd raw", ratio("write-4k-qd1", "qemu-raw"), AtLeast(1.2)),
    goal("P4", "64K read QD16 over the disk", ratio("read-64k-qd16", "disk"), AtLeast(0.95)),
    goal("P4", "1M read QD4 over the disk", ratio("read-1m-qd4", "disk"), AtLeast(0.95)),
    goal("P4", "64K write QD16 over qemu-nbd raw", ratio("write-64k-qd16", "qemu-raw"), AtLeast(1.4)),
    goal("P4", "1M write QD4 over qemu-nbd raw", ratio("write-1m-qd4", "qemu-raw"), AtLeast(2.0)),
    goal("P5", "first write QD16 over own rewrite", own("first-4k-qd16", "write-4k-qd16"), AtLeast(0.6)),
    goal("P5", "first write QD16 over qcow2's", ratio("first-4k-qd16", "qcow2"), AtLeast(3.0)),
    goal("P6", "1st snapshot, QD1, over own rewrite", own("snap1-4k-qd1", "rewrite-4k-qd1"), AtLeast(0.6)),
    goal("P6", "1st snapshot, QD16, over own rewrite", own("snap1-4k-qd16", "rewrite-4k-qd16"), AtLeast(0.6)),
    goal("P6", "series, QD1, over own rewrite", own("series-4k-qd1", "rewrite-4k-qd1"), AtLeast(0.6)),
    goal("P6", "series, QD16, over own rewrite", own("series-4k-qd16", "rewrite-4k-qd16"), AtLeast(0.6)),
    goal("P6", "1st snapshot, QD1, over qcow2's", ratio("snap1-4k-qd1", "qcow2"), AtLeast(10.0)),
    goal("P6", "1st snapshot, QD16, over qcow2's", ratio("snap1-4k-qd16", "qcow2"), AtLeast(10.0)),
    goal("P6", "series, QD1, over qcow2's", ratio("series-4k-qd1", "qcow2"), AtLeast(10.0)),
    goal("P6", "series, QD16, over qcow2's", ratio("series-4k-qd16", "qcow2"), AtLeast(10.0)),
    goal("P6", "1st snapshot, QD1, over an overlay", over_overlay("snap1-4k-qd1", "clone-4k-qd1"), AtLeast(2.0)),
    goal("P6", "1st snapshot, QD16, over an overlay", over_overlay("snap1-4k-qd16", "clone-4k-qd16"), AtLeast(2.0)),
    goal("P6", "series, QD1, over an overlay", over_overlay("series-4k-qd1", "clone-4k-qd1"), AtLeast(2.0)),
    goal("P6", "series, QD16, over an overlay", over_overlay("series-4k-qd16", "clone-4k-qd16"), AtLeast(2.0)),
    goal("P7", "clone, QD1, writes over own rewrite", own("clone-4k-qd1", "rewrite-4k-qd1"), AtLeast(0.6)),
    goal("P7", "clone, QD16, writes over own rewrite", own("clone-4k-qd16", "rewrite-4k-qd16"), AtLeast(0.6)),
    goal("P7", "clone, QD1, writes over an overlay", over_overlay("clone-4k-qd1", "clone-4k-qd1"), AtLeast(2.0)),
    goal("P7", "clone, QD16, writes over an overlay", over_overlay("clone-4k-qd16", "clone-4k-qd16"), AtLeast(2.0)),
    goal("P7", "fresh clone, QD1, reads over its origin's", own("read-clone-qd1", "read-origin-qd1"), AtLeast(0.9)),
    goal("P7", "fresh clone, QD16, reads over its origin's", own("read-clone-qd16", "read-origin-qd16"), AtLeast(0.9)),
    goal("P7", "fragmented, QD1, reads over its origin's", own("read-fragmented-qd1", "read-origin-qd1"), AtLeast(0.9)),
    goal(
        "P7",
        "fragmented, QD16, reads over its origin's",
        own("read-fragmented-qd16", "read-origin-qd16"),
        AtLeast(0.9),
    ),
    goal("P8", "barriers a flush, steady state", Barriers(("flush-steady", "acre")), AtMost(1.01)),
    goal("P8", "barriers a flush, 1 new mapping each", Barriers(("flush-new-1", "acre")), AtMost(2.05)),
    goal("P8", "barriers a flush, 16 new mappings each", Barriers(("flush-new-16", "acre")), AtMost(2.05)),
    goal("P8", "barriers a flush, 256 new mappings each", Barriers(("flush-new-256", "acre")), AtMost(2.05)),
    goal("P8", "barriers a flush, 8 connections at once", Barriers(("flush-many", "acre")), AtMost(0.5)),
    goal("P9", "MiB a TiB mapped contiguously, map alone", Part("/fill/resident_mib_per_tib"), AtMost(1.0)),
    goal("P9", "MiB a TiB, server's growth, end to end", Part("/span/resident_mib_per_tib"), AtMost(1.0)),
    goal("P9", "bytes a region scattered, agent's table", Part("/fill/random_bytes_per_region"), Told),
    goal("P10", "reads over a TiB over those of 4 GiB, NBD", own("span-wide", "span-near"), AtLeast(0.95)),
    goal("P10", "the same in the engine alone", Part("/fill/lookup_ratio"), Told),
    goal("P10", "page faults a cold page", Part("/span/faults_per_page"), AtMost(1.01)),
    goal("P11", "snapshot of a fully mapped volume, ms", Part("/table/full_create_millis"), AtMost(5.0)),
    goal("P11", "the same over that of an empty volume", Part("/table/full_over_empty"), AtMost(1.25)),
    goal("P11", "writes held for a cut, worst, ms", Part("/pause/held_millis_max"), AtMost(5.0)),
    goal("P11", "longest write over a cut, median, ms", Part("/pause/longest_write_millis"), AtMost(5.0)),
    goal("P11", "longest write over a cut, worst, ms", Part("/pause/longest_write_millis_max"), AtMost(5.0)),
    goal("P11", "the same over a flush of a plain file, median, ms", Part("/pause/flush/longest_write_millis"), Told),
    goal(
        "P11",
        "page fetch, end of a chain over the same writes without",
        Part("/table/chain_fetch_growth"),
        AtMost(1.25),
    ),
    goal("P11", "a write, end of a chain over a volume without", Part("/table/chain_write_growth"), AtMost(1.25)),
    goal("P11", "step with a flush, the same", Part("/table/chain_commit_growth"), AtMost(1.25)),
    goal(
        "P12",
        "two threads over one, µs per I/O",
        Measure::ProcessorRatio(("reactors-2", "acre"), ("reactors-1", "acre")),
        AtMost(1.1),
    ),
    goal("P12", "two threads over one, rate, cores enough", Part("/reactors/rate_ratio"), AtLeast(1.8)),
    goal("P12", "the same where clients take cores", Part("/reactors/shared_rate_ratio"), Told),
    goal("P13", "idle, 100 attached volumes, % of a core", Part("/idle/percent"), AtMost(0.1)),
    goal("P14", "start after kill -9, over NBD, worst, ms", Part("/span/start_millis_max"), AtMost(1000.0)),
    goal("P14", "the same in the engines, cold, worst, ms", Part("/start/cold_millis_max"), AtMost(1000.0)),
];

/// One goal and what was seen.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Verdict {
    /// Its number.
    pub(crate) id: String,
    /// What is looked at.
    pub(crate) what: String,
    /// What is asked for, as people read it; empty if it is only to be told.
    pub(crate) wanted: String,
    /// What was measured: the median over the rounds, and both ends; none if it was not measured.
    pub(crate) seen: Option<Spread>,
    /// Whether the median is enough; none if nothing is asked for or nothing was measured.
    pub(crate) met: Option<bool>,
}

/// Judges every goal; those without figures are kept, as not measured.
pub(crate) fn judge(results: &Results) -> Vec<Verdict> {
    GOALS.iter().map(|goal| verdict(goal, goal.measure.of(results))).collect()
}

fn verdict(goal: &Goal, seen: Option<Spread>) -> Verdict {
    let met = |enough: fn(f64, f64) -> bool, bound: f64| seen.map(|seen| enough(seen.median, bound));
    let (wanted, met) = match goal.bound {
        AtLeast(bound) => (format!("≥ {bound}"), met(|seen, bound| seen >= bound, bound)),
        AtMost(bound) => (format!("≤ {bound}"), met(|seen, bound| seen <= bound, bound)),
        Told => (String::new(), None),
    };
    Verdict { id: goal.id.into(), what: goal.what.into(), wanted, seen, met }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fio::Figures;
    use serde_json::json;

    fn figures(iops: f64, p50_micros: f64, processor_micros: f64) -> Figures {
        Figures { iops, p50_micros, processor_micros, ..Figures::default() }
    }

    fn judged(results: &Results, what: &str) -> Verdict {
        judge(results).into_iter().find(|verdict| verdict.what == what).expect("there is such a goal")
    }

    #[test]
    fn a_ratio_is_taken_round_by_round() {
        let mut results = Results::default();
        for (round, ours, disk) in [(1, 90.0, 100.0), (2, 190.0, 200.0), (3, 49.0, 50.0)] {
            results.push(round, "read-4k-qd64", "acre", figures(ours, 0.0, 5.0));
            results.push(round, "read-4k-qd64", "disk", figures(disk, 0.0, 1.0));
        }
        let verdict = judged(&results, "4K read QD64 over the disk");
        assert_eq!(verdict.seen, Some(Spread { median: 0.95, min: 0.9, max: 0.98 }));
        assert_eq!((verdict.met, verdict.wanted.as_str()), (Some(true), "≥ 0.92"));
        assert_eq!(judged(&results, "4K read QD64, server µs per I/O").met, Some(true));
        assert_eq!(judged(&results, "4K write QD64 over the disk").met, None);
    }

    #[test]
    fn the_floor_of_one_request_is_the_disks_latency_and_the_transports() {
        let mut results = Results::default();
        for (target, p50) in [("acre", 131.0), ("disk", 60.0), ("nbdkit-null", 50.0)] {
            results.push(1, "read-4k-qd1", target, figures(1.0, p50, 1.0));
        }
        let verdict = judged(&results, "4K read QD1, p50 above disk + transport, µs");
        assert_eq!((verdict.seen.map(|seen| seen.median), verdict.met), (Some(21.0), Some(false)));
    }

    #[test]
    fn figures_of_parts_are_judged_told_or_missing() {
        let mut results = Results::default();
        results.parts.insert("idle".into(), json!({"percent": [0.05, 0.2, 0.06]}));
        results.parts.insert("fill".into(), json!({"random_bytes_per_region": 32}));
        assert_eq!(judged(&results, "idle, 100 attached volumes, % of a core").met, Some(true));
        let told = judged(&results, "bytes a region scattered, agent's table");
        assert_eq!((told.seen.map(|seen| seen.median), told.met), (Some(32.0), None));
        assert!(judged(&results, "the same in the engine alone").seen.is_none());
    }

    #[test]
    fn every_goal_of_the_list_is_judged() {
        let ids: std::collections::BTreeSet<&str> = GOALS.iter().map(|goal| goal.id).collect();
        assert_eq!(ids.len(), 14);
        for number in 1..=14 {
            assert!(ids.contains(format!("P{number}").as_str()), "P{number}");
        }
    }
}
