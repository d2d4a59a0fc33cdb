//! Writes: merged to whole blocks, scanned for zeroes, placed, written; then the table learns of them.
//!
//! A block's bit is set only when its data is on the device, so that a reader never sees what lay there before.

use crate::context::{Context, Piece, PieceOwner, Task};
use crate::event::{IoId, IoKind, IoRequest};
use crate::flush::Waiter;
use crate::grants::{Grants, Neighbour};
use crate::inflight::Sequence;
use crate::planted::Bug;
use crate::volume::{Blocked, Volume, whole_blocks};
use mapping::{Dropped, EntryView, Segments, Source, WriteTarget};
use model::{BLOCK_BYTES, BlockRange, ByteRange, DiskId, DiskRegion, IoBuffer, IoError, Place, RegionIndex, zero_scan};
use smallvec::SmallVec;
use std::sync::Arc;
use wire::DiskOperation;

/// Who waits for a write.
#[derive(Clone, Copy, Debug)]
pub(crate) enum WriteOwner {
    /// A host, perhaps for it to be durable too.
    Host { id: IoId, fua: bool },
    /// An unaligned edge of a trim.
    Zero { task: u32 },
}

/// A write under way. Holds its blocks in [`crate::inflight::WriteRanges`], unless a trim holds them for it.
#[derive(Debug)]
pub(crate) struct WriteTask {
    owner: WriteOwner,
    /// Whole blocks.
    range: ByteRange,
    /// While a device is being asked. A write that waits for space has none: what waits for old I/O (quarantine, and so
    /// the commit that frees space) must not wait for it.
    sequence: Option<Sequence>,
    data: Data,
    regions: SmallVec<[RegionWrite; 1]>,
    pieces_left: u32,
    failed: Option<IoError>,
}

#[derive(Debug)]
enum Data {
    /// The host's bytes, which begin or end within a block; what surrounds them is being read.
    Raw { bytes: IoBuffer, offset: u64, length: u32, first: Option<IoBuffer>, last: Option<IoBuffer> },
    /// All bytes of the range.
    Whole(Arc<IoBuffer>),
}

/// What a write does to one region.
#[derive(Debug)]
struct RegionWrite {
    region: RegionIndex,
    /// The write's blocks of the region.
    blocks: BlockRange,
    /// Where its data goes; `None` while nothing but zeroes is written.
    place: Option<DiskRegion>,
    /// Runs of blocks with data; the others of `blocks` are zeroes.
    data: SmallVec<[BlockRange; 2]>,
    /// Nothing of the table changes: in place, every block held already, no zeroes.
    settled: bool,
}

/// Data for one contiguous range of a logical disk.
struct Placed {
    place: DiskRegion,
    byte_offset: u64,
    start: u32,
    length: u32,
}

impl Volume {
    pub(crate) fn start_write(&mut self, context: &mut Context<'_>, request: IoRequest) -> Result<(), IoRequest> {
        let IoKind::Write { offset, length, data, fua } = request.kind else {
            unreachable!("the caller has matched a write");
        };
        match self.merge_for_write(context, ByteRange::new(offset, u64::from(length)), &data) {
            Ok(()) => {}
            Err(unplaced) => {
                let request = IoRequest { kind: IoKind::Write { offset, length, data, fua }, ..request };
                let Unplaced::Failed(error) = unplaced else { return Err(request) };
                self.refuse(context, request, error);
                return Ok(());
            }
        }
        let owner = WriteOwner::Host { id: request.id, fua };
        self.begin_write(context, owner, offset, length, data).map_err(|data| IoRequest {
            id: request.id,
            volume: request.volume,
            kind: IoKind::Write { offset, length, data, fua },
        })
    }

    /// Begins a write, or gives its data back when a page is missing.
    pub(crate) fn begin_write(
        &mut self,
        context: &mut Context<'_>,
        owner: WriteOwner,
        offset: u64,
        length: u32,
        data: IoBuffer,
    ) -> Result<(), IoBuffer> {
        let range = whole_blocks(ByteRange::new(offset, u64::from(length)));
        let size = self.attachment.region_size;
        if length > 0 {
            let (first, last) = (size.region_of(range.start).page(), size.region_of(range.end() - 1).page());
            for page in first.0..=last.0 {
                let page = model::PageIndex(page);
                if self.table.page(page).is_none() {
                    self.fault(context, page);
                    return Err(data);
                }
            }
        }
        if let WriteOwner::Host { .. } = owner {
            self.writes.begin(range);
        }
        let aligned = range.start == offset && range.length == u64::from(length);
        let whole = aligned.then_some(());
        let mut task = WriteTask {
            owner,
            range,
            sequence: None,
            data: Data::Raw { bytes: data, offset, length, first: None, last: None },
            regions: SmallVec::new(),
            pieces_left: 0,
            failed: None,
        };
        if whole.is_some()
            && let Data::Raw { bytes, .. } = task.data
        {
            task.data = Data::Whole(Arc::new(bytes));
            let task = context.shared.tasks.insert(Task::Write(task));
            self.place_or_hold(context, task);
            return Ok(());
        }
        let task = context.shared.tasks.insert(Task::Write(task));
        self.read_edges(context, task, range, offset, u64::from(length));
        Ok(())
    }

    fn place_or_hold(&mut self, context: &mut Context<'_>, task: u32) {
        if let Err(Blocked) = self.place_write(context, task) {
            self.counters.held += 1;
            self.held.push_back(crate::volume::Held::Ready { task });
        }
    }

    /// Reads what surrounds the host's bytes in the first and last block, where there is anything.
    fn read_edges(&mut self, context: &mut Context<'_>, task: u32, range: ByteRange, offset: u64, length: u64) {
        self.counters.merges += 1;
        let last_block = range.end() - BLOCK_BYTES;
        let first_is_partial = offset != range.start || (last_block == range.start && offset + length != range.end());
        let last_is_partial = last_block != range.start && offset + length != range.end();
        let mut pieces = 0;
        for (partial, at, last) in [(first_is_partial, range.start, false), (last_is_partial, last_block, true)] {
            if partial && let Some((disk, physical)) = self.block_place(context, at) {
                let buffer = context.buffers.take(BLOCK_BYTES as usize);
                let piece = Piece { slot: self.slot, owner: PieceOwner::Edge { task, last }, disk };
                let operation = DiskOperation::Read { offset: physical, length: BLOCK_BYTES as u32, buffer };
                context.to_node(self.attachment.credentials, piece, operation);
                pieces += 1;
            }
        }
        let Some(Task::Write(write)) = context.shared.tasks.get_mut(task) else {
            unreachable!("the task was inserted by the caller");
        };
        write.pieces_left = pieces;
        if pieces > 0 {
            write.sequence = Some(self.inflight.begin());
        } else {
            self.merge(context, task);
        }
    }

    /// Where the block at byte `offset` of the volume lies, if it is not zeroes.
    pub(crate) fn block_place(&self, context: &Context<'_>, offset: u64) -> Option<(DiskId, u64)> {
        let mut segments = Segments::new();
        self.table.resolve_read(ByteRange::new(offset, BLOCK_BYTES), &mut segments).ok()?;
        let Source::Region { logical_disk, byte_offset } = segments.first()?.source else { return None };
        let mut found = None;
        context
            .locate(logical_disk, ByteRange::new(byte_offset, BLOCK_BYTES), |disk, at, _| found = Some((disk, at)))?;
        found
    }

    pub(crate) fn edge_read(
        &mut self,
        context: &mut Context<'_>,
        task: u32,
        is_last: bool,
        result: Result<(), IoError>,
        buffer: Option<IoBuffer>,
    ) {
        let Some(Task::Write(write)) = context.shared.tasks.get_mut(task) else {
            unreachable!("a piece of a write names its task");
        };
        write.pieces_left -= 1;
        match (&mut write.data, result) {
            (Data::Raw { first, last, .. }, Ok(())) => *(if is_last { last } else { first }) = buffer,
            (_, Err(error)) => write.failed = Some(error),
            (Data::Whole(_), Ok(())) => unreachable!("edges are read before the data is whole"),
        }
        if write.pieces_left > 0 {
            return;
        }
        write.sequence.take().into_iter().for_each(|sequence| self.inflight.end(sequence));
        if write.failed.is_some() {
            self.end_write(context, task);
        } else {
            self.merge(context, task);
        }
        // Should the write now wait for space, a commit that waited for these reads may be what frees it.
        self.commit_next(context);
    }

    /// Makes whole blocks of the host's bytes and what surrounds them.
    fn merge(&mut self, context: &mut Context<'_>, task: u32) {
        let Some(Task::Write(write)) = context.shared.tasks.get_mut(task) else {
            unreachable!("the caller holds the task");
        };
        let range = write.range;
        let mut whole = context.buffers.take(range.length as usize);
        let skip = context.shared.config.planted.has(Bug::PaddingSkipped);
        let Data::Raw { bytes, offset, length, first, last } = &mut write.data else {
            unreachable!("only raw data is merged");
        };
        let target = &mut whole.bytes_mut()[..range.length as usize];
        let block = BLOCK_BYTES as usize;
        // The padding of a block that holds nothing yet is zeroes; without this a former owner's bytes would show.
        let end = target.len();
        for (edge, at) in [(&*first, 0), (&*last, end - block)].into_iter().take(1 + usize::from(end > block)) {
            match edge {
                Some(edge) => target[at..at + block].copy_from_slice(&edge.bytes()[..block]),
                None if skip => {}
                None => target[at..at + block].fill(0),
            }
        }
        let start = (*offset - range.start) as usize;
        target[start..start + *length as usize].copy_from_slice(&bytes.bytes()[..*length as usize]);
        for edge in [first.take(), last.take()].into_iter().flatten() {
            context.buffers.put(edge);
        }
        let Data::Raw { bytes, .. } = std::mem::replace(&mut write.data, Data::Whole(Arc::new(whole))) else {
            unreachable!("matched a moment ago");
        };
        context.buffers.put(bytes);
        self.place_or_hold(context, task);
    }

    /// Finds a place for every block with data, and writes it there.
    pub(crate) fn place_write(&mut self, context: &mut Context<'_>, task: u32) -> Result<(), Blocked> {
        let Some(Task::Write(write)) = context.shared.tasks.get_mut(task) else {
            unreachable!("the caller holds the task");
        };
        let (range, Data::Whole(data)) = (write.range, &write.data) else {
            unreachable!("only whole data is placed");
        };
        let data = Arc::clone(data);
        let regions = match self.plan(context, range, &data) {
            Ok(regions) => regions,
            Err(Unplaced::Blocked) => return Err(Blocked),
            Err(Unplaced::Failed(error)) => {
                self.fail_write(context, task, error);
                return Ok(());
            }
        };
        let placed = self.placed(range, &regions);
        if context.shared.config.planted.has(Bug::BitBeforeData) {
            self.apply(context, range, &regions);
        }
        let mut writes: SmallVec<[(DiskId, u64, u32, u32); 2]> = SmallVec::new();
        for run in &placed {
            let at = ByteRange::new(run.place.unit.byte_offset() + run.byte_offset, u64::from(run.length));
            let mut start = run.start;
            let known = context.locate(run.place.logical_disk, at, |disk, offset, length| {
                writes.push((disk, offset, start, length as u32));
                start += length as u32;
            });
            if known.is_none() {
                self.fail_write(context, task, IoError::Device);
                return Ok(());
            }
        }
        let Some(Task::Write(write)) = context.shared.tasks.get_mut(task) else {
            unreachable!("the caller holds the task");
        };
        write.regions = regions;
        write.pieces_left = writes.len() as u32;
        if !writes.is_empty() {
            write.sequence = Some(self.inflight.begin());
            self.room.write_begins();
        } else {
            drop(data);
            self.end_write(context, task);
            return Ok(());
        }
        for (disk, offset, start, length) in writes {
            let piece = Piece { slot: self.slot, owner: PieceOwner::Write { task }, disk };
            let operation = DiskOperation::Write { offset, start, length, buffer: Arc::clone(&data) };
            context.to_node(self.attachment.credentials, piece, operation);
        }
        self.replenish(context);
        Ok(())
    }

    fn fail_write(&mut self, context: &mut Context<'_>, task: u32, error: IoError) {
        let Some(Task::Write(write)) = context.shared.tasks.get_mut(task) else {
            unreachable!("the caller holds the task");
        };
        write.failed = Some(error);
        self.end_write(context, task);
    }

    /// What the write does to each region, with a place for all data; takes granted regions only if there are enough.
    fn plan(
        &mut self,
        context: &mut Context<'_>,
        range: ByteRange,
        data: &IoBuffer,
    ) -> Result<SmallVec<[RegionWrite; 1]>, Unplaced> {
        let size = self.attachment.region_size;
        let frozen = self.frozen_through(context);
        let mut regions: SmallVec<[RegionWrite; 1]> = SmallVec::new();
        let mut wanted = 0;
        let mut at = range.start;
        while at < range.end() {
            let region = size.region_of(at);
            let base = region.0 << size.log2();
            let end = range.end().min(base + size.bytes());
            let blocks = BlockRange::new(((at - base) / BLOCK_BYTES) as u32, ((end - base) / BLOCK_BYTES) as u32);
            let bytes = &data.bytes()[(at - range.start) as usize..(end - range.start) as usize];
            let runs = self.data_runs(context, bytes, blocks);
            let view = self.table.entry(region);
            let (mut place, mut settled) = (None, false);
            match mapping::resolve_write(region, view, frozen) {
                WriteTarget::Fault(mapping::Fault::Error(_)) => return Err(Unplaced::Failed(IoError::Device)),
                WriteTarget::Fault(fault) => {
                    self.fault(context, fault.page());
                    return Err(Unplaced::Blocked);
                }
                _ if runs.is_empty() => {}
                WriteTarget::InPlace(at) => {
                    place = Some(at);
                    // The last write of this generation that changed the entry has said all there is to say.
                    settled = runs.len() == 1
                        && runs[0] == blocks
                        && matches!(view, EntryView::Full { written, .. } if written == self.attachment.generation);
                }
                WriteTarget::NeedsRegion => wanted += 1,
                WriteTarget::NeedsMerge => unreachable!("a write begins only when no region of it needs a merge"),
            }
            regions.push(RegionWrite { region, blocks, place, data: runs, settled });
            at = end;
        }
        // (What is settled changes nothing of the table.)
        let changes_nothing = regions.iter().all(|write| write.settled);
        if !changes_nothing && (self.out_of_room(context)? || self.waits_for_room(context)) {
            return Err(Unplaced::Blocked);
        }
        if wanted > 0 {
            match self.have_regions(context, wanted) {
                Ok(true) => self.assign(context, &mut regions),
                Ok(false) => return Err(Unplaced::Blocked),
                Err(error) => return Err(Unplaced::Failed(io_error(error))),
            }
        }
        Ok(regions)
    }

    fn data_runs(&mut self, context: &Context<'_>, bytes: &[u8], blocks: BlockRange) -> SmallVec<[BlockRange; 2]> {
        let mut runs = SmallVec::new();
        zero_scan::data_runs(bytes, blocks.start, |run| runs.push(run));
        let data: u32 = runs.iter().map(|run: &BlockRange| run.count()).sum();
        self.counters.zero_write_bytes += u64::from(blocks.count() - data) * BLOCK_BYTES;
        if context.shared.config.planted.has(Bug::ZeroScanShort)
            && blocks.count() > 1
            && runs.first().is_some_and(|run| run.start != blocks.start)
            && let Some(last) = runs.last_mut()
            && last.count() > 1
        {
            last.end -= 1;
        }
        runs
    }

    /// Maps a granted region for each that needs one; the caller has counted them.
    fn assign(&mut self, context: &Context<'_>, regions: &mut [RegionWrite]) {
        let born = self.attachment.generation;
        for write in regions.iter_mut().filter(|write| write.place.is_none() && !write.data.is_empty()) {
            write.place = Some(self.assign_region(context, write.region, born));
        }
    }

    /// Maps a granted region; there is one, as the caller has seen.
    pub(crate) fn assign_region(
        &mut self,
        context: &Context<'_>,
        region: RegionIndex,
        born: model::Generation,
    ) -> DiskRegion {
        self.assert_may_change(context);
        let neighbours = self.neighbours(region);
        let place = self.grants.take(region.0, &neighbours).expect("the caller has counted the granted regions");
        self.counters.regions_assigned += 1;
        let size = self.attachment.region_size;
        let adjoins = |(distance, at): &Neighbour| {
            i64::from(place.unit.0) == i64::from(at.unit.0) - distance * i64::from(size.units())
                && place.logical_disk == at.logical_disk
        };
        self.counters.regions_adjoining += u64::from(neighbours.iter().any(adjoins));
        self.table.map_region(region, place, born);
        if let EntryView::Stack(layers) = self.table.entry(region) {
            self.merges.note(region, mapping::stack::region_layers(layers));
        }
        self.changes.assigned(region, place);
        place
    }

    /// Mapped regions near `region` in its window, and the one before the window: left ones first, nearest first. Those
    /// that take writes come before those that a snapshot sees: what is beside these is mostly taken, and never one extent
    /// with them.
    pub(crate) fn neighbours(&self, region: RegionIndex) -> SmallVec<[Neighbour; 4]> {
        let window = Grants::window_regions(self.attachment.region_size);
        let (first, frozen_through) = (region.0 / window * window, self.attachment.frozen_through);
        let (mut found, mut frozen): (SmallVec<[Neighbour; 4]>, SmallVec<[Neighbour; 2]>) = Default::default();
        let Some(page) = self.table.page(region.page()) else { return found };
        let slot = region.slot();
        let first_slot = slot - (region.0 - first) as u16;
        let sides = [
            (page.nearest_left(slot, first_slot, frozen_through), first.checked_sub(1)),
            (page.nearest_right(slot, first_slot + window as u16, frozen_through), Some(first + window)),
        ];
        let distance = |slot_found: u16| i64::from(slot_found) - i64::from(slot);
        for (nearest, outside) in sides {
            let within = |found: Option<(u16, DiskRegion)>| found.map(|(at, place)| (distance(at), place));
            let (mut taking, mut seen) = (within(nearest.taking), within(nearest.frozen));
            if taking.is_none()
                && let Some(outside) = outside
                && let Some((place, takes_writes)) = self.place_beside(RegionIndex(outside))
            {
                let neighbour = Some((outside.wrapping_sub(region.0) as i64, place));
                if takes_writes { taking = neighbour } else { seen = seen.or(neighbour) }
            }
            found.extend(taking);
            frozen.extend(seen);
        }
        found.extend(frozen);
        found
    }

    /// Where the region lies, for others to lie beside; and whether writes go there.
    fn place_beside(&self, region: RegionIndex) -> Option<(DiskRegion, bool)> {
        let frozen = self.attachment.frozen_through;
        match self.table.entry(region) {
            EntryView::Full { place, born, .. } | EntryView::Partial { place, born, .. } => {
                Some((place, born > frozen))
            }
            EntryView::Stack(layers) => {
                let takes_writes = mapping::stack::write_layer(layers, frozen).map(|place| (place, true));
                takes_writes.or_else(|| match layers.last()?.place {
                    Place::Region(place) => Some((place, false)),
                    Place::Zero => None,
                })
            }
            EntryView::NotLoaded | EntryView::Invalid | EntryView::Error | EntryView::Zero => None,
        }
    }

    /// The data of all regions as contiguous ranges of logical disks, neighbours joined.
    fn placed(&self, range: ByteRange, regions: &[RegionWrite]) -> SmallVec<[Placed; 2]> {
        let size = self.attachment.region_size;
        let mut placed: SmallVec<[Placed; 2]> = SmallVec::new();
        for write in regions {
            let (Some(place), Some(first), Some(last)) = (write.place, write.data.first(), write.data.last()) else {
                continue;
            };
            // Zeroes between two runs of data go along: one write is quicker than two, and their bits stay clear.
            let byte_offset = u64::from(first.start) * BLOCK_BYTES;
            let length = u32::try_from(u64::from(last.end - first.start) * BLOCK_BYTES).expect("at most a region");
            let start = ((write.region.0 << size.log2()) + byte_offset - range.start) as u32;
            if let Some(before) = placed.last_mut()
                && before.place.logical_disk == place.logical_disk
                && before.start + before.length == start
                && before.place.unit.byte_offset() + before.byte_offset + u64::from(before.length)
                    == place.unit.byte_offset() + byte_offset
            {
                before.length += length;
            } else {
                placed.push(Placed { place, byte_offset, start, length });
            }
        }
        placed
    }

    pub(crate) fn write_piece_done(
        &mut self,
        context: &mut Context<'_>,
        task: u32,
        disk: DiskId,
        result: Result<(), IoError>,
    ) {
        if !self.dirty_disks.contains(&disk) {
            self.dirty_disks.push(disk);
        }
        let Some(Task::Write(write)) = context.shared.tasks.get_mut(task) else {
            unreachable!("a piece of a write names its task");
        };
        write.pieces_left -= 1;
        if let Err(error) = result {
            write.failed = Some(error);
        }
        if write.pieces_left == 0 {
            self.end_write(context, task);
        }
    }

    /// The data is on the devices (or failed to get there): the table learns of it, the owner is answered.
    fn end_write(&mut self, context: &mut Context<'_>, task: u32) {
        let Some(Task::Write(write)) = context.shared.tasks.remove(task) else {
            unreachable!("the caller holds the task");
        };
        if write.failed.is_none() {
            self.apply(context, write.range, &write.regions);
        }
        if let Some(sequence) = write.sequence {
            self.inflight.end(sequence);
            self.room.write_ends();
        }
        match write.data {
            Data::Whole(data) => context.recycle(data),
            Data::Raw { bytes, first, last, .. } => {
                for buffer in [Some(bytes), first, last].into_iter().flatten() {
                    context.buffers.put(buffer);
                }
            }
        }
        let result = write.failed.map_or(Ok(()), Err);
        match write.owner {
            WriteOwner::Host { id, fua } => {
                self.writes.end(write.range);
                if fua && result.is_ok() && !context.shared.config.planted.has(Bug::FuaIgnored) {
                    self.flush_for(context, Waiter::Host(id));
                } else {
                    context.reply(id, result, &mut self.counters);
                }
            }
            WriteOwner::Zero { task } => self.zero_edge_done(context, task, result),
        }
        self.io_ended(context);
    }

    /// Sets the bits of blocks with data, clears those of zeroes, and gives up regions that hold nothing.
    fn apply(&mut self, context: &Context<'_>, range: ByteRange, regions: &[RegionWrite]) {
        let size = self.attachment.region_size;
        for write in regions.iter().filter(|write| !write.settled) {
            let mut at = write.blocks.start;
            for run in &write.data {
                let place = write.place.expect("data was given a place");
                let mut run = *run;
                self.zero_blocks(context, write.region, BlockRange::new(at, run.start), range, true);
                at = run.end;
                if context.shared.config.planted.has(Bug::WrongBit) && run.end < size.blocks() && run.count() == 1 {
                    run = BlockRange::new(run.start + 1, run.end + 1);
                }
                self.set_blocks(context, write.region, place, run);
            }
            let keep = !write.data.is_empty();
            self.zero_blocks(context, write.region, BlockRange::new(at, write.blocks.end), range, keep);
        }
    }

    fn set_blocks(&mut self, context: &Context<'_>, region: RegionIndex, place: DiskRegion, blocks: BlockRange) {
        self.assert_may_change(context);
        let (generation, frozen) = (self.attachment.generation, self.frozen_through(context));
        let outcome = self.table.blocks_written(region, place, blocks, generation, frozen);
        if outcome.changed {
            self.changes.mark(region);
            self.changed(context);
        }
        self.give_up(context, region, &outcome.drops);
    }

    /// Makes blocks of a region zero in the table. `own` is the range of the write that does it: other writes in
    /// flight on the region keep it mapped, as `keep` does.
    pub(crate) fn zero_blocks(
        &mut self,
        context: &Context<'_>,
        region: RegionIndex,
        blocks: BlockRange,
        own: ByteRange,
        keep: bool,
    ) {
        if blocks.count() == 0 {
            return;
        }
        let size = self.attachment.region_size;
        let bytes = ByteRange::new(region.0 << size.log2(), size.bytes());
        let keep = keep
            || !context.shared.config.planted.has(Bug::TrimForgetsWriteInFlight)
                && self.writes.overlaps_besides(bytes, own);
        self.assert_may_change(context);
        let (generation, frozen) = (self.attachment.generation, self.frozen_through(context));
        let entry = self.table.entry(region);
        if context.shared.config.planted.has(Bug::ZeroLayerForgotten)
            && mapping::resolve_write(region, entry, frozen) == WriteTarget::NeedsRegion
        {
            return;
        }
        let outcome = self.table.blocks_zeroed(region, blocks, generation, frozen, keep);
        if outcome.changed {
            self.changes.mark(region);
            self.changed(context);
        }
        self.give_up(context, region, &outcome.drops);
    }

    /// The region's entry no longer names these places; the next commit says so.
    pub(crate) fn give_up(&mut self, context: &Context<'_>, region: RegionIndex, drops: &[Dropped]) {
        let size = self.attachment.region_size;
        for Dropped { place, born } in drops {
            self.changes.mark(region);
            if context.shared.config.planted.has(Bug::ReusedBeforeCommit) && !self.changes.is_untaken(region) {
                self.grants.add(place.units(size));
                continue;
            }
            self.changes.freed(region, *place, *born, size, self.inflight.next());
        }
    }
}

/// What a host is told when no region was granted.
pub(crate) fn io_error(error: wire::GrantError) -> IoError {
    match error {
        wire::GrantError::Fenced => IoError::Fenced,
        // A store that failed is no full pool: hosts treat the two differently.
        wire::GrantError::Unavailable => IoError::Device,
        wire::GrantError::PoolFull
        | wire::GrantError::PoolLimit
        | wire::GrantError::VolumeLimit
        | wire::GrantError::MetadataFull => IoError::OutOfSpace,
    }
}

/// Why a write has no place, or may not begin.
pub(crate) enum Unplaced {
    Blocked,
    Failed(IoError),
}
