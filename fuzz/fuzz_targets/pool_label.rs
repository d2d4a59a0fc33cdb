//! A disk's label.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| pool::fuzzing::label(data));
