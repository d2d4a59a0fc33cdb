//! What the views of one branch hold, counted from its table: what the records of usage must agree with.
//!
//! A place is held by an unbroken stretch of views, so it is counted for the last of them. `docs/snapshots.md` says what
//! holders and buckets are.

use super::view::{chain, page_of};
use crate::branches::{Chain, LIVE};
use crate::fetch::fold_pairs;
use api::FindingKind;
use model::{BranchId, EntryRun, Generation, LogicalDiskId, PageIndex, RegionSize, UnitIndex, UnitRun};
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use store::records::BranchRecord;
use store::table::{overlay, places_of};
use store::{Key, KeyRange, StoreError, StoreView};

type Usage = BTreeMap<(Generation, Generation), u64>;
type Pairs = Vec<(Vec<u8>, Vec<u8>)>;
/// What counting comes upon.
pub(super) enum Seen {
    /// A place that the branch owns; each is seen once.
    Own(UnitRun),
    /// Something wrong: what, where, and for people.
    Wrong(FindingKind, Option<UnitRun>, String),
}

/// Told of what counting comes upon.
type Report<'a> = dyn FnMut(Seen) + 'a;

/// What the views of a branch hold.
#[derive(Clone, Debug, Default)]
pub(super) struct Counted {
    /// By holder and bucket.
    pub(super) usage: Usage,
    /// Inherited units on pages that the branch has versions of.
    touched: u64,
}

impl Counted {
    /// How many units a snapshot refers to.
    pub(super) fn referenced(&self, view: Generation) -> u64 {
        let from = self.usage.range((view, Generation(0))..);
        from.filter(|((_, bucket), _)| *bucket <= view).map(|(_, units)| units).sum()
    }
}

/// A branch being counted.
pub(super) struct BranchAudit {
    id: BranchId,
    size: RegionSize,
    generation: Generation,
    has_live_end: bool,
    snapshots: Vec<Generation>,
    origin: Chain,
    purge: Option<(Generation, PageIndex)>,
}

impl BranchAudit {
    pub(super) fn new(
        view: &(impl StoreView + ?Sized),
        id: BranchId,
        record: &BranchRecord,
        size: RegionSize,
        mut snapshots: Vec<Generation>,
        purge: Option<(Generation, PageIndex)>,
    ) -> Result<Self, StoreError> {
        snapshots.sort_unstable();
        let origin = match record.origin {
            Some((branch, generation)) => chain(view, branch, generation)?,
            None => Chain::new(),
        };
        Ok(Self {
            id,
            size,
            generation: record.generation,
            has_live_end: record.generation > record.frozen_through,
            snapshots,
            origin,
            purge,
        })
    }

    fn origin_generation(&self) -> Generation {
        self.origin.first().map_or(Generation(0), |(_, generation)| *generation)
    }

    /// The views that see a page, ascending, without one that is taken back there already.
    fn views(&self, page: PageIndex) -> Vec<Generation> {
        let live = self.has_live_end.then_some(self.generation);
        let gone = self.purge.filter(|(_, next)| page < *next).map(|(view, _)| view);
        self.snapshots.iter().copied().chain(live).filter(|view| Some(*view) != gone).collect()
    }

    fn holder(&self, view: Generation) -> Generation {
        if self.snapshots.contains(&view) { view } else { LIVE }
    }

    fn bucket(&self, born: Generation) -> Generation {
        let origin = self.origin_generation();
        if born <= origin {
            return origin;
        }
        self.snapshots.iter().copied().find(|snapshot| *snapshot >= born).unwrap_or(self.generation)
    }

    /// Counts every page the branch has versions of. `regions` is how many the live end may have, if that is known.
    pub(super) fn count(
        &self,
        view: &(impl StoreView + ?Sized),
        regions: Option<u64>,
        report: &mut Report<'_>,
    ) -> Result<Counted, StoreError> {
        let mut counted = Counted::default();
        let mut current: Option<(PageIndex, Pairs)> = None;
        let mut pages: Vec<(PageIndex, Pairs)> = Vec::new();
        let range = KeyRange::table(self.id);
        let mut from = range.start.clone();
        // In batches: the pages of an origin are read in between.
        loop {
            let mut more = None;
            view.scan(&KeyRange { start: from.clone(), end: range.end.clone() }, &mut |key, value| {
                let Some(Key::Table(_, page, _, _)) = Key::decode(key) else { return ControlFlow::Continue(()) };
                match &mut current {
                    Some((at, pairs)) if *at == page => pairs.push((key.to_vec(), value.to_vec())),
                    _ => {
                        if pages.len() >= 256 {
                            more = Some(key.to_vec());
                            return ControlFlow::Break(());
                        }
                        pages.extend(current.replace((page, vec![(key.to_vec(), value.to_vec())])));
                    }
                }
                ControlFlow::Continue(())
            })?;
            pages.extend(current.take());
            for (page, pairs) in pages.drain(..) {
                if let Err(error) = self.count_page(view, page, &pairs, regions, &mut counted, report) {
                    let what = format!("page {} of {}: {error}", page.0, self.id);
                    report(Seen::Wrong(FindingKind::Unreadable, None, what));
                }
            }
            match more {
                Some(key) => from = key,
                None => return Ok(counted),
            }
        }
    }

    fn count_page(
        &self,
        view: &(impl StoreView + ?Sized),
        page: PageIndex,
        pairs: &Pairs,
        regions: Option<u64>,
        counted: &mut Counted,
        report: &mut Report<'_>,
    ) -> Result<(), StoreError> {
        let inherited = if self.origin.is_empty() { Vec::new() } else { page_of(view, &self.origin, page, self.size)? };
        let mut places: BTreeMap<(LogicalDiskId, u32), (Generation, Generation)> = BTreeMap::new();
        let views = self.views(page);
        let youngest = pairs.last().and_then(|(key, _)| Key::decode(key)).map(|key| match key {
            Key::Table(_, _, generation, _) => generation,
            _ => LIVE,
        });
        if let (Some(first), Some(last)) = (views.first(), views.last())
            && youngest.is_some_and(|youngest| youngest <= *first)
            && self.origin.is_empty()
        {
            // The usual case, and quick: every view sees the same.
            let runs = fold_pairs(pairs.iter().rev(), *last, self.size)?.runs;
            if *last == self.generation && self.has_live_end {
                self.check_end(page, &runs, regions, report);
            }
            for (born, run) in runs.iter().flat_map(|run| places_of(run, self.size)) {
                *counted.usage.entry((self.holder(*last), self.bucket(born))).or_default() += u64::from(run.count);
                report(Seen::Own(run));
            }
            return Ok(());
        }
        let mut state: Option<(usize, Vec<EntryRun>)> = None;
        for at in &views {
            let seen = pairs.iter().take_while(
                |(key, _)| matches!(Key::decode(key), Some(Key::Table(_, _, generation, _)) if generation <= *at),
            );
            let seen = seen.count();
            if state.as_ref().is_none_or(|(before, _)| *before != seen) {
                let found = fold_pairs(pairs[..seen].iter().rev(), *at, self.size)?;
                let runs = if found.complete { found.runs } else { overlay(self.size, inherited.clone(), found.runs) };
                state = Some((seen, runs));
            }
            let runs = &state.as_ref().expect("it was made above").1;
            if *at == self.generation && self.has_live_end {
                self.check_end(page, runs, regions, report);
            }
            for (born, run) in runs.iter().flat_map(|run| places_of(run, self.size)) {
                for unit in (run.start.0..run.end()).step_by(self.size.units() as usize) {
                    places.insert((run.logical_disk, unit), (born, *at));
                }
            }
        }
        let region = |(logical_disk, unit): (LogicalDiskId, u32)| UnitRun {
            logical_disk,
            start: UnitIndex(unit),
            count: self.size.units(),
        };
        let mut below: BTreeMap<(LogicalDiskId, u32), ()> = BTreeMap::new();
        for (_, run) in inherited.iter().flat_map(|run| places_of(run, self.size)) {
            counted.touched += u64::from(run.count);
            below.extend(
                (run.start.0..run.end()).step_by(self.size.units() as usize).map(|unit| ((run.logical_disk, unit), ())),
            );
        }
        let origin = self.origin_generation();
        let mut own: Option<UnitRun> = None;
        for (key, (born, last)) in places {
            let slot = counted.usage.entry((self.holder(last), self.bucket(born))).or_default();
            *slot += u64::from(self.size.units());
            if born <= origin {
                if !below.contains_key(&key) {
                    let what = format!("page {} shows what its origin does not hold", page.0);
                    report(Seen::Wrong(FindingKind::MappedButFree, Some(region(key)), what));
                }
                continue;
            }
            match &mut own {
                Some(run) if run.logical_disk == key.0 && run.end() == key.1 => run.count += self.size.units(),
                _ => own.replace(region(key)).into_iter().for_each(|run| report(Seen::Own(run))),
            }
        }
        own.into_iter().for_each(|run| report(Seen::Own(run)));
        Ok(())
    }

    fn check_end(&self, page: PageIndex, runs: &[EntryRun], regions: Option<u64>, report: &mut Report<'_>) {
        let Some(regions) = regions else { return };
        for run in runs {
            let end = page.region(run.first).0 + u64::from(run.count);
            let beyond = places_of(run, self.size).next().filter(|_| end > regions);
            if let Some((_, units)) = beyond {
                let what = format!("mapped beyond its end, in page {}", page.0);
                report(Seen::Wrong(FindingKind::OutOfRange, Some(units), what));
            }
        }
    }

    /// Adds what is inherited on pages that the branch has no version of: all its views hold it.
    pub(super) fn finish(&self, mut counted: Counted, inherited: u64) -> Counted {
        let last = if self.has_live_end { Some(LIVE) } else { self.snapshots.last().copied() };
        let untouched = inherited.saturating_sub(counted.touched);
        if let Some(last) = last.filter(|_| untouched > 0) {
            *counted.usage.entry((last, self.origin_generation())).or_default() += untouched;
        }
        counted
    }

    /// Counts in a form that does not depend on how far a purge is: what the view that goes holds besides its own counts
    /// for its neighbours already.
    pub(super) fn normal(&self, usage: &Usage) -> Usage {
        let Some((view, _)) = self.purge else { return usage.iter().map(|(key, units)| (*key, *units)).collect() };
        let holder = self.holder(view);
        let older = self.snapshots.iter().copied().rfind(|snapshot| *snapshot < view);
        let live = self.has_live_end.then_some(self.generation).filter(|live| *live > view);
        let younger = self.snapshots.iter().copied().find(|snapshot| *snapshot > view).or(live);
        let mut normal = Usage::new();
        for ((of, bucket), units) in usage {
            let key = match (*of == holder, *bucket == view) {
                (true, false) => older.map(|older| (older, *bucket)),
                (false, true) => Some((*of, younger.unwrap_or(view))),
                _ => Some((*of, *bucket)),
            };
            if let Some(key) = key {
                *normal.entry(key).or_default() += units;
            }
        }
        normal
    }
}
