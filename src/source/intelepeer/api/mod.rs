//! The provider's management API, which stores the webhook URL of each number.
//!
//! Follows [Receiving SMS Messages] and [API Authentication]. Every number gets its own [`Outcome`], even if a
//! request for several numbers failed, so that one bad number does not hide the results of the others.
//!
//! [Receiving SMS Messages]: https://docs.intelepeer.com/Atmosphere/Content/Atmosphere-SMS-Messaging/SMS-APIs/Receiving-SMS-Messages.htm
//! [API Authentication]: https://docs.intelepeer.com/Atmosphere/Content/Atmosphere-SMS-Messaging/SMS-APIs/SMS-Message-Management.htm

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use deserr::Deserr;
use reqwest::{RequestBuilder, StatusCode};
use serde_json::json;
use tokio::time::Instant;
use url::Url;

use crate::mask::Mask;
use crate::model::lint::{self, Lint};
use crate::model::number::Number;
use crate::model::secret::{self, Secret};
use crate::model::setting::Errors;

pub use answer::{Outcome, State, Webhook};
pub use call::Error;
pub use compare::{Row, compare, mask_url};

use call::{Answer, Call};

mod answer;
mod call;
mod compare;

/// Numbers per request. The provider documents no limit; this keeps the URL well below 2 KiB.
const BULK_MAX: usize = 50;

/// Tokens are valid for 24 hours. A token is not used in its last minutes, so that it does not expire during a
/// request.
const TOKEN_LIFE: Duration = Duration::from_secs((24 * 60 - 5) * 60);

const AUTHENTICATE: &str = "/_rest/v4/authenticate";
const WEBHOOK: &str = "/_rest/v4/my/did/sms/webhook";

/// `[source.NAME.api]`
#[derive(Clone, Debug, Default, Deserr)]
#[deserr(error = Errors, deny_unknown_fields)]
pub struct Config {
    /// The user name for the portal.
    #[deserr(default)]
    pub username: Option<String>,
    /// The password for the portal.
    #[deserr(default)]
    pub password: Option<Secret>,
    /// An existing token, instead of user name and password. It cannot be renewed.
    #[deserr(default)]
    pub token: Option<Secret>,
    /// The region of the account.
    #[deserr(default = Self::default().region)]
    pub region: Region,
    /// The URL of the API, if it is not that of the region: a private gateway, or a test.
    #[deserr(default)]
    pub api_url: Option<String>,
    /// The URL for authentication, if it is not that of the region.
    #[deserr(default)]
    pub auth_url: Option<String>,
    /// How the token is sent.
    #[deserr(default = Self::default().authorization)]
    pub authorization: Authorization,
    /// The numbers whose messages should be sent here.
    #[deserr(default = Self::default().numbers)]
    pub numbers: Vec<String>,
}

/// The region of an account.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserr)]
#[deserr(error = Errors, rename_all = lowercase)]
pub enum Region {
    /// `api.intelepeer.com`
    #[default]
    Us,
    /// `eu.api.intelepeer.com`
    Eu,
}

/// How the token is sent. The provider's pages show both forms.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserr)]
#[deserr(error = Errors, rename_all = lowercase)]
pub enum Authorization {
    /// `Authorization: Bearer TOKEN`
    #[default]
    Bearer,
    /// `Authorization: TOKEN`
    Bare,
}

impl Config {
    /// Checks what the types do not enforce.
    ///
    /// # Errors
    /// A sentence for the operator.
    pub fn validate(&self) -> Result<(), String> {
        Login::of(self)?;
        self.api()?;
        self.auth()?;
        self.endpoints().map(drop)
    }

    /// Settings that are legal but probably a mistake.
    pub(super) fn lints(&self) -> Vec<Lint> {
        let mut lints = Vec::new();
        for (key, url) in [("api.api_url", &self.api_url), ("api.auth_url", &self.auth_url)] {
            let plain = url
                .as_deref()
                .and_then(|url| lint::plain_http(url, "the token or password"));
            lints.extend(plain.map(|message| Lint::new(key, message)));
        }
        for (key, secret) in [("api.password", &self.password), ("api.token", &self.token)] {
            let example = secret
                .as_ref()
                .and_then(|secret| lint::example_secret(secret.reveal()));
            lints.extend(example.map(|message| Lint::new(key, message)));
        }
        lints
    }

    /// The configured numbers in the format of the API.
    ///
    /// # Errors
    /// Names the first invalid number.
    pub fn endpoints(&self) -> Result<Vec<String>, String> {
        let read = |text: &String| endpoint(text).map_err(|error| format!("`numbers`: `{text}` is {error}"));
        self.numbers.iter().map(read).collect()
    }

    fn api(&self) -> Result<Url, String> {
        let own = match self.region {
            Region::Us => "https://api.intelepeer.com",
            Region::Eu => "https://eu.api.intelepeer.com",
        };
        base("api_url", self.api_url.as_deref().unwrap_or(own))
    }

    fn auth(&self) -> Result<Url, String> {
        base(
            "auth_url",
            self.auth_url
                .as_deref()
                .unwrap_or("https://customer.intelepeer.com"),
        )
    }
}

/// A number in the format of the API: E.164 with plus; anything else unchanged.
///
/// # Errors
/// When the format is unknown.
pub fn endpoint(text: &str) -> Result<String, crate::model::number::NumberError> {
    let number = Number::parse(text)?;
    let international = number.normal().starts_with('+');
    Ok(if international {
        number.normal().to_owned()
    } else {
        number.raw().trim().to_owned()
    })
}

/// A client of the API. It keeps its token only in memory.
#[derive(Debug)]
pub struct Client {
    http: reqwest::Client,
    api: Url,
    auth: Url,
    login: Login,
    authorization: Authorization,
    backoff: Duration,
    held: Mutex<Option<Held>>,
}

#[derive(Clone, Debug)]
enum Login {
    Password { username: String, password: Secret },
    Token(Secret),
}

#[derive(Clone, Debug)]
struct Held {
    token: Secret,
    until: Instant,
}

impl Client {
    /// Creates a client without opening a connection. `http` should not follow redirects, because a redirected POST
    /// loses its body.
    ///
    /// # Errors
    /// A sentence for the operator.
    pub fn new(config: &Config, http: reqwest::Client) -> Result<Self, String> {
        Ok(Self {
            http,
            api: config.api()?,
            auth: config.auth()?,
            login: Login::of(config)?,
            authorization: config.authorization,
            backoff: Duration::from_millis(500),
            held: Mutex::new(None),
        })
    }

    /// Sets the delay before the first retry of a failed request. It doubles with each retry.
    #[must_use]
    pub fn with_backoff(self, backoff: Duration) -> Self {
        Self { backoff, ..self }
    }

    /// A valid token: the configured one, the one in memory, or a new one.
    ///
    /// # Errors
    /// When authentication fails.
    pub async fn token(&self) -> Result<Secret, Error> {
        match &self.login {
            Login::Token(token) => Ok(token.clone()),
            Login::Password { username, password } => match self.held() {
                Some(token) => Ok(token),
                None => self.log_in(username, password).await,
            },
        }
    }

    /// Queries the webhook of each number. The results have the order of the arguments.
    pub async fn get(&self, endpoints: &[String]) -> Vec<(String, Outcome)> {
        self.all(endpoints, |endpoints, token| {
            let mut url = join(&self.api, WEBHOOK);
            // Several numbers are sent as a repeated parameter; the documented example has only one number.
            url.query_pairs_mut()
                .extend_pairs(endpoints.iter().map(|endpoint| ("endpoint", endpoint)));
            self.authorized(self.http.get(url), token)
        })
        .await
    }

    /// Sets `webhook` for each number. The results have the order of the arguments.
    ///
    /// From then on the provider delivers the messages of these numbers there *instead of* to its own platform.
    pub async fn set(&self, endpoints: &[String], webhook: &Secret) -> Vec<(String, Outcome)> {
        self.all(endpoints, |endpoints, token| {
            let body = json!({ "endpoints": endpoints, "webhook": webhook.reveal() });
            self.authorized(self.http.post(join(&self.api, WEBHOOK)).json(&body), token)
        })
        .await
    }

    async fn all(
        &self,
        endpoints: &[String],
        request: impl Fn(&[String], &Secret) -> RequestBuilder,
    ) -> Vec<(String, Outcome)> {
        let mut outcomes = Vec::with_capacity(endpoints.len());
        for some in endpoints.chunks(BULK_MAX) {
            if let Err(error) = self.bulk(some, &request, &mut outcomes).await {
                // All attempts failed, so requests for the other numbers would fail as well.
                outcomes.resize(endpoints.len(), Outcome::from(&error));
                break;
            }
        }
        endpoints.iter().cloned().zip(outcomes).collect()
    }

    /// Sends one request for several numbers, or one for each if the response does not distinguish them.
    async fn bulk(
        &self,
        endpoints: &[String],
        request: &impl Fn(&[String], &Secret) -> RequestBuilder,
        outcomes: &mut Vec<Outcome>,
    ) -> Result<(), Error> {
        let answer = self.ask(|token| request(endpoints, token)).await?;
        if answer.tells_apart() || endpoints.len() == 1 || answer.status == StatusCode::UNAUTHORIZED {
            outcomes.extend(answer::outcomes(&answer, endpoints));
            return Ok(());
        }
        for endpoint in endpoints.chunks(1) {
            let answer = self.ask(|token| request(endpoint, token)).await?;
            outcomes.extend(answer::outcomes(&answer, endpoint));
        }
        Ok(())
    }

    /// Sends a request, and again with a new token if the one in memory was rejected.
    async fn ask(&self, request: impl Fn(&Secret) -> RequestBuilder) -> Result<Answer, Error> {
        let token = self.token().await?;
        let answer = self.call(|| request(&token), self.mask().secret(&token)).await?;
        if answer.status != StatusCode::UNAUTHORIZED || matches!(self.login, Login::Token(_)) {
            return Ok(answer);
        }
        self.hold(None);
        let token = self.token().await?;
        self.call(|| request(&token), self.mask().secret(&token)).await
    }

    async fn log_in(&self, username: &str, password: &Secret) -> Result<Secret, Error> {
        let body = json!({ "username": username, "password": password.reveal() });
        let asked = Instant::now();
        let request = || self.http.post(join(&self.auth, AUTHENTICATE)).json(&body);
        let answer = self.call(request, self.mask()).await?;
        let token = answer::token(&answer)?;
        self.hold(Some(Held {
            token: token.clone(),
            until: asked + TOKEN_LIFE,
        }));
        Ok(token)
    }

    async fn call(&self, request: impl Fn() -> RequestBuilder, mask: Mask) -> Result<Answer, Error> {
        Call {
            request,
            mask,
            backoff: self.backoff,
        }
        .answer()
        .await
    }

    /// Masks the login.
    fn mask(&self) -> Mask {
        match &self.login {
            Login::Password { password, .. } => Mask::default().secret(password),
            Login::Token(token) => Mask::default().secret(token),
        }
    }

    fn authorized(&self, request: RequestBuilder, token: &Secret) -> RequestBuilder {
        match self.authorization {
            Authorization::Bearer => request.bearer_auth(token.reveal()),
            Authorization::Bare => request.header(http::header::AUTHORIZATION, token.reveal()),
        }
    }

    fn held(&self) -> Option<Secret> {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.as_ref()
            .filter(|held| Instant::now() < held.until)
            .map(|held| held.token.clone())
    }

    fn hold(&self, held: Option<Held>) {
        *self.held.lock().unwrap_or_else(PoisonError::into_inner) = held;
    }
}

impl Login {
    fn of(config: &Config) -> Result<Self, String> {
        match (&config.username, &config.password, &config.token) {
            (None, None, Some(token)) => Ok(Self::Token(token.clone())),
            (Some(username), Some(password), None) => Ok(Self::Password {
                username: username.clone(),
                password: password.clone(),
            }),
            (None, None, None) => Err("needs `username` and `password`, or `token`".to_owned()),
            (_, _, Some(_)) => Err("`token` replaces `username` and `password`: remove them".to_owned()),
            (Some(_), None, None) => Err("`password` is missing".to_owned()),
            (None, Some(_), None) => Err("`username` is missing".to_owned()),
        }
    }
}

fn base(key: &str, text: &str) -> Result<Url, String> {
    let url = secret::parse_url(text).map_err(|error| format!("`{key}`: {error}"))?;
    let plain = url.query().is_none() && url.fragment().is_none() && url.password().is_none();
    if matches!(url.scheme(), "http" | "https") && plain {
        Ok(url)
    } else {
        Err(format!("`{key}` must look like `https://api.example.com`"))
    }
}

fn join(base: &Url, path: &str) -> Url {
    let mut url = base.clone();
    url.set_path(&format!("{}{path}", base.path().trim_end_matches('/')));
    url
}
