//! A message, and the small types used with it: names, ids, times.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use deserr::{Deserr, IntoValue, Value, ValuePointerRef};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::Uuid;

use super::setting::{self, Errors};
use crate::model::number::Number;

/// A point in time, in whole milliseconds since the Unix epoch.
///
/// In JSON it is an RFC 3339 string, in the store a number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// The time `duration` later, or the latest possible time.
    #[must_use]
    pub fn after(self, duration: std::time::Duration) -> Self {
        Self(
            self.0
                .saturating_add(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)),
        )
    }

    /// The time `duration` earlier, or the earliest possible time.
    #[must_use]
    pub fn before(self, duration: std::time::Duration) -> Self {
        Self(
            self.0
                .saturating_sub(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)),
        )
    }

    /// The duration since `earlier`; zero if that is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> std::time::Duration {
        std::time::Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

impl Timestamp {
    /// The same time for calendar arithmetic; `None` if it is out of its range.
    #[must_use]
    pub fn to_jiff(self) -> Option<jiff::Timestamp> {
        jiff::Timestamp::from_millisecond(self.0).ok()
    }
}

/// Writes RFC 3339 in UTC, to the millisecond.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.to_jiff() {
            Some(time) => write!(f, "{time:.3}"),
            None => write!(f, "{}ms", self.0),
        }
    }
}

/// Replaces the times in an error of the TLS library with dates: the library prints seconds since the Unix
/// epoch, and names the unit only for the first.
#[must_use]
pub fn dated(words: &str) -> String {
    const MARK: &str = " (UNIX)";
    if !words.contains(MARK) {
        return words.to_owned();
    }
    let date = |word: &str| {
        let seconds = word.trim_end_matches(',').parse::<i64>().ok();
        let moment = seconds.filter(|seconds| *seconds >= 100_000_000);
        moment.and_then(|seconds| jiff::Timestamp::from_second(seconds).ok())
    };
    let words = words.replace(MARK, "");
    let shown = words.split(' ').map(|word| match date(word) {
        Some(moment) => format!("{moment}{}", if word.ends_with(',') { "," } else { "" }),
        None => word.to_owned(),
    });
    shown.collect::<Vec<_>>().join(" ")
}

/// Parses RFC 3339 with any offset.
impl FromStr for Timestamp {
    type Err = jiff::Error;

    fn from_str(text: &str) -> Result<Self, jiff::Error> {
        text.parse::<jiff::Timestamp>()
            .map(|time| Self(time.as_millisecond()))
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(self)
        } else {
            serializer.serialize_i64(self.0)
        }
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            String::deserialize(deserializer)?
                .parse()
                .map_err(serde::de::Error::custom)
        } else {
            i64::deserialize(deserializer).map(Self)
        }
    }
}

/// The name of a source, destination or route, as the operator wrote it in the configuration.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Arc<str>);

/// Why a string cannot be a [`Name`].
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "`{0}` is not a usable name: 1 to 64 of a-z, A-Z, 0-9, `_`, `-` and `.`, starting with a letter or digit"
)]
pub struct NameError(String);

impl Name {
    /// The name as a string.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let first = text
            .bytes()
            .next()
            .is_some_and(|byte| byte.is_ascii_alphanumeric());
        let rest = text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte));
        if first && rest && text.len() <= 64 {
            Ok(Self(text.into()))
        } else {
            Err(NameError(text.to_owned()))
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

impl Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl Serialize for Name {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl Deserr<Errors> for Name {
    fn deserialize_from_value<V: IntoValue>(
        value: Value<V>,
        location: ValuePointerRef<'_>,
    ) -> Result<Self, Errors> {
        setting::text(value, location, "a string", |text| {
            text.parse().map_err(|error: NameError| error.to_string())
        })
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

/// The bridge's own id of a message: a UUID version 7, written as 32 lowercase hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageId(pub Uuid);

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.simple())
    }
}

impl fmt::Debug for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for MessageId {
    type Err = uuid::Error;

    fn from_str(text: &str) -> Result<Self, uuid::Error> {
        Uuid::parse_str(text).map(Self)
    }
}

/// The number of digits that distinguish these ids.
#[must_use]
pub fn distinct_length(ids: &[MessageId]) -> usize {
    let mut written: Vec<String> = ids.iter().map(MessageId::to_string).collect();
    written.sort_unstable();
    written.dedup();
    let neighbours = written.iter().zip(written.iter().skip(1));
    let alike = neighbours.map(|(one, other)| {
        let same = one.bytes().zip(other.bytes()).take_while(|(a, b)| a == b);
        same.count()
    });
    alike.max().map_or(0, |alike| alike + 1)
}

impl Serialize for MessageId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(self)
        } else {
            self.0.serialize(serializer)
        }
    }
}

impl<'de> Deserialize<'de> for MessageId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Uuid::deserialize(deserializer).map(Self)
    }
}

/// A word by which people opt out of messages or back in, as defined by the carriers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, Deserr)]
#[serde(rename_all = "lowercase")]
#[deserr(error = Errors, rename_all = lowercase)]
pub enum Keyword {
    /// The sender wants no more messages.
    Stop,
    /// The sender wants messages again.
    Start,
    /// The sender asks for information.
    Help,
}

impl Keyword {
    const ALL: [Self; 3] = [Self::Stop, Self::Start, Self::Help];

    /// The name in templates, routes and the API.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Start => "start",
            Self::Help => "help",
        }
    }

    /// The keyword, if it is the whole body; upper or lower case.
    #[must_use]
    pub fn of(text: &str) -> Option<Self> {
        const LONGEST: usize = 11;
        let word = text.trim();
        if word.len() > LONGEST {
            return None;
        }
        match word.to_ascii_uppercase().as_str() {
            "STOP" | "STOPALL" | "STOP ALL" | "UNSUBSCRIBE" | "CANCEL" | "END" | "QUIT" | "REVOKE"
            | "OPTOUT" | "OPT-OUT" | "ARRET" | "REMOVE" | "TD" => Some(Self::Stop),
            "START" | "UNSTOP" | "YES" => Some(Self::Start),
            "HELP" | "INFO" => Some(Self::Help),
            _ => None,
        }
    }
}

/// Writes its name.
impl fmt::Display for Keyword {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An attachment of a message, as the carrier describes it; the bridge passes the link on and never fetches
/// it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Media {
    /// The carrier's link. Only `http` and `https` links are ever clickable.
    pub link: String,
    /// The carrier's `content-type`, if given.
    pub content_type: Option<String>,
    /// The carrier's `filename`, if given.
    pub filename: Option<String>,
}

/// A message as it was received.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// The bridge's own id.
    pub id: MessageId,
    /// The configured source that received it.
    pub source: Name,
    /// The carrier's id (`refid` at IntelePeer), which identifies a repeated webhook.
    pub provider_id: String,
    /// The sender.
    pub from: Number,
    /// The receiver: the company's number.
    pub to: Number,
    /// The body, exactly as received; may be empty.
    pub text: String,
    /// Attachments.
    pub media: Vec<Media>,
    /// Fields of the webhook that the source does not know, as JSON text by field name.
    pub extra: BTreeMap<String, String>,
    /// When the bridge received it.
    pub received_at: Timestamp,
    /// The routes that matched when it was accepted; empty if none did.
    pub routes: Vec<Name>,
    /// When its body and numbers were redacted, if they were.
    pub redacted_at: Option<Timestamp>,
}

impl Message {
    /// Name in `extra` of the opt-out word that the message is.
    pub const KEYWORD: &'static str = "keyword";
    /// Name in `extra` of the number of SMS parts.
    pub const SEGMENTS: &'static str = "segments";
    /// Name in `extra` of the time of sending, if the carrier gives it.
    pub const SENT_AT: &'static str = "sent_at";

    /// The name of the opt-out word that the message is; empty for any other message.
    #[must_use]
    pub fn keyword(&self) -> &'static str {
        let json = self.extra.get(Self::KEYWORD).map_or("", String::as_str);
        let named = |keyword: &Keyword| json.trim_matches('"') == keyword.as_str();
        Keyword::ALL.into_iter().find(named).map_or("", Keyword::as_str)
    }

    /// The conversation of this message: the same two numbers, however they were written.
    #[must_use]
    pub fn conversation(&self) -> Conversation {
        Conversation::between(&self.from, &self.to)
    }

    /// The size of its content in bytes: everything whose length the carrier decides.
    #[must_use]
    pub fn size(&self) -> usize {
        let media = self.media.iter().map(|media| {
            let optional = |text: &Option<String>| text.as_ref().map_or(0, String::len);
            media.link.len() + optional(&media.content_type) + optional(&media.filename)
        });
        let extra = self.extra.iter().map(|(name, value)| name.len() + value.len());
        self.provider_id.len() + self.text.len() + media.sum::<usize>() + extra.sum::<usize>()
    }
}

/// Writes no message body and no full number, so that `{:?}` never puts either into a log.
impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message")
            .field("id", &self.id)
            .field("source", &self.source)
            .field("from", &self.from)
            .field("to", &self.to)
            .field("text_bytes", &self.text.len())
            .field("received_at", &self.received_at.0)
            .finish_non_exhaustive()
    }
}

/// A conversation: its messages keep their order and form a thread in a chat.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Conversation(pub [u8; 8]);

impl Conversation {
    /// The conversation between two numbers.
    #[must_use]
    pub fn between(from: &Number, to: &Number) -> Self {
        use sha2::Digest as _;
        let digest = sha2::Sha256::new()
            .chain_update(from.normal())
            .chain_update([0])
            .chain_update(to.normal())
            .finalize();
        let mut short = [0; 8];
        short.copy_from_slice(&digest[..8]);
        Self(short)
    }

    /// The key of this conversation with one recipient of a destination.
    #[must_use]
    pub fn with(self, recipient: &str) -> Self {
        use sha2::Digest as _;
        let digest = sha2::Sha256::new()
            .chain_update(self.0)
            .chain_update(recipient)
            .finalize();
        let mut short = [0; 8];
        short.copy_from_slice(&digest[..8]);
        Self(short)
    }
}

impl fmt::Display for Conversation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", hex::encode(self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_keyword_is_the_whole_text() {
        for (text, keyword) in [
            ("STOP", Some(Keyword::Stop)),
            (" stop all\n", Some(Keyword::Stop)),
            ("Unsubscribe", Some(Keyword::Stop)),
            ("start", Some(Keyword::Start)),
            ("help", Some(Keyword::Help)),
            ("stop it", None),
            ("", None),
            ("unsubscribe me please", None),
        ] {
            assert_eq!(Keyword::of(text), keyword, "{text:?}");
        }
    }

    #[test]
    fn times_in_a_tls_error_are_shown_as_dates() {
        use rustls::CertificateError::{ExpiredContext, NotValidYetContext};
        use rustls::pki_types::UnixTime;
        let at = |seconds| UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds));
        let (time, not_after) = (at(1_795_788_555), at(1_795_702_155));
        let expired = rustls::Error::InvalidCertificate(ExpiredContext { time, not_after });
        assert_eq!(
            dated(&expired.to_string()),
            "invalid peer certificate: certificate expired: verification time 2026-11-27T14:09:15Z, but certificate is \
             not valid after 2026-11-26T14:09:15Z (86400 seconds ago)"
        );
        let not_before = at(1_795_874_955);
        let early = rustls::Error::InvalidCertificate(NotValidYetContext { time, not_before });
        assert!(dated(&early.to_string()).contains("not valid before 2026-11-28T14:09:15Z"));
        let other = "connection refused after 1795702155 tries";
        assert_eq!(dated(other), other);
    }
}
