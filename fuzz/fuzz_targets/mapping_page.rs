//! A table page from the metadata store.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mapping::fuzzing::page(data));
