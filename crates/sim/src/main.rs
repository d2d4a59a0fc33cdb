//! The simulator's command line: many seeds on all cores, or one seed event by event.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, reason = "a program speaks on standard output")]

mod arguments;
mod report;

use arguments::{Arguments, Mode};
use report::Tally;
use sim::{Outcome, PlantedBug, Settings, run_seed};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

fn main() -> ExitCode {
    let arguments = match Arguments::parse(std::env::args().skip(1)) {
        Ok(arguments) => arguments,
        Err(message) => {
            eprintln!("{message}\n\n{}", arguments::USAGE);
            return ExitCode::from(2);
        }
    };
    if !matches!(arguments.mode, Mode::One(_)) {
        // A broken promise is reported with its seed; the panic's own words would only be in the way.
        std::panic::set_hook(Box::new(|_| {}));
    }
    let clean = match arguments.mode {
        Mode::List => list(),
        Mode::One(seed) => one(seed, &arguments),
        Mode::Many(first, count) => many(first, count, &arguments),
        Mode::Planted(first, count) => planted(first, count, &arguments),
        Mode::CrashEvery(seed) => crash_every(seed, &arguments),
    };
    if clean { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn list() -> bool {
    println!("scenarios:");
    sim::Scenario::ALL.iter().for_each(|scenario| println!("  {}", scenario.name()));
    println!("bugs to plant:");
    PlantedBug::all().into_iter().for_each(|bug| println!("  {}", bug.name()));
    true
}

fn one(seed: u64, arguments: &Arguments) -> bool {
    let settings = Settings { printed: arguments.printed, ..arguments.settings(seed) };
    let outcome = run_seed(seed, settings);
    println!(
        "seed {seed} ({}): trace {:016x}, {} operations, {} effects, {} crashes, {} refused as full, {} failed",
        settings.scenario.name(),
        outcome.trace_hash,
        outcome.counts.operations,
        outcome.counts.effects,
        outcome.counts.crashes,
        outcome.counts.refused_full,
        outcome.counts.failed,
    );
    if let Some(violation) = &outcome.violation {
        println!("{violation}");
    }
    outcome.violation.is_none()
}

/// Runs `work` for every number below `count`, on every core. Numbers are taken in order; when `work` says so, no more
/// are begun.
fn on_every_core(count: u64, work: impl Fn(u64) -> bool + Sync) {
    let next = AtomicU64::new(0);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    if index >= count || !work(index) {
                        next.fetch_max(count, Ordering::Relaxed);
                        break;
                    }
                }
            });
        }
    });
}

fn many(first: u64, count: u64, arguments: &Arguments) -> bool {
    let tally = Mutex::new(Tally::default());
    on_every_core(count, |index| {
        let seed = first + index;
        let settings = arguments.settings(seed);
        let outcome = run_seed(seed, settings);
        // One seed in sixteen runs twice: a run that does not repeat itself cannot be replayed.
        let repeats = index % 16 != 0 || run_seed(seed, settings).trace_hash == outcome.trace_hash;
        let mut tally = tally.lock().expect("no run panics while it holds the tally");
        tally.add(seed, settings, &outcome, repeats);
        tally.failures.len() < arguments.failures_max
    });
    let tally = tally.into_inner().expect("no run panics while it holds the tally");
    tally.print(first, count);
    tally.failures.is_empty()
}

fn planted(first: u64, count: u64, arguments: &Arguments) -> bool {
    let bugs = arguments.planted.map_or_else(PlantedBug::all, |bug| vec![bug]);
    let mut all_found = true;
    for bug in bugs {
        let found: Mutex<Option<(u64, Outcome)>> = Mutex::new(None);
        on_every_core(count, |index| {
            let seed = first + index;
            let settings = Settings { planted: Some(bug), ..arguments.settings(seed) };
            let outcome = run_seed(seed, settings);
            let mut found = found.lock().expect("no run panics while it holds the result");
            if outcome.violation.is_some() && found.as_ref().is_none_or(|(other, _)| seed < *other) {
                *found = Some((seed, outcome));
            }
            found.is_none()
        });
        match found.into_inner().expect("no run panics while it holds the result") {
            Some((seed, Outcome { violation: Some(violation), .. })) => {
                let detail: String = violation.detail.chars().take(110).collect();
                println!("{:40} found at seed {seed}: {}: {detail}", bug.name(), violation.invariant.name());
            }
            _ => {
                println!("{:40} NOT FOUND in seeds {first} to {}", bug.name(), first + count - 1);
                all_found = false;
            }
        }
    }
    all_found
}

fn crash_every(seed: u64, arguments: &Arguments) -> bool {
    let settings = Settings { crash_after: Some((u64::MAX, false)), ..arguments.settings(seed) };
    let effects = run_seed(seed, settings).counts.effects;
    let tally = Mutex::new(Tally::default());
    on_every_core(2 * effects / arguments.step, |index| {
        let crash = (1 + index / 2 * arguments.step, index % 2 == 1);
        let settings = Settings { crash_after: Some(crash), ..settings };
        let outcome = run_seed(seed, settings);
        let mut tally = tally.lock().expect("no run panics while it holds the tally");
        tally.add(seed, settings, &outcome, true);
        tally.failures.len() < arguments.failures_max
    });
    let tally = tally.into_inner().expect("no run panics while it holds the tally");
    tally.print_crashes(seed, effects, arguments.step);
    tally.failures.is_empty()
}
