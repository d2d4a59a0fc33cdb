//! Which blocks of a region a layer holds.

use crate::BlockRange;
use std::fmt;

/// A set of blocks of one region; one bit a block, bit 0 the first. Regions of up to 64 blocks (256 KiB) need no heap.
#[derive(Clone, PartialEq, Eq)]
pub struct BlockBitmap {
    blocks: u16,
    words: Words,
}

#[derive(Clone, PartialEq, Eq)]
enum Words {
    One(u64),
    Many(Box<[u64]>),
}

impl BlockBitmap {
    /// The empty set, over a region of `blocks` blocks (1 to 1,024).
    ///
    /// # Panics
    /// When `blocks` is none, or more than the largest region has.
    #[must_use]
    pub fn none(blocks: u32) -> Self {
        assert!((1..=1024).contains(&blocks), "a region has 1 to 1,024 blocks, not {blocks}");
        let words = if blocks <= 64 {
            Words::One(0)
        } else {
            Words::Many(vec![0; blocks.div_ceil(64) as usize].into_boxed_slice())
        };
        Self { blocks: blocks as u16, words }
    }

    /// Every block of a region of `blocks` blocks.
    #[must_use]
    pub fn all(blocks: u32) -> Self {
        let mut bitmap = Self::none(blocks);
        bitmap.insert(BlockRange::new(0, blocks));
        bitmap
    }

    /// The set whose bits these words hold, lowest first; `None` when a bit beyond `blocks` is set or the number of
    /// words is not the one `blocks` needs.
    #[must_use]
    pub fn from_words(blocks: u32, words: &[u64]) -> Option<Self> {
        if !(1..=1024).contains(&blocks) || words.len() != blocks.div_ceil(64) as usize {
            return None;
        }
        let used = blocks % 64;
        if used != 0 && words[words.len() - 1] >> used != 0 {
            return None;
        }
        let words = if blocks <= 64 { Words::One(words[0]) } else { Words::Many(words.into()) };
        Some(Self { blocks: blocks as u16, words })
    }

    /// Its words, lowest bits first.
    #[must_use]
    pub fn words(&self) -> &[u64] {
        match &self.words {
            Words::One(word) => std::slice::from_ref(word),
            Words::Many(words) => words,
        }
    }

    fn words_mut(&mut self) -> &mut [u64] {
        match &mut self.words {
            Words::One(word) => std::slice::from_mut(word),
            Words::Many(words) => words,
        }
    }

    /// How many blocks the region has.
    #[must_use]
    pub fn blocks(&self) -> u32 {
        u32::from(self.blocks)
    }

    /// How many are in the set.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.words().iter().map(|word| word.count_ones()).sum()
    }

    /// Whether the set holds every block.
    #[must_use]
    pub fn is_all(&self) -> bool {
        self.count() == self.blocks()
    }

    /// Whether the set holds none.
    #[must_use]
    pub fn is_none(&self) -> bool {
        self.words().iter().all(|word| *word == 0)
    }

    /// Whether it holds `block`.
    #[must_use]
    pub fn contains(&self, block: u32) -> bool {
        debug_assert!(block < self.blocks());
        self.words()[(block / 64) as usize] >> (block % 64) & 1 == 1
    }

    /// Adds `range`.
    pub fn insert(&mut self, range: BlockRange) {
        self.for_each_mask(range, |word, mask| *word |= mask);
    }

    /// Takes `range` away.
    pub fn remove(&mut self, range: BlockRange) {
        self.for_each_mask(range, |word, mask| *word &= !mask);
    }

    fn for_each_mask(&mut self, range: BlockRange, mut act: impl FnMut(&mut u64, u64)) {
        assert!(range.start <= range.end && range.end <= self.blocks(), "block range {range:?} leaves its region");
        let (start, end) = (range.start, range.end);
        for (index, word) in self.words_mut().iter_mut().enumerate() {
            let base = index as u32 * 64;
            let (low, high) = (start.max(base), end.min(base + 64));
            if low < high {
                let width = high - low;
                let mask = if width == 64 { u64::MAX } else { ((1 << width) - 1) << (low - base) };
                act(word, mask);
            }
        }
    }

    /// Adds every block of `other`, which has as many blocks.
    pub fn union(&mut self, other: &Self) {
        assert_eq!(self.blocks, other.blocks, "bitmaps of regions of one size");
        for (word, add) in self.words_mut().iter_mut().zip(other.words()) {
            *word |= add;
        }
    }

    /// Takes every block of `other` away, which has as many blocks.
    pub fn subtract(&mut self, other: &Self) {
        assert_eq!(self.blocks, other.blocks, "bitmaps of regions of one size");
        for (word, take) in self.words_mut().iter_mut().zip(other.words()) {
            *word &= !take;
        }
    }

    /// How far from `start` (and within `limit`) blocks agree with `start`: whether it is held, and the end of the run.
    #[must_use]
    pub fn run_from(&self, start: u32, limit: u32) -> (bool, u32) {
        let held = self.contains(start);
        let limit = limit.min(self.blocks());
        let mut at = start;
        while at < limit {
            let word = self.words()[(at / 64) as usize];
            let differing = (if held { !word } else { word }) >> (at % 64);
            if differing != 0 {
                return (held, limit.min(at + differing.trailing_zeros()));
            }
            at = (at / 64 + 1) * 64;
        }
        (held, limit)
    }
}

impl fmt::Debug for BlockBitmap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_all() {
            return write!(f, "all {}", self.blocks);
        }
        write!(f, "{}/{}:", self.count(), self.blocks)?;
        self.words().iter().rev().try_for_each(|word| write!(f, "{word:016x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_bitmap_agrees_with_a_vector_of_bools(
            blocks in prop::sample::select(vec![4_u32, 16, 64, 128, 1024]),
            edits in prop::collection::vec((any::<bool>(), 0_u32..1024, 0_u32..1024), 0..20),
        ) {
            let mut bitmap = BlockBitmap::none(blocks);
            let mut naive = vec![false; blocks as usize];
            for (add, a, b) in edits {
                let (start, end) = ((a % blocks).min(b % blocks), (a % blocks).max(b % blocks) + 1);
                let range = BlockRange::new(start, end);
                if add { bitmap.insert(range) } else { bitmap.remove(range) }
                naive[start as usize..end as usize].fill(add);
            }
            prop_assert_eq!(bitmap.count() as usize, naive.iter().filter(|held| **held).count());
            prop_assert_eq!(BlockBitmap::from_words(blocks, bitmap.words()), Some(bitmap.clone()));
            let mut at = 0;
            while at < blocks {
                let (held, end) = bitmap.run_from(at, blocks);
                prop_assert!(end > at);
                for block in at..end { prop_assert_eq!(naive[block as usize], held); }
                if end < blocks { prop_assert_ne!(naive[end as usize], held); }
                at = end;
            }
        }
    }

    #[test]
    fn words_with_bits_beyond_the_region_are_refused() {
        assert_eq!(BlockBitmap::from_words(16, &[0x1_0000]), None);
        assert_eq!(BlockBitmap::from_words(16, &[0, 0]), None);
        assert_eq!(BlockBitmap::from_words(0, &[]), None);
        assert!(BlockBitmap::from_words(16, &[0xffff]).is_some_and(|bitmap| bitmap.is_all()));
    }
}
