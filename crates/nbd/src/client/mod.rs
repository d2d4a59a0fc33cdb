//! The client's end of a connection: enough of it for simulations, tests, fuzzers and copying tools.
//!
//! A [`Client`] negotiates as its [`ClientConfig`] says, then turns calls into bytes and bytes into replies. It trusts a
//! server no more than the server trusts it: whatever comes in, it holds no more than one message and what the replies
//! to its own requests amount to.

mod handshake;
mod replies;

#[cfg(test)]
mod tests;

use crate::protocol::{
    EXTENDED_REQUEST_MAGIC, ErrorCode, Extent, PAYLOAD_BYTES_MAX, REQUEST_MAGIC, command, command_flags,
};
use handshake::Stage;
use model::ByteRange;
use replies::Pending;
use std::collections::BTreeMap;
use thiserror::Error;

/// The form of requests and replies.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub enum Style {
    /// Compact requests, simple replies.
    Simple,
    /// Compact requests, chunked replies.
    #[default]
    Structured,
    /// Extended headers both ways.
    Extended,
}

/// How a client negotiates.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClientConfig {
    /// The export to open.
    pub export: String,
    /// The best form to ask for; a server that refuses it is asked for the next simpler one.
    pub style: Style,
    /// Whether to ask for TLS, and leave without it.
    pub tls: bool,
    /// The metadata contexts to ask for.
    pub contexts: Vec<String>,
    /// Open with EXPORT_NAME, as old clients do.
    pub by_export_name: bool,
    /// Do without the zeroes after EXPORT_NAME.
    pub no_zeroes: bool,
    /// Claim fixed newstyle. Without it there is EXPORT_NAME and nothing else.
    pub fixed_newstyle: bool,
}

impl ClientConfig {
    /// A modern client of `export`: extended headers, `base:allocation`.
    #[must_use]
    pub fn new(export: impl Into<String>) -> Self {
        Self {
            export: export.into(),
            style: Style::Extended,
            tls: false,
            contexts: vec![crate::protocol::BASE_ALLOCATION.to_owned()],
            by_export_name: false,
            no_zeroes: true,
            fixed_newstyle: true,
        }
    }
}

/// What the handshake settled.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Opened {
    /// The export's size in bytes.
    pub size_bytes: u64,
    /// Its transmission flags.
    pub flags: u16,
    /// Its canonical name, if told.
    pub name: Option<String>,
    /// Its description, if told.
    pub description: Option<String>,
    /// Minimum and preferred block and maximum payload in bytes, if told.
    pub block_sizes_bytes: Option<[u32; 3]>,
    /// The form agreed on.
    pub style: Style,
    /// The metadata contexts agreed on, by their number on the wire.
    pub contexts: BTreeMap<u32, String>,
}

/// What a client tells its owner.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ClientEvent {
    /// Perform the TLS handshake, then call [`Client::tls_upgraded`].
    UpgradeTls,
    /// The export is open: requests may be made.
    Opened(Opened),
    /// A request is answered.
    Reply(Reply),
    /// It is over: the server refused, or broke the protocol. Close the socket.
    Failed(ClientError),
}

/// The answer to a request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reply {
    /// What the request returned when it was made.
    pub cookie: u64,
    /// How it went.
    pub outcome: Outcome,
}

/// How a request went.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It is done.
    Done,
    /// What a read found.
    Data {
        /// The bytes.
        bytes: Vec<u8>,
        /// Which of them the server sent as holes, as offsets on the export.
        holes: Vec<ByteRange>,
    },
    /// What BLOCK_STATUS found, by the context's number on the wire.
    Extents(BTreeMap<u32, Vec<Extent>>),
    /// It failed.
    Failed {
        /// Why.
        error: ErrorCode,
        /// What the server says about it.
        message: String,
    },
}

/// Why a connection is of no more use.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum ClientError {
    /// The server refused an option that is needed.
    #[error("the server refused option {option} with {reply:#x}: {message}")]
    Refused {
        /// The option.
        option: u32,
        /// The type of the reply; one of [`crate::protocol::option_reply`].
        reply: u32,
        /// What the server says about it.
        message: String,
    },
    /// The server broke the protocol.
    #[error("the server broke the protocol: {0}")]
    Protocol(&'static str),
}

/// The longest message a server may send: a payload and the fixed part of its chunk, in bytes.
const MESSAGE_BYTES_MAX: u64 = PAYLOAD_BYTES_MAX as u64 + 4096;

/// The client's end of one connection.
#[derive(Debug)]
pub struct Client {
    config: ClientConfig,
    stage: Stage,
    opened: Opened,
    input: Inbox,
    output: Vec<u8>,
    pending: BTreeMap<u64, Pending>,
    next_cookie: u64,
}

impl Client {
    /// A client that waits for the server's greeting.
    #[must_use]
    pub fn new(config: ClientConfig) -> Self {
        Self {
            config,
            stage: Stage::Greeting,
            opened: Opened { style: Style::Simple, ..Opened::default() },
            input: Inbox::default(),
            output: Vec::new(),
            pending: BTreeMap::new(),
            next_cookie: 1,
        }
    }

    /// Takes bytes from the server. Take its events after each: what is not yet understood is kept.
    pub fn received(&mut self, bytes: &[u8]) {
        if !matches!(self.stage, Stage::Failed) {
            self.input.put(bytes);
        }
    }

    /// What the owner should know or do next.
    pub fn next_event(&mut self) -> Option<ClientEvent> {
        loop {
            let (consumed, step) = match self.stage {
                Stage::Failed | Stage::TlsHandshake => return None,
                Stage::Transmission => self.reply_step(),
                _ => self.handshake_step(),
            };
            self.input.consume(consumed);
            match step {
                Step::Again => {}
                Step::Starved => return None,
                Step::Event(event) => return Some(event),
                Step::Failed(error) => {
                    self.stage = Stage::Failed;
                    self.input = Inbox::default();
                    return Some(ClientEvent::Failed(error));
                }
            }
        }
    }

    /// The bytes to send to the server.
    #[must_use]
    pub fn take_output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.output)
    }

    /// What the handshake settled, once it is over.
    #[must_use]
    pub fn opened(&self) -> Option<&Opened> {
        matches!(self.stage, Stage::Transmission).then_some(&self.opened)
    }

    /// How many requests are not answered.
    #[must_use]
    pub fn requests_in_flight(&self) -> usize {
        self.pending.len()
    }

    /// Reads. Gives the cookie that the reply will bear, as all requests do.
    pub fn read(&mut self, offset: u64, length: u32, flags: u16) -> u64 {
        self.request(command::READ, flags, offset, length.into(), &[])
    }

    /// Writes `bytes`.
    pub fn write(&mut self, offset: u64, bytes: &[u8], flags: u16) -> u64 {
        let payload = if self.opened.style == Style::Extended { command_flags::PAYLOAD_LEN } else { 0 };
        self.request(command::WRITE, flags | payload, offset, bytes.len() as u64, bytes)
    }

    /// Flushes.
    pub fn flush(&mut self) -> u64 {
        self.request(command::FLUSH, 0, 0, 0, &[])
    }

    /// Trims.
    pub fn trim(&mut self, offset: u64, length: u64, flags: u16) -> u64 {
        self.request(command::TRIM, flags, offset, length, &[])
    }

    /// Writes zeroes.
    pub fn write_zeroes(&mut self, offset: u64, length: u64, flags: u16) -> u64 {
        self.request(command::WRITE_ZEROES, flags, offset, length, &[])
    }

    /// Announces a read.
    pub fn cache(&mut self, offset: u64, length: u64) -> u64 {
        self.request(command::CACHE, 0, offset, length, &[])
    }

    /// Asks what a range is made of, in the words of every context agreed on.
    pub fn block_status(&mut self, offset: u64, length: u64, flags: u16) -> u64 {
        self.request(command::BLOCK_STATUS, flags, offset, length, &[])
    }

    /// The same, of some contexts only. Needs extended headers.
    pub fn block_status_of(&mut self, offset: u64, length: u64, flags: u16, contexts: &[u32]) -> u64 {
        let mut payload = length.to_be_bytes().to_vec();
        payload.extend(contexts.iter().flat_map(|id| id.to_be_bytes()));
        let flags = flags | command_flags::PAYLOAD_LEN;
        self.request(command::BLOCK_STATUS, flags, offset, payload.len() as u64, &payload)
    }

    /// Says goodbye. There is no reply.
    pub fn disconnect(&mut self) {
        let cookie = self.request(command::DISC, 0, 0, 0, &[]);
        self.pending.remove(&cookie);
    }

    /// Makes a request just as told, sensible or not: its header, then `payload`.
    pub fn request(&mut self, code: u16, flags: u16, offset: u64, length: u64, payload: &[u8]) -> u64 {
        let cookie = self.next_cookie;
        self.next_cookie += 1;
        let extended = self.opened.style == Style::Extended;
        let magic = if extended { EXTENDED_REQUEST_MAGIC } else { REQUEST_MAGIC };
        self.output.extend(magic.to_be_bytes());
        self.output.extend(flags.to_be_bytes());
        self.output.extend(code.to_be_bytes());
        self.output.extend(cookie.to_be_bytes());
        self.output.extend(offset.to_be_bytes());
        if extended {
            self.output.extend(length.to_be_bytes());
        } else {
            self.output.extend((length as u32).to_be_bytes());
        }
        self.output.extend_from_slice(payload);
        let filtered = code == command::BLOCK_STATUS && flags & command_flags::PAYLOAD_LEN != 0;
        let effect = if filtered { crate::fields::number::<8>(payload, 0).unwrap_or(length) } else { length };
        self.pending.insert(cookie, Pending::new(code, ByteRange::new(offset, effect)));
        cookie
    }
}

/// Bytes not yet understood.
#[derive(Debug, Default)]
struct Inbox {
    bytes: Vec<u8>,
    start: usize,
}

impl Inbox {
    fn unread(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    fn put(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.start);
        self.start = 0;
        self.bytes.extend_from_slice(bytes);
    }

    fn consume(&mut self, bytes: usize) {
        self.start += bytes;
    }
}

/// What became of an attempt to understand the next message.
#[derive(Debug)]
enum Step {
    Event(ClientEvent),
    Again,
    Starved,
    Failed(ClientError),
}

impl Step {
    fn broken(what: &'static str) -> Self {
        Self::Failed(ClientError::Protocol(what))
    }
}
