//! `cargo xtask`: the one way into every task of the project. Continuous integration calls the same commands.
//!
//! This crate only starts other programs and reads files; it links none of the product's crates.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, reason = "a command-line tool talks to its terminal")]
#![allow(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "tasks say how long they took and read from two pipes at once; nothing here is replayed from a seed"
)]

mod clients;
mod fuzz;
mod mutants;
mod process;
mod tasks;
mod tests;
mod tidy;
mod tree;

use std::process::ExitCode;

const USAGE: &str = "\
cargo xtask TASK [ARGUMENTS]

  test [STEP…]      everything a change must pass; steps: format, unit, sim, fuzz, e2e (all without arguments)
  tidy              format, clippy and the rules of the house: layers, names, sizes, docs
  sim [ARGUMENTS]   the simulator, for example: cargo xtask sim --seeds 2000, cargo xtask sim --seed 17
  fuzz [ARGUMENTS]  a smoke run of every decoder: --seconds N (default 20); cargo-fuzz TARGET when it is installed
  mutants [NAME…]   breaks the server on purpose, bug by bug: the end-to-end tests must notice; `mutants list` names them
  bench [ARGUMENTS] us beside the peers: --quick | --full, then names; `bench list` lists them; `bench plot FILE.json`;
                    `bench map`: what the map costs; `bench snapshots`: what snapshots and clones cost
";

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let task = arguments.next().unwrap_or_default();
    let rest: Vec<String> = arguments.collect();
    let outcome = match task.as_str() {
        "test" => tests::run(&rest),
        "tidy" => tidy::run(),
        "sim" => tasks::sim(&rest),
        "fuzz" => fuzz::run(&rest),
        "mutants" => mutants::run(&rest),
        "bench" => tasks::bench(&rest),
        "" | "help" | "--help" | "-h" => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        other => Err(anyhow::anyhow!("no task is called {other:?}\n\n{USAGE}")),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::from(2)
        }
    }
}
