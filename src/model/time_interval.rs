//! Time intervals: when a route is active, and when a destination holds its deliveries. The terms are those of
//! Alertmanager. Pure.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use deserr::Deserr;
use jiff::civil::{Date, DateTime, Time};
use jiff::tz::TimeZone;

use super::message::{Name, Timestamp};
use super::setting::Errors;
use super::units::{list, read_from_text};
use super::zone::Zone;

/// `[time_interval.NAME]`: all given conditions must hold; within one list, any.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimeInterval {
    /// Its name.
    pub name: Name,
    /// When it is.
    pub when: Arc<When>,
}

/// The content of the table.
#[derive(Clone, Debug, PartialEq, Eq, Deserr)]
#[deserr(error = Errors, deny_unknown_fields)]
pub struct When {
    #[deserr(default)]
    timezone: Option<Zone>,
    #[deserr(default, from(Vec<Times>) = list)]
    times: Vec<TimesOfDay>,
    #[deserr(default, from(Vec<Weekdays>) = list)]
    weekdays: Vec<Span<i8>>,
    #[deserr(default, from(Vec<Dates>) = list)]
    dates: Vec<Span<Date>>,
    #[deserr(default, from(Vec<Months>) = list)]
    months: Vec<Span<i8>>,
}

/// From the first to the last, both included; if the first is greater, over the end of the week or year.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Span<T> {
    first: T,
    last: T,
}

impl<T: PartialOrd + Copy> Span<T> {
    fn contains(&self, value: T) -> bool {
        if self.first <= self.last {
            self.first <= value && value <= self.last
        } else {
            value >= self.first || value <= self.last
        }
    }
}

/// From `start` to `end`, without the end; over midnight if the end is not after the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct TimesOfDay {
    start: Time,
    /// `None` is the end of the day.
    end: Option<Time>,
}

impl TimesOfDay {
    /// The day on which the range that contains this time began.
    fn day(&self, at: DateTime) -> Option<Date> {
        let (date, time) = (at.date(), at.time());
        match self.end {
            None => (time >= self.start).then_some(date),
            Some(end) if self.start < end => (self.start..end).contains(&time).then_some(date),
            Some(_) if time >= self.start => Some(date),
            Some(end) if time < end => date.yesterday().ok(),
            Some(_) => None,
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Times(TimesOfDay);

read_from_text!(Times(TimesOfDay), TIMES, |text| {
    times(text).ok_or_else(|| format!("`{text}` is not {TIMES}"))
});

const TIMES: &str = "a range of times like \"08:00-18:00\"";

fn times(text: &str) -> Option<TimesOfDay> {
    let (start, end) = text.split_once('-')?;
    let (start, end) = (time(start)?, end.trim());
    let end = match end {
        "24:00" => None,
        _ => Some(time(end)?),
    };
    (end != Some(start)).then_some(TimesOfDay { start, end })
}

fn time(text: &str) -> Option<Time> {
    let (hour, minute) = text.trim().split_once(':')?;
    let number = |text: &str| match text.len() {
        2 => text.parse::<i8>().ok(),
        _ => None,
    };
    Time::new(number(hour)?, number(minute)?, 0, 0).ok()
}

#[derive(Clone, Copy, Debug)]
struct Weekdays(Span<i8>);

read_from_text!(Weekdays(Span<i8>), WEEKDAYS, |text| {
    span(text, "-", |day| word(day, &DAYS)).ok_or_else(|| format!("`{text}` is not {WEEKDAYS}"))
});

const WEEKDAYS: &str = "a weekday or a range of weekdays like \"sat\" or \"mon-fri\"";

const DAYS: [&str; 7] = [
    "monday",
    "tuesday",
    "wednesday",
    "thursday",
    "friday",
    "saturday",
    "sunday",
];

#[derive(Clone, Copy, Debug)]
struct Months(Span<i8>);

read_from_text!(Months(Span<i8>), MONTHS, |text| {
    span(text, "-", |month| word(month, &MONTH_NAMES)).ok_or_else(|| format!("`{text}` is not {MONTHS}"))
});

const MONTHS: &str = "a month or a range of months like \"dec\" or \"jan-mar\"";

const MONTH_NAMES: [&str; 12] = [
    "january",
    "february",
    "march",
    "april",
    "may",
    "june",
    "july",
    "august",
    "september",
    "october",
    "november",
    "december",
];

#[derive(Clone, Copy, Debug)]
struct Dates(Span<Date>);

read_from_text!(Dates(Span<Date>), DATES, |text| {
    let span = span(text, "..", |date| date.parse().ok());
    let span = span.ok_or_else(|| format!("`{text}` is not {DATES}"))?;
    if span.first > span.last {
        return Err(format!("`{text}`: the last date is before the first"));
    }
    Ok(span)
});

const DATES: &str = "a date or a range of dates like \"2026-12-24\" or \"2026-12-24..2026-12-26\"";

/// The place of a word among these, from 1; three letters are enough.
fn word(text: &str, words: &[&str]) -> Option<i8> {
    let text = text.to_ascii_lowercase();
    let is_it = |word: &&str| *word == text || word.get(..3) == Some(&text);
    let at = words.iter().position(is_it)?;
    i8::try_from(at + 1).ok()
}

fn span<T: Copy>(text: &str, between: &str, parse: impl Fn(&str) -> Option<T>) -> Option<Span<T>> {
    let (first, last) = text.split_once(between).unwrap_or((text, text));
    let (first, last) = (parse(first.trim())?, parse(last.trim())?);
    Some(Span { first, last })
}

/// How many days `next_change` looks ahead: more than four years, for a range that contains only the 29th of February.
const DAYS_AHEAD: usize = 5 * 366;

static UTC: TimeZone = TimeZone::UTC;

impl When {
    fn rules(&self) -> &TimeZone {
        self.timezone.as_ref().map_or(&UTC, Zone::rules)
    }

    /// Returns true if this time is in the interval. A range over midnight belongs to the day on which it begins.
    #[must_use]
    pub fn contains(&self, at: Timestamp) -> bool {
        at.to_jiff().is_some_and(|at| self.contains_instant(at))
    }

    fn contains_instant(&self, at: jiff::Timestamp) -> bool {
        let local = self.rules().to_datetime(at);
        if self.times.is_empty() {
            return self.has_day(local.date());
        }
        let days = self.times.iter().filter_map(|times| times.day(local));
        days.into_iter().any(|day| self.has_day(day))
    }

    fn has_day(&self, day: Date) -> bool {
        fn any<T: PartialOrd + Copy>(spans: &[Span<T>], value: T) -> bool {
            spans.is_empty() || spans.iter().any(|span| span.contains(value))
        }
        any(&self.weekdays, day.weekday().to_monday_one_offset())
            && any(&self.months, day.month())
            && any(&self.dates, day)
    }

    /// The first time after `at` at which the interval begins or ends; `None` if it does neither in the next years.
    #[must_use]
    pub fn next_change(&self, at: Timestamp) -> Option<Timestamp> {
        let after = at.to_jiff()?;
        let is_in = self.contains_instant(after);
        let today = self.rules().to_datetime(after).date();
        let ends = self.times.iter().filter_map(|times| times.end);
        let starts = self.times.iter().map(|times| times.start);
        let times: BTreeSet<Time> = starts.chain(ends).chain([Time::midnight()]).collect();
        // A change of the clocks may skip a boundary; then the change itself is the boundary.
        let mut shift = self.next_shift(after);
        for day in today.series(jiff::Span::new().days(1)).take(DAYS_AHEAD) {
            let mut candidates: BTreeSet<jiff::Timestamp> = times
                .iter()
                .flat_map(|time| self.instants(day.to_datetime(*time)))
                .collect();
            if let (Some(next), Some(last)) = (shift, candidates.last().copied())
                && next <= last
            {
                candidates.insert(next);
                shift = self.next_shift(next);
            }
            let mut later = candidates.into_iter().filter(|candidate| *candidate > after);
            if let Some(found) = later.find(|candidate| self.contains_instant(*candidate) != is_in) {
                return Some(Timestamp(found.as_millisecond()));
            }
        }
        None
    }

    fn next_shift(&self, after: jiff::Timestamp) -> Option<jiff::Timestamp> {
        self.rules()
            .following(after)
            .next()
            .map(|transition| transition.timestamp())
    }

    /// The instants at which local clocks show this time: two if they are set back over it.
    fn instants(&self, local: DateTime) -> Vec<jiff::Timestamp> {
        let ambiguous = |local| self.rules().to_ambiguous_timestamp(local);
        [ambiguous(local).earlier(), ambiguous(local).later()]
            .into_iter()
            .flatten()
            .collect()
    }
}

/// The end of the intervals that contain `at`, one after the other; `None` if none of them does. An interval without an
/// end counts as one of a day: the configuration may change until then.
#[must_use]
pub fn end_of(intervals: &[TimeInterval], at: Timestamp) -> Option<Timestamp> {
    const DAY: std::time::Duration = std::time::Duration::from_secs(86_400);
    let mut end = at;
    // Intervals that follow each other without a gap for longer than this are looked at again then.
    for _ in 0..100 {
        let Some(current) = intervals.iter().find(|interval| interval.when.contains(end)) else {
            break;
        };
        match current.when.next_change(end) {
            Some(next) => end = next,
            None => return Some(end.after(DAY)),
        }
    }
    (end > at).then_some(end)
}

impl fmt::Display for TimeInterval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.name.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::setting::from_toml;

    fn when(toml: &str) -> When {
        from_toml(toml).unwrap()
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn named(toml: &str) -> TimeInterval {
        TimeInterval {
            name: "x".parse().unwrap(),
            when: Arc::new(when(toml)),
        }
    }

    #[test]
    fn all_conditions_hold_and_any_of_a_list() {
        let office = when(
            "timezone = 'America/Denver'\ntimes = ['08:00-12:00', '13:00-18:00']\nweekdays = ['mon-fri']\nmonths = ['nov-feb']",
        );
        for (time, expected) in [
            ("2026-12-01T15:00:00Z", true),
            ("2026-12-01T14:59:59Z", false),
            ("2026-12-01T19:00:00Z", false),
            ("2026-12-01T20:00:00Z", true),
            ("2026-12-02T01:00:00Z", false),
            ("2026-12-05T16:00:00Z", false),
            ("2026-07-01T16:00:00Z", false),
            ("2027-01-04T16:00:00Z", true),
        ] {
            assert_eq!(office.contains(at(time)), expected, "{time}");
        }
        let holidays = when("dates = ['2026-12-24..2026-12-26', '2027-01-01']");
        assert!(
            holidays.contains(at("2026-12-26T23:59:59Z")) && holidays.contains(at("2027-01-01T00:00:00Z"))
        );
        assert!(!holidays.contains(at("2026-12-27T00:00:00Z")));
    }

    #[test]
    fn a_range_over_midnight_belongs_to_the_day_on_which_it_begins() {
        let night = when("times = ['22:00-06:00']\nweekdays = ['fri']");
        for (time, expected) in [
            ("2026-11-27T21:59:00Z", false),
            ("2026-11-27T22:00:00Z", true),
            ("2026-11-28T05:59:00Z", true),
            ("2026-11-28T06:00:00Z", false),
            ("2026-11-28T22:00:00Z", false),
            ("2026-11-27T05:00:00Z", false),
        ] {
            assert_eq!(night.contains(at(time)), expected, "{time}");
        }
        assert_eq!(
            night.next_change(at("2026-11-27T23:00:00Z")),
            Some(at("2026-11-28T06:00:00Z"))
        );
        assert_eq!(
            night.next_change(at("2026-11-28T06:00:00Z")),
            Some(at("2026-12-04T22:00:00Z"))
        );
    }

    #[test]
    fn the_end_is_right_when_clocks_change() {
        // Clocks go from 02:00 to 03:00 on 2026-03-29, and from 03:00 back to 02:00 on 2026-10-25.
        let night = when("timezone = 'Europe/Berlin'\ntimes = ['22:00-06:00']");
        assert_eq!(
            night.next_change(at("2026-03-28T22:00:00Z")),
            Some(at("2026-03-29T04:00:00Z"))
        );
        assert_eq!(
            night.next_change(at("2026-10-24T22:00:00Z")),
            Some(at("2026-10-25T05:00:00Z"))
        );
        // The start does not exist on that day: it begins when the clocks have changed.
        let gap = when("timezone = 'Europe/Berlin'\ntimes = ['02:30-04:00']");
        assert_eq!(
            gap.next_change(at("2026-03-29T00:00:00Z")),
            Some(at("2026-03-29T01:00:00Z"))
        );
        assert!(gap.contains(at("2026-03-29T01:00:00Z")));
        // The range occurs twice.
        let twice = when("timezone = 'Europe/Berlin'\ntimes = ['02:00-02:30']");
        let mut times = vec![at("2026-10-24T12:00:00Z")];
        for _ in 0..4 {
            times.push(twice.next_change(*times.last().unwrap()).unwrap());
        }
        let expected = ["00:00", "00:30", "01:00", "01:30"].map(|time| at(&format!("2026-10-25T{time}:00Z")));
        assert_eq!(times[1..], expected);
    }

    #[test]
    fn an_interval_that_never_changes_has_no_next_change() {
        let now = at("2026-11-28T00:00:00Z");
        for (toml, expected) in [
            ("", true),
            ("times = ['00:00-24:00']", true),
            ("weekdays = ['mon-sun']\nmonths = ['jan-dec']", true),
            ("times = ['00:00-12:00', '12:00-00:00']", true),
            ("dates = ['2020-01-01']", false),
            ("dates = ['2027-02-03']\nmonths = ['mar']", false),
        ] {
            assert_eq!(
                (when(toml).next_change(now), when(toml).contains(now)),
                (None, expected),
                "{toml}"
            );
        }
        assert!(when("dates = ['2028-02-29']").next_change(now).is_some());
    }

    #[test]
    fn a_change_lies_exactly_between_two_states() {
        let intervals = [
            when("timezone = 'America/New_York'\ntimes = ['23:15-01:45', '09:00-09:01']\nweekdays = ['sun']"),
            when("timezone = 'Australia/Lord_Howe'\ntimes = ['01:45-02:15']"),
            when("timezone = 'Pacific/Apia'\nweekdays = ['fri']"),
        ];
        for interval in &intervals {
            let mut time = at("2026-03-01T00:00:00Z");
            for _ in 0..300 {
                let next = interval.next_change(time).unwrap();
                assert!(next > time);
                let before = Timestamp(next.0 - 1);
                assert_ne!(
                    interval.contains(before),
                    interval.contains(next),
                    "{interval:?} {next}"
                );
                assert_eq!(
                    interval.contains(before),
                    interval.contains(time),
                    "{interval:?} {next}"
                );
                time = next;
            }
        }
    }

    #[test]
    fn intervals_that_follow_each_other_end_together() {
        let all = [
            named("times = ['20:00-00:00']"),
            named("times = ['00:00-05:00', '05:00-06:30']"),
        ];
        assert_eq!(
            end_of(&all, at("2026-11-28T21:00:00Z")),
            Some(at("2026-11-29T06:30:00Z"))
        );
        assert_eq!(end_of(&all, at("2026-11-28T12:00:00Z")), None);
        assert_eq!(
            end_of(&[named("")], at("2026-11-28T12:00:00Z")),
            Some(at("2026-11-29T12:00:00Z"))
        );
    }

    #[test]
    fn errors_say_what_is_expected() {
        for (toml, expected) in [
            (
                "times = ['8:00-18:00']",
                "`8:00-18:00` is not a range of times like \"08:00-18:00\"",
            ),
            (
                "times = ['08:00-08:00']",
                "`08:00-08:00` is not a range of times like \"08:00-18:00\"",
            ),
            (
                "times = ['24:00-08:00']",
                "`24:00-08:00` is not a range of times like \"08:00-18:00\"",
            ),
            (
                "weekdays = ['mo-fr']",
                "`mo-fr` is not a weekday or a range of weekdays like \"sat\" or \"mon-fri\"",
            ),
            (
                "months = ['13']",
                "`13` is not a month or a range of months like \"dec\" or \"jan-mar\"",
            ),
            (
                "dates = ['2026-02-30']",
                "`2026-02-30` is not a date or a range of dates like \"2026-12-24\" or \"2026-12-24..2026-12-26\"",
            ),
            (
                "dates = ['2026-12-26..2026-12-24']",
                "`2026-12-26..2026-12-24`: the last date is before the first",
            ),
            (
                "timezone = 'Europe/Bern'",
                "`Europe/Bern` is not a time zone: write its name in the IANA database, such as \"Europe/Berlin\"",
            ),
            ("time = []", "unknown key `time`"),
        ] {
            assert_eq!(from_toml::<When>(toml).unwrap_err(), expected);
        }
    }
}
