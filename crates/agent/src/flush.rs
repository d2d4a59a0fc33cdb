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
    /// A freeze: what was noted for a snapshot; the number is its own.
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
    /// What was noted for a snapshot while a round was under way: the round after that one.
    noted: Option<Noted>,
    next: Vec<Waiter>,
    /// Another generation has begun, and the snapshot of the last one is not durable: no round begins but that of what
    /// was noted.
    held: bool,
}

/// What a round makes durable: disks written and changes of the map up to one moment, and who waits for that.
#[derive(Debug)]
struct Noted {
    waiters: Vec<Waiter>,
    disks: SmallVec<[DiskId; 4]>,
    cuts: VecDeque<Cut>,
}

#[derive(Debug)]
struct Round {
    noted: Noted,
    disks_left: u32,
    /// The commit of the first cut, once it is sent.
    request: Option<RequestId>,
    flushed: bool,
    failed: Option<IoError>,
}

impl FlushState {
    pub(crate) fn is_freeing(&self) -> bool {
        self.cuts().any(|cut| !cut.commit.drops.is_empty())
    }

    /// Whether what is being made durable says something of one of the pages `first..end`.
    pub(crate) fn holds(&self, first: PageIndex, end: PageIndex) -> bool {
        self.cuts().any(|cut| cut.holds(first, end))
    }

    fn cuts(&self) -> impl Iterator<Item = &Cut> {
        let under_way = self.round.iter().map(|round| &round.noted);
        under_way.chain(&self.noted).flat_map(|noted| &noted.cuts)
    }

    /// The commit that is under way, if that is the last one of a round that `waiter` waits for.
    pub(crate) fn last_commit(&self, waiter: Waiter) -> Option<RequestId> {
        let is_last = |round: &&Round| round.noted.waiters.contains(&waiter) && round.noted.cuts.len() == 1;
        self.round.as_ref().filter(is_last)?.request
    }

    /// Whether a round may begin, for none is under way.
    pub(crate) fn is_idle(&self) -> bool {
        self.round.is_none() && self.noted.is_none() && !self.held
    }

    /// From now on no round begins but that of what is noted; or every one does again.
    pub(crate) fn hold(&mut self, held: bool) {
        self.held = held;
    }
}

impl Volume {
    /// Makes everything answered so far durable, then answers `waiter`.
    pub(crate) fn flush_for(&mut self, context: &mut Context<'_>, waiter: Waiter) {
        let clean = self.dirty_disks.is_empty() && self.changes.is_clean();
        if clean {
            let under_way = self.flush.round.as_mut().map(|round| &mut round.noted);
            match self.flush.noted.as_mut().or(under_way) {
                Some(last) => last.waiters.push(waiter),
                None => self.answer(context, waiter, Ok(())),
            }
        } else if self.may_begin_round(context) {
            let noted = self.note(context, vec![waiter]);
            self.begin_round(context, noted);
        } else {
            self.flush.next.push(waiter);
        }
    }

    fn may_begin_round(&self, context: &Context<'_>) -> bool {
        let goes_on = self.flush.held && context.shared.config.planted.has(Bug::CommitsBeforeSnapshot);
        self.flush.is_idle() || goes_on && self.flush.round.is_none() && self.flush.noted.is_none()
    }

    /// Has all that the volume is at this moment made durable, whatever changes from now on. No other round begins until
    /// [`FlushState::hold`] is taken back.
    pub(crate) fn flush_noted(&mut self, context: &mut Context<'_>, waiter: Waiter) {
        if self.dirty_disks.is_empty() && self.changes.is_clean() {
            return self.flush_for(context, waiter);
        }
        // Whoever asked before gets with it what was asked for.
        let mut waiters = std::mem::take(&mut self.flush.next);
        waiters.push(waiter);
        let noted = self.note(context, waiters);
        if self.flush.round.is_some() {
            self.flush.noted = Some(noted);
        } else {
            self.begin_round(context, noted);
        }
    }

    fn note(&mut self, context: &Context<'_>, waiters: Vec<Waiter>) -> Noted {
        let planted = context.shared.config.planted;
        self.changed_at = None;
        let mut disks = std::mem::take(&mut self.dirty_disks);
        if planted.has(Bug::DeviceFlushSkipped) {
            disks.clear();
        }
        let late = planted.has(Bug::LateChangeCounted);
        let cuts = if late { VecDeque::new() } else { self.changes.cut(&self.table, self.attachment.region_size) };
        Noted { waiters, disks, cuts }
    }

    fn begin_round(&mut self, context: &mut Context<'_>, noted: Noted) {
        self.counters.flush_rounds += 1;
        let disks = noted.disks.clone();
        let disks_left = disks.len() as u32;
        self.flush.round = Some(Round { noted, disks_left, request: None, flushed: false, failed: None });
        self.flush.rounds += 1;
        let round = self.flush.rounds;
        if context.shared.config.planted.has(Bug::CommitBeforeFlush) || disks.is_empty() {
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
                round.noted.cuts = cuts;
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
        let Some(cut) = round.noted.cuts.front() else {
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
                round.noted.cuts.pop_front();
                self.commit_next(context);
            }
            Err(error) => {
                let error = match error {
                    CommitError::MetadataFull => IoError::OutOfSpace,
                    CommitError::Fenced => IoError::Fenced,
                    CommitError::Unavailable | CommitError::Refused => IoError::Device,
                };
                if error == IoError::Fenced {
                    // No thaw will come, and nothing can get in front of a snapshot any more.
                    self.flush.hold(false);
                }
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
        let mut waiters = round.noted.waiters;
        if result.is_err() {
            if !round.flushed {
                self.dirty_again(round.noted.disks);
            }
            self.restore(context, round.noted.cuts);
            // What the round gave back is part of what was noted after it, and would be sent as it is now.
            if let Some(noted) = self.flush.noted.take() {
                self.dirty_again(noted.disks);
                self.restore(context, noted.cuts);
                waiters.extend(noted.waiters);
            }
            if !self.changes.is_clean() {
                self.changed(context);
            }
        }
        for waiter in waiters {
            self.answer(context, waiter, result);
        }
        self.room_made(context, result);
        self.next_round(context);
    }

    fn dirty_again(&mut self, disks: SmallVec<[DiskId; 4]>) {
        for disk in disks {
            if !self.dirty_disks.contains(&disk) {
                self.dirty_disks.push(disk);
            }
        }
    }

    fn restore(&mut self, context: &Context<'_>, cuts: VecDeque<Cut>) {
        if !context.shared.config.planted.has(Bug::FailedCommitForgotten) {
            for cut in cuts {
                self.changes.restore(cut, &self.table, self.attachment.region_size);
            }
        }
    }

    /// Begins the round that comes next, if it may and somebody waits for it.
    pub(crate) fn next_round(&mut self, context: &mut Context<'_>) {
        if self.flush.round.is_none()
            && let Some(noted) = self.flush.noted.take()
        {
            return self.begin_round(context, noted);
        }
        if self.flush.next.is_empty() {
            // Whoever came to rest while the round was under way leaves now.
            return self.leave_when_quiet(context);
        }
        if !self.may_begin_round(context) {
            return;
        }
        let next = std::mem::take(&mut self.flush.next);
        if self.dirty_disks.is_empty() && self.changes.is_clean() {
            next.into_iter().for_each(|waiter| self.answer(context, waiter, Ok(())));
        } else {
            let noted = self.note(context, next);
            self.begin_round(context, noted);
        }
    }

    fn answer(&mut self, context: &mut Context<'_>, waiter: Waiter, result: Result<(), IoError>) {
        match waiter {
            Waiter::Host(id) => context.reply(id, result, &mut self.counters),
            Waiter::Order(command) => {
                let outcome = if result.is_ok() { OrderOutcome::Done } else { OrderOutcome::Failed };
                self.order_done(context, command, outcome);
            }
            Waiter::Freeze(noted) => self.freeze_committed(context, noted, result),
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
