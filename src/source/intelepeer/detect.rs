//! Determines the signature scheme of an account from a captured webhook.
//!
//! Only for a command, never used while receiving: a source that accepted any matching scheme would only be as secure
//! as the weakest one.

use http::HeaderMap;

use crate::model::secret::Secret;

use super::body::{Body, Fields};
use super::hmac::{Algorithm, Config, Encoding, REFID_LENGTH};

/// A scheme that matches the sample.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// `signature` is the secret itself.
    SharedCode,
    /// `signature` is an HMAC.
    Hmac(Config),
}

/// The fields that may be signed, the likely ones first.
const FIELDS: [&str; 4] = ["refid", "message", "from", "to"];

/// The separators that may stand between them.
const SEPARATORS: [&str; 8] = ["", "|", ":", ",", ".", " ", "\n", "&"];

/// All schemes that match the sample, the likeliest first. Empty if the secret is wrong or the scheme is unknown.
/// Several match if a field is empty or two fields are equal; another sample distinguishes them.
///
/// # Errors
/// A sentence for the operator when the sample is not the body of a webhook.
pub fn detect(secret: &Secret, sample: &[u8]) -> Result<Vec<Scheme>, String> {
    let Body { fields, broken } = Body::read(&HeaderMap::new(), sample);
    if let Some(refusal) = broken {
        return Err(refusal.error);
    }
    let signature = fields
        .required_text("signature")
        .map_err(|refusal| refusal.error)?;
    if secret.matches(signature.as_bytes()) {
        return Ok(vec![Scheme::SharedCode]);
    }
    let refid_length = fields
        .required_text("refid")
        .map_err(|refusal| refusal.error)?
        .len();
    let candidates = Candidates::of(signature);
    let mut found = Vec::new();
    for (over, data) in layouts(&fields) {
        for algorithm in Algorithm::ALL {
            if let Some(encoding) = algorithm
                .mac(secret.reveal().as_bytes(), &[data.as_bytes()])
                .and_then(|mac| candidates.encoding(&mac))
            {
                found.push(Scheme::Hmac(Config {
                    algorithm,
                    encoding,
                    over: over.clone(),
                    refid_length,
                }));
            }
        }
    }
    Ok(found)
}

/// The lines to paste below `[source.NAME]`.
#[must_use]
pub fn lines(scheme: &Scheme) -> String {
    match scheme {
        Scheme::SharedCode => "verify = \"shared-code\"\n".to_owned(),
        Scheme::Hmac(config) => {
            let (algorithm, encoding) = (config.algorithm.as_str(), config.encoding.as_str());
            // A JSON string is a TOML string, line breaks escaped.
            let over = serde_json::Value::from(config.over.as_str());
            let length = match config.refid_length {
                REFID_LENGTH => String::new(),
                other => format!(", refid_length = {other}"),
            };
            format!(
                "verify = \"hmac\"\nhmac = {{ algorithm = \"{algorithm}\", encoding = \"{encoding}\", over = {over}{length} }}\n"
            )
        }
    }
}

/// The signature, decoded with each encoding that accepts it.
struct Candidates(Vec<(Encoding, Vec<u8>)>);

impl Candidates {
    fn of(signature: &str) -> Self {
        let upper = signature.bytes().any(|byte| byte.is_ascii_uppercase());
        let hex = if upper { Encoding::HexUpper } else { Encoding::Hex };
        let decoded = |encoding: Encoding| encoding.decode(signature).map(|bytes| (encoding, bytes));
        Self([hex, Encoding::Base64].into_iter().filter_map(decoded).collect())
    }

    fn encoding(&self, mac: &[u8]) -> Option<Encoding> {
        self.0
            .iter()
            .find(|(_, bytes)| bytes == mac)
            .map(|(encoding, _)| *encoding)
    }
}

/// A string that may be signed, as the setting `over` and as data from the sample.
fn layouts(fields: &Fields) -> Vec<(String, String)> {
    let mut layouts = Vec::new();
    for order in orders() {
        let separators = if order.len() == 1 {
            &SEPARATORS[..1]
        } else {
            &SEPARATORS
        };
        for separator in separators {
            let over: Vec<String> = order.iter().map(|name| format!("{{{name}}}")).collect();
            let data: Vec<_> = order.iter().map(|name| fields.text(name)).collect();
            layouts.push((over.join(separator), data.join(separator)));
        }
    }
    layouts
}

/// Every order of one to four fields: first those with both the id and the body, as documented, the shorter ones
/// first.
fn orders() -> Vec<Vec<&'static str>> {
    let mut orders: Vec<Vec<&str>> = vec![Vec::new()];
    let mut from = 0;
    while from < orders.len() {
        for name in FIELDS {
            if !orders[from].contains(&name) {
                let longer = orders[from].iter().copied().chain([name]).collect();
                orders.push(longer);
            }
        }
        from += 1;
    }
    orders.remove(0);
    orders.sort_by_key(|order| !(order.contains(&"refid") && order.contains(&"message")));
    orders
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use serde_json::json;

    use super::super::Intelepeer;
    use super::super::hmac::Signed;
    use super::*;
    use crate::source::{Request, Source as _};

    fn sample(refid: &str, signature: &str) -> Bytes {
        let body = json!({ "refid": refid, "from": "+17708675309", "to": "1-1234", "message": "Hällo", "signature": signature });
        body.to_string().into()
    }

    fn signed(config: &Config, refid: &str) -> Bytes {
        let scheme = super::super::hmac::Scheme::build(config).unwrap();
        let fields = Signed {
            refid,
            from: "+17708675309",
            to: "1-1234",
            message: "Hällo",
        };
        sample(refid, &scheme.sign(&Secret::new("key"), &fields).unwrap())
    }

    fn assert_accepted(lines: &str, body: &Bytes) {
        let config: super::super::Config =
            crate::model::setting::from_toml(&format!("secret = 'key'\n{lines}")).unwrap();
        let source = Intelepeer::build(&config).unwrap();
        let headers = HeaderMap::new();
        let request = Request::post([127, 0, 0, 1].into(), &headers, body);
        assert!(source.receive(&request).is_ok(), "{lines}");
    }

    #[test]
    fn every_order_of_the_fields_is_tried() {
        assert_eq!(orders().len(), 4 + 12 + 24 + 24);
        assert_eq!(orders()[0], ["refid", "message"]);
    }

    #[test]
    fn every_scheme_is_found_and_its_lines_accept_the_sample() {
        let refid = "ABCDEF1234567890ABCDEF1234567890";
        let mut count = 0;
        for over in [
            "{refid}{message}",
            "{message}",
            "{to}|{from}",
            "{message}\n{refid}",
            "{from}&{to}&{refid}&{message}",
        ] {
            for algorithm in Algorithm::ALL {
                for encoding in [Encoding::Hex, Encoding::HexUpper, Encoding::Base64] {
                    let config = Config {
                        algorithm,
                        encoding,
                        over: over.to_owned(),
                        refid_length: 32,
                    };
                    let body = signed(&config, refid);
                    let found = detect(&Secret::new("key"), &body).unwrap();
                    assert_eq!(found, [Scheme::Hmac(config)]);
                    assert_accepted(&lines(&found[0]), &body);
                    count += 1;
                }
            }
        }
        assert_eq!(count, 60);
    }

    #[test]
    fn another_length_of_the_refid_is_part_of_the_lines() {
        let body = signed(
            &Config {
                refid_length: 5,
                ..Config::default()
            },
            "12345",
        );
        let found = detect(&Secret::new("key"), &body).unwrap();
        assert!(
            lines(&found[0]).ends_with(", refid_length = 5 }\n"),
            "{}",
            lines(&found[0])
        );
        assert_accepted(&lines(&found[0]), &body);
    }

    #[test]
    fn the_shared_code_is_found() {
        let body = sample("1", "key");
        let found = detect(&Secret::new("key"), &body).unwrap();
        assert_eq!(found, [Scheme::SharedCode]);
        assert_accepted(&lines(&found[0]), &body);
    }

    #[test]
    fn a_wrong_secret_finds_nothing_and_an_invalid_sample_is_an_error() {
        let body = signed(&Config::default(), "ABCDEF1234567890ABCDEF1234567890");
        assert_eq!(detect(&Secret::new("other"), &body), Ok(vec![]));
        assert!(
            detect(&Secret::new("key"), b"{")
                .unwrap_err()
                .contains("not valid JSON")
        );
        assert!(
            detect(&Secret::new("key"), b"{}")
                .unwrap_err()
                .contains("`signature` is missing")
        );
    }
}
