//! The disk operations in flight: a slab, so that none costs an allocation.

use crate::event::DiskIoId;
use model::{DiskId, Epoch};
use wire::{AgentId, CommandId, NodeRequestId};

/// Whom an operation's completion concerns.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Purpose {
    /// An agent's request.
    Request { agent: AgentId, id: NodeRequestId, epoch: Epoch, disk: DiskId, flush: bool },
    /// A part of a command to prepare chunklets.
    Prepare { command: CommandId, disk: DiskId },
}

/// The operations in flight.
#[derive(Debug, Default)]
pub(crate) struct Flights {
    slots: Vec<Slot>,
    free: Vec<u32>,
}

#[derive(Debug)]
struct Slot {
    /// How often the slot was used before: the upper half of an operation's id.
    round: u32,
    purpose: Option<Purpose>,
}

impl Flights {
    /// An operation takes off.
    pub(crate) fn insert(&mut self, purpose: Purpose) -> DiskIoId {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot { round: 0, purpose: None });
            u32::try_from(self.slots.len() - 1).expect("fewer than four thousand million operations are in flight")
        });
        let slot = &mut self.slots[index as usize];
        slot.purpose = Some(purpose);
        DiskIoId(u64::from(slot.round) << 32 | u64::from(index))
    }

    /// An operation lands.
    ///
    /// # Panics
    /// When it is not in flight: the shell reported a completion twice, or one that nobody asked for.
    pub(crate) fn remove(&mut self, id: DiskIoId) -> Purpose {
        let index = id.0 as u32;
        let slot = self.slots.get_mut(index as usize).filter(|slot| u64::from(slot.round) == id.0 >> 32);
        let slot = slot.expect("a completion names an operation in flight");
        let purpose = slot.purpose.take().expect("no operation completes twice");
        slot.round = slot.round.wrapping_add(1);
        self.free.push(index);
        purpose
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }
}
