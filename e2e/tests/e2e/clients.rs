//! libnbd's and QEMU's view of an export: what it claims to do, and that it does it.

use anyhow::{Result, ensure};
use e2e::server::{Options, Server};
use e2e::tool::{finish, have, run, run_refused};
use e2e::{KIB, MIB, TIB};
use serde_json::Value;
use std::process::Command;

use crate::{serve, standin};

/// D1: a petabyte volume is an export of a petabyte.
#[test]
fn nbdinfo_sees_the_size_of_a_petabyte_volume_and_an_empty_map() -> Result<()> {
    if !have(&["nbdinfo"]) || standin() {
        return Ok(());
    }
    let server = serve("1G", "vast", "1P")?;
    let uri = server.uri("vast");
    let size: u64 = run("nbdinfo", &["--size", &uri])?.trim().parse()?;
    ensure!(size == 1024 * TIB, "the size is {size}");
    let map = map_of(&server.uri("vast"))?;
    ensure!(map.iter().all(|extent| extent.2 == 3), "an empty volume is a hole of zeroes, not {map:?}");
    ensure!(map.iter().map(|extent| extent.1).sum::<u64>() == size, "the map does not cover the volume");
    Ok(())
}

#[test]
fn nbdinfo_finds_every_ability_of_a_modern_export() -> Result<()> {
    if !have(&["nbdinfo"]) {
        return Ok(());
    }
    let server = serve("1G", "able", "64M")?;
    let uri = server.uri("able");
    let abilities =
        ["connect", "read", "write", "flush", "fua", "trim", "zero", "fast-zero", "cache", "df", "multi-conn"];
    for ability in abilities.into_iter().chain(["structured-reply"]) {
        let ended = finish(Command::new("nbdinfo").args(["--can", ability, &uri]))?;
        ensure!(ended.status.success(), "nbdinfo --can {ability}: no; {}", ended.stderr);
    }
    run_refused("nbdinfo", &["--is", "read-only", &uri])?;
    run_refused("nbdinfo", &["--is", "rotational", &uri])?;
    let json: Value = serde_json::from_str(&run("nbdinfo", &["--json", &uri])?)?;
    let export = &json["exports"][0];
    ensure!(export["contexts"].as_array().is_some_and(|all| all.contains(&"base:allocation".into())), "{json:#}");
    let minimum = export["block_size_minimum"].as_u64().unwrap_or(u64::MAX);
    let maximum = export["block_size_maximum"].as_u64().unwrap_or(0);
    ensure!(minimum <= 512 && (MIB..=64 * MIB).contains(&maximum), "block sizes {minimum} to {maximum}");
    Ok(())
}

#[test]
fn nbdinfo_lists_every_volume_by_its_name() -> Result<()> {
    if !have(&["nbdinfo"]) || standin() {
        return Ok(());
    }
    let mut server = serve("1G", "first", "1T")?;
    server.create_volume("second", "64M", &[])?;
    let uri = server.uri("").replace("nbd+unix:///?", "nbd+unix://?");
    let json: Value = serde_json::from_str(&run("nbdinfo", &["--list", "--json", &uri])?)?;
    let exports = json["exports"].as_array().cloned().unwrap_or_default();
    let names: Vec<&str> = exports.iter().filter_map(|export| export["export-name"].as_str()).collect();
    ensure!(names.contains(&"first") && names.contains(&"second") && names.contains(&"demo"), "exports {names:?}");
    run_refused("nbdinfo", &["--size", &server.uri("third")])?;
    Ok(())
}

/// C1, C3: the map tells written bytes from holes.
#[test]
fn nbdinfo_map_shows_what_was_written_and_only_that() -> Result<()> {
    if !have(&["nbdinfo", "qemu-io"]) {
        return Ok(());
    }
    let server = serve("1G", "mapped", "64M")?;
    let uri = server.uri("mapped");
    qemu_io(&uri, &["write -P 0x5a 8M 1M", "write -P 0x5b 32M 64k", "flush"])?;
    let map = map_of(&uri)?;
    let data =
        |offset: u64| map.iter().any(|extent| extent.2 & 1 == 0 && (extent.0..extent.0 + extent.1).contains(&offset));
    ensure!(data(8 * MIB) && data(9 * MIB - 1) && data(32 * MIB), "written parts are missing from {map:?}");
    ensure!(!data(0) && !data(16 * MIB) && !data(63 * MIB), "unwritten parts are in {map:?}");
    let allocated: u64 = map.iter().filter(|extent| extent.2 & 1 == 0).map(|extent| extent.1).sum();
    ensure!(allocated <= 2 * MIB, "{allocated} bytes are shown as allocated");
    qemu_io(&uri, &["discard 8M 1M", "flush"])?;
    let map = map_of(&uri)?;
    let data =
        |offset: u64| map.iter().any(|extent| extent.2 & 1 == 0 && (extent.0..extent.0 + extent.1).contains(&offset));
    ensure!(!data(8 * MIB) && !data(9 * MIB - 4096), "trimmed parts are still in {map:?}");
    Ok(())
}

/// A6: what was written is read, with and without forced unit access, at any alignment a host uses.
#[test]
fn qemu_io_patterns_read_back_with_and_without_forced_unit_access() -> Result<()> {
    if !have(&["qemu-io"]) {
        return Ok(());
    }
    let server = serve("1G", "patterns", "1G")?;
    let script = [
        "write -P 0x11 0 64k",
        "write -f -P 0x22 64k 64k",
        "write -P 0x33 512 512",
        "write -f -P 0x44 1048064 1024",
        "write -P 0x55 3M 5M",
        "write -z 4M 64k",
        "write -z -u 5M 4k",
        "write -f -P 0x66 123392 7168",
        "discard 6M 1M",
        "flush",
        "read -P 0x11 0 512",
        "read -P 0x33 512 512",
        "read -P 0x11 1024 64512",
        "read -P 0x22 65536 57856",
        "read -P 0x66 123392 7168",
        "read -P 0x22 130560 512",
        "read -P 0x44 1048064 1024",
        "read -P 0x55 3M 1M",
        "read -P 0 4M 64k",
        "read -P 0x55 4259840 64k",
        "read -P 0 5M 4k",
        "read -P 0x55 5246976 4096",
        "read -P 0 6M 1M",
        "read -P 0x55 7M 1M",
        "read -P 0 512M 1M",
    ];
    qemu_io(&server.uri("patterns"), &script)
}

#[test]
fn qemu_io_many_requests_in_flight_over_each_other_leave_one_of_them() -> Result<()> {
    if !have(&["qemu-io"]) {
        return Ok(());
    }
    let server = serve("1G", "flight", "64M")?;
    let mut script = Vec::new();
    for index in 0..200_u64 {
        let (pattern, offset) = (index % 250 + 1, index % 16 * 64 + 32);
        script.push(format!("aio_write -q -P {pattern} {offset}k 64k"));
    }
    script.push("aio_flush".to_owned());
    script.push("flush".to_owned());
    let lines: Vec<&str> = script.iter().map(String::as_str).collect();
    qemu_io(&server.uri("flight"), &lines)?;
    let mut session = server.session("flight")?;
    for place in 0..16_u64 {
        let bytes = session.read(place * 64 * KIB + 32 * KIB, 64 * KIB)?;
        let pattern = u64::from(bytes[0]);
        ensure!(bytes.iter().all(|byte| u64::from(*byte) == pattern), "place {place} holds parts of several writes");
        ensure!(
            pattern > 0 && (pattern - 1) % 16 == place,
            "place {place} holds {pattern}, which was not written there"
        );
    }
    session.leave()
}

/// What a client is told about a volume that may only be read.
#[test]
fn a_read_only_volume_is_read_and_not_written() -> Result<()> {
    if !have(&["nbdinfo", "qemu-io"]) || standin() {
        return Ok(());
    }
    let mut server = Server::start(Options::disk("1G"))?;
    server.create_volume("archive", "64M", &[])?;
    qemu_io(&server.uri("archive"), &["write -P 0x77 0 64k", "flush"])?;
    server.acre(&["volume", "set", "archive", "--read-only", "true"])?;
    run("nbdinfo", &["--is", "read-only", &server.uri("archive")])?;
    let read = ["-r", "-f", "raw", "-c", "read -P 0x77 0 64k", &server.uri("archive")];
    ensure!(!run("qemu-io", &read)?.contains("failed"), "the read-only volume does not read back");
    let mut session = server.session("archive")?;
    ensure!(session.flags() & 2 != 0, "the read-only flag is not set: {:#x}", session.flags());
    let error = session.write(0, &[1; 512], 0)?;
    ensure!(error == e2e::client::error::PERM, "a write to a read-only export gave error {error}");
    ensure!(session.trim(0, 4096)? == e2e::client::error::PERM, "a trim of a read-only export was not refused");
    Ok(())
}

/// Runs qemu-io commands in one session; a pattern that does not verify or a command that fails is an error.
pub(crate) fn qemu_io(uri: &str, commands: &[&str]) -> Result<()> {
    let mut arguments = vec!["-f", "raw", "-d", "unmap"];
    for command in commands {
        arguments.extend(["-c", command]);
    }
    arguments.push(uri);
    let output = run("qemu-io", &arguments)?;
    ensure!(!output.contains("failed"), "qemu-io says:\n{output}");
    Ok(())
}

/// The extents that nbdinfo shows: offset, length and flags (1 hole, 2 zero).
pub(crate) fn map_of(uri: &str) -> Result<Vec<(u64, u64, u64)>> {
    let json: Value = serde_json::from_str(&run("nbdinfo", &["--map", "--json", uri])?)?;
    let field = |extent: &Value, name: &str| extent[name].as_u64().unwrap_or(u64::MAX);
    let extents = json.as_array().cloned().unwrap_or_default();
    Ok(extents.iter().map(|extent| (field(extent, "offset"), field(extent, "length"), field(extent, "type"))).collect())
}
