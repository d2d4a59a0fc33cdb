//! One attached volume: its table, grants, changes, and what is in flight on it.

use crate::changed::SnapshotPages;
use crate::changes::MapChanges;
use crate::context::Context;
use crate::counters::Counters;
use crate::event::{HostId, HostVolume, IoId, IoKind, IoRequest, VolumeSlot};
use crate::flatten::Flattens;
use crate::flush::FlushState;
use crate::freeze::Freeze;
use crate::grants::Grants;
use crate::inflight::{InFlight, WriteRanges};
use crate::memory::Room;
use crate::merge::Merges;
use crate::planted::Bug;
use crate::write::Unplaced;
use crate::zero::ZeroOwner;
use mapping::PageTable;
use model::{BLOCK_BYTES, ByteRange, DiskId, Generation, IoError, PageIndex, Time};
use smallvec::SmallVec;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use wire::{AgentMessage, Attachment, CommandId, GrantError, RequestId};

/// How many pages are fetched at once for one volume at most.
pub(crate) const FETCHES_MAX: usize = 64;
/// What the first grant asks for, in regions; each further one asks for twice as much.
const GRANT_REGIONS_FIRST: u32 = 256;

/// An I/O that cannot start yet.
#[derive(Debug)]
pub(crate) enum Held {
    /// It has not begun.
    Fresh(IoRequest),
    /// A write whose data is complete and whose range it holds already; it waits for regions.
    Ready { task: u32 },
    /// A trim under way that waits for a page, for space or for its turn.
    Zeroing { task: u32 },
    /// The end of a volume that shrinks, to be trimmed.
    Shrink { command: CommandId, range: ByteRange },
}

/// Why an I/O could not go on; it is kept until that changes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Blocked;

/// A page that was asked for.
#[derive(Clone, Copy, Debug)]
struct Fetch {
    page: PageIndex,
    /// From here on the answer's word on what is absent does not count: something was evicted there since it was asked for,
    /// which it may know nothing of.
    absent_max: PageIndex,
}

/// An attached volume.
#[derive(Debug)]
pub(crate) struct Volume {
    pub(crate) slot: VolumeSlot,
    pub(crate) attachment: Attachment,
    pub(crate) table: PageTable,
    pub(crate) grants: Grants,
    pub(crate) changes: MapChanges,
    pub(crate) writes: WriteRanges,
    pub(crate) inflight: InFlight,
    pub(crate) held: VecDeque<Held>,
    pub(crate) flush: FlushState,
    /// Disks written since the last cut of a flush.
    pub(crate) dirty_disks: SmallVec<[DiskId; 4]>,
    /// When the first change since the last cut was made.
    pub(crate) changed_at: Option<Time>,
    pub(crate) hosts: BTreeSet<HostId>,
    pub(crate) idle_since: Option<Time>,
    pub(crate) counters: Counters,
    fetches: BTreeMap<RequestId, Fetch>,
    /// Its share in the agent's memory for tables.
    pub(crate) room: Room,
    pub(crate) grant_request: Option<RequestId>,
    grant_regions_next: u32,
    /// Set while held I/O is tried again after a refusal: it then fails instead of asking once more.
    pub(crate) grant_refused: Option<GrantError>,
    /// Orders that are done once the writes in flight have ended and are committed.
    pub(crate) draining: Vec<CommandId>,
    pub(crate) freeze: Freeze,
    /// The first flush has not ended, and what is frozen may not be durable yet: reads wait for it.
    pub(crate) settling: bool,
    pub(crate) merges: Merges,
    pub(crate) flattens: Flattens,
    pub(crate) snapshot_pages: SnapshotPages,
    pub(crate) leaving: Option<Leaving>,
    /// Hosts that came while the volume was being detached.
    pub(crate) waiting_hosts: Vec<HostId>,
    /// Something held has more to do and only let others have their turn.
    pub(crate) resume: bool,
    pub(crate) shutting_down: bool,
    retrying: bool,
    retry_again: bool,
}

/// On the way to being detached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Leaving {
    /// Draining and committing.
    Draining { order: Option<CommandId> },
    /// The controller has been told.
    Detaching,
}

impl Volume {
    pub(crate) fn new(slot: VolumeSlot, attachment: Attachment, now: Time) -> Self {
        let size = attachment.region_size;
        // A session before this one may have died with its last writes in a disk's volatile cache, acknowledged or since
        // read by a host. The first flush covers those too.
        let mut dirty_disks: SmallVec<[DiskId; 4]> = SmallVec::new();
        let written = attachment.layouts.iter().filter(|layout| attachment.written.contains(&layout.id));
        for chunklet in written.flat_map(|layout| layout.rows.iter().flatten()) {
            if !dirty_disks.contains(&chunklet.disk) {
                dirty_disks.push(chunklet.disk);
            }
        }
        Self {
            slot,
            table: PageTable::new(size),
            grants: Grants::new(size),
            changes: MapChanges::default(),
            writes: WriteRanges::default(),
            inflight: InFlight::default(),
            held: VecDeque::new(),
            flush: FlushState::default(),
            dirty_disks,
            changed_at: None,
            hosts: BTreeSet::new(),
            idle_since: Some(now),
            counters: Counters::default(),
            fetches: BTreeMap::new(),
            room: Room::default(),
            grant_request: None,
            grant_regions_next: GRANT_REGIONS_FIRST,
            grant_refused: None,
            draining: Vec::new(),
            freeze: Freeze::default(),
            settling: false,
            merges: Merges::new(now),
            flattens: Flattens::default(),
            snapshot_pages: SnapshotPages::default(),
            leaving: None,
            waiting_hosts: Vec::new(),
            resume: false,
            shutting_down: false,
            retrying: false,
            retry_again: false,
            attachment,
        }
    }

    /// Has everything durable that sessions before this one may have left in the disks' caches. A snapshot may have been
    /// taken since such a session died, and what is once read of it must never change.
    pub(crate) fn settle(&mut self, context: &mut Context<'_>) {
        if self.attachment.frozen_through > Generation(0) && !context.shared.config.planted.has(Bug::ReadBeforeSettled)
        {
            self.settling = true;
            self.flush_for(context, crate::flush::Waiter::Settle);
        }
    }

    pub(crate) fn host_volume(&self) -> HostVolume {
        HostVolume {
            slot: self.slot,
            size_bytes: self.attachment.size_bytes,
            region_size: self.attachment.region_size,
            read_only: self.attachment.read_only,
        }
    }

    /// Starts an I/O, or holds it until it can.
    pub(crate) fn submit(&mut self, context: &mut Context<'_>, request: IoRequest) {
        self.count(&request.kind);
        self.merges.asked(context.now);
        if let Err(error) = self.check(&request.kind) {
            return self.refuse(context, request, error);
        }
        if let IoKind::Flush = request.kind {
            return self.flush_for(context, crate::flush::Waiter::Host(request.id));
        }
        let blocked_by_held = write_range(&request.kind).is_some_and(|range| {
            let overlaps = |held: &Held| held.range().is_some_and(|held| held.overlaps(range));
            self.freeze.holds() || self.held.iter().any(overlaps)
        });
        if blocked_by_held {
            self.hold(request);
        } else if let Err(request) = self.start(context, request) {
            self.hold(request);
        }
    }

    fn hold(&mut self, request: IoRequest) {
        self.counters.held += 1;
        self.held.push_back(Held::Fresh(request));
    }

    fn count(&mut self, kind: &IoKind) {
        let counters = &mut self.counters;
        match kind {
            IoKind::Read { length, .. } => {
                counters.reads += 1;
                counters.read_bytes += u64::from(*length);
            }
            IoKind::Write { length, .. } => {
                counters.writes += 1;
                counters.write_bytes += u64::from(*length);
            }
            IoKind::Zero { .. } => counters.zeroes += 1,
            IoKind::Flush => counters.flushes += 1,
            IoKind::Prefetch { .. } | IoKind::Status { .. } | IoKind::Changed { .. } => {}
        }
    }

    fn check(&self, kind: &IoKind) -> Result<(), IoError> {
        let (offset, length, writes) = match kind {
            IoKind::Read { offset, length } => (*offset, u64::from(*length), false),
            IoKind::Write { offset, length, data, .. } => {
                if (*length as usize) > data.len() {
                    return Err(IoError::Invalid);
                }
                (*offset, u64::from(*length), true)
            }
            IoKind::Zero { offset, length, .. } => (*offset, *length, true),
            IoKind::Prefetch { offset, length } => (*offset, *length, false),
            IoKind::Status { offset, length, .. } | IoKind::Changed { offset, length, .. } => {
                (*offset, (*length).max(1), false)
            }
            IoKind::Flush => return Ok(()),
        };
        if writes && self.attachment.read_only {
            return Err(IoError::ReadOnly);
        }
        match offset.checked_add(length) {
            Some(end) if end <= self.attachment.size_bytes => Ok(()),
            _ => Err(IoError::Invalid),
        }
    }

    /// Whether an I/O that was held may start now, or what its host is told instead.
    fn check_held(&self, kind: &IoKind) -> Result<bool, IoError> {
        self.check(kind)?;
        match self.freeze.holds() && write_range(kind).is_some() {
            true if self.leaving.is_some() => Err(IoError::ShuttingDown),
            held => Ok(!held),
        }
    }

    pub(crate) fn refuse(&mut self, context: &mut Context<'_>, request: IoRequest, error: IoError) {
        if let IoKind::Write { data, .. } = request.kind {
            context.buffers.put(data);
        }
        context.reply(request.id, Err(error), &mut self.counters);
    }

    fn start(&mut self, context: &mut Context<'_>, request: IoRequest) -> Result<(), IoRequest> {
        if let Some(range) = write_range(&request.kind) {
            let overlaps = self.writes.overlaps(range);
            if overlaps && !context.shared.config.planted.has(crate::planted::Bug::OverlapAllowed) {
                return Err(request);
            }
            if self.waits_for_merge(range) {
                return Err(request);
            }
        }
        match request.kind {
            IoKind::Read { offset, length } => {
                self.start_read(context, request.id, offset, length).map_err(|Blocked| request)
            }
            IoKind::Write { .. } => self.start_write(context, request),
            IoKind::Zero { offset, length, fua, keep_space } => {
                let range = ByteRange::new(offset, length);
                match self.merge_for_zero(context, range, keep_space) {
                    Ok(()) => self.start_zero(context, request.id, range, fua, keep_space),
                    Err(Unplaced::Blocked) => return Err(request),
                    Err(Unplaced::Failed(error)) => self.refuse(context, request, error),
                }
                Ok(())
            }
            IoKind::Prefetch { offset, length } => {
                self.prefetch(context, request.id, offset, length).map_err(|Blocked| request)
            }
            IoKind::Status { offset, length, extents_max } => {
                self.status(context, request.id, offset, length, extents_max).map_err(|Blocked| request)
            }
            IoKind::Changed { offset, length, since, extents_max } => {
                let range = ByteRange::new(offset, length);
                self.changed_since(context, request.id, range, since, extents_max).map_err(|Blocked| request)
            }
            IoKind::Flush => {
                self.flush_for(context, crate::flush::Waiter::Host(request.id));
                Ok(())
            }
        }
    }

    /// Tries everything held again, oldest first; what still cannot start stays in its order.
    pub(crate) fn retry_held(&mut self, context: &mut Context<'_>) {
        if self.retrying {
            self.retry_again = true;
            return;
        }
        self.retrying = true;
        loop {
            self.retry_again = false;
            self.merge_wanted(context);
            let held = std::mem::take(&mut self.held);
            if held.is_empty() {
                break;
            }
            let mut still = self.retry_each(context, held);
            // Whatever was held meanwhile is younger.
            still.append(&mut self.held);
            self.held = still;
            if !self.retry_again {
                break;
            }
        }
        self.retrying = false;
    }

    fn retry_each(&mut self, context: &mut Context<'_>, held: VecDeque<Held>) -> VecDeque<Held> {
        let mut kept: Vec<ByteRange> = Vec::new();
        let mut still = VecDeque::with_capacity(held.len());
        for next in held {
            let range = next.range();
            let overtakes = range.is_some_and(|range| kept.iter().any(|kept| kept.overlaps(range)));
            let outcome = match next {
                next if overtakes => Err(next),
                Held::Fresh(request) => match self.check_held(&request.kind) {
                    Ok(true) => self.start(context, request).map_err(Held::Fresh),
                    Ok(false) => Err(Held::Fresh(request)),
                    Err(error) => {
                        self.refuse(context, request, error);
                        Ok(())
                    }
                },
                Held::Ready { task } => self.place_write(context, task).map_err(|Blocked| Held::Ready { task }),
                Held::Zeroing { task } => self.continue_zero(context, task).map_err(|Blocked| Held::Zeroing { task }),
                Held::Shrink { command, range }
                    if self.writes.overlaps(whole_blocks(range)) || self.freeze.is_still() =>
                {
                    Err(Held::Shrink { command, range })
                }
                Held::Shrink { command, range } => match self.merge_for_zero(context, range, false) {
                    Ok(()) => {
                        self.zero_range(context, ZeroOwner::Order(command), range, false);
                        Ok(())
                    }
                    Err(Unplaced::Blocked) => Err(Held::Shrink { command, range }),
                    Err(Unplaced::Failed(_)) => {
                        self.order_done(context, command, wire::OrderOutcome::Failed);
                        Ok(())
                    }
                },
            };
            if let Err(next) = outcome {
                kept.extend(range);
                still.push_back(next);
            }
        }
        still
    }

    /// An I/O has ended: whoever waited for that goes on.
    pub(crate) fn io_ended(&mut self, context: &mut Context<'_>) {
        if !self.held.is_empty() || self.retrying || !self.merges.wanted.is_empty() {
            self.retry_held(context);
        }
        self.commit_next(context);
        if self.writes.is_empty() {
            for command in std::mem::take(&mut self.draining) {
                self.flush_for(context, crate::flush::Waiter::Order(command));
            }
            self.freeze_when_drained(context);
        }
        self.go_on_in_background(context);
        self.leave_when_quiet(context);
    }

    /// Does what nobody waits for, as far as there is room for it now.
    pub(crate) fn go_on_in_background(&mut self, context: &mut Context<'_>) {
        self.flatten_on(context);
        self.merge_in_background(context);
    }

    /// Whether nothing is held back.
    pub(crate) fn is_unhindered(&self) -> bool {
        // (While held I/O is being tried again, what is still held is not in its queue.)
        self.held.is_empty() && !self.retrying
    }

    /// The pages that are being fetched.
    pub(crate) fn fetched_pages(&self) -> impl Iterator<Item = PageIndex> + '_ {
        self.fetches.values().map(|fetch| fetch.page)
    }

    /// The pages from `first` on were evicted, or some of them: answers under way may not know what they were.
    pub(crate) fn evicted_from(&mut self, first: PageIndex) {
        for fetch in self.fetches.values_mut() {
            fetch.absent_max = fetch.absent_max.min(first.max(fetch.page));
        }
    }

    /// Asks for a page, unless that is under way.
    pub(crate) fn fault(&mut self, context: &mut Context<'_>, page: PageIndex) -> Blocked {
        if self.fetches.len() < self.fetches_max(context)
            && !self.fetched_pages().any(|fetched| fetched == page)
            && !self.waits_for_room(context)
        {
            self.counters.faults_page += 1;
            let request = context.shared.request_id();
            self.fetches.insert(request, Fetch { page, absent_max: PageIndex(u32::MAX) });
            let epoch = self.attachment.credentials.epoch;
            context.to_controller(AgentMessage::FetchPage { request, epoch, page });
        }
        Blocked
    }

    pub(crate) fn page_arrived(
        &mut self,
        context: &mut Context<'_>,
        request: RequestId,
        page: PageIndex,
        runs: &[model::EntryRun],
        absent_until: PageIndex,
    ) {
        let Some(fetch) = self.fetches.remove(&request).filter(|fetch| fetch.page == page) else { return };
        // A page that is loaded already holds changes that the controller has not seen.
        if self.table.page(page).is_some() {
            return self.retry_held(context);
        }
        self.table.load(page, runs);
        let next = PageIndex(page.0 + 1);
        self.table.load_absent(next, absent_until.min(fetch.absent_max));
        self.retry_held(context);
        self.flatten_on(context);
    }

    /// Whether `regions` more can be mapped now; if not, asks for them.
    pub(crate) fn have_regions(&mut self, context: &mut Context<'_>, regions: u32) -> Result<bool, GrantError> {
        if self.grants.regions() >= u64::from(regions) {
            return Ok(true);
        }
        if let Some(error) = self.grant_refused {
            return Err(error);
        }
        self.counters.faults_grant += 1;
        self.request_grant(context, regions);
        Ok(false)
    }

    pub(crate) fn request_grant(&mut self, context: &mut Context<'_>, urgent: u32) {
        if self.grant_request.is_some() || self.leaving == Some(Leaving::Detaching) {
            return;
        }
        let request = context.shared.request_id();
        let epoch = self.attachment.credentials.epoch;
        let regions = self.grant_regions_next.max(urgent);
        self.grant_request = Some(request);
        context.to_controller(AgentMessage::RequestGrant { request, epoch, regions, urgent });
    }

    /// Asks for more before the last is used, so that streams never wait.
    pub(crate) fn replenish(&mut self, context: &mut Context<'_>) {
        if !self.grants.scarce && self.grants.fresh_regions() < u64::from(self.grant_regions_next / 4) {
            self.request_grant(context, 0);
        }
    }

    pub(crate) fn granted(
        &mut self,
        context: &mut Context<'_>,
        request: RequestId,
        result: Result<Vec<model::UnitRun>, GrantError>,
    ) {
        if self.grant_request != Some(request) {
            // An answer nobody waits for any more: nothing of it may get lost.
            if let Ok(runs) = result {
                let epoch = self.attachment.credentials.epoch;
                context.to_controller(AgentMessage::ReturnGrant { epoch, runs });
            }
            return;
        }
        self.grant_request = None;
        match result {
            Ok(runs) => {
                let asked = u64::from(self.grant_regions_next);
                let units: u64 = runs.iter().map(|run| u64::from(run.count)).sum();
                let got = units / u64::from(self.attachment.region_size.units());
                self.grants.scarce = got < asked;
                self.grant_regions_next = if got < asked {
                    GRANT_REGIONS_FIRST.min(context.shared.config.grant_regions_max)
                } else {
                    (self.grant_regions_next * 2).min(context.shared.config.grant_regions_max)
                };
                self.snapshot_pages.forget();
                runs.into_iter().for_each(|run| self.grants.add(run));
                self.retry_held(context);
                self.go_on_in_background(context);
            }
            Err(error) => {
                self.grants.scarce = true;
                // What this volume itself has given up comes back with its next commit: worth a try before failing.
                let space = matches!(error, GrantError::PoolFull | GrantError::PoolLimit | GrantError::VolumeLimit);
                let waits = !self.held.is_empty() || !self.merges.wanted.is_empty();
                if space && waits && (self.changes.has_freed() || self.flush.is_freeing()) {
                    return self.flush_for(context, crate::flush::Waiter::Regrant);
                }
                self.fail_held_for(context, error);
            }
        }
    }

    pub(crate) fn fail_held_for(&mut self, context: &mut Context<'_>, error: GrantError) {
        self.grant_refused = Some(error);
        self.retry_held(context);
        self.grant_refused = None;
        self.flatten_on(context);
    }

    /// Notes that the map changed, for the timer that commits.
    pub(crate) fn changed(&mut self, context: &Context<'_>) {
        self.changed_at.get_or_insert(context.now);
    }

    pub(crate) fn is_quiet(&self) -> bool {
        self.writes.is_empty() && self.inflight.is_empty() && self.is_unhindered()
    }

    fn prefetch(&mut self, context: &mut Context<'_>, id: IoId, offset: u64, length: u64) -> Result<(), Blocked> {
        /// Bytes of map worth having at hand for one request.
        const PAGES_MAX: u64 = 16;
        let page_bytes = self.attachment.region_size.page_bytes();
        let (first, end) = (offset / page_bytes, (offset + length).div_ceil(page_bytes));
        for page in first..end.min(first + PAGES_MAX) {
            let page = PageIndex(page as u32);
            if self.table.page(page).is_none() {
                return Err(self.fault(context, page));
            }
        }
        context.reply(id, Ok(()), &mut self.counters);
        Ok(())
    }
}

impl Held {
    /// What nobody younger may overtake. Writes and trims under way hold their range already.
    fn range(&self) -> Option<ByteRange> {
        match self {
            Self::Fresh(request) => write_range(&request.kind),
            Self::Shrink { range, .. } => Some(whole_blocks(*range)),
            Self::Ready { .. } | Self::Zeroing { .. } => None,
        }
    }
}

/// The blocks that a write of any kind holds while it is in flight.
pub(crate) fn write_range(kind: &IoKind) -> Option<ByteRange> {
    let (offset, length) = match kind {
        IoKind::Write { offset, length, .. } => (*offset, u64::from(*length)),
        IoKind::Zero { offset, length, .. } => (*offset, *length),
        _ => return None,
    };
    Some(whole_blocks(ByteRange::new(offset, length)))
}

/// The range, grown to whole blocks.
pub(crate) fn whole_blocks(range: ByteRange) -> ByteRange {
    let start = range.start / BLOCK_BYTES * BLOCK_BYTES;
    ByteRange::new(start, range.end().next_multiple_of(BLOCK_BYTES) - start)
}
