//! Compiles a configuration into a plan: resolves names and performs every step that can fail.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

use toml::Spanned;

use super::{Fingerprints, Plan, PlannedDestination, PlannedSource, Tls, lints};
use crate::config::suggest::suggestion_of_defined;
use crate::config::{self, Config, Fingerprint, Problems};
use crate::destination::email::SmtpConfig;
use crate::destination::{BuildContext, http};
use crate::model::message::{Name, Timestamp};
use crate::model::number::Pattern;
use crate::model::time_interval::TimeInterval;
use crate::resolver::Resolver;
use crate::routing::{Conditions, Route, Routes};
use crate::source::{self, Endpoint};
use crate::template::{Template, TemplateError};

impl Plan {
    /// Compiles a configuration. Reports every problem; returns a plan unless one of them is an error.
    ///
    /// Sources and destinations that are unchanged from `previous` are reused, with the keys that they fetched and their
    /// open connections.
    #[must_use]
    pub fn compile(config: Config, previous: Option<&Self>, problems: &mut Problems) -> Option<Self> {
        let resolver = previous.map_or_else(Resolver::default, |plan| plan.resolver.clone());
        let client = http::Client::with(resolver.clone())
            .map_err(|error| problems.error(&(0..0), "", error))
            .ok()?;
        let mut compiler = Compiler {
            config: &config,
            previous,
            client,
            templates: Templates::default(),
            problems,
        };
        let tls = compiler.tls();
        let sources = compiler.sources();
        let destinations = compiler.destinations();
        let routes = compiler.routes();
        let unmatched = compiler.destination_names(&config.unmatched, "routing.unmatched");
        let notify = compiler.destination_names(&config.operator.notify, "operator.notify");
        let fingerprints = compiler.fingerprints();
        compiler.check_fallbacks();
        lints::note(&config, &routes, problems);
        if problems.any_error() {
            return None;
        }
        let routes = Routes::new(routes, unmatched);
        let named = |(number, name): (String, Spanned<String>)| (number, name.into_inner());
        let Config {
            server,
            admin,
            store,
            log,
            operator,
            contacts,
            ..
        } = config;
        Some(Self {
            server,
            tls,
            admin,
            store,
            log,
            notify,
            notify_after: operator.after,
            sources,
            destinations,
            routes,
            contacts: contacts.into_iter().map(named).collect(),
            resolver,
            fingerprints,
        })
    }
}

struct Compiler<'c> {
    config: &'c Config,
    previous: Option<&'c Plan>,
    client: http::Client,
    templates: Templates,
    problems: &'c mut Problems,
}

/// The templates compiled so far. Identical ones are compiled once.
#[derive(Default)]
struct Templates {
    known: HashMap<String, Template>,
    bytes: usize,
}

/// Upper bound of the total length of all templates, in bytes. A compiled template takes up to fifteen times as much.
const TEMPLATES_MAX: usize = 2 * 1024 * 1024;

impl Templates {
    fn compile(&mut self, source: &str) -> Result<Template, TemplateError> {
        if let Some(known) = self.known.get(source) {
            return Ok(known.clone());
        }
        self.bytes = self.bytes.saturating_add(source.len());
        if self.bytes > TEMPLATES_MAX {
            let most = TEMPLATES_MAX / (1024 * 1024);
            return Err(TemplateError {
                message: format!("all templates together are longer than {most} MiB"),
                line: None,
            });
        }
        let compiled = Template::compile(source)?;
        self.known.insert(source.to_owned(), compiled.clone());
        Ok(compiled)
    }
}

impl Compiler<'_> {
    /// Also warns about a certificate that expires soon, because this runs at every check and reload.
    fn tls(&mut self) -> Option<Tls> {
        let typed = self.config.server.tls.as_ref()?;
        let place = self.config.server_places.of_key("tls");
        let now = Timestamp(jiff::Timestamp::now().as_millisecond());
        match Tls::compile(typed) {
            Ok(tls) => {
                if let Some(warning) = tls.warning(now) {
                    self.problems.warning(place, "server.tls.certificate", warning);
                }
                Some(tls)
            }
            Err(error) => {
                self.problems.error(place, "server.tls", error);
                None
            }
        }
    }

    fn sources(&mut self) -> BTreeMap<Name, Arc<PlannedSource>> {
        let mut paths: HashMap<&str, &config::Source> = HashMap::new();
        let mut planned = BTreeMap::new();
        for source in &self.config.sources {
            let key = format!("source.{}", source.name);
            let path = source.path.get_ref();
            if let Some(other) = paths.insert(path, source) {
                let place = self.problems.location(&other.path.span());
                let message = format!("source `{}` at {place} has the same path `{path}`", other.name);
                self.problems
                    .error(&source.path.span(), format!("{key}.path"), message);
            }
            if let Some(unchanged) = self.unchanged_source(source) {
                planned.insert(source.name.clone(), unchanged);
                continue;
            }
            let context = source::Context {
                name: &source.name,
                path,
                public_url: self.config.server.public_url.as_ref(),
                settings: &source.settings,
                resolver: self.client.resolver(),
            };
            let kind = source.config.as_ref();
            let built = Endpoint::build(kind, &context)
                .and_then(|built| Ok((built, kind.upstream(&context)?, kind.catch_up(&context)?)));
            match built {
                Err(error) => self.problems.error(&source.place, key, error),
                Ok((built, upstream, catch_up)) => {
                    let source_planned = PlannedSource {
                        kind: source.kind,
                        path: path.clone(),
                        source: built,
                        upstream,
                        catch_up,
                    };
                    planned.insert(source.name.clone(), Arc::new(source_planned));
                }
            }
        }
        planned
    }

    fn destinations(&mut self) -> BTreeMap<Name, Arc<PlannedDestination>> {
        let servers = self
            .config
            .smtp
            .iter()
            .map(|smtp| (smtp.name.clone(), smtp.config.clone()))
            .collect();
        let config = self.config;
        let planned = config.destinations.iter().filter_map(|destination| {
            let planned = self
                .unchanged(destination)
                .or_else(|| self.destination(destination, &servers))?;
            Some((destination.name.clone(), planned))
        });
        planned.collect()
    }

    /// The running source, if its configuration and `server.public_url` are unchanged.
    fn unchanged_source(&self, source: &config::Source) -> Option<Arc<PlannedSource>> {
        let previous = self.previous?;
        let before = previous.fingerprints.sources.get(&source.name)?;
        let is_unchanged =
            *before == source.fingerprint && previous.server.public_url == self.config.server.public_url;
        is_unchanged.then(|| previous.sources.get(&source.name).cloned())?
    }

    /// The running destination, if its configuration is unchanged.
    fn unchanged(&self, destination: &config::Destination) -> Option<Arc<PlannedDestination>> {
        let previous = self.previous?;
        let before = previous.fingerprints.destinations.get(&destination.name)?;
        (*before == self.fingerprint(destination))
            .then(|| previous.destinations.get(&destination.name).cloned())?
    }

    fn destination(
        &mut self,
        destination: &config::Destination,
        smtp: &BTreeMap<Name, SmtpConfig>,
    ) -> Option<Arc<PlannedDestination>> {
        let key = format!("destination.{}", destination.name);
        let template = self.template(destination.template.as_ref(), &key);
        self.smtp_ready(destination, &key)?;
        let hold_during = self.intervals(&destination.hold_during, &format!("{key}.hold_during"));
        let context = BuildContext {
            name: &destination.name,
            template: template?,
            timeout: destination.timeout,
            smtp,
            http: &self.client,
        };
        let built = destination.config.build(context);
        let built = built
            .map_err(|error| self.problems.error(&destination.place, &key, error))
            .ok()?;
        if destination.batch.is_some() && built.joins().is_none() {
            let place = destination.places.of_key("batch");
            let message = "has no effect here: this destination sends each message alone";
            self.problems.error(place, format!("{key}.batch"), message);
            return None;
        }
        Some(Arc::new(PlannedDestination {
            name: destination.name.clone(),
            kind: destination.kind,
            policy: destination.policy,
            timeout: destination.timeout,
            concurrency: destination
                .concurrency
                .unwrap_or_else(|| built.concurrency_default()),
            batch: destination.batch,
            destination: built,
            rate: destination.rate,
            late_after: destination.late_after,
            fallback: destination
                .fallback
                .as_ref()
                .and_then(|name| name.get_ref().parse().ok()),
            fallback_after: destination.fallback_after,
            content: destination.content,
            zone: destination.zone.clone(),
            hold_during,
        }))
    }

    /// Checks that the SMTP server of a destination exists. A server with errors was reported already.
    fn smtp_ready(&mut self, destination: &config::Destination, key: &str) -> Option<()> {
        let Some(named) = &destination.smtp else {
            return Some(());
        };
        let declared = &self.config.declared.smtp;
        resolve(
            named,
            declared,
            &format!("{key}.smtp"),
            "SMTP server",
            self.problems,
        );
        self.config
            .smtp
            .iter()
            .any(|smtp| smtp.name.as_str() == named.get_ref())
            .then_some(())
    }

    fn routes(&mut self) -> Vec<Route> {
        let mut names = BTreeMap::new();
        let config = self.config;
        let mut routes = Vec::with_capacity(config.routes.len());
        for route in &config.routes {
            let key = format!("route.{}", route.name);
            if let Some(first) = names.get(&route.name) {
                let first = self.problems.location(first);
                let message = format!("a route with this name is already defined at {first}");
                self.problems.error(&route.place, &key, message);
            } else {
                names.insert(&route.name, route.place.clone());
            }
            routes.extend(self.route(route, &key));
        }
        routes
    }

    fn route(&mut self, route: &config::Route, key: &str) -> Option<Route> {
        let template = self.template(route.template.as_ref(), key);
        let deliver = self.destination_names(&route.deliver, &format!("{key}.deliver"));
        let when = self.conditions(&route.when, key);
        let unless = route
            .unless
            .as_ref()
            .map(|unless| self.conditions(unless, &format!("{key}.unless")));
        Some(Route {
            name: route.name.clone(),
            when,
            unless,
            active: self.intervals(&route.active, &format!("{key}.active")),
            muted: self.intervals(&route.muted, &format!("{key}.muted")),
            urgent: route.urgent,
            deliver,
            proceed: route.proceed,
            template: template?,
        })
    }

    fn conditions(&mut self, conditions: &config::Conditions, key: &str) -> Conditions {
        let sources = conditions.source.as_ref().map(|names| {
            let declared = &self.config.declared.sources;
            names
                .iter()
                .filter_map(|name| resolve(name, declared, &format!("{key}.source"), "source", self.problems))
                .collect()
        });
        let patterns = |list: &Option<Vec<Spanned<Pattern>>>| {
            let list = list.as_ref()?;
            Some(list.iter().map(|pattern| pattern.get_ref().clone()).collect())
        };
        Conditions {
            from: patterns(&conditions.from),
            to: patterns(&conditions.to),
            source: sources,
            message: conditions.message.clone(),
            keyword: conditions.keyword.clone(),
        }
    }

    /// The named time intervals. One with errors was reported already.
    fn intervals(&mut self, names: &[Spanned<String>], key: &str) -> Vec<TimeInterval> {
        let config = self.config;
        let declared = &config.declared.time_intervals;
        let found = names
            .iter()
            .filter_map(|name| resolve(name, declared, key, "time interval", self.problems));
        let named = |name: Name| {
            let mut all = config.time_intervals.iter();
            all.find(|named| named.interval.name == name)
        };
        found
            .filter_map(named)
            .map(|named| named.interval.clone())
            .collect()
    }

    /// The compiled template, or `Some(None)` if the key is missing; `None` if the template has an error.
    fn template(&mut self, template: Option<&Spanned<String>>, key: &str) -> Option<Option<Template>> {
        let Some(text) = template else { return Some(None) };
        let compiled = self.templates.compile(text.get_ref());
        let report = |error: TemplateError| {
            let line = error
                .line
                .map(|line| format!(" (line {line} of it)"))
                .unwrap_or_default();
            self.problems
                .error(&text.span(), format!("{key}.template"), format!("{error}{line}"));
        };
        compiled.map(Some).map_err(report).ok()
    }

    fn destination_names(&mut self, names: &[Spanned<String>], key: &str) -> Vec<Name> {
        names
            .iter()
            .filter_map(|name| self.destination_name(name, key))
            .collect()
    }

    fn destination_name(&mut self, name: &Spanned<String>, key: &str) -> Option<Name> {
        resolve(
            name,
            &self.config.declared.destinations,
            key,
            "destination",
            self.problems,
        )
    }

    /// Checks that every fallback exists, also those of reused destinations, and that they form no cycle, in which a
    /// dead letter would be forwarded for ever.
    fn check_fallbacks(&mut self) {
        let next: HashMap<&str, &str> = self
            .config
            .destinations
            .iter()
            .filter_map(|from| Some((from.name.as_str(), from.fallback.as_ref()?.get_ref().as_str())))
            .collect();
        let mut settled = HashSet::new();
        for destination in &self.config.destinations {
            self.check_fallback_after(destination);
            let Some(fallback) = &destination.fallback else {
                continue;
            };
            let key = format!("destination.{}.fallback", destination.name);
            self.destination_name(fallback, &key);
            if !self.problems.is_full()
                && let Some(cycle) = cycle(destination.name.as_str(), &next, &mut settled)
            {
                let message = format!("the fallbacks form a cycle: {}", cycle.join(" → "));
                self.problems.error(&fallback.span(), key, message);
            }
        }
    }

    fn check_fallback_after(&mut self, destination: &config::Destination) {
        let Some(after) = destination.fallback_after else {
            return;
        };
        let key = format!("destination.{}.fallback_after", destination.name);
        let place = destination.places.of_key("fallback_after");
        let give_up_after = destination.policy.give_up_after;
        if destination.fallback.is_none() {
            let message = "needs `fallback`: the destination that gets the message";
            self.problems.error(place, key, message);
        } else if after >= give_up_after {
            let message = format!(
                "has no effect: a delivery is given up after {} (`retry.give_up_after`), and then the fallback gets the message anyway",
                humantime::format_duration(give_up_after)
            );
            self.problems.warning(place, key, message);
        }
    }

    fn fingerprints(&self) -> Fingerprints {
        let destinations = self.config.destinations.iter();
        Fingerprints {
            sources: self
                .config
                .sources
                .iter()
                .map(|source| (source.name.clone(), source.fingerprint))
                .collect(),
            destinations: destinations
                .map(|one| (one.name.clone(), self.fingerprint(one)))
                .collect(),
            routes: self
                .config
                .routes
                .iter()
                .map(|route| {
                    let with_active = self.with_intervals(route.fingerprint, &route.active);
                    (route.name.clone(), self.with_intervals(with_active, &route.muted))
                })
                .collect(),
        }
    }

    /// The fingerprint of a destination, including those of its SMTP server and of its time intervals.
    fn fingerprint(&self, destination: &config::Destination) -> Fingerprint {
        let named = destination.smtp.as_ref().map(Spanned::get_ref);
        let smtp = self
            .config
            .smtp
            .iter()
            .find(|smtp| Some(smtp.name.as_str()) == named.map(String::as_str));
        let whole = smtp.map_or(destination.fingerprint, |smtp| {
            destination.fingerprint.and(smtp.fingerprint)
        });
        self.with_intervals(whole, &destination.hold_during)
    }

    fn with_intervals(&self, fingerprint: Fingerprint, names: &[Spanned<String>]) -> Fingerprint {
        let all = self.config.time_intervals.iter();
        let named = all.filter(|named| {
            let mut names = names.iter();
            names.any(|name| name.get_ref() == named.interval.name.as_str())
        });
        named.fold(fingerprint, |whole, named| whole.and(named.fingerprint))
    }
}

fn resolve(
    name: &Spanned<String>,
    declared: &BTreeMap<Name, Range<usize>>,
    key: &str,
    what: &str,
    problems: &mut Problems,
) -> Option<Name> {
    let found = declared
        .get_key_value(name.get_ref().as_str())
        .map(|(name, _)| name.clone());
    if found.is_none() {
        let message = if problems.is_full() {
            String::new()
        } else {
            let defined = declared
                .iter()
                .map(|(name, place)| (name.as_str(), problems.location(place)));
            let suggestion = suggestion_of_defined(name.get_ref(), what, defined);
            format!("unknown {what} `{}`{suggestion}", name.get_ref())
        };
        problems.error(&name.span(), key, message);
    }
    found
}

/// The cycle of fallbacks that contains this destination, if there is one. `settled` are destinations known to lead
/// to no cycle through themselves, so that a long chain is followed only once.
fn cycle<'n>(
    start: &'n str,
    next: &HashMap<&'n str, &'n str>,
    settled: &mut HashSet<&'n str>,
) -> Option<Vec<&'n str>> {
    let mut way = vec![start];
    let mut seen = HashSet::from([start]);
    while let Some(here) = way.last().and_then(|last| next.get(last)) {
        if settled.contains(here) || (*here != start && !seen.insert(here)) {
            break;
        }
        way.push(here);
        if *here == start {
            return Some(way);
        }
    }
    // If it leads into a cycle, the members of that cycle are not settled.
    let outside = way.last().and_then(|last| next.get(last));
    let before = way
        .iter()
        .position(|name| Some(name) == outside)
        .unwrap_or(way.len());
    settled.extend(&way[..before]);
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cycle_contains_only_its_members() {
        let next = HashMap::from([
            ("a", "b"),
            ("b", "c"),
            ("c", "d"),
            ("d", "b"),
            ("x", "y"),
            ("y", "z"),
        ]);
        let mut settled = HashSet::new();
        for (start, found) in [
            ("a", None),
            ("b", Some(vec!["b", "c", "d", "b"])),
            ("c", Some(vec!["c", "d", "b", "c"])),
            ("x", None),
            ("y", None),
            ("z", None),
            ("d", Some(vec!["d", "b", "c", "d"])),
        ] {
            assert_eq!(cycle(start, &next, &mut settled), found, "{start}");
        }
        assert_eq!(settled, HashSet::from(["a", "x", "y", "z"]));
    }
}
