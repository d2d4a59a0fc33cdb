//! A controller and a node just good enough to run an agent against: one logical disk in memory, full of a former
//! owner's bytes, and a strict account of who owns which unit.
#![allow(dead_code, unreachable_pub, missing_docs, clippy::disallowed_types)]

use agent::{Agent, AgentConfig, Effect, Event, HostId, HostVolume, IoId, IoKind, IoRequest, IoResult, ReadSegment};
use mapping::TablePage;
use model::{
    BLOCK_BYTES, BlockRange, BranchId, BufferPool, ChunkletAddress, ClusterId, DiskId, EntryRun, Epoch, Generation,
    IoBuffer, IoError, LogicalDiskId, LogicalDiskLayout, MapEntry, PageIndex, Place, PoolId, RaidLevel, RegionSize,
    Term, Time, UNIT_BYTES, UnitIndex, UnitRun, VolumeId,
};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use wire::{
    AgentMessage, AttachError, Attachment, CommandId, CommitError, ControllerMessage, Credentials, DiskOperation,
    GrantError, NodeReply, NodeRequest, Order, OrderOutcome, RequestId, SnapshotPage,
};

pub const FOREIGN: u8 = 0xee;

/// Who owns a unit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Owner {
    Free,
    Granted,
    Mapped,
}

pub struct Cluster {
    pub agent: Agent,
    config: AgentConfig,
    pub buffers: BufferPool,
    pub size_bytes: u64,
    pub region_size: RegionSize,
    pub media: Vec<u8>,
    pub units: Vec<Owner>,
    pub pages: BTreeMap<PageIndex, TablePage>,
    pub to_node: VecDeque<NodeRequest>,
    pub to_controller: VecDeque<AgentMessage>,
    pub done: BTreeMap<IoId, Outcome>,
    pub orders_done: Vec<(CommandId, wire::OrderOutcome)>,
    pub flushes: u64,
    pub writes: u64,
    pub reads: u64,
    pub commits: u64,
    /// Commits that were taken.
    taken: BTreeSet<RequestId>,
    /// Freezes that were done before their last commit was answered.
    pub frozen_early: u64,
    pub grant_units_max: u32,
    pub fail_commits: u32,
    pub fail_flushes: u32,
    /// Disks do not answer flushes.
    pub slow_flushes: bool,
    /// Nothing of the session is committed any more.
    pub fenced: bool,
    pub fail_reads: u32,
    pub fail_writes: u32,
    pub detached: bool,
    pub generation: Generation,
    pub frozen_through: Generation,
    /// Oldest first.
    pub snapshots: Vec<Snapshot>,
    /// When each mapped unit was allocated, by the entries that name it.
    born: BTreeMap<u32, Generation>,
    /// What the disk's volatile cache would lose: where, and what was there before.
    unflushed: Vec<(usize, Vec<u8>)>,
    next_command: u64,
    epoch: Epoch,
    layout: Arc<LogicalDiskLayout>,
    next_io: u64,
    now: Time,
    random: u64,
    pub slot: Option<HostVolume>,
    pub evicted: Vec<HostId>,
    /// The most that tables ever took.
    pub table_bytes_most: usize,
    steps: u64,
}

/// What a snapshot sees.
pub struct Snapshot {
    pub id: VolumeId,
    pub generation: Generation,
    pub size_bytes: u64,
    pub pages: BTreeMap<PageIndex, TablePage>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    Done,
    Data(Vec<u8>),
    Status(Vec<(u64, bool)>),
    /// Length, changed, zero.
    Changed(Vec<(u64, bool, bool)>),
    Failed(IoError),
}

impl Cluster {
    pub fn new(size_bytes: u64, region_size: RegionSize, units: u32, seed: u64) -> Self {
        Self::with_tables(size_bytes, region_size, units, seed, usize::MAX)
    }

    /// The same with so many bytes of memory for tables.
    pub fn with_tables(
        size_bytes: u64,
        region_size: RegionSize,
        units: u32,
        seed: u64,
        table_bytes_max: usize,
    ) -> Self {
        let config = AgentConfig { table_bytes_max, ..AgentConfig::default() };
        let layout = LogicalDiskLayout {
            id: LogicalDiskId(1),
            pool: PoolId(1),
            raid: RaidLevel::Raid0,
            step_bytes: 65536,
            chunklet_bytes: u64::from(units) * UNIT_BYTES,
            rows: vec![vec![ChunkletAddress { disk: DiskId(1), byte_offset: 0 }]],
        };
        let mut cluster = Self {
            agent: Agent::new(config),
            config,
            buffers: BufferPool::new(16 << 20),
            size_bytes,
            region_size,
            media: vec![FOREIGN; (u64::from(units) * UNIT_BYTES) as usize],
            units: vec![Owner::Free; units as usize],
            pages: BTreeMap::new(),
            to_node: VecDeque::new(),
            to_controller: VecDeque::new(),
            done: BTreeMap::new(),
            orders_done: Vec::new(),
            flushes: 0,
            writes: 0,
            reads: 0,
            commits: 0,
            taken: BTreeSet::new(),
            frozen_early: 0,
            grant_units_max: u32::MAX,
            fail_commits: 0,
            fail_flushes: 0,
            slow_flushes: false,
            fenced: false,
            fail_reads: 0,
            fail_writes: 0,
            detached: false,
            generation: Generation(1),
            frozen_through: Generation(0),
            snapshots: Vec::new(),
            born: BTreeMap::new(),
            unflushed: Vec::new(),
            next_command: 1000,
            epoch: Epoch(1),
            layout: Arc::new(layout),
            next_io: 0,
            now: Time(0),
            random: seed | 1,
            slot: None,
            evicted: Vec::new(),
            table_bytes_most: 0,
            steps: 0,
        };
        cluster.attach();
        cluster
    }

    fn attach(&mut self) {
        self.step(Event::HostAttach { host: HostId(1), volume: VolumeId(1) });
        self.settle();
        assert!(self.slot.is_some(), "the volume was attached");
    }

    /// The agent dies, the disk loses power, and another agent takes over, from what is durable.
    pub fn restart_agent(&mut self) {
        self.taken.clear();
        for (at, before) in std::mem::take(&mut self.unflushed).into_iter().rev() {
            self.media[at..at + before.len()].copy_from_slice(&before);
        }
        self.replace_agent();
    }

    /// The agent dies, and another takes over; the disk keeps what is in its cache.
    pub fn replace_agent(&mut self) {
        self.agent = Agent::new(self.config);
        self.to_node.clear();
        self.to_controller.clear();
        self.slot = None;
        self.detached = false;
        self.epoch = self.epoch.next();
        for unit in &mut self.units {
            if *unit == Owner::Granted {
                *unit = Owner::Free;
            }
        }
        self.attach();
    }

    /// The same with everything durable.
    pub fn restart_agent_after_flush(&mut self) {
        assert_eq!(self.run(IoKind::Flush), Outcome::Done);
        self.restart_agent();
    }

    /// Has the agent ask for every region it needs: the pool gives little at a time, so that it takes space for short.
    pub fn agent_grants_scarce(&mut self) {
        self.grant_units_max = self.region_size.units();
    }

    pub fn random(&mut self, below: usize) -> usize {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random % below.max(1) as u64) as usize
    }

    pub fn step(&mut self, event: Event) {
        let mut out = Vec::new();
        self.agent.step(self.now, event, &mut self.buffers, &mut out);
        self.table_bytes_most = self.table_bytes_most.max(self.agent.table_bytes_used());
        self.steps += 1;
        if self.steps.is_multiple_of(16) {
            let recounted = self.agent.table_bytes_recounted();
            assert_eq!(self.agent.table_bytes_used(), recounted, "tables are counted as they change");
        }
        for effect in out {
            match effect {
                Effect::HostAttached { result, .. } => self.slot = Some(result.expect("attached")),
                Effect::HostEvicted { host } => self.evicted.push(host),
                Effect::Reply { id, result } => {
                    let outcome = self.outcome(result);
                    assert!(self.done.insert(id, outcome).is_none(), "{id:?} is answered once");
                }
                Effect::ToNode(request) => self.to_node.push_back(request),
                Effect::ToController(message) => self.to_controller.push_back(message),
            }
        }
    }

    fn outcome(&mut self, result: IoResult) -> Outcome {
        match result {
            IoResult::Done => Outcome::Done,
            IoResult::Failed(error) => Outcome::Failed(error),
            IoResult::Status(extents) => Outcome::Status(extents.iter().map(|e| (e.length, e.zero)).collect()),
            IoResult::Changed(extents) => {
                Outcome::Changed(extents.iter().map(|e| (e.length, e.changed, e.zero)).collect())
            }
            IoResult::Read(segments) => {
                let mut data = Vec::new();
                for segment in segments {
                    match segment {
                        ReadSegment::Hole { length } => data.resize(data.len() + length as usize, 0),
                        ReadSegment::Data { buffer, start, length } => {
                            data.extend_from_slice(&buffer.bytes()[start as usize..(start + length) as usize]);
                            self.buffers.put(buffer);
                        }
                    }
                }
                Outcome::Data(data)
            }
        }
    }

    /// Lets everything under way come to its end, node replies and controller answers in any order between them.
    pub fn settle(&mut self) {
        for _ in 0..1_000_000 {
            if !self.advance() {
                return;
            }
        }
        panic!("FAULT_ALWAYS_ENDS: something goes round in circles");
    }

    /// The controller does all it is asked, and the node nothing.
    pub fn settle_controller(&mut self) {
        while let Some(message) = self.to_controller.pop_front() {
            self.control(message);
        }
    }

    /// One random thing happens; `false` when nothing is left.
    pub fn advance(&mut self) -> bool {
        let slow = |request: &NodeRequest| self.slow_flushes && matches!(request.operation, DiskOperation::Flush);
        let ready: Vec<usize> = (0..self.to_node.len()).filter(|index| !slow(&self.to_node[*index])).collect();
        let (nodes, messages) = (ready.len(), self.to_controller.len());
        if nodes == 0 && messages == 0 {
            if self.agent.next_deadline(self.now) == Some(self.now) {
                self.step(Event::Tick);
                return true;
            }
            return false;
        }
        if messages == 0 || (nodes > 0 && self.random(2) == 0) {
            let index = ready[self.random(nodes)];
            let request = self.to_node.remove(index).expect("in range");
            self.serve(request);
        } else {
            let message = self.to_controller.pop_front().expect("not empty");
            self.control(message);
        }
        true
    }

    pub fn pass(&mut self, nanos: u64) {
        self.now = Time(self.now.0 + nanos);
        self.step(Event::Tick);
        self.settle();
    }

    fn serve(&mut self, request: NodeRequest) {
        assert_eq!(request.credentials.epoch, self.epoch);
        let (mut result, mut returned) = (Ok(()), None);
        match request.operation {
            DiskOperation::Read { offset, length, mut buffer } => {
                self.reads += 1;
                if self.fail_reads > 0 {
                    self.fail_reads -= 1;
                    result = Err(IoError::Device);
                }
                let range = offset as usize..offset as usize + length as usize;
                buffer.bytes_mut()[..length as usize].copy_from_slice(&self.media[range]);
                returned = Some(buffer);
            }
            DiskOperation::Write { offset, start, length, buffer } => {
                self.writes += 1;
                if self.fail_writes > 0 {
                    self.fail_writes -= 1;
                    result = Err(IoError::Device);
                }
                let data = &buffer.bytes()[start as usize..(start + length) as usize];
                for unit in offset / UNIT_BYTES..(offset + u64::from(length)).div_ceil(UNIT_BYTES) {
                    assert_ne!(self.units[unit as usize], Owner::Free, "a write to unit {unit}, which is free");
                }
                let range = offset as usize..offset as usize + length as usize;
                self.unflushed.push((offset as usize, self.media[range.clone()].to_vec()));
                self.media[range].copy_from_slice(data);
            }
            DiskOperation::Flush => {
                self.flushes += 1;
                if self.fail_flushes > 0 {
                    self.fail_flushes -= 1;
                    result = Err(IoError::Device);
                } else {
                    self.unflushed.clear();
                }
            }
            DiskOperation::Discard { .. } => {}
        }
        self.step(Event::FromNode(NodeReply { id: request.id, result, buffer: returned }));
    }

    fn control(&mut self, message: AgentMessage) {
        let answer = match message {
            AgentMessage::Attach { request, .. } => ControllerMessage::Attached {
                request,
                result: Ok::<_, AttachError>(Attachment {
                    volume: VolumeId(1),
                    branch: BranchId(1),
                    credentials: Credentials { cluster: ClusterId(1), term: Term(1), epoch: self.epoch },
                    size_bytes: self.size_bytes,
                    region_size: self.region_size,
                    generation: self.generation,
                    frozen_through: self.frozen_through,
                    read_only: false,
                    layouts: vec![Arc::clone(&self.layout)],
                    written: vec![self.layout.id],
                }),
            },
            AgentMessage::Detach { epoch } => {
                self.detached = true;
                ControllerMessage::Detached { epoch }
            }
            AgentMessage::FetchPage { request, epoch, page } => {
                let runs = self.pages.get(&page).map(|page| page.runs().collect()).unwrap_or_default();
                let next = self.pages.range(PageIndex(page.0 + 1)..).next();
                let absent_until = next.map_or(PageIndex(u32::MAX), |(page, _)| *page);
                ControllerMessage::Page { request, epoch, page, runs, absent_until }
            }
            AgentMessage::FetchSnapshotPage { request, epoch, snapshot, page } => {
                let found = self.snapshots.iter().find(|found| found.id == snapshot).map(|found| SnapshotPage {
                    generation: found.generation,
                    is_ancestor: true,
                    size_bytes: found.size_bytes,
                    runs: found.pages.get(&page).map(|page| page.runs().collect()).unwrap_or_default(),
                });
                ControllerMessage::SnapshotPage { request, epoch, page, found }
            }
            AgentMessage::RequestGrant { request, epoch, regions, .. } => {
                ControllerMessage::Granted { request, epoch, result: self.grant(regions) }
            }
            AgentMessage::ReturnGrant { runs, .. } => {
                runs.iter().for_each(|run| self.change(*run, Owner::Granted, Owner::Free));
                return;
            }
            AgentMessage::Commit { request, epoch, commit } => {
                let result = self.commit(&commit);
                if result.is_ok() {
                    self.taken.insert(request);
                }
                ControllerMessage::Committed { request, epoch, result }
            }
            AgentMessage::OrderDone { command, outcome, .. } => {
                let outcome = match outcome {
                    OrderOutcome::Committing { request } => {
                        self.frozen_early += 1;
                        if self.taken.contains(&request) { OrderOutcome::Done } else { OrderOutcome::Failed }
                    }
                    other => other,
                };
                self.orders_done.push((command, outcome));
                return;
            }
        };
        self.step(Event::FromController(answer));
    }

    fn change(&mut self, run: UnitRun, from: Owner, to: Owner) {
        for unit in run.start.0..run.end() {
            assert_eq!(self.units[unit as usize], from, "NO_REGION_OWNED_TWICE: unit {unit}");
            self.units[unit as usize] = to;
        }
    }

    fn grant(&mut self, regions: u32) -> Result<Vec<UnitRun>, GrantError> {
        let per_region = self.region_size.units();
        let mut left = (regions * per_region).min(self.grant_units_max) / per_region;
        let mut runs = Vec::new();
        let mut unit = 0;
        while left > 0 && unit + per_region <= self.units.len() as u32 {
            let run = UnitRun { logical_disk: LogicalDiskId(1), start: UnitIndex(unit), count: per_region };
            if self.units[unit as usize..run.end() as usize].iter().all(|owner| *owner == Owner::Free) {
                self.change(run, Owner::Free, Owner::Granted);
                runs.push(run);
                left -= 1;
            }
            unit += per_region;
        }
        if runs.is_empty() { Err(GrantError::PoolFull) } else { Ok(runs) }
    }

    fn commit(&mut self, commit: &wire::MapCommit) -> Result<(), CommitError> {
        if self.fenced {
            return Err(CommitError::Fenced);
        }
        if self.fail_commits > 0 {
            self.fail_commits -= 1;
            return Err(CommitError::Unavailable);
        }
        self.commits += 1;
        commit.takes.iter().for_each(|run| self.change(*run, Owner::Granted, Owner::Mapped));
        for delta in &commit.pages {
            let page = self.pages.entry(delta.page).or_insert_with(|| TablePage::new(self.region_size));
            delta.runs.iter().for_each(|run| page.set_run(run));
        }
        for (_, place, born) in commit.pages.iter().flat_map(|delta| places(&delta.runs, self.region_size)) {
            for unit in place.start.0..place.end() {
                let known = *self.born.entry(unit).or_insert(born);
                assert_eq!(known, born, "unit {unit} keeps the generation it was allocated in");
            }
        }
        for drop in &commit.drops {
            for unit in drop.run.start.0..drop.run.end() {
                assert_ne!(self.units[unit as usize], Owner::Free, "unit {unit} is freed twice");
                if let Some(born) = self.born.get(&unit) {
                    assert_eq!(*born, drop.born, "unit {unit} is dropped with its birth");
                }
                if drop.born > self.frozen_through {
                    self.units[unit as usize] = Owner::Free;
                    self.born.remove(&unit);
                }
            }
        }
        self.audit();
        Ok(())
    }

    /// Every mapped unit is named by exactly one entry of the live table, or by snapshots.
    pub fn audit(&self) {
        let mut named = BTreeSet::new();
        for (_, units, _) in self.pages.values().flat_map(|page| places_of(page, self.region_size)) {
            for unit in units.start.0..units.end() {
                assert!(named.insert(unit), "NO_REGION_OWNED_TWICE: unit {unit} is mapped twice");
            }
        }
        for (_, units, _) in self
            .snapshots
            .iter()
            .flat_map(|snapshot| snapshot.pages.values())
            .flat_map(|page| places_of(page, self.region_size))
        {
            named.extend(units.start.0..units.end());
        }
        for unit in &named {
            assert_eq!(self.units[*unit as usize], Owner::Mapped, "unit {unit}");
        }
        let mapped = self.units.iter().filter(|owner| **owner == Owner::Mapped).count();
        assert_eq!(mapped, named.len(), "a unit leaked");
    }

    /// An order of its own; the outcome must have come when everything under way has ended.
    pub fn obeyed(&mut self, order: Order) -> OrderOutcome {
        let command = self.next_command;
        self.next_command += 1;
        self.order(command, order);
        self.settle();
        let done = self.orders_done.iter().find(|(done, _)| *done == CommandId(command));
        done.expect("FAULT_ALWAYS_ENDS: an order was never done").1
    }

    /// Writes are held and none is under way.
    pub fn freeze(&mut self) -> OrderOutcome {
        self.obeyed(Order::Freeze { begin: None })
    }

    /// The next generation begins; everything of the last one is durable, if that is done.
    pub fn begin(&mut self) -> OrderOutcome {
        self.obeyed(Order::Begin { generation: self.generation.next() })
    }

    /// What is durable of a volume in its next generation becomes a snapshot.
    pub fn record_snapshot(&mut self) {
        self.snapshots.push(Snapshot {
            id: VolumeId(100 + self.generation.0),
            generation: self.generation,
            size_bytes: self.size_bytes,
            pages: self.pages.clone(),
        });
        self.frozen_through = self.generation;
        self.generation = self.generation.next();
    }

    pub fn thaw(&mut self) -> OrderOutcome {
        self.obeyed(Order::Thaw { generation: self.generation, frozen_through: self.frozen_through })
    }

    /// There is no snapshot of the generation that was left.
    pub fn give_snapshot_up(&mut self) {
        self.generation = self.generation.next();
    }

    /// Freezes, begins the next generation, records and thaws.
    pub fn snapshot(&mut self) {
        assert_eq!(self.freeze(), OrderOutcome::Done);
        assert_eq!(self.begin(), OrderOutcome::Done);
        self.record_snapshot();
        assert_eq!(self.thaw(), OrderOutcome::Done);
    }

    /// Deletes the newest snapshot: what nobody else sees is free.
    pub fn delete_newest_snapshot(&mut self) {
        self.snapshots.pop();
        self.frozen_through = self.snapshots.last().map_or(Generation(0), |snapshot| snapshot.generation);
        let pages = self.pages.values().chain(self.snapshots.iter().flat_map(|snapshot| snapshot.pages.values()));
        let held: BTreeSet<u32> = pages
            .flat_map(|page| places_of(page, self.region_size))
            .flat_map(|(_, run, _)| run.start.0..run.end())
            .collect();
        for (unit, owner) in self.units.iter_mut().enumerate() {
            if *owner == Owner::Mapped && !held.contains(&(unit as u32)) {
                *owner = Owner::Free;
                self.born.remove(&(unit as u32));
            }
        }
        assert_eq!(self.obeyed(Order::SetFrozen { frozen_through: self.frozen_through }), OrderOutcome::Done);
    }

    /// The bytes a snapshot sees.
    pub fn read_snapshot(&self, snapshot: usize) -> Vec<u8> {
        let snapshot = &self.snapshots[snapshot];
        let mut data = vec![0; snapshot.size_bytes as usize];
        let size = self.region_size;
        for (page, table) in &snapshot.pages {
            for (slot, _, _) in places_of(table, size) {
                let base = (page.region(slot).0 << size.log2()) as usize;
                for step in mapping::resolve_read(table.entry(slot), size, BlockRange::new(0, size.blocks())) {
                    let Place::Region(place) = step.place else { continue };
                    for block in step.blocks.start..step.blocks.end {
                        let within = block as usize * BLOCK_BYTES as usize;
                        let from = place.unit.byte_offset() as usize + within;
                        let to = base + within;
                        if to >= data.len() {
                            break;
                        }
                        let length = (data.len() - to).min(BLOCK_BYTES as usize);
                        data[to..to + length].copy_from_slice(&self.media[from..from + length]);
                    }
                }
            }
        }
        data
    }

    pub fn mapped_units(&self) -> usize {
        self.units.iter().filter(|owner| **owner == Owner::Mapped).count()
    }

    pub fn submit(&mut self, kind: IoKind) -> IoId {
        let id = IoId(self.next_io);
        self.next_io += 1;
        let volume = self.slot.expect("attached").slot;
        self.step(Event::Io(IoRequest { id, volume, kind }));
        id
    }

    pub fn run(&mut self, kind: IoKind) -> Outcome {
        let id = self.submit(kind);
        self.settle();
        self.done.remove(&id).expect("FAULT_ALWAYS_ENDS: an I/O was never answered")
    }

    /// What changed in the first MiB since snapshot number `index`.
    pub fn changed_since(&mut self, index: usize) -> Vec<(u64, bool, bool)> {
        let since = self.snapshots[index].id;
        match self.run(IoKind::Changed { offset: 0, length: 1 << 20, since, extents_max: 100 }) {
            Outcome::Changed(extents) => extents,
            other => panic!("{other:?}"),
        }
    }

    pub fn write(&mut self, offset: u64, data: &[u8]) -> Outcome {
        self.run(write(offset, data, false))
    }

    pub fn read(&mut self, offset: u64, length: u32) -> Vec<u8> {
        match self.run(IoKind::Read { offset, length }) {
            Outcome::Data(data) => data,
            other => panic!("a read came to {other:?}"),
        }
    }

    pub fn trim(&mut self, offset: u64, length: u64) -> Outcome {
        self.run(IoKind::Zero { offset, length, fua: false, keep_space: false })
    }

    pub fn order(&mut self, command: u64, order: Order) {
        let message = ControllerMessage::Order { command: CommandId(command), epoch: self.epoch, order };
        self.step(Event::FromController(message));
    }
}

pub fn write(offset: u64, data: &[u8], fua: bool) -> IoKind {
    let mut buffer = IoBuffer::zeroed(data.len());
    buffer.bytes_mut().fill(FOREIGN);
    buffer.bytes_mut()[..data.len()].copy_from_slice(data);
    IoKind::Write { offset, length: data.len() as u32, data: buffer, fua }
}

/// The slot, units and birth of every layer with storage.
fn places_of(page: &TablePage, size: RegionSize) -> Vec<(u16, UnitRun, Generation)> {
    places(&page.runs().collect::<Vec<_>>(), size)
}

fn places(runs: &[EntryRun], size: RegionSize) -> Vec<(u16, UnitRun, Generation)> {
    let mut found = Vec::new();
    for run in runs {
        let MapEntry::Layers(layers) = &run.entry else { continue };
        for index in 0..run.count {
            for layer in layers {
                if let Place::Region(place) = layer.place {
                    let units = place.offset_by(u32::from(index), size).units(size);
                    found.push((run.first + index, units, layer.born));
                }
            }
        }
    }
    found
}
