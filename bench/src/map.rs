//! `bench map`: what the map costs: memory, metadata, look-ups, and starting with much mapped.
//!
//! The agent, the controller and the store on redb are the real ones, in one thread; the node is a stand-in that completes
//! everything at once and keeps nothing, so that a TiB is "written" in seconds and what is measured is the map alone.

pub(crate) mod fill;
mod lookup;
pub(crate) mod mapper;
pub(crate) mod measure;
pub(crate) mod random;
mod start;
mod tell;
pub(crate) mod world;

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use model::VolumeId;
use serde_json::{Map, Value, json};

use self::fill::{Figures, Fill, Place};
use self::measure::{TIB, contents};
use self::world::World;
use crate::results::Results;

const USAGE: &str = "\
cargo xtask bench map [OPTION…] [PART…]     (parts: create fill random start; default all)

  --fill-gib N        written contiguously (default 1024)
  --write-kib N       by writes of so many KiB (default 1024)
  --flush-mib N       with a flush after so many MiB of them (default 1024)
  --random-gib N      written at random by 4 KiB (default 64)
  --flush-writes N    with a flush after so many of those (default 16384)
  --mapped-gib N      mapped when starting (default 10240)
  --scattered-gib N   of that scattered, in the second store (default 256)
  --reads N           look-ups a measurement (default 500000)
  --folder PATH       where stores go (default: a fresh folder below the system's temporary one)
";

const PARTS: [&str; 4] = ["create", "fill", "random", "start"];
const GIB: u64 = 1 << 30;
/// Larger than what any fill here takes.
const POOL_BYTES: u64 = 2 << 40;
const PIB: u64 = 1 << 50;

struct Plan {
    fill_bytes: u64,
    write_bytes: u32,
    flush_bytes: u64,
    random_bytes: u64,
    flush_writes: u64,
    mapped_bytes: u64,
    scattered_bytes: u64,
    reads: u64,
    folder: Option<PathBuf>,
    parts: Vec<String>,
}

impl Default for Plan {
    fn default() -> Self {
        Plan {
            fill_bytes: TIB,
            write_bytes: 1 << 20,
            flush_bytes: GIB,
            random_bytes: 64 * GIB,
            flush_writes: 16 << 10,
            mapped_bytes: 10 * TIB,
            scattered_bytes: 256 * GIB,
            reads: 500_000,
            folder: None,
            parts: Vec::new(),
        }
    }
}

/// Runs `bench map` with these arguments.
pub(crate) fn run(arguments: &[String]) -> Result<()> {
    if let [part, store] = arguments
        && part == measure::WEIGH
    {
        return measure::weigh(Path::new(store));
    }
    let plan = plan(arguments)?;
    let folder = match &plan.folder {
        Some(folder) => folder.clone(),
        None => std::env::temp_dir().join(format!("acreage-bench-map-{}", std::process::id())),
    };
    std::fs::create_dir_all(&folder)?;
    let result = measured(&plan, &folder);
    if plan.folder.is_none() {
        std::fs::remove_dir_all(&folder)?;
    }
    let file = tell::write(&Value::Object(result?))?;
    println!("\n{}", file.display());
    Ok(())
}

fn plan(arguments: &[String]) -> Result<Plan> {
    let mut plan = Plan::default();
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        let mut value = || rest.next().with_context(|| format!("{argument} needs a value\n{USAGE}"));
        match argument.as_str() {
            "--fill-gib" => plan.fill_bytes = value()?.parse::<u64>()? * GIB,
            "--write-kib" => plan.write_bytes = value()?.parse::<u32>()? << 10,
            "--flush-mib" => plan.flush_bytes = value()?.parse::<u64>()? << 20,
            "--random-gib" => plan.random_bytes = value()?.parse::<u64>()? * GIB,
            "--flush-writes" => plan.flush_writes = value()?.parse()?,
            "--mapped-gib" => plan.mapped_bytes = value()?.parse::<u64>()? * GIB,
            "--scattered-gib" => plan.scattered_bytes = value()?.parse::<u64>()? * GIB,
            "--reads" => plan.reads = value()?.parse()?,
            "--folder" => plan.folder = Some(value()?.into()),
            part if PARTS.contains(&part) => plan.parts.push(part.to_owned()),
            other => bail!("there is no {other:?} here\n{USAGE}"),
        }
    }
    if plan.parts.is_empty() {
        plan.parts = PARTS.map(str::to_owned).to_vec();
    }
    Ok(plan)
}

/// The part `fill` of the whole bench: what the map of a TiB takes, and what looking into it costs.
pub(crate) fn fill(plan: &crate::plan::Plan, folder: &Path, _: &mut Results) -> Result<Value> {
    const MIB: f64 = 1_048_576.0;
    let (fill_bytes, random_bytes) = (plan.scale.fill_bytes, plan.scale.random_bytes);
    let plan = Plan { fill_bytes, random_bytes, reads: 200_000, ..Plan::default() };
    let contiguous = contiguous(&plan, folder)?;
    let random = random(&plan, folder)?;
    let number = |value: &Value, pointer: &str| value.pointer(pointer).and_then(Value::as_f64).unwrap_or(f64::NAN);
    let table = number(&contiguous, "/fill/0/table_bytes_per_tib");
    let controller = number(&contiguous, "/fill/0/controller_bytes_per_tib");
    let nanos = |span| number(&contiguous, &format!("/lookups/{span}/request_nanos"));
    Ok(json!({
        "resident_mib_per_tib": (table + controller) / MIB,
        "random_bytes_per_region": number(&random, "/fill/0/table_bytes_per_region"),
        "lookup_ratio": nanos(0) / nanos(1),
        "contiguous": contiguous, "random": random,
    }))
}

/// The part `start` of the whole bench: the engines' start after kill -9, with much mapped, contiguously and in part not.
pub(crate) fn start(plan: &crate::plan::Plan, folder: &Path, _: &mut Results) -> Result<Value> {
    let mapped_bytes = plan.scale.mapped_tib * TIB;
    let plan = Plan { mapped_bytes, scattered_bytes: plan.scale.scattered_bytes, ..Plan::default() };
    let starts = starts(&plan, folder)?;
    let cold = starts.iter().flat_map(|start| &start.starts.cold).map(|times| times.total);
    Ok(json!({"cold_millis_max": cold.fold(f64::NAN, f64::max), "starts": starts}))
}

fn measured(plan: &Plan, folder: &Path) -> Result<Map<String, Value>> {
    let mut results = Map::new();
    let wants = |part: &str| plan.parts.iter().any(|wanted| wanted == part);
    if wants("create") {
        results.insert("create".into(), create(folder)?);
    }
    if wants("fill") {
        results.insert("contiguous".into(), contiguous(plan, folder)?);
    }
    if wants("random") {
        results.insert("random".into(), random(plan, folder)?);
    }
    if wants("start") {
        results.insert("start".into(), json!(starts(plan, folder)?));
    }
    Ok(results)
}

fn starts(plan: &Plan, folder: &Path) -> Result<Vec<start::Start>> {
    let mut starts = Vec::new();
    for scattered in std::iter::once(0).chain((plan.scattered_bytes > 0).then_some(plan.scattered_bytes)) {
        let start = start::measure(folder, plan.mapped_bytes - scattered, scattered)?;
        tell::start(&start);
        starts.push(start);
    }
    Ok(starts)
}

/// A world of its own with a pool.
fn world(folder: &Path, name: &str) -> Result<World> {
    let (mut world, _) = World::open(&folder.join(name))?;
    world.make_pool(POOL_BYTES)?;
    Ok(world)
}

fn create(folder: &Path) -> Result<Value> {
    const VOLUMES: usize = 21;
    let mut world = world(folder, "create.redb")?;
    let before = contents(world.view())?;
    let committing = world.committing;
    let mut millis = Vec::new();
    for index in 0..VOLUMES {
        let begun = Instant::now();
        world.make_volume(&format!("petabyte-{index}"), PIB)?;
        millis.push(begun.elapsed().as_secs_f64() * 1e3);
    }
    let bytes = contents(world.view())?.since(&before) / VOLUMES as u64;
    let commit_millis = (world.committing - committing).as_secs_f64() * 1e3 / VOLUMES as f64;
    let (median, worst) = (lookup::median(&mut millis), millis.last().copied().unwrap_or_default());
    tell::create(median, worst, commit_millis, bytes);
    Ok(
        json!({"volumes": VOLUMES, "millis": median, "millis_max": worst, "commit_millis": commit_millis, "metadata_bytes": bytes}),
    )
}

/// Fills a new volume step by step, and says what each step came to.
fn fills(world: &mut World, folder: &Path, steps: &[(&str, Fill, u64)]) -> Result<(VolumeId, Vec<Figures>)> {
    let id = world.make_volume("filled", PIB)?;
    let volume = world.attach(id)?;
    let before = contents(world.view())?;
    let mut place = Place { world, id, volume, before, folder };
    let mut all = Vec::new();
    for (name, fill, flush_every) in steps {
        let figures = place.fill(*fill, *flush_every)?;
        tell::fill(name, &figures);
        all.push(figures);
    }
    Ok((id, all))
}

fn contiguous(plan: &Plan, folder: &Path) -> Result<Value> {
    let mut world = world(folder, "contiguous.redb")?;
    let fill = Fill::Sequential { span_bytes: plan.fill_bytes, write_bytes: plan.write_bytes };
    let flush_every = (plan.flush_bytes / u64::from(plan.write_bytes)).max(1);
    let (id, figures) = fills(&mut world, folder, &[("contiguous", fill, flush_every)])?;
    let volume = world.attach(id)?;
    let spans = [(4 * GIB).min(plan.fill_bytes), plan.fill_bytes];
    let costs = lookup::costs(&mut world, id, &volume, &spans, plan.reads)?;
    tell::costs("contiguous", &costs);
    Ok(json!({"fill": figures, "lookups": costs}))
}

fn random(plan: &Plan, folder: &Path) -> Result<Value> {
    /// Reads of a map that does not fit: each may take the store a page.
    const COLD_READS: u64 = 20_000;
    let mut world = world(folder, "random.redb")?;
    let span_bytes = plan.random_bytes;
    let regions = span_bytes / model::RegionSize::DEFAULT.bytes();
    let steps = [
        ("random, each region once", Fill::EachOnce { span_bytes }, plan.flush_writes),
        ("random, 4 writes a region more", Fill::Random { span_bytes, writes: 4 * regions }, plan.flush_writes),
    ];
    let (id, figures) = fills(&mut world, folder, &steps)?;
    let volume = world.attach(id)?;
    let spans = [(4 * GIB).min(span_bytes), span_bytes];
    let costs = lookup::costs(&mut world, id, &volume, &spans, plan.reads)?;
    tell::costs("random", &costs);
    let warm_nanos = costs.last().map_or(0.0, |cost| cost.request_nanos);
    let cold = lookup::cold(&mut world, id, span_bytes, 8, plan.reads.min(COLD_READS), warm_nanos)?;
    tell::cold(&cold);
    println!("\nstarting after kill -9 of that");
    let starts = start::starts(world.path(), folder, id, span_bytes)?;
    tell::starts(&starts);
    Ok(json!({"fill": figures, "lookups": costs, "cold": cold, "starts": starts}))
}
