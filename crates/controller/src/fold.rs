//! Folding: a page with many deltas becomes one value again, in the background.

use crate::engine::{After, Controller};
use crate::event::Scan;
use crate::fetch::{ScanPurpose, fold_pairs};
use crate::planted::Bug;
use model::{BranchId, Generation, PageIndex};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use store::{Key, StoreError, table};

/// More deltas than this on one page are folded.
const DELTAS_MAX: u32 = 8;
/// How many pages are folded at once.
const FOLDS_AT_ONCE: usize = 64;
/// How many pairs a scan for folding reads.
const FOLD_SCAN_LIMIT: usize = 64;

/// Which pages have deltas, as far as that is known.
#[derive(Debug, Default)]
pub(crate) struct Folds {
    deltas: BTreeMap<(BranchId, PageIndex), u32>,
    waiting: VecDeque<(BranchId, PageIndex)>,
    running: BTreeSet<(BranchId, PageIndex)>,
}

impl Folds {
    pub(crate) fn delta_added(&mut self, branch: BranchId, page: PageIndex) {
        let count = self.deltas.entry((branch, page)).or_default();
        *count += 1;
        if *count == DELTAS_MAX + 1 && !self.running.contains(&(branch, page)) {
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

    fn forget(&mut self, branch: BranchId, page: PageIndex, folded: usize) {
        if let Some(count) = self.deltas.get_mut(&(branch, page)) {
            *count = count.saturating_sub(u32::try_from(folded).unwrap_or(u32::MAX));
            if *count == 0 {
                self.deltas.remove(&(branch, page));
            }
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
                self.scan(ScanPurpose::Fold { branch, page, limit: FOLD_SCAN_LIMIT });
            }
        }
        self.folds.waiting.append(&mut later);
    }

    pub(crate) fn fold_scanned(
        &mut self,
        branch: BranchId,
        page: PageIndex,
        limit: usize,
        result: Result<Scan, StoreError>,
    ) {
        let shape = self.branches.get(&branch).filter(|branch| !branch.record.ended).and_then(|branch| {
            let volume = self.volumes.get(&branch.record.volume).filter(|volume| !volume.record.deleting)?;
            Some((volume.record.region_size, branch))
        });
        let (Some((size, state)), Ok(mut scan)) = (shape, result) else { return self.fold_given_up(branch, page) };
        scan.pairs.reverse();
        let is_base = |pair: &(Vec<u8>, Vec<u8>)| matches!(Key::decode(&pair.0), Some(Key::Table(_, _, _, 0)));
        let base = scan.pairs.iter().rposition(is_base);
        if base.is_none() && scan.more {
            return self.scan(ScanPurpose::Fold { branch, page, limit: limit.saturating_mul(4) });
        }
        let mut pairs = scan.pairs.split_off(base.unwrap_or(0));
        let Some(Key::Table(_, _, youngest, sequence)) = pairs.last().and_then(|(key, _)| Key::decode(key)) else {
            return self.fold_given_up(branch, page);
        };
        // The views that see the youngest version are those from the first that can on: what lies between it and the view
        // before is theirs alone.
        let older = state.older(youngest);
        let has_older = state.record.origin.is_some() || older > Generation(0);
        let deleted: Vec<Vec<u8>> = pairs.iter().map(|(key, _)| key.clone()).collect();
        if self.config.planted.has(Bug::FoldDropsDelta) {
            pairs.pop();
        }
        // A page that cannot be read stays as it is: the audit lists it, and faults on it are answered with errors.
        let Ok(found) = fold_pairs(&pairs, youngest, size) else { return self.fold_given_up(branch, page) };
        // Without a page of its own, and with an origin below, it stays a delta.
        let is_whole = found.complete || state.record.origin.is_none();
        let own = |key: &&Vec<u8>| matches!(Key::decode(key), Some(Key::Table(_, _, born, _)) if born > older);
        if deleted.iter().filter(own).count() <= 1 && (sequence == 0 || !is_whole) {
            // It is folded already: what was counted were versions of older views, or a purge has removed them.
            return self.fold_given_up(branch, page);
        }
        for key in deleted {
            if let Some(key @ Key::Table(_, _, born, _)) = Key::decode(&key)
                && (born > older || self.config.planted.has(Bug::FoldForgetsSnapshot))
            {
                self.batch.delete(key);
            }
        }
        let runs = if is_whole { table::without_zeroes(found.runs) } else { found.runs };
        let key = Key::Table(branch, page, youngest, if is_whole { 0 } else { sequence });
        if runs.is_empty() && !has_older {
            self.batch.delete(key);
        } else {
            self.batch.put(key, table::encode(size, &runs));
        }
        self.folds.forget(branch, page, found.deltas);
        self.after.push(After::Folded(branch, page));
    }

    pub(crate) fn fold_given_up(&mut self, branch: BranchId, page: PageIndex) {
        self.folds.deltas.remove(&(branch, page));
        self.folded(branch, page);
    }

    pub(crate) fn folded(&mut self, branch: BranchId, page: PageIndex) {
        self.folds.running.remove(&(branch, page));
        let again = self.folds.deltas.get(&(branch, page)).is_some_and(|count| *count > DELTAS_MAX);
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
