//! Warnings and limits of volumes and pools: D7 and D8, seen everywhere an operator looks.

use anyhow::{Result, ensure};
use e2e::MIB;
use e2e::client::error;
use e2e::server::{Options, Server};
use serde_json::Value;

use crate::{noise, standin};

/// Whether an alert of this kind about this subject is in a list of alerts.
fn has(alerts: &Value, kind: &str, subject: &str) -> bool {
    let matches = |alert: &Value| alert["kind"] == kind && alert["subject"] == subject;
    alerts.as_array().is_some_and(|all| all.iter().any(matches))
}

/// Whether an alert shows in the status, in the metrics and in the log.
fn shown_everywhere(server: &Server, kind: &str, subject: &str) -> Result<()> {
    let status = server.acre(&["status"])?;
    ensure!(has(&status["alerts"], kind, subject), "no {kind} of {subject} in the status: {:#}", status["alerts"]);
    let metrics = e2e::http::get(&server.api(), "/metrics", &[])?.body;
    let counted = metrics.lines().any(|line| line.contains(kind) && line.contains(subject) && line.ends_with(" 1"));
    ensure!(counted, "no {kind} of {subject} in the metrics:\n{metrics}");
    ensure!(server.log().contains(subject) && server.log().contains("WARN"), "no warning in the log");
    Ok(())
}

/// D7: a volume's warning and hard limit.
#[test]
fn a_volume_warns_at_one_size_and_stops_at_another() -> Result<()> {
    if standin() {
        return Ok(());
    }
    let mut server = Server::start(Options::disk("1G"))?;
    server.create_volume("bounded", "1T", &["--warn", "4M", "--limit", "8M"])?;
    server.expect_log("bounded");
    let mut session = server.session("bounded")?;
    for index in 0..3 {
        ensure!(session.write(index * MIB, &noise(index, 1 << 20), 0)? == 0);
    }
    ensure!(session.flush()? == 0);
    ensure!(!has(&server.acre(&["volume", "show", "bounded"])?["alerts"], "volume_warning", "bounded"));
    for index in 3..6 {
        ensure!(session.write(index * MIB, &noise(index, 1 << 20), 0)? == 0);
    }
    ensure!(session.flush()? == 0);
    ensure!(has(&server.acre(&["volume", "show", "bounded"])?["alerts"], "volume_warning", "bounded"));
    shown_everywhere(&server, "volume_warning", "bounded")?;
    let mut written = 6;
    let refused = loop {
        let refused = session.write(written * MIB, &noise(written, 1 << 20), 0)?;
        if refused != 0 || written > 16 {
            break refused;
        }
        written += 1;
    };
    ensure!(refused == error::NO_SPACE && written <= 8, "error {refused} after {written} MiB of 8");
    ensure!(session.flush()? == 0);
    ensure!(server.acre(&["volume", "show", "bounded"])?["used_bytes"].as_u64().unwrap_or(u64::MAX) <= 8 * MIB);
    shown_everywhere(&server, "volume_limit", "bounded")?;
    // Everything but allocating writes goes on, here and for others.
    ensure!(session.write(0, &noise(9, 1 << 20), 0)? == 0 && session.read(0, MIB)? == noise(9, 1 << 20));
    server.create_volume("other", "1T", &[])?;
    ensure!(server.session("other")?.write(0, &noise(1, 1 << 20), 0)? == 0);
    // Trimming, or a higher limit, ends it.
    ensure!(session.trim(0, 4 * MIB)? == 0 && session.flush()? == 0);
    ensure!(session.write(20 * MIB, &noise(1, 1 << 20), 0)? == 0, "no room after the trim");
    server.acre(&["volume", "set", "bounded", "--limit", "64M"])?;
    ensure!(session.write(30 * MIB, &noise(1, 8 << 20), 0)? == 0, "no room under the higher limit");
    server.audit()?;
    server.stop()
}

/// D8: the same for a pool.
#[test]
fn a_pool_warns_at_one_size_and_stops_at_another() -> Result<()> {
    if standin() {
        return Ok(());
    }
    let mut server = Server::start(Options::disk("1G"))?;
    server.acre(&["pool", "create", "tight", "--warn", "16M", "--limit", "32M"])?;
    let disk = server.folder().join("tight.disk").display().to_string();
    server.acre(&["disk", "add", &format!("{disk}:512M"), "--pool", "tight"])?;
    server.create_volume("guest", "1T", &["--pool", "tight"])?;
    server.expect_log("tight");
    let mut session = server.session("guest")?;
    let mut written = 0;
    let refused = loop {
        let refused = session.write(written * MIB, &noise(written, 1 << 20), 0)?;
        if refused != 0 || written > 64 {
            break refused;
        }
        written += 1;
        if written == 24 {
            ensure!(session.flush()? == 0);
            shown_everywhere(&server, "pool_warning", "tight")?;
        }
    };
    ensure!(refused == error::NO_SPACE && (24..=32).contains(&written), "error {refused} after {written} MiB of 32");
    ensure!(session.flush()? == 0);
    shown_everywhere(&server, "pool_limit", "tight")?;
    ensure!(session.write(0, &noise(5, 1 << 20), 0)? == 0 && session.read(MIB, MIB)? == noise(1, 1 << 20));
    ensure!(session.trim(0, 16 * MIB)? == 0 && session.flush()? == 0);
    ensure!(session.write(100 * MIB, &noise(1, 1 << 20), 0)? == 0, "no room after the trim");
    server.audit()?;
    server.stop()
}
