//! The recipes of `docs/recipes.md`: each table is read from the page and sent to a server that behaves as the service's
//! documents say.

use serde_json::{Value, json};

use crate::fixtures::{build, class, message, outbound};
use crate::pages::block;
use crate::servers::recorder::{Received, Recorder, Reply};

/// A text that would end a string of JSON, if it were not escaped.
const TEXT: &str = "Water is rising:\n\"3 < 4\" \\ {{7*7}}";

/// The table of a destination as the page shows it, with the server in place of the service, and secrets in place.
fn table(name: &str, server: &Recorder, secrets: &[(&str, &str)]) -> Value {
    let text = block("docs/recipes.md", "toml", &format!("[destination.{name}]"));
    let whole: toml::Table = text.parse().unwrap();
    let mut table = json!(whole["destination"][name]);
    let keys = table.as_object_mut().unwrap();
    assert_eq!(keys.remove("kind"), Some(json!("webhook")));
    for common in ["rate", "timeout"] {
        keys.remove(common);
    }
    fill(&mut table, secrets);
    let url = url::Url::parse(table["url"].as_str().unwrap()).unwrap();
    table["url"] = json!(server.url(url.path()));
    table
}

fn fill(value: &mut Value, secrets: &[(&str, &str)]) {
    let credential = value.get("credential").and_then(Value::as_str);
    if let Some((_, secret)) = secrets.iter().find(|(name, _)| credential == Some(name)) {
        *value = json!(secret);
    }
    if let Some(members) = value.as_object_mut() {
        members.values_mut().for_each(|value| fill(value, secrets));
    }
}

/// Delivers one message, and returns the request.
async fn delivered(name: &str, secrets: &[(&str, &str)], answer: fn(&Received) -> Reply) -> Received {
    let server = Recorder::start(answer).await;
    let destination = build("webhook", table(name, &server, secrets), None).unwrap();
    let outcome = destination.deliver(&outbound(&message(TEXT))).await;
    let received = server.received().remove(0);
    assert!(outcome.is_ok(), "{name}: {outcome:?} for {}", received.body);
    received
}

fn demand(holds: bool, reply: Reply) -> Reply {
    if holds { reply } else { Reply::new(400, "") }
}

#[tokio::test]
async fn home_assistant_gets_the_default_body() {
    let secrets = [("home-assistant-url", "https://home.example.com/api/webhook/ID")];
    let received = delivered("home", &secrets, |request| {
        demand(
            request.path == "/api/webhook/ID" && request.json().is_object(),
            Reply::new(200, ""),
        )
    })
    .await;
    let body = received.json();
    assert_eq!(
        (&body["text"], &body["from_name"]),
        (&json!(TEXT), &json!("Front door"))
    );
}

#[tokio::test]
async fn n8n_gets_its_key() {
    let received = delivered("n8n", &[("n8n-key", "the key")], |request| {
        match request.path == "/webhook/sms" && request.header("x-api-key") == "the key" {
            true => Reply::new(200, r#"{"message":"Workflow was started"}"#),
            false => Reply::new(403, "Authorization data is wrong!"),
        }
    })
    .await;
    assert!(
        received
            .header("webhook-id")
            .starts_with("00000000000000000000000000000007")
    );
}

#[tokio::test]
async fn incident_io_gets_an_alert() {
    let secrets = [("incident-io-authorization", "Bearer the-token")];
    let received = delivered("incidents", &secrets, |request| {
        if request.header("authorization") != "Bearer the-token" {
            return Reply::new(401, "");
        }
        let alert = request.json();
        let holds = request.path == "/v2/alert_events/http/ALERT_SOURCE_ID"
            && alert["title"].is_string()
            && alert["deduplication_key"].is_string()
            && ["firing", "resolved"].contains(&alert["status"].as_str().unwrap_or_default());
        demand(
            holds,
            Reply::new(
                202,
                r#"{"status":"success","message":"Event accepted for processing"}"#,
            ),
        )
    })
    .await;
    let alert = received.json();
    assert_eq!(alert["description"], TEXT);
    assert_eq!(alert["metadata"]["from"], "+13035550100");
}

#[tokio::test]
async fn grafana_oncall_gets_an_alert() {
    let secrets = [(
        "grafana-oncall-url",
        "https://oncall.example.com/integrations/v1/formatted_webhook/KEY/",
    )];
    let received = delivered("oncall", &secrets, |request| {
        let alert = request.json();
        let holds = request.path == "/integrations/v1/formatted_webhook/KEY/"
            && alert["alert_uid"].is_string()
            && ["alerting", "ok"].contains(&alert["state"].as_str().unwrap_or_default());
        demand(holds, Reply::new(200, "Ok."))
    })
    .await;
    assert_eq!(received.json()["message"], TEXT);
}

#[tokio::test]
async fn apprise_gets_a_notification_and_a_partial_failure_is_repeated() {
    let received = delivered("apprise", &[], |request| {
        let body = request.json();
        let holds = request.path == "/notify/KEY"
            && body["body"].as_str().is_some_and(|body| !body.is_empty())
            && ["info", "success", "warning", "failure"].contains(&body["type"].as_str().unwrap())
            && body["format"] == "text";
        demand(holds, Reply::new(200, ""))
    })
    .await;
    assert_eq!(received.json()["body"], TEXT);
    let server = Recorder::answering(Reply::new(424, "")).await;
    let destination = build("webhook", table("apprise", &server, &[]), None).unwrap();
    let failure = destination.deliver(&outbound(&message(TEXT))).await.unwrap_err();
    assert_eq!(class(&failure), "message");
    destination.deliver(&outbound(&message(""))).await.unwrap_err();
    assert_eq!(server.received()[1].json()["body"], "(no text)");
}
