//! One quiet reader, 4 KiB at a time, beside busy connections to the same volume: what its latency becomes.
//!
//! All clients share a core here, as do the reader and its neighbours' fio. The reader's is preferred by the scheduler as far
//! as that is allowed, and the disk itself is measured the same way, so that what the client's core adds can be seen.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::Value;

use crate::fio::{self, Amount, Job};
use crate::plan::Plan;
use crate::report;
use crate::results::Results;
use crate::target::{KINDS, Target};

const TARGETS: [&str; 3] = ["disk", "qemu-raw", "acre"];
/// From the neighbour's start to the reader's: its connections are made and busy by then.
const AHEAD: Duration = Duration::from_millis(500);

/// A neighbour: its name, fio's pattern, bytes of each request, requests in flight, and further arguments.
struct Neighbour(&'static str, &'static str, u64, u32, &'static [&'static str]);

const NEIGHBOURS: [Neighbour; 3] = [
    Neighbour("quiet-beside-64", "randread", 4 << 10, 64, &[]),
    Neighbour("quiet-beside-32m", "read", 32 << 20, 1, &[]),
    Neighbour("quiet-beside-flush", "randwrite", 4 << 10, 1, &["--fsync=1", "--numjobs=4", "--group_reporting"]),
];

/// Measures.
pub(crate) fn run(plan: &Plan, folder: &Path, results: &mut Results) -> Result<Value> {
    let small = plan.over(plan.scale.small_bytes);
    let mut targets = Vec::new();
    for (name, kind) in KINDS.iter().filter(|(name, _)| TARGETS.contains(name) && plan.wants(name)) {
        targets.push(Target::prepare(&small, name, *kind, folder)?);
    }
    let range = (0, small.span_bytes);
    let reader =
        Job { pattern: "randread", block_bytes: 4 << 10, depth: 1, range, amount: Amount::Seconds(plan.seconds) };
    for round in 1..=plan.rounds {
        for target in &targets {
            let mut note = |name: &str, figures| {
                println!("{round} {name:<18} {:<12} {}", target.name, report::line(&figures));
                results.push(round, name, target.name, figures);
            };
            let to = target.destination("bench");
            note("quiet-alone", read(plan, &reader, &to)?);
            for Neighbour(name, pattern, block_bytes, depth, further) in NEIGHBOURS {
                let (seconds, range) = (Amount::Seconds(plan.seconds + 60), range);
                let job = Job { pattern, block_bytes, depth, range, amount: seconds };
                let mut neighbour = fio::start(plan, &job, &to, &[further, &["--nice=10"]].concat())?;
                std::thread::sleep(AHEAD);
                let figures = read(plan, &reader, &to)?;
                ensure!(neighbour.goes_on(), "{name}: the neighbour of the reader has ended early");
                note(name, figures);
            }
        }
    }
    Ok(Value::Null)
}

/// The reader, preferred where that is allowed.
fn read(plan: &Plan, reader: &Job, to: &fio::Destination) -> Result<fio::Figures> {
    fio::job(plan, reader, to, &["--nice=-15"]).or_else(|_| fio::job::<&str>(plan, reader, to, &[]))
}
