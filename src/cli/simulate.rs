//! `smsbridge simulate`: posts a webhook like the carrier.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Args;

use super::client::http;
use super::service::Places;
use super::{CommandError, Exit, Global, check, complain, pinned_tls, print, style};
use crate::config::Purpose;
use crate::model::message::{Name, Timestamp};
use crate::plan::{Plan, PlannedSource, Tls};
use crate::source::{Composed, Part, Sample};
use crate::template::one_line;

/// The arguments of `simulate`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Sender: a number, or a name like Google
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true)]
    from: String,
    /// The company's number
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true)]
    to: String,
    /// The message body
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    message: String,
    /// The configured source to simulate [default: the only one]
    #[arg(long, value_name = "NAME")]
    source: Option<Name>,
    /// The carrier's id of the message [default: random]
    #[arg(long, value_name = "HEX32")]
    refid: Option<String>,
    /// Where to post [default: `server.listen` and the source's path]
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// How many messages; each after the first gets its own id
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    count: u32,
}

/// The timeout of one request: longer than that of any carrier.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The response to one request.
struct Answer {
    status: u16,
    body: String,
}

pub(super) fn run(global: &Global, arguments: &Arguments) -> Result<Exit, CommandError> {
    let plan = match check::load(global, Purpose::Serve) {
        Ok(loaded) => loaded.plan,
        Err(exit) => return Ok(exit),
    };
    let Some(source) = choose(&plan, arguments) else {
        return Ok(Exit::Wrong);
    };
    let (url, client) = match &arguments.url {
        Some(url) => (url.clone(), client(None)?),
        None => {
            let address = reachable(&plan);
            let url = format!("{}://{address}{}", plan.scheme(), source.path);
            (url, client(plan.tls.as_ref())?)
        }
    };
    let runtime = tokio::runtime::Runtime::new().context("no async runtime")?;
    runtime.block_on(post_all(global, arguments, source, &url, &client))
}

/// A client that trusts the daemon's own certificate from its file: it need not be valid for this address, nor signed
/// by a known authority.
fn client(tls: Option<&Tls>) -> anyhow::Result<reqwest::Client> {
    let builder = http().timeout(TIMEOUT);
    let builder = match tls {
        Some(tls) => builder.tls_backend_preconfigured(pinned_tls::client(tls.certificate().clone())?),
        None => builder,
    };
    builder.build().context("no HTTP client")
}

/// The given source, or the only one.
fn choose<'a>(plan: &'a Plan, arguments: &Arguments) -> Option<&'a PlannedSource> {
    let names = || {
        plan.sources
            .keys()
            .map(Name::as_str)
            .collect::<Vec<_>>()
            .join(", ")
    };
    match (&arguments.source, plan.sources.len()) {
        (Some(name), _) => {
            let found = plan.sources.get(name);
            if found.is_none() {
                complain(&format!(
                    "no source `{name}` in the configuration; there is: {}",
                    names()
                ));
            }
            found.map(AsRef::as_ref)
        }
        (None, 1) => plan.sources.values().next().map(AsRef::as_ref),
        (None, _) => {
            complain(&format!("choose a source with --source: {}", names()));
            None
        }
    }
}

/// For a daemon that listens on all addresses, the loopback address.
fn reachable(plan: &Plan) -> std::net::SocketAddr {
    let mut address = plan.server.listen;
    if address.ip().is_unspecified() {
        address.set_ip(if address.is_ipv4() {
            [127, 0, 0, 1].into()
        } else {
            std::net::Ipv6Addr::LOCALHOST.into()
        });
    }
    address
}

async fn post_all(
    global: &Global,
    arguments: &Arguments,
    source: &PlannedSource,
    url: &str,
    client: &reqwest::Client,
) -> Result<Exit, CommandError> {
    let started = Instant::now();
    let mut accepted = 0;
    for number in 0..arguments.count {
        let refid = match (&arguments.refid, number) {
            (Some(refid), 0) => refid.clone(),
            _ => uuid::Uuid::now_v7().simple().to_string().to_uppercase(),
        };
        let mut is_accepted = true;
        for composed in compose(source, &refid, arguments)? {
            let answer = match post(client, url, composed).await {
                Ok(answer) => answer,
                Err(error) => {
                    complain(&unreached(global, arguments, url, &error));
                    return Ok(Exit::Refused);
                }
            };
            is_accepted &= answer.status == 200;
            if arguments.count == 1 || answer.status != 200 {
                show(global, &answer)?;
            }
        }
        accepted += u32::from(is_accepted);
    }
    if arguments.count > 1 {
        sum_up(global, arguments.count, accepted, started.elapsed())?;
    }
    Ok(if accepted == arguments.count {
        Exit::Done
    } else {
        Exit::Refused
    })
}

/// The requests for one message: one for each part, if the carrier sends the parts of long messages one by one.
fn compose(
    source: &PlannedSource,
    refid: &str,
    arguments: &Arguments,
) -> Result<Vec<Composed>, CommandError> {
    let source = &source.source;
    let whole = Sample {
        provider_id: refid,
        from: &arguments.from,
        to: &arguments.to,
        text: &arguments.message,
        now: Timestamp(jiff::Timestamp::now().as_millisecond()),
        part: None,
    };
    let segments = whole.segments();
    if !source.sends_parts() || segments.len() == 1 {
        let composed = source.compose(&whole).map_err(CommandError::failed)?;
        return Ok(vec![composed]);
    }
    let total = u8::try_from(segments.len())
        .map_err(|_| CommandError::wrong("the message is longer than 255 segments"))?;
    let parts = segments.into_iter().zip(1..=total).map(|(text, number)| {
        let part = Part {
            reference: refid.to_owned(),
            number,
            total,
        };
        source.compose(&Sample {
            provider_id: &format!("{refid}{number}"),
            text,
            part: Some(&part),
            ..whole
        })
    });
    parts.collect::<Result<_, _>>().map_err(CommandError::failed)
}

async fn post(client: &reqwest::Client, url: &str, composed: Composed) -> Result<Answer, reqwest::Error> {
    let url = match &composed.query {
        Some(query) => format!("{url}?{query}"),
        None => url.to_owned(),
    };
    let request = client
        .request(composed.method, url)
        .headers(composed.headers)
        .body(composed.body);
    let response = request.send().await?;
    Ok(Answer {
        status: response.status().as_u16(),
        body: response.text().await?,
    })
}

fn unreached(global: &Global, arguments: &Arguments, url: &str, error: &reqwest::Error) -> String {
    if let Some(refused) = pinned_tls::refused(error) {
        format!("no TLS with {url}: {refused}")
    } else if error.is_connect() {
        let mut words = format!("no connection to {url}");
        // A given URL may belong to another machine.
        if arguments.url.is_none() {
            words += &format!(": {}", Places::find(global).not_running());
        }
        words
    } else {
        format!("no answer from {url}: {error}")
    }
}

fn show(global: &Global, answer: &Answer) -> Result<(), CommandError> {
    let Answer { status, body } = answer;
    if global.json {
        let body: serde_json::Value = serde_json::from_str(body).unwrap_or_else(|_| body.clone().into());
        return print::document(&serde_json::json!({ "status": status, "body": body }).to_string());
    }
    let style = if *status == 200 {
        style::SUCCESS
    } else {
        style::ERROR
    };
    print::text(&format!(
        "{} {}\n",
        style::on_stdout(style, &status.to_string()),
        one_line(body.trim_end())
    ))
}

fn sum_up(global: &Global, sent: u32, accepted: u32, took: Duration) -> Result<(), CommandError> {
    let seconds = took.as_secs_f64();
    if global.json {
        let sums = serde_json::json!({ "sent": sent, "accepted": accepted, "seconds": seconds });
        return print::document(&sums.to_string());
    }
    let rate = f64::from(sent) / seconds.max(0.001);
    print::text(&format!(
        "{accepted} of {sent} answered 200 in {seconds:.1} s ({rate:.0}/s, one after another)\n"
    ))
}
