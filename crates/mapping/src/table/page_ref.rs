//! A loaded page as its table lends it.

use crate::page::{self, Nearest, TablePage};
use crate::view::{EntryView, Extent};
use model::{EntryRun, Generation, MapEntry, REGIONS_PER_PAGE, RegionSize};

/// A loaded page, borrowed from its table.
#[derive(Clone, Copy, Debug)]
pub struct PageRef<'a> {
    pub(super) content: PageContent<'a>,
    pub(super) size: RegionSize,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum PageContent<'a> {
    Zero,
    Extent(Extent),
    Runs(&'a TablePage),
}

impl<'a> PageRef<'a> {
    /// Whether every region of it is zero.
    #[must_use]
    pub fn is_zero(self) -> bool {
        matches!(self.content, PageContent::Zero)
    }

    /// What it says of `slot`.
    #[must_use]
    pub fn entry(self, slot: u16) -> EntryView<'a> {
        self.span(slot).0
    }

    /// What it says of `slot`, and for how many slots from there on that holds (a full region's place moving along).
    #[must_use]
    pub fn span(self, slot: u16) -> (EntryView<'a>, u32) {
        let left = REGIONS_PER_PAGE - u32::from(slot);
        match self.content {
            PageContent::Zero => (EntryView::Zero, left),
            PageContent::Extent(extent) => {
                let Extent { place, born, written } = extent.skip(u32::from(slot), self.size);
                (EntryView::Full { place, born, written, run_left: left }, left)
            }
            PageContent::Runs(page) => page.span(slot),
        }
    }

    /// What lies nearest to `slot` on its left, no further than `first`.
    #[must_use]
    pub fn nearest_left(self, slot: u16, first: u16, frozen_through: Generation) -> Nearest {
        match self.content {
            PageContent::Zero => Nearest::default(),
            PageContent::Extent(extent) => self.of_extent(extent, (first..slot).next_back(), frozen_through),
            PageContent::Runs(page) => page.nearest_left(slot, first, frozen_through),
        }
    }

    /// What lies nearest to `slot` on its right, before `end`.
    #[must_use]
    pub fn nearest_right(self, slot: u16, end: u16, frozen_through: Generation) -> Nearest {
        match self.content {
            PageContent::Zero => Nearest::default(),
            PageContent::Extent(extent) => self.of_extent(extent, (slot + 1..end).next(), frozen_through),
            PageContent::Runs(page) => page.nearest_right(slot, end, frozen_through),
        }
    }

    fn of_extent(self, extent: Extent, at: Option<u16>, frozen_through: Generation) -> Nearest {
        let found = at.map(|at| (at, extent.skip(u32::from(at), self.size).place));
        if crate::stack::is_frozen(extent.born, frozen_through) {
            Nearest { frozen: found, taking: None }
        } else {
            Nearest { taking: found, frozen: None }
        }
    }

    /// Its runs, in order; zero slots are left out.
    pub fn runs(self) -> impl Iterator<Item = EntryRun> + 'a {
        self.runs_between(0, REGIONS_PER_PAGE as u16).filter(|run| run.entry != MapEntry::Zero)
    }

    /// The runs of the slots `first..end`, zero ones too: what a delta of those slots says.
    pub fn runs_between(self, first: u16, end: u16) -> impl Iterator<Item = EntryRun> + 'a {
        page::runs_between(self.size, first..end, move |slot| self.span(slot))
    }

    /// How many runs describe it.
    #[must_use]
    pub fn run_count(self) -> usize {
        match self.content {
            PageContent::Zero => 0,
            PageContent::Extent(_) => 1,
            PageContent::Runs(page) => page.run_count(),
        }
    }
}
