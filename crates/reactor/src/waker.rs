//! How other threads interrupt a reactor's wait.

use crate::system;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

/// Makes its reactor's next (or present) wait return. Cheap to clone, for any thread.
///
/// Wakes are counted once: any number of them costs one system call for each time the reactor sleeps, and none while
/// it is awake. Put the message in its queue first, then wake.
#[derive(Clone, Debug)]
pub struct Waker(Arc<Alarm>);

#[derive(Debug)]
pub(crate) struct Alarm {
    event: File,
    /// Somebody wants the reactor's attention, and has seen to it that it is had.
    rung: AtomicBool,
    /// The reactor is asleep, or about to be.
    asleep: AtomicBool,
}

impl Waker {
    /// Makes the reactor's wait return.
    pub fn wake(&self) {
        self.0.ring();
    }

    pub(crate) fn new() -> io::Result<Self> {
        let event = File::from(system::event_counter()?);
        Ok(Self(Arc::new(Alarm { event, rung: AtomicBool::new(false), asleep: AtomicBool::new(false) })))
    }

    pub(crate) fn alarm(&self) -> &Alarm {
        &self.0
    }
}

impl Alarm {
    /// The event counter's descriptor, readable once the alarm was rung in the reactor's sleep.
    pub(crate) fn descriptor(&self) -> RawFd {
        self.event.as_raw_fd()
    }

    // Both sides write their own flag before they read the other's, in one total order: at least one of them sees the
    // other, so a wake is never lost between the reactor's last look and its sleep.
    fn ring(&self) {
        if !self.rung.swap(true, SeqCst) && self.asleep.load(SeqCst) {
            // It cannot fail but by a full counter, which wakes as well.
            let _ = (&self.event).write(&1u64.to_ne_bytes());
        }
    }

    /// Tells that the reactor is about to sleep; false when it must not, since somebody has rung.
    pub(crate) fn fall_asleep(&self) -> bool {
        self.asleep.store(true, SeqCst);
        !self.rung.load(SeqCst)
    }

    /// Tells that the reactor is awake; whoever rings from now on is served by the wait after this one. Returns
    /// whether somebody has rung.
    pub(crate) fn wake_up(&self) -> bool {
        self.asleep.store(false, SeqCst);
        self.rung.swap(false, SeqCst)
    }

    /// Empties the counter; does not block.
    pub(crate) fn reset(&self) {
        let _ = (&self.event).read(&mut [0u8; 8]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rings_written(waker: &Waker) -> u64 {
        let mut count = [0; 8];
        (&waker.0.event).read(&mut count).map_or(0, |_| u64::from_ne_bytes(count))
    }

    #[test]
    fn wakes_of_a_reactor_that_is_awake_cost_no_system_call_and_keep_it_from_sleeping() {
        let waker = Waker::new().unwrap();
        (0..100).for_each(|_| waker.wake());
        assert_eq!(rings_written(&waker), 0);
        assert!(!waker.alarm().fall_asleep());
        assert!(waker.alarm().wake_up());
        assert!(waker.alarm().fall_asleep(), "a wake is served once");
    }

    #[test]
    fn wakes_of_a_reactor_that_sleeps_cost_one_system_call() {
        let waker = Waker::new().unwrap();
        assert!(waker.alarm().fall_asleep());
        (0..100).for_each(|_| waker.clone().wake());
        assert_eq!(rings_written(&waker), 1);
        assert!(waker.alarm().wake_up());
        assert!(!waker.alarm().wake_up());
    }
}
