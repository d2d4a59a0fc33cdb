//! `bench map`: what the map costs. The figures come from a program of the simulator's crate, which can build maps far
//! larger than this machine's disks; this only finds and runs it.

use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

/// The program that prints memory and metadata bytes for each TiB, the cost of look-ups, and start-up times.
const PROGRAM: &str = "map-scale";

/// Runs it with the arguments as given.
pub(crate) fn run(arguments: &[String]) -> Result<()> {
    let own = std::env::current_exe()?;
    let program = own.parent().context("this program lies in no folder")?.join(PROGRAM);
    if !program.is_file() {
        bail!("{} is not built: cargo build --release --package sim --bin {PROGRAM}", program.display());
    }
    let status = Command::new(&program).args(arguments).status()?;
    ensure!(status.success(), "{PROGRAM} ended with {status}");
    Ok(())
}
