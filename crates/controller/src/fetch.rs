//! Page faults, answered by scans of the table.

use crate::engine::Controller;
use crate::event::{Effect, Scan, ScanId};
use crate::planted::Bug;
use model::{BranchId, EntryRun, Epoch, Generation, MapEntry, PageIndex, REGIONS_PER_PAGE, RegionSize};
use std::time::Duration;
use store::{Key, KeyRange, StoreError, table};
use wire::{AgentId, ControllerMessage, RequestId};

/// How many pairs a scan for one page reads at first: the page, its deltas and the next page there is.
const PAGE_SCAN_LIMIT: usize = 16;
/// How long after a scan failed it is tried again.
const SCAN_RETRY: Duration = Duration::from_millis(500);

/// What a scan is for.
#[derive(Clone, Debug)]
pub(crate) enum ScanPurpose {
    /// An agent's page fault.
    Fetch(Fetch),
    /// A page whose deltas are to be folded.
    Fold { branch: BranchId, page: PageIndex, limit: usize },
    /// The next pages of a job.
    Job { job: u64, limit: usize },
}

/// A page fault.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fetch {
    pub(crate) agent: AgentId,
    pub(crate) request: RequestId,
    pub(crate) epoch: Epoch,
    pub(crate) page: PageIndex,
    pub(crate) limit: usize,
}

/// A page as a scan found it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct FoundPage {
    /// Its entries.
    pub(crate) runs: Vec<EntryRun>,
    /// The sequence numbers of the deltas of the generation asked for.
    pub(crate) deltas: Vec<u64>,
    /// It has a version of an older generation.
    pub(crate) older: bool,
    /// The page after it that is there at all.
    pub(crate) next: Option<PageIndex>,
}

/// Folds the pairs of a scan that are of `page` and not younger than `generation`.
pub(crate) fn fold_pairs(
    pairs: &[(Vec<u8>, Vec<u8>)],
    page: PageIndex,
    generation: Generation,
    size: RegionSize,
) -> Result<FoundPage, StoreError> {
    let mut found = FoundPage::default();
    for (key, value) in pairs {
        let Some(Key::Table(_, at, born, sequence)) = Key::decode(key) else {
            return Err(StoreError::Corrupt("a table has a key that is none".into()));
        };
        if at != page {
            found.next = Some(at);
            break;
        }
        if born > generation {
            continue;
        }
        let (stored_size, runs) = table::decode(value)?;
        if stored_size != size {
            return Err(StoreError::Corrupt(format!("page {} has regions of another size", page.0)));
        }
        found.older |= born < generation;
        if sequence == 0 {
            found.runs = runs;
        } else {
            found.runs = table::overlay(size, &found.runs, &runs);
            if born == generation {
                found.deltas.push(sequence);
            }
        }
    }
    Ok(found)
}

/// Whether a scan may have missed some of `page`: it ended at its limit and not beyond the page.
pub(crate) fn ends_within(scan: &Scan, page: PageIndex) -> bool {
    let last = scan.pairs.last().and_then(|(key, _)| Key::decode(key));
    let beyond = matches!(last, Some(Key::Table(_, at, _, _)) if at != page);
    scan.more && !beyond
}

impl Controller {
    pub(crate) fn fetch_page(&mut self, agent: AgentId, request: RequestId, epoch: Epoch, page: PageIndex) {
        if self.live_session(agent, epoch).is_some() {
            self.scan(ScanPurpose::Fetch(Fetch { agent, request, epoch, page, limit: PAGE_SCAN_LIMIT }));
        }
    }

    /// Begins a scan; what it finds is handled according to its purpose.
    pub(crate) fn scan(&mut self, purpose: ScanPurpose) {
        let Some((range, limit)) = self.scan_range(&purpose) else { return };
        let id = ScanId(self.next_id());
        self.scans.insert(id, purpose);
        self.effects.push(Effect::Scan { id, range, limit });
    }

    fn scan_range(&self, purpose: &ScanPurpose) -> Option<(KeyRange, usize)> {
        match purpose {
            ScanPurpose::Fetch(fetch) => {
                let (_, volume) = self.live_session(fetch.agent, fetch.epoch)?;
                Some((KeyRange::table_from(volume.branch_id(), fetch.page), fetch.limit))
            }
            ScanPurpose::Fold { branch, page, limit } => Some((KeyRange::table_page(*branch, *page), *limit)),
            ScanPurpose::Job { job, limit } => Some((self.job_range(*job)?, *limit)),
        }
    }

    pub(crate) fn scan_again(&mut self, purpose: ScanPurpose) {
        self.scan(purpose);
    }

    pub(crate) fn scanned(&mut self, id: ScanId, result: Result<Scan, StoreError>) {
        let Some(purpose) = self.scans.remove(&id) else { return };
        match (purpose, result) {
            (purpose, Err(StoreError::Failed(_) | StoreError::Full)) => {
                self.scan_retries.push(purpose);
                self.wake_in(SCAN_RETRY);
            }
            (ScanPurpose::Fetch(fetch), result) => self.fetched(fetch, result),
            (ScanPurpose::Fold { branch, page, limit }, result) => self.fold_scanned(branch, page, limit, result),
            (ScanPurpose::Job { job, limit }, result) => self.job_scanned(job, limit, result),
        }
    }

    fn fetched(&mut self, fetch: Fetch, result: Result<Scan, StoreError>) {
        let Some((_, volume)) = self.live_session(fetch.agent, fetch.epoch) else { return };
        let (size, generation, pages) = (volume.record.region_size, volume.branch.generation, volume.pages());
        let branch = volume.branch_id();
        if let Ok(scan) = &result
            && ends_within(scan, fetch.page)
        {
            return self.scan(ScanPurpose::Fetch(Fetch { limit: fetch.limit.saturating_mul(4), ..fetch }));
        }
        let found = result.and_then(|scan| fold_pairs(&scan.pairs, fetch.page, generation, size));
        let (runs, absent_until) = match found {
            Ok(found) => {
                self.folds.deltas_counted(branch, fetch.page, found.deltas.len());
                let beyond = u32::from(self.config.planted.has(Bug::AbsentTooFar));
                let next = found.next.map_or(pages, |next| next.0.saturating_add(beyond).min(pages));
                (table::without_zeroes(found.runs), next.max(fetch.page.0.saturating_add(1)))
            }
            // What the store cannot tell is lost: better an I/O error than wrong bytes.
            Err(_) => {
                let lost = EntryRun { first: 0, count: REGIONS_PER_PAGE as u16, entry: MapEntry::Error };
                (vec![lost], fetch.page.0.saturating_add(1))
            }
        };
        let Fetch { agent, request, epoch, page, .. } = fetch;
        let absent_until = PageIndex(absent_until);
        self.to_agent(agent, ControllerMessage::Page { request, epoch, page, runs, absent_until });
        self.start_folds();
    }
}
