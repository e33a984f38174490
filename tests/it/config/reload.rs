//! The changes that a reload applies.

use super::*;

/// The changes that a reload from one configuration to another reports.
fn changes(before: &str, after: &str) -> Vec<String> {
    plan(after)
        .changes_from(&plan(before))
        .iter()
        .map(ToString::to_string)
        .filter(|line| !is_place(line))
        .collect()
}

/// Each configuration is in its own folder, and so are the default paths of store and socket.
fn is_place(line: &str) -> bool {
    line.starts_with("store.path") || line.starts_with("admin.socket")
}

#[test]
fn a_reload_says_what_changed() {
    let route = |name: &str, more: &str| {
        format!("[[route]]\nname = '{name}'\nfrom = ['1-1234']\ndeliver = []\n{more}")
    };
    let none: [&str; 0] = [];
    assert_eq!(changes(BASE, &format!("# hello\n{BASE}")), none);
    assert_eq!(
        changes(BASE, &format!("{BASE}{}", route("a", ""))),
        ["route.a added"]
    );
    assert_eq!(
        changes(&format!("{BASE}{}", route("a", "")), BASE),
        ["route.a removed"]
    );
    assert_eq!(
        changes(
            &format!("{BASE}{}{}", route("a", ""), route("b", "")),
            &format!("{BASE}{}{}", route("b", ""), route("a", ""))
        ),
        ["route reordered"]
    );
    assert_eq!(
        changes(
            &format!("{BASE}{}", route("a", "")),
            &format!("{BASE}{}", route("a", "continue = true"))
        ),
        ["route.a changed"]
    );
    assert_eq!(
        changes(
            BASE,
            &format!("[server]\nlisten = '127.0.0.1:1'\nmax_body = '1KiB'\n{BASE}")
        ),
        [
            "server.listen changed, which needs a restart",
            "server.max_body changed"
        ]
    );
    assert_eq!(
        changes(
            BASE,
            &format!(
                "{}\n[contacts]\n1-1234 = 'Bank'\n",
                BASE.replace("change-me", "changed")
            )
        ),
        ["source.carrier changed", "contacts changed"]
    );
    assert_eq!(
        changes(BASE, &BASE.replace(", \"spare\"", "")),
        ["routing.unmatched changed"]
    );
}

#[test]
fn an_unchanged_destination_keeps_running_across_a_reload() {
    let before = plan(BASE);
    let text = BASE.replace("[destination.spare]", "[destination.spare]\nconcurrency = 2");
    let after = read(&text, Purpose::Serve, &Outside::default(), Some(&before))
        .ok()
        .unwrap()
        .plan;
    assert!(Arc::ptr_eq(
        &before.destinations["screen"],
        &after.destinations["screen"]
    ));
    assert!(!Arc::ptr_eq(
        &before.destinations["spare"],
        &after.destinations["spare"]
    ));
    let text = format!("[retry]\ninitial = '1s'\n{BASE}");
    let patient = read(&text, Purpose::Serve, &Outside::default(), Some(&before))
        .ok()
        .unwrap()
        .plan;
    assert!(
        !Arc::ptr_eq(&before.destinations["screen"], &patient.destinations["screen"]),
        "its give_up_after changed"
    );
}

#[test]
fn a_reload_that_removes_a_used_fallback_is_rejected() {
    let text = format!(
        "{BASE}\n[destination.ops]\nkind = 'console'\nfallback = 'spare'\n[[route]]\ndeliver = ['ops']"
    );
    let before = plan(&text);
    let without = text
        .replace("[destination.spare]\n    kind = \"console\"", "")
        .replace(", \"spare\"", "");
    let problems = read(&without, Purpose::Serve, &Outside::default(), Some(&before))
        .err()
        .unwrap();
    let lines = lines(&problems);
    assert!(
        lines.len() == 1 && lines[0].contains("fallback: unknown destination `spare`"),
        "{lines:?}"
    );
}

#[test]
fn a_replaced_ca_file_takes_effect_at_a_reload() {
    let mail = "[smtp.m]\nhost = \"localhost\"\nca_file = \"ca.pem\"\n\
                [destination.desk]\nkind = \"email\"\nsmtp = \"m\"\nfrom = \"a@b.example\"\nto = [\"c@d.example\"]\n";
    let (folder, path) = folder(&format!(
        "{mail}{}",
        BASE.replace("\"spare\"]", "\"spare\", \"desk\"]")
    ));
    let load = |previous: Option<&Plan>| {
        certificate(folder.path(), 90);
        fs::rename(folder.path().join("cert.pem"), folder.path().join("ca.pem")).unwrap();
        load(&path, Purpose::Serve, &Outside::default(), previous)
            .unwrap_or_else(|problems| panic!("{problems}"))
            .plan
    };
    let before = load(None);
    let after = load(Some(&before));
    let changes: Vec<String> = after
        .changes_from(&before)
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(changes, ["destination.desk changed"]);
}
