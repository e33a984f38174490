//! The time zone of the people who read a destination, for the times that they see.

use deserr::{Deserr, IntoValue, Value, ValuePointerRef};
use jiff::tz::TimeZone;

use super::message::Timestamp;
use super::setting::{self, Errors};

/// A time zone by its name in the IANA database: `Europe/Berlin`. The database of the system is used if there is one,
/// otherwise the one that is built in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Zone(TimeZone);

impl Zone {
    /// The rules of the zone.
    #[must_use]
    pub fn rules(&self) -> &TimeZone {
        &self.0
    }

    fn parse(name: &str) -> Result<Self, String> {
        TimeZone::get(name).map(Self).map_err(|_| {
            format!(
                "`{name}` is not a time zone: write its name in the IANA database, such as \"Europe/Berlin\""
            )
        })
    }
}

impl Deserr<Errors> for Zone {
    fn deserialize_from_value<V: IntoValue>(
        value: Value<V>,
        location: ValuePointerRef<'_>,
    ) -> Result<Self, Errors> {
        setting::text(value, location, "the name of a time zone", Self::parse)
    }
}

/// A time for people, `2026-09-21 16:13:20 +02:00`; without a zone as RFC 3339 in UTC.
#[must_use]
pub fn shown(at: Timestamp, zone: Option<&Zone>) -> String {
    written(at, zone, "%Y-%m-%d %H:%M:%S %:z")
}

/// A time for programs, as RFC 3339.
#[must_use]
pub fn exact(at: Timestamp, zone: Option<&Zone>) -> String {
    written(at, zone, "%Y-%m-%dT%H:%M:%S%.3f%:z")
}

fn written(at: Timestamp, zone: Option<&Zone>, format: &str) -> String {
    let time = zone.and_then(|Zone(zone)| {
        let time = jiff::Timestamp::from_millisecond(at.0).ok()?;
        Some(time.to_zoned(zone.clone()))
    });
    time.map_or_else(|| at.to_string(), |time| time.strftime(format).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_shown_in_the_zone_with_its_offset_of_that_day() {
        let berlin = Zone::parse("Europe/Berlin").unwrap();
        for (at, expected) in [
            ("2026-09-21T14:13:20.5Z", "2026-09-21 16:13:20 +02:00"),
            ("2026-12-31T23:30:00Z", "2027-01-01 00:30:00 +01:00"),
        ] {
            assert_eq!(shown(at.parse().unwrap(), Some(&berlin)), expected);
        }
        let at: Timestamp = "2026-09-21T14:13:20.5Z".parse().unwrap();
        assert_eq!(exact(at, Some(&berlin)), "2026-09-21T16:13:20.500+02:00");
        assert_eq!(exact(at, Some(&berlin)).parse::<Timestamp>().unwrap(), at);
        assert_eq!(
            (shown(at, None), exact(at, None)),
            ("2026-09-21T14:13:20.500Z".to_owned(), at.to_string())
        );
    }

    #[test]
    fn zones_that_do_not_exist_are_refused() {
        for name in ["Europe/Berlim", "", "CEST+2", "../etc/passwd"] {
            assert!(Zone::parse(name).unwrap_err().contains("IANA"), "{name}");
        }
    }

    /// Machines without tzdata, such as small containers.
    #[test]
    fn the_built_in_database_has_the_zones() {
        let bundled = jiff::tz::TimeZoneDatabase::bundled();
        assert!(bundled.get("America/Denver").is_ok());
    }
}
