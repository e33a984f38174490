//! Repairs JSON that was assembled without escaping: a line break or a quote in the message makes the body invalid,
//! and the message would be lost.

/// Escapes control characters, backslashes and quotes inside strings, and closes what is open at the end. Valid JSON
/// is unchanged. The result may still be invalid.
pub(super) fn repair(text: &str) -> String {
    let mut repaired = String::with_capacity(text.len() + 16);
    let mut open = Vec::new();
    let mut in_string = false;
    let mut rest = text.chars();
    while let Some(character) = rest.next() {
        match character {
            '"' if in_string && !ends_string(rest.as_str()) => repaired.push_str("\\\""),
            '"' => {
                in_string = !in_string;
                repaired.push('"');
            }
            '\\' if in_string => match escape(rest.as_str()) {
                Some(escaped) => {
                    repaired.push('\\');
                    repaired.push(escaped);
                    rest.next();
                }
                None => repaired.push_str("\\\\"),
            },
            control if in_string && control.is_ascii_control() => {
                repaired.push_str(&format!("\\u{:04x}", u32::from(control)));
            }
            '{' | '[' if !in_string => {
                open.push(if character == '{' { '}' } else { ']' });
                repaired.push(character);
            }
            '}' | ']' if !in_string => {
                open.pop();
                repaired.push(character);
            }
            other => repaired.push(other),
        }
    }
    if in_string {
        repaired.push('"');
    }
    repaired.extend(open.into_iter().rev());
    repaired
}

/// The character of a valid JSON escape, from the characters after the backslash.
fn escape(rest: &str) -> Option<char> {
    let mut characters = rest.chars();
    let escaped = characters.next()?;
    let known = match escaped {
        'u' => rest
            .get(1..5)
            .is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit())),
        other => "\"\\/bfnrt".contains(other),
    };
    known.then_some(escaped)
}

/// Decides by the following characters whether a quote ends a string or is part of it.
fn ends_string(rest: &str) -> bool {
    let rest = rest.trim_ascii_start();
    match rest.strip_prefix(',') {
        Some(next) => next.trim_ascii_start().starts_with(['"', '{', '[']),
        None => rest.is_empty() || rest.starts_with([':', '}', ']']),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn unescaped_characters_are_repaired() {
        for (broken, meant) in [
            ("{\"a\":\"one\ntwo\u{7}\"}", json!({ "a": "one\ntwo\u{7}" })),
            (
                r#"{"a":"C:\new \x41 é","b":"\u00zz"}"#,
                json!({ "a": "C:\new \\x41 é", "b": "\\u00zz" }),
            ),
            (
                r#"{"a":"say "hi", please", "b" : "x"}"#,
                json!({ "a": "say \"hi\", please", "b": "x" }),
            ),
            (r#"{"a":"""#, json!({ "a": "" })),
            (
                r#"{"a":["x",{"b":"cut of"#,
                json!({ "a": ["x", { "b": "cut of" }] }),
            ),
            (r#"{"a":"\"#, json!({ "a": "\\" })),
        ] {
            let repaired = repair(broken);
            assert_eq!(
                serde_json::from_str::<Value>(&repaired).ok(),
                Some(meant),
                "{broken} became {repaired}"
            );
        }
    }

    #[test]
    fn valid_json_stays_as_it_is() {
        for valid in [
            r#"{"a":"\"\\\/\b\f\n\r\t\u00e9","b":[1,"x",{"c":null}], "d" : "" }"#,
            "[\n\t\"a\" , \"b\"\n]",
            "",
        ] {
            assert_eq!(repair(valid), valid);
        }
    }
}
