//! Translates serde's errors for the operator.

use super::suggest::suggestion;

/// Translates an error of serde.
///
/// A type error does not quote the value: it may be a secret in the wrong place.
pub(super) fn translate(message: &str, also: &[&str]) -> String {
    if let Some(field) = quoted_after(message, "unknown field ") {
        let known = also.iter().copied().chain(quoted(message).skip(1));
        return format!("unknown key{}", suggestion(field, known));
    }
    if let Some(variant) = quoted_after(message, "unknown variant ") {
        return format!(
            "unknown value `{variant}`{}",
            suggestion(variant, quoted(message).skip(1))
        );
    }
    let mistyped = message
        .strip_prefix("invalid type: ")
        .or_else(|| message.strip_prefix("invalid value: "));
    match mistyped.and_then(|rest| rest.rsplit_once(", expected ")) {
        Some((found, expected)) => {
            let (wanted, found) = (wanted(expected), found_type(found));
            // `+13035550100` without quotes is an integer.
            let number = wanted.starts_with("a number like \"") && found == "an integer";
            let next = if number { ": put it in quotes" } else { "" };
            format!("expected {wanted}, but this is {found}{next}")
        }
        None => message.to_owned(),
    }
}

fn wanted(expected: &str) -> &str {
    match expected {
        "a sequence" => "a list in [ ]",
        "a map" => "a table",
        "path string" => "a path",
        "u8" => "a whole number from 0 to 255",
        "u16" => "a whole number from 0 to 65535",
        "u32" | "u64" | "usize" | "i32" | "i64" => "a whole number",
        "f64" => "a number",
        "a boolean" => "true or false",
        _ if expected.starts_with("struct ") => "a table",
        _ => expected,
    }
}

fn found_type(found: &str) -> &'static str {
    match found.split([' ', ',']).next().unwrap_or_default() {
        "string" => "a string",
        "integer" => "an integer",
        "boolean" => "a boolean",
        "floating" => "a number with a fraction",
        "sequence" => "a list",
        "map" => "a table",
        _ => "something else",
    }
}

/// The word in backquotes that follows `start`.
pub(super) fn quoted_after<'m>(message: &'m str, start: &str) -> Option<&'m str> {
    message.strip_prefix(start).and_then(|rest| quoted(rest).next())
}

fn quoted(message: &str) -> impl Iterator<Item = &str> {
    message.split('`').skip(1).step_by(2)
}
