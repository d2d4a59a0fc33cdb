//! What a server grants its clients, and what it tells of an export.

use crate::protocol::{PAYLOAD_BYTES_MAX, STRING_BYTES_MAX};
use std::time::Duration;
use thiserror::Error;

/// Whether a listener's clients may or must use TLS.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum TlsPolicy {
    /// STARTTLS is refused.
    #[default]
    Off,
    /// STARTTLS is granted to those who ask.
    Allow,
    /// Nothing but STARTTLS and ABORT is granted before TLS.
    Require,
}

/// How much one connection may take. Every queue of a connection has its bound here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// How long a client may take from the greeting to the transmission phase.
    pub handshake: Duration,
    /// Options in one handshake.
    pub options: u32,
    /// Data of one option, in bytes.
    pub option_bytes: u32,
    /// Queries in one request for metadata contexts.
    pub context_queries: u32,
    /// Requests not yet answered.
    pub requests: u32,
    /// Memory for requests not yet answered and replies not yet sent, in bytes; at least two payloads.
    pub memory_bytes: usize,
    /// Headers of replies not yet sent, in bytes: a client that sends and does not listen is not heard beyond it.
    pub reply_header_bytes: usize,
    /// Payload of one request, in bytes.
    pub payload_bytes: u32,
    /// Payload beyond `payload_bytes` up to here is read away and its request refused; beyond, the connection closes.
    pub discarded_payload_bytes: u64,
    /// The stream buffer of a connection that receives all it can, in bytes.
    pub stream_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            handshake: Duration::from_secs(20),
            options: 16_384,
            option_bytes: 64 << 10,
            context_queries: 64,
            requests: 256,
            memory_bytes: 2 * PAYLOAD_BYTES_MAX as usize,
            reply_header_bytes: 256 << 10,
            payload_bytes: PAYLOAD_BYTES_MAX,
            discarded_payload_bytes: 64 << 20,
            stream_bytes: 256 << 10,
        }
    }
}

/// How a listener's connections behave.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ServerConfig {
    /// Whether clients may or must use TLS.
    pub tls: TlsPolicy,
    /// How much a connection may take.
    pub limits: Limits,
}

/// What a client is told of an export.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ExportInfo {
    /// Its canonical name, at most 4,096 bytes.
    pub name: String,
    /// A description for people; may be empty.
    pub description: String,
    /// Its size in bytes.
    pub size_bytes: u64,
    /// Whether writes are refused.
    pub read_only: bool,
    /// Whether a flush on one connection covers what was acknowledged on any other.
    pub multi_conn: bool,
    /// Offsets and lengths must be multiples of this power of two, in bytes.
    pub minimum_block_bytes: u32,
    /// Offsets and lengths are best multiples of this power of two, in bytes.
    pub preferred_block_bytes: u32,
}

impl ExportInfo {
    /// A writable export of `size_bytes`, addressed in sectors of 512 bytes, best in blocks of 4 KiB, safe to use over
    /// several connections.
    #[must_use]
    pub fn new(name: impl Into<String>, size_bytes: u64) -> Self {
        Self {
            name: name.into(),
            description: String::new(),
            size_bytes,
            read_only: false,
            multi_conn: true,
            minimum_block_bytes: 512,
            preferred_block_bytes: 4096,
        }
    }

    /// Whether the protocol can say it: strings in bounds, block sizes powers of two.
    pub(super) fn is_sayable(&self) -> bool {
        self.name.len() <= STRING_BYTES_MAX
            && self.description.len() <= STRING_BYTES_MAX
            && self.minimum_block_bytes.is_power_of_two()
            && self.minimum_block_bytes <= 64 << 10
            && self.preferred_block_bytes.is_power_of_two()
            && self.preferred_block_bytes >= self.minimum_block_bytes.max(512)
            && self.preferred_block_bytes <= PAYLOAD_BYTES_MAX
    }
}

/// Why a client does not get an export.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum ExportError {
    /// There is none of that name, for this client.
    #[error("there is no export of that name")]
    Unknown,
    /// This client may not use it.
    #[error("this client may not use that export")]
    Denied,
    /// It is served under TLS alone.
    #[error("that export is served under TLS only")]
    TlsRequired,
    /// It cannot be served now.
    #[error("that export cannot be served now")]
    Unavailable,
    /// The server is on its way out.
    #[error("the server is shutting down")]
    ShuttingDown,
}
