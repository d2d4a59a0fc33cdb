//! The versions and deltas of one table page, as a scan finds them.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| store::fuzzing::table_page(data));
