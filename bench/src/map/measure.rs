//! What lies in a store, what a process occupies, and figures for a TiB.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use controller::{Config, Controller, Survivors};
use model::{EntryRun, PageIndex, RegionSize};
use serde::Serialize;
use store::keys::Tag;
use store::{Batch, Change, Key, KeyRange, MetaStore, StoreView, table};
use store_redb::RedbStore;

use crate::program::run;

/// The part of `bench map` that weighs a controller.
pub(crate) const WEIGH: &str = "weigh";

/// 1 TiB.
pub(crate) const TIB: u64 = 1 << 40;

/// Keys and values of one kind.
#[derive(Clone, Copy, Default, Debug, Serialize)]
pub(crate) struct Kept {
    /// How many.
    pub(crate) pairs: u64,
    /// What keys and values add up to.
    pub(crate) bytes: u64,
}

/// Everything in a store.
#[derive(Clone, Default, Debug, Serialize)]
pub(crate) struct Contents {
    /// By kind; kinds that are not there are left out.
    pub(crate) kinds: BTreeMap<&'static str, Kept>,
    /// All kinds together.
    pub(crate) bytes: u64,
}

const KINDS: [(&str, Tag); 16] = [
    ("meta", Tag::Meta),
    ("pools", Tag::Pool),
    ("disks", Tag::Disk),
    ("logical disks", Tag::LogicalDisk),
    ("allocation", Tag::Allocation),
    ("volumes", Tag::Volume),
    ("names", Tag::VolumeName),
    ("branches", Tag::Branch),
    ("progress", Tag::VolumeProgress),
    ("snapshots", Tag::Snapshot),
    ("usage", Tag::Usage),
    ("schedules", Tag::Schedule),
    ("sessions", Tag::Session),
    ("grants", Tag::Grant),
    ("table", Tag::Table),
    ("jobs", Tag::Job),
];

/// What a store holds, kind by kind.
pub(crate) fn contents(view: &impl StoreView) -> Result<Contents> {
    let mut contents = Contents::default();
    for (name, tag) in KINDS {
        let mut kept = Kept::default();
        view.scan(&KeyRange::tag(tag), &mut |key, value| {
            kept.pairs += 1;
            kept.bytes += (key.len() + value.len()) as u64;
            ControlFlow::Continue(())
        })?;
        if kept.pairs > 0 {
            contents.kinds.insert(name, kept);
            contents.bytes += kept.bytes;
        }
    }
    Ok(contents)
}

impl Contents {
    /// What `kind` takes.
    pub(crate) fn of(&self, kind: &str) -> Kept {
        self.kinds.get(kind).copied().unwrap_or_default()
    }

    /// What it takes more than `before`.
    pub(crate) fn since(&self, before: &Self) -> u64 {
        self.bytes.saturating_sub(before.bytes)
    }
}

/// The folded pages of the tables in `range`, one by one.
pub(crate) fn pages(
    view: &impl StoreView,
    range: &KeyRange,
    size: RegionSize,
    mut visit: impl FnMut(PageIndex, Vec<EntryRun>),
) -> Result<()> {
    let mut current: Option<(PageIndex, Vec<EntryRun>)> = None;
    let mut failure = None;
    view.scan(range, &mut |key, value| {
        let (Some(Key::Table(_, page, _, _)), Ok((_, runs))) = (Key::decode(key), table::decode(value)) else {
            failure = Some(anyhow::anyhow!("a page of the table cannot be read"));
            return ControlFlow::Break(());
        };
        current = Some(match current.take() {
            Some((at, before)) if at == page => (page, table::overlay(size, before, runs)),
            other => {
                other.into_iter().for_each(|(at, runs)| visit(at, runs));
                (page, runs)
            }
        });
        ControlFlow::Continue(())
    })?;
    current.into_iter().for_each(|(at, runs)| visit(at, runs));
    failure.map_or(Ok(()), Err)
}

/// What the table in `range` would take with every page folded, in keys and values.
pub(crate) fn folded(view: &impl StoreView, range: &KeyRange, size: RegionSize) -> Result<Kept> {
    let mut kept = Kept::default();
    let key_bytes = range.start.len() as u64 + 16;
    pages(view, range, size, |_, runs| {
        kept.pairs += 1;
        kept.bytes += key_bytes + table::encode(size, &table::without_zeroes(runs)).len() as u64;
    })?;
    Ok(kept)
}

/// How large a file with the same contents is when it is written afresh, in bytes.
pub(crate) fn compacted_bytes(view: &impl StoreView, path: &Path) -> Result<u64> {
    const PAIRS_A_COMMIT: usize = 1 << 16;
    let mut fresh = RedbStore::open_or_create(path)?;
    let mut start = KeyRange::all().start;
    loop {
        let mut batch = Batch::new();
        let range = KeyRange { start: start.clone(), end: KeyRange::all().end };
        view.scan(&range, &mut |key, value| {
            if batch.changes.len() == PAIRS_A_COMMIT {
                start = key.to_vec();
                return ControlFlow::Break(());
            }
            batch.changes.push(Change::Put(key.to_vec(), value.to_vec()));
            ControlFlow::Continue(())
        })?;
        let last = batch.changes.len() < PAIRS_A_COMMIT;
        fresh.commit(&[batch])?;
        if last {
            break;
        }
    }
    drop(fresh);
    let bytes = std::fs::metadata(path)?.len();
    std::fs::remove_file(path)?;
    Ok(bytes)
}

/// What a controller of a store that is open occupies after a start, in bytes. A process of its own tells, on a copy of
/// the store: what this one has freed before would hide what another takes.
pub(crate) fn controller_bytes(store: &Path, folder: &Path) -> Result<u64> {
    let copy = folder.join("weighed.redb");
    std::fs::copy(store, &copy)?;
    let mut weighing = Command::new(std::env::current_exe()?);
    let said = run(weighing.args(["map", WEIGH]).arg(&copy))?;
    std::fs::remove_file(&copy)?;
    Ok(said.trim().parse()?)
}

/// What the process does that [`controller_bytes`] starts: recovers several controllers and prints what one of them takes.
pub(crate) fn weigh(store: &Path) -> Result<()> {
    const COPIES_MAX: usize = 4096;
    /// So much that what the first ones left behind hardly counts.
    const ENOUGH_BYTES: u64 = 32 << 20;
    let store = RedbStore::open(store)?;
    let recover = || Controller::recover(Config::default(), &store, Survivors::default());
    let mut kept = (0..16).map(|_| recover()).collect::<Result<Vec<_>, _>>()?;
    let (first, before) = (kept.len(), resident_bytes()?);
    while kept.len() < COPIES_MAX && resident_bytes()? < before + ENOUGH_BYTES {
        kept.push(recover()?);
    }
    println!("{}", resident_bytes()?.saturating_sub(before) / (kept.len() - first).max(1) as u64);
    Ok(())
}

/// What this process has in memory, in bytes.
fn resident_bytes() -> Result<u64> {
    const PAGE_BYTES: u64 = 4096;
    let text = std::fs::read_to_string("/proc/self/statm")?;
    let pages: u64 = text.split(' ').nth(1).context("/proc/self/statm has no second field")?.parse()?;
    Ok(pages * PAGE_BYTES)
}

/// `bytes` for `mapped` bytes, as bytes for a TiB.
pub(crate) fn per_tib(bytes: u64, mapped: u64) -> f64 {
    bytes as f64 * (TIB as f64 / mapped as f64)
}
