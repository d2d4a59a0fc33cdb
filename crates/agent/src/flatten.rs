//! Flattening: what a volume shares with older views is copied to places of its own, in the background.

use crate::context::Context;
use crate::flush::Waiter;
use crate::merge::Purpose;
use crate::volume::Volume;
use mapping::EntryView;
use model::{Generation, IoError, RegionIndex};
use std::collections::VecDeque;
use wire::{CommandId, OrderOutcome};

/// Regions copied at once.
const REGIONS_AT_ONCE: u32 = 4;

/// An order to flatten.
#[derive(Debug)]
struct Flatten {
    command: CommandId,
    through: Generation,
    /// All regions before this one are done, or under way.
    cursor: u64,
    under_way: u32,
    failed: bool,
}

/// The orders to flatten, in order; the first is under way.
#[derive(Debug, Default)]
pub(crate) struct Flattens {
    orders: VecDeque<Flatten>,
}

impl Flattens {
    pub(crate) fn is_idle(&self) -> bool {
        self.orders.is_empty()
    }
}

impl Volume {
    pub(crate) fn flatten(&mut self, context: &mut Context<'_>, command: CommandId, through: Generation) {
        if self.leaving.is_some() {
            return self.order_done(context, command, OrderOutcome::Failed);
        }
        self.flattens.orders.push_back(Flatten { command, through, cursor: 0, under_way: 0, failed: false });
        self.flatten_on(context);
    }

    /// Begins as many copies as there may be at once.
    pub(crate) fn flatten_on(&mut self, context: &mut Context<'_>) {
        while self.freeze.is_open() && self.leaving.is_none() {
            let Some(flatten) = self.flattens.orders.front_mut() else { return };
            let (command, through) = (flatten.command, flatten.through);
            let regions = self.attachment.region_size.regions_in(self.attachment.size_bytes);
            let at_end = flatten.failed || flatten.cursor >= regions;
            if at_end && flatten.under_way == 0 {
                let failed = flatten.failed;
                self.flattens.orders.pop_front();
                if failed {
                    self.order_done(context, command, OrderOutcome::Failed);
                } else {
                    self.flush_for(context, Waiter::Order(command));
                }
                continue;
            }
            if at_end || flatten.under_way >= REGIONS_AT_ONCE {
                return;
            }
            let region = RegionIndex(flatten.cursor);
            let (view, count) = self.table.span(region);
            if matches!(view, EntryView::NotLoaded | EntryView::Invalid) {
                self.fault(context, region.page());
                return;
            }
            // Storage that is lost cannot be copied, and what its entry names is not known.
            if view == EntryView::Error {
                flatten.failed = true;
                continue;
            }
            if !has_layer_through(view, through) {
                flatten.cursor += count;
                continue;
            }
            flatten.cursor += 1;
            flatten.under_way += 1;
            match self.try_merge(context, region, Purpose::Flatten(command)) {
                Ok(true) => {}
                Ok(false) => {
                    self.merges.wanted.insert(region, Purpose::Flatten(command));
                }
                Err(error) => self.flatten_step_ended(command, Err(error)),
            }
        }
    }

    /// Whether the region is still to be copied for that order.
    pub(crate) fn is_to_flatten(&self, command: CommandId, region: RegionIndex) -> bool {
        let order = self.flattens.orders.front().filter(|flatten| flatten.command == command);
        order.is_some_and(|flatten| has_layer_through(self.table.entry(region), flatten.through))
    }

    /// A region was copied, or failed to be.
    pub(crate) fn flatten_step_ended(&mut self, command: CommandId, result: Result<(), IoError>) {
        if let Some(flatten) = self.flattens.orders.front_mut().filter(|flatten| flatten.command == command) {
            flatten.under_way -= 1;
            flatten.failed |= result.is_err();
        }
    }

    /// The volume is on its way out, or is to be left as it is: what is not done is not done.
    pub(crate) fn end_flattens(&mut self, context: &mut Context<'_>) {
        for flatten in std::mem::take(&mut self.flattens.orders) {
            self.order_done(context, flatten.command, OrderOutcome::Failed);
        }
        self.merges.wanted.retain(|_, purpose| !matches!(purpose, Purpose::Flatten(_)));
    }
}

/// Whether the entry names a layer born at or before `through`.
fn has_layer_through(view: EntryView<'_>, through: Generation) -> bool {
    match view {
        EntryView::Full { born, .. } | EntryView::Partial { born, .. } => born <= through,
        EntryView::Stack(layers) => layers.iter().any(|layer| layer.born <= through),
        EntryView::NotLoaded | EntryView::Invalid | EntryView::Error | EntryView::Zero => false,
    }
}
