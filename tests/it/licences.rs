//! The licences of the libraries in the binary, as `packaging/notices` collects them.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use crate::pages::root;

/// The `NAME-VERSION` of every crate whose source files the binary names, in panic messages and debug information.
fn crates_in(binary: &[u8]) -> BTreeSet<String> {
    let text = String::from_utf8_lossy(binary);
    let after = text.split("/registry/src/").skip(1);
    let folders = after.filter_map(|rest| rest.split('/').nth(1));
    let versioned = |folder: &&str| {
        let end = folder.len().min(100);
        folder.len() == end && folder.contains('-') && folder.bytes().all(|byte| byte.is_ascii_graphic())
    };
    folders.filter(versioned).map(str::to_owned).collect()
}

#[test]
fn the_notices_contain_every_library_in_the_binary() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("NOTICES");
    let made = Command::new(root().join("packaging/notices"))
        .arg(&file)
        .env("CARGO_NET_OFFLINE", "true")
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let notices = fs::read_to_string(&file).unwrap();
    let (list, texts) = notices.split_once("\n====").unwrap();
    let listed: BTreeSet<String> = list
        .lines()
        .filter(|line| !line.starts_with(' '))
        .map(|line| line.replacen(' ', "-", 1))
        .collect();

    let linked = crates_in(&fs::read(env!("CARGO_BIN_EXE_smsbridge")).unwrap());
    assert!(linked.len() > 50, "{linked:?}");
    let missing: Vec<_> = linked.difference(&listed).collect();
    assert!(missing.is_empty(), "{missing:?} are not in NOTICES");

    // Each of them names texts, and all of these are there.
    let named = list
        .lines()
        .filter_map(|line| line.trim().strip_prefix("texts: "));
    let numbers: BTreeSet<u32> = named
        .flat_map(|numbers| numbers.split(", "))
        .map(|number| number.parse().unwrap())
        .collect();
    let entries = list.lines().filter(|line| line.starts_with("  texts: ")).count();
    assert_eq!(
        entries,
        list.lines()
            .filter(|line| line.starts_with("  licence: "))
            .count()
    );
    for number in numbers {
        assert!(
            texts.contains(&format!("\nText {number}\n")),
            "there is no text {number}"
        );
    }
}
