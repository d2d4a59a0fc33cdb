//! The transmission phase: requests out, replies in, in whatever order the server answers.

use std::collections::BTreeMap;
use std::io::{Read, Write};

use anyhow::{Context, Result, bail, ensure};

use super::{Endpoint, Handshake, Stream, command};

const REQUEST_MAGIC: u32 = 0x2560_9513;
const EXTENDED_REQUEST_MAGIC: u32 = 0x21e4_1c71;
const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
const STRUCTURED_REPLY_MAGIC: u32 = 0x668e_33ef;
const EXTENDED_REPLY_MAGIC: u32 = 0x6e8a_278c;
/// A chunk longer than this is a server gone wrong.
const CHUNK_BYTES_MAX: u64 = 64 << 20;

/// How requests and replies are framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    Simple,
    Structured,
    Extended,
}

/// One request.
#[derive(Clone, Debug, Default)]
pub struct Command {
    /// One of [`command`].
    pub kind: u16,
    /// Any of [`flag`].
    pub flags: u16,
    /// The first byte.
    pub offset: u64,
    /// Bytes covered; for a write, the payload's length.
    pub length: u64,
    /// What a write carries.
    pub payload: Vec<u8>,
}

/// One extent of a block status reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Bytes covered.
    pub length: u64,
    /// Bit 0: hole; bit 1: reads as zeroes.
    pub flags: u64,
}

/// The whole reply to one request.
#[derive(Clone, Debug, Default)]
pub struct Reply {
    /// Which request it answers.
    pub cookie: u64,
    /// Zero, or one of [`super::error`].
    pub error: u32,
    /// What a read gave.
    pub data: Vec<u8>,
    /// What a block status gave.
    pub extents: Vec<Extent>,
    /// Bytes that came as holes instead of data.
    pub hole_bytes: u64,
    /// Chunks of content it came in.
    pub chunks: u32,
}

/// A connection to one export.
#[derive(Debug)]
pub struct Session {
    stream: Stream,
    framing: Framing,
    size_bytes: u64,
    flags: u16,
    next_cookie: u64,
    /// Reads in flight: where each begins and how long it is.
    reads: BTreeMap<u64, (u64, u64)>,
}

impl Session {
    /// Connects to an export with simple replies.
    pub fn open(endpoint: &Endpoint, export: &str) -> Result<Session> {
        Handshake::open(endpoint)?.go(export)
    }

    pub(super) fn new(stream: Stream, framing: Framing, size_bytes: u64, flags: u16) -> Session {
        Session { stream, framing, size_bytes, flags, next_cookie: 1, reads: BTreeMap::new() }
    }

    /// The export's size, in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// The export's transmission flags.
    pub fn flags(&self) -> u16 {
        self.flags
    }

    /// The connection itself, for tests that leave the protocol's path.
    pub fn stream(&mut self) -> &mut Stream {
        &mut self.stream
    }

    /// Sends a request and gives the cookie its reply will carry.
    pub fn submit(&mut self, request: &Command) -> Result<u64> {
        let cookie = self.next_cookie;
        self.next_cookie += 1;
        let bytes = self.request_bytes(request, cookie);
        if request.kind == command::READ {
            self.reads.insert(cookie, (request.offset, request.length));
        }
        self.stream.write_all(&bytes)?;
        Ok(cookie)
    }

    /// Reads the next whole reply, whichever request it answers.
    pub fn next_reply(&mut self) -> Result<Reply> {
        match self.framing {
            Framing::Simple => self.simple_reply(),
            Framing::Structured | Framing::Extended => self.chunked_reply(),
        }
    }

    /// Sends one request and waits for its reply; none other may be in flight.
    pub fn call(&mut self, request: &Command) -> Result<Reply> {
        let cookie = self.submit(request)?;
        let reply = self.next_reply()?;
        ensure!(reply.cookie == cookie, "the reply carries cookie {} instead of {cookie}", reply.cookie);
        Ok(reply)
    }

    /// Reads bytes.
    pub fn read(&mut self, offset: u64, length: u64) -> Result<Vec<u8>> {
        let reply = self.call(&Command { kind: command::READ, offset, length, ..Command::default() })?;
        ensure!(reply.error == 0, "read of {length} bytes at {offset} failed with error {}", reply.error);
        Ok(reply.data)
    }

    /// Writes bytes; gives the reply's error number, zero when it was done.
    pub fn write(&mut self, offset: u64, payload: &[u8], flags: u16) -> Result<u32> {
        let length = payload.len() as u64;
        let request = Command { kind: command::WRITE, flags, offset, length, payload: payload.to_vec() };
        Ok(self.call(&request)?.error)
    }

    /// Trims; gives the reply's error number.
    pub fn trim(&mut self, offset: u64, length: u64) -> Result<u32> {
        Ok(self.call(&Command { kind: command::TRIM, offset, length, ..Command::default() })?.error)
    }

    /// Writes zeroes; gives the reply's error number.
    pub fn zero(&mut self, offset: u64, length: u64, flags: u16) -> Result<u32> {
        let request = Command { kind: command::WRITE_ZEROES, flags, offset, length, ..Command::default() };
        Ok(self.call(&request)?.error)
    }

    /// Flushes; gives the reply's error number.
    pub fn flush(&mut self) -> Result<u32> {
        Ok(self.call(&Command { kind: command::FLUSH, ..Command::default() })?.error)
    }

    /// Asks which parts hold data.
    pub fn block_status(&mut self, offset: u64, length: u64) -> Result<Vec<Extent>> {
        let reply = self.call(&Command { kind: command::BLOCK_STATUS, offset, length, ..Command::default() })?;
        ensure!(reply.error == 0, "block status failed with error {}", reply.error);
        Ok(reply.extents)
    }

    /// Leaves politely.
    pub fn leave(mut self) -> Result<()> {
        self.submit(&Command { kind: command::DISC, ..Command::default() })?;
        let mut rest = Vec::new();
        self.stream.read_to_end(&mut rest).context("the server did not close after DISC")?;
        ensure!(rest.is_empty(), "{} bytes after DISC", rest.len());
        Ok(())
    }

    fn request_bytes(&self, request: &Command, cookie: u64) -> Vec<u8> {
        let extended = self.framing == Framing::Extended;
        let mut flags = request.flags;
        if extended && request.kind == command::WRITE {
            flags |= 1 << 5;
        }
        let mut bytes = Vec::with_capacity(32 + request.payload.len());
        bytes.extend(if extended { EXTENDED_REQUEST_MAGIC } else { REQUEST_MAGIC }.to_be_bytes());
        bytes.extend(flags.to_be_bytes());
        bytes.extend(request.kind.to_be_bytes());
        bytes.extend(cookie.to_be_bytes());
        bytes.extend(request.offset.to_be_bytes());
        if extended {
            bytes.extend(request.length.to_be_bytes());
        } else {
            bytes.extend((request.length as u32).to_be_bytes());
        }
        bytes.extend(&request.payload);
        bytes
    }

    fn simple_reply(&mut self) -> Result<Reply> {
        ensure!(self.word()? == SIMPLE_REPLY_MAGIC, "not a simple reply");
        let error = self.word()?;
        let cookie = self.long()?;
        let mut reply = Reply { cookie, error, ..Reply::default() };
        if let Some((_, length)) = self.reads.remove(&cookie)
            && error == 0
        {
            reply.data = self.bytes(length)?;
            reply.chunks = 1;
        }
        Ok(reply)
    }

    fn chunked_reply(&mut self) -> Result<Reply> {
        let mut reply = Reply::default();
        let mut span = None;
        loop {
            let magic = self.word()?;
            if magic == SIMPLE_REPLY_MAGIC && self.framing == Framing::Structured {
                reply.error = self.word()?;
                reply.cookie = self.long()?;
                ensure!(
                    !self.reads.contains_key(&reply.cookie),
                    "a simple reply to a read after structured replies were agreed"
                );
                return Ok(reply);
            }
            let extended = magic == EXTENDED_REPLY_MAGIC && self.framing == Framing::Extended;
            let structured = magic == STRUCTURED_REPLY_MAGIC && self.framing == Framing::Structured;
            ensure!(extended || structured, "the reply begins with {magic:#x}");
            let kinds = self.word()?;
            let (flags, kind) = ((kinds >> 16) as u16, (kinds & 0xffff) as u16);
            let cookie = self.long()?;
            ensure!(span.is_none() || reply.cookie == cookie, "chunks of two replies are interleaved");
            reply.cookie = cookie;
            let (begin, length) = *span.get_or_insert_with(|| self.reads.get(&cookie).copied().unwrap_or_default());
            if reply.data.is_empty() {
                reply.data = vec![0; length as usize];
            }
            let size = if extended {
                self.long()?;
                self.long()?
            } else {
                u64::from(self.word()?)
            };
            ensure!(size <= CHUNK_BYTES_MAX, "a chunk of {size} bytes");
            let content = self.bytes(size)?;
            absorb(&mut reply, begin, kind, &content)?;
            if flags & 1 != 0 {
                self.reads.remove(&cookie);
                return Ok(reply);
            }
        }
    }

    fn bytes(&mut self, length: u64) -> Result<Vec<u8>> {
        let mut bytes = vec![0; length as usize];
        self.stream.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    fn word(&mut self) -> Result<u32> {
        let mut bytes = [0; 4];
        self.stream.read_exact(&mut bytes)?;
        Ok(u32::from_be_bytes(bytes))
    }

    fn long(&mut self) -> Result<u64> {
        let mut bytes = [0; 8];
        self.stream.read_exact(&mut bytes)?;
        Ok(u64::from_be_bytes(bytes))
    }
}

/// Adds one chunk of a structured or extended reply to what has come so far.
fn absorb(reply: &mut Reply, begin: u64, kind: u16, content: &[u8]) -> Result<()> {
    let word = |at: usize| {
        content.get(at..at + 4).map(|b| u32::from_be_bytes([b[0], b[1], b[2], b[3]])).context("a short chunk")
    };
    let long = |at: usize| Ok::<u64, anyhow::Error>((u64::from(word(at)?) << 32) | u64::from(word(at + 4)?));
    match kind {
        0 => ensure!(content.is_empty(), "an empty chunk with content"),
        1 => {
            let at = long(0)?.checked_sub(begin).context("a chunk before its read")? as usize;
            let target = reply.data.get_mut(at..at + content.len() - 8).context("a chunk past its read")?;
            target.copy_from_slice(&content[8..]);
            reply.chunks += 1;
        }
        2 => {
            let at = long(0)?.checked_sub(begin).context("a hole before its read")? as usize;
            let length = word(8)? as usize;
            reply.data.get_mut(at..at + length).context("a hole past its read")?.fill(0);
            reply.hole_bytes += length as u64;
            reply.chunks += 1;
        }
        5 => {
            for at in (4..content.len()).step_by(8) {
                reply.extents.push(Extent { length: u64::from(word(at)?), flags: u64::from(word(at + 4)?) });
            }
        }
        6 => {
            for at in (8..content.len()).step_by(16) {
                reply.extents.push(Extent { length: long(at)?, flags: long(at + 8)? });
            }
        }
        error if error & (1 << 15) != 0 => reply.error = word(0)?,
        other => bail!("a chunk of unknown type {other}"),
    }
    Ok(())
}
