//! The tests by where they run: every promise has one, those that need root or a service are marked, and the patches of
//! `tests/controls`, which remove protections, apply and name tests.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// A test, with the attributes above it.
struct Test {
    file: PathBuf,
    name: String,
    attributes: Vec<String>,
}

/// Every test in a folder below `tests/`.
fn tests(folder: &str) -> Vec<Test> {
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(folder)];
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.extend(tests_of(&path));
            }
        }
    }
    assert!(found.len() > 50, "only {} tests in {folder}", found.len());
    found
}

fn tests_of(file: &Path) -> Vec<Test> {
    let code = fs::read_to_string(file).unwrap();
    let (mut found, mut attributes) = (Vec::new(), Vec::new());
    for line in code.lines().map(str::trim_start) {
        let function = line.trim_start_matches("async ").strip_prefix("fn ");
        if line.starts_with("#[") {
            attributes.push(line.to_owned());
        } else if let Some((name, _)) = function.and_then(|function| function.split_once('(')) {
            let attributes = std::mem::take(&mut attributes);
            if attributes.iter().any(|attribute| is_test(attribute)) {
                found.push(Test {
                    file: file.to_owned(),
                    name: name.to_owned(),
                    attributes,
                });
            }
        } else {
            attributes.clear();
        }
    }
    found
}

fn is_test(attribute: &str) -> bool {
    attribute == "#[test]" || attribute.starts_with("#[tokio::test")
}

#[test]
fn every_promise_has_a_test() {
    let number = |test: &Test| {
        test.name
            .strip_prefix('p')?
            .split('_')
            .next()?
            .parse::<u32>()
            .ok()
    };
    let found: BTreeSet<u32> = ["it", "system"]
        .into_iter()
        .flat_map(tests)
        .filter_map(|test| number(&test))
        .collect();
    let missing: Vec<u32> = (1..=26)
        .chain([32])
        .filter(|number| !found.contains(number))
        .collect();
    assert!(missing.is_empty(), "these promises have no test: {missing:?}");
}

#[test]
fn every_system_test_says_what_it_needs() {
    for test in tests("system") {
        let says = |attribute: &String| {
            attribute.starts_with("#[ignore = \"needs ") && attribute.ends_with(": tests/run\"]")
        };
        assert!(
            test.attributes.iter().any(says),
            "{} in {} lacks #[ignore = \"needs …: tests/run\"]",
            test.name,
            test.file.display()
        );
    }
}

/// The blocks of a unified diff as they are in the file before: its path and the lines.
fn hunks(patch: &str) -> Vec<(String, String)> {
    let (mut hunks, mut path) = (Vec::<(String, String)>::new(), None);
    for line in patch.lines() {
        if let Some(named) = line.strip_prefix("--- a/") {
            path = Some(named.to_owned());
        } else if let (true, Some(path)) = (line.starts_with("@@ "), &path) {
            hunks.push((path.clone(), String::new()));
        } else if let (Some((_, lines)), Some(line)) = (hunks.last_mut(), line.strip_prefix([' ', '-'])) {
            *lines += line;
            lines.push('\n');
        }
    }
    hunks
}

#[test]
fn every_control_applies_and_names_a_test() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let names: BTreeSet<String> = ["it", "system"]
        .into_iter()
        .flat_map(tests)
        .map(|test| test.name)
        .collect();
    let mut controls = 0;
    for entry in fs::read_dir(root.join("tests/controls")).unwrap() {
        let path = entry.unwrap().path();
        let (control, patch) = (path.display(), fs::read_to_string(&path).unwrap());
        let hunks = hunks(&patch);
        assert!(!hunks.is_empty(), "{control} changes nothing");
        for (file, lines) in hunks {
            let code = fs::read_to_string(root.join(&file))
                .unwrap_or_else(|error| panic!("{control}: {file}: {error}"));
            assert_eq!(
                code.matches(&lines).count(),
                1,
                "{control} no longer applies to {file}:\n{lines}"
            );
        }
        let fails: Vec<_> = patch
            .lines()
            .filter_map(|line| line.strip_prefix("Fails: "))
            .collect();
        assert!(!fails.is_empty(), "{control} names no test");
        for fails in fails {
            let (name, words) = fails.split_once(": ").unwrap_or_default();
            assert!(
                names.contains(name) && !words.is_empty(),
                "{control}: no test {fails}"
            );
        }
        controls += 1;
    }
    assert!(controls >= 9, "only {controls} controls");
}
