//! Walks through the versions of table pages that read only what is asked for.
//!
//! A page of a branch with many snapshots has many versions. [`page_at`] reads those that one view sees, [`changed_pages`]
//! those of the pages that changed between two generations; both seek over what lies between.

use crate::keys::{Key, KeyRange, WHOLE, summarized_after};
use crate::{StoreError, StoreView, Visitor};
use model::{BranchId, Generation, PageIndex};
use std::ops::ControlFlow;

/// How many versions in a row are passed over before a walk seeks instead.
const PASSED_MAX: usize = 8;

/// Shows `visitor` what a view at `generation` sees of a page in one branch: the page's versions, the youngest first, down
/// to a whole page or to the branch's first. Versions that a summary tells of are not read.
///
/// # Errors
/// [`StoreError::Failed`] or [`StoreError::Corrupt`], the store's.
pub fn page_at(
    view: &(impl StoreView + ?Sized),
    branch: BranchId,
    page: PageIndex,
    generation: Generation,
    visitor: &mut Visitor<'_>,
) -> Result<(), StoreError> {
    let mut range = Some(KeyRange::table_page_through(branch, page, generation));
    while let Some(versions) = range.take() {
        view.scan_back(&versions, &mut |key, value| {
            visitor(key, value)?;
            let Some(Key::Table(_, _, generation, sequence)) = Key::decode(key) else {
                return ControlFlow::Continue(());
            };
            if sequence == WHOLE {
                return ControlFlow::Break(());
            }
            match summarized_after(sequence).filter(|after| *after < generation) {
                Some(after) => {
                    range = Some(KeyRange::table_page_through(branch, page, after));
                    ControlFlow::Break(())
                }
                None => ControlFlow::Continue(()),
            }
        })?;
    }
    Ok(())
}

/// Which versions of a branch's pages are looked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Changes {
    /// The branch.
    pub branch: BranchId,
    /// A page counts when it has a version younger than this …
    pub after: Generation,
    /// … and no younger than this.
    pub through: Generation,
    /// Of such a page, the versions up to this one are shown; at least `through`.
    pub shown_through: Generation,
}

/// Where a walk stands.
enum Place {
    /// Nothing is known of the page at hand, other than that it has older versions, if so.
    Before { has_older: Option<Vec<u8>> },
    /// The page at hand counts.
    Within,
    /// The page at hand is done with.
    Behind,
}

/// Shows `visitor`, of every page from `first` on that changed, the versions after [`Changes::after`] up to
/// [`Changes::shown_through`], keys ascending; before them, if the page has older versions, the key of one of those, with
/// no value. Ends when `visitor` breaks, or, at the beginning of a page, when `steps_max` keys were looked at or sought.
///
/// Gives the page before which everything was seen; `None` when that is all of them.
///
/// # Errors
/// [`StoreError::Failed`] or [`StoreError::Corrupt`], the store's.
pub fn changed_pages(
    view: &(impl StoreView + ?Sized),
    changes: &Changes,
    first: PageIndex,
    steps_max: usize,
    visitor: &mut Visitor<'_>,
) -> Result<Option<PageIndex>, StoreError> {
    let Changes { branch, after, through, shown_through } = *changes;
    let end = KeyRange::table(branch).end;
    let (mut steps, mut stopped) = (0_usize, None);
    let mut at: Option<PageIndex> = None;
    let mut place = Place::Behind;
    let mut start = Some(KeyRange::table_from(branch, first).start);
    while let Some(from) = start.take() {
        let mut passed = 0;
        steps += 1;
        view.scan(&KeyRange { start: from, end: end.clone() }, &mut |key, value| {
            steps += 1;
            let Some(Key::Table(_, page, generation, _)) = Key::decode(key) else { return ControlFlow::Continue(()) };
            if at != Some(page) {
                if steps > steps_max && at.is_some() {
                    stopped = Some(page);
                    return ControlFlow::Break(());
                }
                (at, place, passed) = (Some(page), Place::Before { has_older: None }, 0);
            }
            if let Place::Before { has_older } = &mut place {
                if generation <= after {
                    has_older.get_or_insert_with(|| key.to_vec());
                    passed += 1;
                    if passed > PASSED_MAX {
                        start = Some(KeyRange::table_page_after(branch, page, after).start);
                        return ControlFlow::Break(());
                    }
                    return ControlFlow::Continue(());
                }
                let older = has_older.take();
                if generation <= through {
                    place = Place::Within;
                    if let Some(older) = older
                        && visitor(&older, &[]).is_break()
                    {
                        stopped = Some(page);
                        return ControlFlow::Break(());
                    }
                } else {
                    place = Place::Behind;
                }
            }
            if matches!(place, Place::Within) && generation <= shown_through {
                if visitor(key, value).is_break() {
                    stopped = Some(page);
                    return ControlFlow::Break(());
                }
                return ControlFlow::Continue(());
            }
            place = Place::Behind;
            passed += 1;
            if passed > PASSED_MAX {
                start = page.0.checked_add(1).map(|next| KeyRange::table_from(branch, PageIndex(next)).start);
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        })?;
    }
    Ok(stopped)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::summary_sequence;
    use crate::{Batch, MemoryStore, MemoryView, MetaStore};
    use proptest::prelude::*;
    use std::cell::Cell;
    use std::collections::{BTreeMap, BTreeSet};

    const BRANCH: BranchId = BranchId(3);

    /// A store that counts what it shows.
    struct Counting {
        view: MemoryView,
        shown: Cell<usize>,
    }

    impl StoreView for Counting {
        fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
            self.view.get(key)
        }

        fn scan(&self, range: &KeyRange, visitor: &mut Visitor<'_>) -> Result<(), StoreError> {
            self.view.scan(range, &mut |key, value| {
                self.shown.set(self.shown.get() + 1);
                visitor(key, value)
            })
        }

        fn scan_back(&self, range: &KeyRange, visitor: &mut Visitor<'_>) -> Result<(), StoreError> {
            self.view.scan_back(range, &mut |key, value| {
                self.shown.set(self.shown.get() + 1);
                visitor(key, value)
            })
        }
    }

    fn store(versions: impl IntoIterator<Item = (u32, u32, u64)>) -> Counting {
        let mut batch = Batch::new();
        for (page, generation, sequence) in versions {
            batch.put(Key::Table(BRANCH, PageIndex(page), Generation(generation), sequence), vec![1]);
        }
        // Neighbours that must not be seen.
        batch.put(Key::Table(BranchId(2), PageIndex(u32::MAX), Generation(5), 0), vec![]);
        batch.put(Key::Table(BranchId(4), PageIndex(0), Generation(5), 0), vec![]);
        let mut store = MemoryStore::new();
        store.commit(&[batch]).unwrap();
        Counting { view: store.view(), shown: Cell::new(0) }
    }

    fn at(view: &impl StoreView, page: u32, generation: u32) -> Vec<(u32, u64)> {
        let mut seen = Vec::new();
        page_at(view, BRANCH, PageIndex(page), Generation(generation), &mut |key, _| {
            if let Some(Key::Table(_, _, generation, sequence)) = Key::decode(key) {
                seen.push((generation.0, sequence));
            }
            ControlFlow::Continue(())
        })
        .unwrap();
        seen
    }

    #[test]
    fn a_view_reads_down_to_a_whole_page_and_over_what_a_summary_tells() {
        let wide = summary_sequence(Generation(3));
        let view = store([(7, 1, 4), (7, 2, 0), (7, 3, 9), (7, 4, 10), (7, 5, 11), (7, 6, wide), (7, 8, 20)]);
        assert_eq!(at(&view, 7, 9), [(8, 20), (6, wide), (3, 9), (2, 0)]);
        assert_eq!(at(&view, 7, 5), [(5, 11), (4, 10), (3, 9), (2, 0)]);
        assert_eq!(at(&view, 7, 1), [(1, 4)]);
        assert_eq!(at(&view, 8, 9), []);
        // One that says it tells of itself is a delta like any other.
        let odd = store([(7, 2, 5), (7, 3, summary_sequence(Generation(3)))]);
        assert_eq!(at(&odd, 7, 3), [(3, summary_sequence(Generation(3))), (2, 5)]);
    }

    #[test]
    fn what_lies_outside_is_sought_over() {
        let versions = (0..50).flat_map(|page| (1..1000).map(move |generation| (page, generation, 1)));
        let view = store(versions.filter(|(page, generation, _)| page % 10 == 3 || *generation != 500));
        let changes = Changes {
            branch: BRANCH,
            after: Generation(499),
            through: Generation(500),
            shown_through: Generation(501),
        };
        let mut seen = Vec::new();
        let rest = changed_pages(&view, &changes, PageIndex(5), usize::MAX, &mut |key, value| {
            if let Some(Key::Table(_, page, generation, _)) = Key::decode(key) {
                seen.push((page.0, generation.0, value.len()));
            }
            ControlFlow::Continue(())
        });
        assert_eq!(rest, Ok(None));
        let of_page = |page| [(page, 1, 0), (page, 500, 1), (page, 501, 1)];
        assert_eq!(seen, [13, 23, 33, 43].map(of_page).concat());
        assert!(view.shown.get() < 50 * 25, "{} keys were looked at", view.shown.get());
    }

    proptest! {
        #[test]
        fn changed_pages_are_those_of_a_full_scan(
            versions in prop::collection::btree_set((0_u32..6, 1_u32..30, 0_u64..3), 0..120),
            (after, more, further) in (0_u32..30, 1_u32..6, 0_u32..6),
            (first, steps_max) in (0_u32..4, 1_usize..40),
        ) {
            let (through, shown_through) = (after + more, after + more + further);
            let view = store(versions.iter().copied());
            let changes = Changes {
                branch: BRANCH,
                after: Generation(after),
                through: Generation(through),
                shown_through: Generation(shown_through),
            };
            let (mut next, mut seen, mut older) = (Some(PageIndex(first)), Vec::new(), BTreeSet::new());
            while let Some(from) = next {
                next = changed_pages(&view, &changes, from, steps_max, &mut |key, value| {
                    match Key::decode(key) {
                        Some(Key::Table(_, page, _, _)) if value.is_empty() => { older.insert(page.0); }
                        Some(Key::Table(_, page, generation, sequence)) => seen.push((page.0, generation.0, sequence)),
                        _ => {}
                    }
                    ControlFlow::Continue(())
                }).unwrap();
                prop_assert!(next.is_none_or(|next| next > from), "it goes on");
            }
            let mut pages: BTreeMap<u32, Vec<(u32, u32, u64)>> = BTreeMap::new();
            for version in versions.iter().filter(|(page, ..)| *page >= first) {
                pages.entry(version.0).or_default().push(*version);
            }
            pages.retain(|_, versions| versions.iter().any(|(_, at, _)| after < *at && *at <= through));
            let has_older = pages.iter().filter(|(_, versions)| versions.iter().any(|(_, at, _)| *at <= after));
            prop_assert_eq!(older, has_older.map(|(page, _)| *page).collect::<BTreeSet<u32>>());
            let shown = |(_, at, _): &(u32, u32, u64)| after < *at && *at <= shown_through;
            let expected: Vec<_> = pages.into_values().flatten().filter(shown).collect();
            prop_assert_eq!(seen, expected);
        }
    }
}
