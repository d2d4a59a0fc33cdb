//! The system calls that the standard library does not have, each behind a safe function of one purpose.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Once;

/// What the kernel says of a file's direct I/O, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct DirectAlignment {
    pub(crate) memory_bytes: u32,
    pub(crate) offset_bytes: u32,
}

/// The descriptor that a system call has returned, or the error it has left.
///
/// # Safety
/// Unless negative, `result` must be an open descriptor that nobody else owns.
unsafe fn descriptor_from(result: libc::c_int) -> io::Result<OwnedFd> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: as our caller promises.
    Ok(unsafe { OwnedFd::from_raw_fd(result) })
}

fn count_from(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

fn success_from(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// A new event counter (eventfd), not blocking.
pub(crate) fn event_counter() -> io::Result<OwnedFd> {
    // SAFETY: takes and returns plain numbers.
    let result = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
    // SAFETY: a new descriptor is ours alone.
    unsafe { descriptor_from(result) }
}

/// Waits until one of `interests` is ready or the time is over; `timeout_ms` below zero is for ever.
pub(crate) fn poll(interests: &mut [libc::pollfd], timeout_ms: i32) -> io::Result<usize> {
    let count = interests.len() as libc::nfds_t;
    // SAFETY: the pointer and the count are those of one slice, exclusively ours for the call.
    count_from(unsafe { libc::poll(interests.as_mut_ptr(), count, timeout_ms) } as isize)
}

/// Receives what has arrived on a socket, without waiting.
pub(crate) fn receive_now(socket: RawFd, into: &mut [u8]) -> io::Result<usize> {
    // SAFETY: the pointer and the length are those of one slice, exclusively ours for the call.
    count_from(unsafe { libc::recv(socket, into.as_mut_ptr().cast(), into.len(), libc::MSG_DONTWAIT) })
}

/// Reads from anything; waits unless it is ready.
pub(crate) fn read(descriptor: RawFd, into: &mut [u8]) -> io::Result<usize> {
    // SAFETY: the pointer and the length are those of one slice, exclusively ours for the call.
    count_from(unsafe { libc::read(descriptor, into.as_mut_ptr().cast(), into.len()) })
}

/// Writes to anything; waits unless there is room.
pub(crate) fn write(descriptor: RawFd, from: &[u8]) -> io::Result<usize> {
    // SAFETY: the pointer and the length are those of one slice, borrowed for the call.
    count_from(unsafe { libc::write(descriptor, from.as_ptr().cast(), from.len()) })
}

/// Sends what a socket has room for, without waiting and without a signal when the peer is gone.
pub(crate) fn send_now(socket: RawFd, slices: &[io::IoSlice<'_>]) -> io::Result<usize> {
    let mut header = empty_message();
    // An IoSlice is promised to be laid out as an iovec is.
    header.msg_iov = slices.as_ptr().cast_mut().cast();
    header.msg_iovlen = slices.len();
    // SAFETY: the header names one slice of iovecs, whose bytes are borrowed for the call; sendmsg only reads them.
    count_from(unsafe { libc::sendmsg(socket, &raw const header, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) })
}

/// A message header that names nothing.
pub(crate) fn empty_message() -> libc::msghdr {
    // SAFETY: a msghdr is made of integers and pointers, for which all zeroes is a value.
    unsafe { std::mem::zeroed() }
}

/// Takes a connection from a listening socket that does not block.
pub(crate) fn accept_now(listener: RawFd) -> io::Result<OwnedFd> {
    let (address, length) = (std::ptr::null_mut(), std::ptr::null_mut());
    // SAFETY: with no place for the peer's address given, accept4 writes nothing.
    let result = unsafe { libc::accept4(listener, address, length, libc::SOCK_CLOEXEC) };
    // SAFETY: a new descriptor is ours alone.
    unsafe { descriptor_from(result) }
}

/// Allocates (`mode` 0) or changes otherwise a range of a file, as fallocate(2) describes; lengths in bytes.
pub(crate) fn fallocate(file: RawFd, mode: i32, offset: u64, length: u64) -> io::Result<()> {
    let out_of_range = |_| io::Error::from_raw_os_error(libc::EFBIG);
    let offset = i64::try_from(offset).map_err(out_of_range)?;
    let length = i64::try_from(length).map_err(out_of_range)?;
    // SAFETY: takes and returns plain numbers.
    success_from(unsafe { libc::fallocate64(file, mode, offset, length) })
}

/// What direct I/O on a file asks for; `None` where the kernel or the file system does not tell.
pub(crate) fn direct_alignment(file: BorrowedFd<'_>) -> Option<DirectAlignment> {
    // SAFETY: a statx is made of integers, for which all zeroes is a value.
    let mut status: libc::statx = unsafe { std::mem::zeroed() };
    let (path, flags) = (c"".as_ptr(), libc::AT_EMPTY_PATH);
    // SAFETY: the path is a constant that ends in a zero; the result goes to a statx exclusively ours.
    let result = unsafe { libc::statx(file.as_raw_fd(), path, flags, libc::STATX_DIOALIGN, &raw mut status) };
    (result == 0 && status.stx_mask & libc::STATX_DIOALIGN != 0).then_some(DirectAlignment {
        memory_bytes: status.stx_dio_mem_align,
        offset_bytes: status.stx_dio_offset_align,
    })
}

/// Makes every operation on a descriptor's open file wait, or not.
pub(crate) fn set_blocking(descriptor: RawFd, blocking: bool) -> io::Result<()> {
    // SAFETY: takes and returns plain numbers.
    let flags = unsafe { libc::fcntl(descriptor, libc::F_GETFL) };
    success_from(flags)?;
    let wanted = if blocking { flags & !libc::O_NONBLOCK } else { flags | libc::O_NONBLOCK };
    if wanted == flags {
        return Ok(());
    }
    // SAFETY: takes and returns plain numbers.
    success_from(unsafe { libc::fcntl(descriptor, libc::F_SETFL, wanted) })
}

/// A Unix stream socket, not yet bound.
pub(crate) fn unix_socket() -> io::Result<OwnedFd> {
    // SAFETY: takes and returns plain numbers.
    let result = unsafe { libc::socket(libc::AF_UNIX, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) };
    // SAFETY: a new descriptor is ours alone.
    unsafe { descriptor_from(result) }
}

/// Binds a Unix socket to a path.
pub(crate) fn bind_unix(socket: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    // Only to refuse a path with a zero byte in it.
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: a sockaddr_un is made of integers, for which all zeroes is a value.
    let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    address.sun_family = libc::AF_UNIX as libc::sa_family_t;
    let bytes = path.as_bytes_with_nul();
    if bytes.len() > address.sun_path.len() {
        let message = format!("socket path of {} bytes; the system's limit is {}", bytes.len(), address.sun_path.len());
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    }
    for (to, from) in address.sun_path.iter_mut().zip(bytes) {
        *to = *from as libc::c_char;
    }
    let length = size_of::<libc::sockaddr_un>() as libc::socklen_t;
    // SAFETY: the address is a whole sockaddr_un of that length, borrowed for the call.
    success_from(unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) })
}

/// Begins to listen on a bound socket.
pub(crate) fn listen(socket: BorrowedFd<'_>, backlog: i32) -> io::Result<()> {
    // SAFETY: takes and returns plain numbers.
    success_from(unsafe { libc::listen(socket.as_raw_fd(), backlog) })
}

/// Takes over a descriptor that this process was started with, after a look whether there is one.
///
/// # Safety
/// Nothing else in the process may own it.
pub(crate) unsafe fn inherited(descriptor: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: takes and returns plain numbers; a descriptor that is not open is refused by the call.
    success_from(unsafe { libc::fcntl(descriptor, libc::F_SETFD, libc::FD_CLOEXEC) })?;
    // SAFETY: it is open, and our caller promises the rest.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// Lets a write beyond the process's file size limit fail like any other instead of ending the process.
pub(crate) fn ignore_file_size_signal() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: ignoring a signal runs no code of ours in a signal's context.
        unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
    });
}

/// Asks for large pages under a range that was never touched. Advice: where it is not taken, all is as it was.
pub(crate) fn prefer_large_pages(address: usize, bytes: usize) {
    let at = std::ptr::without_provenance_mut::<libc::c_void>(address);
    // SAFETY: this advice changes neither what the memory holds nor whether it may be used, whosever it is.
    unsafe { libc::madvise(at, bytes, libc::MADV_HUGEPAGE) };
}
