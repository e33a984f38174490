//! The sections there can be several of: sources, SMTP servers, destinations, routes.

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
    /// Where it is written.
    pub place: Range<usize>,
    /// Where its keys are.
    pub places: Places,
    /// Its kind.
    pub kind: &'static str,
    /// Its path on `server.listen`.
    pub path: Spanned<String>,
    /// The keys that every kind has.
    pub settings: source::Settings,
    /// What its kind adds.
    pub config: Box<dyn source::Kind>,
    /// What it says.
    pub fingerprint: Fingerprint,
}

/// `[smtp.NAME]`
#[derive(Debug)]
pub struct Smtp {
    /// Its name.
    pub name: Name,
    /// Where its keys are.
    pub places: Places,
    /// What it says.
    pub config: destination::email::SmtpConfig,
    /// The same, to compare.
    pub fingerprint: Fingerprint,
}

/// `[destination.NAME]`
#[derive(Debug)]
pub struct Destination {
    /// Its name.
    pub name: Name,
    /// Where it is written.
    pub place: Range<usize>,
    /// Where its keys are.
    pub places: Places,
    /// Its kind.
    pub kind: &'static str,
    /// Its patience.
    pub policy: Policy,
    /// For one delivery.
    pub timeout: Duration,
    /// Deliveries at once.
    pub concurrency: usize,
    /// Texts per second.
    pub rate: Option<f64>,
    /// After how long a pending delivery is a problem.
    pub late_after: Duration,
    /// Who gets what dies here.
    pub fallback: Option<Spanned<String>>,
    /// Its own template.
    pub template: Option<Spanned<String>>,
    /// The SMTP server it names.
    pub smtp: Option<Spanned<String>>,
    /// What its kind wants to know.
    pub config: Box<dyn destination::Kind>,
    /// What it says.
    pub fingerprint: Fingerprint,
}

/// `[[route]]`
#[derive(Debug)]
pub struct Route {
    /// Its name, given or `route-N`.
    pub name: Name,
    /// Where it is written.
    pub place: Range<usize>,
    /// When it matches.
    pub when: Conditions,
    /// When it does not match nevertheless.
    pub unless: Option<Conditions>,
    /// Whom it tells.
    pub deliver: Vec<Spanned<String>>,
    /// Whether later routes are tried after it matched.
    pub proceed: bool,
    /// Its own template.
    pub template: Option<Spanned<String>>,
    /// What it says.
    pub fingerprint: Fingerprint,
    /// Whether all its keys are right.
    pub whole: bool,
}

/// The conditions of a route, or of its `unless`.
#[derive(Clone, Debug, Default)]
pub struct Conditions {
    /// Senders.
    pub from: Option<Vec<Spanned<Pattern>>>,
    /// Receivers.
    pub to: Option<Vec<Spanned<Pattern>>>,
    /// Sources.
    pub source: Option<Vec<Spanned<String>>>,
    /// The text.
    pub message: Option<Regex>,
}

/// The keys of every source.
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

/// The keys of every destination.
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
    /// Looked at before, so that the kind's own keys are read even when these are wrong.
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
    /// As with sources.
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
    /// Looked at before, so that every problem can be reported under it.
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
        // A file that was not read was reported already, or is not needed.
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
    /// Reads the `number`th route, counted from 1.
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
        let (name, (typed, whole)) = (name?, typed?);
        let key = section.key.as_str();
        // A list that is empty because its wrong items were taken out has been complained about.
        let numbers = |list: Option<Spanned<Vec<Spanned<value::Numbers>>>>| {
            list.filter(|list| whole || !list.get_ref().is_empty())
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
        let whole = whole && when.message.is_some() == typed.message.is_some();
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
            whole,
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

/// Which of the known kinds it is.
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
    // One that is wrong was reported already.
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
