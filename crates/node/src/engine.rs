//! The engine: requests in, disk operations out, replies back.

use crate::commands::Commands;
use crate::disk::{DiskCounters, Disks};
use crate::event::{DiskIoId, Effect, Event, Operation};
use crate::flight::{Flights, Purpose};
use crate::planted::{Bug, Planted};
use crate::sessions::Sessions;
use model::{ClusterId, DiskId, IoBuffer, IoError, Term, Time};
use wire::{AgentId, Credentials, DiskOperation, NodeReply, NodeRequest};

/// One shard of a node.
#[derive(Debug)]
pub struct Node {
    cluster: ClusterId,
    pub(crate) term: Term,
    pub(crate) disks: Disks,
    pub(crate) sessions: Sessions,
    pub(crate) flights: Flights,
    pub(crate) commands: Commands,
    pub(crate) planted: Planted,
}

impl Node {
    /// A node of `cluster` without disks.
    #[must_use]
    pub fn new(cluster: ClusterId) -> Self {
        Self::with_planted(cluster, Planted::default())
    }

    /// The same, with bugs planted for the simulator to find.
    #[must_use]
    pub fn with_planted(cluster: ClusterId, planted: Planted) -> Self {
        Self {
            cluster,
            term: Term::default(),
            disks: Disks::default(),
            sessions: Sessions::default(),
            flights: Flights::default(),
            commands: Commands::default(),
            planted,
        }
    }

    /// Takes one event and appends what is to be done about it to `effects`, in order.
    ///
    /// # Panics
    /// When the shell reports a completion twice, or one that was never asked for. Nothing an agent or a controller says
    /// can bring that about.
    pub fn step(&mut self, _now: Time, event: Event, effects: &mut Vec<Effect>) {
        match event {
            Event::FromAgent(agent, request) => self.request(agent, request, effects),
            Event::FromController(command) => self.command(command, effects),
            Event::DiskCompleted { id, result, buffer } => self.completed(id, result, buffer, effects),
            Event::DiskFailed(disk) => {
                if let Some(disk) = self.disks.get(disk) {
                    disk.flush_failed = true;
                }
            }
        }
    }

    /// How many disk operations are in flight.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.flights.len()
    }

    /// What was asked of each disk ever in service here, and whether it takes no more writes because a flush failed;
    /// ascending by id.
    pub fn counters(&self) -> impl Iterator<Item = (DiskId, DiskCounters, bool)> {
        self.disks.iter().map(|disk| (disk.id, disk.counters, disk.flush_failed))
    }

    fn request(&mut self, agent: AgentId, request: NodeRequest, effects: &mut Vec<Effect>) {
        let NodeRequest { id, credentials, disk, operation } = request;
        let admitted = self.admit(credentials, disk, &operation);
        let flush = matches!(operation, DiskOperation::Flush);
        if admitted.is_err() || (flush && self.planted.has(Bug::FlushLies)) {
            let buffer = match operation {
                DiskOperation::Read { buffer, .. } => Some(buffer),
                _ => None,
            };
            effects.push(Effect::ToAgent(agent, NodeReply { id, result: admitted, buffer }));
            return;
        }
        self.sessions.begin(credentials.epoch);
        let io = self.flights.insert(Purpose::Request { agent, id, epoch: credentials.epoch, disk, flush });
        effects.push(Effect::DiskIo { id: io, disk, operation: Operation::from(operation) });
    }

    /// Whether a request may go to its disk. Who asks is settled first: a stale holder learns nothing else.
    fn admit(&mut self, credentials: Credentials, disk: DiskId, operation: &DiskOperation) -> Result<(), IoError> {
        if credentials.cluster != self.cluster || credentials.term < self.term {
            return Err(IoError::Fenced);
        }
        if self.sessions.is_fenced(credentials.epoch) {
            return Err(IoError::Fenced);
        }
        self.term = credentials.term;
        self.disks.get(disk).ok_or(IoError::Device)?.admit(operation)
    }

    fn completed(
        &mut self,
        id: DiskIoId,
        result: Result<(), IoError>,
        buffer: Option<IoBuffer>,
        effects: &mut Vec<Effect>,
    ) {
        let purpose = self.flights.remove(id);
        let (Purpose::Request { disk, .. } | Purpose::Prepare { disk, .. }) = purpose;
        if result.is_err()
            && let Some(disk) = self.disks.get(disk)
        {
            disk.counters.errors += 1;
        }
        match purpose {
            Purpose::Request { agent, id, epoch, disk, flush } => {
                let result = if flush { self.believe_flush(disk, result, effects) } else { result };
                effects.push(Effect::ToAgent(agent, NodeReply { id, result, buffer }));
                if self.sessions.end(epoch) {
                    self.commands.fences_done(effects);
                }
            }
            Purpose::Prepare { command, .. } => self.commands.prepare_part_done(command, result, effects),
        }
    }

    /// What a flush's outcome means. A failed one fails its disk for good, and with it every flush that overlapped: the
    /// data of an earlier write may be lost although the disk calls a later flush a success.
    fn believe_flush(
        &mut self,
        disk: DiskId,
        result: Result<(), IoError>,
        effects: &mut Vec<Effect>,
    ) -> Result<(), IoError> {
        if self.planted.has(Bug::FlushRetried) {
            return result;
        }
        let state = self.disks.get(disk).expect("a disk is remembered while the process lives");
        if result.is_err() && !state.flush_failed {
            state.flush_failed = true;
            effects.push(Effect::DiskFailed(disk));
        }
        if state.flush_failed { Err(IoError::Device) } else { Ok(()) }
    }
}
