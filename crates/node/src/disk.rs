//! The disks of a node: their bounds, their health, what was done on them.

use model::{DiskId, IoError};
use wire::DiskOperation;

/// What was asked of one disk since the process started.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct DiskCounters {
    /// Reads sent to the disk.
    pub reads: u64,
    /// Bytes asked for by them.
    pub read_bytes: u64,
    /// Writes sent to the disk.
    pub writes: u64,
    /// Bytes carried by them.
    pub write_bytes: u64,
    /// Flushes sent to the disk.
    pub flushes: u64,
    /// Discards sent to the disk.
    pub discards: u64,
    /// Operations that the disk failed.
    pub errors: u64,
}

impl DiskCounters {
    /// Adds another shard's counters of the same disk.
    pub fn add(&mut self, other: &Self) {
        let Self { reads, read_bytes, writes, write_bytes, flushes, discards, errors } = other;
        self.reads += reads;
        self.read_bytes += read_bytes;
        self.writes += writes;
        self.write_bytes += write_bytes;
        self.flushes += flushes;
        self.discards += discards;
        self.errors += errors;
    }
}

/// One disk.
#[derive(Debug)]
pub(crate) struct Disk {
    pub(crate) id: DiskId,
    size_bytes: u64,
    sector_bytes: u32,
    in_service: bool,
    /// A flush failed. What it should have made durable may be gone although a later flush would succeed, so no later one
    /// is believed. Outlives removal: only a restart, which reads everything anew, ends it.
    pub(crate) flush_failed: bool,
    pub(crate) counters: DiskCounters,
}

impl Disk {
    /// Whether `operation` may go to the disk, counting it if so.
    pub(crate) fn admit(&mut self, operation: &DiskOperation) -> Result<(), IoError> {
        let reads_only = matches!(operation, DiskOperation::Read { .. });
        if !(self.in_service && (reads_only || self.takes_writes())) {
            return Err(IoError::Device);
        }
        match operation {
            DiskOperation::Read { offset, length, buffer } => {
                self.check(*offset, u64::from(*length))?;
                if *length as usize > buffer.len() {
                    return Err(IoError::Invalid);
                }
                self.counters.reads += 1;
                self.counters.read_bytes += u64::from(*length);
            }
            DiskOperation::Write { offset, start, length, buffer } => {
                self.check(*offset, u64::from(*length))?;
                let within = u64::from(*start) + u64::from(*length) <= buffer.len() as u64;
                if !within || !start.is_multiple_of(self.sector_bytes) {
                    return Err(IoError::Invalid);
                }
                self.counters.writes += 1;
                self.counters.write_bytes += u64::from(*length);
            }
            DiskOperation::Flush => self.counters.flushes += 1,
            DiskOperation::Discard { offset, length } => {
                self.check(*offset, *length)?;
                self.counters.discards += 1;
            }
        }
        Ok(())
    }

    /// Whether it is in service and may be changed.
    pub(crate) fn takes_writes(&self) -> bool {
        self.in_service && !self.flush_failed
    }

    /// Whether a range is one of this disk's: not empty, aligned to its sectors, within its size.
    pub(crate) fn check(&self, offset: u64, length: u64) -> Result<(), IoError> {
        let sector_bytes = u64::from(self.sector_bytes);
        let within = offset.checked_add(length).is_some_and(|end| end <= self.size_bytes);
        let aligned = offset.is_multiple_of(sector_bytes) && length.is_multiple_of(sector_bytes);
        if within && aligned && length > 0 { Ok(()) } else { Err(IoError::Invalid) }
    }
}

/// Every disk ever put into service here, by id.
#[derive(Debug, Default)]
pub(crate) struct Disks {
    sorted: Vec<Disk>,
}

impl Disks {
    /// Puts a disk into service. Doing so again is done at once; a disk may have grown, but not shrunk.
    pub(crate) fn add(&mut self, id: DiskId, size_bytes: u64, sector_bytes: u32) -> Result<(), IoError> {
        if !(sector_bytes == 512 || sector_bytes == 4096) {
            return Err(IoError::Invalid);
        }
        match self.sorted.binary_search_by_key(&id, |disk| disk.id) {
            Ok(index) => {
                let disk = &mut self.sorted[index];
                if size_bytes < disk.size_bytes || sector_bytes != disk.sector_bytes {
                    return Err(IoError::Invalid);
                }
                disk.size_bytes = size_bytes;
                disk.in_service = true;
            }
            Err(index) => {
                let counters = DiskCounters::default();
                let disk = Disk { id, size_bytes, sector_bytes, in_service: true, flush_failed: false, counters };
                self.sorted.insert(index, disk);
            }
        }
        Ok(())
    }

    /// Takes a disk out of service. What is in flight on it ends as the disk pleases.
    pub(crate) fn remove(&mut self, id: DiskId) -> Result<(), IoError> {
        self.get(id).map(|disk| disk.in_service = false).ok_or(IoError::Device)
    }

    /// The disk, in service or not.
    pub(crate) fn get(&mut self, id: DiskId) -> Option<&mut Disk> {
        self.index(id).map(|index| &mut self.sorted[index])
    }

    /// The disk's place, which stays until the process ends unless a disk of a lower id is added.
    fn index(&self, id: DiskId) -> Option<usize> {
        self.sorted.binary_search_by_key(&id, |disk| disk.id).ok()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Disk> {
        self.sorted.iter()
    }
}
