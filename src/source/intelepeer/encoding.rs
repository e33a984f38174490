//! Decodes a body to text. Nothing is rejected, so that an unexpected encoding of one character does not lose a
//! message.

use std::borrow::Cow;

/// The characters that [Windows-1252] has in place of the control characters of ISO 8859-1.
///
/// [Windows-1252]: https://encoding.spec.whatwg.org/#windows-1252
const WINDOWS_1252: &str = "€\u{81}‚ƒ„…†‡ˆ‰Š‹Œ\u{8d}Ž\u{8f}\u{90}‘’“”•–—˜™š›œ\u{9d}žŸ";

/// How bytes that are not UTF-8 are decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Charset {
    /// As UTF-8; invalid sequences become U+FFFD.
    Utf8,
    /// As Windows-1252, which is what is almost always meant by ISO 8859-1.
    Windows1252,
}

impl Charset {
    /// The encoding that a `Content-Type` names.
    pub(super) fn named(content_type: &[u8]) -> Self {
        let content_type = String::from_utf8_lossy(content_type).to_ascii_lowercase();
        let named = content_type
            .split(';')
            .skip(1)
            .filter_map(|parameter| parameter.trim().strip_prefix("charset="))
            .next();
        match named.unwrap_or_default().trim_matches('"') {
            "iso-8859-1" | "iso8859-1" | "latin1" | "windows-1252" | "cp1252" => Self::Windows1252,
            _ => Self::Utf8,
        }
    }

    /// Decodes bytes. Valid UTF-8 is always decoded as such, because text in another encoding is almost never valid
    /// UTF-8.
    pub(super) fn decode(self, bytes: &[u8]) -> Cow<'_, str> {
        match (std::str::from_utf8(bytes), self) {
            (Ok(text), _) => Cow::Borrowed(text),
            (Err(_), Self::Utf8) => String::from_utf8_lossy(bytes),
            (Err(_), Self::Windows1252) => bytes.iter().map(|&byte| windows_1252(byte)).collect(),
        }
    }

    /// Decodes a complete body. Removes the byte order mark that some .NET clients put before JSON.
    pub(super) fn decode_body(self, body: &[u8]) -> Cow<'_, str> {
        match body {
            [0xef, 0xbb, 0xbf, rest @ ..] => self.decode(rest),
            [0xff, 0xfe, rest @ ..] => utf_16(rest, u16::from_le_bytes).into(),
            [0xfe, 0xff, rest @ ..] => utf_16(rest, u16::from_be_bytes).into(),
            _ => self.decode(body),
        }
    }
}

fn windows_1252(byte: u8) -> char {
    let special = usize::from(byte).checked_sub(0x80);
    special
        .and_then(|at| WINDOWS_1252.chars().nth(at))
        .unwrap_or(char::from(byte))
}

fn utf_16(bytes: &[u8], unit: fn([u8; 2]) -> u16) -> String {
    let units: Vec<u16> = bytes.as_chunks::<2>().0.iter().map(|pair| unit(*pair)).collect();
    String::from_utf16_lossy(&units)
}
