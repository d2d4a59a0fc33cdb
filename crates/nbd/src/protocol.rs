//! The numbers of the NBD protocol, as its public description (`doc/proto.md` of the NBD project, with the extended
//! headers extension) gives them. All fields on the wire are big-endian.

use model::IoError;
use thiserror::Error;

/// First thing a server says: `NBDMAGIC`.
pub const GREETING_MAGIC: u64 = 0x4e42_444d_4147_4943;
/// Second thing a server says, and the start of each option: `IHAVEOPT`.
pub const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
/// Start of each reply to an option.
pub const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
/// Start of a compact request.
pub const REQUEST_MAGIC: u32 = 0x2560_9513;
/// Start of an extended request.
pub const EXTENDED_REQUEST_MAGIC: u32 = 0x21e4_1c71;
/// Start of a simple reply.
pub const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
/// Start of a structured reply chunk.
pub const STRUCTURED_REPLY_MAGIC: u32 = 0x668e_33ef;
/// Start of an extended reply chunk.
pub const EXTENDED_REPLY_MAGIC: u32 = 0x6e8a_278c;

/// Bytes of an option's header: magic, option, length.
pub const OPTION_HEADER_BYTES: usize = 16;
/// Bytes of the header of a reply to an option: magic, option, reply type, length.
pub const OPTION_REPLY_HEADER_BYTES: usize = 20;
/// Bytes of a compact request's header.
pub const REQUEST_BYTES: usize = 28;
/// Bytes of an extended request's header.
pub const EXTENDED_REQUEST_BYTES: usize = 32;
/// Bytes of a simple reply's header.
pub const SIMPLE_REPLY_BYTES: usize = 16;
/// Bytes of a structured reply chunk's header.
pub const STRUCTURED_REPLY_BYTES: usize = 20;
/// Bytes of an extended reply chunk's header.
pub const EXTENDED_REPLY_BYTES: usize = 32;

/// The longest string (a name, a query, a message) either side may send, in bytes.
pub const STRING_BYTES_MAX: usize = 4096;
/// The payload every implementation has to take, and the most this one takes, in bytes.
pub const PAYLOAD_BYTES_MAX: u32 = 32 << 20;
/// Zeroes that follow the answer to EXPORT_NAME, unless both sides agreed on NO_ZEROES.
pub const EXPORT_NAME_ZEROES_BYTES: usize = 124;

/// Handshake flags, server to client and back (the client's have the same bits).
pub mod handshake_flags {
    /// Options are answered, and unknown ones are survived.
    pub const FIXED_NEWSTYLE: u16 = 1 << 0;
    /// No 124 zeroes after EXPORT_NAME.
    pub const NO_ZEROES: u16 = 1 << 1;
}

/// Options of the handshake.
pub mod option {
    /// Choose an export and begin, without a way to say no but to hang up.
    pub const EXPORT_NAME: u32 = 1;
    /// Leave.
    pub const ABORT: u32 = 2;
    /// Name the exports.
    pub const LIST: u32 = 3;
    /// Go on under TLS.
    pub const STARTTLS: u32 = 5;
    /// Describe an export.
    pub const INFO: u32 = 6;
    /// Describe an export and begin.
    pub const GO: u32 = 7;
    /// Replies to reads come in chunks.
    pub const STRUCTURED_REPLY: u32 = 8;
    /// Name the metadata contexts of an export.
    pub const LIST_META_CONTEXT: u32 = 9;
    /// Choose the metadata contexts that BLOCK_STATUS answers.
    pub const SET_META_CONTEXT: u32 = 10;
    /// Headers of 32 bytes with 64-bit lengths, both ways.
    pub const EXTENDED_HEADERS: u32 = 11;
}

/// Types of a reply to an option.
pub mod option_reply {
    /// Done.
    pub const ACK: u32 = 1;
    /// An export's name and description.
    pub const SERVER: u32 = 2;
    /// A piece of information about an export.
    pub const INFO: u32 = 3;
    /// A metadata context.
    pub const META_CONTEXT: u32 = 4;
    /// The bit that all errors have.
    pub const ERROR_BIT: u32 = 1 << 31;
    /// The option is unknown here.
    pub const ERR_UNSUP: u32 = ERROR_BIT + 1;
    /// The option is known and forbidden.
    pub const ERR_POLICY: u32 = ERROR_BIT + 2;
    /// The option's data make no sense.
    pub const ERR_INVALID: u32 = ERROR_BIT + 3;
    /// The option needs a platform this is not.
    pub const ERR_PLATFORM: u32 = ERROR_BIT + 4;
    /// TLS first.
    pub const ERR_TLS_REQD: u32 = ERROR_BIT + 5;
    /// No such export.
    pub const ERR_UNKNOWN: u32 = ERROR_BIT + 6;
    /// The server is going away.
    pub const ERR_SHUTDOWN: u32 = ERROR_BIT + 7;
    /// Ask for the block sizes first.
    pub const ERR_BLOCK_SIZE_REQD: u32 = ERROR_BIT + 8;
    /// The request or its reply is too large.
    pub const ERR_TOO_BIG: u32 = ERROR_BIT + 9;
    /// Extended headers are in use, or needed.
    pub const ERR_EXT_HEADER_REQD: u32 = ERROR_BIT + 10;
}

/// Kinds of information in a reply to INFO and GO.
pub mod info {
    /// Size and transmission flags.
    pub const EXPORT: u16 = 0;
    /// The canonical name.
    pub const NAME: u16 = 1;
    /// A description for people.
    pub const DESCRIPTION: u16 = 2;
    /// Minimum and preferred block, maximum payload.
    pub const BLOCK_SIZE: u16 = 3;
}

/// Transmission flags: what an export can do.
pub mod transmission_flags {
    /// Always set.
    pub const HAS_FLAGS: u16 = 1 << 0;
    /// Writes are refused.
    pub const READ_ONLY: u16 = 1 << 1;
    /// FLUSH works.
    pub const SEND_FLUSH: u16 = 1 << 2;
    /// The FUA flag works.
    pub const SEND_FUA: u16 = 1 << 3;
    /// The device turns.
    pub const ROTATIONAL: u16 = 1 << 4;
    /// TRIM works.
    pub const SEND_TRIM: u16 = 1 << 5;
    /// WRITE_ZEROES works.
    pub const SEND_WRITE_ZEROES: u16 = 1 << 6;
    /// The DF flag works.
    pub const SEND_DF: u16 = 1 << 7;
    /// A flush on one connection covers what any connection was told is written.
    pub const CAN_MULTI_CONN: u16 = 1 << 8;
    /// CACHE works.
    pub const SEND_CACHE: u16 = 1 << 10;
    /// The FAST_ZERO flag works.
    pub const SEND_FAST_ZERO: u16 = 1 << 11;
    /// BLOCK_STATUS takes a list of contexts as its payload.
    pub const BLOCK_STATUS_PAYLOAD: u16 = 1 << 12;
}

/// Commands of the transmission phase.
pub mod command {
    /// Read bytes.
    pub const READ: u16 = 0;
    /// Write bytes.
    pub const WRITE: u16 = 1;
    /// Leave.
    pub const DISC: u16 = 2;
    /// Make all that was answered durable.
    pub const FLUSH: u16 = 3;
    /// The range is no longer needed.
    pub const TRIM: u16 = 4;
    /// The range will be read soon.
    pub const CACHE: u16 = 5;
    /// The range becomes zeroes.
    pub const WRITE_ZEROES: u16 = 6;
    /// What is the range made of?
    pub const BLOCK_STATUS: u16 = 7;
}

/// Flags of a command.
pub mod command_flags {
    /// Durable before it is answered.
    pub const FUA: u16 = 1 << 0;
    /// WRITE_ZEROES must leave storage allocated.
    pub const NO_HOLE: u16 = 1 << 1;
    /// READ is answered in one chunk.
    pub const DF: u16 = 1 << 2;
    /// BLOCK_STATUS is answered with one extent.
    pub const REQ_ONE: u16 = 1 << 3;
    /// WRITE_ZEROES fails rather than be as slow as a write.
    pub const FAST_ZERO: u16 = 1 << 4;
    /// A payload as long as the header's length follows (extended headers only).
    pub const PAYLOAD_LEN: u16 = 1 << 5;
}

/// Flags of a reply chunk.
pub mod reply_flags {
    /// The last chunk of its reply.
    pub const DONE: u16 = 1 << 0;
}

/// Types of a reply chunk.
pub mod reply_type {
    /// Nothing: success, unless an error came before.
    pub const NONE: u16 = 0;
    /// Data at an offset.
    pub const OFFSET_DATA: u16 = 1;
    /// Zeroes at an offset.
    pub const OFFSET_HOLE: u16 = 2;
    /// Extents of one metadata context, 32-bit.
    pub const BLOCK_STATUS: u16 = 5;
    /// Extents of one metadata context, 64-bit.
    pub const BLOCK_STATUS_EXT: u16 = 6;
    /// The bit that all errors have.
    pub const ERROR_BIT: u16 = 1 << 15;
    /// An error.
    pub const ERROR: u16 = ERROR_BIT + 1;
    /// An error at an offset.
    pub const ERROR_OFFSET: u16 = ERROR_BIT + 2;
}

/// The metadata context that tells holes and zeroes.
pub const BASE_ALLOCATION: &str = "base:allocation";

/// Flags of an extent of `base:allocation`.
pub mod allocation_flags {
    /// Nothing is allocated there; a write may find no space.
    pub const HOLE: u32 = 1 << 0;
    /// It reads as zeroes.
    pub const ZERO: u32 = 1 << 1;
}

/// Why a request failed, as the wire has it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[error("{}", self.message())]
#[repr(u32)]
pub enum ErrorCode {
    /// `NBD_EPERM`.
    NotPermitted = 1,
    /// `NBD_EIO`.
    Io = 5,
    /// `NBD_ENOMEM`.
    NoMemory = 12,
    /// `NBD_EINVAL`.
    Invalid = 22,
    /// `NBD_ENOSPC`.
    NoSpace = 28,
    /// `NBD_EOVERFLOW`.
    Overflow = 75,
    /// `NBD_ENOTSUP`.
    NotSupported = 95,
    /// `NBD_ESHUTDOWN`.
    Shutdown = 108,
}

impl ErrorCode {
    /// The error of this number; unknown numbers count as [`ErrorCode::Invalid`], as the protocol asks. Zero is none.
    #[must_use]
    pub const fn from_wire(number: u32) -> Option<Self> {
        match number {
            0 => None,
            1 => Some(Self::NotPermitted),
            5 => Some(Self::Io),
            12 => Some(Self::NoMemory),
            28 => Some(Self::NoSpace),
            75 => Some(Self::Overflow),
            95 => Some(Self::NotSupported),
            108 => Some(Self::Shutdown),
            _ => Some(Self::Invalid),
        }
    }

    /// What it means, for people.
    #[must_use]
    pub const fn message(self) -> &'static str {
        match self {
            Self::NotPermitted => "operation not permitted",
            Self::Io => "input/output error",
            Self::NoMemory => "out of memory",
            Self::Invalid => "invalid request",
            Self::NoSpace => "no space left on device",
            Self::Overflow => "request too large",
            Self::NotSupported => "operation not supported",
            Self::Shutdown => "server is shutting down",
        }
    }

    /// Its number on the wire.
    #[must_use]
    pub const fn to_wire(self) -> u32 {
        self as u32
    }
}

impl From<IoError> for ErrorCode {
    fn from(error: IoError) -> Self {
        match error {
            IoError::OutOfSpace => Self::NoSpace,
            IoError::Device => Self::Io,
            IoError::Invalid => Self::Invalid,
            IoError::ReadOnly => Self::NotPermitted,
            // A client told so has to disconnect, and finds the volume anew when it comes back.
            IoError::Fenced | IoError::ShuttingDown => Self::Shutdown,
        }
    }
}

/// A run of bytes of one status, as BLOCK_STATUS reports it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Extent {
    /// How many bytes.
    pub length_bytes: u64,
    /// Their status; for `base:allocation`, of [`allocation_flags`].
    pub flags: u32,
}
