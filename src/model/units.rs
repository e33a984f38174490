//! Values with a form of their own: durations, sizes, rates, addresses, numbers. Each error says what is expected.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use deserr::{Deserr, IntoValue, Value, ValueKind, ValuePointerRef};
use ipnet::IpNet;

use super::setting::{Errors, Wrong, text, whole_number};
use crate::model::network;
use crate::model::number::{Number, Pattern};
use crate::model::secret::parse_url;

/// Implements `Deserr` for types that are read from a string, and `From` for what they contain.
macro_rules! read_from_text {
    ($name:ident($inner:ty), $expected:expr, $parse:expr) => {
        impl ::deserr::Deserr<$crate::model::setting::Errors> for $name {
            fn deserialize_from_value<V: ::deserr::IntoValue>(
                value: ::deserr::Value<V>,
                location: ::deserr::ValuePointerRef<'_>,
            ) -> Result<Self, $crate::model::setting::Errors> {
                $crate::model::setting::text(value, location, $expected, $parse).map($name)
            }
        }

        impl From<$name> for $inner {
            fn from($name(inner): $name) -> Self {
                inner
            }
        }
    };
}

pub(super) use read_from_text;

/// Makes the value of a key that may be left out.
pub fn some<T: Into<U>, U>(value: T) -> Option<U> {
    Some(value.into())
}

/// Makes the list of a key that may be left out.
pub fn some_list<T: Into<U>, U>(values: Vec<T>) -> Option<Vec<U>> {
    Some(list(values))
}

/// Makes a list of the contained values.
pub fn list<T: Into<U>, U>(values: Vec<T>) -> Vec<U> {
    values.into_iter().map(Into::into).collect()
}

const DURATION: &str = "a duration like \"10s\", \"5m\" or \"3d\"";

/// A duration longer than zero.
#[derive(Clone, Copy, Debug)]
pub struct Period(pub Duration);

read_from_text!(Period(Duration), DURATION, parse_duration);

fn parse_duration(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(duration) if duration.is_zero() => Err("must be greater than zero".to_owned()),
        Ok(duration) => Ok(duration),
        Err(_) => Err(format!("`{text}` is not {DURATION}")),
    }
}

/// The time limit of one network operation.
#[derive(Clone, Copy, Debug)]
pub struct Timeout(pub Duration);

read_from_text!(Timeout(Duration), DURATION, parse_timeout);

fn parse_timeout(text: &str) -> Result<Duration, String> {
    let duration = parse_duration(text)?;
    let fits = (Duration::from_millis(10)..=Duration::from_secs(600)).contains(&duration);
    fits.then_some(duration)
        .ok_or_else(|| format!("`{text}`: must be from 10ms to 10m"))
}

/// The time after which the right of a daemon to serve a destination ends.
#[derive(Clone, Copy, Debug)]
pub struct Lease(pub Duration);

read_from_text!(Lease(Duration), DURATION, |text| {
    let duration = parse_duration(text)?;
    let fits = (Duration::from_secs(2)..=Duration::from_secs(300)).contains(&duration);
    fits.then_some(duration)
        .ok_or_else(|| format!("`{text}`: must be from 2s to 5m"))
});

/// A duration, or `None` for "forever".
#[derive(Clone, Copy, Debug)]
pub struct Retention(pub Option<Duration>);

read_from_text!(
    Retention(Option<Duration>),
    "a duration like \"90d\", or \"forever\"",
    |text| match text {
        "forever" => Ok(None),
        _ => parse_duration(text).map(Some),
    }
);

/// A path.
#[derive(Clone, Debug)]
pub struct FilePath(pub PathBuf);

read_from_text!(FilePath(PathBuf), "a path", |text| Ok(text.into()));

/// A size in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Size(pub u64);

const SIZE: &str = "a size like \"64KiB\" or \"256MiB\"";

impl Deserr<Errors> for Size {
    fn deserialize_from_value<V: IntoValue>(
        value: Value<V>,
        location: ValuePointerRef<'_>,
    ) -> Result<Self, Errors> {
        let parse = |text: &str| {
            let size: Result<ByteSize, _> = text.parse();
            size.map(|size| size.as_u64())
                .map_err(|_| format!("`{text}` is not {SIZE}"))
        };
        match value {
            Value::Integer(bytes) => Ok(Self(bytes)),
            Value::NegativeInteger(_) => Err(Errors::at(
                location,
                Wrong::Other("a size cannot be negative".to_owned()),
            )),
            value => text(value, location, SIZE, parse).map(Self),
        }
    }
}

impl From<Size> for u64 {
    fn from(Size(bytes): Size) -> Self {
        bytes
    }
}

/// The size of a request body, at most `KIB` KiB.
#[derive(Clone, Copy, Debug)]
pub struct BodySize<const KIB: usize>(pub usize);

impl<const KIB: usize> Deserr<Errors> for BodySize<KIB> {
    fn deserialize_from_value<V: IntoValue>(
        value: Value<V>,
        location: ValuePointerRef<'_>,
    ) -> Result<Self, Errors> {
        let size = Size::deserialize_from_value(value, location)?.0;
        match usize::try_from(size) {
            Ok(bytes) if (1024..=KIB * 1024).contains(&bytes) => Ok(Self(bytes)),
            _ => {
                let message = format!("must be from 1KiB to {}MiB", KIB / 1024);
                Err(Errors::at(location, Wrong::Other(message)))
            }
        }
    }
}

impl<const KIB: usize> From<BodySize<KIB>> for usize {
    fn from(BodySize(bytes): BodySize<KIB>) -> Self {
        bytes
    }
}

/// A whole number from `LEAST` to `MOST`.
#[derive(Clone, Copy, Debug)]
pub struct Bounded<const LEAST: u64, const MOST: u64>(u64);

impl<const LEAST: u64, const MOST: u64> Deserr<Errors> for Bounded<LEAST, MOST> {
    fn deserialize_from_value<V: IntoValue>(
        value: Value<V>,
        location: ValuePointerRef<'_>,
    ) -> Result<Self, Errors> {
        whole_number(&value, location, LEAST, MOST).map(Self)
    }
}

impl<const LEAST: u64, const MOST: u64> From<Bounded<LEAST, MOST>> for usize {
    fn from(Bounded(number): Bounded<LEAST, MOST>) -> Self {
        Self::try_from(number).unwrap_or(Self::MAX)
    }
}

impl<const LEAST: u64, const MOST: u64> From<Bounded<LEAST, MOST>> for u16 {
    fn from(Bounded(number): Bounded<LEAST, MOST>) -> Self {
        Self::try_from(number).unwrap_or(Self::MAX)
    }
}

/// The number of a port.
pub type Port = Bounded<0, 65535>;

const RATE: &str = "a rate like \"1/s\", \"30/min\" or \"500/h\"";

/// Messages per second.
#[derive(Clone, Copy, Debug)]
pub struct Rate(pub f64);

read_from_text!(Rate(f64), RATE, parse_rate);

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

const ADDRESS: &str = "an address and a port like \"127.0.0.1:8080\" or \"[::]:8080\"";

/// An address and a port to listen on.
#[derive(Clone, Copy, Debug)]
pub struct Address(pub SocketAddr);

read_from_text!(Address(SocketAddr), ADDRESS, |text| {
    text.parse().map_err(|_| format!("`{text}` is not {ADDRESS}"))
});

const NETWORK: &str = "an address like \"192.0.2.1\" or a network like \"192.0.2.0/24\"";

/// A network; a single address is a network with one member.
#[derive(Clone, Copy, Debug)]
pub struct Network(pub IpNet);

read_from_text!(Network(IpNet), NETWORK, |text| {
    network::parse(text).ok_or_else(|| format!("`{text}` is not {NETWORK}"))
});

const PUBLIC_URL: &str = "a URL like \"https://sms.example.com\"";

/// The URL that carriers call, without the path that each source adds.
#[derive(Clone, Debug)]
pub struct PublicUrl(pub url::Url);

read_from_text!(PublicUrl(url::Url), PUBLIC_URL, |text| {
    let url = parse_url(text).map_err(|error| format!("not {PUBLIC_URL}: {error}"))?;
    if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
        return Err(format!(
            "not {PUBLIC_URL}: it must begin with https:// or http://"
        ));
    }
    let bare = url.query().is_none() && url.fragment().is_none() && url.username().is_empty();
    bare.then_some(url)
        .ok_or_else(|| format!("not {PUBLIC_URL}: no user, query or fragment may be in it"))
});

/// Reads a string that may be a number: without quotes, TOML takes it for an integer.
fn number_text<V: IntoValue, T>(
    value: Value<V>,
    location: ValuePointerRef<'_>,
    expected: &str,
    parse: impl FnOnce(&str) -> Result<T, String>,
) -> Result<T, Errors> {
    match value.kind() {
        ValueKind::Integer | ValueKind::NegativeInteger => {
            let message = format!("expected {expected}, but this is an integer: put it in quotes");
            Err(Errors::at(location, Wrong::Other(message)))
        }
        _ => text(value, location, expected, parse),
    }
}

/// A number pattern of a route.
#[derive(Clone, Debug)]
pub struct Numbers(pub Pattern);

impl Deserr<Errors> for Numbers {
    fn deserialize_from_value<V: IntoValue>(
        value: Value<V>,
        location: ValuePointerRef<'_>,
    ) -> Result<Self, Errors> {
        const EXPECTED: &str =
            "a number like \"+13035550100\" or a name like \"Google\", or with a `*` at its end or start";
        let parse = |text: &str| Pattern::parse(text).map_err(|error| error.to_string());
        number_text(value, location, EXPECTED, parse).map(Self)
    }
}

/// One of the operator's own numbers.
#[derive(Clone, Debug)]
pub struct OwnNumber(pub Number);

impl Deserr<Errors> for OwnNumber {
    fn deserialize_from_value<V: IntoValue>(
        value: Value<V>,
        location: ValuePointerRef<'_>,
    ) -> Result<Self, Errors> {
        let parse = |text: &str| Number::parse(text).map_err(|error| format!("`{text}` is {error}"));
        number_text(value, location, "a number like \"+13035550100\"", parse).map(Self)
    }
}

/// A regular expression of a route, not yet compiled.
#[derive(Clone, Debug)]
pub struct Expression(pub String);

read_from_text!(Expression(String), "a regular expression", |text| {
    if let Some(control) = text.chars().find(|c| c.is_control()) {
        let code = u32::from(control);
        return Err(format!(
            "the character U+{code:04X} is probably a mistake: TOML reads \"\\b\" as one; write regular expressions in 'single quotes'"
        ));
    }
    Ok(text.to_owned())
});

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
