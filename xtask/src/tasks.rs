//! Tasks that hand their arguments to a program of the workspace.

use std::process::Command;

use anyhow::Result;

use crate::process::{cargo, passes};
use crate::{clients, tree};

/// The simulator, optimised, with the arguments as given.
pub(crate) fn sim(arguments: &[String]) -> Result<bool> {
    let mut command = cargo(&["run", "--quiet", "--release", "--package", "sim", "--"]);
    passes(command.args(arguments))
}

/// The benches, optimised, and what they measure, with the arguments as given.
pub(crate) fn bench(arguments: &[String]) -> Result<bool> {
    // What the map costs is measured inside the bench itself; everything else needs the server.
    let server: &[&str] = match arguments.first().map(String::as_str) {
        Some("map" | "list" | "plot" | "help" | "--help" | "-h") => &[],
        _ => &["--package", "acre"],
    };
    if !server.is_empty() {
        clients::prepare(clients::OF_BENCHES)?;
    }
    let mut build = cargo(&["build", "--release", "--package", "bench"]);
    if !passes(build.args(server))? {
        return Ok(false);
    }
    passes(Command::new(tree::programs("release")?.join("bench")).args(arguments))
}
