//! A hostile client against the server's end of an NBD connection.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| nbd::fuzzing::server(data));
