//! `include`: reads further files of a configuration and merges all of them into one table.
//!
//! The offsets of each file begin where those of the previous one end, so that an offset also identifies the file.

use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

use super::diagnostics::Problems;
use super::environment::Outside;
use super::{FILE_MAX, text_of};

/// The key that names further files.
pub(super) const KEY: &str = "include";

/// Upper bound of the included files.
const FILES_MAX: usize = 256;

/// The tables whose entries may be spread over several files.
const SHARED: [&str; 5] = ["source", "smtp", "destination", "time_interval", "contacts"];

/// The list of tables that is continued by the next file.
const ROUTES: &str = "route";

/// The content of an included file.
pub(super) struct Included {
    /// Its content.
    pub(super) text: String,
    /// The offset of its first byte.
    pub(super) start: usize,
}

/// Reads every file that `include` names, in the order of the list; the files of one pattern are sorted by name.
pub(super) fn read(
    include: Spanned<DeValue<'_>>,
    main: &Path,
    outside: &Outside,
    problems: &mut Problems,
) -> Vec<Included> {
    let place = include.span();
    let DeValue::Array(items) = include.into_inner() else {
        let message = "expected a list of files, such as [\"conf.d/*.toml\"]";
        problems.error(&place, KEY, message);
        return Vec::new();
    };
    let folder = main.parent().unwrap_or(Path::new(""));
    let (mut seen, mut included, mut bytes) = (vec![main.to_owned()], Vec::new(), 0);
    for item in items {
        let place = item.span();
        let Some(pattern) = item.get_ref().as_str() else {
            problems.error(
                &place,
                KEY,
                "expected the path of a file, or a pattern, as a string",
            );
            continue;
        };
        let found = matching(folder, pattern).unwrap_or_else(|problem| {
            problem.report(&place, problems);
            Vec::new()
        });
        for path in found {
            if seen.contains(&path) {
                continue;
            }
            if included.len() == FILES_MAX {
                problems.error(&place, KEY, format!("more than {FILES_MAX} files"));
                return included;
            }
            match text_of(&path, outside.reading(), "no such file") {
                Ok(text) => {
                    bytes += text.len() as u64;
                    if bytes > FILE_MAX {
                        problems.error(&place, KEY, "the included files together are larger than 4MiB");
                        return included;
                    }
                    let start = problems.add_file(&path, &text);
                    included.push(Included { text, start });
                }
                Err(error) => problems.error(&place, KEY, format!("{}: {error}", path.display())),
            }
            seen.push(path);
        }
    }
    included
}

/// Why a pattern matches no file.
enum Unmatched {
    Wrong(String),
    NoFolder(String),
}

impl Unmatched {
    fn report(self, place: &std::ops::Range<usize>, problems: &mut Problems) {
        match self {
            Self::Wrong(message) => problems.error(place, KEY, message),
            Self::NoFolder(message) => problems.warning(place, KEY, message),
        }
    }
}

/// The files that match a path or pattern, sorted by name. A pattern does not match hidden files.
fn matching(folder: &Path, pattern: &str) -> Result<Vec<PathBuf>, Unmatched> {
    let path = folder.join(pattern);
    if !pattern.contains('*') {
        return Ok(vec![path]);
    }
    let parent = path.parent().unwrap_or(folder);
    let name = path
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default();
    if parent.to_string_lossy().contains('*') || !name.contains('*') {
        let message = "`*` is allowed only in the name of the file, as in \"conf.d/*.toml\"";
        return Err(Unmatched::Wrong(message.to_owned()));
    }
    let shown = parent.display();
    let entries = match std::fs::read_dir(parent) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(Unmatched::NoFolder(format!(
                "folder {shown} does not exist: create it, or remove the pattern"
            )));
        }
        Err(error) => {
            return Err(Unmatched::Wrong(format!(
                "the folder {shown} cannot be read: {error}"
            )));
        }
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry =
            entry.map_err(|error| Unmatched::Wrong(format!("the folder {shown} cannot be read: {error}")))?;
        let file = entry.file_name();
        let file = file.to_string_lossy();
        if !file.starts_with('.') && fits(name, &file) {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}

/// Returns true if a name matches a pattern in which each `*` stands for any characters.
fn fits(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((before, after)) => name.strip_prefix(before).is_some_and(|rest| {
            let ends = rest.char_indices().map(|(at, _)| at).chain([rest.len()]);
            ends.into_iter()
                .any(|at| rest.get(at..).is_some_and(|rest| fits(after, rest)))
        }),
    }
}

/// Adds the offset of a file to all places of its table.
pub(super) fn shifted<'t>(table: DeTable<'t>, start: usize) -> DeTable<'t> {
    table
        .into_iter()
        .map(|(key, value)| {
            let place = key.span();
            let key = Spanned::new(place.start + start..place.end + start, key.into_inner());
            (key, shifted_value(value, start))
        })
        .collect()
}

fn shifted_value<'t>(value: Spanned<DeValue<'t>>, start: usize) -> Spanned<DeValue<'t>> {
    let place = value.span();
    let value = match value.into_inner() {
        DeValue::Table(table) => DeValue::Table(shifted(table, start)),
        DeValue::Array(items) => {
            DeValue::Array(items.into_iter().map(|item| shifted_value(item, start)).collect())
        }
        other => other,
    };
    Spanned::new(place.start + start..place.end + start, value)
}

/// Merges another file into `root`. Sources, destinations, SMTP servers and contacts are combined, routes are
/// appended, and any other table may be defined in one file only.
pub(super) fn merge<'t>(root: &mut DeTable<'t>, other: DeTable<'t>, problems: &mut Problems) {
    for (key, value) in other {
        let name = key.get_ref().to_string();
        if name == KEY {
            let message = "an included file cannot include others: name them in the main configuration file";
            problems.error(&key.span(), KEY, message);
            continue;
        }
        let Some((first, present)) = root
            .get_key_value(name.as_str())
            .map(|(key, value)| (key.span(), value.span()))
        else {
            root.insert(key, value);
            continue;
        };
        let place = value.span();
        match (
            root.get_mut(name.as_str()).map(Spanned::get_mut),
            value.into_inner(),
        ) {
            (Some(DeValue::Table(table)), DeValue::Table(more)) if SHARED.contains(&name.as_str()) => {
                add_entries(&name, table, more, problems);
            }
            (Some(DeValue::Array(routes)), DeValue::Array(more)) if name == ROUTES => {
                let before = std::mem::replace(routes, DeArray::new());
                *routes = before.into_iter().chain(more).collect();
            }
            _ => {
                // The span of a table is its header, that of a key is its value.
                let first = problems.location(if present.is_empty() { &first } else { &present });
                let message = format!("is already defined at {first}: only one file may contain this table");
                problems.error(&place, name, message);
            }
        }
    }
}

fn add_entries<'t>(name: &str, table: &mut DeTable<'t>, more: DeTable<'t>, problems: &mut Problems) {
    for (key, value) in more {
        match table.get_key_value(key.get_ref().as_ref()) {
            Some((first, _)) => {
                let first = problems.location(&first.span());
                let message = format!("is already defined at {first}");
                problems.error(&key.span(), format!("{name}.{}", key.get_ref()), message);
            }
            None => {
                table.insert(key, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_characters() {
        for (pattern, name, expected) in [
            ("*.toml", "a.toml", true),
            ("*.toml", "a.toml.bak", false),
            ("*", "a", true),
            ("a*b*c", "abbc", true),
            ("a*b*c", "ac", false),
            ("é*", "éa", true),
        ] {
            assert_eq!(fits(pattern, name), expected, "{pattern} {name}");
        }
    }
}
