//! Encoding pages and deltas. The bytes are laid out in the parent module's documentation.

use super::{Context, DELTA_FORMAT, GAP_SHIFT, LAYER_ZERO, PAGE_FORMAT, SAME, form, kind, varint};
use crate::page::{advance, check, full_extent};
use model::{BlockBitmap, EntryRun, Generation, Layer, LayerStack, MapEntry, Place, REGIONS_PER_PAGE, RegionSize};

/// The bytes of the page those runs describe; runs in order of their slots.
///
/// # Panics
/// When runs overlap, are out of order, leave the page or break a rule of entries.
#[must_use]
pub fn encode_page(runs: &[EntryRun], size: RegionSize) -> Vec<u8> {
    let mut writer = Writer::new(PAGE_FORMAT, size);
    runs.iter().filter(|run| run.entry != MapEntry::Zero).for_each(|run| writer.add(run));
    writer.finish()
}

/// The bytes of a delta that sets the slots those runs name, zero ones too; runs in order of their slots.
///
/// # Panics
/// As [`encode_page`].
#[must_use]
pub fn encode_delta(runs: &[EntryRun], size: RegionSize) -> Vec<u8> {
    let mut writer = Writer::new(DELTA_FORMAT, size);
    runs.iter().for_each(|run| writer.add(run));
    writer.finish()
}

struct Writer {
    out: Vec<u8>,
    size: RegionSize,
    context: Context,
    /// The end of the last run written.
    slot: u16,
    /// A run that the next may go on from.
    pending: Option<EntryRun>,
}

impl Writer {
    fn new(format: u8, size: RegionSize) -> Self {
        Self { out: vec![format], size, context: Context::default(), slot: 0, pending: None }
    }

    fn finish(mut self) -> Vec<u8> {
        if let Some(run) = self.pending.take() {
            self.write(&run);
        }
        self.out
    }

    /// Adds a run in the one form there is: long where it can be, one slot a run where it must.
    fn add(&mut self, run: &EntryRun) {
        let end = self.pending.as_ref().map_or(self.slot, |pending| pending.first + pending.count);
        assert!(run.count > 0 && run.first >= end, "runs of a page come in order and do not overlap");
        assert!(u32::from(run.first) + u32::from(run.count) <= REGIONS_PER_PAGE, "a run stays within its page");
        if let MapEntry::Layers(layers) = &run.entry {
            check(layers, self.size);
            if full_extent(layers).is_none() {
                for index in 0..run.count {
                    let entry = MapEntry::Layers(advance(layers, u32::from(index), self.size));
                    self.push(EntryRun { first: run.first + index, count: 1, entry });
                }
                return;
            }
        }
        self.push(run.clone());
    }

    fn push(&mut self, run: EntryRun) {
        if let Some(pending) = &mut self.pending {
            if continues(pending, &run, self.size) {
                pending.count += run.count;
                return;
            }
            let pending = std::mem::replace(pending, run);
            self.write(&pending);
        } else {
            self.pending = Some(run);
        }
    }

    fn write(&mut self, run: &EntryRun) {
        let gap = run.first - self.slot;
        self.slot = run.first + run.count;
        match &run.entry {
            MapEntry::Zero => self.plain(kind::ZERO, gap, run.count),
            MapEntry::Error => self.plain(kind::ERROR, gap, run.count),
            MapEntry::Invalid => self.plain(kind::INVALID, gap, run.count),
            MapEntry::Layers(layers) => match layers.as_slice() {
                [layer] if layer.place != Place::Zero => self.single(layer, gap, run.count),
                _ => self.stack(layers, gap),
            },
        }
    }

    fn plain(&mut self, kind: u8, gap: u16, count: u16) {
        self.head(kind, false, gap);
        varint::put(&mut self.out, u64::from(count) - 1);
    }

    fn single(&mut self, layer: &Layer, gap: u16, count: u16) {
        let same = self.context.is_same(layer.place, (layer.born, layer.written));
        let form = form_of(&layer.blocks);
        let kind = match form {
            form::NONE => kind::PARTIAL_NONE,
            form::ALL => kind::FULL,
            form::RAW => kind::PARTIAL_RAW,
            _ => kind::PARTIAL_STRETCHES,
        };
        self.head(kind, same, gap);
        if kind == kind::FULL {
            varint::put(&mut self.out, u64::from(count) - 1);
        }
        self.place(layer, same, count);
        self.bits(&layer.blocks, form);
    }

    fn stack(&mut self, layers: &LayerStack, gap: u16) {
        self.head(kind::STACK, false, gap);
        self.out.push(layers.len() as u8);
        for layer in layers {
            let same = self.context.is_same(layer.place, (layer.born, layer.written));
            let form = form_of(&layer.blocks);
            let zero = if layer.place == Place::Zero { LAYER_ZERO } else { 0 };
            self.out.push(form | zero | if same { SAME } else { 0 });
            self.place(layer, same, 1);
            self.bits(&layer.blocks, form);
        }
    }

    fn head(&mut self, kind: u8, same: bool, gap: u16) {
        let same = if same { SAME } else { 0 };
        varint::put(&mut self.out, u64::from(kind | same) | u64::from(gap) << GAP_SHIFT);
    }

    fn place(&mut self, layer: &Layer, same: bool, count: u16) {
        if let Place::Region(place) = layer.place {
            assert!(place.unit.0.is_multiple_of(self.size.units()), "{place} is not a multiple of the region size");
            let region = u64::from(place.unit.0 / self.size.units());
            if same {
                varint::put_signed(&mut self.out, region as i64 - self.context.next_region as i64);
            } else {
                varint::put(&mut self.out, u64::from(place.logical_disk.0));
                varint::put(&mut self.out, region);
            }
        }
        if !same {
            self.generations(layer.born, layer.written);
        }
        self.context.advance(layer.place, (layer.born, layer.written), count, self.size);
    }

    fn generations(&mut self, born: Generation, written: Generation) {
        varint::put(&mut self.out, u64::from(born.0));
        varint::put_signed(&mut self.out, i64::from(written.0) - i64::from(born.0));
    }

    fn bits(&mut self, blocks: &BlockBitmap, form: u8) {
        match form {
            form::RAW => {
                let bytes = blocks.words().iter().flat_map(|word| word.to_le_bytes());
                self.out.extend(bytes.take(raw_bytes(blocks.blocks())));
            }
            form::STRETCHES => {
                varint::put(&mut self.out, stretches(blocks).count() as u64);
                for (gap, length) in stretches(blocks) {
                    varint::put(&mut self.out, u64::from(gap));
                    varint::put(&mut self.out, u64::from(length) - 1);
                }
            }
            _ => {}
        }
    }
}

/// Whether `next` goes on where `run` ends, so that the two are one.
fn continues(run: &EntryRun, next: &EntryRun, size: RegionSize) -> bool {
    if run.first + run.count != next.first {
        return false;
    }
    match (&run.entry, &next.entry) {
        (MapEntry::Layers(layers), MapEntry::Layers(next)) => match (full_extent(layers), full_extent(next)) {
            (Some(extent), Some(next)) => extent.continues_in(u32::from(run.count), next, size),
            _ => false,
        },
        (entry, next) => entry == next,
    }
}

/// How many bytes a raw bitmap of a region of `blocks` takes.
pub(super) fn raw_bytes(blocks: u32) -> usize {
    blocks.div_ceil(8) as usize
}

/// The shortest form of a bitmap.
fn form_of(blocks: &BlockBitmap) -> u8 {
    if blocks.is_none() {
        return form::NONE;
    }
    if blocks.is_all() {
        return form::ALL;
    }
    let raw = raw_bytes(blocks.blocks());
    // Three bytes are the least that stretches take.
    if raw <= 3 {
        return form::RAW;
    }
    let mut stretched = varint::length(stretches(blocks).count() as u64);
    for (gap, length) in stretches(blocks) {
        stretched += varint::length(u64::from(gap)) + varint::length(u64::from(length) - 1);
    }
    if stretched < raw { form::STRETCHES } else { form::RAW }
}

/// The stretches of held blocks: how many blocks lie before each since the last, and how many it has.
fn stretches(blocks: &BlockBitmap) -> impl Iterator<Item = (u32, u32)> + '_ {
    let mut at = 0;
    std::iter::from_fn(move || {
        let start = at;
        let mut held = false;
        let mut held_start = at;
        while at < blocks.blocks() && !held {
            held_start = at;
            (held, at) = blocks.run_from(at, blocks.blocks());
        }
        held.then(|| (held_start - start, at - held_start))
    })
}
