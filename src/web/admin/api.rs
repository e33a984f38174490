//! `/api/v1`, as documented in `docs/api.md`.

use http::{Method, StatusCode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use warp::reply::Response;

use super::{Call, Capacity, Done, capacity, query, refused};
use crate::control::{Control, Error};
use crate::model::message::{Name, Timestamp};
use crate::store::{MessageState, Selector};
use crate::web::{error, json, method_not_allowed};

/// The JSON of a response, or the error.
type Outcome = Result<Vec<u8>, Trouble>;

enum Trouble {
    Wrong(String),
    Control(Error),
    Config(serde_json::Value),
    NoPath,
    Method(&'static str),
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Self::Control(error)
    }
}

/// Handles one request below `/api/v1`.
pub(super) async fn answer(control: &Control, room: &Capacity, call: &Call, path: &[&str]) -> Response {
    let reads_messages = matches!(path, ["messages" | "deliveries", ..]) && !call.is_change();
    // Held until the response has memory reserved.
    let turn = if reads_messages { room.turn().await } else { None };
    if reads_messages && turn.is_none() {
        return capacity::busy();
    }
    let mut done = None;
    let outcome = match (methods(path), &call.method) {
        (None, _) => Err(Trouble::NoPath),
        (Some(READ), &Method::GET | &Method::HEAD) => read(control, call, path).await,
        (Some(CHANGE), &Method::POST) => change(control, call, path, &mut done).await,
        (Some(allow), _) => Err(Trouble::Method(allow)),
    };
    let mut response = match outcome {
        Ok(body) => room.answer(body).await,
        Err(Trouble::Wrong(what)) => error(StatusCode::BAD_REQUEST, &what),
        Err(Trouble::Control(failure)) => refused(&failure),
        Err(Trouble::Config(problems)) => json(StatusCode::UNPROCESSABLE_ENTITY, &problems),
        Err(Trouble::NoPath) => error(StatusCode::NOT_FOUND, "no such path"),
        Err(Trouble::Method(allow)) => method_not_allowed(allow),
    };
    if let Some(done) = done {
        response.extensions_mut().insert(done);
    }
    response
}

const READ: &str = "GET, HEAD";
const CHANGE: &str = "POST";

/// The methods of a path; `None` if the path does not exist.
fn methods(path: &[&str]) -> Option<&'static str> {
    match path {
        ["route" | "reload"]
        | ["operator", "test"]
        | ["findings", "acknowledge"]
        | ["messages", _, "resend"]
        | ["deliveries", "retry" | "discard" | "acknowledge"]
        | ["destinations", _, "test" | "pause" | "resume"] => Some(CHANGE),
        ["status" | "series" | "nodes" | "messages" | "deliveries" | "destinations" | "routes"]
        | ["messages" | "deliveries", _] => Some(READ),
        _ => None,
    }
}

async fn read(control: &Control, call: &Call, path: &[&str]) -> Outcome {
    match path {
        ["status"] => show(control.status().await?),
        ["nodes"] => show(control.nodes().await?),
        ["series"] => show(control.series().await?),
        ["messages"] => show(
            control
                .messages(&query::messages(&call.query).map_err(Trouble::Wrong)?)
                .await?,
        ),
        ["messages", id] => show(control.message(control.message_id(id).await?).await?),
        ["deliveries"] => show(
            control
                .deliveries(&query::deliveries(&call.query).map_err(Trouble::Wrong)?)
                .await?,
        ),
        ["deliveries", id] => show(control.delivery(control.delivery_id(id).await?).await?),
        ["destinations"] => show(control.destinations(&control.plan()).await?),
        ["routes"] => show(control.routes()),
        _ => Err(Trouble::NoPath),
    }
}

/// Carries out a change; `done` says in words what it did, for the log.
async fn change(control: &Control, call: &Call, path: &[&str], done: &mut Option<Done>) -> Outcome {
    match path {
        ["messages", id, "resend"] => {
            let resend: Resend = body(call)?;
            let id = control.message_id(id).await?;
            let touched = control.resend(id, &resend.destinations).await?;
            *done = Some(Done::resent(&touched));
            show(touched)
        }
        ["deliveries", "retry"] => {
            let which = selector(control, body(call)?).await?;
            let retried = control.retry(&which).await?;
            *done = Some(Done::deliveries(&which, "due now", retried.deliveries));
            show(retried)
        }
        ["deliveries", "acknowledge"] => {
            let Acknowledge {
                ids,
                destination,
                state,
                since,
            } = body(call)?;
            if since.is_some() && destination.is_none() {
                return Err(Trouble::Wrong("`since` needs `destination`".to_owned()));
            }
            let which = Which {
                ids,
                destination,
                state,
            };
            let which = selector(control, which).await?;
            let touched = control.acknowledge_dead(&which, since).await?;
            *done = Some(Done::deliveries(&which, "acknowledged", touched.deliveries));
            show(touched)
        }
        ["deliveries", "discard"] => {
            let which = selector(control, body(call)?).await?;
            let touched = control.discard(&which).await?;
            *done = Some(Done::deliveries(&which, "discarded", touched.deliveries));
            show(touched)
        }
        ["destinations", name, "test"] => show(control.test(&destination(name)?).await?),
        ["destinations", name, action @ ("pause" | "resume")] => {
            let paused = *action == "pause";
            let view = control.set_paused(&destination(name)?, paused).await?;
            *done = Some(Done::switched(&view, paused));
            show(view)
        }
        ["operator", "test"] => show(control.test_operator().await?),
        ["findings", "acknowledge"] => {
            show(serde_json::json!({ "acknowledged": control.acknowledge().await? }))
        }
        ["route"] => {
            let question: Question = body(call)?;
            show(control.explain(&question.into()).map_err(Trouble::Control)?)
        }
        ["reload"] => match control.reload().await {
            Ok(reloaded) => {
                // The reload succeeded, whether or not the other nodes can be named.
                let nodes = control.reloaded_nodes().await.ok().flatten().unzip();
                show(serde_json::json!({
                    "node": nodes.0,
                    "others": nodes.1.unwrap_or_default(),
                    "changes": reloaded.changes,
                    "file": reloaded.warnings.file(),
                    "warnings": reloaded.warnings.all(),
                    "unlisted": reloaded.warnings.unlisted(),
                }))
            }
            Err(problems) => {
                let mut value = serde_json::to_value(&problems).unwrap_or_default();
                value["error"] = "the configuration has errors, nothing was changed".into();
                Err(Trouble::Config(value))
            }
        },
        _ => Err(Trouble::NoPath),
    }
}

/// `POST /messages/ID/resend`
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Resend {
    destinations: Vec<Name>,
}

/// `POST /deliveries/retry|discard`: by ids, or all deliveries of a destination in a state.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Which {
    ids: Vec<String>,
    destination: Option<Name>,
    state: Option<MessageState>,
}

/// `POST /deliveries/acknowledge`: the same; of a destination, optionally only those that were given up since a time.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Acknowledge {
    ids: Vec<String>,
    destination: Option<Name>,
    state: Option<MessageState>,
    since: Option<Timestamp>,
}

/// `POST /route`
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Question {
    from: String,
    to: String,
    #[serde(default)]
    message: String,
    source: Option<Name>,
    at: Option<Timestamp>,
    #[serde(default)]
    render: bool,
}

impl From<Question> for crate::control::Question {
    fn from(question: Question) -> Self {
        let Question {
            from,
            to,
            message,
            source,
            at,
            render,
        } = question;
        Self {
            from,
            to,
            text: message,
            source,
            at,
            render,
        }
    }
}

async fn selector(control: &Control, which: Which) -> Result<Selector, Trouble> {
    match (which.ids.is_empty(), which.destination, which.state) {
        (false, None, None) => Ok(Selector::Ids(control.delivery_ids(&which.ids).await?)),
        (true, Some(name), Some(MessageState::Dead)) => Ok(Selector::Dead(name)),
        (true, Some(name), Some(MessageState::Pending)) => Ok(Selector::Pending(name)),
        _ => Err(Trouble::Wrong(
            "give either `ids`, or `destination` and `state` (`dead` or `pending`)".to_owned(),
        )),
    }
}

/// An empty body counts as an empty object, because most actions need no parameters.
fn body<T: DeserializeOwned>(call: &Call) -> Result<T, Trouble> {
    let bytes: &[u8] = if call.body.is_empty() { b"{}" } else { &call.body };
    serde_json::from_slice(bytes).map_err(|error| Trouble::Wrong(format!("the body: {error}")))
}

fn destination(text: &str) -> Result<Name, Trouble> {
    text.parse().map_err(|error| Trouble::Wrong(format!("{error}")))
}

fn show(value: impl serde::Serialize) -> Outcome {
    let mut body = serde_json::to_vec(&value)
        .map_err(|error| Trouble::Wrong(format!("the answer cannot be shown: {error}")))?;
    // For use with curl.
    body.push(b'\n');
    Ok(body)
}
