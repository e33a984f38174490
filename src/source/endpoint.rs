//! A configured source together with the keys that are common to all kinds: access, numbers, limits.

use std::collections::BTreeMap;
use std::time::Duration;

use http::Method;
use http::header::AUTHORIZATION;

use super::{
    Access, Composed, Context, Defaults, Events, Incoming, Kind, Outcome, Refusal, Reply, Request, Sample,
    Source,
};
use crate::model::message::{Keyword, Timestamp};
use crate::model::number::{BareDigits, Number};

/// The keys of `[source.NAME]` that are common to all kinds, except `kind` and `path`.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// `basic_auth` and `allow_from`
    pub access: Access,
    /// Upper bound of a body, in bytes.
    pub max_body: Option<usize>,
    /// How long a message id is kept to detect duplicates.
    pub dedup_window: Option<Duration>,
    /// How digits without a plus are interpreted.
    pub bare_digits: Option<BareDigits>,
    /// The operator's numbers, by the carrier's name for each: a device or a SIM.
    pub numbers: BTreeMap<String, Number>,
}

/// A configured source.
pub struct Endpoint {
    source: Box<dyn Source>,
    access: Access,
    defaults: Defaults,
    numbers: BTreeMap<String, Number>,
}

impl Endpoint {
    /// Builds the source.
    ///
    /// # Errors
    /// A sentence for the operator, without the name of the source.
    pub fn build(kind: &dyn Kind, context: &Context<'_>) -> Result<Self, String> {
        let settings = context.settings;
        settings.access.validate()?;
        let defaults = kind.defaults();
        Ok(Self {
            source: kind.build(context)?,
            access: settings.access.clone(),
            defaults: Defaults {
                max_body: settings.max_body.or(defaults.max_body),
                dedup_window: settings.dedup_window.or(defaults.dedup_window),
                bare_digits: settings.bare_digits.unwrap_or(defaults.bare_digits),
            },
            numbers: settings.numbers.clone(),
        })
    }

    /// The methods that the carrier uses.
    #[must_use]
    pub fn methods(&self) -> &'static [Method] {
        self.source.methods()
    }

    /// Returns true if the carrier sends long messages in parts.
    #[must_use]
    pub fn sends_parts(&self) -> bool {
        self.source.sends_parts()
    }

    /// Upper bound of a body, if different from `server.max_body`.
    #[must_use]
    pub fn max_body(&self) -> Option<usize> {
        self.defaults.max_body
    }

    /// How long a message id is kept, if different from `store.dedup_window`.
    #[must_use]
    pub fn dedup_window(&self) -> Option<Duration> {
        self.defaults.dedup_window
    }

    /// Makes the calls to the carrier that [`Endpoint::receive`] needs for this request.
    ///
    /// # Errors
    /// The reason. The carrier must send the request again.
    pub async fn prepare(&self, request: &Request<'_>) -> Result<(), String> {
        match self.source.exchange() {
            Some(exchange) if self.access.check(request.client, request.headers).is_ok() => {
                exchange.prepare(request).await
            }
            _ => Ok(()),
        }
    }

    /// Makes the call to the carrier that the content of a request asks for.
    ///
    /// # Errors
    /// The reason. The carrier must send the request again.
    pub async fn confirm(&self, events: &Events) -> Result<(), String> {
        match (self.source.exchange(), &events.confirm) {
            (Some(exchange), Some(link)) => exchange.confirm(link).await,
            _ => Ok(()),
        }
    }

    /// Checks the caller, then verifies and parses the request.
    ///
    /// # Errors
    /// Why the request is rejected.
    pub fn receive(&self, request: &Request<'_>) -> Result<Events, Refusal> {
        self.access.check(request.client, request.headers)?;
        let mut events = self.source.receive(&Request {
            admitted: self.access.is_checked(),
            ..*request
        })?;
        events
            .messages
            .iter_mut()
            .for_each(|message| self.complete(message));
        Ok(events)
    }

    /// The reason why no messages arrive, with the next step, and its start, if the carrier reported one.
    #[must_use]
    pub fn problem(&self) -> Option<(String, Timestamp)> {
        self.source.problem()
    }

    /// The response that the carrier expects.
    #[must_use]
    pub fn reply(&self, outcome: &Outcome<'_>) -> Reply {
        self.source.reply(outcome)
    }

    /// Simulates the carrier: builds the request that [`Endpoint::receive`] would accept for this message.
    ///
    /// # Errors
    /// A sentence for the operator when only the carrier can sign.
    pub fn compose(&self, sample: &Sample<'_>) -> Result<Composed, String> {
        let mut composed = self.source.compose(sample)?;
        let basic_auth = self.access.basic_auth.as_ref();
        if let Some(value) = basic_auth.and_then(|auth| auth.authorization()) {
            composed.headers.insert(AUTHORIZATION, value);
        }
        Ok(composed)
    }

    /// Applies the common settings to a message that the kind has parsed.
    pub fn complete(&self, message: &mut Incoming) {
        let bare_digits = self.defaults.bare_digits;
        if bare_digits != BareDigits::default() {
            message.from = Number::received_as(message.from.raw(), bare_digits);
            message.to = Number::received_as(message.to.raw(), bare_digits);
        }
        if !self.numbers.is_empty()
            && let Some(number) = self.numbers.get(message.to.raw())
        {
            message.to = number.clone();
        }
        message.keyword = message.keyword.or_else(|| Keyword::of(&message.text));
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::HeaderMap;

    use super::*;
    use crate::resolver::Resolver;

    /// A carrier that posts `ID FROM TO TEXT`.
    #[derive(Debug)]
    struct Words;

    impl Kind for Words {
        fn defaults(&self) -> Defaults {
            Defaults {
                bare_digits: BareDigits::International,
                dedup_window: Some(Duration::from_secs(35 * 86400)),
                ..Defaults::default()
            }
        }

        fn build(&self, _: &Context<'_>) -> Result<Box<dyn Source>, String> {
            Ok(Box::new(Self))
        }
    }

    impl Source for Words {
        fn receive(&self, request: &Request<'_>) -> Result<Events, Refusal> {
            let body = String::from_utf8_lossy(request.body);
            let mut words = body.splitn(4, ' ');
            let mut next = || words.next().unwrap_or_default();
            Ok(Events::message(Incoming::new(next(), next(), next(), next())))
        }

        fn compose(&self, _: &Sample<'_>) -> Result<Composed, String> {
            Err("only the carrier can sign".to_owned())
        }
    }

    fn endpoint(settings: &Settings) -> Endpoint {
        let context = Context {
            name: &"words".parse().unwrap(),
            path: "/inbound/words",
            public_url: None,
            settings,
            resolver: &Resolver::default(),
        };
        Endpoint::build(&Words, &context).unwrap()
    }

    fn receive(endpoint: &Endpoint, body: &'static str) -> Incoming {
        let (headers, body) = (HeaderMap::new(), Bytes::from_static(body.as_bytes()));
        let request = Request::post([192, 0, 2, 1].into(), &headers, &body);
        endpoint.receive(&request).unwrap().messages.remove(0)
    }

    #[test]
    fn settings_override_the_defaults_of_the_kind() {
        let plain = endpoint(&Settings::default());
        assert_eq!(plain.dedup_window(), Some(Duration::from_secs(35 * 86400)));
        assert_eq!(
            receive(&plain, "1 4759440448 1234 x").from.normal(),
            "+4759440448"
        );
        let set = endpoint(&Settings {
            dedup_window: Some(Duration::from_secs(60)),
            bare_digits: Some(BareDigits::NationalUs),
            max_body: Some(4096),
            ..Settings::default()
        });
        assert_eq!(set.dedup_window(), Some(Duration::from_secs(60)));
        assert_eq!(set.max_body(), Some(4096));
        assert_eq!(receive(&set, "1 4759440448 1234 x").from.normal(), "+14759440448");
    }

    #[test]
    fn a_device_is_replaced_by_its_number() {
        let endpoint = endpoint(&Settings {
            numbers: BTreeMap::from([("dev/1".to_owned(), Number::received("+4915112345678"))]),
            ..Settings::default()
        });
        assert_eq!(
            receive(&endpoint, "1 Google dev/1 x").to.normal(),
            "+4915112345678"
        );
        assert_eq!(receive(&endpoint, "1 Google dev/2 x").to.normal(), "dev/2");
    }

    #[test]
    fn opt_out_words_are_tagged() {
        let endpoint = endpoint(&Settings::default());
        assert_eq!(receive(&endpoint, "1 +1 +2 Stop ").keyword, Some(Keyword::Stop));
        assert_eq!(receive(&endpoint, "1 +1 +2 Stop it").keyword, None);
    }
}
