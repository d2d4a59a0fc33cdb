//! How threads hand messages to a data thread: a queue, and a wake-up of its reactor.

use reactor::Waker;
use std::sync::mpsc::{Receiver, Sender, channel};

/// The sending end of a data thread's mailbox.
pub(crate) struct Mailbox<T> {
    sender: Sender<T>,
    waker: Waker,
}

impl<T> Clone for Mailbox<T> {
    fn clone(&self) -> Self {
        Self { sender: self.sender.clone(), waker: self.waker.clone() }
    }
}

impl<T> Mailbox<T> {
    /// A mailbox whose owner waits in the reactor of `waker`.
    pub(crate) fn new(waker: Waker) -> (Self, Receiver<T>) {
        let (sender, receiver) = channel();
        (Self { sender, waker }, receiver)
    }

    /// Puts a message in. One to a thread that has ended is dropped.
    pub(crate) fn post(&self, message: T) {
        if self.sender.send(message).is_ok() {
            self.waker.wake();
        }
    }
}

/// Takes everything that is in.
pub(crate) fn drain<T>(receiver: &Receiver<T>) -> impl Iterator<Item = T> + '_ {
    std::iter::from_fn(|| receiver.try_recv().ok())
}
