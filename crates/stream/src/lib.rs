//! The stream that `acre export` writes and `acre import` reads: a snapshot, or what changed from one snapshot to the next.
//!
//! `docs/stream-format.md` draws it byte by byte. This crate makes and judges bytes; it opens no file. Whatever a stream
//! claims, its decoder asks for no more than [`TAKEN_BYTES_MAX`] bytes at a time and keeps none of them.
#![forbid(unsafe_code)]

mod decoder;
mod encoder;
mod error;
pub mod fuzzing;
mod header;
mod state;

#[cfg(test)]
mod tests;

pub use decoder::{Decoder, Item};
pub use encoder::Encoder;
pub use error::StreamError;
pub use header::{Base, Header, Identity, Kind};
pub use state::Totals;

/// What every stream begins with.
pub const MAGIC: [u8; 8] = *b"ACRESTRM";
/// The version this program writes, and the newest it reads.
pub const VERSION: u32 = 1;
/// The grain of offsets and lengths, in bytes; only the end of the volume may cut it.
pub const BLOCK_BYTES: u64 = model::BLOCK_BYTES;
/// The most data one record bears, in bytes.
pub const DATA_BYTES_MAX: usize = 1 << 20;
/// The longest header, in bytes.
pub const HEADER_BYTES_MAX: usize = 4096;
/// The longest name of a volume or a snapshot, in bytes.
pub const NAME_BYTES_MAX: usize = 255;
/// The most bytes a decoder ever asks for at one time: a DATA record with its checksum.
pub const TAKEN_BYTES_MAX: usize = DATA_BYTES_MAX + 8 + CHECKSUM_BYTES;

/// A record's kind and the length of what follows.
pub(crate) const RECORD_HEAD_BYTES: usize = 8;
/// What follows each record, and the header.
pub(crate) const CHECKSUM_BYTES: usize = 4;

/// The kinds of records, as their first four bytes spell them.
pub(crate) mod record {
    /// Bytes of the volume.
    pub(crate) const DATA: [u8; 4] = *b"DATA";
    /// A range that is zeroes.
    pub(crate) const ZERO: [u8; 4] = *b"ZERO";
    /// How far the stream is.
    pub(crate) const CHECKPOINT: [u8; 4] = *b"CHKP";
    /// The end, with totals.
    pub(crate) const END: [u8; 4] = *b"END!";
}
