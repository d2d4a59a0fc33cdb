//! A few threads that perform disk operations one by one, for where the kernel does not do so by itself.

use crate::operation::{Completion, Operation};
use crate::{Waker, system};
use std::collections::VecDeque;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// How many operations are performed at a time.
const THREADS: usize = 4;

/// The threads, and what they have yet to do. Each operation owns what it reads from or writes to, wherever it is.
pub(crate) struct DiskThreads {
    queues: Arc<Queues>,
    threads: Vec<JoinHandle<()>>,
    in_flight: usize,
}

struct Queues {
    to_do: Mutex<ToDo>,
    more_to_do: Condvar,
    completed: Mutex<Vec<Completion>>,
    waker: Waker,
}

#[derive(Default)]
struct ToDo {
    operations: VecDeque<(u64, Operation)>,
    closed: bool,
}

impl DiskThreads {
    pub(crate) fn start(waker: Waker) -> io::Result<Self> {
        let queues = Arc::new(Queues {
            to_do: Mutex::default(),
            more_to_do: Condvar::new(),
            completed: Mutex::default(),
            waker,
        });
        // Made first: when a thread cannot be had, dropping it ends the others.
        let mut disks = Self { queues, threads: Vec::new(), in_flight: 0 };
        for number in 0..THREADS {
            let queues = Arc::clone(&disks.queues);
            let builder = std::thread::Builder::new().name(format!("disk-{number}"));
            disks.threads.push(builder.spawn(move || queues.work())?);
        }
        Ok(disks)
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight
    }

    pub(crate) fn submit(&mut self, token: u64, operation: Operation) {
        self.in_flight += 1;
        lock(&self.queues.to_do).operations.push_back((token, operation));
        self.queues.more_to_do.notify_one();
    }

    /// Appends what has completed since the last call.
    pub(crate) fn take_completed(&mut self, into: &mut Vec<Completion>) {
        if self.in_flight > 0 {
            let mut completed = lock(&self.queues.completed);
            self.in_flight -= completed.len();
            into.append(&mut completed);
        }
    }
}

impl Drop for DiskThreads {
    fn drop(&mut self) {
        let mut to_do = lock(&self.queues.to_do);
        to_do.closed = true;
        to_do.operations.clear();
        drop(to_do);
        self.queues.more_to_do.notify_all();
        for thread in self.threads.drain(..) {
            // A thread that panicked has said so itself.
            let _ = thread.join();
        }
    }
}

impl Queues {
    fn work(&self) {
        while let Some((token, mut operation)) = self.next() {
            let result = perform(&mut operation);
            let completion = Completion { token, result, payload: operation.into_payload() };
            lock(&self.completed).push(completion);
            self.waker.wake();
        }
    }

    fn next(&self) -> Option<(u64, Operation)> {
        let mut to_do = lock(&self.to_do);
        loop {
            if let Some(next) = to_do.operations.pop_front() {
                return Some(next);
            }
            if to_do.closed {
                return None;
            }
            to_do = self.more_to_do.wait(to_do).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// The queues are whole after every statement, so a panic elsewhere does not spoil them.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn perform(operation: &mut Operation) -> io::Result<u32> {
    match operation {
        Operation::Read { file, buffer, start, length, offset } => {
            let into = &mut buffer.bytes_mut()[*start..*start + *length];
            transfer(*length, io::ErrorKind::UnexpectedEof, |done| {
                let position = *offset + done as u64;
                // Direct I/O ends off its alignment only where the file does.
                if !position.is_multiple_of(file.alignment_bytes()) {
                    return Ok(0);
                }
                file.standard().read_at(&mut into[done..], position)
            })
        }
        Operation::Write { file, buffer, start, length, offset } => {
            let from = &buffer.bytes()[*start..*start + *length];
            transfer(*length, io::ErrorKind::WriteZero, |done| {
                file.standard().write_at(&from[done..], *offset + done as u64)
            })
        }
        Operation::DataSync { file } => file.standard().sync_data().map(|()| 0),
        Operation::Allocate { file, offset, length } => allocate(file.descriptor(), 0, *offset, *length),
        Operation::Discard { file, offset, length } => {
            let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
            allocate(file.descriptor(), mode, *offset, *length)
        }
        Operation::Accept { .. } | Operation::Receive { .. } | Operation::Send { .. } => {
            unreachable!("connections are not the disk threads'")
        }
    }
}

/// Calls `step` with the bytes done so far until all are; a step of nothing ends it with `end`.
fn transfer(length: usize, end: io::ErrorKind, mut step: impl FnMut(usize) -> io::Result<usize>) -> io::Result<u32> {
    let mut done = 0;
    while done < length {
        match step(done) {
            Ok(0) => return Err(end.into()),
            Ok(count) => done += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(length as u32)
}

fn allocate(descriptor: std::os::fd::RawFd, mode: i32, offset: u64, length: u64) -> io::Result<u32> {
    loop {
        match system::fallocate(descriptor, mode, offset, length) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result.map(|()| 0),
        }
    }
}
