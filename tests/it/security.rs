//! Every test that `docs/security.md` names exists.

use std::fs;
use std::path::Path;

#[test]
fn every_test_named_in_security_md_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("docs/security.md")).unwrap();
    let quoted = page.split('`').skip(1).step_by(2);
    let tests: Vec<&str> = quoted.filter(|word| word.contains("::")).collect();
    assert!(tests.len() > 15, "{tests:?}");
    for test in tests {
        let (module, name) = test.rsplit_once("::").unwrap();
        let path = |module: &str| module.replace("::", "/");
        let files = match module.strip_suffix("::tests") {
            Some(module) => vec![format!("src/{}.rs", path(module))],
            None => ["it", "system"]
                .map(|tier| format!("tests/{tier}/{}.rs", path(module)))
                .to_vec(),
        };
        let mut codes = files
            .iter()
            .filter_map(|file| fs::read_to_string(root.join(file)).ok());
        let is_there = codes.any(|code| code.contains(&format!("fn {name}(")));
        assert!(is_there, "{test} is in none of {files:?}");
    }
}
