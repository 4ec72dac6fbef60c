#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| pontoon_fuzz::memcache::answer(data));
