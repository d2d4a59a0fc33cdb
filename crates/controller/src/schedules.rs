//! Snapshot schedules: kept here; when a snapshot is due is found out by whoever has a clock.

use crate::engine::{After, Controller, View};
use crate::event::ApiId;
use crate::operator::Outcome;
use api::{Error, ScheduleSet};
use model::VolumeId;
use store::Key;
use store::records::{KeepRule, Record, ScheduleRecord};

impl Controller {
    pub(crate) fn schedule_set(&mut self, id: ApiId, name: &str, set: &ScheduleSet) -> Outcome {
        let volume = self.find_volume(name)?;
        self.check_metadata()?;
        set.check()?;
        // `VOL@auto-YYYYMMDD-HHMMSS` has to be a name.
        let longest = format!("{name}@auto-00000000-000000");
        api::split_snapshot_name(&longest).map_err(|_| {
            Error::invalid(format!("volume {name:?} has too long a name for scheduled snapshots; rename it"))
        })?;
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
