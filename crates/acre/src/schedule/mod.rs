//! Snapshots that nobody asks for: schedules are kept in the controller, and kept to here.
//!
//! Once a second it is looked which volumes want something. [`due`] decides what; one look at a volume is under way at
//! a time, and a few at most over all. After a time in which nothing could be taken one snapshot is taken, not all that
//! were missed.

pub mod period;

pub use period::{Period, Rule, rules};

use crate::calendar;
use crate::control::ControlPlane;
use api::{Error, ErrorKind, Request, Response, Schedule, Snapshot, SnapshotCreate};
use controller::{Planted, SCHEDULED_PREFIX, due};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::task::{Id, JoinError, JoinSet};

/// How often it is looked whether anything is due.
const TICK: Duration = Duration::from_secs(1);
/// How often the list of schedules is read again.
const LIST_EVERY: Duration = Duration::from_secs(5);
/// So many times in a row it may fail, which is a minute, the shortest time between two snapshots, before it is a failure.
const LIST_FAILURES: u32 = 12;
/// At so many volumes it is looked at one time.
const LOOKS_MAX: usize = 8;
/// So many snapshots are deleted in one look.
const DELETES_A_LOOK: usize = 64;
/// How long after a first failure it is tried again; twice as long after each more, up to the most.
const RETRY_AFTER: Duration = Duration::from_secs(5);
const RETRY_AFTER_MAX: Duration = Duration::from_secs(300);

/// Keeps to every schedule until `leaving` says to leave; counts what failed in `failures`.
pub async fn keep(plane: Arc<dyn ControlPlane>, failures: Arc<AtomicU64>, mut leaving: watch::Receiver<bool>) {
    let mut keeper = Keeper::new(plane, failures);
    tokio::select! {
        _ = leaving.wait_for(|leaving| *leaving) => {}
        () = keeper.run() => {}
    }
}

/// One volume's schedule and how it goes.
struct Care {
    schedule: Schedule,
    next: Instant,
    /// The look that is under way.
    look: Option<Id>,
    /// How many looks have failed in a row.
    failed: u32,
}

struct Keeper {
    plane: Arc<dyn ControlPlane>,
    failures: Arc<AtomicU64>,
    volumes: BTreeMap<String, Care>,
    looks: JoinSet<Result<u64, Error>>,
    list_at: Instant,
    list_failed: u32,
}

impl Keeper {
    fn new(plane: Arc<dyn ControlPlane>, failures: Arc<AtomicU64>) -> Self {
        let (volumes, looks) = (BTreeMap::new(), JoinSet::new());
        Self { plane, failures, volumes, looks, list_at: Instant::now(), list_failed: 0 }
    }

    async fn run(&mut self) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {
                    self.list(Instant::now()).await;
                    self.look(Instant::now());
                }
                Some(ended) = self.looks.join_next_with_id(), if !self.looks.is_empty() => {
                    self.ended(ended, Instant::now());
                }
            }
        }
    }

    /// Reads the schedules, if it is time to.
    async fn list(&mut self, now: Instant) {
        if self.list_at > now {
            return;
        }
        self.list_at = now + LIST_EVERY;
        match schedules(&*self.plane).await {
            Ok(schedules) => {
                self.list_failed = 0;
                self.listed(schedules, now);
            }
            // It goes on with those it knows; a volume that is gone says so itself.
            Err(error) => {
                self.list_failed = self.list_failed.saturating_add(1);
                if self.list_failed == LIST_FAILURES {
                    self.failures.fetch_add(1, Ordering::Relaxed);
                    tracing::warn!("the snapshot schedules cannot be read: {error}");
                }
            }
        }
    }

    fn listed(&mut self, schedules: Vec<Schedule>, now: Instant) {
        let mut former = std::mem::take(&mut self.volumes);
        for schedule in schedules {
            let mut care = former.remove(&schedule.volume).unwrap_or_else(|| Care {
                schedule: schedule.clone(),
                next: now,
                look: None,
                failed: 0,
            });
            if care.schedule != schedule {
                (care.schedule, care.next) = (schedule, now);
            }
            self.volumes.insert(care.schedule.volume.clone(), care);
        }
    }

    /// Looks at every volume at which it is time to.
    fn look(&mut self, now: Instant) {
        for care in self.volumes.values_mut() {
            if self.looks.len() >= LOOKS_MAX {
                return;
            }
            if care.look.is_none() && care.next <= now {
                let (plane, schedule) = (Arc::clone(&self.plane), care.schedule.clone());
                let look = async move { attend(&*plane, &schedule, calendar::now_unix_seconds()).await };
                care.look = Some(self.looks.spawn(look).id());
            }
        }
    }

    fn ended(&mut self, ended: Result<(Id, Result<u64, Error>), JoinError>, now: Instant) {
        let (id, outcome) = ended.unwrap_or_else(|error| (error.id(), Err(Error::internal(error.to_string()))));
        // A volume whose schedule was taken away meanwhile is not cared for any more.
        let Some(care) = self.volumes.values_mut().find(|care| care.look == Some(id)) else { return };
        care.look = None;
        match outcome {
            Ok(seconds) => {
                if std::mem::take(&mut care.failed) > 0 {
                    tracing::info!("scheduled snapshots of volume {:?} are taken again", care.schedule.volume);
                }
                care.next = now + Duration::from_secs(seconds);
            }
            // It was renamed or deleted: the next list says so.
            Err(error) if error.kind == ErrorKind::NotFound => care.next = now + LIST_EVERY,
            Err(error) => {
                self.failures.fetch_add(1, Ordering::Relaxed);
                if care.failed == 0 {
                    let volume = &care.schedule.volume;
                    tracing::warn!("the snapshot schedule of volume {volume:?} is behind, and tries again: {error}");
                }
                care.next = now + RETRY_AFTER.saturating_mul(1 << care.failed.min(16)).min(RETRY_AFTER_MAX);
                care.failed = care.failed.saturating_add(1);
            }
        }
    }
}

/// Does what the schedule asks for at `now`; tells in how many seconds to look again.
async fn attend(plane: &dyn ControlPlane, schedule: &Schedule, now: u64) -> Result<u64, Error> {
    let volume = &schedule.volume;
    let due = due(schedule, &snapshots(plane, volume).await?, now, Planted::default());
    if due.take {
        let name = format!("{volume}@{SCHEDULED_PREFIX}{}", calendar::compact(now));
        let create = SnapshotCreate { snapshots: vec![name.clone()], imported_from: None };
        let request = Request::SnapshotCreate { create, scheduled: true, now_unix_seconds: now };
        match plane.request(request).await {
            Ok(_) => tracing::debug!("took {name}"),
            // Deleting may be what helps.
            Err(error) if error.kind == ErrorKind::OutOfSpace => {
                delete(plane, &due.delete).await?;
                return Err(error);
            }
            // A volume of which no snapshot can be taken keeps what it has, however old.
            Err(error) => return Err(error),
        }
        // What is too old goes in a look that knows the new one.
        return Ok(1);
    }
    delete(plane, &due.delete).await?;
    Ok(if due.delete.len() > DELETES_A_LOOK { 1 } else { due.look_again_seconds })
}

/// Deletes snapshots; what hosts have attached, and what is gone already, is passed over.
async fn delete(plane: &dyn ControlPlane, names: &[String]) -> Result<(), Error> {
    for name in names.iter().take(DELETES_A_LOOK) {
        match plane.request(Request::SnapshotDelete { name: name.clone(), force: false }).await {
            Ok(_) => tracing::debug!("deleted {name}"),
            Err(error) if matches!(error.kind, ErrorKind::Busy | ErrorKind::NeedsForce | ErrorKind::NotFound) => {
                tracing::debug!("{name} is not deleted now: {error}");
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

async fn schedules(plane: &dyn ControlPlane) -> Result<Vec<Schedule>, Error> {
    match plane.request(Request::ScheduleList).await? {
        Response::Schedules(schedules) => Ok(schedules),
        _ => Err(Error::internal("the engine answered another question than was asked")),
    }
}

async fn snapshots(plane: &dyn ControlPlane, volume: &str) -> Result<Vec<Snapshot>, Error> {
    match plane.request(Request::SnapshotList { volume: Some(volume.into()) }).await? {
        Response::Snapshots(snapshots) => Ok(snapshots),
        _ => Err(Error::internal("the engine answered another question than was asked")),
    }
}

#[cfg(test)]
mod due_tests;
#[cfg(test)]
#[path = "keeper_tests.rs"]
mod tests;
