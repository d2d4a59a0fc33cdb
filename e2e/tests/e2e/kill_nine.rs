//! kill -9 at random moments under load.

use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::campaign::{Plan, run};

/// B8, D6: every flushed write is there, every unflushed sector is old or new, no byte is another tenant's, the audit is
/// clean. More cycles: `cargo run -p e2e --bin kill-campaign -- --cycles 1000`.
#[test]
fn fifty_kills_under_load_lose_nothing_flushed_and_show_nothing_foreign() -> Result<()> {
    let plan = Plan { cycles: 50, seed: 2026, load_max: Duration::from_millis(900), serve: Vec::new() };
    let outcome = run(&plan)?;
    println!("{outcome:#?}");
    ensure!(outcome.kills == 50 && outcome.done.flushes > 100 && outcome.done.writes > 1_000, "{outcome:?}");
    Ok(())
}

/// The same where the kernel refuses io_uring, and on one thread.
#[test]
fn kills_lose_nothing_without_io_uring_either() -> Result<()> {
    if crate::standin() {
        return Ok(());
    }
    let serve = ["--io", "fallback", "--threads", "1"].map(str::to_owned).to_vec();
    let outcome = run(&Plan { cycles: 8, seed: 2027, load_max: Duration::from_millis(400), serve })?;
    println!("{outcome:#?}");
    ensure!(outcome.kills == 8, "{outcome:?}");
    Ok(())
}
