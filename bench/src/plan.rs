//! What to run and how long: the presets, and the arguments that change them.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use serde::Serialize;

use crate::parts::{PARTS, Part};
use crate::workload::{WORKLOADS, Workload};

/// What to run and how long.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Plan {
    /// The preset that the rest began with.
    pub(crate) preset: &'static str,
    pub(crate) rounds: u32,
    /// How long each run is.
    pub(crate) seconds: u32,
    /// So much of a volume is read and written.
    pub(crate) span_bytes: u64,
    /// How many first writes each run makes; every one of them may take a region.
    pub(crate) first_writes: u64,
    /// The lists of cores that servers and clients are pinned to, as `taskset -c` takes them.
    pub(crate) cores: (String, String),
    /// Threads of our server; one for each core it is pinned to unless told.
    pub(crate) threads: Option<u32>,
    /// The size of the parts that are about more than the matrix of workloads.
    pub(crate) scale: Scale,
    pub(crate) folder: Option<PathBuf>,
    pub(crate) targets: Vec<String>,
    #[serde(skip)]
    pub(crate) workloads: Vec<&'static Workload>,
    #[serde(skip)]
    pub(crate) parts: Vec<&'static Part>,
}

/// How large what is measured besides the matrix is.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Scale {
    /// The volume of the parts that need not be large.
    pub(crate) small_bytes: u64,
    /// Rounds of the part `copies`, the volume it takes, and how many snapshots its series has.
    pub(crate) copies_rounds: u32,
    pub(crate) copies_bytes: u64,
    pub(crate) snapshots: u32,
    /// The mapped table of the part `table`, and the length of its chain.
    pub(crate) table_tib: u64,
    pub(crate) chain: u32,
    /// What the parts `span` and `start` map.
    pub(crate) mapped_tib: u64,
    /// What the part `fill` writes in order, and at random.
    pub(crate) fill_bytes: u64,
    pub(crate) random_bytes: u64,
    /// How much of what the part `start` maps is scattered, in its second store; without it there is no second one.
    pub(crate) scattered_bytes: u64,
    /// At least so many times three snapshots are taken in the part `pause`.
    pub(crate) pause_rounds: u32,
    /// How long the idle server is watched.
    pub(crate) idle_seconds: u32,
    /// How many volumes it has attached.
    pub(crate) idle_volumes: u32,
}

const GIB: u64 = 1 << 30;

const FULL: Scale = Scale {
    small_bytes: GIB / 2,
    copies_rounds: 1,
    copies_bytes: GIB / 2,
    snapshots: 50,
    table_tib: 100,
    chain: 200,
    mapped_tib: 10,
    fill_bytes: 1024 * GIB,
    random_bytes: 16 * GIB,
    scattered_bytes: 64 * GIB,
    pause_rounds: 3,
    idle_seconds: 10,
    idle_volumes: 100,
};

const QUICK: Scale = Scale {
    copies_bytes: GIB / 4,
    snapshots: 10,
    table_tib: 10,
    chain: 50,
    fill_bytes: 256 * GIB,
    random_bytes: 4 * GIB,
    scattered_bytes: 0,
    pause_rounds: 1,
    ..FULL
};

impl Default for Plan {
    fn default() -> Self {
        Plan {
            preset: "default",
            rounds: 3,
            seconds: 2,
            span_bytes: 2 * GIB,
            first_writes: 24 << 10,
            cores: ("0".into(), "1".into()),
            threads: None,
            scale: QUICK,
            folder: None,
            targets: Vec::new(),
            workloads: Vec::new(),
            parts: Vec::new(),
        }
    }
}

impl Plan {
    /// Reads the arguments of `bench`.
    pub(crate) fn read(arguments: &[String], usage: &str) -> Result<Plan> {
        let mut plan = Plan::default();
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            let mut value = || rest.next().with_context(|| format!("{argument} needs a value\n{usage}"));
            match argument.as_str() {
                "--quick" => {
                    (plan.preset, plan.rounds, plan.seconds, plan.scale) = ("quick", 1, 1, QUICK);
                    (plan.span_bytes, plan.first_writes) = (GIB, 16 << 10);
                }
                "--full" => {
                    (plan.preset, plan.rounds, plan.seconds, plan.scale) = ("full", 3, 2, FULL);
                    (plan.span_bytes, plan.first_writes) = (4 * GIB, 32 << 10);
                }
                "--rounds" => plan.rounds = value()?.parse::<u32>()?.max(1),
                "--seconds" => plan.seconds = value()?.parse::<u32>()?.max(1),
                "--span-mib" => {
                    plan.span_bytes = value()?.parse::<u64>()? << 20;
                    plan.scale.small_bytes = plan.scale.small_bytes.min(plan.span_bytes);
                    plan.scale.copies_bytes = plan.scale.copies_bytes.min(plan.span_bytes);
                }
                "--first-writes" => plan.first_writes = value()?.parse()?,
                "--snapshots" => plan.scale.snapshots = value()?.parse()?,
                "--table-tib" => plan.scale.table_tib = value()?.parse()?,
                "--mapped-tib" => plan.scale.mapped_tib = value()?.parse()?,
                "--chain" => plan.scale.chain = value()?.parse()?,
                "--idle-seconds" => plan.scale.idle_seconds = value()?.parse()?,
                "--folder" => plan.folder = Some(value()?.into()),
                "--targets" => plan.targets = value()?.split(',').map(str::to_owned).collect(),
                "--cores" => plan.cores = cores(value()?)?,
                name if name.starts_with('-') => bail!("no option is called {name}\n{usage}"),
                name => plan.select(name)?,
            }
        }
        if plan.workloads.is_empty() && plan.parts.is_empty() {
            plan.workloads = WORKLOADS.iter().collect();
            plan.parts = PARTS.iter().collect();
        }
        Ok(plan)
    }

    /// Adds the part, or the workloads, that begin with this name.
    fn select(&mut self, name: &str) -> Result<()> {
        let parts: Vec<_> = PARTS.iter().filter(|part| part.name == name).collect();
        let workloads: Vec<_> = if parts.is_empty() {
            WORKLOADS.iter().filter(|workload| name == "matrix" || workload.name.starts_with(name)).collect()
        } else {
            Vec::new()
        };
        if workloads.is_empty() && parts.is_empty() {
            bail!("no workload or part is called {name:?}; `cargo xtask bench list` names them");
        }
        self.workloads.extend(workloads);
        self.parts.extend(parts);
        Ok(())
    }

    /// The same plan over another span.
    pub(crate) fn over(&self, span_bytes: u64) -> Plan {
        Plan { span_bytes, ..self.clone() }
    }

    /// Whether a target is wanted.
    pub(crate) fn wants(&self, target: &str) -> bool {
        self.targets.is_empty() || self.targets.iter().any(|wanted| wanted == target)
    }
}

/// The server's cores and the client's, as `0,1` or, where either is a list, as `0-3:4-7`.
pub(crate) fn cores(text: &str) -> Result<(String, String)> {
    let (server, client) = text.split_once(':').or_else(|| text.split_once(',')).context("two cores, as 0,1")?;
    Ok((server.to_owned(), client.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(arguments: &str) -> Result<Plan> {
        let arguments: Vec<String> = arguments.split_whitespace().map(str::to_owned).collect();
        Plan::read(&arguments, "usage")
    }

    #[test]
    fn without_names_everything_is_run_and_with_some_only_they_are() {
        let all = read("--quick").expect("a preset");
        assert_eq!((all.workloads.len(), all.parts.len()), (WORKLOADS.len(), PARTS.len()));
        let some = read("--full read-4k idle --rounds 5 --seconds 7").expect("names");
        assert!(some.workloads.iter().all(|workload| workload.name.starts_with("read-4k")));
        assert_eq!((some.workloads.len(), some.parts.len()), (3, 1));
        assert_eq!((some.preset, some.rounds, some.seconds), ("full", 5, 7));
        assert!(read("nothing-like-it").is_err());
        assert!(read("--nothing-like-it").is_err());
        assert!(read("--rounds").is_err());
    }

    #[test]
    fn a_small_span_makes_the_other_parts_small_too() {
        let plan = read("--quick --span-mib 256").expect("a span");
        assert_eq!((plan.scale.small_bytes, plan.scale.copies_bytes), (256 << 20, 256 << 20));
    }

    #[test]
    fn cores_are_two_numbers_or_two_lists() {
        assert_eq!(cores("0,1").expect("numbers"), ("0".into(), "1".into()));
        assert_eq!(cores("0,1:2,3").expect("lists"), ("0,1".into(), "2,3".into()));
        assert!(cores("0").is_err());
    }
}
