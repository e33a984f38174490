//! The named tables: sources, SMTP servers and destinations.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use deserr::Deserr;
use ipnet::IpNet;
use toml::Spanned;

use super::diagnostics::Problems;
use super::fingerprint::Fingerprint;
use super::places::Places;
use super::secrets;
use super::section::Section;
use super::settings::Retry;
use crate::destination::Batching;
use crate::model::content::Content;
use crate::model::message::Name;
use crate::model::number::BareDigits;
use crate::model::registry::{self, Registered};
use crate::model::setting::{Errors, Members, Placed};
use crate::model::time_interval::TimeInterval;
use crate::model::units::{BodySize, Bounded, Network, OwnNumber, Period, Rate, Timeout, some, some_list};
use crate::model::zone::Zone;
use crate::retry::Policy;
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
    /// Attempts at the same time, if the operator gave a number.
    pub concurrency: Option<usize>,
    /// Messages per second.
    pub rate: Option<f64>,
    /// Whether several messages go as one post.
    pub batch: Option<Batching>,
    /// How long a delivery may be pending before `status` reports a problem.
    pub late_after: Duration,
    /// The destination that receives its dead letters.
    pub fallback: Option<Spanned<String>>,
    /// How long a delivery may be pending before the fallback receives the message, too.
    pub fallback_after: Option<Duration>,
    /// A template that replaces the default format.
    pub template: Option<Spanned<String>>,
    /// How much of a message it may show.
    pub content: Content,
    /// The time zone of the people who read it.
    pub zone: Option<Zone>,
    /// The time intervals that hold its deliveries.
    pub hold_during: Vec<Spanned<String>>,
    /// The SMTP server that it refers to.
    pub smtp: Option<Spanned<String>>,
    /// The keys that its kind adds.
    pub config: Box<dyn destination::Kind>,
    /// Changes when the content of the table changes.
    pub fingerprint: Fingerprint,
}

/// `[time_interval.NAME]`
#[derive(Debug)]
pub struct NamedInterval {
    /// Its name and content.
    pub interval: TimeInterval,
    /// The place of its header.
    pub place: Range<usize>,
    /// Changes when the content of the table changes.
    pub fingerprint: Fingerprint,
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
    "batch",
    "late_after",
    "fallback",
    "fallback_after",
    "template",
    "content",
    "timezone",
    "hold_during",
];

#[derive(Debug, Deserr)]
#[deserr(error = Errors, deny_unknown_fields)]
struct SourceTyped {
    /// Read separately before, so that the keys of the kind are checked even if the common keys are wrong.
    #[deserr(rename = "kind", default)]
    _kind: Option<String>,
    #[deserr(default)]
    path: Option<Placed<String>>,
    #[deserr(default)]
    basic_auth: Option<source::BasicAuth>,
    #[deserr(default, from(Vec<Network>) = some_list)]
    allow_from: Option<Vec<IpNet>>,
    #[deserr(default, from(BodySize<8192>) = some)]
    max_body: Option<usize>,
    #[deserr(default, from(Period) = some)]
    dedup_window: Option<Duration>,
    #[deserr(default)]
    bare_digits: Option<BareDigits>,
    #[deserr(default, from(Members<OwnNumber>) = BTreeMap::from)]
    numbers: BTreeMap<String, OwnNumber>,
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

#[derive(Debug, Deserr)]
#[deserr(error = Errors, deny_unknown_fields)]
struct DestinationTyped {
    /// Read separately before, as in [`SourceTyped`].
    #[deserr(rename = "kind", default)]
    _kind: Option<String>,
    #[deserr(default)]
    retry: Option<Placed<Retry>>,
    #[deserr(default, from(Timeout) = some)]
    timeout: Option<Duration>,
    #[deserr(default, from(Bounded<1, 64>) = some)]
    concurrency: Option<usize>,
    #[deserr(default, from(Rate) = some)]
    rate: Option<f64>,
    #[deserr(default)]
    batch: Option<Batching>,
    #[deserr(default, from(Period) = some)]
    late_after: Option<Duration>,
    #[deserr(default)]
    fallback: Option<Placed<String>>,
    #[deserr(default, from(Period) = some)]
    fallback_after: Option<Duration>,
    #[deserr(default)]
    template: Option<Placed<String>>,
    #[deserr(default)]
    content: Content,
    #[deserr(default)]
    timezone: Option<Zone>,
    #[deserr(default)]
    hold_during: Vec<Placed<String>>,
}

impl Source {
    pub(super) fn read(name: Name, section: Section<'_>, problems: &mut Problems) -> Option<Self> {
        let fingerprint = Fingerprint::of(section.value.get_ref());
        let places = Places::of(&section.value);
        report_missing_kind(&section, source::KINDS, problems);
        let kind = section.text("kind");
        let (common, own) = section.split(SOURCE_KEYS);
        let typed = common.read::<SourceTyped>(&[], problems);
        let registered = registered(&own.key, kind.as_ref()?, source::KINDS, problems)?;
        let config = own.read_with(SOURCE_KEYS, problems, registered.read);
        let mut typed = typed?;
        let default_path = || Spanned::new(own.place(), format!("/inbound/{name}"));
        let given = typed.path.take().map(|path| common.spanned(path));
        let path = given.unwrap_or_else(default_path);
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
        let mut config = section.read::<destination::email::SmtpConfig>(&[], problems)?;
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

impl NamedInterval {
    pub(super) fn read(name: Name, section: &Section<'_>, problems: &mut Problems) -> Option<Self> {
        let when = Arc::new(section.read(&[], problems)?);
        Some(Self {
            interval: TimeInterval { name, when },
            place: section.place(),
            fingerprint: Fingerprint::of(section.value.get_ref()),
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
        report_missing_kind(&section, destination::KINDS, problems);
        let (kind, smtp) = (section.text("kind"), section.text("smtp"));
        let (common, own) = section.split(DESTINATION_KEYS);
        let typed = common.read_partly::<DestinationTyped>(problems);
        let policy = typed.as_ref().and_then(|(typed, _)| {
            let own_retry = typed.retry.clone().map(|retry| common.spanned(retry));
            policy(&own.key, own_retry.as_ref(), retry, problems)
        });
        let registered = registered(&own.key, kind.as_ref()?, destination::KINDS, problems)?;
        let config = own.read_with(DESTINATION_KEYS, problems, registered.read);
        let ((typed, _), config, policy) = (typed?, config?, policy?);
        Some(Self {
            name,
            place: own.place(),
            places,
            kind: registered.name,
            policy,
            timeout: typed.timeout.unwrap_or(Duration::from_secs(10)),
            concurrency: typed.concurrency,
            rate: typed.rate.or_else(|| config.rate_default()),
            batch: typed.batch,
            late_after: typed.late_after.unwrap_or(Duration::from_secs(120)),
            fallback: typed.fallback.map(|fallback| common.spanned(fallback)),
            fallback_after: typed.fallback_after,
            template: typed.template.map(|template| common.spanned(template)),
            content: typed.content,
            zone: typed.timezone,
            hold_during: typed
                .hold_during
                .into_iter()
                .map(|name| common.spanned(name))
                .collect(),
            smtp: smtp.filter(|named| config.smtp() == Some(named.get_ref())),
            config,
            fingerprint,
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

fn report_missing_kind<K: ?Sized>(
    section: &Section<'_>,
    kinds: &'static [Registered<K>],
    problems: &mut Problems,
) {
    if section.table().is_some_and(|table| !table.contains_key("kind")) {
        let names: Vec<&str> = registry::names(kinds).collect();
        let message = format!("missing key `kind`; the kinds are {}", names.join(", "));
        problems.error(&section.place(), section.key.as_str(), message);
    }
}

/// Looks up the kind of a source or destination.
fn registered<K: ?Sized>(
    key: &str,
    kind: &Spanned<String>,
    kinds: &'static [Registered<K>],
    problems: &mut Problems,
) -> Option<&'static Registered<K>> {
    let found = registry::find(kinds, kind.get_ref());
    if found.is_none() {
        problems.error_with(&kind.span(), format!("{key}.kind"), || {
            let suggestion = super::suggest::suggestion(kind.get_ref(), registry::names(kinds));
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
