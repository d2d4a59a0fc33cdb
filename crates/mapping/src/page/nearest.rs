//! What lies nearest to a region, for others to lie beside.

use super::run::Run;
use super::{SLOTS, TablePage};
use crate::stack;
use model::{DiskRegion, Generation, Place, RegionSize};

/// On one side of a slot: the nearest place that takes writes, and the nearest that a snapshot sees, if that is nearer
/// still; each with its slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Nearest {
    /// The nearest region with a place that no snapshot sees, and that place.
    pub taking: Option<(u16, DiskRegion)>,
    /// The nearest region before that one with a place that a snapshot sees, and that place.
    pub frozen: Option<(u16, DiskRegion)>,
}

impl Nearest {
    /// Looks at what the slot `at` of a run says; whether that is the end of the search.
    fn look(&mut self, run: &Run, at: u16, frozen_through: Generation, size: RegionSize) -> bool {
        let (place, takes_writes) = match run {
            Run::Full { first, extent, .. } => {
                (Some(extent.skip(u32::from(at - first), size).place), !stack::is_frozen(extent.born, frozen_through))
            }
            Run::Partial { extent, .. } => (Some(extent.place), !stack::is_frozen(extent.born, frozen_through)),
            Run::Stack { newest, layers, .. } => {
                if !stack::is_frozen(*newest, frozen_through) {
                    (stack::write_layer(layers, frozen_through), true)
                } else if self.frozen.is_none() {
                    let bottom = layers.last().and_then(|layer| match layer.place {
                        Place::Region(place) => Some(place),
                        Place::Zero => None,
                    });
                    (bottom, false)
                } else {
                    (None, false)
                }
            }
            Run::Error { .. } | Run::Invalid { .. } => (None, false),
        };
        if takes_writes {
            self.taking = place.map(|place| (at, place));
        } else {
            self.frozen = self.frozen.or(place.map(|place| (at, place)));
        }
        takes_writes
    }
}

impl TablePage {
    /// What lies nearest to `slot` on its left, no further than `first`. Looks at runs, not at slots, and into a stack only
    /// where it has a place to give.
    #[must_use]
    pub fn nearest_left(&self, slot: u16, first: u16, frozen_through: Generation) -> Nearest {
        let mut nearest = Nearest::default();
        let end = self.find(slot).map_or_else(|index| index, |index| index + 1);
        for run in self.runs[..end].iter().rev() {
            let behind = run.end().min(slot);
            if behind <= first {
                break;
            }
            if behind > run.first() && nearest.look(run, behind - 1, frozen_through, self.size) {
                break;
            }
        }
        nearest
    }

    /// What lies nearest to `slot` on its right, before `end`.
    #[must_use]
    pub fn nearest_right(&self, slot: u16, end: u16, frozen_through: Generation) -> Nearest {
        debug_assert!(end <= SLOTS);
        let mut nearest = Nearest::default();
        let start = self.find(slot).unwrap_or_else(|index| index);
        for run in &self.runs[start..] {
            let at = run.first().max(slot + 1);
            if at >= end {
                break;
            }
            if at < run.end() && nearest.look(run, at, frozen_through, self.size) {
                break;
            }
        }
        nearest
    }
}
