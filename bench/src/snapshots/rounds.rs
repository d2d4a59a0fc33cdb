//! The rounds: rewrites, clones and overlays, the first snapshot, a series of them under load; us and qcow2 in turn.
//!
//! A measured write is the first to its place since the snapshot: as many blocks as a quarter of the regions are written
//! at random, no block twice, so that about 88 of 100 meet a region (or cluster) that nothing was written to since. One
//! half of the volume is for single writes, the other for sixteen at a time, so that neither run spoils the other's: each is
//! some thousands of writes, beside which attaching the volume and its first page faults and grants weigh little.

use std::path::Path;

use anyhow::Result;
use serde_json::{Value, json};

use crate::fio::{Amount, Figures, Job};
use crate::plan::Plan;
use crate::report;
use crate::results::Results;
use crate::snapshots::Wanted;
use crate::snapshots::subject::{Ours, Qcow2};

/// How many writes are in flight where there is more than one.
pub(crate) const DEEP: u32 = 16;
const BLOCK: u64 = 4 << 10;
const REGION: u64 = 64 << 10;
/// The disk has room for so many times the volume beside it: the series alone takes three.
const ROOM: u64 = 6;
/// And an image behind its end, if it is no overlay.
const BASE_ROOM: u64 = 4;

/// The part of the volume for one depth: where it begins, how long it is.
fn part(span: u64, depth: u32) -> (u64, u64) {
    if depth == 1 { (0, span / 2) } else { (span / 2, span / 2) }
}

/// How many first writes one run makes.
pub(crate) fn first_writes(span: u64, depth: u32) -> u64 {
    part(span, depth).1 / REGION / 4
}

/// A job of 4 KiB; the pattern is fio's.
fn job(pattern: &'static str, depth: u32, range: (u64, u64), amount: Amount) -> Job {
    Job { pattern, block_bytes: BLOCK, depth, range, amount }
}

/// The same for single I/Os and for many at a time, with the name of either.
type Pair = [(&'static str, u32); 2];

const REWRITE: Pair = [("rewrite-4k-qd1", 1), ("rewrite-4k-qd16", DEEP)];
const FIRST_SNAPSHOT: Pair = [("snap1-4k-qd1", 1), ("snap1-4k-qd16", DEEP)];
const SERIES: Pair = [("series-4k-qd1", 1), ("series-4k-qd16", DEEP)];
const CLONE: Pair = [("clone-4k-qd1", 1), ("clone-4k-qd16", DEEP)];
const READ_ORIGIN: Pair = [("read-origin-qd1", 1), ("read-origin-qd16", DEEP)];
const READ_CLONE: Pair = [("read-clone-qd1", 1), ("read-clone-qd16", DEEP)];
const READ_FRAGMENTED: Pair = [("read-fragmented-qd1", 1), ("read-fragmented-qd16", DEEP)];

/// Every workload, in the order of reports.
pub(crate) const ORDER: [Pair; 7] = [REWRITE, FIRST_SNAPSHOT, SERIES, CLONE, READ_ORIGIN, READ_CLONE, READ_FRAGMENTED];

/// Overlays, beside us: the name in reports, the image, whether it has sub-clusters.
const OVERLAYS: [(&str, &str, bool); 2] = [("qcow2", "overlay.qcow2", false), ("qcow2-ext", "extended.qcow2", true)];
const BASE: &str = "base.qcow2";

/// Runs all rounds; gives how long snapshots took.
pub(crate) fn run(wanted: &Wanted, folder: &Path, results: &mut Results) -> Result<Value> {
    let plan = &wanted.plan;
    println!("setting up");
    let ours = Ours::start(plan, folder, ROOM * plan.span_bytes)?;
    let qcow2 = match Qcow2::new(folder) {
        Ok(qcow2) => Some(qcow2),
        Err(error) => {
            results.lacks("qcow2", &error);
            None
        }
    };
    let mut rounds =
        Rounds { wanted, ours, qcow2, results, round: 0, ours_millis: Vec::new(), qcow2_millis: Vec::new() };
    for round in 1..=plan.rounds {
        rounds.round = round;
        rounds.one()?;
    }
    let (ours_millis, qcow2_millis) = (middle(&mut rounds.ours_millis), middle(&mut rounds.qcow2_millis));
    println!("a snapshot took {ours_millis:.2} ms (median, by HTTP), qcow2's, offline, {qcow2_millis:.1} ms");
    Ok(json!({
        "snapshots": wanted.snapshots,
        "first_writes": [first_writes(plan.span_bytes, 1), first_writes(plan.span_bytes, DEEP)],
        "snapshot_millis": ours_millis,
        "snapshot_millis_max": rounds.ours_millis.last(),
        "qcow2_snapshot_millis": qcow2_millis,
    }))
}

/// Sorts, and gives the middle one.
pub(crate) fn middle(figures: &mut [f64]) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or(f64::NAN)
}

struct Rounds<'a> {
    wanted: &'a Wanted,
    ours: Ours,
    qcow2: Option<Qcow2>,
    results: &'a mut Results,
    round: u32,
    ours_millis: Vec<f64>,
    qcow2_millis: Vec<f64>,
}

impl Rounds<'_> {
    fn plan(&self) -> &Plan {
        &self.wanted.plan
    }

    fn one(&mut self) -> Result<()> {
        let span = self.plan().span_bytes;
        if self.round > 1 {
            self.ours.empty(&["fragmented", "clone", "bench"])?;
            self.ours.fill(self.plan(), "bench", span)?;
        }
        if let Some(qcow2) = &self.qcow2 {
            qcow2.fill(self.plan(), BASE, BASE_ROOM * span)?;
        }
        let seconds = Amount::Seconds(self.plan().seconds);
        for (name, depth) in REWRITE {
            let job = job("randwrite", depth, part(span, depth), seconds);
            self.both(name, "bench", BASE, &job)?;
        }
        self.clones(span)?;
        // The live end was not written to since the snapshot that the clones are of.
        self.qcow2_snapshot("1")?;
        self.first(FIRST_SNAPSHOT, span)?;
        self.series(span)?;
        self.first(SERIES, span)?;
        if let Some(qcow2) = &self.qcow2 {
            qcow2.remove(BASE)?;
        }
        Ok(())
    }

    fn first(&mut self, names: Pair, span: u64) -> Result<()> {
        for (name, depth) in names {
            let amount = Amount::Bytes(first_writes(span, depth) * BLOCK);
            self.both(name, "bench", BASE, &job("randwrite", depth, part(span, depth), amount))?;
        }
        Ok(())
    }

    /// Writes into a clone and into overlays, reads of them, and of one whose blocks are half its own.
    fn clones(&mut self, span: u64) -> Result<()> {
        self.snapshot("bench@1")?;
        self.ours.clone("bench@1", "clone")?;
        self.ours.clone("bench@1", "fragmented")?;
        let whole = (0, span / 2);
        let seconds = Amount::Seconds(self.plan().seconds);
        for ((origin, depth), (clone, _)) in READ_ORIGIN.into_iter().zip(READ_CLONE) {
            let job = job("randread", depth, whole, seconds);
            self.both(origin, "bench@1", BASE, &job)?;
            self.ours(clone, "clone", &job)?;
            self.overlays(clone, &job, true)?;
        }
        for (name, depth) in CLONE {
            let amount = Amount::Bytes(first_writes(span, depth) * BLOCK);
            let job = job("randwrite", depth, part(span, depth), amount);
            self.ours(name, "clone", &job)?;
            self.overlays(name, &job, depth == 1)?;
        }
        let half = job("randwrite", DEEP, whole, Amount::Bytes(whole.1 / 2));
        self.ours.measure(self.plan(), "fragmented", &half)?;
        for (name, depth) in READ_FRAGMENTED {
            let job = job("randread", depth, whole, seconds);
            self.ours(name, "fragmented", &job)?;
        }
        self.fragmented_overlays(&half, whole, seconds)
    }

    fn fragmented_overlays(&mut self, half: &Job, range: (u64, u64), seconds: Amount) -> Result<()> {
        for (target, image, extended) in OVERLAYS {
            let Some(qcow2) = &self.qcow2 else { return Ok(()) };
            qcow2.overlay(BASE, image, extended, self.wanted.plan.span_bytes)?;
            qcow2.measure(&self.wanted.plan, image, half)?;
            for (name, depth) in READ_FRAGMENTED {
                self.theirs(name, target, image, &job("randread", depth, range, seconds))?;
            }
            let Some(qcow2) = &self.qcow2 else { return Ok(()) };
            qcow2.remove(image)?;
        }
        Ok(())
    }

    /// One job on each kind of overlay, made afresh or as the last job left it.
    fn overlays(&mut self, name: &'static str, job: &Job, fresh: bool) -> Result<()> {
        for (target, image, extended) in OVERLAYS {
            let Some(qcow2) = &self.qcow2 else { return Ok(()) };
            if fresh {
                qcow2.overlay(BASE, image, extended, self.wanted.plan.span_bytes / 2)?;
            }
            self.theirs(name, target, image, job)?;
        }
        Ok(())
    }

    /// Snapshots until there are as many as wanted, with writes to a sixteenth of the regions before each.
    fn series(&mut self, span: u64) -> Result<()> {
        let load = job("randwrite", DEEP, (0, span), Amount::Bytes(span / REGION / 16 * BLOCK));
        for number in 2..=self.wanted.snapshots {
            self.ours.measure(&self.wanted.plan, "bench", &load)?;
            self.snapshot(&format!("bench@{number}"))?;
            if let Some(qcow2) = &self.qcow2 {
                qcow2.measure(&self.wanted.plan, BASE, &load)?;
            }
            self.qcow2_snapshot(&number.to_string())?;
        }
        Ok(())
    }

    fn snapshot(&mut self, full: &str) -> Result<()> {
        self.ours_millis.push(self.ours.snapshot(full)?.as_secs_f64() * 1e3);
        Ok(())
    }

    fn qcow2_snapshot(&mut self, name: &str) -> Result<()> {
        if let Some(qcow2) = &self.qcow2 {
            self.qcow2_millis.push(qcow2.snapshot(BASE, name)?.as_secs_f64() * 1e3);
        }
        Ok(())
    }

    fn both(&mut self, name: &'static str, export: &str, image: &str, job: &Job) -> Result<()> {
        self.ours(name, export, job)?;
        self.theirs(name, "qcow2", image, job)
    }

    fn ours(&mut self, name: &'static str, export: &str, job: &Job) -> Result<()> {
        let figures = self.ours.measure(&self.wanted.plan, export, job)?;
        self.note(name, "acre", figures);
        Ok(())
    }

    fn theirs(&mut self, name: &'static str, target: &'static str, image: &str, job: &Job) -> Result<()> {
        let Some(qcow2) = &self.qcow2 else { return Ok(()) };
        let figures = qcow2.measure(&self.wanted.plan, image, job)?;
        self.note(name, target, figures);
        Ok(())
    }

    fn note(&mut self, name: &'static str, target: &'static str, figures: Figures) {
        println!("{} {name:<21} {target:<10} {}", self.round, report::line(&figures));
        self.results.push(self.round, name, target, figures);
    }
}
