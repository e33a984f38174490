//! The configuration as a JSON Schema (draft 2020-12) for editors, generated from the tables of `docs/configuration.md`.

use serde_json::{Map, Value, json};

use crate::reference::{Key, Table, quoted, tables};

/// Generates the schema.
///
/// # Errors
/// When the page gives a type or default that is not known here; the error names the key. A test verifies that there
/// is none.
pub fn schema() -> Result<Value, String> {
    let tables = tables();
    let mut definitions = shared();
    let mut properties = Map::new();
    for table in tables.iter().filter(|table| table.kind.is_none()) {
        let definition = match kinds(&tables, table).as_slice() {
            [] => object(table, &[table])?,
            kinds => one_of_kinds(table, kinds)?,
        };
        definitions.insert(table.name.clone(), definition);
        if let Some((key, value)) = top_level(table) {
            properties.insert(key.to_owned(), value);
        }
    }
    properties.insert("contacts".to_owned(), contacts());
    properties.insert("include".to_owned(), include());
    Ok(json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "smsbridge configuration",
        "description": "Made by `smsbridge check --schema`.",
        "type": "object",
        "properties": properties,
        "required": ["routing"],
        "additionalProperties": false,
        "$defs": definitions,
    }))
}

/// Definitions that are used in several places.
fn shared() -> Map<String, Value> {
    let place = json!({
        "description": "Where a secret is kept.",
        "type": "object",
        "properties": {
            "env": { "type": "string", "description": "An environment variable." },
            "file": { "type": "string", "description": "A file with nothing else in it." },
            "credential": { "type": "string", "description": "A credential that systemd loads." },
        },
        "minProperties": 1,
        "maxProperties": 1,
        "additionalProperties": false,
    });
    Map::from_iter([("place".to_owned(), place)])
}

fn kinds<'t>(tables: &'t [Table], common: &Table) -> Vec<&'t Table> {
    let of_common = |table: &&Table| table.name == common.name && table.kind.is_some();
    tables.iter().filter(of_common).collect()
}

/// The key of a table at the top of the file, and its schema; `None` for a nested table.
fn top_level(table: &Table) -> Option<(&str, Value)> {
    let one = reference(&table.name);
    match table.name.split_once('.') {
        None if table.many => Some((&table.name, json!({ "type": "array", "items": one }))),
        None => Some((&table.name, one)),
        Some((key, "NAME")) => Some((
            key,
            json!({ "type": "object", "propertyNames": { "pattern": NAME }, "additionalProperties": one }),
        )),
        Some(_) => None,
    }
}

fn reference(table: &str) -> Value {
    json!({ "$ref": format!("#/$defs/{table}") })
}

fn include() -> Value {
    let description =
        "Further files of the configuration: paths, or patterns with `*` in the name of the file.";
    json!({ "type": "array", "description": description, "items": { "type": "string", "minLength": 1 } })
}

fn contacts() -> Value {
    let name = json!({ "type": "string", "pattern": r"\S", "maxLength": 200 });
    json!({ "type": "object", "description": "Names for numbers.", "additionalProperties": name })
}

/// A choice by `kind`: for each kind, the common keys and its own.
fn one_of_kinds(common: &Table, kinds: &[&Table]) -> Result<Value, String> {
    let choices = kinds.iter().map(|own| {
        let mut choice = object(common, &[common, own])?;
        let described = choice["properties"]["kind"]["description"].take();
        choice["properties"]["kind"] = json!({ "const": own.kind, "description": described });
        Ok(choice)
    });
    let choices = choices.collect::<Result<Vec<_>, String>>()?;
    Ok(json!({ "oneOf": choices }))
}

/// The schema of one table with the keys of these `parts`.
fn object(table: &Table, parts: &[&Table]) -> Result<Value, String> {
    let keys = || parts.iter().flat_map(|part| &part.keys);
    let properties = keys().map(|key| Ok((key.name.clone(), property(table, key)?)));
    let properties = properties.collect::<Result<Map<_, _>, String>>()?;
    let required: Vec<&str> = keys()
        .filter(|key| key.default == "required")
        .map(|key| key.name.as_str())
        .collect();
    Ok(json!({
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": false,
    }))
}

fn property(table: &Table, key: &Key) -> Result<Value, String> {
    // Every table except a route can refer to secrets.
    let fetched = !table.name.starts_with("route");
    let unknown = || format!("{}.{}: unknown type `{}`", table.name, key.name, key.kind);
    let mut property = value(&key.kind, fetched).ok_or_else(unknown)?;
    property["description"] = json!(key.meaning);
    if let Some(default) = default(&key.default) {
        property["default"] = default;
    }
    Ok(property)
}

/// The default, if the cell is a single value and not a description.
fn default(cell: &str) -> Option<Value> {
    let written = cell.strip_prefix('`')?.strip_suffix('`')?;
    let table: toml::Table = format!("value = {written}").parse().ok()?;
    let value = serde_json::to_value(table.get("value")?).ok()?;
    (!written.contains("NAME")).then_some(value)
}

/// The schema for a type as the page names it.
fn value(kind: &str, fetched: bool) -> Option<Value> {
    if let Some(items) = kind.strip_prefix("list of ") {
        // An empty list of conditions would match nothing and is rejected, as is an empty list of words.
        let is_condition = matches!(items, "number patterns" | "sources");
        let least = u8::from(is_condition || items.starts_with('`'));
        let items = value(singular(items), fetched)?;
        return Some(json!({ "type": "array", "minItems": least, "items": items }));
    }
    if let Some(values) = kind.strip_prefix("table of ") {
        let values = value(singular(values), fetched)?;
        return Some(json!({ "type": "object", "additionalProperties": values }));
    }
    if let Some(table) = kind.strip_prefix("table ") {
        return Some(reference(quoted(table)?.trim_matches(['[', ']'])));
    }
    if let Some((least, most)) = kind.split_once(" to ") {
        let (least, most): (i64, i64) = (least.parse().ok()?, most.parse().ok()?);
        return Some(json!({ "type": "integer", "minimum": least, "maximum": most }));
    }
    Some(match kind {
        "true, false" => json!({ "type": "boolean" }),
        "whole number" => json!({ "type": "integer", "minimum": 0 }),
        "duration or `\"forever\"`" => json!({ "anyOf": [text(DURATION, fetched), { "const": "forever" }] }),
        "size" => json!({ "anyOf": [text(SIZE, fetched), { "type": "integer", "minimum": 0 }] }),
        "one secret" | "path or one secret" => text(SOMETHING, fetched),
        "secret" => {
            let one = text(SOMETHING, fetched);
            json!({ "anyOf": [one, { "type": "array", "minItems": 1, "items": one }] })
        }
        _ if kind.starts_with('`') => words(kind, fetched),
        _ => text(pattern(kind)?, fetched),
    })
}

/// The singular of a type: `addresses` are of the type `address`.
fn singular(kind: &str) -> &str {
    match kind.strip_suffix("es") {
        Some(one) if one.ends_with("ss") => one,
        _ => kind.trim_end_matches('s'),
    }
}

/// A choice of the words in backquotes.
fn words(kind: &str, fetched: bool) -> Value {
    let words: Vec<&str> = kind.split('`').skip(1).step_by(2).collect();
    or_place(json!({ "enum": words }), fetched)
}

fn text(pattern: &str, fetched: bool) -> Value {
    or_place(json!({ "type": "string", "pattern": pattern }), fetched)
}

/// Allows a reference to a secret wherever a string is expected.
fn or_place(string: Value, fetched: bool) -> Value {
    if fetched {
        json!({ "anyOf": [string, reference("place")] })
    } else {
        string
    }
}

const NAME: &str = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$";
const SOMETHING: &str = ".";
const DURATION: &str = concat!(
    r"^(?=.*[1-9])(\s*[0-9]+(\.[0-9]+)?\s*",
    r"(nanos|nsec|ns|usec|us|µs|millis|msec|ms|s(ec(ond)?s?)?|m(in(ute)?s?)?|h((ou)?rs?)?|d(ays?)?",
    r"|w((ee)?ks?)?|months?|M|y((ea)?rs?)?))+\s*$"
);
const SIZE: &str = r"^[0-9]+(\.[0-9]*)?\s*([kKmMgGtTpPeE][iI]?[bB]?|[bB])$|^\+?[0-9]+$";

/// The pattern of strings of this type. It accepts at least everything that the parser accepts.
fn pattern(kind: &str) -> Option<&'static str> {
    Some(match kind {
        "string" | "path" | "template" | "[regular expression](https://docs.rs/regex)" => "",
        "duration" | "timeout" => DURATION,
        "rate" => {
            r"^\s*\+?[0-9]*\.?[0-9]*([eE][+-]?[0-9]+)?\s*/\s*(s(ec(ond)?)?|m(in(ute)?)?|h(r|our)?|d(ay)?)\s*$"
        }
        "address and port" => r"^(\[[0-9A-Fa-f:.%]+\]|[0-9.]+):[0-9]{1,5}$",
        "network" => r"^[0-9A-Fa-f:.]+(/[0-9]{1,3})?$",
        "number" => "[0-9*]",
        "number pattern" => "[0-9A-Za-z*]|[^\\x00-\\x7f]",
        "name" | "source" | "destination" | "time interval" => NAME,
        "time zone" => r"^[A-Za-z][A-Za-z0-9_+-]*(/[A-Za-z0-9_+-]+)*$",
        "time range" => r"^\s*[0-9]{2}:[0-9]{2}\s*-\s*[0-9]{2}:[0-9]{2}\s*$",
        "weekday" | "month" => r"^\s*[A-Za-z]+\s*(-\s*[A-Za-z]+\s*)?$",
        "date" => r"^\s*[0-9]{4}-[0-9]{2}-[0-9]{2}\s*(\.\.\s*[0-9]{4}-[0-9]{2}-[0-9]{2}\s*)?$",
        "URL" => "^[Hh][Tt][Tt][Pp][Ss]?://",
        "URL path" => r"^(/[A-Za-z0-9._~-]+)+$",
        "address" => "@",
        _ => return None,
    })
}
