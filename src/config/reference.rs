//! Every key with its type, default and meaning, read from `docs/configuration.md`.
//!
//! The page that operators read is the one table there is: the JSON Schema and smsbridge.toml(5) are made from it,
//! so that they cannot disagree with it. Tests hold it against what the parser accepts.

/// The page itself.
pub const PAGE: &str = include_str!("../../docs/configuration.md");

/// A table of the configuration as the page describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// `server`, `source.NAME`, `source.NAME.api`.
    pub name: String,
    /// For one kind only.
    pub kind: Option<String>,
    /// There are several, in double brackets.
    pub many: bool,
    /// Its keys; with a kind, those that the kind adds.
    pub keys: Vec<Key>,
}

/// One key of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// As it is written.
    pub name: String,
    /// What its value is, in the page's words.
    pub kind: String,
    /// What it is when it is left out, or `required`.
    pub default: String,
    /// What it is for, as Markdown.
    pub meaning: String,
}

/// Every table of the page, in its order.
#[must_use]
pub fn tables() -> Vec<Table> {
    let mut tables: Vec<Table> = Vec::new();
    for line in PAGE.lines() {
        if let Some(heading) = line.strip_prefix("### ") {
            tables.extend(table(heading));
        } else if let Some(kind) = line.strip_prefix("`kind = \"") {
            let name = tables.last().map(|table| table.name.clone()).unwrap_or_default();
            tables.push(Table {
                name,
                kind: kind.split('"').next().map(str::to_owned),
                many: false,
                keys: Vec::new(),
            });
        } else if line.starts_with("`[") {
            tables.extend(table(line));
        } else if let (Some(table), Some(key)) = (tables.last_mut(), key(line)) {
            table.keys.push(key);
        }
    }
    tables
}

/// The cells of a line of a Markdown table. No cell of the page has a `|` in it.
pub fn cells(line: &str) -> Option<Vec<&str>> {
    let inner = line.strip_prefix('|')?.strip_suffix('|')?;
    Some(inner.split('|').map(str::trim).collect())
}

/// What stands in the first pair of backquotes.
pub fn quoted(text: &str) -> Option<&str> {
    text.split('`').nth(1)
}

fn table(heading: &str) -> Option<Table> {
    let written = quoted(heading)?;
    let name = written.strip_prefix('[')?.strip_suffix(']')?;
    Some(Table {
        name: name.trim_matches(['[', ']']).to_owned(),
        kind: None,
        many: name.starts_with('['),
        keys: Vec::new(),
    })
}

fn key(line: &str) -> Option<Key> {
    let cells = cells(line)?;
    let [name, kind, default, meaning, _effect] = cells.as_slice() else {
        return None;
    };
    Some(Key {
        name: quoted(name)?.to_owned(),
        kind: (*kind).to_owned(),
        default: (*default).to_owned(),
        meaning: (*meaning).to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_read_as_tables_of_keys() {
        let tables = tables();
        let names: Vec<&str> = tables.iter().map(|table| table.name.as_str()).collect();
        for name in ["server", "contacts", "route", "route.unless", "source.NAME.hmac"] {
            assert!(names.contains(&name), "{name}: {names:?}");
        }
        let slack = tables.iter().find(|table| table.kind.as_deref() == Some("slack"));
        let channel = slack.and_then(|slack| slack.keys.iter().find(|key| key.name == "channel"));
        let channel = channel.unwrap();
        assert_eq!(
            (channel.kind.as_str(), channel.default.as_str()),
            ("text", "none")
        );
        assert!(tables.iter().map(|table| table.keys.len()).sum::<usize>() > 90);
    }
}
