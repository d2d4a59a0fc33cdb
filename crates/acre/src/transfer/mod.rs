//! `acre export` and `acre import`: what volumes hold, out of the server and into it, over its API and its NBD.
//!
//! What a stream is made of is the crate `stream`'s business, what an image is made of the crate `qcow2`'s. Here sockets and
//! files are opened, many requests are kept in flight, and it is decided what may be written where.

mod base;
mod export;
mod import;
mod link;
mod operator;
mod partial;
mod plan;
mod progress;
mod read_ahead;
mod report;
mod source;
mod uri;
mod writer;

#[cfg(test)]
mod tests;

pub use export::{Export, export};
pub use import::{Import, import};
pub use operator::{Operator, nbd_address};
pub use report::{ExportReport, ImportReport};
pub use source::Format;

use api::Error;
use model::zero_scan;
use std::path::Path;

/// Requests in flight on one connection.
const IN_FLIGHT_MAX: usize = 16;
/// The most bytes one request reads or writes.
const REQUEST_BYTES_MAX: u64 = 256 << 10;

/// A piece of a volume.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Piece {
    /// Bytes of it.
    Data {
        /// Where they lie.
        offset: u64,
        /// The bytes; at most a MiB.
        bytes: Vec<u8>,
    },
    /// A range that is zeroes.
    Zero {
        /// Where it begins.
        offset: u64,
        /// How long it is, in bytes.
        length: u64,
    },
}

/// Splits bytes that begin at a block's beginning into runs of blocks that are all zeroes and runs of those that are not:
/// offset in `bytes`, length, whether they are zeroes.
fn runs_of_blocks(bytes: &[u8]) -> Vec<(usize, usize, bool)> {
    let block_bytes = model::BLOCK_BYTES as usize;
    let mut runs: Vec<(usize, usize, bool)> = Vec::new();
    for (index, block) in bytes.chunks(block_bytes).enumerate() {
        let is_zero = zero_scan::is_zero(block);
        match runs.last_mut() {
            Some((_, length, same)) if *same == is_zero => *length += block.len(),
            _ => runs.push((index * block_bytes, block.len(), is_zero)),
        }
    }
    runs
}

/// A failure of the file at `path`, for its owner.
fn file_error(what: &str, path: &Path, error: &std::io::Error) -> Error {
    let message = format!("cannot {what} {}: {error}", path.display());
    match error.kind() {
        std::io::ErrorKind::NotFound => Error::not_found(message),
        std::io::ErrorKind::AlreadyExists => Error::exists(message),
        std::io::ErrorKind::PermissionDenied => Error::forbidden(message),
        std::io::ErrorKind::StorageFull => Error::out_of_space(message),
        _ => Error::unavailable(message),
    }
}

/// What a stream is refused for, as an error of the command; `whose` names the stream.
fn stream_error(whose: &str, error: &stream::StreamError) -> Error {
    use stream::StreamError as E;
    match error {
        E::NotAStream | E::NewerVersion { .. } | E::Unfit { .. } => Error::invalid(format!("{whose}: {error}")),
        E::Damaged { .. } | E::Truncated { .. } | E::Trailing { .. } => Error::corrupt(format!("{whose}: {error}")),
    }
}
