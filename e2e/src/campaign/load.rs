//! The load of one connection: stamped writes, trims, zeroes, flushes and reads, several in flight, until the server dies.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use anyhow::{Context, Result, bail, ensure};

use crate::client::{Command, Reply, Session, command, error, flag};
use crate::ledger::{FlushPoint, Ledger};
use crate::random::Random;
use crate::stamp::{self, Found, SECTOR_BYTES};

/// Sectors of one connection's stripe in the first half of the span: ten KiB, so that neighbours share blocks.
const FINE_SECTORS: usize = 20;
/// The same in the second half: one MiB, room for long writes.
const COARSE_SECTORS: usize = 2048;
/// The longest write.
const WRITE_SECTORS_MAX: u64 = 256;

/// What connections did.
#[derive(Clone, Copy, Debug, Default)]
pub struct Done {
    /// Writes acknowledged.
    pub writes: u64,
    /// Of these, with forced unit access.
    pub durable_writes: u64,
    /// Trims and writes of zeroes acknowledged.
    pub zeroes: u64,
    /// Flushes acknowledged.
    pub flushes: u64,
    /// Reads answered and compared.
    pub reads: u64,
    /// Writes refused because the pool was full.
    pub refused: u64,
}

impl Done {
    /// Adds what another connection did.
    pub fn add(&mut self, other: Done) {
        self.writes += other.writes;
        self.durable_writes += other.durable_writes;
        self.zeroes += other.zeroes;
        self.flushes += other.flushes;
        self.reads += other.reads;
        self.refused += other.refused;
    }
}

/// Which sectors belong to a connection: every `of`-th stripe, so that no sector has two writers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Share {
    pub(super) own: usize,
    pub(super) of: usize,
    pub(super) sectors: usize,
}

impl Share {
    /// A random stripe of this connection.
    fn stripe(self, random: &mut Random) -> Range<usize> {
        let half = self.sectors / 2;
        let (begin, length) = if random.one_in(2) { (0, FINE_SECTORS) } else { (half, COARSE_SECTORS) };
        let rounds = (half / (length * self.of)) as u64;
        let index = random.below(rounds) as usize * self.of + self.own;
        let first = begin + index * length;
        first..first + length
    }
}

/// A request in flight.
enum Flight {
    Write { first: usize, count: usize, durable: bool, zeroes: bool },
    Flush(FlushPoint),
    Read { first: usize, expected: Vec<u64> },
}

/// One connection and what it has in flight.
pub(super) struct Load {
    session: Session,
    ledger: Arc<Mutex<Ledger>>,
    sequence: Arc<AtomicU64>,
    random: Random,
    share: Share,
    flights: BTreeMap<u64, Flight>,
    done: Done,
}

impl Load {
    pub(super) fn new(
        session: Session,
        ledger: Arc<Mutex<Ledger>>,
        sequence: Arc<AtomicU64>,
        random: Random,
        share: Share,
    ) -> Load {
        Load { session, ledger, sequence, random, share, flights: BTreeMap::new(), done: Done::default() }
    }

    /// Goes on until the server is killed; a connection that breaks before is an error.
    pub(super) fn run(&mut self, killed: &AtomicBool) -> Result<Done> {
        let depth = [1, 4, 16][self.random.below(3) as usize];
        loop {
            let step = self.step(depth);
            match step {
                Ok(None) => {}
                Ok(Some(complaint)) => bail!(complaint),
                Err(_) if killed.load(Ordering::SeqCst) => return Ok(self.done),
                Err(broken) => return Err(broken.context("a connection broke before the server was killed")),
            }
        }
    }

    /// Sends one request or takes one reply; gives a complaint when the server is wrong, an error when it is gone.
    fn step(&mut self, depth: usize) -> Result<Option<String>> {
        if self.flights.len() < depth
            && let Some((request, flight)) = self.choose()
        {
            let cookie = self.session.submit(&request)?;
            self.flights.insert(cookie, flight);
            return Ok(None);
        }
        let reply = self.session.next_reply()?;
        let flight = self.flights.remove(&reply.cookie).context("a reply to nothing in flight")?;
        Ok(self.landed(flight, &reply).err().map(|complaint| format!("{complaint:#}")))
    }

    /// The next request; none when the sectors it would touch are in flight.
    fn choose(&mut self) -> Option<(Command, Flight)> {
        let dice = self.random.below(100);
        if dice < 7 {
            let flight = Flight::Flush(self.ledger().flush_sent());
            return Some((Command { kind: command::FLUSH, ..Command::default() }, flight));
        }
        let stripe = self.share.stripe(&mut self.random);
        let longest = if (20..25).contains(&dice) { stripe.len() as u64 } else { WRITE_SECTORS_MAX };
        let first = stripe.start + self.random.below(stripe.len() as u64) as usize;
        let count = (self.length(longest) as usize).min(stripe.end - first);
        let busy = |flight: &Flight| match flight {
            Flight::Write { first: begin, count: length, .. } => first < begin + length && *begin < first + count,
            Flight::Read { first: begin, expected } => first < begin + expected.len() && *begin < first + count,
            Flight::Flush(_) => false,
        };
        if self.flights.values().any(busy) {
            return None;
        }
        Some(match dice {
            7..20 => self.read(first, count.min(8)),
            20..30 => self.zero(first, count, dice),
            _ => self.write(first, count, dice < 40),
        })
    }

    /// Short lengths mostly, and some of every size: what hosts do, and what finds edges.
    fn length(&mut self, longest: u64) -> u64 {
        match self.random.below(4) {
            0 => 1,
            1 => self.random.between(1, 16),
            2 => 8,
            _ => self.random.between(1, longest),
        }
    }

    fn read(&mut self, first: usize, count: usize) -> (Command, Flight) {
        let expected = self.ledger().current(first, count);
        let (offset, length) = bytes_of(first, count);
        (Command { kind: command::READ, offset, length, ..Command::default() }, Flight::Read { first, expected })
    }

    fn zero(&mut self, first: usize, count: usize, dice: u64) -> (Command, Flight) {
        let durable = dice == 29;
        let kind = if dice.is_multiple_of(2) { command::TRIM } else { command::WRITE_ZEROES };
        let mut flags = if durable { flag::FUA } else { 0 };
        if kind == command::WRITE_ZEROES && dice == 27 {
            flags |= flag::NO_HOLE;
        }
        self.ledger().sent(first, count, 0);
        let (offset, length) = bytes_of(first, count);
        let flight = Flight::Write { first, count, durable, zeroes: true };
        (Command { kind, flags, offset, length, ..Command::default() }, flight)
    }

    fn write(&mut self, first: usize, count: usize, durable: bool) -> (Command, Flight) {
        // Now and then a write of zeroes, which must read back as such and take no space.
        let zeroes = self.random.one_in(12);
        let sequence = if zeroes { 0 } else { self.sequence.fetch_add(1, Ordering::Relaxed) };
        let mut payload = vec![0; count * SECTOR_BYTES];
        let tenant = {
            let mut ledger = self.ledger();
            ledger.sent(first, count, sequence);
            ledger.tenant()
        };
        if !zeroes {
            for (index, sector) in payload.chunks_exact_mut(SECTOR_BYTES).enumerate() {
                stamp::write(sector, tenant, (first + index) as u64, sequence);
            }
        }
        let (offset, length) = bytes_of(first, count);
        let flags = if durable { flag::FUA } else { 0 };
        let flight = Flight::Write { first, count, durable, zeroes: false };
        (Command { kind: command::WRITE, flags, offset, length, payload }, flight)
    }

    fn landed(&mut self, flight: Flight, reply: &Reply) -> Result<()> {
        match flight {
            Flight::Write { first, count, durable, zeroes } => match reply.error {
                0 => {
                    self.ledger().acknowledged(first, count, durable);
                    self.done.zeroes += u64::from(zeroes);
                    self.done.writes += u64::from(!zeroes);
                    self.done.durable_writes += u64::from(durable);
                }
                error::NO_SPACE => {
                    self.ledger().refused(first, count);
                    self.done.refused += 1;
                }
                other => bail!("a write of {count} sectors at sector {first} failed with error {other}"),
            },
            Flight::Flush(point) => {
                ensure!(reply.error == 0, "a flush failed with error {}", reply.error);
                self.ledger().flush_acknowledged(point);
                self.done.flushes += 1;
            }
            Flight::Read { first, expected } => {
                ensure!(reply.error == 0, "a read at sector {first} failed with error {}", reply.error);
                self.compare(first, &expected, &reply.data)?;
                self.done.reads += 1;
            }
        }
        Ok(())
    }

    fn compare(&self, first: usize, expected: &[u64], data: &[u8]) -> Result<()> {
        let tenant = self.ledger().tenant();
        for (index, (expected, sector)) in expected.iter().zip(data.chunks_exact(SECTOR_BYTES)).enumerate() {
            let place = (first + index) as u64;
            let right = match stamp::read(sector) {
                Found::Zero => *expected == 0,
                found => found == Found::Stamp { tenant, sector: place, sequence: *expected },
            };
            // A write the pool refused may still have changed some of its sectors.
            let excused = *expected == u64::MAX;
            ensure!(
                right || excused,
                "READ_YOUR_WRITES: sector {place} of tenant {tenant} holds {:?} instead of write {expected}",
                stamp::read(sector)
            );
        }
        Ok(())
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

fn bytes_of(first: usize, count: usize) -> (u64, u64) {
    ((first * SECTOR_BYTES) as u64, (count * SECTOR_BYTES) as u64)
}
