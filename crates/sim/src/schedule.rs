//! Schedules, kept to by an operator with a clock of its own, in which a look later is minutes later: what is deleted is
//! compared with a count of its own of what the rules keep.

use crate::operator::Task;
use crate::planted::PlantedBug;
use crate::random::Random;
use crate::verdict::{Invariant, Violation};
use crate::views::ViewTask;
use crate::world::World;
use api::{KeepRule, Request, Response, Schedule, ScheduleSet, Snapshot, SnapshotState};
use controller::{SCHEDULED_PREFIX, due};
use std::collections::BTreeMap;

/// Who keeps to schedules.
#[derive(Debug)]
pub(crate) struct Keeper {
    /// What its clock says, in seconds since 1970.
    pub(crate) now: u64,
    /// By volume, as a place among the world's.
    schedules: BTreeMap<usize, ScheduleSet>,
    random: Random,
}

impl Keeper {
    pub(crate) fn new(seed: u64) -> Self {
        let random = Random::new(seed ^ 0x5c4e_d01e_0000_0006);
        Self { now: 1_767_225_600, schedules: BTreeMap::new(), random }
    }
}

impl World {
    /// A volume gets a schedule, and is looked at some times.
    pub(crate) fn plan_schedule(&mut self, volume: usize) {
        let random = &mut self.keeper.random;
        let mut rule = || {
            let within_seconds = random.between(300, 2_000);
            KeepRule { within_seconds, each_seconds: random.pick(&[0, 400, 600]) }
        };
        let keep = vec![rule(), rule()];
        self.keeper.schedules.insert(volume, ScheduleSet { every_seconds: 120, keep });
        self.operator.add(Task::View(ViewTask::Schedule(volume)));
        for _ in 0..self.keeper.random.between(5, 9) {
            self.operator.add(Task::View(ViewTask::Look(volume)));
        }
    }

    pub(crate) fn schedule_request(&self, volume: usize) -> Request {
        Request::ScheduleSet { name: self.volumes[volume].name.clone(), set: self.keeper.schedules[&volume].clone() }
    }

    pub(crate) fn look_request(&mut self, volume: usize) -> Request {
        self.keeper.now += self.keeper.random.between(30, 600);
        Request::SnapshotList { volume: Some(self.volumes[volume].name.clone()) }
    }

    /// The snapshots of a volume that has a schedule are known: what is asked for is done.
    pub(crate) fn looked(&mut self, volume: usize, snapshots: &[Snapshot]) {
        let Some(Ok(Response::Schedules(schedules))) = self.ask_now(Request::ScheduleList) else { return };
        let (name, wanted) = (&self.volumes[volume].name, &self.keeper.schedules[&volume]);
        let found = schedules.into_iter().find(|schedule| schedule.volume == *name);
        let is_kept = |found: &&Schedule| (found.every_seconds, &found.keep) == (wanted.every_seconds, &wanted.keep);
        let Some(schedule) = found.as_ref().filter(is_kept) else {
            let detail = format!("{name} has the schedule {found:?}, not {wanted:?}");
            return self.fail(Violation::new(Invariant::SchedulesKeep, detail));
        };
        self.counts.views.looks += 1;
        let due = due(schedule, snapshots, self.keeper.now, PlantedBug::controller(self.plan.planted));
        // (A look that takes a snapshot deletes nothing.)
        if due.take {
            let name = format!("{SCHEDULED_PREFIX}{}", self.keeper.now);
            return self.plan_scheduled_cut(volume, name);
        }
        let result = judge(schedule, snapshots, self.keeper.now, &due.delete);
        self.check(result);
        for name in due.delete {
            let snapshot = self.volumes.iter().position(|state| state.name == name && state.id.is_some());
            if let Some(snapshot) = snapshot {
                self.operator.again(Task::View(ViewTask::Delete(snapshot)));
            }
        }
    }
}

/// Whether exactly those snapshots are deleted that no rule keeps.
fn judge(schedule: &Schedule, snapshots: &[Snapshot], now: u64, deleted: &[String]) -> Result<(), Violation> {
    let is_ours = |one: &&Snapshot| one.scheduled && one.state == SnapshotState::Ready;
    let ours: Vec<&Snapshot> = snapshots.iter().filter(is_ours).collect();
    for one in &ours {
        let is_newest = ours.iter().all(|other| other.id <= one.id);
        let is_renamed = !one.name.contains(&format!("@{SCHEDULED_PREFIX}"));
        let is_kept = |rule: &KeepRule| {
            let period = |time: u64| time / rule.each_seconds.max(1);
            let is_earlier = |other: &&&Snapshot| other.id < one.id;
            let mut earlier = ours.iter().filter(is_earlier);
            let is_first = rule.each_seconds == 0
                || earlier.all(|other| period(other.created_unix_seconds) != period(one.created_unix_seconds));
            is_first && now - one.created_unix_seconds < rule.within_seconds
        };
        let stays = is_newest || is_renamed || schedule.keep.iter().any(is_kept);
        let is_deleted = deleted.contains(&one.name);
        if stays == is_deleted {
            let what = if stays { "kept by a rule and deleted" } else { "kept by no rule and not deleted" };
            let detail =
                format!("{} of {} is {what} at {now}: {:?}", one.name, one.created_unix_seconds, schedule.keep);
            return Err(Violation::new(Invariant::SchedulesKeep, detail));
        }
    }
    Ok(())
}
