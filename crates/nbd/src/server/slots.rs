//! The requests of a connection that are not yet answered.

use super::event::{ContextSet, RequestId};

/// What has to be remembered of a request to answer it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slot {
    pub(super) cookie: u64,
    pub(super) offset: u64,
    pub(super) length: u64,
    pub(super) command: u16,
    pub(super) flags: u16,
    pub(super) contexts: ContextSet,
    /// The memory it stands for while it waits, in bytes.
    pub(super) memory_bytes: usize,
}

/// A dense table of them; places are used again.
#[derive(Debug, Default)]
pub(super) struct Slots {
    places: Vec<Option<Slot>>,
    free: Vec<u32>,
    memory_bytes: usize,
}

impl Slots {
    pub(super) fn count(&self) -> usize {
        self.places.len() - self.free.len()
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.memory_bytes
    }

    pub(super) fn insert(&mut self, slot: Slot) -> RequestId {
        self.memory_bytes += slot.memory_bytes;
        if let Some(place) = self.free.pop() {
            self.places[place as usize] = Some(slot);
            return RequestId(place);
        }
        self.places.push(Some(slot));
        RequestId(self.places.len() as u32 - 1)
    }

    /// Takes a request out to answer it.
    ///
    /// # Panics
    /// When it was answered before.
    pub(super) fn take(&mut self, id: RequestId) -> Slot {
        let slot = self.places.get_mut(id.0 as usize).and_then(Option::take);
        let slot = slot.expect("a request is answered once");
        self.memory_bytes -= slot.memory_bytes;
        self.free.push(id.0);
        slot
    }
}
