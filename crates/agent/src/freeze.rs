//! Snapshots at the agent: writes held back while one is taken, and what is frozen from then on.
//!
//! Between the end of the last write before and the thaw nothing changes the map, so that what was committed is what the
//! snapshot sees. Reads and flushes go on. The volume never thaws by itself.

use crate::context::Context;
use crate::flush::Waiter;
use crate::planted::Bug;
use crate::volume::{Leaving, Volume};
use model::{Generation, IoError};
use wire::{CommandId, OrderOutcome};

/// How far a freeze has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Stage {
    /// Writes go on.
    #[default]
    Open,
    /// Writes go on still: what there is to flush is flushed first, so that little is left while they are held.
    Preparing,
    /// New writes are held, those that have begun go on to their end.
    Draining,
    /// What the last of them changed is made durable.
    Committing,
    /// Until the thaw. `complete`: everything is durable, and nothing has changed since.
    Frozen { complete: bool },
}

/// Whether a volume is frozen, or on its way.
#[derive(Debug, Default)]
pub(crate) struct Freeze {
    stage: Stage,
    /// The orders to freeze that are not done.
    commands: Vec<CommandId>,
    /// The number of the last flush round asked for: a thaw may overtake earlier ones.
    flush: u64,
}

impl Freeze {
    /// Whether writes and trims go on as ever.
    pub(crate) fn is_open(&self) -> bool {
        self.stage == Stage::Open
    }

    /// Whether a write or trim that has not begun has to wait.
    pub(crate) fn holds(&self) -> bool {
        !matches!(self.stage, Stage::Open | Stage::Preparing)
    }

    /// Whether nothing may change the map.
    pub(crate) fn is_still(&self) -> bool {
        matches!(self.stage, Stage::Committing | Stage::Frozen { .. })
    }
}

impl Volume {
    /// Layers born up to here are never written.
    pub(crate) fn frozen_through(&self, context: &Context<'_>) -> Generation {
        let through = self.attachment.frozen_through;
        let off_by_one = context.shared.config.planted.has(Bug::WriteInPlaceUnderSnapshot);
        if off_by_one { Generation(through.0.saturating_sub(1)) } else { through }
    }

    /// The snapshot that is being taken must see all of the map as it is committed, and nothing else.
    pub(crate) fn assert_may_change(&self, context: &Context<'_>) {
        let may = !self.freeze.is_still() || context.shared.config.planted.has(Bug::FreezeWithoutDrain);
        assert!(may, "SNAPSHOT_NEVER_CHANGES: a frozen volume's map is about to change");
    }

    pub(crate) fn freeze(&mut self, context: &mut Context<'_>, command: CommandId) {
        if self.leaving == Some(Leaving::Detaching) {
            return self.order_done(context, command, OrderOutcome::NoSession);
        }
        match self.freeze.stage {
            Stage::Frozen { complete: true } => self.order_done(context, command, OrderOutcome::Done),
            Stage::Frozen { complete: false } => {
                self.freeze.commands.push(command);
                self.freeze.stage = Stage::Draining;
                self.freeze_when_drained(context);
            }
            Stage::Open => {
                self.freeze.commands.push(command);
                self.freeze.stage = Stage::Preparing;
                self.flush_for_freeze(context);
            }
            Stage::Preparing | Stage::Draining | Stage::Committing => self.freeze.commands.push(command),
        }
    }

    fn flush_for_freeze(&mut self, context: &mut Context<'_>) {
        self.freeze.flush += 1;
        self.flush_for(context, Waiter::Freeze(self.freeze.flush));
    }

    /// Goes on once no write or trim is under way: what is left to commit is the snapshot's.
    pub(crate) fn freeze_when_drained(&mut self, context: &mut Context<'_>) {
        let planted = context.shared.config.planted;
        let drained = self.writes.is_empty() || planted.has(Bug::FreezeWithoutDrain);
        if self.freeze.stage != Stage::Draining || !drained {
            return;
        }
        self.return_unused(context);
        self.freeze.stage = Stage::Committing;
        if planted.has(Bug::FreezeWithoutCommit) {
            return self.freeze_flushed(context, self.freeze.flush, Ok(()));
        }
        self.flush_for_freeze(context);
        self.freeze_committing(context);
    }

    /// Once the last commit is sent, the snapshot may become durable together with it: nobody has to hold writes for both, one
    /// after the other.
    pub(crate) fn freeze_committing(&mut self, context: &mut Context<'_>) {
        if self.freeze.stage != Stage::Committing {
            return;
        }
        if let Some(request) = self.flush.last_commit(Waiter::Freeze(self.freeze.flush)) {
            self.end_freeze_orders(context, OrderOutcome::Committing { request });
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

    /// A flush round has ended that a freeze waited for.
    pub(crate) fn freeze_flushed(&mut self, context: &mut Context<'_>, flush: u64, result: Result<(), IoError>) {
        if flush != self.freeze.flush {
            return;
        }
        match self.freeze.stage {
            Stage::Preparing => {
                self.freeze.stage = Stage::Draining;
                // On the way out, held writes are not to wait for a thaw.
                self.retry_held(context);
                self.freeze_when_drained(context);
            }
            Stage::Committing => {
                self.freeze.stage = Stage::Frozen { complete: result.is_ok() };
                let outcome = if result.is_ok() { OrderOutcome::Done } else { OrderOutcome::Failed };
                self.end_freeze_orders(context, outcome);
            }
            Stage::Open | Stage::Draining | Stage::Frozen { .. } => {}
        }
    }

    /// Answers whoever had the volume frozen.
    pub(crate) fn end_freeze_orders(&mut self, context: &mut Context<'_>, outcome: OrderOutcome) {
        for command in std::mem::take(&mut self.freeze.commands) {
            self.order_done(context, command, outcome);
        }
    }

    /// Writes go on, above what is frozen now.
    pub(crate) fn thaw(
        &mut self,
        context: &mut Context<'_>,
        command: CommandId,
        generation: Generation,
        frozen_through: Generation,
    ) {
        let attachment = &self.attachment;
        let is_new = generation != attachment.generation || frozen_through > attachment.frozen_through;
        // A snapshot of what was not all committed, or has changed since, is none.
        if is_new && self.freeze.stage != (Stage::Frozen { complete: true }) {
            return self.order_done(context, command, OrderOutcome::Failed);
        }
        if !context.shared.config.planted.has(Bug::ThawKeepsGeneration) {
            self.attachment.generation = generation;
            self.attachment.frozen_through = frozen_through;
        }
        self.freeze.stage = Stage::Open;
        self.end_freeze_orders(context, OrderOutcome::Failed);
        self.order_done(context, command, OrderOutcome::Done);
        self.io_ended(context);
    }

    /// A snapshot is gone: less is frozen.
    pub(crate) fn set_frozen(&mut self, context: &mut Context<'_>, command: CommandId, frozen_through: Generation) {
        let through = &mut self.attachment.frozen_through;
        *through = frozen_through.min(*through);
        self.order_done(context, command, OrderOutcome::Done);
    }
}
