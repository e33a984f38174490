//! Reads the top-level tables of a configuration one by one.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use deserr::Deserr;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::diagnostics::Problems;
use super::entries::{Destination, NamedInterval, Smtp, Source};
use super::environment::{Outside, Purpose};
use super::routes::Route;
use super::secrets::{self, Fetcher};
use super::section::Section;
use super::settings::{Admin, AdminTyped, LogTyped, OperatorTyped, Retry, Server, Tls};
use super::store::Store;
use super::suggest::suggestion;
use super::{Config, Declared, Operator, Places, include, syntax};
use crate::destination::email::SmtpConfig;
use crate::model::message::Name;
use crate::model::number::Number;
use crate::model::setting::{Errors, Placed};
use crate::retry::Policy;
use crate::routing::Expressions;

/// Every top-level table.
const TABLES: &[&str] = &[
    "server",
    "admin",
    "store",
    "log",
    "operator",
    "retry",
    "source",
    "smtp",
    "destination",
    "time_interval",
    "contacts",
    "route",
    "routing",
];

/// Upper bounds of the sources, SMTP servers, destinations and time intervals (each), and of the routes. All of them take memory;
/// each destination has its own task and connections.
const TABLES_MAX: usize = 5_000;
const ROUTES_MAX: usize = 20_000;

/// Reads a complete configuration.
pub(super) fn read(
    text: &str,
    path: &Path,
    purpose: Purpose,
    outside: &Outside,
) -> Result<(Config, Problems), Problems> {
    let mut problems = Problems::none(path, text);
    let Some(mut root) = parse(text, 0, &mut problems) else {
        return Err(problems);
    };
    let include = root.remove(include::KEY);
    let included = include.map(|include| include::read(include, path, outside, &mut problems));
    let included = included.unwrap_or_default();
    let others: Option<Vec<_>> = included
        .iter()
        .map(|file| parse(&file.text, file.start, &mut problems))
        .collect();
    let Some(others) = others else {
        return Err(problems);
    };
    for other in others {
        include::merge(&mut root, other, &mut problems);
    }
    let config = configuration(root, path, purpose, outside, &mut problems);
    Ok((config, problems))
}

/// Reads as much as possible of a file that may not be valid TOML, without the files that it includes.
pub(super) fn recover(text: &str, path: &Path, purpose: Purpose, outside: &Outside) -> (Config, Problems) {
    let mut problems = Problems::none(path, text);
    let (root, _) = DeTable::parse_recoverable(text);
    let mut root = root.into_inner();
    root.remove(include::KEY);
    let config = configuration(root, path, purpose, outside, &mut problems);
    (config, problems)
}

fn configuration(
    root: DeTable<'_>,
    path: &Path,
    purpose: Purpose,
    outside: &Outside,
    problems: &mut Problems,
) -> Config {
    Reader {
        root,
        folder: path.parent().unwrap_or(Path::new("")),
        fetcher: Fetcher { outside, purpose },
        problems,
    }
    .config()
}

/// Parses one file, whose offsets begin at `start`. Returns `None` and adds a problem if it is not TOML.
fn parse<'t>(text: &'t str, start: usize, problems: &mut Problems) -> Option<DeTable<'t>> {
    let (root, errors) = DeTable::parse_recoverable(text);
    if errors.is_empty() {
        return Some(include::shifted(root.into_inner(), start));
    }
    syntax::report(text, start, &errors, problems);
    None
}

struct Reader<'t, 'r> {
    root: DeTable<'t>,
    /// The path of the main file.
    folder: &'r Path,
    fetcher: Fetcher<'r>,
    problems: &'r mut Problems,
}

impl<'t> Reader<'t, '_> {
    fn config(mut self) -> Config {
        self.report_unknown_tables();
        let (server_places, admin_places) = (self.places("server"), self.places("admin"));
        let server = self.server();
        let store = self.store();
        let admin = self.admin(&admin_places, &server, &store);
        let log: LogTyped = self.settings("log").unwrap_or_default();
        let operator = self.operator();
        let retry = self.retry();
        let mut declared = Declared::default();
        let sources = self.named("source", &mut declared.sources, Source::read);
        if let Some(DeValue::Table(servers)) = self.root.get_mut("smtp").map(Spanned::get_mut) {
            for (_, server) in servers.iter_mut() {
                secrets::paths_are_files(server.get_mut(), SmtpConfig::FILES);
            }
        }
        let smtp = self.named("smtp", &mut declared.smtp, |name, section, problems| {
            Smtp::read(name, &section, problems)
        });
        let destinations = self.named(
            "destination",
            &mut declared.destinations,
            |name, section, problems| Destination::read(name, section, retry, problems),
        );
        let time_intervals = self.named(
            "time_interval",
            &mut declared.time_intervals,
            |name, section, problems| NamedInterval::read(name, &section, problems),
        );
        let (contacts, routes, unmatched) = (self.contacts(), self.routes(), self.unmatched());
        Config {
            server,
            server_places,
            admin,
            admin_places,
            store,
            log: log.into(),
            operator,
            retry,
            sources,
            smtp,
            destinations,
            time_intervals,
            contacts,
            routes,
            unmatched,
            declared,
        }
    }

    fn report_unknown_tables(&mut self) {
        for key in self
            .root
            .keys()
            .filter(|key| !TABLES.contains(&key.get_ref().as_ref()))
        {
            self.problems.error_with(&key.span(), key.get_ref().as_ref(), || {
                format!(
                    "unknown table{}",
                    suggestion(key.get_ref(), TABLES.iter().copied())
                )
            });
        }
    }

    /// Removes a top-level value from the tables still to be read.
    fn take(&mut self, key: &str) -> Option<Section<'t>> {
        self.root.remove(key).map(|value| Section::new(key, value))
    }

    /// Resolves the secrets and relative paths of a section. Returns `None` and adds a problem if it is not a table.
    fn ready(&mut self, mut section: Section<'t>) -> Option<Section<'t>> {
        if section.table().is_none() {
            let message = format!(
                "expected a table, but this is of type {}",
                section.value.get_ref().type_str()
            );
            self.problems.error(&section.place(), section.key, message);
            return None;
        }
        section.root_paths(SmtpConfig::PATHS, &self.problems.folder(&section.place()));
        section.secrets = self
            .fetcher
            .fetch(&section.key, &mut section.value, self.problems);
        Some(section)
    }

    fn settings<T: Deserr<Errors>>(&mut self, key: &str) -> Option<T> {
        let section = self.take(key)?;
        self.ready(section)?.read(&[], self.problems)
    }

    fn server(&mut self) -> Server {
        if let Some(tls) = self
            .root
            .get_mut("server")
            .and_then(|server| member(server, "tls"))
        {
            secrets::paths_are_files(tls, &["certificate", "key"]);
        }
        let mut server: Server = self.settings("server").unwrap_or_default();
        // If the file could not be read, that was reported already, or its content is not needed.
        server.tls = server
            .tls
            .filter(|Tls { certificate, key }| secrets::is_fetched(certificate) && secrets::is_fetched(key));
        server
    }

    fn admin(&mut self, places: &Places, server: &Server, store: &Store) -> Admin {
        let folder = self.problems.folder(&self.place("admin"));
        let typed: AdminTyped = self.settings("admin").unwrap_or_default();
        if let Some(address) = typed.listen {
            let place = places.of_key("listen");
            if typed.token.is_none() {
                let message =
                    "needs `token`: without it, anyone who can reach this address could read every message";
                self.problems.error(place, "admin.listen", message);
            }
            // Two listeners on port 0 do not conflict: the kernel assigns a free port to each.
            if address == server.listen && address.port() != 0 {
                self.problems
                    .error(place, "admin.listen", "the same address as server.listen");
            }
        }
        typed.resolve(&folder, &store.path, self.fetcher.outside)
    }

    fn places(&self, key: &str) -> Places {
        self.root.get(key).map(Places::of).unwrap_or_default()
    }

    fn place(&self, key: &str) -> Range<usize> {
        self.root.get(key).map_or(0..0, Spanned::span)
    }

    fn store(&mut self) -> Store {
        let place = self.place("store");
        if let Some(store) = self.root.get_mut("store") {
            secrets::paths_are_files(store.get_mut(), Store::FILES);
        }
        let section = self.take("store").and_then(|section| self.ready(section));
        let store = section.and_then(|section| Store::read(section, self.problems));
        let store = store.unwrap_or_default();
        if store
            .redact_after
            .zip(store.retain)
            .is_some_and(|(redact, retain)| redact >= retain)
        {
            let message = "has no effect: `retain` deletes the whole message earlier";
            self.problems.warning(&place, "store.redact_after", message);
        }
        let own = self.problems.folder(&place);
        store.resolve(&own, self.folder, self.fetcher.outside)
    }

    fn operator(&mut self) -> Operator {
        const AFTER: Duration = Duration::from_secs(300);
        let section = self.take("operator").and_then(|section| self.ready(section));
        let typed = section.and_then(|section| {
            let typed = section.read::<OperatorTyped>(&[], self.problems)?;
            let notify = typed.notify.into_iter().map(|name| section.spanned(name));
            Some(Operator {
                notify: notify.collect(),
                after: typed.after.unwrap_or(AFTER),
            })
        });
        typed.unwrap_or(Operator {
            notify: Vec::new(),
            after: AFTER,
        })
    }

    fn retry(&mut self) -> Policy {
        let place = self.place("retry");
        let retry: Retry = self.settings("retry").unwrap_or_default();
        retry.policy().unwrap_or_else(|error| {
            self.problems.error(&place, "retry", error);
            super::settings::POLICY
        })
    }

    /// Reads the tables of `[source.NAME]` and the like, in the order of the file.
    fn named<T>(
        &mut self,
        key: &str,
        declared: &mut BTreeMap<Name, Range<usize>>,
        read: impl Fn(Name, Section<'t>, &mut Problems) -> Option<T>,
    ) -> Vec<T> {
        let Some(Section { value, .. }) = self.take(key) else {
            return Vec::new();
        };
        let place = value.span();
        let DeValue::Table(tables) = value.into_inner() else {
            self.problems.error(
                &place,
                key,
                format!("write [{key}.NAME] with a name of your choice"),
            );
            return Vec::new();
        };
        let mut tables: Vec<_> = tables.into_iter().collect();
        tables.sort_by_key(|(name, _)| name.span().start);
        if let Some((beyond, _)) = tables.get(TABLES_MAX) {
            let message = format!("more than {TABLES_MAX} tables [{key}.NAME]");
            self.problems.error(&beyond.span(), key, message);
        }
        tables.truncate(TABLES_MAX);
        let mut all = Vec::new();
        for (name, value) in tables {
            let section = Section::new(format!("{key}.{}", name.get_ref()), value);
            if section.table().is_none() {
                let message = format!(
                    "`{}` belongs in a table: write [{key}.NAME] above it",
                    name.get_ref()
                );
                self.problems.error(&name.span(), section.key, message);
                continue;
            }
            match name.get_ref().parse::<Name>() {
                Err(error) => self.problems.error(&name.span(), section.key, error.to_string()),
                Ok(parsed) => {
                    declared.insert(parsed.clone(), name.span());
                    all.extend(
                        self.ready(section)
                            .and_then(|section| read(parsed, section, self.problems)),
                    );
                }
            }
        }
        all
    }

    fn contacts(&mut self) -> BTreeMap<String, Spanned<String>> {
        let mut contacts = BTreeMap::new();
        let Some(section) = self.take("contacts") else {
            return contacts;
        };
        let Some(table) = section.table() else {
            self.problems.error(
                &section.place(),
                "contacts",
                "expected a table of names by numbers",
            );
            return contacts;
        };
        for (number, name) in table {
            let key = format!("contacts.\"{}\"", number.get_ref());
            match (contact_number(number.get_ref()), contact_name(name.get_ref())) {
                (Err(error), _) => self.problems.error(&number.span(), key, error),
                (_, Err(error)) => self.problems.error(&name.span(), key, error),
                (Ok(normal), Ok(name)) => {
                    if let Some(first) = contacts.insert(normal, Spanned::new(number.span(), name)) {
                        let first = self.problems.location(&first.span());
                        let message =
                            format!("the same number as the contact at {first}, written differently");
                        self.problems.error(&number.span(), key, message);
                    }
                }
            }
        }
        contacts
    }

    fn routes(&mut self) -> Vec<Route> {
        let Some(Section { value, .. }) = self.take("route") else {
            return Vec::new();
        };
        let place = value.span();
        let DeValue::Array(items) = value.into_inner() else {
            self.problems.error(
                &place,
                "route",
                "a route begins with [[route]], in double brackets",
            );
            return Vec::new();
        };
        let mut expressions = Expressions::default();
        if let Some(beyond) = items.get(ROUTES_MAX) {
            let message = format!("more than {ROUTES_MAX} routes");
            self.problems.error(&beyond.span(), "route", message);
        }
        let routes = items
            .into_iter()
            .take(ROUTES_MAX)
            .enumerate()
            .filter_map(|(index, value)| {
                let mut section = Section::new(format!("route.route-{}", index + 1), value);
                Route::read(index + 1, &mut section, &mut expressions, self.problems)
            });
        routes.collect()
    }

    fn unmatched(&mut self) -> Vec<Spanned<String>> {
        if !self.root.contains_key("routing") {
            let message = "missing table [routing]: its key `unmatched` names the destinations of messages that match no route";
            self.problems.error(&(0..0), "routing", message);
            return Vec::new();
        }
        let Some(section) = self.take("routing").and_then(|section| self.ready(section)) else {
            return Vec::new();
        };
        let Some(Routing { unmatched }) = section.read(&[], self.problems) else {
            return Vec::new();
        };
        if unmatched.value.is_empty() {
            let message = "is empty: messages that no route matches are kept and not delivered";
            let place = section.place_of(&unmatched.path);
            self.problems.warning(&place, "routing.unmatched", message);
        }
        let spanned = |destination| section.spanned(destination);
        unmatched.value.into_iter().map(spanned).collect()
    }
}

/// The value of this key, if `value` is a table that contains it.
fn member<'v, 't>(value: &'v mut Spanned<DeValue<'t>>, key: &str) -> Option<&'v mut DeValue<'t>> {
    match value.get_mut() {
        DeValue::Table(table) => table.get_mut(key).map(Spanned::get_mut),
        _ => None,
    }
}

/// `[routing]`
#[derive(Debug, Deserr)]
#[deserr(error = Errors, deny_unknown_fields)]
struct Routing {
    unmatched: Placed<Vec<Placed<String>>>,
}

/// The normal form of a contact's number or name.
fn contact_number(text: &str) -> Result<String, String> {
    Number::typed(text)
        .map(|number| number.normal().to_owned())
        .map_err(|error| format!("`{text}` is {error}, nor a sender's name (`Google`)"))
}

fn contact_name(value: &DeValue<'_>) -> Result<String, String> {
    let name = value
        .as_str()
        .ok_or_else(|| "expected a name as a string".to_owned())?;
    let usable = !name.trim().is_empty() && name.len() <= 200 && !name.chars().any(char::is_control);
    usable
        .then(|| name.to_owned())
        .ok_or_else(|| "expected a name of 1 to 200 bytes on one line".to_owned())
}
