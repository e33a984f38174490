//! Finds the cause when a request is signed for another URL than `server.public_url`: the signature would be valid with
//! another scheme, host, port or path prefix.
//!
//! This only improves the refusal. A request is never accepted for such a URL, because the sender chooses the header
//! fields from which it is built.

use http::header::HOST;
use http::uri::Authority;
use url::Url;

use super::url_form;
use crate::source::{BasicAuth, Refusal, Request, Target};

/// Upper bound of the URLs that are tried for one request, each with and without its default port: an unverified
/// request must not cost more.
const TRIED_MAX: usize = 12;

/// The refusal of a request whose signature is not valid for `server.public_url`. It names the base of another URL if
/// the signature is valid for that one. Only a sender with the key can cause this.
pub fn refusal(
    request: &Request<'_>,
    basic_auth: Option<&BasicAuth>,
    is_signed: impl Fn(&str) -> bool,
) -> Refusal {
    let is_signed_for = |base: &Url| {
        let target = Target {
            public_url: Some(base),
            ..request.target
        };
        url_form::urls(&target, basic_auth)
            .iter()
            .any(|url| is_signed(url))
    };
    match bases(request).into_iter().find(is_signed_for) {
        Some(base) => Refusal::wrong_url(base.as_str().trim_end_matches('/')),
        None => Refusal::forbidden(),
    }
}

/// The values that `server.public_url` could have instead, the likely ones first.
fn bases(request: &Request<'_>) -> Vec<Url> {
    let Some(public_url) = request.target.public_url else {
        return Vec::new();
    };
    let host = public_url.host_str().unwrap_or_default();
    let with_port = public_url.port().map(|port| format!("{host}:{port}"));
    let named = [HOST.as_str(), "x-forwarded-host"].map(|name| authority(request.header(name)?));
    let authorities = with_port.into_iter().chain([host.to_owned()]);
    let authorities: Vec<String> = authorities.chain(named.into_iter().flatten()).collect();
    let prefixes = [
        public_url.path().trim_end_matches('/'),
        "",
        request.header("x-forwarded-prefix").unwrap_or_default(),
    ];
    let mut bases = Vec::new();
    for prefix in prefixes {
        for authority in &authorities {
            for scheme in ["https", "http"] {
                let base = base(scheme, authority, prefix).filter(|base| !is_same(base, public_url));
                bases.extend(base.filter(|base| !bases.contains(base)));
            }
        }
    }
    bases.truncate(TRIED_MAX);
    bases
}

/// The first host of a header field, with its port.
fn authority(value: &str) -> Option<String> {
    let first = value.split(',').next().unwrap_or_default().trim();
    let authority: Authority = first.parse().ok()?;
    (!first.contains('@')).then(|| authority.to_string())
}

/// A URL that `server.public_url` may be: without user, query and fragment.
fn base(scheme: &str, authority: &str, prefix: &str) -> Option<Url> {
    let prefix = prefix.trim_end_matches('/');
    let is_path = prefix.is_empty() || (prefix.starts_with('/') && !prefix.contains(['?', '#', '\\']));
    let url = Url::parse(&format!("{scheme}://{authority}{prefix}")).ok()?;
    (is_path && url.host().is_some()).then_some(url)
}

fn is_same(one: &Url, other: &Url) -> bool {
    one.as_str().trim_end_matches('/') == other.as_str().trim_end_matches('/')
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::HeaderMap;

    use super::*;

    /// The refusal of a request with these header fields that is signed for `signed`.
    fn refused(public_url: &str, fields: &[(&'static str, &str)], signed: &str) -> (Option<String>, usize) {
        let public_url: Url = public_url.parse().unwrap();
        let fields = fields.iter();
        let headers: HeaderMap = fields
            .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
            .collect();
        let body = Bytes::new();
        let request = Request {
            target: Target {
                public_url: Some(&public_url),
                path_and_query: "/in?a=b",
            },
            ..Request::post([192, 0, 2, 1].into(), &headers, &body)
        };
        let tried = std::cell::Cell::new(0);
        let refusal = refusal(&request, None, |url| {
            tried.set(tried.get() + 1);
            url == signed
        });
        assert_eq!(refusal.status, 403);
        assert_eq!(refusal.error, "refused", "the sender does not learn it");
        assert_eq!(refusal.reason == "public_url", refusal.signed_for.is_some());
        (refusal.signed_for, tried.get())
    }

    #[test]
    fn the_base_for_which_the_signature_is_valid_is_named() {
        let host = ("host", "bridge.internal:8080");
        let forwarded = ("x-forwarded-host", "sms.example.net, proxy");
        let prefix = ("x-forwarded-prefix", "/hooks/");
        for (public_url, fields, signed, base) in [
            (
                "https://sms.example.com",
                &[][..],
                "http://sms.example.com/in?a=b",
                "http://sms.example.com",
            ),
            (
                "https://sms.example.com",
                &[],
                "http://sms.example.com:80/in?a=b",
                "http://sms.example.com",
            ),
            (
                "https://sms.example.com:8443",
                &[],
                "https://sms.example.com/in?a=b",
                "https://sms.example.com",
            ),
            (
                "https://sms.example.com",
                &[host],
                "http://bridge.internal:8080/in?a=b",
                "http://bridge.internal:8080",
            ),
            (
                "https://sms.example.com",
                &[host, forwarded],
                "https://sms.example.net/in?a=b",
                "https://sms.example.net",
            ),
            (
                "https://sms.example.com/sms",
                &[host],
                "https://sms.example.com/in?a=b",
                "https://sms.example.com",
            ),
            (
                "https://sms.example.com",
                &[prefix],
                "https://sms.example.com/hooks/in?a=b",
                "https://sms.example.com/hooks",
            ),
        ] {
            let (signed_for, _) = refused(public_url, fields, signed);
            assert_eq!(signed_for.as_deref(), Some(base), "{signed}");
        }
    }

    #[test]
    fn another_path_a_hostile_header_and_the_public_url_itself_name_nothing() {
        let hostile = [
            ("host", "user:password@evil.example"),
            ("x-forwarded-host", "evil.example/../x?"),
            ("x-forwarded-prefix", "//evil?#"),
        ];
        for signed in [
            "https://sms.example.com/in?a=b",
            "https://sms.example.com/other?a=b",
            "https://user:password@evil.example/in?a=b",
            "https://evil.example/in?a=b",
        ] {
            assert_eq!(
                refused("https://sms.example.com", &hostile, signed).0,
                None,
                "{signed}"
            );
        }
    }

    #[test]
    fn the_work_is_bounded() {
        let fields = [
            ("host", "a.example"),
            ("x-forwarded-host", "b.example:8080"),
            ("x-forwarded-prefix", "/x"),
        ];
        let (signed_for, tried) = refused("https://sms.example.com:8443/sms", &fields, "");
        assert_eq!(signed_for, None);
        assert!(tried <= 2 * TRIED_MAX, "{tried}");
    }
}
