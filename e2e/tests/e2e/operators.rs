//! The operator's commands: what they do, what they print, how they fail.

use anyhow::{Context, Result, ensure};
use e2e::server::{Options, Server, acre_path};
use e2e::tool::{finish, run};
use e2e::{GIB, KIB, MIB, TIB};
use serde_json::Value;

use crate::{noise, standin};

#[test]
fn sizes_are_taken_as_people_write_them() -> Result<()> {
    if standin() {
        return Ok(());
    }
    let mut server = Server::start(Options::disk("512M"))?;
    for (name, size, bytes) in [
        ("a", "64k", 64 * KIB),
        ("b", "1.5T", 3 * TIB / 2),
        ("c", "10G", 10 * GIB),
        ("d", "1048576", MIB),
        ("e", "2MiB", 2 * MIB),
    ] {
        server.create_volume(name, size, &[])?;
        let volume = server.acre(&["volume", "show", name])?;
        ensure!(volume["size_bytes"] == bytes, "{size} became {:#}", volume["size_bytes"]);
    }
    for wrong in ["0", "-1", "1.5", "ten", "1Q", "99999999999999999999", "1000"] {
        let said = server.acre_refused(&["volume", "create", "wrong", wrong])?;
        ensure!(!said.contains("panicked") && !said.is_empty(), "{wrong}: {said}");
    }
    server.stop()
}

#[test]
fn failures_name_the_thing_and_have_exit_codes_of_their_own() -> Result<()> {
    if standin() {
        return Ok(());
    }
    let mut server = Server::start(Options::disk("512M"))?;
    server.create_volume("twin", "64M", &[])?;
    let code = |server: &Server, arguments: &[&str]| -> Result<(Option<i32>, String)> {
        let ended = server.acre_raw(arguments)?;
        Ok((ended.status.code(), ended.stderr))
    };
    for (arguments, wanted, word) in [
        (&["volume", "show", "nobody"][..], 3, "nobody"),
        (&["volume", "create", "twin", "64M"][..], 4, "twin"),
        (&["volume", "create", "a/b", "64M"][..], 2, "a/b"),
        (&["volume", "create", "small-region", "64M", "--region-size", "5k"][..], 2, "region"),
        (&["volume", "create", "x", "64M", "--pool", "nowhere"][..], 3, "nowhere"),
        (&["pool", "delete", "default"][..], 5, "default"),
        (&["disk", "show", "99"][..], 3, "99"),
        (&["volume", "dance"][..], 2, "dance"),
    ] {
        let (got, said) = code(&server, arguments)?;
        ensure!(got == Some(wanted), "{arguments:?} ended with {got:?} instead of {wanted}: {said}");
        ensure!(said.contains(word), "{arguments:?} does not name {word}: {said}");
    }
    server.stop()?;
    let (got, said) = code(&server, &["volume", "list"])?;
    ensure!(got == Some(7), "without a server: {got:?} {said}");
    Ok(())
}

/// A4: the whole life of a volume by command; the table and the JSON tell the same.
#[test]
fn a_volume_lives_by_commands_alone() -> Result<()> {
    if standin() {
        return Ok(());
    }
    let mut server = Server::start(Options::disk("512M"))?;
    server.acre(&["volume", "create", "draft", "1G", "--region-size", "16k", "--warn", "100M", "--limit", "200M"])?;
    let volume = server.acre(&["volume", "show", "draft"])?;
    ensure!(
        volume["region_bytes"] == 16 * KIB && volume["limit_bytes"] == 200 * MIB && volume["warn_bytes"] == 100 * MIB
    );
    let mut session = server.session("draft")?;
    ensure!(session.write(MIB, &noise(1, 40 << 10), 1)? == 0);
    session.leave()?;
    server.acre(&["volume", "rename", "draft", "final"])?;
    server.acre_refused(&["volume", "show", "draft"])?;
    ensure!(server.session("final")?.read(MIB, 40 * KIB)? == noise(1, 40 << 10));
    let map = server.acre(&["volume", "map", "final"])?;
    let extents = map["extents"].as_array().context("no extents")?;
    let data: u64 = extents
        .iter()
        .filter(|extent| extent["state"] == "data" || extent["state"] == "partial")
        .map(|extent| extent["length_bytes"].as_u64().unwrap_or(0))
        .sum();
    ensure!(data == 48 * KIB, "the map shows {data} bytes: {map:#}");
    for arguments in [&["volume", "list"][..], &["volume", "show", "final"], &["volume", "map", "final"], &["status"]] {
        let table = server.acre_raw(arguments)?.expect_success()?;
        ensure!(!table.trim().is_empty() && serde_json::from_str::<Value>(&table).is_err(), "{arguments:?}: {table}");
    }
    for (group, words) in [("pool", ["list", "show"]), ("disk", ["list", "show"])] {
        for word in words {
            let mut arguments = vec![group, word];
            if word == "show" {
                arguments.push(if group == "pool" { "default" } else { "1" });
            }
            let shown = server.acre(&arguments)?;
            ensure!(shown.is_array() || shown.is_object(), "{arguments:?}: {shown}");
        }
    }
    server.acre(&["volume", "delete", "final", "--force"])?;
    server.pool_becomes("used_bytes", |used| used == 0)?;
    server.audit()?;
    server.stop()?;
    server.audit_offline()
}

/// A5: a disk added while running makes a pool larger.
#[test]
fn a_disk_added_while_running_is_used() -> Result<()> {
    if standin() {
        return Ok(());
    }
    let mut server = Server::start(Options::disk("256M"))?;
    let before = server.pool("capacity_bytes")?;
    let path = server.folder().join("second.disk").display().to_string();
    server.acre(&["disk", "add", &format!("{path}:512M")])?;
    let after = server.pool("capacity_bytes")?;
    ensure!(after >= before + 400 * MIB, "the capacity went from {before} to {after}");
    server.create_volume("large", "1T", &[])?;
    let mut session = server.session("large")?;
    for index in 0..400 {
        let error = session.write(index * MIB, &noise(index, 1 << 20), 0)?;
        ensure!(error == 0, "write {index} failed with error {error}");
    }
    ensure!(session.flush()? == 0);
    server.acre_refused(&["disk", "add", &path])?;
    drop(session);
    server.stop()?;
    server.resume()?;
    let mut session = server.session("large")?;
    for index in (0..400).step_by(37) {
        ensure!(session.read(index * MIB, MIB)? == noise(index, 1 << 20));
    }
    server.audit()?;
    server.stop()
}

#[test]
fn help_and_completions_are_there_for_every_command() -> Result<()> {
    if standin() {
        return Ok(());
    }
    let acre = acre_path().display().to_string();
    for words in
        [&["serve"][..], &["pool", "create"], &["disk", "add"], &["volume", "create"], &["volume", "map"], &["audit"]]
    {
        let help = run(&acre, &[words, &["--help"]].concat())?;
        ensure!(help.contains("Usage:"), "{words:?}: {help}");
    }
    for shell in ["bash", "zsh", "fish"] {
        ensure!(run(&acre, &["completions", shell])?.contains("acre"), "no completions for {shell}");
    }
    let ended = finish(std::process::Command::new(&acre).arg("--version"))?.expect_success()?;
    ensure!(ended.starts_with("acre "), "{ended}");
    Ok(())
}
