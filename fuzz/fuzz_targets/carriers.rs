//! Every kind of source with arbitrary content: none panics, rejects a signed message, or accepts a request without a
//! signature.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../tests/common/signed.rs"]
mod signed;

fuzz_target!(|data: &[u8]| signed::run(data));
