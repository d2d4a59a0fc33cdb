//! `cargo xtask mutants`: breaks the server on purpose, one small bug at a time, and demands that the end-to-end tests
//! notice. A test that passes on a broken server shows nothing when it passes on ours.

mod copy;
pub(crate) mod list;
mod verdict;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Result, anyhow, ensure};

use crate::clients;
use crate::tree;
use copy::Copy;
use list::Mutant;
use verdict::Verdict;

/// What became of one mutant.
struct Outcome {
    name: String,
    /// What is wrong: a test that did not fail, or the one that should have passed.
    complaints: Vec<String>,
    tests: usize,
    seconds: f64,
}

/// Runs the mutants named, or all of them; true when every one was noticed by every test that must notice it.
pub(crate) fn run(arguments: &[String]) -> Result<bool> {
    let mutants = list::read()?;
    if arguments.first().is_some_and(|first| first == "list") {
        print_list(&mutants);
        return Ok(true);
    }
    let faults = list::faults(&mutants, &tree::root())?;
    ensure!(faults.is_empty(), "{} does not fit the checkout:\n{}", list::FILE, faults.join("\n"));
    let mut mutants = list::chosen(mutants, arguments)?;
    // Neighbours in one crate leave the others as they are built.
    mutants.sort_by(|one, other| one.file.cmp(&other.file));
    clients::prepare(clients::OF_TESTS)?;
    let mut copy = Copy::refreshed()?;
    if !unbroken_passes(&copy, &mutants)? {
        return Ok(false);
    }
    let outcomes = judge_all(&mut copy, &mutants)?;
    copy.restore()?;
    Ok(close(&outcomes))
}

/// Runs the tests of each mutant while the next one is being built.
fn judge_all(copy: &mut Copy, mutants: &[Mutant]) -> Result<Vec<Outcome>> {
    let mut outcomes = Vec::new();
    let Some(first) = mutants.first() else { return Ok(outcomes) };
    let mut built = build(copy, first, "mutant-0");
    for (index, mutant) in mutants.iter().enumerate() {
        let began = Instant::now();
        let (complaints, next) = std::thread::scope(|scope| {
            // Two names in turn: the one under test stays as it is.
            let aside = if index % 2 == 0 { "mutant-1" } else { "mutant-0" };
            let next = mutants.get(index + 1).map(|next| scope.spawn(|| build(copy, next, aside)));
            let complaints = match built {
                Ok(acre) => complaints(mutant, &acre),
                Err(error) => Ok(vec![format!("{error:#}")]),
            };
            (complaints, next.map(|next| next.join().unwrap_or_else(|_| Err(anyhow!("its build panicked")))))
        });
        let (tests, seconds) = (mutant.tests.len(), began.elapsed().as_secs_f64());
        let outcome = Outcome { name: mutant.name.clone(), complaints: complaints?, tests, seconds };
        print_outcome(&outcome);
        outcomes.push(outcome);
        built = next.unwrap_or_else(|| Err(anyhow!("there is no further mutant")));
    }
    Ok(outcomes)
}

fn build(copy: &mut Copy, mutant: &Mutant, aside: &str) -> Result<PathBuf> {
    copy.mutate(mutant)?;
    copy.build(aside)
}

/// The unbroken server, built the same way, must pass every test that is about to fail.
fn unbroken_passes(copy: &Copy, mutants: &[Mutant]) -> Result<bool> {
    let acre = copy.build("unbroken")?;
    let tests: BTreeSet<&str> =
        mutants.iter().flat_map(|mutant| mutant.tests.iter().chain([&mutant.spares])).map(String::as_str).collect();
    println!("── {} tests against the server as it is", tests.len());
    let tests: Vec<&str> = tests.into_iter().collect();
    let verdicts = verdict::of(&tests, &acre)?;
    let bad: Vec<&String> =
        verdicts.iter().filter(|(_, verdict)| **verdict != Verdict::Passed).map(|(test, _)| test).collect();
    for test in &bad {
        println!("{test} does not pass on the server as it is: nothing can be learnt from its failing");
    }
    Ok(bad.is_empty())
}

/// Runs a mutant's tests: each must fail, and the one that is spared must pass.
fn complaints(mutant: &Mutant, acre: &Path) -> Result<Vec<String>> {
    let tests: Vec<&str> = mutant.tests.iter().chain([&mutant.spares]).map(String::as_str).collect();
    let mut complaints = Vec::new();
    for (test, verdict) in verdict::of(&tests, acre)? {
        let wanted = if test == mutant.spares { Verdict::Passed } else { Verdict::Failed };
        if verdict != wanted {
            complaints.push(match verdict {
                Verdict::Passed => format!("{test} noticed nothing (or was skipped)"),
                Verdict::Failed => format!("{test} fails too: the server is too broken to tell"),
                Verdict::Unfinished => format!("{test} did not come to an end"),
            });
        }
    }
    Ok(complaints)
}

fn print_outcome(outcome: &Outcome) {
    let verdict = if outcome.complaints.is_empty() { "noticed" } else { "SURVIVED" };
    println!("{verdict:>9}  {:<58} {:>2} tests {:>4.0} s", outcome.name, outcome.tests, outcome.seconds);
    for complaint in &outcome.complaints {
        println!("           {complaint}");
    }
}

/// Names the survivors once more, counts, and gives whether there was none.
fn close(outcomes: &[Outcome]) -> bool {
    let survivors: Vec<&Outcome> = outcomes.iter().filter(|outcome| !outcome.complaints.is_empty()).collect();
    if !survivors.is_empty() {
        println!("\nnot noticed as they should be:");
        survivors.into_iter().for_each(print_outcome);
    }
    let noticed = outcomes.iter().filter(|outcome| outcome.complaints.is_empty()).count();
    let failures: usize = outcomes.iter().map(|outcome| outcome.tests).sum();
    println!("{noticed} of {} mutants noticed, {failures} failures demanded", outcomes.len());
    noticed == outcomes.len()
}

fn print_list(mutants: &[Mutant]) {
    for mutant in mutants {
        println!("{}: {} ({})", mutant.name, mutant.why, mutant.file);
        for test in &mutant.tests {
            println!("    {test}");
        }
    }
}
