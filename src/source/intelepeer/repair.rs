//! JSON that was put together without escaping: a message with a line break or a quote in it then makes the whole
//! body invalid, and would be lost with it.

/// Rewrites a JSON document so that it may be read: escapes control characters, backslashes and quotes inside of
/// strings, and closes what is open at the end. What is valid stays as it is. The result may still be no JSON.
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

/// The character of an escape that JSON knows, from what follows a backslash.
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

/// Tells a quote that ends a string from one inside of it, by what follows: the end of a name or of a value.
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
    fn what_was_not_escaped_is_read_as_it_was_meant() {
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
