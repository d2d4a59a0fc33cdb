//! How an I/O fails, told by what its caller can do about it.

use thiserror::Error;

/// Why an I/O on a volume or a disk failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum IoError {
    /// The pool (or the volume's own limit) is full: trim, delete, or add a disk.
    #[error("no space left in the pool or under the volume's limit")]
    OutOfSpace,
    /// The storage failed; the data is not to be had from it.
    #[error("the storage device failed")]
    Device,
    /// The caller's session or term is over; attach anew.
    #[error("the session is fenced")]
    Fenced,
    /// The request makes no sense for this volume (its range, its alignment).
    #[error("the request is invalid")]
    Invalid,
    /// The volume is read-only.
    #[error("the volume is read-only")]
    ReadOnly,
    /// The server is on its way out.
    #[error("the server is shutting down")]
    ShuttingDown,
}
