//! The rings of `ARCHITECTURE.md`, held over the `use crate::` lines of every file.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Module, ring, and the modules of its own ring that it may name. A file may name any lower ring. When this
/// test is red, move the code; do not edit the table.
const RINGS: &[(&str, u8, &[&str])] = &[
    ("model", 0, &[]),
    ("mask", 0, &["model", "template"]),
    ("template", 0, &["model"]),
    ("metrics", 0, &["model"]),
    ("routing", 1, &[]),
    ("retry", 1, &[]),
    ("timeline", 1, &[]),
    ("file", 2, &[]),
    ("resolver", 2, &[]),
    ("http_client", 2, &["resolver"]),
    ("source", 2, &["http_client", "resolver"]),
    ("destination", 2, &["file", "http_client", "resolver"]),
    ("store", 2, &[]),
    ("config", 3, &[]),
    ("plan", 3, &["config"]),
    ("engine", 4, &[]),
    ("control", 5, &[]),
    ("web", 6, &[]),
    ("daemon", 6, &["web"]),
    ("cli", 6, &["daemon"]),
    ("main", 7, &[]),
    ("lib", 7, &[]),
];

/// Words of a crate and where they may stand: one crate has one owner.
const OWNERS: &[(&str, &[&str])] = &[
    ("warp::", &["web"]),
    ("sled::", &["store/sled"]),
    ("tokio_postgres::", &["store/postgres"]),
    ("clap::", &["cli"]),
    ("lettre::", &["destination/email"]),
    (
        "reqwest::",
        &[
            "destination",
            "http_client",
            "source/aws_sns/exchange",
            "source/intelepeer/api",
            "source/twilio_list",
            "resolver",
            "cli",
        ],
    ),
];

fn sources() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    assert!(found.len() > 20, "only {} source files were found", found.len());
    found
}

/// The path below `src`, without `.rs`.
fn place(file: &Path) -> String {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    file.strip_prefix(src)
        .unwrap()
        .with_extension("")
        .to_str()
        .unwrap()
        .to_owned()
}

/// The code outside of tests and comments. A module of tests is at the end of its file; a test module in another file
/// (`#[cfg(test)] mod golden;`) hides nothing of this one.
fn code(file: &Path) -> String {
    let text = std::fs::read_to_string(file).unwrap();
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap().to_owned();
    text.lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .collect::<Vec<_>>()
        .join("\n")
}

/// The modules named as `crate::MODULE`, and those of `use crate::{a, b}`.
fn named(code: &str) -> Vec<String> {
    let mut modules = Vec::new();
    for rest in code.split("crate::").skip(1) {
        match rest.strip_prefix('{') {
            Some(group) => {
                let group = group.split('}').next().unwrap();
                modules.extend(
                    group
                        .split(',')
                        .map(|item| item.trim().split("::").next().unwrap().to_owned()),
                );
            }
            None => modules.push(
                rest.chars()
                    .take_while(|c| c.is_alphanumeric() || *c == '_')
                    .collect(),
            ),
        }
    }
    modules.retain(|module| !module.is_empty());
    modules
}

#[test]
fn a_file_names_only_lower_rings() {
    let rings: BTreeMap<&str, (u8, &[&str])> = RINGS
        .iter()
        .map(|(name, ring, peers)| (*name, (*ring, *peers)))
        .collect();
    let (mut wrong, mut arrows) = (Vec::new(), 0);
    let mut unused: BTreeSet<(String, String)> = RINGS
        .iter()
        .flat_map(|(name, _, peers)| peers.iter().map(|peer| ((*name).to_owned(), (*peer).to_owned())))
        .collect();
    for file in sources() {
        let place = place(&file);
        let module = place.split('/').next().unwrap().to_owned();
        let (ring, peers) = *rings
            .get(module.as_str())
            .unwrap_or_else(|| panic!("`{module}` is in no ring"));
        for other in named(&code(&file)) {
            let Some((other_ring, _)) = rings.get(other.as_str()) else {
                continue;
            };
            arrows += 1;
            unused.remove(&(module.clone(), other.clone()));
            let allowed = *other_ring < ring || other == module || peers.contains(&other.as_str());
            if !allowed {
                wrong.push(format!("{place} (ring {ring}) names {other} (ring {other_ring})"));
            }
        }
    }
    assert!(
        arrows > 50,
        "only {arrows} uses were found: the test proves nothing"
    );
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(unused.is_empty(), "allowed, but named by no file: {unused:?}");
}

#[test]
fn adapters_do_not_name_each_other() {
    let mut wrong = Vec::new();
    for file in sources() {
        let place = place(&file);
        let Some(kind) = place.strip_prefix("destination/") else {
            continue;
        };
        let kind = kind.split('/').next().unwrap();
        for other in smsbridge::destination::KINDS
            .iter()
            .map(|kind| kind.name.replace('-', "_"))
        {
            let names = code(&file).contains(&format!("super::{other}"));
            if kind != "mod" && other != kind && names {
                wrong.push(format!("{place} names {other}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn one_crate_has_one_owner() {
    let (mut wrong, mut right) = (Vec::new(), 0);
    for file in sources() {
        let (place, code) = (place(&file), code(&file));
        for (words, owners) in OWNERS {
            let named = code.match_indices(words).any(|(at, _)| {
                // `store::sled::` and the like are our own modules.
                !code[..at].ends_with("::")
                    && !code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_')
            });
            if !named {
                continue;
            }
            right += 1;
            // A file that imports our own `store::sled` may say `sled::Options`.
            let ours = *words == "sled::" && code.contains("use crate::store::sled");
            if !ours && !owners.iter().any(|owner| place.starts_with(owner)) {
                wrong.push(format!("{place} names {words}"));
            }
        }
    }
    assert!(right > 8, "only {right} uses were found: the test proves nothing");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The module of a file: `store::sled` for `store/sled/mod.rs`.
fn module(place: &str) -> String {
    place.strip_suffix("/mod").unwrap_or(place).replace('/', "::")
}

/// Paths of the code that begin with `prefix`, with groups in braces expanded: `a::{b, c::d}` is `a::b` and `a::c`.
fn paths(code: &str, prefix: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices(prefix) {
        if code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':') {
            continue;
        }
        let rest = &code[at + prefix.len()..];
        let path: String = rest
            .chars()
            .take_while(|c| c.is_alphanumeric() || *c == '_' || *c == ':')
            .collect();
        match rest[path.len()..].strip_prefix('{') {
            Some(group) => {
                let group = group.split('}').next().unwrap();
                for item in group.split([',', '{']) {
                    found.push(format!("{path}{}", item.trim()));
                }
            }
            None => found.push(path),
        }
    }
    found
}

/// The modules that a file's code names, among `modules`.
fn arrows(module: &str, code: &str, modules: &BTreeMap<String, String>) -> Vec<String> {
    let parent = module.rsplit_once("::").map_or("", |(parent, _)| parent);
    let join = |base: &str, path: &str| match base {
        "" => path.to_owned(),
        base => format!("{base}::{path}"),
    };
    let mut named: Vec<String> = paths(code, "crate::");
    named.extend(
        paths(code, "super::")
            .iter()
            .map(|path| match path.strip_prefix("super::") {
                Some(path) => join(parent.rsplit_once("::").map_or("", |(above, _)| above), path),
                None => join(parent, path),
            }),
    );
    for child in code.split("mod ").skip(1) {
        let name: String = child
            .chars()
            .take_while(|c| c.is_alphanumeric() || *c == '_')
            .collect();
        if child[name.len()..].starts_with(';') {
            named.extend(
                paths(code, &format!("{name}::"))
                    .iter()
                    .map(|_| join(module, &name)),
            );
        }
    }
    let longest = |path: String| {
        let mut path = path.as_str();
        loop {
            if modules.contains_key(path) {
                return Some(path.to_owned());
            }
            path = path.rsplit_once("::")?.0;
        }
    };
    let mut found: Vec<String> = named.into_iter().filter_map(longest).collect();
    found.sort();
    found.dedup();
    // A file may use the declarations of its parent modules.
    found.retain(|other| other != module && !module.starts_with(&format!("{other}::")));
    found
}

/// The names that each name uses.
type Graph = BTreeMap<String, BTreeSet<String>>;

/// The modules in cycles, each with those that it names.
fn circles(mut graph: Graph) -> Vec<String> {
    // Repeatedly removes modules that name no remaining module; the rest is in a cycle or names one.
    while let Some(free) = graph
        .iter()
        .find(|(_, others)| !others.iter().any(|other| graph.contains_key(other)))
        .map(|(name, _)| name.clone())
    {
        graph.remove(&free);
    }
    // In the other direction: a module that no other one names is in no cycle.
    while let Some(free) = graph
        .keys()
        .find(|name| !graph.values().any(|others| others.contains(*name)))
        .cloned()
    {
        graph.remove(&free);
    }
    let described = graph.iter().map(|(name, others)| {
        let others = others.iter().filter(|other| graph.contains_key(*other));
        let others: Vec<_> = others.map(String::as_str).collect();
        format!("{name} names {}", others.join(", "))
    });
    described.collect()
}

fn graph() -> Graph {
    let modules: BTreeMap<String, String> = sources()
        .iter()
        .map(|file| (module(&place(file)), code(file)))
        .collect();
    let named = modules.iter().map(|(name, code)| {
        let others = arrows(name, code, &modules);
        (name.clone(), others.into_iter().collect())
    });
    named.collect()
}

#[test]
fn no_modules_depend_on_each_other_in_a_circle() {
    let graph = graph();
    let count: usize = graph.values().map(BTreeSet::len).sum();
    assert!(
        count > 300,
        "only {count} arrows were found: the test proves nothing"
    );
    let circles = circles(graph);
    assert!(circles.is_empty(), "{}", circles.join("\n"));
}

/// Folders that still contain such circles, between a file and a folder or with the conformance suite.
const KNOWN_CIRCLES: &[&str] = &["engine", "store", "store::sled"];

/// The same for whole folders: if a file below `store/sled/index` names one below `store/sled/log`, none of the latter
/// may name the former.
#[test]
fn no_folders_depend_on_each_other_in_a_circle() {
    let graph = graph();
    let parents: BTreeSet<&str> = graph
        .keys()
        .filter_map(|name| name.rsplit_once("::").map(|(parent, _)| parent))
        .collect();
    assert!(parents.len() > 20, "only {parents:?}");
    let mut found = BTreeMap::new();
    for parent in parents {
        let child = |name: &str| {
            let rest = name.strip_prefix(parent)?.strip_prefix("::")?;
            Some(rest.split("::").next()?.to_owned())
        };
        let mut inside = Graph::new();
        for (name, others) in &graph {
            let Some(own) = child(name) else { continue };
            let others = others.iter().filter_map(|other| child(other));
            let others = others.filter(|other| *other != own);
            inside.entry(own.clone()).or_default().extend(others);
        }
        let circles = circles(inside);
        if !circles.is_empty() {
            found.insert(parent, circles);
        }
    }
    let folders: Vec<&str> = found.keys().copied().collect();
    assert_eq!(folders, KNOWN_CIRCLES, "{found:#?}");
}
