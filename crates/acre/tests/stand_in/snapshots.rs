//! The stand-in's snapshots, clones, diffs and schedules.

use super::State;
use api::{
    CloneCreate, Diff, DiffKind, DiffQuery, DiffRange, Error, Request, Response, Schedule, ScheduleSet, Snapshot,
    SnapshotState, VolumeCreate, check_name, split_snapshot_name,
};

impl State {
    /// Answers what is about snapshots.
    pub(super) fn answer_of_snapshots(&mut self, request: Request) -> Result<Response, Error> {
        match request {
            Request::VolumeRollback { name, rollback } => {
                let volume = self.volume(&name)?.clone();
                self.snapshot(&format!("{name}@{}", rollback.snapshot))?;
                if !volume.sessions.is_empty() && !rollback.force {
                    return Err(Error::busy(format!("volume {name:?} is attached; to roll it back: --force")));
                }
                self.volume(&name)?.origin = Some(format!("{name}@{}", rollback.snapshot));
                self.volume(&name).cloned().map(Response::Volume)
            }
            Request::SnapshotCreate { create, scheduled, now_unix_seconds } => {
                self.create_snapshots(&create.snapshots, scheduled, now_unix_seconds)
            }
            Request::SnapshotList { volume } => {
                let is_wanted = |found: &&Snapshot| volume.as_ref().is_none_or(|volume| *volume == found.volume);
                Ok(Response::Snapshots(self.snapshots.iter().filter(is_wanted).cloned().collect()))
            }
            Request::SnapshotShow { name } => self.snapshot(&name).cloned().map(Response::Snapshot),
            Request::SnapshotRename { name, rename } => {
                check_name("snapshot", &rename.new_name)?;
                let snapshot = self.snapshot(&name)?;
                snapshot.name = format!("{}@{}", snapshot.volume, rename.new_name);
                Ok(Response::Snapshot(snapshot.clone()))
            }
            Request::SnapshotDelete { name, force } => {
                let snapshot = self.snapshot(&name)?.clone();
                if self.attached.contains(&name) && !force {
                    return Err(Error::busy(format!("{name} is attached; to delete it all the same: --force")));
                }
                self.snapshots.retain(|snapshot| snapshot.name != name);
                self.volume(&snapshot.volume)?.snapshots -= 1;
                Ok(Response::Done)
            }
            Request::CloneCreate(CloneCreate { snapshot, name }) => {
                let origin = self.snapshot(&snapshot)?.clone();
                let new = VolumeCreate { name, size_bytes: origin.size_bytes, ..VolumeCreate::default() };
                let Response::Volume(volume) = self.create_volume(new)? else { unreachable!("it was made") };
                self.snapshot(&snapshot)?.clones.push(volume.name.clone());
                let clone = self.volume(&volume.name)?;
                clone.origin = Some(snapshot);
                clone.space.referenced_bytes = origin.referenced_bytes;
                clone.space.shared_with_origin_bytes = origin.referenced_bytes;
                Ok(Response::Volume(clone.clone()))
            }
            Request::CloneFlatten { name } => {
                let volume = self.volume(&name)?;
                if volume.origin.is_none() {
                    return Err(Error::invalid(format!("volume {name:?} is no clone")));
                }
                volume.flattening_percent = Some(0);
                Ok(Response::Volume(volume.clone()))
            }
            Request::CloneFlattenCancel { name } => {
                let volume = self.volume(&name)?;
                if volume.flattening_percent.take().is_none() {
                    return Err(Error::invalid(format!("volume {name:?} is not being flattened")));
                }
                Ok(Response::Volume(volume.clone()))
            }
            Request::Diff(query) => self.diff(&query),
            Request::ScheduleSet { name, set: ScheduleSet { every_seconds, keep } } => {
                self.volume(&name)?;
                let schedule = Schedule { volume: name.clone(), every_seconds, keep };
                self.schedules.retain(|schedule| schedule.volume != name);
                self.schedules.push(schedule.clone());
                Ok(Response::Schedule(schedule))
            }
            Request::ScheduleList => Ok(Response::Schedules(self.schedules.clone())),
            Request::ScheduleDelete { name } => {
                self.schedules.retain(|schedule| schedule.volume != name);
                Ok(Response::Done)
            }
            other => Err(Error::internal(format!("the stand-in does not know {other:?}"))),
        }
    }

    fn snapshot(&mut self, name: &str) -> Result<&mut Snapshot, Error> {
        let found = self.snapshots.iter_mut().find(|snapshot| snapshot.name == name);
        found.ok_or_else(|| Error::not_found(format!("there is no snapshot {name:?}")))
    }

    fn create_snapshots(&mut self, names: &[String], scheduled: bool, now: u64) -> Result<Response, Error> {
        let mut made = Vec::new();
        for full in names {
            let (volume, _) = split_snapshot_name(full)?;
            if self.snapshot(full).is_ok() {
                return Err(Error::exists(format!("there is a snapshot {full:?} already")));
            }
            let of = self.volume(volume)?;
            let (size_bytes, referenced_bytes) = (of.size_bytes, of.used_bytes);
            of.snapshots += 1;
            self.snapshots_made += 1;
            made.push(Snapshot {
                id: 100 + self.snapshots_made,
                name: full.clone(),
                volume: volume.into(),
                state: SnapshotState::Ready,
                created_unix_seconds: now,
                size_bytes,
                referenced_bytes,
                unique_bytes: 0,
                scheduled,
                imported_from: None,
                clones: Vec::new(),
                progress_percent: None,
            });
        }
        self.snapshots.extend(made.iter().cloned());
        Ok(Response::Snapshots(made))
    }

    /// Ten blocks that changed, every other one of them, the second and the third side by side; two an answer at most,
    /// and an answer without any before the last.
    fn diff(&mut self, query: &DiffQuery) -> Result<Response, Error> {
        if let Some(from) = &query.from {
            self.snapshot(from)?;
        }
        let size_bytes = match query.to.split_once('@') {
            Some(_) => self.snapshot(&query.to)?.size_bytes,
            None => self.volume(&query.to)?.size_bytes,
        };
        let block = |index: u64| DiffRange {
            offset_bytes: if index == 2 { 3 * 4096 } else { index * 8192 },
            length_bytes: 4096,
            kind: if index == 9 { DiffKind::Zero } else { DiffKind::Data },
        };
        let ahead = (0..10).map(block).filter(|range| range.offset_bytes >= query.offset);
        let ranges: Vec<_> = ahead.take(2.min(query.limit() as usize)).collect();
        let sum = |kind| ranges.iter().filter(|range| range.kind == kind).map(|range| range.length_bytes).sum();
        let next = ranges.last().map_or(1 << 20, |range| range.offset_bytes + range.length_bytes);
        Ok(Response::Diff(Diff {
            from: query.from.clone(),
            to: query.to.clone(),
            size_bytes,
            from_size_bytes: if query.from.is_some() { size_bytes } else { 0 },
            next_offset_bytes: (query.offset < 1 << 20).then_some(next),
            data_bytes: sum(DiffKind::Data),
            zero_bytes: sum(DiffKind::Zero),
            ranges,
        }))
    }
}
