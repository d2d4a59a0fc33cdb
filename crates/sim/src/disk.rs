//! A disk with a volatile write cache, which loses, tears, delays and refuses as real ones do.
//!
//! Two images: what reads see, and what a power cut leaves. A write reaches the first when it completes and the second
//! when a later flush succeeds; in between, a power cut keeps any of its sectors and loses the others. What was in flight
//! when the process died happened in part.

use crate::random::Random;
use crate::stamp::{CANARY, SECTOR};
use model::{IoBuffer, IoError};
use node::{DiskIoId, Operation};
use std::collections::VecDeque;
use std::sync::Arc;

const PAGE: usize = 16 << 10;
/// So much is kept in the cache; beyond, the oldest writes become durable by themselves.
const CACHE_BYTES_MAX: usize = 8 << 20;

/// The bytes of a disk, canaries where nothing was ever written.
#[derive(Clone, Debug)]
struct Image {
    pages: Vec<Option<Box<[u8]>>>,
}

impl Image {
    fn new(size_bytes: u64) -> Self {
        Self { pages: vec![None; (size_bytes as usize).div_ceil(PAGE)] }
    }

    fn read(&self, mut offset: usize, mut into: &mut [u8]) {
        while !into.is_empty() {
            let (page, within) = (offset / PAGE, offset % PAGE);
            let length = into.len().min(PAGE - within);
            let (now, rest) = into.split_at_mut(length);
            match &self.pages[page] {
                Some(bytes) => now.copy_from_slice(&bytes[within..within + length]),
                None => now.fill(CANARY),
            }
            (into, offset) = (rest, offset + length);
        }
    }

    fn write(&mut self, mut offset: usize, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (page, within) = (offset / PAGE, offset % PAGE);
            let length = bytes.len().min(PAGE - within);
            let page = self.pages[page].get_or_insert_with(|| vec![CANARY; PAGE].into_boxed_slice());
            page[within..within + length].copy_from_slice(&bytes[..length]);
            (bytes, offset) = (&bytes[length..], offset + length);
        }
    }

    fn trash(&mut self, mut offset: usize, mut length: usize) {
        while length > 0 {
            let (page, within) = (offset / PAGE, offset % PAGE);
            let now = length.min(PAGE - within);
            if let Some(bytes) = &mut self.pages[page] {
                bytes[within..within + now].fill(CANARY);
            }
            (offset, length) = (offset + now, length - now);
        }
    }
}

/// A change of a disk's bytes.
#[derive(Clone, Debug)]
enum Change {
    Write { offset: usize, start: usize, length: usize, buffer: Arc<IoBuffer> },
    Trash { offset: usize, length: usize },
}

impl Change {
    fn length(&self) -> usize {
        match self {
            Self::Write { length, .. } | Self::Trash { length, .. } => *length,
        }
    }

    /// What it keeps in memory, in bytes.
    fn held_bytes(&self) -> usize {
        match self {
            Self::Write { buffer, .. } => buffer.len(),
            Self::Trash { .. } => 0,
        }
    }

    fn apply(&self, image: &mut Image) {
        match self {
            Self::Write { offset, start, length, buffer } => {
                image.write(*offset, &buffer.bytes()[*start..*start + *length]);
            }
            Self::Trash { offset, length } => image.trash(*offset, *length),
        }
    }

    /// Applies any of its sectors: all, none, or some.
    fn apply_torn(&self, image: &mut Image, random: &mut Random) {
        match random.below(4) {
            0 => {}
            1 => self.apply(image),
            _ => {
                for sector in (0..self.length()).step_by(SECTOR) {
                    if random.next() & 1 == 0 {
                        continue;
                    }
                    match self {
                        Self::Write { offset, start, buffer, .. } => {
                            let from = start + sector;
                            image.write(offset + sector, &buffer.bytes()[from..from + SECTOR]);
                        }
                        Self::Trash { offset, .. } => image.trash(offset + sector, SECTOR),
                    }
                }
            }
        }
    }
}

/// How a disk misbehaves, in thousandths of its operations.
#[derive(Clone, Copy, Debug, Default)]
pub struct DiskFaults {
    /// Reads that fail.
    pub read_error: u32,
    /// Writes that fail; any of their sectors may have been written.
    pub write_error: u32,
    /// Writes and allocations for which the file system under the disk file has no room.
    pub out_of_space: u32,
    /// Flushes that fail and lose what they should have made durable.
    pub flush_error: u32,
}

#[derive(Debug)]
struct InFlight {
    id: DiskIoId,
    operation: Operation,
    /// For a flush: changes completed before it was submitted.
    covers: u64,
}

/// A completion.
#[derive(Debug)]
pub struct Completion {
    /// Of which operation.
    pub id: DiskIoId,
    /// How it went.
    pub result: Result<(), IoError>,
    /// A read's buffer.
    pub buffer: Option<IoBuffer>,
}

/// A simulated disk.
#[derive(Debug)]
pub struct SimDisk {
    /// Its size, in bytes.
    pub size_bytes: u64,
    /// Its sector size, in bytes.
    pub sector_bytes: u32,
    /// How it misbehaves now.
    pub faults: DiskFaults,
    seen: Image,
    durable: Image,
    /// Changes completed and not yet durable, oldest first.
    cache: VecDeque<Change>,
    cache_bytes: usize,
    /// How many changes completed and left the cache again.
    left_cache: u64,
    in_flight: Vec<Option<InFlight>>,
    random: Random,
    flush_was_lost: bool,
    /// Faults injected so far.
    pub faults_injected: u64,
}

impl SimDisk {
    /// A disk full of canaries.
    #[must_use]
    pub fn new(size_bytes: u64, sector_bytes: u32, random: Random) -> Self {
        Self {
            size_bytes,
            sector_bytes,
            faults: DiskFaults::default(),
            seen: Image::new(size_bytes),
            durable: Image::new(size_bytes),
            cache: VecDeque::new(),
            cache_bytes: 0,
            left_cache: 0,
            in_flight: Vec::new(),
            random,
            flush_was_lost: false,
            faults_injected: 0,
        }
    }

    /// Takes an operation; [`SimDisk::complete`] ends it by the key returned. The node has checked its bounds.
    pub fn submit(&mut self, id: DiskIoId, operation: Operation) -> usize {
        self.check_bounds(&operation);
        let in_flight = Some(InFlight { id, operation, covers: self.left_cache + self.cache.len() as u64 });
        match self.in_flight.iter().position(Option::is_none) {
            Some(key) => {
                self.in_flight[key] = in_flight;
                key
            }
            None => {
                self.in_flight.push(in_flight);
                self.in_flight.len() - 1
            }
        }
    }

    fn check_bounds(&self, operation: &Operation) {
        let (offset, length) = match operation {
            Operation::Read { offset, length, .. } | Operation::Write { offset, length, .. } => {
                (*offset, u64::from(*length))
            }
            Operation::Discard { offset, length } | Operation::Allocate { offset, length } => (*offset, *length),
            Operation::Flush => return,
        };
        assert!(offset + length <= self.size_bytes, "a node keeps to its disk");
        let sector_bytes = u64::from(self.sector_bytes);
        assert!((offset | length).is_multiple_of(sector_bytes), "a node keeps to its disk's sectors");
    }

    /// A flush failed in this life of its process, which then uses the disk for reads only.
    #[must_use]
    pub fn flush_was_lost(&self) -> bool {
        self.flush_was_lost
    }

    fn fails(&mut self, permille: u32) -> bool {
        let fails = self.random.permille(permille);
        self.faults_injected += u64::from(fails);
        fails
    }

    /// Ends an operation.
    ///
    /// # Panics
    /// When there is none of that key.
    pub fn complete(&mut self, key: usize) -> Completion {
        let InFlight { id, operation, covers } = self.in_flight[key].take().expect("an operation ends once");
        let (mut result, mut returned) = (Ok(()), None);
        match operation {
            Operation::Read { offset, length, mut buffer } => {
                if self.fails(self.faults.read_error) {
                    result = Err(IoError::Device);
                } else {
                    self.seen.read(offset as usize, &mut buffer.bytes_mut()[..length as usize]);
                }
                returned = Some(buffer);
            }
            Operation::Write { offset, start, length, buffer } => {
                let (offset, start, length) = (offset as usize, start as usize, length as usize);
                result = self.write(Change::Write { offset, start, length, buffer });
            }
            Operation::Flush => result = self.flush(covers),
            // Some disks keep a discarded range as it was, some do not: canaries are what betrays a use of either.
            Operation::Discard { offset, length } => {
                if self.random.next() & 1 == 0 {
                    let change = Change::Trash { offset: offset as usize, length: length as usize };
                    change.apply(&mut self.seen);
                    self.keep(change);
                }
            }
            Operation::Allocate { .. } => {
                if self.fails(self.faults.out_of_space) {
                    result = Err(IoError::OutOfSpace);
                }
            }
        }
        Completion { id, result, buffer: returned }
    }

    fn write(&mut self, change: Change) -> Result<(), IoError> {
        if self.fails(self.faults.out_of_space) {
            return Err(IoError::OutOfSpace);
        }
        if self.fails(self.faults.write_error) {
            self.tear_into_cache(&change);
            return Err(IoError::Device);
        }
        change.apply(&mut self.seen);
        self.keep(change);
        Ok(())
    }

    fn keep(&mut self, change: Change) {
        self.cache_bytes += change.held_bytes();
        self.cache.push_back(change);
        while self.cache_bytes > CACHE_BYTES_MAX || self.cache.len() > 4096 {
            self.write_back();
        }
    }

    fn write_back(&mut self) {
        let change = self.cache.pop_front().expect("the cache holds something");
        self.cache_bytes -= change.held_bytes();
        self.left_cache += 1;
        change.apply(&mut self.durable);
    }

    fn flush(&mut self, covers: u64) -> Result<(), IoError> {
        if self.fails(self.faults.flush_error) {
            self.flush_was_lost = true;
            while self.left_cache < covers {
                let change = self.cache.pop_front().expect("what a flush covers is in the cache");
                self.cache_bytes -= change.held_bytes();
                self.left_cache += 1;
                change.apply_torn(&mut self.durable, &mut self.random);
            }
            return Err(IoError::Device);
        }
        while self.left_cache < covers {
            self.write_back();
        }
        Ok(())
    }

    /// The process that used the disk is gone. What was in flight happened in part; with `power_cut`, what was in the
    /// cache too.
    pub fn crash(&mut self, power_cut: bool) {
        if power_cut || self.flush_was_lost {
            // After a lost flush the two images differ for good; whoever starts anew reads what is really there.
            while let Some(change) = self.cache.pop_front() {
                self.left_cache += 1;
                change.apply_torn(&mut self.durable, &mut self.random);
            }
            self.cache_bytes = 0;
            self.flush_was_lost = false;
            self.tear_in_flight(true);
            self.seen = self.durable.clone();
        } else {
            self.tear_in_flight(false);
        }
    }

    fn tear_in_flight(&mut self, durable: bool) {
        for in_flight in std::mem::take(&mut self.in_flight).into_iter().flatten() {
            let change = match in_flight.operation {
                Operation::Write { offset, start, length, buffer } => {
                    let (offset, start, length) = (offset as usize, start as usize, length as usize);
                    Change::Write { offset, start, length, buffer }
                }
                Operation::Discard { offset, length } => {
                    Change::Trash { offset: offset as usize, length: length as usize }
                }
                Operation::Read { .. } | Operation::Flush | Operation::Allocate { .. } => continue,
            };
            if durable {
                change.apply_torn(&mut self.durable, &mut self.random);
            } else {
                self.tear_into_cache(&change);
            }
        }
    }

    /// Any sectors of a write happen, as writes of their own: it failed, or its process was killed.
    fn tear_into_cache(&mut self, change: &Change) {
        let choice = self.random.below(4);
        for sector in (0..change.length()).step_by(SECTOR) {
            if choice == 0 || (choice > 1 && self.random.next() & 1 == 0) {
                continue;
            }
            let part = match change {
                Change::Write { offset, start, buffer, .. } => Change::Write {
                    offset: offset + sector,
                    start: start + sector,
                    length: SECTOR,
                    buffer: Arc::clone(buffer),
                },
                Change::Trash { offset, .. } => Change::Trash { offset: offset + sector, length: SECTOR },
            };
            part.apply(&mut self.seen);
            self.keep(part);
        }
    }

    /// What a power cut that lost the whole cache would leave of a range.
    pub fn durable_bytes(&self, offset: u64, into: &mut [u8]) {
        self.durable.read(offset as usize, into);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stamp::{self, Content};
    use model::VolumeId;

    fn stamped(write: u32) -> Arc<IoBuffer> {
        let mut buffer = IoBuffer::zeroed(4096);
        stamp::fill(buffer.bytes_mut(), VolumeId(1), write, 0);
        Arc::new(buffer)
    }

    fn run(disk: &mut SimDisk, operation: Operation) -> Completion {
        let key = disk.submit(DiskIoId::from_u64(1), operation);
        disk.complete(key)
    }

    fn write(disk: &mut SimDisk, number: u32) {
        run(disk, Operation::Write { offset: 0, start: 0, length: 4096, buffer: stamped(number) });
    }

    fn first(disk: &mut SimDisk) -> Content {
        let read = run(disk, Operation::Read { offset: 0, length: 512, buffer: IoBuffer::zeroed(512) });
        stamp::read(&read.buffer.unwrap().bytes()[..512])
    }

    fn is(write: u32) -> Content {
        Content::Stamp { volume: VolumeId(1), write, sector: 0 }
    }

    #[test]
    fn a_flushed_write_survives_every_power_cut_and_an_unflushed_one_only_some() {
        let mut lost = 0;
        for seed in 0..50 {
            let mut disk = SimDisk::new(1 << 20, 512, Random::new(seed));
            assert_eq!(first(&mut disk), Content::Canary);
            write(&mut disk, 1);
            run(&mut disk, Operation::Flush).result.unwrap();
            write(&mut disk, 2);
            assert_eq!(first(&mut disk), is(2));
            disk.crash(true);
            let after = first(&mut disk);
            assert!(after == is(1) || after == is(2), "{after:?}");
            lost += u32::from(after == is(1));
        }
        assert!((5..45).contains(&lost), "{lost} of 50 lost");
    }

    #[test]
    fn a_killed_process_loses_nothing_that_completed() {
        let mut disk = SimDisk::new(1 << 20, 512, Random::new(3));
        write(&mut disk, 1);
        disk.crash(false);
        assert_eq!(first(&mut disk), is(1));
    }

    #[test]
    fn a_flush_covers_only_what_completed_before_it_was_asked_for() {
        let mut lost = false;
        for seed in 0..50 {
            let mut disk = SimDisk::new(1 << 20, 512, Random::new(seed));
            let flush = disk.submit(DiskIoId::from_u64(1), Operation::Flush);
            write(&mut disk, 1);
            disk.complete(flush).result.unwrap();
            disk.crash(true);
            lost |= first(&mut disk) == Content::Canary;
        }
        assert!(lost);
    }

    #[test]
    fn after_a_lost_flush_the_next_one_succeeds_without_the_data() {
        let mut lost = false;
        for seed in 0..50 {
            let mut disk = SimDisk::new(1 << 20, 512, Random::new(seed));
            write(&mut disk, 1);
            disk.faults.flush_error = 1000;
            run(&mut disk, Operation::Flush).result.unwrap_err();
            disk.faults.flush_error = 0;
            assert_eq!(first(&mut disk), is(1), "reads still see it");
            run(&mut disk, Operation::Flush).result.unwrap();
            disk.crash(true);
            lost |= first(&mut disk) == Content::Canary;
        }
        assert!(lost);
    }
}
