//! Reads qcow2 images, versions 2 and 3, as QEMU's `docs/interop/qcow2.txt` describes them.
//!
//! What is mapped is told extent by extent, in order. Memory is two tables' worth of clusters whatever the image claims.
//! Whoever calls does the reading ([`ReadAt`]). It deliberately writes nothing, follows no backing file, and knows neither
//! encryption, nor external data files, nor zstd: such images are refused with the command that makes a plain one of them.
#![forbid(unsafe_code)]

mod error;
pub mod fuzzing;
mod header;
mod reader;

#[cfg(test)]
mod tests;

pub use error::Qcow2Error;
pub use reader::{Content, Extent, Reader};

use std::io;

/// What every image begins with.
pub const MAGIC: [u8; 4] = *b"QFI\xfb";

/// Something that can be read anywhere.
pub trait ReadAt {
    /// Reads from `offset` on until `buffer` is full or there is no more; gives how many bytes that were.
    ///
    /// # Errors
    /// When the bytes are there and cannot be read.
    fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> io::Result<usize>;
}
