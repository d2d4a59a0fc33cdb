//! A merge at work: what shows is read, written to a fresh place, and the entry becomes that one layer.

use crate::context::{Context, Piece, PieceOwner, Task};
use crate::inflight::Sequence;
use crate::merge::Purpose;
use crate::planted::Bug;
use crate::volume::Volume;
use mapping::Dropped;
use model::{
    BLOCK_BYTES, BlockBitmap, BlockRange, ByteRange, DiskId, DiskRegion, IoBuffer, IoError, Layer, LayerStack,
    MapEntry, Place, RegionIndex,
};
use std::sync::Arc;
use wire::DiskOperation;

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

impl Volume {
    pub(crate) fn start_merge(
        &mut self,
        context: &mut Context<'_>,
        region: RegionIndex,
        purpose: Purpose,
    ) -> Result<(), IoError> {
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
            Place::Region(place) => Some(Dropped { place, born: layer.born }),
            Place::Zero => None,
        });
        let drops: Vec<_> = with_storage.collect();
        let born = self.attachment.generation;
        // It counts as written now, for a diff may name more than changed, never less: with an older date, a write that
        // fails, or whose commit is lost in a crash, could leave its bytes here and no word of them in the map.
        let layer = Layer { place: Place::Region(place), blocks, born, written: born };
        self.table.set(region, MapEntry::Layers(LayerStack::from_iter([layer])));
        self.give_up(context, region, &drops);
        self.changes.assigned(region, place);
        self.changes.mark(region);
        self.changed(context);
        self.counters.regions_merged += 1;
    }
}
