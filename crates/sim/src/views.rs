//! What operators do with snapshots and clones, and what then holds of them.

use crate::control::volume_branch;
use crate::cut::Moment;
use crate::host::{Host, Kind, VolumeState};
use crate::operator::Task;
use crate::oracle::{Oracle, Tick};
use crate::plan::{OperatorAction, Which};
use crate::verdict::{Invariant, Violation};
use crate::world::{Phase, World};
use api::{
    CloneCreate, Diff, DiffKind, DiffQuery, Request, Response, SnapshotCreate, SnapshotRename, VolumeRename,
    VolumeRollback,
};
use model::{BranchId, VolumeId};
use std::collections::BTreeMap;

/// At most so many snapshots, clones and their like in one run.
const VIEWS_MAX: usize = 48;

/// What an operator is about, with snapshots. Numbers are places among the world's volumes, or its cuts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ViewTask {
    Cut(usize),
    Delete(usize),
    Rename(usize, u32),
    RenameVolume(usize, u32),
    /// Gives a volume the schedule that was drawn for it.
    Schedule(usize),
    /// Looks what the schedule of a volume asks for.
    Look(usize),
    Clone {
        snapshot: usize,
        clone: usize,
    },
    Rollback {
        volume: usize,
        snapshot: usize,
        before: Option<BranchId>,
    },
    Flatten(usize),
    Diff {
        from: Option<usize>,
        to: usize,
        offset: u64,
    },
}

/// Snapshots that are asked for together.
#[derive(Debug)]
pub(crate) struct Cut {
    /// The volumes, and what their snapshots are to be called.
    parts: Vec<(usize, String)>,
    scheduled: bool,
    asked: Tick,
    /// What is known of when it was.
    moment: Option<Moment>,
}

/// What the snapshots of a cut hold if a crash left them behind.
pub(crate) type Captured = BTreeMap<usize, Vec<Oracle>>;

impl World {
    fn live(&self) -> Vec<usize> {
        let is_live = |volume: &VolumeState| volume.id.is_some() && !volume.is_snapshot();
        (0..self.volumes.len()).filter(|index| is_live(&self.volumes[*index])).collect()
    }

    /// The snapshots there are, the oldest first.
    pub(crate) fn snapshots(&self, volume: Option<usize>) -> Vec<usize> {
        let is_wanted = |state: &VolumeState| match state.kind {
            Kind::Snapshot { of, .. } => state.id.is_some() && volume.is_none_or(|volume| volume == of),
            _ => false,
        };
        (0..self.volumes.len()).filter(|index| is_wanted(&self.volumes[*index])).collect()
    }

    pub(crate) fn decide_view(&mut self, action: OperatorAction) {
        let live = self.live();
        if live.is_empty() {
            return;
        }
        let volume = self.random.pick(&live);
        let snapshots = self.snapshots(None);
        if self.volumes.len() >= VIEWS_MAX && matches!(action, OperatorAction::Clone) {
            return;
        }
        match action {
            OperatorAction::Snapshot => self.plan_cut(vec![volume]),
            OperatorAction::Cut => {
                let chosen: Vec<usize> = live.iter().copied().filter(|_| self.random.below(4) > 0).collect();
                self.plan_cut(if chosen.is_empty() { vec![volume] } else { chosen });
            }
            OperatorAction::Delete => self.operator.add(Task::Delete(volume)),
            OperatorAction::VolumeRename => {
                self.next_number += 1;
                self.operator.add(Task::View(ViewTask::RenameVolume(volume, self.next_number)));
            }
            OperatorAction::Schedule => self.plan_schedule(volume),
            // Without a snapshot there is nothing to do but to take one.
            _ if snapshots.is_empty() => self.plan_cut(vec![volume]),
            OperatorAction::SnapshotDelete(which) => {
                let snapshot = self.choose(which, &snapshots);
                self.operator.add(Task::View(ViewTask::Delete(snapshot)));
            }
            OperatorAction::SnapshotRename => {
                self.next_number += 1;
                let task = ViewTask::Rename(self.random.pick(&snapshots), self.next_number);
                self.operator.add(Task::View(task));
            }
            OperatorAction::Clone => {
                let snapshot = self.random.pick(&snapshots);
                let mut plan = self.volumes[snapshot].plan.clone();
                plan.limit_bytes = None;
                let clone = self.volumes.len();
                self.volumes.push(VolumeState::new(Kind::Clone, plan, format!("c{clone}")));
                self.operator.add(Task::View(ViewTask::Clone { snapshot, clone }));
            }
            OperatorAction::Rollback => {
                let snapshot = self.random.pick(&snapshots);
                let Kind::Snapshot { of: volume, .. } = self.volumes[snapshot].kind else { return };
                self.volumes[volume].unsettled = true;
                self.operator.add(Task::View(ViewTask::Rollback { volume, snapshot, before: None }));
            }
            OperatorAction::Flatten => {
                let from_others: Vec<usize> =
                    live.into_iter().filter(|index| self.volumes[*index].has_origin).collect();
                if let Some(volume) = (!from_others.is_empty()).then(|| self.random.pick(&from_others)) {
                    self.operator.add(Task::View(ViewTask::Flatten(volume)));
                }
            }
            OperatorAction::Diff => {
                let all: Vec<usize> = live.into_iter().chain(snapshots.iter().copied()).collect();
                let to = self.random.pick(&all);
                let from = (self.random.below(5) > 0).then(|| self.random.pick(&snapshots));
                self.plan_diff(from, to);
            }
            OperatorAction::Resize | OperatorAction::Recreate | OperatorAction::Audit => {}
        }
    }

    /// One of the snapshots of a volume that has some.
    fn choose(&mut self, which: Which, snapshots: &[usize]) -> usize {
        let any = self.random.pick(snapshots);
        let Kind::Snapshot { of, .. } = self.volumes[any].kind else { return any };
        let siblings = self.snapshots(Some(of));
        match which {
            Which::Any => any,
            Which::Newest => siblings[siblings.len() - 1],
            Which::Oldest => siblings[0],
            Which::Middle => siblings[siblings.len() / 2],
        }
    }

    pub(crate) fn plan_cut(&mut self, volumes: Vec<usize>) {
        let cut = self.cuts.len();
        let parts = volumes.into_iter().map(|volume| (volume, format!("s{cut}"))).collect();
        self.cuts.push(Cut { parts, scheduled: false, asked: 0, moment: None });
        self.operator.add(Task::View(ViewTask::Cut(cut)));
    }

    /// A snapshot that a schedule asks for, before anything else.
    pub(crate) fn plan_scheduled_cut(&mut self, volume: usize, name: String) {
        let cut = self.cuts.len();
        self.cuts.push(Cut { parts: vec![(volume, name)], scheduled: true, asked: 0, moment: None });
        self.operator.again(Task::View(ViewTask::Cut(cut)));
    }

    pub(crate) fn plan_diff(&mut self, from: Option<usize>, to: usize) {
        let plan = |view: usize| &self.volumes[view].plan;
        let are_alike = |one: usize, other: usize| {
            plan(one).region_size == plan(other).region_size && plan(one).windows == plan(other).windows
        };
        if from.is_none_or(|from| are_alike(from, to)) {
            self.operator.add(Task::View(ViewTask::Diff { from, to, offset: 0 }));
        }
    }

    pub(crate) fn view_request(&mut self, task: ViewTask) -> Request {
        if self.random.permille(self.plan.strikes) && self.phase == Phase::Storm && self.process.crash.is_none() {
            let after = self.random.between(1, self.plan.strike_reach);
            self.process.crash = Some((self.process.effects + after, self.random.permille(600)));
            self.counts.views.strikes += 1;
        }
        match task {
            ViewTask::Cut(cut) => {
                self.cuts[cut].asked = self.next_tick();
                let parts = self.cuts[cut].parts.clone();
                for (volume, _) in &parts {
                    self.volumes[*volume].cutting = true;
                    self.volumes[*volume].mapped.clear();
                }
                let names = parts.iter().map(|(volume, name)| format!("{}@{name}", self.volumes[*volume].name));
                let create = SnapshotCreate { snapshots: names.collect(), imported_from: None };
                let scheduled = self.cuts[cut].scheduled;
                let now_unix_seconds = if scheduled { self.keeper.now } else { self.now / 1_000_000_000 };
                Request::SnapshotCreate { create, scheduled, now_unix_seconds }
            }
            ViewTask::Delete(snapshot) => {
                self.volumes[snapshot].unsettled = true;
                Request::SnapshotDelete { name: self.volumes[snapshot].name.clone(), force: true }
            }
            ViewTask::Rename(snapshot, number) => {
                self.volumes[snapshot].unsettled = true;
                let rename = SnapshotRename { new_name: format!("r{number}") };
                Request::SnapshotRename { name: self.volumes[snapshot].name.clone(), rename }
            }
            ViewTask::RenameVolume(volume, number) => {
                self.volumes[volume].unsettled = true;
                for snapshot in self.snapshots(Some(volume)) {
                    self.volumes[snapshot].unsettled = true;
                }
                let rename = VolumeRename { new_name: format!("n{number}") };
                Request::VolumeRename { name: self.volumes[volume].name.clone(), rename }
            }
            ViewTask::Schedule(volume) => self.schedule_request(volume),
            ViewTask::Look(volume) => self.look_request(volume),
            ViewTask::Clone { snapshot, clone } => Request::CloneCreate(CloneCreate {
                snapshot: self.volumes[snapshot].name.clone(),
                name: self.volumes[clone].name.clone(),
            }),
            ViewTask::Rollback { volume, snapshot, .. } => {
                let (_, short) = self.volumes[snapshot].name.split_once('@').expect("a snapshot's name");
                let rollback = VolumeRollback { snapshot: short.to_owned(), force: true };
                Request::VolumeRollback { name: self.volumes[volume].name.clone(), rollback }
            }
            ViewTask::Flatten(volume) => Request::CloneFlatten { name: self.volumes[volume].name.clone() },
            ViewTask::Diff { from, to, offset } => Request::Diff(DiffQuery {
                from: from.map(|from| self.volumes[from].name.clone()),
                to: self.volumes[to].name.clone(),
                offset,
                limit: self.random.pick(&[None, Some(1), Some(3)]),
            }),
        }
    }

    /// The last thing before it is asked: where the volume is now.
    pub(crate) fn note_branch(&self, task: Task) -> Task {
        match task {
            Task::View(ViewTask::Rollback { volume, snapshot, .. }) => {
                let before = self.volumes[volume].id.and_then(|id| volume_branch(&self.store, id));
                Task::View(ViewTask::Rollback { volume, snapshot, before })
            }
            other => other,
        }
    }

    pub(crate) fn view_answered(&mut self, task: ViewTask, result: Result<Response, api::Error>) {
        match (task, result) {
            (ViewTask::Cut(cut), Ok(Response::Snapshots(taken))) => {
                let ids = taken.iter().map(|snapshot| (snapshot.name.clone(), VolumeId(snapshot.id))).collect();
                self.cut_taken(cut, &ids, None);
            }
            (ViewTask::Cut(cut), Err(error)) => {
                let ids = self.exports_of(cut);
                if ids.is_empty() {
                    self.cut_failed(cut);
                    self.view_refused(task, &error);
                } else {
                    self.cut_taken(cut, &ids, None);
                }
            }
            (ViewTask::Delete(snapshot), Ok(_)) => {
                self.counts.views.deletes += 1;
                self.snapshot_gone(snapshot);
            }
            (ViewTask::Rename(snapshot, number), Ok(_)) => self.renamed(snapshot, number),
            (ViewTask::RenameVolume(volume, number), Ok(_)) => self.volume_renamed(volume, number),
            (ViewTask::Schedule(_), Ok(_)) => {}
            (ViewTask::Look(volume), Ok(Response::Snapshots(snapshots))) => self.looked(volume, &snapshots),
            (ViewTask::Clone { snapshot, clone }, Ok(Response::Volume(volume))) => {
                self.cloned(snapshot, clone, VolumeId(volume.id));
            }
            (ViewTask::Rollback { volume, snapshot, .. }, Ok(_)) => self.rolled_back(volume, snapshot),
            (ViewTask::Flatten(_), Ok(_)) => self.counts.views.flattens += 1,
            (ViewTask::Diff { from, to, offset }, Ok(Response::Diff(diff))) => {
                self.counts.views.diffs += 1;
                let result = self.judge_diff(from, to, offset, &diff);
                self.check(result);
                if let Some(offset) = diff.next_offset_bytes.filter(|_| self.random.below(8) > 0) {
                    self.operator.again(Task::View(ViewTask::Diff { from, to, offset }));
                }
            }
            (task, Ok(answer)) => {
                let detail = format!("the operator's {task:?} is answered by {answer:?}");
                self.fail(Violation::new(Invariant::NoErrorWithoutFault, detail));
            }
            (ViewTask::Rollback { volume, snapshot, before }, Err(error)) => {
                let now = self.volumes[volume].id.and_then(|id| volume_branch(&self.store, id));
                if before.is_some() && now != before {
                    self.rolled_back(volume, snapshot);
                } else {
                    self.view_refused(task, &error);
                }
            }
            (_, Err(error)) => self.view_refused(task, &error),
        }
    }

    fn view_refused(&mut self, task: ViewTask, error: &api::Error) {
        use api::ErrorKind::{Busy, Exists, Invalid, NotFound};
        let troubled =
            self.plan.has_faults() || self.life > 0 || self.plan.agent_deaths > 0 || self.plan.clock_jumps > 0;
        match (task, error.kind) {
            (ViewTask::Delete(snapshot), NotFound) if troubled => self.snapshot_gone(snapshot),
            (ViewTask::Rename(snapshot, number), NotFound) if troubled => self.renamed(snapshot, number),
            (ViewTask::RenameVolume(volume, number), NotFound) if troubled => self.volume_renamed(volume, number),
            (ViewTask::Clone { snapshot, clone }, Exists) => {
                let name = self.volumes[clone].name.clone();
                if let Some(Ok(Response::Volume(volume))) = self.ask_now(Request::VolumeShow { name }) {
                    self.cloned(snapshot, clone, VolumeId(volume.id));
                } else if self.process.dead {
                    self.operator.again(Task::View(task));
                }
            }
            // It has snapshots of its own, is flattened by now, or its agent cannot yet.
            (ViewTask::Flatten(_), Busy | Invalid) => {}
            (ViewTask::Diff { .. }, _) if troubled || error.kind == Busy => {}
            // A clone that nobody has attached is being flattened for as long as that is so, and a disk whose flush failed
            // takes no more until the process starts anew.
            (ViewTask::Cut(_) | ViewTask::Rollback { .. }, kind)
                if (kind == Busy || self.plan.has_faults()) && self.random.below(32) == 0 =>
            {
                if let ViewTask::Rollback { volume, .. } = task {
                    self.volumes[volume].unsettled = false;
                }
            }
            (_, Busy) => self.operator.again(Task::View(task)),
            (_, kind) if troubled && !matches!(kind, NotFound | Exists | Invalid) => {
                self.operator.again(Task::View(task));
            }
            _ => {
                let detail = format!("the operator's {task:?} is refused: {error} ({:?})", error.kind);
                self.fail(Violation::new(Invariant::NoErrorWithoutFault, detail));
            }
        }
    }

    /// The snapshots of a cut, as far as the controller shows them.
    fn exports_of(&self, cut: usize) -> BTreeMap<String, VolumeId> {
        let Some(engine) = &self.process.control.engine else { return BTreeMap::new() };
        let exports = engine.exports();
        let parts = self.cuts[cut].parts.iter().map(|(volume, name)| format!("{}@{name}", self.volumes[*volume].name));
        parts.filter_map(|name| Some((name.clone(), exports.named(&name)?.volume))).collect()
    }

    fn cut_failed(&mut self, cut: usize) {
        for (volume, _) in self.cuts[cut].parts.clone() {
            self.volumes[volume].cutting = false;
        }
    }

    /// What snapshots under way hold if they are taken before this moment, for the next life to find.
    pub(crate) fn capture_cuts(&self) -> Captured {
        let under_way = self.operator.asked.values().filter_map(|task| match task {
            Task::View(ViewTask::Cut(cut)) => Some(*cut),
            _ => None,
        });
        let capture = |cut: usize| {
            let Cut { parts, asked, .. } = &self.cuts[cut];
            parts.iter().map(|(volume, _)| self.volumes[*volume].oracle.snapshot(*asked, self.tick)).collect()
        };
        under_way.map(|cut| (cut, capture(cut))).collect()
    }

    /// After a crash: cuts that were under way are there, or not.
    pub(crate) fn settle_cuts(&mut self, captured: Captured) {
        for (cut, oracles) in captured {
            let ids = self.exports_of(cut);
            if !ids.is_empty() {
                self.operator.asked.retain(|_, task| *task != Task::View(ViewTask::Cut(cut)));
                self.cut_taken(cut, &ids, Some(oracles));
            }
        }
    }

    /// After a crash: rollbacks that were under way have happened, or not.
    pub(crate) fn settle_rollbacks(&mut self) {
        for (id, task) in self.operator.asked.clone() {
            let Task::View(ViewTask::Rollback { volume, snapshot, before }) = task else { continue };
            let now = self.volumes[volume].id.and_then(|id| volume_branch(&self.store, id));
            if before.is_some() && now != before {
                self.operator.asked.remove(&id);
                self.rolled_back(volume, snapshot);
            }
        }
    }

    fn cut_taken(&mut self, cut: usize, ids: &BTreeMap<String, VolumeId>, captured: Option<Vec<Oracle>>) {
        self.cut_failed(cut);
        let Cut { parts, asked, .. } = &self.cuts[cut];
        let (parts, asked) = (parts.clone(), *asked);
        self.counts.views.snapshots += parts.len() as u64;
        self.counts.views.cuts += u64::from(parts.len() > 1);
        let now = self.next_tick();
        let mut captured = captured.map(Vec::into_iter);
        for (volume, short) in parts {
            let state = &mut self.volumes[volume];
            let name = format!("{}@{short}", state.name);
            let Some(id) = ids.get(&name).copied() else {
                let detail = format!("of a cut there is {ids:?}, and not {name}");
                return self.fail(Violation::new(Invariant::CutIsConsistent, detail));
            };
            let captured_oracle = captured.as_mut().and_then(Iterator::next);
            let was_captured = captured_oracle.is_some();
            let oracle = captured_oracle.unwrap_or_else(|| state.oracle.snapshot(asked, now));
            state.cut = now;
            state.mapped.clear();
            if !was_captured {
                // What a snapshot holds is durable, and so was all that was acknowledged before.
                state.oracle.flushed(asked);
            }
            let mut plan = state.plan.clone();
            (plan.size_bytes, plan.limit_bytes) = (state.size_bytes, None);
            let mut snapshot = VolumeState::new(Kind::Snapshot { of: volume, cut }, plan, name);
            snapshot.id = Some(id);
            snapshot.oracle = oracle;
            let index = self.volumes.len();
            self.volumes.push(snapshot);
            self.trace.note(self.now, "snapshot taken", [index as u64, u64::from(id.0), volume as u64]);
            if self.phase == Phase::Storm && self.random.below(3) > 0 && self.volumes.len() < VIEWS_MAX {
                let operations = self.random.between(5, 40) as u32;
                self.add_host(index, operations);
            }
            if self.phase == Phase::Storm {
                self.add_comparing_host(volume, index);
            }
        }
    }

    pub(crate) fn add_host(&mut self, volume: usize, operations: u32) {
        let depth = self.plan.depth as usize;
        self.hosts.push(Host::new(volume, depth, operations));
        let delay = self.random.delay(1_000_000);
        self.nudge(self.hosts.len() - 1, delay);
    }

    /// Every view has a host that reads all of it in the end.
    pub(crate) fn give_hosts_to_all(&mut self) {
        for volume in 0..self.volumes.len() {
            let has_host = self.hosts.iter().any(|host| host.volume == volume);
            if self.volumes[volume].id.is_some() && !has_host {
                self.add_host(volume, 0);
            }
        }
    }

    /// Nobody asks anything more of what is gone.
    pub(crate) fn retire_hosts(&mut self, volume: usize) {
        for host in self.hosts.iter_mut().filter(|host| host.volume == volume) {
            host.operations_left = 0;
            host.scan.clear();
            host.farewell.clear();
        }
    }

    fn snapshot_gone(&mut self, snapshot: usize) {
        self.volumes[snapshot].id = None;
        self.volumes[snapshot].incarnation += 1;
        self.retire_hosts(snapshot);
    }

    /// A volume is being deleted, and its snapshots with it.
    pub(crate) fn deletion_begins(&mut self, volume: usize) {
        self.volumes[volume].unsettled = true;
        for snapshot in self.snapshots(Some(volume)) {
            self.volumes[snapshot].unsettled = true;
        }
    }

    /// A volume is gone, and with it its snapshots.
    pub(crate) fn views_gone_with(&mut self, volume: usize) {
        for snapshot in self.snapshots(Some(volume)) {
            self.snapshot_gone(snapshot);
        }
    }

    fn renamed(&mut self, snapshot: usize, number: u32) {
        self.counts.views.renames += 1;
        let state = &mut self.volumes[snapshot];
        let (volume, _) = state.name.split_once('@').expect("a snapshot's name");
        (state.name, state.unsettled) = (format!("{volume}@r{number}"), false);
    }

    fn volume_renamed(&mut self, volume: usize, number: u32) {
        self.counts.views.renames += 1;
        let name = format!("n{number}");
        for snapshot in self.snapshots(Some(volume)) {
            let state = &mut self.volumes[snapshot];
            let (_, short) = state.name.split_once('@').expect("a snapshot's name");
            (state.name, state.unsettled) = (format!("{name}@{short}"), false);
        }
        let state = &mut self.volumes[volume];
        for door in self.process.doors.values_mut().filter(|door| door.opening == state.name) {
            door.opening.clone_from(&name);
        }
        (state.name, state.unsettled) = (name, false);
    }

    fn cloned(&mut self, snapshot: usize, clone: usize, id: VolumeId) {
        self.counts.views.clones += 1;
        let oracle = self.volumes[snapshot].oracle.descendant(id);
        let state = &mut self.volumes[clone];
        state.oracle = oracle;
        state.id = Some(id);
        state.has_origin = true;
        self.trace.note(self.now, "cloned", [clone as u64, u64::from(id.0), snapshot as u64]);
        if self.phase == Phase::Storm {
            for _ in 0..self.random.between(1, 2) {
                let operations = self.random.between(10, 80) as u32;
                self.add_host(clone, operations);
            }
        }
    }

    fn rolled_back(&mut self, volume: usize, snapshot: usize) {
        self.counts.views.rollbacks += 1;
        let Some(id) = self.volumes[volume].id else { return };
        let size_bytes = self.volumes[snapshot].size_bytes;
        let oracle = self.volumes[snapshot].oracle.descendant(id);
        let state = &mut self.volumes[volume];
        state.incarnation += 1;
        state.oracle = oracle;
        (state.size_bytes, state.plan.size_bytes) = (size_bytes, size_bytes);
        state.mapped.clear();
        state.zeroing = 0;
        state.unsettled = false;
        state.has_origin = true;
        state.resized_door = self.next_door;
        self.trace.note(self.now, "rolled back", [volume as u64, snapshot as u64, 0]);
    }

    /// Something was read of a snapshot: all of its cut must be of one moment.
    pub(crate) fn compare_cut(&mut self, volume: usize) {
        let Kind::Snapshot { cut, .. } = self.volumes[volume].kind else { return };
        let seen = self.volumes[volume].oracle.moment();
        let known = self.cuts[cut].moment.unwrap_or(seen);
        match known.and(seen) {
            Ok(both) => self.cuts[cut].moment = Some(both),
            Err(violation) => self.fail(violation),
        }
    }

    /// What the controller says of an export is what is so.
    pub(crate) fn check_export(&mut self, volume: usize) {
        let state = &self.volumes[volume];
        let Some(engine) = self.process.control.engine.as_ref().filter(|_| !state.unsettled) else { return };
        let exports = engine.exports();
        let export = exports.named(&state.name);
        let is_right = export.is_some_and(|export| {
            Some(export.volume) == state.id
                && export.size_bytes == state.size_bytes
                && export.read_only == state.is_snapshot()
        });
        if !is_right {
            let detail =
                format!("{} ({:?}, {} bytes) is exported as {export:?}", state.name, state.id, state.size_bytes);
            self.fail(Violation::new(Invariant::NoErrorWithoutFault, detail));
        }
    }

    /// A comparison names every block that certainly changed, and calls none zero that holds data.
    fn judge_diff(&self, from: Option<usize>, to: usize, offset: u64, diff: &Diff) -> Result<(), Violation> {
        let told = |why: String| {
            let (from, to) = (from.map(|from| &self.volumes[from].name), &self.volumes[to].name);
            Err(Violation::new(Invariant::DiffMissesNothing, format!("from {from:?} to {to:?}: {why}")))
        };
        let mut last = offset / 4096 * 4096;
        for range in &diff.ranges {
            let (start, end) = (range.offset_bytes, range.offset_bytes + range.length_bytes);
            let aligned = start % 4096 == 0 && (end % 4096 == 0 || end == diff.size_bytes);
            if start < last || range.length_bytes == 0 || end > diff.size_bytes || !aligned {
                return told(format!("{range:?} does not follow {last} within {} bytes", diff.size_bytes));
            }
            last = end;
        }
        // What hosts write meanwhile may be in or not.
        if !self.volumes[to].is_snapshot() && self.phase < Phase::Accounting {
            return Ok(());
        }
        let nothing = Oracle::new(VolumeId(0), &self.volumes[to].plan.windows);
        let (older, younger) = (from.map_or(&nothing, |from| &self.volumes[from].oracle), &self.volumes[to].oracle);
        let within = |byte: u64| byte >= offset && diff.next_offset_bytes.is_none_or(|next| byte < next);
        let of = |byte: u64| {
            diff.ranges
                .iter()
                .find(|range| (range.offset_bytes..range.offset_bytes + range.length_bytes).contains(&byte))
        };
        for sector in older.differences(younger).filter(|sector| within(sector * 512)) {
            match of(sector * 512) {
                None => return told(format!("sector {sector} differs and is not named")),
                Some(range) if range.kind == DiffKind::Zero && !younger.may_be_zero(sector) => {
                    return told(format!("sector {sector} holds data and is called zero"));
                }
                Some(_) => {}
            }
        }
        Ok(())
    }
}
