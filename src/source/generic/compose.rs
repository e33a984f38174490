//! Simulates the service: builds a request that the source accepts.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use serde_json::{Value, json};

use super::Generic;
use super::proof::{Part, Proof, Signature};
use crate::model::secret::{Secret, Secrets};
use crate::source::verify::{Algorithm, url_form};
use crate::source::{Composed, Sample, Target, fields};

pub(super) fn compose(source: &Generic, sample: &Sample<'_>) -> Result<Composed, String> {
    let segments = sample.segments().len().to_string();
    let fields = [
        ("id", sample.provider_id),
        ("from", sample.from),
        ("to", sample.to),
        ("text", sample.text),
        ("segments", &segments),
    ];
    let document = source.mapping.compose(&fields, sample.now);
    let is_get = source.methods == [Method::GET];
    let (query, media_type, body) = match (is_get, source.mapping.is_flat()) {
        (true, _) => (Some(pairs(&document)), None, String::new()),
        (false, true) => (None, Some("application/x-www-form-urlencoded"), pairs(&document)),
        (false, false) => (None, Some("application/json"), document.to_string()),
    };
    let mut composed = Composed {
        method: if is_get { Method::GET } else { Method::POST },
        query,
        headers: HeaderMap::new(),
        body: body.into(),
    };
    if let Some(media_type) = media_type {
        composed
            .headers
            .insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    }
    prove(source, sample, &mut composed)?;
    Ok(composed)
}

fn pairs(document: &Value) -> String {
    let mut form = url::form_urlencoded::Serializer::new(String::new());
    for (name, value) in document.as_object().into_iter().flatten() {
        form.append_pair(name, &fields::text(value.clone()));
    }
    form.finish()
}

fn prove(source: &Generic, sample: &Sample<'_>, composed: &mut Composed) -> Result<(), String> {
    let seconds = (sample.now.0 / 1000).to_string();
    match &source.proof {
        Proof::None => {}
        Proof::Header { name, secrets } => insert(composed, name, first(secrets)?.reveal())?,
        Proof::Parameter { name, secrets } => {
            let mut form = url::form_urlencoded::Serializer::new(composed.query.take().unwrap_or_default());
            form.append_pair(name, first(secrets)?.reveal());
            composed.query = Some(form.finish());
        }
        Proof::Hmac(signature) => {
            for name in signature.timestamp.iter() {
                insert(composed, name, &seconds)?;
            }
            let signed = sign(source, signature, composed).ok_or("no key to sign with")?;
            insert(composed, &signature.header, &signed)?;
        }
        Proof::Jwt { issuer, keys } => {
            let token = token(source, issuer.as_deref(), first(keys)?, sample.now.0 / 1000);
            insert(
                composed,
                AUTHORIZATION.as_str(),
                &format!("Bearer {}", token.ok_or("no key to sign with")?),
            )?;
        }
        Proof::StandardWebhooks { secrets, .. } => {
            let secret = first(secrets)?.reveal();
            let key = STANDARD
                .decode(secret.strip_prefix("whsec_").unwrap_or(secret))
                .map_err(|error| error.to_string())?;
            let id = sample.provider_id;
            let parts: [&[u8]; 5] = [id.as_bytes(), b".", seconds.as_bytes(), b".", &composed.body];
            let mac = Algorithm::Sha256.mac(&key, &parts).unwrap_or_default();
            insert(composed, "webhook-id", id)?;
            insert(composed, "webhook-timestamp", &seconds)?;
            insert(
                composed,
                "webhook-signature",
                &format!("v1,{}", STANDARD.encode(mac)),
            )?;
        }
    }
    Ok(())
}

fn sign(source: &Generic, signature: &Signature, composed: &Composed) -> Option<String> {
    let (body, url): (Bytes, String) = (composed.body.clone(), source.url(composed.query.as_deref()));
    let header = |name: &str| {
        let value = composed.headers.get(name).and_then(|value| value.to_str().ok());
        value.unwrap_or_default()
    };
    let parts = signature.over.iter().map(|part| match part {
        Part::Literal(text) => text.as_bytes(),
        Part::Body => &body[..],
        Part::Url => url.as_bytes(),
        Part::Header(name) => header(name).as_bytes(),
    });
    let parts: Vec<&[u8]> = parts.collect();
    signature.hmac.sign(signature.key()?, &parts)
}

fn token(source: &Generic, issuer: Option<&str>, key: &Secret, seconds: i64) -> Option<String> {
    let claims = json!({
        "iss": issuer, "aud": [source.url(None)], "iat": seconds, "nbf": seconds - 600, "exp": seconds + 600,
    });
    let encode = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!(
        "{}.{}",
        encode(json!({ "alg": "HS256", "typ": "JWT" })),
        encode(claims)
    );
    let mac = Algorithm::Sha256.mac(key.reveal().as_bytes(), &[signed.as_bytes()])?;
    Some(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(mac)))
}

impl Generic {
    /// The URL that the service calls.
    fn url(&self, query: Option<&str>) -> String {
        let path = match query {
            Some(query) => format!("{}?{query}", self.path),
            None => self.path.clone(),
        };
        let target = Target {
            public_url: self.public_url.as_ref(),
            path_and_query: &path,
        };
        url_form::urls(&target, None)
            .into_iter()
            .next()
            .unwrap_or_default()
    }
}

fn first(secrets: &Secrets) -> Result<&Secret, String> {
    secrets.all().first().ok_or_else(|| "no secret".to_owned())
}

fn insert(composed: &mut Composed, name: &str, value: &str) -> Result<(), String> {
    let name: HeaderName = name
        .parse()
        .map_err(|_| format!("`{name}` is not a header name"))?;
    let value = HeaderValue::from_str(value).map_err(|error| error.to_string())?;
    composed.headers.insert(name, value);
    Ok(())
}
