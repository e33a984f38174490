//! The reference of all keys, with type, default and meaning, parsed from `docs/configuration.md`.
//!
//! The JSON Schema and smsbridge.toml(5) are generated from that page, so they cannot disagree. Tests compare all three
//! with what the parser accepts.

/// The text of `docs/configuration.md`.
pub const PAGE: &str = include_str!("../../docs/configuration.md");

/// A table of the configuration as documented on the page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// `server`, `source.NAME`, `source.NAME.api`.
    pub name: String,
    /// The kind, if the table applies to one kind only.
    pub kind: Option<String>,
    /// Whether it is a list of tables, in double brackets.
    pub many: bool,
    /// Its keys; if `kind` is set, only those that the kind adds.
    pub keys: Vec<Key>,
}

/// One key of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// The key as written in the file.
    pub name: String,
    /// The type of its value, as the page names it.
    pub kind: String,
    /// The default as the page names it, or `required`.
    pub default: String,
    /// The description, in Markdown.
    pub meaning: String,
}

/// Every table of the page, in the order of the page.
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

/// The cells of a line of a Markdown table. No cell of the page contains `|`.
pub fn cells(line: &str) -> Option<Vec<&str>> {
    let inner = line.strip_prefix('|')?.strip_suffix('|')?;
    Some(inner.split('|').map(str::trim).collect())
}

/// The content of the first pair of backquotes.
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
