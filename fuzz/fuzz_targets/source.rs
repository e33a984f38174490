//! Every request, in JSON or as a form, is answered; none is accepted without the shared code.
#![no_main]

use std::net::{IpAddr, Ipv4Addr};
use std::sync::LazyLock;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header};
use libfuzzer_sys::fuzz_target;
use smsbridge::source::intelepeer::Intelepeer;
use smsbridge::source::{Request, Source};

const CODE: &str = "fuzz-code";

static OPEN: LazyLock<Intelepeer> = LazyLock::new(|| source("verify = 'none'"));
static CLOSED: LazyLock<Intelepeer> = LazyLock::new(|| source(&format!("secret = '{CODE}'")));
static SIGNED: LazyLock<Intelepeer> = LazyLock::new(|| source("verify = 'hmac'\nsecret = 'fuzz-key'"));

fn source(keys: &str) -> Intelepeer {
    let config = smsbridge::model::setting::from_toml(keys).expect("a right configuration");
    Intelepeer::build(&config).expect("a source")
}

fuzz_target!(|data: &[u8]| {
    let Some((&first, rest)) = data.split_first() else {
        return;
    };
    let kinds = [
        "application/json",
        "application/json; charset=utf-8",
        "application/x-www-form-urlencoded",
        "text/plain",
    ];
    let mut headers = HeaderMap::new();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static(kinds[usize::from(first % 4)]),
    );
    let body = Bytes::copy_from_slice(rest);
    let request = Request::post(IpAddr::V4(Ipv4Addr::LOCALHOST), &headers, &body);
    let _ = OPEN.receive(&request);
    let has_code = rest.windows(CODE.len()).any(|part| part == CODE.as_bytes())
        || rest.contains(&0)
        || rest.contains(&b'%')
        || rest.contains(&b'\\');
    assert!(
        has_code || CLOSED.receive(&request).is_err(),
        "accepted without the code"
    );
    // The input cannot contain a valid signature: the key is unknown to the fuzzer.
    assert!(
        SIGNED.receive(&request).is_err(),
        "accepted without the key"
    );
});
