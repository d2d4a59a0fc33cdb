//! `bench plot`: the pictures and the tables of one run, made from its results file, into `docs/`.

mod chart;
mod page;
mod svg;
mod tables;

use std::path::Path;

use anyhow::{Context, Result};

use self::chart::{Bars, Curve, Curves, Group};
use crate::fio::{Figures, PERCENTILES};
use crate::report::Document;

/// The colour of each target, the same in every picture: the floors grey, the peers muted, ours strong.
const TARGETS: [(&str, &str, &str); 7] = [
    ("disk", "the disk itself", "#6b7280"),
    ("nbdkit-null", "nbdkit null", "#c3c8d0"),
    ("nbdkit-file", "nbdkit file (page cache)", "#e3c567"),
    ("qemu-raw", "qemu-nbd raw", "#79a6d2"),
    ("qcow2", "qemu-nbd qcow2", "#a58bc9"),
    ("qcow2-ext", "qcow2, subclusters", "#d3a4c8"),
    ("acre", "Acreage", "#d9480f"),
];

const SMALL: [(&str, &str); 6] = [
    ("read-4k-qd1", "read, 1 deep"),
    ("read-4k-qd16", "read, 16"),
    ("read-4k-qd64", "read, 64"),
    ("write-4k-qd1", "write, 1"),
    ("write-4k-qd16", "write, 16"),
    ("write-4k-qd64", "write, 64"),
];
const LARGE: [(&str, &str); 4] = [
    ("read-64k-qd16", "read 64K, 16 deep"),
    ("write-64k-qd16", "write 64K, 16"),
    ("read-1m-qd4", "read 1M, 4"),
    ("write-1m-qd4", "write 1M, 4"),
];
const COPIES: [(&str, &str); 4] = [
    ("rewrite-4k-qd16", "rewrite"),
    ("snap1-4k-qd16", "after a snapshot"),
    ("series-4k-qd16", "after a series"),
    ("clone-4k-qd16", "into a clone"),
];
const FAIRNESS: [(&str, &str); 4] = [
    ("quiet-alone", "alone"),
    ("quiet-beside-64", "beside 64 reads"),
    ("quiet-beside-32m", "beside 32 MiB reads"),
    ("quiet-beside-flush", "beside flushes"),
];
const LATENCY: [(&str, &str, &str); 2] = [
    ("latency-read.svg", "read-4k-qd1", "4 KiB random reads, 1 deep: latency"),
    ("latency-write.svg", "write-4k-qd1", "4 KiB random writes, 1 deep: latency"),
];

/// Below which table a picture stands, and what it shows to those who cannot see it.
const PICTURES: [(&str, &str, &str); 7] = [
    ("small", "throughput-small.svg", "Rates of 4 KiB random reads and writes"),
    ("small", "processor.svg", "Processor time of the server for each of them"),
    ("large", "throughput-large.svg", "Throughput of sequential reads and writes"),
    ("latency", "latency-read.svg", "Latency of single reads"),
    ("latency", "latency-write.svg", "Latency of single writes"),
    ("copies", "copies.svg", "Rates of writes after snapshots and into clones"),
    ("fairness", "fairness.svg", "Latency of a quiet reader beside busy neighbours"),
];

/// Draws and writes.
pub(crate) fn run(arguments: &[String]) -> Result<()> {
    let [file] = arguments else { anyhow::bail!("cargo xtask bench plot FILE.json") };
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {file}"))?;
    let document: Document = serde_json::from_str(&text).with_context(|| format!("{file} is of no run"))?;
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("the crate lies in no workspace")?.join("docs");
    let folder = docs.join("performance");
    std::fs::create_dir_all(&folder)?;
    let mut drawn = Vec::new();
    for (name, picture) in pictures(&document) {
        std::fs::write(folder.join(name), picture)?;
        println!("docs/performance/{name}");
        drawn.push(name);
    }
    let path = docs.join("performance.md");
    let mut page = std::fs::read_to_string(&path)?;
    for (name, body) in tables::all(&document) {
        let shown = PICTURES.iter().filter(|(table, picture, _)| *table == name && drawn.contains(picture));
        let shown = shown.map(|(_, picture, what)| format!("\n\n![{what}](performance/{picture})"));
        page = page::replace(&page, name, &(body.trim_end().to_owned() + &shown.collect::<String>()))?;
    }
    std::fs::write(&path, page)?;
    println!("docs/performance.md");
    Ok(())
}

/// Every picture for which there are figures, with the name of its file.
fn pictures(document: &Document) -> Vec<(&'static str, String)> {
    let rate = |figures: &Figures| figures.iops / 1000.0;
    let bars = [
        ("throughput-small.svg", bars(document, "4 KiB random I/O: thousand I/Os a second", &SMALL, rate, false)),
        ("throughput-large.svg", bars(document, "Sequential I/O: MB/s", &LARGE, |figures| figures.megabytes, false)),
        (
            "processor.svg",
            bars(
                document,
                "Processor time of the server for each 4 KiB I/O, µs (the disk: the client's own)",
                &SMALL,
                |figures| figures.processor_micros,
                false,
            ),
        ),
        ("copies.svg", bars(document, "4 KiB random writes, 16 deep: thousand I/Os a second", &COPIES, rate, false)),
        (
            "fairness.svg",
            bars(
                document,
                "A quiet reader's p99 latency, ms (logarithmic)",
                &FAIRNESS,
                |f| f.p99_micros / 1000.0,
                true,
            ),
        ),
    ];
    let mut pictures: Vec<(&str, String)> =
        bars.into_iter().filter_map(|(name, bars)| Some((name, bars.draw()?))).collect();
    for (name, workload, title) in LATENCY {
        pictures.extend(curves(document, workload, title).draw().map(|picture| (name, picture)));
    }
    pictures
}

fn bars(
    document: &Document,
    title: &str,
    workloads: &[(&str, &str)],
    figure: fn(&Figures) -> f64,
    logarithmic: bool,
) -> Bars {
    let results = &document.results;
    let targets: Vec<_> = TARGETS
        .iter()
        .filter(|(target, ..)| workloads.iter().any(|(workload, _)| results.median(workload, target).is_some()))
        .collect();
    let groups = workloads
        .iter()
        .map(|(workload, label)| Group {
            label: (*label).into(),
            bars: targets.iter().map(|(target, ..)| results.spread(workload, target, figure)).collect(),
        })
        .filter(|group| group.bars.iter().any(Option::is_some))
        .collect();
    let series = targets.iter().map(|(_, label, colour)| ((*label).into(), (*colour).into())).collect();
    Bars { title: title.into(), series, groups, logarithmic }
}

fn curves(document: &Document, workload: &str, title: &str) -> Curves {
    let curve = |(target, label, colour): &(&str, &str, &str)| {
        let figures = document.results.median(workload, target)?;
        let points = PERCENTILES.iter().zip(figures.percentiles_micros);
        Some(Curve {
            label: (*label).into(),
            colour: (*colour).into(),
            points: points.filter(|(_, micros)| *micros > 0.0).map(|(percent, micros)| (*percent, micros)).collect(),
        })
    };
    Curves { title: title.into(), curves: TARGETS.iter().filter_map(curve).collect() }
}
