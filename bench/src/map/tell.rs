//! What `bench map` prints and leaves.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::map::fill::Figures;
use crate::map::lookup::{Cold, Cost};
use crate::map::measure::TIB;
use crate::map::start::{Start, Starts, Times};
use crate::program::run;

/// What the server spends on a whole 4 KiB read in the goal that bounds it (P1), in nanoseconds.
const REQUEST_BUDGET_NANOS: f64 = 6_000.0;

/// Creating volumes.
pub(crate) fn create(median_millis: f64, worst_millis: f64, commit_millis: f64, bytes: u64) {
    println!("creating a 1 PiB volume");
    println!(
        "  {median_millis:.2} ms (worst {worst_millis:.2} ms; the store's commit {commit_millis:.2} ms on average), {bytes} bytes of metadata"
    );
}

/// A fill.
pub(crate) fn fill(name: &str, figures: &Figures) {
    let Figures { regions, extents, adjoining, .. } = figures;
    let share = *adjoining as f64 / (*regions).max(1) as f64;
    println!(
        "\n{name}: {} writes, {} flushes, {} mapped",
        figures.writes,
        figures.flushes,
        size(figures.mapped_bytes as f64)
    );
    println!(
        "  regions              {regions} in {extents} extents; {:.1} % put beside a neighbour; fragmentation {:.4}",
        share * 100.0,
        figures.fragmentation
    );
    println!(
        "  granted, not mapped  {} regions ({:.1} % of those mapped)",
        figures.granted_regions,
        figures.granted_regions as f64 / (*regions).max(1) as f64 * 100.0
    );
    println!(
        "  agent's table        {} resident; {} a TiB, {:.2} bytes a region",
        size(figures.table_bytes as f64),
        size(figures.table_bytes_per_tib),
        figures.table_bytes_per_region
    );
    println!(
        "  controller           {} resident after a start; {} a TiB",
        size(figures.controller_bytes as f64),
        size(figures.controller_bytes_per_tib)
    );
    println!(
        "    both               {} a TiB (P9, contiguous: 1 MiB)",
        size(figures.table_bytes_per_tib + figures.controller_bytes_per_tib)
    );
    println!(
        "  metadata             {} in keys and values; {} a TiB, {:.2} bytes a region",
        size(figures.metadata_bytes as f64),
        size(figures.metadata_bytes_per_tib),
        figures.metadata_bytes_per_region
    );
    println!(
        "    table {} in {} pairs ({} folded), allocation {}, {} grants",
        size(figures.table_stored_bytes as f64),
        figures.table_pairs,
        size(figures.table_folded_bytes as f64),
        size(figures.allocation_stored_bytes as f64),
        figures.grant_pairs
    );
    println!(
        "  file                 {} as it is, {} written afresh",
        size(figures.file_bytes as f64),
        size(figures.file_compacted_bytes as f64)
    );
    println!(
        "  time                 {:.1} s; {:.0} ns a write, {:.0} ns without the store's {} transactions ({} commits)",
        figures.seconds, figures.nanos_per_write, figures.engine_nanos_per_write, figures.transactions, figures.commits
    );
    if let (Some(all), Some(engines)) = (figures.nanos_per_region, figures.engine_nanos_per_region) {
        println!("                       {all:.0} ns a region mapped, {engines:.0} ns without the transactions");
    }
}

/// Reads of a map that does not fit in memory.
pub(crate) fn cold(cold: &Cold) {
    println!(
        "  with {} of {} in memory: {:.0} ns; {:.1} % of reads miss a page, which costs {:.1} µs (P10: one metadata read)",
        size(cold.limit_bytes as f64),
        size(cold.table_bytes as f64),
        cold.request_nanos,
        cold.missed * 100.0,
        cold.page_nanos / 1e3
    );
}

/// Look-ups over the spans, the smallest first.
pub(crate) fn costs(name: &str, costs: &[Cost]) {
    println!("\na 4 KiB read at random, {name}");
    for cost in costs {
        println!(
            "  over {:>10} ({:>3.0} % from disk)  {:>5.0} ns through the agent; table alone {:>4.0} ns resolved, {:>4.0} ns looked up",
            size(cost.span_bytes as f64),
            cost.from_disk * 100.0,
            cost.request_nanos,
            cost.resolve_nanos,
            cost.entry_nanos
        );
    }
    if let [small, .., large] = costs {
        let more = large.request_nanos - small.request_nanos;
        println!(
            "  rate, large span : small span  {:.2} of the engine alone; {:.3} of a server that spends {:.0} µs a read (P10: 0.95)",
            small.request_nanos / large.request_nanos,
            REQUEST_BUDGET_NANOS / (REQUEST_BUDGET_NANOS + more),
            REQUEST_BUDGET_NANOS / 1e3
        );
    }
}

/// Starts.
pub(crate) fn start(start: &Start) {
    println!(
        "\nstarting after kill -9 with {} mapped, {} of it scattered (built in {:.0} s)",
        size(start.mapped_bytes as f64),
        size(start.scattered_bytes as f64),
        start.built_seconds
    );
    println!(
        "  file {}, metadata {} (allocation {}, {} grants), controller {} resident",
        size(start.file_bytes as f64),
        size(start.metadata_bytes as f64),
        size(start.allocation_bytes as f64),
        start.grant_pairs,
        size(start.controller_bytes as f64)
    );
    starts(&start.starts);
}

/// Starts from copies of one store.
pub(crate) fn starts(starts: &Starts) {
    for (name, times) in [("warm", &starts.warm), ("cold", &starts.cold)] {
        let mut sorted: Vec<Times> = times.clone();
        sorted.sort_by(|one, other| one.total.total_cmp(&other.total));
        let (Some(median), Some(worst)) = (sorted.get(sorted.len() / 2), sorted.last()) else { continue };
        println!(
            "  {name}: {:.0} ms to the first answer, worst {:.0} (open {:.1}, recover {:.1}, start {:.1}, attach {:.1}, first read {:.1})  (P14: 1000)",
            median.total, worst.total, median.open, median.recover, median.start, median.attach, median.first_read
        );
    }
}

/// Bytes as people read them.
fn size(bytes: f64) -> String {
    let units = [(TIB as f64, "TiB"), (1_073_741_824.0, "GiB"), (1_048_576.0, "MiB"), (1024.0, "KiB")];
    match units.into_iter().find(|(unit, _)| bytes >= *unit) {
        Some((unit, name)) => format!("{:.2} {name}", bytes / unit),
        None => format!("{bytes:.0} B"),
    }
}

/// Writes the results into a file of their own below `bench-results/` and says where.
pub(crate) fn write(results: &Value) -> Result<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("the crate lies in no workspace")?;
    let folder = root.join("bench-results");
    std::fs::create_dir_all(&folder)?;
    let said =
        |command: &mut Command| run(command).map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned());
    let now = said(Command::new("date").args(["-u", "+%Y%m%dT%H%M%SZ"]));
    let commit = said(Command::new("git").args(["describe", "--always", "--dirty"]).current_dir(root));
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let document = json!({"time": now, "commit": commit, "load": load.trim(), "map": results});
    let file = folder.join(format!("map-{now}.json"));
    std::fs::write(&file, serde_json::to_string_pretty(&document)?)?;
    Ok(file)
}
