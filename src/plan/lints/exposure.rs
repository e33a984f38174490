//! Lints about exposure: listeners reachable from other machines, unencrypted connections, and secrets that can be
//! guessed. Each kind checks its own table.

use crate::config::{Config, Places, Problems, Source};
use crate::model::lint::{self, Lint};

pub(super) fn note(config: &Config, problems: &mut Problems) {
    server(config, problems);
    admin(config, problems);
    let exposed = is_exposed(config);
    for source in &config.sources {
        let mut lints = source.config.lints(&source.settings, exposed);
        lints.extend(source.settings.access.lints(exposed));
        lints.extend(replay(source, config));
        report(
            &format!("source.{}", source.name),
            &source.places,
            lints,
            problems,
        );
    }
    for smtp in &config.smtp {
        report(
            &format!("smtp.{}", smtp.name),
            &smtp.places,
            smtp.config.lints(),
            problems,
        );
    }
    for destination in &config.destinations {
        let key = format!("destination.{}", destination.name);
        report(&key, &destination.places, destination.config.lints(), problems);
    }
}

/// Warns if a recorded request is accepted for longer than it is recognised as a duplicate.
fn replay(source: &Source, config: &Config) -> Option<Lint> {
    let own = source.settings.dedup_window;
    let own = own.or(source.config.defaults().dedup_window);
    let deduplicated = own.unwrap_or(config.store.dedup_window);
    let accepted = source.config.replay_window()?;
    (deduplicated < accepted).then(|| {
        let message = format!(
            "the window of {} (here or in `store`) is too short: a recorded request is accepted for {}, so it could be \
             replayed in between",
            humantime::format_duration(deduplicated),
            humantime::format_duration(accepted),
        );
        Lint::new("dedup_window", message)
    })
}

fn report(table: &str, places: &Places, lints: Vec<Lint>, problems: &mut Problems) {
    for lint in lints {
        problems.warning(
            places.of_key(lint.key),
            format!("{table}.{}", lint.key),
            lint.message,
        );
    }
}

/// Returns true if other machines can post to the sources, directly or through the proxy of `public_url`. On a
/// machine that nothing else can reach, the placeholder of a secret is harmless.
fn is_exposed(config: &Config) -> bool {
    let server = &config.server;
    let public = server.public_url.as_ref().and_then(url::Url::host_str);
    !server.listen.ip().to_canonical().is_loopback() || public.is_some_and(|host| !lint::is_this_host(host))
}

fn server(config: &Config, problems: &mut Problems) {
    let (server, places) = (&config.server, &config.server_places);
    let mut lints = Vec::new();
    // With trusted proxies there is a proxy in front, which does TLS.
    let plain = server.tls.is_none() && server.trusted_proxies.is_empty();
    if plain && lint::is_public(server.listen.ip()) {
        let message = "accepts connections from other machines without encryption: set `server.tls`, or listen on \
                       127.0.0.1 behind a TLS proxy (name a proxy on another machine in `server.trusted_proxies`)";
        lints.push(Lint::new("listen", message));
    }
    let public_url = server.public_url.as_ref().map(url::Url::as_str);
    let plain = public_url.and_then(|url| lint::plain_http(url, "every message and its secret"));
    lints.extend(plain.map(|message| Lint::new("public_url", message)));
    report("server", places, lints, problems);
}

fn admin(config: &Config, problems: &mut Problems) {
    let admin = &config.admin;
    let mut lints = Vec::new();
    if admin.listen.is_some_and(|listen| lint::is_public(listen.ip())) {
        let message = "accepts connections from other machines without encryption, and the token gives access to every \
                       message: listen on 127.0.0.1, and reach it through a TLS proxy or an SSH tunnel";
        lints.push(Lint::new("listen", message));
    }
    let token = admin.token.as_ref().filter(|_| admin.listen.is_some());
    let weak = token.and_then(|token| token.find(lint::weak_secret));
    lints.extend(weak.map(|message| Lint::new("token", message)));
    report("admin", &config.admin_places, lints, problems);
}
