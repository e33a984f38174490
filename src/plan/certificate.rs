//! Reads the validity of a certificate, and nothing else of it.

use std::time::Duration;

use jiff::civil::DateTime;
use jiff::tz::TimeZone;

use crate::model::der::{self, SEQUENCE};
use crate::model::message::Timestamp;

/// The DER tags of times ([X.690](https://www.itu.int/rec/T-REC-X.690)).
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// The remaining validity below which a warning is shown. Automatic renewal normally happens earlier, so it has
/// probably failed.
const EXPIRES_SOON: Duration = Duration::from_secs(14 * 86400);

/// The validity of a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Validity {
    /// The first second in which it is valid.
    pub from: Timestamp,
    /// The last second in which it is valid.
    pub until: Timestamp,
}

impl Validity {
    /// A warning if the certificate is not valid at `now` or expires soon.
    pub(super) fn warning(self, now: Timestamp) -> Option<String> {
        let Self { from, until } = self;
        if now < from {
            return Some(format!(
                "the TLS certificate is not valid before {from}: is this machine's clock right?"
            ));
        }
        if until < now {
            return Some(format!(
                "the TLS certificate expired at {until}: renew it, then reload"
            ));
        }
        let left = until.since(now);
        (left < EXPIRES_SOON).then(|| {
            let days = left.as_secs() / 86400;
            format!("the TLS certificate expires in {days} days, at {until}: renew it, then reload")
        })
    }

    /// The validity of a certificate, located as in [RFC 5280](https://www.rfc-editor.org/rfc/rfc5280#section-4.1):
    /// after the optional version, serial number, signature algorithm and issuer. `None` if the structure is
    /// different.
    pub(super) fn of(certificate: &[u8]) -> Option<Self> {
        let mut rest = der::signed_part(certificate)?;
        for _ in ["serial number", "signature algorithm", "issuer"] {
            (_, _, rest) = der::item(rest)?;
        }
        let (SEQUENCE, validity, _) = der::item(rest)? else {
            return None;
        };
        let (tag, from, rest) = der::item(validity)?;
        let from = time(tag, from)?;
        let (tag, until, _) = der::item(rest)?;
        Some(Self {
            from,
            until: time(tag, until)?,
        })
    }
}

/// Parses `YYMMDDHHMMSSZ` (years 1950 to 2049), or the form with a four-digit year.
fn time(tag: u8, text: &[u8]) -> Option<Timestamp> {
    let text = std::str::from_utf8(text).ok()?;
    let text = match tag {
        UTC_TIME if text.get(..2)? < "50" => format!("20{text}"),
        UTC_TIME => format!("19{text}"),
        GENERALIZED_TIME => text.to_owned(),
        _ => return None,
    };
    let time = DateTime::strptime("%Y%m%d%H%M%SZ", text).ok()?;
    let time = time.to_zoned(TimeZone::UTC).ok()?;
    Some(Timestamp(time.timestamp().as_millisecond()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warning_is_shown_from_two_weeks_before_expiry() {
        let moment = |text: &str| text.parse::<Timestamp>().unwrap();
        let validity = Validity {
            from: moment("2026-01-01T00:00:00Z"),
            until: moment("2026-04-01T00:00:00Z"),
        };
        for (now, expected) in [
            ("2025-12-31T23:59:59Z", Some("is not valid before 2026-01-01")),
            ("2026-01-01T00:00:00Z", None),
            ("2026-03-18T00:00:00Z", None),
            ("2026-03-18T00:00:01Z", Some("expires in 13 days, at 2026-04-01")),
            ("2026-04-01T00:00:01Z", Some("expired at 2026-04-01")),
        ] {
            let warning = validity.warning(moment(now));
            assert_eq!(warning.is_some(), expected.is_some(), "{now}: {warning:?}");
            assert!(
                warning.is_none_or(|warning| warning.contains(expected.unwrap())),
                "{now}"
            );
        }
    }

    #[test]
    fn both_time_formats_are_parsed() {
        let moment = |text: &str| text.parse().ok();
        assert_eq!(time(UTC_TIME, b"261122065014Z"), moment("2026-11-22T06:50:14Z"));
        assert_eq!(time(UTC_TIME, b"500101000000Z"), moment("1950-01-01T00:00:00Z"));
        assert_eq!(
            time(GENERALIZED_TIME, b"20510101000000Z"),
            moment("2051-01-01T00:00:00Z")
        );
        for wrong in [&b""[..], b"2", b"\xff", b"261322065014Z", b"2611220650Z"] {
            assert_eq!(time(UTC_TIME, wrong), None);
        }
    }
}
