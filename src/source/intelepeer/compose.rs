//! The carrier's part, played by the bridge itself: a webhook as it would be posted, to try a setup out.

use base64::Engine as _;
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue};
use serde_json::json;

use super::super::{Composed, Sample};
use super::Intelepeer;
use super::hmac::Signed;

pub(super) fn compose(source: &Intelepeer, sample: &Sample<'_>) -> Composed {
    let Sample {
        provider_id: refid,
        from,
        to,
        text: message,
    } = *sample;
    let mut body = json!({ "refid": refid, "from": from, "to": to, "message": message });
    if let Some(signature) = source.signature.sign(&Signed {
        refid,
        from,
        to,
        message,
    }) {
        body["signature"] = signature.into();
    }
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Some(value) = source.caller.basic_auth().and_then(authorization) {
        headers.insert(AUTHORIZATION, value);
    }
    Composed {
        headers,
        body: Bytes::from(body.to_string()),
    }
}

fn authorization(auth: &super::BasicAuth) -> Option<HeaderValue> {
    let password = auth.password.all().first()?;
    let pair = format!("{}:{}", auth.username, password.reveal());
    let mut value = HeaderValue::from_str(&format!(
        "Basic {}",
        base64::prelude::BASE64_STANDARD.encode(pair)
    ))
    .ok()?;
    value.set_sensitive(true);
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::intelepeer::Config;
    use crate::source::{Received, Request, Source as _};

    #[test]
    fn what_is_composed_is_accepted_by_the_source_itself() {
        for toml in [
            "secret = 'x'",
            "secret = ['new', 'old']\nbasic_auth = { username = 'u', password = 'p:q' }",
            "verify = 'hmac'\nsecret = 'k'\nhmac = { algorithm = 'sha1', encoding = 'base64' }",
            "verify = 'none'",
        ] {
            let config: Config = toml::from_str(toml).unwrap();
            let source = Intelepeer::build(&"carrier".parse().unwrap(), &config).unwrap();
            let provider_id = "ABCDEF1234567890ABCDEF1234567890";
            let sample = Sample {
                provider_id,
                from: "+13035550100",
                to: "+13038675309",
                text: "Hi \"there\"\n",
            };
            let Composed { headers, body } = source.compose(&sample);
            let request = Request {
                client: [127, 0, 0, 1].into(),
                headers: &headers,
                body: &body,
            };
            match source.receive(&request) {
                Received::Messages(messages) => assert_eq!(messages[0].text, "Hi \"there\"\n"),
                other => panic!("{toml}: {other:?}"),
            }
        }
    }
}
