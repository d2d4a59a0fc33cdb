//! The tables of `docs/performance.md`.

use std::fmt::Write;

use serde_json::Value;

use crate::fio::Figures;
use crate::plot::{COPIES, FAIRNESS, LARGE, SMALL, TARGETS};
use crate::report::Document;
use crate::results::Spread;

/// Every table, with the name of its marks.
pub(crate) fn all(document: &Document) -> Vec<(&'static str, String)> {
    let rate = |figures: &Figures| figures.iops;
    let first = [("first-4k-qd1", "first write, 1 deep"), ("first-4k-qd16", "first write, 16")];
    let small: Vec<_> = SMALL.into_iter().chain(first).collect();
    let flushes = [
        ("flush-steady", "4K write and flush, one connection"),
        ("flush-many", "the same, eight connections"),
        ("flush-new-1", "a new mapping each"),
        ("flush-new-16", "16 new mappings each"),
        ("flush-new-256", "256 new mappings each"),
    ];
    vec![
        ("run", run(document)),
        ("goals", goals(document)),
        ("small", table(document, "4 KiB random: IOPS (µs)", &small, &|f| Some(thousands(f(rate)?, f(processor)?)))),
        (
            "large",
            table(document, "sequential: MB/s (µs)", &LARGE, &|f| {
                Some(format!("{:.0} ({:.0})", f(|figures| figures.megabytes)?.median, f(processor)?.median))
            }),
        ),
        (
            "latency",
            table(document, "p50 / p99 / p99.9, µs", &SMALL, &|f| {
                let of = |figure: fn(&Figures) -> f64| Some(f(figure)?.median);
                let (p50, p99) = (of(|figures| figures.p50_micros)?, of(|figures| figures.p99_micros)?);
                Some(format!("{p50:.0} / {p99:.0} / {:.0}", of(|figures| figures.p999_micros)?))
            }),
        ),
        (
            "copies",
            table(document, "4 KiB random, 16 deep: IOPS (µs)", &COPIES, &|f| {
                Some(thousands(f(rate)?, f(processor)?))
            }),
        ),
        (
            "flushes",
            table(document, "IOPS; barriers a flush (seen by the kernel)", &flushes, &|f| {
                let told = |value: Option<Spread>| value.map_or("–".into(), |spread| format!("{:.2}", spread.median));
                let ours = f(|figures| figures.barriers.unwrap_or(f64::NAN));
                let kernel = f(|figures| figures.kernel_barriers.unwrap_or(f64::NAN));
                Some(format!("{:.0}; {} ({})", f(rate)?.median, told(ours), told(kernel)))
            }),
        ),
        (
            "fairness",
            table(document, "a reader, 1 deep: p50 / p99, µs", &FAIRNESS, &|f| {
                let p99 = f(|figures| figures.p99_micros)?.median;
                Some(format!("{:.0} / {p99:.0}", f(|figures| figures.p50_micros)?.median))
            }),
        ),
        ("others", others(document)),
    ]
}

fn processor(figures: &Figures) -> f64 {
    figures.processor_micros
}

fn thousands(rate: Spread, processor: Spread) -> String {
    format!("{:.1}k ({:.1})", rate.median / 1000.0, processor.median)
}

/// Gives one figure of a workload on a target over all rounds.
type Lookup<'a> = &'a dyn Fn(fn(&Figures) -> f64) -> Option<Spread>;

/// A row for each workload, a column for each target that was measured.
fn table(
    document: &Document,
    head: &str,
    workloads: &[(&str, &str)],
    cell: &dyn Fn(Lookup<'_>) -> Option<String>,
) -> String {
    let results = &document.results;
    let is_there = |workload: &str, target: &str| results.median(workload, target).is_some();
    let targets: Vec<_> = TARGETS
        .iter()
        .filter(|(target, ..)| workloads.iter().any(|(workload, _)| is_there(workload, target)))
        .collect();
    if targets.is_empty() {
        return "Not measured in this run.".into();
    }
    let names: Vec<&str> = targets.iter().map(|(_, name, _)| *name).collect();
    let mut text = format!("| {head} | {} |\n|---|{}\n", names.join(" | "), "---|".repeat(names.len()));
    for (workload, label) in workloads {
        if !targets.iter().any(|(target, ..)| is_there(workload, target)) {
            continue;
        }
        let cells: Vec<String> = targets
            .iter()
            .map(|(target, ..)| cell(&|figure| results.spread(workload, target, figure)).unwrap_or_else(|| "–".into()))
            .collect();
        writeln!(text, "| {label} | {} |", cells.join(" | ")).ok();
    }
    text
}

/// When, where and with what.
fn run(document: &Document) -> String {
    let said = |value: &Value, name: &str| match &value[name] {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let machine = |name| said(&document.machine, name);
    let version = |name| said(&document.versions, name);
    let plan = |name: &str| document.plan[name].as_u64().unwrap_or_default();
    let gibibytes = |value: &Value| value.as_f64().unwrap_or_default() / 1_073_741_824.0;
    let rows = [
        ("when, commit", format!("{}, {}", document.time, document.commit)),
        ("processor", format!("{}, {} cores", machine("processor"), machine("cores"))),
        ("memory", format!("{:.1} GiB", gibibytes(&document.machine["memory_bytes"]))),
        ("kernel, file system", format!("{}, {}", machine("kernel"), machine("file_system"))),
        (
            "others on it",
            format!(
                "load before: {}; {:.1} % of the time stolen by the machine below",
                machine("load_before").split(' ').next().unwrap_or_default(),
                document.machine["stolen_percent"].as_f64().unwrap_or_default()
            ),
        ),
        ("client and peers", format!("{}; {}; {}", version("fio"), version("nbdkit"), version("qemu-nbd"))),
        (
            "options",
            format!(
                "{}: {} rounds of {} s over {:.2} GiB; {:.0} s altogether",
                said(&document.plan, "preset"),
                plan("rounds"),
                plan("seconds"),
                gibibytes(&document.plan["span_bytes"]),
                document.took_seconds
            ),
        ),
    ];
    let mut text = "| | |\n|---|---|\n".to_owned();
    for (name, value) in rows {
        writeln!(text, "| {name} | {value} |").ok();
    }
    for missing in &document.results.missing {
        writeln!(text, "| missing | {}: {} |", missing.name, missing.why.replace(['\n', '|'], " ")).ok();
    }
    text
}

fn goals(document: &Document) -> String {
    let mut text = "| goal | | asked | measured (least..largest) | |\n|---|---|---|---|---|\n".to_owned();
    for verdict in &document.goals {
        let seen = verdict.seen.map_or("not measured".into(), |Spread { median, min, max }| {
            if min == max { format!("{median:.2}") } else { format!("{median:.2} ({min:.2}..{max:.2})") }
        });
        let word = match verdict.met {
            Some(true) => "met",
            Some(false) => "**missed**",
            None => "–",
        };
        writeln!(text, "| {} | {} | {} | {seen} | {word} |", verdict.id, verdict.what, verdict.wanted).ok();
    }
    let count = |met| document.goals.iter().filter(|verdict| verdict.met == Some(met)).count();
    writeln!(text, "\n{} met, {} missed.", count(true), count(false)).ok();
    text
}

/// What the parts tell besides.
fn others(document: &Document) -> String {
    let rows = [
        ("reads all over a mapped TiB, 64 deep: IOPS", rate(document, "span-wide"), 0),
        ("the same over 4 GiB", rate(document, "span-near"), 0),
        ("first read of a table page, µs", document.results.told("/span/cold_page_micros"), 0),
        ("later reads of it, µs", document.results.told("/span/warm_page_micros"), 0),
        ("two volumes, one thread: IOPS", rate(document, "reactors-1"), 0),
        ("two volumes, two threads: IOPS", rate(document, "reactors-2"), 0),
        ("idle server: woken so often a second", document.results.told("/idle/wakes_per_second"), 1),
        ("start after kill -9, ms to the first answer", document.results.told("/span/start_millis"), 0),
        ("snapshot under load, ms", document.results.told("/pause/answer_millis"), 2),
        ("snapshot of a fully mapped volume, ms", document.results.told("/table/full_create_millis"), 2),
        ("metadata of a snapshot, bytes", document.results.told("/table/full_metadata_bytes"), 0),
        ("agent's table a region, written at random, bytes", document.results.told("/fill/random_bytes_per_region"), 1),
    ];
    let mut text = "| | median (least..largest) |\n|---|---|\n".to_owned();
    for (name, seen, decimals) in rows {
        let Some(Spread { median, min, max }) = seen else { continue };
        let ends = if min == max { String::new() } else { format!(" ({min:.decimals$}..{max:.decimals$})") };
        writeln!(text, "| {name} | {median:.decimals$}{ends} |").ok();
    }
    text
}

fn rate(document: &Document, workload: &str) -> Option<Spread> {
    document.results.spread(workload, "acre", |figures| figures.iops)
}
