//! Branches and their views: what is frozen, who holds what, and how many units that comes to.
//!
//! `docs/snapshots.md` has the rules. A *view* is a snapshot or the live end; a *holder* is a view as units are counted for
//! it; a *bucket* is the oldest view that can see what was born at some time, everything inherited being in the origin's.

use crate::engine::Controller;
use crate::planted::Bug;
use crate::purge::Purge;
use model::{BranchId, Generation, PageIndex, RegionSize, UnitRun, VolumeId};
use std::collections::BTreeMap;
use store::records::{BranchRecord, Record, SnapshotRecord, UnitCount};
use store::{Batch, Key};

/// The live end as a holder.
pub(crate) const LIVE: Generation = Generation(u32::MAX);
/// The most branches one view falls through to.
pub(crate) const DEPTH_MAX: usize = 64;

/// Where a view's pages are: branches with the youngest generation of each that it sees, its own first, its last origin
/// last.
pub(crate) type Chain = Vec<(BranchId, Generation)>;

/// A branch.
#[derive(Debug)]
pub(crate) struct Branch {
    pub(crate) record: BranchRecord,
    /// Its snapshots by generation, those that are deleted and not yet gone included.
    pub(crate) snapshots: BTreeMap<Generation, VolumeId>,
    /// Units by holder and bucket.
    pub(crate) usage: BTreeMap<(Generation, Generation), u64>,
    /// The view that is being taken back.
    pub(crate) purge: Option<Purge>,
}

/// A snapshot.
#[derive(Debug)]
pub(crate) struct Snapshot {
    pub(crate) record: SnapshotRecord,
    /// Its creation is durable: hosts may see it.
    pub(crate) visible: bool,
    /// The session that reads it.
    pub(crate) session: Option<model::Epoch>,
}

/// What a session needs to know of the view it serves.
#[derive(Clone, Debug)]
pub(crate) struct View {
    pub(crate) chain: Chain,
    pub(crate) region_size: RegionSize,
    pub(crate) size_bytes: u64,
}

impl View {
    /// How many table pages it has.
    pub(crate) fn pages(&self) -> u32 {
        self.size_bytes.div_ceil(self.region_size.page_bytes()) as u32
    }

    pub(crate) fn branch(&self) -> BranchId {
        self.chain[0].0
    }

    pub(crate) fn generation(&self) -> Generation {
        self.chain[0].1
    }
}

impl Branch {
    pub(crate) fn new(record: BranchRecord) -> Self {
        Self { record, snapshots: BTreeMap::new(), usage: BTreeMap::new(), purge: None }
    }

    /// The generation it forked off at; zero when it did not.
    pub(crate) fn origin_generation(&self) -> Generation {
        self.record.origin.map_or(Generation(0), |(_, generation)| generation)
    }

    /// Whether it has a live end, be it one that is to be taken back.
    pub(crate) fn has_live_end(&self) -> bool {
        self.record.generation > self.record.frozen_through
    }

    /// The newest snapshot, or the origin.
    pub(crate) fn newest(&self) -> Generation {
        self.snapshots.last_key_value().map_or(self.origin_generation(), |(generation, _)| *generation)
    }

    /// The next older view than `view`, or the origin.
    pub(crate) fn older(&self, view: Generation) -> Generation {
        let older = self.snapshots.range(..view).next_back();
        older.map_or(self.origin_generation(), |(generation, _)| *generation)
    }

    /// The next younger view than `view`.
    pub(crate) fn younger(&self, view: Generation) -> Option<Generation> {
        let snapshot = self.snapshots.range(Generation(view.0 + 1)..).next().map(|(generation, _)| *generation);
        let live = (self.has_live_end() && self.record.generation > view).then_some(self.record.generation);
        snapshot.or(live)
    }

    /// The holder that a view is.
    pub(crate) fn holder(&self, view: Generation) -> Generation {
        if self.snapshots.contains_key(&view) { view } else { LIVE }
    }

    /// The bucket of what was born then.
    pub(crate) fn bucket(&self, born: Generation) -> Generation {
        let origin = self.origin_generation();
        if born <= origin {
            return origin;
        }
        self.snapshots.range(born..).next().map_or(self.record.generation, |(generation, _)| *generation)
    }

    /// What is frozen on a page, for what the live end drops there: the newest snapshot counts only as far as its purge has
    /// not come.
    pub(crate) fn frozen_at(&self, page: PageIndex) -> Generation {
        match &self.purge {
            Some(purge) if purge.view == self.newest() && page < purge.next_page => self.older(purge.view),
            _ => self.record.frozen_through,
        }
    }

    /// How many units a view refers to, whoever else does too.
    pub(crate) fn referenced(&self, view: Generation) -> u64 {
        let from = self.holder(view);
        self.usage
            .range((from, Generation(0))..)
            .filter(|((_, bucket), _)| *bucket <= view)
            .map(|(_, units)| units)
            .sum()
    }

    /// How many units only one view holds.
    pub(crate) fn unique(&self, view: Generation) -> u64 {
        self.usage.get(&(self.holder(view), view)).copied().unwrap_or(0)
    }

    /// How many units of this branch's own a holder has, by whether `counts` wants the bucket.
    pub(crate) fn held(&self, holder: Generation, counts: impl Fn(Generation) -> bool) -> u64 {
        let of_holder = self.usage.range((holder, Generation(0))..=(holder, LIVE));
        of_holder.filter(|((_, bucket), _)| counts(*bucket)).map(|(_, units)| units).sum()
    }
}

impl Controller {
    /// Counts units for a holder.
    pub(crate) fn count_units(&mut self, branch: BranchId, holder: Generation, bucket: Generation, more: i64) {
        if let Some(state) = self.branches.get_mut(&branch) {
            count(&mut state.usage, branch, holder, bucket, more, &mut self.batch);
        }
    }

    /// A branch's live end holds a place no more, from this step's batch on. Whether nobody does, so that it is free.
    pub(crate) fn drop_place(&mut self, id: BranchId, page: PageIndex, born: Generation, run: UnitRun) -> bool {
        let Some(branch) = self.branches.get_mut(&id) else { return false };
        let (bucket, newest) = (branch.bucket(born), branch.newest());
        let is_free = born > branch.frozen_at(page) || self.config.planted.has(Bug::FrozenDropFreed);
        let has_snapshot = branch.snapshots.contains_key(&newest);
        if !is_free && let Some(purge) = branch.purge.as_mut().filter(|purge| purge.view == newest) {
            purge.note_drop(page, run);
        }
        let units = i64::from(run.count);
        self.count_units(id, LIVE, bucket, -units);
        if !is_free && has_snapshot {
            self.count_units(id, newest, bucket, units);
        }
        is_free
    }

    /// The view of a volume's live end, or of a snapshot.
    pub(crate) fn view_of(&self, id: VolumeId) -> Option<View> {
        let (branch, generation, size_bytes, region_size) = match self.volumes.get(&id) {
            Some(volume) => {
                let generation = self.branches.get(&volume.branch_id())?.record.generation;
                (volume.branch_id(), generation, volume.record.size_bytes, volume.record.region_size)
            }
            None => {
                let record = &self.snapshots.get(&id)?.record;
                let region_size = self.volumes.get(&record.volume)?.record.region_size;
                (record.branch, record.generation, record.size_bytes, region_size)
            }
        };
        Some(View { chain: self.chain(branch, generation), region_size, size_bytes })
    }

    /// Where the pages of a view are.
    pub(crate) fn chain(&self, branch: BranchId, generation: Generation) -> Chain {
        let mut chain = vec![(branch, generation)];
        let mut at = branch;
        if self.config.planted.has(Bug::OriginForgotten) {
            return chain;
        }
        while let Some(origin) = self.branches.get(&at).and_then(|branch| branch.record.origin)
            && chain.len() <= DEPTH_MAX
        {
            chain.push(origin);
            at = origin.0;
        }
        chain
    }

    /// How many branches have a view for their origin.
    pub(crate) fn forks(&self, branch: BranchId, generation: Generation) -> u32 {
        self.forks.get(&(branch, generation)).copied().unwrap_or(0)
    }

    /// A branch with that origin is there, or is gone.
    pub(crate) fn count_fork(&mut self, origin: Option<(BranchId, Generation)>, is_there: bool) {
        let Some(origin) = origin else { return };
        let count = self.forks.entry(origin).or_default();
        if is_there {
            *count += 1;
        } else {
            *count -= 1;
            if *count == 0 {
                self.forks.remove(&origin);
            }
        }
    }

    /// Writes a branch's record down in this step's batch.
    pub(crate) fn put_branch(&mut self, id: BranchId) {
        if let Some(branch) = self.branches.get(&id) {
            self.batch.put(Key::Branch(id), branch.record.encode());
        }
    }
}

/// Adds to a count of units, in memory and in the batch.
///
/// # Panics
/// When it would fall below zero: whoever lets a peer say how much checks first.
pub(crate) fn count(
    usage: &mut BTreeMap<(Generation, Generation), u64>,
    branch: BranchId,
    holder: Generation,
    bucket: Generation,
    more: i64,
    batch: &mut Batch,
) {
    if more == 0 {
        return;
    }
    let units = usage.entry((holder, bucket)).or_default();
    *units = units.checked_add_signed(more).expect("NO_REGION_OWNED_TWICE: no view holds less than nothing");
    let units = *units;
    let key = Key::Usage(branch, holder, bucket);
    if units == 0 {
        usage.remove(&(holder, bucket));
        batch.delete(key);
    } else {
        batch.put(key, UnitCount(units).encode());
    }
}
