//! The NBD protocol, both directions of a session, without I/O.
//!
//! [`server::Connection`] is one client's connection as the server sees it, from the greeting to the last reply;
//! [`client::Client`] is the other end. Both are fed bytes, give events, and queue bytes to send. They hold no socket,
//! read no clock and know nothing of volumes: sockets, TLS and the meaning of a request belong to their callers.
#![forbid(unsafe_code)]

pub mod client;
mod fields;
pub mod fuzzing;
pub mod memory;
pub mod protocol;
pub mod server;

pub use protocol::{ErrorCode, Extent};
