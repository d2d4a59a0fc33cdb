//! What hosts do: connect, ask, compare the answers with the oracle, drop the line, misbehave.

use crate::disk::SimDisk;
use crate::door::Door;
use crate::fabric::{Happening, Way};
use crate::host::{self, Asked, Draw, Farewell, Link, Part, Request, ZEROES};
use crate::oracle::Ending;
use crate::plan::Mix;
use crate::stamp::SECTOR;
use crate::verdict::{Invariant, Violation};
use crate::world::{Phase, World};
use nbd::client::{Client, ClientEvent, Outcome, Reply};
use nbd::protocol::command_flags;
use nbd::server::Connection;
use nbd::{ErrorCode, Extent};

/// How long a host waits before it tries to connect again, in nanoseconds.
const RETRY_NANOS: u64 = 20_000_000;

impl World {
    /// The host goes on soon, unless that is planned already.
    pub(crate) fn nudge(&mut self, host: usize, delay: u64) {
        if !self.hosts[host].step_pending {
            self.hosts[host].step_pending = true;
            self.queue.push(self.now + delay, (u32::MAX, Happening::HostSteps(host)));
        }
    }

    pub(crate) fn host_steps(&mut self, index: usize) {
        self.hosts[index].step_pending = false;
        let serving = self.is_serving();
        let host = &self.hosts[index];
        match host.link {
            Link::Down if host.is_done() => {}
            Link::Down if self.volumes[host.volume].id.is_none() || !serving => {
                self.nudge(index, RETRY_NANOS);
            }
            Link::Down => self.connect(index),
            Link::Opening => {}
            Link::Open => self.ask(index),
        }
    }

    fn is_serving(&mut self) -> bool {
        let settled = self.process.control.engine.as_ref().is_some_and(controller::Controller::is_settled);
        self.process.serving |= settled && self.operator.is_ready();
        self.process.serving
    }

    fn connect(&mut self, index: usize) {
        self.next_door += 1;
        let id = self.next_door;
        let name = self.volumes[self.hosts[index].volume].name.clone();
        let hostile = self.phase == Phase::Storm && self.random.permille(self.plan.garbage);
        let config = self.introduction(index, &name);
        let host = &mut self.hosts[index];
        host.client = Client::new(config);
        host.link = Link::Opening;
        host.door = id;
        host.hostile = hostile;
        self.trace.note(self.now, "host connects", [index as u64, id, 0]);
        let engine_now = self.clock.engine_time(self.now);
        let connection = Connection::new(self.process.server_config.clone(), engine_now);
        self.process.doors.insert(id, Door::new(index, connection));
        self.pump(id);
    }

    /// Sends what the client has to say.
    fn host_speaks(&mut self, index: usize) {
        let door = self.hosts[index].door;
        let bytes = self.hosts[index].client.take_output();
        if !bytes.is_empty() {
            self.speak_in_pieces(Way::ToServer(door), bytes, |bytes| Happening::ToServer { door, bytes });
        }
    }

    pub(crate) fn server_hears(&mut self, id: u64, bytes: &[u8]) {
        self.trace.note(self.now, "server hears", [id, bytes.len() as u64, 0]);
        let Some(door) = self.process.doors.get_mut(&id).filter(|door| !door.closed) else { return };
        door.inbox.extend_from_slice(bytes);
        self.pump(id);
    }

    /// The client's end of the line is closed.
    pub(crate) fn client_gone(&mut self, id: u64) {
        let Some(door) = self.process.doors.get_mut(&id).filter(|door| !door.closed) else { return };
        door.inbox.clear();
        let buffers = &mut self.process.agents[door.agent.unwrap_or(0)].buffers;
        door.connection.peer_closed(buffers);
        self.pump(id);
    }

    pub(crate) fn client_hears(&mut self, index: usize, door: u64, bytes: &[u8]) {
        if self.hosts[index].door != door || self.hosts[index].link == Link::Down {
            return;
        }
        self.trace.note(self.now, "client hears", [index as u64, bytes.len() as u64, 0]);
        self.hosts[index].client.received(bytes);
        while let Some(event) = self.hosts[index].client.next_event() {
            match event {
                ClientEvent::Opened(opened) => {
                    self.hosts[index].link = Link::Open;
                    let volume = &self.volumes[self.hosts[index].volume];
                    let settled = !volume.unsettled && volume.id.is_some() && door > volume.resized_door;
                    if opened.size_bytes != volume.size_bytes && settled {
                        let detail = format!("{} opens with {} bytes", volume.name, opened.size_bytes);
                        self.fail(Violation::new(Invariant::NoErrorWithoutFault, detail));
                    }
                    self.nudge(index, 1);
                }
                ClientEvent::Reply(reply) => self.answered(index, reply),
                ClientEvent::Failed(error) => {
                    if matches!(error, nbd::client::ClientError::Protocol(_)) && !self.hosts[index].hostile {
                        let detail = format!("host {index} is answered by nonsense: {error}");
                        self.fail(Violation::new(Invariant::GarbageIsHarmless, detail));
                    }
                    self.hang_up(index);
                }
                ClientEvent::UpgradeTls => unreachable!("no client here asks for TLS"),
            }
        }
        if self.hosts[index].link != Link::Down {
            self.host_speaks(index);
        }
    }

    pub(crate) fn server_gone(&mut self, index: usize, door: u64) {
        if self.hosts[index].door == door && self.hosts[index].link != Link::Down {
            self.line_is_down(index);
        }
    }

    /// The host closes its end, whatever is in flight.
    pub(crate) fn hang_up(&mut self, index: usize) {
        let door = self.hosts[index].door;
        self.trace.note(self.now, "host hangs up", [index as u64, door, 0]);
        self.hop(Way::ToServer(door), Happening::ClientGone { door });
        self.line_is_down(index);
    }

    /// Nothing more comes on this connection. What was asked may still happen, until its door is gone.
    fn line_is_down(&mut self, index: usize) {
        let host = &mut self.hosts[index];
        host.link = Link::Down;
        let volume = host.volume;
        let requests: Vec<_> = std::mem::take(&mut host.in_flight).into_values().collect();
        let door = host.door;
        let mut orphans = Vec::new();
        for request in requests {
            if request.incarnation != self.volumes[volume].incarnation {
                continue;
            }
            match request.asked {
                Asked::Read { number, first } | Asked::Changed { number, first, .. } => {
                    let now = self.next_tick();
                    let result = self.volumes[volume].oracle.read_ends(now, number, first, None);
                    self.check(result);
                }
                Asked::Write { .. } | Asked::Zero { .. } => orphans.push((volume, request)),
                Asked::Flush | Asked::Status { .. } | Asked::Cache => {}
            }
        }
        self.orphans.entry(door).or_default().extend(orphans);
        if !self.process.doors.contains_key(&door) {
            self.orphans_end(door);
        }
        let retry = self.random.delay(RETRY_NANOS);
        self.nudge(index, retry);
    }

    /// A door is gone: what was asked through it has happened, or never will.
    pub(crate) fn orphans_end(&mut self, door: u64) {
        if self.hosts.iter().any(|host| host.door == door && host.link != Link::Down) {
            return;
        }
        for (volume, request) in self.orphans.remove(&door).unwrap_or_default() {
            self.changes_end(volume, &request, Ending::Unknown);
        }
    }

    fn ask(&mut self, index: usize) {
        let host = &self.hosts[index];
        if host.in_flight.len() >= host.depth || host.is_done() {
            return;
        }
        let volume = &self.volumes[host.volume];
        if volume.id.is_none() || (host.operations_left == 0 && host.scan.is_empty() && host.farewell.is_empty()) {
            return;
        }
        if self.phase == Phase::Storm && (host.hostile || self.random.permille(self.plan.drops)) {
            return self.misbehave(index);
        }
        let draw = self.draw(index);
        self.send(index, draw);
        let think = self.random.delay(self.plan.think_nanos);
        self.nudge(index, think);
    }

    fn draw(&mut self, index: usize) -> Draw {
        let host = &mut self.hosts[index];
        let volume = &self.volumes[host.volume];
        match host.farewell.pop_front() {
            Some(Farewell::Trim(first, count)) => {
                self.next_number += 1;
                let part = Part { number: self.next_number, first, count, zero: true };
                let asked = Asked::Zero { part, fua: false, fast: false, keep_space: false };
                Draw { asked, first, count, flags: 0, payload: Vec::new() }
            }
            Some(Farewell::Flush) => Draw { asked: Asked::Flush, first: 0, count: 0, flags: 0, payload: Vec::new() },
            None => {
                if let Some((first, count)) = host.scan.pop_front() {
                    self.next_number += 1;
                    let asked = Asked::Read { number: self.next_number, first };
                    return Draw { asked, first, count, flags: 0, payload: Vec::new() };
                }
                host.operations_left -= 1;
                if let Some(since) = host.since {
                    return self.draw_comparison(index, since);
                }
                let has_status = host.client.opened().is_some_and(|opened| !opened.contexts.is_empty());
                let mix = if volume.is_snapshot() { Mix::READING } else { self.plan.mix };
                host::draw_request(&mut self.random, mix, volume, has_status, &mut self.next_number)
            }
        }
    }

    fn send(&mut self, index: usize, draw: Draw) {
        let Draw { asked, first, count, flags, payload } = draw;
        let invoked = self.next_tick();
        let volume = &mut self.volumes[self.hosts[index].volume];
        match &asked {
            Asked::Read { number, .. } | Asked::Changed { number, .. } => {
                volume.oracle.read_begins(invoked, *number);
            }
            Asked::Write { parts, .. } => {
                for part in parts {
                    volume.oracle.write_begins(invoked, part.number, part.first, part.count, part.zero);
                    if part.zero {
                        forget_mapped(volume, *part);
                        volume.zeroing += 1;
                    }
                }
            }
            Asked::Zero { part, .. } => {
                volume.oracle.write_begins(invoked, part.number, part.first, part.count, true);
                forget_mapped(volume, *part);
                volume.zeroing += 1;
            }
            Asked::Flush | Asked::Status { .. } | Asked::Cache => {}
        }
        let incarnation = volume.incarnation;
        self.trace.note(self.now, "host asks", [index as u64, first, count]);
        self.trace.tell(self.now, || format!("  {asked:?} flags {flags:#x}"));
        let (offset, length) = (first * SECTOR as u64, count * SECTOR as u64);
        let client = &mut self.hosts[index].client;
        let cookie = match &asked {
            Asked::Read { .. } => client.read(offset, length as u32, flags),
            Asked::Write { .. } => client.write(offset, &payload, flags),
            Asked::Zero { .. } if flags & ZEROES != 0 => client.write_zeroes(offset, length, flags & !ZEROES),
            Asked::Zero { .. } => client.trim(offset, length, flags & command_flags::FUA),
            Asked::Flush => client.flush(),
            Asked::Status { .. } | Asked::Changed { .. } => client.block_status(offset, length, flags),
            Asked::Cache => client.cache(offset, length),
        };
        let request = Request { asked, invoked, incarnation };
        self.hosts[index].in_flight.insert(cookie, request);
        self.host_speaks(index);
    }

    fn misbehave(&mut self, index: usize) {
        let door = self.hosts[index].door;
        if self.hosts[index].hostile {
            let length = self.random.between(1, 200) as usize;
            let garbage = (0..length).map(|_| self.random.next() as u8).collect();
            self.hop(Way::ToServer(door), Happening::ToServer { door, bytes: garbage });
            if self.random.below(3) > 0 {
                return self.nudge(index, 1);
            }
        }
        self.hang_up(index);
    }

    fn answered(&mut self, index: usize, reply: Reply) {
        let Some(request) = self.hosts[index].in_flight.remove(&reply.cookie) else { return };
        let volume = self.hosts[index].volume;
        self.counts.operations += 1;
        self.trace.note(self.now, "answered", [index as u64, reply.cookie, u64::from(is_failure(&reply.outcome))]);
        self.nudge(index, 1);
        if request.incarnation != self.volumes[volume].incarnation {
            return;
        }
        self.trace.tell(self.now, || match &reply.outcome {
            Outcome::Data { bytes, .. } => format!("  {:?} gives {} bytes", request.asked, bytes.len()),
            other => format!("  {:?} gives {other:?}", request.asked),
        });
        let now = self.next_tick();
        let state = &mut self.volumes[volume];
        match (&request.asked, &reply.outcome) {
            (Asked::Read { number, first }, Outcome::Data { bytes, .. }) => {
                let result = state.oracle.read_ends(now, *number, *first, Some(bytes));
                self.check(result);
                self.compare_cut(volume);
            }
            (Asked::Flush, Outcome::Done) => state.oracle.flushed(request.invoked),
            (Asked::Write { .. } | Asked::Zero { .. }, Outcome::Done) => {
                self.changes_end(volume, &request, Ending::Done);
            }
            (Asked::Status { first }, Outcome::Extents(contexts)) => {
                for extents in contexts.values() {
                    let result = status_is_true(state, request.invoked, *first, extents);
                    if let Err(violation) = result {
                        return self.fail(violation);
                    }
                }
            }
            (Asked::Changed { number, first, since }, Outcome::Extents(contexts)) => {
                let result = state.oracle.read_ends(now, *number, *first, None);
                self.check(result);
                for extents in contexts.values() {
                    let result = self.judge_changed(volume, *since, request.invoked, *first, extents);
                    self.check(result);
                }
            }
            (Asked::Cache, Outcome::Done) => {}
            (_, Outcome::Failed { error, .. }) => self.refused(index, &request, *error),
            (asked, outcome) => {
                let detail = format!("{asked:?} is answered by {outcome:?}");
                self.fail(Violation::new(Invariant::NoErrorWithoutFault, detail));
            }
        }
    }

    fn refused(&mut self, index: usize, request: &Request, error: ErrorCode) {
        let volume = self.hosts[index].volume;
        let result = self.judge_refusal(volume, request, error);
        self.check(result);
        match error {
            ErrorCode::NoSpace => self.counts.refused_full += 1,
            _ => self.counts.failed += 1,
        }
        match &request.asked {
            Asked::Read { number, first } | Asked::Changed { number, first, .. } => {
                let now = self.next_tick();
                let result = self.volumes[volume].oracle.read_ends(now, *number, *first, None);
                self.check(result);
            }
            Asked::Write { .. } | Asked::Zero { .. } => self.changes_end(volume, request, Ending::Failed),
            Asked::Flush | Asked::Status { .. } | Asked::Cache => {}
        }
        if error == ErrorCode::Shutdown {
            self.hang_up(index);
        }
    }

    /// Whether a request may be refused in this way now.
    fn judge_refusal(&self, volume: usize, request: &Request, error: ErrorCode) -> Result<(), Violation> {
        let state = &self.volumes[volume];
        let told = |invariant, why: &str| {
            let detail = format!("{} refuses {:?} with {error:?}: {why}", state.name, request.asked);
            Err(Violation::new(invariant, detail))
        };
        let broken = self.disks.iter().any(|disk| disk.faults_injected > 0);
        // A disk whose flush failed has no room for anybody until the process starts anew. One that only failed to read
        // or write has.
        let shut = self.disks.iter().any(SimDisk::flush_was_lost);
        let store_may_fail = self.plan.store_full || self.plan.store_failures > 0;
        match error {
            ErrorCode::NoSpace if self.plan.disk_faults.out_of_space > 0 || store_may_fail => Ok(()),
            ErrorCode::NoSpace => match &request.asked {
                // (A zeroing that overlapped may have come first.)
                Asked::Write { assured: true, .. } if state.is_settled_since(request.invoked) => {
                    told(Invariant::FullIsHarmless, "its blocks have storage")
                }
                Asked::Write { .. } | Asked::Zero { keep_space: true, .. }
                    if self.plan.ample && state.plan.limit_bytes.is_none() && !shut =>
                {
                    told(Invariant::NoErrorWithoutFault, "the pool has room for everything")
                }
                Asked::Write { .. } | Asked::Zero { keep_space: true, .. } => Ok(()),
                // Parts of blocks are written as zeroes; what a snapshot sees of them cannot be written in place.
                Asked::Zero { part, .. }
                    if part.is_ragged() && (state.cutting || state.cut > 0 || state.has_origin) =>
                {
                    Ok(())
                }
                _ => told(Invariant::FullIsHarmless, "it needs no space"),
            },
            ErrorCode::Io if store_may_fail || broken => Ok(()),
            ErrorCode::Shutdown if state.unsettled || store_may_fail || self.phase >= Phase::Leaving => Ok(()),
            // The snapshot is gone.
            ErrorCode::Invalid if self.may_lack_snapshot(request) => Ok(()),
            ErrorCode::NotSupported if matches!(request.asked, Asked::Zero { fast: true, .. }) => Ok(()),
            _ => told(Invariant::NoErrorWithoutFault, "nothing is broken"),
        }
    }

    /// A write or zeroing ends, as the oracle is concerned.
    fn changes_end(&mut self, volume: usize, request: &Request, ending: Ending) {
        let state = &mut self.volumes[volume];
        if request.incarnation != state.incarnation {
            return;
        }
        self.tick += 1;
        let now = self.tick;
        // A zeroing that overlapped may have come last, whichever was answered first.
        let settled = state.is_settled_since(request.invoked);
        match &request.asked {
            Asked::Write { parts, fua, .. } => {
                for part in parts {
                    state.oracle.write_ends(now, part.number, ending, *fua);
                    if part.zero {
                        state.zeroing -= 1;
                        state.zeroed = now;
                        forget_mapped(state, *part);
                    }
                }
                for part in parts.iter().filter(|part| !part.zero && ending == Ending::Done && settled) {
                    let end = (part.first + part.count).div_ceil(8);
                    state.mapped.extend(part.first / 8..end);
                }
            }
            Asked::Zero { part, fua, .. } => {
                state.oracle.write_ends(now, part.number, ending, *fua);
                state.zeroing -= 1;
                state.zeroed = now;
                forget_mapped(state, *part);
            }
            Asked::Read { .. } | Asked::Flush | Asked::Status { .. } | Asked::Changed { .. } | Asked::Cache => {}
        }
    }
}

fn is_failure(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Failed { .. })
}

/// What is zeroed may lose its storage.
fn forget_mapped(volume: &mut host::VolumeState, part: Part) {
    let (first, end) = (part.first / 8, (part.first + part.count).div_ceil(8));
    let gone: Vec<_> = volume.mapped.range(first..end).copied().collect();
    gone.iter().for_each(|block| {
        volume.mapped.remove(block);
    });
}

/// What block status calls zero may be read as zeroes.
fn status_is_true(volume: &host::VolumeState, invoked: u64, first: u64, extents: &[Extent]) -> Result<(), Violation> {
    let mut at = first * SECTOR as u64;
    for extent in extents {
        if extent.flags & nbd::protocol::allocation_flags::ZERO != 0 {
            let (from, to) = (at.div_ceil(512), (at + extent.length_bytes) / 512);
            if let Some(sector) = volume.oracle.must_hold_data(invoked, from, to.saturating_sub(from)) {
                let detail = format!("{} sector {sector} holds data and is called zero", volume.name);
                return Err(Violation::new(Invariant::ReadsSeeTheLastWrite, detail));
            }
        }
        at += extent.length_bytes;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Plan;
    use crate::random::Random;
    use crate::scenario::Scenario;
    use model::IoBuffer;
    use node::{DiskIoId, Operation};

    fn write(invoked: u64, assured: bool) -> Request {
        let part = Part { number: 1, first: 0, count: 8, zero: false };
        let asked = Asked::Write { parts: [part].into_iter().collect(), fua: false, assured };
        Request { asked, invoked, incarnation: 0 }
    }

    fn ample() -> World {
        let mut plan = Plan::draw(1, Scenario::Any);
        plan.ample = true;
        plan.disk_faults = crate::disk::DiskFaults::default();
        (plan.store_full, plan.store_failures) = (false, 0);
        plan.volumes.iter_mut().for_each(|volume| volume.limit_bytes = None);
        let mut world = World::new(plan, false);
        world.disks[0] = SimDisk::new(1 << 20, 512, Random::new(1));
        world
    }

    fn judged(world: &World, request: &Request) -> Result<(), Invariant> {
        world.judge_refusal(0, request, ErrorCode::NoSpace).map_err(|violation| violation.invariant)
    }

    fn fails(world: &mut World, operation: Operation) {
        let key = world.disks[0].submit(DiskIoId::from_u64(1), operation);
        world.disks[0].complete(key).result.unwrap_err();
    }

    #[test]
    fn an_ample_pool_is_full_only_while_a_disk_is_shut_by_a_failed_flush() {
        let mut world = ample();
        let full = Err(Invariant::NoErrorWithoutFault);
        assert_eq!(judged(&world, &write(1, false)), full);
        (world.disks[0].faults.read_error, world.disks[0].faults.flush_error) = (1000, 1000);
        fails(&mut world, Operation::Read { offset: 0, length: 512, buffer: IoBuffer::zeroed(512) });
        assert_eq!(judged(&world, &write(1, false)), full, "a failed read shuts no disk");
        fails(&mut world, Operation::Flush);
        assert_eq!(judged(&world, &write(1, false)), Ok(()));
        world.disks[0].crash(false);
        assert_eq!(judged(&world, &write(1, false)), full, "whoever starts anew opens it again");
    }

    #[test]
    fn what_overlaps_a_zeroing_is_promised_no_storage() {
        let mut world = ample();
        world.disks[0].faults.flush_error = 1000;
        fails(&mut world, Operation::Flush);
        assert_eq!(judged(&world, &write(5, true)), Err(Invariant::FullIsHarmless));
        world.volumes[0].zeroing = 1;
        assert_eq!(judged(&world, &write(5, true)), Ok(()), "a zeroing is under way");
        (world.volumes[0].zeroing, world.volumes[0].zeroed) = (0, 6);
        assert_eq!(judged(&world, &write(5, true)), Ok(()), "one ended after the write was asked for");
        assert_eq!(judged(&world, &write(7, true)), Err(Invariant::FullIsHarmless));
    }
}
