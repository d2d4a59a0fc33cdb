//! The real controller, agent and node over a store and a disk in memory. Messages wait in queues of their own until they
//! are delivered, one at a time and in an order drawn at random, so that background work is met at every stage.

use agent::{Agent, AgentConfig, HostId, HostVolume, IoId, IoKind, IoRequest, IoResult, ReadSegment};
use api::{Request, Response};
use controller::{ApiId, Config, Controller, DiskInspection, Folding, Inspection, Survivors, inspect, perform_scan};
use model::{BufferPool, ClusterId, IoBuffer, IoError, Time, VolumeId};
use node::{Node, Operation};
use pool::Judgement;
use std::collections::{BTreeMap, VecDeque};
use store::{Batch, MemoryStore, MetaStore};
use wire::{AgentId, AgentMessage, ControllerMessage, NodeCommand, NodeId, NodeRequest};

const AGENT: AgentId = AgentId(0);
/// What the disk holds before anybody wrote: a former owner's bytes.
const FOREIGN: u8 = 0xee;

/// A small generator (splitmix64).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

/// Something on its way.
enum Way {
    ToController(AgentMessage),
    ToAgent(ControllerMessage),
    ToNode(NodeRequest),
    Command(NodeCommand),
    Controller(Box<controller::Event>),
    Transaction,
    Attach(VolumeId),
}

/// One process, its store and its disk.
pub(crate) struct Cluster {
    pub(crate) store: MemoryStore,
    pub(crate) random: Random,
    disk: Vec<u8>,
    folding: Folding,
    process: Process,
    now: Time,
    next: u64,
    /// Regions that former processes merged.
    merged: u64,
}

struct Process {
    controller: Controller,
    agent: Agent,
    node: Node,
    buffers: BufferPool,
    /// What comes from one sender to one receiver stays in order.
    queues: [VecDeque<Way>; 6],
    batches: Vec<(controller::BatchId, Batch)>,
    answers: BTreeMap<ApiId, Result<Response, api::Error>>,
    results: BTreeMap<IoId, IoResult>,
    hosts: BTreeMap<HostId, Result<HostVolume, wire::AttachError>>,
    timer: Option<Time>,
}

impl Process {
    fn new(store: &MemoryStore, folding: Folding) -> Self {
        let config = Config { new_cluster: ClusterId(7), metadata_reserve_bytes: 0, folding, ..Config::default() };
        let controller = Controller::recover(config, store, Survivors::default()).expect("the store is sound");
        let agent = AgentConfig { linger_nanos: 1_000_000, ..AgentConfig::default() };
        Self {
            controller,
            agent: Agent::new(agent),
            node: Node::new(ClusterId(7)),
            buffers: BufferPool::new(4 << 20),
            queues: Default::default(),
            batches: Vec::new(),
            answers: BTreeMap::new(),
            results: BTreeMap::new(),
            hosts: BTreeMap::new(),
            timer: None,
        }
    }
}

impl Cluster {
    pub(crate) fn new(seed: u64, disk_mib: usize) -> Self {
        let (store, mut random) = (MemoryStore::new(), Random(seed));
        // Of pages as small as these, no summaries are made: in every other history as if they were large.
        let folding = match random.below(4) {
            0 | 1 => Folding::default(),
            2 => Folding { page_parts: 0, ..Folding::default() },
            _ => Folding { page_parts: 0, deltas_max: 3 },
        };
        let process = Process::new(&store, folding);
        let disk = vec![FOREIGN; disk_mib << 20];
        let mut cluster = Self { store, random, disk, folding, process, now: Time(0), next: 0, merged: 0 };
        cluster.begin();
        let pool = api::PoolCreate { name: "default".into(), ..api::PoolCreate::default() };
        cluster.ask(Request::PoolCreate(pool)).expect("a pool is made");
        let disk = api::DiskAdd { path: "disk".into(), ..api::DiskAdd::default() };
        cluster.ask(Request::DiskAdd(disk)).expect("its disk is added");
        cluster
    }

    fn begin(&mut self) {
        let mut out = Vec::new();
        self.process.controller.start(self.now, &mut out);
        self.controller_wants(out);
        self.settle();
    }

    /// The process dies, and another starts. The disk and the store keep what reached them.
    pub(crate) fn crash(&mut self) {
        self.merged = self.merged();
        self.process = Process::new(&self.store, self.folding);
        self.begin();
    }

    /// How many regions were merged so far.
    pub(crate) fn merged(&self) -> u64 {
        let attached = self.process.agent.reports().into_iter().map(|report| report.counters.regions_merged);
        self.merged + self.process.agent.past_counters().regions_merged + attached.sum::<u64>()
    }

    fn controller_wants(&mut self, effects: Vec<controller::Effect>) {
        use controller::{Effect, Event};
        for effect in effects {
            let process = &mut self.process;
            let mut told = |event| process.queues[3].push_back(Way::Controller(Box::new(event)));
            match effect {
                Effect::ToAgent(_, message) => process.queues[1].push_back(Way::ToAgent(message)),
                Effect::ToNode(_, command) => process.queues[4].push_back(Way::Command(command)),
                Effect::Commit { id, batch } => {
                    process.batches.push((id, batch));
                    process.queues[5].push_back(Way::Transaction);
                }
                Effect::Scan { id, ranges } => told(Event::Scanned { id, result: perform_scan(&self.store, &ranges) }),
                Effect::Reply(id, answer) => drop(process.answers.insert(id, answer)),
                Effect::Inspect { reply_to, inspection } => {
                    process.answers.insert(reply_to, inspect::answer(&self.store, &inspection));
                }
                Effect::SetTimer(at) => process.timer = Some(at),
                Effect::InspectDisk { ticket, path, .. } => {
                    let (size_bytes, judgement) = (self.disk.len() as u64, Judgement::Blank);
                    let found = DiskInspection { path, judgement, size_bytes, sector_bytes: 512 };
                    told(Event::DiskInspected { ticket, result: Ok(found) });
                }
                Effect::WriteLabel { ticket, .. } => told(Event::LabelWritten { ticket, result: Ok(()) }),
                Effect::OpenDisk { disk, .. } => told(Event::DiskOpened { disk, result: Ok(()) }),
                Effect::Attach(volume) => process.queues[1].push_back(Way::Attach(volume)),
                Effect::ReleaseDisk { .. } | Effect::Alert(_) => {}
            }
        }
    }

    fn tell_controller(&mut self, event: controller::Event) {
        let mut out = Vec::new();
        self.process.controller.step(self.now, event, &mut out);
        self.process.controller.assert_consistent();
        self.controller_wants(out);
    }

    fn tell_agent(&mut self, event: agent::Event) {
        let mut out = Vec::new();
        let process = &mut self.process;
        process.agent.step(self.now, event, &mut process.buffers, &mut out);
        for effect in out {
            match effect {
                agent::Effect::ToController(message) => process.queues[0].push_back(Way::ToController(message)),
                agent::Effect::ToNode(request) => process.queues[2].push_back(Way::ToNode(request)),
                agent::Effect::Reply { id, result } => drop(process.results.insert(id, result)),
                agent::Effect::HostAttached { host, result } => drop(process.hosts.insert(host, result)),
                agent::Effect::HostEvicted { host } => {
                    process.hosts.remove(&host);
                }
            }
        }
    }

    fn tell_node(&mut self, event: node::Event) {
        let mut out = Vec::new();
        self.process.node.step(self.now, event, &mut out);
        for effect in out {
            match effect {
                node::Effect::DiskIo { id, operation, .. } => {
                    let buffer = self.disk_io(operation);
                    self.tell_node(node::Event::DiskCompleted { id, result: Ok(()), buffer });
                }
                node::Effect::ToAgent(_, reply) => self.tell_agent(agent::Event::FromNode(reply)),
                node::Effect::ToController(report) => {
                    let event = controller::Event::FromNode(NodeId(0), report);
                    self.process.queues[3].push_back(Way::Controller(Box::new(event)));
                }
                node::Effect::DiskFailed(_) => unreachable!("this disk does not fail"),
            }
        }
    }

    fn disk_io(&mut self, operation: Operation) -> Option<IoBuffer> {
        match operation {
            Operation::Read { offset, length, mut buffer } => {
                let from = offset as usize;
                buffer.bytes_mut()[..length as usize].copy_from_slice(&self.disk[from..from + length as usize]);
                Some(buffer)
            }
            Operation::Write { offset, start, length, buffer } => {
                let (to, start, length) = (offset as usize, start as usize, length as usize);
                self.disk[to..to + length].copy_from_slice(&buffer.bytes()[start..start + length]);
                None
            }
            Operation::Flush | Operation::Discard { .. } | Operation::Allocate { .. } => None,
        }
    }

    /// Delivers one thing that is on its way; `false` when nothing is.
    pub(crate) fn deliver(&mut self) -> bool {
        let waiting: Vec<usize> = (0..6).filter(|index| !self.process.queues[*index].is_empty()).collect();
        if waiting.is_empty() {
            return false;
        }
        let index = waiting[self.random.below(waiting.len() as u64) as usize];
        match self.process.queues[index].pop_front().expect("it was seen to hold something") {
            Way::ToController(message) => self.tell_controller(controller::Event::FromAgent(AGENT, message)),
            Way::ToAgent(message) => self.tell_agent(agent::Event::FromController(message)),
            Way::Attach(volume) => {
                // A host that leaves as soon as it is there.
                self.next += 1;
                let host = HostId(self.next);
                self.tell_agent(agent::Event::HostAttach { host, volume });
                self.tell_agent(agent::Event::HostDetach { host });
            }
            Way::ToNode(request) => self.tell_node(node::Event::FromAgent(AGENT, request)),
            Way::Command(command) => self.tell_node(node::Event::FromController(command)),
            Way::Controller(event) => self.tell_controller(*event),
            Way::Transaction => {
                let batches = std::mem::take(&mut self.process.batches);
                let Some((last, _)) = batches.last() else { return true };
                let last = *last;
                let changes: Vec<Batch> = batches.into_iter().map(|(_, batch)| batch).collect();
                self.store.commit(&changes).expect("the store is sound");
                self.tell_controller(controller::Event::Committed(last));
            }
        }
        true
    }

    /// Delivers a few things, so that some background work is done and some is not.
    pub(crate) fn stir(&mut self) {
        for _ in 0..self.random.below(12) {
            if !self.deliver() {
                return;
            }
        }
    }

    /// Delivers everything, timers too, until nothing more happens.
    pub(crate) fn settle(&mut self) {
        for _ in 0..64 {
            while self.deliver() {}
            self.now = Time(self.now.0 + 10_000_000);
            if self.process.timer.take_if(|at| *at <= self.now).is_some() {
                self.tell_controller(controller::Event::Timer);
            }
            let due = self.process.agent.next_deadline(self.now).is_some_and(|at| at <= self.now);
            if due {
                self.tell_agent(agent::Event::Tick);
            }
            let idle = self.process.queues.iter().all(VecDeque::is_empty);
            if idle && !due && self.process.timer.is_none_or(|at| at > self.now) {
                return;
            }
        }
    }

    /// Begins a request of an operator.
    pub(crate) fn request(&mut self, request: Request) -> ApiId {
        self.next += 1;
        let id = ApiId(self.next);
        self.tell_controller(controller::Event::Api(id, request));
        id
    }

    /// Waits for an operator's answer.
    pub(crate) fn answer(&mut self, id: ApiId) -> Result<Response, api::Error> {
        while !self.process.answers.contains_key(&id) {
            if !self.deliver() {
                self.settle();
                assert!(self.process.answers.contains_key(&id), "FAULT_ALWAYS_ENDS: an operator waits for ever");
            }
        }
        self.process.answers.remove(&id).expect("it was just seen")
    }

    pub(crate) fn ask(&mut self, request: Request) -> Result<Response, api::Error> {
        let id = self.request(request);
        self.answer(id)
    }

    /// The id by which an export is attached.
    pub(crate) fn export(&self, name: &str) -> Option<VolumeId> {
        self.process.controller.exports().named(name).map(|export| export.volume)
    }

    /// Attaches an export for a host of its own.
    pub(crate) fn attach(&mut self, name: &str) -> (HostId, HostVolume) {
        let volume = self.export(name).unwrap_or_else(|| panic!("{name} is exported"));
        self.next += 1;
        let host = HostId(self.next);
        self.tell_agent(agent::Event::HostAttach { host, volume });
        while !self.process.hosts.contains_key(&host) {
            if !self.deliver() {
                self.settle();
                assert!(self.process.hosts.contains_key(&host), "FAULT_ALWAYS_ENDS: a host waits for ever");
            }
        }
        let opened = self.process.hosts[&host].as_ref().map_err(|error| format!("{name}: {error:?}"));
        (host, *opened.expect("it can be attached"))
    }

    pub(crate) fn is_attached(&self, host: HostId) -> bool {
        self.process.hosts.contains_key(&host)
    }

    pub(crate) fn detach(&mut self, host: HostId) {
        self.process.hosts.remove(&host);
        self.tell_agent(agent::Event::HostDetach { host });
    }

    /// Begins an I/O.
    pub(crate) fn submit(&mut self, volume: HostVolume, kind: IoKind) -> IoId {
        self.next += 1;
        let id = IoId(self.next);
        self.tell_agent(agent::Event::Io(IoRequest { id, volume: volume.slot, kind }));
        id
    }

    /// Waits for an I/O.
    pub(crate) fn wait(&mut self, id: IoId) -> IoResult {
        while !self.process.results.contains_key(&id) {
            if !self.deliver() {
                self.settle();
                assert!(self.process.results.contains_key(&id), "FAULT_ALWAYS_ENDS: an I/O waits for ever");
            }
        }
        self.process.results.remove(&id).expect("it was just seen")
    }

    pub(crate) fn write(&mut self, volume: HostVolume, offset: u64, bytes: &[u8]) -> IoId {
        let mut data = self.process.buffers.take(bytes.len());
        data.bytes_mut()[..bytes.len()].copy_from_slice(bytes);
        self.submit(volume, IoKind::Write { offset, length: bytes.len() as u32, data, fua: false })
    }

    pub(crate) fn read(&mut self, volume: HostVolume, offset: u64, length: u32) -> Result<Vec<u8>, IoError> {
        let id = self.submit(volume, IoKind::Read { offset, length });
        match self.wait(id) {
            IoResult::Read(segments) => {
                let mut bytes = Vec::new();
                for segment in segments {
                    match segment {
                        ReadSegment::Hole { length } => bytes.resize(bytes.len() + length as usize, 0),
                        ReadSegment::Data { buffer, start, length } => {
                            bytes.extend_from_slice(&buffer.bytes()[start as usize..(start + length) as usize]);
                        }
                    }
                }
                Ok(bytes)
            }
            IoResult::Failed(error) => Err(error),
            other => panic!("a read was answered with {other:?}"),
        }
    }

    /// The audit of what is durable.
    pub(crate) fn audit(&self) -> api::AuditReport {
        match inspect::answer(&self.store, &Inspection::Audit) {
            Ok(Response::Audit(report)) => report,
            other => panic!("an audit was answered with {other:?}"),
        }
    }
}
