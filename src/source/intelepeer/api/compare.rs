//! Compares the configured webhook of each number with the expected one.

use serde::Serialize;
use url::Url;

use crate::mask::Reason;
use crate::model::secret::Secret;
use crate::template::one_line;

use super::{Outcome, State};

/// One number, as printed by `smsbridge intelepeer webhook`. Credentials in URLs are already masked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Row {
    /// The number as requested.
    pub number: String,
    /// The URL that receives its messages; `None` if unknown, or if they go to the provider's own platform.
    pub now: Option<String>,
    /// The expected URL.
    pub wanted: String,
    /// The provisioning state.
    pub state: Option<State>,
    /// Whether its messages are sent here.
    pub ours: bool,
    /// The problem and its fix, if there is a problem.
    pub problem: Option<Reason>,
}

/// Compares the result of the API with the expected URL.
#[must_use]
pub fn compare(wanted: &Secret, outcomes: Vec<(String, Outcome)>) -> Vec<Row> {
    outcomes
        .into_iter()
        .map(|(number, outcome)| row(wanted.reveal(), number, &outcome))
        .collect()
}

/// Masks the credentials and the query of every URL in a string: `https://***@host/path?***`.
#[must_use]
pub fn mask_url(text: &str) -> String {
    let mut masked = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("//") {
        let end = after
            .find(|c: char| c.is_whitespace() || "\"'<>`".contains(c))
            .unwrap_or(after.len());
        let (url, behind) = after.split_at(end);
        masked.extend([before, "//", &mask_one(url)]);
        rest = behind;
    }
    masked + rest
}

/// Masks one URL without its scheme.
fn mask_one(url: &str) -> String {
    let (visible, query) = url
        .split_once('?')
        .map_or((url, ""), |(visible, _)| (visible, "?***"));
    let authority_end = visible.find(['/', '#']).unwrap_or(visible.len());
    // An unencoded slash in a password ends the authority too early. So a later `@` counts too, unless the part
    // before the slash is clearly a host. Masking too much is the safer error.
    let at = visible
        .rfind('@')
        .filter(|&at| at < authority_end || visible[..authority_end].contains(':'));
    match at {
        Some(at) => format!("***{}{query}", &visible[at..]),
        None => format!("{visible}{query}"),
    }
}

fn row(wanted: &str, number: String, outcome: &Outcome) -> Row {
    let (url, state) = match outcome {
        Outcome::Known(webhook) => (webhook.url.as_deref(), webhook.state.clone()),
        _ => (None, None),
    };
    let ours = url.is_some_and(|url| same(url, wanted));
    Row {
        number,
        now: url.map(|url| one_line(&mask_url(url))),
        wanted: mask_url(wanted),
        problem: outcome.problem().or_else(|| trouble(url, wanted, state.as_ref())),
        state,
        ours,
    }
}

/// The problem of a number that exists in the account.
fn trouble(url: Option<&str>, wanted: &str, state: Option<&State>) -> Option<Reason> {
    if state == Some(&State::Error) {
        return Some("the provider failed to set it: set it again, then call their support".into());
    }
    // With masked credentials both URLs look the same, so the difference is stated.
    let anonymous = |url: &str| Url::parse(url).ok().map(without_credentials);
    let url = url.filter(|url| !same(url, wanted))?;
    let differs = anonymous(url).is_some_and(|url| Some(url) == anonymous(wanted));
    differs.then(|| "points here, but with other credentials than `basic_auth`".into())
}

fn without_credentials(mut url: Url) -> Url {
    // Fails only for URLs that cannot have credentials.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url
}

/// Compares as URLs: `HTTPS://Host:443` equals `https://host/`.
fn same(one: &str, other: &str) -> bool {
    one == other || Url::parse(one).is_ok_and(|one| Url::parse(other).is_ok_and(|other| one == other))
}

#[cfg(test)]
mod tests {
    use super::super::Webhook;
    use super::*;

    #[test]
    fn credentials_in_urls_are_masked() {
        for (text, expected) in [
            ("https://a.example/b", "https://a.example/b"),
            ("https://u:p@a.example/b", "https://***@a.example/b"),
            ("https://u:p@x@a.example", "https://***@a.example"),
            ("https://u:p/q@a.example/b", "https://***@a.example/b"),
            ("https://token@a.example/b?key=1&x", "https://***@a.example/b?***"),
            ("https://a.example/@user", "https://a.example/@user"),
            (
                "bad URL \"https://u:p@a.example\" and http://b:c@d",
                "bad URL \"https://***@a.example\" and http://***@d",
            ),
            ("no URL", "no URL"),
        ] {
            assert_eq!(mask_url(text), expected, "{text}");
        }
    }

    #[test]
    fn a_number_is_correct_if_its_webhook_is_the_expected_url() {
        let wanted = Secret::new("https://u:p@sms.example.com/inbound");
        for (url, ours, problem) in [
            (Some("https://u:p@sms.example.com/inbound"), true, None),
            (Some("HTTPS://u:p@SMS.example.com:443/inbound"), true, None),
            (
                Some("https://u:old@sms.example.com/inbound"),
                false,
                Some("other credentials"),
            ),
            (Some("https://other.example.com/"), false, None),
            (None, false, None),
        ] {
            let webhook = Webhook {
                url: url.map(str::to_owned),
                state: Some(State::Provisioned),
            };
            let rows = compare(
                &wanted,
                vec![("+12161112222".to_owned(), Outcome::Known(webhook))],
            );
            assert_eq!(rows[0].ours, ours, "{url:?}");
            assert_eq!(rows[0].problem.is_some(), problem.is_some(), "{url:?}");
            assert!(!format!("{rows:?}").contains(":p@"), "{rows:?}");
        }
    }

    #[test]
    fn a_failure_has_its_own_row() {
        let outcomes = vec![("1-1234".to_owned(), Outcome::NotOurs("HTTP 404".into()))];
        let rows = compare(&Secret::new("https://a.example/"), outcomes);
        assert!(!rows[0].ours && rows[0].now.is_none());
        assert!(
            rows[0]
                .problem
                .as_ref()
                .unwrap()
                .shown()
                .contains("not a number of this account")
        );
    }
}
