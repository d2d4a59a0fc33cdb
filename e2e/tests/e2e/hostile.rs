//! Hostile clients: whatever they send, only their own connection suffers. Faults 46 to 49.

use std::io::{ErrorKind, Read, Write};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use e2e::client::{Command, Handshake, Session, Stream, answer, command, option, option_bytes};
use e2e::random::Random;
use e2e::server::Server;
use e2e::tool::eventually;
use e2e::{KIB, MIB};

use crate::{noise, serve, standin};

/// A well-behaved client that must not notice anything.
struct Victim {
    session: Session,
    round: u64,
}

impl Victim {
    fn new(server: &Server) -> Result<Victim> {
        Ok(Victim { session: server.session("victim")?, round: 0 })
    }

    /// A write, a flush and a read, right and in good time; also for a newcomer.
    fn is_well(&mut self, server: &Server) -> Result<()> {
        let began = Instant::now();
        self.round += 1;
        let bytes = noise(self.round, 64 << 10);
        ensure!(self.session.write(self.round * MIB, &bytes, 0)? == 0 && self.session.flush()? == 0);
        ensure!(self.session.read(self.round * MIB, 64 * KIB)? == bytes);
        let mut newcomer = server.session("victim").context("a newcomer is kept out")?;
        ensure!(newcomer.read(self.round * MIB, 64 * KIB)? == bytes);
        newcomer.leave()?;
        ensure!(began.elapsed() < Duration::from_secs(5), "the victim waited {:?}", began.elapsed());
        Ok(())
    }
}

/// Resident memory of the server, in bytes.
fn resident(server: &Server) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.process()))?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).context("no VmRSS")?;
    let kibibytes: u64 = line.split_whitespace().nth(1).context("no number")?.parse()?;
    Ok(kibibytes * KIB)
}

/// The server has closed a connection, or does so well before the handshake's time is over.
fn is_closed(stream: &mut Stream) -> Result<()> {
    stream.set_patience(Duration::from_secs(5))?;
    match stream.read(&mut [0; 4096]) {
        Ok(0) => Ok(()),
        Ok(count) => bail!("{count} bytes came instead of the end"),
        Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(()),
        Err(error) => Err(error).context("the connection is still open"),
    }
}

/// Fault 46: noise, half-true noise, and the wrong protocol altogether.
#[test]
fn garbage_closes_only_the_connection_it_came_on() -> Result<()> {
    if standin() {
        return Ok(());
    }
    let mut server = serve("1G", "victim", "1G")?;
    let mut victim = Victim::new(&server)?;
    let mut random = Random::new(1);
    for round in 0..60 {
        let mut stream = server.nbd("victim").connect()?;
        stream.set_patience(Duration::from_secs(2))?;
        let mut bytes = vec![0; random.between(1, 5000) as usize];
        random.fill(&mut bytes);
        match round % 4 {
            0 => {}
            1 => bytes = [&3_u32.to_be_bytes()[..], &bytes].concat(),
            2 => bytes = [&3_u32.to_be_bytes()[..], b"IHAVEOPT", &bytes].concat(),
            _ => bytes = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
        }
        // The server may close before it has everything: that is its right.
        stream.write_all(&bytes).ok();
        let _answer = stream.read(&mut [0; 4096]);
        if round % 3 == 0 {
            let mut stream = server.api().connect()?;
            stream.write_all(&bytes).ok();
        }
    }
    for _ in 0..40 {
        // Past the handshake: requests of noise.
        let mut session = server.session("victim")?;
        let mut bytes = vec![0; 2800];
        random.fill(&mut bytes);
        if random.one_in(2) {
            bytes[..4].copy_from_slice(&0x2560_9513_u32.to_be_bytes());
        }
        session.stream().write_all(&bytes).ok();
    }
    victim.is_well(&server)?;
    ensure!(server.is_running(), "the server is gone");
    server.audit()
}

/// Fault 47: lengths of four gigabytes promised, memory flat.
#[test]
fn huge_lengths_are_refused_without_taking_memory() -> Result<()> {
    if standin() {
        return Ok(());
    }
    let server = serve("1G", "victim", "1G")?;
    let mut victim = Victim::new(&server)?;
    victim.is_well(&server)?;
    let before = resident(&server)?;
    let mut open = Vec::new();
    for number in [option::GO, option::INFO, option::LIST, option::SET_META_CONTEXT, option::EXPORT_NAME, 99] {
        for _ in 0..8 {
            let mut handshake = Handshake::open(&server.nbd("victim"))?;
            let mut bytes = option_bytes(number, &[]);
            let length = bytes.len() - 4;
            bytes[length..].copy_from_slice(&u32::MAX.to_be_bytes());
            handshake.stream().write_all(&bytes)?;
            handshake.stream().write_all(&[7; 64 << 10]).ok();
            is_closed(handshake.stream()).with_context(|| format!("option {number} of four gigabytes"))?;
            open.push(handshake);
        }
    }
    for _ in 0..8 {
        // A write that promises four gigabytes and a read that asks for them.
        for kind in [0_u16, 1] {
            let mut session = server.session("victim")?;
            let mut bytes = 0x2560_9513_u32.to_be_bytes().to_vec();
            bytes.extend([0, 0]);
            bytes.extend(kind.to_be_bytes());
            bytes.extend(1_u64.to_be_bytes());
            bytes.extend(0_u64.to_be_bytes());
            bytes.extend(u32::MAX.to_be_bytes());
            session.stream().write_all(&bytes)?;
            if kind == command::READ {
                ensure!(session.next_reply()?.error != 0, "a read of four gigabytes was granted");
            } else {
                session.stream().write_all(&[7; 64 << 10]).ok();
                is_closed(session.stream()).context("a write of four gigabytes")?;
            }
        }
    }
    victim.is_well(&server)?;
    let after = resident(&server)?;
    ensure!(after < before + 64 * MIB, "memory grew from {before} to {after} bytes");
    Ok(())
}

/// Fault 47: many names in one option, and a list of contexts without end.
#[test]
fn counts_that_lie_are_refused() -> Result<()> {
    if standin() {
        return Ok(());
    }
    let server = serve("1G", "victim", "1G")?;
    let mut victim = Victim::new(&server)?;
    let mut handshake = Handshake::open(&server.nbd("victim"))?;
    handshake.structured()?;
    let mut data = 6_u32.to_be_bytes().to_vec();
    data.extend(b"victim");
    data.extend(u32::MAX.to_be_bytes());
    ensure!(handshake.outcome(option::SET_META_CONTEXT, &data)? & answer::ERROR != 0);
    let mut data = u32::MAX.to_be_bytes().to_vec();
    data.extend(b"victim");
    data.extend([0xff, 0xff]);
    ensure!(handshake.outcome(option::GO, &data)? & answer::ERROR != 0);
    handshake.go("victim")?;
    victim.is_well(&server)
}

/// Fault 47: whoever asks and never listens, or promises and never sends, is held back and holds nobody else.
#[test]
fn clients_that_never_read_or_never_finish_hold_only_themselves() -> Result<()> {
    if standin() {
        return Ok(());
    }
    let server = serve("1G", "victim", "1G")?;
    let mut victim = Victim::new(&server)?;
    for index in 0..64 {
        ensure!(victim.session.write(index * MIB, &noise(index, 1 << 20), 0)? == 0);
    }
    victim.is_well(&server)?;
    let before = resident(&server)?;
    let mut open = Vec::new();
    for _ in 0..16 {
        // Four gigabytes asked for, nothing ever read.
        let mut session = server.session("victim")?;
        session.stream().set_write_patience(Duration::from_millis(200))?;
        for index in 0..4096_u64 {
            let request = Command { kind: command::READ, offset: index % 64 * MIB, length: MIB, ..Command::default() };
            if session.submit(&request).is_err() {
                break;
            }
        }
        open.push(session);
    }
    for _ in 0..16 {
        // A write of a mebibyte of which half a kibibyte comes.
        let mut session = server.session("victim")?;
        let mut bytes = 0x2560_9513_u32.to_be_bytes().to_vec();
        bytes.extend([0, 0, 0, 1]);
        bytes.extend(1_u64.to_be_bytes());
        bytes.extend((900 * MIB).to_be_bytes());
        bytes.extend((1_u32 << 20).to_be_bytes());
        bytes.extend([7; 512]);
        session.stream().write_all(&bytes)?;
        open.push(session);
    }
    victim.is_well(&server)?;
    let after = resident(&server)?;
    let allowed = open.len() as u64 * 40 * MIB;
    ensure!(after < before + allowed, "memory grew from {before} to {after} bytes");
    drop(open);
    eventually("the broken connections are gone", Duration::from_secs(10), || {
        Ok(server.acre(&["status"])?["connections"].as_u64() == Some(1))
    })?;
    // What came only in part was never written.
    ensure!(victim.session.read(900 * MIB, 4096)?.iter().all(|byte| *byte == 0));
    victim.is_well(&server)?;
    server.audit()
}

/// Fault 47: one client alone, with the requests that cost most for what they say, and no ear for replies.
#[test]
fn one_client_takes_no_more_memory_than_a_connection_may() -> Result<()> {
    /// What the operations guide promises of one connection.
    const ALLOWED: u64 = 128 * MIB;
    /// What else a server may have grown by meanwhile.
    const BESIDE: u64 = 24 * MIB;
    if standin() {
        return Ok(());
    }
    let server = serve("1G", "victim", "1G")?;
    let mut victim = Victim::new(&server)?;
    for index in 0..64 {
        ensure!(victim.session.write(index * MIB, &noise(index, 1 << 20), 0)? == 0);
    }
    victim.is_well(&server)?;
    // A buffer is a power of two: just above one, and not on a block's edge, is the worst for whoever counts bytes.
    for length in [MIB + 512, 256 * KIB + 512, 32 * MIB - 512] {
        let before = resident(&server)?;
        let mut session = server.session("victim")?;
        session.stream().set_write_patience(Duration::from_millis(200))?;
        for index in 0..2048_u64 {
            let offset = index % 16 * MIB + 512;
            let request = Command { kind: command::READ, offset, length, ..Command::default() };
            if session.submit(&request).is_err() {
                break;
            }
        }
        let payload = noise(length, length as usize);
        let write = Command { kind: command::WRITE, offset: 512, length, payload, ..Command::default() };
        session.submit(&write).ok();
        std::thread::sleep(Duration::from_millis(300));
        let after = resident(&server)?;
        ensure!(after < before + ALLOWED + BESIDE, "reads of {length}: memory grew from {before} to {after} bytes");
    }
    victim.is_well(&server)
}

/// Fault 48: a handshake that goes nowhere is ended, and thousands of connections keep no one else out for long.
#[test]
fn slow_and_countless_connections_are_ended_or_capped() -> Result<()> {
    if standin() {
        return Ok(());
    }
    let server = serve("1G", "victim", "1G")?;
    let mut victim = Victim::new(&server)?;
    victim.is_well(&server)?;
    let before = resident(&server)?;
    // First of all comes one that sends a byte now and then, of an option that would take hours.
    let mut slow = server.nbd("victim").connect().context("no connection for the slow one")?;
    slow.set_patience(Duration::from_millis(400))?;
    let mut trickle = [&3_u32.to_be_bytes()[..], &option_bytes(99, &[0; 60_000])].concat().into_iter();
    let mut idle = Vec::new();
    for index in 0..2000 {
        // Past a cap the server may refuse or close at once.
        match server.nbd("victim").connect() {
            Ok(stream) => idle.push(stream),
            Err(_) if index > 100 => break,
            Err(error) => return Err(error.into()),
        }
    }
    // Whoever is in keeps working, however many knock.
    let bytes = noise(99, 64 << 10);
    ensure!(victim.session.write(0, &bytes, 0)? == 0 && victim.session.read(0, 64 * KIB)? == bytes);
    let after = resident(&server)?;
    ensure!(after < before + 256 * MIB, "memory grew from {before} to {after} bytes");
    // Sending a byte now and then is no better than sending nothing.
    let began = Instant::now();
    let mut ended = false;
    while !ended && began.elapsed() < Duration::from_secs(60) {
        ended = trickle.next().is_none_or(|byte| slow.write_all(&[byte]).is_err());
        ended |= matches!(slow.read(&mut [0; 64]), Ok(0));
    }
    ensure!(ended, "a handshake of a byte now and then was still open after a minute");
    // The idle ones had no more time: newcomers get in although nobody has left.
    eventually("newcomers get in again", Duration::from_secs(20), || Ok(victim.is_well(&server).is_ok()))?;
    drop(idle);
    victim.is_well(&server)
}
