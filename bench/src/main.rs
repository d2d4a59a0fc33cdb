//! Benches: Acreage beside its peers, in interleaved rounds of one run, so that the machine's moods hit all alike.
//!
//! What counts are ratios within one run and the server's processor time for each I/O; absolute figures move with the
//! machine. The server is pinned to one core and the client to another; every disk file is fully written beforehand,
//! because the first write to a sparse file costs its filesystem more than anything measured here.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, reason = "a command-line tool talks to its terminal")]
#![allow(clippy::disallowed_types, clippy::disallowed_methods, reason = "benches use clocks and wait for programs")]

mod fio;
mod goals;
mod map;
mod program;
mod report;
mod rounds;
mod snapshots;
mod target;
mod workload;

use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use crate::workload::{WORKLOADS, Workload};

const USAGE: &str = "\
cargo xtask bench [--quick | --full] [OPTION…] [WORKLOAD…]
cargo xtask bench list            the workloads and the targets
cargo xtask bench map [ARGUMENT…] what the map costs: memory, metadata, look-ups, start-up
cargo xtask bench snapshots [ARGUMENT…] what snapshots and clones cost, beside qcow2's

  --quick             one short round over a small span (about five minutes)
  --full              three rounds of ten seconds over 4 GiB (about forty minutes); the default lies between
  --targets A,B,…     only these targets
  --rounds N          so many rounds
  --seconds N         so long each run
  --span-mib N        so much of a volume is read and written
  --folder PATH       where the disk files go (default: a fresh folder below the system's temporary one)
  --cores SERVER,CLIENT  the cores to pin to (default 0,1)
  WORKLOAD            a name from `list`, or its beginning (read, write-4k …)
";

/// What to run and how long.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) rounds: u32,
    pub(crate) seconds: u32,
    pub(crate) span_bytes: u64,
    /// How many first writes each run makes; every one of them may take a region.
    pub(crate) first_writes: u64,
    pub(crate) folder: Option<PathBuf>,
    pub(crate) cores: (u32, u32),
    pub(crate) targets: Vec<String>,
    pub(crate) workloads: Vec<&'static Workload>,
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.first().map(String::as_str) {
        Some("list") => {
            report::list();
            Ok(())
        }
        Some("map") => map::run(&arguments[1..]),
        Some("snapshots") => snapshots::run(&arguments[1..]),
        Some("help" | "--help" | "-h") => {
            println!("{USAGE}");
            Ok(())
        }
        _ => rounds::run(&plan(&arguments)?),
    }
}

fn plan(arguments: &[String]) -> Result<Plan> {
    let mut plan = Plan {
        rounds: 3,
        seconds: 5,
        span_bytes: 2 << 30,
        first_writes: 64 << 10,
        folder: None,
        cores: (0, 1),
        targets: Vec::new(),
        workloads: Vec::new(),
    };
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        let mut value = || rest.next().with_context(|| format!("{argument} needs a value\n{USAGE}"));
        match argument.as_str() {
            "--quick" => (plan.rounds, plan.seconds, plan.span_bytes, plan.first_writes) = (1, 3, 1 << 30, 32 << 10),
            "--full" => (plan.rounds, plan.seconds, plan.span_bytes, plan.first_writes) = (3, 10, 4 << 30, 128 << 10),
            "--rounds" => plan.rounds = value()?.parse()?,
            "--seconds" => plan.seconds = value()?.parse()?,
            "--span-mib" => plan.span_bytes = value()?.parse::<u64>()? << 20,
            "--folder" => plan.folder = Some(value()?.into()),
            "--targets" => plan.targets = value()?.split(',').map(str::to_owned).collect(),
            "--cores" => {
                let (server, client) = value()?.split_once(',').context("two cores, as 0,1")?;
                plan.cores = (server.parse()?, client.parse()?);
            }
            name if name.starts_with('-') => bail!("no option is called {name}\n{USAGE}"),
            name => {
                let found: Vec<_> = WORKLOADS.iter().filter(|workload| workload.name.starts_with(name)).collect();
                if found.is_empty() {
                    bail!("no workload is called {name:?}; `cargo xtask bench list` names them");
                }
                plan.workloads.extend(found);
            }
        }
    }
    if plan.workloads.is_empty() {
        plan.workloads = WORKLOADS.iter().collect();
    }
    Ok(plan)
}
