//! Snapshot schedules: kept here; when a snapshot is due is found out by whoever has a clock.

use crate::engine::{After, Controller, View};
use crate::event::ApiId;
use crate::operator::Outcome;
use api::{Error, ScheduleSet};
use model::VolumeId;
use store::Key;
use store::records::{KEEP_RULES_MAX, KeepRule, Record, ScheduleRecord};

/// The shortest time from one scheduled snapshot to the next, in seconds.
const EVERY_SECONDS_MIN: u64 = 60;

impl Controller {
    pub(crate) fn schedule_set(&mut self, id: ApiId, name: &str, set: &ScheduleSet) -> Outcome {
        let volume = self.find_volume(name)?;
        self.check_metadata()?;
        if set.every_seconds < EVERY_SECONDS_MIN {
            let every = set.every_seconds;
            return Err(Error::invalid(format!(
                "a snapshot every {every} seconds is not possible; use at least {EVERY_SECONDS_MIN} seconds"
            )));
        }
        if set.keep.is_empty() || set.keep.len() > KEEP_RULES_MAX {
            let count = set.keep.len();
            return Err(Error::invalid(format!(
                "a schedule has 1 to {KEEP_RULES_MAX} rules of what to keep, not {count}"
            )));
        }
        let rule =
            |rule: &api::KeepRule| KeepRule { within_seconds: rule.within_seconds, each_seconds: rule.each_seconds };
        let record = ScheduleRecord { every_seconds: set.every_seconds, keep: set.keep.iter().map(rule).collect() };
        self.batch.put(Key::Schedule(volume), record.encode());
        self.schedules.insert(volume, record);
        self.after.push(After::Reply(id, View::Schedule(volume)));
        Ok(None)
    }

    pub(crate) fn schedule_delete(&mut self, id: ApiId, name: &str) -> Outcome {
        let volume = self.find_volume(name)?;
        if self.schedules.remove(&volume).is_none() {
            return Err(Error::not_found(format!("volume {name:?} has no snapshot schedule")));
        }
        self.batch.delete(Key::Schedule(volume));
        self.after.push(After::Reply(id, View::Done));
        Ok(None)
    }

    pub(crate) fn schedule_views(&self) -> Vec<api::Schedule> {
        let mut views: Vec<_> = self.schedules.keys().filter_map(|volume| self.schedule_view(*volume)).collect();
        views.sort_by(|one, other| one.volume.cmp(&other.volume));
        views
    }

    pub(crate) fn schedule_view(&self, volume: VolumeId) -> Option<api::Schedule> {
        let record = self.schedules.get(&volume)?;
        let rule =
            |rule: &KeepRule| api::KeepRule { within_seconds: rule.within_seconds, each_seconds: rule.each_seconds };
        Some(api::Schedule {
            volume: self.volumes.get(&volume)?.record.name.clone(),
            every_seconds: record.every_seconds,
            keep: record.keep.iter().map(rule).collect(),
        })
    }
}
