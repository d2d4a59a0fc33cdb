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
    /// Whether every write is followed by a flush.
    pub(crate) flush: bool,
    /// What it touches.
    pub(crate) state: State,
}

const fn mapped(name: &'static str, pattern: &'static str, block_bytes: u64, depth: u32) -> Workload {
    Workload { name, pattern, block_bytes, depth, flush: false, state: State::Mapped }
}

const fn first(name: &'static str, depth: u32) -> Workload {
    Workload { name, pattern: "randwrite", block_bytes: 4 << 10, depth, flush: false, state: State::Empty }
}

/// Every workload, in the order of reports.
pub(crate) const WORKLOADS: &[Workload] = &[
    mapped("read-4k-qd1", "randread", 4 << 10, 1),
    mapped("read-4k-qd16", "randread", 4 << 10, 16),
    mapped("read-4k-qd64", "randread", 4 << 10, 64),
    mapped("write-4k-qd1", "randwrite", 4 << 10, 1),
    mapped("write-4k-qd16", "randwrite", 4 << 10, 16),
    mapped("write-4k-qd64", "randwrite", 4 << 10, 64),
    mapped("read-64k-qd16", "read", 64 << 10, 16),
    mapped("write-64k-qd16", "write", 64 << 10, 16),
    mapped("read-1m-qd4", "read", 1 << 20, 4),
    mapped("write-1m-qd4", "write", 1 << 20, 4),
    first("first-4k-qd1", 1),
    first("first-4k-qd16", 16),
    Workload {
        name: "flush-4k-qd1",
        pattern: "randwrite",
        block_bytes: 4 << 10,
        depth: 1,
        flush: true,
        state: State::Mapped,
    },
];
