//! The backend for where io_uring is not to be had: poll(2) for connections, threads for disks.

use crate::disk_threads::DiskThreads;
use crate::operation::{self, Completion, Gather, Operation, Payload};
use crate::{Socket, Waker, system};
use std::io::{self, IoSlice};
use std::time::Duration;

/// The most slices one system call takes.
const SLICES_MAX: usize = 1024;
/// What may be written to a pipe that is ready, in bytes, without having to wait.
const PIPE_READY_BYTES: usize = 4096;

pub(crate) struct Fallback {
    /// Operations on connections, oldest first.
    waiting: Vec<Waiting>,
    /// What has completed and was not handed out yet.
    ready: Vec<Completion>,
    disks: DiskThreads,
    waker: Waker,
    /// What poll(2) is asked; kept for its memory.
    interests: Vec<libc::pollfd>,
}

struct Waiting {
    token: u64,
    operation: Operation,
    /// How many bytes are through.
    progress: usize,
    /// Worth an attempt: new, or reported ready.
    attempt: Attempt,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Attempt {
    /// Not before the descriptor is ready.
    No,
    /// Never tried: what cannot be tried without perhaps blocking waits for `Ready`.
    New,
    /// Its descriptor is ready.
    Ready,
}

/// What an operation on a connection has come to; the connection that an Accept took.
type Outcome = (io::Result<u32>, Option<Socket>);

impl Fallback {
    pub(crate) fn new(waker: Waker) -> io::Result<Self> {
        let disks = DiskThreads::start(waker.clone())?;
        Ok(Self { waiting: Vec::new(), ready: Vec::new(), disks, waker, interests: Vec::new() })
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.waiting.len() + self.ready.len() + self.disks.in_flight()
    }

    pub(crate) fn submit(&mut self, token: u64, operation: Operation) {
        if let Some(result) = operation.result_at_once() {
            self.ready.push(Completion { token, result, payload: operation.into_payload() });
            return;
        }
        match &operation {
            Operation::Receive { .. } | Operation::Send { .. } => {}
            Operation::Accept { listener } => {
                if let Err(error) = system::set_blocking(listener.descriptor(), false) {
                    self.ready.push(Completion { token, result: Err(error), payload: Payload::None });
                    return;
                }
            }
            _ => return self.disks.submit(token, operation),
        }
        self.waiting.push(Waiting { token, operation, progress: 0, attempt: Attempt::New });
    }

    /// Disk operations are left to end by themselves, which they do.
    pub(crate) fn cancel(&mut self, token: u64) {
        for waiting in self.waiting.extract_if(.., |waiting| waiting.token == token) {
            let (result, payload) = (Err(operation::cancelled()), waiting.operation.into_payload());
            self.ready.push(Completion { token, result, payload });
        }
    }

    pub(crate) fn wait(&mut self, timeout: Option<Duration>, completions: &mut Vec<Completion>) -> io::Result<()> {
        self.attempt_all();
        self.disks.take_completed(&mut self.ready);
        let may_sleep = self.ready.is_empty() && timeout != Some(Duration::ZERO) && self.waker.alarm().fall_asleep();
        let polled = self.poll(if may_sleep { timeout } else { Some(Duration::ZERO) });
        self.waker.alarm().wake_up();
        self.attempt_all();
        self.disks.take_completed(&mut self.ready);
        completions.append(&mut self.ready);
        match polled {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            polled => polled,
        }
    }

    /// Marks the operations whose descriptors are ready, or become so in time.
    fn poll(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        let interest = |fd, events| libc::pollfd { fd, events, revents: 0 };
        self.interests.clear();
        self.interests.extend(self.waiting.iter().map(|waiting| match &waiting.operation {
            Operation::Send { socket, .. } => interest(socket.send_way().descriptor, libc::POLLOUT),
            Operation::Receive { socket, .. } => interest(socket.receive_way().descriptor, libc::POLLIN),
            Operation::Accept { listener } => interest(listener.descriptor(), libc::POLLIN),
            _ => unreachable!("disk operations are the disk threads'"),
        }));
        self.interests.push(interest(self.waker.alarm().descriptor(), libc::POLLIN));
        // Rounded up: a timer that is not due yet when we return would have us come back at once.
        let round_up_ms = |time: Duration| i32::try_from(time.as_micros().div_ceil(1000)).unwrap_or(i32::MAX);
        system::poll(&mut self.interests, timeout.map_or(-1, round_up_ms))?;
        if self.interests.pop().is_some_and(|alarm| alarm.revents != 0) {
            self.waker.alarm().reset();
        }
        for (waiting, interest) in self.waiting.iter_mut().zip(&self.interests) {
            if interest.revents != 0 {
                waiting.attempt = Attempt::Ready;
            }
        }
        Ok(())
    }

    /// Attempts what is worth it.
    fn attempt_all(&mut self) {
        let mut index = 0;
        while index < self.waiting.len() {
            let waiting = &mut self.waiting[index];
            let outcome = if waiting.attempt == Attempt::No { None } else { waiting.perform() };
            waiting.attempt = Attempt::No;
            let Some((result, socket)) = outcome else {
                index += 1;
                continue;
            };
            let Waiting { token, operation, .. } = self.waiting.remove(index);
            let payload = socket.map_or_else(|| operation.into_payload(), Payload::Socket);
            self.ready.push(Completion { token, result, payload });
        }
    }
}

impl Waiting {
    /// Goes as far as can be gone without waiting; `None` when that is not the end.
    fn perform(&mut self) -> Option<Outcome> {
        let ready = self.attempt == Attempt::Ready;
        let result = match &mut self.operation {
            Operation::Accept { listener } => match system::accept_now(listener.descriptor()) {
                Ok(descriptor) => return Some((Ok(0), Some(Socket::accepted(descriptor, listener.is_tcp())))),
                Err(error) => Err(error),
            },
            Operation::Receive { socket, buffer, start, end } => {
                let (way, into) = (socket.receive_way(), &mut buffer.bytes_mut()[*start..*end]);
                if way.is_socket {
                    system::receive_now(way.descriptor, into).map(|count| count as u32)
                } else if ready {
                    system::read(way.descriptor, into).map(|count| count as u32)
                } else {
                    return None;
                }
            }
            Operation::Send { socket, batch, .. } => {
                let way = socket.send_way();
                if !way.is_socket && !ready {
                    return None;
                }
                send(way, &**batch, &mut self.progress)
            }
            _ => unreachable!("disk operations are the disk threads'"),
        };
        match result {
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => None,
            result => Some((result, None)),
        }
    }
}

/// Sends what there is room for. Ends with the whole length, or with the error that stopped it.
fn send(way: crate::socket::Way, batch: &dyn Gather, progress: &mut usize) -> io::Result<u32> {
    loop {
        let slices = slices_from(batch, *progress);
        let Some(first) = slices.first() else { return Ok(*progress as u32) };
        let count = if way.is_socket {
            system::send_now(way.descriptor, &slices)?
        } else {
            system::write(way.descriptor, &first[..first.len().min(PIPE_READY_BYTES)])?
        };
        if count == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        *progress += count;
        if !way.is_socket && !slices_from(batch, *progress).is_empty() {
            // It has to be asked again whether a pipe has room.
            return Err(io::ErrorKind::WouldBlock.into());
        }
    }
}

/// The slices of a batch after its first `skipped_bytes`, as many as one system call takes.
fn slices_from(batch: &dyn Gather, skipped_bytes: usize) -> Vec<IoSlice<'_>> {
    let (mut slices, mut skip) = (Vec::new(), skipped_bytes);
    batch.each_slice(&mut |slice| {
        let skipped = skip.min(slice.len());
        skip -= skipped;
        if skipped < slice.len() && slices.len() < SLICES_MAX {
            slices.push(IoSlice::new(&slice[skipped..]));
        }
    });
    slices
}
