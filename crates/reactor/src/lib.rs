//! The reactor: one thread's I/O, handed in as operations and handed back as completions.
//!
//! Two backends do the same: io_uring, and poll(2) with a few disk threads where io_uring is not to be had. There is
//! no async runtime here, no protocol and no policy. This is the only crate with unsafe code; what the kernel may be
//! reading or writing is owned by the reactor until the operation completes, so nothing a user of it drops can free it.

mod disk_threads;
mod fallback;
mod file;
mod flight;
mod listener;
mod operation;
mod registered;
mod slab;
mod socket;
mod system;
mod uring;
mod waker;

pub use file::{File, OpenOptions};
pub use listener::Listener;
pub use operation::{Completion, Gather, Operation, Payload};
pub use socket::Socket;
pub use waker::Waker;

use model::Slab;
use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::sync::Once;
use std::time::Duration;
use thiserror::Error;

/// Which backend to use.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Backend {
    /// io_uring where it works, else the fallback, with a warning.
    #[default]
    Auto,
    /// io_uring or nothing.
    Uring,
    /// poll(2) and a few disk threads.
    Fallback,
}

/// What a reactor is made from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReactorConfig {
    /// How many operations are handed to the kernel in one system call (not how many may be in flight, which has no
    /// limit here). From 1 to 4096.
    pub queue_depth: u32,
    /// Which backend to use.
    pub backend: Backend,
}

impl Default for ReactorConfig {
    fn default() -> Self {
        Self { queue_depth: 256, backend: Backend::Auto }
    }
}

/// Why there is no reactor.
#[derive(Debug, Error)]
pub enum ReactorError {
    /// This kernel (or its configuration) does not offer what is needed of io_uring.
    #[error("io_uring is not to be had here ({0}); use the backend `auto` or `fallback`")]
    NoUring(String),
    /// Descriptors or threads ran out.
    #[error("the system has no room for a reactor: {0}")]
    Resources(#[from] io::Error),
}

/// One thread's driver of I/O. It stays on the thread that made it.
pub struct Reactor {
    driver: Driver,
    waker: Waker,
    /// Keeps it on its thread: the ring takes submissions from no other.
    on_one_thread: PhantomData<*const ()>,
}

enum Driver {
    Uring(uring::Uring),
    Fallback(fallback::Fallback),
}

impl Reactor {
    /// Makes a reactor for the calling thread.
    ///
    /// From then on, a write beyond the process's file size limit fails instead of ending the process (SIGXFSZ is
    /// ignored).
    ///
    /// # Errors
    /// When the backend asked for is not to be had.
    pub fn new(config: ReactorConfig) -> Result<Self, ReactorError> {
        system::ignore_file_size_signal();
        let waker = Waker::new()?;
        let depth = config.queue_depth.clamp(1, 4096);
        let driver = match config.backend {
            Backend::Fallback => Driver::Fallback(fallback::Fallback::new(waker.clone())?),
            Backend::Uring => Driver::Uring(uring::Uring::new(depth, waker.clone())?),
            Backend::Auto => match uring::Uring::new(depth, waker.clone()) {
                Ok(uring) => Driver::Uring(uring),
                Err(error) => {
                    static ANNOUNCED: Once = Once::new();
                    ANNOUNCED.call_once(|| tracing::warn!("slower I/O by poll and disk threads: {error}"));
                    Driver::Fallback(fallback::Fallback::new(waker.clone())?)
                }
            },
        };
        Ok(Self { driver, waker, on_one_thread: PhantomData })
    }

    /// The backend in use; never [`Backend::Auto`].
    #[must_use]
    pub fn backend(&self) -> Backend {
        match self.driver {
            Driver::Uring(_) => Backend::Uring,
            Driver::Fallback(_) => Backend::Fallback,
        }
    }

    /// What interrupts [`Reactor::wait`] from other threads.
    #[must_use]
    pub fn waker(&self) -> Waker {
        self.waker.clone()
    }

    /// How many operations are submitted and not yet given back.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        match &self.driver {
            Driver::Uring(uring) => uring.in_flight(),
            Driver::Fallback(fallback) => fallback.in_flight(),
        }
    }

    /// Takes an operation on; the next [`Reactor::wait`] performs it, and one of them gives it back as a completion
    /// with this token. Tokens are the caller's own; nothing but [`Reactor::cancel`] compares them.
    ///
    /// No order holds between operations in flight: whoever needs one submits the second when the first has completed.
    ///
    /// # Panics
    /// When a range lies outside its buffer.
    pub fn submit(&mut self, token: u64, operation: Operation) {
        match &mut self.driver {
            Driver::Uring(uring) => uring.submit(token, operation),
            Driver::Fallback(fallback) => fallback.submit(token, operation),
        }
    }

    /// Tells the kernel of a slab, so that reads and writes of buffers cut from it cost less. Where that cannot be done
    /// (an old kernel, a limit on locked memory), they go on as before.
    ///
    /// # Errors
    /// Why it cannot be done.
    pub fn register(&mut self, slab: Slab) -> io::Result<()> {
        match &mut self.driver {
            Driver::Uring(uring) => uring.register(slab),
            Driver::Fallback(_) => Ok(()),
        }
    }

    /// Tells the kernel of a file, so that operations on it cost less. To be taken back by [`Reactor::forget`] before the
    /// last clone is dropped: until then the reactor takes operations on its descriptor for operations on this file, and
    /// the kernel keeps it open.
    ///
    /// # Errors
    /// Why it cannot be done; operations go on as before.
    pub fn adopt(&mut self, file: &File) -> io::Result<()> {
        match &mut self.driver {
            Driver::Uring(uring) => uring.adopt(file),
            Driver::Fallback(_) => Ok(()),
        }
    }

    /// Takes [`Reactor::adopt`] back. Operations in flight on the file end as they would have.
    ///
    /// # Errors
    /// When the kernel refuses, which leaves the file open until the reactor is dropped.
    pub fn forget(&mut self, file: &File) -> io::Result<()> {
        match &mut self.driver {
            Driver::Uring(uring) => uring.forget(file),
            Driver::Fallback(_) => Ok(()),
        }
    }

    /// Asks every operation in flight under this token to end soon. Each still completes, once: with what it has come
    /// to, or cancelled ([`Completion::is_cancelled`]).
    pub fn cancel(&mut self, token: u64) {
        match &mut self.driver {
            Driver::Uring(uring) => uring.cancel(token),
            Driver::Fallback(fallback) => fallback.cancel(token),
        }
    }

    /// Hands over what was submitted, waits until something completes, a [`Waker`] is used or the time is over
    /// (`None`: never; zero: only looks), and appends what has completed. It may return early with nothing.
    ///
    /// # Errors
    /// When the kernel refuses the reactor itself; an operation's failure is in its completion.
    pub fn wait(&mut self, timeout: Option<Duration>, completions: &mut Vec<Completion>) -> io::Result<()> {
        match &mut self.driver {
            Driver::Uring(uring) => uring.wait(timeout, completions),
            Driver::Fallback(fallback) => fallback.wait(timeout, completions),
        }
    }
}

impl fmt::Debug for Reactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reactor").field("backend", &self.backend()).field("in_flight", &self.in_flight()).finish()
    }
}
