//! `routes`: the time of a routing decision with an increasing number of routes.

use std::time::Instant;

use anyhow::{Result, ensure};
use smsbridge::model::message::{Name, Timestamp};
use smsbridge::model::number::{Number, Pattern};
use smsbridge::routing::{Conditions, Expressions, Route, Routes, Subject};

use crate::report::{Report, Target, median};

const YARDSTICK: &str = "routes";

const TEXTS: usize = 2_000;

/// Measures it.
pub fn measure(report: &mut Report) -> Result<()> {
    let mut medians = Vec::new();
    for count in [100, 1_000, 10_000] {
        let began = Instant::now();
        let routes = Routes::new(
            (0..count).map(route).collect::<Result<_>>()?,
            vec!["desk".parse()?],
        );
        let built = began.elapsed();
        let kinds = decide(&routes, count)?;
        let middle = kinds.into_iter().fold(0.0, f64::max);
        let what = format!("one message through {count} routes, a third by words");
        let [words, to, from, none] = kinds;
        let detail = format!(
            "medians: {words:.1} by words, {to:.1} by receiver, {from:.1} by sender, {none:.1} by none; built in {built:.1?}"
        );
        if count == 10_000 {
            report.add(YARDSTICK, what, (middle, "us"), Target::AtMost(50.0), detail);
        } else {
            report.note(YARDSTICK, what, (middle, "us"), detail);
        }
        medians.push(middle);
    }
    report.add(
        YARDSTICK,
        "what ten times the routes (1 000 to 10 000) cost",
        (medians[2] / medians[1], "x"),
        Target::AtMost(9.0),
        format!("from 100 to 1 000: {:.1} x", medians[1] / medians[0]),
    );
    Ok(())
}

/// By receiver, by a prefix of senders, and by words, in turns.
fn route(n: usize) -> Result<Route> {
    let pattern = |text: String| Ok::<_, anyhow::Error>(Some(vec![Pattern::parse(&text)?]));
    let when = match n % 3 {
        0 => Conditions {
            message: Some(Expressions::default().compile(&format!(r"(?i)\b(alarm|fault)\s+{}\b", word(n)))?),
            ..Conditions::default()
        },
        1 => Conditions {
            to: pattern(format!("+1303{n:07}"))?,
            ..Conditions::default()
        },
        _ => Conditions {
            from: pattern(format!("+1212{n:05}*"))?,
            ..Conditions::default()
        },
    };
    Ok(Route {
        name: format!("route-{n}").parse()?,
        when,
        unless: None,
        active: Vec::new(),
        muted: Vec::new(),
        urgent: false,
        deliver: vec!["desk".parse()?],
        proceed: false,
        template: None,
    })
}

/// A word that no other route has.
fn word(n: usize) -> String {
    format!("pump{n:05}")
}

/// Median microseconds per message, for messages that a route finds by words, by receiver, by sender, and for messages
/// that match none.
fn decide(routes: &Routes, count: usize) -> Result<[f64; 4]> {
    let source: Name = "carrier".parse()?;
    let mut took: [Vec<f64>; 4] = std::array::from_fn(|_| Vec::new());
    for n in 0..TEXTS {
        let kind = n % 4;
        // A random route of that kind.
        let at = n.wrapping_mul(7_919) % (count / 3) * 3 + kind % 3;
        let to = Number::parse(&format!("+1303{:07}", if kind == 1 { at } else { 9_999_999 }))?;
        let from = Number::parse(&format!("+1212{:05}77", if kind == 2 { at } else { 99_999 }))?;
        let words = if kind == 0 {
            word(at)
        } else {
            "the north door".to_owned()
        };
        let text =
            format!("Number {n}: there is a fault {words}, please look at it before eight, and call back.");
        let subject = Subject {
            source: &source,
            from: &from,
            to: &to,
            text: &text,
            keyword: None,
            at: Timestamp(0),
        };
        let began = Instant::now();
        let decision = std::hint::black_box(routes.decide(std::hint::black_box(&subject)));
        took[kind].push(began.elapsed().as_secs_f64() * 1e6);
        ensure!(
            decision.routes.is_empty() == (kind == 3),
            "message {n} took the wrong route"
        );
    }
    Ok(took.map(|took| median(&took)))
}
