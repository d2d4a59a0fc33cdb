//! Space comes on first write, is counted to the region, and goes back on trim, zeroes and delete.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use e2e::client::{Command, Session, command, error};
use e2e::server::{Options, Server};
use e2e::{GIB, KIB, MIB};
use serde_json::Value;

use crate::{noise, serve, standin};

const REGION: u64 = 64 * KIB;

/// Writes and makes it count: what a pool has used is known when it is committed.
fn write(session: &mut Session, offset: u64, bytes: &[u8]) -> Result<()> {
    let error = session.write(offset, bytes, 0)?;
    ensure!(error == 0, "a write of {} bytes at {offset} failed with error {error}", bytes.len());
    let error = session.flush()?;
    ensure!(error == 0, "a flush failed with error {error}");
    Ok(())
}

/// A1, A2, D2: the first write takes one region; a rewrite takes nothing and changes no entry.
#[test]
fn a_first_write_takes_one_region_and_a_rewrite_takes_none() -> Result<()> {
    if standin() {
        return Ok(());
    }
    let mut server = serve("1G", "thin", "1T")?;
    ensure!(server.pool("used_bytes")? == 0, "a new pool is not empty");
    let mut session = server.session("thin")?;
    write(&mut session, 5 * GIB + 12 * KIB, &noise(1, 4096))?;
    let used = server.pool_becomes("used_bytes", |used| used > 0)?;
    ensure!(used == REGION, "one 4 KiB write took {used} bytes");
    let before = server.acre(&["volume", "map", "thin"])?;
    write(&mut session, 5 * GIB + 12 * KIB, &noise(2, 4096))?;
    ensure!(server.pool("used_bytes")? == REGION);
    let after = server.acre(&["volume", "map", "thin"])?;
    ensure!(before["extents"] == after["extents"], "a rewrite changed the map: {before:#} {after:#}");
    // Other blocks of the same region take no more space either.
    write(&mut session, 5 * GIB, &noise(3, 8192))?;
    ensure!(server.pool("used_bytes")? == REGION);
    ensure!(session.read(5 * GIB, 16 * KIB)? == [noise(3, 8192), vec![0; 4096], noise(2, 4096)].concat());
    server.audit()?;
    server.stop()
}

/// What a flush costs: in the steady state one flush of the device for each, and none where nothing was written.
#[test]
fn a_flush_in_the_steady_state_is_one_device_flush() -> Result<()> {
    if standin() {
        return Ok(());
    }
    let mut server = serve("1G", "steady", "1G")?;
    let mut session = server.session("steady")?;
    write(&mut session, 0, &noise(1, 1 << 20))?;
    let before = server.disks_have("flushes")?;
    for index in 0..20 {
        write(&mut session, index * 4096, &noise(index, 4096))?;
    }
    let steady = server.disks_have("flushes")? - before;
    ensure!(steady == 20, "20 flushes of rewrites took {steady} device flushes");
    let before = server.disks_have("flushes")?;
    for _ in 0..20 {
        ensure!(session.flush()? == 0);
    }
    let idle = server.disks_have("flushes")? - before;
    ensure!(idle == 0, "20 flushes of nothing took {idle} device flushes");
    server.stop()
}

/// With new mappings it is one flush of the device and one commit of the map, whatever their number.
#[test]
fn a_flush_of_new_mappings_is_one_device_flush_and_one_commit() -> Result<()> {
    if standin() {
        return Ok(());
    }
    let mut server = serve("1G", "growing", "1T")?;
    let commits = |server: &Server| -> Result<f64> {
        let samples = e2e::http::samples(&e2e::http::get(&server.api(), "/metrics", &[])?.body);
        samples.get("acre_map_commits_total").copied().context("no acre_map_commits_total")
    };
    let mut session = server.session("growing")?;
    // The first write brings the logical disk into being; that costs more, once.
    write(&mut session, 0, &noise(1, 4096))?;
    let (flushes, before) = (server.disks_have("flushes")?, commits(&server)?);
    for index in 1..50 {
        ensure!(session.write(index * GIB, &noise(index, 4096), 0)? == 0);
    }
    ensure!(session.flush()? == 0);
    let (flushes, committed) = (server.disks_have("flushes")? - flushes, commits(&server)? - before);
    ensure!(flushes <= 2, "49 new regions took {flushes} device flushes");
    ensure!((1.0..=3.0).contains(&committed), "49 new regions took {committed} commits");
    server.stop()
}

/// A4, A9: a stream gets long runs, scattered writes one region each; the map tells both.
#[test]
fn a_stream_lies_in_long_runs_and_scattered_writes_take_one_region_each() -> Result<()> {
    if standin() {
        return Ok(());
    }
    let mut server = serve("1G", "stream", "1T")?;
    server.create_volume("scattered", "1T", &[])?;
    let mut session = server.session("stream")?;
    for index in 0..128_u64 {
        ensure!(session.write(index * 512 * KIB, &noise(index, 512 << 10), 0)? == 0);
    }
    ensure!(session.flush()? == 0);
    let map = server.acre(&["volume", "map", "stream"])?;
    ensure!(map["mapped_regions"] == 1024, "{map:#}");
    let extents = map["mapped_extents"].as_u64().context("no mapped_extents")?;
    ensure!(extents <= 16, "a stream of 64 MiB lies in {extents} runs");
    let mut session = server.session("scattered")?;
    let before = server.pool("used_bytes")?;
    for index in 0..100_u64 {
        ensure!(session.write(index * 7 * GIB, &noise(index, 4096), 0)? == 0);
    }
    ensure!(session.flush()? == 0);
    let used = server.pool_becomes("used_bytes", |used| used >= before + 100 * REGION)? - before;
    ensure!(used == 100 * REGION, "100 scattered writes took {used} bytes");
    let map = server.acre(&["volume", "map", "scattered"])?;
    ensure!(map["mapped_regions"] == 100 && map["fragmentation"].is_number(), "{map:#}");
    server.audit()?;
    server.stop()
}

/// A7, D3, B5: reading what was never written touches no disk.
#[test]
fn reading_an_empty_volume_touches_no_disk() -> Result<()> {
    if standin() {
        return Ok(());
    }
    let mut server = serve("1G", "void", "1P")?;
    let mut session = server.session("void")?;
    let before = server.disks_have("reads")?;
    for index in 0..128_u64 {
        ensure!(session.read(index * 3 * GIB + 512, MIB)?.iter().all(|byte| *byte == 0));
    }
    let after = server.disks_have("reads")?;
    ensure!(before == after, "{} device reads for an empty volume", after - before);
    let metrics = e2e::http::get(&server.api(), "/metrics", &[])?;
    ensure!(metrics.status == 200 && metrics.body.contains("# TYPE"), "no Prometheus page: {metrics:?}");
    server.stop()
}

/// A8: zeroes written to an empty volume take nothing; zeroes over data give it back.
#[test]
fn written_zeroes_take_no_space_and_give_it_back() -> Result<()> {
    if standin() {
        return Ok(());
    }
    let mut server = serve("1G", "zeroes", "1T")?;
    let mut session = server.session("zeroes")?;
    let writes = server.disks_have("writes")?;
    write(&mut session, 0, &vec![0; 4 << 20])?;
    ensure!(server.pool("used_bytes")? == 0, "zeroes took space");
    ensure!(server.disks_have("writes")? == writes, "zeroes were written to a disk");
    write(&mut session, 0, &noise(1, 4 << 20))?;
    server.pool_becomes("used_bytes", |used| used == 4 * MIB)?;
    // Plain writes of zeroes, over whole regions and over parts of one.
    write(&mut session, MIB, &vec![0; 2 << 20])?;
    server.pool_becomes("used_bytes", |used| used == 2 * MIB)?;
    write(&mut session, 3 * MIB + 4096, &vec![0; 8192])?;
    let bytes = session.read(0, 4 * MIB)?;
    let mut expected = noise(1, 4 << 20);
    expected[1 << 20..3 << 20].fill(0);
    expected[(3 << 20) + 4096..(3 << 20) + 12288].fill(0);
    ensure!(bytes == expected, "zeroes over data do not read back");
    server.audit()?;
    server.stop()
}

/// A10, A5, FULL_IS_HARMLESS: a full pool fails allocating writes only; what one volume trims another one uses.
#[test]
fn what_one_volume_trims_another_one_uses() -> Result<()> {
    if standin() {
        return Ok(());
    }
    let mut server = serve("300M", "greedy", "1T")?;
    server.create_volume("needy", "1T", &[])?;
    server.expect_log("full");
    server.expect_log("pool");
    let mut greedy = server.session("greedy")?;
    let mut filled = 0;
    let refused = loop {
        let refused = greedy.write(filled * MIB, &noise(filled, 1 << 20), 0)?;
        if refused != 0 {
            break refused;
        }
        filled += 1;
        ensure!(filled < 400, "a pool of 300 MiB took {filled} MiB");
    };
    ensure!(refused == error::NO_SPACE, "a full pool gave error {refused}");
    ensure!(greedy.flush()? == 0, "a flush fails on a full pool");
    ensure!(filled >= 200, "a pool of 300 MiB was full after {filled} MiB");
    let mut needy = server.session("needy")?;
    ensure!(needy.write(0, &noise(9, 4096), 0)? == error::NO_SPACE);
    // Mapped writes and reads go on.
    ensure!(greedy.write(0, &noise(77, 1 << 20), 0)? == 0, "a mapped write fails on a full pool");
    ensure!(greedy.read(5 * MIB, MIB)? == noise(5, 1 << 20));
    let pool = server.acre(&["pool", "show", "default"])?;
    ensure!(pool["alerts"].as_array().is_some_and(|alerts| !alerts.is_empty()), "no alert on a full pool: {pool:#}");
    // Trim a part of the one, write it in the other, and check that no byte of the former owner shows.
    ensure!(greedy.trim(10 * MIB, 64 * MIB)? == 0 && greedy.flush()? == 0);
    server.pool_becomes("free_bytes", |free| free >= 60 * MIB)?;
    // Whole blocks first, many in flight: buffers full of their bytes are used again for the writes of single sectors.
    for index in 0..16 {
        let (offset, payload) = (900 * MIB + index * 4096, noise(index, 4096));
        needy.submit(&Command { kind: command::WRITE, offset, length: 4096, payload, ..Command::default() })?;
    }
    for _ in 0..16 {
        ensure!(needy.next_reply()?.error == 0, "a write after the trim failed");
    }
    for index in 0..200_u64 {
        let error = needy.write(index * 3 * MIB + 4096, &noise(index, 512), 0)?;
        ensure!(error == 0, "write {index} after the trim failed with error {error}");
    }
    ensure!(needy.flush()? == 0);
    for index in 0..200_u64 {
        let region = needy.read(index * 3 * MIB, REGION)?;
        let mut expected = vec![0; REGION as usize];
        expected[4096..4608].copy_from_slice(&noise(index, 512));
        ensure!(region == expected, "NO_FOREIGN_BYTES: region {index} shows bytes of its former owner");
    }
    server.audit()?;
    // Delete gives everything back.
    drop((greedy, needy));
    server.delete_volume("greedy")?;
    server.pool_becomes("used_bytes", |used| used <= 201 * REGION)?;
    server.audit()?;
    server.stop()
}

/// D1, D9: a petabyte is made at once and takes nothing; logical disks are made when needed.
#[test]
fn a_petabyte_volume_is_made_at_once_and_logical_disks_on_demand() -> Result<()> {
    if standin() {
        return Ok(());
    }
    let mut server = Server::start(Options::disk("1G"))?;
    let pool = server.acre(&["pool", "show", "default"])?;
    ensure!(pool["logical_disks"] == 0, "a fresh pool has logical disks: {pool:#}");
    let began = Instant::now();
    server.create_volume("vast", "1P", &[])?;
    ensure!(began.elapsed() < Duration::from_secs(1), "a petabyte took {:?}", began.elapsed());
    ensure!(server.pool("used_bytes")? == 0 && server.pool("logical_disks")? == 0);
    let mut session = server.session("vast")?;
    write(&mut session, 1000 * 1000 * GIB, &noise(1, 4096))?;
    ensure!(server.pool("logical_disks")? >= 1, "a write made no logical disk");
    ensure!(session.read(1000 * 1000 * GIB, 4096)? == noise(1, 4096));
    server.stop()
}

/// A5: volumes of a pool lie on all its disks.
#[test]
fn a_pool_of_two_disks_uses_both() -> Result<()> {
    if standin() {
        return Ok(());
    }
    let mut server = Server::start(Options::disk("512M").with_disk("disk-1:512M"))?;
    server.create_volume("wide", "1T", &[])?;
    let mut session = server.session("wide")?;
    for index in 0..160_u64 {
        ensure!(session.write(index * MIB, &noise(index, 1 << 20), 0)? == 0);
    }
    ensure!(session.flush()? == 0);
    let disks = server.acre(&["disk", "list"])?;
    let disks = disks.as_array().context("not a list")?;
    ensure!(disks.len() == 2);
    for disk in disks {
        let written = disk["counters"]["write_bytes"].as_u64().unwrap_or(0);
        ensure!(written >= 32 * MIB, "one disk took only {written} bytes: {disk:#}");
    }
    server.audit()?;
    server.stop()
}

/// C1: volumes of different region sizes in one pool.
#[test]
fn regions_of_different_sizes_live_in_one_pool() -> Result<()> {
    if standin() {
        return Ok(());
    }
    let mut server = Server::start(Options::disk("1G"))?;
    let mut expected = 0;
    for (name, size, bytes) in [("small", "16k", 16 * KIB), ("middle", "256k", 256 * KIB), ("large", "4M", 4 * MIB)] {
        server.create_volume(name, "1T", &["--region-size", size])?;
        let mut session = server.session(name)?;
        for index in 0..5 {
            write(&mut session, index * 100 * MIB, &noise(index, 4096))?;
        }
        expected += 5 * bytes;
        server.pool_becomes("used_bytes", |used| used == expected).context(name)?;
        for index in 0..5 {
            ensure!(session.read(index * 100 * MIB, 4096)? == noise(index, 4096));
        }
    }
    server.audit()?;
    server.stop()
}

/// Fault 22: resizing moves the end exactly, and what a shrink cut off is gone for good.
#[test]
fn resizing_moves_the_end_exactly() -> Result<()> {
    if standin() {
        return Ok(());
    }
    let mut server = serve("1G", "elastic", "64M")?;
    let mut session = server.session("elastic")?;
    write(&mut session, 63 * MIB, &noise(1, 1 << 20))?;
    server.acre(&["volume", "resize", "elastic", "128M"])?;
    drop(session);
    let mut session = server.session("elastic")?;
    ensure!(session.size_bytes() == 128 * MIB);
    ensure!(session.read(63 * MIB, MIB)? == noise(1, 1 << 20));
    write(&mut session, 127 * MIB, &noise(2, 1 << 20))?;
    drop(session);
    server.acre_refused(&["volume", "resize", "elastic", "32M"])?;
    server.acre(&["volume", "resize", "elastic", "32M", "--shrink"])?;
    server.pool_becomes("used_bytes", |used| used == 0)?;
    server.acre(&["volume", "resize", "elastic", "64M"])?;
    let mut session = server.session("elastic")?;
    ensure!(session.read(63 * MIB, MIB)?.iter().all(|byte| *byte == 0), "what a shrink cut off came back");
    let volume = server.acre(&["volume", "show", "elastic"])?;
    ensure!(volume["size_bytes"] == Value::from(64 * MIB));
    server.audit()?;
    server.stop()
}
