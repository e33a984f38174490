//! Removes the quoting around repeated words, layer by layer.

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

/// A character, and its range in the original.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unit {
    pub(super) character: char,
    pub(super) from: usize,
    pub(super) to: usize,
}

/// Converts each character to a unit of its own.
pub(super) fn units(characters: &[char]) -> Vec<Unit> {
    let unit = |(at, &character)| Unit {
        character,
        from: at,
        to: at + 1,
    };
    characters.iter().enumerate().map(unit).collect()
}

/// Removes one layer of quoting: escapes of JSON (`\"`, `\u00e9`), HTML (`&lt;`, `&#60;`), URLs (`%3C`) and
/// quoted-printable (`=3C`). Returns `None` if there is none.
pub(super) fn decode(units: &[Unit]) -> Option<Vec<Unit>> {
    let mut decoded = Vec::with_capacity(units.len());
    let mut at = 0;
    while at < units.len() {
        let rest = &units[at..];
        let taken = match rest[0].character {
            '\\' => backslash(rest, &mut decoded),
            '&' => entity(rest, &mut decoded),
            '%' | '=' => bytes(rest, &mut decoded),
            _ => 0,
        };
        if taken == 0 {
            decoded.push(rest[0]);
        }
        at += taken.max(1);
    }
    (decoded.len() < units.len()).then_some(decoded)
}

/// Decodes base64 of either alphabet from `offset` on, as far as possible.
pub(super) fn decode_base64(run: &str, offset: usize) -> Option<String> {
    const LENIENT: GeneralPurpose = GeneralPurpose::new(
        &STANDARD,
        GeneralPurposeConfig::new()
            .with_decode_allow_trailing_bits(true)
            .with_decode_padding_mode(DecodePaddingMode::Indifferent),
    );
    let run = run.trim_end_matches('=').get(offset..)?;
    // A single character at the end does not make a byte.
    let whole = run.len() - usize::from(run.len() % 4 == 1);
    let run = run.get(..whole)?.replace('-', "+").replace('_', "/");
    let bytes = LENIENT.decode(run).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

fn push(decoded: &mut Vec<Unit>, character: char, units: &[Unit]) {
    if let (Some(first), Some(last)) = (units.first(), units.last()) {
        decoded.push(Unit {
            character,
            from: first.from,
            to: last.to,
        });
    }
}

/// The value of hexadecimal digits, if there are exactly that many.
fn hex(units: &[Unit], range: std::ops::Range<usize>) -> Option<u32> {
    units
        .get(range)?
        .iter()
        .try_fold(0, |number, unit| Some(number * 16 + unit.character.to_digit(16)?))
}

fn backslash(units: &[Unit], decoded: &mut Vec<Unit>) -> usize {
    let Some(next) = units.get(1) else { return 0 };
    let (character, length) = match next.character {
        'n' | 'r' | 't' | 'b' | 'f' => (Some(' '), 2),
        plain @ ('"' | '\'' | '\\' | '/') => (Some(plain), 2),
        'x' => (hex(units, 2..4).and_then(char::from_u32), 4),
        'u' => match (hex(units, 2..6), hex(units, 8..12)) {
            (Some(high @ 0xd800..0xdc00), Some(low @ 0xdc00..0xe000)) if units[6].character == '\\' => (
                char::from_u32(0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00)),
                12,
            ),
            (unit, _) => (unit.and_then(char::from_u32), 6),
        },
        _ => (None, 0),
    };
    let Some(character) = character else { return 0 };
    push(decoded, character, &units[..length]);
    length
}

fn entity(units: &[Unit], decoded: &mut Vec<Unit>) -> usize {
    const LONGEST: usize = 10;
    let Some(end) = units.iter().take(LONGEST).position(|unit| unit.character == ';') else {
        return 0;
    };
    let name: String = units[1..end].iter().map(|unit| unit.character).collect();
    let number = name
        .strip_prefix('#')
        .and_then(|number| match number.strip_prefix(['x', 'X']) {
            Some(hex) => u32::from_str_radix(hex, 16).ok(),
            None => number.parse().ok(),
        });
    let character = match name.as_str() {
        "amp" => '&',
        "lt" => '<',
        "gt" => '>',
        "quot" => '"',
        "apos" => '\'',
        "nbsp" => ' ',
        _ => match number.and_then(char::from_u32) {
            Some(character) => character,
            None => return 0,
        },
    };
    push(decoded, character, &units[..=end]);
    end + 1
}

/// Decodes a run of bytes written as `%XX` or `=XX`, if they are UTF-8.
fn bytes(units: &[Unit], decoded: &mut Vec<Unit>) -> usize {
    let sign = units[0].character;
    let bytes: Vec<u8> = units
        .chunks_exact(3)
        .take_while(|chunk| chunk[0].character == sign)
        .map_while(|chunk| u8::try_from(hex(chunk, 1..3)?).ok())
        .collect();
    let valid = match std::str::from_utf8(&bytes) {
        Ok(text) => text,
        Err(error) => std::str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or_default(),
    };
    for (at, character) in valid.char_indices() {
        push(
            decoded,
            character,
            &units[at * 3..(at + character.len_utf8()) * 3],
        );
    }
    valid.len() * 3
}
