//! What a connection tells its owner.

use super::ExportError;
use model::IoBuffer;
use thiserror::Error;

/// What a connection tells its owner.
#[derive(Debug)]
pub enum Event {
    /// Name the exports: answer with [`super::Connection::exports_listed`].
    ListExports,
    /// Describe an export: answer with [`super::Connection::export_opened`], but keep nothing open.
    QueryExport {
        /// Its name; empty for the default export.
        name: String,
    },
    /// Open an export: answer with [`super::Connection::export_opened`]. On success requests follow.
    OpenExport {
        /// Its name; empty for the default export.
        name: String,
    },
    /// Which metadata contexts beyond `base:allocation` does an export have: answer with
    /// [`super::Connection::contexts_resolved`].
    ResolveContexts {
        /// The export's name; empty for the default export.
        name: String,
        /// What the client asked for outside the `base:` namespace.
        queries: Vec<String>,
        /// Name every context that the client could choose, whatever the queries.
        all: bool,
    },
    /// Every plaintext byte has been sent: perform the TLS handshake, then call
    /// [`super::Connection::tls_upgraded`]. Until then nothing is to be fed.
    UpgradeTls,
    /// Serve a request, and answer it once.
    Request(Request),
    /// Close the socket, sending first what can be sent at once. The last event there is; requests not yet answered may
    /// still be, to no effect.
    Close(CloseReason),
}

/// A request's place in its connection's table: small and dense, used again once the request is answered.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RequestId(pub u32);

/// A request that is within the bounds of its export.
#[derive(Debug)]
pub struct Request {
    /// What to answer it by.
    pub id: RequestId,
    /// What it asks.
    pub kind: RequestKind,
}

/// What a request asks. Ranges lie within the export, are multiples of its minimum block, and are not empty.
#[derive(Debug)]
pub enum RequestKind {
    /// Answer with [`super::Connection::reply_read`].
    Read {
        /// First byte.
        offset: u64,
        /// How many bytes; at most the largest payload.
        length: u32,
    },
    /// Answer with [`super::Connection::reply_ok`], as all that follow but the last.
    Write {
        /// First byte.
        offset: u64,
        /// How many bytes of `data`; at most the largest payload.
        length: u32,
        /// The bytes, from the buffer's first on. What comes after `length` is not to be shown.
        data: IoBuffer,
        /// Durable before the answer.
        fua: bool,
    },
    /// Make durable what was answered before, on any connection.
    Flush,
    /// The range is no longer needed.
    Trim {
        /// First byte.
        offset: u64,
        /// How many bytes.
        length: u64,
        /// Durable before the answer.
        fua: bool,
    },
    /// The range reads as zeroes from here on.
    WriteZeroes {
        /// First byte.
        offset: u64,
        /// How many bytes.
        length: u64,
        /// Durable before the answer.
        fua: bool,
        /// Storage must be allocated.
        no_hole: bool,
        /// Fail with [`crate::ErrorCode::NotSupported`], changing nothing, rather than be as slow as a write.
        fast: bool,
    },
    /// The range will be read soon.
    Cache {
        /// First byte.
        offset: u64,
        /// How many bytes.
        length: u64,
    },
    /// Answer with [`super::Connection::reply_block_status`].
    BlockStatus {
        /// First byte.
        offset: u64,
        /// How many bytes are of interest.
        length: u64,
        /// One extent a context is enough.
        one: bool,
        /// The contexts to report.
        contexts: ContextSet,
    },
}

/// A metadata context that the client chose, by its place among them; see [`super::Connection::contexts`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ContextIndex(pub u8);

/// A set of the metadata contexts that the client chose.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ContextSet(pub(super) u32);

impl ContextSet {
    /// Whether it holds `context`.
    #[must_use]
    pub const fn contains(self, context: ContextIndex) -> bool {
        (context.0 as usize) < CONTEXTS_MAX && self.0 >> context.0 & 1 == 1
    }

    /// What it holds, in order.
    pub fn iter(self) -> impl Iterator<Item = ContextIndex> {
        (0..CONTEXTS_MAX as u8).map(ContextIndex).filter(move |context| self.contains(*context))
    }
}

/// The most metadata contexts a client may choose.
pub const CONTEXTS_MAX: usize = 16;
/// The most extents of one context a reply carries; a reply with more is cut there, and the client asks on.
pub const EXTENTS_MAX: usize = 16_384;

/// A piece of what a read found; the pieces follow each other from the request's first byte to its last.
#[derive(Debug)]
pub enum ReadSegment {
    /// Zeroes.
    Hole {
        /// How many bytes.
        length: u32,
    },
    /// Bytes of a buffer, which goes back to the pool once they are sent.
    Data {
        /// The buffer.
        buffer: IoBuffer,
        /// The first byte of it.
        start: u32,
        /// How many bytes.
        length: u32,
    },
    /// More bytes of the buffer that the last `Data` of the same reply gave.
    MoreData {
        /// The first byte of it.
        start: u32,
        /// How many bytes.
        length: u32,
    },
}

/// What a range is made of, in the words of one context.
#[derive(Clone, Copy, Debug)]
pub struct ContextStatus<'a> {
    /// Which context.
    pub context: ContextIndex,
    /// Extents from the request's first byte on. Those that begin beyond its last are left out.
    pub extents: &'a [crate::Extent],
}

/// Why a connection ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum CloseReason {
    /// The client said goodbye, and every request is answered.
    #[error("the client disconnected")]
    Disconnected,
    /// The client left during the handshake.
    #[error("the client aborted the handshake")]
    Aborted,
    /// The client's end of the stream closed without a goodbye.
    #[error("the client went away")]
    PeerClosed,
    /// This server is on its way out, and every request is answered.
    #[error("the server is shutting down")]
    ShutDown,
    /// The client asked for an export in the way that leaves no other answer.
    #[error("the export was refused: {0}")]
    ExportRefused(ExportError),
    /// The client broke the protocol.
    #[error("the client broke the protocol: {0}")]
    Violation(Violation),
}

/// How a client broke the protocol, beyond what an error reply can mend.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum Violation {
    /// It set flags the server does not know.
    #[error("unknown client flags")]
    ClientFlags,
    /// An option does not begin as options do.
    #[error("an option without its magic number")]
    OptionMagic,
    /// A request does not begin as requests do.
    #[error("a request without its magic number")]
    RequestMagic,
    /// An option's data are longer than this server takes.
    #[error("an option that is too long")]
    OptionTooLong,
    /// The handshake goes on and on.
    #[error("too many options")]
    TooManyOptions,
    /// It did not agree to fixed newstyle, and yet sent an option that needs it.
    #[error("an option that needs fixed newstyle")]
    NotFixedNewstyle,
    /// The name in EXPORT_NAME is too long or no text.
    #[error("an export name that is too long or no text")]
    ExportName,
    /// It asked for EXPORT_NAME where TLS is required.
    #[error("an export asked for without TLS")]
    TlsRequired,
    /// It asked for EXPORT_NAME after extended headers.
    #[error("EXPORT_NAME after extended headers")]
    ExportNameAfterExtendedHeaders,
    /// Plaintext came after STARTTLS: someone in between may have put it there.
    #[error("plaintext after STARTTLS")]
    PlaintextAfterStarttls,
    /// A payload longer than is worth reading away.
    #[error("a payload that is too long")]
    PayloadTooLong,
}
