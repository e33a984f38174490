//! A room over the [client-server API][1].
//!
//! The transaction id is the delivery id: a homeserver that receives it again returns the existing event. Synapse
//! remembers it for about half an hour; after that, a retry creates a second event.
//!
//! [1]: https://spec.matrix.org/latest/client-server-api/

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::{Method, StatusCode};
use serde_json::Value;
use tokio::sync::Mutex;
use tokio::time::Instant;
use url::Url;

use super::super::http::{Answer, Client};
use super::super::{Delivered, Failure, OutboundMessage};
use super::MessageType;
use super::answer;
use super::content::{Words, Written};
use crate::mask::Mask;
use crate::model::message::Message;
use crate::model::secret::Secret;

/// Time limit for checking whether the room is encrypted. The message has already been sent by then.
const ENCRYPTION_TIMEOUT: Duration = Duration::from_secs(2);

/// A room and the user who sends to it.
pub struct Room {
    /// The HTTP client.
    pub http: Client,
    /// The base of the API.
    pub homeserver: Url,
    /// The id or alias of the room.
    pub address: String,
    /// The access token of the user.
    pub token: Secret,
    /// How clients display messages.
    pub msgtype: MessageType,
    /// Whether each conversation has its own thread.
    pub threads: bool,
    /// Whether to join if the user is not in the room.
    pub join: bool,
    /// Masks the access token.
    pub mask: Mask,
    /// The cached state of the room.
    pub known: Known,
}

/// The cached state of a room, kept until it turns out to be outdated.
#[derive(Default)]
pub struct Known {
    id: Mutex<Option<String>>,
    encryption: Mutex<Option<bool>>,
    warned: AtomicBool,
}

impl Room {
    /// Sends one message to the room.
    pub async fn deliver(
        &self,
        outbound: &OutboundMessage<'_>,
        words: &Words,
        deadline: Instant,
    ) -> Result<Delivered, Failure> {
        let root = self.root(outbound);
        let answer = self.send(outbound, words, root, deadline).await?;
        let (answer, began) = if root.is_some() && thread_refused(&answer) {
            (self.send(outbound, words, None, deadline).await?, true)
        } else {
            (answer, root.is_none())
        };
        let Some(event) = event_id(&answer) else {
            self.forget(&answer).await;
            return Err(self.failure(&answer, "sending", Some(outbound.message)));
        };
        let told = self.mask.excerpt(&event, Some(outbound.message));
        let detail = if self.encrypted(deadline).await {
            format!("{}, unencrypted in an encrypted room", told.as_str())
        } else {
            told.as_str().to_owned()
        };
        Ok(Delivered {
            detail,
            thread: (began && self.threads).then_some(event),
        })
    }

    /// The content of the event.
    pub fn event(
        &self,
        outbound: &OutboundMessage<'_>,
        words: &Words,
        root: Option<&str>,
    ) -> Result<Value, Failure> {
        let msgtype = match self.msgtype {
            MessageType::Text => "m.text",
            MessageType::Notice => "m.notice",
        };
        words.fit(outbound, |written: &Written| written.event(msgtype, root))
    }

    /// The root event of this conversation's thread, if threads are used.
    pub fn root<'a>(&self, outbound: &OutboundMessage<'a>) -> Option<&'a str> {
        outbound.thread.filter(|_| self.threads)
    }

    /// Sends the event. If the user is not in the room, joins and sends again.
    async fn send(
        &self,
        outbound: &OutboundMessage<'_>,
        words: &Words,
        root: Option<&str>,
        deadline: Instant,
    ) -> Result<Answer, Failure> {
        let event = self.event(outbound, words, root)?;
        // Different content needs a different transaction id: the threaded event may have been stored although its
        // response was lost.
        let transaction = if root.is_some() || self.root(outbound).is_none() {
            outbound.id.to_string()
        } else {
            format!("{}-unthreaded", outbound.id)
        };
        let id = self.id(deadline).await?;
        let path = ["rooms", &id, "send", "m.room.message", &transaction];
        let answer = self.call(Method::PUT, &path, Some(&event), deadline).await?;
        if !self.join || answer::code(&answer).as_deref() != Some("M_FORBIDDEN") {
            return Ok(answer);
        }
        let joined = self.enter(deadline).await?;
        if joined.status.is_success() {
            return self.call(Method::PUT, &path, Some(&event), deadline).await;
        }
        // A failed join gives no more information than the rejected event, unless the server is only busy.
        if joined.status == StatusCode::TOO_MANY_REQUESTS {
            Ok(joined)
        } else {
            Ok(answer)
        }
    }

    /// Joins by alias if there is one, because the alias names a server that knows the room.
    async fn enter(&self, deadline: Instant) -> Result<Answer, Failure> {
        let nothing = Value::Object(serde_json::Map::new());
        self.call(Method::POST, &["join", &self.address], Some(&nothing), deadline)
            .await
    }

    /// The id of the room: as configured, or resolved from its alias.
    async fn id(&self, deadline: Instant) -> Result<String, Failure> {
        if self.address.starts_with('!') {
            return Ok(self.address.clone());
        }
        let mut known = self.known.id.lock().await;
        if let Some(id) = &*known {
            return Ok(id.clone());
        }
        let answer = self
            .call(Method::GET, &["directory", "room", &self.address], None, deadline)
            .await?;
        match answer.members.get("room_id").as_str() {
            Some(id) if answer.status.is_success() => Ok(known.insert(id.to_owned()).clone()),
            _ => Err(self.failure(&answer, "looking up the room's alias", None)),
        }
    }

    /// The alias may have been moved to another room since it was resolved.
    async fn forget(&self, answer: &Answer) {
        if matches!(answer.status, StatusCode::FORBIDDEN | StatusCode::NOT_FOUND) {
            *self.known.id.lock().await = None;
            *self.known.encryption.lock().await = None;
        }
    }

    /// Checks once whether the room is encrypted. smsbridge sends unencrypted events, which clients show with a
    /// warning, so the operator should know.
    async fn encrypted(&self, deadline: Instant) -> bool {
        let mut known = self.known.encryption.lock().await;
        if let Some(encrypted) = *known {
            return encrypted;
        }
        let Ok(id) = self.id(deadline).await else {
            return false;
        };
        let path = ["rooms", &id, "state", "m.room.encryption"];
        let deadline = deadline.min(Instant::now() + ENCRYPTION_TIMEOUT);
        let asked = self.call(Method::GET, &path, None, deadline).await;
        let Ok(answer) = asked else { return false };
        let encrypted = answer.status.is_success();
        if encrypted || answer.status == StatusCode::NOT_FOUND {
            *known = Some(encrypted);
        }
        if encrypted && !self.known.warned.swap(true, Ordering::Relaxed) {
            tracing::warn!(room = %self.address, "the Matrix room {} is encrypted, but messages are sent to it unencrypted", self.address);
        }
        encrypted
    }

    fn failure(&self, answer: &Answer, doing: &str, message: Option<&Message>) -> Failure {
        answer::failure(answer, doing, |code| self.mask.permits(code, message))
    }

    async fn call(
        &self,
        method: Method,
        path: &[&str],
        body: Option<&Value>,
        deadline: Instant,
    ) -> Result<Answer, Failure> {
        let mut request = self
            .http
            .request(method, self.url(path))
            .bearer_auth(self.token.reveal());
        if let Some(body) = body {
            request = request.json(body);
        }
        self.http.ask(request, deadline, &self.mask).await
    }

    /// Each part of the path is escaped, so that no alias or id can lead to another path.
    fn url(&self, path: &[&str]) -> Url {
        let mut url = self.homeserver.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments
                .pop_if_empty()
                .extend(["_matrix", "client", "v3"])
                .extend(path);
        }
        url
    }
}

fn event_id(answer: &Answer) -> Option<String> {
    answer
        .members
        .get("event_id")
        .as_str()
        .filter(|_| answer.status.is_success())
        .map(str::to_owned)
}

/// The root of a thread may be deleted or may itself be a reply, which servers reject as a bad request.
fn thread_refused(answer: &Answer) -> bool {
    answer.status == StatusCode::BAD_REQUEST
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alias_cannot_lead_to_another_path() {
        let room = Room {
            http: Client::new().unwrap(),
            homeserver: Url::parse("https://m.example/base/").unwrap(),
            address: "#a/../b?c:m.example".to_owned(),
            token: Secret::new("t"),
            msgtype: MessageType::Text,
            threads: true,
            join: true,
            mask: Mask::default(),
            known: Known::default(),
        };
        let url = room.url(&["directory", "room", &room.address]);
        assert_eq!(
            url.as_str(),
            "https://m.example/base/_matrix/client/v3/directory/room/%23a%2F..%2Fb%3Fc:m.example"
        );
    }
}
