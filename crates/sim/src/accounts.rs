//! The last thing in a run with snapshots: everything is deleted, one after the other, and each time exactly as much must
//! become free as had been said before. What is deleted must be gone in the end, and the pool empty.

use crate::control::{hidden_snapshots, jobs_under_way, records_left};
use crate::fabric::Happening;
use crate::operator::Task;
use crate::verdict::{Invariant, Violation};
use crate::views::ViewTask;
use crate::world::{Phase, World};
use api::{Request, Response, SnapshotState};

/// How long until it is looked again whether what is deleted is gone, in nanoseconds.
const LOOK_NANOS: u64 = 200_000_000;

/// What is said of the pool before something is deleted.
#[derive(Clone, Debug)]
pub(crate) struct Account {
    what: String,
    used_bytes: u64,
    /// What is to become free; unknown when that depends on others.
    frees_bytes: Option<u64>,
    /// It was seen to be over once: what follows from a deletion has had its time.
    quiet: bool,
}

impl World {
    pub(crate) fn begin_accounting(&mut self) {
        self.phase = Phase::Accounting;
        self.calm_since = self.now;
        self.trace.note(self.now, "accounting", [0; 3]);
        if self.random.below(3) == 0 {
            let after = self.random.between(1, 300);
            self.process.crash = Some((self.process.effects + after, self.random.below(2) == 0));
        }
        self.compare_views();
        self.account = Some(Account { what: String::new(), used_bytes: 0, frees_bytes: None, quiet: false });
        self.later(LOOK_NANOS, Happening::OperatorActs);
    }

    /// Some views are compared now that nobody writes.
    fn compare_views(&mut self) {
        let all: Vec<usize> = (0..self.volumes.len()).filter(|index| self.volumes[*index].id.is_some()).collect();
        let snapshots = self.snapshots(None);
        for _ in 0..3 {
            if let (false, false) = (all.is_empty(), snapshots.is_empty()) {
                let from = (self.random.below(4) > 0).then(|| self.random.pick(&snapshots));
                let to = self.random.pick(&all);
                self.plan_diff(from, to);
            }
        }
    }

    /// The next deletion, once the last one is over.
    pub(crate) fn account(&mut self) {
        if self.operator.is_busy() || self.process.dead {
            return;
        }
        let Some(mut account) = self.account.take() else { return };
        let is_quiet = self.nothing_is_going();
        if !is_quiet || !account.quiet {
            account.quiet = is_quiet;
            self.account = Some(account);
            return self.later(LOOK_NANOS, Happening::OperatorActs);
        }
        let Some(used_bytes) = self.pool_used() else { return self.account = Some(account) };
        if let Some(frees_bytes) = account.frees_bytes {
            self.counts.views.accounts += 1;
            if account.used_bytes.checked_sub(used_bytes) != Some(frees_bytes) {
                let before = account.used_bytes;
                let what = account.what;
                let detail =
                    format!("deleting {what} was to free {frees_bytes}: {before} used before, {used_bytes} after");
                return self.fail(Violation::new(Invariant::SpaceAddsUp, detail));
            }
        }
        let left: Vec<usize> = (0..self.volumes.len()).filter(|index| self.volumes[*index].id.is_some()).collect();
        if left.is_empty() {
            if used_bytes > 0 {
                let detail = format!("{used_bytes} bytes are used though everything was deleted");
                self.fail(Violation::new(Invariant::SpaceAddsUp, detail));
            }
            let left = records_left(&self.store);
            if !left.is_empty() {
                let detail = format!("everything was deleted, and there are still records of {left:?}");
                self.fail(Violation::new(Invariant::FaultAlwaysEnds, detail));
            }
            return self.finish();
        }
        let next = self.random.pick(&left);
        let what = self.volumes[next].name.clone();
        let frees_bytes = self.said_to_free(next);
        self.account = Some(Account { what, used_bytes, frees_bytes, quiet: false });
        if self.volumes[next].is_snapshot() {
            self.operator.add(Task::View(ViewTask::Delete(next)));
        } else {
            self.operator.add(Task::Delete(next));
        }
    }

    fn nothing_is_going(&mut self) -> bool {
        let settled = self.process.control.engine.as_ref().is_some_and(controller::Controller::is_settled);
        let snapshots = self.ask_now(Request::SnapshotList { volume: None });
        let Some(Ok(Response::Snapshots(snapshots))) = snapshots else { return false };
        let deleting = snapshots.iter().any(|snapshot| snapshot.state == SnapshotState::Deleting);
        settled && !deleting && !jobs_under_way(&self.store)
    }

    fn pool_used(&mut self) -> Option<u64> {
        match self.ask_now(Request::PoolShow { name: "default".to_owned() })? {
            Ok(Response::Pool(pool)) => Some(pool.used_bytes),
            _ => None,
        }
    }

    /// What deleting a view is said to free, if that is all that happens.
    fn said_to_free(&mut self, view: usize) -> Option<u64> {
        let name = self.volumes[view].name.clone();
        if self.volumes[view].is_snapshot() {
            let Some(Ok(Response::Snapshot(shown))) = self.ask_now(Request::SnapshotShow { name }) else { return None };
            // What a volume was rolled back to is kept for it, and counts no clone.
            let is_origin = !shown.clones.is_empty() || self.volumes.iter().any(|volume| volume.has_origin);
            return (!is_origin).then_some(shown.unique_bytes);
        }
        // A hidden snapshot may go with its last clone.
        if hidden_snapshots(&self.store) > 0 {
            return None;
        }
        match self.ask_now(Request::VolumeShow { name })? {
            Ok(Response::Volume(volume)) => Some(volume.space.delete_frees_bytes),
            _ => None,
        }
    }
}
