//! The account that a command uses: a source with `api` in the configuration.

use std::any::Any;

use clap::Args;
use url::Url;

use crate::cli::service::Places;
use crate::cli::{CommandError, Exit, Global, client, problems};
use crate::config::{Config, Problem, Purpose, Severity};
use crate::model::message::Name;
use crate::model::secret::Secret;
use crate::source::Access;
use crate::source::intelepeer::{self, api};

/// The selected source.
#[derive(Debug, Args)]
pub struct Which {
    /// The source whose account it is [default: the only one with `api`]
    #[arg(long, value_name = "NAME")]
    source: Option<Name>,
}

/// A source with `api`.
pub(super) struct Account {
    name: Name,
    path: String,
    access: Access,
    /// Its `api`.
    pub(super) api: api::Config,
    public_url: Option<Url>,
}

impl Account {
    /// Reads the configuration. Errors in unrelated tables are ignored, and so is a destination's secret that only
    /// the service manager can provide.
    pub(super) fn open(global: &Global, which: &Which) -> Result<Self, CommandError> {
        let places = Places::find(global);
        let said = |problems| {
            problems::print_all(&problems);
            CommandError::from(Exit::Wrong)
        };
        let (config, problems) =
            Config::load(&places.config, Purpose::Serve, &places.outside).map_err(said)?;
        if problems.all().iter().any(|problem| concerns(problem, which)) {
            return Err(said(problems));
        }
        let public_url = config.server.public_url.clone();
        let mut accounts: Vec<Self> = config
            .sources
            .into_iter()
            .filter_map(|source| Self::of(source, public_url.clone()))
            .collect();
        if let Some(name) = &which.source {
            accounts.retain(|account| account.name == *name);
        }
        if accounts.len() > 1 {
            return Err(CommandError::wrong(format!(
                "several sources have `api`; choose one with --source: {}",
                names(&accounts)
            )));
        }
        accounts.pop().ok_or_else(|| nothing(which))
    }

    fn of(source: crate::config::Source, public_url: Option<Url>) -> Option<Self> {
        let kind: &dyn Any = source.config.as_ref();
        Some(Self {
            api: kind.downcast_ref::<intelepeer::Config>()?.api.clone()?,
            name: source.name,
            path: source.path.into_inner(),
            access: source.settings.access,
            public_url,
        })
    }

    /// A client for the management API.
    pub(super) fn client(&self) -> Result<api::Client, CommandError> {
        let http = client::http()
            .build()
            .map_err(|error| CommandError::failed(format!("no HTTP client: {error}")))?;
        api::Client::new(&self.api, http)
            .map_err(|error| CommandError::wrong(format!("source.{}.api: {error}", self.name)))
    }

    /// The URL that the provider must call, if `server.public_url` is set.
    pub(super) fn webhook_url(&self) -> Result<Option<Secret>, CommandError> {
        let Some(public_url) = &self.public_url else {
            return Ok(None);
        };
        let url = self.access.webhook_url(public_url, &self.path);
        url.map(Some).map_err(CommandError::wrong)
    }

    /// Like the previous method, but fails if `server.public_url` is not set.
    pub(super) fn wanted_url(&self) -> Result<Secret, CommandError> {
        self.webhook_url()?.ok_or_else(|| {
            CommandError::wrong(
                "`server.public_url` is not set: set it to the URL that the provider calls, such as \
                 \"https://sms.example.com\"",
            )
        })
    }

    /// The configured numbers; an error if there are none.
    pub(super) fn numbers(&self) -> Result<Vec<String>, CommandError> {
        let key = format!("source.{}.api", self.name);
        let numbers = self
            .api
            .endpoints()
            .map_err(|error| CommandError::wrong(format!("{key}: {error}")))?;
        if numbers.is_empty() {
            return Err(CommandError::wrong(format!("{key}.numbers is empty")));
        }
        Ok(numbers)
    }
}

/// Returns true if a problem affects the tables that are read here.
fn concerns(problem: &Problem, which: &Which) -> bool {
    let source = which
        .source
        .as_ref()
        .map_or_else(|| "source".to_owned(), |name| format!("source.{name}"));
    let within = |table: &str| {
        let rest = problem.key.strip_prefix(table);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    };
    problem.severity == Severity::Error && (problem.line == 0 || within("server") || within(&source))
}

fn names(accounts: &[Account]) -> String {
    accounts
        .iter()
        .map(|account| account.name.as_str())
        .collect::<Vec<_>>()
        .join(", ")
}

fn nothing(which: &Which) -> CommandError {
    CommandError::wrong(match &which.source {
        Some(name) => {
            format!("there is no source `{name}` with a table [source.{name}.api] in the configuration")
        }
        None => {
            "no source has an `api` table: add [source.NAME.api] with `username` and `password`, or `token`"
                .to_owned()
        }
    })
}
