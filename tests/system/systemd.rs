//! The units under a real systemd, which `tests/systemd` starts in namespaces of its own.

use std::path::Path;
use std::process::Command;

#[test]
#[ignore = "needs root and systemd: tests/run"]
fn the_units_work_under_a_real_systemd_as_documented() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/systemd");
    let output = Command::new(script)
        .arg(env!("CARGO_BIN_EXE_smsbridge"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && said.lines().last().is_some_and(|line| line.ends_with("s: done")),
        "{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
}
