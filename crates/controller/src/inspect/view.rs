//! Views read from a snapshot of the store: which there are, and their pages.

use super::store_error;
use crate::branches::{Chain, DEPTH_MAX};
use crate::fetch::fold_pairs;
use model::{BranchId, EntryRun, Generation, PageIndex, RegionSize, VolumeId};
use std::collections::BTreeSet;
use std::ops::{ControlFlow, Range};
use store::records::{BranchRecord, Record, SnapshotRecord, VolumeRecord};
use store::versions::{self, Changes};
use store::{Key, StoreError, StoreView, table};

/// A volume's live end, or a snapshot.
#[derive(Clone, Debug)]
pub(super) struct StoredView {
    pub(super) name: String,
    pub(super) size_bytes: u64,
    pub(super) region_size: RegionSize,
    pub(super) chain: Chain,
}

fn get<R: Record>(view: &(impl StoreView + ?Sized), key: Key<'_>) -> Result<Option<R>, StoreError> {
    view.get(&key.encode())?.map(|bytes| R::decode(&bytes)).transpose()
}

impl StoredView {
    /// The view of a volume or a snapshot.
    ///
    /// # Errors
    /// What an operator is told.
    pub(super) fn load(view: &(impl StoreView + ?Sized), id: VolumeId) -> Result<Self, api::Error> {
        let gone = || api::Error::not_found("it was deleted meanwhile");
        Self::try_load(view, id).map_err(|error| store_error(&error))?.ok_or_else(gone)
    }

    fn try_load(view: &(impl StoreView + ?Sized), id: VolumeId) -> Result<Option<Self>, StoreError> {
        if let Some(volume) = get::<VolumeRecord>(view, Key::Volume(id))? {
            let Some(branch) = get::<BranchRecord>(view, Key::Branch(volume.branch))? else { return Ok(None) };
            let chain = chain(view, volume.branch, branch.generation)?;
            let VolumeRecord { name, size_bytes, region_size, .. } = volume;
            return Ok(Some(Self { name, size_bytes, region_size, chain }));
        }
        let Some(snapshot) = get::<SnapshotRecord>(view, Key::Snapshot(id))? else { return Ok(None) };
        let Some(volume) = get::<VolumeRecord>(view, Key::Volume(snapshot.volume))? else { return Ok(None) };
        Ok(Some(Self {
            name: format!("{}@{}", volume.name, snapshot.name),
            size_bytes: snapshot.size_bytes,
            region_size: volume.region_size,
            chain: chain(view, snapshot.branch, snapshot.generation)?,
        }))
    }

    /// Every page of it that may hold something, ascending.
    pub(super) fn pages(&self, view: &(impl StoreView + ?Sized)) -> Result<BTreeSet<PageIndex>, StoreError> {
        let mut pages = BTreeSet::new();
        for (branch, generation) in &self.chain {
            pages_of(view, *branch, Generation(0)..*generation, &mut pages)?;
        }
        Ok(pages)
    }

    /// What it says of a page; slots that no run covers are zero.
    pub(super) fn page(&self, view: &(impl StoreView + ?Sized), page: PageIndex) -> Result<Vec<EntryRun>, StoreError> {
        page_of(view, &self.chain, page, self.region_size)
    }
}

/// Where the pages of a view are.
pub(super) fn chain(
    view: &(impl StoreView + ?Sized),
    branch: BranchId,
    generation: Generation,
) -> Result<Chain, StoreError> {
    let mut chain = vec![(branch, generation)];
    let mut at = branch;
    while chain.len() <= DEPTH_MAX
        && let Some(origin) = get::<BranchRecord>(view, Key::Branch(at))?.and_then(|record| record.origin)
    {
        chain.push(origin);
        at = origin.0;
    }
    Ok(chain)
}

/// Adds the pages of which a branch has a version younger than `between` starts and no younger than it ends.
pub(super) fn pages_of(
    view: &(impl StoreView + ?Sized),
    branch: BranchId,
    between: Range<Generation>,
    pages: &mut BTreeSet<PageIndex>,
) -> Result<(), StoreError> {
    let Range { start: after, end: through } = between;
    let changes = Changes { branch, after, through, shown_through: through };
    let all = versions::changed_pages(view, &changes, PageIndex(0), usize::MAX, &mut |key, _| {
        if let Some(Key::Table(_, page, _, _)) = Key::decode(key) {
            pages.insert(page);
        }
        ControlFlow::Continue(())
    });
    all.map(drop)
}

/// The page as a chain of branches tells it.
pub(super) fn page_of(
    view: &(impl StoreView + ?Sized),
    chain: &[(BranchId, Generation)],
    page: PageIndex,
    size: RegionSize,
) -> Result<Vec<EntryRun>, StoreError> {
    let mut runs = Vec::new();
    for (branch, generation) in chain {
        let mut pairs = Vec::new();
        versions::page_at(view, *branch, page, *generation, &mut |key, value| {
            pairs.push((key.to_vec(), value.to_vec()));
            ControlFlow::Continue(())
        })?;
        let found = fold_pairs(&pairs, *generation, size)?;
        runs = table::overlay(size, found.runs, runs);
        if found.complete {
            break;
        }
    }
    Ok(table::without_zeroes(runs))
}
