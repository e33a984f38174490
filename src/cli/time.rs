//! Times as operators type and read them.

use std::time::Duration;

use crate::engine::clock::Clock;
use crate::model::message::Timestamp;

/// The current time of this machine.
pub(super) fn now() -> Timestamp {
    Clock::system().wall()
}

/// Parses `2026-11-22T03:00:00Z`, or an age: `2h`, `3d`.
pub(super) fn parse(text: &str) -> Result<Timestamp, String> {
    if let Ok(time) = text.parse() {
        return Ok(time);
    }
    humantime::parse_duration(text)
        .map(|ago| now().before(ago))
        .map_err(|_| "neither RFC 3339 (2026-11-22T03:00:00Z) nor how long ago (2h, 3d)".to_owned())
}

/// `3m ago`, `in 20s`, `now`.
pub(super) fn relative(time: Timestamp, now: Timestamp) -> String {
    let (past, future) = (now.since(time), time.since(now));
    if past.as_secs() > 0 {
        format!("{} ago", short(past))
    } else if future.as_secs() > 0 {
        format!("in {}", short(future))
    } else {
        "now".to_owned()
    }
}

/// The time itself and its distance from now.
pub(super) fn exact(time: Timestamp, now: Timestamp) -> String {
    format!("{time} ({})", relative(time, now))
}

/// Only the largest unit: a list needs the order of magnitude.
fn short(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m", seconds / 60),
        3_600..172_800 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relative_times_have_one_unit() {
        let now = Timestamp(1_000_000_000);
        for (seconds, said) in [
            (0, "now"),
            (1, "1s ago"),
            (119, "1m ago"),
            (3_600, "1h ago"),
            (172_800, "2d ago"),
            (-20, "in 20s"),
        ] {
            assert_eq!(relative(Timestamp(now.0 - seconds * 1000), now), said);
        }
    }

    #[test]
    fn times_are_parsed_exact_or_as_an_age() {
        assert_eq!(parse("1970-01-01T00:00:01Z"), Ok(Timestamp(1000)));
        let hours = now().since(parse("2h").unwrap()).as_secs();
        assert!((7_199..7_210).contains(&hours), "{hours}");
        assert!(parse("yesterday").unwrap_err().contains("how long ago"));
    }
}
