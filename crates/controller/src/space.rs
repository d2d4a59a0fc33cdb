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
        let kept = self.kept_units(id) * UNIT_BYTES;
        VolumeSpace {
            referenced_bytes: branch.held(LIVE, |_| true) * UNIT_BYTES,
            own_bytes,
            shared_with_snapshots_bytes,
            shared_with_origin_bytes: branch.held(LIVE, |bucket| bucket <= origin) * UNIT_BYTES,
            snapshots_bytes: volume.used_bytes().saturating_sub(own_bytes + shared_with_snapshots_bytes),
            delete_frees_bytes: volume.used_bytes().saturating_sub(kept),
        }
    }

    /// How many units of a volume's own would stay for the clones that others made of its snapshots.
    fn kept_units(&self, id: VolumeId) -> u64 {
        // The views that would stay, by branch: a branch that stays needs its origin.
        let mut staying: BTreeMap<BranchId, BTreeSet<Generation>> = BTreeMap::new();
        for (branch_id, branch) in self.branches.iter().rev() {
            let stays = branch.record.volume != id || staying.contains_key(branch_id);
            if let Some((origin, generation)) = branch.record.origin.filter(|_| stays) {
                staying.entry(origin).or_default().insert(generation);
            }
        }
        let own = self.branches.iter().filter(|(_, branch)| branch.record.volume == id);
        own.filter_map(|(branch_id, branch)| Some((branch, staying.get(branch_id)?)))
            .map(|(branch, views)| kept_of(branch, views))
            .sum()
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
            unique_bytes: branch.unique(record.generation) * UNIT_BYTES,
            scheduled: record.scheduled,
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
