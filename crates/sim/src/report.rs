//! What many runs amount to, and how to run again the one that failed.

use sim::{Counts, Outcome, Settings};
use std::process::Command;

/// What many runs amount to.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    runs: u64,
    counts: Counts,
    /// What failed: how to replay it, and what was seen.
    pub(crate) failures: Vec<(String, String)>,
}

impl Tally {
    pub(crate) fn add(&mut self, seed: u64, settings: Settings, outcome: &Outcome, repeats: bool) {
        self.runs += 1;
        self.counts.operations += outcome.counts.operations;
        self.counts.crashes += outcome.counts.crashes;
        self.counts.effects += outcome.counts.effects;
        self.counts.refused_full += outcome.counts.refused_full;
        self.counts.evictions += outcome.counts.evictions;
        self.counts.failed += outcome.counts.failed;
        self.counts.views.add(&outcome.counts.views);
        let mut replay = format!("cargo xtask sim --seed {seed} --scenario {}", settings.scenario.name());
        if let Some((at, power_cut)) = settings.crash_after {
            replay += &format!(" --crash-at {at}{}", if power_cut { " --power-cut" } else { "" });
        }
        if let Some(violation) = &outcome.violation {
            self.failures.push((replay, violation.to_string()));
        } else if !repeats {
            self.failures.push((replay, "DETERMINISM: the same seed ran differently the second time".to_owned()));
        }
    }

    pub(crate) fn print(&self, first: u64, count: u64) {
        println!("seeds {first} to {}: {} runs", first + count - 1, self.runs);
        self.print_counts();
    }

    pub(crate) fn print_crashes(&self, seed: u64, effects: u64, step: u64) {
        println!("seed {seed}, {effects} effects, ended at every {step}th: {} runs", self.runs);
        self.print_counts();
    }

    fn print_counts(&self) {
        let Counts { operations, crashes, effects, refused_full, evictions, failed, views } = self.counts;
        let each = operations / self.runs.max(1);
        println!("  {operations} operations of hosts ({each} a run), {effects} effects, {crashes} crashes");
        println!("  {refused_full} requests refused for lack of space, {failed} failed by injected faults");
        println!("  {evictions} table pages evicted");
        println!(
            "  {} snapshots ({} cuts through several volumes), {} deleted, {} renamed; {} clones, {} rollbacks, {} flattenings",
            views.snapshots, views.cuts, views.deletes, views.renames, views.clones, views.rollbacks, views.flattens
        );
        println!(
            "  {} diffs and {} answers to what changed judged, {} looks at schedules, {} deletions accounted for, {} requests about snapshots struck by a crash",
            views.diffs, views.changed, views.looks, views.accounts, views.strikes
        );
        for (replay, seen) in &self.failures {
            println!("FAILED  {seen}");
            println!("  replay: git checkout {} && {replay} --trace", commit());
        }
        if self.failures.is_empty() {
            println!("  no promise was broken");
        }
    }
}

/// The commit this was built from, as far as the place it runs in knows.
fn commit() -> String {
    let output = Command::new("git").args(["rev-parse", "--short", "HEAD"]).output();
    match output {
        Ok(output) if output.status.success() => String::from_utf8_lossy(&output.stdout).trim().to_owned(),
        _ => "HEAD".to_owned(),
    }
}
