//! What may be asked of a reactor, and what comes back.

use crate::{File, Listener, Socket};
use model::IoBuffer;
use std::any::Any;
use std::fmt;
use std::io;
use std::sync::Arc;

/// Bytes to send in one go, owned by the reactor until they are sent.
///
/// The reactor calls [`Gather::each_slice`] once or more and may read the slices until the operation completes; it
/// calls nothing else meanwhile. To take the object apart again afterwards, upcast it:
/// `(batch as Box<dyn Any>).downcast::<MyBatch>()`.
pub trait Gather: Any + Send {
    /// Shows every slice, in the order in which the peer shall see them. Empty slices are allowed.
    fn each_slice<'a>(&'a self, visit: &mut dyn FnMut(&'a [u8]));
}

impl Gather for Vec<u8> {
    fn each_slice<'a>(&'a self, visit: &mut dyn FnMut(&'a [u8])) {
        visit(self);
    }
}

/// One piece of I/O. Whatever it holds is the reactor's until its [`Completion`] gives it back.
pub enum Operation {
    /// Takes one connection; completes with [`Payload::Socket`].
    Accept {
        /// Where to take it from.
        listener: Listener,
    },
    /// Receives what has arrived, at least one byte, into `buffer[start..end]`. A result of 0 means that the peer has
    /// ended its stream.
    Receive {
        /// Where to receive from.
        socket: Socket,
        /// What to fill.
        buffer: IoBuffer,
        /// First byte to fill.
        start: usize,
        /// One past the last byte to fill; above `start`.
        end: usize,
    },
    /// Sends all of a batch; the result is its length in bytes. One send at a time per socket: two would mix.
    Send {
        /// Where to send to.
        socket: Socket,
        /// What to send.
        batch: Box<dyn Gather>,
        /// Its completion need not end a wait: it is given with the next one, or when the wait's time is over. For whoever
        /// has nothing to do about it but take note; it spares a return from the kernel for each send.
        quiet: bool,
    },
    /// Reads `length` bytes at `offset` of the file into `buffer[start..]`: all of them, or it fails (with
    /// [`io::ErrorKind::UnexpectedEof`] where the file is shorter).
    Read {
        /// Where to read.
        file: File,
        /// What to fill.
        buffer: IoBuffer,
        /// First byte to fill.
        start: usize,
        /// How many bytes.
        length: usize,
        /// Where in the file, in bytes.
        offset: u64,
    },
    /// Writes `buffer[start..start + length]` at `offset` of the file: all of it, or it fails.
    Write {
        /// Where to write.
        file: File,
        /// What to write.
        buffer: Arc<IoBuffer>,
        /// First byte to write.
        start: usize,
        /// How many bytes.
        length: usize,
        /// Where in the file, in bytes.
        offset: u64,
    },
    /// Makes every write completed before it durable. A failure is final: it is never tried again, since the kernel
    /// forgets what it could not write.
    DataSync {
        /// What to make durable.
        file: File,
    },
    /// Gives a range its space, growing the file where it is shorter. What cannot do so (a block device has its space
    /// already) fails with [`io::ErrorKind::Unsupported`].
    Allocate {
        /// The file.
        file: File,
        /// Start of the range, in bytes.
        offset: u64,
        /// Length of the range, in bytes.
        length: u64,
    },
    /// Gives a range's space back; it reads as zeroes afterwards and the size stays. A device that cannot do so fails
    /// with [`io::ErrorKind::Unsupported`].
    Discard {
        /// The file.
        file: File,
        /// Start of the range, in bytes.
        offset: u64,
        /// Length of the range, in bytes.
        length: u64,
    },
}

/// What an operation held, or made.
pub enum Payload {
    /// Nothing: of a DataSync, Allocate or Discard, and of an Accept that failed.
    None,
    /// The buffer of a Receive or a Read.
    Buffer(IoBuffer),
    /// The buffer of a Write.
    Shared(Arc<IoBuffer>),
    /// The batch of a Send.
    Batch(Box<dyn Gather>),
    /// The connection that an Accept took.
    Socket(Socket),
}

impl Payload {
    /// The buffer of a Receive or a Read.
    #[must_use]
    pub fn into_buffer(self) -> Option<IoBuffer> {
        if let Payload::Buffer(buffer) = self { Some(buffer) } else { None }
    }

    /// The connection that an Accept took.
    #[must_use]
    pub fn into_socket(self) -> Option<Socket> {
        if let Payload::Socket(socket) = self { Some(socket) } else { None }
    }
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Payload::None => "None",
            Payload::Buffer(_) => "Buffer",
            Payload::Shared(_) => "Shared",
            Payload::Batch(_) => "Batch",
            Payload::Socket(_) => "Socket",
        })
    }
}

/// The end of one operation.
#[derive(Debug)]
pub struct Completion {
    /// What the operation was submitted under.
    pub token: u64,
    /// How many bytes were transferred (0 where the operation transfers none), or why it failed.
    pub result: io::Result<u32>,
    /// What the operation held, or made.
    pub payload: Payload,
}

impl Completion {
    /// Whether it failed because [`Reactor::cancel`](crate::Reactor::cancel) asked for it.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.result.as_ref().is_err_and(|error| error.raw_os_error() == Some(libc::ECANCELED))
    }
}

impl Operation {
    /// What it holds, to give back.
    pub(crate) fn into_payload(self) -> Payload {
        match self {
            Operation::Receive { buffer, .. } | Operation::Read { buffer, .. } => Payload::Buffer(buffer),
            Operation::Write { buffer, .. } => Payload::Shared(buffer),
            Operation::Send { batch, .. } => Payload::Batch(batch),
            Operation::Accept { .. }
            | Operation::DataSync { .. }
            | Operation::Allocate { .. }
            | Operation::Discard { .. } => Payload::None,
        }
    }

    /// What its result is without any I/O, if it can be told: nothing to transfer, or a request that direct I/O must
    /// refuse.
    ///
    /// # Panics
    /// When its range lies outside its buffer: nobody but ourselves makes these.
    pub(crate) fn result_at_once(&self) -> Option<io::Result<u32>> {
        match self {
            Operation::Receive { buffer, start, end, .. } => {
                assert!(start < end && *end <= buffer.len(), "receive into {start}..{end} of {}", buffer.len());
                None
            }
            Operation::Read { file, buffer, start, length, offset } => {
                assert_within(buffer, *start, *length);
                file_result_at_once(file, *start, *length, *offset)
            }
            Operation::Write { file, buffer, start, length, offset } => {
                assert_within(buffer, *start, *length);
                file_result_at_once(file, *start, *length, *offset)
            }
            Operation::Send { batch, .. } => match gathered_bytes(&**batch) {
                0 => Some(Ok(0)),
                bytes if u32::try_from(bytes).is_err() => Some(Err(invalid())),
                _ => None,
            },
            Operation::Accept { .. }
            | Operation::DataSync { .. }
            | Operation::Allocate { .. }
            | Operation::Discard { .. } => None,
        }
    }

    /// Whether being interrupted, or told to come again, may be answered by trying again. Never so for a failed sync.
    pub(crate) fn may_try_again(&self) -> bool {
        !matches!(self, Operation::DataSync { .. })
    }
}

fn assert_within(buffer: &IoBuffer, start: usize, length: usize) {
    let end = start.checked_add(length);
    assert!(end.is_some_and(|end| end <= buffer.len()), "{length} bytes at {start} of a buffer of {}", buffer.len());
    assert!(u32::try_from(length).is_ok(), "{length} bytes in one operation");
}

fn file_result_at_once(file: &File, start: usize, length: usize, offset: u64) -> Option<io::Result<u32>> {
    if length == 0 {
        return Some(Ok(0));
    }
    (!file.allows(start, length, offset)).then(|| Err(invalid()))
}

fn gathered_bytes(batch: &dyn Gather) -> usize {
    let mut bytes = 0;
    batch.each_slice(&mut |slice| bytes += slice.len());
    bytes
}

fn invalid() -> io::Error {
    io::Error::from_raw_os_error(libc::EINVAL)
}

pub(crate) fn cancelled() -> io::Error {
    io::Error::from_raw_os_error(libc::ECANCELED)
}
