//! The simulated world: virtual time, what survives a crash, and the loop that makes things happen.

use crate::accounts::Account;
use crate::checks::Checks;
use crate::control::Control;
use crate::disk::SimDisk;
use crate::door::Door;
use crate::fabric::{Clock, Fabric, Happening};
use crate::host::{Host, Kind, VolumeState};
use crate::operator::Operator;
use crate::oracle::Tick;
use crate::plan::Plan;
use crate::planted::PlantedBug;
use crate::queue::Queue;
use crate::random::Random;
use crate::schedule::Keeper;
use crate::trace::Trace;
use crate::verdict::{Invariant, Violation};
use crate::views::Cut;
use agent::{Agent, AgentConfig};
use model::{BufferPool, ClusterId};
use nbd::server::{ContextSet, RequestId, ServerConfig};
use node::Node;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use store::MemoryStore;

/// The cluster's id.
pub(crate) const CLUSTER: ClusterId = ClusterId(0xacea_6e00_0000_0000_0000_0000_0000_0001);
/// How long the world may take to come to rest once faults have stopped, in nanoseconds of virtual time.
const REST_NANOS_MAX: u64 = 600_000_000_000;
/// More events than any run needs: a run that passes it goes round in circles.
const EVENTS_MAX: u64 = 250_000;

/// An agent and what its shell holds for it.
#[derive(Debug)]
pub(crate) struct AgentShell {
    /// What it is called: its place, and a multiple of the number of agents for each that died there.
    pub(crate) number: usize,
    pub(crate) engine: Agent,
    pub(crate) buffers: BufferPool,
    /// The earliest tick that is on its way.
    pub(crate) due: Option<u64>,
}

/// Whose I/O at an agent it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ticket {
    pub(crate) door: u64,
    pub(crate) request: RequestId,
    pub(crate) contexts: ContextSet,
}

/// One life of the server process: everything that a crash takes away.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) agents: Vec<AgentShell>,
    /// Agents that died and of which the controller knows.
    pub(crate) known_dead: BTreeSet<usize>,
    pub(crate) nodes: Vec<Node>,
    pub(crate) control: Control,
    pub(crate) doors: BTreeMap<u64, Door>,
    pub(crate) tickets: BTreeMap<u64, Ticket>,
    pub(crate) server_config: Arc<ServerConfig>,
    /// A crash comes after so many effects; with a power cut, or not.
    pub(crate) crash: Option<(u64, bool)>,
    pub(crate) effects: u64,
    /// Its disks are open and former sessions are fenced: hosts may connect.
    pub(crate) serving: bool,
    /// It is over: nothing of it happens any more.
    pub(crate) dead: bool,
}

/// How far a run is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Phase {
    /// Hosts are at work, things go wrong.
    Storm,
    /// Faults have stopped; everything is read.
    Reading,
    /// Volumes are trimmed, if the plan says so.
    Emptying,
    /// The process is told to leave.
    Leaving,
    /// Everything is deleted, if the plan says so.
    Accounting,
    /// Over.
    Over,
}

/// What a run did.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Requests of hosts that were answered.
    pub operations: u64,
    /// Crashes.
    pub crashes: u64,
    /// Effects performed.
    pub effects: u64,
    /// Requests refused for lack of space.
    pub refused_full: u64,
    /// Table pages evicted by agents.
    pub evictions: u64,
    /// Requests that failed otherwise.
    pub failed: u64,
    /// What operators did with snapshots: see [`crate::report`].
    pub views: ViewCounts,
}

/// What operators did with snapshots, as often as it succeeded.
#[derive(Clone, Copy, Debug, Default)]
pub struct ViewCounts {
    /// Snapshots taken.
    pub snapshots: u64,
    /// Cuts through several volumes.
    pub cuts: u64,
    /// Snapshots deleted.
    pub deletes: u64,
    /// Snapshots renamed.
    pub renames: u64,
    /// Clones made.
    pub clones: u64,
    /// Rollbacks.
    pub rollbacks: u64,
    /// Flattenings begun.
    pub flattens: u64,
    /// Diffs judged.
    pub diffs: u64,
    /// Answers to what changed since a snapshot.
    pub changed: u64,
    /// Looks at what a schedule asks for.
    pub looks: u64,
    /// Deletions whose space was compared with what had been said.
    pub accounts: u64,
    /// Crashes in the middle of an operator's request about snapshots.
    pub strikes: u64,
}

impl ViewCounts {
    /// Adds another run's.
    pub fn add(&mut self, other: &Self) {
        let own = [
            &mut self.snapshots,
            &mut self.cuts,
            &mut self.deletes,
            &mut self.renames,
            &mut self.clones,
            &mut self.rollbacks,
            &mut self.flattens,
            &mut self.diffs,
            &mut self.changed,
            &mut self.looks,
            &mut self.accounts,
            &mut self.strikes,
        ];
        let others = [
            other.snapshots,
            other.cuts,
            other.deletes,
            other.renames,
            other.clones,
            other.rollbacks,
            other.flattens,
            other.diffs,
            other.changed,
            other.looks,
            other.accounts,
            other.strikes,
        ];
        own.into_iter().zip(others).for_each(|(own, other)| *own += other);
    }
}

/// Everything.
#[derive(Debug)]
pub struct World {
    pub(crate) plan: Plan,
    pub(crate) random: Random,
    pub(crate) now: u64,
    pub(crate) tick: Tick,
    pub(crate) queue: Queue<(u32, Happening)>,
    pub(crate) fabric: Fabric,
    pub(crate) clock: Clock,
    /// Which life of the process it is; what was on its way in an earlier one never arrives.
    pub(crate) life: u32,
    pub(crate) trace: Trace,
    pub(crate) disks: Vec<SimDisk>,
    pub(crate) store: MemoryStore,
    pub(crate) labels: Vec<crate::control::Label>,
    pub(crate) process: Process,
    pub(crate) hosts: Vec<Host>,
    pub(crate) volumes: Vec<VolumeState>,
    /// What is being deleted in the end, and what is said of it.
    pub(crate) account: Option<Account>,
    /// Snapshots taken together.
    pub(crate) cuts: Vec<Cut>,
    /// Who keeps to schedules.
    pub(crate) keeper: Keeper,
    pub(crate) operator: Operator,
    pub(crate) checks: Checks,
    pub(crate) phase: Phase,
    pub(crate) calm_since: u64,
    pub(crate) next_number: u32,
    pub(crate) next_door: u64,
    pub(crate) next_io: u64,
    /// Requests of doors whose client is gone: they may still happen.
    pub(crate) orphans: BTreeMap<u64, Vec<(usize, crate::host::Request)>>,
    pub(crate) counts: Counts,
    pub(crate) verdict: Option<Violation>,
}

impl World {
    /// The world of a plan, at its start.
    #[must_use]
    pub fn new(plan: Plan, printed: bool) -> Self {
        let mut random = Random::new(plan.seed);
        let disks: Vec<_> = plan
            .disks
            .iter()
            .map(|disk| {
                let mut made = SimDisk::new(disk.size_bytes, disk.sector_bytes, random.fork());
                made.faults = plan.disk_faults;
                made
            })
            .collect();
        let volumes: Vec<_> = plan
            .volumes
            .iter()
            .enumerate()
            .map(|(index, volume)| VolumeState::new(Kind::Planned, volume.clone(), format!("v{index}-0")))
            .collect();
        let mut hosts = Vec::new();
        for (index, volume) in plan.volumes.iter().enumerate() {
            for _ in 0..volume.hosts {
                hosts.push(Host::new(index, plan.depth as usize, plan.operations));
            }
        }
        let process = Process::new(&plan, plan.crashes.first().map(|crash| (crash.after_effects, crash.power_cut)));
        Self {
            operator: Operator::new(&plan),
            keeper: Keeper::new(plan.seed),
            random,
            now: 1_000_000,
            tick: 0,
            queue: Queue::default(),
            fabric: Fabric::default(),
            clock: Clock::default(),
            life: 0,
            trace: Trace::new(printed),
            disks,
            store: MemoryStore::new(),
            labels: vec![None; plan.disks.len()],
            process,
            hosts,
            volumes,
            account: None,
            cuts: Vec::new(),
            checks: Checks::default(),
            phase: Phase::Storm,
            calm_since: 0,
            next_number: 0,
            next_door: 0,
            next_io: 0,
            orphans: BTreeMap::new(),
            counts: Counts::default(),
            verdict: None,
            plan,
        }
    }

    /// Runs to the end, or to the first broken promise.
    pub fn run(&mut self) {
        self.begin();
        for _ in 0..self.plan.clock_jumps {
            let at = self.now + self.random.below(500_000_000);
            self.queue.push(at, (u32::MAX, Happening::ClockJumps));
        }
        for _ in 0..self.plan.agent_deaths {
            let at = self.now + self.random.below(200_000_000);
            self.queue.push(at, (u32::MAX, Happening::AgentDies));
        }
        while self.verdict.is_none() && self.phase != Phase::Over {
            let Some((at, (life, happening))) = self.queue.pop() else {
                self.stuck("nothing is on its way");
                break;
            };
            self.now = self.now.max(at);
            if life != u32::MAX && life != self.life {
                continue;
            }
            self.happen(happening);
            if self.process.dead {
                self.crash();
            }
            self.advance();
            if self.phase > Phase::Storm && self.now - self.calm_since > REST_NANOS_MAX {
                self.stuck("it is long past the last fault");
            }
            if self.trace.events() > EVENTS_MAX {
                self.stuck("it goes round in circles");
            }
        }
    }

    fn stuck(&mut self, why: &str) {
        let waiting: Vec<_> = (self.hosts.iter().enumerate())
            .filter(|(_, host)| !host.is_done())
            .map(|(index, host)| {
                let oldest = host.in_flight.values().min_by_key(|request| request.invoked);
                format!("host {index} ({:?}, {} in flight, oldest {oldest:?})", host.link, host.in_flight.len())
            })
            .collect();
        let attached: Vec<_> = (self.process.agents.iter())
            .filter(|agent| !agent.engine.is_drained())
            .map(|agent| format!("agent {} has {:?}", agent.number, agent.engine.reports()))
            .collect();
        let detail = format!(
            "{why} in phase {:?}, and there wait: {}; {}; the operator: {:?}",
            self.phase,
            waiting.join("; "),
            attached.join("; "),
            self.operator
        );
        self.fail(Violation::new(Invariant::FaultAlwaysEnds, detail));
    }

    /// A promise is broken. The first counts.
    pub(crate) fn fail(&mut self, violation: Violation) {
        self.trace.tell(self.now, || format!("VIOLATION {violation}"));
        self.verdict.get_or_insert(violation);
    }

    pub(crate) fn check(&mut self, result: Result<(), Violation>) {
        if let Err(violation) = result {
            self.fail(violation);
        }
    }

    /// The next moment, as the oracle counts.
    pub(crate) fn next_tick(&mut self) -> Tick {
        self.tick += 1;
        self.tick
    }

    /// `happening` comes in this life of the process, `delay` from now.
    pub(crate) fn later(&mut self, delay: u64, happening: Happening) {
        self.queue.push(self.now + delay, (self.life, happening));
    }

    fn happen(&mut self, happening: Happening) {
        let (now, engine_now) = (self.now, self.clock.engine_time(self.now));
        match happening {
            Happening::HostSteps(host) => self.host_steps(host),
            Happening::ToServer { door, bytes } => self.server_hears(door, &bytes),
            Happening::ClientGone { door } => self.client_gone(door),
            Happening::ToClient { host, door, bytes } => self.client_hears(host, door, &bytes),
            Happening::ServerGone { host, door } => self.server_gone(host, door),
            Happening::NodeAsked { agent, request } => self.node_asked(agent, request),
            Happening::NodeAnswered { agent, reply } => self.node_answered(agent, reply),
            Happening::ControllerAsked { agent, message } => self.controller_asked(agent, message),
            Happening::AgentTold { agent, message } => self.agent_told(agent, message),
            Happening::AgentDies => self.agent_dies(),
            Happening::AgentMissed(agent) => self.agent_missed(agent),
            Happening::NodeTold { node, command } => self.node_told(node, command),
            Happening::NodeReported { node, report } => self.node_reported(node, report),
            Happening::DiskDone { node, disk, key } => self.disk_done(node, disk, key),
            Happening::StoreTurns => self.store_turns(),
            Happening::ScanTurns { id, ranges } => self.scan_turns(id, &ranges),
            Happening::ControllerTold(event) => self.controller_step(*event),
            Happening::AttachWanted(volume) => self.attach_wanted(volume),
            Happening::AgentDue(agent) => {
                self.process.agents[agent].due = None;
                let deadline = self.process.agents[agent].engine.next_deadline(engine_now);
                if deadline.is_some_and(|deadline| deadline <= engine_now) {
                    self.trace.note(now, "agent due", [agent as u64, 0, 0]);
                    self.agent_step(agent, agent::Event::Tick);
                } else {
                    self.plan_tick(agent);
                }
            }
            Happening::ControllerDue => self.controller_due(),
            Happening::OperatorActs => self.operator_acts(),
            Happening::ClockJumps => {
                self.clock.jumped_nanos += self.random.below(1 << self.random.clone().between(20, 45));
                self.trace.note(now, "clock jumps", [self.clock.jumped_nanos, 0, 0]);
                for agent in 0..self.process.agents.len() {
                    self.later(0, Happening::AgentDue(agent));
                }
                self.later(0, Happening::ControllerDue);
            }
        }
    }

    /// Goes on to the next phase when this one is over.
    fn advance(&mut self) {
        if self.process.dead || !self.operator.is_ready() || self.verdict.is_some() {
            return;
        }
        match self.phase {
            Phase::Storm if self.hosts.iter().all(Host::is_done) && self.operator.is_idle() => self.calm_down(),
            Phase::Reading if self.hosts.iter().all(Host::is_done) => {
                self.phase = Phase::Emptying;
                if self.plan.empties {
                    self.say_farewell();
                }
            }
            Phase::Emptying if self.hosts.iter().all(Host::is_done) => self.leave(),
            Phase::Leaving if self.process.agents.iter().all(|agent| agent.engine.is_drained()) => {
                if self.plan.accounts {
                    self.begin_accounting();
                } else {
                    self.finish();
                }
            }
            _ => {}
        }
    }
}

impl AgentShell {
    pub(crate) fn new(plan: &Plan, number: usize) -> Self {
        let config = AgentConfig {
            planted: PlantedBug::agent(plan.planted),
            table_bytes_max: plan.table_bytes_max,
            ..AgentConfig::default()
        };
        Self { number, engine: Agent::new(config), buffers: BufferPool::new(4 << 20), due: None }
    }
}

impl Process {
    pub(crate) fn new(plan: &Plan, crash: Option<(u64, bool)>) -> Self {
        let agents = (0..plan.agents as usize).map(|number| AgentShell::new(plan, number)).collect();
        let nodes = (0..plan.agents).map(|_| Node::with_planted(CLUSTER, PlantedBug::node(plan.planted))).collect();
        Self {
            agents,
            known_dead: BTreeSet::new(),
            nodes,
            control: Control::new(plan),
            doors: BTreeMap::new(),
            tickets: BTreeMap::new(),
            server_config: Arc::new(ServerConfig::default()),
            crash,
            effects: 0,
            serving: false,
            dead: false,
        }
    }
}
