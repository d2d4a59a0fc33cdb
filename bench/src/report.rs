//! What a run leaves: tables on the terminal and one JSON file in `bench-results/`.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

use crate::Plan;
use crate::fio::Figures;
use crate::goals::Verdict;
use crate::program::run;
use crate::rounds::Results;
use crate::target::KINDS;
use crate::workload::WORKLOADS;

/// Names workloads and targets.
pub(crate) fn list() {
    println!("workloads:");
    for workload in WORKLOADS {
        let flush = if workload.flush { ", a flush after each" } else { "" };
        let (kibibytes, depth) = (workload.block_bytes >> 10, workload.depth);
        println!("  {:<15} {} of {kibibytes} KiB, {depth} in flight{flush}", workload.name, workload.pattern);
    }
    println!("targets:");
    for (name, kind) in KINDS {
        println!("  {name:<15} {kind:?}");
    }
}

/// One run in one line.
pub(crate) fn line(figures: &Figures) -> String {
    let barriers =
        figures.barriers.map(|barriers| format!("  {barriers:.2} device flushes a flush")).unwrap_or_default();
    format!(
        "{:>8.0} IOPS {:>7.0} MB/s  p50 {:>6.0} µs  p99 {:>6.0} µs  {:>6.1} µs/I/O{barriers}",
        figures.iops, figures.megabytes, figures.p50_micros, figures.p99_micros, figures.processor_micros
    )
}

/// A table for each workload: every target, and its rate as a share of the disk's and of ours.
pub(crate) fn tables(plan: &Plan, results: &Results) {
    println!("\nmedians of {} rounds, {} s each, span {} MiB", plan.rounds, plan.seconds, plan.span_bytes >> 20);
    for workload in &plan.workloads {
        println!("\n{}", workload.name);
        let rate = |target: &'static str| results.medians.get(&(workload.name, target)).map(|figures| figures.iops);
        for (target, _) in KINDS {
            let Some(figures) = results.medians.get(&(workload.name, *target)) else { continue };
            let share = |of: Option<f64>| of.map_or("   -".into(), |of| format!("{:>5.2}", figures.iops / of));
            println!(
                "  {target:<12} {}  × disk {}  × qemu-raw {}",
                line(figures),
                share(rate("disk")),
                share(rate("qemu-raw"))
            );
        }
    }
    for (name, why) in &results.missing {
        println!("\nMISSING {name}: {why}");
    }
}

/// The goals, met or missed.
pub(crate) fn goals(verdicts: &[Verdict]) {
    if verdicts.is_empty() {
        return;
    }
    println!("\ngoals");
    for verdict in verdicts {
        let word = if verdict.met { "met   " } else { "MISSED" };
        println!("  {} {word} {:<58} {:.2}", verdict.id, verdict.goal, verdict.seen);
    }
}

/// Writes everything into one file below `bench-results/` and says where.
pub(crate) fn write(plan: &Plan, results: &Results, verdicts: &[Verdict]) -> Result<PathBuf> {
    save("", plan, results, verdicts, &Map::new())
}

/// The same into a file whose name begins with `prefix`, with further things of one kind of run.
pub(crate) fn save(
    prefix: &str,
    plan: &Plan,
    results: &Results,
    verdicts: &[Verdict],
    further: &Map<String, Value>,
) -> Result<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("the crate lies in no workspace")?;
    let folder = root.join("bench-results");
    std::fs::create_dir_all(&folder)?;
    let now = said(Command::new("date").args(["-u", "+%Y%m%dT%H%M%SZ"]));
    let file = folder.join(format!("{prefix}{now}.json"));
    let mut document = document(plan, results, verdicts, &now, root);
    further.iter().for_each(|(name, value)| document[name] = value.clone());
    std::fs::write(&file, serde_json::to_string_pretty(&document)?)?;
    Ok(file)
}

fn document(plan: &Plan, results: &Results, verdicts: &[Verdict], now: &str, root: &Path) -> Value {
    let medians: Vec<Value> = results
        .medians
        .iter()
        .map(|((workload, target), figures)| json!({"workload": workload, "target": target, "figures": figures}))
        .collect();
    let runs: Vec<Value> = results
        .runs
        .iter()
        .map(|(round, workload, target, figures)| {
            json!({"round": round, "workload": workload, "target": target, "figures": figures})
        })
        .collect();
    json!({
        "time": now,
        "commit": said(Command::new("git").args(["describe", "--always", "--dirty"]).current_dir(root)),
        "machine": {
            "kernel": said(Command::new("uname").arg("-r")),
            "processor": processor(),
            "load": std::fs::read_to_string("/proc/loadavg").unwrap_or_default().trim(),
            "cores": std::thread::available_parallelism().map_or(0, std::num::NonZero::get),
        },
        "plan": {
            "rounds": plan.rounds, "seconds": plan.seconds, "span_bytes": plan.span_bytes,
            "first_writes": plan.first_writes, "cores": [plan.cores.0, plan.cores.1],
        },
        "goals": verdicts,
        "medians": medians,
        "runs": runs,
        "missing": results.missing,
    })
}

fn said(command: &mut Command) -> String {
    run(command).map_or_else(|_| "unknown".to_owned(), |output| output.trim().to_owned())
}

fn processor() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with("model name"));
    line.and_then(|line| line.split_once(':')).map_or_else(|| "unknown".to_owned(), |(_, name)| name.trim().to_owned())
}
