//! Flush rounds: first the disks, then the map, then the answer. Never in another order: a map that is ahead of its data
//! would show, after a crash, bytes that never arrived or that are somebody else's.
//!
//! One round at a time; whoever asks meanwhile joins the next, so that many connections share one device flush.

use crate::changes::Cut;
use crate::context::{Context, Piece, PieceOwner};
use crate::event::IoId;
use crate::planted::Bug;
use crate::volume::Volume;
use model::{DiskId, IoError, PageIndex};
use smallvec::SmallVec;
use std::collections::VecDeque;
use wire::{AgentMessage, CommandId, CommitError, DiskOperation, GrantError, OrderOutcome, RequestId};

/// Who waits for a round.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Waiter {
    /// A host's flush, or a write that is to be durable.
    Host(IoId),
    /// An order of the controller's.
    Order(CommandId),
    /// A freeze; the number is its own.
    Freeze(u64),
    /// Held writes: what the round frees may serve them.
    Regrant,
    /// The volume is about to be detached.
    Leave,
    /// Nobody: changes have grown old, or many.
    Timer,
    /// Reads: what a session before left in a disk's cache must not be seen of a snapshot and then be lost.
    Settle,
}

/// The rounds of one volume.
#[derive(Debug, Default)]
pub(crate) struct FlushState {
    rounds: u64,
    round: Option<Round>,
    next: Vec<Waiter>,
}

#[derive(Debug)]
struct Round {
    waiters: Vec<Waiter>,
    disks: SmallVec<[DiskId; 4]>,
    disks_left: u32,
    cuts: VecDeque<Cut>,
    /// The commit of the first cut, once it is sent.
    request: Option<RequestId>,
    flushed: bool,
    failed: Option<IoError>,
}

impl FlushState {
    pub(crate) fn is_freeing(&self) -> bool {
        self.round.as_ref().is_some_and(|round| round.cuts.iter().any(|cut| !cut.commit.drops.is_empty()))
    }

    /// Whether what is being made durable says something of one of the pages `first..end`.
    pub(crate) fn holds(&self, first: PageIndex, end: PageIndex) -> bool {
        self.round.as_ref().is_some_and(|round| round.cuts.iter().any(|cut| cut.holds(first, end)))
    }

    /// The commit that is under way, if that is the last one of a round that `waiter` waits for.
    pub(crate) fn last_commit(&self, waiter: Waiter) -> Option<RequestId> {
        let round = self.round.as_ref().filter(|round| round.waiters.contains(&waiter) && round.cuts.len() == 1)?;
        round.request
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.round.is_none()
    }
}

impl Volume {
    /// Makes everything answered so far durable, then answers `waiter`.
    pub(crate) fn flush_for(&mut self, context: &mut Context<'_>, waiter: Waiter) {
        let clean = self.dirty_disks.is_empty() && self.changes.is_clean();
        match &mut self.flush.round {
            Some(round) if clean => round.waiters.push(waiter),
            Some(_) => self.flush.next.push(waiter),
            None if clean => self.answer(context, waiter, Ok(())),
            None => self.begin_round(context, vec![waiter]),
        }
    }

    fn begin_round(&mut self, context: &mut Context<'_>, waiters: Vec<Waiter>) {
        let planted = context.shared.config.planted;
        self.counters.flush_rounds += 1;
        self.changed_at = None;
        let mut disks = std::mem::take(&mut self.dirty_disks);
        if planted.has(Bug::DeviceFlushSkipped) {
            disks.clear();
        }
        let late = planted.has(Bug::LateChangeCounted);
        let size = self.attachment.region_size;
        let cuts = if late { VecDeque::new() } else { self.changes.cut(&self.table, size) };
        let early = planted.has(Bug::CommitBeforeFlush);
        let disks_left = disks.len() as u32;
        self.flush.round = Some(Round {
            waiters,
            disks: disks.clone(),
            disks_left,
            cuts,
            request: None,
            flushed: false,
            failed: None,
        });
        self.flush.rounds += 1;
        let round = self.flush.rounds;
        if early || disks.is_empty() {
            self.disks_flushed(context);
        }
        for disk in disks {
            let piece = Piece { slot: self.slot, owner: PieceOwner::Flush { round }, disk };
            context.to_node(self.attachment.credentials, piece, DiskOperation::Flush);
        }
    }

    pub(crate) fn disk_flushed(&mut self, context: &mut Context<'_>, round: u64, result: Result<(), IoError>) {
        if self.flush.rounds != round {
            return;
        }
        let Some(round) = &mut self.flush.round else { return };
        round.disks_left -= 1;
        round.failed = round.failed.or(result.err());
        match (round.disks_left, round.failed) {
            (0, None) => self.disks_flushed(context),
            (0, Some(error)) => self.end_round(context, Err(error)),
            _ => {}
        }
    }

    fn disks_flushed(&mut self, context: &mut Context<'_>) {
        if context.shared.config.planted.has(Bug::LateChangeCounted) {
            let cuts = self.changes.cut(&self.table, self.attachment.region_size);
            if let Some(round) = &mut self.flush.round {
                round.cuts = cuts;
            }
        }
        if let Some(round) = &mut self.flush.round {
            round.flushed = true;
        }
        self.commit_next(context);
    }

    /// Sends the next commit of the round, once nothing in flight can still address what it frees.
    pub(crate) fn commit_next(&mut self, context: &mut Context<'_>) {
        let Some(round) = &mut self.flush.round else { return };
        if !round.flushed || round.request.is_some() {
            return;
        }
        let Some(cut) = round.cuts.front() else {
            if round.disks_left == 0 || context.shared.config.planted.has(Bug::CommitBeforeFlush) {
                self.end_round(context, Ok(()));
            }
            return;
        };
        let quarantined = cut.freed_before > self.inflight.oldest();
        if quarantined && !context.shared.config.planted.has(Bug::QuarantineSkipped) {
            return;
        }
        let request = context.shared.request_id();
        round.request = Some(request);
        self.counters.commits += 1;
        let (epoch, commit) = (self.attachment.credentials.epoch, cut.commit.clone());
        context.to_controller(AgentMessage::Commit { request, epoch, commit });
        self.freeze_committing(context);
    }

    pub(crate) fn committed(&mut self, context: &mut Context<'_>, request: RequestId, result: Result<(), CommitError>) {
        let Some(round) = &mut self.flush.round else { return };
        if round.request != Some(request) {
            return;
        }
        round.request = None;
        match result {
            Ok(()) => {
                round.cuts.pop_front();
                self.commit_next(context);
            }
            Err(error) => {
                let error = match error {
                    CommitError::MetadataFull => IoError::OutOfSpace,
                    CommitError::Fenced => IoError::Fenced,
                    CommitError::Unavailable | CommitError::Refused => IoError::Device,
                };
                self.end_round(context, Err(error));
                if error == IoError::Fenced && self.leaving.is_none() {
                    // Nothing of this session will ever be committed: whoever uses it is better off knowing.
                    self.shutting_down = true;
                    self.evict_hosts(context);
                    self.leave(context, None);
                }
            }
        }
    }

    fn end_round(&mut self, context: &mut Context<'_>, result: Result<(), IoError>) {
        let Some(round) = self.flush.round.take() else { return };
        if result.is_err() {
            if !round.flushed {
                for disk in round.disks {
                    if !self.dirty_disks.contains(&disk) {
                        self.dirty_disks.push(disk);
                    }
                }
            }
            if !context.shared.config.planted.has(Bug::FailedCommitForgotten) {
                for cut in round.cuts {
                    self.changes.restore(cut, &self.table, self.attachment.region_size);
                }
            }
            if !self.changes.is_clean() {
                self.changed(context);
            }
        }
        for waiter in round.waiters {
            self.answer(context, waiter, result);
        }
        self.room_made(context, result);
        let next = std::mem::take(&mut self.flush.next);
        if next.is_empty() {
            // Whoever came to rest while the round was under way leaves now.
            return self.leave_when_quiet(context);
        }
        if self.flush.round.is_some() {
            self.flush.next.extend(next);
        } else if self.dirty_disks.is_empty() && self.changes.is_clean() {
            next.into_iter().for_each(|waiter| self.answer(context, waiter, Ok(())));
        } else {
            self.begin_round(context, next);
        }
    }

    fn answer(&mut self, context: &mut Context<'_>, waiter: Waiter, result: Result<(), IoError>) {
        match waiter {
            Waiter::Host(id) => context.reply(id, result, &mut self.counters),
            Waiter::Order(command) => {
                let outcome = if result.is_ok() { OrderOutcome::Done } else { OrderOutcome::Failed };
                self.order_done(context, command, outcome);
            }
            Waiter::Freeze(flush) => self.freeze_flushed(context, flush, result),
            // The commit that would have freed something failed: asking again now would go round in circles.
            Waiter::Regrant if result.is_err() => self.fail_held_for(context, GrantError::PoolFull),
            Waiter::Regrant => self.io_ended(context),
            Waiter::Leave => self.left(context, result),
            Waiter::Timer => {}
            Waiter::Settle => {
                self.settling = false;
                self.retry_held(context);
            }
        }
    }
}
