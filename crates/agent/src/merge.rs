//! Merges: the blocks of a region that show, brought from many layers to one fresh place.
//!
//! A merge holds its region like a write, so that nothing changes there meanwhile; reads go on. What waits for one has not
//! begun: a write or trim looks before it holds its range, so that neither waits for the other in a circle.

use crate::context::{Context, Piece, PieceOwner, Task};
use crate::inflight::Sequence;
use crate::planted::Bug;
use crate::volume::Volume;
use crate::write::{Unplaced, io_error};
use crate::zero_scan;
use mapping::{Dropped, EntryView, WriteTarget};
use model::{
    BLOCK_BYTES, BlockBitmap, BlockRange, ByteRange, DiskId, DiskRegion, IoBuffer, IoError, Layer, LayerStack,
    MapEntry, Place, RegionIndex,
};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use wire::{CommandId, DiskOperation};

/// Merges of one volume under way at once.
const MERGES_AT_ONCE: usize = 8;
/// Of them, those for which nobody waits.
const BACKGROUND_AT_ONCE: usize = 2;
/// Regions with so many layers with storage are merged when nobody writes there.
const LAYERS_NOTED: usize = 5;
/// Regions noted to be merged in the background, for each volume.
const NOTED_MAX: usize = 1024;
/// Noted regions looked at before other things have their turn.
const NOTED_AT_ONCE: usize = 64;

/// For whom a region is merged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Purpose {
    /// A write that finds no room for another layer.
    Write,
    /// Nobody yet: the stack has grown deep.
    Background,
    /// An order to flatten.
    Flatten(CommandId),
}

/// What of one volume is to be merged, and is being.
#[derive(Debug, Default)]
pub(crate) struct Merges {
    /// Regions to be merged before any other write or trim begins there.
    pub(crate) wanted: BTreeMap<RegionIndex, Purpose>,
    running: BTreeMap<RegionIndex, Purpose>,
    /// Regions with deep stacks.
    noted: BTreeSet<RegionIndex>,
    /// Set while held writes are tried again after a merge failed: the one that waited for it fails too.
    failed: Option<(RegionIndex, IoError)>,
}

/// A merge under way.
#[derive(Debug)]
pub(crate) struct MergeTask {
    region: RegionIndex,
    /// What it holds in [`crate::inflight::WriteRanges`].
    range: ByteRange,
    sequence: Sequence,
    /// Where the blocks go: granted, and mapped only at the end.
    place: DiskRegion,
    before: LayerStack,
    /// The blocks that show.
    blocks: BlockBitmap,
    data: Data,
    pieces_left: u32,
    failed: Option<IoError>,
}

#[derive(Debug)]
enum Data {
    /// The region's bytes, and where in them each piece that is being read goes.
    Reading {
        bytes: IoBuffer,
        parts: Vec<(u32, u32)>,
    },
    Writing(Arc<IoBuffer>),
}

/// A piece of a physical disk, and where it lies in the region.
struct Fetch {
    disk: DiskId,
    offset: u64,
    start: u32,
    length: u32,
}

impl Merges {
    /// Whether a region of `regions` (first to last) is to be merged first.
    fn wants(&self, first: RegionIndex, last: RegionIndex) -> bool {
        !self.wanted.is_empty() && self.wanted.range(first..=last).next().is_some()
    }

    /// A region has got one more layer and now has `layers` with storage.
    pub(crate) fn note(&mut self, region: RegionIndex, layers: usize) {
        if layers >= LAYERS_NOTED && self.noted.len() < NOTED_MAX {
            self.noted.insert(region);
        }
    }

    fn background_running(&self) -> usize {
        self.running.values().filter(|purpose| **purpose == Purpose::Background).count()
    }
}

impl Volume {
    /// Whether a write or trim of `range` has to wait for a merge that is to begin first.
    pub(crate) fn waits_for_merge(&self, range: ByteRange) -> bool {
        let size = self.attachment.region_size;
        let last = range.end().max(range.start + 1) - 1;
        self.merges.wants(size.region_of(range.start), size.region_of(last))
    }

    /// Sees that no region of a write that is about to begin needs a merge, or has it merged.
    pub(crate) fn merge_for_write(
        &mut self,
        context: &mut Context<'_>,
        range: ByteRange,
        data: &IoBuffer,
    ) -> Result<(), Unplaced> {
        if range.length == 0 || self.attachment.frozen_through.0 == 0 {
            return Ok(());
        }
        let size = self.attachment.region_size;
        let mut blocked = false;
        for index in size.region_of(range.start).0..=size.region_of(range.end() - 1).0 {
            if !self.needs_merge(context, RegionIndex(index)) {
                continue;
            }
            let base = index << size.log2();
            let (start, end) = (range.start.max(base), range.end().min(base + size.bytes()));
            let whole_blocks = start.is_multiple_of(BLOCK_BYTES) && end.is_multiple_of(BLOCK_BYTES);
            let bytes = &data.bytes()[(start - range.start) as usize..(end - range.start) as usize];
            if whole_blocks && zero_scan::is_zero(bytes) {
                continue;
            }
            self.need_merge(context, RegionIndex(index))?;
            blocked = true;
        }
        if blocked { Err(Unplaced::Blocked) } else { Ok(()) }
    }

    /// The same for a trim, which writes where it begins or ends within a block, and where it keeps space.
    pub(crate) fn merge_for_zero(
        &mut self,
        context: &mut Context<'_>,
        range: ByteRange,
        keep_space: bool,
    ) -> Result<(), Unplaced> {
        if range.length == 0 || self.attachment.frozen_through.0 == 0 {
            return Ok(());
        }
        let grain = if keep_space { self.attachment.region_size.bytes() } else { BLOCK_BYTES };
        let starts_within = !range.start.is_multiple_of(grain);
        let ends_within =
            !range.end().is_multiple_of(grain) && (keep_space || range.end() != self.attachment.size_bytes);
        let mut blocked = false;
        for (within, at) in [(starts_within, range.start), (ends_within, range.end() - 1)] {
            let region = self.attachment.region_size.region_of(at);
            if !within {
                continue;
            }
            if self.table.page(region.page()).is_none() {
                self.fault(context, region.page());
                blocked = true;
            } else if self.needs_merge(context, region) {
                self.need_merge(context, region)?;
                blocked = true;
            }
        }
        if blocked { Err(Unplaced::Blocked) } else { Ok(()) }
    }

    fn needs_merge(&self, context: &Context<'_>, region: RegionIndex) -> bool {
        let target = mapping::resolve_write(region, self.table.entry(region), self.frozen_through(context));
        target == WriteTarget::NeedsMerge
    }

    /// Has a region merged for a write that waits for it, or tells why that is impossible.
    fn need_merge(&mut self, context: &mut Context<'_>, region: RegionIndex) -> Result<(), Unplaced> {
        if let Some((failed, error)) = self.merges.failed
            && failed == region
        {
            return Err(Unplaced::Failed(error));
        }
        match self.try_merge(context, region, Purpose::Write) {
            Ok(true) => {}
            Ok(false) => {
                self.merges.wanted.entry(region).or_insert(Purpose::Write);
            }
            Err(error) => return Err(Unplaced::Failed(error)),
        }
        Ok(())
    }

    /// Begins the merges that others wait for, as far as that is possible now.
    pub(crate) fn merge_wanted(&mut self, context: &mut Context<'_>) {
        if self.merges.wanted.is_empty() || self.freeze.holds() {
            return;
        }
        for (region, purpose) in std::mem::take(&mut self.merges.wanted) {
            let needed = match purpose {
                Purpose::Flatten(command) => self.is_to_flatten(command, region),
                Purpose::Write | Purpose::Background => self.needs_merge(context, region),
            };
            let result = if needed { self.try_merge(context, region, purpose) } else { Ok(true) };
            match (result, purpose) {
                (Ok(false), _) => {
                    self.merges.wanted.insert(region, purpose);
                }
                (Ok(true), Purpose::Flatten(command)) if !needed => self.flatten_step_ended(command, Ok(())),
                (Err(error), Purpose::Flatten(command)) => self.flatten_step_ended(command, Err(error)),
                // The write that waits tries again in a moment, and meets the same error.
                (Ok(true) | Err(_), _) => {}
            }
        }
    }

    /// Begins a merge; `false` when it cannot begin yet.
    pub(crate) fn try_merge(
        &mut self,
        context: &mut Context<'_>,
        region: RegionIndex,
        purpose: Purpose,
    ) -> Result<bool, IoError> {
        let range = self.merge_range(context, region);
        if self.merges.running.len() >= MERGES_AT_ONCE
            || self.merges.running.contains_key(&region)
            || self.writes.overlaps(range)
        {
            return Ok(false);
        }
        match self.have_regions(context, 1) {
            Ok(true) => self.start_merge(context, region, purpose).map(|()| true),
            Ok(false) => Ok(false),
            Err(error) => Err(io_error(error)),
        }
    }

    /// What a merge of the region holds.
    fn merge_range(&self, context: &Context<'_>, region: RegionIndex) -> ByteRange {
        let size = self.attachment.region_size;
        let ignores = context.shared.config.planted.has(Bug::MergeIgnoresWrites);
        ByteRange::new(region.0 << size.log2(), if ignores { 0 } else { size.bytes() })
    }

    /// Merges deep stacks while there is nothing better to do.
    pub(crate) fn merge_in_background(&mut self, context: &mut Context<'_>) {
        let busy = !self.freeze.is_open() || self.leaving.is_some() || !self.is_unhindered();
        if self.merges.noted.is_empty() || busy || self.grants.scarce {
            return;
        }
        let candidates: Vec<_> = self.merges.noted.iter().copied().take(NOTED_AT_ONCE).collect();
        for region in candidates {
            if self.merges.background_running() >= BACKGROUND_AT_ONCE {
                return;
            }
            let layers = match self.table.entry(region) {
                EntryView::Stack(layers) => mapping::stack::region_layers(layers),
                _ => 0,
            };
            if layers < LAYERS_NOTED {
                self.merges.noted.remove(&region);
                continue;
            }
            if self.writes.overlaps(self.merge_range(context, region)) {
                continue;
            }
            if self.grants.fresh_regions() == 0 {
                return self.request_grant(context, 0);
            }
            self.merges.noted.remove(&region);
            // Should it fail, a write that needs it says so.
            let _ = self.try_merge(context, region, Purpose::Background);
        }
    }

    fn start_merge(&mut self, context: &mut Context<'_>, region: RegionIndex, purpose: Purpose) -> Result<(), IoError> {
        let size = self.attachment.region_size;
        let view = self.table.entry(region);
        let mut blocks = BlockBitmap::none(size.blocks());
        let mut fetches = Vec::new();
        for step in mapping::resolve_read(view, size, BlockRange::new(0, size.blocks())) {
            let Place::Region(from) = step.place else { continue };
            blocks.insert(step.blocks);
            let mut start = step.blocks.start * BLOCK_BYTES as u32;
            let at = from.unit.byte_offset() + u64::from(start);
            let at = ByteRange::new(at, u64::from(step.blocks.count()) * BLOCK_BYTES);
            let known = context.locate(from.logical_disk, at, |disk, offset, length| {
                fetches.push(Fetch { disk, offset, start, length: length as u32 });
                start += length as u32;
            });
            known.ok_or(IoError::Device)?;
        }
        let before = view.to_stack(size);
        let neighbours = self.neighbours(region);
        let place = self.grants.take(region.0, &neighbours).expect("the caller has seen a granted region");
        let range = self.merge_range(context, region);
        self.writes.begin(range);
        self.merges.running.insert(region, purpose);
        let mut bytes = context.buffers.take(size.bytes() as usize);
        bytes.bytes_mut()[..size.bytes() as usize].fill(0);
        let parts = fetches.iter().map(|fetch| (fetch.start, fetch.length)).collect();
        let task = context.shared.tasks.insert(Task::Merge(MergeTask {
            region,
            range,
            sequence: self.inflight.begin(),
            place,
            before,
            blocks,
            data: Data::Reading { bytes, parts },
            pieces_left: fetches.len() as u32,
            failed: None,
        }));
        if fetches.is_empty() {
            return self.finish_merge(context, task).2;
        }
        for (part, fetch) in fetches.into_iter().enumerate() {
            let buffer = context.buffers.take(fetch.length as usize);
            let owner = PieceOwner::MergeRead { task, part: part as u16 };
            let operation = DiskOperation::Read { offset: fetch.offset, length: fetch.length, buffer };
            let piece = Piece { slot: self.slot, owner, disk: fetch.disk };
            context.to_node(self.attachment.credentials, piece, operation);
        }
        self.replenish(context);
        Ok(())
    }

    fn merge_task<'a>(context: &'a mut Context<'_>, task: u32) -> &'a mut MergeTask {
        match context.shared.tasks.get_mut(task) {
            Some(Task::Merge(merge)) => merge,
            _ => unreachable!("a piece of a merge names its task"),
        }
    }

    pub(crate) fn merge_read(
        &mut self,
        context: &mut Context<'_>,
        task: u32,
        part: u16,
        result: Result<(), IoError>,
        buffer: Option<IoBuffer>,
    ) {
        let merge = Self::merge_task(context, task);
        let Data::Reading { bytes, parts } = &mut merge.data else {
            unreachable!("a merge reads before it writes");
        };
        let (start, length) = parts[usize::from(part)];
        match (result, &buffer) {
            (Ok(()), Some(buffer)) => {
                bytes.bytes_mut()[start as usize..(start + length) as usize]
                    .copy_from_slice(&buffer.bytes()[..length as usize]);
            }
            (Ok(()), None) => merge.failed = Some(IoError::Device),
            (Err(error), _) => merge.failed = Some(error),
        }
        merge.pieces_left -= 1;
        let next = (merge.pieces_left == 0).then_some(merge.failed);
        buffer.into_iter().for_each(|buffer| context.buffers.put(buffer));
        match next {
            Some(None) => self.write_merged(context, task),
            Some(Some(_)) => self.end_merge(context, task),
            None => {}
        }
    }

    fn write_merged(&mut self, context: &mut Context<'_>, task: u32) {
        let merge = Self::merge_task(context, task);
        let blocks = merge.blocks.blocks();
        let is_held = |block: &u32| merge.blocks.contains(*block);
        let (first, last) = ((0..blocks).find(is_held), (0..blocks).rfind(is_held));
        let (Some(first), Some(last)) = (first, last) else { unreachable!("something was read") };
        let place = merge.place;
        let Data::Reading { bytes, .. } = &mut merge.data else { unreachable!("a merge reads before it writes") };
        let bytes = Arc::new(std::mem::replace(bytes, IoBuffer::empty()));
        merge.data = Data::Writing(Arc::clone(&bytes));
        // What lies between goes along: one write is quicker than two, and without a bit nobody sees it.
        let mut start = first * BLOCK_BYTES as u32;
        let length = u64::from(last + 1 - first) * BLOCK_BYTES;
        let at = ByteRange::new(place.unit.byte_offset() + u64::from(start), length);
        let mut writes = Vec::new();
        let known = context.locate(place.logical_disk, at, |disk, offset, length| {
            writes.push(Fetch { disk, offset, start, length: length as u32 });
            start += length as u32;
        });
        let merge = Self::merge_task(context, task);
        if known.is_none() {
            merge.failed = Some(IoError::Device);
            return self.end_merge(context, task);
        }
        merge.pieces_left = writes.len() as u32;
        for Fetch { disk, offset, start, length } in writes {
            let piece = Piece { slot: self.slot, owner: PieceOwner::MergeWrite { task }, disk };
            let operation = DiskOperation::Write { offset, start, length, buffer: Arc::clone(&bytes) };
            context.to_node(self.attachment.credentials, piece, operation);
        }
    }

    pub(crate) fn merge_written(
        &mut self,
        context: &mut Context<'_>,
        task: u32,
        disk: DiskId,
        result: Result<(), IoError>,
    ) {
        if !self.dirty_disks.contains(&disk) {
            self.dirty_disks.push(disk);
        }
        let merge = Self::merge_task(context, task);
        merge.pieces_left -= 1;
        merge.failed = merge.failed.or(result.err());
        if merge.pieces_left == 0 {
            self.end_merge(context, task);
        }
    }

    /// The data is at its new place (or failed to get there): whoever waited goes on.
    fn end_merge(&mut self, context: &mut Context<'_>, task: u32) {
        let (region, purpose, result) = self.finish_merge(context, task);
        if let (Purpose::Write, Err(error)) = (purpose, result) {
            self.merges.failed = Some((region, error));
            self.retry_held(context);
            self.merges.failed = None;
        }
        self.io_ended(context);
    }

    /// The entry becomes the one layer, or stays what it was.
    fn finish_merge(&mut self, context: &mut Context<'_>, task: u32) -> (RegionIndex, Purpose, Result<(), IoError>) {
        let Some(Task::Merge(merge)) = context.shared.tasks.remove(task) else {
            unreachable!("the caller holds the task");
        };
        self.inflight.end(merge.sequence);
        self.writes.end(merge.range);
        let purpose = self.merges.running.remove(&merge.region).expect("a merge that ends has begun");
        let result = merge.failed.map_or(Ok(()), Err);
        if result.is_ok() {
            self.apply_merge(context, merge.region, merge.place, merge.blocks, &merge.before);
        } else {
            // Nobody addresses it any more, and nobody has heard of it.
            self.grants.add(merge.place.units(self.attachment.region_size));
        }
        match merge.data {
            Data::Reading { bytes, .. } => context.buffers.put(bytes),
            Data::Writing(bytes) => context.recycle(bytes),
        }
        if let Purpose::Flatten(command) = purpose {
            self.flatten_step_ended(command, result);
        }
        (merge.region, purpose, result)
    }

    fn apply_merge(
        &mut self,
        context: &Context<'_>,
        region: RegionIndex,
        place: DiskRegion,
        mut blocks: BlockBitmap,
        before: &LayerStack,
    ) {
        let planted = context.shared.config.planted;
        self.assert_may_change(context);
        let layers = self.table.entry(region).to_stack(self.attachment.region_size);
        let same = layers == *before || planted.has(Bug::MergeIgnoresWrites);
        assert!(same, "a region changed while it was merged");
        if planted.has(Bug::MergeForgetsBlocks) {
            layers.last().into_iter().for_each(|layer| blocks.subtract(&layer.blocks));
        }
        let with_storage = layers.iter().filter_map(|layer| match layer.place {
            Place::Region(place) => Some((Dropped { place, born: layer.born }, layer.written)),
            Place::Zero => None,
        });
        let (drops, written): (Vec<_>, Vec<_>) = with_storage.unzip();
        let born = self.attachment.generation;
        // A diff may name more than changed, never less.
        let written = written.into_iter().max().unwrap_or(born);
        let layer = Layer { place: Place::Region(place), blocks, born, written };
        self.table.set(region, MapEntry::Layers(LayerStack::from_iter([layer])));
        self.give_up(context, region, &drops);
        self.changes.assigned(region, place);
        self.changes.mark(region);
        self.changed(context);
        self.counters.regions_merged += 1;
    }
}
