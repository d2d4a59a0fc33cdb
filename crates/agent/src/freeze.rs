//! Snapshots at the agent: writes held back for the moment one is of, and what is frozen from then on.
//!
//! Between the end of the last write before and the beginning of the next generation nothing changes the map, so that what
//! is noted then is what the snapshot sees. How long that takes depends on writes in flight alone: no device is flushed and
//! nothing is committed while writes are held. They go on above what was noted, and what they change is committed only
//! after the thaw, when the snapshot is durable or was given up. A volume that holds still never goes on by itself.

use crate::context::Context;
use crate::flush::Waiter;
use crate::planted::Bug;
use crate::volume::{Leaving, Volume};
use model::{Generation, IoError, Time};
use wire::{CommandId, OrderOutcome};

/// How far a freeze has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Stage {
    /// Writes go on.
    #[default]
    Open,
    /// New writes are held, those that have begun go on to their end.
    Draining,
    /// Nothing is under way, and nothing changes.
    Still,
    /// The next generation has begun and writes go on; what was noted of the last one is being made durable.
    Committing,
    /// Until the thaw. `complete`: what was noted is durable.
    Committed { complete: bool },
}

/// Whether a volume is frozen, or on its way.
#[derive(Debug, Default)]
pub(crate) struct Freeze {
    stage: Stage,
    /// The order that is not done.
    command: Option<CommandId>,
    /// The generation to begin as soon as nothing is under way.
    begin: Option<Generation>,
    /// Since when writes are held, if they are.
    since: Option<Time>,
    /// The number of the last noting: a thaw may overtake earlier ones.
    noted: u64,
}

impl Freeze {
    /// Whether no snapshot is being taken.
    pub(crate) fn is_open(&self) -> bool {
        self.stage == Stage::Open
    }

    /// Whether a write or trim that has not begun has to wait.
    pub(crate) fn holds(&self) -> bool {
        matches!(self.stage, Stage::Draining | Stage::Still)
    }

    /// Whether nothing may change the map.
    pub(crate) fn is_still(&self) -> bool {
        self.stage == Stage::Still
    }

    /// Whether the next generation has begun and its snapshot is not durable.
    fn has_begun(&self) -> bool {
        matches!(self.stage, Stage::Committing | Stage::Committed { .. })
    }
}

impl Volume {
    /// Layers born up to here are never written.
    pub(crate) fn frozen_through(&self, context: &Context<'_>) -> Generation {
        let through = self.attachment.frozen_through;
        let off_by_one = context.shared.config.planted.has(Bug::WriteInPlaceUnderSnapshot);
        if off_by_one { Generation(through.0.saturating_sub(1)) } else { through }
    }

    /// The snapshot that is being taken must see all of the map as it is noted, and nothing else.
    pub(crate) fn assert_may_change(&self, context: &Context<'_>) {
        let may = !self.freeze.is_still() || context.shared.config.planted.has(Bug::FreezeWithoutDrain);
        assert!(may, "SNAPSHOT_NEVER_CHANGES: a frozen volume's map is about to change");
    }

    /// Holds writes, until all volumes of the snapshot do, or, with a generation to begin, until none is under way here.
    pub(crate) fn freeze(&mut self, context: &mut Context<'_>, command: CommandId, begin: Option<Generation>) {
        if self.leaving == Some(Leaving::Detaching) {
            return self.order_done(context, command, OrderOutcome::NoSession);
        }
        if self.freeze.stage != Stage::Open || begin.is_some_and(|begin| begin <= self.attachment.generation) {
            return self.order_done(context, command, OrderOutcome::Failed);
        }
        (self.freeze.stage, self.freeze.command, self.freeze.begin) = (Stage::Draining, Some(command), begin);
        self.freeze.since = Some(context.now);
        self.freeze_when_drained(context);
    }

    /// Goes on once no write or trim is under way.
    pub(crate) fn freeze_when_drained(&mut self, context: &mut Context<'_>) {
        let drained = self.writes.is_empty() || context.shared.config.planted.has(Bug::FreezeWithoutDrain);
        if self.freeze.stage != Stage::Draining || !drained {
            return;
        }
        self.return_unused(context);
        self.freeze.stage = Stage::Still;
        match self.freeze.begin.take() {
            Some(generation) => self.begin_generation(context, generation),
            None => self.end_freeze_order(context, OrderOutcome::Done),
        }
    }

    /// Every volume of the snapshot holds still.
    pub(crate) fn begin(&mut self, context: &mut Context<'_>, command: CommandId, generation: Generation) {
        if self.leaving == Some(Leaving::Detaching) {
            return self.order_done(context, command, OrderOutcome::NoSession);
        }
        if self.freeze.stage != Stage::Still || generation <= self.attachment.generation {
            return self.order_done(context, command, OrderOutcome::Failed);
        }
        self.freeze.command = Some(command);
        self.begin_generation(context, generation);
    }

    /// Notes what the snapshot sees and lets writes go on above it.
    fn begin_generation(&mut self, context: &mut Context<'_>, generation: Generation) {
        let planted = context.shared.config.planted;
        self.freeze.stage = Stage::Committing;
        self.freeze.noted += 1;
        self.pause_ends(context);
        self.flush.hold(true);
        if planted.has(Bug::FreezeWithoutCommit) {
            self.freeze_committed(context, self.freeze.noted, Ok(()));
        } else {
            self.flush_noted(context, Waiter::Freeze(self.freeze.noted));
            self.freeze_committing(context);
        }
        if !planted.has(Bug::ThawKeepsGeneration) {
            self.attachment.generation = generation;
            self.attachment.frozen_through = Generation(generation.0 - 1);
        }
        self.grants.generation_begins();
        self.io_ended(context);
    }

    /// Writes are not held any more.
    fn pause_ends(&mut self, context: &Context<'_>) {
        if let Some(since) = self.freeze.since.take() {
            let nanos = u64::try_from(context.now.since(since).as_nanos()).unwrap_or(u64::MAX);
            self.counters.pauses += 1;
            self.counters.pause_nanos += nanos;
            self.counters.pause_nanos_max = self.counters.pause_nanos_max.max(nanos);
        }
    }

    /// Once the last commit of what was noted is sent, the snapshot may become durable together with it.
    pub(crate) fn freeze_committing(&mut self, context: &mut Context<'_>) {
        if self.freeze.stage != Stage::Committing {
            return;
        }
        if let Some(request) = self.flush.last_commit(Waiter::Freeze(self.freeze.noted)) {
            self.end_freeze_order(context, OrderOutcome::Committing { request });
        }
    }

    /// Regions that were mapped for writes that failed hold nothing. Behind a snapshot nobody could use them again.
    fn return_unused(&mut self, context: &Context<'_>) {
        self.assert_may_change(context);
        for (region, place) in self.changes.take_unused() {
            self.table.unmap_region(region, place);
            self.grants.add(place.units(self.attachment.region_size));
        }
    }

    /// What was noted is durable, or could not be made so: then its changes are among those of now.
    pub(crate) fn freeze_committed(&mut self, context: &mut Context<'_>, noted: u64, result: Result<(), IoError>) {
        if noted != self.freeze.noted || self.freeze.stage != Stage::Committing {
            return;
        }
        self.freeze.stage = Stage::Committed { complete: result.is_ok() };
        let outcome = if result.is_ok() { OrderOutcome::Done } else { OrderOutcome::Failed };
        self.end_freeze_order(context, outcome);
    }

    /// Answers whoever had the volume frozen.
    pub(crate) fn end_freeze_order(&mut self, context: &mut Context<'_>, outcome: OrderOutcome) {
        if let Some(command) = self.freeze.command.take() {
            self.order_done(context, command, outcome);
        }
    }

    /// The snapshot is durable or was given up: everything goes on, as it is told.
    pub(crate) fn thaw(
        &mut self,
        context: &mut Context<'_>,
        command: CommandId,
        generation: Generation,
        frozen_through: Generation,
    ) {
        let attachment = &self.attachment;
        let noted = if self.freeze.has_begun() { attachment.frozen_through } else { attachment.generation };
        // A snapshot of what was not all committed, or has changed since, is none.
        if frozen_through >= noted && self.freeze.stage != (Stage::Committed { complete: true }) {
            return self.order_done(context, command, OrderOutcome::Failed);
        }
        if !context.shared.config.planted.has(Bug::ThawKeepsGeneration) {
            self.attachment.generation = generation;
            self.attachment.frozen_through = frozen_through;
        }
        self.freeze.stage = Stage::Open;
        self.freeze.begin = None;
        self.pause_ends(context);
        self.end_freeze_order(context, OrderOutcome::Failed);
        self.order_done(context, command, OrderOutcome::Done);
        self.flush.hold(false);
        self.next_round(context);
        self.io_ended(context);
    }

    /// A snapshot is gone: less is frozen. While another one is being taken, what that one sees stays so.
    pub(crate) fn set_frozen(&mut self, context: &mut Context<'_>, command: CommandId, frozen_through: Generation) {
        if !self.freeze.has_begun() {
            let through = &mut self.attachment.frozen_through;
            *through = frozen_through.min(*through);
        }
        self.order_done(context, command, OrderOutcome::Done);
    }
}
