//! Signatures over the called URL and the fields of a form, as introduced by Twilio and adopted by others with
//! differences.

use std::borrow::Cow;

use url::Url;

use crate::source::fields::Form;
use crate::source::{BasicAuth, Target};

/// How a carrier signs a field that occurs several times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeated {
    /// The distinct values, sorted.
    Distinct,
    /// All values, in order.
    Ordered,
}

/// The part of the signed text after the URL: all fields of the form, sorted by name, as concatenated names and
/// values.
#[must_use]
pub fn fields(form: &Form<'_>, repeated: Repeated) -> String {
    let mut pairs: Vec<(&str, &str)> = form
        .pairs()
        .iter()
        .map(|(name, value)| (&**name, &**value))
        .collect();
    match repeated {
        Repeated::Distinct => {
            pairs.sort_unstable();
            pairs.dedup();
        }
        Repeated::Ordered => pairs.sort_by_key(|(name, _)| *name),
    }
    pairs.iter().flat_map(|(name, value)| [*name, *value]).collect()
}

/// The URLs that a carrier may have signed for this request: with and without the default port, and each with and
/// without the credentials of `basic_auth`. Empty without `server.public_url`.
#[must_use]
pub fn urls(target: &Target<'_>, basic_auth: Option<&BasicAuth>) -> Vec<String> {
    let Some(public_url) = target.public_url else {
        return Vec::new();
    };
    let scheme = public_url.scheme();
    let Some(host) = public_url.host_str() else {
        return Vec::new();
    };
    let ports: Vec<Cow<'static, str>> = match (public_url.port(), scheme) {
        (Some(port), _) => vec![format!(":{port}").into()],
        (None, "https") => vec!["".into(), ":443".into()],
        (None, _) => vec!["".into(), ":80".into()],
    };
    let base = public_url.path().trim_end_matches('/');
    let rest = target.path_and_query;
    let logins = [
        Some(String::new()),
        basic_auth.and_then(|auth| login(public_url, auth)),
    ];
    let mut urls = Vec::with_capacity(4);
    for login in logins.into_iter().flatten() {
        urls.extend(
            ports
                .iter()
                .map(|port| format!("{scheme}://{login}{host}{port}{base}{rest}")),
        );
    }
    urls
}

/// `user:password@`, encoded as in the webhook URL that `smsbridge` prints.
fn login(public_url: &Url, auth: &BasicAuth) -> Option<String> {
    let mut url = public_url.clone();
    url.set_username(&auth.username).ok()?;
    url.set_password(Some(auth.password.all().first()?.reveal()))
        .ok()?;
    Some(format!(
        "{}:{}@",
        url.username(),
        url.password().unwrap_or_default()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::secret::Secret;
    use crate::source::verify::Hmac;

    const KEY: &str = "12345678901234567890123456789012";
    const URL: &str = "https://sms.example.com/inbound/twilio";
    const BODY: &[u8] = b"ToCountry=US&ToState=CO&SmsMessageSid=SM0123456789abcdef0123456789abcdef&NumMedia=0&ToCity=DENVER&FromZip=30309&SmsSid=SM0123456789abcdef0123456789abcdef&FromState=GA&SmsStatus=received&FromCity=ATLANTA&Body=Hello+World%21+%26+caf%C3%A9%3D1&FromCountry=US&To=%2B13038675309&ToZip=80202&NumSegments=1&MessageSid=SM0123456789abcdef0123456789abcdef&AccountSid=AC0123456789abcdef0123456789abcdef&From=%2B14045550123&ApiVersion=2010-04-01";

    fn right(hmac: Hmac, key: &str, url: &str, body: &[u8], repeated: Repeated, signature: &str) -> bool {
        let fields = fields(&Form::read(body), repeated);
        hmac.verify(
            &[Secret::new(key)],
            &[url.as_bytes(), fields.as_bytes()],
            signature,
        )
    }

    /// Created by Twilio's own library, with the Auth Token and with a shared key.
    #[test]
    fn twilio_signatures_are_valid() {
        use Repeated::Distinct;
        let sha1 = Hmac::SHA1_BASE64;
        let signature = "MBsdgVriA7gXS8p1gg+/CYZO9Gw=";
        assert!(right(sha1, KEY, URL, BODY, Distinct, signature));
        assert!(!right(
            sha1,
            KEY,
            "https://sms.example.com/inbound/other",
            BODY,
            Distinct,
            signature
        ));
        assert!(!right(
            sha1,
            KEY,
            URL,
            &BODY[..BODY.len() - 1],
            Distinct,
            signature
        ));
        let with_port = "https://sms.example.com:443/inbound/twilio";
        assert!(right(
            sha1,
            KEY,
            with_port,
            BODY,
            Distinct,
            "0h2VRWEbcmum/z4JxTKi9fQjGgo="
        ));
        let sha256 = "7qnD2+0BktgOI2pdoiVocqh0yRvmUoR3bWW+9xOioHw=";
        assert!(right(Hmac::SHA256_BASE64, KEY, URL, BODY, Distinct, sha256));
        let repeated = "DZuta8nSl+S8ST85G5gjyyWBpfw=";
        assert!(right(sha1, KEY, URL, b"a=2&a=1&b=x", Distinct, repeated));
        assert!(right(sha1, KEY, URL, b"a=2&a=1&a=2&b=x", Distinct, repeated));
    }

    /// Created by SignalWire's own library.
    #[test]
    fn signalwire_keeps_repeated_fields_in_their_order() {
        let key = "PSK_0123456789abcdef0123456789abcdef";
        let url = "https://sms.example.com/inbound/signalwire";
        let body = b"MessageSid=b3877c40-da60-4998-90ad-b792e98472ff&SmsSid=b3877c40-da60-4998-90ad-b792e98472ff&AccountSid=b3877c40-da60-4998-90ad-b792e98472af&From=%2B15551234567&To=%2B15559876543&Body=Hello+World&NumMedia=0&NumSegments=1";
        let (sha1, ordered) = (Hmac::SHA1_BASE64, Repeated::Ordered);
        assert!(right(
            sha1,
            key,
            url,
            body,
            ordered,
            "9KmYTAg+Dw+xdzVwwrTOcye+ARg="
        ));
        let repeated = "amwwesWEUz1vp0asZ08dPLQTlEE=";
        assert!(right(sha1, key, url, b"a=2&a=1&b=x", ordered, repeated));
        assert!(!right(
            sha1,
            key,
            url,
            b"a=2&a=1&b=x",
            Repeated::Distinct,
            repeated
        ));
    }

    #[test]
    fn the_signed_url_is_the_public_url_with_path_and_query_as_received() {
        let auth: BasicAuth = crate::model::setting::from_toml("username = 'u'\npassword = 'p:/'").unwrap();
        let public_url = Url::parse("https://sms.example.com/b/").unwrap();
        let target = Target {
            public_url: Some(&public_url),
            path_and_query: "/in?a=%2b&b",
        };
        assert_eq!(
            urls(&target, Some(&auth)),
            [
                "https://sms.example.com/b/in?a=%2b&b",
                "https://sms.example.com:443/b/in?a=%2b&b",
                "https://u:p%3A%2F@sms.example.com/b/in?a=%2b&b",
                "https://u:p%3A%2F@sms.example.com:443/b/in?a=%2b&b",
            ]
        );
        let other = Url::parse("http://[2001:db8::7]:8080").unwrap();
        let target = Target {
            public_url: Some(&other),
            path_and_query: "/x",
        };
        assert_eq!(urls(&target, None), ["http://[2001:db8::7]:8080/x"]);
        assert!(urls(&Target::default(), None).is_empty());
    }
}
