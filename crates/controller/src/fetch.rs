//! Page faults, answered by scans of the table.

use crate::branches::{Chain, View};
use crate::engine::Controller;
use crate::event::{Effect, Scan, ScanId, ScanRange};
use crate::planted::Bug;
use model::{BranchId, EntryRun, Epoch, Generation, MapEntry, PageIndex, REGIONS_PER_PAGE, RegionSize, VolumeId};
use std::time::Duration;
use store::keys::{WHOLE, summarized_after};
use store::{Key, KeyRange, StoreError, table};
use wire::{AgentId, ControllerMessage, RequestId, SnapshotPage};

/// How long after a scan failed it is tried again.
const SCAN_RETRY: Duration = Duration::from_millis(500);

/// What a scan is for.
#[derive(Clone, Debug)]
pub(crate) enum ScanPurpose {
    /// An agent's page fault.
    Fetch(Fetch),
    /// A page whose deltas are to be folded, of which so many were known then.
    Fold { branch: BranchId, page: PageIndex, known: u32 },
    /// The next pages of a job.
    Job { job: u64, limit: usize },
    /// The next pages of a view that is being taken back.
    Purge { branch: BranchId, limit: usize },
}

/// A page fault.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fetch {
    pub(crate) agent: AgentId,
    pub(crate) request: RequestId,
    pub(crate) epoch: Epoch,
    pub(crate) page: PageIndex,
    /// Not the session's own view: this snapshot.
    pub(crate) snapshot: Option<VolumeId>,
}

/// A page as a branch's own versions tell it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct FoundPage {
    /// Its entries; where it is not complete, only those that deltas name, zeroes too.
    pub(crate) runs: Vec<EntryRun>,
    /// A whole page was among its versions: nothing older shows.
    pub(crate) complete: bool,
    /// How many deltas were read for that.
    pub(crate) deltas: usize,
}

/// What `pairs`, all of one page of one branch, the youngest first, tell of it at `generation`. Those that a summary or a
/// whole page among them makes superfluous may be missing, and are not read.
pub(crate) fn fold_pairs<'a>(
    pairs: impl IntoIterator<Item = &'a (Vec<u8>, Vec<u8>)>,
    generation: Generation,
    size: RegionSize,
) -> Result<FoundPage, StoreError> {
    let mut found = FoundPage::default();
    let mut through = generation;
    for (key, value) in pairs {
        let Some(Key::Table(_, page, born, sequence)) = Key::decode(key) else {
            return Err(StoreError::Corrupt("a table has a key that is none".into()));
        };
        if born > through {
            continue;
        }
        let (stored_size, runs) = table::decode(value)?;
        if stored_size != size {
            return Err(StoreError::Corrupt(format!("page {} has regions of another size", page.0)));
        }
        // Deltas are few and small beside a page: they are laid over one another first, and then, once, over the page.
        found.runs = table::overlay(size, runs, found.runs);
        if sequence == WHOLE {
            found.complete = true;
            break;
        }
        found.deltas += 1;
        through = summarized_after(sequence).map_or(through, |after| through.min(after));
    }
    Ok(found)
}

/// A page of a scan, with everything there is of it.
pub(crate) struct WholePage {
    pub(crate) page: PageIndex,
    pub(crate) pairs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// The pages that a scan of keys found whole.
pub(crate) fn whole_pages(scan: Scan) -> Vec<WholePage> {
    let mut pages = by_page(scan.pairs);
    if scan.more {
        pages.pop();
    }
    pages
}

/// Pairs, keys ascending, by their pages.
pub(crate) fn by_page(pairs: Vec<(Vec<u8>, Vec<u8>)>) -> Vec<WholePage> {
    let mut pages: Vec<WholePage> = Vec::new();
    for (key, value) in pairs {
        let Some(Key::Table(_, page, _, _)) = Key::decode(&key) else { continue };
        match pages.last_mut() {
            Some(last) if last.page == page => last.pairs.push((key, value)),
            _ => pages.push(WholePage { page, pairs: vec![(key, value)] }),
        }
    }
    pages
}

/// What is read for the page of a view: of each branch what it sees of the page, and the key behind it.
fn page_ranges(chain: &Chain, page: PageIndex) -> Vec<ScanRange> {
    let of_branch = |(branch, generation): &(BranchId, Generation)| {
        let behind = KeyRange::table_from(*branch, PageIndex(page.0.saturating_add(1)));
        [
            ScanRange::Page { branch: *branch, page, generation: *generation },
            ScanRange::Keys { range: behind, limit: 1 },
        ]
    };
    chain.iter().flat_map(of_branch).collect()
}

/// What a scan of [`page_ranges`] found.
struct ViewPage {
    /// The page's entries.
    runs: Vec<EntryRun>,
    /// How many deltas the first branch has on it.
    deltas: usize,
    /// The next page there may be.
    next: Option<PageIndex>,
}

fn view_page(scans: &[Scan], chain: &Chain, size: RegionSize) -> Result<ViewPage, StoreError> {
    let mut page = FoundPage::default();
    let (mut next, mut deltas) = (None, None);
    for (scan, (_, generation)) in scans.chunks(2).zip(chain) {
        if let Some(Key::Table(_, page, _, _)) = scan[1].pairs.first().and_then(|(key, _)| Key::decode(key)) {
            next = Some(next.map_or(page, |next: PageIndex| next.min(page)));
        }
        if page.complete {
            continue;
        }
        let found = fold_pairs(&scan[0].pairs, *generation, size)?;
        deltas.get_or_insert(found.deltas);
        page.runs = table::overlay(size, found.runs, page.runs);
        page.complete = found.complete;
    }
    Ok(ViewPage { runs: table::without_zeroes(page.runs), deltas: deltas.unwrap_or(0), next })
}

impl Controller {
    pub(crate) fn fetch_page(
        &mut self,
        agent: AgentId,
        request: RequestId,
        epoch: Epoch,
        page: PageIndex,
        snapshot: Option<VolumeId>,
    ) {
        if self.live_session(agent, epoch).is_some() {
            let fetch = Fetch { agent, request, epoch, page, snapshot };
            self.scan(ScanPurpose::Fetch(fetch));
        }
    }

    /// Begins a scan; what it finds is handled according to its purpose.
    pub(crate) fn scan(&mut self, purpose: ScanPurpose) {
        let Some(ranges) = self.scan_ranges(&purpose) else {
            return match purpose {
                ScanPurpose::Fetch(fetch) => self.snapshot_is_gone(&fetch),
                ScanPurpose::Fold { branch, page, .. } => self.fold_given_up(branch, page),
                ScanPurpose::Job { .. } | ScanPurpose::Purge { .. } => {}
            };
        };
        let id = ScanId(self.next_id());
        self.scans.insert(id, purpose);
        self.effects.push(Effect::Scan { id, ranges });
    }

    /// The view a fetch is of.
    fn fetched_view(&self, fetch: &Fetch) -> Option<View> {
        let session = self.live_session(fetch.agent, fetch.epoch)?;
        match fetch.snapshot {
            None => self.view_of(session.volume),
            Some(snapshot) => {
                let own = self.view_of(session.volume)?;
                let there = self.snapshots.get(&snapshot).is_some_and(|snapshot| !snapshot.record.deleted);
                self.view_of(snapshot).filter(|view| there && view.region_size == own.region_size)
            }
        }
    }

    /// A snapshot that a session wanted to see is not there (any more).
    fn snapshot_is_gone(&mut self, fetch: &Fetch) {
        let Fetch { agent, request, epoch, page, snapshot, .. } = *fetch;
        if snapshot.is_some() && self.live_session(agent, epoch).is_some() {
            self.to_agent(agent, ControllerMessage::SnapshotPage { request, epoch, page, found: None });
        }
    }

    fn scan_ranges(&self, purpose: &ScanPurpose) -> Option<Vec<ScanRange>> {
        Some(match purpose {
            ScanPurpose::Fetch(fetch) => page_ranges(&self.fetched_view(fetch)?.chain, fetch.page),
            ScanPurpose::Fold { branch, page, .. } => {
                let generation = self.branches.get(branch)?.record.generation;
                let record = ScanRange::Keys { range: KeyRange::one(Key::Branch(*branch)), limit: 1 };
                vec![ScanRange::Page { branch: *branch, page: *page, generation }, record]
            }
            ScanPurpose::Job { job, limit } => vec![ScanRange::Keys { range: self.job_range(*job)?, limit: *limit }],
            ScanPurpose::Purge { branch, limit } => vec![self.purge_range(*branch, *limit)?],
        })
    }

    pub(crate) fn scan_again(&mut self, purpose: ScanPurpose) {
        self.scan(purpose);
    }

    pub(crate) fn scanned(&mut self, id: ScanId, result: Result<Vec<Scan>, StoreError>) {
        let Some(purpose) = self.scans.remove(&id) else { return };
        let single =
            |result: Result<Vec<Scan>, StoreError>| result.map(|scans| scans.into_iter().next().unwrap_or_default());
        match (purpose, result) {
            (purpose, Err(StoreError::Failed(_) | StoreError::Full)) => {
                self.scan_retries.push(purpose);
                self.wake_in(SCAN_RETRY);
            }
            (ScanPurpose::Fetch(fetch), result) => self.fetched(fetch, result),
            (ScanPurpose::Fold { branch, page, known }, result) => {
                self.fold_scanned(branch, page, known, result);
            }
            (ScanPurpose::Job { job, limit }, result) => self.job_scanned(job, limit, single(result)),
            (ScanPurpose::Purge { branch, .. }, result) => self.purge_scanned(branch, single(result)),
        }
    }

    fn fetched(&mut self, fetch: Fetch, result: Result<Vec<Scan>, StoreError>) {
        let Some(view) = self.fetched_view(&fetch) else { return self.snapshot_is_gone(&fetch) };
        // What was flattened or rolled back meanwhile has another chain than was read: read it again.
        let is_of_view = |scans: &Vec<Scan>| scans.len() == 2 * view.chain.len();
        if result.as_ref().is_ok_and(|scans| !is_of_view(scans)) {
            return self.scan(ScanPurpose::Fetch(fetch));
        }
        let pages = view.pages();
        let found = result.and_then(|scans| view_page(&scans, &view.chain, view.region_size));
        let (runs, absent_until) = match found {
            Ok(ViewPage { runs, deltas, next }) => {
                if fetch.snapshot.is_none() {
                    self.folds.deltas_counted(view.branch(), fetch.page, deltas);
                }
                let beyond = u32::from(self.config.planted.has(Bug::AbsentTooFar));
                let next = next.map_or(pages, |next| next.0.saturating_add(beyond).min(pages));
                (runs, next.max(fetch.page.0.saturating_add(1)))
            }
            // What the store cannot tell is lost: better an I/O error than wrong bytes.
            Err(_) => {
                let lost = EntryRun { first: 0, count: REGIONS_PER_PAGE as u16, entry: MapEntry::Error };
                (vec![lost], fetch.page.0.saturating_add(1))
            }
        };
        let Fetch { agent, request, epoch, page, snapshot, .. } = fetch;
        let message = match snapshot {
            None => ControllerMessage::Page { request, epoch, page, runs, absent_until: PageIndex(absent_until) },
            Some(_) => {
                let found = Some(SnapshotPage {
                    generation: view.generation(),
                    is_ancestor: self.is_ancestor(&view, epoch),
                    size_bytes: view.size_bytes,
                    runs,
                });
                ControllerMessage::SnapshotPage { request, epoch, page, found }
            }
        };
        self.to_agent(agent, message);
        self.start_folds();
    }

    /// Whether a session's view descends from `older`.
    fn is_ancestor(&self, older: &View, epoch: Epoch) -> bool {
        let own = self.sessions.get(&epoch).and_then(|session| self.view_of(session.volume));
        own.is_some_and(|own| descends(&own.chain, &older.chain))
    }
}

/// Whether the view with the chain `younger` descends from the one with the chain `older`.
pub(crate) fn descends(younger: &Chain, older: &Chain) -> bool {
    let (branch, generation) = older[0];
    younger.iter().any(|(of, through)| *of == branch && generation <= *through)
}
