//! `bench snapshots`: what snapshots and clones cost: writes after them, the pause while one is taken, and the records.
//!
//! Beside us stands qcow2 over qemu-nbd, which has both kinds of copies: internal snapshots (taken while the image is
//! closed, because that is what it can do) and overlays, with and without sub-clusters (`extended_l2`).

mod goals;
mod http;
mod pause;
mod rounds;
mod subject;
mod table;
mod tell;

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value};

use crate::rounds::{Folder, Medians, Results, medians};
use crate::{Plan, report};

const USAGE: &str = "\
cargo xtask bench snapshots [--quick | --full] [OPTION…] [PART…]     (parts: io pause table; default all)

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

const PARTS: [&str; 3] = ["io", "pause", "table"];

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
    let wanted = wanted(arguments)?;
    let plan = &wanted.plan;
    let folder = Folder::new(plan.folder.as_deref())?;
    let mut results = Results { runs: Vec::new(), medians: Medians::new(), missing: Vec::new() };
    let mut further = Map::new();
    let wants = |part: &str| wanted.parts.iter().any(|other| other == part);
    let mut keep = |name: &'static str, outcome: Result<Value>, missing: &mut Vec<(&'static str, String)>| match outcome
    {
        Ok(value) => drop(further.insert(name.into(), value)),
        Err(error) => {
            println!("{name} FAILED {error:#}");
            missing.push((name, format!("{error:#}")));
        }
    };
    // Each part has its own folder, gone when the part is over: together the disk files might not fit.
    let place = |part: &str| {
        let path = folder.path.join(part);
        std::fs::create_dir_all(&path).map(|()| path)
    };
    if wants("io") {
        let path = place("io")?;
        let outcome = rounds::run(&wanted, &path, &mut results);
        keep("io", outcome, &mut results.missing);
        std::fs::remove_dir_all(path)?;
    }
    if wants("pause") {
        let path = place("pause")?;
        keep("pause", pause::run(plan, &path), &mut results.missing);
        std::fs::remove_dir_all(path)?;
    }
    if wants("table") {
        let outcome = table::run(wanted.table_tib, wanted.chain, &place("table")?);
        keep("table", outcome, &mut results.missing);
    }
    results.medians = medians(&results.runs);
    tell::tables(plan, &results);
    let verdicts = goals::judge(&results.medians, &further);
    report::goals(&verdicts);
    let file = report::save("snapshots-", plan, &results, &verdicts, &further)?;
    println!("\nwritten to {}", file.display());
    Ok(())
}

fn wanted(arguments: &[String]) -> Result<Wanted> {
    let plan = Plan {
        rounds: 3,
        seconds: 4,
        span_bytes: 2 << 30,
        first_writes: 0,
        folder: None,
        cores: (0, 1),
        targets: Vec::new(),
        workloads: Vec::new(),
    };
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
            "--cores" => {
                let (server, client) = value()?.split_once(',').context("two cores, as 0,1")?;
                plan.cores = (server.parse()?, client.parse()?);
            }
            part if PARTS.contains(&part) => wanted.parts.push(part.to_owned()),
            other => bail!("there is no {other:?} here\n{USAGE}"),
        }
    }
    if wanted.parts.is_empty() {
        wanted.parts = PARTS.map(str::to_owned).to_vec();
    }
    wanted.plan.first_writes = rounds::first_writes(wanted.plan.span_bytes, rounds::DEEP);
    Ok(wanted)
}
