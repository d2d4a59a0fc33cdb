//! The controller engine: owns the durable table and the allocator.
//!
//! [`Controller::step`] takes one event and says what is to be done about it. It reads no clock, opens no file and owns
//! no thread: a shell (or the simulator) performs its effects. State changes in memory at once; whatever others may see
//! of it waits until the batch it rests on is durable. Should a batch fail, the shell takes what outlives the controller
//! ([`Controller::salvage`]) and makes another from the store ([`Controller::recover`], [`Controller::start`]).
//!
//! [`inspect`] answers what is found out from a snapshot of the store, off the controller's thread or offline.
#![forbid(unsafe_code)]

mod alerts;
mod branches;
mod catalog;
mod commit;
mod cut;
mod due;
mod engine;
mod event;
mod fetch;
mod flatten;
mod fold;
mod grant_map;
mod grants;
mod growth;
pub mod inspect;
mod jobs;
mod operator;
mod planted;
mod purge;
mod recover;
mod runs;
mod schedules;
mod sessions;
mod shrink;
mod snapshots;
mod space;
mod state;
mod views;
mod volumes;

#[cfg(test)]
mod tests;

pub use catalog::{Export, Exports};
pub use due::{Due, SCHEDULED_PREFIX, due};
pub use engine::Controller;
pub use event::{
    AlertChange, ApiId, BatchId, Config, DiskInspection, DiskTicket, Effect, Event, Inspection, Scan, ScanId,
    ScanRange, perform_scan,
};
pub use fold::Folding;
pub use operator::DEFAULT_POOL;
pub use planted::{Bug, Planted};
pub use recover::Survivors;
