//! Table pages: their encoding, and deltas folded over them.
//!
//! ```text
//! page = log2 of the region size:1  runs:n  run…
//! run  = slots skipped since the last run:n  slots - 1:n  kind:1  fields
//! kind : 0 invalid · 1 error · 2 zero · 3 one region, whole · 4 layers
//!   3  : logical disk:n  unit / units per region:n  born:n  written:n
//!   4  : layers:1, each: place:1 (0 zero, 1 region: logical disk:n  unit / units per region:n)
//!        blocks (0 all · 1 range: start:n length:n · 2 bits, one byte for each 8 blocks begun)  born:n  written:n
//! ```

use crate::StoreError;
use crate::codec::{Reader, Writer};
use crate::records::read_region_size;
use model::{
    BlockBitmap, BlockRange, DiskRegion, EntryRun, Generation, LAYERS_MAX, Layer, LayerStack, LogicalDiskId, MapEntry,
    Place, REGIONS_PER_PAGE, RegionSize, UnitIndex, UnitRun,
};

const WHAT: &str = "a table page";
/// How many blocks the largest region has.
const BLOCKS_MAX: usize = 1024;

/// The bytes of a page or of a delta: `runs`, ascending and without overlap, of a volume with regions of `size`.
#[must_use]
pub fn encode(size: RegionSize, runs: &[EntryRun]) -> Vec<u8> {
    let mut writer = Writer::new();
    writer.u8(size.log2() as u8);
    writer.number(runs.len() as u64);
    let mut next = 0;
    for run in runs {
        writer.number(run.first - next);
        writer.number(run.count - 1);
        next = run.first + run.count;
        write_entry(&mut writer, size, &run.entry);
    }
    writer.finish()
}

fn write_entry(writer: &mut Writer, size: RegionSize, entry: &MapEntry) {
    match entry {
        MapEntry::Invalid => writer.u8(0),
        MapEntry::Error => writer.u8(1),
        MapEntry::Zero => writer.u8(2),
        MapEntry::Layers(layers) => match layers.as_slice() {
            [Layer { place: Place::Region(region), blocks, born, written }] if blocks.is_all() => {
                writer.u8(3);
                write_region(writer, size, *region);
                writer.number(born.0);
                writer.number(written.0);
            }
            layers => {
                writer.u8(4);
                writer.u8(layers.len() as u8);
                layers.iter().for_each(|layer| write_layer(writer, size, layer));
            }
        },
    }
}

fn write_region(writer: &mut Writer, size: RegionSize, region: DiskRegion) {
    writer.number(region.logical_disk.0);
    writer.number(region.unit.0 / size.units());
}

fn write_layer(writer: &mut Writer, size: RegionSize, layer: &Layer) {
    match layer.place {
        Place::Zero => writer.u8(0),
        Place::Region(region) => {
            writer.u8(1);
            write_region(writer, size, region);
        }
    }
    write_blocks(writer, &layer.blocks);
    writer.number(layer.born.0);
    writer.number(layer.written.0);
}

fn write_blocks(writer: &mut Writer, blocks: &BlockBitmap) {
    if blocks.is_all() {
        return writer.u8(0);
    }
    let count = blocks.count();
    let (held, end) = blocks.run_from(0, blocks.blocks());
    let start = if held { 0 } else { end };
    let length = if count == 0 { 0 } else { blocks.run_from(start, blocks.blocks()).1 - start };
    if length == count {
        writer.u8(1);
        writer.number(if count == 0 { 0 } else { start });
        return writer.number(length);
    }
    writer.u8(2);
    let bytes = blocks.words().iter().flat_map(|word| word.to_le_bytes());
    bytes.take(blocks.blocks().div_ceil(8) as usize).for_each(|byte| writer.u8(byte));
}

/// The region size and the runs that these bytes are.
///
/// # Errors
/// [`StoreError::Corrupt`] or [`StoreError::NewerVersion`].
pub fn decode(bytes: &[u8]) -> Result<(RegionSize, Vec<EntryRun>), StoreError> {
    let mut reader = Reader::new(WHAT, bytes)?;
    let size = read_region_size(&mut reader)?;
    let count = reader.count(3)?;
    let mut runs = Vec::with_capacity(count.min(REGIONS_PER_PAGE as usize));
    let mut next = 0_u64;
    for _ in 0..count {
        let (skipped, more) = (reader.u32()?, reader.u32()?);
        let first = next + u64::from(skipped);
        next = first + u64::from(more) + 1;
        if next > u64::from(REGIONS_PER_PAGE) {
            return Err(reader.corrupt("it has more slots than a page"));
        }
        let entry = read_entry(&mut reader, size)?;
        let run = EntryRun { first: first as u16, count: (next - first) as u16, entry };
        if !run_is_sane(&run, size) {
            return Err(reader.corrupt("a run leaves its logical disk"));
        }
        runs.push(run);
    }
    reader.finish()?;
    Ok((size, runs))
}

fn read_entry(reader: &mut Reader<'_>, size: RegionSize) -> Result<MapEntry, StoreError> {
    Ok(match reader.u8()? {
        0 => MapEntry::Invalid,
        1 => MapEntry::Error,
        2 => MapEntry::Zero,
        3 => {
            let region = read_region(reader, size)?;
            let (born, written) = (Generation(reader.u32()?), Generation(reader.u32()?));
            MapEntry::full(region, size, born, written)
        }
        4 => {
            let count = usize::from(reader.u8()?);
            if !(1..=LAYERS_MAX).contains(&count) {
                return Err(reader.corrupt("an entry has no layers or too many"));
            }
            let mut layers = LayerStack::new();
            for _ in 0..count {
                layers.push(read_layer(reader, size)?);
            }
            MapEntry::Layers(layers)
        }
        _ => return Err(reader.corrupt("an entry's kind is unknown")),
    })
}

fn read_region(reader: &mut Reader<'_>, size: RegionSize) -> Result<DiskRegion, StoreError> {
    let logical_disk = LogicalDiskId(reader.u32()?);
    let unit = reader.u32()?.checked_mul(size.units()).ok_or_else(|| reader.corrupt("a region is out of reach"))?;
    Ok(DiskRegion { logical_disk, unit: UnitIndex(unit) })
}

fn read_layer(reader: &mut Reader<'_>, size: RegionSize) -> Result<Layer, StoreError> {
    let place = match reader.u8()? {
        0 => Place::Zero,
        1 => Place::Region(read_region(reader, size)?),
        _ => return Err(reader.corrupt("a layer's place is unknown")),
    };
    let blocks = read_blocks(reader, size)?;
    Ok(Layer { place, blocks, born: Generation(reader.u32()?), written: Generation(reader.u32()?) })
}

fn read_blocks(reader: &mut Reader<'_>, size: RegionSize) -> Result<BlockBitmap, StoreError> {
    match reader.u8()? {
        0 => Ok(BlockBitmap::all(size.blocks())),
        1 => {
            let (start, length) = (reader.u32()?, reader.u32()?);
            let end = start.checked_add(length).filter(|end| *end <= size.blocks());
            let end = end.ok_or_else(|| reader.corrupt("a range leaves its region"))?;
            let mut blocks = BlockBitmap::none(size.blocks());
            blocks.insert(BlockRange::new(start, end));
            Ok(blocks)
        }
        2 => {
            let bytes = reader.raw(size.blocks().div_ceil(8) as usize)?;
            let mut words = [0; BLOCKS_MAX / 64];
            for (word, chunk) in words.iter_mut().zip(bytes.chunks(8)) {
                *word = chunk.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte));
            }
            BlockBitmap::from_words(size.blocks(), &words[..bytes.len().div_ceil(8)])
                .ok_or_else(|| reader.corrupt("a bitmap leaves its region"))
        }
        _ => Err(reader.corrupt("a bitmap's kind is unknown")),
    }
}

fn run_is_sane(run: &EntryRun, size: RegionSize) -> bool {
    let slots_fit = run.count > 0 && u32::from(run.first) + u32::from(run.count) <= REGIONS_PER_PAGE;
    slots_fit
        && match &run.entry {
            MapEntry::Layers(layers) => {
                (1..=LAYERS_MAX).contains(&layers.len()) && layers.iter().all(|layer| layer_is_sane(layer, run, size))
            }
            MapEntry::Invalid | MapEntry::Error | MapEntry::Zero => true,
        }
}

fn layer_is_sane(layer: &Layer, run: &EntryRun, size: RegionSize) -> bool {
    let reach = u64::from(run.count) * u64::from(size.units());
    layer.blocks.blocks() == size.blocks()
        && match layer.place {
            Place::Zero => true,
            Place::Region(region) => {
                region.unit.0.is_multiple_of(size.units()) && u64::from(region.unit.0) + reach <= u64::from(u32::MAX)
            }
        }
}

/// Whether runs that a peer sent can be those of a page: ascending, without overlap, within the page, every region
/// aligned and within reach.
#[must_use]
pub fn runs_are_sane(size: RegionSize, runs: &[EntryRun]) -> bool {
    let ascending = runs.windows(2).all(|pair| pair[0].first.saturating_add(pair[0].count) <= pair[1].first);
    ascending && runs.iter().all(|run| run_is_sane(run, size))
}

/// The entry of the region `count` regions further in a run that starts with `entry`.
#[must_use]
pub fn entry_at(entry: &MapEntry, count: u16, size: RegionSize) -> MapEntry {
    let mut entry = entry.clone();
    advance(&mut entry, count, size);
    entry
}

/// Makes `entry` that of the region `count` regions further in its run.
fn advance(entry: &mut MapEntry, count: u16, size: RegionSize) {
    if let MapEntry::Layers(layers) = entry
        && count > 0
    {
        for layer in layers {
            if let Place::Region(region) = layer.place {
                layer.place = Place::Region(region.offset_by(count.into(), size));
            }
        }
    }
}

/// Whether `next` goes on where `last` ends, so that both are one run.
fn continues(last: &EntryRun, next: &EntryRun, size: RegionSize) -> bool {
    let goes_on = |(one, other): (&Layer, &Layer)| {
        let place = match (one.place, other.place) {
            (Place::Region(one), Place::Region(other)) => one.offset_by(last.count.into(), size) == other,
            (one, other) => one == other,
        };
        place && one.born == other.born && one.written == other.written && one.blocks == other.blocks
    };
    last.first + last.count == next.first
        && match (&last.entry, &next.entry) {
            (MapEntry::Layers(one), MapEntry::Layers(other)) => {
                one.len() == other.len() && one.iter().zip(other).all(goes_on)
            }
            (one, other) => one == other,
        }
}

/// Adds `run` behind `runs`, as part of the last one if it continues it.
fn push_fused(runs: &mut Vec<EntryRun>, run: EntryRun, size: RegionSize) {
    match runs.last_mut() {
        Some(last) if continues(last, &run, size) => last.count += run.count,
        _ => runs.push(run),
    }
}

/// Takes off what lies before `slot`, which is within `run`.
fn split_off_front(run: &mut EntryRun, slot: u16, size: RegionSize) -> EntryRun {
    let front = EntryRun { first: run.first, count: slot - run.first, entry: run.entry.clone() };
    skip_to(run, slot, size);
    front
}

/// Lets `run` begin at `slot`, which is within it.
fn skip_to(run: &mut EntryRun, slot: u16, size: RegionSize) {
    let skipped = slot - run.first;
    advance(&mut run.entry, skipped, size);
    run.first = slot;
    run.count -= skipped;
}

/// `base` with the slots that `delta` names replaced by what it says. Both ascending and without overlap, and so is
/// the result; neighbours that continue one another are one run in it.
#[must_use]
pub fn overlay(size: RegionSize, base: Vec<EntryRun>, delta: Vec<EntryRun>) -> Vec<EntryRun> {
    if delta.is_empty() {
        return base;
    }
    let mut result = Vec::with_capacity(base.len() + delta.len());
    let mut base = base.into_iter();
    let mut rest = base.next();
    for over in delta {
        let end = over.first + over.count;
        while let Some(mut run) = rest.take_if(|run| run.first < over.first) {
            if run.first + run.count > over.first {
                push_fused(&mut result, split_off_front(&mut run, over.first, size), size);
                rest = Some(run);
            } else {
                push_fused(&mut result, run, size);
                rest = base.next();
            }
        }
        while let Some(mut run) = rest.take_if(|run| run.first < end) {
            rest = if run.first + run.count > end {
                skip_to(&mut run, end, size);
                Some(run)
            } else {
                base.next()
            };
        }
        push_fused(&mut result, over, size);
    }
    for run in rest.into_iter().chain(base) {
        push_fused(&mut result, run, size);
    }
    result
}

/// `runs` without what says nothing: slots that no run covers are zero anyway.
#[must_use]
pub fn without_zeroes(mut runs: Vec<EntryRun>) -> Vec<EntryRun> {
    runs.retain(|run| run.entry != MapEntry::Zero);
    runs
}

/// What a run maps: for each layer with a place, when that was allocated, and its units, one contiguous run of them.
pub fn places_of(run: &EntryRun, size: RegionSize) -> impl Iterator<Item = (Generation, UnitRun)> + '_ {
    let layers = match &run.entry {
        MapEntry::Layers(layers) => layers.as_slice(),
        MapEntry::Invalid | MapEntry::Error | MapEntry::Zero => &[],
    };
    let count = u32::from(run.count) * size.units();
    layers.iter().filter_map(move |layer| match layer.place {
        Place::Zero => None,
        Place::Region(region) => {
            Some((layer.born, UnitRun { logical_disk: region.logical_disk, start: region.unit, count }))
        }
    })
}

/// The units a run maps: for each layer with a place, one contiguous run of them.
pub fn units_of(run: &EntryRun, size: RegionSize) -> impl Iterator<Item = UnitRun> + '_ {
    places_of(run, size).map(|(_, units)| units)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_run(size: RegionSize) -> impl Strategy<Value = EntryRun> {
        let region = (0_u32..3, 0_u32..4000)
            .prop_map(move |(ld, n)| DiskRegion { logical_disk: LogicalDiskId(ld), unit: UnitIndex(n * size.units()) });
        let layer = (prop::option::of(region), prop::collection::vec(any::<bool>(), size.blocks() as usize), 0_u32..9)
            .prop_map(move |(region, bits, born)| {
                let mut blocks = BlockBitmap::none(size.blocks());
                for (index, _) in bits.iter().enumerate().filter(|(_, bit)| **bit) {
                    blocks.insert(BlockRange::new(index as u32, index as u32 + 1));
                }
                let place = region.map_or(Place::Zero, Place::Region);
                Layer { place, blocks, born: Generation(born), written: Generation(born + 1) }
            });
        let entry = prop_oneof![
            Just(MapEntry::Zero),
            Just(MapEntry::Error),
            (0_u32..3, 0_u32..40).prop_map(move |(ld, n)| {
                let place = DiskRegion { logical_disk: LogicalDiskId(ld), unit: UnitIndex(n * size.units()) };
                MapEntry::full(place, size, Generation(1), Generation(1))
            }),
            prop::collection::vec(layer, 1..4).prop_map(|layers| MapEntry::Layers(layers.into())),
        ];
        (0_u16..1024, 1_u16..300, entry).prop_map(|(first, count, entry)| EntryRun {
            first,
            count: count.min(1024 - first),
            entry,
        })
    }

    fn any_runs(size: RegionSize) -> impl Strategy<Value = Vec<EntryRun>> {
        prop::collection::vec(any_run(size), 0..6).prop_map(|mut runs| {
            runs.sort_by_key(|run| run.first);
            let mut end = 0;
            runs.retain(|run| {
                let keep = run.first >= end;
                if keep {
                    end = run.first + run.count;
                }
                keep
            });
            runs
        })
    }

    fn slots(size: RegionSize, runs: &[EntryRun], into: &mut [MapEntry]) {
        for run in runs {
            for slot in 0..run.count {
                into[usize::from(run.first + slot)] = entry_at(&run.entry, slot, size);
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn pages_come_back(runs in any_runs(RegionSize::DEFAULT)) {
            prop_assert!(runs_are_sane(RegionSize::DEFAULT, &runs));
            prop_assert_eq!(decode(&encode(RegionSize::DEFAULT, &runs)), Ok((RegionSize::DEFAULT, runs)));
        }

        #[test]
        fn folding_agrees_with_a_page_of_slots(versions in prop::collection::vec(any_runs(RegionSize::DEFAULT), 1..5)) {
            let size = RegionSize::DEFAULT;
            let mut naive = vec![MapEntry::Zero; 1024];
            let mut page = Vec::new();
            for delta in &versions {
                slots(size, delta, &mut naive);
                page = overlay(size, page, delta.clone());
                prop_assert!(runs_are_sane(size, &page));
            }
            let mut seen = vec![MapEntry::Zero; 1024];
            slots(size, &without_zeroes(page), &mut seen);
            prop_assert_eq!(seen, naive);
        }
    }

    #[test]
    fn a_contiguous_page_is_one_run_of_a_few_bytes() {
        let size = RegionSize::DEFAULT;
        let mut page = Vec::new();
        for slot in 0..1024 {
            let place = DiskRegion { logical_disk: LogicalDiskId(1), unit: UnitIndex(4096 + u32::from(slot) * 4) };
            let entry = MapEntry::full(place, size, Generation(1), Generation(1));
            page = overlay(size, page, vec![EntryRun { first: slot, count: 1, entry }]);
        }
        assert_eq!(page.len(), 1);
        assert!(encode(size, &page).len() < 24);
    }

    #[test]
    fn runs_of_a_lying_peer_are_not_sane() {
        let size = RegionSize::DEFAULT;
        let run = |first, count, unit| EntryRun {
            first,
            count,
            entry: MapEntry::full(
                DiskRegion { logical_disk: LogicalDiskId(1), unit: UnitIndex(unit) },
                size,
                Generation(1),
                Generation(1),
            ),
        };
        assert!(runs_are_sane(size, &[run(0, 2, 4), run(2, 1, 400)]));
        assert!(!runs_are_sane(size, &[run(0, 2, 4), run(1, 1, 400)]), "overlap");
        assert!(!runs_are_sane(size, &[run(1023, 2, 4)]), "beyond the page");
        assert!(!runs_are_sane(size, &[run(0, 0, 4)]), "empty");
        assert!(!runs_are_sane(size, &[run(0, 1, 5)]), "unaligned");
        assert!(!runs_are_sane(size, &[run(0, 10, u32::MAX - 3)]), "beyond every logical disk");
        assert!(!runs_are_sane(size, &[EntryRun { first: u16::MAX, count: u16::MAX, entry: MapEntry::Zero }]));
    }
}
