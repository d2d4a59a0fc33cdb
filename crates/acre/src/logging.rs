//! Log lines, on standard error.

use anyhow::{Context, Result};
use std::io::IsTerminal;
use tracing_subscriber::EnvFilter;

/// Starts logging what `filter` lets through. Only the first call counts.
///
/// # Errors
/// When the filter cannot be read.
pub fn start(filter: &str) -> Result<()> {
    let filter = EnvFilter::try_new(filter).with_context(|| format!("{filter:?} is not a log filter"))?;
    // A subscriber that is there already was put there on purpose, by a test.
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .try_init()
        .ok();
    Ok(())
}
