//! Maps the fields of a request to those of a message.

use std::collections::BTreeMap;

use deserr::Deserr;
use serde_json::{Map, Value};
use sha2::Digest as _;

use super::document::{self, Document};
use super::{Config, ReplyConfig, Verb, Verify};
use crate::model::message::{Media, Timestamp};
use crate::model::number::BareDigits;
use crate::model::setting::{self, Errors, Members};
use crate::model::units::some;
use crate::source::{Events, Incoming, Refusal, fields};

/// The mappings of known services.
const PRESETS: &str = include_str!("presets.toml");

/// Upper bound of the attachments of one message.
const MEDIA_MAX: usize = 50;

/// The mapping of a preset or of the configuration.
#[derive(Clone, Debug, Default, Deserr)]
#[deserr(error = Errors, deny_unknown_fields)]
pub(super) struct Mapping {
    #[deserr(default)]
    pub(super) methods: Option<Vec<Verb>>,
    #[deserr(default)]
    messages: Option<String>,
    #[deserr(default)]
    id: Option<String>,
    #[deserr(default)]
    pub(super) from: Option<String>,
    #[deserr(default)]
    to: Option<String>,
    #[deserr(default)]
    text: Option<String>,
    #[deserr(default)]
    media: Option<String>,
    #[deserr(default)]
    segments: Option<String>,
    #[deserr(default)]
    sent_at: Option<String>,
    #[deserr(default, from(Members<String>) = some)]
    only_if: Option<BTreeMap<String, String>>,
    #[deserr(default)]
    pub(super) reply: Option<ReplyConfig>,
    #[deserr(default)]
    pub(super) verify: Option<Verify>,
    #[deserr(default)]
    pub(super) bare_digits: Option<BareDigits>,
    #[deserr(default)]
    pub(super) dedup_days: Option<u64>,
}

impl Mapping {
    /// The keys of the configuration, and those of the preset for the rest.
    pub(super) fn of(config: &Config) -> Result<Self, String> {
        let preset = match &config.preset {
            Some(name) => preset(name)?,
            None => Self::default(),
        };
        let own = config.clone();
        let mapping = Self {
            methods: own.methods.or(preset.methods),
            messages: own.messages.or(preset.messages),
            id: own.id.or(preset.id),
            from: own.from.or(preset.from),
            to: own.to.or(preset.to),
            text: own.text.or(preset.text),
            media: own.media.or(preset.media),
            segments: own.segments.or(preset.segments),
            sent_at: own.sent_at.or(preset.sent_at),
            only_if: own.only_if.or(preset.only_if),
            reply: own.reply.or(preset.reply),
            verify: own.verify.or(preset.verify),
            bare_digits: preset.bare_digits,
            dedup_days: preset.dedup_days,
        };
        for (key, place) in [("from", &mapping.from), ("text", &mapping.text)] {
            if place.is_none() {
                return Err(format!(
                    "`{key}` is missing: where it is in a request, or a `preset`"
                ));
            }
        }
        Ok(mapping)
    }

    /// Fails unless the required fields of a message exist. For requests that are not verified.
    pub(super) fn require(&self, document: &Document) -> Result<(), Refusal> {
        let first = match self.list(&document.0) {
            Some(list) => list.first(),
            None => Some(&document.0),
        };
        let Some(first) = first.filter(|first| self.is_message(first)) else {
            return Ok(());
        };
        for place in [&self.from, &self.text].into_iter().flatten() {
            if document::get(first, place).is_none() {
                return Err(Refusal::malformed(format!("`{place}` is missing")));
            }
        }
        Ok(())
    }

    /// Reads the messages of a verified request.
    pub(super) fn events(&self, document: Document) -> Events {
        let list = match self.list(&document.0) {
            Some(list) => list.to_vec(),
            None => vec![document.0],
        };
        let mut events = Events::default();
        for one in list {
            if self.is_message(&one) {
                events.messages.push(self.message(one));
            } else {
                events.ignored += 1;
            }
        }
        events
    }

    fn list<'v>(&self, document: &'v Value) -> Option<&'v Vec<Value>> {
        document::get(document, self.messages.as_deref().unwrap_or_default())?.as_array()
    }

    fn is_message(&self, value: &Value) -> bool {
        let holds = |(place, wanted): (&String, &String)| {
            let found = document::get(value, place).cloned().map(fields::text);
            found.is_some_and(|found| found == *wanted)
        };
        self.only_if
            .as_ref()
            .is_none_or(|only_if| only_if.iter().all(holds))
    }

    fn message(&self, mut value: Value) -> Incoming {
        let mut odd = Vec::new();
        let mut take = |place: &Option<String>, required: bool| {
            let place = place.as_deref()?;
            let found = document::take(&mut value, place).filter(|found| !found.is_null());
            if found.is_none() && required {
                odd.push(format!("no `{place}`"));
            }
            found
        };
        let media = take(&self.media, false).map(links).unwrap_or_default();
        let id = take(&self.id, true).map(fields::text);
        let (from, to) = (take(&self.from, true), take(&self.to, true));
        let text = take(&self.text, media.is_empty()).map(fields::text);
        let segments = take(&self.segments, false).map(fields::text);
        let sent_at = take(&self.sent_at, false).and_then(|time| moment(&fields::text(time)));
        let [from, to] = [from, to].map(|number| number.map(fields::text).unwrap_or_default());
        let text = text.unwrap_or_default();
        let id = match (&self.id, sent_at) {
            (None, Some(sent_at)) => digest(&from, &to, &text, sent_at),
            _ => id.unwrap_or_default(),
        };
        let mut incoming = Incoming::new(id, &from, &to, text);
        incoming.media = media;
        incoming.segments = segments.and_then(|count| count.parse().ok());
        incoming.sent_at = sent_at;
        incoming.odd = odd;
        incoming.set_extra(unused(value));
        incoming
    }

    /// The fields of a message as the service would send it.
    pub(super) fn compose(&self, fields: &[(&str, &str)], sent_at: Timestamp) -> Value {
        let mut one = Value::Null;
        for (place, wanted) in self.only_if.iter().flatten() {
            document::set(&mut one, place, wanted.as_str().into());
        }
        let places = [
            ("id", &self.id),
            ("from", &self.from),
            ("to", &self.to),
            ("text", &self.text),
            ("segments", &self.segments),
        ];
        for (key, place) in places {
            let value = fields.iter().find(|(name, _)| *name == key);
            if let (Some(place), Some((_, value))) = (place, value) {
                document::set(&mut one, place, (*value).into());
            }
        }
        if let Some(place) = &self.sent_at {
            document::set(&mut one, place, sent_at.to_string().into());
        }
        match &self.messages {
            Some(place) => {
                let mut whole = Value::Null;
                document::set(&mut whole, place, Value::Array(vec![one]));
                whole
            }
            None => one,
        }
    }

    /// Returns true if the fields are those of a form or query.
    pub(super) fn is_flat(&self) -> bool {
        let is_flat = |place: &Option<String>| place.as_ref().is_none_or(|place| !place.starts_with('/'));
        self.messages.is_none()
            && [&self.id, &self.from, &self.to, &self.text]
                .into_iter()
                .all(is_flat)
    }
}

fn preset(name: &str) -> Result<Mapping, String> {
    let Members(mut presets) = setting::from_toml::<Members<Mapping>>(PRESETS)
        .map_err(|error| format!("the presets cannot be read: {error}"))?;
    presets.remove(name).ok_or_else(|| {
        let known: Vec<&str> = presets.keys().map(String::as_str).collect();
        format!("unknown preset `{name}`; there are {}", known.join(", "))
    })
}

/// Replaces the id of a message that has none. The same message gets the same id.
fn digest(from: &str, to: &str, text: &str, sent_at: Timestamp) -> String {
    let mut hasher = sha2::Sha256::new();
    for part in [from, to, text, &sent_at.to_string()] {
        hasher.update((part.len() as u64).to_be_bytes());
        hasher.update(part);
    }
    format!("sha256:{}", hex::encode(hasher.finalize()))
}

/// Parses RFC 3339, a date and time without a zone as UTC, or seconds or milliseconds since the Unix epoch.
fn moment(text: &str) -> Option<Timestamp> {
    const MILLISECONDS_FROM: i64 = 100_000_000_000;
    if let Ok(number) = text.parse::<i64>() {
        let is_milliseconds = number.abs() >= MILLISECONDS_FROM;
        return Some(Timestamp(if is_milliseconds { number } else { number * 1000 }));
    }
    text.parse().ok().or_else(|| {
        let local: jiff::civil::DateTime = text.parse().ok()?;
        let zoned = local.to_zoned(jiff::tz::TimeZone::UTC).ok()?;
        Some(Timestamp(zoned.timestamp().as_millisecond()))
    })
}

/// Parses links: one, several separated by commas, or a list of links or of objects with `url` or `link`.
fn links(value: Value) -> Vec<Media> {
    let list = match value {
        Value::Array(list) => list,
        Value::String(text) => text.split(',').map(|link| link.trim().into()).collect(),
        Value::Null => Vec::new(),
        other => vec![other],
    };
    let text = |entry: &Value, names: &[&str]| {
        let found = names.iter().find_map(|name| entry.get(name));
        found.and_then(Value::as_str).map(str::to_owned)
    };
    let one = |entry: &Value| {
        let link = match entry.as_str() {
            Some(link) => Some(link.to_owned()),
            None => text(entry, &["url", "link"]),
        };
        Some(Media {
            link: link.filter(|link| !link.is_empty())?,
            content_type: text(entry, &["content_type", "contentType"]),
            filename: text(entry, &["filename", "name"]),
        })
    };
    list.iter().take(MEDIA_MAX).filter_map(one).collect()
}

/// The fields that were not used, except the signature.
fn unused(value: Value) -> impl Iterator<Item = (String, Value)> {
    let object = match value {
        Value::Object(object) => object,
        _ => Map::new(),
    };
    object.into_iter().filter(|(name, value)| {
        let is_empty = matches!(value, Value::Null) || value.as_str() == Some("");
        !is_empty && !matches!(name.as_str(), "sign" | "signature")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_preset_is_a_complete_mapping() {
        let Members(presets) = setting::from_toml::<Members<Mapping>>(PRESETS).unwrap();
        assert_eq!(presets.len(), 8);
        for name in presets.into_keys() {
            let config = Config {
                preset: Some(name.clone()),
                ..Config::default()
            };
            assert!(Mapping::of(&config).is_ok(), "{name}");
        }
        let error = preset("elks").err().unwrap();
        assert!(error.contains("46elks, bird, clicksend"), "{error}");
    }

    #[test]
    fn the_time_formats_of_services_are_parsed() {
        let noon = Some(Timestamp(1_767_268_800_000));
        for (text, moment_of) in [
            ("2026-01-01T12:00:00Z", noon),
            ("2026-01-01T13:00:00.000+01:00", noon),
            ("2026-01-01T12:00:00.000000", noon),
            ("2026-01-01 12:00:00", noon),
            ("1767268800", noon),
            ("1767268800000", noon),
            ("noon", None),
            ("", None),
        ] {
            assert_eq!(moment(text), moment_of, "{text}");
        }
    }
}
