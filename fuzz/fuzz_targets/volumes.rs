#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| bygone_fuzzing::volumes(bytes));
