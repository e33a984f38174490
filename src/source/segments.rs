//! Divides a message body into the segments of an SMS, as carriers count and send them.

/// The characters of the GSM 7-bit default alphabet (3GPP TS 23.038). Each takes one septet.
const BASIC: &str = "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§¿\
                     abcdefghijklmnopqrstuvwxyzäöñüà";

/// The characters of its extension table. Each takes two septets.
const EXTENDED: &str = "\u{c}^{}\\[~]|€";

/// How the characters of a body are encoded: all in the same way.
enum Encoding {
    Gsm7,
    Ucs2,
}

impl Encoding {
    fn of(body: &str) -> Self {
        let is_gsm = |character: char| BASIC.contains(character) || EXTENDED.contains(character);
        match body.chars().all(is_gsm) {
            true => Self::Gsm7,
            false => Self::Ucs2,
        }
    }

    /// The units that a character takes.
    fn units(&self, character: char) -> usize {
        match self {
            Self::Gsm7 => 1 + usize::from(EXTENDED.contains(character)),
            Self::Ucs2 => character.len_utf16(),
        }
    }

    /// The units of an undivided message, and those of a segment beside its header.
    fn limits(&self) -> (usize, usize) {
        match self {
            Self::Gsm7 => (160, 153),
            Self::Ucs2 => (70, 67),
        }
    }
}

/// The segments in their order, at least one. No character is divided.
pub(super) fn split(body: &str) -> Vec<&str> {
    let encoding = Encoding::of(body);
    let (undivided, segment) = encoding.limits();
    let total: usize = body.chars().map(|character| encoding.units(character)).sum();
    if total <= undivided {
        return vec![body];
    }
    let (mut segments, mut start, mut used) = (Vec::new(), 0, 0);
    for (at, character) in body.char_indices() {
        let units = encoding.units(character);
        if used + units > segment {
            segments.push(&body[start..at]);
            (start, used) = (at, 0);
        }
        used += units;
    }
    segments.push(&body[start..]);
    segments
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_divided_as_its_alphabet_requires() {
        let repeated = |piece: &str, count: usize| piece.repeat(count);
        for (body, lengths) in [
            (String::new(), vec![0]),
            (repeated("a", 160), vec![160]),
            (repeated("a", 161), vec![153, 8]),
            (repeated("é", 160), vec![160]),
            (repeated("€", 80), vec![80]),
            // An escaped character does not fit into the last septet of a segment.
            (repeated("€", 81), vec![76, 5]),
            (repeated("я", 70), vec![70]),
            (repeated("я", 71), vec![67, 4]),
            (repeated("😀", 35), vec![35]),
            // Nor is a surrogate pair divided.
            (repeated("😀", 36), vec![33, 3]),
            (repeated("a", 400), vec![153, 153, 94]),
        ] {
            let segments = split(&body);
            let found: Vec<usize> = segments.iter().map(|segment| segment.chars().count()).collect();
            assert_eq!(found, lengths, "{body}");
            assert_eq!(segments.concat(), body);
        }
    }
}
