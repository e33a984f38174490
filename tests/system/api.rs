//! The admin API, held against its description by Schemathesis.

use std::process::Command;

use serde_json::{Value, json};

use crate::admin::{ask, bearer, host, start};
use crate::page::installed;

/// Schemathesis sends valid and invalid requests for every described operation, and compares each answer with the
/// description.
#[test]
#[ignore = "needs Schemathesis: tests/run"]
fn the_openapi_description_is_correct() {
    let (bridge, page) = start();
    bridge.post_message("a", "+13035550100", "hello");
    bridge.post_message("b", "+13035550100", "lost");
    let (_, _, mut description) = ask(&page, "GET", "api/v1/openapi.json", "");
    assert_eq!(description["openapi"], "3.1.0");
    let refused = description["components"]["schemas"]["Refused"].clone();
    strict(&mut description["components"]["schemas"]);
    description["components"]["schemas"]["Refused"] = refused;
    let file = bridge.folder().join("openapi.json");
    std::fs::write(&file, description.to_string()).unwrap();
    let output = Command::new(installed("bin/python"))
        .args(["-m", "schemathesis.cli", "run"])
        .arg(&file)
        .args([
            "--url",
            &host(&page),
            "--header",
            &format!("Authorization: {}", bearer()),
        ])
        .args(["--exclude-path", "/api/v1/events", "--exclude-path", "/login"])
        // The schema cannot describe which numbers and names exist, so a well-formed request may still be rejected.
        // A wrong token is answered late, which `login` tests.
        .args(["--exclude-checks", "positive_data_acceptance,ignored_auth"])
        .args([
            "--checks",
            "all",
            "--max-examples",
            "25",
            "--seed",
            "7",
            "--phases",
            "examples,coverage,fuzzing",
            "--no-color",
        ])
        .current_dir(bridge.folder())
        .output()
        .unwrap();
    let said =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "run tests/setup if Schemathesis is missing\n{said}"
    );
    assert!(
        said.contains("Operations") && !said.contains("No checks"),
        "nothing was compared\n{said}"
    );
}

/// Forbids undescribed properties in answers, although clients must accept new ones.
fn strict(schema: &mut Value) {
    match schema {
        Value::Object(object) => {
            if object.contains_key("properties") {
                object.insert("additionalProperties".to_owned(), json!(false));
            }
            object.values_mut().for_each(strict);
        }
        Value::Array(items) => items.iter_mut().for_each(strict),
        _ => {}
    }
}
