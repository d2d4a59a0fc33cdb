//! A qcow2 image, whole and behind a sound header.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| qcow2::fuzzing::image(data));
