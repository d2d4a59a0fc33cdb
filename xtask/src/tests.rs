//! `cargo xtask test`: everything a change must pass, with one closing line.
//!
//! All of it runs in the dev profile (lightly optimised): one build serves the unit tests, the simulator and the end-to-end
//! tests, and debug assertions stay on in all three.

use std::process::Command;
use std::time::Instant;

use anyhow::{Result, bail};

use crate::process::{Tally, cargo, counted, passes};
use crate::{clients, fuzz, tree};

/// How many simulator seeds a test run takes, unless `ACRE_SIM_SEEDS` says otherwise.
const SIM_SEEDS: u32 = 2_000;

/// How long the fuzz smoke lasts, over all targets.
const FUZZ_SECONDS: u32 = 20;

const STEPS: &[&str] = &["format", "unit", "sim", "fuzz", "e2e"];

/// Runs the steps named, or all of them; true when nothing failed.
pub(crate) fn run(arguments: &[String]) -> Result<bool> {
    if let Some(unknown) = arguments.iter().find(|step| !STEPS.contains(&step.as_str())) {
        bail!("no step is called {unknown:?}; the steps are: {}", STEPS.join(", "));
    }
    let wanted = |step: &str| arguments.is_empty() || arguments.iter().any(|argument| argument == step);
    let mut total = Tally::default();
    let mut lines = Vec::new();
    if wanted("e2e") {
        clients::prepare(clients::OF_TESTS)?;
    }
    let built = if wanted("sim") || wanted("fuzz") || wanted("e2e") { build()? } else { true };
    if !built {
        println!("0 passed, 1 failed");
        return Ok(false);
    }
    for step in STEPS.iter().filter(|step| wanted(step)) {
        let began = Instant::now();
        let tally = perform(step)?;
        let seconds = began.elapsed().as_secs_f64();
        lines.push(format!("{step:>8}: {} passed, {} failed ({seconds:.0} s)", tally.passed, tally.failed));
        total.add(tally);
    }
    println!("\n{}", lines.join("\n"));
    println!("{} passed, {} failed", total.passed, total.failed);
    Ok(total.clean())
}

/// Builds programs and tests together, so that one resolution of features serves every step.
///
/// The simulator is built apart: it turns on the switches for planted bugs, which the server under test must not have.
fn build() -> Result<bool> {
    let server = passes(&mut cargo(&["build", "--workspace", "--exclude", "sim", "--lib", "--bins", "--tests"]))?;
    Ok(server && passes(&mut cargo(&["build", "--package", "sim", "--lib", "--bins", "--tests"]))?)
}

fn perform(step: &str) -> Result<Tally> {
    let programs = tree::programs("debug")?;
    match step {
        "format" => Ok(Tally::one(passes(&mut cargo(&["fmt", "--all", "--check"]))?)),
        "unit" => {
            // By these selections no feature of any dependency differs from what was built.
            let of_server = ["test", "--workspace", "--exclude", "sim", "--no-fail-fast"];
            let mut tally = counted(cargo(&of_server).args(["--lib", "--bins"]))?;
            tally.add(counted(cargo(&of_server).args(["--exclude", "e2e", "--test", "*"]))?);
            tally.add(counted(&mut cargo(&[
                "test",
                "--package",
                "sim",
                "--lib",
                "--bins",
                "--tests",
                "--no-fail-fast",
            ]))?);
            Ok(tally)
        }
        "sim" => {
            let seeds = std::env::var("ACRE_SIM_SEEDS").unwrap_or_else(|_| SIM_SEEDS.to_string());
            // That every planted bug is found is a test of the simulator's own, in the step before.
            passes(Command::new(programs.join("sim")).args(["--seeds", &seeds])).map(Tally::one)
        }
        "fuzz" => Ok(Tally::one(fuzz::smoke(FUZZ_SECONDS)?)),
        _ => counted(
            cargo(&["test", "--workspace", "--exclude", "sim", "--test", "e2e", "--no-fail-fast"])
                .env("ACRE_BIN", programs.join("acre"))
                .env("RUST_LIB_BACKTRACE", "0"),
        ),
    }
}
