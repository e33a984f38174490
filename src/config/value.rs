//! Values with units: durations, sizes, rates, addresses. Each error says what is expected.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use bytesize::ByteSize;
use ipnet::IpNet;
use serde::de::{Deserialize, Deserializer, Error, Visitor};

use crate::model::network;
use crate::model::number::{Number, Pattern};
use crate::model::secret::parse_url;

/// Reads a string with `parse`. The error is raised inside the visitor, so that it gets the place of the string.
fn from_text<'de, D: Deserializer<'de>, T>(
    deserializer: D,
    expected: &'static str,
    parse: fn(&str) -> Result<T, String>,
) -> Result<T, D::Error> {
    deserializer.deserialize_any(Text { expected, parse })
}

struct Text<T> {
    expected: &'static str,
    parse: fn(&str) -> Result<T, String>,
}

impl<T> Visitor<'_> for Text<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expected)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        (self.parse)(text).map_err(E::custom)
    }
}

const DURATION: &str = "a duration like \"10s\", \"5m\" or \"3d\"";

fn parse_duration(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(duration) if duration.is_zero() => Err("must be greater than zero".to_owned()),
        Ok(duration) => Ok(duration),
        Err(_) => Err(format!("`{text}` is not {DURATION}")),
    }
}

/// A duration longer than zero.
pub(super) fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    from_text(deserializer, DURATION, parse_duration)
}

/// A duration longer than zero, for a key that may be left out.
pub(super) fn duration_option<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Duration>, D::Error> {
    duration(deserializer).map(Some)
}

/// The time limit of one network operation.
pub(super) fn timeout<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    from_text(deserializer, DURATION, parse_timeout)
}

/// As [`timeout`], for a key that may be left out.
pub(super) fn timeout_option<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Duration>, D::Error> {
    timeout(deserializer).map(Some)
}

fn parse_timeout(text: &str) -> Result<Duration, String> {
    let duration = parse_duration(text)?;
    let fits = (Duration::from_millis(10)..=Duration::from_secs(600)).contains(&duration);
    fits.then_some(duration)
        .ok_or_else(|| format!("`{text}`: must be from 10ms to 10m"))
}

/// A duration, or `None` for "forever".
pub(super) fn duration_or_forever<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Duration>, D::Error> {
    from_text(
        deserializer,
        "a duration like \"90d\", or \"forever\"",
        |text| match text {
            "forever" => Ok(None),
            _ => parse_duration(text).map(Some),
        },
    )
}

/// A size in bytes.
struct Size(u64);

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(SizeText)
    }
}

struct SizeText;

impl Visitor<'_> for SizeText {
    type Value = Size;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a size like \"64KiB\" or \"256MiB\"")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Size, E> {
        let size: Result<ByteSize, _> = text.parse();
        size.map(|size| Size(size.as_u64()))
            .map_err(|_| E::custom(format!("`{text}` is not a size like \"64KiB\" or \"256MiB\"")))
    }

    fn visit_i64<E: Error>(self, bytes: i64) -> Result<Size, E> {
        u64::try_from(bytes)
            .map(Size)
            .map_err(|_| E::custom("a size cannot be negative"))
    }

    fn visit_u64<E: Error>(self, bytes: u64) -> Result<Size, E> {
        Ok(Size(bytes))
    }
}

/// A size of any magnitude.
pub(super) fn size<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    Size::deserialize(deserializer).map(|size| size.0)
}

/// The size of a request body: a message is never larger than a megabyte.
pub(super) fn body_size<'de, D: Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
    let size = Size::deserialize(deserializer)?.0;
    match usize::try_from(size) {
        Ok(bytes) if (1024..=1024 * 1024).contains(&bytes) => Ok(bytes),
        _ => Err(D::Error::custom("must be from 1KiB to 1MiB")),
    }
}

/// The size of a request body of one source, which may contain attachments.
pub(super) fn source_body_size<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<usize>, D::Error> {
    let size = Size::deserialize(deserializer)?.0;
    match usize::try_from(size) {
        Ok(bytes) if (1024..=8 << 20).contains(&bytes) => Ok(Some(bytes)),
        _ => Err(D::Error::custom("must be from 1KiB to 8MiB")),
    }
}

/// A number of connections.
pub(super) fn connections<'de, D: Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
    match usize::deserialize(deserializer)? {
        count @ 1..=65536 => Ok(count),
        _ => Err(D::Error::custom("must be from 1 to 65536")),
    }
}

/// A number of simultaneous attempts.
pub(super) fn concurrency<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<usize>, D::Error> {
    match usize::deserialize(deserializer)? {
        count @ 1..=64 => Ok(Some(count)),
        _ => Err(D::Error::custom("must be from 1 to 64")),
    }
}

const RATE: &str = "a rate like \"1/s\", \"30/min\" or \"500/h\"";

/// Messages per second.
pub(super) fn rate<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<f64>, D::Error> {
    from_text(deserializer, RATE, parse_rate).map(Some)
}

fn parse_rate(text: &str) -> Result<f64, String> {
    let wrong = || format!("`{text}` is not {RATE}");
    let (count, unit) = text.split_once('/').ok_or_else(wrong)?;
    let seconds = match unit.trim() {
        // The units of durations, in the singular.
        "s" | "sec" | "second" => 1.0,
        "m" | "min" | "minute" => 60.0,
        "h" | "hr" | "hour" => 3600.0,
        "d" | "day" => 86400.0,
        _ => return Err(wrong()),
    };
    let count: f64 = count.trim().parse().map_err(|_| wrong())?;
    let rate = count / seconds;
    let fits = rate.is_finite() && (1.0 / 86400.0..=1000.0).contains(&rate);
    fits.then_some(rate)
        .ok_or_else(|| format!("`{text}`: must be from 1/d to 1000/s"))
}

/// An address to listen on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Address(pub(super) SocketAddr);

impl<'de> Deserialize<'de> for Address {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        address(deserializer).map(Self)
    }
}

/// An address and a port to listen on.
pub(super) fn address<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SocketAddr, D::Error> {
    const EXPECTED: &str = "an address and a port like \"127.0.0.1:8080\" or \"[::]:8080\"";
    from_text(deserializer, EXPECTED, |text| {
        text.parse().map_err(|_| format!("`{text}` is not {EXPECTED}"))
    })
}

/// A list of networks; a single address is a network with one member.
pub(super) fn networks<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<IpNet>, D::Error> {
    Ok(Vec::<Network>::deserialize(deserializer)?
        .into_iter()
        .map(|network| network.0)
        .collect())
}

struct Network(IpNet);

impl<'de> Deserialize<'de> for Network {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        const EXPECTED: &str = "an address like \"192.0.2.1\" or a network like \"192.0.2.0/24\"";
        from_text(deserializer, EXPECTED, |text| {
            network::parse(text)
                .map(Network)
                .ok_or_else(|| format!("`{text}` is not {EXPECTED}"))
        })
    }
}

/// The URL that carriers call, without the path that each source adds.
pub(super) fn public_url<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<url::Url>, D::Error> {
    const EXPECTED: &str = "a URL like \"https://sms.example.com\"";
    from_text(deserializer, EXPECTED, |text| {
        let url = parse_url(text).map_err(|error| format!("not {EXPECTED}: {error}"))?;
        if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
            return Err(format!("not {EXPECTED}: it must begin with https:// or http://"));
        }
        let bare = url.query().is_none() && url.fragment().is_none() && url.username().is_empty();
        bare.then_some(Some(url))
            .ok_or_else(|| format!("not {EXPECTED}: no user, query or fragment may be in it"))
    })
}

/// A level, or tracing's filter syntax. Tracing would take a misspelled level for the name of a module, so it is
/// rejected.
pub(super) fn log_level<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    from_text(
        deserializer,
        "a level like \"info\", or a filter like \"info,smsbridge=debug\"",
        |text| {
            let filter =
                text.contains(['=', ',']) && tracing_subscriber::EnvFilter::builder().parse(text).is_ok();
            if filter || LEVELS.contains(&text) {
                return Ok(Some(text.to_owned()));
            }
            Err(format!(
                "unknown level `{text}`{}",
                super::suggest::suggestion(text, LEVELS)
            ))
        },
    )
}

/// A number pattern of a route.
#[derive(Clone, Debug)]
pub(super) struct Numbers(pub(super) Pattern);

impl<'de> Deserialize<'de> for Numbers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        from_text(
            deserializer,
            "a number like \"+13035550100\" or a name like \"Google\", or with a `*` at its end or start",
            |text| {
                Pattern::parse(text)
                    .map(Numbers)
                    .map_err(|error| error.to_string())
            },
        )
    }
}

/// One of the operator's own numbers.
#[derive(Clone, Debug)]
pub(super) struct OwnNumber(pub(super) Number);

impl<'de> Deserialize<'de> for OwnNumber {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        from_text(deserializer, "a number like \"+13035550100\"", |text| {
            let number = Number::parse(text).map_err(|error| format!("`{text}` is {error}"))?;
            Ok(OwnNumber(number))
        })
    }
}

/// A regular expression of a route, not yet compiled.
#[derive(Clone, Debug)]
pub(super) struct Expression(pub(super) String);

impl<'de> Deserialize<'de> for Expression {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        from_text(deserializer, "a regular expression", |text| {
            if let Some(control) = text.chars().find(|c| c.is_control()) {
                let code = u32::from(control);
                return Err(format!(
                    "the character U+{code:04X} is probably a mistake: TOML reads \"\\b\" as one; write regular expressions in 'single quotes'"
                ));
            }
            Ok(Expression(text.to_owned()))
        })
    }
}

/// The normal form of a contact's number or name.
pub(super) fn contact_number(text: &str) -> Result<String, String> {
    Number::typed(text)
        .map(|number| number.normal().to_owned())
        .map_err(|error| format!("`{text}` is {error}, nor a sender's name (`Google`)"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read_per_second() {
        assert_eq!(parse_rate("1/s"), Ok(1.0));
        for minute in ["m", "min", "minute"] {
            assert_eq!(parse_rate(&format!("30/{minute}")), Ok(0.5));
        }
        assert_eq!(parse_rate(" 7200 / h"), Ok(2.0));
        for wrong in [
            "", "1", "1/", "x/s", "0/s", "-1/s", "inf/s", "nan/s", "1001/s", "1/w",
        ] {
            assert!(parse_rate(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn durations_need_a_unit_and_a_length() {
        assert_eq!(parse_duration("3d"), Ok(Duration::from_secs(3 * 86400)));
        assert_eq!(parse_duration("1h 30m"), Ok(Duration::from_secs(5400)));
        for wrong in ["", "5", "0s", "five", "-1s"] {
            assert!(parse_duration(wrong).is_err(), "{wrong:?}");
        }
        assert!(
            parse_timeout("1ms").is_err() && parse_timeout("11m").is_err() && parse_timeout("10s").is_ok()
        );
    }
}
