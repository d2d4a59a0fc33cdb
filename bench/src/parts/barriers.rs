//! How many barriers a flush costs: flushes of the device and commits of the map, as the server counts them, beside the
//! flushes that the kernel sent to the device below (where a file system's own, and other programs', are counted too).

use std::path::Path;

use anyhow::Result;
use serde_json::Value;

use crate::fio::{self, Amount, Figures, Job};
use crate::plan::Plan;
use crate::report;
use crate::results::Results;
use crate::target::{KINDS, Kind, Target};
use crate::workload::EMPTY_BYTES;

const BLOCK: u64 = 4 << 10;
/// Who flushes: the disk itself, the durable peer and us.
const TARGETS: [&str; 3] = ["disk", "qemu-raw", "acre"];
/// Connections that write and flush at once.
const MANY: u32 = 8;
/// First writes before each flush, with the name of the run, and how many flushes there are.
const NEW: [(&str, u64, u64); 3] = [("flush-new-1", 1, 1024), ("flush-new-16", 16, 256), ("flush-new-256", 256, 32)];

/// Measures.
pub(crate) fn run(plan: &Plan, folder: &Path, results: &mut Results) -> Result<Value> {
    let small = Plan { first_writes: 12 << 10, ..plan.over(plan.scale.small_bytes) };
    let mut targets = Vec::new();
    for (name, kind) in KINDS.iter().filter(|(name, _)| TARGETS.contains(name) && plan.wants(name)) {
        targets.push((*kind, Target::prepare(&small, name, *kind, folder)?));
    }
    for round in 1..=plan.rounds {
        for (kind, target) in &targets {
            let mut note = |name: &str, figures: Figures| {
                println!("{round} {name:<15} {:<12} {}", target.name, report::line(&figures));
                results.push(round, name, target.name, figures);
            };
            let job = Job {
                pattern: "randwrite",
                block_bytes: BLOCK,
                depth: 1,
                range: (0, small.span_bytes),
                amount: Amount::Seconds(plan.seconds),
            };
            note("flush-steady", target.observed("bench", |to| fio::job(plan, &job, to, &["--fsync=1"]))?);
            let further = ["--fsync=1".to_owned(), format!("--numjobs={MANY}"), "--group_reporting".to_owned()];
            note("flush-many", target.observed("bench", |to| fio::job(plan, &job, to, &further))?);
            if *kind != Kind::Acre {
                continue;
            }
            for (name, writes, flushes) in NEW {
                let amount = Amount::Bytes(writes * flushes * BLOCK);
                let job = Job { range: (0, EMPTY_BYTES), amount, ..job };
                let further = [format!("--fsync={writes}")];
                note(name, target.on_an_empty_volume(|to| fio::job(plan, &job, to, &further))?);
            }
        }
    }
    Ok(Value::Null)
}
