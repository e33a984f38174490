//! The fields of a request as one JSON value, for every format of the body.

use http::Method;
use serde_json::{Map, Value};

use crate::source::Request;
use crate::source::fields::{self, Form};

/// The fields of a request: its JSON, or an object of strings for a form or query.
#[derive(Clone, Debug)]
pub(super) struct Document(pub(super) Value);

impl Document {
    /// `None` if the body cannot be parsed.
    pub(super) fn read(request: &Request<'_>) -> Option<Self> {
        if request.method == Method::GET {
            return Some(Self::of_pairs(request.target.query().as_bytes()));
        }
        if fields::is_json(request.headers, request.body) {
            return serde_json::from_slice(request.body).ok().map(Self);
        }
        Some(Self::of_pairs(request.body))
    }

    fn of_pairs(encoded: &[u8]) -> Self {
        let mut object = Map::new();
        for (name, value) in Form::read(encoded).pairs() {
            object
                .entry(name.to_string())
                .or_insert_with(|| Value::from(&**value));
        }
        Self(Value::Object(object))
    }
}

/// The value at a JSON pointer (`/a/b`) or of a top-level field (`a`).
pub(super) fn get<'v>(value: &'v Value, place: &str) -> Option<&'v Value> {
    if place.is_empty() || place.starts_with('/') {
        value.pointer(place)
    } else {
        value.get(place)
    }
}

/// Removes the value from its object and returns it.
pub(super) fn take(value: &mut Value, place: &str) -> Option<Value> {
    let (parent, name) = match place.rsplit_once('/') {
        Some((parent, name)) => (value.pointer_mut(parent)?, name),
        None => (value, place),
    };
    parent.as_object_mut()?.remove(name)
}

/// Sets the value at this place and creates the objects on its path.
pub(super) fn set(value: &mut Value, place: &str, new: Value) {
    let mut at = value;
    for name in place.trim_start_matches('/').split('/') {
        if !at.is_object() {
            *at = Value::Object(Map::new());
        }
        let Some(object) = at.as_object_mut() else { return };
        at = object.entry(name).or_insert(Value::Null);
    }
    *at = new;
}
