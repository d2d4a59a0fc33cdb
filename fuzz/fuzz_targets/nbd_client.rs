//! A hostile server against the client's end of an NBD connection.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| nbd::fuzzing::client(data));
