//! The agent engine: serves hosts from a volatile mapping table, straight from the storage devices.
//!
//! It holds table pages and granted regions in memory only and can be killed at any moment. It knows no socket, file,
//! clock or protocol: [`Agent::step`] takes an event and says what is to be done.
#![forbid(unsafe_code)]

mod agent;
mod changed;
mod changes;
mod context;
mod counters;
mod event;
mod flatten;
mod flush;
mod freeze;
mod grants;
mod inflight;
mod memory;
mod merge;
mod merge_task;
mod planted;
mod read;
mod session;
mod slab;
mod status;
mod volume;
mod write;
mod zero;

pub use agent::{Agent, VolumeReport};
pub use context::AgentConfig;
pub use counters::Counters;
pub use event::{
    ChangedExtent, Effect, Event, HostId, HostVolume, IoId, IoKind, IoRequest, IoResult, ReadSegment, StatusExtent,
    VolumeSlot,
};
pub use planted::{Bug, Planted};
