//! What snapshots cost in the table: the real engines over a real store, with a node that completes at once.
//!
//! Taking one on an empty volume and on one that is mapped from end to end, in turn; taking one back after a hundredth of the
//! volume changed; and a long chain of them, beside a volume that saw the same writes with one snapshot only, so that
//! what is due to the chain stands apart from what scattered writes do to a table by themselves. A volume with one snapshot
//! in the chain's own store, after it, tells what is due to the size of the store and not to the chain.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Instant;

use agent::HostVolume;
use anyhow::{Context, Result, ensure};
use model::{BranchId, RegionSize, VolumeId};
use serde_json::{Map, Value, json};
use store::{Key, KeyRange, StoreView};

use crate::map::fill::branch_of;
use crate::map::mapper::Mapper;
use crate::map::measure::{TIB, contents};
use crate::map::random::Random;
use crate::map::world::World;
use crate::snapshots::rounds::middle;

const GIB: u64 = 1 << 30;
const BLOCK: u64 = 4096;
const REGION: u64 = RegionSize::DEFAULT.bytes();
/// Snapshots of each kind whose times are compared.
const SNAPSHOTS: u32 = 101;
/// The chain's volume: 128 pages.
const CHAIN_BYTES: u64 = 8 * GIB;
/// Writes between two snapshots of the chain.
const CHAIN_WRITES: u64 = 256;
/// How many steps of the chain, its last ones, are timed.
const CHAIN_TIMED: u32 = 50;

/// Measures and prints; gives the figures. Taking snapshots back may be left out.
pub(crate) fn run(tib: u64, chain_length: u32, with_deletion: bool, folder: &Path) -> Result<Value> {
    let mut figures = Map::new();
    create(tib, folder, &mut figures)?;
    if with_deletion {
        deletion(folder, &mut figures)?;
    }
    chain(chain_length, folder, &mut figures)?;
    Ok(Value::Object(figures))
}

/// A world with one attached volume that is mapped from end to end.
struct Mapped {
    world: World,
    id: VolumeId,
    volume: HostVolume,
    bytes: u64,
    name: &'static str,
}

impl Mapped {
    fn new(folder: &Path, name: &'static str, bytes: u64, is_mapped: bool) -> Result<Self> {
        let (mut world, _) = World::open(&folder.join(format!("{name}.redb")))?;
        world.make_pool(bytes / 4 * 5 + TIB)?;
        Self::within(world, name, bytes, is_mapped)
    }

    /// The same, of a world that there is.
    fn within(mut world: World, name: &'static str, bytes: u64, is_mapped: bool) -> Result<Self> {
        let id = world.make_volume(name, bytes)?;
        if is_mapped {
            let mut mapper = Mapper::attach(&mut world, id)?;
            mapper.map_contiguous(&mut world, bytes / REGION)?;
            mapper.detach(&mut world)?;
        }
        let volume = world.attach(id)?;
        Ok(Self { world, id, volume, bytes, name })
    }

    /// Takes a snapshot; milliseconds until it is durable, and how much of that the store took.
    fn snapshot(&mut self, number: u32) -> Result<(f64, f64)> {
        let committing = self.world.committing;
        let begun = Instant::now();
        self.world.take_snapshot(&format!("{}@{number}", self.name))?;
        Ok((millis(begun), (self.world.committing - committing).as_secs_f64() * 1e3))
    }

    /// Writes `count` blocks at random, each the first of a region or any of it.
    fn scatter(&mut self, seed: u64, count: u64, flush_every: u64) -> Result<()> {
        let mut random = Random::new(seed);
        for number in 1..=count {
            self.write_at_random(&mut random)?;
            if number % flush_every == 0 {
                self.world.flush(&self.volume)?;
            }
        }
        self.world.flush(&self.volume)
    }

    /// Maps all of it, by writes.
    fn fill(&mut self) -> Result<()> {
        for region in 0..self.bytes / REGION {
            self.world.write(&self.volume, region * REGION, REGION as u32)?;
        }
        self.world.flush(&self.volume)
    }

    fn write_at_random(&mut self, random: &mut Random) -> Result<()> {
        self.world.write(&self.volume, random.below(self.bytes / BLOCK) * BLOCK, BLOCK as u32)
    }

    fn branch(&self) -> Result<BranchId> {
        branch_of(self.world.view(), self.id)
    }

    fn metadata_bytes(&self) -> Result<u64> {
        Ok(contents(self.world.view())?.bytes)
    }
}

fn millis(begun: Instant) -> f64 {
    begun.elapsed().as_secs_f64() * 1e3
}

fn create(tib: u64, folder: &Path, figures: &mut Map<String, Value>) -> Result<()> {
    println!("\nmapping {tib} TiB");
    let begun = Instant::now();
    let mut full = Mapped::new(folder, "full", tib * TIB, true)?;
    let built_seconds = begun.elapsed().as_secs_f64();
    let mut empty = Mapped::new(folder, "empty", tib * TIB, false)?;
    let (full_bytes, empty_bytes) = (full.metadata_bytes()?, empty.metadata_bytes()?);
    println!("  {built_seconds:.0} s, {full_bytes} bytes of metadata");
    let mut times = [Vec::new(), Vec::new(), Vec::new()];
    let mut stores = [Vec::new(), Vec::new(), Vec::new()];
    for number in 1..=SNAPSHOTS {
        for (place, mapped) in [&mut empty, &mut full].into_iter().enumerate() {
            let (whole, store) = mapped.snapshot(number)?;
            times[place].push(whole);
            stores[place].push(store);
        }
    }
    let of_one = |mapped: &Mapped, before: u64| -> Result<u64> {
        Ok((mapped.metadata_bytes()? - before) / u64::from(SNAPSHOTS))
    };
    let (empty_each, full_each) = (of_one(&empty, empty_bytes)?, of_one(&full, full_bytes)?);
    // Writes that were acknowledged and are not durable in the map yet: the cut commits them first.
    let mut random = Random::new(5);
    for number in SNAPSHOTS + 1..=2 * SNAPSHOTS {
        for _ in 0..64 {
            full.world.write(&full.volume, random.below(full.bytes / BLOCK) * BLOCK, BLOCK as u32)?;
        }
        let (whole, store) = full.snapshot(number)?;
        times[2].push(whole);
        stores[2].push(store);
    }
    println!("snapshots, until durable (median of {SNAPSHOTS}; the store's part)");
    let mut medians = [0.0; 3];
    for (place, name) in ["empty volume", "fully mapped", "the same, 64 new writes"].into_iter().enumerate() {
        let (median, store) = (middle(&mut times[place]), middle(&mut stores[place]));
        let worst = times[place].last().copied().context("there were snapshots")?;
        medians[place] = median;
        let best = times[place][0];
        println!("  {name:<24} {median:.3} ms (store {store:.3} ms; best {best:.3} ms, worst {worst:.2} ms)");
    }
    println!("  metadata of each         {empty_each} bytes empty, {full_each} bytes fully mapped");
    figures.extend(map(json!({
        "table_tib": tib, "table_built_seconds": built_seconds, "table_metadata_bytes": full_bytes,
        "empty_create_millis": medians[0], "full_create_millis": medians[1], "full_writing_create_millis": medians[2],
        "empty_create_millis_min": times[0][0], "full_create_millis_min": times[1][0],
        "full_create_millis_max": times[1].last(), "full_create_store_millis": middle(&mut stores[1]),
        "full_over_empty": medians[1] / medians[0],
        "empty_metadata_bytes": empty_each, "full_metadata_bytes": full_each,
    })));
    Ok(())
}

fn map(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

fn deletion(folder: &Path, figures: &mut Map<String, Value>) -> Result<()> {
    let mut mapped = Mapped::new(folder, "deleted", TIB, true)?;
    let changes = TIB / REGION / 100;
    println!("\ntaking a snapshot of a mapped TiB back, {changes} regions (1 %) changed before and after it");
    // Scattered: a block each, and the same blocks again, so that nobody but the snapshot has the first ones.
    mapped.snapshot(1)?;
    mapped.scatter(11, changes, 16 << 10)?;
    mapped.snapshot(2)?;
    mapped.scatter(11, changes, 16 << 10)?;
    let scattered = mapped.take_back("scattered over all pages", 2)?;
    // In one piece: whole regions.
    mapped.snapshot(3)?;
    for number in [4, 5] {
        for region in 0..changes {
            mapped.world.write(&mapped.volume, region * REGION, REGION as u32)?;
        }
        mapped.world.flush(&mapped.volume)?;
        mapped.snapshot(number)?;
    }
    let contiguous = mapped.take_back("in one piece", 4)?;
    let oldest = mapped.take_back("the oldest, which all pages are of", 1)?;
    figures.insert("deletion".into(), json!({"scattered": scattered, "contiguous": contiguous, "oldest": oldest}));
    Ok(())
}

impl Mapped {
    /// Deletes a snapshot and waits until its space is back.
    fn take_back(&mut self, what: &str, number: u32) -> Result<Value> {
        let pages = self.pages_of(number)?;
        let (used, transactions) = (self.world.used_bytes()?, self.world.transactions);
        let committing = self.world.committing;
        let begun = Instant::now();
        self.world.delete_snapshot(&format!("{}@{number}", self.name))?;
        let took = millis(begun);
        let store = (self.world.committing - committing).as_secs_f64() * 1e3;
        let freed = used - self.world.used_bytes()?;
        let transactions = self.world.transactions - transactions;
        ensure!(self.pages_of(number)? == 0 || number == 1, "the snapshot's pages are not done");
        println!(
            "  {what:<34} {took:.0} ms (store {store:.0} ms, {transactions} transactions), {pages} pages of its own, {} MiB freed",
            freed >> 20
        );
        Ok(
            json!({"millis": took, "store_millis": store, "transactions": transactions, "pages": pages, "freed_bytes": freed}),
        )
    }

    /// How many pages have a version of this generation; a branch's first snapshot has generation 1, and so on.
    fn pages_of(&self, generation: u32) -> Result<usize> {
        let mut pages = BTreeSet::new();
        self.world.view().scan(&KeyRange::table(self.branch()?), &mut |key, _| {
            if let Some(Key::Table(_, page, of, _)) = Key::decode(key)
                && of.0 == generation
            {
                pages.insert(page);
            }
            ControlFlow::Continue(())
        })?;
        Ok(pages.len())
    }
}

/// What a chain came to.
struct ChainEnd {
    name: &'static str,
    fetch_micros: f64,
    /// One of a step's writes: a median over the steps of a mean over each.
    write_micros: f64,
    step_millis: f64,
    step_store_millis: f64,
    snapshot_millis: f64,
    /// Of a step: transactions, changes in them, and their bytes.
    transactions: f64,
    changes: f64,
    change_bytes: f64,
    metadata_bytes: u64,
    file_bytes: u64,
    table_pairs: u64,
    /// Regions that the agent was granted and has not used.
    granted_regions: u64,
}

/// The chain alone.
pub(crate) fn run_chain(length: u32, folder: &Path) -> Result<Value> {
    let mut figures = Map::new();
    chain(length, folder, &mut figures)?;
    Ok(Value::Object(figures))
}

fn chain(length: u32, folder: &Path, figures: &mut Map<String, Value>) -> Result<()> {
    println!("\na chain over {} GiB, {CHAIN_WRITES} random 4 KiB writes a step", CHAIN_BYTES >> 30);
    let kinds = [
        ("one", length, false),
        ("first", CHAIN_TIMED.min(length), false),
        ("ten", 10.min(length), true),
        ("chain", length, true),
    ];
    let mut ends = Vec::new();
    let mut last_world = None;
    for (name, last, each) in kinds {
        let mut mapped = Mapped::new(folder, name, CHAIN_BYTES, true)?;
        let end = steps(&mut mapped, folder, last, each)?;
        tell_end(&end, if each { last } else { 1 }, last, figures);
        ends.push(end);
        last_world = Some(mapped.world);
    }
    let world = last_world.context("there were chains")?;
    let mut beside = Mapped::within(world, "beside", CHAIN_BYTES, false)?;
    beside.fill()?;
    let last = CHAIN_TIMED.min(length);
    let beside = steps(&mut beside, folder, last, false)?;
    println!("  in the chain's store, another volume:");
    tell_end(&beside, 1, last, figures);
    let (one, first, long) = (&ends[0], &ends[1], &ends[3]);
    figures.insert("chain_fetch_growth".into(), json!(long.fetch_micros / one.fetch_micros));
    figures.insert("chain_write_growth".into(), json!(long.write_micros / beside.write_micros));
    figures.insert("chain_commit_growth".into(), json!(long.step_millis / beside.step_millis));
    figures.insert("chain_store_growth".into(), json!(beside.step_millis / first.step_millis));
    println!(
        "  at the end of the chain: fetch {:.2} of the same writes without it; beside the other volume's first writes: a write {:.2}, a step {:.2}",
        long.fetch_micros / one.fetch_micros,
        long.write_micros / beside.write_micros,
        long.step_millis / beside.step_millis,
    );
    println!("  that volume's step is {:.2} of one in a store of its own", beside.step_millis / first.step_millis);
    Ok(())
}

fn tell_end(end: &ChainEnd, snapshots: u32, last: u32, figures: &mut Map<String, Value>) {
    println!(
        "  {snapshots:>5} snapshots, {last:>5} steps: a page fetched in {:.1} µs, a write {:.1} µs, a step {:.2} ms (store {:.2} ms), a snapshot {:.2} ms",
        end.fetch_micros, end.write_micros, end.step_millis, end.step_store_millis, end.snapshot_millis,
    );
    println!(
        "        a step: {:.1} transactions, {:.0} changes, {:.1} KiB; {} KiB of metadata in {} pairs of the table, a file of {} MiB, {} regions granted and unused",
        end.transactions,
        end.changes,
        end.change_bytes / 1024.0,
        end.metadata_bytes >> 10,
        end.table_pairs,
        end.file_bytes >> 20,
        end.granted_regions
    );
    figures.insert(
        format!("chain_{}", end.name),
        json!({
            "snapshots": snapshots, "steps": last, "fetch_micros": end.fetch_micros, "write_micros": end.write_micros,
            "step_millis": end.step_millis, "step_store_millis": end.step_store_millis, "snapshot_millis": end.snapshot_millis,
            "step_transactions": end.transactions, "step_changes": end.changes, "step_change_bytes": end.change_bytes,
            "metadata_bytes": end.metadata_bytes, "file_bytes": end.file_bytes, "table_pairs": end.table_pairs,
            "granted_regions": end.granted_regions,
        }),
    );
}

fn steps(mapped: &mut Mapped, folder: &Path, last: u32, each: bool) -> Result<ChainEnd> {
    let (mut times, mut writes, mut stores, mut snapshots) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut counts = [0_u64; 3];
    for number in 1..=last {
        if each || number == 1 {
            snapshots.push(mapped.snapshot(number)?.0);
        }
        let committing = mapped.world.committing;
        let before = [mapped.world.transactions, mapped.world.changes, mapped.world.change_bytes];
        let mut random = Random::new(u64::from(number));
        let begun = Instant::now();
        for _ in 0..CHAIN_WRITES {
            mapped.write_at_random(&mut random)?;
        }
        let (written, committed) = (millis(begun), mapped.world.committing - committing);
        mapped.world.flush(&mapped.volume)?;
        if number + CHAIN_TIMED > last {
            // A grant that had to be waited for is the store's time.
            writes.push((written - committed.as_secs_f64() * 1e3) * 1e3 / CHAIN_WRITES as f64);
            times.push(millis(begun));
            stores.push((mapped.world.committing - committing).as_secs_f64() * 1e3);
            let after = [mapped.world.transactions, mapped.world.changes, mapped.world.change_bytes];
            (0..3).for_each(|index| counts[index] += after[index] - before[index]);
        }
    }
    let of_step = |count: u64| count as f64 / f64::from(CHAIN_TIMED.min(last));
    let kept = contents(mapped.world.view())?;
    let recent = snapshots.len().saturating_sub(CHAIN_TIMED as usize);
    Ok(ChainEnd {
        name: mapped.name,
        fetch_micros: fetch_micros(mapped, folder)?,
        write_micros: middle(&mut writes),
        step_millis: middle(&mut times),
        step_store_millis: middle(&mut stores),
        snapshot_millis: middle(&mut snapshots[recent..]),
        transactions: of_step(counts[0]),
        changes: of_step(counts[1]),
        change_bytes: of_step(counts[2]),
        metadata_bytes: kept.bytes,
        file_bytes: mapped.world.file_bytes()?,
        granted_regions: mapped.world.report(mapped.id)?.granted_regions,
        table_pairs: kept.of("table").pairs,
    })
}

/// The first read of each page by an agent that knows none, on a copy of the store as a killed server leaves it.
fn fetch_micros(mapped: &Mapped, folder: &Path) -> Result<f64> {
    let copy = folder.join("copied.redb");
    let mut times = Vec::new();
    for round in 0..3 {
        std::fs::copy(mapped.world.path(), &copy)?;
        let (mut world, _) = World::open(&copy)?;
        let volume = world.attach(mapped.id)?;
        let page_bytes = REGION * u64::from(model::REGIONS_PER_PAGE);
        for page in 0..CHAIN_BYTES / page_bytes {
            let begun = Instant::now();
            world.read(&volume, page * page_bytes, BLOCK as u32)?;
            if round > 0 {
                times.push(begun.elapsed().as_secs_f64() * 1e6);
            }
        }
        drop(world);
        std::fs::remove_file(&copy)?;
    }
    Ok(middle(&mut times))
}
