//! Messages under way: every pair's in order, each after a delay of its own.

use model::Time;
use std::collections::BTreeMap;
use wire::{AgentMessage, ControllerMessage, NodeCommand, NodeReply, NodeReport, NodeRequest};

/// Something that will happen.
#[derive(Debug)]
pub(crate) enum Happening {
    /// A host goes on.
    HostSteps(usize),
    /// Bytes of a client come to its door.
    ToServer { door: u64, bytes: Vec<u8> },
    /// The client's end is closed.
    ClientGone { door: u64 },
    /// Bytes of the server come to a client.
    ToClient { host: usize, door: u64, bytes: Vec<u8> },
    /// The server's end is closed.
    ServerGone { host: usize, door: u64 },
    /// From an agent to its node.
    NodeAsked { agent: usize, request: NodeRequest },
    /// From a node to its agent.
    NodeAnswered { agent: usize, reply: NodeReply },
    /// From an agent to the controller.
    ControllerAsked { agent: usize, message: AgentMessage },
    /// From the controller to an agent.
    AgentTold { agent: usize, message: ControllerMessage },
    /// From the controller to a node.
    NodeTold { node: usize, command: NodeCommand },
    /// From a node to the controller.
    NodeReported { node: usize, report: NodeReport },
    /// A disk is done with something.
    DiskDone { node: usize, disk: usize, key: usize },
    /// The store gets to what waits for it.
    StoreTurns,
    /// The store gets to a scan.
    ScanTurns { id: controller::ScanId, ranges: Vec<controller::ScanRange> },
    /// The controller is told of something by its shell.
    ControllerTold(Box<controller::Event>),
    /// The controller wants a volume attached that nobody has.
    AttachWanted(model::VolumeId),
    /// An agent's deadline.
    AgentDue(usize),
    /// The controller's deadline.
    ControllerDue,
    /// The operator does the next thing.
    OperatorActs,
    /// The clock jumps ahead.
    ClockJumps,
    /// One agent dies, alone.
    AgentDies,
    /// The controller is told that an agent died.
    AgentMissed(usize),
}

/// A way that messages take in order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Way {
    ToServer(u64),
    ToClient(u64),
    AgentToNode(usize),
    NodeToAgent(usize),
    AgentToController(usize),
    ControllerToAgent(usize),
    ControllerToNode(usize),
    NodeToController(usize),
}

/// When the last message of each way arrives.
#[derive(Debug, Default)]
pub(crate) struct Fabric {
    arrivals: BTreeMap<Way, u64>,
}

impl Fabric {
    /// When a message arrives that is sent now and takes `delay` if nothing before it holds it up.
    pub(crate) fn arrival(&mut self, way: Way, now: u64, delay: u64) -> u64 {
        let last = self.arrivals.entry(way).or_default();
        *last = (*last).max(now + delay);
        *last
    }
}

/// The engines' clock: virtual time and how far it has jumped.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Clock {
    pub(crate) jumped_nanos: u64,
}

impl Clock {
    pub(crate) fn engine_time(self, now: u64) -> Time {
        Time(now + self.jumped_nanos)
    }

    /// When a deadline of an engine comes, in virtual time.
    pub(crate) fn due(self, deadline: Time, now: u64) -> u64 {
        deadline.0.saturating_sub(self.jumped_nanos).max(now)
    }
}
