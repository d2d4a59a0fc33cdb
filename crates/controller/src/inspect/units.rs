//! Sets of units as pages of bits: what millions of regions cost is bounded by the size of the disks.

use model::{LogicalDiskId, UnitIndex, UnitRun};
use pool::{Page, UNITS_PER_PAGE};
use std::collections::BTreeMap;

/// A set of units of any logical disks.
#[derive(Debug, Default)]
pub(super) struct UnitMap {
    pages: BTreeMap<(LogicalDiskId, u32), Page>,
}

static FREE: Page = Page::Free;

impl UnitMap {
    pub(super) fn page(&self, disk: LogicalDiskId, index: u32) -> &Page {
        self.pages.get(&(disk, index)).unwrap_or(&FREE)
    }

    pub(super) fn set_page(&mut self, disk: LogicalDiskId, index: u32, page: Page) {
        self.pages.insert((disk, index), page);
    }

    /// Adds a run, and gives the parts of it that were in the set already.
    pub(super) fn add(&mut self, run: UnitRun) -> Vec<UnitRun> {
        let mut doubles = Vec::new();
        let mut at = run.start.0;
        while at < run.end() {
            let index = at / UNITS_PER_PAGE;
            let base = index * UNITS_PER_PAGE;
            let end = run.end().min(base.saturating_add(UNITS_PER_PAGE));
            let page = self.pages.entry((run.logical_disk, index)).or_default();
            let mut within = at - base;
            while within < end - base {
                let stop = page.run_end(within, end - base);
                if page.is_set(within) {
                    let start = UnitIndex(base + within);
                    doubles.push(UnitRun { logical_disk: run.logical_disk, start, count: stop - within });
                }
                within = stop;
            }
            page.set(at - base..end - base, true);
            at = end;
        }
        doubles
    }
}
