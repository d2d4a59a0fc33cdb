//! A data thread: a reactor, the NBD connections of its volumes, an agent and a shard of the node.
//!
//! One round: wait; take completions, messages and timers in; let every connection that was touched go on; carry out what
//! the engines want done; send what there is to send. Nothing here is locked, and nothing here decides.

use crate::engine::catalog::Catalog;
use crate::engine::control::ControlMessage;
use crate::engine::host::{Export, Host, Receiving, SendBatch, of_io};
use crate::engine::hosts::Hosts;
use crate::engine::mailbox::{Mailbox, drain};
use crate::engine::settings::DataSettings;
use crate::engine::status;
use agent::{Agent, HostId, IoResult};
use model::{BufferPool, DiskId, IoBuffer, IoError, Time, VolumeId};
use nbd::ErrorCode;
use node::{DiskIoId, Node};
use reactor::{Completion, File, Listener, Operation, Payload, Reactor, Socket};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::mpsc::{Receiver, Sender};
use std::sync::{Arc, Once};
use std::time::{Duration, Instant};
use wire::{AgentId, AgentMessage, ControllerMessage, NodeCommand, NodeId};

/// The slabs that one thread's buffers are cut from: 64 MiB at most.
const SLABS_MAX: u16 = 32;
/// Unused buffers beside them kept by one thread, in bytes.
const BUFFERS_HELD_BYTES: usize = 32 << 20;
/// How long hosts are given to hear their last replies.
const GOODBYE: Duration = Duration::from_secs(5);
/// How long the agent is given to commit and detach.
const DRAIN: Duration = Duration::from_secs(20);

const ACCEPT: u64 = 1 << 56;
const RECEIVE: u64 = 2 << 56;
const SEND: u64 = 3 << 56;
const DISK: u64 = 1 << 63;
const KIND: u64 = 0x7f << 56;

/// What a data thread is told by others.
pub(crate) enum DataMessage {
    /// From the controller to this thread's agent.
    ToAgent(ControllerMessage),
    /// From the controller to this thread's shard of the node.
    ToNode(NodeCommand),
    /// A disk that the node is about to be told of.
    Disk(DiskId, File),
    /// A disk that belongs to no pool any more.
    DiskReleased(DiskId),
    /// Another shard saw a disk fail.
    DiskFailed(DiskId),
    /// A connection whose volume belongs to this thread.
    Host(Box<Host>),
    /// Serve hosts, here and on connections that are there already.
    Listen(Vec<Listener>, Vec<Socket>),
    /// Attach a volume for work on it: a host that leaves as soon as it is there.
    Attach(VolumeId),
    /// Exports have changed.
    CatalogChanged,
    /// What the thread has counted is wanted.
    Report(Sender<ThreadReport>),
    /// Take leave of hosts, commit, detach, end.
    Shutdown,
}

/// What a data thread has counted.
#[derive(Debug)]
pub(crate) struct ThreadReport {
    pub(crate) volumes: Vec<agent::VolumeReport>,
    pub(crate) past: agent::Counters,
    pub(crate) disks: Vec<(DiskId, node::DiskCounters, bool)>,
    pub(crate) connections: u64,
}

/// A data thread's state.
pub(crate) struct DataThread {
    pub(crate) index: usize,
    pub(crate) settings: Arc<DataSettings>,
    pub(crate) catalog: Catalog,
    pub(crate) threads: Vec<Mailbox<DataMessage>>,
    pub(crate) controller: Sender<ControlMessage>,
    pub(crate) reactor: Reactor,
    pub(crate) agent: Agent,
    pub(crate) node: Node,
    pub(crate) buffers: BufferPool,
    pub(crate) hosts: Hosts,
    pub(crate) listeners: Vec<Listener>,
    pub(crate) now: Time,
    pub(crate) agent_effects: Vec<agent::Effect>,
    node_effects: Vec<node::Effect>,
    files: BTreeMap<DiskId, File>,
    pub(crate) handshakes: BTreeSet<(Time, u32)>,
    pub(crate) leaving: Option<Leaving>,
    started: Instant,
}

/// How far the thread is on its way out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Leaving {
    /// Hosts get their last replies.
    Goodbye { until: Time },
    /// The agent commits and detaches.
    Draining { until: Time },
}

impl DataThread {
    pub(crate) fn new(
        index: usize,
        settings: Arc<DataSettings>,
        catalog: Catalog,
        controller: Sender<ControlMessage>,
        reactor: Reactor,
        started: Instant,
    ) -> Self {
        Self {
            index,
            catalog,
            threads: Vec::new(),
            controller,
            reactor,
            agent: Agent::new(settings.agent),
            node: Node::new(settings.cluster),
            buffers: BufferPool::with_slabs(BUFFERS_HELD_BYTES, SLABS_MAX),
            hosts: Hosts::default(),
            listeners: Vec::new(),
            now: Time::default(),
            agent_effects: Vec::new(),
            node_effects: Vec::new(),
            files: BTreeMap::new(),
            handshakes: BTreeSet::new(),
            leaving: None,
            started,
            settings,
        }
    }

    /// Serves until told to shut down.
    ///
    /// # Errors
    /// When the kernel refuses the reactor itself.
    pub(crate) fn run(&mut self, messages: &Receiver<DataMessage>) -> io::Result<()> {
        let mut completions = Vec::new();
        while !self.is_done() {
            let timeout = match self.next_deadline() {
                _ if self.hosts.turns.is_behind() => Some(Duration::ZERO),
                at => at.map(|at| at.since(self.clock())),
            };
            self.reactor.wait(timeout, &mut completions)?;
            self.now = self.clock();
            for completion in completions.drain(..) {
                self.complete(completion);
            }
            for message in drain(messages) {
                self.take(message);
            }
            self.timers();
            self.settle();
            self.register_slabs();
        }
        Ok(())
    }

    /// Makes what was begun of the buffers' memory known to the kernel.
    fn register_slabs(&mut self) {
        while let Some(slab) = self.buffers.next_slab() {
            if let Err(error) = self.reactor.register(slab) {
                static ANNOUNCED: Once = Once::new();
                ANNOUNCED.call_once(|| {
                    tracing::info!("buffers cannot be registered with the kernel ({error}): I/O costs a little more");
                });
            }
        }
    }

    fn clock(&self) -> Time {
        Time(u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    fn accept_everywhere(&mut self) {
        for index in 0..self.listeners.len() {
            self.accept(index);
        }
    }

    pub(crate) fn accept(&mut self, index: usize) {
        if self.leaving.is_none() {
            let listener = self.listeners[index].clone();
            self.reactor.submit(ACCEPT | index as u64, Operation::Accept { listener });
        }
    }

    fn complete(&mut self, completion: Completion) {
        let token = completion.token;
        if token & DISK != 0 {
            return self.disk_done(DiskIoId::from_u64(token & !DISK), completion);
        }
        let index = (token & !KIND) as u32;
        match token & KIND {
            ACCEPT => self.accepted(index as usize, completion),
            RECEIVE => self.received(index, completion),
            SEND => self.sent(index, completion),
            _ => unreachable!("tokens are made here"),
        }
    }

    fn disk_done(&mut self, id: DiskIoId, completion: Completion) {
        let result = match &completion.result {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::StorageFull => Err(IoError::OutOfSpace),
            // Advisory: the range simply keeps its space.
            Err(error) if error.kind() == io::ErrorKind::Unsupported => Ok(()),
            Err(error) => {
                tracing::error!("a disk operation failed: {error}");
                Err(IoError::Device)
            }
        };
        // The write's own share of the data goes first, so that its last owner gets the memory back.
        let buffer = completion.payload.into_buffer();
        self.node.step(self.now, node::Event::DiskCompleted { id, result, buffer }, &mut self.node_effects);
        self.pump();
    }

    fn received(&mut self, index: u32, completion: Completion) {
        let Some(host) = self.hosts.get_mut(index) else { return };
        let Payload::Buffer(buffer) = completion.payload else { return };
        let receiving = std::mem::replace(&mut host.receiving, Receiving::No);
        let bytes = completion.result.unwrap_or(0) as usize;
        match receiving {
            Receiving::Plain(mut target) => {
                target.buffer = buffer;
                host.connection.received(target, bytes);
            }
            Receiving::Tls => {
                let taken = host.tls.as_mut().map_or(Ok(()), |tls| tls.received(&buffer.bytes()[..bytes]));
                self.buffers.put(buffer);
                if let Err(error) = taken {
                    tracing::info!(peer = %host.peer, "TLS ended: {error}");
                    host.connection.peer_closed(&mut self.buffers);
                }
            }
            Receiving::No => {}
        }
        if bytes == 0 {
            host.connection.peer_closed(&mut self.buffers);
        }
        self.hosts.touch(index);
    }

    fn sent(&mut self, index: u32, completion: Completion) {
        let Some(host) = self.hosts.get_mut(index) else { return };
        host.sending = false;
        if let Payload::Batch(batch) = completion.payload
            && let Ok(batch) = (batch as Box<dyn std::any::Any>).downcast::<SendBatch>()
        {
            let bytes = completion.result.as_ref().map_or(0, |bytes| *bytes as usize);
            host.connection.output_sent(batch.0, bytes, &mut self.buffers);
        }
        if completion.result.is_err() {
            host.connection.peer_closed(&mut self.buffers);
        }
        self.hosts.touch(index);
    }

    fn take(&mut self, message: DataMessage) {
        match message {
            DataMessage::ToAgent(message) => {
                self.agent_step(agent::Event::FromController(message));
                self.pump();
            }
            DataMessage::Attach(volume) => {
                let host = self.settings.next_host_id();
                self.agent_step(agent::Event::HostAttach { host, volume });
                self.pump();
            }
            DataMessage::ToNode(command) => {
                self.node.step(self.now, node::Event::FromController(command), &mut self.node_effects);
                self.pump();
            }
            DataMessage::Disk(disk, file) => {
                if let Err(error) = self.reactor.adopt(&file) {
                    tracing::debug!(%disk, "the file cannot be registered with the kernel: {error}");
                }
                if let Some(former) = self.files.insert(disk, file) {
                    self.forget(disk, &former);
                }
            }
            DataMessage::DiskReleased(disk) => {
                if let Some(file) = self.files.remove(&disk) {
                    self.forget(disk, &file);
                }
            }
            DataMessage::DiskFailed(disk) => {
                self.node.step(self.now, node::Event::DiskFailed(disk), &mut self.node_effects);
                self.pump();
            }
            DataMessage::Host(host) => self.adopt(*host),
            DataMessage::Listen(listeners, sockets) => {
                self.listeners = listeners;
                self.accept_everywhere();
                for socket in sockets {
                    self.settings.connect();
                    self.greet(socket);
                }
            }
            DataMessage::CatalogChanged => self.catalog_changed(),
            DataMessage::Report(reply) => {
                let report = ThreadReport {
                    volumes: self.agent.reports(),
                    past: self.agent.past_counters(),
                    disks: self.node.counters().collect(),
                    connections: self.hosts.len() as u64,
                };
                // Whoever asked may have stopped waiting.
                let _ = reply.send(report);
            }
            DataMessage::Shutdown => self.shut_down(),
        }
    }

    fn forget(&mut self, disk: DiskId, file: &File) {
        if let Err(error) = self.reactor.forget(file) {
            tracing::warn!(%disk, "the kernel keeps the disk open until this process ends: {error}");
        }
    }

    pub(crate) fn agent_step(&mut self, event: agent::Event) {
        self.agent.step(self.now, event, &mut self.buffers, &mut self.agent_effects);
    }

    /// Carries out what the engines want done, until they want nothing more.
    pub(crate) fn pump(&mut self) {
        while !self.agent_effects.is_empty() || !self.node_effects.is_empty() {
            let mut effects = std::mem::take(&mut self.agent_effects);
            for effect in effects.drain(..) {
                self.agent_effect(effect);
            }
            if self.agent_effects.is_empty() {
                self.agent_effects = effects;
            }
            let mut effects = std::mem::take(&mut self.node_effects);
            for effect in effects.drain(..) {
                self.node_effect(effect);
            }
            if self.node_effects.is_empty() {
                self.node_effects = effects;
            }
        }
    }

    fn agent_effect(&mut self, effect: agent::Effect) {
        match effect {
            agent::Effect::ToNode(request) => {
                let from = AgentId(self.index as u32);
                self.node.step(self.now, node::Event::FromAgent(from, request), &mut self.node_effects);
            }
            agent::Effect::ToController(message) => self.to_controller(message),
            agent::Effect::Reply { id, result } => self.reply(id, result),
            agent::Effect::HostAttached { host, result } => self.attached(host, result),
            agent::Effect::HostEvicted { host } => self.evicted(host),
        }
    }

    fn to_controller(&self, message: AgentMessage) {
        // The controller thread outlives this one; were it gone, no answer would be waited for.
        let _ = self.controller.send(ControlMessage::FromAgent(AgentId(self.index as u32), message));
    }

    fn reply(&mut self, id: agent::IoId, result: IoResult) {
        let (index, request, context) = of_io(id);
        let Some(host) = self.hosts.get_mut(index) else { return };
        host.io_in_flight -= 1;
        if let Some(context) = context {
            let result = match result {
                IoResult::Status(extents) => Ok(status::allocation(&extents)),
                IoResult::Changed(extents) => Ok(status::changes(&extents)),
                IoResult::Failed(error) => Err(ErrorCode::from(error)),
                IoResult::Done | IoResult::Read(_) => unreachable!("a status question is answered with extents"),
            };
            status::answered(host, request, context, result);
            return self.hosts.touch(index);
        }
        match result {
            IoResult::Done => host.connection.reply_ok(request),
            IoResult::Failed(error) => host.connection.reply_error(request, ErrorCode::from(error)),
            IoResult::Read(segments) => {
                host.connection.reply_read(request, segments.into_iter().map(segment_for_nbd));
            }
            IoResult::Status(_) | IoResult::Changed(_) => unreachable!("status questions name their context"),
        }
        self.hosts.touch(index);
    }

    fn node_effect(&mut self, effect: node::Effect) {
        match effect {
            node::Effect::DiskIo { id, disk, operation } => self.disk_io(id, disk, operation),
            node::Effect::ToAgent(_, reply) => self.agent_step(agent::Event::FromNode(reply)),
            node::Effect::ToController(report) => {
                let _ = self.controller.send(ControlMessage::FromNode(NodeId(self.index as u32), report));
            }
            node::Effect::DiskFailed(disk) => {
                tracing::error!(%disk, "a flush failed: the disk takes no more writes until this process restarts");
                let _ = self.controller.send(ControlMessage::DiskFailed(disk));
                for (index, thread) in self.threads.iter().enumerate() {
                    if index != self.index {
                        thread.post(DataMessage::DiskFailed(disk));
                    }
                }
            }
        }
    }

    fn disk_io(&mut self, id: DiskIoId, disk: DiskId, operation: node::Operation) {
        let token = DISK | id.to_u64();
        let Some(file) = self.files.get(&disk).cloned() else {
            let buffer: Option<IoBuffer> = match operation {
                node::Operation::Read { buffer, .. } => Some(buffer),
                _ => None,
            };
            let result = Err(IoError::Device);
            let event = node::Event::DiskCompleted { id, result, buffer };
            return self.node.step(self.now, event, &mut self.node_effects);
        };
        let operation = match operation {
            node::Operation::Read { offset, length, buffer } => {
                Operation::Read { file, buffer, start: 0, length: length as usize, offset }
            }
            node::Operation::Write { offset, start, length, buffer } => {
                Operation::Write { file, buffer, start: start as usize, length: length as usize, offset }
            }
            node::Operation::Flush => Operation::DataSync { file },
            node::Operation::Discard { offset, length } => Operation::Discard { file, offset, length },
            node::Operation::Allocate { offset, length } => Operation::Allocate { file, offset, length },
        };
        self.reactor.submit(token, operation);
    }

    /// Lets every touched connection go on until none has more to do or has had its share, then sends and receives.
    fn settle(&mut self) {
        while let Some((index, share)) = self.hosts.turns.next_touched() {
            if !self.drive(index, share) {
                self.hosts.turns.postpone(index);
            }
            self.pump();
            self.hosts.turns.ready(index);
        }
        while let Some(index) = self.hosts.turns.next_ready() {
            self.exchange(index, RECEIVE | u64::from(index), SEND | u64::from(index));
        }
        self.hosts.turns.end_round();
    }

    fn timers(&mut self) {
        if self.agent.next_deadline(self.now).is_some_and(|at| at <= self.now) {
            self.agent_step(agent::Event::Tick);
            self.pump();
        }
        while let Some((at, index)) = self.handshakes.first().copied().filter(|(at, _)| *at <= self.now) {
            self.handshakes.remove(&(at, index));
            if let Some(host) = self.hosts.get_mut(index)
                && host.connection.deadline() == Some(at)
            {
                tracing::info!(peer = %host.peer, "the handshake took too long");
                host.connection.peer_closed(&mut self.buffers);
                self.hosts.touch(index);
            }
        }
        self.leave_on();
    }

    fn next_deadline(&self) -> Option<Time> {
        let leaving = self.leaving.map(|leaving| match leaving {
            Leaving::Goodbye { until } | Leaving::Draining { until } => until,
        });
        let handshake = self.handshakes.first().map(|(at, _)| *at);
        [leaving, handshake, self.agent.next_deadline(self.now)].into_iter().flatten().min()
    }

    fn shut_down(&mut self) {
        if self.leaving.is_some() {
            return;
        }
        self.leaving = Some(Leaving::Goodbye { until: self.now + GOODBYE });
        for index in 0..self.listeners.len() {
            self.reactor.cancel(ACCEPT | index as u64);
        }
        for index in self.hosts.indices() {
            if let Some(host) = self.hosts.get_mut(index) {
                host.connection.begin_shutdown();
                self.hosts.touch(index);
            }
        }
    }

    fn leave_on(&mut self) {
        match self.leaving {
            Some(Leaving::Goodbye { until }) if self.hosts.len() == 0 || self.now >= until => {
                self.leaving = Some(Leaving::Draining { until: self.now + DRAIN });
                self.agent_step(agent::Event::Shutdown);
                self.pump();
            }
            Some(Leaving::Draining { until }) if self.now >= until => {
                tracing::warn!("leaving although not everything could be committed");
            }
            _ => {}
        }
    }

    fn is_done(&self) -> bool {
        match self.leaving {
            Some(Leaving::Draining { until }) => self.agent.is_drained() || self.now >= until,
            _ => false,
        }
    }

    fn catalog_changed(&mut self) {
        // By volume, not by name: it may have another name by now, and another volume may have its old one.
        let exports = self.catalog.current();
        for index in self.hosts.indices() {
            let Some(host) = self.hosts.get_mut(index) else { continue };
            if let Export::Open { volume, .. } = &host.export
                && let Some(export) = exports.of(*volume)
            {
                host.connection.export_resized(export.size_bytes);
            }
        }
    }

    pub(crate) fn host_id(&mut self) -> HostId {
        self.settings.next_host_id()
    }
}

fn segment_for_nbd(segment: agent::ReadSegment) -> nbd::server::ReadSegment {
    match segment {
        agent::ReadSegment::Hole { length } => nbd::server::ReadSegment::Hole { length },
        agent::ReadSegment::Data { buffer, start, length } => nbd::server::ReadSegment::Data { buffer, start, length },
    }
}
