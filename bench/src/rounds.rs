//! The run: targets set up side by side, rounds in which every workload goes over all of them in turn, and then the parts.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::machine::Before;
use crate::plan::Plan;
use crate::results::Results;
use crate::target::{KINDS, Target};
use crate::{goals, report};

/// Runs the plan, prints tables and goals, writes the results file.
pub(crate) fn run(plan: &Plan) -> Result<()> {
    if let Some(unknown) = plan.targets.iter().find(|name| !KINDS.iter().any(|(known, _)| known == *name)) {
        bail!("no target is called {unknown:?}; `cargo xtask bench list` names them");
    }
    let (begun, before) = (Instant::now(), Before::now());
    let folder = Folder::new(plan.folder.as_deref())?;
    let mut results = Results::default();
    if !plan.workloads.is_empty() {
        // Each has its own folder, gone when it is over: together the disk files might not fit.
        let place = folder.part("matrix")?;
        matrix(plan, &place, &mut results);
        std::fs::remove_dir_all(place)?;
    }
    for part in &plan.parts {
        println!("\n{}: {} ({:.0} s so far)", part.name, part.what, begun.elapsed().as_secs_f64());
        let place = folder.part(part.name)?;
        match (part.run)(plan, &place, &mut results) {
            Ok(told) if told.is_null() => {}
            Ok(told) => drop(results.parts.insert(part.name.into(), told)),
            Err(error) => results.lacks(part.name, &error),
        }
        std::fs::remove_dir_all(place)?;
    }
    report::tables(plan, &results);
    let verdicts = goals::judge(&results);
    report::goals(&verdicts);
    let seconds = begun.elapsed().as_secs_f64();
    let file = report::write("", plan, &folder.path, (&before, seconds), &results, &verdicts)?;
    println!("\n{seconds:.0} s; written to {}", file.display());
    Ok(())
}

fn matrix(plan: &Plan, folder: &Path, results: &mut Results) {
    let mut targets = Vec::new();
    for (name, kind) in KINDS {
        if !plan.wants(name) || !plan.workloads.iter().any(|workload| workload.targets.contains(name)) {
            continue;
        }
        println!("setting up {name}");
        match Target::prepare(plan, name, *kind, folder) {
            Ok(target) => targets.push(target),
            Err(error) => results.lacks(name, &error),
        }
    }
    for round in 1..=plan.rounds {
        for workload in &plan.workloads {
            for target in targets.iter().filter(|target| target.can(workload)) {
                match target.measure(plan, workload) {
                    Ok(figures) => {
                        println!("{round} {:<15} {:<12} {}", workload.name, target.name, report::line(&figures));
                        results.push(round, workload.name, target.name, figures);
                    }
                    Err(error) => results.lacks(&format!("{} {}", target.name, workload.name), &error),
                }
            }
        }
    }
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

    /// A folder of its own for one part of a run.
    pub(crate) fn part(&self, name: &str) -> Result<PathBuf> {
        let path = self.path.join(name);
        std::fs::create_dir_all(&path)?;
        Ok(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.path) {
            eprintln!("cannot remove {}: {error}", self.path.display());
        }
    }
}
