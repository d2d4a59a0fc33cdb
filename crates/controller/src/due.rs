//! What a schedule asks for at a moment: a pure decision.
//!
//! Snapshots are put in order by id, which only ever grows, and not by what the clock said when they were taken: a clock
//! that was put back neither deletes anything nor brings a flood.
//!
//! A rule that keeps one snapshot each period keeps the **first** one taken in it. Periods are counted from 1970, in UTC.
//! Whether a snapshot is the first of its period is settled when it is taken and never changes, so that a rule needs
//! nothing of the other rules and nothing is ever kept only to be replaced.

use crate::planted::{Bug, Planted};
use api::{KeepRule, Schedule, Snapshot, SnapshotState, split_snapshot_name};
use std::collections::BTreeSet;

/// How the names of scheduled snapshots begin. One that a person gave another name is kept.
pub const SCHEDULED_PREFIX: &str = "auto-";
/// What is too old is looked for so often, in seconds.
const LOOK_SECONDS_MAX: u64 = 60;

/// What is to be done for one volume.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Due {
    /// A snapshot is due.
    pub take: bool,
    /// These snapshots are kept by no rule, by their full names, the oldest first.
    pub delete: Vec<String>,
    /// When there may be something to do again, in seconds from now.
    pub look_again_seconds: u64,
}

/// What `schedule` asks for, given every snapshot of its volume, at the time `now` (in seconds since 1970).
#[must_use]
pub fn due(schedule: &Schedule, snapshots: &[Snapshot], now: u64, planted: Planted) -> Due {
    let is_ours = |snapshot: &&Snapshot| snapshot.scheduled && snapshot.state == SnapshotState::Ready;
    let mut ours: Vec<&Snapshot> = snapshots.iter().filter(is_ours).collect();
    ours.sort_unstable_by_key(|snapshot| snapshot.id);
    let newest = ours.last().copied();
    let wait = newest.map_or(0, |newest| wait_seconds(newest.created_unix_seconds, schedule.every_seconds, now));
    let mut kept: BTreeSet<u32> = newest.iter().map(|newest| newest.id).collect();
    for rule in &schedule.keep {
        let within_seconds = if planted.has(Bug::SchedulePilesUp) { u64::MAX } else { rule.within_seconds };
        keep(KeepRule { within_seconds, ..*rule }, &ours, now, &mut kept);
    }
    if planted.has(Bug::SchedulePrunesOneMore) && kept.len() > 1 {
        kept.pop_first();
    }
    let is_lost = |snapshot: &&&Snapshot| !kept.contains(&snapshot.id) && is_named_by_schedule(&snapshot.name);
    // Without a rule nothing is known of what may go.
    let lost = ours.iter().filter(is_lost).filter(|_| !schedule.keep.is_empty());
    Due {
        take: wait == 0,
        delete: lost.map(|snapshot| snapshot.name.clone()).collect(),
        look_again_seconds: wait.clamp(1, LOOK_SECONDS_MAX),
    }
}

/// How long it is until the next one is due. A time from which the clock is further away than one period, in either
/// direction, says nothing but that one is due.
fn wait_seconds(taken: u64, every: u64, now: u64) -> u64 {
    let due = taken.saturating_add(every);
    if taken > now.saturating_add(every) { 0 } else { due.saturating_sub(now) }
}

/// Adds to `kept` what the rule keeps of `ours`, which are in the order in which they were taken.
fn keep(rule: KeepRule, ours: &[&Snapshot], now: u64, kept: &mut BTreeSet<u32>) {
    let mut periods = BTreeSet::new();
    for snapshot in ours {
        let taken = snapshot.created_unix_seconds;
        let is_first = taken.checked_div(rule.each_seconds).is_none_or(|period| periods.insert(period));
        if is_first && now.saturating_sub(taken) < rule.within_seconds {
            kept.insert(snapshot.id);
        }
    }
}

fn is_named_by_schedule(full: &str) -> bool {
    split_snapshot_name(full).is_ok_and(|(_, name)| name.starts_with(SCHEDULED_PREFIX))
}
