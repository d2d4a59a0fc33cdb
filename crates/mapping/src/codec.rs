//! The durable form of table pages and of deltas to them.
//!
//! Both are bytes without padding or alignment. A *varint* is LEB128: seven bits a byte, lowest first, the top bit set on
//! every byte but the last, and never longer than needed. A *signed* varint is the varint of the zigzag form
//! (0, −1, 1, −2 … as 0, 1, 2, 3 …). There is exactly one encoding of a page or delta: decoders refuse every other.
//!
//! ```text
//! page    = 0x01 run*            slots that no run names are zero
//! delta   = 0x81 run*            slots that no run names stay what they are
//! run     = head body            runs go on to the end of the bytes, in order of their slots
//! head    = varint: bits 0-2 kind · bit 3 same · bits 4… gap (slots skipped since the end of the run before)
//!
//! kind 0  zero          body = more                    only in deltas; `same` is clear
//! kind 1  error         body = more                    `same` is clear
//! kind 2  invalid       body = more                    `same` is clear
//! kind 3  full          body = more place              a run of regions contiguous on both sides
//! kind 4  partial       body = place                   one layer with storage, no block set
//! kind 5  partial       body = place raw               one layer with storage, some blocks
//! kind 6  partial       body = place stretches         the same, where that is shorter than raw
//! kind 7  stack         body = count:u8 layer{count}   top first, 1 to 8, the last with storage; `same` is clear
//!
//! more    = varint: how many slots the run has beyond its first (kinds 4 to 7 have one slot)
//! layer   = head:u8 place bits   head: bits 0-1 form of bits · bit 2 zero place · bit 3 same · bits 4-7 clear
//! bits    = form 0: nothing, no block · 1: nothing, all blocks · 2: raw · 3: stretches
//! raw     = one bit a block, block 0 the lowest bit of the first byte; 4-block regions leave the top four bits clear
//! stretches = count:varint (gap:varint more:varint){count}
//!             held blocks: how many are skipped since the last stretch, how many it has beyond its first
//!
//! place   = same clear:  logical disk:varint  region:varint  born:varint  written − born:signed
//!           same set:    region − expected:signed
//!           zero place, same clear:  born:varint  written − born:signed
//!           zero place, same set:    nothing
//! ```
//!
//! A place's *region* is its first unit divided by the units of a region. *same* says that logical disk, `born` and
//! `written` (for a zero place: the latter two) are those of the place before it in these bytes, whichever run or layer it
//! stood in; it is set whenever it can be. *expected* is the region that follows that place's run (for a zero place in
//! between: the one before it).

mod read;
mod varint;
mod write;

pub use read::{DecodeError, decode_delta, decode_page};
pub use write::{encode_delta, encode_page};

use crate::page::TablePage;
use model::{DiskRegion, EntryRun, Generation, LogicalDiskId, Place, RegionSize};

/// The first byte of a page.
const PAGE_FORMAT: u8 = 0x01;
/// The first byte of a delta.
const DELTA_FORMAT: u8 = 0x81;

/// The kinds of run, bits 0 to 2 of a run's head.
mod kind {
    pub(super) const ZERO: u8 = 0;
    pub(super) const ERROR: u8 = 1;
    pub(super) const INVALID: u8 = 2;
    pub(super) const FULL: u8 = 3;
    pub(super) const PARTIAL_NONE: u8 = 4;
    pub(super) const PARTIAL_RAW: u8 = 5;
    pub(super) const PARTIAL_STRETCHES: u8 = 6;
    pub(super) const STACK: u8 = 7;
}
/// Bit 3 of a run's head and of a layer's.
const SAME: u8 = 1 << 3;
/// Where the gap starts in a run's head.
const GAP_SHIFT: u32 = 4;
/// Bit 2 of a layer's head.
const LAYER_ZERO: u8 = 1 << 2;

/// The forms of a bitmap, bits 0 and 1 of a layer's head.
mod form {
    pub(super) const NONE: u8 = 0;
    pub(super) const ALL: u8 = 1;
    pub(super) const RAW: u8 = 2;
    pub(super) const STRETCHES: u8 = 3;
}

/// What the place before leaves behind for the next to refer to.
#[derive(Clone, Copy, Default)]
struct Context {
    logical_disk: Option<LogicalDiskId>,
    /// None until a place has set them.
    generations: Option<(Generation, Generation)>,
    next_region: u64,
}

impl Context {
    fn is_same(&self, place: Place, generations: (Generation, Generation)) -> bool {
        let disk_is_same = match place {
            Place::Zero => true,
            Place::Region(place) => self.logical_disk == Some(place.logical_disk),
        };
        disk_is_same && self.generations == Some(generations)
    }

    /// Takes in a place with the run of `count` regions it starts.
    fn advance(&mut self, place: Place, generations: (Generation, Generation), count: u16, size: RegionSize) {
        if let Place::Region(DiskRegion { logical_disk, unit }) = place {
            self.logical_disk = Some(logical_disk);
            self.next_region = u64::from(unit.0 / size.units()) + u64::from(count);
        }
        self.generations = Some(generations);
    }
}

/// What a page says once a delta is applied to it: runs in order, as they decode.
///
/// # Panics
/// When a run leaves the page or breaks a rule of entries (the decoders refuse such runs).
#[must_use]
pub fn apply_delta(page: &[EntryRun], delta: &[EntryRun], size: RegionSize) -> Vec<EntryRun> {
    let mut applied = TablePage::from_runs(size, page);
    delta.iter().for_each(|run| applied.set_run(run));
    applied.runs().collect()
}

#[cfg(test)]
mod tests;
