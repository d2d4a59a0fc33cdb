//! The corners of NBD that common clients do not reach, by a client of our own.

use anyhow::{Context, Result, ensure};
use e2e::client::{Command, Handshake, answer, command, error, flag, option};
use e2e::{GIB, KIB, MIB, TIB};

use crate::{noise, serve, standin};

const SECTOR: u64 = 512;

#[test]
fn an_unknown_option_is_refused_and_the_handshake_goes_on() -> Result<()> {
    let server = serve("1G", "patient", "64M")?;
    let mut handshake = Handshake::open(&server.nbd("patient"))?;
    ensure!(handshake.outcome(77, b"what is this")? == answer::ERR_UNSUP);
    ensure!(handshake.outcome(0x7fff_ffff, &[])? == answer::ERR_UNSUP);
    ensure!(handshake.outcome(option::LIST, &[])? == answer::ACK);
    // Malformed data of a known option is refused, too, without ending anything.
    ensure!(handshake.outcome(option::GO, &[0, 0, 0])? & answer::ERROR != 0);
    let mut session = handshake.go("patient")?;
    ensure!(session.size_bytes() == 64 * MIB);
    session.read(0, 4096).map(drop)
}

#[test]
fn the_old_way_in_by_export_name_still_works() -> Result<()> {
    let server = serve("1G", "old", "64M")?;
    let mut session = Handshake::open(&server.nbd("old"))?.export_name("old")?;
    ensure!(session.size_bytes() == 64 * MIB);
    ensure!(session.write(0, &noise(1, 4096), 0)? == 0);
    ensure!(session.read(0, 4096)? == noise(1, 4096));
    session.leave()
}

#[test]
fn an_export_that_does_not_exist_is_unknown_and_the_handshake_goes_on() -> Result<()> {
    let server = serve("1G", "known", "64M")?;
    let mut handshake = Handshake::open(&server.nbd("known"))?;
    let mut data = 7_u32.to_be_bytes().to_vec();
    data.extend(b"unknown");
    data.extend([0, 0]);
    ensure!(handshake.outcome(option::INFO, &data)? == answer::ERR_UNKNOWN);
    ensure!(handshake.outcome(option::GO, &data)? == answer::ERR_UNKNOWN);
    handshake.go("known").map(drop)
}

/// What was never written travels as a hole, not as zeroes.
#[test]
fn structured_reads_bring_holes_as_holes_and_data_as_data() -> Result<()> {
    let server = serve("1G", "holes", "1G")?;
    let mut handshake = Handshake::open(&server.nbd("holes"))?;
    handshake.structured()?;
    let mut session = handshake.go("holes")?;
    ensure!(session.write(256 * KIB, &noise(2, 64 << 10), 0)? == 0);
    let request = Command { kind: command::READ, offset: 0, length: MIB, ..Command::default() };
    let reply = session.call(&request)?;
    ensure!(reply.error == 0 && reply.data.len() as u64 == MIB);
    ensure!(reply.data[256 << 10..320 << 10] == noise(2, 64 << 10));
    ensure!(reply.data[..256 << 10].iter().all(|byte| *byte == 0));
    if !standin() {
        ensure!(reply.hole_bytes == MIB - 64 * KIB, "{} of {MIB} bytes came as holes", reply.hole_bytes);
    }
    let whole = session.call(&Command { flags: flag::DF, ..request })?;
    ensure!(whole.error == error::OVERFLOW || (whole.chunks == 1 && whole.data == reply.data), "DF was not obeyed");
    Ok(())
}

#[test]
fn extended_headers_carry_64_bit_lengths() -> Result<()> {
    if standin() {
        return Ok(());
    }
    let server = serve("1G", "wide", "8T")?;
    let mut handshake = Handshake::open(&server.nbd("wide"))?;
    handshake.extended()?;
    handshake.contexts("wide", &["base:allocation"])?;
    let mut session = handshake.go("wide")?;
    ensure!(session.write(5 * TIB, &noise(3, 128 << 10), flag::FUA)? == 0);
    ensure!(session.read(5 * TIB, 128 * KIB)? == noise(3, 128 << 10));
    let extents = session.block_status(0, 8 * TIB)?;
    let total: u64 = extents.iter().map(|extent| extent.length).sum();
    ensure!(total > 4 * GIB && total <= 8 * TIB, "the extents cover {total} bytes: {extents:?}");
    ensure!(extents[0].length >= 4 * GIB && extents[0].flags == 3, "the first extent is {:?}", extents[0]);
    ensure!(session.zero(0, 6 * TIB, 0)? == 0, "zeroing 6 TiB at once failed");
    ensure!(session.read(5 * TIB, 128 * KIB)?.iter().all(|byte| *byte == 0));
    ensure!(session.trim(0, 8 * TIB)? == 0, "trimming 8 TiB at once failed");
    session.leave()
}

/// A10, B5: trims and zeroes read back as zeroes to the last sector, and touch nothing beside them.
#[test]
fn trims_and_zeroes_are_exact_to_the_sector() -> Result<()> {
    let server = serve("1G", "exact", "64M")?;
    let mut session = server.session("exact")?;
    let size = 2 * MIB;
    let mut expected = noise(4, size as usize);
    ensure!(session.write(0, &expected, 0)? == 0);
    let mut random = e2e::random::Random::new(5);
    for round in 0..120_u64 {
        let offset = random.below(size / SECTOR) * SECTOR;
        let longest = if round % 3 == 0 { 400 } else { 12 };
        let length = (random.between(1, longest) * SECTOR).min(size - offset);
        let range = offset as usize..(offset + length) as usize;
        match round % 4 {
            0 => ensure!(session.trim(offset, length)? == 0),
            1 => ensure!(session.zero(offset, length, 0)? == 0),
            2 => ensure!(session.zero(offset, length, flag::NO_HOLE | flag::FUA)? == 0),
            _ => {
                let bytes = noise(round, length as usize);
                ensure!(session.write(offset, &bytes, 0)? == 0);
                expected[range].copy_from_slice(&bytes);
                continue;
            }
        }
        expected[range].fill(0);
    }
    for offset in (0..size).step_by(1 << 18) {
        let bytes = session.read(offset, 1 << 18)?;
        let range = offset as usize..offset as usize + (1 << 18);
        let differs = bytes.iter().zip(&expected[range]).position(|(found, wanted)| found != wanted);
        ensure!(differs.is_none(), "byte {} differs", offset as usize + differs.unwrap_or(0));
    }
    Ok(())
}

#[test]
fn what_lies_beyond_the_end_is_refused_and_the_session_goes_on() -> Result<()> {
    let server = serve("1G", "edge", "64M")?;
    let mut session = server.session("edge")?;
    let end = 64 * MIB;
    let outside = |kind: u16, offset: u64, length: u64| Command { kind, offset, length, ..Command::default() };
    for (offset, length) in [(end, 512), (end - 512, 1024), (u64::MAX - 511, 512), (u64::MAX - 511, 4096)] {
        let reply = session.call(&outside(command::READ, offset, length))?;
        ensure!(reply.error == error::INVALID, "a read of {length} at {offset} gave error {}", reply.error);
        let refused = session.write(offset, &vec![1; length as usize], 0)?;
        ensure!([error::INVALID, error::NO_SPACE].contains(&refused), "a write at {offset} gave error {refused}");
        ensure!(session.trim(offset, length)? != 0 && session.zero(offset, length, 0)? != 0);
    }
    ensure!(session.call(&outside(99, 0, 512))?.error == error::INVALID, "an unknown command was not refused");
    ensure!(session.write(end - 512, &[7; 512], 0)? == 0);
    ensure!(session.read(end - 512, 512)? == [7; 512]);
    session.leave()
}

#[test]
fn one_extent_is_given_where_one_is_asked_for_and_many_otherwise() -> Result<()> {
    let server = serve("1G", "extents", "64M")?;
    let mut handshake = Handshake::open(&server.nbd("extents"))?;
    handshake.structured()?;
    handshake.contexts("extents", &["base:allocation"])?;
    let mut session = handshake.go("extents")?;
    for index in 0..4 {
        ensure!(session.write(index * 8 * MIB, &noise(index, 128 << 10), 0)? == 0);
    }
    ensure!(session.flush()? == 0);
    let many = session.block_status(0, 64 * MIB)?;
    ensure!(many.len() >= 8, "{many:?}");
    ensure!(many[0].flags == 0 && many[0].length >= 128 * KIB && many[1].flags == 3, "{many:?}");
    let request = Command { kind: command::BLOCK_STATUS, flags: flag::REQ_ONE, length: 64 * MIB, ..Command::default() };
    let one = session.call(&request)?.extents;
    ensure!(one.len() == 1, "{one:?}");
    Ok(())
}

/// Fault 40: a flush on one connection covers what was acknowledged on another, across kill -9.
#[test]
fn a_flush_on_one_connection_covers_writes_on_another() -> Result<()> {
    let mut server = serve("1G", "shared", "64M")?;
    let mut writer = server.session("shared")?;
    let mut flusher = server.session("shared")?;
    for index in 0..64 {
        ensure!(writer.write(index * MIB, &noise(index, 8192), 0)? == 0);
    }
    ensure!(flusher.flush()? == 0);
    server.kill()?;
    server.resume()?;
    let mut reader = server.session("shared")?;
    for index in 0..64 {
        ensure!(reader.read(index * MIB, 8192)? == noise(index, 8192), "the write at {index} MiB is lost");
    }
    server.audit()?;
    server.stop()
}

/// Fault 39: forced unit access without any flush, then kill -9.
#[test]
fn forced_unit_access_survives_kill_nine_without_a_flush() -> Result<()> {
    let mut server = serve("1G", "forced", "64M")?;
    let mut session = server.session("forced")?;
    ensure!(session.write(12 * KIB, &noise(1, 512), flag::FUA)? == 0);
    ensure!(session.write(32 * MIB, &noise(2, 256 << 10), flag::FUA)? == 0);
    server.kill()?;
    server.resume()?;
    let mut session = server.session("forced")?;
    ensure!(session.read(12 * KIB, 512)? == noise(1, 512));
    ensure!(session.read(32 * MIB, 256 << 10)? == noise(2, 256 << 10));
    // Once more, because zeroes that are made durable take all writes before them along.
    ensure!(session.zero(32 * MIB, 4096, flag::FUA)? == 0);
    server.kill()?;
    server.resume()?;
    let mut session = server.session("forced")?;
    ensure!(session.read(32 * MIB, 4096)?.iter().all(|byte| *byte == 0));
    ensure!(session.read(32 * MIB + 4096, 252 << 10)? == noise(2, 256 << 10)[4096..]);
    server.stop()
}

/// Fault 42: a client that drops with a hundred requests in flight leaves each of them whole or absent.
#[test]
fn a_client_that_drops_with_requests_in_flight_leaks_nothing() -> Result<()> {
    let mut server = serve("1G", "dropped", "256M")?;
    // Long writes and the next client at once: its requests come while the last one's are still at the disk.
    for round in 0..10_u64 {
        let mut session = server.session("dropped")?;
        for index in 0..100 {
            let payload = vec![round as u8 + 1; 256 << 10];
            let (offset, length) = (index * MIB, payload.len() as u64);
            session.submit(&Command { kind: command::WRITE, offset, length, payload, ..Command::default() })?;
        }
        drop(session);
    }
    let mut session = server.session("dropped")?;
    ensure!(session.flush()? == 0);
    for index in 0..100 {
        let bytes = session.read(index * MIB, 256 << 10)?;
        for sector in bytes.chunks(512) {
            ensure!(sector.iter().all(|byte| *byte == sector[0]) && sector[0] <= 10, "a torn sector at {index} MiB");
        }
    }
    session.leave().context("after the drops")?;
    server.audit()?;
    server.stop()
}
