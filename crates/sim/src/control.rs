//! The shell of the controller: its store, its timer, its disks' labels, and what happens when a commit fails.

use crate::fabric::{Happening, Way};
use crate::plan::Plan;
use crate::planted::PlantedBug;
use crate::verdict::{Invariant, Violation};
use crate::world::{CLUSTER, World};
use api::{AuditReport, Response};
use controller::{BatchId, Config, Controller, DiskInspection, Effect, Event, Inspection, Survivors, inspect};
use model::{Time, VolumeId};
use pool::{DiskLabel, Judgement};
use std::collections::{BTreeMap, VecDeque};
use std::ops::ControlFlow;
use store::keys::Tag;
use store::records::{JobRecord, Record, SnapshotRecord, VolumeProgress, VolumeRecord};
use store::{Batch, Key, KeyRange, MemoryStore, MetaStore, StoreError, StoreView};
use wire::{ControllerMessage, NodeId};

/// The controller of one life.
#[derive(Debug)]
pub(crate) struct Control {
    pub(crate) engine: Option<Controller>,
    config: Config,
    /// Batches that wait for the store, oldest first.
    waiting: VecDeque<(BatchId, Batch)>,
    /// How many of them the transaction under way holds.
    under_way: usize,
    due: Option<u64>,
}

impl Control {
    pub(crate) fn new(plan: &Plan) -> Self {
        let config = Config {
            new_cluster: CLUSTER,
            nodes: (0..plan.agents).map(NodeId).collect(),
            metadata_reserve_bytes: 16 << 10,
            folding: plan.folding,
            planted: PlantedBug::controller(plan.planted),
            ..Config::default()
        };
        Self { engine: None, config, waiting: VecDeque::new(), under_way: 0, due: None }
    }

    /// What the store was in the middle of making durable.
    pub(crate) fn take_transaction(&mut self) -> Vec<Batch> {
        self.waiting.drain(..).take(self.under_way).map(|(_, batch)| batch).collect()
    }
}

/// The path of a disk, as operators name it.
pub(crate) fn disk_path(index: usize) -> String {
    format!("disk{index}")
}

fn path_index(path: &str) -> usize {
    path.trim_start_matches("disk").parse().expect("paths are made by disk_path")
}

impl World {
    /// Makes the controller from what the store holds, and what is left of the one before, if that did not die with the
    /// process.
    pub(crate) fn start_controller(&mut self, survivors: Survivors) {
        let config = self.process.control.config.clone();
        match Controller::recover(config, &self.store, survivors) {
            Ok(engine) => self.process.control.engine = Some(engine),
            Err(error) => {
                let detail = format!("the store cannot be opened: {error}");
                return self.fail(Violation::new(Invariant::AckedFlushIsDurable, detail));
            }
        }
        self.started();
    }

    fn started(&mut self) {
        let mut effects = Vec::new();
        let engine_now = self.clock.engine_time(self.now);
        let Some(engine) = &mut self.process.control.engine else { return };
        engine.start(engine_now, &mut effects);
        self.controller_effects(effects);
        self.tell_space();
    }

    fn tell_space(&mut self) {
        if let Ok(space) = self.store.space() {
            self.controller_step(Event::Space(space));
        }
    }

    pub(crate) fn controller_step(&mut self, event: Event) {
        let mut effects = Vec::new();
        let engine_now = self.clock.engine_time(self.now);
        let Some(engine) = &mut self.process.control.engine else { return };
        engine.step(engine_now, event, &mut effects);
        self.controller_effects(effects);
    }

    fn controller_effects(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            if !self.effect() {
                return;
            }
            self.controller_effect(effect);
        }
    }

    fn controller_effect(&mut self, effect: Effect) {
        match effect {
            Effect::ToAgent(agent, message) => self.tell_agent(agent.0 as usize, message),
            Effect::ToNode(node, command) => {
                let node = node.0 as usize;
                self.hop(Way::ControllerToNode(node), Happening::NodeTold { node, command });
            }
            Effect::Commit { id, batch } => {
                self.process.control.waiting.push_back((id, batch));
                self.start_transaction();
            }
            Effect::Scan { id, ranges } => {
                let delay = self.random.delay(self.plan.store_nanos / 4);
                self.later(delay, Happening::ScanTurns { id, ranges });
            }
            Effect::Reply(id, result) => self.operator_answered(id, result),
            Effect::Inspect { reply_to, inspection } => {
                let result = inspect::answer(&self.store, &inspection);
                self.operator_answered(reply_to, result);
            }
            Effect::SetTimer(at) => {
                let due = self.clock.due(at, self.now);
                self.process.control.due = Some(at.0);
                self.queue.push(due, (self.life, Happening::ControllerDue));
            }
            Effect::InspectDisk { ticket, path, .. } => {
                let index = path_index(&path);
                let disk = &self.disks[index];
                let judgement = match &self.labels[index] {
                    None => Judgement::Blank,
                    Some(label) => Judgement::Ours { label: *label, mend: false },
                };
                let (size_bytes, sector_bytes) = (disk.size_bytes, disk.sector_bytes);
                let result = Ok(DiskInspection { path, judgement, size_bytes, sector_bytes });
                self.tell_controller_later(Event::DiskInspected { ticket, result });
            }
            Effect::WriteLabel { ticket, path, label } => {
                self.labels[path_index(&path)] = Some(label);
                self.tell_controller_later(Event::LabelWritten { ticket, result: Ok(()) });
            }
            Effect::OpenDisk { disk, path, label } => {
                let found = self.labels[path_index(&path)].as_ref() == Some(&label);
                self.checks.opened(disk, path_index(&path));
                let result = if found { Ok(()) } else { Err("its label is another".to_owned()) };
                self.tell_controller_later(Event::DiskOpened { disk, result });
            }
            Effect::ReleaseDisk { path, .. } => self.labels[path_index(&path)] = None,
            Effect::Attach(volume) => {
                let delay = self.random.delay(self.plan.hop_nanos);
                self.later(delay, Happening::AttachWanted(volume));
            }
            Effect::Alert(_) => {}
        }
    }

    fn tell_controller_later(&mut self, event: Event) {
        let delay = self.random.delay(self.plan.disk_nanos);
        self.later(delay, Happening::ControllerTold(Box::new(event)));
    }

    fn tell_agent(&mut self, agent: usize, message: ControllerMessage) {
        match &message {
            ControllerMessage::Attached { result: Ok(attachment), .. } => self.checks.attached(attachment),
            ControllerMessage::LogicalDisk { layout } => self.checks.introduced(layout),
            _ => {}
        }
        let way = Way::ControllerToAgent(agent);
        self.hop(way, Happening::AgentTold { agent, message });
    }

    /// Begins a transaction of some of what waits, unless one is under way.
    fn start_transaction(&mut self) {
        let control = &mut self.process.control;
        if control.under_way == 0 && !control.waiting.is_empty() {
            control.under_way = self.random.between(1, control.waiting.len() as u64) as usize;
            let delay = self.random.delay(self.plan.store_nanos);
            self.later(delay, Happening::StoreTurns);
        }
    }

    /// The transaction under way is durable now, or fails.
    pub(crate) fn store_turns(&mut self) {
        let control = &mut self.process.control;
        let count = std::mem::take(&mut control.under_way);
        let (ids, batches): (Vec<_>, Vec<_>) = control.waiting.drain(..count).unzip();
        self.trace.note(
            self.now,
            "store commits",
            [ids.len() as u64, batches.iter().map(|b| b.changes.len() as u64).sum(), 0],
        );
        self.trace.tell(self.now, || {
            let changes = batches.iter().flat_map(|batch| &batch.changes);
            let told = changes.map(|change| match change {
                store::Change::Put(key, _) => format!("+{:?}", Key::decode(key)),
                store::Change::Delete(key) => format!("-{:?}", Key::decode(key)),
                store::Change::DeleteRange(range) => format!("-{range:?}"),
            });
            format!("  {}", told.collect::<Vec<_>>().join(", "))
        });
        let failing = self.may_fail() && self.random.permille(self.plan.store_failures);
        let result =
            if failing { Err(StoreError::Failed("simulated".to_owned())) } else { self.store.commit(&batches) };
        match result {
            Ok(()) => {
                for id in ids {
                    self.controller_step(Event::Committed(id));
                }
                self.start_transaction();
            }
            Err(error) => {
                self.trace.tell(self.now, || format!("  the store refuses: {error}"));
                self.controller_step(Event::CommitFailed(ids[0], error));
                self.replace_controller();
            }
        }
        if self.random.below(16) == 0 {
            self.tell_space();
        }
    }

    /// A commit failed: the controller starts over from what is durable.
    fn replace_controller(&mut self) {
        let control = &mut self.process.control;
        control.waiting.clear();
        control.under_way = 0;
        let Some(failed) = control.engine.take() else { return };
        self.start_controller(failed.salvage());
    }

    pub(crate) fn scan_turns(&mut self, id: controller::ScanId, ranges: &[controller::ScanRange]) {
        let result = controller::perform_scan(&self.store, ranges);
        self.controller_step(Event::Scanned { id, result });
    }

    pub(crate) fn controller_due(&mut self) {
        let engine_now = self.clock.engine_time(self.now);
        if self.process.control.due.is_some_and(|due| Time(due) <= engine_now) {
            self.process.control.due = None;
            self.controller_step(Event::Timer);
        }
    }
}

/// The audit of what is durable.
pub(crate) fn audit(store: &MemoryStore) -> Result<AuditReport, Violation> {
    match inspect::answer(store, &Inspection::Audit) {
        Ok(Response::Audit(report)) => Ok(report),
        other => Err(Violation::new(Invariant::NoRegionOwnedTwice, format!("the audit answers {other:?}"))),
    }
}

/// What every volume's map holds, in bytes, as its progress counts it. (The audit compares that with the map.)
pub(crate) fn mapped_bytes(store: &MemoryStore) -> Result<BTreeMap<VolumeId, u64>, Violation> {
    let mut mapped = BTreeMap::new();
    let mut damaged = None;
    let scanned = store.scan(&KeyRange::tag(Tag::VolumeProgress), &mut |key, value| {
        match (Key::decode(key), VolumeProgress::decode(value)) {
            (Some(Key::VolumeProgress(volume)), Ok(progress)) => {
                mapped.insert(volume, progress.mapped_units * model::UNIT_BYTES);
            }
            other => damaged = Some(format!("{other:?}")),
        }
        ControlFlow::Continue(())
    });
    match (scanned, damaged) {
        (Ok(()), None) => Ok(mapped),
        (scanned, damaged) => {
            Err(Violation::new(Invariant::NoRegionOwnedTwice, format!("a volume's count: {scanned:?} {damaged:?}")))
        }
    }
}

/// The branch that a volume is, as is durable.
pub(crate) fn volume_branch(store: &MemoryStore, volume: VolumeId) -> Option<model::BranchId> {
    let value = store.get(&Key::Volume(volume).encode()).ok()??;
    Some(VolumeRecord::decode(&value).ok()?.branch)
}

/// Whether space is still being taken back.
pub(crate) fn jobs_under_way(store: &MemoryStore) -> bool {
    let mut found = false;
    let scanned = store.scan(&KeyRange::tag(Tag::Job), &mut |_, value| {
        found |= !matches!(JobRecord::decode(value), Ok(JobRecord::Flatten { .. }));
        ControlFlow::Continue(())
    });
    found || scanned.is_err()
}

/// How many snapshots are deleted and still there.
pub(crate) fn hidden_snapshots(store: &MemoryStore) -> usize {
    let mut found = 0;
    let scanned = store.scan(&KeyRange::tag(Tag::Snapshot), &mut |_, value| {
        found += usize::from(SnapshotRecord::decode(value).is_ok_and(|record| record.deleted));
        ControlFlow::Continue(())
    });
    scanned.map_or(usize::MAX, |()| found)
}

/// What there are records of that only a volume can have.
pub(crate) fn records_left(store: &MemoryStore) -> Vec<Tag> {
    let is_there = |tag: &Tag| {
        let mut found = false;
        let scanned = store.scan(&KeyRange::tag(*tag), &mut |_, _| {
            found = true;
            ControlFlow::Break(())
        });
        found || scanned.is_err()
    };
    let tags = [
        Tag::Volume,
        Tag::VolumeName,
        Tag::VolumeProgress,
        Tag::Branch,
        Tag::Snapshot,
        Tag::Usage,
        Tag::Table,
        Tag::Job,
        Tag::Session,
        Tag::Grant,
    ];
    tags.into_iter().filter(is_there).collect()
}

/// The label that a disk bears, as the world keeps it.
pub(crate) type Label = Option<DiskLabel>;
