//! The same tests over both backends: what one promises, the other keeps.

mod disks;
mod lifetimes;
mod random;
mod sockets;

use model::IoBuffer;
use reactor::{Backend, Completion, Reactor, ReactorConfig, ReactorError};
use std::time::Duration;
#[allow(clippy::disallowed_types)] // To give up in the end.
use std::time::Instant;

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(30);

/// Runs a test on a reactor of each backend that this machine has, with a queue depth of 64.
fn on_both_backends(test: impl Fn(Reactor)) {
    for backend in [Backend::Fallback, Backend::Uring] {
        match Reactor::new(ReactorConfig { queue_depth: 64, backend }) {
            Ok(reactor) => {
                assert_eq!(reactor.backend(), backend);
                test(reactor);
            }
            Err(ReactorError::NoUring(reason)) => eprintln!("no io_uring here: {reason}"),
            Err(error) => panic!("{error}"),
        }
    }
}

/// Waits for `count` completions, in the order of their tokens.
#[allow(clippy::disallowed_types)]
fn completions(reactor: &mut Reactor, count: usize) -> Vec<Completion> {
    let (mut found, start) = (Vec::new(), Instant::now());
    while found.len() < count {
        reactor.wait(Some(PATIENCE), &mut found).expect("the reactor waits");
        assert!(start.elapsed() < PATIENCE, "nothing more completes; {} of {count} have", found.len());
    }
    assert_eq!(found.len(), count);
    found.sort_by_key(|completion| completion.token);
    found
}

/// Waits for one completion.
fn completion(reactor: &mut Reactor) -> Completion {
    completions(reactor, 1).remove(0)
}

/// A buffer of a pattern that differs from seed to seed.
fn patterned(bytes: usize, seed: u64) -> IoBuffer {
    let mut buffer = IoBuffer::zeroed(bytes);
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    for byte in buffer.bytes_mut() {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        *byte = state as u8;
    }
    buffer
}
