//! Tasks that hand their arguments to a program of the workspace.

use anyhow::Result;

use crate::process::{cargo, passes};

/// The simulator, optimised, with the arguments as given.
pub(crate) fn sim(arguments: &[String]) -> Result<bool> {
    let mut command = cargo(&["run", "--quiet", "--release", "--package", "sim", "--"]);
    passes(command.args(arguments))
}

/// The benches, optimised, and the server they measure, with the arguments as given.
pub(crate) fn bench(arguments: &[String]) -> Result<bool> {
    if !passes(&mut cargo(&["build", "--release", "--package", "acre", "--package", "bench"]))? {
        return Ok(false);
    }
    let mut command = cargo(&["run", "--quiet", "--release", "--package", "bench", "--"]);
    passes(command.args(arguments))
}
