//! The client's side of the transmission phase: replies, put together from their chunks.

use super::{Client, ClientEvent, MESSAGE_BYTES_MAX, Outcome, Reply, Step, Style};
use crate::fields::number;
use crate::protocol::{
    EXTENDED_REPLY_BYTES, EXTENDED_REPLY_MAGIC, ErrorCode, Extent, PAYLOAD_BYTES_MAX, SIMPLE_REPLY_BYTES,
    SIMPLE_REPLY_MAGIC, STRUCTURED_REPLY_BYTES, STRUCTURED_REPLY_MAGIC, command, reply_flags, reply_type,
};
use model::ByteRange;
use std::collections::BTreeMap;

/// A request not yet answered, and what has come of its answer.
#[derive(Debug)]
pub(super) struct Pending {
    command: u16,
    range: ByteRange,
    /// A read's bytes; empty until the first of them come.
    bytes: Vec<u8>,
    /// Which of them have come, as offsets on the export: start → end, neighbours made one.
    covered: BTreeMap<u64, u64>,
    holes: Vec<ByteRange>,
    extents: BTreeMap<u32, Vec<Extent>>,
    error: Option<(ErrorCode, String)>,
}

impl Pending {
    pub(super) fn new(command: u16, range: ByteRange) -> Self {
        Self {
            command,
            range,
            bytes: Vec::new(),
            covered: BTreeMap::new(),
            holes: Vec::new(),
            extents: BTreeMap::new(),
            error: None,
        }
    }

    /// Marks a part of the range as come; gives its place in `bytes`. None when it is not part of it, or came before.
    fn cover(&mut self, offset: u64, length: u64) -> Option<std::ops::Range<usize>> {
        let end = offset.checked_add(length)?;
        let range_end = self.range.start.checked_add(self.range.length)?;
        if length == 0 || offset < self.range.start || end > range_end {
            return None;
        }
        let before = self.covered.range(..end).next_back().map(|(start, end)| (*start, *end));
        let mut merged = (offset, end);
        match before {
            Some((_, before_end)) if before_end > offset => return None,
            Some((before_start, before_end)) if before_end == offset => {
                self.covered.remove(&before_start);
                merged.0 = before_start;
            }
            _ => {}
        }
        if let Some(after_end) = self.covered.remove(&end) {
            merged.1 = after_end;
        }
        self.covered.insert(merged.0, merged.1);
        if self.bytes.is_empty() {
            self.bytes = vec![0; self.range.length as usize];
        }
        let start = (offset - self.range.start) as usize;
        Some(start..start + length as usize)
    }

    fn is_covered(&self) -> bool {
        let end = self.range.start.saturating_add(self.range.length);
        self.range.length == 0 || self.covered.get(&self.range.start) == Some(&end)
    }

    fn finish(self) -> Result<Outcome, &'static str> {
        if let Some((error, message)) = self.error {
            return Ok(Outcome::Failed { error, message });
        }
        match self.command {
            command::READ if !self.is_covered() => Err("a read answered in part"),
            command::READ => Ok(Outcome::Data { bytes: self.bytes, holes: self.holes }),
            command::BLOCK_STATUS if self.extents.is_empty() => Err("a status without an extent"),
            command::BLOCK_STATUS => Ok(Outcome::Extents(self.extents)),
            _ => Ok(Outcome::Done),
        }
    }
}

/// A chunk's header, whichever form it had.
struct Chunk {
    flags: u16,
    kind: u16,
    cookie: u64,
    header_bytes: usize,
    payload_bytes: usize,
}

impl Client {
    pub(super) fn reply_step(&mut self) -> (usize, Step) {
        let Some(magic) = number::<4>(self.input.unread(), 0) else { return (0, Step::Starved) };
        let magic = magic as u32;
        match (magic, self.opened.style) {
            (SIMPLE_REPLY_MAGIC, Style::Simple | Style::Structured) => self.simple_step(),
            (STRUCTURED_REPLY_MAGIC, Style::Structured) | (EXTENDED_REPLY_MAGIC, Style::Extended) => self.chunk_step(),
            _ => (0, Step::broken("a reply of a form not agreed on")),
        }
    }

    fn simple_step(&mut self) -> (usize, Step) {
        let (Some(error), Some(cookie)) = (number::<4>(self.input.unread(), 4), number::<8>(self.input.unread(), 8))
        else {
            return (0, Step::Starved);
        };
        let Some(pending) = self.pending.get_mut(&cookie) else {
            return (0, Step::broken("a reply to no request"));
        };
        let error = ErrorCode::from_wire(error as u32);
        let has_data = pending.command == command::READ && error.is_none();
        let has_payload = has_data || pending.command == command::BLOCK_STATUS && error.is_none();
        if has_payload && (self.opened.style == Style::Structured || !has_data) {
            return (0, Step::broken("a simple reply where there should be chunks"));
        }
        let mut message_bytes = SIMPLE_REPLY_BYTES;
        if has_data && pending.range.length > 0 {
            if pending.range.length > u64::from(PAYLOAD_BYTES_MAX) {
                return (0, Step::broken("more data than one reply may bear"));
            }
            message_bytes += pending.range.length as usize;
            let Some(data) = self.input.unread().get(SIMPLE_REPLY_BYTES..message_bytes) else {
                return (0, Step::Starved);
            };
            let ByteRange { start, length } = pending.range;
            match pending.cover(start, length) {
                Some(place) => pending.bytes[place].copy_from_slice(data),
                None => return (0, Step::broken("a read beyond all offsets")),
            }
        }
        pending.error = error.map(|error| (error, String::new()));
        (message_bytes, self.finish(cookie))
    }

    fn finish(&mut self, cookie: u64) -> Step {
        let Some(pending) = self.pending.remove(&cookie) else { return Step::broken("a reply to no request") };
        match pending.finish() {
            Ok(outcome) => Step::Event(ClientEvent::Reply(Reply { cookie, outcome })),
            Err(what) => Step::broken(what),
        }
    }

    fn chunk_header(&self) -> Option<Chunk> {
        let input = self.input.unread();
        let (header_bytes, payload) = match self.opened.style {
            Style::Extended => (EXTENDED_REPLY_BYTES, number::<8>(input, 24)?),
            Style::Simple | Style::Structured => (STRUCTURED_REPLY_BYTES, number::<4>(input, 16)?),
        };
        Some(Chunk {
            flags: number::<2>(input, 4)? as u16,
            kind: number::<2>(input, 6)? as u16,
            cookie: number::<8>(input, 8)?,
            header_bytes,
            payload_bytes: usize::try_from(payload).unwrap_or(usize::MAX),
        })
    }

    fn chunk_step(&mut self) -> (usize, Step) {
        let Some(chunk) = self.chunk_header() else { return (0, Step::Starved) };
        if chunk.payload_bytes as u64 > MESSAGE_BYTES_MAX {
            return (0, Step::broken("a chunk that is too long"));
        }
        let message_bytes = chunk.header_bytes + chunk.payload_bytes;
        let Some(pending) = self.pending.get_mut(&chunk.cookie) else {
            return (0, Step::broken("a chunk of no request's reply"));
        };
        if self.opened.style == Style::Extended && number::<8>(self.input.unread(), 16) != Some(pending.range.start) {
            return (0, Step::broken("a chunk with another request's offset"));
        }
        let Some(payload) = self.input.unread().get(chunk.header_bytes..message_bytes) else {
            return (0, Step::Starved);
        };
        let done = chunk.flags & reply_flags::DONE != 0;
        let understood = match (chunk.kind, pending.command) {
            (reply_type::NONE, _) => (done && payload.is_empty()).then_some(()),
            (reply_type::OFFSET_DATA, command::READ) => take_data(pending, payload),
            (reply_type::OFFSET_HOLE, command::READ) => take_hole(pending, payload),
            (reply_type::BLOCK_STATUS, command::BLOCK_STATUS) if self.opened.style == Style::Structured => {
                take_extents(pending, payload, &self.opened.contexts)
            }
            (reply_type::BLOCK_STATUS_EXT, command::BLOCK_STATUS) if self.opened.style == Style::Extended => {
                take_long_extents(pending, payload, &self.opened.contexts)
            }
            (kind, _) if kind & reply_type::ERROR_BIT != 0 => take_error(pending, payload),
            _ => None,
        };
        let step = match understood {
            None => Step::broken("a malformed chunk"),
            Some(()) if done => self.finish(chunk.cookie),
            Some(()) => Step::Again,
        };
        (message_bytes, step)
    }
}

fn take_data(pending: &mut Pending, payload: &[u8]) -> Option<()> {
    let offset = number::<8>(payload, 0)?;
    let data = payload.get(8..)?;
    let place = pending.cover(offset, data.len() as u64)?;
    pending.bytes[place].copy_from_slice(data);
    Some(())
}

fn take_hole(pending: &mut Pending, payload: &[u8]) -> Option<()> {
    let (offset, length) = (number::<8>(payload, 0)?, number::<4>(payload, 8)?);
    pending.cover(offset, length)?;
    pending.holes.push(ByteRange::new(offset, length));
    (payload.len() == 12).then_some(())
}

fn take_extents(pending: &mut Pending, payload: &[u8], contexts: &BTreeMap<u32, String>) -> Option<()> {
    let id = number::<4>(payload, 0)? as u32;
    let descriptors = payload.get(4..)?.chunks(8);
    let extent = |bytes: &[u8]| extent(number::<4>(bytes, 0)?, number::<4>(bytes, 4)?);
    keep_extents(pending, id, descriptors.map(extent).collect(), contexts)
}

fn take_long_extents(pending: &mut Pending, payload: &[u8], contexts: &BTreeMap<u32, String>) -> Option<()> {
    let (id, count) = (number::<4>(payload, 0)? as u32, number::<4>(payload, 4)?);
    let descriptors = payload.get(8..)?.chunks(16);
    if descriptors.len() as u64 != count {
        return None;
    }
    let extent = |bytes: &[u8]| extent(number::<8>(bytes, 0)?, number::<8>(bytes, 8)?);
    keep_extents(pending, id, descriptors.map(extent).collect(), contexts)
}

fn extent(length_bytes: u64, flags: u64) -> Option<Extent> {
    let flags = u32::try_from(flags).ok()?;
    (length_bytes > 0).then_some(Extent { length_bytes, flags })
}

fn keep_extents(
    pending: &mut Pending,
    id: u32,
    extents: Option<Vec<Extent>>,
    contexts: &BTreeMap<u32, String>,
) -> Option<()> {
    let extents = extents.filter(|extents| !extents.is_empty())?;
    let expected = contexts.contains_key(&id) && !pending.extents.contains_key(&id);
    expected.then(|| pending.extents.insert(id, extents)).map(|_| ())
}

fn take_error(pending: &mut Pending, payload: &[u8]) -> Option<()> {
    let (error, length) = (number::<4>(payload, 0)? as u32, number::<2>(payload, 4)? as usize);
    let message = payload.get(6..6 + length)?;
    let error = ErrorCode::from_wire(error)?;
    pending.error.get_or_insert_with(|| (error, String::from_utf8_lossy(message).into_owned()));
    Some(())
}
