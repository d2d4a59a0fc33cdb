//! The real engines over a real store, with a node that completes at once and keeps nothing: what is left is the map.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use agent::{Agent, AgentConfig, HostId, HostVolume, IoId, IoKind, IoRequest, IoResult, ReadSegment, VolumeReport};
use anyhow::{Context, Result, bail, ensure};
use api::{DiskAdd, PoolCreate, Request, Response, SnapshotCreate, SnapshotState, VolumeCreate};
use controller::{ApiId, BatchId, Config, Controller, DEFAULT_POOL, DiskInspection, Survivors};
use model::{BufferPool, ClusterId, IoError, Time, VolumeId};
use pool::Judgement;
use store::{Batch, MetaStore, StoreView};
use store_redb::RedbStore;
use wire::{AgentId, AgentMessage, ControllerMessage, DiskOperation, NodeReply, NodeReport, NodeRequest};

/// The agent engine, as the controller knows it.
const AGENT: AgentId = AgentId(0);
/// Whoever maps without an agent (see [`crate::map::mapper`]).
pub(crate) const MAPPER: AgentId = AgentId(1);
/// How much of unused buffers is kept, in bytes.
const BUFFERS_BYTES: usize = 128 << 20;

/// One process, so to speak.
pub(crate) struct World {
    agent: Agent,
    buffers: BufferPool,
    controller: Controller,
    store: RedbStore,
    path: PathBuf,
    started: Instant,
    now: Time,
    timer: Option<Time>,
    from_agent: Vec<agent::Effect>,
    performed: Vec<agent::Effect>,
    to_controller: VecDeque<controller::Event>,
    batches: Vec<(BatchId, Batch)>,
    answers: BTreeMap<ApiId, Result<Response, api::Error>>,
    attached: Option<HostVolume>,
    last_id: u64,
    replies: u64,
    data_bytes: u64,
    failed: Option<IoError>,
    /// What the mapper was told.
    pub(crate) inbox: VecDeque<ControllerMessage>,
    /// Spent in transactions of the store.
    pub(crate) committing: Duration,
    /// How many transactions that were.
    pub(crate) transactions: u64,
    /// Changes in them, and the bytes of their keys and values.
    pub(crate) changes: u64,
    pub(crate) change_bytes: u64,
}

/// How long the parts of a start took.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StartTimes {
    /// Opening the file.
    pub(crate) open: Duration,
    /// Reading the controller out of it.
    pub(crate) recover: Duration,
    /// Until it is settled: disks open, former sessions fenced and closed.
    pub(crate) start: Duration,
}

impl World {
    /// Starts on the store at `path`, which is made if it is not there.
    pub(crate) fn open(path: &Path) -> Result<(Self, StartTimes)> {
        let started = Instant::now();
        let store = RedbStore::open_or_create(path)?;
        let opened = Instant::now();
        let controller = Controller::recover(config(), &store, Survivors::default())?;
        let recovered = Instant::now();
        let mut world = Self {
            agent: Agent::new(AgentConfig::default()),
            buffers: BufferPool::new(BUFFERS_BYTES),
            controller,
            store,
            path: path.to_owned(),
            started,
            now: Time(0),
            timer: None,
            from_agent: Vec::new(),
            performed: Vec::new(),
            to_controller: VecDeque::new(),
            batches: Vec::new(),
            answers: BTreeMap::new(),
            attached: None,
            last_id: 0,
            replies: 0,
            data_bytes: 0,
            failed: None,
            inbox: VecDeque::new(),
            committing: Duration::ZERO,
            transactions: 0,
            changes: 0,
            change_bytes: 0,
        };
        let space = world.store.space()?;
        world.to_controller.push_back(controller::Event::Space(space));
        let mut effects = Vec::new();
        world.controller.start(world.now, &mut effects);
        effects.into_iter().try_for_each(|effect| world.perform(effect))?;
        world.settle()?;
        ensure!(world.controller.is_settled(), "the controller has not settled");
        let times = StartTimes { open: opened - started, recover: recovered - opened, start: recovered.elapsed() };
        Ok((world, times))
    }

    /// Makes the default pool on one disk of so many bytes.
    pub(crate) fn make_pool(&mut self, size_bytes: u64) -> Result<()> {
        self.ask(Request::PoolCreate(PoolCreate { name: DEFAULT_POOL.into(), ..PoolCreate::default() }))?;
        let add =
            DiskAdd { path: "a disk that keeps nothing".into(), size_bytes: Some(size_bytes), ..DiskAdd::default() };
        self.ask(Request::DiskAdd(add)).map(drop)
    }

    /// Makes a volume.
    pub(crate) fn make_volume(&mut self, name: &str, size_bytes: u64) -> Result<VolumeId> {
        let create = VolumeCreate { name: name.into(), size_bytes, ..VolumeCreate::default() };
        match self.ask(Request::VolumeCreate(create))? {
            Response::Volume(volume) => Ok(VolumeId(volume.id)),
            other => bail!("a volume was asked for, not {other:?}"),
        }
    }

    /// Takes a snapshot, `VOL@NAME`; durable when this returns.
    pub(crate) fn take_snapshot(&mut self, full: &str) -> Result<()> {
        let create = SnapshotCreate { snapshots: vec![full.into()], imported_from: None };
        self.ask(Request::SnapshotCreate { create, scheduled: false, now_unix_seconds: 1 }).map(drop)
    }

    /// Deletes a snapshot, `VOL@NAME`, and goes on until its space is back.
    pub(crate) fn delete_snapshot(&mut self, full: &str) -> Result<()> {
        self.ask(Request::SnapshotDelete { name: full.into(), force: false })?;
        match self.ask(Request::SnapshotList { volume: None })? {
            Response::Snapshots(left) => {
                ensure!(
                    left.iter().all(|left| left.state == SnapshotState::Ready),
                    "a snapshot is still being deleted"
                );
                Ok(())
            }
            other => bail!("snapshots were asked for, not {other:?}"),
        }
    }

    /// What is mapped in the default pool, in bytes.
    pub(crate) fn used_bytes(&mut self) -> Result<u64> {
        match self.ask(Request::PoolShow { name: DEFAULT_POOL.into() })? {
            Response::Pool(pool) => Ok(pool.used_bytes),
            other => bail!("a pool was asked for, not {other:?}"),
        }
    }

    fn ask(&mut self, request: Request) -> Result<Response> {
        self.last_id += 1;
        let id = ApiId(self.last_id);
        self.to_controller.push_back(controller::Event::Api(id, request));
        self.settle()?;
        let answer = self.answers.remove(&id).context("an operator was not answered")?;
        answer.map_err(|error| anyhow::anyhow!("{error:?}"))
    }

    /// Attaches a volume to the agent.
    pub(crate) fn attach(&mut self, volume: VolumeId) -> Result<HostVolume> {
        self.last_id += 1;
        self.step_agent(agent::Event::HostAttach { host: HostId(self.last_id), volume });
        self.settle()?;
        self.attached.take().context("the volume was not attached")
    }

    /// Has the agent leave, and another take its place whose tables may take so many bytes in memory.
    pub(crate) fn exchange_agent(&mut self, table_bytes_max: usize) -> Result<()> {
        self.step_agent(agent::Event::Shutdown);
        self.settle()?;
        ensure!(self.agent.is_drained(), "the agent has not left");
        self.agent = Agent::new(AgentConfig { table_bytes_max, ..AgentConfig::default() });
        Ok(())
    }

    /// Tells the controller something in the mapper's name.
    pub(crate) fn tell(&mut self, message: AgentMessage) {
        self.to_controller.push_back(controller::Event::FromAgent(MAPPER, message));
    }

    /// Runs one I/O to its end.
    pub(crate) fn io(&mut self, volume: &HostVolume, kind: IoKind) -> Result<()> {
        self.last_id += 1;
        let expected = self.replies + 1;
        self.step_agent(agent::Event::Io(IoRequest { id: IoId(self.last_id), volume: volume.slot, kind }));
        if !self.to_controller.is_empty() {
            self.settle()?;
        }
        ensure!(self.failed.is_none() && self.replies == expected, "an I/O failed or hangs: {:?}", self.failed);
        Ok(())
    }

    /// Writes bytes that are not zero.
    pub(crate) fn write(&mut self, volume: &HostVolume, offset: u64, length: u32) -> Result<()> {
        let mut data = self.buffers.take(length as usize);
        if data.bytes()[0] == 0 {
            data.bytes_mut().fill(0xa5);
        }
        self.io(volume, IoKind::Write { offset, length, data, fua: false })
    }

    /// Reads; gives how many bytes came from a disk.
    pub(crate) fn read(&mut self, volume: &HostVolume, offset: u64, length: u32) -> Result<u64> {
        let before = self.data_bytes;
        self.io(volume, IoKind::Read { offset, length })?;
        Ok(self.data_bytes - before)
    }

    /// Flushes, and lets everything that follows come to its end.
    pub(crate) fn flush(&mut self, volume: &HostVolume) -> Result<()> {
        self.io(volume, IoKind::Flush)?;
        self.settle()
    }

    /// The agent's own account of a volume.
    pub(crate) fn report(&self, volume: VolumeId) -> Result<VolumeReport> {
        let reports = self.agent.reports();
        reports.into_iter().find(|report| report.volume == volume).context("the volume is not attached")
    }

    /// The store, to be read.
    pub(crate) fn view(&self) -> &impl StoreView {
        &self.store
    }

    /// How large the store's file is, in bytes.
    pub(crate) fn file_bytes(&self) -> Result<u64> {
        Ok(self.store.space()?.used_bytes)
    }

    /// Where the store lies.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Goes on until nothing moves any more.
    pub(crate) fn settle(&mut self) -> Result<()> {
        loop {
            self.now = Time(u64::try_from(self.started.elapsed().as_nanos())?);
            if self.timer.is_some_and(|at| at <= self.now) {
                self.timer = None;
                self.to_controller.push_back(controller::Event::Timer);
            }
            if self.agent.next_deadline(self.now).is_some_and(|at| at <= self.now) {
                self.step_agent(agent::Event::Tick);
            }
            while let Some(event) = self.to_controller.pop_front() {
                self.step_controller(event)?;
            }
            if self.batches.is_empty() {
                return Ok(());
            }
            self.commit()?;
        }
    }

    fn commit(&mut self) -> Result<()> {
        let (ids, batches): (Vec<_>, Vec<_>) = std::mem::take(&mut self.batches).into_iter().unzip();
        for change in batches.iter().flat_map(|batch: &store::Batch| &batch.changes) {
            self.changes += 1;
            self.change_bytes += match change {
                store::Change::Put(key, value) => key.len() + value.len(),
                store::Change::Delete(key) => key.len(),
                store::Change::DeleteRange(range) => range.start.len() + range.end.len(),
            } as u64;
        }
        let begun = Instant::now();
        self.store.commit(&batches)?;
        self.committing += begun.elapsed();
        self.transactions += 1;
        ids.into_iter().try_for_each(|id| self.step_controller(controller::Event::Committed(id)))
    }

    fn step_controller(&mut self, event: controller::Event) -> Result<()> {
        let mut effects = Vec::new();
        self.controller.step(self.now, event, &mut effects);
        effects.into_iter().try_for_each(|effect| self.perform(effect))
    }

    fn perform(&mut self, effect: controller::Effect) -> Result<()> {
        use controller::{Effect, Event};
        match effect {
            Effect::ToAgent(AGENT, message) => self.step_agent(agent::Event::FromController(message)),
            Effect::ToAgent(_, message) => self.inbox.push_back(message),
            Effect::ToNode(node, command) => {
                let report = NodeReport { command: command.command, result: Ok(()) };
                self.to_controller.push_back(Event::FromNode(node, report));
            }
            Effect::Commit { id, batch } => self.batches.push((id, batch)),
            Effect::Scan { id, ranges } => {
                let result = controller::perform_scan(&self.store, &ranges);
                self.to_controller.push_back(Event::Scanned { id, result });
            }
            Effect::Reply(id, answer) => drop(self.answers.insert(id, answer)),
            Effect::SetTimer(at) => self.timer = Some(at),
            Effect::InspectDisk { ticket, path, size_bytes } => {
                let size_bytes = size_bytes.context("this bench says how large its disks are")?;
                let found = DiskInspection { path, judgement: Judgement::Blank, size_bytes, sector_bytes: 4096 };
                self.to_controller.push_back(Event::DiskInspected { ticket, result: Ok(found) });
            }
            Effect::WriteLabel { ticket, .. } => {
                self.to_controller.push_back(Event::LabelWritten { ticket, result: Ok(()) });
            }
            Effect::OpenDisk { disk, .. } => {
                self.to_controller.push_back(Event::DiskOpened { disk, result: Ok(()) });
            }
            Effect::Inspect { .. } | Effect::ReleaseDisk { .. } | Effect::Attach(_) | Effect::Alert(_) => {}
        }
        Ok(())
    }

    fn step_agent(&mut self, event: agent::Event) {
        self.agent.step(self.now, event, &mut self.buffers, &mut self.from_agent);
        while !self.from_agent.is_empty() {
            let mut effects = std::mem::replace(&mut self.from_agent, std::mem::take(&mut self.performed));
            for effect in effects.drain(..) {
                self.perform_for_agent(effect);
            }
            self.performed = effects;
        }
    }

    fn perform_for_agent(&mut self, effect: agent::Effect) {
        use agent::Effect;
        match effect {
            Effect::ToNode(NodeRequest { id, operation, .. }) => {
                let buffer = match operation {
                    DiskOperation::Read { buffer, .. } => Some(buffer),
                    // A write's buffer is let go before it is answered, as a node does, so that it is used again.
                    DiskOperation::Write { buffer, .. } => {
                        drop(buffer);
                        None
                    }
                    DiskOperation::Flush | DiskOperation::Discard { .. } => None,
                };
                let reply = agent::Event::FromNode(NodeReply { id, result: Ok(()), buffer });
                self.agent.step(self.now, reply, &mut self.buffers, &mut self.from_agent);
            }
            Effect::ToController(message) => {
                self.to_controller.push_back(controller::Event::FromAgent(AGENT, message));
            }
            Effect::Reply { result, .. } => {
                self.replies += 1;
                match result {
                    IoResult::Failed(error) => self.failed = Some(error),
                    IoResult::Read(segments) => segments.into_iter().for_each(|segment| {
                        if let ReadSegment::Data { buffer, length, .. } = segment {
                            self.data_bytes += u64::from(length);
                            self.buffers.put(buffer);
                        }
                    }),
                    IoResult::Done | IoResult::Status(_) | IoResult::Changed(_) => {}
                }
            }
            Effect::HostAttached { result, .. } => self.attached = result.ok(),
            Effect::HostEvicted { .. } => {}
        }
    }
}

fn config() -> Config {
    Config { new_cluster: ClusterId(1), ..Config::default() }
}
