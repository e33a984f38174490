//! Notices to the operator: which problems were told to which destination. Pure; the caller passes the time.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::message::{Name, Timestamp};

/// How long a problem must be absent before it is over: one that comes back sooner is the same one.
const OVER_AFTER: Duration = Duration::from_secs(60);

/// The shortest time between two notices to a destination. What begins or ends meanwhile is told together.
const SPACING: Duration = Duration::from_secs(60);

/// The shortest time between two notices about the dead deliveries of a destination.
const DEAD_AGAIN: Duration = Duration::from_secs(3600);

/// Upper bound of the problems that one notice lists.
const LISTED_MAX: usize = 10;

/// What a problem is about: while it lasts, its cause and words may change.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Subject {
    /// A destination does not deliver.
    Delivery(Name),
    /// A destination has dead deliveries.
    Dead(Name),
    /// Something else, by the name of its kind.
    General(String),
}

/// A problem that exists now.
#[derive(Clone, Debug)]
pub struct Current {
    /// What it is about.
    pub subject: Subject,
    /// A complete sentence.
    pub message: String,
    /// Since when, if known.
    pub since: Option<Timestamp>,
    /// How long it must last before it is told.
    pub delay: Duration,
    /// The number of dead deliveries, if it is about them.
    pub dead: u64,
}

/// The problems that were seen, and the destinations to which they were reported; kept over restarts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notices {
    problems: BTreeMap<Subject, Seen>,
    /// When the last notice was sent to each destination.
    sent: BTreeMap<Name, Timestamp>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Seen {
    message: String,
    since: Timestamp,
    /// When it was last there.
    last: Timestamp,
    delay: Duration,
    dead: u64,
    told: BTreeMap<Name, Told>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Told {
    at: Timestamp,
    dead: u64,
}

/// One notice for one destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// The text.
    pub text: String,
    begun: Vec<Subject>,
    over: Vec<Subject>,
}

impl Notices {
    /// Takes note of the problems that exist at `now`.
    pub fn observe(&mut self, current: Vec<Current>, now: Timestamp) {
        for problem in current {
            let seen = self.problems.entry(problem.subject).or_insert_with(|| Seen {
                message: String::new(),
                since: problem.since.unwrap_or(now).min(now),
                last: now,
                delay: problem.delay,
                dead: 0,
                told: BTreeMap::new(),
            });
            seen.message = problem.message;
            seen.last = now;
            seen.delay = problem.delay;
            seen.dead = problem.dead;
        }
        // The end of a problem that was never reported is not reported either.
        self.problems
            .retain(|_, seen| !seen.is_over(now) || !seen.told.is_empty());
    }

    /// The notice that is due for a destination.
    #[must_use]
    pub fn due(&self, to: &Name, now: Timestamp) -> Option<Notice> {
        let is_early = self.sent.get(to).is_some_and(|sent| now.since(*sent) < SPACING);
        if is_early {
            return None;
        }
        let (over, open): (Vec<_>, Vec<_>) = self.problems.iter().partition(|(_, seen)| seen.is_over(now));
        let begun: Vec<_> = open
            .into_iter()
            .filter(|(subject, seen)| !subject.is_about(to) && seen.is_news_to(to, now))
            .collect();
        let over: Vec<_> = over
            .into_iter()
            .filter(|(_, seen)| seen.told.contains_key(to))
            .collect();
        if begun.is_empty() && over.is_empty() {
            return None;
        }
        let mut text = String::new();
        list(
            &mut text,
            begun.len(),
            "problem",
            begun.iter().map(|(_, seen)| seen.message.clone()),
        );
        let ended = over.iter().map(|(subject, seen)| {
            let lasted = Duration::from_secs(seen.last.since(seen.since).as_secs().max(1));
            format!("{}, after {}", subject.over(), humantime::format_duration(lasted))
        });
        list(&mut text, over.len(), "problem over", ended);
        let subjects =
            |all: Vec<(&Subject, &Seen)>| all.into_iter().map(|(subject, _)| subject.clone()).collect();
        Some(Notice {
            text: text.trim_end().to_owned(),
            begun: subjects(begun),
            over: subjects(over),
        })
    }

    /// Takes note that a notice was sent.
    pub fn sent(&mut self, to: &Name, notice: &Notice, now: Timestamp) {
        self.sent.insert(to.clone(), now);
        for subject in &notice.begun {
            if let Some(seen) = self.problems.get_mut(subject) {
                let dead = seen.dead;
                seen.told.insert(to.clone(), Told { at: now, dead });
            }
        }
        for subject in &notice.over {
            if let Some(seen) = self.problems.get_mut(subject) {
                seen.told.remove(to);
            }
        }
    }

    /// Returns true if these differ from `before` in more than the time of the last look.
    #[must_use]
    pub fn is_worth_keeping_over(&self, before: &Self) -> bool {
        let known = |all: &Self| -> Vec<_> {
            let seen = all.problems.iter();
            seen.map(|(subject, seen)| (subject.clone(), seen.since, seen.told.clone()))
                .collect()
        };
        self.sent != before.sent || known(self) != known(before)
    }

    /// Forgets destinations that get no notices any more.
    pub fn keep_only(&mut self, destinations: &[Name]) {
        self.sent.retain(|name, _| destinations.contains(name));
        for seen in self.problems.values_mut() {
            seen.told.retain(|name, _| destinations.contains(name));
        }
    }
}

impl Seen {
    fn is_over(&self, now: Timestamp) -> bool {
        now.since(self.last) >= OVER_AFTER
    }

    /// Returns true if it has lasted long enough and was not reported to the destination, or with fewer dead deliveries.
    fn is_news_to(&self, to: &Name, now: Timestamp) -> bool {
        match self.told.get(to) {
            None => now.since(self.since) >= self.delay,
            Some(told) => self.dead > told.dead && now.since(told.at) >= DEAD_AGAIN,
        }
    }
}

impl Subject {
    /// Returns true if the problem prevents this destination from being told.
    fn is_about(&self, to: &Name) -> bool {
        matches!(self, Self::Delivery(name) if name == to)
    }

    fn over(&self) -> String {
        match self {
            Self::Delivery(name) => format!("destination {name} has no delivery problem any more"),
            Self::Dead(name) => {
                format!("destination {name} has no dead deliveries that need attention any more")
            }
            Self::General(what) => format!("{what}: no problem any more"),
        }
    }
}

fn list(text: &mut String, count: usize, what: &str, lines: impl Iterator<Item = String>) {
    if count == 0 {
        return;
    }
    let what = match (count, what.split_once(' ')) {
        (1, _) => what.to_owned(),
        (_, Some((first, rest))) => format!("{first}s {rest}"),
        (_, None) => format!("{what}s"),
    };
    let _ = writeln!(text, "{count} {what}:");
    for line in lines.take(LISTED_MAX) {
        let _ = writeln!(text, "- {line}");
    }
    if count > LISTED_MAX {
        let _ = writeln!(
            text,
            "- and {} more: `smsbridge status` lists all",
            count - LISTED_MAX
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: i64 = 60_000;

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    fn problem(subject: Subject, message: &str) -> Current {
        let delay = match subject {
            Subject::Delivery(_) => Duration::from_secs(300),
            _ => Duration::ZERO,
        };
        Current {
            subject,
            message: message.to_owned(),
            since: None,
            delay,
            dead: 0,
        }
    }

    fn down(message: &str) -> Current {
        problem(Subject::Delivery(name("crm")), message)
    }

    fn dead(count: u64) -> Current {
        Current {
            dead: count,
            ..problem(Subject::Dead(name("crm")), &format!("{count} dead"))
        }
    }

    /// Observes, and sends what is due.
    fn tell(notices: &mut Notices, current: Vec<Current>, now: i64) -> Option<String> {
        let (now, desk) = (Timestamp(now), name("desk"));
        notices.observe(current, now);
        let notice = notices.due(&desk, now)?;
        notices.sent(&desk, &notice, now);
        Some(notice.text)
    }

    #[test]
    fn a_problem_is_told_once_after_its_delay_and_once_when_it_is_over() {
        let mut notices = Notices::default();
        let told: Vec<_> = (0..30)
            .filter_map(|minute| {
                // It is down from minute 2 to 12, and its cause changes.
                let current = (2..=12)
                    .contains(&minute)
                    .then(|| down(&format!("down, cause {minute}")));
                Some((
                    minute,
                    tell(&mut notices, current.into_iter().collect(), minute * MINUTE)?,
                ))
            })
            .collect();
        assert_eq!(
            told,
            [
                (7, "1 problem:\n- down, cause 7".to_owned()),
                (
                    13,
                    "1 problem over:\n- destination crm has no delivery problem any more, after 10m"
                        .to_owned()
                ),
            ]
        );
        assert_eq!(notices.problems.len(), 0, "nothing is kept");
    }

    #[test]
    fn a_short_problem_is_not_told_and_a_short_interruption_does_not_end_one() {
        let mut notices = Notices::default();
        assert_eq!(tell(&mut notices, vec![down("x")], 0), None);
        assert_eq!(tell(&mut notices, vec![], 2 * MINUTE), None);
        assert_eq!(tell(&mut notices, vec![down("x")], 20 * MINUTE), None);
        assert!(tell(&mut notices, vec![down("x")], 25 * MINUTE).is_some());
        assert_eq!(tell(&mut notices, vec![], 25 * MINUTE + 50_000), None);
        assert_eq!(tell(&mut notices, vec![down("x")], 26 * MINUTE + 50_000), None);
        assert_eq!(tell(&mut notices, vec![down("x")], 27 * MINUTE), None);
    }

    #[test]
    fn problems_at_the_same_time_are_grouped_and_spaced() {
        let mut notices = Notices::default();
        let general = |what: &str| problem(Subject::General(what.to_owned()), &format!("{what} is wrong"));
        let told = tell(&mut notices, vec![general("store"), general("clock")], 0);
        assert_eq!(told.unwrap(), "2 problems:\n- clock is wrong\n- store is wrong");
        let all = || vec![general("store"), general("clock"), general("log")];
        assert_eq!(tell(&mut notices, all(), 30_000), None, "too soon");
        assert_eq!(
            tell(&mut notices, all(), MINUTE).unwrap(),
            "1 problem:\n- log is wrong"
        );
        let told = tell(&mut notices, vec![general("log")], 3 * MINUTE).unwrap();
        assert!(
            told.starts_with("2 problems over:\n- clock: no problem any more, after 1m"),
            "{told}"
        );
    }

    #[test]
    fn more_dead_deliveries_are_told_once_an_hour() {
        let mut notices = Notices::default();
        assert!(tell(&mut notices, vec![dead(1)], 0).is_some());
        assert_eq!(tell(&mut notices, vec![dead(5)], 10 * MINUTE), None);
        assert_eq!(
            tell(&mut notices, vec![dead(9)], 60 * MINUTE).unwrap(),
            "1 problem:\n- 9 dead"
        );
        assert_eq!(tell(&mut notices, vec![dead(9)], 180 * MINUTE), None);
        assert_eq!(tell(&mut notices, vec![dead(2)], 300 * MINUTE), None);
    }

    #[test]
    fn a_destination_is_not_told_that_it_is_broken_itself() {
        let mut notices = Notices::default();
        notices.observe(vec![down("x")], Timestamp(0));
        let later = Timestamp(10 * MINUTE);
        notices.observe(vec![down("x")], later);
        assert_eq!(notices.due(&name("crm"), later), None);
        assert!(notices.due(&name("desk"), later).is_some());
    }

    #[test]
    fn each_destination_is_told() {
        let (mut notices, now) = (Notices::default(), Timestamp(0));
        notices.observe(vec![dead(1)], now);
        let notice = notices.due(&name("a"), now).unwrap();
        notices.sent(&name("a"), &notice, now);
        assert_eq!(notices.due(&name("a"), now), None);
        assert!(notices.due(&name("b"), now).is_some());
        // What is kept over a restart is the same.
        let bytes = postcard::to_stdvec(&notices).unwrap();
        assert_eq!(postcard::from_bytes::<Notices>(&bytes).unwrap(), notices);
        notices.keep_only(&[name("b")]);
        assert!(
            notices.due(&name("a"), now).is_some(),
            "told again if it is configured again"
        );
    }

    #[test]
    fn a_long_list_is_cut() {
        let mut notices = Notices::default();
        let many = (10..35).map(|n| problem(Subject::General(format!("k{n}")), &format!("p{n}")));
        let told = tell(&mut notices, many.collect(), 0).unwrap();
        assert!(told.starts_with("25 problems:\n- p10\n"), "{told}");
        assert!(
            told.ends_with("- p19\n- and 15 more: `smsbridge status` lists all"),
            "{told}"
        );
    }
}
