//! The results: one line per figure, a table at the end, and the same data as JSON.

use std::path::Path;

use anyhow::Result;
use serde::Serialize;

/// One figure, with its target.
#[derive(Debug, Serialize)]
pub struct Figure {
    /// The yardstick it belongs to.
    pub yardstick: &'static str,
    /// The name of the figure.
    pub what: String,
    /// The figure.
    pub measured: f64,
    /// The unit; empty for a ratio.
    pub unit: &'static str,
    /// The target; `None` for a figure that only explains others.
    pub target: Option<Target>,
    /// Whether the target is met.
    pub reached: Option<bool>,
    /// How it was computed.
    pub detail: String,
}

/// The target of a figure.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// This or more.
    AtLeast(f64),
    /// This or less.
    AtMost(f64),
}

impl Target {
    fn holds(self, measured: f64) -> bool {
        match self {
            Self::AtLeast(least) => measured >= least,
            Self::AtMost(most) => measured <= most,
        }
    }

    fn words(self, unit: &str) -> String {
        match self {
            Self::AtLeast(least) => format!(">= {least} {unit}"),
            Self::AtMost(most) => format!("<= {most} {unit}"),
        }
    }
}

/// All figures of a run.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    figures: Vec<Figure>,
}

impl Report {
    /// Adds a figure with a target.
    pub fn add(
        &mut self,
        yardstick: &'static str,
        what: impl Into<String>,
        (measured, unit): (f64, &'static str),
        target: Target,
        detail: impl Into<String>,
    ) {
        self.push(Figure {
            yardstick,
            what: what.into(),
            measured,
            unit,
            target: Some(target),
            reached: Some(target.holds(measured)),
            detail: detail.into(),
        });
    }

    /// Adds a figure without a target.
    pub fn note(
        &mut self,
        yardstick: &'static str,
        what: impl Into<String>,
        (measured, unit): (f64, &'static str),
        detail: impl Into<String>,
    ) {
        self.push(Figure {
            yardstick,
            what: what.into(),
            measured,
            unit,
            target: None,
            reached: None,
            detail: detail.into(),
        });
    }

    fn push(&mut self, figure: Figure) {
        eprintln!("{}", line(&figure));
        self.figures.push(figure);
    }

    /// Prints the table and writes the JSON.
    pub fn finish(&self, path: &Path) -> Result<()> {
        println!();
        for figure in &self.figures {
            println!("{}", line(figure));
        }
        let missed = self.figures.iter().filter(|figure| figure.reached == Some(false));
        let reached = self.figures.iter().filter(|figure| figure.reached == Some(true));
        println!("\n{} reached, {} missed", reached.count(), missed.count());
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        std::fs::write(path, serde_json::to_vec_pretty(self)?)?;
        println!("{}", path.display());
        Ok(())
    }
}

fn line(figure: &Figure) -> String {
    let verdict = match figure.reached {
        Some(true) => "reached",
        Some(false) => "MISSED",
        None => "",
    };
    let target = figure
        .target
        .map(|target| target.words(figure.unit))
        .unwrap_or_default();
    let measured = format!("{} {}", short(figure.measured), figure.unit);
    format!(
        "{:8} {:52} {:>14}  {:14} {:7}  {}",
        figure.yardstick, figure.what, measured, target, verdict, figure.detail
    )
}

/// Formats three significant digits: such figures are not more precise.
fn short(number: f64) -> String {
    let places = match number.abs() {
        large if large >= 100.0 => 0,
        middle if middle >= 10.0 => 1,
        _ => 2,
    };
    format!("{number:.places$}")
}

/// The median, because a single round on a shared machine is not reliable.
pub fn median(numbers: &[f64]) -> f64 {
    let mut sorted = numbers.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}
