//! The run: targets set up side by side, then rounds in which every workload goes over all of them in turn.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::fio::Figures;
use crate::target::{KINDS, Target};
use crate::{Plan, goals, report};

/// The medians of a run, by workload and target.
pub(crate) type Medians = BTreeMap<(&'static str, &'static str), Figures>;

/// A run's results.
pub(crate) struct Results {
    /// Every run of every round, in order.
    pub(crate) runs: Vec<(u32, &'static str, &'static str, Figures)>,
    /// The medians over the rounds.
    pub(crate) medians: Medians,
    /// Targets that could not be measured, and why.
    pub(crate) missing: Vec<(&'static str, String)>,
}

/// Runs the plan, prints tables and goals, writes the results file.
pub(crate) fn run(plan: &Plan) -> Result<()> {
    if let Some(unknown) = plan.targets.iter().find(|name| !KINDS.iter().any(|(known, _)| known == *name)) {
        bail!("no target is called {unknown:?}; `cargo xtask bench list` names them");
    }
    let folder = Folder::new(plan.folder.as_deref())?;
    let mut results = Results { runs: Vec::new(), medians: Medians::new(), missing: Vec::new() };
    let mut targets = Vec::new();
    for (name, kind) in KINDS {
        if !plan.targets.is_empty() && !plan.targets.iter().any(|wanted| wanted == name) {
            continue;
        }
        println!("setting up {name}");
        match Target::prepare(plan, name, *kind, &folder.path) {
            Ok(target) => targets.push(target),
            Err(error) => results.missing.push((name, format!("{error:#}"))),
        }
    }
    for (name, why) in &results.missing {
        println!("MISSING {name}: {why}");
    }
    for round in 1..=plan.rounds {
        one_round(plan, round, &targets, &mut results);
    }
    drop(targets);
    results.medians = medians(&results.runs);
    report::tables(plan, &results);
    let verdicts = goals::judge(&results.medians);
    report::goals(&verdicts);
    let file = report::write(plan, &results, &verdicts)?;
    println!("\nwritten to {}", file.display());
    Ok(())
}

fn one_round(plan: &Plan, round: u32, targets: &[Target], results: &mut Results) {
    for workload in &plan.workloads {
        for target in targets.iter().filter(|target| target.can(workload)) {
            match target.measure(plan, workload) {
                Ok(figures) => {
                    println!("{round} {:<15} {:<12} {}", workload.name, target.name, report::line(&figures));
                    results.runs.push((round, workload.name, target.name, figures));
                }
                Err(error) => {
                    println!("{round} {:<15} {:<12} FAILED {error:#}", workload.name, target.name);
                    results.missing.push((target.name, format!("{}: {error:#}", workload.name)));
                }
            }
        }
    }
}

pub(crate) fn medians(runs: &[(u32, &'static str, &'static str, Figures)]) -> Medians {
    let mut grouped: BTreeMap<(&'static str, &'static str), Vec<Figures>> = BTreeMap::new();
    for (_, workload, target, figures) in runs {
        grouped.entry((workload, target)).or_default().push(*figures);
    }
    let mut medians = Medians::new();
    for (key, mut group) in grouped {
        // The median run by its rate; its other figures come along, so that they belong together.
        group.sort_by(|left, right| left.iops.total_cmp(&right.iops));
        medians.insert(key, group[group.len() / 2]);
    }
    medians
}

/// Where the disk files lie; gone after the run.
pub(crate) struct Folder {
    pub(crate) path: PathBuf,
}

impl Folder {
    pub(crate) fn new(wanted: Option<&Path>) -> Result<Folder> {
        let base = wanted.map_or_else(std::env::temp_dir, Path::to_path_buf);
        // Short, because the path of a Unix socket has room for 107 bytes.
        let path = base.join(format!("acre-bench-{}", std::process::id()));
        std::fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Folder { path })
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.path) {
            eprintln!("cannot remove {}: {error}", self.path.display());
        }
    }
}
