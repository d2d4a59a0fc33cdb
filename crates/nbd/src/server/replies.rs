//! The transmission phase, outbound: replies, in whichever form the client agreed to.

use super::event::{ContextStatus, EXTENTS_MAX, ReadSegment, RequestId};
use super::handshake::context_id;
use super::slots::Slot;
use super::{Connection, Phase, Style};
use crate::protocol::{
    EXTENDED_REPLY_BYTES, EXTENDED_REPLY_MAGIC, ErrorCode, Extent, SIMPLE_REPLY_BYTES, SIMPLE_REPLY_MAGIC,
    STRUCTURED_REPLY_BYTES, STRUCTURED_REPLY_MAGIC, command, command_flags, reply_flags, reply_type,
};

/// The longest extent that 32 bits can say in whole sectors, in bytes.
const COMPACT_EXTENT_BYTES_MAX: u64 = 0xffff_fe00;

impl Connection {
    /// The request is done. For all but reads and BLOCK_STATUS.
    ///
    /// # Panics
    /// When it is answered already, or needs data for its answer.
    pub fn reply_ok(&mut self, id: RequestId) {
        let slot = self.slots.take(id);
        let needs_data = matches!(slot.command, command::READ | command::BLOCK_STATUS);
        assert!(!needs_data, "a request for data is answered with data");
        if self.is_heard() {
            self.encode_ok(&slot);
        }
    }

    /// The request failed.
    ///
    /// # Panics
    /// When it is answered already.
    pub fn reply_error(&mut self, id: RequestId, error: impl Into<ErrorCode>) {
        let slot = self.slots.take(id);
        if self.is_heard() {
            self.encode_error(&slot, error.into());
        }
    }

    /// The read found `segments`, which cover its range in order. Their buffers go to the pool once they are sent.
    ///
    /// # Panics
    /// When the request is answered already, was no read, or the segments do not cover its range exactly.
    pub fn reply_read(&mut self, id: RequestId, segments: impl IntoIterator<Item = ReadSegment>) {
        let slot = self.slots.take(id);
        assert_eq!(slot.command, command::READ, "only a read is answered with data");
        if !self.is_heard() {
            return;
        }
        let covered = match self.negotiated.style {
            Style::Simple => self.encode_simple_read(&slot, segments),
            Style::Structured | Style::Extended => self.encode_chunked_read(&slot, segments),
        };
        assert_eq!(covered, slot.length, "a read's segments cover its range");
    }

    /// What the range is made of, for each context asked about. A context without an extent here is reported as
    /// "nothing known" (flags 0) over the range, which the protocol allows of every context.
    ///
    /// # Panics
    /// When the request is answered already, or was no BLOCK_STATUS.
    pub fn reply_block_status(&mut self, id: RequestId, statuses: &[ContextStatus<'_>]) {
        let slot = self.slots.take(id);
        assert_eq!(slot.command, command::BLOCK_STATUS, "only BLOCK_STATUS is answered with extents");
        if !self.is_heard() {
            return;
        }
        let mut contexts = slot.contexts.iter().peekable();
        while let Some(context) = contexts.next() {
            let extents = statuses.iter().find(|status| status.context == context).map_or(&[][..], |s| s.extents);
            let done = if contexts.peek().is_none() { reply_flags::DONE } else { 0 };
            self.encode_extents(&slot, context_id(context.0.into()), extents, done);
        }
    }

    fn is_heard(&self) -> bool {
        !matches!(self.phase, Phase::Ending(_) | Phase::Closed)
    }

    pub(super) fn encode_ok(&mut self, slot: &Slot) {
        match self.negotiated.style {
            // Only replies with a payload, and all those to reads, have to be chunks; this form is shorter.
            Style::Structured if slot.command != command::READ => self.put_simple_header(slot, 0),
            Style::Simple => self.put_simple_header(slot, 0),
            Style::Structured | Style::Extended => {
                self.put_chunk_header(slot, reply_flags::DONE, reply_type::NONE, 0);
            }
        }
    }

    pub(super) fn encode_error(&mut self, slot: &Slot, error: ErrorCode) {
        if self.negotiated.style == Style::Simple {
            self.put_simple_header(slot, error.to_wire());
            return;
        }
        let message = error.message();
        self.put_chunk_header(slot, reply_flags::DONE, reply_type::ERROR, 6 + message.len() as u64);
        let batch = self.output.batch();
        batch.put_header(&error.to_wire().to_be_bytes());
        batch.put_header(&(message.len() as u16).to_be_bytes());
        batch.put_header(message.as_bytes());
    }

    fn put_simple_header(&mut self, slot: &Slot, error: u32) {
        let mut header = [0; SIMPLE_REPLY_BYTES];
        header[..4].copy_from_slice(&SIMPLE_REPLY_MAGIC.to_be_bytes());
        header[4..8].copy_from_slice(&error.to_be_bytes());
        header[8..].copy_from_slice(&slot.cookie.to_be_bytes());
        self.output.batch().put_header(&header);
    }

    /// Queues the header of a chunk; gives its position, for [`Connection::finish_chunk`].
    fn put_chunk_header(&mut self, slot: &Slot, flags: u16, kind: u16, payload_bytes: u64) -> usize {
        let extended = self.negotiated.style == Style::Extended;
        let batch = self.output.batch();
        let position = batch.header_position();
        let mut header = [0; EXTENDED_REPLY_BYTES];
        let magic = if extended { EXTENDED_REPLY_MAGIC } else { STRUCTURED_REPLY_MAGIC };
        header[..4].copy_from_slice(&magic.to_be_bytes());
        header[4..6].copy_from_slice(&flags.to_be_bytes());
        header[6..8].copy_from_slice(&kind.to_be_bytes());
        header[8..16].copy_from_slice(&slot.cookie.to_be_bytes());
        if extended {
            header[16..24].copy_from_slice(&slot.offset.to_be_bytes());
            header[24..32].copy_from_slice(&payload_bytes.to_be_bytes());
            batch.put_header(&header);
        } else {
            header[16..20].copy_from_slice(&(payload_bytes as u32).to_be_bytes());
            batch.put_header(&header[..STRUCTURED_REPLY_BYTES]);
        }
        position
    }

    /// Sets what is known of a chunk only once its payload is queued.
    fn set_chunk_payload(&mut self, position: usize, payload_bytes: u64) {
        let extended = self.negotiated.style == Style::Extended;
        let batch = self.output.batch();
        if extended {
            batch.patch_header(position + 24, &payload_bytes.to_be_bytes());
        } else {
            batch.patch_header(position + 16, &(payload_bytes as u32).to_be_bytes());
        }
    }

    fn encode_simple_read(&mut self, slot: &Slot, segments: impl IntoIterator<Item = ReadSegment>) -> u64 {
        self.put_simple_header(slot, 0);
        let batch = self.output.batch();
        let mut covered = 0;
        for segment in segments {
            let (hole, start, length) = match segment {
                ReadSegment::Hole { length } => (true, 0, length),
                ReadSegment::MoreData { start, length } => (false, start, length),
                ReadSegment::Data { buffer, start, length } => {
                    batch.put_buffer(buffer);
                    (false, start, length)
                }
            };
            match (hole, length) {
                (_, 0) => {}
                (true, _) => batch.put_zeroes(length),
                (false, _) => batch.put_data(start, length),
            }
            covered += u64::from(length);
        }
        covered
    }

    fn encode_chunked_read(&mut self, slot: &Slot, segments: impl IntoIterator<Item = ReadSegment>) -> u64 {
        let whole = slot.flags & command_flags::DF != 0;
        let mut covered = 0;
        // The chunk that was begun last, and how long its data are so far; a hole's chunk is over at once.
        let mut last = 0;
        let mut data_bytes: Option<u64> = None;
        for segment in segments {
            let (hole, start, length) = match segment {
                ReadSegment::Hole { length } => (true, 0, length),
                ReadSegment::MoreData { start, length } => (false, start, length),
                ReadSegment::Data { buffer, start, length } => {
                    self.output.batch().put_buffer(buffer);
                    (false, start, length)
                }
            };
            if length == 0 {
                continue;
            }
            let offset = slot.offset + covered;
            covered += u64::from(length);
            // A client that wants one chunk gets its holes as zeroes, unless there is nothing else.
            if hole && (!whole || u64::from(length) == slot.length) {
                last = self.put_chunk_header(slot, 0, reply_type::OFFSET_HOLE, 12);
                self.output.batch().put_header(&offset.to_be_bytes());
                self.output.batch().put_header(&length.to_be_bytes());
                data_bytes = None;
                continue;
            }
            let so_far = match data_bytes {
                Some(so_far) => so_far,
                None => {
                    last = self.put_chunk_header(slot, 0, reply_type::OFFSET_DATA, 0);
                    self.output.batch().put_header(&offset.to_be_bytes());
                    0
                }
            };
            data_bytes = Some(so_far + u64::from(length));
            self.set_chunk_payload(last, 8 + so_far + u64::from(length));
            if hole {
                self.output.batch().put_zeroes(length);
            } else {
                self.output.batch().put_data(start, length);
            }
        }
        // Everything is in memory, so that nothing can fail any more: the last chunk may say that it is the last.
        self.output.batch().patch_header(last + 4, &reply_flags::DONE.to_be_bytes());
        covered
    }

    fn encode_extents(&mut self, slot: &Slot, context: u32, extents: &[Extent], done: u16) {
        let extended = self.negotiated.style == Style::Extended;
        let one = slot.flags & command_flags::REQ_ONE != 0;
        let kind = if extended { reply_type::BLOCK_STATUS_EXT } else { reply_type::BLOCK_STATUS };
        let position = self.put_chunk_header(slot, done, kind, 0);
        self.output.batch().put_header(&context.to_be_bytes());
        if extended {
            self.output.batch().put_header(&[0; 4]);
        }
        let mut count = 0_u32;
        let mut left = slot.length;
        let mut merged = Merged { extents };
        while left > 0 && count < if one { 1 } else { EXTENTS_MAX as u32 } {
            let Some(mut extent) = merged.next() else { break };
            let longest = match (one, extended) {
                (true, true) => slot.length,
                (true, false) => slot.length.min(COMPACT_EXTENT_BYTES_MAX),
                (false, true) => u64::MAX,
                (false, false) => COMPACT_EXTENT_BYTES_MAX,
            };
            let cut = extent.length_bytes > longest;
            extent.length_bytes = extent.length_bytes.min(longest);
            self.put_extent(extent, extended);
            count += 1;
            // What was cut off is not told: the client asks on from where the answer ends.
            left = if cut { 0 } else { left.saturating_sub(extent.length_bytes) };
        }
        if count == 0 {
            let longest = if extended { u64::MAX } else { COMPACT_EXTENT_BYTES_MAX };
            self.put_extent(Extent { length_bytes: slot.length.min(longest), flags: 0 }, extended);
            count = 1;
        }
        if extended {
            self.output.batch().patch_header(position + EXTENDED_REPLY_BYTES + 4, &count.to_be_bytes());
            self.set_chunk_payload(position, 8 + 16 * u64::from(count));
        } else {
            self.set_chunk_payload(position, 4 + 8 * u64::from(count));
        }
    }

    fn put_extent(&mut self, extent: Extent, extended: bool) {
        let batch = self.output.batch();
        if extended {
            batch.put_header(&extent.length_bytes.to_be_bytes());
            batch.put_header(&u64::from(extent.flags).to_be_bytes());
        } else {
            batch.put_header(&(extent.length_bytes as u32).to_be_bytes());
            batch.put_header(&extent.flags.to_be_bytes());
        }
    }
}

/// Extents with neighbours of one status made one, and empty ones left out.
struct Merged<'a> {
    extents: &'a [Extent],
}

impl Iterator for Merged<'_> {
    type Item = Extent;

    fn next(&mut self) -> Option<Extent> {
        let mut merged: Option<Extent> = None;
        while let Some((first, rest)) = self.extents.split_first() {
            match &mut merged {
                _ if first.length_bytes == 0 => {}
                None => merged = Some(*first),
                Some(extent) if extent.flags == first.flags => {
                    extent.length_bytes = extent.length_bytes.saturating_add(first.length_bytes);
                }
                Some(_) => break,
            }
            self.extents = rest;
        }
        merged
    }
}
