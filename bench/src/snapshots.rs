//! `bench snapshots`: what snapshots and clones cost: writes after them, the pause while one is taken, and the records.
//!
//! Beside us stands qcow2 over qemu-nbd, which has both kinds of copies: internal snapshots (taken while the image is
//! closed, because that is what it can do) and overlays, with and without sub-clusters (`extended_l2`).

mod pause;
mod rounds;
mod subject;
mod table;
mod tell;

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::machine::Before;
use crate::plan::{Plan, cores};
use crate::results::Results;
use crate::rounds::Folder;
use crate::{goals, report};

const USAGE: &str = "\
cargo xtask bench snapshots [--quick | --full] [OPTION…] [PART…]     (parts: io pause table, or the chain of table alone; default all three)

  --quick             one round over 1 GiB, a table of 10 TiB
  --full              five rounds; the default is three over 2 GiB, a table of 100 TiB
  --rounds N          so many rounds
  --seconds N         so long each run of rewrites and reads
  --span-mib N        the size of the volume (the disk file takes nearly nine times as much)
  --snapshots N       the length of the series under load (default 50)
  --table-tib N       the size of the fully mapped table
  --chain N           the length of the chain in the table (default 1000)
  --folder PATH       where the disk files go (default: a fresh folder below the system's temporary one)
  --cores SERVER,CLIENT  the cores to pin to (default 0,1)
";

/// `chain` is the last piece of `table`, which has it anyway.
const PARTS: [&str; 4] = ["io", "pause", "table", "chain"];

/// What to run and how long.
#[derive(Clone, Debug)]
struct Wanted {
    plan: Plan,
    snapshots: u32,
    table_tib: u64,
    chain: u32,
    parts: Vec<String>,
}

/// Runs `bench snapshots` with these arguments.
pub(crate) fn run(arguments: &[String]) -> Result<()> {
    let (begun, before) = (Instant::now(), Before::now());
    let wanted = wanted(arguments)?;
    let plan = &wanted.plan;
    let folder = Folder::new(plan.folder.as_deref())?;
    let mut results = Results::default();
    for part in PARTS.iter().filter(|part| wanted.parts.iter().any(|other| other == *part)) {
        // Each part has its own folder, gone when the part is over: together the disk files might not fit.
        let place = folder.part(part)?;
        let told = match *part {
            "io" => rounds::run(&wanted, &place, &mut results),
            "pause" => pause::run(plan, plan.rounds.max(3), &place),
            "chain" => table::run_chain(wanted.chain, &place),
            _ => table::run(wanted.table_tib, wanted.chain, true, &place),
        };
        match told {
            Ok(told) => drop(results.parts.insert((*part).into(), told)),
            Err(error) => results.lacks(part, &error),
        }
        std::fs::remove_dir_all(place)?;
    }
    tell::tables(plan, &results);
    let verdicts = goals::judge(&results);
    report::goals(&verdicts);
    let seconds = begun.elapsed().as_secs_f64();
    let file = report::write("snapshots-", plan, &folder.path, (&before, seconds), &results, &verdicts)?;
    println!("\nwritten to {}", file.display());
    Ok(())
}

/// The part `copies` of the whole bench: writes and reads after snapshots and in clones.
pub(crate) fn copies(plan: &Plan, folder: &Path, results: &mut Results) -> Result<Value> {
    let scale = plan.scale;
    let plan = Plan {
        rounds: scale.copies_rounds,
        seconds: plan.seconds,
        first_writes: rounds::first_writes(scale.copies_bytes, rounds::DEEP),
        ..plan.over(scale.copies_bytes)
    };
    let wanted = Wanted { plan, snapshots: scale.snapshots, table_tib: 0, chain: 0, parts: Vec::new() };
    rounds::run(&wanted, folder, results)
}

/// The part `pause`: how long writes stand still for a snapshot.
pub(crate) fn pause(plan: &Plan, folder: &Path, _: &mut Results) -> Result<Value> {
    pause::run(&plan.over(plan.scale.small_bytes), plan.scale.pause_rounds, folder)
}

/// The part `table`: snapshots of a large volume, and chains of them; no goal is about taking them back.
pub(crate) fn table(plan: &Plan, folder: &Path, _: &mut Results) -> Result<Value> {
    table::run(plan.scale.table_tib, plan.scale.chain, false, folder)
}

fn wanted(arguments: &[String]) -> Result<Wanted> {
    let plan = Plan { seconds: 4, first_writes: 0, ..Plan::default() };
    let mut wanted = Wanted { plan, snapshots: 50, table_tib: 100, chain: 1000, parts: Vec::new() };
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        let mut value = || rest.next().with_context(|| format!("{argument} needs a value\n{USAGE}"));
        let plan = &mut wanted.plan;
        match argument.as_str() {
            "--quick" => {
                (plan.rounds, plan.seconds, plan.span_bytes) = (1, 2, 1 << 30);
                wanted.table_tib = 10;
            }
            "--full" => plan.rounds = 5,
            "--rounds" => plan.rounds = value()?.parse()?,
            "--seconds" => plan.seconds = value()?.parse()?,
            "--span-mib" => plan.span_bytes = value()?.parse::<u64>()? << 20,
            "--snapshots" => wanted.snapshots = value()?.parse()?,
            "--table-tib" => wanted.table_tib = value()?.parse()?,
            "--chain" => wanted.chain = value()?.parse()?,
            "--folder" => plan.folder = Some(value()?.into()),
            "--cores" => plan.cores = cores(value()?)?,
            part if PARTS.contains(&part) => wanted.parts.push(part.to_owned()),
            other => bail!("there is no {other:?} here\n{USAGE}"),
        }
    }
    if wanted.parts.is_empty() {
        wanted.parts = PARTS[..3].iter().map(|part| (*part).to_owned()).collect();
    }
    wanted.plan.first_writes = rounds::first_writes(wanted.plan.span_bytes, rounds::DEEP);
    Ok(wanted)
}
