//! What changed since a snapshot: the live table compared with the snapshot's pages, which are fetched when needed.

use crate::context::Context;
use crate::event::{ChangedExtent, Effect, IoId, IoResult};
use crate::planted::Bug;
use crate::volume::{Blocked, FETCHES_MAX, Volume};
use mapping::{EntryView, TablePage, changed_blocks};
use model::{
    BLOCK_BYTES, BlockBitmap, BlockRange, ByteRange, EntryRun, Generation, IoError, MapEntry, PageIndex, Place,
    REGIONS_PER_PAGE, RegionSize, VolumeId,
};
use std::collections::{BTreeMap, VecDeque};
use wire::{AgentMessage, RequestId, SnapshotPage};

/// The most extents of one answer, whatever was asked for.
const EXTENTS_MAX: u32 = 4096;
/// The most table pages looked at for one answer.
const PAGES_MAX: u64 = 4096;
/// Pages fetched at once for one question.
const PAGES_AHEAD: u32 = 16;
/// Snapshots' pages kept for one volume.
const KEPT_MAX: usize = 64;

/// Pages of snapshots, as far as they were asked for a short time ago.
#[derive(Debug, Default)]
pub(crate) struct SnapshotPages {
    /// Oldest first; `None`: there is no such snapshot.
    kept: VecDeque<(VolumeId, PageIndex, Option<Seen>)>,
    fetches: BTreeMap<RequestId, (VolumeId, PageIndex)>,
}

/// A page as a snapshot sees it.
#[derive(Debug)]
struct Seen {
    generation: Generation,
    is_ancestor: bool,
    page: TablePage,
}

impl SnapshotPages {
    fn find(&self, snapshot: VolumeId, page: PageIndex) -> Option<&Option<Seen>> {
        let found = self.kept.iter().find(|(of, at, _)| (*of, *at) == (snapshot, page));
        found.map(|(_, _, seen)| seen)
    }

    /// Forgets all pages. What is granted may have been a snapshot's that is gone by now, and would look unchanged if it
    /// was mapped where the snapshot had it.
    pub(crate) fn forget(&mut self) {
        self.kept.clear();
    }
}

/// The extents of an answer, neighbours that are alike joined.
struct Answer {
    extents: Vec<ChangedExtent>,
    most: usize,
}

impl Answer {
    /// Adds an extent; `false` when there is no room for it.
    fn push(&mut self, length: u64, changed: bool, zero: bool) -> bool {
        if let Some(last) = self.extents.last_mut()
            && (last.changed, last.zero) == (changed, zero)
        {
            last.length += length;
            return true;
        }
        let has_room = self.extents.len() < self.most;
        if has_room {
            self.extents.push(ChangedExtent { length, changed, zero });
        }
        has_room
    }
}

impl Volume {
    pub(crate) fn changed_since(
        &mut self,
        context: &mut Context<'_>,
        id: IoId,
        range: ByteRange,
        since: VolumeId,
        extents_max: u32,
    ) -> Result<(), Blocked> {
        let page_bytes = self.attachment.region_size.page_bytes();
        let mut answer = Answer { extents: Vec::new(), most: extents_max.clamp(1, EXTENTS_MAX) as usize };
        let end = range.end().min(range.start.saturating_add(PAGES_MAX * page_bytes));
        let mut at = range.start;
        // Page by page: what is known before a page that is missing makes an answer already.
        while at < end {
            let page = PageIndex((at / page_bytes) as u32);
            let stop = end.min((at / page_bytes + 1) * page_bytes);
            let seen = match self.snapshot_pages.find(since, page) {
                Some(Some(seen)) if self.table.page(page).is_some() => seen,
                Some(None) => {
                    context.reply(id, Err(IoError::Invalid), &mut self.counters);
                    return Ok(());
                }
                Some(Some(_)) | None => {
                    self.fetch_both(context, since, page, PageIndex(((end - 1) / page_bytes) as u32));
                    if answer.extents.is_empty() {
                        return Err(Blocked);
                    }
                    break;
                }
            };
            let late = context.shared.config.planted.has(Bug::ChangedSinceTooLate);
            let since = Generation(seen.generation.0 + u32::from(late));
            if !self.compare_page(seen, since, ByteRange::new(at, stop - at), &mut answer) {
                break;
            }
            at = stop;
        }
        context.out.push(Effect::Reply { id, result: IoResult::Changed(answer.extents) });
        Ok(())
    }

    /// Compares a part of one page; `false` when the answer is full.
    fn compare_page(&self, seen: &Seen, since: Generation, range: ByteRange, answer: &mut Answer) -> bool {
        let size = self.attachment.region_size;
        let mut at = range.start;
        while at < range.end() {
            let region = size.region_of(at);
            let base = region.0 << size.log2();
            let (newer, newer_count) = self.table.span(region);
            let (older, older_count) = seen.page.span(region.slot());
            let left = u64::from(REGIONS_PER_PAGE) - u64::from(region.slot());
            let uniform = is_uniform(older) && is_uniform(newer);
            let count = if uniform { newer_count.min(u64::from(older_count)).min(left) } else { 1 };
            let stop = range.end().min(base + (count << size.log2()));
            // What cannot be told counts as changed.
            let changed = changed_blocks(older, newer, size, since, seen.is_ancestor)
                .unwrap_or_else(|| BlockBitmap::all(size.blocks()));
            let fits = if uniform {
                answer.push(stop - at, !changed.is_none(), newer == EntryView::Zero)
            } else {
                push_blocks(newer, &changed, size, at - base, stop - base, answer)
            };
            if !fits {
                return false;
            }
            at = stop;
        }
        true
    }

    /// Asks for what is missing of a page, and of some that follow.
    fn fetch_both(&mut self, context: &mut Context<'_>, snapshot: VolumeId, page: PageIndex, last: PageIndex) {
        let epoch = self.attachment.credentials.epoch;
        for page in (page.0..=last.0.min(page.0.saturating_add(PAGES_AHEAD - 1))).map(PageIndex) {
            if self.table.page(page).is_none() {
                self.fault(context, page);
            }
            let pages = &mut self.snapshot_pages;
            let known = pages.find(snapshot, page).is_some();
            let asked = pages.fetches.values().any(|asked| *asked == (snapshot, page));
            if !known && !asked && pages.fetches.len() < FETCHES_MAX {
                let request = context.shared.request_id();
                pages.fetches.insert(request, (snapshot, page));
                context.to_controller(AgentMessage::FetchSnapshotPage { request, epoch, snapshot, page });
            }
        }
    }

    pub(crate) fn snapshot_page_arrived(
        &mut self,
        context: &mut Context<'_>,
        request: RequestId,
        page: PageIndex,
        found: Option<SnapshotPage>,
    ) {
        let Some((snapshot, asked)) = self.snapshot_pages.fetches.remove(&request) else { return };
        if asked == page {
            let size = self.attachment.region_size;
            let seen = found.map(|found| Seen {
                generation: found.generation,
                is_ancestor: found.is_ancestor,
                page: page_within(size, page, &found),
            });
            self.snapshot_pages.kept.push_back((snapshot, page, seen));
            if self.snapshot_pages.kept.len() > KEPT_MAX {
                self.snapshot_pages.kept.pop_front();
            }
        }
        self.retry_held(context);
    }
}

/// Whether every block of the region is the same way.
fn is_uniform(view: EntryView<'_>) -> bool {
    matches!(view, EntryView::Zero | EntryView::Full { .. })
}

/// The snapshot's page; what lies beyond the snapshot's end is zeroes.
fn page_within(size: RegionSize, page: PageIndex, found: &SnapshotPage) -> TablePage {
    let mut table = TablePage::from_runs(size, &found.runs);
    let start = page.first_region().0 << size.log2();
    let within = found.size_bytes.saturating_sub(start).min(size.page_bytes());
    let whole = (within >> size.log2()) as u16;
    let blocks = ((within % size.bytes()).div_ceil(BLOCK_BYTES)) as u32;
    let mut beyond = whole;
    if blocks > 0 {
        if matches!(table.entry(whole), EntryView::Full { .. } | EntryView::Partial { .. } | EntryView::Stack(_)) {
            let tail = BlockRange::new(blocks, size.blocks());
            table.remove_blocks(whole, tail, found.generation, Generation(0), false, &mut mapping::Drops::new());
        }
        beyond += 1;
    }
    let count = REGIONS_PER_PAGE as u16 - beyond;
    if count > 0 {
        table.set_run(&EntryRun { first: beyond, count, entry: MapEntry::Zero });
    }
    table
}

/// Adds the bytes `start..end` of one region.
fn push_blocks(
    view: EntryView<'_>,
    changed: &BlockBitmap,
    size: RegionSize,
    start: u64,
    end: u64,
    answer: &mut Answer,
) -> bool {
    let blocks = BlockRange::new((start / BLOCK_BYTES) as u32, end.div_ceil(BLOCK_BYTES) as u32);
    let mut push = |blocks: BlockRange, zero: bool| {
        let mut at = blocks.start;
        while at < blocks.end {
            let (is_changed, run_end) = changed.run_from(at, blocks.end);
            let from = (u64::from(at) * BLOCK_BYTES).max(start);
            let to = (u64::from(run_end) * BLOCK_BYTES).min(end);
            if !answer.push(to - from, is_changed, zero) {
                return false;
            }
            at = run_end;
        }
        true
    };
    if matches!(view, EntryView::Error | EntryView::Invalid | EntryView::NotLoaded) {
        return push(blocks, false);
    }
    mapping::resolve_read(view, size, blocks).all(|step| push(step.blocks, step.place == Place::Zero))
}
