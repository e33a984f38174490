//! Queries to which URL the provider sends the messages of the operator's numbers, for the daily webhook check.

use async_trait::async_trait;

use super::super::{Context, NumberPoints, Upstream};
use super::Config;
use super::api::{self, Row, State};
use crate::http_client;
use crate::mask::{Mask, Reason};
use crate::model::number::Number;
use crate::model::secret::Secret;

/// The numbers of one account and the URL that they should have.
pub(super) struct Account {
    client: api::Client,
    numbers: Vec<String>,
    wanted: Secret,
}

impl Account {
    /// `None` if the configuration names no numbers, or `server.public_url` is not set.
    pub(super) fn build(config: &Config, context: &Context<'_>) -> Result<Option<Self>, String> {
        let (Some(api), Some(public_url)) = (&config.api, context.public_url) else {
            return Ok(None);
        };
        let numbers = api.endpoints().map_err(|error| format!("`api`: {error}"))?;
        if numbers.is_empty() {
            return Ok(None);
        }
        let http = http_client::builder(context.resolver.clone())
            .build()
            .map_err(|error| format!("the HTTP client cannot be set up: {error}"))?;
        let client = api::Client::new(api, http).map_err(|error| format!("`api`: {error}"))?;
        Ok(Some(Self {
            client,
            numbers,
            wanted: context.settings.access.webhook_url(public_url, context.path)?,
        }))
    }
}

#[async_trait]
impl Upstream for Account {
    async fn check(&self) -> Vec<NumberPoints> {
        let outcomes = self.client.get(&self.numbers).await;
        let asked: Vec<bool> = outcomes.iter().map(|(_, outcome)| outcome.is_answer()).collect();
        let rows = api::compare(&self.wanted, outcomes);
        rows.into_iter()
            .zip(asked)
            .filter_map(|(row, asked)| points(row, asked))
            .collect()
    }
}

fn points(row: Row, asked: bool) -> Option<NumberPoints> {
    let number = Number::parse(&row.number).ok()?;
    let problem = if !asked {
        return Some(NumberPoints {
            number,
            problem: row.problem,
            known: false,
        });
    } else if !row.ours {
        Some(row.problem.unwrap_or_else(|| elsewhere(row.now.as_deref())))
    } else if row
        .state
        .as_ref()
        .is_some_and(|state| *state != State::Provisioned)
    {
        row.problem.or_else(|| row.state.as_ref().map(unfinished))
    } else {
        row.problem
    };
    Some(NumberPoints {
        number,
        problem,
        known: true,
    })
}

fn elsewhere(now: Option<&str>) -> Reason {
    let reason = match now {
        // It may have been masked already. Here it is marked as a quotation so that it is not logged.
        Some(url) => {
            Reason::from("its webhook points elsewhere").quote(", to ", &Mask::default().excerpt(url, None))
        }
        None => "its messages go to the provider's own platform".into(),
    };
    reason.own(": run `smsbridge intelepeer webhook sync`")
}

fn unfinished(state: &State) -> Reason {
    match state {
        State::Unknown(word) => {
            Reason::from("the provider's state for it is not documented, and not `provisioned`")
                .quote(": ", word)
        }
        known => format!("the provider says it is `{known}`, not yet provisioned").into(),
    }
}
