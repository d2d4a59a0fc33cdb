//! The parts of the `acre` binary: `serve` with its listeners and its data directory, and the operator's commands.
//!
//! [`control`] is the seam between the two halves: the control plane here (command line, HTTP) asks, the engine threads
//! answer. Nothing of the I/O path is in this half.
#![forbid(unsafe_code)]
#![allow(clippy::disallowed_types, clippy::disallowed_methods, reason = "this is a shell: it has clocks and threads")]

pub mod calendar;
pub mod cli;
pub mod client;
pub mod config;
pub mod control;
pub mod datadir;
pub mod engine;
pub mod http;
pub mod logging;
pub mod metrics;
pub mod patience;
pub mod schedule;
pub mod serve;
pub mod systemd;
pub mod tls;
pub mod transfer;
