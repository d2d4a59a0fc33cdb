//! Long random histories of volumes, snapshots, clones and rollbacks against a naive model: for each view, what its blocks
//! hold. Every view is read back again and again, space is accounted for exactly, and diffs never miss a change.
#![allow(clippy::disallowed_types, clippy::disallowed_methods)]

mod cluster;

use agent::{HostId, HostVolume, IoKind, IoResult};
use api::{DiffKind, ErrorKind, Request, Response};
use cluster::Cluster;
use std::collections::{BTreeMap, BTreeSet};

const BLOCK: u64 = 4096;
const VOLUME_BLOCKS_MAX: u64 = 96;

/// What a block holds: 0 or [`LEFT`] for zeroes, else a stamp that was never written before.
type Blocks = Vec<u64>;

/// Zeroes that the map may take for data: they were written in place between two blocks of data, went to the disk along
/// with those, and a crash lost the word of it. A diff, which reads maps alone, may name such a block in vain.
const LEFT: u64 = 1 << 63;

/// What a read of such a block returns.
fn read_as(block: u64) -> u64 {
    block & !LEFT
}

/// A volume of the model.
struct Live {
    blocks: Blocks,
    region_blocks: u64,
    /// What each block may be after a crash.
    candidates: BTreeMap<u64, BTreeSet<u64>>,
    host: Option<(HostId, HostVolume)>,
    snapshots: BTreeMap<String, Blocks>,
}

struct History {
    cluster: Cluster,
    volumes: BTreeMap<String, Live>,
    stamp: u64,
    names: u64,
    counts: BTreeMap<&'static str, u64>,
    trace: Vec<String>,
}

fn bytes_of(stamps: &[u64]) -> Vec<u8> {
    stamps.iter().flat_map(|stamp| stamp.to_le_bytes().repeat(BLOCK as usize / 8)).collect()
}

impl History {
    fn new(seed: u64) -> Self {
        let cluster = Cluster::new(seed, 66);
        let mut history =
            Self { cluster, volumes: BTreeMap::new(), stamp: 0, names: 0, counts: BTreeMap::new(), trace: Vec::new() };
        history.create();
        history
    }

    fn draw(&mut self, bound: u64) -> u64 {
        self.cluster.random.below(bound)
    }

    fn note(&mut self, what: &'static str, more: String) {
        *self.counts.entry(what).or_default() += 1;
        self.trace.push(format!("{what} {more}"));
    }

    fn name(&mut self, prefix: &str) -> String {
        self.names += 1;
        format!("{prefix}{}", self.names)
    }

    fn pick(&mut self) -> String {
        let index = self.draw(self.volumes.len() as u64) as usize;
        self.volumes.keys().nth(index).expect("there is a volume").clone()
    }

    fn pick_snapshot(&mut self) -> Option<(String, String)> {
        let all: Vec<(String, String)> = (self.volumes.iter())
            .flat_map(|(volume, live)| live.snapshots.keys().map(|snapshot| (volume.clone(), snapshot.clone())))
            .collect();
        if all.is_empty() {
            return None;
        }
        let index = self.draw(all.len() as u64) as usize;
        Some(all[index].clone())
    }

    fn create(&mut self) {
        let name = self.name("v");
        let blocks = 8 + self.draw(VOLUME_BLOCKS_MAX - 8);
        // Small ones are many; of large ones, stacks get deep.
        let region_blocks = if self.draw(2) == 0 { 4 } else { 16 };
        let create = api::VolumeCreate {
            name: name.clone(),
            size_bytes: blocks * BLOCK,
            region_bytes: Some(region_blocks * BLOCK),
            ..api::VolumeCreate::default()
        };
        self.note("create", format!("{name} {blocks}"));
        self.cluster.ask(Request::VolumeCreate(create)).expect("a volume is made");
        self.add(name, vec![0; blocks as usize], region_blocks);
    }

    fn add(&mut self, name: String, blocks: Blocks, region_blocks: u64) {
        let live = Live { blocks, region_blocks, candidates: BTreeMap::new(), host: None, snapshots: BTreeMap::new() };
        self.volumes.insert(name, live);
    }

    fn host(&mut self, name: &str) -> HostVolume {
        if let Some((host, volume)) = self.volumes[name].host
            && self.cluster.is_attached(host)
        {
            return volume;
        }
        let (host, volume) = self.cluster.attach(name);
        self.volumes.get_mut(name).expect("it was picked").host = Some((host, volume));
        volume
    }

    fn range(&mut self, name: &str) -> (u64, u64) {
        let blocks = self.volumes[name].blocks.len() as u64;
        let first = self.draw(blocks);
        let most = (blocks - first).min(9);
        (first, 1 + self.draw(most))
    }

    fn set(&mut self, name: &str, first: u64, stamps: &[u64]) {
        let live = self.volumes.get_mut(name).expect("it was picked");
        for (index, stamp) in stamps.iter().enumerate() {
            let block = first + index as u64;
            let before = std::mem::replace(&mut live.blocks[block as usize], *stamp);
            live.candidates.entry(block).or_default().extend([before, *stamp]);
        }
    }

    /// A write is done, whose zeroes went to the disk where they lie between data of the same region.
    fn set_written(&mut self, name: &str, first: u64, stamps: &[u64]) {
        self.set(name, first, stamps);
        let live = self.volumes.get_mut(name).expect("it was picked");
        let blocks: Vec<(u64, u64)> = (first..).zip(stamps.iter().copied()).collect();
        for part in blocks.chunk_by(|one, other| one.0 / live.region_blocks == other.0 / live.region_blocks) {
            let is_data = |(_, stamp): &(u64, u64)| *stamp != 0;
            let (from, to) = (part.iter().position(is_data), part.iter().rposition(is_data));
            let between = from.zip(to).map_or(&part[..0], |(from, to)| &part[from..to]);
            for (block, _) in between.iter().filter(|block| !is_data(block)) {
                let candidates = live.candidates.get_mut(block).expect("it was just written");
                if candidates.iter().any(|candidate| *candidate != 0) {
                    candidates.insert(LEFT);
                }
            }
        }
    }

    fn write(&mut self) {
        let name = self.pick();
        let (first, count) = self.range(&name);
        let zeroes = self.draw(6) == 0;
        let stamps: Vec<u64> = (0..count)
            .map(|_| {
                self.stamp += 1;
                if zeroes && self.cluster.random.below(2) == 0 { 0 } else { self.stamp }
            })
            .collect();
        self.write_stamps(&name, first, &stamps);
    }

    fn write_stamps(&mut self, name: &str, first: u64, stamps: &[u64]) {
        let volume = self.host(name);
        self.note("write", format!("{name} {first}+{}", stamps.len()));
        let id = self.cluster.write(volume, first * BLOCK, &bytes_of(stamps));
        match self.cluster.wait(id) {
            IoResult::Done => self.set_written(name, first, stamps),
            other => panic!("a write was answered with {other:?}"),
        }
    }

    fn trim(&mut self) {
        let name = self.pick();
        let (first, mut count) = self.range(&name);
        if self.draw(4) == 0 {
            count = self.volumes[&name].blocks.len() as u64 - first;
        }
        self.trim_blocks(&name, first, count);
    }

    fn trim_blocks(&mut self, name: &str, first: u64, count: u64) {
        let volume = self.host(name);
        self.note("trim", format!("{name} {first}+{count}"));
        let kind = IoKind::Zero { offset: first * BLOCK, length: count * BLOCK, fua: false, keep_space: false };
        let id = self.cluster.submit(volume, kind);
        assert!(matches!(self.cluster.wait(id), IoResult::Done), "a trim needs no space");
        self.set(name, first, &vec![0; count as usize]);
    }

    fn flush(&mut self, name: &str) {
        let volume = self.host(name);
        self.note("flush", name.to_owned());
        let id = self.cluster.submit(volume, IoKind::Flush);
        assert!(matches!(self.cluster.wait(id), IoResult::Done), "a flush succeeds");
        self.volumes.get_mut(name).expect("it was picked").candidates.clear();
    }

    fn detach(&mut self) {
        let name = self.pick();
        if let Some((host, _)) = self.volumes.get_mut(&name).expect("it was picked").host.take() {
            self.note("detach", name);
            self.cluster.detach(host);
        }
    }

    /// Snapshots of one volume or several, with writes under way that may be in or out.
    fn snapshot(&mut self) {
        let mut names = BTreeSet::from([self.pick()]);
        if self.draw(4) == 0 {
            names.insert(self.pick());
        }
        let mut cut = Vec::new();
        for name in &names {
            if self.volumes[name].snapshots.len() >= 9 {
                return;
            }
            let snapshot = self.name("s");
            cut.push((name.clone(), snapshot));
        }
        self.note("snapshot", format!("{cut:?}"));
        let full = cut.iter().map(|(volume, snapshot)| format!("{volume}@{snapshot}")).collect();
        let create = api::SnapshotCreate { snapshots: full, imported_from: None };
        let request = Request::SnapshotCreate { create, scheduled: false, now_unix_seconds: 1 };
        match self.cluster.ask(request) {
            Ok(Response::Snapshots(taken)) => {
                assert_eq!(taken.len(), cut.len());
                for (volume, snapshot) in cut {
                    let live = self.volumes.get_mut(&volume).expect("it was picked");
                    live.snapshots.insert(snapshot, live.blocks.clone());
                    live.candidates.clear();
                }
            }
            Err(error) if error.kind == ErrorKind::Busy => {}
            other => panic!("a snapshot was answered with {other:?}"),
        }
    }

    fn take_snapshot(&mut self, volume: &str, snapshot: &str) {
        let create = api::SnapshotCreate { snapshots: vec![format!("{volume}@{snapshot}")], imported_from: None };
        let request = Request::SnapshotCreate { create, scheduled: false, now_unix_seconds: 1 };
        self.cluster.ask(request).expect("a snapshot is taken");
    }

    fn delete_snapshot(&mut self) {
        let Some((volume, snapshot)) = self.pick_snapshot() else { return };
        self.note("delete snapshot", format!("{volume}@{snapshot}"));
        let name = format!("{volume}@{snapshot}");
        self.cluster.ask(Request::SnapshotDelete { name, force: true }).expect("a snapshot is deleted");
        self.volumes.get_mut(&volume).expect("it is there").snapshots.remove(&snapshot);
    }

    fn clone_snapshot(&mut self) {
        if self.volumes.len() >= 6 {
            return;
        }
        let Some((volume, snapshot)) = self.pick_snapshot() else { return };
        let name = self.name("c");
        self.note("clone", format!("{volume}@{snapshot} {name}"));
        let create = api::CloneCreate { snapshot: format!("{volume}@{snapshot}"), name: name.clone() };
        self.cluster.ask(Request::CloneCreate(create)).expect("a clone is made");
        let blocks = self.volumes[&volume].snapshots[&snapshot].clone();
        self.add(name, blocks, self.volumes[&volume].region_blocks);
    }

    fn rollback(&mut self) {
        let Some((volume, snapshot)) = self.pick_snapshot() else { return };
        self.note("rollback", format!("{volume}@{snapshot}"));
        let rollback = api::VolumeRollback { snapshot: snapshot.clone(), force: true };
        match self.cluster.ask(Request::VolumeRollback { name: volume.clone(), rollback }) {
            Ok(_) => {
                let live = self.volumes.get_mut(&volume).expect("it is there");
                live.blocks = live.snapshots[&snapshot].clone();
                live.candidates.clear();
                live.host = None;
            }
            Err(error) if error.kind == ErrorKind::Busy => {}
            other => panic!("a rollback was answered with {other:?}"),
        }
    }

    fn flatten(&mut self) {
        let name = self.pick();
        self.note("flatten", name.clone());
        match self.cluster.ask(Request::CloneFlatten { name: name.clone() }) {
            Ok(_) => {}
            // No clone, or one with snapshots.
            Err(error) if matches!(error.kind, ErrorKind::Busy | ErrorKind::Invalid) => {}
            other => panic!("flattening was answered with {other:?}"),
        }
    }

    fn delete_volume(&mut self) {
        if self.volumes.len() < 2 {
            return;
        }
        let name = self.pick();
        self.note("delete volume", name.clone());
        if self.draw(2) == 0 {
            return self.delete_volume_counted(&name);
        }
        let request = Request::VolumeDelete { name: name.clone(), force: true, snapshots: true };
        match self.cluster.ask(request) {
            Ok(_) => drop(self.volumes.remove(&name)),
            Err(error) if error.kind == ErrorKind::Busy => {}
            other => panic!("a deletion was answered with {other:?}"),
        }
    }

    /// What a volume says its deletion frees, it frees.
    fn delete_volume_counted(&mut self, name: &str) {
        self.flush(name);
        self.cluster.settle();
        let Ok(Response::Volume(view)) = self.cluster.ask(Request::VolumeShow { name: name.to_owned() }) else {
            panic!("{name} is shown")
        };
        let before = self.usage().0;
        let request = Request::VolumeDelete { name: name.to_owned(), force: true, snapshots: true };
        self.cluster.ask(request).expect("a volume at rest is deleted");
        self.volumes.remove(name);
        self.cluster.settle();
        assert_eq!(before - self.usage().0, view.space.delete_frees_bytes, "what deleting {name} frees");
    }

    fn resize(&mut self) {
        let name = self.pick();
        let before = self.volumes[&name].blocks.len() as u64;
        let blocks = 8 + self.draw(VOLUME_BLOCKS_MAX - 8);
        self.note("resize", format!("{name} {before} to {blocks}"));
        let resize = api::VolumeResize { size_bytes: blocks * BLOCK, shrink: true };
        match self.cluster.ask(Request::VolumeResize { name: name.clone(), resize }) {
            Ok(_) => {
                let live = self.volumes.get_mut(&name).expect("it was picked");
                live.blocks.resize(blocks as usize, 0);
                live.candidates.retain(|block, _| *block < blocks);
                if let Some((_, volume)) = &mut live.host {
                    volume.size_bytes = blocks * BLOCK;
                }
            }
            // It is being shrunk, attached or detached still.
            Err(error) if error.kind == ErrorKind::Busy => {}
            other => panic!("a new size was answered with {other:?}"),
        }
    }

    fn read_view(&mut self, name: &str, blocks: &[u64]) {
        let (host, volume) = self.cluster.attach(name);
        let read = self.cluster.read(volume, 0, (blocks.len() as u64 * BLOCK) as u32);
        let read = read.unwrap_or_else(|error| panic!("{name} cannot be read: {error}"));
        for (index, block) in read.chunks(BLOCK as usize).enumerate() {
            let expected = blocks[index];
            let found = u64::from_le_bytes(block[..8].try_into().expect("a block has eight bytes"));
            let whole = block.chunks(8).all(|word| word == found.to_le_bytes());
            assert!(
                whole && found == read_as(expected),
                "{name} block {index}: {found:#x}, not {expected:#x} ({whole})"
            );
        }
        self.cluster.detach(host);
    }

    /// Reads some view, or all of them.
    fn read_back(&mut self, all: bool) {
        let mut views: Vec<(String, Blocks)> = Vec::new();
        for (name, live) in &self.volumes {
            views.push((name.clone(), live.blocks.clone()));
            let snapshots = live.snapshots.iter();
            views.extend(snapshots.map(|(snapshot, blocks)| (format!("{name}@{snapshot}"), blocks.clone())));
        }
        if !all {
            let index = self.draw(views.len() as u64) as usize;
            views = vec![views.swap_remove(index)];
        }
        for (name, blocks) in views {
            self.note("read", name.clone());
            self.read_view(&name, &blocks);
        }
    }

    fn crash(&mut self) {
        if self.draw(2) == 0 {
            let name = self.pick();
            self.flush(&name);
        }
        self.crash_now();
    }

    fn crash_now(&mut self) {
        self.note("crash", String::new());
        self.cluster.crash();
        // What was not flushed may be either: whatever is read now stays.
        let names: Vec<String> = self.volumes.keys().cloned().collect();
        for name in names {
            self.volumes.get_mut(&name).expect("it was listed").host = None;
            let candidates = std::mem::take(&mut self.volumes.get_mut(&name).expect("it was listed").candidates);
            let volume = self.host(&name);
            for (block, allowed) in candidates {
                let read = self.cluster.read(volume, block * BLOCK, 8).expect("a block is read");
                let found = u64::from_le_bytes(read.try_into().expect("eight bytes were asked for"));
                // Of the ways it may have come to be zeroes, the one that allows more counts.
                let settled = allowed.iter().copied().filter(|candidate| read_as(*candidate) == found).max();
                let settled =
                    settled.unwrap_or_else(|| panic!("{name} block {block} after a crash: {found:#x} of {allowed:?}"));
                self.volumes.get_mut(&name).expect("it was listed").blocks[block as usize] = settled;
            }
            self.flush(&name);
        }
    }

    fn diff(&mut self) {
        let Some((volume, snapshot)) = self.pick_snapshot() else { return };
        let older = self.volumes[&volume].snapshots[&snapshot].clone();
        let (to, younger) = match self.pick_snapshot() {
            Some((other, name)) if self.draw(2) == 0 => {
                let blocks = self.volumes[&other].snapshots[&name].clone();
                (format!("{other}@{name}"), blocks)
            }
            _ => {
                let name = self.pick();
                let blocks = self.volumes[&name].blocks.clone();
                (name, blocks)
            }
        };
        self.compare(&format!("{volume}@{snapshot}"), &older, &to, &younger);
    }

    /// Asks for a diff of two views, which hold these blocks, and judges it; what it names, if the two are related.
    fn compare(&mut self, from: &str, older: &[u64], to: &str, younger: &[u64]) -> Option<BTreeMap<u64, DiffKind>> {
        self.note("diff", format!("{from} {to}"));
        let query = api::DiffQuery { from: Some(from.to_owned()), to: to.to_owned(), ..api::DiffQuery::default() };
        let diff = match self.cluster.ask(Request::Diff(query)) {
            Ok(Response::Diff(diff)) => diff,
            // Regions of different sizes are not related.
            Err(error) if error.kind == ErrorKind::Invalid => return None,
            other => panic!("a diff was answered with {other:?}"),
        };
        let is_exact = self.cluster.merged() == 0;
        let mut named: BTreeMap<u64, DiffKind> = BTreeMap::new();
        for range in &diff.ranges {
            let blocks = range.offset_bytes / BLOCK..(range.offset_bytes + range.length_bytes).div_ceil(BLOCK);
            named.extend(blocks.map(|block| (block, range.kind)));
        }
        for (block, stamp) in younger.iter().enumerate() {
            let before = older.get(block).copied().unwrap_or(0);
            let kind = named.get(&(block as u64));
            let differs = read_as(before) != read_as(*stamp);
            assert!(!differs || kind.is_some(), "the diff from {from} to {to} misses block {block}");
            let needed = differs || before == LEFT || *stamp == LEFT || kind.is_none();
            assert!(
                needed || !is_exact,
                "the diff from {from} to {to} names block {block} without need: {before:#x}, {stamp:#x}"
            );
            if kind == Some(&DiffKind::Zero) {
                assert_eq!(read_as(*stamp), 0, "the diff from {from} to {to} takes block {block} for zeroes");
            }
        }
        Some(named)
    }

    /// When everything is at rest, counts agree with tables, and what a deletion promises is what it frees.
    fn account(&mut self) {
        self.cluster.settle();
        let audit = self.cluster.audit();
        assert!(audit.clean, "{audit:#?}");
        let (pool_used, sum) = self.usage();
        assert_eq!(pool_used, sum, "the pool's usage is that of its volumes");
        if let Some((volume, snapshot)) = self.pick_snapshot()
            && self.draw(3) == 0
        {
            let name = format!("{volume}@{snapshot}");
            let Ok(Response::Snapshot(view)) = self.cluster.ask(Request::SnapshotShow { name: name.clone() }) else {
                panic!("{name} is shown")
            };
            let is_origin = !view.clones.is_empty();
            // A rollback of its own volume may stand on it too: then nothing is freed.
            let before = self.usage().0;
            self.note("count", name.clone());
            self.cluster.ask(Request::SnapshotDelete { name: name.clone(), force: true }).expect("it is deleted");
            self.volumes.get_mut(&volume).expect("it is there").snapshots.remove(&snapshot);
            self.cluster.settle();
            let freed = before - self.usage().0;
            let exact = freed == view.unique_bytes || freed == 0;
            assert!(exact && !(is_origin && freed > 0), "deleting {name} freed {freed}, not {}", view.unique_bytes);
            assert!(self.cluster.audit().clean);
        }
    }

    fn usage(&mut self) -> (u64, u64) {
        let Ok(Response::Pools(pools)) = self.cluster.ask(Request::PoolList) else { panic!("pools are listed") };
        let volumes = self.cluster.ask(Request::VolumeList { pool: None });
        let Ok(Response::Volumes(volumes)) = volumes else { panic!("volumes are listed") };
        for volume in &volumes {
            let space = volume.space;
            let parts = space.own_bytes + space.shared_with_snapshots_bytes;
            assert_eq!(volume.used_bytes, parts + space.snapshots_bytes, "the space of {} adds up", volume.name);
            assert_eq!(space.referenced_bytes, parts + space.shared_with_origin_bytes, "{}", volume.name);
        }
        (pools[0].used_bytes, volumes.iter().map(|volume| volume.used_bytes).sum())
    }

    fn step(&mut self) {
        match self.draw(100) {
            0..45 => self.write(),
            45..55 => self.trim(),
            55..58 => {
                let name = self.pick();
                self.flush(&name);
            }
            58..68 => self.snapshot(),
            68..74 => self.delete_snapshot(),
            74..77 => self.clone_snapshot(),
            77..79 => self.rollback(),
            79..80 => self.delete_volume(),
            80..81 if self.volumes.len() < 4 => self.create(),
            81..84 => self.resize(),
            84..90 => self.read_back(false),
            90..92 => self.detach(),
            92..95 => self.diff(),
            95..97 => self.crash(),
            97..98 => self.read_back(true),
            98..99 => self.account(),
            99..100 => self.flatten(),
            _ => {}
        }
        self.cluster.stir();
    }
}

fn run(seed: u64, steps: u64) -> BTreeMap<&'static str, u64> {
    let mut history = History::new(seed);
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        for _ in 0..steps {
            history.step();
        }
        history.read_back(true);
        history.account();
        history.counts.insert("merge", history.cluster.merged());
    }));
    if result.is_err() {
        let from = history.trace.len().saturating_sub(60);
        panic!("seed {seed}, after {} operations:\n{}", history.trace.len(), history.trace[from..].join("\n"));
    }
    history.counts
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// `VIEWS_SEED`, `VIEWS_SEEDS` and `VIEWS_STEPS` choose others.
#[test]
fn every_view_keeps_what_it_holds_and_space_is_accounted_for_exactly() {
    let (first, seeds, steps) = (number("VIEWS_SEED", 1), number("VIEWS_SEEDS", 60), number("VIEWS_STEPS", 400));
    let mut counts: BTreeMap<&'static str, u64> = BTreeMap::new();
    for seed in first..first + seeds {
        for (what, count) in run(seed, steps) {
            *counts.entry(what).or_default() += count;
        }
    }
    if seeds >= 60 {
        for what in [
            "snapshot",
            "delete snapshot",
            "clone",
            "rollback",
            "delete volume",
            "resize",
            "crash",
            "diff",
            "count",
            "flatten",
            "merge",
        ] {
            assert!(counts.get(what).is_some_and(|count| *count >= 50), "{what} happens often enough: {counts:?}");
        }
    }
}

/// A clone of what a volume of 40 blocks held, and no host of either.
fn clone_at_rest() -> History {
    let mut history = History::new(1);
    let create = api::VolumeCreate {
        name: "v".into(),
        size_bytes: 40 * BLOCK,
        region_bytes: Some(4 * BLOCK),
        ..api::VolumeCreate::default()
    };
    history.cluster.ask(Request::VolumeCreate(create)).expect("a volume is made");
    history.add("v".into(), vec![0; 40], 4);
    history.write_stamps("v", 0, &(1..=40).collect::<Vec<u64>>());
    history.take_snapshot("v", "s");
    let create = api::CloneCreate { snapshot: "v@s".into(), name: "c".into() };
    history.cluster.ask(Request::CloneCreate(create)).expect("a clone is made");
    history.add("c".into(), (1..=40).collect(), 4);
    let host = history.volumes.get_mut("v").and_then(|live| live.host.take()).expect("it was written to");
    history.cluster.detach(host.0);
    history.cluster.settle();
    history
}

fn resize(history: &mut History, name: &str, blocks: u64) {
    let resize = api::VolumeResize { size_bytes: blocks * BLOCK, shrink: true };
    let answer = history.cluster.ask(Request::VolumeResize { name: name.into(), resize });
    let Ok(Response::Volume(volume)) = answer else { panic!("a new size was answered with {answer:?}") };
    assert_eq!(volume.size_bytes, blocks * BLOCK);
}

fn shown(history: &mut History, name: &str) -> api::Volume {
    match history.cluster.ask(Request::VolumeShow { name: name.into() }) {
        Ok(Response::Volume(volume)) => volume,
        other => panic!("a volume is shown as {other:?}"),
    }
}

/// What lies beyond the new end is its origin's pages, of which it has none of its own to cut.
#[test]
fn a_clone_that_nobody_has_attached_is_shrunk_and_its_origin_keeps_everything() {
    let mut history = clone_at_rest();
    resize(&mut history, "c", 10);
    history.cluster.settle();
    resize(&mut history, "c", 40);
    let mut blocks: Vec<u64> = (1..=40).collect();
    history.read_view("v@s", &blocks);
    history.read_view("v", &blocks);
    blocks[10..].fill(0);
    history.read_view("c", &blocks);
    history.cluster.crash();
    history.read_view("c", &blocks);
    history.account();
}

#[test]
fn the_flattening_of_a_clone_goes_on_by_itself_after_a_crash() {
    let mut history = clone_at_rest();
    history.cluster.ask(Request::CloneFlatten { name: "c".into() }).expect("it begins");
    history.cluster.crash();
    history.cluster.settle();
    let clone = shown(&mut history, "c");
    assert_eq!((clone.origin, clone.flattening_percent), (None, None));
    history.take_snapshot("c", "t");
    history.read_view("c", &(1..=40).collect::<Vec<u64>>());
    history.account();
}

#[test]
fn flattening_that_is_cancelled_leaves_a_clone_that_can_be_snapshotted() {
    let mut history = clone_at_rest();
    let cancel = || Request::CloneFlattenCancel { name: "c".into() };
    assert_eq!(history.cluster.ask(cancel()).unwrap_err().kind, ErrorKind::Invalid, "there is nothing to cancel");
    history.cluster.ask(Request::CloneFlatten { name: "c".into() }).expect("it begins");
    history.cluster.ask(cancel()).expect("it is cancelled");
    let clone = shown(&mut history, "c");
    assert_eq!((clone.origin.as_deref(), clone.flattening_percent), (Some("v@s"), None));
    history.take_snapshot("c", "t");
    history.cluster.settle();
    assert!(shown(&mut history, "c").origin.is_some(), "what was under way ends without cutting it loose");
    history.read_view("c@t", &(1..=40).collect::<Vec<u64>>());
    history.account();
    // And it may be asked for again, once its snapshot is gone for good.
    history.cluster.ask(Request::SnapshotDelete { name: "c@t".into(), force: true }).expect("it is deleted");
    history.cluster.settle();
    history.cluster.ask(Request::CloneFlatten { name: "c".into() }).expect("it begins");
    history.cluster.settle();
    assert_eq!(shown(&mut history, "c").origin, None);
}

/// Not the diff's to mend: it would have to read the block to know better.
#[test]
fn zeroes_that_went_to_the_disk_with_data_around_them_are_named_by_diffs_if_a_crash_lost_the_word_of_it() {
    let mut history = History::new(1);
    let name = history.pick();
    history.take_snapshot(&name, "empty");
    let empty = history.volumes[&name].blocks.clone();
    history.write_stamps(&name, 0, &[1, 2, 3]);
    history.flush(&name);
    history.write_stamps(&name, 0, &[4, 0, 5]);
    history.crash_now();
    let blocks = history.volumes[&name].blocks.clone();
    assert_eq!(blocks[..3], [4, LEFT, 5], "what was written in place is there, whatever the map says");
    let named = history.compare(&format!("{name}@empty"), &empty, &name, &blocks).expect("they are related");
    assert_eq!(named, BTreeMap::from([(0, DiffKind::Data), (1, DiffKind::Data), (2, DiffKind::Data)]));
    // A trim says so in the map.
    history.trim_blocks(&name, 1, 1);
    history.flush(&name);
    let blocks = history.volumes[&name].blocks.clone();
    let named = history.compare(&format!("{name}@empty"), &empty, &name, &blocks).expect("they are related");
    assert_eq!(named, BTreeMap::from([(0, DiffKind::Data), (2, DiffKind::Data)]));
}
