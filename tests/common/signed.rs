//! Requests with any content, signed as the carrier of each kind of source signs, so that all of it is parsed. Used by the
//! fuzz target `carriers` and by a test.
//!
//! The first byte of the input chooses the source, the second the form of the request; the rest is the body, or the
//! query of a GET, or for `aws-sns` the published message.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::path::Path;
use std::sync::LazyLock;

use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, Method};
use ring::signature::{Ed25519KeyPair, RSA_PKCS1_SHA256, RsaKeyPair};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use smsbridge::config::{Config, Outside, Purpose};
use smsbridge::model::message::Timestamp;
use smsbridge::model::secret::Secret;
use smsbridge::plan::Plan;
use smsbridge::source::fields::Form;
use smsbridge::source::verify::url_form::{self, Repeated};
use smsbridge::source::verify::{Algorithm, Hmac};
use smsbridge::source::{Endpoint, Request, Target};

const KEY: &str = "fuzz-key-0123456789";
const URL: &str = "https://sms.example.com";
/// 2026-01-01T12:00:00Z
const NOW: i64 = 1_767_268_800;
const TOPIC: &str = "arn:aws:sns:us-east-1:123456789012:inbound-sms";
const CERTIFICATE: &str =
    include_str!("../fixtures/sns/SimpleNotificationService-1111111111111111111111.pem");

/// How the carrier authenticates a request.
#[derive(Clone, Copy)]
enum Proof {
    Basic,
    Twilio,
    SignalWire,
    Plivo,
    Telnyx,
    Vonage,
    Android,
    Sns,
}

/// The sources in the order of the first byte, which the corpus depends on: name, keys, proof.
const SOURCES: &[(&str, &str, Proof)] = &[
    ("twilio", "kind = 'twilio'\nauth_token = 'KEY'", Proof::Twilio),
    (
        "signalwire",
        "kind = 'signalwire'\nsigning_key = 'KEY'",
        Proof::SignalWire,
    ),
    ("plivo", "kind = 'plivo'\nauth_token = 'KEY'", Proof::Plivo),
    ("telnyx", "kind = 'telnyx'\npublic_key = 'PUBLIC'", Proof::Telnyx),
    (
        "vonage",
        "kind = 'vonage'\napi = 'messages'\nsignature_secret = 'KEY'",
        Proof::Vonage,
    ),
    ("vonage-sms", "kind = 'vonage'\napi = 'sms'", Proof::Basic),
    ("sinch", "kind = 'sinch'", Proof::Basic),
    ("bandwidth", "kind = 'bandwidth'", Proof::Basic),
    (
        "android",
        "kind = 'android-sms-gateway'\nsigning_key = 'KEY'\nnumbers = { 'device/1' = '+13038675309' }",
        Proof::Android,
    ),
    (
        "aws",
        "kind = 'aws-sns'\ntopic_arn = 'TOPIC'\napi_url = 'CARRIER'",
        Proof::Sns,
    ),
    ("intelepeer", "kind = 'intelepeer'\nverify = 'none'", Proof::Basic),
    (
        "bird",
        "kind = 'generic'\npreset = 'bird'\nverify = { kind = 'none' }",
        Proof::Basic,
    ),
    (
        "clicksend",
        "kind = 'generic'\npreset = 'clicksend'",
        Proof::Basic,
    ),
    ("elks", "kind = 'generic'\npreset = '46elks'", Proof::Basic),
    (
        "flowroute",
        "kind = 'generic'\npreset = 'flowroute'",
        Proof::Basic,
    ),
    (
        "httpsms",
        "kind = 'generic'\npreset = 'httpsms'\nverify = { kind = 'none' }",
        Proof::Basic,
    ),
    (
        "smsforwarder",
        "kind = 'generic'\npreset = 'smsforwarder'",
        Proof::Basic,
    ),
    (
        "textbee",
        "kind = 'generic'\npreset = 'textbee'\nverify = { kind = 'none' }",
        Proof::Basic,
    ),
    ("voipms", "kind = 'generic'\npreset = 'voipms'", Proof::Basic),
];

static KEYS: LazyLock<(Ed25519KeyPair, RsaKeyPair)> = LazyLock::new(|| {
    let pem = include_str!("../fixtures/sns/key.pem");
    let lines: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
    let der = BASE64_STANDARD.decode(lines).expect("base64");
    (
        Ed25519KeyPair::from_seed_unchecked(&[7; 32]).expect("a seed"),
        RsaKeyPair::from_pkcs8(&der).expect("a private key"),
    )
});

static PLAN: LazyLock<Plan> = LazyLock::new(|| {
    use ring::signature::KeyPair as _;
    let public = BASE64_STANDARD.encode(KEYS.0.public_key().as_ref());
    let carrier = certificate_server();
    let mut text = format!("[server]\npublic_url = '{URL}'\n[routing]\nunmatched = []\n");
    for (name, keys, proof) in SOURCES {
        text += &format!("[source.{name}]\n{keys}\n");
        if matches!(proof, Proof::Basic) {
            text += "basic_auth = { username = 'u', password = 'KEY' }\n";
        }
    }
    let text = text.replace("KEY", KEY).replace("PUBLIC", &public);
    let text = text.replace("TOPIC", TOPIC).replace("CARRIER", &carrier);
    let (place, outside) = (Path::new("/nowhere/config.toml"), Outside::default());
    let (config, mut problems) =
        Config::read(&text, place, Purpose::Serve, &outside).unwrap_or_else(|problems| panic!("{problems}"));
    let plan = Plan::compile(config, None, &mut problems).unwrap_or_else(|| panic!("{problems}"));
    let (headers, body) = (HeaderMap::new(), sns("x").into());
    let request = Request::post(IpAddr::V4(Ipv4Addr::LOCALHOST), &headers, &body);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let prepared = runtime.block_on(plan.sources["aws"].source.prepare(&request));
    prepared.expect("the certificate is fetched");
    plan
});

/// Answers every request with the certificate.
fn certificate_server() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            let _ = stream.read(&mut [0; 4096]);
            let length = CERTIFICATE.len();
            let _ = write!(
                stream,
                "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{CERTIFICATE}"
            );
        }
    });
    format!("http://{address}")
}

/// The envelope of a published message.
fn sns(text: &str) -> String {
    let signed = format!(
        "Message\n{text}\nMessageId\n1\nTimestamp\n2026-01-01T12:00:00.000Z\nTopicArn\n{TOPIC}\nType\nNotification\n"
    );
    let key = &KEYS.1;
    let mut signature = vec![0; key.public().modulus_len()];
    let random = ring::rand::SystemRandom::new();
    key.sign(&RSA_PKCS1_SHA256, &random, signed.as_bytes(), &mut signature)
        .expect("a signature");
    json!({
        "Type": "Notification", "MessageId": "1", "TopicArn": TOPIC, "Message": text,
        "Timestamp": "2026-01-01T12:00:00.000Z", "SignatureVersion": "2", "Signature": BASE64_STANDARD.encode(signature),
        "SigningCertURL": "https://sns.us-east-1.amazonaws.com/SimpleNotificationService-1111111111111111111111.pem",
    })
    .to_string()
}

/// One request before it is signed.
struct Draft {
    is_get: bool,
    target: String,
    media_type: &'static str,
    body: Vec<u8>,
}

impl Draft {
    fn new(name: &str, proof: Proof, form: u8, rest: &[u8]) -> Self {
        let media_types = [
            "application/json",
            "application/x-www-form-urlencoded",
            "text/plain",
            "",
        ];
        let media_type = media_types[usize::from(form % 4)];
        let path = format!("/inbound/{name}");
        let methods = PLAN.sources[name].source.methods();
        let is_get = methods == [Method::GET] || (form & 4 != 0 && methods.contains(&Method::GET));
        let is_visible = |byte: &&u8| byte.is_ascii_graphic() && **byte != b'#';
        let query: String = rest
            .iter()
            .filter(is_visible)
            .map(|&byte| char::from(byte))
            .collect();
        let body = match proof {
            _ if is_get => Vec::new(),
            Proof::Sns => sns(&String::from_utf8_lossy(rest)).into_bytes(),
            _ => rest.to_vec(),
        };
        let mut target = if is_get { format!("{path}?{query}") } else { path };
        let digest = hex::encode(Sha256::digest(&body));
        if matches!(proof, Proof::Twilio) && !is_get {
            target += &format!("?bodySHA256={digest}");
        }
        Self {
            is_get,
            target,
            media_type,
            body,
        }
    }

    /// Returns true if the source parses the body as JSON.
    fn is_json(&self, headers: &HeaderMap) -> bool {
        !self.is_get && smsbridge::source::fields::is_json(headers, &self.body)
    }

    /// The header fields that authenticate it.
    fn proof(&self, proof: Proof, headers: &HeaderMap) -> Vec<(&'static str, String)> {
        let url = format!("{URL}{}", self.target);
        let secret = Secret::new(KEY);
        let sign = |hmac: Hmac, parts: &[&[u8]]| hmac.sign(&secret, parts).expect("a signature");
        let fields = |repeated| match self.is_get {
            true => String::new(),
            false => url_form::fields(&Form::read(&self.body), repeated),
        };
        let now = NOW.to_string();
        match proof {
            Proof::Sns => Vec::new(),
            Proof::Basic => {
                let pair = BASE64_STANDARD.encode(format!("u:{KEY}"));
                vec![("authorization", format!("Basic {pair}"))]
            }
            Proof::Twilio => {
                let signed = if self.is_json(headers) {
                    String::new()
                } else {
                    fields(Repeated::Distinct)
                };
                let signature = sign(Hmac::SHA1_BASE64, &[url.as_bytes(), signed.as_bytes()]);
                vec![("x-twilio-signature", signature)]
            }
            Proof::SignalWire => {
                let signature = if self.is_json(headers) {
                    sign(Hmac::SHA1_HEX, &[url.as_bytes(), &self.body])
                } else {
                    sign(
                        Hmac::SHA1_BASE64,
                        &[url.as_bytes(), fields(Repeated::Ordered).as_bytes()],
                    )
                };
                vec![("x-signalwire-signature", signature)]
            }
            Proof::Plivo => {
                let base = url.split('?').next().unwrap_or_default();
                let signature = sign(Hmac::SHA256_BASE64, &[base.as_bytes(), b"1"]);
                vec![
                    ("x-plivo-signature-v2", signature),
                    ("x-plivo-signature-v2-nonce", "1".to_owned()),
                ]
            }
            Proof::Telnyx => {
                let signed = [now.as_bytes(), b"|", &self.body].concat();
                let signature = BASE64_STANDARD.encode(KEYS.0.sign(&signed));
                vec![("telnyx-signature-ed25519", signature), ("telnyx-timestamp", now)]
            }
            Proof::Vonage => {
                let digest = hex::encode(Sha256::digest(&self.body));
                let encode = |value: serde_json::Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
                let claims = encode(json!({ "iat": NOW, "iss": "Vonage", "payload_hash": digest }));
                let signed = format!("{}.{claims}", encode(json!({ "alg": "HS256", "typ": "JWT" })));
                let mac = Algorithm::Sha256
                    .mac(KEY.as_bytes(), &[signed.as_bytes()])
                    .expect("a signature");
                vec![(
                    "authorization",
                    format!("Bearer {signed}.{}", BASE64_URL_SAFE_NO_PAD.encode(mac)),
                )]
            }
            Proof::Android => {
                let signature = sign(Hmac::SHA256_HEX, &[&self.body, now.as_bytes()]);
                vec![("x-signature", signature), ("x-timestamp", now)]
            }
        }
    }
}

/// Posts a request; returns the status of the refusal.
fn receive(source: &Endpoint, draft: &Draft, headers: &HeaderMap) -> Option<u16> {
    let body = Bytes::copy_from_slice(&draft.body);
    let public_url = URL.parse().expect("a URL");
    let request = Request {
        method: if draft.is_get { &Method::GET } else { &Method::POST },
        target: Target {
            public_url: Some(&public_url),
            path_and_query: &draft.target,
        },
        now: Timestamp(NOW * 1000),
        ..Request::post(IpAddr::V4(Ipv4Addr::LOCALHOST), headers, &body)
    };
    match source.receive(&request) {
        Ok(events) => {
            for message in &events.messages {
                assert!(message.provider_id.len() <= 128 && message.extra.len() <= 64);
                assert!(!message.from.shown().contains(char::is_control));
            }
            None
        }
        Err(refusal) => Some(refusal.status.as_u16()),
    }
}

/// Receives one input.
///
/// # Panics
/// When a source panics, refuses a signed message, or accepts a request without a signature.
pub fn run(data: &[u8]) {
    let [first, form, rest @ ..] = data else { return };
    let (name, _, proof) = SOURCES[usize::from(*first) % SOURCES.len()];
    let source = &PLAN.sources[name].source;
    let mut draft = Draft::new(name, proof, *form, rest);
    let mut headers = HeaderMap::new();
    if !draft.media_type.is_empty() && !draft.is_get {
        headers.insert("content-type", draft.media_type.parse().expect("a media type"));
    }
    let signed = draft.proof(proof, &headers);
    if !matches!(proof, Proof::Sns) {
        let refused = receive(source, &draft, &headers);
        assert!(refused.is_some(), "{name} accepts a request without a proof");
    }
    for (field, value) in signed {
        headers.insert(HeaderName::from_static(field), value.parse().expect("a value"));
    }
    // Only IntelePeer's source has a required form: a body without any field of a message is malformed.
    let refused = receive(source, &draft, &headers);
    let is_malformed = refused == Some(400) && name == "intelepeer";
    assert!(
        refused.is_none() || is_malformed,
        "{name} refuses a proven request: {refused:?}"
    );
    if matches!(proof, Proof::Sns) {
        let at = draft.body.len() / 2;
        draft.body[at] ^= 1;
        let _ = receive(source, &draft, &headers);
    }
}
