//! Microsoft Teams: a webhook of the Workflows app, which posts an [Adaptive Card][1].
//!
//! The workflow answers before it posts the card, so *delivered* means that the workflow has the message. The message is in
//! `TextRun`s, where neither Markdown nor HTML has an effect.
//!
//! [1]: https://adaptivecards.io/explorer/RichTextBlock.html

use async_trait::async_trait;
use deserr::Deserr;
use http::{Method, StatusCode};
use serde_json::{Value, json};
use url::Url;

use super::http::{Answer, address, parse_url};
use super::service::{Meaning, Service};
use super::wording::{Limit, Unit};
use super::{BuildContext, Delivered, Destination, Failure, Kind, OutboundMessage};
use crate::mask::Mask;
use crate::model::lint::{self, Lint};
use crate::model::secret::Secrets;
use crate::model::setting::Errors;
use crate::template::{Medium, safe_link};

/// Teams refuses a message of 28 KB in its own form, which is larger than the card. Refusals do not reach the sender,
/// so the card stays far below that: this is the limit of the body.
const TEXT: Limit = Limit {
    max: 10_000,
    unit: Unit::Escaped,
};

/// The limit of the header, and of the note of a fallback.
const LINE: Limit = Limit {
    max: 1_500,
    unit: Unit::Escaped,
};

/// Each line is a block of its own, because a line break in a run has no effect. Further breaks become spaces.
const LINES_MAX: usize = 40;

/// Upper bound of the links to attachments.
const LINKS_MAX: usize = 3;

/// Upper bound of the length of a link that is shown.
const LINK_MAX: usize = 500;

/// `kind = "teams"`
#[derive(Clone, Debug, Deserr)]
#[deserr(error = Errors, deny_unknown_fields)]
pub struct Config {
    /// The URL of the workflow. A secret, because it contains a signature.
    pub webhook_url: Secrets,
}

impl Kind for Config {
    fn lints(&self) -> Vec<Lint> {
        lint::secret_url("webhook_url", Some(&self.webhook_url))
            .into_iter()
            .collect()
    }

    /// Teams accepts four requests per second.
    fn rate_default(&self) -> Option<f64> {
        Some(2.0)
    }

    fn build(&self, context: BuildContext<'_>) -> Result<Box<dyn Destination>, String> {
        let url = parse_url("webhook_url", self.webhook_url.first()?.reveal())?;
        let mask = Mask::default().url(&url).secrets(&self.webhook_url);
        Ok(Box::new(Teams {
            service: Service::new(context, mask),
            url,
        }))
    }
}

struct Teams {
    service: Service,
    url: Url,
}

impl Teams {
    fn payload(&self, outbound: &OutboundMessage<'_>) -> Result<Value, Failure> {
        let wording = self.service.wording(outbound, Medium::Text, str::to_owned)?;
        let mut body = Vec::new();
        if !wording.is_whole {
            body.push(block(
                json!({ "weight": "Bolder" }),
                &LINE.cut(&wording.header, "…"),
                0,
            ));
        }
        if let Some(note) = wording.fallback() {
            body.push(block(json!({ "isSubtle": true }), &LINE.cut(note, "…"), 1));
        }
        let text = wording.text(TEXT);
        let lines = text.splitn(LINES_MAX, '\n').enumerate();
        body.extend(lines.map(|(at, line)| block(json!({}), &line.replace('\n', " "), at)));
        for line in wording.attachments(TEXT).iter().take(LINKS_MAX) {
            body.push(attachment(line));
        }
        Ok(json!({
            "type": "message",
            "attachments": [{
                "contentType": "application/vnd.microsoft.card.adaptive",
                "contentUrl": null,
                "content": {
                    "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
                    "type": "AdaptiveCard",
                    "version": "1.4",
                    "body": body,
                    "msteams": { "width": "full" },
                },
            }],
        }))
    }
}

/// One line of the card. The first line of a part keeps its distance to the part above.
fn block(style: Value, line: &str, at: usize) -> Value {
    let mut run = style;
    run["type"] = json!("TextRun");
    // An empty run is not valid.
    run["text"] = json!(if line.is_empty() { " " } else { line });
    let mut block = json!({ "type": "RichTextBlock", "inlines": [run] });
    if at > 0 {
        block["spacing"] = json!("None");
    }
    block
}

/// The name of an attachment, and its link, which leads where it says.
fn attachment(line: &str) -> Value {
    let link = line.rsplit_once(": ").and_then(|(_, link)| safe_link(link));
    match link.filter(|link| link.len() <= LINK_MAX) {
        Some(link) => json!({
            "type": "RichTextBlock",
            "inlines": [
                { "type": "TextRun", "text": LINE.cut(line.trim_end_matches(link), "…") },
                { "type": "TextRun", "text": link, "selectAction": { "type": "Action.OpenUrl", "url": link } },
            ],
        }),
        None => block(json!({}), &LINE.cut(line, "…"), 0),
    }
}

#[async_trait]
impl Destination for Teams {
    fn address(&self) -> Option<String> {
        address(&self.url)
    }

    async fn deliver(&self, outbound: &OutboundMessage<'_>) -> Result<Delivered, Failure> {
        let request = self.service.http.request(Method::POST, self.url.clone());
        let request = request.json(&self.payload(outbound)?);
        let answer = self.service.ask(request, self.service.deadline()).await?;
        let delivered = self
            .service
            .conclude(&answer, meaning(&answer), said(&answer), outbound)?;
        let detail = format!(
            "{}: the workflow has the message and posts it later",
            delivered.detail
        );
        Ok(Delivered { detail, ..delivered })
    }

    fn render(&self, outbound: &OutboundMessage<'_>) -> Result<String, Failure> {
        Ok(format!("{:#}", self.payload(outbound)?))
    }
}

const ADVICE: &str = "the workflow may have been deleted, turned off or given to another owner: open it in Teams, and copy \
                      its URL into `webhook_url` again";

/// Codes that mean a workflow which takes no message from us.
const UNUSABLE: &[&str] = &[
    "DirectApiAuthorizationRequired",
    "DirectApiInvalidAuthorizationScheme",
    "WorkflowNotFound",
    "WorkflowTriggerIsNotEnabled",
    "TriggerNotFound",
];

fn meaning(answer: &Answer) -> Meaning {
    let document = answer.document();
    let code = document["error"]["code"].as_str().unwrap_or_default();
    match answer.status {
        StatusCode::TOO_MANY_REQUESTS => Meaning::Limited(None),
        _ if UNUSABLE.contains(&code) => Meaning::Misconfigured(ADVICE),
        status => Meaning::of(status, ADVICE),
    }
}

fn said(answer: &Answer) -> &str {
    answer.start.as_str()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_have_a_meaning() {
        let parked = Meaning::Misconfigured(ADVICE);
        for (status, body, expected) in [
            (202, "", Meaning::Accepted),
            (200, "1", Meaning::Accepted),
            (400, r#"{"error":{"code":"WorkflowTriggerIsNotEnabled"}}"#, parked),
            (
                401,
                r#"{"error":{"code":"DirectApiAuthorizationRequired"}}"#,
                parked,
            ),
            (403, "", parked),
            (404, r#"{"error":{"code":"WorkflowNotFound"}}"#, parked),
            (410, "", parked),
            (
                400,
                r#"{"error":{"code":"InvalidRequestContent"}}"#,
                Meaning::Refused,
            ),
            (413, "", Meaning::Refused),
            (429, "", Meaning::Limited(None)),
            (502, "<html>", Meaning::Busy),
            (408, "", Meaning::Odd),
        ] {
            let answer = Answer::new(StatusCode::from_u16(status).unwrap(), body);
            assert_eq!(meaning(&answer), expected, "{status} {body}");
        }
    }
}
