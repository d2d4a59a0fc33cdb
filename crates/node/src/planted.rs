//! Bugs that the simulator plants to see that it finds them. All are off wherever disks are real.

/// Which bugs are planted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Planted {
    /// Fences are reported done and never enforced.
    pub fence_ignored: bool,
    /// Fences are reported done while I/O of the fenced session is still in flight.
    pub fence_without_drain: bool,
    /// Flushes are answered without asking the disk.
    pub flush_lies: bool,
    /// A failed flush leaves its disk in service, so that the next one may succeed without the lost data.
    pub flush_retried: bool,
}
