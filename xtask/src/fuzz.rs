//! Fuzzing: a smoke run of every decoder on the stable toolchain, or one target under cargo-fuzz for as long as one likes.

use std::process::{Command, Stdio};

use anyhow::{Result, bail};

use crate::process::{cargo, passes};
use crate::tree;

/// Without a target's name: the smoke run, with the arguments as given. With one: `cargo fuzz run TARGET …`.
pub(crate) fn run(arguments: &[String]) -> Result<bool> {
    match arguments.first() {
        Some(target) if !target.starts_with('-') => {
            if !cargo_fuzz_is_there() {
                bail!(
                    "cargo-fuzz is not installed (cargo install cargo-fuzz, and a nightly toolchain); without a target's name the smoke run needs neither"
                );
            }
            let mut command = cargo(&["+nightly", "fuzz", "run"]);
            passes(command.args(arguments))
        }
        _ => passes(cargo(&["run", "--quiet", "--package", "e2e", "--bin", "fuzz-smoke", "--"]).args(arguments)),
    }
}

/// The smoke run inside the test command, with the program already built.
pub(crate) fn smoke(seconds: u32) -> Result<bool> {
    let mut command = Command::new(tree::programs("debug")?.join("fuzz-smoke"));
    passes(command.args(["--seconds", &seconds.to_string()]))
}

fn cargo_fuzz_is_there() -> bool {
    let mut command = cargo(&["fuzz", "--version"]);
    command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}
