//! Lints: checks for settings that are legal but probably a mistake. Each kind uses them for its own table.

use std::net::IpAddr;

use url::Url;

use super::secret::Secrets;

/// A lint for one key of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lint {
    /// The key, as a path below the table: `basic_auth.password`.
    pub key: &'static str,
    /// A sentence for the operator that ends with the next step. Contains no secret.
    pub message: String,
}

impl Lint {
    /// A lint for this key.
    #[must_use]
    pub fn new(key: &'static str, message: impl Into<String>) -> Self {
        Self {
            key,
            message: message.into(),
        }
    }
}

/// The placeholder for secrets in all examples.
const EXAMPLE: &str = "change-me";

/// Minimum length of a secret that is not considered weak.
const LENGTH_MIN: usize = 16;

/// Detects a placeholder that was not replaced.
#[must_use]
pub fn example_secret(secret: &str) -> Option<&'static str> {
    (secret == EXAMPLE).then_some(
        "is still `change-me`, as in the examples: replace it with a secret (`openssl rand -hex 24` makes one)",
    )
}

/// Detects a weak secret. Only for secrets that the operator chooses, not for those issued by another service.
#[must_use]
pub fn weak_secret(secret: &str) -> Option<&'static str> {
    example_secret(secret).or_else(|| {
        (secret.chars().count() < LENGTH_MIN).then_some(
            "is shorter than 16 characters and can be guessed: use a longer one (`openssl rand -hex 24` makes one)",
        )
    })
}

/// Detects a URL with `http://` to another host; `what` names the data that would be exposed.
#[must_use]
pub fn plain_http(url: &str, what: &str) -> Option<String> {
    let url = Url::parse(url).ok()?;
    let host = url.host_str()?;
    (url.scheme() == "http" && !is_this_host(host))
        .then(|| format!("{what} would cross the network to {host} unencrypted: use https://"))
}

/// The lint for the URL of a webhook, which is a secret, if it crosses the network unencrypted.
#[must_use]
pub fn secret_url(key: &'static str, url: Option<&Secrets>) -> Option<Lint> {
    let found = url?.find(|url| plain_http(url, "the webhook's URL, which is a secret,"));
    Some(Lint::new(key, found?))
}

/// The lint for the address of an API to which `what` is sent, if that crosses the network unencrypted.
#[must_use]
pub fn open_url(key: &'static str, url: Option<&str>, what: &str) -> Option<Lint> {
    Some(Lint::new(key, plain_http(url?, what)?))
}

/// The lint for a token that another service issues, if it is the placeholder of the examples.
#[must_use]
pub fn issued(key: &'static str, token: Option<&Secrets>) -> Option<Lint> {
    Some(Lint::new(key, token?.find(example_secret)?))
}

/// Returns true if the host is this machine: `localhost`, or a loopback address with or without brackets.
#[must_use]
pub fn is_this_host(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let name = bare.to_ascii_lowercase();
    name == "localhost"
        || name.ends_with(".localhost")
        || bare
            .parse::<IpAddr>()
            .is_ok_and(|address| address.to_canonical().is_loopback())
}

/// Returns true if a listener on this address can be reached from the internet: an unspecified or a public address.
#[must_use]
pub fn is_public(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => !(v4.is_loopback() || v4.is_private() || v4.is_link_local()),
        IpAddr::V6(v6) => !(v6.is_loopback() || v6.is_unique_local() || v6.is_unicast_link_local()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn examples_and_short_secrets_are_weak() {
        assert!(weak_secret("change-me").unwrap().contains("examples"));
        assert!(weak_secret("123456789012345").unwrap().contains("16 characters"));
        assert_eq!(weak_secret("1234567890123456"), None);
        assert_eq!(example_secret("short"), None);
    }

    #[test]
    fn only_plain_http_to_another_host_is_a_finding() {
        for (url, found) in [
            ("https://example.com/", false),
            ("http://example.com/", true),
            ("http://192.0.2.1:8080/x", true),
            ("http://localhost:8080/", false),
            ("http://127.1.2.3/", false),
            ("http://[::1]/", false),
            ("http://[2001:db8::1]/", true),
            ("no URL", false),
        ] {
            assert_eq!(plain_http(url, "the token").is_some(), found, "{url}");
        }
        assert_eq!(
            plain_http("http://u:p@example.com/", "the token").unwrap(),
            "the token would cross the network to example.com unencrypted: use https://"
        );
    }

    #[test]
    fn addresses_of_a_private_network_are_not_public() {
        for (address, public) in [
            ("0.0.0.0", true),
            ("::", true),
            ("203.0.113.7", true),
            ("2001:db8::1", true),
            ("127.0.0.1", false),
            ("::ffff:127.0.0.1", false),
            ("10.0.0.1", false),
            ("192.168.1.1", false),
            ("fd00::1", false),
            ("fe80::1", false),
        ] {
            assert_eq!(is_public(address.parse().unwrap()), public, "{address}");
        }
    }
}
