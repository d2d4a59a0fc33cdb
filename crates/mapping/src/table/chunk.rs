//! Slots of pages, 1,024 at a time.

use crate::page::TablePage;
use crate::view::Extent;
use std::cell::Cell;

/// How many pages a chunk has slots for.
pub(super) const CHUNK_PAGES: usize = 1024;
/// What its slots occupy, in bytes.
pub(super) const BYTES: usize = CHUNK_PAGES * std::mem::size_of::<PageSlot>();

/// What the table holds of one page.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum PageSlot {
    NotLoaded,
    Zero,
    Extent(Extent),
    Runs(Box<TablePage>),
}

const _: () = assert!(std::mem::size_of::<PageSlot>() == 24);
// A lookup finds the mark beside the pointer that it follows anyway.
const _: () = assert!(std::mem::size_of::<Option<Chunk>>() == 16);

impl PageSlot {
    pub(super) fn is_loaded(&self) -> bool {
        !matches!(self, Self::NotLoaded)
    }

    pub(super) fn is_runs(&self) -> bool {
        matches!(self, Self::Runs(_))
    }

    /// What it occupies beside the slot.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Runs(page) => std::mem::size_of::<TablePage>() + page.heap_bytes(),
            _ => 0,
        }
    }

    pub(super) fn recounted_bytes(&self) -> usize {
        match self {
            Self::Runs(page) => std::mem::size_of::<TablePage>() + page.recounted_heap_bytes(),
            _ => 0,
        }
    }
}

/// The slots of pages that follow one another.
#[derive(Clone, Debug)]
pub(super) struct Chunk {
    pub(super) slots: Box<[PageSlot; CHUNK_PAGES]>,
    /// How many of them are loaded.
    pub(super) loaded: u16,
    /// How many of those hold runs.
    pub(super) runs: u16,
    /// Looked up since the table's hand came past.
    pub(super) referenced: Cell<bool>,
}

impl Chunk {
    pub(super) fn new() -> Self {
        let slots = vec![PageSlot::NotLoaded; CHUNK_PAGES].into_boxed_slice();
        let slots = slots.try_into().unwrap_or_else(|_| unreachable!("it was made of that size"));
        Self { slots, loaded: 0, runs: 0, referenced: Cell::new(true) }
    }

    /// A slot that somebody looks up, and the chunk's mark. (A page with runs is marked by who looks into it.)
    #[inline(always)]
    pub(super) fn slot(&self, index: usize) -> &PageSlot {
        mark(&self.referenced);
        &self.slots[index]
    }
}

/// A cache line that everybody reads is not written to without need.
#[inline(always)]
pub(super) fn mark(referenced: &Cell<bool>) {
    if !referenced.get() {
        referenced.set(true);
    }
}
