//! Decoding pages and deltas. Any bytes may come: each gives runs that every other part accepts, or an error.

use super::varint::{self, VarintError};
use super::write::{encode_delta, encode_page, raw_bytes};
use super::{Context, DELTA_FORMAT, GAP_SHIFT, LAYER_ZERO, PAGE_FORMAT, SAME, form, kind};
use crate::stack::{self, REGION_LAYERS_MAX};
use model::{
    BlockBitmap, BlockRange, DiskRegion, EntryRun, Generation, LAYERS_MAX, Layer, LayerStack, LogicalDiskId, MapEntry,
    Place, REGIONS_PER_PAGE, RegionSize, UnitIndex,
};
use thiserror::Error;

/// Why bytes are no page or no delta. The metadata is damaged, or written by a later version.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum DecodeError {
    /// The first byte is not that of this form.
    #[error("the first byte is {found:#04x}, not {expected:#04x}: written by another version, or not a {what} at all")]
    Format {
        /// What was to be read.
        what: &'static str,
        /// The byte seen.
        found: u8,
        /// The byte this version writes.
        expected: u8,
    },
    /// The bytes end too early.
    #[error("the bytes end within {what}")]
    Truncated {
        /// The field.
        what: &'static str,
    },
    /// A number is not in its shortest form, or larger than its field allows.
    #[error("{what} at byte {at} is malformed or out of range")]
    Number {
        /// The field.
        what: &'static str,
        /// Where it ends or was given up.
        at: usize,
    },
    /// A run leaves its page.
    #[error("a run ends at slot {end} of a page of 1,024")]
    BeyondPage {
        /// One past its last slot.
        end: u64,
    },
    /// A run leaves the largest logical disk.
    #[error("a run ends at region {region} of a logical disk, which has no such")]
    BeyondDisk {
        /// One past its last region.
        region: u64,
    },
    /// A bitmap has blocks beyond its region.
    #[error("a bitmap reaches beyond the {blocks} blocks of its region")]
    BeyondRegion {
        /// How many blocks a region has.
        blocks: u32,
    },
    /// A stack has no layer, or too many.
    #[error(
        "an entry has {count} layers, {with_storage} of them with storage; allowed are 1 to 8, up to 7 with storage"
    )]
    Layers {
        /// How many.
        count: usize,
        /// How many of them have storage, as far as was read.
        with_storage: usize,
    },
    /// The bottom layer of a stack has no storage.
    #[error("the bottom layer of an entry has no storage")]
    ZeroAtBottom,
    /// A layer's head has bits that mean nothing.
    #[error("a layer starts with the byte {head:#04x}, which has unknown bits")]
    LayerHead {
        /// The byte.
        head: u8,
    },
    /// Something refers to the place before it, and there is none.
    #[error("the first place refers to one before it")]
    NoPlaceBefore,
    /// The meaning is clear, but it is not written the one way there is.
    #[error("the bytes are not in their one canonical form")]
    NotCanonical,
}

/// The runs of a page, in order; zero slots are left out.
///
/// # Errors
/// When the bytes are anything but what [`encode_page`] writes for regions of `size`.
pub fn decode_page(bytes: &[u8], size: RegionSize) -> Result<Vec<EntryRun>, DecodeError> {
    let runs = decode(bytes, "page", PAGE_FORMAT, size)?;
    if encode_page(&runs, size) == bytes { Ok(runs) } else { Err(DecodeError::NotCanonical) }
}

/// The runs of a delta, in order.
///
/// # Errors
/// When the bytes are anything but what [`encode_delta`] writes for regions of `size`.
pub fn decode_delta(bytes: &[u8], size: RegionSize) -> Result<Vec<EntryRun>, DecodeError> {
    let runs = decode(bytes, "delta", DELTA_FORMAT, size)?;
    if encode_delta(&runs, size) == bytes { Ok(runs) } else { Err(DecodeError::NotCanonical) }
}

fn decode(bytes: &[u8], what: &'static str, expected: u8, size: RegionSize) -> Result<Vec<EntryRun>, DecodeError> {
    let (&found, rest) = bytes.split_first().ok_or(DecodeError::Truncated { what })?;
    if found != expected {
        return Err(DecodeError::Format { what, found, expected });
    }
    let mut reader = Reader { rest, length: bytes.len(), size, context: Context::default(), slot: 0 };
    let mut runs = Vec::new();
    while !reader.rest.is_empty() {
        // Each run takes a slot at least, so there are never more than 1,024.
        runs.push(reader.run()?);
    }
    Ok(runs)
}

struct Reader<'a> {
    rest: &'a [u8],
    length: usize,
    size: RegionSize,
    context: Context,
    /// The end of the last run read.
    slot: u16,
}

impl Reader<'_> {
    fn run(&mut self) -> Result<EntryRun, DecodeError> {
        let head = self.number("a run's head", u64::MAX)?;
        let same = head as u8 & SAME != 0;
        let first = u64::from(self.slot) + (head >> GAP_SHIFT);
        if first >= u64::from(REGIONS_PER_PAGE) {
            return Err(DecodeError::BeyondPage { end: first + 1 });
        }
        let kind = head as u8 & 0b111;
        let count = if kind <= kind::FULL { self.number("a run's length", u64::from(u16::MAX))? + 1 } else { 1 };
        let end = first + count;
        if end > u64::from(REGIONS_PER_PAGE) {
            return Err(DecodeError::BeyondPage { end });
        }
        self.slot = end as u16;
        let count = count as u16;
        let entry = match kind {
            kind::ZERO => MapEntry::Zero,
            kind::ERROR => MapEntry::Error,
            kind::INVALID => MapEntry::Invalid,
            kind::FULL => self.single(form::ALL, same, count)?,
            kind::PARTIAL_NONE => self.single(form::NONE, same, 1)?,
            kind::PARTIAL_RAW => self.single(form::RAW, same, 1)?,
            kind::PARTIAL_STRETCHES => self.single(form::STRETCHES, same, 1)?,
            _ => self.stack()?,
        };
        Ok(EntryRun { first: first as u16, count, entry })
    }

    fn single(&mut self, form: u8, same: bool, count: u16) -> Result<MapEntry, DecodeError> {
        Ok(MapEntry::Layers(LayerStack::from_iter([self.layer(form, false, same, count)?])))
    }

    fn stack(&mut self) -> Result<MapEntry, DecodeError> {
        let count = usize::from(self.byte("a stack's count of layers")?);
        if !(1..=LAYERS_MAX).contains(&count) {
            return Err(DecodeError::Layers { count, with_storage: 0 });
        }
        let mut layers = LayerStack::new();
        for _ in 0..count {
            let head = self.byte("a layer's head")?;
            if head >> 4 != 0 {
                return Err(DecodeError::LayerHead { head });
            }
            layers.push(self.layer(head & 0b11, head & LAYER_ZERO != 0, head & SAME != 0, 1)?);
        }
        if layers.last().is_some_and(|layer| layer.place == Place::Zero) {
            return Err(DecodeError::ZeroAtBottom);
        }
        let with_storage = stack::region_layers(&layers);
        if with_storage > REGION_LAYERS_MAX {
            return Err(DecodeError::Layers { count, with_storage });
        }
        Ok(MapEntry::Layers(layers))
    }

    fn layer(&mut self, form: u8, is_zero: bool, same: bool, count: u16) -> Result<Layer, DecodeError> {
        let mut place = Place::Zero;
        if !is_zero {
            place = Place::Region(self.place(same, count)?);
        }
        let generations = if same {
            self.context.generations.ok_or(DecodeError::NoPlaceBefore)?
        } else {
            let born = self.number("a generation", u64::from(u32::MAX))?;
            let written = born as i64 + self.signed("a generation")?;
            let written = u32::try_from(written).map_err(|_| self.out_of_range("a generation"))?;
            (Generation(born as u32), Generation(written))
        };
        self.context.advance(place, generations, count, self.size);
        let blocks = self.bits(form)?;
        Ok(Layer { place, blocks, born: generations.0, written: generations.1 })
    }

    fn place(&mut self, same: bool, count: u16) -> Result<DiskRegion, DecodeError> {
        let (logical_disk, region) = if same {
            let logical_disk = self.context.logical_disk.ok_or(DecodeError::NoPlaceBefore)?;
            let region = self.context.next_region as i64 + self.signed("a region")?;
            (logical_disk, u64::try_from(region).map_err(|_| self.out_of_range("a region"))?)
        } else {
            let logical_disk = self.number("a logical disk", u64::from(u32::MAX))?;
            (LogicalDiskId(logical_disk as u32), self.number("a region", u64::from(u32::MAX))?)
        };
        let end = region + u64::from(count);
        // The last unit has a number of 32 bits, and so has the one past it: nobody who adds may overflow.
        if end * u64::from(self.size.units()) > u64::from(u32::MAX) {
            return Err(DecodeError::BeyondDisk { region: end });
        }
        Ok(DiskRegion { logical_disk, unit: UnitIndex(region as u32 * self.size.units()) })
    }

    fn bits(&mut self, form: u8) -> Result<BlockBitmap, DecodeError> {
        let blocks = self.size.blocks();
        match form {
            form::NONE => Ok(BlockBitmap::none(blocks)),
            form::ALL => Ok(BlockBitmap::all(blocks)),
            form::RAW => self.raw(blocks),
            _ => self.stretches(blocks),
        }
    }

    fn raw(&mut self, blocks: u32) -> Result<BlockBitmap, DecodeError> {
        let Some((raw, rest)) = self.rest.split_at_checked(raw_bytes(blocks)) else {
            return Err(DecodeError::Truncated { what: "a bitmap" });
        };
        self.rest = rest;
        let mut words = [0_u64; 16];
        for (index, byte) in raw.iter().enumerate() {
            words[index / 8] |= u64::from(*byte) << (index % 8 * 8);
        }
        let words = &words[..blocks.div_ceil(64) as usize];
        BlockBitmap::from_words(blocks, words).ok_or(DecodeError::BeyondRegion { blocks })
    }

    fn stretches(&mut self, blocks: u32) -> Result<BlockBitmap, DecodeError> {
        let mut bitmap = BlockBitmap::none(blocks);
        let count = self.number("a bitmap's count of stretches", u64::from(blocks))?;
        let mut at = 0;
        for _ in 0..count {
            let start = at + self.number("a gap between blocks", u64::from(blocks))?;
            let end = start + self.number("a stretch of blocks", u64::from(blocks))? + 1;
            if end > u64::from(blocks) {
                return Err(DecodeError::BeyondRegion { blocks });
            }
            bitmap.insert(BlockRange::new(start as u32, end as u32));
            at = end;
        }
        Ok(bitmap)
    }

    fn byte(&mut self, what: &'static str) -> Result<u8, DecodeError> {
        let (&byte, rest) = self.rest.split_first().ok_or(DecodeError::Truncated { what })?;
        self.rest = rest;
        Ok(byte)
    }

    fn number(&mut self, what: &'static str, value_max: u64) -> Result<u64, DecodeError> {
        let value = varint::take(&mut self.rest).map_err(|error| self.name(error, what))?;
        if value > value_max { Err(self.out_of_range(what)) } else { Ok(value) }
    }

    fn signed(&mut self, what: &'static str) -> Result<i64, DecodeError> {
        varint::take_signed(&mut self.rest).map_err(|error| self.name(error, what))
    }

    fn name(&self, error: VarintError, what: &'static str) -> DecodeError {
        match error {
            VarintError::Truncated => DecodeError::Truncated { what },
            VarintError::Malformed => self.out_of_range(what),
        }
    }

    fn out_of_range(&self, what: &'static str) -> DecodeError {
        DecodeError::Number { what, at: self.length - self.rest.len() }
    }
}
