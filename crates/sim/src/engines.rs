//! The shell of the engines: feeds them events and performs their effects, one by one, until it is told to die.

use crate::door;
use crate::fabric::{Happening, Way};
use crate::verdict::{Invariant, Violation};
use crate::world::{Phase, Ticket, World};
use agent::IoId;
use nbd::server::{self, ContextSet, RequestKind};
use wire::{AgentMessage, NodeCommand, NodeReport, NodeRequest};

/// Tables are counted anew at every so-manieth effect.
const TABLES_CHECKED_EVERY: u64 = 61;

impl World {
    /// One more effect is to be performed. False when the process dies instead.
    pub(crate) fn effect(&mut self) -> bool {
        if self.process.dead {
            return false;
        }
        self.process.effects += 1;
        self.counts.effects += 1;
        if self.process.crash.is_some_and(|(at, _)| self.process.effects >= at) && self.operator.is_ready() {
            self.process.dead = true;
        }
        !self.process.dead
    }

    pub(crate) fn hop(&mut self, way: Way, happening: Happening) {
        let delay = self.random.delay(self.plan.hop_nanos);
        let at = self.fabric.arrival(way, self.now, delay);
        self.queue.push(at, (self.life, happening));
    }

    /// Feeds an agent and performs what it wants, and what follows from that at its doors.
    pub(crate) fn agent_step(&mut self, agent: usize, event: agent::Event) {
        let mut events = vec![event];
        while let Some(event) = events.pop() {
            let shell = &mut self.process.agents[agent];
            let mut effects = Vec::new();
            let engine_now = self.clock.engine_time(self.now);
            let evictions = shell.engine.evictions();
            shell.engine.step(engine_now, event, &mut shell.buffers, &mut effects);
            self.counts.evictions += shell.engine.evictions() - evictions;
            self.check_tables(agent);
            let mut doors = Vec::new();
            for effect in effects {
                if !self.effect() {
                    return;
                }
                doors.extend(self.agent_effect(agent, effect));
            }
            doors.sort_unstable();
            doors.dedup();
            for door in doors {
                self.pump(door);
                if self.process.dead {
                    return;
                }
            }
        }
        self.plan_tick(agent);
    }

    /// Now and then: what tables take is what the agent thinks they do.
    fn check_tables(&mut self, agent: usize) {
        let engine = &self.process.agents[agent].engine;
        if !self.counts.effects.is_multiple_of(TABLES_CHECKED_EVERY) {
            return;
        }
        let (used, recounted) = (engine.table_bytes_used(), engine.table_bytes_recounted());
        if used != recounted {
            let detail = format!("tables take {recounted} bytes, and agent {agent} counts {used}");
            self.fail(Violation::new(Invariant::LimitsHold, detail));
        }
    }

    /// Sees to it that the agent is told when its deadline comes.
    pub(crate) fn plan_tick(&mut self, agent: usize) {
        let engine_now = self.clock.engine_time(self.now);
        let Some(deadline) = self.process.agents[agent].engine.next_deadline(engine_now) else { return };
        let due = self.clock.due(deadline, self.now);
        if self.process.agents[agent].due.is_none_or(|planned| due < planned) {
            self.process.agents[agent].due = Some(due);
            self.queue.push(due, (self.life, Happening::AgentDue(agent)));
        }
    }

    /// Performs one effect of an agent. Gives the door whose connection has something to do or say now.
    fn agent_effect(&mut self, agent: usize, effect: agent::Effect) -> Option<u64> {
        match effect {
            agent::Effect::ToNode(request) => {
                let agent = self.process.agents[agent].number;
                self.hop(Way::AgentToNode(agent), Happening::NodeAsked { agent, request });
                None
            }
            agent::Effect::ToController(message) => {
                if let AgentMessage::Commit { epoch, commit, .. } = &message {
                    let volume = self.checks.volume_of(*epoch);
                    let state = self.volumes.iter().find(|state| state.id.is_some() && state.id == volume);
                    if let Some(state) = state {
                        let result = self.checks.commit_leaves(&self.disks, &state.oracle.owners, *epoch, commit);
                        self.check(result);
                    }
                }
                if let AgentMessage::Detach { epoch } = &message
                    && self.plan.has_faults()
                {
                    let volume = self.checks.volume_of(*epoch);
                    let state = self.volumes.iter_mut().find(|state| state.id.is_some() && state.id == volume);
                    self.tick += 1;
                    if let Some(state) = state {
                        state.oracle.session_fails(self.tick);
                    }
                }
                let agent = self.process.agents[agent].number;
                if matches!(message, AgentMessage::Commit { .. }) && self.random.permille(self.plan.repeats) {
                    // An answer that was lost: the agent asks again, by the same name.
                    let message = message.clone();
                    self.hop(Way::AgentToController(agent), Happening::ControllerAsked { agent, message });
                }
                self.hop(Way::AgentToController(agent), Happening::ControllerAsked { agent, message });
                None
            }
            agent::Effect::HostAttached { host, result } => {
                let door = self.process.doors.get_mut(&host.0).filter(|door| !door.closed)?;
                let answer = match result {
                    Ok(volume) => {
                        door.volume = Some(volume);
                        Ok(door::export_info(&door.opening, volume.size_bytes, volume.read_only))
                    }
                    Err(error) => Err(door::export_error(error)),
                };
                door.connection.export_opened(answer);
                Some(host.0)
            }
            agent::Effect::HostEvicted { host } => {
                let door = self.process.doors.get_mut(&host.0)?;
                door.connection.begin_shutdown();
                Some(host.0)
            }
            agent::Effect::Reply { id, result } => {
                let ticket = self.process.tickets.remove(&id.0).expect("an agent answers once");
                let door = self.process.doors.get_mut(&ticket.door).expect("a door outlives its I/O");
                door.outstanding -= 1;
                door::answer(&mut door.connection, ticket.request, ticket.contexts, result);
                Some(ticket.door)
            }
        }
    }

    /// Lets a connection take what came, do what it wants and say what it has to say.
    pub(crate) fn pump(&mut self, id: u64) {
        loop {
            let Some(door) = self.process.doors.get_mut(&id) else { return };
            let buffers = &mut self.process.agents[door.agent.unwrap_or(0)].buffers;
            let mut progress = door.feed(buffers);
            let event = door.connection.next_event(buffers);
            let mut bytes = Vec::new();
            door.connection.write_output(&mut bytes, usize::MAX, buffers);
            let host = door.host;
            if !bytes.is_empty() {
                progress = true;
                self.speak_in_pieces(Way::ToClient(id), bytes, |bytes| Happening::ToClient { host, door: id, bytes });
            }
            match event {
                Some(event) => self.door_event(id, event),
                None if !progress => break,
                None => {}
            }
            if self.process.dead {
                return;
            }
        }
        self.bury_door(id);
    }

    /// Bytes come in pieces, cut anywhere.
    pub(crate) fn speak_in_pieces(&mut self, way: Way, mut bytes: Vec<u8>, wrap: impl Fn(Vec<u8>) -> Happening) {
        while !bytes.is_empty() {
            let cut = match self.random.below(8) {
                0 => self.random.between(1, bytes.len() as u64) as usize,
                1 => self.random.between(1, 40).min(bytes.len() as u64) as usize,
                _ => bytes.len(),
            };
            let rest = bytes.split_off(cut);
            let piece = wrap(std::mem::replace(&mut bytes, rest));
            self.hop(way, piece);
        }
    }

    /// A closed door goes once nothing of it is at the agent.
    fn bury_door(&mut self, id: u64) {
        if self.process.doors.get(&id).is_some_and(|door| door.closed && door.outstanding == 0) {
            self.process.doors.remove(&id);
            self.orphans_end(id);
        }
    }

    fn door_event(&mut self, id: u64, event: server::Event) {
        let Some(door) = self.process.doors.get_mut(&id) else { return };
        match event {
            server::Event::ListExports => {
                let shown = self.volumes.iter().filter(|volume| volume.id.is_some());
                let names: Vec<_> = shown.map(|volume| (volume.name.clone(), String::new())).collect();
                door.connection.exports_listed(names);
            }
            server::Event::QueryExport { name } => {
                let volume = self.volumes.iter().find(|volume| volume.name == name && volume.id.is_some());
                let answer = volume.map(|volume| door::export_info(&name, volume.size_bytes, volume.is_snapshot()));
                door.connection.export_opened(answer.ok_or(server::ExportError::Unknown));
            }
            server::Event::OpenExport { name } => self.open_export(id, name),
            server::Event::ResolveContexts { name, queries, .. } => {
                let wanted = queries.iter().find_map(|query| {
                    let snapshot = format!("{name}@{}", query.strip_prefix(door::CHANGED_SINCE)?);
                    let found = self.volumes.iter().find(|volume| volume.name == snapshot && volume.id.is_some())?;
                    Some((query.clone(), found.id?))
                });
                door.since = wanted.as_ref().map(|(_, snapshot)| *snapshot);
                door.connection.contexts_resolved(Ok(wanted.into_iter().map(|(context, _)| context)));
            }
            server::Event::UpgradeTls => unreachable!("no client here asks for TLS"),
            server::Event::Request(request) => self.serve_request(id, request),
            server::Event::Close(reason) => {
                door.closed = true;
                let (host, agent) = (door.host, door.agent);
                self.trace.tell(self.now, || format!("door {id} closes: {reason}"));
                self.hop(Way::ToClient(id), Happening::ServerGone { host, door: id });
                if let Some(agent) = agent {
                    self.agent_step(agent, agent::Event::HostDetach { host: door::host_id(id) });
                }
            }
        }
    }

    fn open_export(&mut self, id: u64, name: String) {
        let found = self.volumes.iter().position(|volume| volume.name == name && volume.id.is_some());
        let door = self.process.doors.get_mut(&id).expect("seen a moment ago");
        let Some(volume) = found.filter(|_| self.phase < Phase::Leaving) else {
            door.connection.export_opened(Err(server::ExportError::Unknown));
            return;
        };
        self.check_export(volume);
        let door = self.process.doors.get_mut(&id).expect("seen a moment ago");
        let agent = volume % self.process.agents.len();
        door.agent = Some(agent);
        door.opening = name;
        let volume = self.volumes[volume].id.expect("found by it");
        self.agent_step(agent, agent::Event::HostAttach { host: door::host_id(id), volume });
    }

    /// A host that nobody sees attaches a volume, and leaves as soon as it is there.
    pub(crate) fn attach_wanted(&mut self, volume: model::VolumeId) {
        let Some(index) = self.volumes.iter().position(|state| state.id == Some(volume)) else { return };
        let agent = index % self.process.agents.len();
        let host = agent::HostId(u64::MAX);
        self.agent_step(agent, agent::Event::HostAttach { host, volume });
        self.agent_step(agent, agent::Event::HostDetach { host });
    }

    fn serve_request(&mut self, id: u64, request: server::Request) {
        let door = self.process.doors.get_mut(&id).expect("seen a moment ago");
        let agent = door.agent.expect("requests come after an export is open");
        let volume = door.volume.expect("requests come after an export is open");
        let contexts = match &request.kind {
            RequestKind::BlockStatus { contexts, .. } => *contexts,
            _ => ContextSet::default(),
        };
        self.next_io += 1;
        let io = IoId(self.next_io);
        match door::io_request(io, volume, door.since, request.kind) {
            Ok(wanted) => {
                door.outstanding += 1;
                self.process.tickets.insert(io.0, Ticket { door: id, request: request.id, contexts });
                self.trace.note(self.now, "io", [io.0, id, agent as u64]);
                self.trace.tell(self.now, || format!("  {wanted:?}"));
                self.agent_step(agent, agent::Event::Io(wanted));
            }
            Err(code) => door.connection.reply_error(request.id, code),
        }
    }

    pub(crate) fn node_asked(&mut self, agent: usize, request: NodeRequest) {
        self.trace.note(self.now, "node asked", [agent as u64, request.id.0, u64::from(request.disk.0)]);
        self.trace.tell(self.now, || format!("  {:?} {:?}", request.credentials.epoch, request.operation));
        let epoch = request.credentials.epoch;
        let from = wire::AgentId(agent as u32);
        self.node_step(self.slot_of_number(agent), node::Event::FromAgent(from, request), Some(epoch));
    }

    /// The place of an agent and its node, by its number.
    fn slot_of_number(&self, number: usize) -> usize {
        number % self.process.agents.len()
    }

    /// The place of an agent that lives.
    fn living(&self, number: usize) -> Option<usize> {
        let slot = self.slot_of_number(number);
        (self.process.agents[slot].number == number).then_some(slot)
    }

    pub(crate) fn node_answered(&mut self, agent: usize, reply: wire::NodeReply) {
        if let Some(slot) = self.living(agent) {
            self.agent_step(slot, agent::Event::FromNode(reply));
        }
    }

    pub(crate) fn agent_told(&mut self, agent: usize, message: wire::ControllerMessage) {
        self.trace.note(self.now, "agent told", [agent as u64, 0, 0]);
        self.trace.tell(self.now, || format!("  {message:?}"));
        if let Some(slot) = self.living(agent) {
            self.agent_step(slot, agent::Event::FromController(message));
        }
    }

    pub(crate) fn node_told(&mut self, node: usize, command: NodeCommand) {
        self.trace.note(self.now, "node told", [node as u64, command.command.0, 0]);
        self.trace.tell(self.now, || format!("  {command:?}"));
        self.checks.command_sent(&command);
        self.node_step(node, node::Event::FromController(command), None);
    }

    fn node_step(&mut self, node: usize, event: node::Event, epoch: Option<model::Epoch>) {
        let mut effects = Vec::new();
        let engine_now = self.clock.engine_time(self.now);
        self.process.nodes[node].step(engine_now, event, &mut effects);
        for effect in effects {
            if !self.effect() {
                return;
            }
            match effect {
                node::Effect::DiskIo { id, disk, operation } => {
                    let result = self.checks.disk_io(node, id, epoch);
                    self.check(result);
                    let disk = self.checks.disk_index(disk);
                    let key = self.disks[disk].submit(id, operation);
                    let delay = self.random.delay(self.plan.disk_nanos);
                    self.later(delay, Happening::DiskDone { node, disk, key });
                }
                node::Effect::ToAgent(agent, reply) => {
                    let agent = agent.0 as usize;
                    self.hop(Way::NodeToAgent(agent), Happening::NodeAnswered { agent, reply });
                }
                node::Effect::ToController(report) => {
                    let result = self.checks.reported(node, &report);
                    self.check(result);
                    self.hop(Way::NodeToController(node), Happening::NodeReported { node, report });
                }
                node::Effect::DiskFailed(disk) => {
                    self.controller_step(controller::Event::DiskFailed(disk));
                    for other in (0..self.process.nodes.len()).filter(|other| *other != node) {
                        self.process.nodes[other].step(engine_now, node::Event::DiskFailed(disk), &mut Vec::new());
                    }
                }
            }
        }
    }

    pub(crate) fn disk_done(&mut self, node: usize, disk: usize, key: usize) {
        let done = self.disks[disk].complete(key);
        self.trace.note(self.now, "disk done", [disk as u64, done.id.to_u64(), u64::from(done.result.is_err())]);
        self.checks.disk_done(node, done.id);
        let event = node::Event::DiskCompleted { id: done.id, result: done.result, buffer: done.buffer };
        self.node_step(node, event, None);
    }

    pub(crate) fn node_reported(&mut self, node: usize, report: NodeReport) {
        self.trace.note(self.now, "node reported", [node as u64, report.command.0, u64::from(report.result.is_err())]);
        self.controller_step(controller::Event::FromNode(wire::NodeId(node as u32), report));
    }

    pub(crate) fn controller_asked(&mut self, agent: usize, message: AgentMessage) {
        self.trace.note(self.now, "controller asked", [agent as u64, 0, 0]);
        self.trace.tell(self.now, || format!("  {message:?}"));
        // The dead are heard until their death is known; what comes later is dropped.
        if !self.process.known_dead.contains(&agent) {
            self.controller_step(controller::Event::FromAgent(wire::AgentId(agent as u32), message));
        }
    }
}
