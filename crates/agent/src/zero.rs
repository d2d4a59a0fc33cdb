//! Trims and write-zeroes: whole blocks leave the map, the rest of an unaligned edge is written as zeroes.

use crate::context::{Context, Task};
use crate::event::IoId;
use crate::flush::Waiter;
use crate::planted::Bug;
use crate::volume::{Blocked, Held, Volume, whole_blocks};
use crate::write::WriteOwner;
use mapping::{EntryView, WriteTarget};
use model::{BLOCK_BYTES, BlockRange, ByteRange, DiskRegion, IoError, PageIndex, RegionIndex};
use smallvec::SmallVec;
use wire::CommandId;

/// How many regions are zeroed before other I/O has its turn.
const REGIONS_AT_ONCE: u64 = 64 * 1024;
/// How many regions of space to keep are asked for at once.
const KEEP_REGIONS_AT_ONCE: u64 = 1024;

/// Who waits for a range to be zero.
#[derive(Clone, Copy, Debug)]
pub(crate) enum ZeroOwner {
    /// A host, perhaps for it to be durable too.
    Host { id: IoId, fua: bool },
    /// An order to shrink.
    Order(CommandId),
}

/// A trim under way. Holds its blocks in [`crate::inflight::WriteRanges`].
#[derive(Debug)]
pub(crate) struct ZeroTask {
    owner: ZeroOwner,
    /// Whole blocks around it.
    held: ByteRange,
    /// The parts of blocks at its ends that are still to be written.
    edges: SmallVec<[ByteRange; 2]>,
    edges_in_flight: u32,
    /// All edges are under way; their end continues the task.
    waiting: bool,
    /// The whole blocks still to go.
    cursor: u64,
    end: u64,
    keep_space: bool,
    failed: Option<IoError>,
}

impl Volume {
    pub(crate) fn start_zero(
        &mut self,
        context: &mut Context<'_>,
        id: IoId,
        range: ByteRange,
        fua: bool,
        keep_space: bool,
    ) {
        self.zero_range(context, ZeroOwner::Host { id, fua }, range, keep_space);
    }

    /// Zeroes a range that no write in flight overlaps.
    pub(crate) fn zero_range(
        &mut self,
        context: &mut Context<'_>,
        owner: ZeroOwner,
        range: ByteRange,
        keep_space: bool,
    ) {
        let held = whole_blocks(range);
        self.writes.begin_trim(held);
        let (mut start, mut end) = (range.start.next_multiple_of(BLOCK_BYTES), range.end() / BLOCK_BYTES * BLOCK_BYTES);
        if range.end() == self.attachment.size_bytes && range.length > 0 {
            // What follows the volume's end in its last block is nobody's.
            end = held.end();
        }
        let mut edges = SmallVec::new();
        if context.shared.config.planted.has(Bug::TrimRoundsOut) {
            (start, end) = (held.start, held.end());
        } else if start > end || range.length == 0 {
            // Within one block.
            if range.length > 0 {
                edges.push(range);
            }
            end = start;
        } else {
            if range.start < start {
                edges.push(ByteRange::new(range.start, start - range.start));
            }
            if end < range.end() {
                edges.push(ByteRange::new(end, range.end() - end));
            }
        }
        let task = ZeroTask {
            owner,
            held,
            edges,
            edges_in_flight: 0,
            waiting: false,
            cursor: start,
            end,
            keep_space,
            failed: None,
        };
        let task = context.shared.tasks.insert(Task::Zero(task));
        self.go_on(context, task);
    }

    fn go_on(&mut self, context: &mut Context<'_>, task: u32) {
        if let Err(Blocked) = self.continue_zero(context, task) {
            self.held.push_back(Held::Zeroing { task });
        }
    }

    fn zero_task<'a>(context: &'a mut Context<'_>, task: u32) -> &'a mut ZeroTask {
        match context.shared.tasks.get_mut(task) {
            Some(Task::Zero(zero)) => zero,
            _ => unreachable!("whoever continues a trim holds its task"),
        }
    }

    /// Takes a trim as far as it goes.
    pub(crate) fn continue_zero(&mut self, context: &mut Context<'_>, task: u32) -> Result<(), Blocked> {
        while let Some(edge) = Self::zero_task(context, task).edges.last().copied() {
            let mut data = context.buffers.take(edge.length as usize);
            data.bytes_mut()[..edge.length as usize].fill(0);
            Self::zero_task(context, task).edges_in_flight += 1;
            let owner = WriteOwner::Zero { task };
            match self.begin_write(context, owner, edge.start, edge.length as u32, data) {
                Ok(()) => {
                    Self::zero_task(context, task).edges.pop();
                }
                Err(data) => {
                    context.buffers.put(data);
                    Self::zero_task(context, task).edges_in_flight -= 1;
                    return Err(Blocked);
                }
            }
        }
        let zero = Self::zero_task(context, task);
        if zero.edges_in_flight > 0 {
            zero.waiting = true;
            return Ok(());
        }
        if zero.failed.is_none() {
            self.zero_whole_blocks(context, task)?;
        }
        self.end_zero(context, task);
        Ok(())
    }

    pub(crate) fn zero_edge_done(&mut self, context: &mut Context<'_>, task: u32, result: Result<(), IoError>) {
        let zero = Self::zero_task(context, task);
        zero.edges_in_flight -= 1;
        if let Err(error) = result {
            zero.failed = Some(error);
        }
        if zero.waiting && zero.edges_in_flight == 0 {
            zero.waiting = false;
            self.go_on(context, task);
        }
    }

    fn zero_whole_blocks(&mut self, context: &mut Context<'_>, task: u32) -> Result<(), Blocked> {
        let size = self.attachment.region_size;
        let mut budget = REGIONS_AT_ONCE;
        loop {
            let zero = Self::zero_task(context, task);
            let (cursor, end, keep_space, held) = (zero.cursor, zero.end, zero.keep_space, zero.held);
            if cursor >= end {
                return Ok(());
            }
            if budget == 0 {
                self.resume = true;
                return Err(Blocked);
            }
            // Holes in what was one extent make the table larger, too.
            if self.waits_for_room(context) {
                return Err(Blocked);
            }
            let region = size.region_of(cursor);
            let page = region.page();
            let Some(loaded) = self.table.page(page) else {
                return Err(self.fault(context, page));
            };
            match loaded.entry(region.slot()) {
                EntryView::Error => {
                    Self::zero_task(context, task).failed = Some(IoError::Device);
                    return Ok(());
                }
                EntryView::Invalid => return Err(self.fault(context, page)),
                _ => {}
            }
            let next = if loaded.is_zero() && !keep_space {
                budget -= 1;
                PageIndex(page.0).first_region().0.saturating_add(u64::from(model::REGIONS_PER_PAGE)) << size.log2()
            } else if keep_space {
                budget -= 1;
                match self.reserve_region(context, region, cursor, end, held) {
                    Ok(next) => next,
                    Err(Reserve::Blocked) => return Err(Blocked),
                    Err(Reserve::Failed(error)) => {
                        Self::zero_task(context, task).failed = Some(error);
                        return Ok(());
                    }
                }
            } else {
                self.zero_regions(context, region, cursor, end, held, &mut budget)
            };
            Self::zero_task(context, task).cursor = next.min(end);
        }
    }

    /// Zeroes from `cursor` on, a region or a whole extent of them; gives the offset where it stopped.
    fn zero_regions(
        &mut self,
        context: &Context<'_>,
        region: RegionIndex,
        cursor: u64,
        end: u64,
        held: ByteRange,
        budget: &mut u64,
    ) -> u64 {
        let size = self.attachment.region_size;
        let base = region.0 << size.log2();
        let whole = (end - cursor) >> size.log2();
        // Every write that touches these regions would overlap this trim: none is in flight.
        if cursor == base
            && whole > 0
            && let Some((run, born)) = self.table.extent_zeroed(region, whole.min(*budget))
        {
            self.assert_may_change(context);
            let count = u64::from(run.count / size.units());
            let first = DiskRegion { logical_disk: run.logical_disk, unit: run.start };
            for index in 0..count {
                let region = RegionIndex(region.0 + index);
                self.changes.mark(region);
                let place = first.offset_by(index as u32, size);
                self.changes.freed(region, place, born, size, self.inflight.next());
            }
            self.changed(context);
            *budget -= count;
            return base + (count << size.log2());
        }
        *budget -= 1;
        let stop = end.min(base + size.bytes());
        self.zero_blocks(context, region, blocks_between(base, cursor, stop), held, false);
        stop
    }

    /// Zeroes the blocks from `cursor` on in one region and sees that the region has space of its own.
    fn reserve_region(
        &mut self,
        context: &mut Context<'_>,
        region: RegionIndex,
        cursor: u64,
        end: u64,
        held: ByteRange,
    ) -> Result<u64, Reserve> {
        let size = self.attachment.region_size;
        let base = region.0 << size.log2();
        let stop = end.min(base + size.bytes());
        let blocks = blocks_between(base, cursor, stop);
        if blocks.count() == size.blocks() {
            // Whatever there is goes, so that no merge stands in the way of a place for what follows.
            self.zero_blocks(context, region, blocks, held, true);
        }
        match mapping::resolve_write(region, self.table.entry(region), self.frozen_through(context)) {
            WriteTarget::InPlace(_) => {}
            WriteTarget::NeedsRegion => {
                let left = (end - base).div_ceil(size.bytes()).min(KEEP_REGIONS_AT_ONCE);
                if self.grants.regions() == 0 {
                    match self.have_regions(context, left as u32) {
                        Ok(true) => {}
                        Ok(false) => return Err(Reserve::Blocked),
                        Err(error) => return Err(Reserve::Failed(crate::write::io_error(error))),
                    }
                }
                self.assign_region(context, region, self.attachment.generation);
                self.changes.mark(region);
                self.changed(context);
            }
            WriteTarget::NeedsMerge => unreachable!("a trim begins only when no region of it needs a merge"),
            WriteTarget::Fault(_) => unreachable!("the caller has seen the entry"),
        }
        self.zero_blocks(context, region, blocks, held, true);
        Ok(stop)
    }

    fn end_zero(&mut self, context: &mut Context<'_>, task: u32) {
        let Some(Task::Zero(zero)) = context.shared.tasks.remove(task) else {
            unreachable!("the caller holds the task");
        };
        self.writes.end_trim(zero.held);
        let result = zero.failed.map_or(Ok(()), Err);
        match zero.owner {
            ZeroOwner::Host { id, fua: true } if result.is_ok() => self.flush_for(context, Waiter::Host(id)),
            ZeroOwner::Host { id, .. } => context.reply(id, result, &mut self.counters),
            ZeroOwner::Order(command) if result.is_ok() => self.flush_for(context, Waiter::Order(command)),
            ZeroOwner::Order(command) => self.order_done(context, command, wire::OrderOutcome::Failed),
        }
        self.io_ended(context);
    }
}

enum Reserve {
    Blocked,
    Failed(IoError),
}

fn blocks_between(base: u64, start: u64, end: u64) -> BlockRange {
    BlockRange::new(((start - base) / BLOCK_BYTES) as u32, ((end - base) / BLOCK_BYTES) as u32)
}
