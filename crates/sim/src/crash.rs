//! The ends of things: crashes, the calm after the storm, the last audit.

use crate::control::audit;
use crate::disk::DiskFaults;
use crate::fabric::Happening;
use crate::host::{Farewell, Link};
use crate::operator::audit_is_clean;
use crate::verdict::{Invariant, Violation};
use crate::world::{Phase, Process, World};
use controller::Survivors;
use store::MetaStore;

impl World {
    /// The first life begins.
    pub(crate) fn begin(&mut self) {
        if self.plan.store_full {
            self.store.limit_bytes(Some(40 << 10));
        }
        self.start_controller(Survivors::default());
        self.plan_operator();
    }

    /// Whether things may still go wrong.
    pub(crate) fn may_fail(&self) -> bool {
        self.phase == Phase::Storm
    }

    /// Everything in memory is gone; disks and store keep what they keep. Then the process starts anew.
    pub(crate) fn crash(&mut self) {
        let power_cut = self.process.crash.is_some_and(|(_, power_cut)| power_cut);
        self.counts.crashes += 1;
        self.trace.note(self.now, "CRASH", [u64::from(power_cut), self.process.effects, 0]);
        let transaction = self.process.control.take_transaction();
        if !transaction.is_empty() && self.random.next() & 1 == 0 {
            // It became durable, and nobody was left to hear of it. (A store that is full refuses, as it would have.)
            let _refused = self.store.commit(&transaction);
        }
        for disk in &mut self.disks {
            disk.crash(power_cut);
        }
        self.life += 1;
        self.tick += 1;
        let now = self.tick;
        let captured = self.capture_cuts();
        for volume in &mut self.volumes {
            volume.oracle.crash(now, power_cut);
            volume.mapped.clear();
            volume.zeroing = 0;
            volume.cutting = false;
        }
        self.orphans.clear();
        self.fabric = Default::default();
        self.checks = Default::default();
        let crash = self.plan.crashes.get(self.life as usize).filter(|_| self.may_fail());
        self.process = Process::new(&self.plan, crash.map(|crash| (crash.after_effects, crash.power_cut)));
        let result = audit(&self.store).and_then(|report| audit_is_clean(&report));
        self.check(result);
        self.start_controller(Survivors::default());
        self.settle_cuts(captured);
        self.settle_rollbacks();
        self.operator.ask_again();
        self.plan_operator();
        self.reconnect_hosts();
    }

    /// One agent dies alone. What it has sent is still on its way, and slow: nodes must refuse it before anybody else is
    /// given what it held.
    pub(crate) fn agent_dies(&mut self) {
        if !self.may_fail() || !self.process.serving {
            return;
        }
        let count = self.process.agents.len();
        let slot = self.random.below(count as u64) as usize;
        let number = self.process.agents[slot].number;
        self.counts.crashes += 1;
        self.trace.note(self.now, "AGENT DIES", [number as u64, 0, 0]);
        self.process.agents[slot] = crate::world::AgentShell::new(&self.plan, number + count);
        let mut random = self.random.fork();
        self.queue.put_off(|(_, happening)| match happening {
            Happening::NodeAsked { agent, .. } if *agent == number => Some(random.below(20_000_000)),
            Happening::DiskDone { node, .. } if *node == slot => Some(random.below(10_000_000)),
            _ => None,
        });
        let gone: Vec<_> = self.process.doors.iter().filter(|(_, door)| door.agent == Some(slot)).collect();
        let gone: Vec<_> = gone.into_iter().map(|(id, door)| (*id, door.host)).collect();
        for (id, host) in gone {
            self.process.doors.remove(&id);
            self.process.tickets.retain(|_, ticket| ticket.door != id);
            if self.hosts[host].door == id {
                self.hosts[host].link = Link::Down;
                self.hosts[host].in_flight.clear();
                self.nudge(host, 1);
            }
        }
        self.tick += 1;
        for (index, volume) in self.volumes.iter_mut().enumerate().filter(|(index, _)| index % count == slot) {
            volume.oracle.crash(self.tick, false);
            volume.mapped.clear();
            volume.zeroing = 0;
            self.orphans.values_mut().for_each(|requests| requests.retain(|(of, _)| *of != index));
        }
        let delay = self.random.delay(1_000_000);
        self.later(delay, Happening::AgentMissed(number));
    }

    pub(crate) fn agent_missed(&mut self, agent: usize) {
        self.process.known_dead.insert(agent);
        self.controller_step(controller::Event::AgentGone(wire::AgentId(agent as u32)));
    }

    fn reconnect_hosts(&mut self) {
        for index in 0..self.hosts.len() {
            let host = &mut self.hosts[index];
            host.link = Link::Down;
            host.in_flight.clear();
            // Some read everything first: what they see is then settled.
            if self.random.next() & 1 == 0 && !self.volumes[self.hosts[index].volume].is_gone() {
                let windows: Vec<_> = self.volumes[self.hosts[index].volume].plan.windows.clone();
                self.scan_windows(index, &windows);
            }
            let delay = self.random.delay(5_000_000);
            self.nudge(index, delay);
        }
    }

    fn scan_windows(&mut self, host: usize, windows: &[(u64, u64)]) {
        self.hosts[host].scan.clear();
        for (first, count) in windows.iter().copied() {
            let step = self.random.pick(&[64, 256, 512]);
            for at in (0..count).step_by(step as usize) {
                self.hosts[host].scan.push_back((first + at, step.min(count - at)));
            }
        }
    }

    /// Hosts have done their work: faults stop, and everything is read once more.
    pub(crate) fn calm_down(&mut self) {
        self.phase = Phase::Reading;
        self.calm_since = self.now;
        self.trace.note(self.now, "calm", [0; 3]);
        self.process.crash = None;
        self.store.limit_bytes(None);
        self.disks.iter_mut().for_each(|disk| disk.faults = DiskFaults::default());
        self.operator.forget_plans();
        self.give_hosts_to_all();
        for index in 0..self.hosts.len() {
            let first_of_volume = self.hosts.iter().position(|host| host.volume == self.hosts[index].volume);
            if first_of_volume == Some(index) && self.volumes[self.hosts[index].volume].id.is_some() {
                let windows = self.volumes[self.hosts[index].volume].plan.windows.clone();
                self.scan_windows(index, &windows);
                self.nudge(index, 1);
            }
        }
    }

    /// One host of each volume trims all of it and flushes.
    pub(crate) fn say_farewell(&mut self) {
        for index in 0..self.hosts.len() {
            let volume = self.hosts[index].volume;
            let is_first = self.hosts.iter().position(|host| host.volume == volume) == Some(index);
            if is_first && self.volumes[volume].id.is_some() && !self.volumes[volume].is_snapshot() {
                let state = &self.volumes[volume];
                let (windows, end) = (state.plan.windows.clone(), state.size_bytes / 512);
                let region = state.plan.region_size.bytes() / 512;
                for (first, count) in windows.iter().copied() {
                    let (from, to) = (first / region * region, ((first + count).div_ceil(region) * region).min(end));
                    self.hosts[index].farewell.push_back(Farewell::Trim(from, to - from));
                }
                self.hosts[index].farewell.push_back(Farewell::Flush);
                self.scan_windows(index, &windows);
                self.nudge(index, 1);
            }
        }
    }

    /// The process is told to leave.
    pub(crate) fn leave(&mut self) {
        self.phase = Phase::Leaving;
        self.trace.note(self.now, "leaving", [0; 3]);
        for agent in 0..self.process.agents.len() {
            self.agent_step(agent, agent::Event::Shutdown);
        }
    }

    /// Everything is drained: what is durable must add up.
    pub(crate) fn finish(&mut self) {
        self.phase = Phase::Over;
        let report = match audit(&self.store) {
            Ok(report) => report,
            Err(violation) => return self.fail(violation),
        };
        let result = audit_is_clean(&report);
        self.check(result);
        let result = self.limits_hold();
        self.check(result);
        let broken = self.plan.has_faults();
        if !broken && report.granted_units > 0 {
            let detail = format!("{} units are granted to nobody", report.granted_units);
            self.fail(Violation::new(Invariant::NoRegionOwnedTwice, detail));
        }
        // Where a volume does not end at a block's edge, zeroes written to its last block may keep their region.
        let ragged = self.volumes.iter().filter(|volume| !volume.size_bytes.is_multiple_of(4096));
        let kept: u64 = ragged.map(|volume| u64::from(volume.plan.region_size.units())).sum();
        if !broken && self.plan.empties && report.mapped_units > kept {
            let detail = format!("{} units are mapped though every volume was trimmed", report.mapped_units);
            self.fail(Violation::new(Invariant::FullIsHarmless, detail));
        }
    }

    /// No volume holds more than its limit.
    fn limits_hold(&self) -> Result<(), Violation> {
        let mapped = crate::control::mapped_bytes(&self.store)?;
        for volume in &self.volumes {
            let (Some(id), Some(limit)) = (volume.id, volume.plan.limit_bytes) else { continue };
            let used = mapped.get(&id).copied().unwrap_or(0);
            if used > limit {
                let detail = format!("{} holds {used} bytes, and may hold {limit}", volume.name);
                return Err(Violation::new(Invariant::LimitsHold, detail));
            }
        }
        Ok(())
    }
}
