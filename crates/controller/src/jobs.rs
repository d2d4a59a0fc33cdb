//! Work in the background that outlives a crash: taking back what a shrunk volume held beyond its end, page by page.
//!
//! Each step is one batch that cuts table pages and frees what they mapped, so that a crash anywhere leaves a job that
//! simply goes on with the pages that are left.

use crate::engine::{After, Controller};
use crate::event::Scan;
use crate::fetch::{ScanPurpose, WholePage, fold_pairs, whole_pages};
use crate::runs::RunSet;
use model::{
    BlockRange, EntryRun, Generation, MapEntry, PageIndex, Place, REGIONS_PER_PAGE, RegionSize, UnitRun, VolumeId,
};
use store::records::{JobRecord, Record};
use store::{Key, KeyRange, StoreError, table};

/// How many pairs the first step reads.
pub(crate) const JOB_SCAN_LIMIT: usize = 64;
/// How many a step reads when they map little.
pub(crate) const JOB_SCAN_LIMIT_SPARSE: usize = 1024;
/// A step that frees fewer runs is followed by a larger one, and one that frees four times as many by a smaller one, so
/// that nobody else waits long for the controller.
pub(crate) const JOB_RUNS: usize = 4096;
/// The most pairs one step reads, however many versions and deltas one page has.
pub(crate) const JOB_SCAN_LIMIT_MAX: usize = 1 << 16;

/// The shrinking of a volume that nobody has attached, and how far it is.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) volume: VolumeId,
    size_bytes: u64,
    next_page: PageIndex,
    /// How many pairs the next step reads.
    limit: usize,
    pub(crate) running: bool,
    finished: bool,
}

impl Job {
    pub(crate) fn new(volume: VolumeId, size_bytes: u64) -> Self {
        Self { volume, size_bytes, next_page: PageIndex(0), limit: JOB_SCAN_LIMIT, running: false, finished: false }
    }
}

impl Controller {
    /// Records the shrinking of a volume in this step's batch. It begins once that is durable and nobody has the volume
    /// any more.
    pub(crate) fn add_shrink(&mut self, volume_id: VolumeId, size_bytes: u64) {
        self.counters.job += 1;
        self.counters_changed = true;
        let id = self.counters.job;
        self.batch.put(Key::Job(id), JobRecord::Shrink { volume: volume_id, size_bytes }.encode());
        if let Some(volume) = self.volumes.get_mut(&volume_id) {
            volume.job = Some(id);
        }
        self.jobs.insert(id, Job::new(volume_id, size_bytes));
        self.after.push(After::JobStep(id));
    }

    /// Begins or resumes the job of a volume, if there is one and nothing is in its way.
    pub(crate) fn start_jobs_of(&mut self, volume_id: VolumeId) {
        let Some(volume) = self.volumes.get(&volume_id) else { return };
        let Some(id) = volume.job else { return };
        let branch = volume.branch_id();
        if !self.is_unattached(volume_id) {
            return;
        }
        self.folds.drop_branch(branch);
        let purge = self.branches.get(&branch).and_then(|branch| branch.purge.as_ref());
        let busy = purge.is_some_and(|purge| purge.busy) || self.folds.is_running(branch);
        let Some(job) = self.jobs.get_mut(&id) else { return };
        if !busy && !job.running {
            job.running = true;
            let limit = job.limit;
            self.scan(ScanPurpose::Job { job: id, limit });
        }
    }

    pub(crate) fn job_range(&self, id: u64) -> Option<KeyRange> {
        let job = self.jobs.get(&id)?;
        let volume = self.volumes.get(&job.volume)?;
        let first = PageIndex((job.size_bytes / volume.record.region_size.page_bytes()) as u32);
        Some(KeyRange::table_from(volume.branch_id(), first.max(job.next_page)))
    }

    pub(crate) fn job_scanned(&mut self, id: u64, limit: usize, result: Result<Scan, StoreError>) {
        let Some(job) = self.jobs.get(&id) else { return };
        let (volume_id, size_bytes) = (job.volume, job.size_bytes);
        // A store that is damaged is left alone: the job stays, and the audit tells of it.
        let Ok(scan) = result else { return };
        let more = scan.more;
        let pages = whole_pages(scan);
        if pages.is_empty() && more && limit < JOB_SCAN_LIMIT_MAX {
            return self.scan(ScanPurpose::Job { job: id, limit: limit * 4 });
        }
        let mut runs = 0;
        for page in &pages {
            runs += self.cut_page(volume_id, size_bytes, page);
        }
        let job = self.jobs.get_mut(&id).expect("it was found above");
        job.limit = match runs {
            0..JOB_RUNS => (job.limit * 2).min(JOB_SCAN_LIMIT_SPARSE),
            _ if runs > 4 * JOB_RUNS => (job.limit / 2).max(4),
            _ => job.limit,
        };
        if let Some(last) = pages.last() {
            job.next_page = PageIndex(last.page.0.saturating_add(1));
        }
        job.finished = !more;
        if job.finished {
            self.batch.delete(Key::Job(id));
        }
        self.after.push(After::JobStep(id));
    }

    /// Cuts one page of a live end at the volume's new size; how many runs of units it drops.
    fn cut_page(&mut self, volume_id: VolumeId, size_bytes: u64, page: &WholePage) -> usize {
        let Some(volume) = self.volumes.get(&volume_id) else { return 0 };
        let (size, branch_id, pool_id) = (volume.record.region_size, volume.branch_id(), volume.record.pool);
        let Some(branch) = self.branches.get(&branch_id) else { return 0 };
        let (generation, newest) = (branch.record.generation, branch.newest());
        // (A page that cannot be read is removed too; what it mapped shows up in the audit as leaked.)
        let runs = fold_pairs(page.pairs.iter().rev(), generation, size).map(|found| found.runs).unwrap_or_default();
        let kept = cut_at(&runs, page.page, size_bytes, size);
        let mut has_older = false;
        for (key, _) in &page.pairs {
            match Key::decode(key) {
                Some(key @ Key::Table(_, _, born, _)) if born > newest => self.batch.delete(key),
                _ => has_older = true,
            }
        }
        if !kept.is_empty() || has_older {
            self.batch.put(Key::Table(branch_id, page.page, generation, 0), table::encode(size, &kept));
        }
        let held = RunSet::of(kept.iter().flat_map(|run| table::units_of(run, size)));
        let mut drops: Vec<(Generation, UnitRun)> = Vec::new();
        for (born, run) in runs.iter().flat_map(|run| table::places_of(run, size)) {
            held.outside(run, |part| drops.push((born, part)));
        }
        let count = drops.len();
        let mut frees = Vec::new();
        for (born, run) in drops {
            let is_ours = (self.pools.get(&pool_id))
                .is_some_and(|pool| pool.allocator.is_allocated(run) && self.grants.is_clear_of(run));
            if is_ours && self.drop_place(branch_id, page.page, born, run) {
                frees.push(run);
            }
        }
        self.free_of_volume(volume_id, frees);
        count
    }

    fn free_of_volume(&mut self, volume_id: VolumeId, frees: Vec<UnitRun>) {
        let Some(volume) = self.volumes.get_mut(&volume_id) else { return };
        let pool_id = volume.record.pool;
        let Some(pool) = self.pools.get_mut(&pool_id) else { return };
        let units: u64 = frees.iter().map(|run| u64::from(run.count)).sum();
        pool.mapped_units = pool.mapped_units.saturating_sub(units);
        volume.progress.mapped_units = volume.progress.mapped_units.saturating_sub(units);
        self.batch.put(Key::VolumeProgress(volume_id), volume.progress.encode());
        self.touched_pools.insert(pool_id);
        self.touched_volumes.insert(volume_id);
        self.free_units(pool_id, frees);
    }

    /// A step is durable.
    pub(crate) fn job_step_done(&mut self, id: u64) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        job.running = false;
        let (volume_id, finished) = (job.volume, job.finished);
        if finished {
            self.jobs.remove(&id);
        }
        if let Some(volume) = self.volumes.get_mut(&volume_id) {
            if finished {
                volume.job = None;
            }
            let branch = volume.branch_id();
            self.start_purge(branch);
        }
        self.start_jobs_of(volume_id);
        if finished {
            self.retry_attaches();
        }
    }
}

/// What stays of a page when its volume ends at `size_bytes`: nothing from there on, to the block.
fn cut_at(runs: &[EntryRun], page: PageIndex, size_bytes: u64, size: RegionSize) -> Vec<EntryRun> {
    let first = page.first_region().0;
    let slots = size.regions_in(size_bytes).saturating_sub(first).min(REGIONS_PER_PAGE.into()) as u16;
    let gone = EntryRun { first: slots, count: REGIONS_PER_PAGE as u16 - slots, entry: MapEntry::Zero };
    let mut kept = if gone.count == 0 { runs.to_vec() } else { table::overlay(size, runs.to_vec(), vec![gone]) };
    let blocks = (size_bytes % size.bytes()).div_ceil(model::BLOCK_BYTES) as u32;
    let last = slots.checked_sub(1).filter(|_| blocks != 0 && blocks < size.blocks());
    if let Some(last) = last
        && let Some(run) = kept.iter().find(|run| (run.first..run.first + run.count).contains(&last))
    {
        let mut entry = table::entry_at(&run.entry, last - run.first, size);
        cut_blocks(&mut entry, blocks, size);
        kept = table::overlay(size, kept, vec![EntryRun { first: last, count: 1, entry }]);
    }
    table::without_zeroes(kept)
}

/// Takes the blocks from `blocks` on out of every layer.
fn cut_blocks(entry: &mut MapEntry, blocks: u32, size: RegionSize) {
    let MapEntry::Layers(layers) = entry else { return };
    for layer in layers.iter_mut() {
        layer.blocks.remove(BlockRange::new(blocks, size.blocks()));
    }
    layers.retain(|layer| !layer.blocks.is_none());
    let holds_data = layers.iter().any(|layer| matches!(layer.place, Place::Region(_)));
    if !holds_data {
        *entry = MapEntry::Zero;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::{DiskRegion, Generation, LogicalDiskId, UnitIndex};

    #[test]
    fn a_page_is_cut_to_the_block() {
        let size = RegionSize::DEFAULT;
        let place = DiskRegion { logical_disk: LogicalDiskId(1), unit: UnitIndex(0) };
        let entry = MapEntry::full(place, size, Generation(1), Generation(1));
        let runs = [EntryRun { first: 0, count: 10, entry }];
        let kept = cut_at(&runs, PageIndex(0), 3 * size.bytes() + 4096 + 1, size);
        assert_eq!(kept.iter().map(|run| run.count).sum::<u16>(), 4);
        let MapEntry::Layers(layers) = &kept[1].entry else { panic!("the last region is mapped") };
        assert_eq!(layers[0].blocks.count(), 2);
        assert_eq!(cut_at(&runs, PageIndex(0), 3 * size.bytes(), size).iter().map(|run| run.count).sum::<u16>(), 3);
        assert!(cut_at(&runs, PageIndex(1), 3 * size.bytes(), size).is_empty());
        assert!(cut_at(&runs, PageIndex(0), 0, size).is_empty());
    }
}
