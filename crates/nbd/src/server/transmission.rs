//! The transmission phase, inbound: requests and their payloads.

use super::event::{CONTEXTS_MAX, ContextSet, EXTENTS_MAX, Event, Request, RequestId, RequestKind};
use super::handshake::context_id;
use super::input::{Destination, ReceiveTarget};
use super::slots::Slot;
use super::validate::{Header, Parsed, header_bytes};
use super::{CloseReason, Connection, Phase, Step, Violation};
use crate::fields::number;
use crate::protocol::{ErrorCode, command, command_flags};
use model::{BufferPool, IoBuffer};

/// With this much of a payload still to come, it is received where it belongs; with less, it comes through the stream
/// buffer, together with the requests that follow it.
const DIRECT_BYTES_MIN: usize = 32 << 10;
/// A write of this much is large: not to copy its payload is worth a receive of its own. (Measured over a Unix socket: a
/// fifth to a quarter less processor time at 128 and 256 KiB, no difference at 64 KiB.)
const LARGE_WRITE_BYTES: u64 = 128 << 10;
/// What is received through the stream buffer where a large write is expected: its header, and little that has to be
/// copied.
const LARGE_WRITE_HEAD_BYTES: usize = 4096;
/// What a request is counted as at least, in bytes: the smallest buffer there is.
const REQUEST_MEMORY_BYTES: usize = 4096;

/// What the stream goes on with.
#[derive(Debug)]
pub(super) enum Incoming {
    /// A header.
    Header,
    /// The rest of a write's payload.
    Payload(Payload),
    /// The rest of a payload that nobody wants, and what to answer then.
    Discard { remaining_bytes: u64, header: Header, error: ErrorCode },
}

/// A write whose payload is not all here.
#[derive(Debug)]
pub(super) struct Payload {
    id: RequestId,
    header: Header,
    /// None while it is lent to be received into.
    data: Option<IoBuffer>,
    filled_bytes: usize,
}

impl Payload {
    fn length(&self) -> usize {
        self.header.length as usize
    }

    fn event(self, data: IoBuffer) -> Event {
        let Header { offset, length, flags, .. } = self.header;
        let fua = flags & command_flags::FUA != 0;
        let kind = RequestKind::Write { offset, length: length as u32, data, fua };
        Event::Request(Request { id: self.id, kind })
    }
}

impl Incoming {
    /// How many requests it holds that count as in flight and that the owner has not seen.
    pub(super) fn requests(&self) -> usize {
        usize::from(matches!(self, Self::Payload(_)))
    }
}

impl Connection {
    pub(super) fn request_step(&mut self, pool: &mut BufferPool) -> Step {
        match &mut self.incoming {
            Incoming::Header => self.header_step(pool),
            Incoming::Payload(payload) => {
                let (start, end) = (payload.filled_bytes, payload.length());
                let Some(data) = payload.data.as_mut() else { return Step::Starved };
                let arrived = self.input.bytes();
                let step = arrived.len().min(end - start);
                data.bytes_mut()[start..start + step].copy_from_slice(&arrived[..step]);
                payload.filled_bytes += step;
                self.input.consume(step);
                self.payload_step(pool)
            }
            Incoming::Discard { remaining_bytes, header, error } => {
                let step = (self.input.bytes().len() as u64).min(*remaining_bytes);
                self.input.consume(step as usize);
                *remaining_bytes -= step;
                if *remaining_bytes > 0 {
                    return Step::Starved;
                }
                let (header, error) = (*header, *error);
                self.incoming = Incoming::Header;
                self.encode_error(&Slot::unseen(&header), error);
                Step::Again
            }
        }
    }

    fn payload_step(&mut self, pool: &mut BufferPool) -> Step {
        match std::mem::replace(&mut self.incoming, Incoming::Header) {
            Incoming::Payload(mut payload) if payload.filled_bytes == payload.length() => {
                let data = payload.data.take().expect("a payload just filled is here");
                if self.shutting_down {
                    pool.put(data);
                    self.reply_error(payload.id, ErrorCode::Shutdown);
                    return Step::Again;
                }
                Step::Event(payload.event(data))
            }
            unfinished => {
                self.incoming = unfinished;
                Step::Starved
            }
        }
    }

    fn header_step(&mut self, pool: &mut BufferPool) -> Step {
        let limits = &self.config.limits;
        self.held_back =
            self.slots.count() >= limits.requests as usize || self.output.header_bytes() > limits.reply_header_bytes;
        if self.held_back {
            return Step::Starved;
        }
        let style = self.negotiated.style;
        let header = match Header::parse(self.input.bytes(), style) {
            Parsed::Header(header) => header,
            Parsed::Incomplete => return Step::Starved,
            Parsed::BadMagic => return self.violated(Violation::RequestMagic),
        };
        let payload_bytes = header.payload_bytes(style);
        let verdict = header.validate(style, &self.export, limits);
        let verdict = if self.shutting_down { verdict.and(Err(ErrorCode::Shutdown)) } else { verdict };
        match verdict {
            Err(_) if payload_bytes > limits.discarded_payload_bytes => self.violated(Violation::PayloadTooLong),
            Err(error) => self.discard(&header, payload_bytes, error),
            Ok(()) if header.command == command::BLOCK_STATUS => self.block_status(header, payload_bytes),
            Ok(()) => self.admit(header, pool),
        }
    }

    fn discard(&mut self, header: &Header, payload_bytes: u64, error: ErrorCode) -> Step {
        // Nobody answers a goodbye, not even one said wrongly.
        if header.command == command::DISC {
            return self.disconnect();
        }
        self.input.consume(header_bytes(self.negotiated.style));
        self.incoming = Incoming::Discard { remaining_bytes: payload_bytes, header: *header, error };
        Step::Again
    }

    fn disconnect(&mut self) -> Step {
        self.input.consume(header_bytes(self.negotiated.style));
        self.phase = Phase::Draining(CloseReason::Disconnected);
        Step::Again
    }

    /// Whether a request that needs so much memory may be taken now. One alone always may.
    fn has_room(&self, memory_bytes: usize) -> bool {
        let held = self.slots.memory_bytes() + self.output.bytes();
        held == 0 || held + memory_bytes <= self.config.limits.memory_bytes
    }

    /// How long the whole blocks are that a range touches, in bytes.
    fn whole_blocks_bytes(&self, offset: u64, length: u64) -> u64 {
        let block = u64::from(self.export.preferred_block_bytes);
        (offset + length).div_ceil(block) * block - offset / block * block
    }

    fn admit(&mut self, header: Header, pool: &mut BufferPool) -> Step {
        let Header { flags, command: code, offset, length, .. } = header;
        let fua = flags & command_flags::FUA != 0;
        let memory_bytes = match code {
            // As the pool rounds it; the length is at most a payload's here.
            command::READ => rounded(self.whole_blocks_bytes(offset, length)),
            command::WRITE => match self.whole_blocks_bytes(offset, length) {
                whole if whole == length => rounded(length),
                // Whoever performs it makes whole blocks of it first.
                whole => rounded(length) + rounded(whole),
            },
            _ => 0,
        };
        if !self.has_room(memory_bytes) {
            self.held_back = true;
            return Step::Starved;
        }
        if code == command::DISC {
            return self.disconnect();
        }
        self.input.consume(header_bytes(self.negotiated.style));
        if length == 0 && code != command::FLUSH {
            self.encode_ok(&Slot::unseen(&header));
            return Step::Again;
        }
        self.large_writes = code == command::WRITE && length >= LARGE_WRITE_BYTES;
        let slot = Slot { memory_bytes, ..Slot::unseen(&header) };
        let id = self.slots.insert(slot);
        let kind = match code {
            command::READ => RequestKind::Read { offset, length: length as u32 },
            command::WRITE => {
                let data = Some(pool.take(length as usize));
                self.incoming = Incoming::Payload(Payload { id, header, data, filled_bytes: 0 });
                return Step::Again;
            }
            command::FLUSH => RequestKind::Flush,
            command::TRIM => RequestKind::Trim { offset, length, fua },
            command::WRITE_ZEROES => RequestKind::WriteZeroes {
                offset,
                length,
                fua,
                no_hole: flags & command_flags::NO_HOLE != 0,
                fast: flags & command_flags::FAST_ZERO != 0,
            },
            command::CACHE => RequestKind::Cache { offset, length },
            other => unreachable!("command {other} was validated"),
        };
        Step::Event(Event::Request(Request { id, kind }))
    }

    fn block_status(&mut self, mut header: Header, payload_bytes: u64) -> Step {
        let style = self.negotiated.style;
        let chosen = self.negotiated.contexts.len();
        let mut contexts = ContextSet((1 << chosen) - 1);
        if header.flags & command_flags::PAYLOAD_LEN != 0 {
            if payload_bytes > 8 + 4 * CONTEXTS_MAX as u64 {
                return if payload_bytes > self.config.limits.discarded_payload_bytes {
                    self.violated(Violation::PayloadTooLong)
                } else {
                    self.discard(&header, payload_bytes, ErrorCode::Invalid)
                };
            }
            let message = header_bytes(style)..header_bytes(style) + payload_bytes as usize;
            let Some(payload) = self.input.bytes().get(message) else { return Step::Starved };
            let Some((length, filter)) = parse_filter(payload, chosen) else {
                return self.discard(&header, payload_bytes, ErrorCode::Invalid);
            };
            header.length = length;
            contexts = filter;
        }
        let verdict = match header.validate_range(&self.export) {
            Ok(()) if contexts == ContextSet::default() || header.length == 0 => Err(ErrorCode::Invalid),
            verdict => verdict,
        };
        if let Err(error) = verdict {
            return self.discard(&header, payload_bytes, error);
        }
        let memory_bytes = contexts.iter().count() * EXTENTS_MAX * 16;
        if !self.has_room(memory_bytes) {
            self.held_back = true;
            return Step::Starved;
        }
        self.input.consume(header_bytes(style) + payload_bytes as usize);
        let id = self.slots.insert(Slot { memory_bytes, contexts, ..Slot::unseen(&header) });
        let one = header.flags & command_flags::REQ_ONE != 0;
        let kind = RequestKind::BlockStatus { offset: header.offset, length: header.length, one, contexts };
        Step::Event(Event::Request(Request { id, kind }))
    }

    /// How much is to be received through the stream buffer at once.
    pub(super) fn stream_window_bytes(&self) -> usize {
        let between_requests = matches!(self.incoming, Incoming::Header);
        if self.large_writes && between_requests { LARGE_WRITE_HEAD_BYTES } else { usize::MAX }
    }

    /// Where the rest of a large payload is to be received, if one is on its way.
    pub(super) fn payload_target(&mut self) -> Option<ReceiveTarget> {
        let Incoming::Payload(payload) = &mut self.incoming else { return None };
        let (start, end) = (payload.filled_bytes, payload.length());
        if end - start < DIRECT_BYTES_MIN || !self.input.bytes().is_empty() {
            return None;
        }
        self.input.lent = true;
        payload.data.take().map(|buffer| ReceiveTarget { buffer, start, end, destination: Destination::Payload })
    }

    pub(super) fn payload_received(&mut self, target: ReceiveTarget, bytes: usize) {
        assert!(bytes <= target.end - target.start, "no more is received than there was room for");
        self.input.lent = false;
        // A connection that ended meanwhile has forgotten the request, and the buffer with it.
        if let Incoming::Payload(payload) = &mut self.incoming {
            payload.data = Some(target.buffer);
            payload.filled_bytes += bytes;
        }
    }

    pub(super) fn discard_payload(&mut self, pool: &mut BufferPool) {
        if let Incoming::Payload(payload) = std::mem::replace(&mut self.incoming, Incoming::Header)
            && let Some(data) = payload.data
        {
            pool.put(data);
        }
    }
}

/// What a buffer of so many bytes takes, which is at most a payload and two blocks.
fn rounded(bytes: u64) -> usize {
    (bytes as usize).max(REQUEST_MEMORY_BYTES).next_power_of_two()
}

impl Slot {
    /// A request that its owner does not see.
    fn unseen(header: &Header) -> Self {
        let Header { flags, command, cookie, offset, length } = *header;
        Self { cookie, offset, length, command, flags, contexts: ContextSet::default(), memory_bytes: 0 }
    }
}

/// The payload of a BLOCK_STATUS: the range's length and the contexts to report. None when it is malformed, or names a
/// context twice or one that was not chosen.
fn parse_filter(payload: &[u8], chosen: usize) -> Option<(u64, ContextSet)> {
    let length = number::<8>(payload, 0)?;
    let ids = payload.get(8..)?.chunks(4);
    let mut filter = 0;
    for id in ids {
        let id = number::<4>(id, 0)? as u32;
        let index = (0..chosen).find(|index| context_id(*index) == id)?;
        if filter >> index & 1 == 1 {
            return None;
        }
        filter |= 1 << index;
    }
    Some((length, ContextSet(filter)))
}
