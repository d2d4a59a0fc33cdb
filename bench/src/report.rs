//! What a run leaves: tables on the terminal and one JSON file in `bench-results/`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::fio::Figures;
use crate::goals::Verdict;
use crate::machine;
use crate::parts::PARTS;
use crate::plan::Plan;
use crate::results::{Results, Spread};
use crate::target::KINDS;
use crate::workload::{State, WORKLOADS};

/// Everything about one run, as its file has it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Document {
    /// When it ended, in UTC.
    pub(crate) time: String,
    /// How long it took, in seconds.
    pub(crate) took_seconds: f64,
    /// The commit that was measured.
    pub(crate) commit: String,
    pub(crate) machine: Value,
    /// Versions of the client and of the peers.
    pub(crate) versions: Value,
    /// The options, with what the preset filled in.
    pub(crate) plan: Value,
    /// The goals, met, missed or not measured.
    pub(crate) goals: Vec<Verdict>,
    /// For people: the medians of all runs.
    pub(crate) medians: Vec<Median>,
    #[serde(flatten)]
    pub(crate) results: Results,
}

/// One workload on one target over all rounds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Median {
    pub(crate) workload: String,
    pub(crate) target: String,
    pub(crate) iops: Spread,
    pub(crate) processor_micros: Spread,
    pub(crate) p50_micros: Spread,
    pub(crate) p99_micros: Spread,
    pub(crate) p999_micros: Spread,
}

/// Names workloads, parts and targets.
pub(crate) fn list() {
    println!("workloads (all of them: matrix):");
    for workload in WORKLOADS {
        let (kibibytes, depth) = (workload.block_bytes >> 10, workload.depth);
        let empty = if workload.state == State::Empty { ", on an empty volume" } else { "" };
        println!("  {:<15} {} of {kibibytes} KiB, {depth} in flight{empty}", workload.name, workload.pattern);
    }
    println!("parts:");
    for part in PARTS {
        println!("  {:<15} {}", part.name, part.what);
    }
    println!("targets:");
    for (name, kind) in KINDS {
        println!("  {name:<15} {kind:?}");
    }
}

/// One run in one line.
pub(crate) fn line(figures: &Figures) -> String {
    let told = |value: Option<f64>, what: &str| value.map(|value| format!("  {value:.2} {what}")).unwrap_or_default();
    format!(
        "{:>8.0} IOPS {:>7.0} MB/s  p50 {:>6.0} µs  p99 {:>6.0} µs  {:>6.1} µs/I/O{}{}",
        figures.iops,
        figures.megabytes,
        figures.p50_micros,
        figures.p99_micros,
        figures.processor_micros,
        told(figures.barriers, "barriers a flush"),
        told(figures.kernel_barriers, "by the kernel"),
    )
}

/// A figure over all rounds: its median, and both ends where they differ.
fn spread(spread: Option<Spread>, decimals: usize) -> String {
    match spread {
        None => "-".into(),
        Some(Spread { median, min, max }) if min == max => format!("{median:.decimals$}"),
        Some(Spread { median, min, max }) => format!("{median:.decimals$} ({min:.decimals$}..{max:.decimals$})"),
    }
}

/// A table for each workload: every target, and its rate as a share of the disk's and of qemu-nbd's.
pub(crate) fn tables(plan: &Plan, results: &Results) {
    if !results.runs.is_empty() {
        let (rounds, seconds, span) = (plan.rounds, plan.seconds, plan.span_bytes >> 20);
        println!("\nmedians (least..largest) of {rounds} rounds, {seconds} s each, span {span} MiB");
    }
    for workload in results.workloads() {
        println!("\n{workload}");
        let rate = |target: &str| Some(results.spread(workload, target, |figures| figures.iops)?.median);
        let mut targets: Vec<&str> = Vec::new();
        for run in results.runs.iter().filter(|run| run.workload == workload) {
            if !targets.contains(&run.target.as_str()) {
                targets.push(&run.target);
            }
        }
        for target in targets {
            let figure = |figure: fn(&Figures) -> f64| results.spread(workload, target, figure);
            let over = |name: &str| {
                let of = rate(name).filter(|_| target != name)?;
                Some(format!("  × {name} {:.2}", rate(target)? / of))
            };
            let latency = |of: fn(&Figures) -> f64| figure(of).map_or(0.0, |spread| spread.median);
            println!(
                "  {target:<12} {:<24} IOPS  {:<18} µs/I/O  p50 {:>6.0} p99 {:>6.0} p99.9 {:>6.0} µs{}{}",
                spread(figure(|figures| figures.iops), 0),
                spread(figure(|figures| figures.processor_micros), 1),
                latency(|figures| figures.p50_micros),
                latency(|figures| figures.p99_micros),
                latency(|figures| figures.p999_micros),
                over("disk").unwrap_or_default(),
                over("qemu-raw").unwrap_or_default(),
            );
        }
    }
    for missing in &results.missing {
        println!("\nMISSING {}: {}", missing.name, missing.why);
    }
}

/// The goals, met, missed or not measured.
pub(crate) fn goals(verdicts: &[Verdict]) {
    println!("\ngoals");
    for verdict in verdicts.iter().filter(|verdict| verdict.seen.is_some()) {
        let word = match verdict.met {
            Some(true) => "met   ",
            Some(false) => "MISSED",
            None => "told  ",
        };
        println!("  {:<3} {word} {:<46} {:<8} {}", verdict.id, verdict.what, verdict.wanted, spread(verdict.seen, 2));
    }
    let mut absent: Vec<&str> =
        verdicts.iter().filter(|verdict| verdict.seen.is_none()).map(|verdict| verdict.id.as_str()).collect();
    absent.dedup();
    if !absent.is_empty() {
        println!("  not measured in full: {}", absent.join(" "));
    }
}

/// Writes everything into one file below `bench-results/` and says where.
pub(crate) fn write(
    prefix: &str,
    plan: &Plan,
    folder: &Path,
    (before, took_seconds): (&machine::Before, f64),
    results: &Results,
    verdicts: &[Verdict],
) -> Result<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("the crate lies in no workspace")?;
    let output = root.join("bench-results");
    std::fs::create_dir_all(&output)?;
    let time = machine::now();
    let names = |names: Vec<&str>| json!(names);
    let mut options = json!(plan);
    options["folder"] = json!(plan.folder.is_some());
    options["workloads"] = names(plan.workloads.iter().map(|workload| workload.name).collect());
    options["parts"] = names(plan.parts.iter().map(|part| part.name).collect());
    let document = Document {
        time: time.clone(),
        took_seconds,
        commit: machine::commit(root),
        machine: machine::description(before, folder),
        versions: machine::versions(),
        plan: options,
        goals: verdicts.to_vec(),
        medians: medians(results),
        results: results.clone(),
    };
    let file = output.join(format!("{prefix}{time}.json"));
    std::fs::write(&file, serde_json::to_string_pretty(&document)? + "\n")?;
    Ok(file)
}

/// The medians of all runs, in the order in which they were made.
pub(crate) fn medians(results: &Results) -> Vec<Median> {
    let mut medians: Vec<Median> = Vec::new();
    for run in &results.runs {
        if medians.iter().any(|median| median.workload == run.workload && median.target == run.target) {
            continue;
        }
        let of = |figure: fn(&Figures) -> f64| results.spread(&run.workload, &run.target, figure);
        let median = || {
            Some(Median {
                workload: run.workload.clone(),
                target: run.target.clone(),
                iops: of(|figures| figures.iops)?,
                processor_micros: of(|figures| figures.processor_micros)?,
                p50_micros: of(|figures| figures.p50_micros)?,
                p99_micros: of(|figures| figures.p99_micros)?,
                p999_micros: of(|figures| figures.p999_micros)?,
            })
        };
        medians.extend(median());
    }
    medians
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_comes_back_from_its_file_as_it_was() {
        let mut results = Results::default();
        for (round, iops) in [(1, 10.0), (2, 30.0)] {
            results.push(round, "read", "acre", Figures { iops, barriers: Some(1.0), ..Figures::default() });
        }
        results.parts.insert("idle".into(), json!({"percent": 0.01}));
        let document = Document {
            time: "now".into(),
            took_seconds: 1.5,
            commit: "abc".into(),
            machine: json!({"cores": 2}),
            versions: json!({}),
            plan: json!(Plan::default()),
            goals: crate::goals::judge(&results),
            medians: medians(&results),
            results,
        };
        let text = serde_json::to_string_pretty(&document).expect("JSON");
        let back: Document = serde_json::from_str(&text).expect("the same again");
        assert_eq!(serde_json::to_string_pretty(&back).expect("JSON"), text);
        assert_eq!(back.results.runs.len(), 2);
        assert_eq!(back.medians[0].iops, Spread { median: 20.0, min: 10.0, max: 30.0 });
    }

    #[test]
    fn a_spread_is_told_short_where_there_is_none() {
        assert_eq!(spread(Some(Spread { median: 2.0, min: 2.0, max: 2.0 }), 1), "2.0");
        assert_eq!(spread(Some(Spread { median: 2.0, min: 1.0, max: 4.0 }), 0), "2 (1..4)");
        assert_eq!(spread(None, 0), "-");
    }
}
