//! Seeded clusters, failing disks, the oracle and the checkers.
//!
//! A [`Plan`] is drawn from a seed and run in a [`World`]: the real engines (controller, nodes, agents, NBD sessions) in
//! one thread of virtual time, over simulated disks and a simulated store, with hosts that write, read, trim, flush and
//! drop the line, while the process is killed and the power fails. Whatever a run does follows from its seed: the same
//! seed of the same commit is the same run, event for event.
//!
//! What is checked has the names of the design's invariants ([`Invariant`]). Bugs can be planted in the engines
//! ([`PlantedBug`]) to see that they are found.
#![forbid(unsafe_code)]

mod accounts;
mod checks;
mod client_side;
mod compare;
mod control;
mod crash;
pub mod cut;
pub mod disk;
mod door;
mod engines;
mod fabric;
mod host;
mod operator;
pub mod oracle;
#[cfg(test)]
mod oracle_tests;
pub mod plan;
pub mod planted;
pub mod queue;
pub mod random;
pub mod run;
pub mod scenario;
mod schedule;
pub mod stamp;
pub mod trace;
pub mod verdict;
mod views;
pub mod world;

pub use plan::Plan;
pub use planted::PlantedBug;
pub use run::{Outcome, Settings, run_seed};
pub use scenario::Scenario;
pub use verdict::{Invariant, Violation};
pub use world::{Counts, ViewCounts, World};
