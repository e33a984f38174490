//! Every kind of source with any content: nothing panics, no signed message is refused, and nothing is accepted without a
//! signature.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../tests/common/signed.rs"]
mod signed;

fuzz_target!(|data: &[u8]| signed::run(data));
