//! Waiting for what a process that was just killed still holds.
//!
//! The kernel takes an io_uring apart only after its process is gone, so that for a moment after a kill -9 the process's
//! sockets still answer and its disks are still locked; its last writes may be under way. Whoever starts right after waits
//! for that moment to pass instead of giving up.

use std::io;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How long what is taken is waited for.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often it is tried again.
const EVERY: Duration = Duration::from_millis(100);

/// Attempts something again and again while what it needs is somebody else's.
///
/// # Errors
/// The attempt's own: at once, unless it says that something is in use; then after five seconds.
pub fn patiently<T>(mut attempt: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    let began = Instant::now();
    loop {
        match attempt() {
            Err(error) if is_taken(&error) && began.elapsed() < PATIENCE => sleep(EVERY),
            outcome => return outcome,
        }
    }
}

fn is_taken(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::AddrInUse | io::ErrorKind::ResourceBusy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_for_a_moment_is_waited_for_and_nothing_else_is() {
        let mut attempts = 0;
        let outcome = patiently(|| {
            attempts += 1;
            if attempts < 3 { Err(io::ErrorKind::ResourceBusy.into()) } else { Ok(attempts) }
        });
        assert_eq!(outcome.ok(), Some(3));
        let refused: io::Result<()> = patiently(|| Err(io::ErrorKind::PermissionDenied.into()));
        assert_eq!(refused.map_err(|error| error.kind()), Err(io::ErrorKind::PermissionDenied));
    }
}
