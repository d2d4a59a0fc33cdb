//! kill -9 at random moments under load.

use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::campaign::{Plan, run};

/// B8, D6: every flushed write is there, every unflushed sector is old or new, no byte is another tenant's, the audit is
/// clean. More cycles: `cargo run -p e2e --bin kill-campaign -- --cycles 1000`.
#[test]
fn fifty_kills_under_load_lose_nothing_flushed_and_show_nothing_foreign() -> Result<()> {
    let outcome = run(&Plan { cycles: 50, seed: 2026, load_max: Duration::from_millis(900) })?;
    println!("{outcome:#?}");
    ensure!(outcome.kills == 50 && outcome.done.flushes > 100 && outcome.done.writes > 1_000, "{outcome:?}");
    Ok(())
}
