//! What changed from one view to another, by their maps alone: no data is read.
//!
//! A snapshot's blocks never change, so a block that both views find at one place is the same. One that they find at two
//! places has changed, unless the younger view descends from the older one and the layer it is in was last written before:
//! then it was only moved.

use super::store_error;
use super::view::{StoredView, pages_of};
use crate::fetch::descends;
use api::{Diff, DiffKind, DiffQuery, DiffRange};
use mapping::{EntryView, TablePage, changed_blocks, resolve_read};
use model::{
    BLOCK_BYTES, BlockBitmap, BlockRange, Generation, PageIndex, Place, REGIONS_PER_PAGE, RegionSize, VolumeId,
};
use std::collections::BTreeSet;
use store::{StoreError, StoreView};

/// The ranges that changed, or the part of them that is asked for.
///
/// # Errors
/// What an operator is told: a view is gone, or the store cannot be read.
pub fn diff(
    view: &(impl StoreView + ?Sized),
    from: Option<VolumeId>,
    to: VolumeId,
    query: &DiffQuery,
) -> Result<Diff, api::Error> {
    let younger = StoredView::load(view, to)?;
    let older = from.map(|from| StoredView::load(view, from)).transpose()?;
    let failed = |error: StoreError| store_error(&error);
    let size = younger.region_size;
    let pages = concerned(view, older.as_ref(), &younger).map_err(failed)?;
    let is_ancestor = older.as_ref().is_some_and(|older| descends(&younger.chain, &older.chain));
    let since = older.as_ref().map_or(Generation(0), |older| older.chain[0].1);
    let mut ranges = Ranges::new(query, younger.size_bytes);
    let first = PageIndex((query.offset / size.page_bytes()).min(u64::from(u32::MAX)) as u32);
    for page in pages.range(first..) {
        let now = TablePage::from_runs(size, &younger.page(view, *page).map_err(failed)?);
        let before = older.as_ref().map(|older| older.page(view, *page)).transpose().map_err(failed)?;
        let before = TablePage::from_runs(size, &before.unwrap_or_default());
        let limit = older.as_ref().map_or(0, |older| older.size_bytes);
        compare_page(&before, &now, *page, size, &Comparison { since, is_ancestor, limit }, &mut ranges);
        if ranges.is_full() {
            break;
        }
    }
    let (ranges, next_offset_bytes) = ranges.finish();
    let sum = |kind| ranges.iter().filter(|range| range.kind == kind).map(|range| range.length_bytes).sum();
    Ok(Diff {
        from: older.as_ref().map(|older| older.name.clone()),
        to: younger.name,
        size_bytes: younger.size_bytes,
        from_size_bytes: older.map_or(0, |older| older.size_bytes),
        data_bytes: sum(DiffKind::Data),
        zero_bytes: sum(DiffKind::Zero),
        ranges,
        next_offset_bytes,
    })
}

/// The pages in which the two views may differ: those that a branch changed which only one of them sees, or sees further.
fn concerned(
    view: &(impl StoreView + ?Sized),
    older: Option<&StoredView>,
    younger: &StoredView,
) -> Result<BTreeSet<PageIndex>, StoreError> {
    let mut pages = BTreeSet::new();
    let Some(older) = older else { return younger.pages(view) };
    let seen_by = |stored: &StoredView, branch| {
        stored.chain.iter().find(|(of, _)| *of == branch).map_or(Generation(0), |(_, generation)| *generation)
    };
    let branches: BTreeSet<_> = older.chain.iter().chain(&younger.chain).map(|(branch, _)| *branch).collect();
    for branch in branches {
        let (one, other) = (seen_by(older, branch), seen_by(younger, branch));
        if one != other {
            pages_of(view, branch, one.min(other)..one.max(other), &mut pages)?;
        }
    }
    Ok(pages)
}

/// How two views are related.
struct Comparison {
    since: Generation,
    is_ancestor: bool,
    /// The older view's size, in bytes: beyond it, it holds zeroes.
    limit: u64,
}

fn compare_page(
    before: &TablePage,
    now: &TablePage,
    page: PageIndex,
    size: RegionSize,
    how: &Comparison,
    ranges: &mut Ranges,
) {
    let mut slot = 0_u16;
    while u32::from(slot) < REGIONS_PER_PAGE {
        let (old, new) = (before.span(slot), now.span(slot));
        let count = old.1.min(new.1).max(1);
        let same = match (old.0, new.0) {
            (EntryView::Zero, EntryView::Zero) => true,
            (EntryView::Full { place: one, .. }, EntryView::Full { place: other, .. }) => one == other,
            _ => false,
        };
        if same {
            slot += count as u16;
            continue;
        }
        let region = page.region(slot).0 * size.bytes();
        // What lies beyond the older view's end was zeroes in it. (It may end within a block, which then counts.)
        let within = how.limit.saturating_sub(region).div_ceil(BLOCK_BYTES).min(u64::from(size.blocks())) as u32;
        let parts = [(old.0, BlockRange::new(0, within)), (EntryView::Zero, BlockRange::new(within, size.blocks()))];
        for (older, blocks) in parts {
            compare_blocks(older, new.0, blocks, size, how, |block, kind| {
                ranges.add(region + u64::from(block) * BLOCK_BYTES, kind);
            });
        }
        slot += 1;
    }
}

fn compare_blocks(
    older: EntryView<'_>,
    newer: EntryView<'_>,
    blocks: BlockRange,
    size: RegionSize,
    how: &Comparison,
    mut found: impl FnMut(u32, DiffKind),
) {
    let changed = match changed_blocks(older, newer, size, how.since, how.is_ancestor) {
        Some(changed) => changed,
        // Nothing that is durable is unknown; if it were, everything would have to be taken for changed.
        None => BlockBitmap::all(size.blocks()),
    };
    if matches!(newer, EntryView::NotLoaded | EntryView::Invalid | EntryView::Error) {
        return (blocks.start..blocks.end).for_each(|block| found(block, DiffKind::Data));
    }
    for step in resolve_read(newer, size, blocks) {
        let kind = if step.place == Place::Zero { DiffKind::Zero } else { DiffKind::Data };
        (step.blocks.start..step.blocks.end)
            .filter(|block| changed.contains(*block))
            .for_each(|block| found(block, kind));
    }
}

/// Gathers blocks into ranges.
struct Ranges {
    offset: u64,
    end: u64,
    limit: usize,
    ranges: Vec<DiffRange>,
    next: Option<u64>,
}

impl Ranges {
    fn new(query: &DiffQuery, end: u64) -> Self {
        Self { offset: query.offset, end, limit: query.limit() as usize, ranges: Vec::new(), next: None }
    }

    fn add(&mut self, offset: u64, kind: DiffKind) {
        if offset < self.offset / BLOCK_BYTES * BLOCK_BYTES || offset >= self.end || self.is_full() {
            return;
        }
        let length_bytes = BLOCK_BYTES.min(self.end - offset);
        let is_full = self.ranges.len() == self.limit;
        match self.ranges.last_mut() {
            Some(last) if last.kind == kind && last.offset_bytes + last.length_bytes == offset => {
                last.length_bytes += length_bytes;
            }
            _ if is_full => self.next = Some(offset),
            _ => self.ranges.push(DiffRange { offset_bytes: offset, length_bytes, kind }),
        }
    }

    fn is_full(&self) -> bool {
        self.next.is_some()
    }

    fn finish(self) -> (Vec<DiffRange>, Option<u64>) {
        (self.ranges, self.next)
    }
}
