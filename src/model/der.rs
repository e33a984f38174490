//! Reads DER ([X.690](https://www.itu.int/rec/T-REC-X.690)), as far as certificates need it.

/// The tag of a sequence.
pub const SEQUENCE: u8 = 0x30;
/// The tag of a bit string.
pub const BIT_STRING: u8 = 0x03;
/// The tag of the optional version of a certificate.
const VERSION: u8 = 0xa0;

/// Splits off the first item: its tag, its content, and the bytes after it.
#[must_use]
pub fn item(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
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

/// The items of a certificate that its issuer signs, as in [RFC
/// 5280](https://www.rfc-editor.org/rfc/rfc5280#section-4.1), from the serial number on: signature algorithm, issuer,
/// validity, subject, key. `None` if the structure is different.
#[must_use]
pub fn signed_part(certificate: &[u8]) -> Option<&[u8]> {
    let (SEQUENCE, certificate, _) = item(certificate)? else {
        return None;
    };
    let (SEQUENCE, signed, _) = item(certificate)? else {
        return None;
    };
    match item(signed)? {
        (VERSION, _, after) => Some(after),
        _ => Some(signed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_beyond_the_end_is_rejected() {
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
