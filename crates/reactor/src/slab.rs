//! A table of reused slots whose contents never move in memory while they are taken.

/// Slots by id. An id names one use of a slot: after its release it names nothing, though the slot serves again.
///
/// A slot's content is not dropped on release, so that what it has grown (lists, say) serves its next user.
pub(crate) struct Slab<T> {
    slots: Vec<Box<Slot<T>>>,
    free: Vec<u32>,
}

struct Slot<T> {
    generation: u32,
    taken: bool,
    content: T,
}

impl<T: Default> Slab<T> {
    pub(crate) fn new() -> Self {
        Self { slots: Vec::new(), free: Vec::new() }
    }

    /// How many slots are taken.
    pub(crate) fn taken(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Takes a slot.
    pub(crate) fn take(&mut self) -> (u64, &mut T) {
        let index = self.free.pop().unwrap_or_else(|| {
            let index = u32::try_from(self.slots.len()).expect("operations in flight are counted in 32 bits");
            self.slots.push(Box::new(Slot { generation: 0, taken: false, content: T::default() }));
            index
        });
        let slot = &mut self.slots[index as usize];
        slot.taken = true;
        (u64::from(slot.generation) << 32 | u64::from(index), &mut slot.content)
    }

    /// The content of a taken slot.
    ///
    /// # Panics
    /// When the id names none.
    pub(crate) fn get_mut(&mut self, id: u64) -> &mut T {
        &mut self.slot(id).content
    }

    /// Frees a slot and shows its content a last time.
    ///
    /// # Panics
    /// When the id names none.
    pub(crate) fn release(&mut self, id: u64) -> &mut T {
        self.slot(id);
        self.free.push(id as u32);
        let slot = &mut self.slots[id as u32 as usize];
        slot.taken = false;
        // The last generation is left out: ids with it would reach into the numbers kept for the reactor's own use.
        slot.generation = (slot.generation + 1) % u32::MAX;
        &mut slot.content
    }

    /// The taken slots.
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (u64, &mut T)> {
        self.slots.iter_mut().enumerate().filter(|(_, slot)| slot.taken).map(|(index, slot)| {
            let id = u64::from(slot.generation) << 32 | index as u64;
            (id, &mut slot.content)
        })
    }

    fn slot(&mut self, id: u64) -> &mut Slot<T> {
        let slot = &mut self.slots[id as u32 as usize];
        assert!(slot.taken && u64::from(slot.generation) == id >> 32, "completion {id:#x} of no operation in flight");
        slot
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_serves_again_under_another_id_and_does_not_move() {
        let mut slab = Slab::<Vec<u8>>::new();
        let (first, content) = slab.take();
        content.push(7);
        let address = std::ptr::from_mut(content);
        for _ in 0..100 {
            slab.take();
        }
        assert_eq!(std::ptr::from_mut(slab.get_mut(first)), address);
        assert_eq!((slab.taken(), slab.iter_mut().count()), (101, 101));
        slab.release(first).clear();
        let (second, _) = slab.take();
        assert_ne!(first, second);
        assert_eq!(first as u32, second as u32, "the same slot");
    }

    #[test]
    #[should_panic(expected = "no operation in flight")]
    fn an_id_that_was_released_names_nothing() {
        let mut slab = Slab::<u8>::new();
        let (id, _) = slab.take();
        slab.release(id);
        slab.take();
        slab.get_mut(id);
    }
}
