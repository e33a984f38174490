//! The Plivo source: webhooks for incoming messages.
//!
//! Follows [Handling incoming messages] and [Validating requests]. For messages Plivo documents only version 2 of its
//! signature, which covers the URL and a nonce, but no field. Version 3 also covers the fields; a request that has
//! only this one is accepted, too. A valid signature of either version suffices: an attacker who can change a request can
//! also remove a header from it.
//!
//! [Handling incoming messages]: https://docs.plivo.com/messaging/api/message/handling-incoming
//! [Validating requests]: https://docs.plivo.com/messaging/concepts/signature-validation

use deserr::Deserr;
use http::Method;
use url::Url;

use super::fields::{FORM, Form};
use super::verify::{Hmac, other_url, url_form};
use super::{
    BasicAuth, Composed, Context, Defaults, Events, Incoming, Kind, Outcome, Refusal, Reply, Request, Sample,
    Settings, Source, Target,
};
use crate::model::lint::{self, Lint};
use crate::model::message::{Keyword, Media};
use crate::model::secret::Secrets;
use crate::model::setting::Errors;

const V2: &str = "x-plivo-signature-v2";
const V2_NONCE: &str = "x-plivo-signature-v2-nonce";
const V2_ACCOUNT: &str = "x-plivo-signature-ma-v2";
const V3: &str = "x-plivo-signature-v3";
const V3_NONCE: &str = "x-plivo-signature-v3-nonce";
const V3_ACCOUNT: &str = "x-plivo-signature-ma-v3";

/// The highest number of an attachment; Plivo allows far fewer.
const MEDIA_MAX: usize = 50;

/// Fields that are parsed. Other fields are kept as unknown fields.
const KNOWN: &[&str] = &[
    "Body",
    "From",
    "MediaCount",
    "MessageIntent",
    "MessageUUID",
    "Text",
    "To",
    "Units",
];

/// `[source.NAME]` with `kind = "plivo"`.
#[derive(Clone, Debug, Deserr)]
#[deserr(error = Errors, deny_unknown_fields)]
pub struct Config {
    /// The Auth Token of the account or subaccount that owns the number.
    #[deserr(default)]
    pub auth_token: Option<Secrets>,
    /// Auth Token of the main account, which also signs requests of subaccounts.
    #[deserr(default)]
    pub account_auth_token: Option<Secrets>,
}

impl Kind for Config {
    fn defaults(&self) -> Defaults {
        Defaults::international()
    }

    fn lints(&self, settings: &Settings, exposed: bool) -> Vec<Lint> {
        let keys = [
            ("auth_token", &self.auth_token),
            ("account_auth_token", &self.account_auth_token),
        ];
        let lint = |(key, tokens): (&'static str, &Option<Secrets>)| {
            let message = tokens.as_ref()?.find(lint::example_secret)?;
            Some(Lint::new(key, message))
        };
        let mut lints: Vec<Lint> = keys.into_iter().filter_map(lint).collect();
        if exposed && settings.access.basic_auth.is_none() {
            let message = "is missing: version 2 of Plivo's signature covers no field, so anyone who reads one request \
                           can send others with it";
            lints.push(Lint::new("basic_auth", message));
        }
        lints
    }

    fn build(&self, context: &Context<'_>) -> Result<Box<dyn Source>, String> {
        if self.auth_token.is_none() && self.account_auth_token.is_none() {
            return Err(
                "`auth_token` is missing: the Auth Token of the account (or `account_auth_token`)".to_owned(),
            );
        }
        Ok(Box::new(Plivo {
            auth_token: self.auth_token.clone(),
            account_auth_token: self.account_auth_token.clone(),
            public_url: context.signed_url()?.clone(),
            path: context.path.to_owned(),
            basic_auth: context.settings.access.basic_auth.clone(),
        }))
    }
}

/// The webhook of one Plivo account.
struct Plivo {
    auth_token: Option<Secrets>,
    account_auth_token: Option<Secrets>,
    public_url: Url,
    path: String,
    basic_auth: Option<BasicAuth>,
}

impl Source for Plivo {
    fn methods(&self) -> &'static [Method] {
        const METHODS: &[Method] = &[Method::POST, Method::GET];
        METHODS
    }

    fn receive(&self, request: &Request<'_>) -> Result<Events, Refusal> {
        let form = request.form();
        let signed_form = (request.method != Method::GET).then_some(&form);
        let basic_auth = self.basic_auth.as_ref();
        let urls = url_form::urls(&request.target, basic_auth);
        let is_signed = |url: &str| self.is_signed(request, signed_form, url);
        if !urls.iter().fold(false, |found, url| is_signed(url) | found) {
            return Err(other_url::refusal(request, basic_auth, is_signed));
        }
        Ok(read(&form))
    }

    /// Plivo expects an XML document that triggers no action.
    fn reply(&self, outcome: &Outcome<'_>) -> Reply {
        Reply::fixed(outcome, "application/xml", "<Response/>")
    }

    fn compose(&self, sample: &Sample<'_>) -> Result<Composed, String> {
        let target = Target {
            public_url: Some(&self.public_url),
            path_and_query: &self.path,
        };
        let url = url_form::urls(&target, None)
            .into_iter()
            .next()
            .unwrap_or_default();
        let (name, keys) = match (&self.auth_token, &self.account_auth_token) {
            (Some(keys), _) => (V2, keys),
            (None, Some(keys)) => (V2_ACCOUNT, keys),
            (None, None) => return Err("no key to sign with".to_owned()),
        };
        let nonce = format!("{}{}", sample.now.0, sample.provider_id);
        let signature = Hmac::SHA256_BASE64.simulate(keys, &signed_v2(&url, &nonce))?;
        Composed::post(FORM, compose(sample)).with([(name, signature), (V2_NONCE, nonce)])
    }
}

impl Plivo {
    /// Returns true if the request has a valid signature of either version for this URL.
    fn is_signed(&self, request: &Request<'_>, form: Option<&Form<'_>>, url: &str) -> bool {
        let is_signed_v2 = request
            .header(V2_NONCE)
            .is_some_and(|nonce| self.has_signature(request, [V2, V2_ACCOUNT], &signed_v2(url, nonce)));
        let is_signed_v3 = request.header(V3_NONCE).is_some_and(|nonce| {
            let signed = signed_v3(url, form);
            let parts = [signed.as_bytes(), b".", nonce.as_bytes()];
            self.has_signature(request, [V3, V3_ACCOUNT], &parts)
        });
        is_signed_v2 | is_signed_v3
    }

    /// Checks the headers for the number's account and for the main account, each with its own key. A header may
    /// contain several signatures.
    fn has_signature(&self, request: &Request<'_>, headers: [&str; 2], parts: &[&[u8]]) -> bool {
        let keys = [&self.auth_token, &self.account_auth_token];
        headers
            .into_iter()
            .zip(keys)
            .fold(false, |found, (header, keys)| {
                let keys = keys.as_ref().map_or(&[][..], Secrets::all);
                let signatures = request.header(header).unwrap_or_default().split(',');
                Hmac::SHA256_BASE64.verify_any(keys, parts, signatures.map(str::trim)) | found
            })
    }
}

/// The string that version 2 signs: the URL without its query, and the nonce.
fn signed_v2<'a>(url: &'a str, nonce: &'a str) -> [&'a [u8]; 2] {
    let (base, _) = url.split_once('?').unwrap_or((url, ""));
    [base.as_bytes(), nonce.as_bytes()]
}

/// The string that version 3 signs before the nonce: the URL with the decoded parameters of its query, sorted, and then the
/// fields of the form, sorted. `form` is `None` for a GET.
fn signed_v3(url: &str, form: Option<&Form<'_>>) -> String {
    let (base, query) = url.split_once('?').unwrap_or((url, ""));
    let query: Vec<String> = sorted(&Form::read(query.as_bytes()))
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    let fields: String = form
        .map(sorted)
        .unwrap_or_default()
        .iter()
        .flat_map(|(name, value)| [*name, *value])
        .collect();
    let mut signed = base.to_owned();
    if !(query.is_empty() && fields.is_empty()) {
        signed.push('?');
        signed += &query.join("&");
    }
    if !(query.is_empty() || fields.is_empty()) {
        signed.push('.');
    }
    signed + &fields
}

fn sorted<'f>(form: &'f Form<'_>) -> Vec<(&'f str, &'f str)> {
    let pairs = form.pairs().iter();
    let mut pairs: Vec<_> = pairs.map(|(name, value)| (&**name, &**value)).collect();
    pairs.sort_unstable();
    pairs
}

/// Parses a verified form. Delivery statuses that are sent to the same URL are not messages; everything else with
/// content or an id is one, even with missing fields.
fn read(form: &Form<'_>) -> Events {
    let media = media(form);
    let text = form.filled("Text").or_else(|| form.filled("Body"));
    let has_text = form.get("Text").or_else(|| form.get("Body")).is_some();
    let has_content = has_text || !media.is_empty();
    if !has_content && form.filled("Status").is_some() {
        return Events::status();
    }
    if !has_content && form.filled("MessageUUID").is_none() {
        return Events::ignored();
    }
    let field = |name| form.get(name).unwrap_or_default();
    let (id, from, to) = (field("MessageUUID"), field("From"), field("To"));
    let mut message = Incoming::new(id, from, to, text.unwrap_or_default());
    message.media = media;
    message.segments = form.get("Units").and_then(|count| count.parse().ok());
    message.keyword = form.get("MessageIntent").and_then(keyword);
    message.set_extra(form.unknown(|name| KNOWN.contains(&name) || medium_number(name).is_some()));
    message.note_missing(&[
        ("MessageUUID", id.is_empty()),
        ("From", from.is_empty()),
        ("To", to.is_empty()),
    ]);
    Events::message(message)
}

/// The opt-out keyword that Plivo recognised.
fn keyword(intent: &str) -> Option<Keyword> {
    match intent {
        "optout" => Some(Keyword::Stop),
        "optin" => Some(Keyword::Start),
        "help" => Some(Keyword::Help),
        _ => None,
    }
}

/// The links `Media0`, `Media1` and so on, in the order of their numbers.
fn media(form: &Form<'_>) -> Vec<Media> {
    let links = form.pairs().iter().filter(|(_, link)| !link.is_empty());
    let mut links: Vec<_> = links
        .filter_map(|(name, link)| Some((medium_number(name)?, link)))
        .collect();
    links.sort_by_key(|(number, _)| *number);
    let medium = |(_, link): (usize, &std::borrow::Cow<'_, str>)| Media {
        link: link.to_string(),
        content_type: None,
        filename: None,
    };
    links.into_iter().map(medium).collect()
}

fn medium_number(name: &str) -> Option<usize> {
    let number = name.strip_prefix("Media")?.parse().ok()?;
    (number <= MEDIA_MAX).then_some(number)
}

/// The form of a message, for a simulated request.
fn compose(sample: &Sample<'_>) -> String {
    let (from, to) = sample.bare_numbers();
    let segments = sample.segments().len().to_string();
    url::form_urlencoded::Serializer::new(String::new())
        .append_pair("From", from)
        .append_pair("To", to)
        .append_pair("Text", sample.text)
        .append_pair("Type", "sms")
        .append_pair("MessageUUID", sample.provider_id)
        .append_pair("Units", &segments)
        .finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::secret::Secret;

    const TOKEN: &str = "MAXXXXXXXXXXXXXXXXXXauthtoken0123456789a";
    const NONCE: &str = "12345678901234567890";
    const URL: &str = "https://sms.example.com/inbound/plivo";
    const FIELDS: &str = "From=4795961111&To=4759440448&Text=Hello+World&Type=sms&MessageUUID=7a242edc-2f57-11e7-98c9-06ab0bf64327&Units=1&TotalRate=0&TotalAmount=0";

    fn is_valid(parts: &[&[u8]], signature: &str) -> bool {
        Hmac::SHA256_BASE64.verify(&[Secret::new(TOKEN)], parts, signature)
    }

    /// Created by Plivo's own library.
    #[test]
    fn signatures_of_version_2_cover_the_url_without_its_query() {
        let signature = "3ioHa5/4NNqMmQpCjlSMOPVZDK0uJypXN0Lhg1BO7RM=";
        for url in [URL, "https://sms.example.com/inbound/plivo?k=v"] {
            assert!(is_valid(&signed_v2(url, NONCE), signature), "{url}");
            assert!(!is_valid(&signed_v2(url, "1"), signature), "{url}");
        }
        let other = "https://sms.example.com/inbound/other";
        assert!(!is_valid(&signed_v2(other, NONCE), signature));
    }

    /// Created by Plivo's own library.
    #[test]
    fn signatures_of_version_3_cover_the_query_and_the_fields() {
        let form = Form::read(FIELDS.as_bytes());
        let with_query = format!("{URL}?k=v");
        let get = format!("{URL}?{FIELDS}&k=v");
        for (url, form, signature) in [
            (
                with_query.as_str(),
                Some(&form),
                "SrPAJnPGz+8BDAq1H5Ubpp7VaXp++lBAvZhuwn28zB0=",
            ),
            (URL, Some(&form), "KMoAKLFuVUcUr9vhyXBTnjFx6jJBeEHshi+txbwQvP8="),
            (get.as_str(), None, "g+BTVms+vu0K+ZtkirV/Rq48AfBD+xR6wsHjhoNILWA="),
        ] {
            let signed = signed_v3(url, form);
            let parts = [signed.as_bytes(), b".", NONCE.as_bytes()];
            assert!(is_valid(&parts, signature), "{signed}");
            assert!(!is_valid(
                &[signed.as_bytes(), b".x", NONCE.as_bytes()],
                signature
            ));
        }
        assert_eq!(signed_v3(URL, Some(&Form::read(b""))), URL);
        assert_eq!(signed_v3("u?b=2&a=%2B&b=1", None), "u?a=+&b=1&b=2");
    }
}
