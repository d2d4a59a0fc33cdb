//! Where the space of volumes and snapshots is, from counts alone: cheap to ask, and exact as of the last commit.

use crate::branches::{Branch, LIVE};
use crate::engine::Controller;
use api::{Snapshot, SnapshotState, VolumeSpace};
use model::{BranchId, Generation, UNIT_BYTES, VolumeId};
use std::collections::{BTreeMap, BTreeSet};

impl Controller {
    /// # Panics
    /// When there is no such volume.
    pub(crate) fn volume_space(&self, id: VolumeId) -> VolumeSpace {
        let volume = &self.volumes[&id];
        let Some(branch) = self.branches.get(&volume.branch_id()).filter(|branch| branch.has_live_end()) else {
            return VolumeSpace { snapshots_bytes: volume.used_bytes(), ..VolumeSpace::default() };
        };
        let (origin, newest) = (branch.origin_generation(), branch.newest());
        let held = |from: Generation, through: Generation| {
            branch.held(LIVE, |bucket| from < bucket && bucket <= through) * UNIT_BYTES
        };
        let own_bytes = held(newest, LIVE);
        let shared_with_snapshots_bytes = held(origin, newest);
        let staying = self.staying_views(id);
        let kept = self.kept_units(id, &staying) * UNIT_BYTES;
        VolumeSpace {
            referenced_bytes: branch.held(LIVE, |_| true) * UNIT_BYTES,
            own_bytes,
            shared_with_snapshots_bytes,
            shared_with_origin_bytes: branch.held(LIVE, |bucket| bucket <= origin) * UNIT_BYTES,
            snapshots_bytes: volume.used_bytes().saturating_sub(own_bytes + shared_with_snapshots_bytes),
            delete_frees_bytes: volume.used_bytes().saturating_sub(kept)
                + self.freed_elsewhere(id, &staying) * UNIT_BYTES,
        }
    }

    /// The views that would stay without a volume, by branch: those that are the origin of a branch that stays.
    fn staying_views(&self, id: VolumeId) -> BTreeMap<BranchId, BTreeSet<Generation>> {
        let mut staying: BTreeMap<BranchId, BTreeSet<Generation>> = BTreeMap::new();
        for (branch_id, branch) in self.branches.iter().rev() {
            let stays = branch.record.volume != id || staying.contains_key(branch_id);
            if let Some((origin, generation)) = branch.record.origin.filter(|_| stays) {
                staying.entry(origin).or_default().insert(generation);
            }
        }
        staying
    }

    /// How many units of a volume's own would stay for the clones that others made of its snapshots.
    fn kept_units(&self, id: VolumeId, staying: &BTreeMap<BranchId, BTreeSet<Generation>>) -> u64 {
        let own = self.branches.iter().filter(|(_, branch)| branch.record.volume == id);
        own.filter_map(|(branch_id, branch)| Some((branch, staying.get(branch_id)?)))
            .map(|(branch, views)| kept_of(branch, views))
            .sum()
    }

    /// How many units taking back one snapshot frees: what it alone holds, and what was only kept for the branch that goes
    /// with it.
    fn freed_with(&self, branch_id: BranchId, generation: Generation) -> u64 {
        let Some(branch) = self.branches.get(&branch_id) else { return 0 };
        let is_last = branch.record.ended && !branch.has_live_end() && branch.snapshots.len() == 1;
        let origin = branch.record.origin.filter(|_| is_last);
        branch.unique(generation) + origin.map_or(0, |origin| self.freed_behind(origin, 1))
    }

    /// How many units are freed when so many of a snapshot's forks go: none unless it is deleted and these are all.
    fn freed_behind(&self, (branch, generation): (BranchId, Generation), forks: u32) -> u64 {
        let snapshot = self.branches.get(&branch).and_then(|branch| branch.snapshots.get(&generation));
        let is_hidden = snapshot.and_then(|id| self.snapshots.get(id)).is_some_and(|snapshot| snapshot.record.deleted);
        if is_hidden && self.forks(branch, generation) == forks { self.freed_with(branch, generation) } else { 0 }
    }

    /// How many units of other volumes are kept for a volume alone.
    fn freed_elsewhere(&self, id: VolumeId, staying: &BTreeMap<BranchId, BTreeSet<Generation>>) -> u64 {
        let mut origins: BTreeMap<(BranchId, Generation), u32> = BTreeMap::new();
        let going = (self.branches.iter())
            .filter(|(branch_id, branch)| branch.record.volume == id && !staying.contains_key(branch_id));
        for (_, branch) in going {
            let elsewhere = |(origin, _): &(BranchId, Generation)| {
                self.branches.get(origin).is_some_and(|origin| origin.record.volume != id)
            };
            if let Some(origin) = branch.record.origin.filter(elsewhere) {
                *origins.entry(origin).or_default() += 1;
            }
        }
        origins.into_iter().map(|(origin, forks)| self.freed_behind(origin, forks)).sum()
    }

    /// The snapshot of another volume that a volume is a clone of.
    pub(crate) fn origin_name(&self, id: VolumeId) -> Option<String> {
        let (branch, generation) = self.branches.get(&self.volumes.get(&id)?.branch_id())?.record.origin?;
        let snapshot = self.branches.get(&branch)?.snapshots.get(&generation)?;
        let record = &self.snapshots.get(snapshot)?.record;
        (record.volume != id).then(|| self.snapshot_name(*snapshot)).flatten()
    }

    /// `VOL@NAME`.
    fn snapshot_name(&self, id: VolumeId) -> Option<String> {
        let record = &self.snapshots.get(&id)?.record;
        let volume = self.volumes.get(&record.volume)?;
        Some(format!("{}@{}", volume.record.name, record.name))
    }

    pub(crate) fn snapshot_view(&self, id: VolumeId) -> Option<Snapshot> {
        let record = &self.snapshots.get(&id)?.record;
        let branch = self.branches.get(&record.branch)?;
        let forked = |other: &&Branch| other.record.origin == Some((record.branch, record.generation));
        let mut clones: Vec<String> = (self.branches.values().filter(forked))
            .filter(|other| other.record.volume != record.volume)
            .filter_map(|other| Some(self.volumes.get(&other.record.volume)?.record.name.clone()))
            .collect();
        clones.sort();
        let state = if !record.deleted {
            SnapshotState::Ready
        } else if self.forks(record.branch, record.generation) > 0 {
            SnapshotState::KeptByClones
        } else {
            SnapshotState::Deleting
        };
        Some(Snapshot {
            id: id.0,
            name: self.snapshot_name(id)?,
            volume: self.volumes.get(&record.volume)?.record.name.clone(),
            state,
            created_unix_seconds: record.created_unix_seconds,
            size_bytes: record.size_bytes,
            referenced_bytes: branch.referenced(record.generation) * UNIT_BYTES,
            unique_bytes: self.freed_with(record.branch, record.generation) * UNIT_BYTES,
            scheduled: record.scheduled,
            imported_from: record
                .imported_from
                .map(|(cluster, snapshot)| api::SnapshotIdentity { cluster: cluster.0, snapshot }),
            clones,
            progress_percent: (state == SnapshotState::Deleting)
                .then(|| self.purge_percent(record.branch, record.generation).unwrap_or(0)),
        })
    }
}

/// How many of a branch's own units one of `views` holds.
fn kept_of(branch: &Branch, views: &BTreeSet<Generation>) -> u64 {
    let own = branch.usage.iter().filter(|((_, bucket), _)| *bucket > branch.origin_generation());
    own.filter(|((holder, bucket), _)| views.range(*bucket..=*holder).next().is_some()).map(|(_, units)| units).sum()
}
