//! The schema of the configuration and its page, compared with the parser.
//!
//! Schema and manual are generated from the tables of `docs/configuration.md`. These tests show that the parser
//! knows the same keys and accepts the same values.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use smsbridge::config::{Config, Outside, Purpose};

use crate::places::{BASE, PLACES, keys, print, read, root, table, with};
use crate::reference::tables;

mod generator;
mod manual;

/// The keys that the parser lists as known in its error about an unknown one.
fn known(whole: &toml::Table, complaint: &str) -> BTreeSet<String> {
    let (_, problems) = read(whole);
    let all: Vec<&str> = problems
        .all()
        .iter()
        .map(|problem| problem.message.as_str())
        .collect();
    let found = all.iter().find(|message| message.contains(complaint));
    let message = found.unwrap_or_else(|| panic!("{complaint}: {all:?}"));
    let (_, list) = message.split_once("(known here: ").unwrap();
    list.trim_end_matches(')')
        .split(", ")
        .map(str::to_owned)
        .collect()
}

/// A generated file must be the current one, and what the program prints. With `UPDATE_DOCS=1`, it is written.
fn is_current(path: &str, generated: &str, printed: impl Fn() -> String) {
    let path = root().join(path);
    if std::env::var_os("UPDATE_DOCS").is_some() {
        return fs::write(&path, generated).unwrap();
    }
    let kept = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        kept == generated,
        "{}: run UPDATE_DOCS=1 cargo test --test it schema",
        path.display()
    );
    assert_eq!(printed(), generated);
}

#[test]
fn the_schema_is_that_of_the_page_and_is_printed() {
    let schema = generator::schema().unwrap();
    let generated = serde_json::to_string_pretty(&schema).unwrap() + "\n";
    is_current("docs/smsbridge.schema.json", &generated, || {
        print(&["check", "--schema"])
    });
}

#[test]
fn the_manual_page_is_that_of_the_page_and_is_printed() {
    let generated = manual::configuration();
    is_current("docs/smsbridge.toml.5", &generated, || {
        let page = print(&["man", "smsbridge.toml"]);
        page.split_once('\n').unwrap().1.to_owned()
    });
    for mark in ["```", "](", "|---"] {
        assert!(!generated.contains(mark), "{mark}: {generated}");
    }
    assert!(
        generated.contains(".TP\n\\fBpublic_url\\fR (URL; default: none; reload)\n"),
        "{generated}"
    );
}

#[test]
fn the_page_lists_exactly_the_keys_of_the_parser() {
    let tables = tables();
    let mut seen = BTreeSet::new();
    for place in PLACES {
        let documented: BTreeSet<String> = keys(&tables, place).iter().map(|key| key.name.clone()).collect();
        assert_eq!(
            known(&with(place, "qqq", "1"), "unknown key"),
            documented,
            "{place:?}"
        );
        seen.insert((place.0, place.1));
    }
    for table in tables.iter().filter(|table| !table.keys.is_empty()) {
        let kind = table.kind.as_deref();
        let tried = seen
            .iter()
            .any(|(name, tried)| *name == table.name && kind.is_none_or(|kind| kind == *tried));
        assert!(tried, "no place for {} {:?}", table.name, table.kind);
    }
}

#[test]
fn the_page_lists_exactly_the_tables_and_kinds_of_the_parser() {
    let tables = tables();
    let tops = tables
        .iter()
        .map(|table| table.name.split('.').next().unwrap().to_owned());
    assert_eq!(
        known(&table(&format!("[qqq]\n{BASE}")), "unknown table"),
        tops.collect()
    );
    for place in PLACES.iter().filter(|place| !place.1.is_empty()) {
        let kinds = tables.iter().filter(|table| table.name == place.0);
        let kinds: BTreeSet<String> = kinds.filter_map(|table| table.kind.clone()).collect();
        assert_eq!(
            known(&with(place, "kind", "'qqq'"), "unknown kind"),
            kinds,
            "{place:?}"
        );
    }
}

#[test]
fn every_documented_default_is_valid_and_in_use() {
    let schema = generator::schema().unwrap();
    let mut checked = 0;
    for place in PLACES.iter().filter(|place| place.2 == place.0) {
        let plain = format!("{}\n{BASE}", place.3);
        let plain = Config::read(&plain, Path::new("/c.toml"), Purpose::Serve, &Outside::default());
        let plain = plain.unwrap().0;
        let definition = &schema["$defs"][place.0];
        let of_kind = |choice: &&serde_json::Value| choice["properties"]["kind"]["const"] == place.1;
        let choices = definition["oneOf"].as_array();
        let definition = choices.map_or(definition, |choices| choices.iter().find(of_kind).unwrap());
        let properties = definition["properties"].as_object().unwrap();
        for (key, default) in properties
            .iter()
            .filter_map(|(key, property)| Some((key, property.get("default")?)))
        {
            let text = toml::to_string(&with(place, key, &default.to_string())).unwrap();
            let (written, problems) =
                Config::read(&text, Path::new("/c.toml"), Purpose::Serve, &Outside::default()).unwrap();
            assert!(!problems.any_error(), "{problems}");
            let shown = |config: &Config| {
                format!(
                    "{:?} {:?} {:?} {:?}",
                    config.server, config.store, config.log, config.retry
                )
            };
            assert_eq!(shown(&written), shown(&plain), "{}.{key}", place.2);
            checked += 1;
        }
    }
    assert!(checked >= 15, "{checked}");
}
