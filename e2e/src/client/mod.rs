//! A blocking NBD client of our own, written from the protocol's text and not from the product's code, so that the two
//! cannot share a misunderstanding. It speaks simple, structured and extended replies.

mod handshake;
mod session;
pub mod stream;

pub use handshake::{Handshake, OptionReply, option_bytes};
pub use session::{Command, Extent, Reply, Session};
pub use stream::{Endpoint, Stream};

/// Option numbers of the handshake.
pub mod option {
    /// Ends the handshake, naming the export; no reply but the export's size and flags.
    pub const EXPORT_NAME: u32 = 1;
    /// Ends the session politely.
    pub const ABORT: u32 = 2;
    /// Asks for the names of all exports.
    pub const LIST: u32 = 3;
    /// Asks to go on under TLS.
    pub const STARTTLS: u32 = 5;
    /// Asks about an export.
    pub const INFO: u32 = 6;
    /// Asks about an export and ends the handshake.
    pub const GO: u32 = 7;
    /// Asks for structured replies.
    pub const STRUCTURED_REPLY: u32 = 8;
    /// Asks which metadata contexts there are.
    pub const LIST_META_CONTEXT: u32 = 9;
    /// Chooses metadata contexts.
    pub const SET_META_CONTEXT: u32 = 10;
    /// Asks for 64-bit headers.
    pub const EXTENDED_HEADERS: u32 = 11;
}

/// Reply types of the handshake.
pub mod answer {
    /// Done.
    pub const ACK: u32 = 1;
    /// One export of a list.
    pub const SERVER: u32 = 2;
    /// A piece of information about an export.
    pub const INFO: u32 = 3;
    /// One metadata context.
    pub const META_CONTEXT: u32 = 4;
    /// Errors have this bit.
    pub const ERROR: u32 = 1 << 31;
    /// The option is not known.
    pub const ERR_UNSUP: u32 = ERROR | 1;
    /// Not allowed here.
    pub const ERR_POLICY: u32 = ERROR | 2;
    /// Malformed.
    pub const ERR_INVALID: u32 = ERROR | 3;
    /// TLS first.
    pub const ERR_TLS_REQD: u32 = ERROR | 5;
    /// No such export.
    pub const ERR_UNKNOWN: u32 = ERROR | 6;
    /// Too long.
    pub const ERR_TOO_BIG: u32 = ERROR | 9;
}

/// Command numbers of the transmission phase.
pub mod command {
    /// Read.
    pub const READ: u16 = 0;
    /// Write.
    pub const WRITE: u16 = 1;
    /// Leave.
    pub const DISC: u16 = 2;
    /// Make durable what was acknowledged.
    pub const FLUSH: u16 = 3;
    /// Give space back.
    pub const TRIM: u16 = 4;
    /// Prefetch.
    pub const CACHE: u16 = 5;
    /// Write zeroes.
    pub const WRITE_ZEROES: u16 = 6;
    /// Ask which parts hold data.
    pub const BLOCK_STATUS: u16 = 7;
}

/// Command flags.
pub mod flag {
    /// Durable before the reply.
    pub const FUA: u16 = 1;
    /// Do not make a hole.
    pub const NO_HOLE: u16 = 2;
    /// One chunk of content only.
    pub const DF: u16 = 4;
    /// One extent only.
    pub const REQ_ONE: u16 = 8;
    /// Only if it is fast.
    pub const FAST_ZERO: u16 = 16;
}

/// Error numbers of replies.
pub mod error {
    /// Not permitted.
    pub const PERM: u32 = 1;
    /// Input/output error.
    pub const IO: u32 = 5;
    /// Invalid argument.
    pub const INVALID: u32 = 22;
    /// No space left.
    pub const NO_SPACE: u32 = 28;
    /// Does not fit.
    pub const OVERFLOW: u32 = 75;
    /// Not supported.
    pub const NOT_SUPPORTED: u32 = 95;
}
