//! Included files.

use super::*;

/// A folder with a main file and others below it.
fn files(main: &str, others: &[(&str, &str)]) -> (tempfile::TempDir, PathBuf) {
    let (folder, path) = folder(main);
    for (name, text) in others {
        let file = folder.path().join(name);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, text).unwrap();
    }
    (folder, path)
}

#[test]
fn included_files_become_one_configuration() {
    let main = format!(
        "include = ['conf.d/*.toml', 'more.toml']\n{BASE}\n[[route]]\nname = 'first'\nfrom = ['1-1234']\n\
         deliver = ['desk']\n[contacts]\n'1-1234' = 'Bank'\n"
    );
    let route = |name: &str| format!("[[route]]\nname = '{name}'\nfrom = ['1-1235']\ndeliver = ['desk']\n");
    let ten = format!(
        "[source.second]\nkind = 'intelepeer'\nsecret = {{ file = 'code' }}\n{}\n[contacts]\n'1-1235' = 'Shop'\n",
        route("third")
    );
    let two = format!("[destination.desk]\nkind = 'console'\n{}", route("second"));
    let (folder, path) = files(
        &main,
        &[
            ("conf.d/20-ten.toml", &ten),
            ("conf.d/10-two.toml", &two),
            ("conf.d/.hidden.toml", "nonsense"),
            ("conf.d/note.txt", "nonsense"),
            ("more.toml", "[store]\npath = 'data'\n"),
        ],
    );
    write_secret(&folder.path().join("conf.d/code"), LONG, 0o600);
    let loaded = load(&path, Purpose::Serve, &Outside::default(), None);
    let loaded = loaded.unwrap_or_else(|problems| panic!("{problems}"));
    let warnings = lines(&loaded.warnings);
    let dead = |line: &String| line.contains("can never match");
    assert!(
        !warnings.is_empty() && warnings.iter().all(dead),
        "{}",
        loaded.warnings
    );
    let names: Vec<&str> = loaded
        .plan
        .routes
        .all()
        .iter()
        .map(|route| route.name.as_str())
        .collect();
    assert_eq!(names, ["first", "second", "third"]);
    assert_eq!(loaded.plan.sources.len(), 2);
    assert_eq!(loaded.plan.contacts.len(), 2);
    assert_eq!(loaded.plan.store.path, folder.path().join("data"));
}

#[test]
fn each_problem_of_an_included_file_names_it() {
    let main = format!("include = ['conf.d/*.toml', 'missing.toml', 'x/*/y.toml', 'none/*.toml']\n{BASE}");
    let other = "include = []\n[server]\nlistn = 1\n[destination.spare]\nkind = 'console'\n\
                 [[route]]\ndeliver = ['scren']\n[routing]\nunmatched = []\n";
    let (_folder, path) = files(&main, &[("conf.d/a.toml", other)]);
    let problems = load(&path, Purpose::Serve, &Outside::default(), None)
        .err()
        .unwrap();
    let found = lines(&problems);
    for expected in [
        "1:29: error: include: missing.toml: no such file",
        "1:45: error: include: `*` is allowed only in the name of the file",
        "1:59: warning: include: folder none does not exist",
        "conf.d/a.toml:1:1: error: include: an included file cannot include others",
        "conf.d/a.toml:3:1: error: server.listn: unknown key",
        "conf.d/a.toml:4:14: error: destination.spare: is already defined at config.toml:8",
        "conf.d/a.toml:7:12: error: route.route-1.deliver: unknown destination `scren`; did you mean `screen`? \
         (defined: screen at config.toml:6",
        "conf.d/a.toml:8:1: error: routing: is already defined at config.toml:10",
    ] {
        assert!(
            found.iter().any(|line| line.starts_with(expected)),
            "{expected}\n{}",
            found.join("\n")
        );
    }
    assert_eq!(found.len(), 8, "{}", found.join("\n"));

    let broken = format!("include = ['a.toml']\n{BASE}");
    let (_folder, path) = files(
        &broken,
        &[("a.toml", "[server]\nlisten = \"127.0.0.1:1\nx = 1\n")],
    );
    let problems = load(&path, Purpose::Serve, &Outside::default(), None)
        .err()
        .unwrap();
    assert_eq!(
        lines(&problems),
        ["a.toml:2:10: error: not TOML: the string that begins on this line has no closing quote"]
    );
}

#[test]
fn a_reload_reads_included_files_again() {
    let rest = "[destination.screen]\nkind = \"console\"\n[routing]\nunmatched = [\"screen\"]\n";
    let mut bridge = Bridge::start(rest);
    let folder = bridge.folder().to_owned();
    fs::create_dir(folder.join("conf.d")).unwrap();
    let main = format!("include = [\"conf.d/*.toml\"]\n{}{rest}", head());
    fs::write(folder.join("config.toml"), main).unwrap();
    let reloaded = |other: &str| {
        fs::write(folder.join("conf.d/a.toml"), other).unwrap();
        bridge.command(&["reload"])
    };
    let route = "[[route]]\nname = \"desk\"\ndeliver = [\"desk\"]\nmessage = \"x\"\n";
    let (status, out, err) = reloaded(&format!("[destination.desk]\nkind = \"console\"\n{route}"));
    assert_eq!(
        (status, out.as_str()),
        (0, "reloaded:\n  destination.desk added\n  route.desk added\n"),
        "{err}"
    );
    let (status, _, err) = reloaded(route);
    let words = "conf.d/a.toml:3:12: route.desk.deliver: unknown destination `desk`";
    assert!(status == 2 && err.contains(words), "{status} {err}");
    assert!(bridge.stop().0.success());
}
