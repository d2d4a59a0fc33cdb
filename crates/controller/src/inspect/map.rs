//! A volume's map for people: who sits where, and how scattered it is (A4, A9).

use super::store_error;
use super::view::StoredView;
use api::{Extent, ExtentState, PhysicalRun, VolumeMap, VolumeMapQuery};
use model::{
    BLOCK_BYTES, DiskId, DiskRegion, EntryRun, LogicalDiskId, LogicalDiskLayout, MapEntry, PageIndex, Place,
    RegionSize, VolumeId,
};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use store::keys::Tag;
use store::records::Record;
use store::{KeyRange, StoreError, StoreView};

/// How many pieces of an extent are looked at for the disks it lies on.
const PIECES_MAX: usize = 64;

/// The map of a volume, or the part of it that is asked for.
///
/// # Errors
/// What an operator is told: there is no such volume, or the store cannot be read.
pub fn volume_map(
    view: &(impl StoreView + ?Sized),
    volume: VolumeId,
    query: VolumeMapQuery,
) -> Result<VolumeMap, api::Error> {
    let failed = |error: StoreError| store_error(&error);
    let stored = StoredView::load(view, volume)?;
    let layouts = load_layouts(view).map_err(failed)?;
    let mut builder = Builder::new(&stored, query, &layouts);
    for page in stored.pages(view).map_err(failed)? {
        stored.page(view, page).map_err(failed)?.iter().for_each(|run| builder.add(page, run));
    }
    Ok(builder.finish())
}

fn load_layouts(view: &(impl StoreView + ?Sized)) -> Result<BTreeMap<LogicalDiskId, LogicalDiskLayout>, StoreError> {
    let (mut layouts, mut failure) = (BTreeMap::new(), None);
    view.scan(&KeyRange::tag(Tag::LogicalDisk), &mut |_, value| match LogicalDiskLayout::decode(value) {
        Ok(layout) => {
            layouts.insert(layout.id, layout);
            ControlFlow::Continue(())
        }
        Err(error) => {
            failure = Some(error);
            ControlFlow::Break(())
        }
    })?;
    failure.map_or(Ok(layouts), Err)
}

/// A run of regions before it is written up.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Run {
    first: u64,
    count: u64,
    state: ExtentState,
    written_blocks: u64,
    place: Option<DiskRegion>,
}

impl Run {
    /// Whether `next` goes on where this ends, on both sides.
    fn continues(&self, next: &Run, size: RegionSize) -> bool {
        let same = self.first + self.count == next.first && self.state == next.state;
        same && follows(self.place, self.count, next.place, size)
    }
}

/// Whether the place `count` regions behind `one` is `other`.
fn follows(one: Option<DiskRegion>, count: u64, other: Option<DiskRegion>, size: RegionSize) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => {
            let expected = u64::from(one.unit.0) + count * u64::from(size.units());
            one.logical_disk == other.logical_disk && expected == u64::from(other.unit.0)
        }
        (None, None) => true,
        _ => false,
    }
}

struct Builder<'a> {
    layouts: &'a BTreeMap<LogicalDiskId, LogicalDiskLayout>,
    size: RegionSize,
    map: VolumeMap,
    offset: u64,
    limit: usize,
    open: Option<Run>,
    /// The last mapped region and its place.
    last: Option<(u64, DiskRegion)>,
    neighbours: u64,
    breaks: u64,
}

impl<'a> Builder<'a> {
    fn new(
        record: &StoredView,
        query: VolumeMapQuery,
        layouts: &'a BTreeMap<LogicalDiskId, LogicalDiskLayout>,
    ) -> Self {
        let map = VolumeMap {
            volume: record.name.clone(),
            size_bytes: record.size_bytes,
            region_bytes: record.region_size.bytes(),
            extents: Vec::new(),
            next_offset_bytes: None,
            mapped_regions: 0,
            mapped_extents: 0,
            fragmentation: 0.0,
        };
        let (offset, limit) = (query.offset, query.limit() as usize);
        Self { layouts, size: record.region_size, map, offset, limit, open: None, last: None, neighbours: 0, breaks: 0 }
    }

    fn add(&mut self, page: PageIndex, run: &EntryRun) {
        let (first, count) = (page.region(run.first).0, u64::from(run.count));
        let regions = self.size.regions_in(self.map.size_bytes);
        if first >= regions {
            return;
        }
        let count = count.min(regions - first);
        let (state, place, written) = self.describe(&run.entry);
        if let Some(place) = place {
            self.count(first, count, place);
        }
        if state != ExtentState::Zero {
            self.push(Run { first, count, state, written_blocks: written * count, place });
        }
    }

    fn describe(&self, entry: &MapEntry) -> (ExtentState, Option<DiskRegion>, u64) {
        let MapEntry::Layers(layers) = entry else {
            let lost = matches!(entry, MapEntry::Error | MapEntry::Invalid);
            return (if lost { ExtentState::Error } else { ExtentState::Zero }, None, 0);
        };
        let mut written = model::BlockBitmap::none(self.size.blocks());
        for layer in layers.iter().rev() {
            match layer.place {
                Place::Region(_) => written.union(&layer.blocks),
                Place::Zero => written.subtract(&layer.blocks),
            }
        }
        let place = layers.iter().find_map(|layer| match layer.place {
            Place::Region(region) => Some(region),
            Place::Zero => None,
        });
        let state = if written.is_all() { ExtentState::Data } else { ExtentState::Partial };
        (if place.is_some() { state } else { ExtentState::Zero }, place, u64::from(written.count()))
    }

    /// Figures about the whole volume.
    fn count(&mut self, first: u64, count: u64, place: DiskRegion) {
        self.map.mapped_regions += count;
        self.neighbours += count - 1;
        let adjacent = self.last.filter(|(last, _)| last + 1 == first);
        let goes_on = adjacent.is_some_and(|(_, last)| follows(Some(last), 1, Some(place), self.size));
        self.neighbours += u64::from(adjacent.is_some());
        self.breaks += u64::from(adjacent.is_some() && !goes_on);
        self.map.mapped_extents += u64::from(!goes_on);
        self.last = Some((first + count - 1, place.offset_by(count as u32 - 1, self.size)));
    }

    fn push(&mut self, run: Run) {
        match &mut self.open {
            Some(open) if open.continues(&run, self.size) => {
                open.count += run.count;
                open.written_blocks += run.written_blocks;
            }
            _ => {
                let before = self.open.replace(run);
                let end = before.map_or(0, |before| before.first + before.count);
                self.write(before);
                self.write_hole(end, run.first);
            }
        }
    }

    fn write_hole(&mut self, first: u64, end: u64) {
        let hole = Run { first, count: end - first, state: ExtentState::Zero, written_blocks: 0, place: None };
        self.write((first < end).then_some(hole));
    }

    /// Adds a run to the answer, if it is asked for and there is room.
    fn write(&mut self, run: Option<Run>) {
        let Some(run) = run else { return };
        let region = self.size.bytes();
        let (start, end) = (run.first * region, ((run.first + run.count) * region).min(self.map.size_bytes));
        if end <= self.offset {
            return;
        }
        if self.map.extents.len() >= self.limit {
            self.map.next_offset_bytes.get_or_insert(start);
            return;
        }
        let logical = run.place.map(|place| place.unit.byte_offset());
        self.map.extents.push(Extent {
            offset_bytes: start,
            length_bytes: end - start,
            state: run.state,
            written_bytes: (run.state == ExtentState::Partial).then_some(run.written_blocks * BLOCK_BYTES),
            logical_disk: run.place.map(|place| place.logical_disk.0),
            logical_offset_bytes: logical,
            physical: run.place.map(|place| self.physical(place, end - start)).unwrap_or_default(),
        });
    }

    fn physical(&self, place: DiskRegion, length_bytes: u64) -> Vec<PhysicalRun> {
        let Some(layout) = self.layouts.get(&place.logical_disk) else { return Vec::new() };
        let start = place.unit.byte_offset();
        let length = length_bytes.min(layout.data_bytes().saturating_sub(start));
        let mut seen: BTreeSet<DiskId> = BTreeSet::new();
        pool::resolve(layout, start, length)
            .take(PIECES_MAX)
            .filter(|piece| seen.insert(piece.disk))
            .map(|piece| PhysicalRun {
                disk: piece.disk.0,
                offset_bytes: piece.byte_offset,
                length_bytes: piece.length,
            })
            .collect()
    }

    fn finish(mut self) -> VolumeMap {
        let last = self.open.take();
        let end = last.map_or(0, |last| last.first + last.count);
        self.write(last);
        self.write_hole(end, self.size.regions_in(self.map.size_bytes));
        if self.neighbours > 0 {
            self.map.fragmentation = self.breaks as f64 / self.neighbours as f64;
        }
        self.map
    }
}
