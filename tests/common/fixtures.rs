//! Outbound messages and destinations for tests, made as the engine makes them.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;
use smsbridge::destination::{
    BuildContext, Destination, Failure, KINDS, Kind, OutboundMessage, Recipients, Scope, http,
};
use smsbridge::model::delivery::{Delivery, DeliveryId};
use smsbridge::model::message::{Message, MessageId, Timestamp};
use smsbridge::model::number::Number;
use smsbridge::store::Arrival;
use smsbridge::template::Template;
use toml::de::DeValue;
use uuid::Uuid;

pub const TIMEOUT: Duration = Duration::from_secs(10);

/// A message with a fixed id.
pub fn message(text: &str) -> Message {
    Message {
        id: MessageId(Uuid::from_u128(7)),
        source: "carrier".parse().unwrap(),
        provider_id: "ABCDEF1234567890ABCDEF1234567890".to_owned(),
        from: Number::parse("+13035550100").unwrap(),
        to: Number::parse("+13038675309").unwrap(),
        text: text.to_owned(),
        media: Vec::new(),
        extra: BTreeMap::new(),
        received_at: Timestamp(1_790_000_000_000),
        routes: Vec::new(),
        redacted_at: None,
    }
}

/// The first delivery of a message.
pub fn outbound(message: &Message) -> OutboundMessage<'_> {
    OutboundMessage {
        id: DeliveryId {
            message: message.id,
            ordinal: 1,
        },
        message,
        from_name: Some("Front door"),
        to_name: None,
        route: None,
        template: None,
        groups: BTreeMap::new(),
        recipients: Recipients::default(),
        thread: None,
        fallback: None,
        zone: None,
    }
}

/// Reads and builds a destination, as the configuration does.
pub fn build(kind: &str, config: Value, template: Option<&str>) -> Result<Box<dyn Destination>, String> {
    build_within(kind, config, template, TIMEOUT)
}

/// Builds a destination with another timeout.
pub fn build_within(
    kind: &str,
    config: Value,
    template: Option<&str>,
    timeout: Duration,
) -> Result<Box<dyn Destination>, String> {
    build_with(&http::Client::new()?, kind, config, template, timeout)
}

/// Builds a destination with an existing client.
pub fn build_with(
    http: &http::Client,
    kind: &str,
    config: Value,
    template: Option<&str>,
    timeout: Duration,
) -> Result<Box<dyn Destination>, String> {
    let config = read(kind, config)?;
    config.build(BuildContext {
        name: &"here".parse().unwrap(),
        template: template.map(|source| Template::compile(source).unwrap()),
        timeout,
        smtp: &BTreeMap::new(),
        http,
    })
}

/// Reads the keys of a kind, as the configuration does.
pub fn read(kind: &str, config: Value) -> Result<Box<dyn Kind>, String> {
    let registered = KINDS.iter().find(|registered| registered.name == kind);
    let text = toml::Value::try_from(config).unwrap().to_string();
    let section = DeValue::parse(&text).unwrap().into_inner();
    let read = registered.expect("a known kind").read;
    read(section).map_err(|errors| errors.to_string())
}

/// One word for a failure, for tables.
pub fn class(failure: &Failure) -> &'static str {
    match failure {
        Failure::Transient {
            scope: Scope::Destination,
            ..
        } => "destination",
        Failure::Transient {
            scope: Scope::Message,
            ..
        } => "message",
        Failure::Permanent { .. } => "permanent",
        Failure::Parked { .. } => "parked",
        Failure::Divided { .. } => "divided",
    }
}

pub fn arrival(n: u64, at: i64) -> Arrival {
    let id = MessageId(uuid::Uuid::from_u128(n.into()));
    let received_at = Timestamp(at);
    let delivery = DeliveryId {
        message: id,
        ordinal: 1,
    };
    Arrival {
        message: Message {
            id,
            source: "carrier".parse().unwrap(),
            provider_id: format!("ref-{n}"),
            from: Number::parse(&format!("+1303867{:04}", n % 50)).unwrap(),
            to: Number::parse("+13038670000").unwrap(),
            text: format!("text {n}"),
            media: Vec::new(),
            extra: std::collections::BTreeMap::new(),
            received_at,
            routes: Vec::new(),
            redacted_at: None,
        },
        deliveries: vec![Delivery::new(
            delivery,
            "desk".parse().unwrap(),
            None,
            received_at,
        )],
        dedup_since: Timestamp(0),
    }
}
