//! The operator: makes the pool, its disks and volumes, then does what the plan says while hosts are at work.

use crate::control::disk_path;
use crate::fabric::Happening;
use crate::host::Kind;
use crate::oracle::Oracle;
use crate::plan::{OperatorAction, Plan, VolumePlan};
use crate::verdict::{Invariant, Violation};
use crate::views::ViewTask;
use crate::world::{Phase, World};
use api::{AuditReport, DiskAdd, PoolCreate, Request, Response, VolumeCreate, VolumeResize};
use controller::{ApiId, Event};
use model::VolumeId;
use std::collections::{BTreeMap, VecDeque};

/// How long an operator waits before trying again, in nanoseconds.
const RETRY_NANOS: u64 = 50_000_000;

/// What an operator is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Task {
    Pool,
    Disk(usize),
    /// Makes the volume of that place, under its present name.
    Volume(usize),
    Delete(usize),
    Resize(usize, u64),
    Audit,
    View(ViewTask),
}

/// The operator.
#[derive(Debug)]
pub(crate) struct Operator {
    tasks: VecDeque<Task>,
    actions: VecDeque<OperatorAction>,
    pub(crate) asked: BTreeMap<ApiId, Task>,
    next_id: u64,
    set_up: bool,
    /// How many requests hosts have had answered when the next action is due.
    due: u64,
    /// The answer to what was asked on the spot.
    pub(crate) answer: Option<Result<Response, api::Error>>,
}

/// The name of requests that are answered on the spot.
const NOW: ApiId = ApiId(u64::MAX - 1);

impl Operator {
    pub(crate) fn new(plan: &Plan) -> Self {
        let disks = (0..plan.disks.len()).map(Task::Disk);
        let volumes = (0..plan.volumes.len()).map(Task::Volume);
        Self {
            tasks: std::iter::once(Task::Pool).chain(disks).chain(volumes).collect(),
            actions: plan.operator.iter().copied().collect(),
            asked: BTreeMap::new(),
            next_id: 0,
            set_up: false,
            due: 0,
            answer: None,
        }
    }

    /// Whether the pool and its volumes were made.
    pub(crate) fn is_ready(&self) -> bool {
        self.set_up
    }

    /// Whether there is nothing under way or to do.
    pub(crate) fn is_idle(&self) -> bool {
        self.tasks.is_empty() && self.asked.is_empty() && self.actions.is_empty()
    }

    /// Whether something is asked or to be asked.
    pub(crate) fn is_busy(&self) -> bool {
        !self.tasks.is_empty() || !self.asked.is_empty()
    }

    pub(crate) fn add(&mut self, task: Task) {
        self.tasks.push_back(task);
    }

    pub(crate) fn again(&mut self, task: Task) {
        self.tasks.push_front(task);
    }

    /// Nothing more is begun but what is under way.
    pub(crate) fn forget_plans(&mut self) {
        self.actions.clear();
    }

    /// The process died: what was asked is asked again.
    pub(crate) fn ask_again(&mut self) {
        for (_, task) in std::mem::take(&mut self.asked).into_iter().rev() {
            self.tasks.push_front(task);
        }
    }
}

fn create(plan: &VolumePlan, name: &str) -> Request {
    Request::VolumeCreate(VolumeCreate {
        name: name.to_owned(),
        size_bytes: plan.size_bytes,
        region_bytes: Some(plan.region_size.bytes()),
        limit_bytes: plan.limit_bytes,
        ..VolumeCreate::default()
    })
}

impl World {
    pub(crate) fn plan_operator(&mut self) {
        let delay = self.random.delay(RETRY_NANOS / 10);
        self.later(delay, Happening::OperatorActs);
    }

    /// The operator does the next thing, unless something is under way.
    pub(crate) fn operator_acts(&mut self) {
        if !self.operator.asked.is_empty() {
            return;
        }
        if self.operator.tasks.is_empty() && !self.operator.actions.is_empty() {
            if self.is_too_early() {
                let delay = self.random.delay(2 * self.plan.think_nanos + self.plan.disk_nanos);
                return self.later(delay, Happening::OperatorActs);
            }
            if let Some(action) = self.operator.actions.pop_front() {
                self.decide(action);
                if self.operator.tasks.is_empty() {
                    return self.plan_operator();
                }
            }
        }
        if self.operator.tasks.is_empty() && self.phase == Phase::Accounting {
            self.account();
        }
        let Some(task) = self.operator.tasks.pop_front().map(|task| self.note_branch(task)) else { return };
        let request = match task {
            Task::Pool => {
                // A logical disk must hold the largest region.
                let largest = self.plan.volumes.iter().map(|volume| volume.region_size.bytes()).max();
                let growth_bytes = largest.filter(|bytes| *bytes > 1 << 20).map(|bytes| 2 * bytes);
                Request::PoolCreate(PoolCreate { name: "default".to_owned(), growth_bytes, ..PoolCreate::default() })
            }
            Task::Disk(index) => {
                // After a failure the label may be there already, of a disk that was never recorded.
                let force = self.life > 0 || self.plan.has_faults();
                Request::DiskAdd(DiskAdd { path: disk_path(index), force, ..DiskAdd::default() })
            }
            Task::Volume(index) => create(&self.volumes[index].plan, &self.volumes[index].name),
            Task::Delete(index) => {
                self.deletion_begins(index);
                Request::VolumeDelete { name: self.volumes[index].name.clone(), force: true, snapshots: true }
            }
            Task::Resize(index, size_bytes) => Request::VolumeResize {
                name: self.volumes[index].name.clone(),
                resize: VolumeResize { size_bytes, shrink: true },
            },
            Task::Audit => Request::Audit,
            Task::View(task) => self.view_request(task),
        };
        self.operator.next_id += 1;
        let id = ApiId(self.operator.next_id);
        self.operator.asked.insert(id, task);
        self.trace.note(self.now, "operator asks", [id.0, 0, 0]);
        self.trace.tell(self.now, || format!("  {request:?}"));
        self.controller_step(Event::Api(id, request));
    }

    /// Whether hosts are to do more before the operator's next action.
    fn is_too_early(&mut self) -> bool {
        if !self.plan.paced || self.phase > Phase::Storm || self.hosts.iter().all(crate::host::Host::is_done) {
            return false;
        }
        let early = self.counts.operations < self.operator.due;
        if !early {
            let left: u64 = self.hosts.iter().map(|host| u64::from(host.operations_left)).sum();
            let share = left / (self.operator.actions.len() as u64 + 1);
            self.operator.due = self.counts.operations + self.random.below(2 * share + 1);
        }
        early
    }

    /// Asks what is answered on the spot, from memory or from what is durable; `None` when the process dies over it.
    pub(crate) fn ask_now(&mut self, request: Request) -> Option<Result<Response, api::Error>> {
        self.operator.answer = None;
        self.controller_step(Event::Api(NOW, request));
        self.operator.answer.take()
    }

    fn decide(&mut self, action: OperatorAction) {
        let live: Vec<usize> =
            (0..self.volumes.len()).filter(|index| self.volumes[*index].kind == Kind::Planned).collect();
        let index = self.random.pick(&live);
        match action {
            OperatorAction::Audit => self.operator.tasks.push_back(Task::Audit),
            OperatorAction::Recreate => {
                self.volumes[index].unsettled = true;
                self.operator.tasks.extend([Task::Delete(index), Task::Volume(index)]);
            }
            OperatorAction::Resize => {
                let volume = &mut self.volumes[index];
                let needed =
                    volume.plan.windows.iter().map(|(first, count)| (first + count) * 512).max().unwrap_or(512);
                let more = 512 * self.random.below(1 << self.random.clone().between(3, 24));
                // Nobody may have it attached: then it shrinks by whole blocks only.
                let size = (needed + more).next_multiple_of(4096);
                volume.unsettled = true;
                self.operator.tasks.push_back(Task::Resize(index, size));
            }
            other => self.decide_view(other),
        }
    }

    pub(crate) fn operator_answered(&mut self, id: ApiId, result: Result<Response, api::Error>) {
        if id == NOW {
            self.operator.answer = Some(result);
            return;
        }
        let Some(task) = self.operator.asked.remove(&id) else { return };
        self.trace.note(self.now, "operator answered", [id.0, u64::from(result.is_err()), 0]);
        self.trace.tell(self.now, || format!("  {result:?}"));
        match (task, result) {
            (Task::View(task), result) => self.view_answered(task, result),
            (Task::Volume(index), Ok(Response::Volume(volume))) => self.volume_made(index, VolumeId(volume.id)),
            (Task::Delete(index), Ok(_)) => self.volume_gone(index),
            (Task::Resize(index, size), Ok(_)) => {
                self.volumes[index].size_bytes = size;
                self.volumes[index].plan.size_bytes = size;
                self.volumes[index].unsettled = false;
                self.volumes[index].resized_door = self.next_door;
                for door in self.process.doors.values_mut() {
                    if door.volume.is_some() && door.opening == self.volumes[index].name {
                        door.connection.export_resized(size);
                    }
                }
            }
            (Task::Audit, Ok(Response::Audit(report))) => {
                let result = audit_is_clean(&report);
                self.check(result);
            }
            (_, Ok(_)) => {}
            (task, Err(error)) => self.operator_refused(task, &error),
        }
        if self.operator.tasks.is_empty() && !self.operator.set_up {
            self.operator.set_up = true;
            for host in 0..self.hosts.len() {
                let delay = self.random.delay(1_000_000);
                self.nudge(host, delay);
            }
        }
        self.plan_operator();
    }

    fn operator_refused(&mut self, task: Task, error: &api::Error) {
        use api::ErrorKind::{Busy, Exists, NotFound};
        match (task, error.kind) {
            // Asked again after a crash or a lost answer: it happened the first time.
            (Task::Pool | Task::Disk(_), Exists) => {}
            (Task::Volume(index), Exists) => self.find_volume(index),
            (Task::Delete(index), NotFound) => self.volume_gone(index),
            // A volume on its way in or out: the next attempt finds it there, or not.
            (_, Busy) => self.operator.tasks.push_front(task),
            _ if self.plan.has_faults() || self.life > 0 => {
                self.operator.tasks.push_front(task);
            }
            _ => {
                let detail = format!("the operator's {task:?} is refused: {error} ({:?})", error.kind);
                self.fail(Violation::new(Invariant::NoErrorWithoutFault, detail));
            }
        }
    }

    /// A volume that was made before its maker heard of it.
    fn find_volume(&mut self, index: usize) {
        let id = ApiId(u64::MAX);
        let name = self.volumes[index].name.clone();
        self.operator.asked.insert(id, Task::Volume(index));
        self.controller_step(Event::Api(id, Request::VolumeShow { name }));
    }

    fn volume_made(&mut self, index: usize, id: VolumeId) {
        let volume = &mut self.volumes[index];
        volume.oracle = Oracle::new(id, &volume.plan.windows);
        volume.size_bytes = volume.plan.size_bytes;
        volume.id = Some(id);
        volume.unsettled = false;
        self.trace.note(self.now, "volume made", [index as u64, u64::from(id.0), 0]);
    }

    fn volume_gone(&mut self, index: usize) {
        self.views_gone_with(index);
        let volume = &mut self.volumes[index];
        volume.incarnation += 1;
        volume.id = None;
        volume.mapped.clear();
        volume.zeroing = 0;
        volume.has_origin = false;
        if volume.kind == Kind::Clone {
            return self.retire_hosts(index);
        }
        volume.name = format!("v{index}-{}", volume.incarnation);
        let again = Task::Volume(index);
        if self.operator.tasks.front() != Some(&again) && self.phase < Phase::Leaving {
            self.operator.tasks.push_front(again);
        }
    }
}

/// Every region has one owner, and every count is right.
pub(crate) fn audit_is_clean(report: &AuditReport) -> Result<(), Violation> {
    if report.clean {
        return Ok(());
    }
    let findings: Vec<_> = report.findings.iter().take(3).map(|finding| format!("{finding:?}")).collect();
    let detail = format!("{} findings: {}", report.findings_total, findings.join("; "));
    Err(Violation::new(Invariant::NoRegionOwnedTwice, detail))
}
