//! Map commits of agents: checked against what the session was granted, and made one batch.

use crate::branches::LIVE;
use crate::engine::{After, Controller};
use crate::planted::Bug;
use crate::runs::RunSet;
use crate::state::Volume;
use model::{Epoch, Generation, PoolId, RegionIndex, UnitRun, VolumeId};
use std::collections::BTreeMap;
use store::records::{ANSWERED_MAX, Record};
use store::{Key, table};
use wire::{AgentId, CommitError, ControllerMessage, Drop, MapCommit, PageDelta, RequestId};

/// The most pages one commit may change.
const PAGES_MAX: usize = 1 << 16;

/// A commit that makes sense, and what it does to the pool.
struct Checked {
    /// Of what it drops: what was mapped, not merely granted.
    drops: Vec<Drop>,
    taken: u64,
    /// What it takes, neighbours as one run.
    takes: Vec<UnitRun>,
    /// Of what it drops: what was granted and never taken.
    untaken: Vec<UnitRun>,
}

impl Controller {
    pub(crate) fn map_commit(&mut self, agent: AgentId, request: RequestId, epoch: Epoch, commit: MapCommit) {
        let result = self.try_commit(agent, request, epoch, commit);
        if let Err(error) = result {
            self.to_agent(agent, ControllerMessage::Committed { request, epoch, result: Err(error) });
        }
    }

    fn try_commit(
        &mut self,
        agent: AgentId,
        request: RequestId,
        epoch: Epoch,
        commit: MapCommit,
    ) -> Result<(), CommitError> {
        let session = self.live_session(agent, epoch).ok_or(CommitError::Fenced)?;
        let (volume_id, pool_id) = (session.volume, session.pool);
        // A snapshot's session changes nothing.
        let volume = self.volumes.get(&volume_id).ok_or(CommitError::Refused)?;
        let repeated = volume.progress.answered.contains(&(epoch, request.0));
        if repeated {
            // Its batch may be on its way still; this answer goes out behind it.
            self.after.push(After::MapCommitted { agent, request, epoch });
            return Ok(());
        }
        if session.read_only {
            return Err(CommitError::Refused);
        }
        let checked = self.check(epoch, volume, pool_id, &commit).ok_or(CommitError::Refused)?;
        self.apply(volume_id, pool_id, &commit, &checked);
        self.remember_answer(volume_id, epoch, request);
        if self.config.planted.has(Bug::AnswerBeforeCommit) {
            self.to_agent(agent, ControllerMessage::Committed { request, epoch, result: Ok(()) });
        } else {
            self.after.push(After::MapCommitted { agent, request, epoch });
        }
        Ok(())
    }

    /// Whether the commit agrees with the durable state: `None` if not.
    fn check(&self, epoch: Epoch, volume: &Volume, pool_id: PoolId, commit: &MapCommit) -> Option<Checked> {
        let pool = self.pools.get(&pool_id)?;
        let branch = self.branches.get(&volume.branch_id())?;
        let takes = RunSet::from_disjoint(&commit.takes)?;
        let dropped: Vec<UnitRun> = commit.drops.iter().map(|drop| drop.run).collect();
        let dropped = RunSet::from_disjoint(&dropped)?;
        if !commit.takes.iter().all(|run| self.grants.covers(epoch, *run)) {
            return None;
        }
        let taken = commit.takes.iter().map(|run| u64::from(run.count)).sum();
        let mut buckets: BTreeMap<Generation, u64> = BTreeMap::new();
        let (mut drops, mut untaken) = (Vec::new(), Vec::new());
        for drop in &commit.drops {
            let parts = self.grants.parts(drop.run);
            let own = parts.iter().all(|(_, holder)| *holder == epoch);
            if !own || !pool.allocator.is_allocated(drop.run) || drop.born > branch.record.generation {
                return None;
            }
            let granted: Vec<UnitRun> = parts.into_iter().map(|(part, _)| part).collect();
            // (Only what of the takes lies in it: a commit may have thousands of both.)
            let taken: Vec<UnitRun> = takes.overlapping(drop.run).collect();
            let never_taken = RunSet::from_disjoint(&granted)?.without(&taken);
            untaken.extend(never_taken.merged());
            never_taken.outside(drop.run, |run| {
                *buckets.entry(branch.bucket(drop.born)).or_default() += u64::from(run.count);
                drops.push(Drop { run, ..*drop });
            });
        }
        // Nobody drops more than the live end holds.
        let within_usage = buckets.iter().all(|(bucket, units)| {
            let held = branch.usage.get(&(LIVE, *bucket)).copied().unwrap_or(0);
            let more = if *bucket == branch.record.generation { taken } else { 0 };
            *units <= held + more
        });
        let pages_ascend = commit.pages.windows(2).all(|pair| pair[0].page < pair[1].page);
        let pages_make_sense =
            (commit.pages.iter()).all(|delta| self.check_page(volume, pool_id, delta, &takes, &dropped));
        (pages_ascend && commit.pages.len() <= PAGES_MAX && pages_make_sense && within_usage).then(|| Checked {
            drops,
            taken,
            takes: takes.merged(),
            untaken,
        })
    }

    fn check_page(&self, volume: &Volume, pool_id: PoolId, delta: &PageDelta, takes: &RunSet, drops: &RunSet) -> bool {
        let size = volume.record.region_size;
        if !table::runs_are_sane(size, &delta.runs) || delta.page.0 >= volume.pages() {
            return false;
        }
        let regions = size.regions_in(volume.record.size_bytes);
        let within = |region: RegionIndex, count: u16| region.0 + u64::from(count) <= regions;
        let allocator = &self.pools[&pool_id].allocator;
        // What is mapped is allocated, stays so, and is in nobody's grant any more.
        let owned = |run: UnitRun| {
            let granted: u32 = self.grants.parts(run).iter().map(|(part, _)| part.count).sum();
            let taken: u32 = takes.overlapping(run).map(|part| part.count).sum();
            allocator.is_allocated(run) && !drops.overlaps(run) && granted == taken
        };
        delta
            .runs
            .iter()
            .all(|run| within(delta.page.region(run.first), run.count) && table::units_of(run, size).all(owned))
    }

    fn apply(&mut self, volume_id: VolumeId, pool_id: PoolId, commit: &MapCommit, checked: &Checked) {
        let planted = self.config.planted;
        let volume = self.volumes.get_mut(&volume_id).expect("the caller found it");
        volume.progress.sequence += 1;
        let (branch, sequence) = (volume.branch_id(), volume.progress.sequence);
        let size = volume.record.region_size;
        let state = &self.branches[&branch];
        let mut generation = state.record.generation;
        if planted.has(Bug::GenerationNotRaised) && state.snapshots.contains_key(&state.newest()) {
            generation = state.newest();
        }
        // What no view holds any more, and what was only granted, is free.
        let live = self.branches[&branch].record.generation;
        self.count_units(branch, LIVE, live, checked.taken as i64);
        let mut frees = checked.untaken.clone();
        let mut freed_mapped = 0;
        for drop in &checked.drops {
            if self.drop_place(branch, drop.page, drop.born, drop.run) {
                freed_mapped += u64::from(drop.run.count);
                frees.push(drop.run);
            }
        }
        let frees = RunSet::of(frees.into_iter()).merged();
        let frees_first = planted.has(Bug::FreeBeforeCommit);
        if frees_first {
            self.free_units(pool_id, frees.clone());
            self.send_batch();
        }
        for delta in commit.pages.iter().filter(|delta| !delta.runs.is_empty()) {
            self.batch.put(Key::Table(branch, delta.page, generation, sequence), table::encode(size, &delta.runs));
            self.folds.delta_added(branch, delta.page);
        }
        let mut ungranted = 0;
        if planted.has(Bug::TakenForgotten) {
            let pool = self.pools.get_mut(&pool_id).expect("a volume's pool exists");
            pool.mapped_units += checked.taken;
        } else {
            for run in checked.takes.iter().chain(&frees) {
                ungranted += self.grants.remove(*run, &mut self.batch);
            }
            let pool = self.pools.get_mut(&pool_id).expect("a volume's pool exists");
            pool.mapped_units = pool.mapped_units + checked.taken - freed_mapped;
            pool.granted_units -= ungranted;
        }
        if !frees_first && !planted.has(Bug::FreesForgotten) {
            self.free_units(pool_id, frees);
        }
        let freed = if planted.has(Bug::UsageForgotten) { 0 } else { freed_mapped };
        let volume = self.volumes.get_mut(&volume_id).expect("the caller found it");
        volume.progress.mapped_units = volume.progress.mapped_units + checked.taken - freed;
        for run in &checked.takes {
            if let Err(at) = volume.progress.logical_disks.binary_search(&run.logical_disk) {
                volume.progress.logical_disks.insert(at, run.logical_disk);
            }
        }
        self.touched_volumes.insert(volume_id);
        self.touched_pools.insert(pool_id);
        // (Whoever takes a snapshot waits for its volume's commit.)
        if self.volumes.get(&volume_id).is_some_and(|volume| volume.cut.is_none()) {
            self.send_folds();
        }
        self.start_folds();
    }

    /// Whether a commit of a session is in a batch that is durable or on its way.
    pub(crate) fn has_taken(&self, epoch: Epoch, request: RequestId) -> bool {
        let volume = self.sessions.get(&epoch).and_then(|session| self.volumes.get(&session.volume));
        volume.is_some_and(|volume| volume.progress.answered.contains(&(epoch, request.0)))
    }

    fn remember_answer(&mut self, volume_id: VolumeId, epoch: Epoch, request: RequestId) {
        let volume = self.volumes.get_mut(&volume_id).expect("the caller found it");
        let answered = &mut volume.progress.answered;
        answered.retain(|(answered, _)| *answered == epoch);
        if answered.len() >= ANSWERED_MAX {
            answered.remove(0);
        }
        answered.push((epoch, request.0));
        self.batch.put(Key::VolumeProgress(volume_id), volume.progress.encode());
    }
}
