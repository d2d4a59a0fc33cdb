//! The node engine: performs I/O on physical disks and fences stale holders.
//!
//! [`Node::step`] takes one event and says what is to be done about it. It reads no clock, opens no file and owns no
//! thread: a reactor (or the simulator) performs its effects and reports their completions. A node knows no volumes; it
//! knows disks, and whom it must refuse. Each data thread of a process runs one node, a *shard*, and every shard has all
//! of the node's disks.
//!
//! What a shell owes its shards: completions of every [`Effect::DiskIo`]; and, when several shards serve one disk, an open
//! file description per shard (the kernel reports a lost write once for each) and [`Event::DiskFailed`] to the other
//! shards for every [`Effect::DiskFailed`].
#![forbid(unsafe_code)]

mod commands;
mod disk;
mod engine;
mod event;
mod flight;
mod planted;
mod sessions;
#[cfg(test)]
mod tests;

pub use disk::DiskCounters;
pub use engine::Node;
pub use event::{DiskIoId, Effect, Event, Operation};
pub use planted::{Bug, Planted};
