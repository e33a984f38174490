//! From when until when a certificate is valid. Of all that is in one, nothing else is read here.

use std::time::Duration;

use jiff::civil::DateTime;
use jiff::tz::TimeZone;

use crate::message::Timestamp;

/// The tags of [X.690](https://www.itu.int/rec/T-REC-X.690) on the way there.
const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// With less than this left somebody should look; whatever renews certificates has failed by then.
const EXPIRES_SOON: Duration = Duration::from_secs(14 * 86400);

/// A span of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Validity {
    /// Its first second.
    pub from: Timestamp,
    /// Its last second.
    pub until: Timestamp,
}

impl Validity {
    /// What should be looked at, if it is over or will be soon.
    pub(super) fn doubt(self, now: Timestamp) -> Option<String> {
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

    /// That of a certificate as [RFC 5280](https://www.rfc-editor.org/rfc/rfc5280#section-4.1) lays it out: version
    /// (optional), serial number, signature algorithm, issuer, validity. Nothing when it is laid out differently.
    pub(super) fn of(certificate: &[u8]) -> Option<Self> {
        let (SEQUENCE, certificate, _) = item(certificate)? else {
            return None;
        };
        let (SEQUENCE, signed, _) = item(certificate)? else {
            return None;
        };
        let mut rest = signed;
        if let (VERSION, _, after) = item(rest)? {
            rest = after;
        }
        for _ in ["serial number", "signature algorithm", "issuer"] {
            (_, _, rest) = item(rest)?;
        }
        let (SEQUENCE, validity, _) = item(rest)? else {
            return None;
        };
        let (tag, from, rest) = item(validity)?;
        let from = time(tag, from)?;
        let (tag, until, _) = item(rest)?;
        Some(Self {
            from,
            until: time(tag, until)?,
        })
    }
}

/// The first item: its tag, its content, and what comes after it.
fn item(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&[tag, length], rest) = bytes.split_first_chunk()?;
    let (length, rest) = if length < 0x80 {
        (usize::from(length), rest)
    } else {
        let (digits, rest) = rest.split_at_checked(usize::from(length & 0x7f))?;
        let length = digits.iter().try_fold(0_usize, |sum, digit| {
            Some(sum.checked_mul(256)? + usize::from(*digit))
        })?;
        (length, rest)
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((tag, content, rest))
}

/// `YYMMDDHHMMSSZ`, from 1950 to 2049, or with the whole year.
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
    fn a_certificate_is_doubtful_from_two_weeks_before_its_end() {
        let moment = |text: &str| text.parse::<Timestamp>().unwrap();
        let validity = Validity {
            from: moment("2026-01-01T00:00:00Z"),
            until: moment("2026-04-01T00:00:00Z"),
        };
        for (now, doubt) in [
            ("2025-12-31T23:59:59Z", Some("is not valid before 2026-01-01")),
            ("2026-01-01T00:00:00Z", None),
            ("2026-03-18T00:00:00Z", None),
            ("2026-03-18T00:00:01Z", Some("expires in 13 days, at 2026-04-01")),
            ("2026-04-01T00:00:01Z", Some("expired at 2026-04-01")),
        ] {
            let said = validity.doubt(moment(now));
            assert_eq!(said.is_some(), doubt.is_some(), "{now}: {said:?}");
            assert!(said.is_none_or(|said| said.contains(doubt.unwrap())), "{now}");
        }
    }

    #[test]
    fn both_ways_to_write_a_time_are_read() {
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

    #[test]
    fn a_length_that_reaches_beyond_the_end_is_no_item() {
        assert_eq!(
            item(&[0x30, 0x01, 0x05, 0x07]),
            Some((0x30, &[0x05][..], &[0x07][..]))
        );
        assert_eq!(
            item(&[0x30, 0x81, 0x01, 0x05]),
            Some((0x30, &[0x05][..], &[][..]))
        );
        for wrong in [
            &[][..],
            &[0x30],
            &[0x30, 0x02, 0x05],
            &[0x30, 0x82, 0x01],
            &[0x30, 0x89, 1, 1, 1, 1, 1, 1, 1, 1, 1],
        ] {
            assert_eq!(item(wrong), None);
        }
    }
}
