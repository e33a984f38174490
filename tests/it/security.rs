//! `docs/security.md` rests on tests; each that it names must be there.

use std::fs;
use std::path::Path;

#[test]
fn every_test_that_the_security_page_names_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("docs/security.md")).unwrap();
    let quoted = page.split('`').skip(1).step_by(2);
    let tests: Vec<&str> = quoted.filter(|word| word.contains("::")).collect();
    assert!(tests.len() > 15, "{tests:?}");
    for test in tests {
        let (module, name) = test.rsplit_once("::").unwrap();
        let file = match module.strip_suffix("::tests") {
            Some(module) => format!("src/{}.rs", module.replace("::", "/")),
            None => format!("tests/it/{}.rs", module.replace("::", "/")),
        };
        let code = fs::read_to_string(root.join(&file)).unwrap_or_else(|_| panic!("{test}: no {file}"));
        assert!(code.contains(&format!("fn {name}(")), "{test} is not in {file}");
    }
}
