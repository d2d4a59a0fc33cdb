//! A loaded page as its table lends it.

use crate::page::{self, TablePage};
use crate::view::{EntryView, Extent};
use model::{EntryRun, MapEntry, REGIONS_PER_PAGE, RegionSize};

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
