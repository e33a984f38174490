//! Which links may be clickable, in every medium. The page has the same rules in `assets/link.js`; both are
//! tested with `tests/fixtures/links.json`.

/// Maximum length of a clickable link, in bytes.
const LINK_MAX: usize = 2048;

/// Returns the link if it may be clickable: it shows where it leads.
///
/// It begins with `http://` or `https://`, followed by the host as a browser reads it, an optional port, and
/// only ASCII that ends neither an attribute nor a Slack link. So it has no user name
/// (`https://bank.example@evil.example/` leads to `evil.example`), no backslash, white space or control
/// character, and a name in another script only as `xn--…`. Other links are shown as text.
#[must_use]
pub fn safe_link(link: &str) -> Option<&str> {
    if link.len() > LINK_MAX || !link.bytes().all(is_ordinary) {
        return None;
    }
    let (scheme, rest) = link.split_once("://")?;
    let is_web = ["http", "https"]
        .iter()
        .any(|web| scheme.eq_ignore_ascii_case(web));
    let host = host(rest.split(['/', '?', '#']).next()?)?;
    // The parser decodes `%6c`, and reads `0x7f.1` and `2130706433` as addresses.
    let url = url::Url::parse(link).ok().filter(|_| is_web)?;
    url.host_str()?.eq_ignore_ascii_case(host).then_some(link)
}

fn is_ordinary(byte: u8) -> bool {
    byte.is_ascii_graphic() && !b"<>\"\\^`{|}".contains(&byte)
}

/// The host in `HOST` or `HOST:PORT`, if it is a non-empty name or an address.
fn host(authority: &str) -> Option<&str> {
    let end = match authority.strip_prefix('[') {
        Some(address) => address.find(']')? + 2,
        None => authority.find(':').unwrap_or(authority.len()),
    };
    let (host, port) = authority.split_at(end);
    let is_port = |port: &str| !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    let has_port = port.strip_prefix(':').is_some_and(is_port);
    let is_host = host
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b"-._[:]".contains(&byte));
    (!host.is_empty() && is_host && (port.is_empty() || has_port)).then_some(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(serde::Deserialize)]
    struct Fixture {
        links: Vec<String>,
        texts: Vec<String>,
    }

    #[test]
    fn only_a_link_that_shows_its_host_is_a_link() {
        let fixture: Fixture = serde_json::from_str(include_str!("../../tests/fixtures/links.json")).unwrap();
        assert!(fixture.links.len() > 10 && fixture.texts.len() > 60);
        let refused: Vec<_> = fixture
            .links
            .iter()
            .filter(|link| safe_link(link).is_none())
            .collect();
        let accepted: Vec<_> = fixture
            .texts
            .iter()
            .filter(|text| safe_link(text).is_some())
            .collect();
        assert!(
            refused.is_empty() && accepted.is_empty(),
            "refused {refused:#?}, accepted {accepted:#?}"
        );
        let longest = format!("https://example.com/{}", "x".repeat(LINK_MAX - 20));
        assert!(safe_link(&longest).is_some() && safe_link(&(longest + "x")).is_none());
    }
}
