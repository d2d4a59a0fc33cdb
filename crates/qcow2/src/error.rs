//! Why an image is refused.

use std::io;
use thiserror::Error;

/// Why an image is refused.
#[derive(Debug, Error)]
pub enum Qcow2Error {
    /// It cannot be read.
    #[error("the image cannot be read at byte {at}: {error}")]
    Unreadable {
        /// Where.
        at: u64,
        /// Why.
        error: io::Error,
    },
    /// It uses something that this reader does not know.
    #[error("the image {what}; make a plain one of it first: qemu-img convert -O qcow2 -o compat=1.1 OLD NEW")]
    Unsupported {
        /// What, as the end of a sentence about the image.
        what: String,
    },
    /// It contradicts itself.
    #[error("the image is damaged at byte {at}: {what}; see what qemu-img check says of it")]
    Damaged {
        /// Where the structure begins that is.
        at: u64,
        /// What is wrong with it.
        what: &'static str,
    },
}
