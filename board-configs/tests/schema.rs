//! The JSON Schema of board files (for editors and other tools) and the loader say the same of every file, good and bad.

#![cfg(feature = "toml")]
#![allow(clippy::unwrap_used, reason = "this is a test")]

use std::path::Path;

use serde_json::Value;

fn folder() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn schema() -> Value {
    serde_json::from_str(&std::fs::read_to_string(folder().join("board.schema.json")).unwrap()).unwrap()
}

/// What of JSON Schema the schema uses; a keyword that this does not know is an error of the test.
fn judge(schema: &Value, value: &Value, place: &str) -> Result<(), String> {
    let rules = schema.as_object().unwrap();
    for (keyword, rule) in rules {
        let holds = match keyword.as_str() {
            "$schema" | "$id" | "title" | "description" => true,
            "type" => match rule.as_str().unwrap() {
                "object" => value.is_object(),
                "array" => value.is_array(),
                "string" => value.is_string(),
                "integer" => value.is_i64(),
                "boolean" => value.is_boolean(),
                other => panic!("{place}: the type {other}"),
            },
            "enum" => rule.as_array().unwrap().contains(value),
            "minimum" => value.as_i64() >= rule.as_i64(),
            "maximum" => value.as_i64() <= rule.as_i64(),
            "minProperties" => value
                .as_object()
                .is_some_and(|map| map.len() as u64 >= rule.as_u64().unwrap()),
            "maxProperties" => value
                .as_object()
                .is_some_and(|map| map.len() as u64 <= rule.as_u64().unwrap()),
            "required" => rule
                .as_array()
                .unwrap()
                .iter()
                .all(|key| value.get(key.as_str().unwrap()).is_some()),
            "items" => {
                for item in value.as_array().into_iter().flatten() {
                    judge(rule, item, place)?;
                }
                true
            }
            "properties" | "additionalProperties" => true,
            other => panic!("{place}: the keyword {other}"),
        };
        if !holds {
            return Err(format!("{place}: not {keyword} {rule}"));
        }
    }
    for (key, item) in value.as_object().into_iter().flatten() {
        let own = rules.get("properties").and_then(|known| known.get(key));
        match (own, rules.get("additionalProperties")) {
            (Some(rule), _) => judge(rule, item, &format!("{place}.{key}"))?,
            (None, Some(Value::Bool(false))) => return Err(format!("{place}: no key {key}")),
            (None, Some(rule)) => judge(rule, item, &format!("{place}.{key}"))?,
            (None, None) => {}
        }
    }
    Ok(())
}

fn as_json(text: &str) -> Value {
    let table: toml::Table = text.parse().unwrap();
    serde_json::to_value(table).unwrap()
}

#[test]
fn every_board_file_is_as_the_schema_says() {
    let mut count = 0;
    for entry in std::fs::read_dir(folder()).unwrap() {
        let path = entry.unwrap().path();
        let is_board =
            path.extension().is_some_and(|extension| extension == "toml") && !path.ends_with("Cargo.toml");
        if is_board {
            let text = std::fs::read_to_string(&path).unwrap();
            judge(&schema(), &as_json(&text), &path.display().to_string()).unwrap();
            count += 1;
        }
    }
    assert!(count >= 16, "only {count} files");
}

#[test]
fn the_schema_and_the_loader_refuse_the_same() {
    let whole = "description = \"x\"\narch = \"arm64\"\nmemory_budget_kib = 1\n";
    let cases = [
        ("", true),
        (
            "button = { chip = \"/dev/gpiochip0\", line = 3, active_low = true }\n",
            true,
        ),
        ("status_led.class = \"ACT\"\n", true),
        ("device_classes.x.nodes = [\"/dev/x*\"]\n", true),
        ("image = { boot_loader = \"extlinux\" }\n", true),
        ("colour = 2\n", false),
        ("kernel_modules = [\"a\", 3]\n", false),
        ("status_led.clas = \"ACT\"\n", false),
        ("watchdog.node = \"/dev/watchdog0\"\n", false),
        ("button = { chip = \"/dev/gpiochip0\", line = -3 }\n", false),
        ("device_classes.x.node = [\"/dev/x*\"]\n", false),
        ("image.boot_loader = \"grub\"\n", false),
        ("qemu.program = \"qemu\"\n", false),
    ];
    for (text, good) in cases {
        let folder = tempfile::tempdir().unwrap();
        let text = format!("{whole}{text}");
        std::fs::write(folder.path().join("x.toml"), &text).unwrap();
        let loaded = punnet_boards::describe(folder.path(), "x");
        assert_eq!(loaded.is_ok(), good, "{text}: {loaded:?}");
        assert_eq!(judge(&schema(), &as_json(&text), "x").is_ok(), good, "{text}");
        if let Err(error) = loaded {
            // The place is in the line after the three above.
            assert!(error.to_string().contains("line 4, column"), "{error}");
        }
    }
    let other = whole.replace("arm64", "z80");
    assert!(judge(&schema(), &as_json(&other), "x").is_err());
}
