//! What the end-to-end tests need: a server on a fresh folder, real clients, a blocking NBD client of our own, and the
//! kill -9 campaign. It knows the product from outside only: its commands, its sockets, its files.
//!
//! With `ACRE_STANDIN=qemu-nbd` the tests run against qemu-nbd instead, which proves the tests themselves.
#![forbid(unsafe_code)]
#![allow(clippy::disallowed_types, clippy::disallowed_methods, reason = "tests use clocks, threads and sockets")]
#![allow(clippy::print_stdout, reason = "long tests say how far they are")]

pub mod campaign;
pub mod certificates;
pub mod client;
pub mod filesystem;
pub mod http;
pub mod ledger;
pub mod random;
pub mod server;
pub mod stamp;
pub mod standin;
pub mod tool;

/// A binary kibibyte, in bytes.
pub const KIB: u64 = 1 << 10;
/// A binary mebibyte, in bytes.
pub const MIB: u64 = 1 << 20;
/// A binary gibibyte, in bytes.
pub const GIB: u64 = 1 << 30;
/// A binary tebibyte, in bytes.
pub const TIB: u64 = 1 << 40;
