//! One page of an allocation bitmap: 32,768 units of a logical disk (512 MiB), each free or not.
//!
//! ```text
//! 0              every unit is free
//! 1              none is
//! 2  run…        lengths of runs (LEB128), free and not free by turns, the first free (perhaps of length 0)
//! 3  bits:4096   one bit a unit, set if not free, low bits first
//! ```
//!
//! The smallest that fits is written. Units beyond the end of the logical disk are never free.

use std::ops::Range;
use thiserror::Error;

/// How many units a page describes.
pub const UNITS_PER_PAGE: u32 = 32_768;
const WORDS: usize = UNITS_PER_PAGE as usize / 64;
const BITMAP_BYTES: usize = WORDS * 8;

/// An encoded page makes no sense.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[error("an allocation page is damaged: {0}")]
pub struct PageError(&'static str);

/// The state of 32,768 units.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Page {
    /// Every one is free.
    #[default]
    Free,
    /// None is free.
    Full,
    /// Bit set: not free.
    Bitmap(Box<[u64; WORDS]>),
}

impl Page {
    /// Whether `unit` of the page is not free.
    #[must_use]
    pub fn is_set(&self, unit: u32) -> bool {
        match self {
            Self::Free => false,
            Self::Full => true,
            Self::Bitmap(words) => words[(unit / 64) as usize] >> (unit % 64) & 1 == 1,
        }
    }

    /// The end of the run that starts at `from`: the next unit whose state differs from that of `from`, at most `limit`.
    #[must_use]
    pub fn run_end(&self, from: u32, limit: u32) -> u32 {
        let Self::Bitmap(words) = self else { return limit };
        let set = self.is_set(from);
        let mut at = from;
        while at < limit {
            let word = words[(at / 64) as usize];
            let differing = (if set { !word } else { word }) >> (at % 64);
            if differing != 0 {
                return limit.min(at + differing.trailing_zeros());
            }
            at = (at / 64 + 1) * 64;
        }
        limit
    }

    /// The runs of units that are not free, within the first `limit` units.
    pub fn set_runs(&self, limit: u32) -> impl Iterator<Item = Range<u32>> + '_ {
        let mut at = 0;
        std::iter::from_fn(move || {
            while at < limit {
                let (start, set) = (at, self.is_set(at));
                at = self.run_end(at, limit);
                if set {
                    return Some(start..at);
                }
            }
            None
        })
    }

    /// How many units are not free.
    #[must_use]
    pub fn set_count(&self) -> u32 {
        match self {
            Self::Free => 0,
            Self::Full => UNITS_PER_PAGE,
            Self::Bitmap(words) => words.iter().map(|word| word.count_ones()).sum(),
        }
    }

    /// Makes every unit of `range` free, or not free, as `set` says.
    pub fn set(&mut self, range: Range<u32>, set: bool) {
        assert!(range.start <= range.end && range.end <= UNITS_PER_PAGE, "units {range:?} leave their page");
        if range.is_empty() {
            return;
        }
        if range == (0..UNITS_PER_PAGE) {
            *self = if set { Self::Full } else { Self::Free };
            return;
        }
        match (&*self, set) {
            (Self::Full, true) | (Self::Free, false) => return,
            (Self::Free, true) => *self = Self::Bitmap(Box::new([0; WORDS])),
            (Self::Full, false) => *self = Self::Bitmap(Box::new([u64::MAX; WORDS])),
            (Self::Bitmap(_), _) => {}
        }
        let Self::Bitmap(words) = self else { unreachable!("just made one") };
        let (first, last) = (range.start / 64, (range.end - 1) / 64);
        for index in first..=last {
            let (low, high) = (range.start.max(index * 64) % 64, range.end.min(index * 64 + 64) - index * 64);
            let mask = (u64::MAX >> (64 - (high - low))) << low;
            let word = &mut words[index as usize];
            *word = if set { *word | mask } else { *word & !mask };
        }
        self.settle();
    }

    /// Says in one word what needs no bitmap.
    fn settle(&mut self) {
        let Self::Bitmap(words) = self else { return };
        match words[0] {
            0 if words.iter().all(|word| *word == 0) => *self = Self::Free,
            u64::MAX if words.iter().all(|word| *word == u64::MAX) => *self = Self::Full,
            _ => {}
        }
    }

    /// Its smallest encoding.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let Self::Bitmap(words) = self else { return vec![u8::from(*self == Self::Full)] };
        // A run takes at least a byte: with more of them than the bitmap has bytes there is no need to try.
        if changes(words) >= BITMAP_BYTES as u32 {
            return encode_bits(words);
        }
        let mut bytes = vec![2];
        let mut at = 0;
        let mut set = false;
        while at < UNITS_PER_PAGE && bytes.len() <= BITMAP_BYTES {
            let end = if self.is_set(at) == set { self.run_end(at, UNITS_PER_PAGE) } else { at };
            let mut length = end - at;
            while length >= 0x80 {
                bytes.push(length as u8 | 0x80);
                length >>= 7;
            }
            bytes.push(length as u8);
            (at, set) = (end, !set);
        }
        if bytes.len() > BITMAP_BYTES {
            bytes = encode_bits(words);
        }
        bytes
    }

    /// The page these bytes are.
    ///
    /// # Errors
    /// [`PageError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, PageError> {
        match bytes {
            [0] => Ok(Self::Free),
            [1] => Ok(Self::Full),
            [2, runs @ ..] => Self::decode_runs(runs),
            [3, bits @ ..] if bits.len() == BITMAP_BYTES => {
                let mut words = Box::new([0; WORDS]);
                for (word, bytes) in words.iter_mut().zip(bits.as_chunks::<8>().0) {
                    *word = u64::from_le_bytes(*bytes);
                }
                let mut page = Self::Bitmap(words);
                page.settle();
                Ok(page)
            }
            _ => Err(PageError("its kind or its length is wrong")),
        }
    }

    fn decode_runs(mut bytes: &[u8]) -> Result<Self, PageError> {
        let mut page = Self::Free;
        let (mut at, mut set) = (0_u32, false);
        while let Some((&first, rest)) = bytes.split_first() {
            let (mut length, mut shift, mut byte) = (u32::from(first & 0x7f), 7, first);
            bytes = rest;
            while byte & 0x80 != 0 {
                let (&next, rest) = bytes.split_first().ok_or(PageError("a length ends early"))?;
                if shift > 14 {
                    return Err(PageError("a length is too long"));
                }
                length |= u32::from(next & 0x7f) << shift;
                (byte, bytes, shift) = (next, rest, shift + 7);
            }
            let end = at + length;
            if end > UNITS_PER_PAGE {
                return Err(PageError("its runs leave the page"));
            }
            if set {
                page.set(at..end, true);
            }
            (at, set) = (end, !set);
        }
        if at == UNITS_PER_PAGE { Ok(page) } else { Err(PageError("its runs end early")) }
    }
}

/// How often the state changes from one unit to the next.
fn changes(words: &[u64; WORDS]) -> u32 {
    let (mut count, mut last) = (0, 0);
    for word in words {
        count += (word ^ (word << 1 | last)).count_ones();
        last = word >> 63;
    }
    count
}

fn encode_bits(words: &[u64; WORDS]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(BITMAP_BYTES + 1);
    bytes.push(3);
    bytes.extend(words.iter().flat_map(|word| word.to_le_bytes()));
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn a_page_agrees_with_a_vector_of_bools_and_comes_back(
            edits in prop::collection::vec((any::<bool>(), 0..UNITS_PER_PAGE, 0..UNITS_PER_PAGE), 0..30),
            sparkle in any::<bool>(),
        ) {
            let mut page = Page::Free;
            let mut naive = vec![false; UNITS_PER_PAGE as usize];
            if sparkle {
                for unit in (0..UNITS_PER_PAGE).step_by(2) {
                    page.set(unit..unit + 1, true);
                    naive[unit as usize] = true;
                }
            }
            for (set, a, b) in edits {
                let range = a.min(b)..a.max(b) + 1;
                page.set(range.clone(), set);
                naive[range.start as usize..range.end as usize].fill(set);
            }
            prop_assert_eq!(page.set_count() as usize, naive.iter().filter(|set| **set).count());
            let mut rebuilt = vec![false; UNITS_PER_PAGE as usize];
            for run in page.set_runs(UNITS_PER_PAGE) { rebuilt[run.start as usize..run.end as usize].fill(true); }
            prop_assert_eq!(rebuilt, naive);
            let bytes = page.encode();
            prop_assert!(bytes.len() <= BITMAP_BYTES + 1);
            prop_assert_eq!(Page::decode(&bytes), Ok(page));
        }

        #[test]
        fn no_bytes_are_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            crate::fuzzing::page(&bytes);
        }
    }

    #[test]
    fn pages_of_one_kind_need_no_bitmap() {
        let mut page = Page::Free;
        page.set(0..100, true);
        page.set(100..UNITS_PER_PAGE, true);
        assert_eq!(page, Page::Full);
        page.set(5..6, false);
        page.set(0..5, false);
        page.set(6..UNITS_PER_PAGE, false);
        assert_eq!(page, Page::Free);
        assert_eq!(Page::Full.encode(), [1]);
    }
}
