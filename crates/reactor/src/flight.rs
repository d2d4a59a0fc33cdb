//! One operation in flight in the ring: what the kernel may be touching, and how far it has come.

use crate::operation::{self, Operation, Payload};
use crate::registered::{FileWay, Registered};
use crate::socket::Way;
use crate::{Socket, system};
use io_uring::squeue::Entry;
use io_uring::{opcode, types};
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

/// How often an operation that makes no progress is tried again.
const RETRIES_MAX: u32 = 1000;
/// The most slices one system call takes.
const SLICES_MAX: usize = 1024;
/// Not to try a receive before there is something (IORING_RECVSEND_POLL_FIRST).
const POLL_FIRST: u16 = 1;
/// A quiet send of at most so many bytes is first tried without waiting: a socket nearly always has room for it.
const PROMPT_BYTES_MAX: usize = 64 << 10;

/// Builds an entry on a file by its place among the registered ones, or by its descriptor.
macro_rules! on_file {
    ($way:expr, |$fd:ident| $entry:expr) => {
        match $way {
            FileWay::Registered(place) => {
                let $fd = types::Fixed(place);
                $entry
            }
            FileWay::Descriptor(descriptor) => {
                let $fd = types::Fd(descriptor);
                $entry
            }
        }
    };
}

/// An operation in flight. It lies in a slab's slot and does not move until it has completed, since the kernel holds
/// pointers to the message header and, through it, to the list of slices.
pub(crate) struct Flight {
    pub(crate) token: u64,
    pub(crate) cancelled: bool,
    /// `None` between two uses of the slot.
    operation: Option<Operation>,
    /// How many bytes are through.
    progress: usize,
    retries: u32,
    /// A quiet send that is small enough to be tried without waiting.
    prompt: bool,
    /// The slices of a Send that are not sent yet start at `slices[slices_sent]`.
    slices: Vec<libc::iovec>,
    slices_sent: usize,
    header: libc::msghdr,
}

/// What one result from the kernel means.
pub(crate) enum Verdict {
    /// The operation is at its end.
    Done(io::Result<u32>),
    /// The rest of it is to be submitted again.
    Again,
}

impl Default for Flight {
    fn default() -> Self {
        Self {
            token: 0,
            cancelled: false,
            operation: None,
            progress: 0,
            retries: 0,
            prompt: false,
            slices: Vec::new(),
            slices_sent: 0,
            header: system::empty_message(),
        }
    }
}

impl Flight {
    /// Begins with an operation.
    pub(crate) fn begin(&mut self, token: u64, operation: Operation) {
        assert!(self.operation.is_none(), "a slot in flight is not given away");
        (self.token, self.cancelled, self.progress, self.retries, self.slices_sent) = (token, false, 0, 0, 0);
        let operation = self.operation.insert(operation);
        self.prompt = false;
        if let Operation::Send { batch, quiet, socket } = operation {
            let (slices, mut bytes) = (&mut self.slices, 0);
            slices.clear();
            batch.each_slice(&mut |slice| {
                if !slice.is_empty() {
                    slices.push(libc::iovec { iov_base: slice.as_ptr().cast_mut().cast(), iov_len: slice.len() });
                    bytes += slice.len();
                }
            });
            let small = bytes <= PROMPT_BYTES_MAX && slices.len() <= SLICES_MAX;
            self.prompt = *quiet && small && socket.send_way().is_socket;
        }
    }

    /// Ends it, and shows what it held.
    pub(crate) fn end(&mut self) -> Payload {
        self.operation.take().expect("an operation ends once").into_payload()
    }

    /// Whether its next entry completes while it is being handed over, in whatever way, and nobody waits for that: a quiet
    /// send's first attempt, which does not wait for room.
    pub(crate) fn is_prompt(&self) -> bool {
        self.prompt && self.progress == 0 && self.retries == 0
    }

    /// The submission for what is left to do. The kernel may use what it points to until its completion, as long as
    /// this flight stays where it is and is neither ended nor begun anew.
    ///
    /// `poll_first`: the kernel knows receives that begin by waiting. `registered`: what it was told of beforehand.
    pub(crate) fn entry(&mut self, poll_first: bool, registered: &Registered) -> Entry {
        let done = self.progress;
        let prompt = self.is_prompt();
        match self.operation.as_mut().expect("an operation in flight") {
            Operation::Accept { listener } => {
                let (address, length) = (std::ptr::null_mut(), std::ptr::null_mut());
                opcode::Accept::new(types::Fd(listener.descriptor()), address, length).flags(libc::SOCK_CLOEXEC).build()
            }
            Operation::Receive { socket, buffer, start, end } => {
                let into = &mut buffer.bytes_mut()[*start..*end];
                let (pointer, length) = (into.as_mut_ptr(), transfer_bytes(into.len()));
                let way = socket.receive_way();
                if way.is_socket {
                    let first = if poll_first && socket.is_drained() { POLL_FIRST } else { 0 };
                    opcode::Recv::new(types::Fd(way.descriptor), pointer, length).ioprio(first).build()
                } else {
                    opcode::Read::new(types::Fd(way.descriptor), pointer, length).offset(u64::MAX).build()
                }
            }
            Operation::Send { socket, .. } => {
                let slices = &self.slices[self.slices_sent..];
                let slices = &slices[..slices.len().min(SLICES_MAX)];
                send_entry(socket.send_way(), slices, &mut self.header, prompt)
            }
            Operation::Read { file, buffer, start, length, offset } => {
                let slab = registered.slab_of(buffer);
                let into = &mut buffer.bytes_mut()[*start + done..*start + *length];
                let (pointer, length) = (into.as_mut_ptr(), transfer_bytes(into.len()));
                let offset = *offset + done as u64;
                on_file!(registered.way_of(file), |fd| match slab {
                    Some(slab) => opcode::ReadFixed::new(fd, pointer, length, slab).offset(offset).build(),
                    None => opcode::Read::new(fd, pointer, length).offset(offset).build(),
                })
            }
            Operation::Write { file, buffer, start, length, offset } => {
                let slab = registered.slab_of(buffer);
                let from = &buffer.bytes()[*start + done..*start + *length];
                let (pointer, length) = (from.as_ptr(), transfer_bytes(from.len()));
                let offset = *offset + done as u64;
                on_file!(registered.way_of(file), |fd| match slab {
                    Some(slab) => opcode::WriteFixed::new(fd, pointer, length, slab).offset(offset).build(),
                    None => opcode::Write::new(fd, pointer, length).offset(offset).build(),
                })
            }
            Operation::DataSync { file } => {
                opcode::Fsync::new(types::Fd(file.descriptor())).flags(types::FsyncFlags::DATASYNC).build()
            }
            Operation::Allocate { file, offset, length } => {
                opcode::Fallocate::new(types::Fd(file.descriptor()), *length).offset(*offset).build()
            }
            Operation::Discard { file, offset, length } => {
                let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
                opcode::Fallocate::new(types::Fd(file.descriptor()), *length).offset(*offset).mode(mode).build()
            }
        }
    }

    /// Takes in one result. When it says `Done` and the operation was an Accept, the connection comes along.
    ///
    /// # Safety
    /// `result` must be what the kernel has completed this flight's last entry with, taken in only once.
    pub(crate) unsafe fn advance(&mut self, result: i32) -> (Verdict, Option<Socket>) {
        let operation = self.operation.as_mut().expect("an operation in flight");
        let Ok(count) = u32::try_from(result) else {
            return (self.failed(io::Error::from_raw_os_error(-result)), None);
        };
        let verdict = match operation {
            Operation::Accept { listener } => {
                // SAFETY: the kernel has made this descriptor for us, and nobody else has seen it.
                let descriptor = unsafe { OwnedFd::from_raw_fd(result) };
                return (Verdict::Done(Ok(0)), Some(Socket::accepted(descriptor, listener.is_tcp())));
            }
            Operation::Receive { socket, start, end, .. } => {
                socket.set_drained((count as usize) < *end - *start);
                Verdict::Done(Ok(count))
            }
            Operation::Send { .. } => self.sent(count as usize),
            Operation::Read { file, length, offset, .. } => {
                let position = *offset + (self.progress + count as usize) as u64;
                // Direct I/O ends off its alignment only where the file does.
                let at_end = count == 0 || !position.is_multiple_of(file.alignment_bytes());
                let length = *length;
                self.transferred(count, length, at_end, io::ErrorKind::UnexpectedEof)
            }
            Operation::Write { length, .. } => {
                let length = *length;
                self.transferred(count, length, count == 0, io::ErrorKind::WriteZero)
            }
            Operation::DataSync { .. } | Operation::Allocate { .. } | Operation::Discard { .. } => Verdict::Done(Ok(0)),
        };
        (verdict, None)
    }

    fn failed(&mut self, error: io::Error) -> Verdict {
        let passing = matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN));
        let operation = self.operation.as_ref().expect("an operation in flight");
        if !passing || !operation.may_try_again() {
            return Verdict::Done(Err(error));
        }
        if self.cancelled {
            return Verdict::Done(Err(operation::cancelled()));
        }
        self.retries += 1;
        if self.retries > RETRIES_MAX { Verdict::Done(Err(error)) } else { Verdict::Again }
    }

    /// `count` more bytes of a disk transfer of `length` are through.
    fn transferred(&mut self, count: u32, length: usize, at_end: bool, end: io::ErrorKind) -> Verdict {
        self.progress += count as usize;
        self.retries = 0;
        if self.progress >= length {
            assert_eq!(self.progress, length, "the kernel transfers no more than it was asked to");
            Verdict::Done(Ok(length as u32))
        } else if at_end {
            Verdict::Done(Err(end.into()))
        } else if self.cancelled {
            Verdict::Done(Err(operation::cancelled()))
        } else {
            Verdict::Again
        }
    }

    /// `count` more bytes of a Send are through.
    fn sent(&mut self, count: usize) -> Verdict {
        self.progress += count;
        self.retries = 0;
        let mut left = count;
        while let Some(slice) = self.slices.get_mut(self.slices_sent)
            && left >= slice.iov_len
        {
            left -= slice.iov_len;
            self.slices_sent += 1;
        }
        let Some(slice) = self.slices.get_mut(self.slices_sent) else {
            assert_eq!(left, 0, "the kernel sends no more than it was asked to");
            return Verdict::Done(Ok(self.progress as u32));
        };
        if left > 0 {
            slice.iov_base = slice.iov_base.wrapping_byte_add(left);
            slice.iov_len -= left;
        }
        match (count, self.cancelled) {
            (0, _) => Verdict::Done(Err(io::ErrorKind::WriteZero.into())),
            (_, true) => Verdict::Done(Err(operation::cancelled())),
            _ => Verdict::Again,
        }
    }
}

fn send_entry(way: Way, slices: &[libc::iovec], header: &mut libc::msghdr, prompt: bool) -> Entry {
    if !way.is_socket {
        return opcode::Writev::new(types::Fd(way.descriptor), slices.as_ptr(), slices.len() as u32)
            .offset(u64::MAX)
            .build();
    }
    header.msg_iov = slices.as_ptr().cast_mut();
    header.msg_iovlen = slices.len();
    // To wait for all of it spares rounds: the kernel itself goes on when the peer has made room.
    let whether_to_wait = if prompt { libc::MSG_DONTWAIT } else { libc::MSG_WAITALL };
    let flags = (libc::MSG_NOSIGNAL | whether_to_wait) as u32;
    opcode::SendMsg::new(types::Fd(way.descriptor), header).flags(flags).build()
}

/// The kernel transfers at most about 2 GiB at once, and tells how much it was.
fn transfer_bytes(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(1 << 30)
}
