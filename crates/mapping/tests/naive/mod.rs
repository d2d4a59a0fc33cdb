//! A volume as a vector of blocks: what a table must agree with, written without a thought for speed or space.

use model::{DiskRegion, Generation};
use std::collections::{BTreeMap, BTreeSet};

/// One block of a view: where it lives, and the number of the write that made it (0: zeroes).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Block {
    pub(crate) place: Option<DiskRegion>,
    pub(crate) stamp: u64,
}

/// A volume with its snapshots, block by block.
#[derive(Default)]
pub(crate) struct Naive {
    pub(crate) blocks: Vec<Block>,
    /// Oldest first: the generation and what it sees.
    pub(crate) snapshots: Vec<(Generation, Vec<Block>)>,
    /// Every place ever mapped: its region and when it was born.
    pub(crate) born: BTreeMap<DiskRegion, (u64, Generation)>,
    /// Places that their entries dropped.
    pub(crate) dropped: BTreeSet<DiskRegion>,
    pub(crate) generation: Generation,
    stamp: u64,
}

impl Naive {
    pub(crate) fn new(blocks: usize) -> Self {
        Self { blocks: vec![Block::default(); blocks], generation: Generation(1), ..Self::default() }
    }

    pub(crate) fn frozen_through(&self) -> Generation {
        self.snapshots.last().map_or(Generation(0), |(generation, _)| *generation)
    }

    pub(crate) fn is_frozen(&self, place: DiskRegion) -> bool {
        self.born[&place].1 <= self.frozen_through()
    }

    pub(crate) fn write(&mut self, range: std::ops::Range<usize>, place: DiskRegion) {
        self.stamp += 1;
        self.blocks[range].fill(Block { place: Some(place), stamp: self.stamp });
    }

    pub(crate) fn zero(&mut self, range: std::ops::Range<usize>) {
        self.blocks[range].fill(Block::default());
    }

    pub(crate) fn take_snapshot(&mut self) {
        self.snapshots.push((self.generation, self.blocks.clone()));
        self.generation = self.generation.next();
    }

    /// The places that the live end's entry of a region holds: all it ever mapped and has not dropped.
    pub(crate) fn owned(&self, region: u64) -> BTreeSet<DiskRegion> {
        let of_region = self.born.iter().filter(|(_, (of, _))| *of == region).map(|(place, _)| *place);
        of_region.filter(|place| !self.dropped.contains(place)).collect()
    }
}
