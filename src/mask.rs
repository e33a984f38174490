//! Masks the answers of other servers before they are stored, shown or logged.
//!
//! An answer may quote the request: an error page the URL and the headers, a mail server the recipient and
//! the subject, an API the unknown token. So every answer passes a [`Mask`] and becomes an [`Excerpt`]:
//! short, on one line, with `***` in place of the configuration's secrets and the message's own words and
//! numbers, however they are quoted. The log gets less: a [`Reason`] separates the bridge's own words (a
//! status, an error code, what to do) from excerpts, which only the API, the page and the commands show.
//!
//! | masked | if it is |
//! |---|---|
//! | a secret | of 6 characters or more; of one with 16 or more, also any 8 in a row |
//! | the message body, links and file names | any 6 letters or digits in a row; whole words of 4 letters, of 3 with a digit, or of 2 that are not ASCII |
//! | its numbers | any 5 digits in a row |
//!
//! Shorter values are not masked: with a secret `error`, no message would stay readable. Case, white space
//! and punctuation are ignored, and escapes of JSON, HTML, URLs and quoted-printable are decoded, as is
//! base64.

mod quoting;
mod search;

use std::fmt;

use url::Url;

use crate::model::message::Message;
use crate::model::secret::{Secret, Secrets};
use crate::template::{one_line, shorten};

use quoting::decode_base64;
use search::Search;

/// Maximum length of an excerpt, in characters.
const EXCERPT_MAX: usize = 160;

/// How much of an answer is examined, in characters. It is more than is shown because masking shortens it.
const SAID_MAX: usize = 1024;

/// Minimum length of a secret that is masked, in characters.
const SECRET_MIN: usize = 6;

/// Path segments that are common in the URLs of services, and not secret.
const ORDINARY_SEGMENTS: &[&str] = &[
    "_matrix",
    "alerts",
    "callback",
    "client",
    "events",
    "inbound",
    "incoming",
    "integrations",
    "message",
    "messages",
    "notify",
    "public",
    "receive",
    "services",
    "trigger",
    "triggers",
    "webhook",
    "webhooks",
    "workflows",
];

/// A masked answer. Only a [`Mask`] creates it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Excerpt(String);

impl Excerpt {
    /// The words; empty if there was no answer.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The reason of an outcome, in two forms: for the log, in the bridge's own words, and for the operator, with
/// excerpts.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Reason {
    logged: String,
    shown: String,
}

impl Reason {
    /// Restores a reason from its stored forms for the log and for the operator.
    #[must_use]
    pub fn recalled(logged: String, shown: String) -> Self {
        Self { logged, shown }
    }

    /// The form for the log: it contains no words of another server.
    #[must_use]
    pub fn logged(&self) -> &str {
        &self.logged
    }

    /// The form for the API, the page and the commands.
    #[must_use]
    pub fn shown(&self) -> &str {
        &self.shown
    }

    /// Appends the bridge's own words.
    #[must_use]
    pub fn own(mut self, words: &str) -> Self {
        self.logged.push_str(words);
        self.shown.push_str(words);
        self
    }

    /// Appends an excerpt after `separator`; neither is logged.
    #[must_use]
    pub fn quote(mut self, separator: &str, excerpt: &Excerpt) -> Self {
        if !excerpt.0.is_empty() {
            self.shown.push_str(separator);
            self.shown.push_str(&excerpt.0);
        }
        self
    }

    /// Appends another reason.
    #[must_use]
    pub fn and(mut self, other: &Self) -> Self {
        self.logged.push_str(&other.logged);
        self.shown.push_str(&other.shown);
        self
    }
}

/// A reason in the bridge's own words.
impl From<String> for Reason {
    fn from(words: String) -> Self {
        Self {
            logged: words.clone(),
            shown: words,
        }
    }
}

/// A reason in the bridge's own words.
impl From<&str> for Reason {
    fn from(words: &str) -> Self {
        Self::from(words.to_owned())
    }
}

/// Serializes the form for the operator.
impl serde::Serialize for Reason {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.shown)
    }
}

/// Formats the form for the log, because `Debug` output is logged.
impl fmt::Debug for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.logged, f)
    }
}

/// The secrets that a client of another server knows and must not repeat.
#[derive(Clone, Default)]
pub struct Mask {
    secrets: Vec<String>,
}

impl fmt::Debug for Mask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mask").finish_non_exhaustive()
    }
}

impl Mask {
    /// Masks a secret.
    #[must_use]
    pub fn secret(mut self, secret: &Secret) -> Self {
        self.add(secret.reveal());
        self
    }

    /// Masks each of several secrets.
    #[must_use]
    pub fn secrets(self, secrets: &Secrets) -> Self {
        secrets.all().iter().fold(self, Self::secret)
    }

    /// Masks the parts of a URL that may be secret: user name and password, the segments of its path and the
    /// values of its query.
    #[must_use]
    pub fn url(mut self, url: &Url) -> Self {
        let segments = url.path_segments().into_iter().flatten();
        for segment in segments.filter(|segment| !ORDINARY_SEGMENTS.contains(segment)) {
            self.add(segment);
        }
        for (key, value) in url.query_pairs() {
            // `?TOKEN` is a key without a value.
            self.add(if value.is_empty() { &key } else { &value });
        }
        self.add(url.username());
        self.add(url.password().unwrap_or_default());
        self
    }

    /// Masks the value of a header: `TOKEN`, `Bearer TOKEN`, or the password inside `Basic …`.
    #[must_use]
    pub fn header(mut self, value: &str) -> Self {
        self.add(value);
        let mut parts = value.split_ascii_whitespace();
        let scheme = parts.next().unwrap_or_default();
        for part in parts {
            self.add(part);
            if scheme.eq_ignore_ascii_case("basic")
                && let Some(decoded) = decode_base64(part, 0)
                && let Some((_, password)) = decoded.split_once(':')
            {
                self.add(password);
            }
        }
        self
    }

    /// Masks an answer, about `message` or in general.
    #[must_use]
    pub fn excerpt(&self, said: &str, message: Option<&Message>) -> Excerpt {
        let said: Vec<char> = said.trim().chars().take(SAID_MAX).collect();
        if said.is_empty() {
            return Excerpt::default();
        }
        let hidden = Search::new(&self.secrets, message).hidden(&said);
        let mut shown = String::new();
        for (at, character) in said.iter().enumerate() {
            match hidden[at] {
                false => shown.push(*character),
                true if at > 0 && hidden[at - 1] => {}
                true => shown.push_str("***"),
            }
        }
        let words: Vec<String> = shown.split_whitespace().map(one_line).collect();
        let mut shown = words.join(" ");
        while shown.contains("*** ***") {
            shown = shown.replace("*** ***", "***");
        }
        Excerpt(shorten(&shown, EXCERPT_MAX))
    }

    /// Masks the error of a library or the system about a connection: short, on one line, and without
    /// secrets. It does not quote the other server, so it may be logged.
    #[must_use]
    pub fn error(&self, words: &str) -> String {
        self.excerpt(words, None).0
    }

    /// Returns true if an error code may be logged because it repeats neither a secret nor a word of the
    /// message.
    #[must_use]
    pub fn permits(&self, code: &str, message: Option<&Message>) -> bool {
        let code: Vec<char> = code.chars().take(SAID_MAX).collect();
        !Search::new(&self.secrets, message).hidden(&code).contains(&true)
    }

    fn add(&mut self, secret: &str) {
        if secret.chars().count() >= SECRET_MIN && !self.secrets.iter().any(|known| known == secret) {
            self.secrets.push(secret.to_owned());
        }
    }
}

/// A message for tests of masking.
#[cfg(test)]
pub(crate) fn sample(text: &str) -> Message {
    use crate::model::message::{Media, MessageId, Timestamp};
    use crate::model::number::Number;
    Message {
        id: MessageId(uuid::Uuid::from_u128(7)),
        source: "carrier".parse().unwrap(),
        provider_id: "P1".to_owned(),
        from: Number::parse("+13035550100").unwrap(),
        to: Number::parse("+13038675309").unwrap(),
        text: text.to_owned(),
        media: vec![Media {
            link: "https://mms.example/private/picture.jpg".to_owned(),
            content_type: Some("image/jpeg".to_owned()),
            filename: None,
        }],
        extra: std::collections::BTreeMap::new(),
        received_at: Timestamp(0),
        routes: Vec::new(),
        redacted_at: None,
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
    use proptest::prelude::*;

    use super::sample as message;
    use super::*;
    fn mask() -> Mask {
        Mask::default()
            .secret(&Secret::new("s3cret"))
            .secret(&Secret::new("xoxb-1234567890-ABCDEFGHIJ"))
            .secret(&Secret::new("p%41ss+wo/rd=="))
            .url(
                &Url::parse(
                    "https://user:pass-word@h.example/services/T0AB1CD/hook%20key?key=queryvalue&baretoken",
                )
                .unwrap(),
            )
            .header("Bearer HEADERTOKEN")
            .header("Basic dXNlcjpiYXNpY3B3")
    }

    #[test]
    fn own_secrets_are_masked_and_the_rest_is_shown() {
        for (said, shown) in [
            ("token s3cret is not known", "token *** is not known"),
            ("token S3CRET", "token ***"),
            ("s3cre", "s3cre"),
            ("Bearer xoxb-1234567890-ABCDEFGHIJ!", "Bearer ***!"),
            ("token xoxb-1234567890-ABC… expired", "token ***… expired"),
            ("ends in 90-ABCDEFGHIJ", "ends in ***"),
            ("p%41ss+wo/rd== pAss+wo/rd==", "***"),
            ("p%2541ss%2Bwo%2Frd%3D%3D", "***"),
            (
                "Cannot POST /services/T0AB1CD/hook%20key?key=queryvalue",
                "Cannot POST /services/***/***?key=***",
            ),
            (
                "no hook key at h.example, no baretoken",
                "no *** at h.example, no ***",
            ),
            ("https://user:pass-word@h.example/", "https://user:***@h.example/"),
            (
                "unknown HEADERTOKEN, basicpw, dXNlcjpiYXNpY3B3",
                "unknown ***, ***, ***",
            ),
            ("dXNl cjpi YXNp Y3B3", "***"),
            ("", ""),
            (" a\r\n\tb \u{202e}c\0 ", "a b [U+202E]c[U+0000]"),
            (
                "invalid_auth: the webhook of these services is gone",
                "invalid_auth: the webhook of these services is gone",
            ),
        ] {
            assert_eq!(mask().excerpt(said, None).as_str(), shown, "{said:?}");
        }
    }

    #[test]
    fn the_words_and_numbers_of_the_message_are_masked() {
        let message = message("My PIN is 4711, door code 99b.\nПривет из Москвы! 救命");
        for (said, shown) in [
            ("bad text: My PIN is 4711, door code 99b.", "bad text: ***."),
            ("bad text: my pin is", "bad text: ***"),
            ("pin 4711", "pin ***"),
            ("use door 99b", "use *** ***"),
            ("<+1 (303) 555-0100>: unknown", "<+***>: unknown"),
            ("303.555.0100 and 8675309", "*** and ***"),
            ("SMS from +13035550100 to +13038675309", "SMS from +*** to +***"),
            ("\\u041f\\u0440\\u0438\\u0432\\u0435\\u0442", "***"),
            ("%D0%9F%D1%80%D0%B8%D0%B2%D0%B5%D1%82+%D0%B8%D0%B7", "***"),
            ("=D0=9F=D1=80=D0=B8=D0=B2=D0=B5=D1=82", "***"),
            ("&#1055;&#x440;&#1080;&#1074;&#1077;&#1090;", "***"),
            ("救命!", "***!"),
            ("cannot fetch picture.jpg", "cannot fetch ***"),
            ("the text is too long (403)", "the text is too long (403)"),
        ] {
            let shown = shown.replace("*** ***", "***");
            assert_eq!(mask().excerpt(said, Some(&message)).as_str(), shown, "{said:?}");
        }
    }

    #[test]
    fn codes_may_be_logged_unless_they_repeat_something() {
        let message = message("hello_world");
        for (code, expected) in [
            ("invalid_auth", true),
            ("s3cret", false),
            ("hello_world", false),
            ("hello", false),
        ] {
            assert_eq!(mask().permits(code, Some(&message)), expected, "{code}");
        }
    }

    #[test]
    fn short_secrets_mask_nothing() {
        let mask = Mask::default().secret(&Secret::new("error")).header("Bearer ok");
        assert_eq!(mask.excerpt("error: not ok", None).as_str(), "error: not ok");
    }

    #[test]
    fn an_excerpt_of_a_long_answer_is_short() {
        let long = mask().excerpt(&"a b".repeat(100_000), Some(&message("hello")));
        assert_eq!(long.as_str().chars().count(), EXCERPT_MAX + 1);
        let masked = mask().excerpt(&"s3cret ".repeat(100_000), None);
        assert!(masked.as_str().len() < 20, "{masked:?}");
    }

    #[test]
    fn a_reason_is_logged_without_excerpts() {
        let reason = Reason::from("HTTP 403")
            .quote(": ", &mask().excerpt("no s3cret", None))
            .quote(": ", &Excerpt::default())
            .own("; check `url`");
        assert_eq!(reason.logged(), "HTTP 403; check `url`");
        assert_eq!(reason.shown(), "HTTP 403: no ***; check `url`");
        assert_eq!(format!("{reason:?}"), "\"HTTP 403; check `url`\"");
    }

    /// Quotes `text` in one of the ways that servers do.
    fn quoted(text: &str, how: usize) -> String {
        let bytes = || text.bytes();
        match how {
            0 => serde_json::Value::from(text).to_string(),
            1 => text.encode_utf16().map(|unit| format!("\\u{unit:04X}")).collect(),
            2 => percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string(),
            3 => bytes().map(|byte| format!("%{byte:02x}")).collect(),
            4 => text
                .replace('&', "&amp;")
                .replace('<', "&lt;")
                .replace('"', "&quot;"),
            5 => text.chars().map(|c| format!("&#{};", u32::from(c))).collect(),
            6 => bytes().map(|byte| format!("={byte:02X}")).collect(),
            7 => STANDARD.encode(text),
            8 => URL_SAFE_NO_PAD.encode(format!("x {text} z")),
            9 => text.to_uppercase(),
            10 => text.replace(' ', "\r\n\t"),
            _ => text.to_owned(),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn no_quoting_reveals_anything(
            secret in "[!-~]{6,40}",
            text in "[a-zà-öø-ÿа-я]{4,12}( [a-zа-я0-9]{1,8}){1,6}",
            inner in 0..12_usize,
            outer in 0..8_usize,
            before in "[ -~]{0,20}[ :]",
        ) {
            let mask = Mask::default().secret(&Secret::new(secret.clone()));
            let message = message(&text);
            for private in [&secret, &text] {
                let once = quoted(private, inner);
                let twice = quoted(&once, outer);
                for said in [&once, &twice] {
                    let shown = mask.excerpt(&format!("{before}{said} is bad"), Some(&message));
                    for form in [private.as_str(), &once, &twice] {
                        prop_assert!(!shown.as_str().contains(form), "{said:?} became {shown:?}");
                    }
                    let longest = private.split(' ').max_by_key(|word| word.len()).unwrap();
                    prop_assert!(!shown.as_str().contains(longest), "{said:?} became {shown:?}");
                }
            }
        }

        #[test]
        fn nothing_makes_it_panic(said in any::<String>(), text in any::<String>(), like in "[&#;%=\\\\uxX0-9a-f]{0,40}") {
            let mask = mask().secret(&Secret::new(text.clone())).header(&text);
            for said in [&said, &like] {
                let shown = mask.excerpt(said, Some(&message(&text)));
                prop_assert!(shown.as_str().chars().count() <= EXCERPT_MAX + 1);
                prop_assert!(!shown.as_str().contains(char::is_control));
            }
        }
    }
}
