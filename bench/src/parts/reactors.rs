//! Two busy volumes on one thread of the server, and on two.
//!
//! With four cores or more the server has two of them and the clients others, and the rate is what counts. Where clients
//! take the cores, only the processor time of an I/O can show that two threads do not stand in each other's way.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::fio::{self, Amount, Figures, Job};
use crate::plan::Plan;
use crate::report;
use crate::results::{Results, Spread};
use crate::target::{Kind, Target};

const DEEP: u32 = 32;

/// Measures.
pub(crate) fn run(plan: &Plan, folder: &Path, results: &mut Results) -> Result<Value> {
    let cores = std::thread::available_parallelism()?.get();
    let is_enough = cores >= 4;
    let lists = if is_enough { ("0,1".to_owned(), format!("2-{}", cores - 1)) } else { ("0,1".into(), "0,1".into()) };
    let mut targets = Vec::new();
    for (name, threads) in [("reactors-1", 1), ("reactors-2", 2)] {
        let plan = Plan {
            cores: lists.clone(),
            threads: Some(threads),
            // The second volume takes as much again.
            first_writes: plan.scale.small_bytes / 2 / (64 << 10),
            ..plan.over(plan.scale.small_bytes / 2)
        };
        let target = Target::prepare(&plan, name, Kind::Acre, folder)?;
        let second = second_volume(&plan, &target)?;
        fio::fill(&plan, &target.destination(&second))?;
        targets.push((plan, target, second));
    }
    for round in 1..=plan.rounds {
        for (plan, target, second) in &targets {
            let figures = both(plan, target, second)?;
            println!("{round} {:<15} {:<12} {}", target.name, "acre", report::line(&figures));
            results.push(round, target.name, "acre", figures);
        }
    }
    let ratios: Vec<f64> = (1..=plan.rounds)
        .filter_map(|round| {
            let rate = |name| results.round(round, name, "acre").map(|figures| figures.iops);
            Some(rate("reactors-2")? / rate("reactors-1")?)
        })
        .collect();
    ensure!(Spread::of(ratios.iter().copied()).is_some(), "there were rounds");
    let name = if is_enough { "rate_ratio" } else { "shared_rate_ratio" };
    Ok(json!({"cores": cores, "server_cores": lists.0, "client_cores": lists.1, name: ratios}))
}

/// Makes a volume that lives on the other thread, and gives its name: volumes are dealt out by their numbers.
fn second_volume(plan: &Plan, target: &Target) -> Result<String> {
    let number = |value: &Value| value["id"].as_u64().context("a volume has a number");
    let first = number(&target.acre(&["volume", "show", "bench"])?)?;
    for name in ["second", "third"] {
        target.acre(&["volume", "create", name, &plan.span_bytes.to_string()])?;
        if number(&target.acre(&["volume", "show", name])?)? % 2 != first % 2 {
            return Ok(name.into());
        }
    }
    anyhow::bail!("volumes are not numbered one by one")
}

/// Random reads of both volumes at once, taken together.
fn both(plan: &Plan, target: &Target, second: &str) -> Result<Figures> {
    let job = Job {
        pattern: "randread",
        block_bytes: 4 << 10,
        depth: DEEP,
        range: (0, plan.span_bytes),
        amount: Amount::Seconds(plan.seconds),
    };
    target.observed("bench", |to| {
        let other = fio::start::<&str>(plan, &job, &target.destination(second), &[])?;
        let one = fio::job::<&str>(plan, &job, to, &[])?;
        let other = other.figures()?;
        Ok(Figures {
            iops: one.iops + other.iops,
            megabytes: one.megabytes + other.megabytes,
            ios: one.ios + other.ios,
            p50_micros: one.p50_micros.max(other.p50_micros),
            p99_micros: one.p99_micros.max(other.p99_micros),
            p999_micros: one.p999_micros.max(other.p999_micros),
            ..one
        })
    })
}
