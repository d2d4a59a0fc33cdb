//! Folding: a page with many deltas is told by fewer values again, in the background.
//!
//! What is written anew stays in proportion to what changed. When the deltas that a view has to read come to half of the
//! page, they and the page become one whole page. Before that, the younger of them become one delta: those of the live end's
//! own generation in their place, and those of generations that are over a *summary*, which a view reads instead of them,
//! while they stay for the older views. The larger a delta, the rarer it is folded into a larger one.
//!
//! Nobody waits for a fold, and a crash that loses one loses nothing: its changes go along with the next commit of a map,
//! so that folds cost no sync of their own. When none comes, they go alone a little later. (Not with whatever is next: a
//! snapshot would take longer for them.)

use crate::branches::Branch;
use crate::engine::{After, Controller};
use crate::event::Scan;
use crate::fetch::{ScanPurpose, fold_pairs};
use crate::planted::Bug;
use model::{BranchId, EntryRun, Generation, PageIndex, RegionSize, Time};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;
use store::keys::{WHOLE, summarized_after, summary_sequence};
use store::records::{BranchRecord, Record};
use store::{Batch, Key, StoreError, table};

/// How many pages are folded at once.
const FOLDS_AT_ONCE: usize = 64;
/// How long folds wait for a commit to go along with.
const COMMIT_WITHIN: Duration = Duration::from_millis(100);

/// When a page is folded, and into what.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Folding {
    /// More deltas than this on one page, read one after the other, are folded.
    pub deltas_max: u32,
    /// Deltas that come to one so-many-th of their page are folded into it; with 0 none are, unless there is no page yet.
    pub page_parts: usize,
}

impl Default for Folding {
    fn default() -> Self {
        Self { deltas_max: 12, page_parts: 2 }
    }
}

/// Which pages have deltas, as far as that is known.
#[derive(Debug)]
pub(crate) struct Folds {
    how: Folding,
    deltas: BTreeMap<(BranchId, PageIndex), u32>,
    waiting: VecDeque<(BranchId, PageIndex)>,
    running: BTreeSet<(BranchId, PageIndex)>,
    unsent: Option<Unsent>,
}

/// Folds that wait for a commit to go along with.
#[derive(Debug)]
struct Unsent {
    batch: Batch,
    /// Whose page each is.
    pages: Vec<(BranchId, PageIndex)>,
    /// When they are sent at the latest.
    until: Time,
}

impl Folds {
    pub(crate) fn new(how: Folding) -> Self {
        Self { how, deltas: BTreeMap::new(), waiting: VecDeque::new(), running: BTreeSet::new(), unsent: None }
    }

    pub(crate) fn delta_added(&mut self, branch: BranchId, page: PageIndex) {
        let count = self.deltas.entry((branch, page)).or_default();
        *count += 1;
        if *count == self.how.deltas_max + 1 && !self.running.contains(&(branch, page)) {
            self.waiting.push_back((branch, page));
        }
    }

    /// A scan found so many deltas. (More may be on their way.)
    pub(crate) fn deltas_counted(&mut self, branch: BranchId, page: PageIndex, found: usize) {
        let known = self.deltas.get(&(branch, page)).copied().unwrap_or(0);
        for _ in known..u32::try_from(found).unwrap_or(u32::MAX) {
            self.delta_added(branch, page);
        }
    }

    fn known(&self, branch: BranchId, page: PageIndex) -> u32 {
        self.deltas.get(&(branch, page)).copied().unwrap_or(0)
    }

    /// Of a page of which `known` deltas were known when it was read, so many are left, and those that came since.
    fn left(&mut self, branch: BranchId, page: PageIndex, known: u32, left: usize) {
        let since = self.known(branch, page).saturating_sub(known);
        match u32::try_from(left).unwrap_or(u32::MAX).saturating_add(since) {
            0 => drop(self.deltas.remove(&(branch, page))),
            count => drop(self.deltas.insert((branch, page), count)),
        }
    }

    /// A branch is gone, or its pages are being changed by a job: nothing of it is to be folded.
    pub(crate) fn drop_branch(&mut self, branch: BranchId) {
        self.deltas.retain(|(of, _), _| *of != branch);
        self.waiting.retain(|(of, _)| *of != branch);
    }

    /// Whether a page of the branch is being folded.
    pub(crate) fn is_running(&self, branch: BranchId) -> bool {
        self.running.iter().any(|(of, _)| *of == branch)
    }
}

/// One version of a page, as it was read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Version {
    generation: Generation,
    sequence: u64,
    /// Of its key and its value.
    bytes: usize,
}

/// What is to become one value: `versions[first..end]`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Merge {
    first: usize,
    end: usize,
    /// Where it is kept, and what it is.
    generation: Generation,
    sequence: u64,
}

/// What to fold of a page's versions, the youngest first, as a view sees them. `live` is the generation that goes on;
/// without a page of its own, `falls_through` tells whether the branch has an origin below.
fn plan(versions: &[Version], live: Generation, falls_through: bool, how: Folding) -> Vec<Merge> {
    let count = versions.iter().take_while(|version| version.sequence != WHOLE).count();
    let Some(youngest) = versions.first().filter(|_| count >= how.deltas_max as usize) else { return Vec::new() };
    let delta_bytes: usize = versions[..count].iter().map(|version| version.bytes).sum();
    let page_bytes = versions.get(count).map(|page| page.bytes).or((!falls_through).then_some(0));
    if page_bytes.is_some_and(|bytes| bytes <= delta_bytes * how.page_parts) {
        let end = versions.len();
        return vec![Merge { first: 0, end, generation: youngest.generation, sequence: WHOLE }];
    }
    // A delta that is larger than the younger ones together stays as it is, unless few would be folded.
    let (mut end, mut bytes) = (0, 0);
    while end < count && (end <= count / 2 || versions[end].bytes <= bytes) {
        bytes += versions[end].bytes;
        end += 1;
    }
    // A summary tells all of a generation, or nothing.
    while end < count && versions[end].generation == versions[end - 1].generation && versions[end].generation < live {
        end += 1;
    }
    let open = versions[..end].iter().take_while(|version| version.generation == live).count();
    let mut merges = Vec::new();
    if open > 1 {
        merges.push(Merge { first: 0, end: open, generation: live, sequence: youngest.sequence });
    }
    if end - open > 1 {
        let after = versions.get(end).map_or(Generation(0), |next| next.generation);
        merges.push(Merge {
            first: open,
            end,
            generation: versions[open].generation,
            sequence: summary_sequence(after),
        });
    }
    merges
}

impl Controller {
    pub(crate) fn start_folds(&mut self) {
        let mut later = VecDeque::new();
        while self.folds.running.len() < FOLDS_AT_ONCE
            && let Some((branch, page)) = self.folds.waiting.pop_front()
        {
            // Folding and purging write what they read before, and so take turns.
            let purge = self.branches.get(&branch).and_then(|branch| branch.purge.as_ref());
            if purge.is_some_and(|purge| purge.busy || purge.waiting) {
                later.push_back((branch, page));
            } else if self.folds.running.insert((branch, page)) {
                let known = self.folds.known(branch, page);
                self.scan(ScanPurpose::Fold { branch, page, known });
            }
        }
        self.folds.waiting.append(&mut later);
    }

    pub(crate) fn fold_scanned(
        &mut self,
        branch: BranchId,
        page: PageIndex,
        known: u32,
        result: Result<Vec<Scan>, StoreError>,
    ) {
        let shape = self.branches.get(&branch).filter(|branch| !branch.record.ended).and_then(|branch| {
            let volume = self.volumes.get(&branch.record.volume).filter(|volume| !volume.record.deleting)?;
            Some((volume.record.region_size, branch))
        });
        let read = result.ok().and_then(|scans| <[Scan; 2]>::try_from(scans).ok());
        let (Some((size, state)), Some([Scan { pairs, .. }, record])) = (shape, read) else {
            return self.fold_given_up(branch, page);
        };
        // The generation that went on when this was read: of all before it, everything was there. (Of those that are over by
        // now, something may have been on its way still.)
        let Some(Ok(record)) = record.pairs.first().map(|(_, value)| BranchRecord::decode(value)) else {
            return self.fold_given_up(branch, page);
        };
        let version = |(key, value): &(Vec<u8>, Vec<u8>)| match Key::decode(key) {
            Some(Key::Table(_, _, generation, sequence)) => {
                Some(Version { generation, sequence, bytes: key.len() + value.len() })
            }
            _ => None,
        };
        let Some(versions) = pairs.iter().map(version).collect::<Option<Vec<Version>>>() else {
            return self.fold_given_up(branch, page);
        };
        let merges = plan(&versions, record.generation, state.record.origin.is_some(), self.folds.how);
        let mut changes = Vec::new();
        for merge in &merges {
            // A page that cannot be read stays as it is: the audit lists it, and faults on it are answered with errors.
            let Ok(runs) = self.merged(&pairs[merge.first..merge.end], size) else {
                return self.fold_given_up(branch, page);
            };
            changes.push((*merge, runs));
        }
        let folded: usize = merges.iter().map(|merge| merge.end - merge.first).sum();
        let is_whole = merges.iter().any(|merge| merge.sequence == WHOLE);
        let deltas = versions.iter().filter(|version| version.sequence != WHOLE).count();
        let left = match merges.len() {
            // It is tried again when there are more.
            0 => deltas.min(self.folds.how.deltas_max as usize),
            _ if is_whole => 0,
            merges => deltas + merges - folded,
        };
        let mut batch = Batch::new();
        for (merge, runs) in changes {
            self.fold((branch, page), &merge, runs, &versions[merge.first..merge.end], size, &mut batch);
        }
        self.folds.left(branch, page, known, left);
        if merges.is_empty() {
            return self.folded(branch, page);
        }
        let until = self.now + COMMIT_WITHIN;
        let unsent = self.folds.unsent.get_or_insert(Unsent { batch: Batch::new(), pages: Vec::new(), until });
        unsent.batch.changes.append(&mut batch.changes);
        unsent.pages.push((branch, page));
    }

    /// Sends folds along with this step's batch.
    pub(crate) fn send_folds(&mut self) {
        if let Some(mut unsent) = self.folds.unsent.take() {
            self.batch.changes.append(&mut unsent.batch.changes);
            self.after.extend(unsent.pages.into_iter().map(|(branch, page)| After::Folded(branch, page)));
        }
    }

    /// Sends folds that have waited long enough, or that somebody waits for, or of which there are as many as may be under
    /// way at once; sees to it that the others are sent when it is time.
    pub(crate) fn send_folds_if_due(&mut self) {
        let Some(unsent) = &self.folds.unsent else { return };
        let is_waited_for = |(branch, _): &(BranchId, PageIndex)| {
            let purge = self.branches.get(branch).and_then(|branch| branch.purge.as_ref());
            purge.is_some_and(|purge| purge.waiting)
        };
        let until = unsent.until;
        let is_due =
            self.now >= until || self.folds.running.len() >= FOLDS_AT_ONCE || unsent.pages.iter().any(is_waited_for);
        if is_due { self.send_folds() } else { self.wake_at(until) }
    }

    fn merged(&self, pairs: &[(Vec<u8>, Vec<u8>)], size: RegionSize) -> Result<Vec<EntryRun>, StoreError> {
        let forgotten = usize::from(self.config.planted.has(Bug::FoldDropsDelta));
        fold_pairs(&pairs[forgotten..], Generation(u32::MAX), size).map(|found| found.runs)
    }

    /// Writes what some versions of a page say as one, in `batch`. Those that no older view sees go.
    fn fold(
        &self,
        (id, page): (BranchId, PageIndex),
        merge: &Merge,
        runs: Vec<EntryRun>,
        versions: &[Version],
        size: RegionSize,
        batch: &mut Batch,
    ) {
        let Some(branch) = self.branches.get(&id) else { return };
        let older = branch.older(merge.generation);
        for version in versions {
            if version.generation > older || self.config.planted.has(Bug::FoldForgetsSnapshot) {
                batch.delete(Key::Table(id, page, version.generation, version.sequence));
            }
        }
        let is_whole = merge.sequence == WHOLE;
        let runs = if is_whole { table::without_zeroes(runs) } else { runs };
        if is_whole && runs.is_empty() && !has_older(branch, older) {
            return batch.delete(Key::Table(id, page, merge.generation, WHOLE));
        }
        let mut sequence = merge.sequence;
        if self.config.planted.has(Bug::SummaryTellsLess) && summarized_after(sequence).is_some() {
            sequence = summary_sequence(Generation(0));
        }
        batch.put(Key::Table(id, page, merge.generation, sequence), table::encode(size, &runs));
    }

    pub(crate) fn fold_given_up(&mut self, branch: BranchId, page: PageIndex) {
        self.folds.deltas.remove(&(branch, page));
        self.folded(branch, page);
    }

    pub(crate) fn folded(&mut self, branch: BranchId, page: PageIndex) {
        self.folds.running.remove(&(branch, page));
        let again = self.folds.known(branch, page) > self.folds.how.deltas_max;
        if let Some(id) = self.branches.get(&branch).map(|branch| branch.record.volume) {
            let has_job = self.volumes.get(&id).is_some_and(|volume| volume.job.is_some());
            if again && !has_job {
                self.folds.waiting.push_back((branch, page));
            }
            self.start_jobs_of(id);
            if self.branches.get(&branch).is_some_and(|branch| branch.purge.as_ref().is_some_and(|purge| purge.waiting))
            {
                self.start_purge(branch);
            }
        }
        self.start_folds();
    }
}

/// Whether a page may have something that an empty page with versions after `older` hides.
fn has_older(branch: &Branch, older: Generation) -> bool {
    branch.record.origin.is_some() || older > Generation(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(generation: u32, sequence: u64, bytes: usize) -> Version {
        Version { generation: Generation(generation), sequence, bytes }
    }

    fn deltas(generations: impl Iterator<Item = u32>) -> Vec<Version> {
        generations.map(|generation| version(generation, u64::from(generation), 100)).collect()
    }

    fn merge(first: usize, end: usize, generation: u32, sequence: u64) -> Merge {
        Merge { first, end, generation: Generation(generation), sequence }
    }

    fn plan(versions: &[Version], live: Generation, falls_through: bool) -> Vec<Merge> {
        super::plan(versions, live, falls_through, Folding { deltas_max: 8, page_parts: 2 })
    }

    #[test]
    fn deltas_as_large_as_half_their_page_are_folded_into_it() {
        let mut versions = deltas((12..=20).rev());
        versions.push(version(3, WHOLE, 1800));
        assert_eq!(plan(&versions, Generation(20), false), [merge(0, 10, 20, WHOLE)]);
        versions[9].bytes = 1801;
        let summary = summary_sequence(Generation(3));
        assert_eq!(plan(&versions, Generation(20), false), [merge(1, 9, 19, summary)]);
        assert!(plan(&versions[2..], Generation(20), false).is_empty(), "they are few");
        assert_eq!(plan(&versions[..9], Generation(20), false), [merge(0, 9, 20, WHOLE)], "the page below is empty");
        let all = summary_sequence(Generation(0));
        assert_eq!(
            plan(&versions[..9], Generation(20), true),
            [merge(1, 9, 19, all)],
            "the page below is the origin's"
        );
    }

    #[test]
    fn a_large_delta_is_left_alone_and_no_generation_is_told_by_halves() {
        let mut versions = deltas((11..=20).rev());
        versions.push(version(8, 700, 5000));
        versions.push(version(8, 699, 100));
        versions.push(version(1, WHOLE, 1_000_000));
        let plan_of = |versions: &[Version], live| plan(versions, Generation(live), false);
        assert_eq!(plan_of(&versions, 20), [merge(1, 10, 19, summary_sequence(Generation(8)))]);
        versions[10].bytes = 1000;
        versions[11].bytes = 9_999;
        assert_eq!(plan_of(&versions, 20), [merge(1, 12, 19, summary_sequence(Generation(1)))]);
        // Of the live end's own, whatever is young.
        let mut own = deltas(std::iter::repeat_n(20, 9));
        own.push(version(20, 1, 5000));
        own.push(version(1, WHOLE, 1_000_000));
        assert_eq!(plan_of(&own, 20), [merge(0, 9, 20, 20)]);
    }

    #[test]
    fn what_a_view_reads_stays_few_and_what_is_written_is_little() {
        let (mut versions, mut written, mut most) = (vec![version(1, WHOLE, 100_000)], 0, 0);
        let how = Folding::default();
        for generation in 2..=400 {
            versions.insert(0, version(generation, u64::from(generation), 100));
            if versions.len() <= how.deltas_max as usize + 1 {
                continue;
            }
            let mut merges = super::plan(&versions, Generation(generation), false, how);
            merges.reverse();
            for Merge { first, end, generation, sequence } in merges {
                let bytes = versions[first..end].iter().map(|version| version.bytes).sum();
                written += bytes;
                versions.splice(first..end, [Version { generation, sequence, bytes }]);
            }
            most = most.max(versions.len());
        }
        assert!(most <= how.deltas_max as usize + 1, "{most} versions are read");
        assert!(written < 3 * 400 * 100, "{written} bytes are written again of 40,000");
    }
}
