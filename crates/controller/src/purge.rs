//! Taking views back: snapshots that are deleted, and the live ends of volumes that are deleted or rolled back.
//!
//! Page by page, each page in one batch with the job's position: `docs/snapshots.md` has the rule and what may happen
//! meanwhile. One purge at a time in a branch, and none while a page of the branch is being folded.

use crate::branches::{Branch, LIVE};
use crate::engine::{After, Controller};
use crate::event::{Scan, ScanRange};
use crate::fetch::{ScanPurpose, by_page};
use crate::jobs::{JOB_RUNS, JOB_SCAN_LIMIT, JOB_SCAN_LIMIT_SPARSE};
use crate::planted::Bug;
use crate::runs::RunSet;
use model::{BranchId, EntryRun, Generation, PageIndex, RegionSize, UnitRun, VolumeId};
use std::collections::BTreeMap;
use store::keys::{WHOLE, summarized_after, summary_sequence};
use store::records::{JobRecord, Record};
use store::versions::Changes;
use store::{Key, KeyRange, StoreError, table};

/// How many keys a step looks at or seeks at most, so that nobody else waits long for the controller where there is little
/// to do on many pages.
const STEPS_MAX: usize = 8192;

/// A view being taken back.
#[derive(Debug)]
pub(crate) struct Purge {
    job: u64,
    pub(crate) view: Generation,
    /// Every page before it is done.
    pub(crate) next_page: PageIndex,
    /// What the live end dropped on pages that are not done: a scan may not have seen it go.
    dropped: BTreeMap<PageIndex, Vec<UnitRun>>,
    /// A step is under way: no page of the branch is folded meanwhile.
    pub(crate) busy: bool,
    /// A step is wanted as soon as no page is being folded; no more folds begin until then.
    pub(crate) waiting: bool,
    /// How many pairs the next step reads.
    limit: usize,
    finished: bool,
}

impl Purge {
    pub(crate) fn new(job: u64, view: Generation, next_page: PageIndex) -> Self {
        Self {
            job,
            view,
            next_page,
            dropped: BTreeMap::new(),
            busy: false,
            waiting: false,
            limit: JOB_SCAN_LIMIT,
            finished: false,
        }
    }

    /// The live end dropped a place that is frozen; it matters while its page is not done.
    pub(crate) fn note_drop(&mut self, page: PageIndex, run: UnitRun) {
        if page < self.next_page {
            return;
        }
        self.dropped.entry(page).or_default().push(run);
    }
}

/// What becomes of one page.
struct PagePurge {
    frees: Vec<UnitRun>,
    deletes: Vec<Vec<u8>>,
    /// A version that takes the place of those deleted: its generation, sequence and entries.
    put: Option<(Generation, u64, Vec<EntryRun>)>,
}

/// The views around one that is taken back.
#[derive(Clone, Copy, Debug)]
struct Around {
    older: Generation,
    view: Generation,
    younger: Option<Generation>,
    /// Below the branch lies an origin, which an empty page hides.
    falls_through: bool,
}

/// What to do about one page of a branch that has a version in (`older`, `view`]: `pairs` are all there are of it up to what
/// the younger view sees, of what is older at most one. Of what the younger view sees, `dropped` is gone already.
fn purge_page(
    pairs: &[(Vec<u8>, Vec<u8>)],
    size: RegionSize,
    around: &Around,
    dropped: &[UnitRun],
) -> Result<PagePurge, StoreError> {
    let Around { older, view, younger, falls_through } = *around;
    let mut seen: Vec<EntryRun> = Vec::new();
    let mut theirs: Vec<EntryRun> = Vec::new();
    let mut result = PagePurge { frees: Vec::new(), deletes: Vec::new(), put: None };
    let (mut complete, mut has_own, mut has_base) = (false, false, falls_through);
    let mut first: Option<(Generation, u64)> = None;
    // What is told of once more by a summary among them, if there is one, begins after this.
    let mut summarized: Option<Generation> = None;
    for (key, value) in pairs {
        let Some(Key::Table(_, page, generation, sequence)) = Key::decode(key) else {
            return Err(StoreError::Corrupt("a table has a key that is none".into()));
        };
        if generation <= older {
            has_base = true;
            continue;
        }
        if generation > younger.unwrap_or(view) {
            break;
        }
        let (stored_size, runs) = table::decode(value)?;
        if stored_size != size {
            return Err(StoreError::Corrupt(format!("page {} has regions of another size", page.0)));
        }
        let overlaid =
            |base: Vec<EntryRun>, runs| if sequence == WHOLE { runs } else { table::overlay(size, base, runs) };
        complete |= sequence == WHOLE;
        if let Some(after) = summarized_after(sequence) {
            summarized = Some(summarized.map_or(after, |before| before.min(after)));
        }
        if generation <= view {
            seen = overlaid(seen, runs);
        } else {
            if !std::mem::replace(&mut has_own, true) {
                theirs = seen.clone();
            }
            theirs = overlaid(theirs, runs);
        }
        first.get_or_insert((generation, sequence));
        result.deletes.push(key.clone());
    }
    let held: &[EntryRun] = match (younger, has_own) {
        (Some(_), true) => &theirs,
        (Some(_), false) => &seen,
        (None, _) => &[],
    };
    let held = RunSet::of(units_of(held, size, Generation(0))).without(dropped);
    for run in units_of(&seen, size, older) {
        held.outside(run, |part| result.frees.push(part));
    }
    match (younger, first) {
        // It takes the place of the oldest: views that come by a younger summary go on at a generation that may lie between.
        (Some(_), Some((generation, sequence))) if has_own => {
            let sequence = match summarized {
                _ if complete => WHOLE,
                Some(after) => summary_sequence(after.min(older)),
                None => sequence,
            };
            // A whole page needs no zeroes spelled out; an empty one must stay as long as it hides something.
            let runs = if complete { table::without_zeroes(theirs) } else { theirs };
            if !(complete && runs.is_empty() && !has_base) {
                result.put = Some((generation, sequence, runs));
            }
        }
        // It is the younger view's from now on.
        (Some(_), _) => result.deletes.clear(),
        (None, _) => {}
    }
    Ok(result)
}

/// The units of places born after `older`.
fn units_of(runs: &[EntryRun], size: RegionSize, older: Generation) -> impl Iterator<Item = UnitRun> + '_ {
    let places = runs.iter().flat_map(move |run| table::places_of(run, size));
    places.filter(move |(born, _)| *born > older).map(|(_, run)| run)
}

impl Controller {
    /// The view of a branch that is to be taken back next: nobody needs it, and nobody reads it any more.
    fn purgeable(&self, id: BranchId) -> Option<Generation> {
        let branch = self.branches.get(&id)?;
        let deleted = branch.snapshots.iter().find(|(generation, snapshot)| {
            let Some(snapshot) = self.snapshots.get(snapshot) else { return false };
            let is_origin = self.forks(id, **generation) > 0 && !self.config.planted.has(Bug::CloneForgotten);
            snapshot.record.deleted && snapshot.session.is_none() && !is_origin
        });
        if let Some((generation, _)) = deleted {
            return Some(*generation);
        }
        let attached = || self.sessions.values().any(|session| session.branch == id && !session.of_snapshot);
        (branch.record.ended && branch.has_live_end() && !attached()).then_some(branch.record.generation)
    }

    /// Begins or resumes what is to be taken back of a branch.
    pub(crate) fn start_purge(&mut self, id: BranchId) {
        let Some(branch) = self.branches.get(&id) else { return };
        if branch.purge.is_none() {
            let Some(view) = self.purgeable(id) else { return self.end_branch(id) };
            self.counters.job += 1;
            self.counters_changed = true;
            let job = self.counters.job;
            let record = JobRecord::Purge { branch: id, view, next_page: PageIndex(0) };
            self.batch.put(Key::Job(job), record.encode());
            let mut purge = Purge::new(job, view, PageIndex(0));
            purge.busy = true;
            self.branches.get_mut(&id).expect("it was found above").purge = Some(purge);
            self.after.push(After::PurgeStep(id));
            return;
        }
        // A shrink of the live end rewrites pages too: they take turns.
        let job = self.volumes.get(&branch.record.volume).and_then(|volume| self.jobs.get(&volume.job?));
        if job.is_some_and(|job| job.running) {
            return;
        }
        let folding = self.folds.is_running(id);
        let purge = self.branches.get_mut(&id).and_then(|branch| branch.purge.as_mut()).expect("it was seen above");
        if purge.busy {
            return;
        }
        purge.waiting = folding;
        if !folding {
            purge.busy = true;
            let limit = purge.limit;
            self.scan(ScanPurpose::Purge { branch: id, limit });
        }
    }

    /// What a step reads: of the pages that have versions which nobody but the view can be the last to see, those versions,
    /// and those of the next younger view.
    pub(crate) fn purge_range(&self, id: BranchId, limit: usize) -> Option<ScanRange> {
        let branch = self.branches.get(&id)?;
        let purge = branch.purge.as_ref()?;
        let (view, first) = (purge.view, purge.next_page);
        let shown_through = branch.younger(view).unwrap_or(view);
        let changes = Changes { branch: id, after: self.older_of_purge(branch, view), through: view, shown_through };
        Some(ScanRange::Changed { changes, first, limit, steps_max: STEPS_MAX })
    }

    fn older_of_purge(&self, branch: &Branch, view: Generation) -> Generation {
        let forgets = self.config.planted.has(Bug::PurgeForgetsOlder);
        if forgets { branch.origin_generation() } else { branch.older(view) }
    }

    pub(crate) fn purge_scanned(&mut self, id: BranchId, result: Result<Scan, StoreError>) {
        // A store that is damaged is left alone: the job stays, and the audit tells of it.
        let Ok(scan) = result else { return };
        let Some(branch) = self.branches.get(&id) else { return };
        let Some(purge) = &branch.purge else { return };
        let Some(volume) = self.volumes.get(&branch.record.volume) else { return };
        let (size, view) = (volume.record.region_size, purge.view);
        let around = Around {
            older: self.older_of_purge(branch, view),
            view,
            younger: branch.younger(view).filter(|_| !self.config.planted.has(Bug::PurgeForgetsYounger)),
            falls_through: branch.record.origin.is_some(),
        };
        let next_page = scan.next_page;
        let pages = by_page(scan.pairs);
        let mut frees = Vec::new();
        for page in &pages {
            let dropped = purge.dropped.get(&page.page).filter(|_| !self.config.planted.has(Bug::PurgeForgetsDrops));
            let dropped = dropped.map_or(&[][..], Vec::as_slice);
            // (What a page that cannot be read maps shows up in the audit as leaked.)
            let Ok(done) = purge_page(&page.pairs, size, &around, dropped) else { continue };
            done.deletes.iter().for_each(|key| self.batch.changes.push(store::Change::Delete(key.clone())));
            if let Some((generation, sequence, runs)) = done.put {
                self.batch.put(Key::Table(id, page.page, generation, sequence), table::encode(size, &runs));
            }
            frees.extend(done.frees);
        }
        let runs = frees.len();
        self.free_of_view(id, view, frees);
        self.purged_to(id, next_page, runs);
    }

    /// Notes in this step's batch that the purge is done before `next_page`, or with everything.
    fn purged_to(&mut self, id: BranchId, next_page: Option<PageIndex>, runs: usize) {
        let forget_position = self.config.planted.has(Bug::PurgePositionForgotten);
        let purge = self.branches.get_mut(&id).and_then(|branch| branch.purge.as_mut()).expect("the caller found it");
        purge.limit = match runs {
            0..JOB_RUNS => (purge.limit * 2).min(JOB_SCAN_LIMIT_SPARSE),
            _ if runs > 4 * JOB_RUNS => (purge.limit / 2).max(4),
            _ => purge.limit,
        };
        let (job, view) = (purge.job, purge.view);
        purge.finished = next_page.is_none();
        if let Some(next_page) = next_page {
            purge.next_page = next_page;
            purge.dropped = purge.dropped.split_off(&next_page);
            if !forget_position {
                let record = JobRecord::Purge { branch: id, view, next_page };
                self.batch.put(Key::Job(job), record.encode());
            }
        } else {
            self.batch.delete(Key::Job(job));
            self.view_gone(id, view);
        }
        self.after.push(After::PurgeStep(id));
    }

    /// Frees what only a view held.
    fn free_of_view(&mut self, id: BranchId, view: Generation, mut frees: Vec<UnitRun>) {
        let Some(branch) = self.branches.get(&id) else { return };
        let (volume_id, holder) = (branch.record.volume, branch.holder(view));
        let Some(volume) = self.volumes.get(&volume_id) else { return };
        let pool_id = volume.record.pool;
        let Some(pool) = self.pools.get_mut(&pool_id) else { return };
        frees.retain(|run| pool.allocator.is_allocated(*run) && self.grants.is_clear_of(*run));
        let units: u64 = frees.iter().map(|run| u64::from(run.count)).sum();
        let counted = branch.usage.get(&(holder, view)).copied().unwrap_or(0).min(units);
        pool.mapped_units = pool.mapped_units.saturating_sub(units);
        let volume = self.volumes.get_mut(&volume_id).expect("it was found above");
        volume.progress.mapped_units = volume.progress.mapped_units.saturating_sub(units);
        self.batch.put(Key::VolumeProgress(volume_id), volume.progress.encode());
        self.count_units(id, holder, view, -(counted as i64));
        self.touched_pools.insert(pool_id);
        self.touched_volumes.insert(volume_id);
        self.free_units(pool_id, frees);
    }

    /// Every page of a view is done: what is counted for it is its neighbours', and its record goes.
    fn view_gone(&mut self, id: BranchId, view: Generation) {
        let Some(branch) = self.branches.get_mut(&id) else { return };
        let (holder, older, younger) = (branch.holder(view), branch.older(view), branch.younger(view));
        let older_is_own = branch.snapshots.contains_key(&older);
        let was_newest = branch.newest() == view;
        let counts: Vec<((Generation, Generation), u64)> =
            branch.usage.iter().map(|(key, units)| (*key, *units)).collect();
        for ((of, bucket), units) in counts {
            let to = match (of == holder, bucket == view) {
                (true, true) => None,
                (true, false) => older_is_own.then_some((older, bucket)),
                (false, true) => younger.map(|younger| (of, younger)),
                (false, false) => continue,
            };
            self.count_units(id, of, bucket, -(units as i64));
            if let Some((to, bucket)) = to {
                self.count_units(id, to, bucket, units as i64);
            }
        }
        let branch = self.branches.get_mut(&id).expect("it was found above");
        if let Some(snapshot) = branch.snapshots.remove(&view) {
            let had_live_end = branch.has_live_end();
            if was_newest {
                branch.record.frozen_through = older;
            }
            if !had_live_end {
                branch.record.generation = branch.record.frozen_through;
            }
            self.snapshots.remove(&snapshot);
            self.batch.delete(Key::Snapshot(snapshot));
            if was_newest {
                self.after.push(After::TellFrozen(id));
            }
        } else {
            debug_assert_eq!(holder, LIVE);
            branch.record.generation = branch.record.frozen_through;
        }
        self.put_branch(id);
    }

    /// A step is durable.
    pub(crate) fn purge_step_done(&mut self, id: BranchId) {
        let Some(purge) = self.branches.get_mut(&id).and_then(|branch| branch.purge.as_mut()) else { return };
        purge.busy = false;
        if purge.finished {
            self.branches.get_mut(&id).expect("it was found above").purge = None;
        }
        self.start_folds();
        if let Some(volume) = self.branches.get(&id).map(|branch| branch.record.volume) {
            self.start_jobs_of(volume);
        }
        self.start_purge(id);
    }

    /// Removes a branch of which nothing is left, then what waited for that.
    fn end_branch(&mut self, id: BranchId) {
        let Some(branch) = self.branches.get(&id) else { return };
        let over = branch.record.ended && !branch.has_live_end() && branch.snapshots.is_empty();
        // A former session may still be on its way out.
        let attached = self.sessions.values().any(|session| session.branch == id);
        if !over || attached || self.folds.is_running(id) {
            return;
        }
        let branch = self.branches.remove(&id).expect("it was found above");
        let volume = branch.record.volume;
        self.folds.drop_branch(id);
        self.batch.delete(Key::Branch(id));
        self.batch.delete_range(KeyRange::usage(id));
        self.batch.delete_range(KeyRange::table(id));
        self.count_fork(branch.record.origin, false);
        if let Some((origin, _)) = branch.record.origin {
            self.after.push(After::StartPurge(origin));
        }
        self.end_volume(volume);
    }

    /// Removes a deleted volume of which no branch is left.
    fn end_volume(&mut self, id: VolumeId) {
        let has_branch = self.branches.values().any(|branch| branch.record.volume == id);
        let Some(volume) = self.volumes.get(&id) else { return };
        if !volume.record.deleting || has_branch {
            return;
        }
        let volume = self.volumes.remove(&id).expect("it was found above");
        self.batch.delete(Key::VolumeProgress(id));
        self.batch.delete(Key::Volume(id));
        if let Some(pool) = self.pools.get_mut(&volume.record.pool) {
            pool.mapped_units = pool.mapped_units.saturating_sub(volume.progress.mapped_units);
        }
        self.touched_pools.insert(volume.record.pool);
    }

    /// How far the purge of a view is, in percent of its pages.
    pub(crate) fn purge_percent(&self, id: BranchId, view: Generation) -> Option<u8> {
        let branch = self.branches.get(&id)?;
        let volume = self.volumes.get(&branch.record.volume)?;
        let purge = branch.purge.as_ref().filter(|purge| purge.view == view)?;
        let pages = u64::from(volume.pages()).max(1);
        Some((u64::from(purge.next_page.0) * 100 / pages).min(100) as u8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::{BlockBitmap, DiskRegion, Layer, LayerStack, LogicalDiskId, MapEntry, Place, UnitIndex};

    const SIZE: RegionSize = RegionSize::DEFAULT;

    fn region(index: u32) -> DiskRegion {
        DiskRegion { logical_disk: LogicalDiskId(1), unit: UnitIndex(index * SIZE.units()) }
    }

    fn entry(places: &[(u32, u32)]) -> MapEntry {
        let layer = |(index, born): &(u32, u32)| Layer {
            place: Place::Region(region(*index)),
            blocks: BlockBitmap::all(SIZE.blocks()),
            born: Generation(*born),
            written: Generation(*born),
        };
        MapEntry::Layers(places.iter().map(layer).collect::<LayerStack>())
    }

    fn version(generation: u32, sequence: u64, slots: &[(u16, MapEntry)]) -> (Vec<u8>, Vec<u8>) {
        let runs: Vec<EntryRun> =
            slots.iter().map(|(first, entry)| EntryRun { first: *first, count: 1, entry: entry.clone() }).collect();
        let key = Key::Table(BranchId(1), PageIndex(0), Generation(generation), sequence).encode();
        (key, table::encode(SIZE, &runs))
    }

    fn freed(done: &PagePurge) -> Vec<u32> {
        let mut units: Vec<u32> = done.frees.iter().map(|run| run.start.0 / SIZE.units()).collect();
        units.sort_unstable();
        units
    }

    fn around(younger: Option<u32>) -> Around {
        let younger = younger.map(Generation);
        Around { older: Generation(1), view: Generation(2), younger, falls_through: false }
    }

    #[test]
    fn what_the_younger_view_holds_stays_and_the_rest_is_freed() {
        let pairs = [
            version(2, 0, &[(0, entry(&[(0, 2)])), (1, entry(&[(1, 2)])), (2, entry(&[(2, 1)]))]),
            version(3, 4, &[(0, entry(&[(5, 3)]))]),
        ];
        let done = purge_page(&pairs, SIZE, &around(Some(3)), &[]).unwrap();
        assert_eq!(freed(&done), [0], "region 1 is held by the younger view, region 2 by the older");
        assert_eq!(done.deletes.len(), 2);
        let (generation, sequence, runs) = done.put.expect("one version takes the place of two");
        assert_eq!((generation, sequence), (Generation(2), 0));
        assert_eq!(runs.iter().map(|run| run.first).collect::<Vec<_>>(), [0, 1, 2]);
    }

    #[test]
    fn what_the_live_end_dropped_since_the_scan_is_freed() {
        let pairs = [version(2, 0, &[(0, entry(&[(0, 2)]))])];
        let none = purge_page(&pairs, SIZE, &around(Some(3)), &[]).unwrap();
        assert!(none.frees.is_empty() && none.deletes.is_empty(), "the version is the younger view's from now on");
        let dropped = [region(0).units(SIZE)];
        let done = purge_page(&pairs, SIZE, &around(Some(3)), &dropped).unwrap();
        assert_eq!(freed(&done), [0]);
        assert!(done.deletes.is_empty());
    }

    #[test]
    fn without_a_younger_view_everything_of_its_own_goes() {
        let pairs = [version(1, 0, &[(0, entry(&[(0, 1)]))]), version(2, 3, &[(0, entry(&[(1, 2), (0, 1)]))])];
        let done = purge_page(&pairs, SIZE, &around(None), &[]).unwrap();
        assert_eq!(freed(&done), [1]);
        assert_eq!(done.deletes.len(), 1);
        assert!(done.put.is_none());
    }

    #[test]
    fn deltas_without_a_page_stay_deltas_and_keep_their_zeroes() {
        let pairs = [version(2, 2, &[(0, MapEntry::Zero)]), version(3, 4, &[(1, entry(&[(5, 3)]))])];
        let done = purge_page(&pairs, SIZE, &around(Some(3)), &[]).unwrap();
        let (generation, sequence, runs) = done.put.expect("both are one delta now");
        assert_eq!((generation, sequence), (Generation(2), 2));
        assert_eq!(runs[0], EntryRun { first: 0, count: 1, entry: MapEntry::Zero });
    }

    #[test]
    fn what_a_summary_told_is_told_by_the_version_that_takes_its_place() {
        let summary = summary_sequence(Generation(0));
        let pairs = [
            version(2, summary, &[(0, entry(&[(0, 1)])), (1, entry(&[(1, 2)]))]),
            version(3, 4, &[(1, entry(&[(5, 3)]))]),
        ];
        let done = purge_page(&pairs, SIZE, &around(Some(3)), &[]).unwrap();
        assert_eq!(freed(&done), [1], "region 0 is held by the older view");
        let (generation, sequence, runs) = done.put.expect("one version takes the place of two");
        assert_eq!((generation, sequence, runs.len()), (Generation(2), summary, 2));
        // Whose own summary reaches no further than the older view tells of all from there on, too.
        let pairs = [pairs[1].clone(), version(5, summary_sequence(Generation(3)), &[(1, entry(&[(6, 5)]))])];
        let around =
            Around { older: Generation(2), view: Generation(4), younger: Some(Generation(6)), falls_through: false };
        let (generation, sequence, _) = purge_page(&pairs, SIZE, &around, &[]).unwrap().put.expect("there is one");
        assert_eq!((generation, sequence), (Generation(3), summary_sequence(Generation(2))));
    }

    #[test]
    fn an_empty_page_stays_while_an_origin_lies_below() {
        let pairs = [version(2, WHOLE, &[(0, entry(&[(0, 2)]))]), version(3, WHOLE, &[])];
        let done = purge_page(&pairs, SIZE, &around(Some(3)), &[]).unwrap();
        assert!(done.put.is_none() && done.deletes.len() == 2);
        let clone = Around { falls_through: true, ..around(Some(3)) };
        assert_eq!(purge_page(&pairs, SIZE, &clone, &[]).unwrap().put, Some((Generation(2), WHOLE, Vec::new())));
    }
}
