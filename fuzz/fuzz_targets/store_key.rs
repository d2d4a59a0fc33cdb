//! A key of the metadata store.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| store::fuzzing::key(data));
