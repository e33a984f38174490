//! The tables that can occur several times: sources, SMTP servers, destinations, routes.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use ipnet::IpNet;
use regex::Regex;
use serde::Deserialize;
use toml::Spanned;

use super::diagnostics::Problems;
use super::fingerprint::Fingerprint;
use super::places::Places;
use super::secrets;
use super::section::Section;
use super::settings::Retry;
use super::value;
use crate::message::Name;
use crate::number::{BareDigits, Pattern};
use crate::retry::Policy;
use crate::route::Expressions;
use crate::{destination, source};

/// `[source.NAME]`
#[derive(Debug)]
pub struct Source {
    /// Its name.
    pub name: Name,
    /// The place of its header.
    pub place: Range<usize>,
    /// The places of its keys.
    pub places: Places,
    /// Its kind.
    pub kind: &'static str,
    /// Its path on `server.listen`.
    pub path: Spanned<String>,
    /// The keys that are common to all kinds.
    pub settings: source::Settings,
    /// The keys that its kind adds.
    pub config: Box<dyn source::Kind>,
    /// Changes when the content of the table changes.
    pub fingerprint: Fingerprint,
}

/// `[smtp.NAME]`
#[derive(Debug)]
pub struct Smtp {
    /// Its name.
    pub name: Name,
    /// The places of its keys.
    pub places: Places,
    /// The content of the table.
    pub config: destination::email::SmtpConfig,
    /// Changes when the content of the table changes.
    pub fingerprint: Fingerprint,
}

/// `[destination.NAME]`
#[derive(Debug)]
pub struct Destination {
    /// Its name.
    pub name: Name,
    /// The place of its header.
    pub place: Range<usize>,
    /// The places of its keys.
    pub places: Places,
    /// Its kind.
    pub kind: &'static str,
    /// The retry policy.
    pub policy: Policy,
    /// Time limit of one delivery attempt.
    pub timeout: Duration,
    /// Attempts at the same time.
    pub concurrency: usize,
    /// Messages per second.
    pub rate: Option<f64>,
    /// How long a delivery may be pending before `status` reports a problem.
    pub late_after: Duration,
    /// The destination that receives its dead letters.
    pub fallback: Option<Spanned<String>>,
    /// A template that replaces the default format.
    pub template: Option<Spanned<String>>,
    /// The SMTP server that it refers to.
    pub smtp: Option<Spanned<String>>,
    /// The keys that its kind adds.
    pub config: Box<dyn destination::Kind>,
    /// Changes when the content of the table changes.
    pub fingerprint: Fingerprint,
}

/// `[[route]]`
#[derive(Debug)]
pub struct Route {
    /// Its name: `name`, or else `route-N`.
    pub name: Name,
    /// The place of its header.
    pub place: Range<usize>,
    /// The conditions to match.
    pub when: Conditions,
    /// The conditions that exclude a message.
    pub unless: Option<Conditions>,
    /// The destinations.
    pub deliver: Vec<Spanned<String>>,
    /// Whether later routes are tried after this one has matched.
    pub proceed: bool,
    /// A template that replaces those of the destinations.
    pub template: Option<Spanned<String>>,
    /// Changes when the content of the table changes.
    pub fingerprint: Fingerprint,
    /// Whether all its keys were valid.
    pub is_valid: bool,
}

/// The conditions of a route, or of its `unless`.
#[derive(Clone, Debug, Default)]
pub struct Conditions {
    /// Patterns of senders.
    pub from: Option<Vec<Spanned<Pattern>>>,
    /// Patterns of recipients.
    pub to: Option<Vec<Spanned<Pattern>>>,
    /// Names of sources.
    pub source: Option<Vec<Spanned<String>>>,
    /// An expression that the text must match.
    pub message: Option<Regex>,
}

/// The keys that every source has.
const SOURCE_KEYS: &[&str] = &[
    "kind",
    "path",
    "basic_auth",
    "allow_from",
    "max_body",
    "dedup_window",
    "bare_digits",
    "numbers",
];

/// The keys that every destination has.
const DESTINATION_KEYS: &[&str] = &[
    "kind",
    "retry",
    "timeout",
    "concurrency",
    "rate",
    "late_after",
    "fallback",
    "template",
];

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SourceTyped {
    /// Read separately before, so that the keys of the kind are checked even if the common keys are wrong.
    #[serde(rename = "kind")]
    _kind: Option<String>,
    path: Option<Spanned<String>>,
    basic_auth: Option<source::BasicAuth>,
    #[serde(default, deserialize_with = "source::networks")]
    allow_from: Option<Vec<IpNet>>,
    #[serde(default, deserialize_with = "value::body_size_option")]
    max_body: Option<usize>,
    #[serde(default, deserialize_with = "value::duration_option")]
    dedup_window: Option<Duration>,
    bare_digits: Option<BareDigits>,
    #[serde(default)]
    numbers: BTreeMap<String, value::OwnNumber>,
}

impl SourceTyped {
    fn settings(self) -> source::Settings {
        let numbers = self.numbers.into_iter();
        source::Settings {
            access: source::Access {
                basic_auth: self.basic_auth,
                allow_from: self.allow_from,
            },
            max_body: self.max_body,
            dedup_window: self.dedup_window,
            bare_digits: self.bare_digits,
            numbers: numbers.map(|(device, number)| (device, number.0)).collect(),
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct DestinationTyped {
    /// Read separately before, as in [`SourceTyped`].
    #[serde(rename = "kind")]
    _kind: Option<String>,
    retry: Option<Spanned<Retry>>,
    #[serde(default, deserialize_with = "value::timeout_option")]
    timeout: Option<Duration>,
    #[serde(default, deserialize_with = "value::concurrency")]
    concurrency: Option<usize>,
    #[serde(default, deserialize_with = "value::rate")]
    rate: Option<f64>,
    #[serde(default, deserialize_with = "value::duration_option")]
    late_after: Option<Duration>,
    fallback: Option<Spanned<String>>,
    template: Option<Spanned<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RouteTyped {
    /// Read separately before, so that each problem can be reported under the name of the route.
    #[serde(rename = "name")]
    _name: Option<String>,
    to: Option<Spanned<Vec<Spanned<value::Numbers>>>>,
    from: Option<Spanned<Vec<Spanned<value::Numbers>>>>,
    source: Option<Spanned<Vec<Spanned<String>>>>,
    message: Option<Spanned<value::Expression>>,
    unless: Option<Spanned<UnlessTyped>>,
    deliver: Vec<Spanned<String>>,
    #[serde(default)]
    r#continue: bool,
    template: Option<Spanned<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct UnlessTyped {
    to: Option<Spanned<Vec<Spanned<value::Numbers>>>>,
    from: Option<Spanned<Vec<Spanned<value::Numbers>>>>,
    source: Option<Spanned<Vec<Spanned<String>>>>,
    message: Option<Spanned<value::Expression>>,
}

impl Source {
    pub(super) fn read(name: Name, section: Section<'_>, problems: &mut Problems) -> Option<Self> {
        let fingerprint = Fingerprint::of(section.value.get_ref());
        let places = Places::of(&section.value);
        let kinds: Vec<&str> = source::KINDS.iter().map(|kind| kind.name).collect();
        report_missing_kind(&section, &kinds, problems);
        let kind = section.text("kind");
        let (common, own) = section.split(SOURCE_KEYS);
        let typed = common.read(&[], problems, SourceTyped::deserialize);
        let kind = known_kind(&own.key, kind.as_ref()?, &kinds, problems)?;
        let registered = source::KINDS.get(kind)?;
        let config = own.read(SOURCE_KEYS, problems, registered.read);
        let mut typed = typed?;
        let default_path = || Spanned::new(own.place(), format!("/inbound/{name}"));
        let path = typed.path.take().unwrap_or_else(default_path);
        check_path(&own.key, &path, problems)?;
        Some(Self {
            place: own.place(),
            places,
            kind: registered.name,
            path,
            settings: typed.settings(),
            config: config?,
            fingerprint,
            name,
        })
    }
}

impl Smtp {
    pub(super) fn read(name: Name, section: &Section<'_>, problems: &mut Problems) -> Option<Self> {
        let fingerprint = Fingerprint::of(section.value.get_ref());
        let mut config = section.read(&[], problems, destination::email::SmtpConfig::deserialize)?;
        // If the file could not be read, that was reported already, or its content is not needed.
        config.ca_file = config.ca_file.filter(secrets::is_fetched);
        Some(Self {
            name,
            places: Places::of(&section.value),
            config,
            fingerprint,
        })
    }
}

impl Destination {
    pub(super) fn read(
        name: Name,
        section: Section<'_>,
        retry: Policy,
        problems: &mut Problems,
    ) -> Option<Self> {
        let fingerprint = Fingerprint::of(section.value.get_ref()).with(format!("{retry:?}").as_bytes());
        let places = Places::of(&section.value);
        let kinds: Vec<&str> = destination::KINDS.iter().map(|kind| kind.name).collect();
        report_missing_kind(&section, &kinds, problems);
        let (kind, smtp) = (section.text("kind"), section.text("smtp"));
        let (common, own) = section.split(DESTINATION_KEYS);
        let typed = common.read_partly(&[], problems, DestinationTyped::deserialize);
        let policy = typed
            .as_ref()
            .and_then(|(typed, _)| policy(&own.key, typed.retry.as_ref(), retry, problems));
        let kind = known_kind(&own.key, kind.as_ref()?, &kinds, problems)?;
        let registered = destination::KINDS.get(kind)?;
        let config = own.read(DESTINATION_KEYS, problems, registered.read);
        let ((typed, _), config, policy) = (typed?, config?, policy?);
        Some(Self {
            name,
            place: own.place(),
            places,
            kind: registered.name,
            policy,
            timeout: typed.timeout.unwrap_or(Duration::from_secs(10)),
            concurrency: typed.concurrency.unwrap_or(1),
            rate: typed.rate.or_else(|| config.rate_default()),
            late_after: typed.late_after.unwrap_or(Duration::from_secs(120)),
            fallback: typed.fallback,
            template: typed.template,
            smtp: smtp.filter(|named| config.smtp() == Some(named.get_ref())),
            config,
            fingerprint,
        })
    }
}

impl Route {
    /// Reads route `number`, counted from 1.
    pub(super) fn read(
        number: usize,
        section: &mut Section<'_>,
        expressions: &mut Expressions,
        problems: &mut Problems,
    ) -> Option<Self> {
        let name = route_name(number, section, problems);
        section.key = name
            .as_ref()
            .map_or_else(|| format!("route.route-{number}"), |name| format!("route.{name}"));
        let fingerprint = Fingerprint::of(section.value.get_ref());
        let typed = section.read_partly(&[], problems, RouteTyped::deserialize);
        let (name, (typed, is_valid)) = (name?, typed?);
        let key = section.key.as_str();
        // A list whose invalid items were removed may be empty; its items were reported already.
        let numbers = |list: Option<Spanned<Vec<Spanned<value::Numbers>>>>| {
            list.filter(|list| is_valid || !list.get_ref().is_empty())
        };
        let when = conditions(
            key,
            numbers(typed.from),
            numbers(typed.to),
            typed.source,
            typed.message.as_ref(),
            expressions,
            problems,
        );
        let is_valid = is_valid && when.message.is_some() == typed.message.is_some();
        let unless = typed
            .unless
            .map(|unless| exceptions(key, unless, expressions, problems));
        Some(Self {
            name,
            place: section.place(),
            when,
            unless,
            deliver: typed.deliver,
            proceed: typed.r#continue,
            template: typed.template,
            fingerprint,
            is_valid,
        })
    }
}

fn policy(
    key: &str,
    retry: Option<&Spanned<Retry>>,
    wider: Policy,
    problems: &mut Problems,
) -> Option<Policy> {
    let Some(retry) = retry else { return Some(wider) };
    retry
        .get_ref()
        .over(wider)
        .map_err(|error| problems.error(&retry.span(), format!("{key}.retry"), error))
        .ok()
}

fn report_missing_kind(section: &Section<'_>, known: &[&str], problems: &mut Problems) {
    if section.table().is_some_and(|table| !table.contains_key("kind")) {
        let message = format!("missing key `kind`; the kinds are {}", known.join(", "));
        problems.error(&section.place(), section.key.as_str(), message);
    }
}

/// The index of `kind` in `known`.
fn known_kind(key: &str, kind: &Spanned<String>, known: &[&str], problems: &mut Problems) -> Option<usize> {
    let found = known.iter().position(|known| known == kind.get_ref());
    if found.is_none() {
        problems.error_with(&kind.span(), format!("{key}.kind"), || {
            let suggestion = super::suggest::suggestion(kind.get_ref(), known.iter().copied());
            format!("unknown kind `{}`{suggestion}", kind.get_ref())
        });
    }
    found
}

fn check_path(key: &str, path: &Spanned<String>, problems: &mut Problems) -> Option<()> {
    let text = path.get_ref();
    let usual = text
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b"/-._~".contains(&byte));
    let segments = text
        .strip_prefix('/')
        .is_some_and(|rest| !rest.split('/').any(|part| matches!(part, "" | "." | "..")));
    let taken = matches!(text.as_str(), "/healthz" | "/readyz");
    if usual && segments && !taken && text.len() <= 200 {
        return Some(());
    }
    let message = if taken {
        format!("`{text}` is reserved by the daemon")
    } else {
        format!(
            "`{text}` is not a usable path: it must look like \"/inbound/name\", made of letters, digits and -._~"
        )
    };
    problems.error(&path.span(), format!("{key}.path"), message);
    None
}

fn route_name(number: usize, section: &Section<'_>, problems: &mut Problems) -> Option<Name> {
    let default = format!("route-{number}");
    let given = section
        .text("name")
        .unwrap_or_else(|| Spanned::new(section.place(), default));
    let wrong = |error: crate::message::NameError| {
        problems.error(
            &given.span(),
            format!("route.route-{number}.name"),
            error.to_string(),
        );
    };
    given.get_ref().parse().map_err(wrong).ok()
}

fn exceptions(
    key: &str,
    unless: Spanned<UnlessTyped>,
    expressions: &mut Expressions,
    problems: &mut Problems,
) -> Conditions {
    let (key, span) = (format!("{key}.unless"), unless.span());
    let unless = unless.into_inner();
    let conditions = conditions(
        &key,
        unless.from,
        unless.to,
        unless.source,
        unless.message.as_ref(),
        expressions,
        problems,
    );
    // An invalid condition was reported already.
    if unless.message.is_some() {
        return conditions;
    }
    let Conditions {
        from: None,
        to: None,
        source: None,
        message: None,
    } = &conditions
    else {
        return conditions;
    };
    problems.error(&span, key, "without any condition this excludes every message");
    conditions
}

fn conditions(
    key: &str,
    from: Option<Spanned<Vec<Spanned<value::Numbers>>>>,
    to: Option<Spanned<Vec<Spanned<value::Numbers>>>>,
    source: Option<Spanned<Vec<Spanned<String>>>>,
    message: Option<&Spanned<value::Expression>>,
    expressions: &mut Expressions,
    problems: &mut Problems,
) -> Conditions {
    let mut numbers = |name: &str, list: Option<Spanned<Vec<Spanned<value::Numbers>>>>| {
        let list = not_empty(key, name, list, problems)?;
        let pattern = |numbers: Spanned<value::Numbers>| Spanned::new(numbers.span(), numbers.into_inner().0);
        Some(list.into_iter().map(pattern).collect())
    };
    Conditions {
        from: numbers("from", from),
        to: numbers("to", to),
        source: not_empty(key, "source", source, problems),
        message: message.and_then(|message| {
            let compiled = expressions.compile(&message.get_ref().0);
            compiled
                .map_err(|error| problems.error(&message.span(), format!("{key}.message"), error.to_string()))
                .ok()
        }),
    }
}

fn not_empty<T>(
    key: &str,
    name: &str,
    list: Option<Spanned<Vec<T>>>,
    problems: &mut Problems,
) -> Option<Vec<T>> {
    let list = list?;
    if list.get_ref().is_empty() {
        let message = "an empty list matches nothing: leave the key out to match everything";
        problems.error(&list.span(), format!("{key}.{name}"), message);
    }
    Some(list.into_inner())
}
