//! The tables on the terminal.

use crate::plan::Plan;
use crate::report;
use crate::results::Results;
use crate::snapshots::rounds::ORDER;

const TARGETS: [&str; 3] = ["acre", "qcow2", "qcow2-ext"];

/// A table for each workload: every target, and our rate over it.
pub(crate) fn tables(plan: &Plan, results: &Results) {
    if results.runs.is_empty() {
        return;
    }
    println!("\nmedians of {} rounds over {} MiB", plan.rounds, plan.span_bytes >> 20);
    for (workload, _) in ORDER.into_iter().flatten() {
        println!("\n{workload}");
        let ours = results.median(workload, "acre").map(|figures| figures.iops);
        for target in TARGETS {
            let Some(figures) = results.median(workload, target) else { continue };
            let share = ours.map_or("-".into(), |ours| format!("{:.2}", ours / figures.iops));
            println!("  {target:<10} {}  ours × {share}", report::line(figures));
        }
    }
    for missing in &results.missing {
        println!("\nMISSING {}: {}", missing.name, missing.why);
    }
}
