//! The shell that keeps to schedules, against a control plane made of lists.

use super::*;
use crate::control::Pending;
use crate::metrics::MetricsSnapshot;
use api::{KeepRule, SnapshotState};
use std::sync::{Mutex, MutexGuard};

/// Snapshots of one volume, and what is to go wrong.
#[derive(Default)]
struct Lists {
    snapshots: Vec<Snapshot>,
    asked: Vec<String>,
    /// What taking one fails with.
    take: Option<Error>,
    /// Attached: deleting it is refused.
    busy: Option<String>,
}

#[derive(Default)]
struct Plane(Mutex<Lists>);

impl Plane {
    fn lists(&self) -> MutexGuard<'_, Lists> {
        self.0.lock().unwrap()
    }

    fn with(snapshots: Vec<Snapshot>) -> Self {
        Self(Mutex::new(Lists { snapshots, ..Lists::default() }))
    }

    fn names(&self) -> Vec<String> {
        self.lists().snapshots.iter().map(|snapshot| snapshot.name.clone()).collect()
    }
}

impl ControlPlane for Plane {
    fn request(&self, request: Request) -> Pending<'_, Result<Response, Error>> {
        let mut lists = self.lists();
        let answer = match request {
            Request::ScheduleList => Ok(Response::Schedules(vec![hourly()])),
            Request::SnapshotList { .. } => Ok(Response::Snapshots(lists.snapshots.clone())),
            Request::SnapshotCreate { create, scheduled: true, now_unix_seconds } => {
                let name = create.snapshots[0].clone();
                lists.asked.push(format!("take {name}"));
                match lists.take.clone() {
                    Some(error) => Err(error),
                    None => {
                        let id = lists.asked.len() as u32 + 1000;
                        lists.snapshots.push(snapshot(id, &name, now_unix_seconds));
                        Ok(Response::Snapshots(Vec::new()))
                    }
                }
            }
            Request::SnapshotDelete { name, force: false } => {
                lists.asked.push(format!("delete {name}"));
                if lists.busy.as_ref() == Some(&name) {
                    Err(Error::busy(format!("{name} is attached")))
                } else {
                    lists.snapshots.retain(|snapshot| snapshot.name != name);
                    Ok(Response::Done)
                }
            }
            other => Err(Error::internal(format!("{other:?} was not to be asked"))),
        };
        Box::pin(async move { answer })
    }

    fn metrics(&self) -> Pending<'_, Result<MetricsSnapshot, Error>> {
        Box::pin(async { Ok(MetricsSnapshot::default()) })
    }
}

fn snapshot(id: u32, name: &str, created_unix_seconds: u64) -> Snapshot {
    Snapshot {
        id,
        name: name.into(),
        volume: "a".into(),
        state: SnapshotState::Ready,
        created_unix_seconds,
        size_bytes: 0,
        referenced_bytes: 0,
        unique_bytes: 0,
        scheduled: true,
        imported_from: None,
        clones: Vec::new(),
        progress_percent: None,
    }
}

/// Every hour, kept for a day.
fn hourly() -> Schedule {
    let keep = vec![KeepRule { within_seconds: 86_400, each_seconds: 0 }];
    Schedule { volume: "a".into(), every_seconds: 3600, keep }
}

fn attended(plane: &Plane, now: u64) -> Result<u64, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(attend(plane, &hourly(), now))
}

const NOW: u64 = 1_772_345_700;

#[test]
fn a_due_snapshot_is_taken_under_the_name_of_its_moment_and_then_old_ones_go() {
    let plane = Plane::with(vec![snapshot(1, "a@auto-old", NOW - 90_000), snapshot(2, "a@auto-new", NOW - 3600)]);
    assert_eq!(attended(&plane, NOW), Ok(1));
    assert_eq!(plane.names(), ["a@auto-old", "a@auto-new", "a@auto-20260301-061500"]);
    assert_eq!(attended(&plane, NOW + 1), Ok(60));
    assert_eq!(plane.names(), ["a@auto-new", "a@auto-20260301-061500"]);
    assert_eq!(attended(&plane, NOW + 3590), Ok(10));
    assert_eq!(plane.lists().asked.len(), 2);
}

#[test]
fn an_attached_snapshot_is_passed_over_and_goes_later() {
    let names = ["a@auto-1", "a@auto-2", "a@auto-3"];
    let ages = [200_000, 190_000, 60];
    let made = names.iter().zip(ages).zip(1..).map(|((name, age), id)| snapshot(id, name, NOW - age));
    let plane = Plane::with(made.collect());
    plane.lists().busy = Some("a@auto-1".into());
    assert_eq!(attended(&plane, NOW), Ok(60));
    assert_eq!(plane.names(), ["a@auto-1", "a@auto-3"]);
    plane.lists().busy = None;
    assert_eq!(attended(&plane, NOW + 60), Ok(60));
    assert_eq!(plane.names(), ["a@auto-3"]);
}

#[test]
fn where_no_snapshot_can_be_taken_the_old_ones_stay_unless_it_is_space_that_is_missing() {
    let old = || vec![snapshot(1, "a@auto-1", NOW - 200_000), snapshot(2, "a@auto-2", NOW - 190_000)];
    let plane = Plane::with(old());
    plane.lists().take = Some(Error::unavailable("not now"));
    assert_eq!(attended(&plane, NOW), Err(Error::unavailable("not now")));
    assert_eq!(plane.names(), ["a@auto-1", "a@auto-2"]);
    plane.lists().take = Some(Error::out_of_space("the metadata store is full"));
    assert_eq!(attended(&plane, NOW), Err(Error::out_of_space("the metadata store is full")));
    assert_eq!(plane.names(), ["a@auto-2"]);
}

#[test]
fn a_failure_is_counted_and_tried_again_later_and_later_and_one_look_is_under_way_at_a_time() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let plane = Arc::new(Plane::default());
        plane.lists().take = Some(Error::unavailable("not now"));
        let failures = Arc::new(AtomicU64::new(0));
        let mut keeper = Keeper::new(Arc::clone(&plane) as Arc<dyn ControlPlane>, Arc::clone(&failures));
        let mut now = keeper.list_at;
        keeper.list(now).await;
        let mut waited = Vec::new();
        for round in 1..=9 {
            keeper.look(now);
            keeper.look(now);
            assert_eq!(keeper.looks.len(), 1);
            let ended = keeper.looks.join_next_with_id().await.unwrap();
            keeper.ended(ended, now);
            assert_eq!(failures.load(Ordering::Relaxed), round);
            keeper.look(now);
            assert!(keeper.looks.is_empty(), "too early");
            waited.push((keeper.volumes["a"].next - now).as_secs());
            now = keeper.volumes["a"].next;
        }
        assert_eq!(waited, [5, 10, 20, 40, 80, 160, 300, 300, 300]);
        plane.lists().take = None;
        keeper.look(now);
        let ended = keeper.looks.join_next_with_id().await.unwrap();
        keeper.ended(ended, now);
        assert_eq!((keeper.volumes["a"].failed, plane.names().len()), (0, 1));
        keeper.listed(Vec::new(), now);
        keeper.look(now + Duration::from_secs(999));
        assert!(keeper.looks.is_empty(), "a schedule that was taken away is not kept to");
    });
}
