//! Simulates the carrier: builds a webhook as the carrier would post it, for testing a setup.

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Method};
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
        ..
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
    Composed {
        method: Method::POST,
        query: None,
        headers,
        body: Bytes::from(body.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::message::Timestamp;
    use crate::source::intelepeer::Config;
    use crate::source::{Request, Source as _};

    #[test]
    fn a_simulated_webhook_is_accepted_by_the_source() {
        for toml in [
            "secret = 'x'",
            "secret = ['new', 'old']",
            "verify = 'hmac'\nsecret = 'k'\nhmac = { algorithm = 'sha1', encoding = 'base64' }",
            "verify = 'none'",
        ] {
            let config: Config = crate::model::setting::from_toml(toml).unwrap();
            let source = Intelepeer::build(&config).unwrap();
            let provider_id = "ABCDEF1234567890ABCDEF1234567890";
            let sample = Sample {
                provider_id,
                from: "+13035550100",
                to: "+13038675309",
                text: "Hi \"there\"\n",
                now: Timestamp(0),
                part: None,
            };
            let Composed { headers, body, .. } = source.compose(&sample).unwrap();
            let request = Request::post([127, 0, 0, 1].into(), &headers, &body);
            let events = source
                .receive(&request)
                .unwrap_or_else(|error| panic!("{toml}: {error:?}"));
            assert_eq!(events.messages[0].text, "Hi \"there\"\n");
        }
    }
}
