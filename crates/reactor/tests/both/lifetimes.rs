//! Waiting, waking, and the end of a reactor.

use crate::{PATIENCE, completions, on_both_backends, patterned};
use model::IoBuffer;
use reactor::{File, Gather, OpenOptions, Operation, Socket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread::Builder;
use std::time::Duration;
#[allow(clippy::disallowed_types)] // It is time itself that is tested.
use std::time::Instant;

#[test]
#[allow(clippy::disallowed_types)]
fn a_wait_ends_with_its_time() {
    on_both_backends(|mut reactor| {
        for timeout in [Duration::ZERO, Duration::from_millis(30)] {
            let start = Instant::now();
            reactor.wait(Some(timeout), &mut Vec::new()).unwrap();
            assert!(start.elapsed() >= timeout && start.elapsed() < PATIENCE);
        }
    });
}

#[test]
#[allow(clippy::disallowed_types)]
fn a_waker_ends_a_wait_that_has_no_end_and_one_that_has_not_begun() {
    on_both_backends(|mut reactor| {
        for _ in 0..50 {
            let waker = reactor.waker();
            waker.wake();
            reactor.wait(None, &mut Vec::new()).unwrap();
            let thread = Builder::new().spawn(move || waker.wake()).unwrap();
            reactor.wait(None, &mut Vec::new()).unwrap();
            thread.join().unwrap();
        }
        // Once it has been served, a wake is over (one may be left that came twice).
        reactor.wait(Some(Duration::ZERO), &mut Vec::new()).unwrap();
        let start = Instant::now();
        reactor.wait(Some(Duration::from_millis(30)), &mut Vec::new()).unwrap();
        assert!(start.elapsed() >= Duration::from_millis(30));
    });
}

#[test]
fn no_message_is_overlooked_however_many_threads_wake() {
    const THREADS: usize = 3;
    const MESSAGES: usize = 20_000;
    on_both_backends(|mut reactor| {
        let (sent, finished) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let threads: Vec<_> = (0..THREADS)
            .map(|_| {
                let (waker, sent, finished) = (reactor.waker(), Arc::clone(&sent), Arc::clone(&finished));
                let work = move || {
                    for _ in 0..MESSAGES {
                        sent.fetch_add(1, SeqCst);
                        waker.wake();
                    }
                    finished.fetch_add(1, SeqCst);
                    waker.wake();
                };
                Builder::new().spawn(work).unwrap()
            })
            .collect();
        // A lost wake would leave this waiting for ever.
        while finished.load(SeqCst) < THREADS {
            reactor.wait(None, &mut Vec::new()).unwrap();
        }
        assert_eq!(sent.load(SeqCst), THREADS * MESSAGES);
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    });
}

/// Tells when it is dropped.
struct Watched(Vec<u8>, Arc<AtomicBool>);

impl Gather for Watched {
    fn each_slice<'a>(&'a self, visit: &mut dyn FnMut(&'a [u8])) {
        visit(&self.0);
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.1.store(true, SeqCst);
    }
}

#[test]
fn a_reactor_dropped_with_operations_in_flight_ends_them_and_frees_what_they_held() {
    on_both_backends(|mut reactor| {
        let directory = tempfile::tempdir().unwrap();
        let options = OpenOptions { direct: true, create: true, ..OpenOptions::default() };
        let file = File::open(&directory.path().join("disk"), options).unwrap();
        let (ours, theirs) = Socket::pair().unwrap();
        for token in 0..300 {
            let (file, socket) = (file.clone(), ours.clone());
            let (buffer, offset) = (Arc::new(patterned(64 << 10, token)), token * (64 << 10));
            reactor.submit(token, Operation::Write { file, buffer, start: 0, length: 64 << 10, offset });
            reactor.submit(token, Operation::Receive { socket, buffer: IoBuffer::zeroed(4096), start: 0, end: 4096 });
        }
        let dropped = Arc::new(AtomicBool::new(false));
        let batch = Box::new(Watched(vec![7; 16 << 20], Arc::clone(&dropped)));
        reactor.submit(1000, Operation::Send { socket: theirs.clone(), batch, quiet: false });
        reactor.wait(Some(Duration::ZERO), &mut Vec::new()).unwrap();
        assert!(!dropped.load(SeqCst));
        drop(reactor);
        assert!(dropped.load(SeqCst));
        assert!(file.duplicate().is_ok());
    });
}

#[test]
fn a_wake_between_completions_loses_none_of_them() {
    on_both_backends(|mut reactor| {
        let directory = tempfile::tempdir().unwrap();
        let options = OpenOptions { create: true, ..OpenOptions::default() };
        let file = File::open(&directory.path().join("disk"), options).unwrap();
        let (stop, waker) = (Arc::new(AtomicBool::new(false)), reactor.waker());
        let nuisance = Arc::clone(&stop);
        let thread = Builder::new().spawn(move || {
            while !nuisance.load(SeqCst) {
                waker.wake();
                std::thread::yield_now();
            }
        });
        for round in 0..50 {
            for token in 0..20 {
                let (file, buffer) = (file.clone(), Arc::new(patterned(4096, token)));
                let offset = (round * 20 + token) * 4096;
                reactor.submit(token, Operation::Write { file, buffer, start: 0, length: 4096, offset });
            }
            let mut found = Vec::new();
            while found.len() < 20 {
                reactor.wait(Some(PATIENCE), &mut found).unwrap();
            }
            assert!(found.iter().all(|done| done.result.is_ok()));
        }
        stop.store(true, SeqCst);
        thread.unwrap().join().unwrap();
        assert!(completions(&mut reactor, 0).is_empty());
    });
}
