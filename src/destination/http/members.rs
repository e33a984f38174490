//! Parses the top-level members of a JSON object while it arrives. An API's own values are at the top; echoed values
//! are nested and may have any length.
//!
//! Only scalar members of the outermost object are kept, so the memory is limited whatever the response contains.
//! Members are used even if the response is cut or the connection breaks: a message that was posted must not be
//! posted again only because the closing brace is missing.

use std::collections::BTreeMap;

use serde_json::Value;

/// Upper bound of the kept members.
const MEMBERS_MAX: usize = 32;

/// Maximum length of a kept key or value, in bytes as written.
const TOKEN_MAX: usize = 2048;

/// The members parsed so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Members {
    found: BTreeMap<String, Value>,
    depth: usize,
    in_string: bool,
    escaped: bool,
    key: Option<String>,
    token: Vec<u8>,
    /// The input is not JSON, not an object, or after its end.
    over: bool,
}

impl Members {
    /// The value of a member; null if it is missing or not a scalar.
    #[must_use]
    pub fn get(&self, key: &str) -> &Value {
        self.found.get(key).unwrap_or(&Value::Null)
    }

    /// Parses the next bytes.
    pub fn feed(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            if self.over {
                return;
            }
            if self.in_string {
                self.string(byte);
            } else {
                self.outside(byte);
            }
        }
    }

    fn string(&mut self, byte: u8) {
        self.push(byte);
        match byte {
            _ if self.escaped => self.escaped = false,
            b'\\' => self.escaped = true,
            b'"' => {
                self.in_string = false;
                if self.key.is_some() {
                    self.member();
                }
            }
            _ => {}
        }
    }

    fn outside(&mut self, byte: u8) {
        match byte {
            b' ' | b'\t' | b'\r' | b'\n' => {}
            b'{' | b'[' => {
                self.over = self.depth == 0 && byte == b'[';
                self.depth += 1;
                // Nested values are not kept.
                if self.depth == 2 {
                    self.key = None;
                }
            }
            _ if self.depth == 0 => self.over = true,
            b'}' | b']' => {
                self.member();
                self.depth -= 1;
                self.over = self.depth == 0;
            }
            b'"' => {
                self.in_string = true;
                self.push(byte);
            }
            b':' if self.depth == 1 => {
                let token = std::mem::take(&mut self.token);
                self.key = serde_json::from_slice(&token).ok();
            }
            b',' => self.member(),
            _ => self.push(byte),
        }
    }

    fn push(&mut self, byte: u8) {
        // One extra byte marks the token as too long.
        if self.depth == 1 && self.token.len() <= TOKEN_MAX {
            self.token.push(byte);
        }
    }

    /// The end of a member of the outermost object.
    fn member(&mut self) {
        let token = std::mem::take(&mut self.token);
        let Some(key) = self.key.take().filter(|_| self.depth == 1) else {
            return;
        };
        if token.len() > TOKEN_MAX || self.found.len() >= MEMBERS_MAX {
            return;
        }
        if let Ok(value) = serde_json::from_slice(&token) {
            self.found.insert(key, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn read(json: &str) -> BTreeMap<String, Value> {
        let mut members = Members::default();
        members.feed(json.as_bytes());
        members.found
    }

    #[test]
    fn scalars_of_the_outermost_object_are_found() {
        for (text, expected) in [
            (r#"{"ok":true,"ts":"1.5"}"#, json!({ "ok": true, "ts": "1.5" })),
            (
                " \n{ \"a\" : -1.5e3 , \"b\" : null }",
                json!({ "a": -1.5e3, "b": null }),
            ),
            (r#"{"a\"}\u0041":"\\\"{"}"#, json!({ "a\"}A": "\\\"{" })),
            (
                r#"{"list":[{"ok":false},"ok"],"ok":true,"last":{"ok":false}}"#,
                json!({ "ok": true }),
            ),
            (r#"{"a":1}{"b":2}"#, json!({ "a": 1 })),
            (r#"{"a":1,"a":2}"#, json!({ "a": 2 })),
            ("{}", json!({})),
            // Cut.
            (
                r#"{"ok":true,"message":{"ok":false,"text":"x"#,
                json!({ "ok": true }),
            ),
            (r#"{"ts":"1.5""#, json!({ "ts": "1.5" })),
            (r#"{"ts":"1."#, json!({})),
            (r#"{"wait":12"#, json!({})),
            // Not an object.
            (r#"[{"ok":true}]"#, json!({})),
            (r#""{\"ok\":true}""#, json!({})),
            (r#"ok {"ok":true}"#, json!({})),
            (r#"<html>{"ok":true}"#, json!({})),
            ("}", json!({})),
            ("", json!({})),
        ] {
            assert_eq!(json!(read(text)), expected, "{text}");
        }
    }

    #[test]
    fn the_kept_members_are_limited() {
        let long = "x".repeat(TOKEN_MAX);
        assert_eq!(
            json!(read(&format!("{{\"a\":\"{long}\",\"{long}\":1,\"b\":2}}"))),
            json!({ "b": 2 })
        );
        let many: String = (0..100_000).map(|n| format!("\"m{n}\":{n},")).collect();
        assert_eq!(read(&format!("{{{many}")).len(), MEMBERS_MAX);
        let mut members = Members::default();
        members.feed("[{".repeat(1_000_000).as_bytes());
        members.feed(b"{\"a\":");
        members.feed("{[".repeat(1_000_000).as_bytes());
        assert!(members.token.capacity() <= 2 * TOKEN_MAX);
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let scalar = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
            "[{}\\[\\]\",:\\\\ ]{0,9}".prop_map(Value::from),
        ];
        scalar.prop_recursive(4, 24, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                prop::collection::btree_map(any::<String>(), inner, 0..5).prop_map(|map| json!(map)),
            ]
        })
    }

    proptest! {
        #[test]
        fn it_agrees_with_a_whole_parse_however_the_object_comes(
            object in prop::collection::btree_map(any::<String>(), any_json(), 0..6),
            pretty in any::<bool>(),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
        ) {
            let text = if pretty { format!("{:#}", json!(object)) } else { json!(object).to_string() };
            let scalars: BTreeMap<String, Value> = object
                .into_iter()
                .filter(|(_, value)| !value.is_object() && !value.is_array())
                .collect();
            prop_assert_eq!(read(&text), scalars.clone());
            let bytes = text.as_bytes();
            let mut places: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len())).collect();
            places.sort_unstable();
            let mut members = Members::default();
            let mut from = 0;
            for place in places {
                members.feed(&bytes[from..place]);
                from = place;
                for (key, value) in &members.found {
                    prop_assert_eq!(scalars.get(key), Some(value));
                }
            }
            members.feed(&bytes[from..]);
            prop_assert_eq!(members.found, scalars);
        }

        #[test]
        fn nothing_makes_it_panic(bytes in any::<Vec<u8>>(), like in "[\\[{}\\]\",:\\\\a1 ]{0,60}") {
            let mut members = Members::default();
            members.feed(&bytes);
            read(&like);
        }
    }
}
