//! The controller's commands: disks in and out of service, chunklets prepared, stale holders fenced.

use crate::engine::Node;
use crate::event::{Effect, Operation};
use crate::flight::Purpose;
use crate::planted::Bug;
use model::{DiskId, Epoch, IoError};
use wire::{CommandId, NodeCommand, NodeOrder, NodeReport};

/// Commands not yet reported.
#[derive(Debug, Default)]
pub(crate) struct Commands {
    /// Fences that wait for I/O of fenced sessions to end.
    fences: Vec<CommandId>,
    preparations: Vec<Preparation>,
}

#[derive(Debug)]
struct Preparation {
    command: CommandId,
    parts_left: usize,
    result: Result<(), IoError>,
}

impl Commands {
    /// No I/O of a fenced session is in flight any more.
    pub(crate) fn fences_done(&mut self, effects: &mut Vec<Effect>) {
        effects.extend(self.fences.drain(..).map(|command| report(command, Ok(()))));
    }

    /// One range of a preparation is done; with the last, all of it is.
    pub(crate) fn prepare_part_done(
        &mut self,
        command: CommandId,
        result: Result<(), IoError>,
        effects: &mut Vec<Effect>,
    ) {
        let index = self.preparations.iter().position(|preparation| preparation.command == command);
        let index = index.expect("a preparation is remembered until its last part is done");
        let preparation = &mut self.preparations[index];
        preparation.parts_left -= 1;
        preparation.result = preparation.result.and(result);
        if preparation.parts_left == 0 {
            let done = self.preparations.swap_remove(index);
            effects.push(report(done.command, done.result));
        }
    }
}

impl Node {
    /// Carries out a command of the controller, or begins to.
    pub(crate) fn command(&mut self, command: NodeCommand, effects: &mut Vec<Effect>) {
        let NodeCommand { command, term, order } = command;
        if term < self.term {
            effects.push(report(command, Err(IoError::Fenced)));
            return;
        }
        self.term = term;
        match order {
            NodeOrder::AddDisk { disk, size_bytes, sector_bytes } => {
                effects.push(report(command, self.disks.add(disk, size_bytes, sector_bytes)));
            }
            NodeOrder::RemoveDisk { disk } => effects.push(report(command, self.disks.remove(disk))),
            NodeOrder::Prepare { disk, ranges } => self.prepare(command, disk, &ranges, effects),
            NodeOrder::Fence { floor, epochs } => self.fence(command, floor, &epochs, effects),
        }
    }

    fn prepare(&mut self, command: CommandId, disk: DiskId, ranges: &[(u64, u64)], effects: &mut Vec<Effect>) {
        let checked = match self.disks.get(disk) {
            Some(state) if state.takes_writes() => {
                ranges.iter().try_for_each(|(offset, length)| state.check(*offset, *length))
            }
            _ => Err(IoError::Device),
        };
        // A repeated command is refused while the first is under way: its parts could not be told apart.
        let repeated = self.commands.preparations.iter().any(|preparation| preparation.command == command);
        if checked.is_err() || repeated || ranges.is_empty() {
            let result = checked.and(if repeated { Err(IoError::Invalid) } else { Ok(()) });
            effects.push(report(command, result));
            return;
        }
        self.commands.preparations.push(Preparation { command, parts_left: ranges.len(), result: Ok(()) });
        for (offset, length) in ranges.iter().copied() {
            let id = self.flights.insert(Purpose::Prepare { command, disk });
            effects.push(Effect::DiskIo { id, disk, operation: Operation::Allocate { offset, length } });
        }
    }

    fn fence(&mut self, command: CommandId, floor: Epoch, epochs: &[Epoch], effects: &mut Vec<Effect>) {
        if !self.planted.has(Bug::FenceIgnored) {
            self.sessions.fence(floor, epochs);
        }
        // Until what a stale holder has in flight is over, its writes may still land: the region is not free before.
        // (This may wait for I/O of sessions fenced by other commands too. That ends as well, and no more is admitted.)
        if self.sessions.fenced_in_flight() == 0 || self.planted.has(Bug::FenceNotDrained) {
            effects.push(report(command, Ok(())));
        } else {
            self.commands.fences.push(command);
        }
    }
}

fn report(command: CommandId, result: Result<(), IoError>) -> Effect {
    Effect::ToController(NodeReport { command, result })
}
