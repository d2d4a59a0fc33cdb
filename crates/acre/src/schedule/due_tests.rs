//! Years of schedules in a moment.

use crate::calendar;
use crate::schedule::Rule;
use api::{KeepRule, Schedule, Snapshot, SnapshotState};
use controller::{Due, Planted, SCHEDULED_PREFIX};
use proptest::prelude::*;
use std::collections::BTreeSet;

const HOUR: u64 = 3600;
const DAY: u64 = 24 * HOUR;
/// 2026-01-01T00:00:00Z.
const START: u64 = 1_767_225_600;

fn schedule(every_seconds: u64, rules: &str) -> Schedule {
    let keep = rules.split(',').map(|rule| rule.parse::<Rule>().unwrap().0).collect();
    Schedule { volume: "a".into(), every_seconds, keep }
}

fn snapshot(id: u32, taken: u64) -> Snapshot {
    Snapshot {
        id,
        name: format!("a@{SCHEDULED_PREFIX}{}", calendar::compact(taken)),
        volume: "a".into(),
        state: SnapshotState::Ready,
        created_unix_seconds: taken,
        size_bytes: 0,
        referenced_bytes: 0,
        unique_bytes: 0,
        scheduled: true,
        imported_from: None,
        clones: Vec::new(),
        progress_percent: None,
    }
}

fn plan(schedule: &Schedule, snapshots: &[Snapshot], now: u64) -> Due {
    controller::due(schedule, snapshots, now, Planted::default())
}

/// A volume, its clock and its schedule.
struct World {
    schedule: Schedule,
    snapshots: Vec<Snapshot>,
    now: u64,
    next_id: u32,
    taken: u64,
    deleted: u64,
}

impl World {
    fn new(schedule: Schedule) -> Self {
        Self { schedule, snapshots: Vec::new(), now: START, next_id: 1, taken: 0, deleted: 0 }
    }

    /// Looks as the shell does: a look that takes a snapshot deletes nothing.
    fn look(&mut self) -> Due {
        let plan = plan(&self.schedule, &self.snapshots, self.now);
        if plan.take {
            self.snapshots.push(snapshot(self.next_id, self.now));
            self.next_id += 1;
            self.taken += 1;
        } else {
            self.deleted += plan.delete.len() as u64;
            self.snapshots.retain(|snapshot| !plan.delete.contains(&snapshot.name));
        }
        plan
    }

    /// Lets time pass, looking every `step` seconds.
    fn run(&mut self, seconds: u64, step: u64) {
        let end = self.now + seconds;
        while self.now < end {
            self.now += step;
            if self.look().take {
                self.look();
            }
        }
    }

    fn ages(&self) -> Vec<u64> {
        self.snapshots.iter().map(|snapshot| self.now.saturating_sub(snapshot.created_unix_seconds)).collect()
    }

    /// How many there can be: what each rule can keep, and the newest.
    fn bound(&self) -> u64 {
        let most = |rule: &KeepRule| {
            let each = if rule.each_seconds == 0 { self.schedule.every_seconds } else { rule.each_seconds };
            rule.within_seconds / each.max(1) + 2
        };
        self.schedule.keep.iter().map(most).sum::<u64>() + 2
    }
}

#[test]
fn half_a_year_leaves_a_day_of_all_a_week_of_hours_and_a_quarter_of_days() {
    let mut world = World::new(schedule(900, "24h:all,7d:hourly,90d:daily"));
    world.run(180 * DAY, 900);
    assert_eq!(world.taken, 180 * 96);
    let ages = world.ages();
    let within = |from: u64, to: u64| ages.iter().filter(|age| (from..to).contains(*age)).count();
    assert!((95..=97).contains(&within(0, DAY)), "{ages:?}");
    assert!((6 * 24 - 1..=6 * 24 + 1).contains(&within(DAY, 7 * DAY)), "{ages:?}");
    assert!((82..=84).contains(&within(7 * DAY, 90 * DAY)), "{ages:?}");
    assert_eq!(within(90 * DAY, u64::MAX), 0);
}

#[test]
fn five_years_of_hours_leave_a_snapshot_a_month_with_a_month_between_them() {
    let mut world = World::new(schedule(HOUR, "2d:all,1825d:monthly"));
    world.run(5 * 365 * DAY, HOUR);
    let months: Vec<u64> = world.ages().into_iter().filter(|age| *age >= 2 * DAY).collect();
    assert!((60..=62).contains(&months.len()), "{months:?}");
    assert!(months.windows(2).skip(1).all(|pair| pair[0] - pair[1] == 30 * DAY), "{months:?}");
    assert!(world.snapshots.len() as u64 <= world.bound());
}

#[test]
fn after_downtime_one_snapshot_is_taken_and_not_all_that_were_missed() {
    let mut world = World::new(schedule(HOUR, "7d:all"));
    world.run(DAY, 60);
    let before = world.taken;
    world.now += 3 * DAY;
    assert!(world.look().take);
    assert!(!world.look().take);
    world.run(HOUR - 60, 60);
    assert_eq!(world.taken, before + 1);
    world.run(60, 60);
    assert_eq!(world.taken, before + 2);
}

#[test]
fn the_newest_is_kept_however_old_it_is() {
    let mut world = World::new(schedule(HOUR, "1d:all"));
    world.look();
    let plan = plan(&world.schedule, &world.snapshots, START + 400 * DAY);
    assert_eq!((plan.take, plan.delete.len()), (true, 0));
}

#[test]
fn what_people_took_or_renamed_and_what_is_going_already_is_left_alone() {
    let mut old = vec![snapshot(1, START), snapshot(2, START), snapshot(3, START), snapshot(4, START)];
    old[0].scheduled = false;
    old[1].name = "a@before-the-move".into();
    old[2].state = SnapshotState::Deleting;
    old.push(snapshot(5, START + 1));
    old.push(snapshot(6, START + 100 * DAY));
    let plan = plan(&schedule(HOUR, "1d:all"), &old, START + 100 * DAY);
    assert_eq!(plan.delete, [old[3].name.clone(), old[4].name.clone()]);
    assert!(!plan.take);
}

#[test]
fn without_a_rule_nothing_is_deleted() {
    let schedule = Schedule { volume: "a".into(), every_seconds: HOUR, keep: Vec::new() };
    let snapshots = [snapshot(1, START), snapshot(2, START + DAY)];
    assert!(plan(&schedule, &snapshots, START + 999 * DAY).delete.is_empty());
}

#[test]
fn a_clock_put_back_deletes_nothing_and_brings_one_snapshot_at_most() {
    for back in [1, 60, 600, 899, 901, HOUR, DAY, 40 * DAY, START] {
        let mut world = World::new(schedule(900, "24h:all,7d:hourly"));
        world.run(10 * DAY, 60);
        world.look();
        let (taken, deleted) = (world.taken, world.deleted);
        world.now = world.now.saturating_sub(back);
        for _ in 0..10 {
            world.look();
        }
        assert!(world.taken <= taken + 1, "{back}");
        assert_eq!(world.deleted, deleted, "{back}");
        world.run(6 * HOUR, 60);
        assert!((22..=26).contains(&(world.taken - taken)), "{back}: {}", world.taken - taken);
    }
}

#[test]
fn a_clock_far_ahead_for_a_while_does_not_stop_what_comes_after() {
    let mut world = World::new(schedule(900, "365d:all"));
    world.run(DAY, 60);
    let right = world.now;
    world.now = right + 3650 * DAY;
    assert!(world.look().take);
    world.now = right + 60;
    let before = world.taken;
    world.run(DAY, 60);
    assert!((96..=97).contains(&(world.taken - before)), "{}", world.taken - before);
}

#[test]
fn it_is_told_when_to_look_again() {
    let schedule = schedule(900, "1d:all");
    let look = |now| plan(&schedule, &[snapshot(1, START)], now);
    assert_eq!(look(START + 100), Due { look_again_seconds: 60, ..Due::default() });
    assert_eq!(look(START + 890), Due { look_again_seconds: 10, ..Due::default() });
    assert!(look(START + 900).take);
}

fn rule() -> impl Strategy<Value = KeepRule> {
    let each = prop_oneof![Just(0), Just(HOUR), Just(DAY), Just(7 * DAY), 600..5 * DAY];
    (HOUR..60 * DAY, each).prop_map(|(within_seconds, each_seconds)| KeepRule { within_seconds, each_seconds })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn whatever_the_rules_the_count_is_bounded_the_spacing_right_and_nothing_goes_before_its_time(
        every in 300_u64..2 * DAY,
        keep in prop::collection::vec(rule(), 1..5),
        gaps in prop::collection::vec(prop_oneof![9 => 0_u64..900, 1 => 0_u64..20 * DAY], 600),
    ) {
        let mut world = World::new(Schedule { volume: "a".into(), every_seconds: every, keep });
        let mut newest = None;
        // All that were ever taken, to know which were the first of their periods.
        let mut history: Vec<Snapshot> = Vec::new();
        for gap in gaps {
            world.now += 1 + gap;
            let plan = world.look();
            if plan.take {
                prop_assert!(newest.is_none_or(|newest| world.now - newest >= every), "too early");
                newest = Some(world.now);
                history.push(world.snapshots.last().unwrap().clone());
                continue;
            }
            prop_assert!(newest.is_some_and(|newest| world.now - newest < every), "too late");
            prop_assert!(world.snapshots.len() as u64 <= world.bound(), "{} of {}", world.snapshots.len(), world.bound());
            prop_assert_eq!(world.snapshots.last().map(|snapshot| snapshot.id), history.last().map(|snapshot| snapshot.id));
            // Looking again changes nothing.
            prop_assert_eq!(world.look().delete, Vec::<String>::new());
            // The whole history takes long to go through.
            if !world.now.is_multiple_of(8) {
                continue;
            }
            let there: BTreeSet<u32> = world.snapshots.iter().map(|snapshot| snapshot.id).collect();
            for rule in &world.schedule.keep {
                let mut periods = BTreeSet::new();
                for snapshot in &history {
                    let taken = snapshot.created_unix_seconds;
                    let is_first = rule.each_seconds == 0 || periods.insert(taken / rule.each_seconds);
                    let is_there = there.contains(&snapshot.id);
                    prop_assert!(is_there || !is_first || world.now - taken >= rule.within_seconds, "{taken} is missing");
                }
            }
        }
    }
}
