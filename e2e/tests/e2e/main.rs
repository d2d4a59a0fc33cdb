//! End-to-end tests: the product seen from outside, through real clients and the operator's commands.
//!
//! The names in comments (`A1` … `D9`) are rows of the requirements; one search for a row finds what shows it.
#![forbid(unsafe_code)]
#![allow(clippy::disallowed_types, clippy::disallowed_methods, reason = "tests use clocks, threads and sockets")]
#![allow(clippy::print_stdout, reason = "a long test says what it did")]

mod backup;
mod clients;
mod copies;
mod docs;
mod filesystems;
mod fio;
mod hostile;
mod imports;
mod kill_nine;
mod lifecycle;
mod limits;
mod memory;
mod operators;
mod protocol;
mod snapshots;
mod space;
mod tls;

use anyhow::Result;
use e2e::server::{Options, Server};

/// A server on one disk of this size with one volume.
fn serve(disk: &str, volume: &str, size: &str) -> Result<Server> {
    let mut server = Server::start(Options::disk(disk))?;
    server.create_volume(volume, size, &[])?;
    Ok(server)
}

/// Whether the tests run against a stand-in, which has none of the operator's commands.
fn standin() -> bool {
    std::env::var_os("ACRE_STANDIN").is_some()
}

/// Bytes that are nowhere zero and differ from place to place.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    e2e::random::Random::new(seed).fill(&mut bytes);
    for byte in &mut bytes {
        *byte |= 1;
    }
    bytes
}
