//! Every field that the JSON schema of runtime-spec 1.3 has for Linux is in our types, and in the table of docs/runtime-spec.md.
//!
//! `fields-1.3.txt` lists the schema's paths (`[]` is any element, `*` any key); `everything.json` is a configuration with all of them.

#![allow(clippy::unwrap_used)] // A panic is a failed test.

use punnet_spec::{Spec, Value};
use std::path::Path;

const FIELDS: &str = include_str!("fields-1.3.txt");
const EVERYTHING: &str = include_str!("everything.json");

/// Fields of other systems that the schema has among ours; unknown fields are ignored, as the specification demands.
const OF_OTHER_SYSTEMS: [&str; 1] = ["process.commandLine"];

/// Paths of a document, with elements and keys of maps made general where `fields` has them so.
fn paths(value: &Value, path: &str, found: &mut Vec<String>) {
    let inner = |name: &str| {
        let own = if path.is_empty() {
            name.to_owned()
        } else {
            format!("{path}.{name}")
        };
        let general = format!("{path}.*");
        let is_general = FIELDS
            .lines()
            .any(|field| field.starts_with(&format!("{general}.")));
        if is_general { general } else { own }
    };
    match value {
        Value::Object(object) => {
            for (name, value) in object {
                let path = inner(name);
                found.push(path.clone());
                paths(value, &path, found);
            }
        }
        Value::Array(list) => {
            for value in list {
                paths(value, &format!("{path}[]"), found);
            }
        }
        _ => {}
    }
}

#[test]
fn every_field_of_the_schema_is_in_the_types() {
    let given: Value = punnet_json::from_str(EVERYTHING).unwrap();
    let mut found = Vec::new();
    paths(&given, "", &mut found);
    for field in FIELDS.lines().filter(|field| !OF_OTHER_SYSTEMS.contains(field)) {
        assert!(
            found.iter().any(|path| path == field),
            "everything.json lacks {field}"
        );
    }
    let spec = Spec::from_json(EVERYTHING.as_bytes()).unwrap();
    let written: Value = punnet_json::from_slice(&spec.to_json()).unwrap();
    let mut kept = Vec::new();
    paths(&written, "", &mut kept);
    for path in &found {
        assert!(kept.contains(path), "{path} is not in the types");
    }
    assert_eq!(written, given);
}

/// Text between backticks.
fn quoted(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}

#[test]
fn every_field_of_the_schema_has_a_row_and_every_row_a_test() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let table = std::fs::read_to_string(root.join("docs/runtime-spec.md")).unwrap();
    let rows: Vec<Vec<&str>> = table
        .lines()
        .filter(|line| line.starts_with("| `"))
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
        .collect();
    for field in FIELDS.lines() {
        let has = |name: &str| {
            field == name
                || field
                    .strip_prefix(name)
                    .is_some_and(|rest| rest.starts_with(['.', '[']))
        };
        assert!(
            rows.iter().any(|row| quoted(row[0]).into_iter().any(has)),
            "docs/runtime-spec.md has no row for {field}"
        );
    }
    let mut sources = String::new();
    for folder in [
        "runtime/src",
        "runtime/src/plan",
        "runtime/src/seccomp",
        "runtime/tests/it",
    ] {
        for entry in std::fs::read_dir(root.join(folder)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "rs") {
                sources += &std::fs::read_to_string(path).unwrap();
            }
        }
    }
    for row in &rows {
        let tests = quoted(row[3]);
        assert!(!tests.is_empty(), "no test: {row:?}");
        for test in tests {
            assert!(
                sources.contains(&format!("fn {test}(")),
                "there is no test {test}"
            );
        }
    }
}
