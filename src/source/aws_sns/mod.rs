//! The AWS source: incoming messages of AWS End User Messaging, published to a topic of Amazon SNS.
//!
//! Follows [Two-way messaging] and [Verifying signatures]. A notification is signed with a key whose certificate is at a
//! URL in the notification. [`exchange`] fetches it from the SNS host of the topic's region only. The bridge answers a
//! subscription request with 200 only after confirming it; until then SNS repeats it.
//!
//! [Two-way messaging]: https://docs.aws.amazon.com/sms-voice/latest/userguide/two-way-sms.html
//! [Verifying signatures]: https://docs.aws.amazon.com/sns/latest/dg/sns-verify-signature-of-message.html

use std::sync::Arc;
use std::time::Duration;

use deserr::Deserr;
use url::Url;

use super::verify::Window;
use super::verify::window::REPEATED;
use super::{
    Composed, Context, Defaults, Events, Exchange, Kind, Refusal, Request, Sample, Settings, Source,
};
use crate::model::lint::{self, Lint};
use crate::model::message::{Name, Timestamp};
use crate::model::number::BareDigits;
use crate::model::setting::Errors;
use envelope::Envelope;
use exchange::Host;
use subscription::Subscription;
use topic::Topic;

mod envelope;
mod exchange;
mod limits;
mod subscription;
mod topic;

/// The header of a request that is only the published text, without its signature.
const RAW: &str = "x-amz-sns-rawdelivery";

/// The default of `max_body`: SNS publishes up to 256 KiB, and JSON within JSON is longer.
const MAX_BODY: usize = 512 << 10;

/// `[source.NAME]` with `kind = "aws-sns"`.
#[derive(Clone, Debug, Deserr)]
#[deserr(error = Errors, deny_unknown_fields)]
pub struct Config {
    /// The topic, the only one that is accepted.
    pub topic_arn: String,
    /// Base URL used instead of the SNS host.
    #[deserr(default)]
    pub api_url: Option<String>,
}

impl Kind for Config {
    fn defaults(&self) -> Defaults {
        Defaults {
            max_body: Some(MAX_BODY),
            bare_digits: BareDigits::International,
            ..Defaults::default()
        }
    }

    fn lints(&self, _: &Settings, _: bool) -> Vec<Lint> {
        let url = self.api_url.as_deref();
        let plain =
            url.and_then(|url| lint::plain_http(url, "the certificates that requests are verified with"));
        let lint = plain.map(|message| Lint::new("api_url", message));
        lint.into_iter().collect()
    }

    fn replay_window(&self) -> Option<Duration> {
        Some(REPEATED)
    }

    fn build(&self, context: &Context<'_>) -> Result<Box<dyn Source>, String> {
        let topic = Topic::parse(&self.topic_arn).ok_or(
            "`topic_arn` must be the ARN of a topic in the partition `aws`, `aws-cn` or `aws-us-gov`, like \
             `arn:aws:sns:us-east-1:123456789012:inbound-sms`",
        )?;
        let (topic, subscription) = (Arc::new(topic), Arc::new(Subscription::default()));
        let api_url = self.api_url.as_deref().map(base).transpose()?;
        Ok(Box::new(AwsSns {
            host: Host::new(
                context.name.clone(),
                (topic.clone(), subscription.clone()),
                api_url,
                context.resolver,
            )?,
            source: context.name.clone(),
            topic,
            subscription,
        }))
    }
}

/// The subscription to one topic.
struct AwsSns {
    source: Name,
    topic: Arc<Topic>,
    subscription: Arc<Subscription>,
    host: Host,
}

impl Source for AwsSns {
    fn receive(&self, request: &Request<'_>) -> Result<Events, Refusal> {
        if is_raw(request) {
            return Err(Refusal::malformed(
                "raw message delivery is on, so the request has no signature: switch it off in the subscription",
            ));
        }
        let envelope = Envelope::read(request.body).ok_or_else(Refusal::forbidden)?;
        let is_ours = envelope.topic_arn == self.topic.arn();
        let url = self.topic.certificate(&envelope.signing_cert_url);
        let url = url.filter(|_| is_ours).ok_or_else(Refusal::forbidden)?;
        if !self.host.key(&url).is_some_and(|key| envelope.is_signed(&key)) {
            return Err(Refusal::forbidden());
        }
        self.host.used(&url);
        if let Some(time) = envelope.time() {
            Window(REPEATED).check(time, request.now)?;
        }
        Ok(self.events(envelope, request.now))
    }

    fn exchange(&self) -> Option<&dyn Exchange> {
        Some(&self.host)
    }

    fn problem(&self) -> Option<(String, Timestamp)> {
        let ended = self.subscription.ended()?;
        Some((self.ended(), ended))
    }

    fn compose(&self, _: &Sample<'_>) -> Result<Composed, String> {
        Err(
            "AWS signs with a private key that only AWS has: publish a message to the topic, or send one to the number"
                .to_owned(),
        )
    }
}

impl AwsSns {
    /// The content of a verified request.
    fn events(&self, envelope: Envelope, now: Timestamp) -> Events {
        let (source, topic, at) = (&self.source, self.topic.arn(), envelope.time().unwrap_or(now));
        match envelope.kind.as_str() {
            "Notification" => {
                if self.subscription.note_published(at) {
                    tracing::info!(%source, "source {source} receives from topic {topic} again");
                }
                envelope.events()
            }
            "SubscriptionConfirmation" => Events {
                confirm: self.confirmation(&envelope, at),
                ..Events::ignored()
            },
            "UnsubscribeConfirmation" => {
                if self.subscription.note_ended(at) {
                    tracing::error!(%source, "{}", self.ended());
                }
                Events::ignored()
            }
            _ => Events::ignored(),
        }
    }

    /// The URL that confirms the subscription.
    fn confirmation(&self, envelope: &Envelope, at: Timestamp) -> Option<Url> {
        let (source, topic) = (&self.source, self.topic.arn());
        let link = envelope.subscribe_url.as_deref();
        let link = link.and_then(|url| self.topic.confirmation(url));
        match link {
            Some(_) => self.subscription.note_requested(at),
            None => tracing::warn!(
                %source,
                "topic {topic} asked source {source} to confirm the subscription, without a usable link: confirm it in \
                 the AWS console"
            ),
        }
        link
    }

    /// The problem that the subscription has ended.
    fn ended(&self) -> String {
        format!(
            "the subscription of source {} to topic {} was deleted, so no messages arrive; create it again in the AWS \
             console",
            self.source,
            self.topic.arn()
        )
    }
}

/// Parses `api_url`. The path and query of a call replace its own.
fn base(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).ok();
    url.filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
        .ok_or_else(|| "`api_url` must be a URL, like https://gateway.example.com".to_owned())
}

fn is_raw(request: &Request<'_>) -> bool {
    request
        .header(RAW)
        .is_some_and(|raw| raw.eq_ignore_ascii_case("true"))
}
