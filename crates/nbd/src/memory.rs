//! A volume in memory behind a connection, answering at once or when told: what tests and fuzzers talk to.

use crate::protocol::allocation_flags::{HOLE, ZERO};
use crate::server::{
    CloseReason, Connection, ContextIndex, ContextStatus, Event, ExportError, ExportInfo, ReadSegment, Request,
    RequestKind, ServerConfig,
};
use crate::{ErrorCode, Extent};
use model::{BufferPool, Time};
use std::collections::BTreeMap;
use std::sync::Arc;

const SECTOR: u64 = 512;

/// A connection whose only export is held in memory, sector by sector.
#[derive(Debug)]
pub struct MemoryServer {
    /// The connection.
    pub connection: Connection,
    /// Where its buffers come from.
    pub pool: BufferPool,
    /// The export; its name and the empty name open it.
    pub export: ExportInfo,
    /// Sectors that hold something, by number; all others are holes.
    pub sectors: BTreeMap<u64, [u8; SECTOR as usize]>,
    /// Keep requests until [`MemoryServer::answer_held`], instead of answering at once.
    pub hold_requests: bool,
    /// Requests kept.
    pub held: Vec<Request>,
    /// Every event so far, as text, but for its buffers' sizes.
    pub journal: Vec<String>,
    /// Whether UpgradeTls came and was not yet followed.
    pub wants_tls: bool,
    /// Why the connection closed, if it did.
    pub closed: Option<CloseReason>,
}

impl MemoryServer {
    /// A connection just accepted, to a server of `export`.
    #[must_use]
    pub fn new(config: ServerConfig, export: ExportInfo) -> Self {
        Self {
            connection: Connection::new(Arc::new(config), Time(0)),
            pool: BufferPool::new(64 << 20),
            export,
            sectors: BTreeMap::new(),
            hold_requests: false,
            held: Vec::new(),
            journal: Vec::new(),
            wants_tls: false,
            closed: None,
        }
    }

    /// Lets the server hear `bytes` from the client. Gives how many it took; the rest is to be offered again once there
    /// is room.
    pub fn hear(&mut self, bytes: &[u8]) -> usize {
        let mut heard = 0;
        loop {
            self.take_events();
            let taken = self.connection.received_bytes(&bytes[heard..], &mut self.pool);
            heard += taken;
            if taken == 0 {
                return heard;
            }
        }
    }

    /// What the server says, up to `bytes_max` bytes.
    pub fn say(&mut self, bytes_max: usize) -> Vec<u8> {
        let mut out = Vec::new();
        self.take_events();
        self.connection.write_output(&mut out, bytes_max, &mut self.pool);
        self.take_events();
        out
    }

    /// Answers the requests kept, in the order that `pick` gives: of so many, which next?
    pub fn answer_held(&mut self, mut pick: impl FnMut(usize) -> usize) {
        while !self.held.is_empty() {
            let index = pick(self.held.len()) % self.held.len();
            let request = self.held.swap_remove(index);
            self.answer(request);
        }
        self.take_events();
    }

    /// Takes every event there is and answers it.
    pub fn take_events(&mut self) {
        while let Some(event) = self.connection.next_event(&mut self.pool) {
            self.journal.push(describe(&event));
            match event {
                Event::ListExports => {
                    let export = (self.export.name.clone(), self.export.description.clone());
                    self.connection.exports_listed([export]);
                }
                Event::QueryExport { name } | Event::OpenExport { name } => {
                    let answer = if self.is_known(&name) { Ok(self.export.clone()) } else { Err(ExportError::Unknown) };
                    self.connection.export_opened(answer);
                }
                Event::ResolveContexts { name, queries, all } => {
                    let known = "x-memory:sectors".to_owned();
                    let found = (all || queries.contains(&known)).then_some(known);
                    let answer = if self.is_known(&name) { Ok(found) } else { Err(ExportError::Unknown) };
                    self.connection.contexts_resolved(answer);
                }
                Event::UpgradeTls => self.wants_tls = true,
                Event::Request(request) if self.hold_requests => self.held.push(request),
                Event::Request(request) => self.answer(request),
                Event::Close(reason) => self.closed = Some(reason),
            }
        }
    }

    fn is_known(&self, name: &str) -> bool {
        name.is_empty() || name == self.export.name
    }

    fn answer(&mut self, request: Request) {
        let id = request.id;
        match request.kind {
            RequestKind::Read { offset, length } => {
                let segments = self.read(offset, length);
                self.connection.reply_read(id, segments);
            }
            RequestKind::Write { offset, length, data, .. } => {
                for (index, bytes) in data.bytes()[..length as usize].chunks(SECTOR as usize).enumerate() {
                    let mut sector = [0; SECTOR as usize];
                    sector[..bytes.len()].copy_from_slice(bytes);
                    self.sectors.insert(offset / SECTOR + index as u64, sector);
                }
                self.pool.put(data);
                self.connection.reply_ok(id);
            }
            RequestKind::Flush | RequestKind::Cache { .. } => self.connection.reply_ok(id),
            RequestKind::WriteZeroes { fast: true, no_hole: true, .. } => {
                self.connection.reply_error(id, ErrorCode::NotSupported);
            }
            RequestKind::Trim { offset, length, .. } | RequestKind::WriteZeroes { offset, length, .. } => {
                let mut tail = self.sectors.split_off(&(offset / SECTOR));
                self.sectors.append(&mut tail.split_off(&((offset + length) / SECTOR)));
                self.connection.reply_ok(id);
            }
            RequestKind::BlockStatus { offset, length, .. } => {
                let extents = self.extents(offset, length);
                let mut numbers = extents.clone();
                numbers.iter_mut().for_each(|extent| extent.flags = u32::from(extent.flags == 0));
                let statuses = self.connection.contexts().iter().zip(0..).map(|(name, index)| ContextStatus {
                    context: ContextIndex(index),
                    extents: if name == crate::protocol::BASE_ALLOCATION { &extents } else { &numbers },
                });
                let statuses: Vec<_> = statuses.collect();
                self.connection.reply_block_status(id, &statuses);
            }
        }
    }

    fn read(&mut self, offset: u64, length: u32) -> Vec<ReadSegment> {
        let mut buffer = self.pool.take(length as usize);
        let mut segments = Vec::new();
        let mut at = 0;
        let extents = self.extents(offset, length.into());
        let mut kept = Vec::new();
        for extent in extents {
            let length_here = extent.length_bytes.min(u64::from(length - at)) as u32;
            if extent.flags == 0 {
                for sector in (0..u64::from(length_here)).step_by(SECTOR as usize) {
                    let start = at as usize + sector as usize;
                    let bytes = &self.sectors[&((offset + u64::from(at) + sector) / SECTOR)];
                    buffer.bytes_mut()[start..start + SECTOR as usize].copy_from_slice(bytes);
                }
                kept.push((segments.len(), at, length_here));
            }
            segments.push(ReadSegment::Hole { length: length_here });
            at += length_here;
        }
        for (index, start, length) in kept.split_off(kept.len().min(1)) {
            segments[index] = ReadSegment::MoreData { start, length };
        }
        match kept.first() {
            Some(&(index, start, length)) => segments[index] = ReadSegment::Data { buffer, start, length },
            None => self.pool.put(buffer),
        }
        segments
    }

    fn extents(&self, offset: u64, length: u64) -> Vec<Extent> {
        let end = offset + length;
        let hole = |from: u64, to: u64| Extent { length_bytes: to - from, flags: HOLE | ZERO };
        let mut extents = Vec::new();
        let mut at = offset;
        for number in self.sectors.range(offset / SECTOR..end.div_ceil(SECTOR)).map(|(number, _)| *number) {
            if number * SECTOR > at {
                extents.push(hole(at, number * SECTOR));
            }
            at = (number + 1) * SECTOR;
            match extents.last_mut() {
                Some(last) if last.flags == 0 => last.length_bytes += SECTOR,
                _ => extents.push(Extent { length_bytes: SECTOR, flags: 0 }),
            }
        }
        if at < end {
            extents.push(hole(at, end));
        }
        extents
    }
}

fn describe(event: &Event) -> String {
    match event {
        Event::Request(Request { id, kind: RequestKind::Write { offset, length, data, fua } }) => {
            let sum =
                data.bytes()[..*length as usize].iter().fold(0_u64, |sum, byte| sum * 31 % 65_521 + u64::from(*byte));
            format!("{id:?} write {offset}+{length} of {sum} fua={fua}")
        }
        other => format!("{other:?}"),
    }
}
