//! `smsbridge route`: explains where a message would go, or lists all routes; needs no daemon.

use clap::Args;

use super::table::Table;
use super::{CommandError, Exit, Global, check, complain, print, style};
use crate::config::Purpose;
use crate::control::view::{ConditionsView, RouteView, RoutesView};
use crate::model::message::{Keyword, Name, Timestamp};
use crate::model::number::Number;
use crate::plan::{DryRun, Plan};

/// The arguments of `route`: a complete message, or none.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Sender: a number, or a name like Google
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true, requires_all = ["to", "message"])]
    from: Option<String>,
    /// The company's number
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true, requires = "from")]
    to: Option<String>,
    /// The message body
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true, requires = "from")]
    message: Option<String>,
    /// The source it comes from [default: the first in the configuration]
    #[arg(long, value_name = "NAME", requires = "from")]
    source: Option<Name>,
    /// When it was received [default: now]
    #[arg(long, value_name = "RFC3339", requires = "from")]
    at: Option<Timestamp>,
    /// Show exactly what would be sent to each destination
    #[arg(long, requires = "from")]
    render: bool,
}

pub(super) fn run(global: &Global, arguments: &Arguments) -> Result<Exit, CommandError> {
    let plan = match check::load(global, Purpose::Route) {
        Ok(loaded) => loaded.plan,
        Err(exit) => return Ok(exit),
    };
    match (&arguments.from, &arguments.to, &arguments.message) {
        (Some(from), Some(to), Some(text)) => explain(global, &plan, arguments, (from, to, text)),
        _ => list(global, &plan),
    }
}

fn explain(
    global: &Global,
    plan: &Plan,
    arguments: &Arguments,
    (from, to, text): (&str, &str, &str),
) -> Result<Exit, CommandError> {
    let Some(source) = source(plan, arguments) else {
        return Ok(Exit::Wrong);
    };
    let explanation = plan.explain(&DryRun {
        source: &source,
        from: &Number::received(from),
        to: &Number::received(to),
        text,
        at: arguments
            .at
            .unwrap_or_else(|| crate::engine::clock::Clock::system().wall()),
        render: arguments.render,
    });
    if global.json {
        print::json(&explanation)?;
    } else {
        print::text(&explanation.to_text())?;
    }
    Ok(Exit::Done)
}

fn source(plan: &Plan, arguments: &Arguments) -> Option<Name> {
    match &arguments.source {
        Some(name) if plan.sources.contains_key(name) => Some(name.clone()),
        Some(name) => {
            let known: Vec<&str> = plan.sources.keys().map(Name::as_str).collect();
            complain(&format!(
                "no source `{name}` in the configuration; there is: {}",
                known.join(", ")
            ));
            None
        }
        None => {
            let first = plan.sources.keys().next().cloned();
            if first.is_none() {
                complain(
                    "the configuration has no source; say which to assume with --source after adding one",
                );
            }
            first
        }
    }
}

/// Prints all routes, one per line, and the destinations of unmatched messages.
fn list(global: &Global, plan: &Plan) -> Result<Exit, CommandError> {
    let shown = RoutesView::of(&plan.routes);
    if global.json {
        print::json(&shown)?;
        return Ok(Exit::Done);
    }
    let mut table = Table::new(&["ROUTE", "DELIVERS TO", "THEN", "TEMPLATE", "WHEN"]);
    for route in &shown.routes {
        let RouteView {
            name,
            deliver,
            proceed,
            template,
            ..
        } = route;
        let cells = [
            name.as_str(),
            &destinations(deliver),
            if *proceed { "continue" } else { "stop" },
            if *template { "own" } else { "-" },
            &when(route),
        ];
        table.row(anstyle::Style::new(), cells.map(str::to_owned));
    }
    let rest = [
        "(unmatched)",
        &destinations(&shown.unmatched),
        "stop",
        "-",
        "no route matched",
    ];
    table.row(style::DIM, rest.map(str::to_owned));
    table.print("no route is configured")?;
    Ok(Exit::Done)
}

/// The names, or a note that the message is only kept.
fn destinations(names: &[Name]) -> String {
    match names {
        [] => "(kept)".to_owned(),
        names => names.iter().map(Name::as_str).collect::<Vec<_>>().join(", "),
    }
}

/// All conditions of a route as a sentence.
fn when(route: &RouteView) -> String {
    let during = |word: &str, intervals: &[Name]| {
        let names: Vec<&str> = intervals.iter().map(Name::as_str).collect();
        (!names.is_empty()).then(|| format!("{word} {}", names.join(" or ")))
    };
    let held = Some(conditions(&route.when)).filter(|held| !held.is_empty());
    let unless = route.unless.as_ref();
    let parts = [
        Some(held.unwrap_or_else(|| "always".to_owned())),
        unless.map(|unless| format!("unless {}", conditions(unless))),
        during("during", &route.active),
        during("not during", &route.muted),
        route.urgent.then(|| "urgent".to_owned()),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

fn conditions(conditions: &ConditionsView) -> String {
    let ConditionsView {
        from,
        to,
        source,
        message,
        keyword,
    } = conditions;
    let any = |what: &str, list: &[String]| match list {
        [one] => format!("{what} {one}"),
        many => format!("{what} ({})", many.join(" or ")),
    };
    let sources: Option<Vec<String>> = source
        .as_ref()
        .map(|names| names.iter().map(Name::to_string).collect());
    let keywords: Option<Vec<String>> = keyword
        .as_ref()
        .map(|keywords| keywords.iter().map(Keyword::to_string).collect());
    let given = [
        sources.map(|list| any("source", &list)),
        to.as_ref().map(|list| any("to", list)),
        from.as_ref().map(|list| any("from", list)),
        keywords.map(|list| any("keyword", &list)),
        message
            .as_ref()
            .map(|expression| format!("message matches `{expression}`")),
    ];
    given.into_iter().flatten().collect::<Vec<_>>().join(" and ")
}
