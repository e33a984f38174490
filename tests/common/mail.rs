//! E-mail destinations for tests, and the results of their deliveries.

use std::collections::BTreeMap;
use std::time::Duration;

use smsbridge::destination::email::{Config, Email, SmtpConfig};
use smsbridge::destination::{
    BuildContext, Delivered, Destination as _, Failure, OutboundMessage, Recipients, Scope, http,
};
use smsbridge::model::delivery::DeliveryId;
use smsbridge::model::message::{Message, MessageId, Timestamp};
use smsbridge::model::number::Number;
use smsbridge::model::setting::from_toml;
use uuid::Uuid;

pub fn email(smtp: &str, to: &[&str], timeout: Duration) -> Email {
    let smtp: SmtpConfig = from_toml(smtp).unwrap();
    let config = format!("smtp = \"main\"\nfrom = \"SMS bridge <sms@example.com>\"\nto = {to:?}");
    let config: Config = from_toml(&config).unwrap();
    Email::build(
        &config,
        BuildContext {
            name: &"desk".parse().unwrap(),
            template: None,
            timeout,
            smtp: &BTreeMap::from([("main".parse().unwrap(), smtp)]),
            http: &http::Client::new().unwrap(),
        },
    )
    .unwrap()
}

pub fn message(number: u128, text: &str) -> Message {
    Message {
        id: MessageId(Uuid::from_u128(number)),
        source: "intelepeer".parse().unwrap(),
        provider_id: "ABCDEF1234567890ABCDEF1234567890".into(),
        from: Number::parse("+13035550100").unwrap(),
        to: Number::parse("+13038675309").unwrap(),
        text: text.into(),
        media: Vec::new(),
        extra: BTreeMap::new(),
        received_at: Timestamp(1_795_314_896_789),
        routes: Vec::new(),
        redacted_at: None,
    }
}

pub fn outbound<'a>(message: &'a Message, progress: &'a [String]) -> OutboundMessage<'a> {
    OutboundMessage {
        id: DeliveryId {
            message: message.id,
            ordinal: 1,
        },
        message,
        from_name: None,
        to_name: None,
        route: None,
        template: None,
        groups: BTreeMap::new(),
        recipients: Recipients {
            done: progress,
            ..Recipients::default()
        },
        thread: None,
        fallback: None,
        zone: None,
    }
}

pub async fn send(email: &Email, number: u128) -> Result<Delivered, Failure> {
    let _permit = email.permit().await?;
    email
        .deliver(&outbound(&message(number, "Hello World!"), &[]))
        .await
}

pub fn parked(result: Result<Delivered, Failure>) -> String {
    match result {
        Err(Failure::Parked { reason }) => reason.shown().to_owned(),
        other => panic!("not parked: {other:?}"),
    }
}

/// The reason of a failure after which the whole destination waits.
pub fn unreachable(result: Result<Delivered, Failure>) -> String {
    match result {
        Err(Failure::Transient {
            reason,
            scope: Scope::Destination,
            retry_after: None,
        }) => reason.shown().to_owned(),
        other => panic!("not the whole destination's: {other:?}"),
    }
}
