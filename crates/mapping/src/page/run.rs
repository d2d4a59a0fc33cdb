//! A run of a table page, in 32 bytes.

use crate::view::{EntryView, Extent};
use model::{Generation, Layer, LayerStack, RegionSize};

/// Neighbouring slots that one value describes. Only the kinds with a `count` are longer than one slot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Run {
    Full {
        first: u16,
        count: u16,
        extent: Extent,
    },
    Partial {
        first: u16,
        extent: Extent,
        blocks: u64,
    },
    /// With when the youngest of its places was allocated, so that nobody has to look into the box for that.
    Stack {
        first: u16,
        newest: Generation,
        layers: Box<LayerStack>,
    },
    Error {
        first: u16,
        count: u16,
    },
    Invalid {
        first: u16,
        count: u16,
    },
}

const _: () = assert!(std::mem::size_of::<Run>() == 32);

impl Run {
    pub(super) fn first(&self) -> u16 {
        match self {
            Self::Full { first, .. }
            | Self::Partial { first, .. }
            | Self::Stack { first, .. }
            | Self::Error { first, .. }
            | Self::Invalid { first, .. } => *first,
        }
    }

    pub(super) fn end(&self) -> u16 {
        match self {
            Self::Full { first, count, .. } | Self::Error { first, count } | Self::Invalid { first, count } => {
                first + count
            }
            Self::Partial { first, .. } | Self::Stack { first, .. } => first + 1,
        }
    }

    /// Its part from slot `from` to slot `end`, both within it.
    pub(super) fn part(&self, from: u16, end: u16, size: RegionSize) -> Self {
        match self {
            Self::Full { first, extent, .. } => {
                Self::Full { first: from, count: end - from, extent: extent.skip(u32::from(from - first), size) }
            }
            Self::Error { .. } => Self::Error { first: from, count: end - from },
            Self::Invalid { .. } => Self::Invalid { first: from, count: end - from },
            Self::Partial { .. } | Self::Stack { .. } => self.clone(),
        }
    }

    /// Takes `next` in, if it goes on where this run ends; tells whether it did.
    pub(super) fn absorb(&mut self, next: &Self, size: RegionSize) -> bool {
        if self.end() != next.first() {
            return false;
        }
        match (self, next) {
            (Self::Full { count, extent, .. }, Self::Full { count: more, extent: next, .. })
                if extent.continues_in(u32::from(*count), *next, size) =>
            {
                *count += more;
                true
            }
            (Self::Error { count, .. }, Self::Error { count: more, .. })
            | (Self::Invalid { count, .. }, Self::Invalid { count: more, .. }) => {
                *count += more;
                true
            }
            _ => false,
        }
    }

    /// What it occupies beside its place among the runs, in bytes.
    pub(super) fn stack_bytes(&self) -> u32 {
        match self {
            Self::Stack { layers, .. } => heap_bytes(layers),
            _ => 0,
        }
    }

    pub(super) fn view(&self, slot: u16, size: RegionSize) -> EntryView<'_> {
        match self {
            Self::Full { first, count, extent } => {
                let Extent { place, born, written } = extent.skip(u32::from(slot - first), size);
                EntryView::Full { place, born, written, run_left: u32::from(first + count - slot) }
            }
            Self::Partial { extent: Extent { place, born, written }, blocks, .. } => {
                EntryView::Partial { place: *place, born: *born, written: *written, blocks: *blocks }
            }
            Self::Stack { layers, .. } => EntryView::Stack(layers),
            Self::Error { .. } => EntryView::Error,
            Self::Invalid { .. } => EntryView::Invalid,
        }
    }
}

/// What a stack in a box occupies, in bytes.
pub(super) fn heap_bytes(layers: &LayerStack) -> u32 {
    let spilled = if layers.spilled() { layers.capacity() * std::mem::size_of::<Layer>() } else { 0 };
    let words = layers.iter().map(|layer| layer.blocks.words().len()).filter(|words| *words > 1);
    (std::mem::size_of::<LayerStack>() + spilled + words.sum::<usize>() * 8) as u32
}
