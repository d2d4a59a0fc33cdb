//! The workloads: what a client does, and how it is told to fio.

/// What of the volume a workload touches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// A span that is fully written beforehand.
    Mapped,
    /// A fresh volume of [`EMPTY_BYTES`] that nothing was ever written to.
    Empty,
}

/// The size of the empty volume of first-write workloads, in bytes.
pub(crate) const EMPTY_BYTES: u64 = 64 << 30;

/// One workload.
#[derive(Debug)]
pub(crate) struct Workload {
    /// Its name on the command line and in reports.
    pub(crate) name: &'static str,
    /// fio's name of the pattern.
    pub(crate) pattern: &'static str,
    /// Bytes of each request.
    pub(crate) block_bytes: u64,
    /// Requests in flight.
    pub(crate) depth: u32,
    /// What it touches.
    pub(crate) state: State,
    /// Where it is run.
    pub(crate) targets: &'static [&'static str],
}

/// Reads and writes: the floors, the peers and us.
const SMALL: &[&str] = &["disk", "nbdkit-null", "nbdkit-file", "qemu-raw", "acre"];
/// At one depth with the image too: on written clusters it is a raw file with a look-up.
const SMALL_AND_IMAGE: &[&str] = &["disk", "nbdkit-null", "nbdkit-file", "qemu-raw", "qcow2", "acre"];
/// Large requests: without the page cache, which would tell of memory, and without the image, which is as the raw file.
const LARGE: &[&str] = &["disk", "nbdkit-null", "qemu-raw", "acre"];
/// The others have nothing to allocate.
const THIN: &[&str] = &["qcow2", "acre"];

const fn small(name: &'static str, pattern: &'static str, depth: u32) -> Workload {
    let targets = if depth == 16 { SMALL_AND_IMAGE } else { SMALL };
    Workload { name, pattern, block_bytes: 4 << 10, depth, state: State::Mapped, targets }
}

const fn large(name: &'static str, pattern: &'static str, block_bytes: u64, depth: u32) -> Workload {
    Workload { name, pattern, block_bytes, depth, state: State::Mapped, targets: LARGE }
}

const fn first(name: &'static str, depth: u32) -> Workload {
    Workload { name, pattern: "randwrite", block_bytes: 4 << 10, depth, state: State::Empty, targets: THIN }
}

/// The matrix: every workload, in the order of reports.
pub(crate) const WORKLOADS: &[Workload] = &[
    small("read-4k-qd1", "randread", 1),
    small("read-4k-qd16", "randread", 16),
    small("read-4k-qd64", "randread", 64),
    small("write-4k-qd1", "randwrite", 1),
    small("write-4k-qd16", "randwrite", 16),
    small("write-4k-qd64", "randwrite", 64),
    large("read-64k-qd16", "read", 64 << 10, 16),
    large("write-64k-qd16", "write", 64 << 10, 16),
    large("read-1m-qd4", "read", 1 << 20, 4),
    large("write-1m-qd4", "write", 1 << 20, 4),
    first("first-4k-qd1", 1),
    first("first-4k-qd16", 16),
];
