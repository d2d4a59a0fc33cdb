//! Memory for tables: one limit for all volumes of an agent, kept by evicting pages that the controller holds too.
//!
//! Up to the high mark, an eighth below the limit, nothing happens. Beyond it the largest tables give up pages that nobody
//! needs just now; a volume whose table is below its even share keeps it. Pages with changes stay: when they stand in the
//! way they are committed early, and at the limit whatever makes the table larger waits for the end of that round. Only
//! when commits fail does a table go beyond, to twice the limit, from where on such writes fail with the next round that does.

use crate::context::{Context, Shared};
use crate::event::{IoKind, VolumeSlot};
use crate::flush::Waiter;
use crate::planted::Bug;
use crate::slab::Slab;
use crate::volume::{FETCHES_MAX, Held, Leaving, Volume};
use crate::write::Unplaced;
use model::{ByteRange, IoError, PageIndex, RegionIndex, Time};
use std::time::Duration;

/// Steps that go by before eviction is tried again after it found nothing.
const PAUSE_STEPS: u32 = 16;
/// For so long after a round failed, what needs its success fails too instead of asking for another round: long enough for
/// all that waited for it to be tried again, so that nothing goes round in circles.
const FAILURE_STANDS: Duration = Duration::from_millis(1);
/// Pages that one prefetch needs at once.
const PREFETCH_PAGES: u64 = 16;

/// The memory that all tables of an agent share.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct TableMemory {
    limit: usize,
    used: usize,
    volumes: usize,
    evictions: u64,
}

impl TableMemory {
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit, ..Self::default() }
    }

    /// What every volume may have, however much the others want.
    fn share(&self) -> usize {
        self.limit / self.volumes.max(1)
    }

    /// Above this, pages are evicted.
    fn high(&self) -> usize {
        self.limit - self.limit / 8
    }

    /// Down to this, so that not every fault has to evict something.
    fn low(&self) -> usize {
        self.high() - self.limit / 32
    }

    fn is_full(&self) -> bool {
        self.used >= self.limit
    }

    pub(crate) fn used(&self) -> usize {
        self.used
    }

    /// Pages evicted so far.
    pub(crate) fn evictions(&self) -> u64 {
        self.evictions
    }
}

/// One volume's part in that.
#[derive(Debug, Default)]
pub(crate) struct Room {
    /// What its table takes, as it was last counted.
    bytes: usize,
    /// Steps to go by before eviction is tried again.
    pause: u32,
    /// Something was held until the round under way ends.
    wanted: bool,
    /// Writes that are with the node: when they end, their pages may go.
    writes: u32,
    /// Why the last round failed, if it did, and when: waiting for one makes no room then.
    failed: Option<(IoError, Time)>,
}

impl Room {
    pub(crate) fn write_begins(&mut self) {
        self.writes += 1;
    }

    pub(crate) fn write_ends(&mut self) {
        self.writes -= 1;
    }
}

impl Shared {
    /// Counts what the volume's table takes now.
    pub(crate) fn count_table(&mut self, volume: &mut Volume) {
        let bytes = volume.table.evictable_bytes();
        self.memory.used = self.memory.used - volume.room.bytes + bytes;
        volume.room.bytes = bytes;
    }

    pub(crate) fn table_added(&mut self) {
        self.memory.volumes += 1;
    }

    pub(crate) fn table_removed(&mut self, volume: &Volume) {
        self.memory.volumes -= 1;
        self.memory.used -= volume.room.bytes;
    }
}

/// Evicts until the tables are below the low mark, or as far as that goes now.
pub(crate) fn make_room(context: &mut Context<'_>, volumes: &mut Slab<Volume>) {
    if context.shared.memory.used <= context.shared.memory.high() {
        return;
    }
    let mut largest: Vec<(usize, u32)> = volumes.iter().map(|(index, volume)| (volume.room.bytes, index)).collect();
    largest.sort_unstable_by_key(|(bytes, index)| (std::cmp::Reverse(*bytes), *index));
    let memory = context.shared.memory;
    // Below the low mark of its own share a volume gives nothing up.
    let kept = memory.low() / memory.volumes.max(1);
    for (_, index) in largest {
        let Some(volume) = volumes.get_mut(index) else { continue };
        let memory = context.shared.memory;
        let wanted = memory.used.saturating_sub(memory.low()).min(volume.room.bytes.saturating_sub(kept));
        if wanted == 0 {
            return;
        }
        let before = volume.counters.evictions;
        volume.give_room(context, wanted);
        context.shared.memory.evictions += volume.counters.evictions - before;
        context.shared.count_table(volume);
    }
}

impl Volume {
    /// Evicts pages worth so many bytes, or commits what stands in the way.
    fn give_room(&mut self, context: &mut Context<'_>, wanted: usize) {
        if self.room.pause > 0 {
            self.room.pause -= 1;
            return;
        }
        let given = self.evict(context, wanted);
        if given == 0 {
            self.room.pause = PAUSE_STEPS;
        }
        let may_commit = self.leaving != Some(Leaving::Detaching) && self.flush.is_idle() && self.room.failed.is_none();
        if given < wanted && !self.changes.is_clean() && may_commit {
            self.counters.early_commits += 1;
            self.flush_for(context, Waiter::Timer);
        }
    }

    fn evict(&mut self, context: &Context<'_>, wanted: usize) -> usize {
        let planted = context.shared.config.planted;
        let before = self.table.evictable_bytes();
        let needed = self.needed_pages(planted.has(Bug::EvictsInFlight));
        if self.table.absent_bytes() > wanted.max(before / 4) {
            self.table.forget_absent(|first, end| needed.overlaps(first, end));
        }
        let given = before.saturating_sub(self.table.evictable_bytes());
        let (changes, flush) = (&self.changes, &self.flush);
        let (dirty, early) = (planted.has(Bug::EvictsDirty), planted.has(Bug::EvictsBeforeCommit));
        let evicted = self.table.evict(wanted.saturating_sub(given), |first, end| {
            !needed.overlaps(first, end) && (dirty || !changes.holds(first, end)) && (early || !flush.holds(first, end))
        });
        self.counters.evictions += evicted.pages;
        for (first, end) in evicted.ranges {
            self.evicted_from(first);
            if planted.has(Bug::EvictedTakenForZero) {
                self.table.load_absent(first, end);
            }
        }
        before.saturating_sub(self.table.evictable_bytes())
    }

    /// The pages that something under way or held has to find again. (Reads in flight do not look at them any more.)
    fn needed_pages(&self, forgets_writes: bool) -> PageRanges {
        let size = self.attachment.region_size;
        let mut pages = PageRanges::default();
        let mut add = |start: u64, end: u64| {
            let first = size.region_of(start).page();
            let last = size.region_of(end.max(start + 1) - 1).page();
            pages.ranges.push((first.0, last.0));
        };
        if !forgets_writes {
            self.writes.needed().for_each(|(start, end)| add(start, end));
        }
        let base = |region: &RegionIndex| region.0 << size.log2();
        let merged = self.merges.running.keys().chain(self.merges.wanted.keys());
        merged.for_each(|region| add(base(region), base(region) + 1));
        for held in &self.held {
            for range in held_ranges(held, size.page_bytes()).into_iter().flatten() {
                add(range.start, range.end());
            }
        }
        pages.ranges.extend(self.fetched_pages().map(|page| (page.0, page.0)));
        pages.sort();
        pages
    }

    /// Whether what makes the table larger has to wait: tables have reached the limit, this one takes more than its share,
    /// and a write or a round is under way whose end lets pages go. Whoever is told so is tried again then.
    pub(crate) fn waits_for_room(&mut self, context: &Context<'_>) -> bool {
        let memory = &context.shared.memory;
        let full = memory.is_full() && self.room.bytes >= memory.share();
        let waits = full && (!self.flush.is_idle() || self.room.writes > 0) && self.room.failed.is_none();
        self.room.wanted |= waits;
        waits
    }

    /// How many pages may be fetched at once: as many as there is room for, and one anyhow.
    pub(crate) fn fetches_max(&self, context: &Context<'_>) -> usize {
        let memory = &context.shared.memory;
        let page_bytes = (self.room.bytes / self.table.held_pages().max(1)).max(1);
        (memory.limit.saturating_sub(memory.used) / page_bytes).clamp(1, FETCHES_MAX)
    }

    /// Whether the table may not grow at all: the last round failed, and it has come to twice the limit. A write that is told so
    /// waits for another round, and fails with that one.
    pub(crate) fn out_of_room(&mut self, context: &mut Context<'_>) -> Result<bool, Unplaced> {
        let memory = &context.shared.memory;
        let beyond = memory.used / 2 >= memory.limit && self.room.bytes >= memory.share();
        let failed = self.room.failed.filter(|_| beyond && !self.changes.is_clean());
        let Some((error, at)) = failed else { return Ok(false) };
        if context.now < at + FAILURE_STANDS {
            return Err(Unplaced::Failed(error));
        }
        // Much may have happened since: a disk is in service by now, the controller is back.
        self.room.wanted = true;
        if self.flush.is_idle() {
            self.flush_for(context, Waiter::Timer);
        }
        Ok(true)
    }

    /// A round has ended: what it made durable may be evicted, and what waited for that goes on.
    pub(crate) fn room_made(&mut self, context: &mut Context<'_>, result: Result<(), IoError>) {
        self.room.failed = result.err().map(|error| (error, context.now));
        self.room.pause = 0;
        if std::mem::take(&mut self.room.wanted) {
            self.retry_held(context);
            self.go_on_in_background(context);
        }
    }
}

/// The bytes whose pages an I/O that is held needs at once. (A trim under way needs one page at a time.)
fn held_ranges(held: &Held, page_bytes: u64) -> [Option<ByteRange>; 2] {
    let ends = |range: ByteRange| {
        let last = range.length.saturating_sub(1);
        [Some(ByteRange::new(range.start, 1)), Some(ByteRange::new(range.start + last, 1))]
    };
    match held {
        Held::Fresh(request) => match &request.kind {
            IoKind::Read { offset, length } | IoKind::Write { offset, length, .. } => {
                [Some(ByteRange::new(*offset, u64::from(*length))), None]
            }
            IoKind::Zero { offset, length, .. } => ends(ByteRange::new(*offset, *length)),
            IoKind::Prefetch { offset, length } => {
                [Some(ByteRange::new(*offset, (*length).min(PREFETCH_PAGES * page_bytes))), None]
            }
            IoKind::Status { offset, .. } | IoKind::Changed { offset, .. } => [Some(ByteRange::new(*offset, 1)), None],
            IoKind::Flush => [None, None],
        },
        Held::Shrink { range, .. } => ends(*range),
        Held::Ready { .. } | Held::Zeroing { .. } => [None, None],
    }
}

/// Ranges of pages, first and last.
#[derive(Debug, Default)]
struct PageRanges {
    ranges: Vec<(u32, u32)>,
}

impl PageRanges {
    /// Sorts them and makes one of those that overlap.
    fn sort(&mut self) {
        self.ranges.sort_unstable();
        self.ranges.dedup_by(|next, before| {
            let joins = next.0 <= before.1;
            if joins {
                before.1 = before.1.max(next.1);
            }
            joins
        });
    }

    /// Whether one of them touches the pages `first..end`.
    fn overlaps(&self, first: PageIndex, end: PageIndex) -> bool {
        let at = self.ranges.partition_point(|(_, last)| *last < first.0);
        self.ranges.get(at).is_some_and(|(start, _)| *start < end.0)
    }
}

/// Which volumes' tables an event may have changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Touched {
    Nothing,
    One(VolumeSlot),
    All,
}
