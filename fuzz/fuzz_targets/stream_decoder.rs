//! A stream of `acre export`, as it comes and by recipe.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| stream::fuzzing::stream(data));
