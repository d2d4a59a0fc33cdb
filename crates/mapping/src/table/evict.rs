//! Eviction, by CLOCK: a hand goes round over the pages, and what was looked up since it last came past is passed over once.
//!
//! Only pages that hold runs give memory back one by one. A chunk without any goes as a whole.

use super::PageTable;
use super::chunk::{CHUNK_PAGES, PageSlot};
use model::PageIndex;
use smallvec::SmallVec;

/// Slots that one call looks at.
const SLOTS_AT_ONCE: usize = 16 * 1024;
/// Pages and chunks that one call asks its caller about.
const ASKED_AT_ONCE: u32 = 512;

/// What was evicted.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Evicted {
    /// What that gave back, in bytes.
    pub bytes: usize,
    /// How many pages it was.
    pub pages: u64,
    /// Which: ranges of pages, first to end.
    pub ranges: SmallVec<[(PageIndex, PageIndex); 4]>,
    /// The hand has gone round twice and found nothing.
    pub exhausted: bool,
}

impl PageTable {
    /// Forgets pages until `bytes` are given back, or for now as many as one call may look at. `may_evict` is asked of ranges
    /// of pages, first to end, whether nothing holds them: a page with changes that are not committed, or that somebody
    /// is at work on, must stay.
    pub fn evict(&mut self, bytes: usize, mut may_evict: impl FnMut(PageIndex, PageIndex) -> bool) -> Evicted {
        let mut evicted = Evicted::default();
        let (mut slots, mut asked) = (SLOTS_AT_ONCE, ASKED_AT_ONCE);
        let round = self.chunks.len() * CHUNK_PAGES;
        while evicted.bytes < bytes && slots > 0 && asked > 0 {
            if self.passed > 2 * round {
                evicted.exhausted = true;
                self.passed = 0;
                break;
            }
            let at = self.hand as usize % round.max(1);
            let index = at / CHUNK_PAGES;
            let first = index * CHUNK_PAGES;
            let Some(chunk) = self.chunks.get(index).and_then(Option::as_ref) else {
                self.pass(at, first + CHUNK_PAGES);
                slots -= 1;
                continue;
            };
            if chunk.runs == 0 {
                let end = u32::try_from(first + CHUNK_PAGES).unwrap_or(u32::MAX);
                let pages = (PageIndex(first as u32), PageIndex(end));
                if chunk.loaded == 0 || !chunk.referenced.replace(false) {
                    asked -= 1;
                    if may_evict(pages.0, pages.1) {
                        self.evict_chunk(index, pages, &mut evicted);
                    }
                }
                self.pass(at, first + CHUNK_PAGES);
                slots -= 1;
                continue;
            }
            let slot = &chunk.slots[at % CHUNK_PAGES];
            if let PageSlot::Runs(page) = slot
                && !page.referenced.replace(false)
            {
                asked -= 1;
                let page = PageIndex(at as u32);
                let pages = (page, PageIndex(page.0 + 1));
                if may_evict(pages.0, pages.1) {
                    self.evict_page(pages, &mut evicted);
                }
            }
            self.pass(at, at + 1);
            slots -= 1;
        }
        evicted
    }

    /// Forgets ranges of pages known to be zero, but for those that `keep` (first to end) names.
    pub fn forget_absent(&mut self, mut keep: impl FnMut(PageIndex, PageIndex) -> bool) {
        self.absent.retain(|first, end| keep(PageIndex(*first), PageIndex(*end)));
    }

    fn pass(&mut self, at: usize, next: usize) {
        self.passed += next - at;
        self.hand = next as u32;
    }

    fn evict_page(&mut self, pages: (PageIndex, PageIndex), evicted: &mut Evicted) {
        let before = self.evictable_bytes();
        let referenced = self.chunk_mut(pages.0).referenced.get();
        self.unload(pages.0);
        // (Its going is no reason to keep the chunk.)
        self.chunk_mut(pages.0).referenced.set(referenced);
        self.count_evicted(before, 1, pages, evicted);
    }

    fn evict_chunk(&mut self, index: usize, pages: (PageIndex, PageIndex), evicted: &mut Evicted) {
        let before = self.evictable_bytes();
        let Some(chunk) = self.chunks[index].take() else { return };
        self.chunk_count -= 1;
        self.held_pages -= usize::from(chunk.loaded);
        // A page that is not zero any more may lie in a range that was once known to be.
        if chunk.slots.iter().any(|slot| matches!(slot, PageSlot::Extent(_))) {
            self.forget_absent_between(pages.0.0, pages.1.0);
        }
        self.count_evicted(before, u64::from(chunk.loaded), pages, evicted);
    }

    fn count_evicted(&mut self, before: usize, count: u64, pages: (PageIndex, PageIndex), evicted: &mut Evicted) {
        self.passed = 0;
        // A range known to be zero that falls in two takes a little more.
        evicted.bytes += before.saturating_sub(self.evictable_bytes());
        evicted.pages += count;
        evicted.ranges.push(pages);
    }

    /// Takes the pages `first..end` out of the ranges known to be zero.
    pub(super) fn forget_absent_between(&mut self, first: u32, end: u32) {
        while let Some((&from, &to)) = self.absent.range(..end).next_back() {
            if to <= first {
                return;
            }
            self.absent.remove(&from);
            for (from, to) in [(from, first.min(to)), (end.max(from), to)] {
                if from < to {
                    self.absent.insert(from, to);
                }
            }
        }
    }
}
