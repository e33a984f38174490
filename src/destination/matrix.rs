//! Matrix: a room over the client-server API, or a matrix-hookshot generic webhook.

use deserr::Deserr;
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;

use super::http::{Client, address, parse_url};
use super::{BuildContext, Delivered, Destination, Failure, Kind, OutboundMessage};
use crate::mask::Mask;
use crate::model::lint::{self, Lint};
use crate::model::secret::Secrets;
use crate::model::setting::Errors;

mod answer;
mod content;
mod hookshot;
mod room;

use content::Words;
use hookshot::Hookshot;
use room::Room;

/// `kind = "matrix"`: either `homeserver`, `room` and `access_token`, or `webhook_url`.
#[derive(Clone, Debug, Deserr)]
#[deserr(error = Errors, deny_unknown_fields)]
pub struct Config {
    /// The base of the client-server API (`https://matrix.example.com`).
    #[deserr(default)]
    pub homeserver: Option<String>,
    /// `!id:example.com` or `#alias:example.com`.
    #[deserr(default)]
    pub room: Option<String>,
    /// The access token of the Matrix user.
    #[deserr(default)]
    pub access_token: Option<Secrets>,
    /// A matrix-hookshot generic webhook, instead of the three keys above.
    #[deserr(default)]
    pub webhook_url: Option<Secrets>,
    /// The sender's name in matrix-hookshot; only with `webhook_url`.
    #[deserr(default)]
    pub username: Option<String>,
    /// How clients display the message; only with `room`.
    #[deserr(default)]
    pub msgtype: Option<MessageType>,
    /// Whether each conversation has its own thread; only with `room`, where it is the default.
    #[deserr(default)]
    pub threads: Option<bool>,
    /// Whether to accept an invitation or join an open room; only with `room`, where it is the default.
    #[deserr(default)]
    pub join: Option<bool>,
}

impl Kind for Config {
    fn lints(&self) -> Vec<Lint> {
        [
            lint::secret_url("webhook_url", self.webhook_url.as_ref()),
            lint::open_url("homeserver", self.homeserver.as_deref(), "the access token"),
            lint::issued("access_token", self.access_token.as_ref()),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    fn build(&self, context: BuildContext<'_>) -> Result<Box<dyn Destination>, String> {
        Ok(Box::new(Matrix::build(self, context)?))
    }
}

/// How clients display a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserr)]
#[deserr(error = Errors)]
pub enum MessageType {
    /// Like a message from a person.
    #[default]
    #[deserr(rename = "m.text")]
    Text,
    /// Like a message from a bot: many clients show it less prominently and send no notification.
    #[deserr(rename = "m.notice")]
    Notice,
}

/// A Matrix destination.
pub struct Matrix {
    timeout: Duration,
    words: Words,
    way: Way,
}

enum Way {
    Room(Room),
    Hookshot(Hookshot),
}

impl Matrix {
    /// Builds the destination without a request.
    ///
    /// # Errors
    /// A sentence that names the missing or invalid key.
    pub fn build(config: &Config, context: BuildContext<'_>) -> Result<Self, String> {
        let way = way(config, context.http)?;
        Ok(Self {
            timeout: context.timeout,
            words: Words::new(context.template)?,
            way,
        })
    }
}

#[async_trait]
impl Destination for Matrix {
    fn address(&self) -> Option<String> {
        address(match &self.way {
            Way::Room(room) => &room.homeserver,
            Way::Hookshot(hookshot) => &hookshot.url,
        })
    }

    async fn deliver(&self, outbound: &OutboundMessage<'_>) -> Result<Delivered, Failure> {
        let deadline = Instant::now() + self.timeout;
        match &self.way {
            Way::Room(room) => room.deliver(outbound, &self.words, deadline).await,
            Way::Hookshot(hookshot) => hookshot.deliver(outbound, &self.words, deadline).await,
        }
    }

    fn render(&self, outbound: &OutboundMessage<'_>) -> Result<String, Failure> {
        let payload = match &self.way {
            Way::Room(room) => room.event(outbound, &self.words, room.root(outbound))?,
            Way::Hookshot(hookshot) => hookshot.payload(outbound, &self.words)?,
        };
        Ok(format!("{payload:#}"))
    }
}

fn way(config: &Config, http: &Client) -> Result<Way, String> {
    let Some(url) = &config.webhook_url else {
        return room(config, http).map(Way::Room);
    };
    if config.homeserver.is_some() || config.room.is_some() || config.access_token.is_some() {
        return Err(
            "`webhook_url` has its room: leave `homeserver`, `room` and `access_token` out".to_owned(),
        );
    }
    if config.msgtype.is_some() || config.threads.is_some() || config.join.is_some() {
        return Err(
            "`msgtype`, `threads` and `join` need `homeserver`, `room` and `access_token`".to_owned(),
        );
    }
    let url = parse_url("webhook_url", url.first()?.reveal())?;
    Ok(Way::Hookshot(Hookshot {
        http: http.clone(),
        mask: Mask::default().url(&url),
        url,
        username: config.username.clone(),
    }))
}

fn room(config: &Config, http: &Client) -> Result<Room, String> {
    let (Some(homeserver), Some(room), Some(token)) =
        (&config.homeserver, &config.room, &config.access_token)
    else {
        return Err("either `homeserver`, `room` and `access_token`, or `webhook_url`, is needed".to_owned());
    };
    if config.username.is_some() {
        return Err("`username` is for `webhook_url`: set the name of the Matrix user instead".to_owned());
    }
    if !room.starts_with(['!', '#']) || room.len() > 255 {
        return Err(format!(
            "`room` is `{room}`, but a room is `!id:example.com` or `#alias:example.com`"
        ));
    }
    Ok(Room {
        http: http.clone(),
        homeserver: parse_url("homeserver", homeserver)?,
        address: room.clone(),
        token: token.first()?.clone(),
        mask: Mask::default().secrets(token),
        msgtype: config.msgtype.unwrap_or_default(),
        threads: config.threads.unwrap_or(true),
        join: config.join.unwrap_or(true),
        known: Default::default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exactly_one_way_is_configured() {
        let http = Client::new().unwrap();
        let built = |toml: &str| way(&crate::model::setting::from_toml(toml).unwrap(), &http);
        let room = "homeserver = 'https://m.example'\nroom = '!a:m.example'\naccess_token = 't'\n";
        assert!(matches!(built(room), Ok(Way::Room(_))));
        assert!(matches!(
            built("webhook_url = 'https://h.example/x'"),
            Ok(Way::Hookshot(_))
        ));
        for (toml, named) in [
            ("", "is needed"),
            (
                "homeserver = 'https://m.example'\nroom = '!a:m.example'",
                "is needed",
            ),
            (
                "homeserver = 'https://m.example'\nroom = 'general'\naccess_token = 't'",
                "`room`",
            ),
            (
                "homeserver = 'm.example'\nroom = '!a:m.example'\naccess_token = 't'",
                "`homeserver`",
            ),
            (&format!("{room}username = 'x'"), "`username`"),
            (&format!("{room}webhook_url = 'https://h.example/x'"), "leave"),
            ("webhook_url = 'https://h.example/x'\nthreads = true", "`threads`"),
        ] {
            let error = built(toml).err().unwrap_or_default();
            assert!(error.contains(named), "{toml}: {error}");
        }
    }
}
