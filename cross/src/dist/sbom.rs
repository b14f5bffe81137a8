//! A software bill of materials, CycloneDX 1.5 (<https://cyclonedx.org/docs/1.5/json/>): every crate that is compiled into the program, with version,
//! licence and checksum, out of `cargo metadata` and Cargo.lock. Without time or serial number: the same lock file is the same bytes.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::build::{cargo, root};
use crate::process::stdout_of;

/// The bill of one of our programs for a target.
pub fn of(package: &str, target: &str) -> Result<String> {
    let words = [
        "metadata",
        "--format-version=1",
        "--locked",
        "--filter-platform",
        target,
    ];
    let metadata: Value = serde_json::from_str(&stdout_of(cargo().args(words))?)?;
    let lock: toml::Table = std::fs::read_to_string(root().join("Cargo.lock"))?.parse()?;
    let bill = bill(package, &metadata, &checksums(&lock))?;
    Ok(serde_json::to_string_pretty(&bill)? + "\n")
}

/// SHA-256 by name and version.
fn checksums(lock: &toml::Table) -> BTreeMap<(String, String), String> {
    let packages = lock.get("package").and_then(toml::Value::as_array);
    let text = |package: &toml::Value, key: &str| Some(package.get(key)?.as_str()?.to_owned());
    packages
        .into_iter()
        .flatten()
        .filter_map(|package| {
            Some((
                (text(package, "name")?, text(package, "version")?),
                text(package, "checksum")?,
            ))
        })
        .collect()
}

fn bill(package: &str, metadata: &Value, checksums: &BTreeMap<(String, String), String>) -> Result<Value> {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let packages: BTreeMap<String, Value> = list(&metadata["packages"])
        .into_iter()
        .filter_map(|package| Some((package["id"].as_str()?.to_owned(), package)))
        .collect();
    let needs: BTreeMap<String, Vec<String>> = list(&metadata["resolve"]["nodes"])
        .iter()
        .filter_map(|node| Some((node["id"].as_str()?.to_owned(), normal(node))))
        .collect();
    let (first, _) = packages
        .iter()
        .find(|(id, found)| found["name"] == package && needs.contains_key(*id))
        .with_context(|| format!("cargo knows no package {package}"))?;
    let (mut reached, mut open) = (BTreeSet::new(), vec![first.clone()]);
    while let Some(id) = open.pop() {
        if reached.insert(id.clone()) {
            open.extend(needs.get(&id).into_iter().flatten().cloned());
        }
    }
    let reference = |id: &str| {
        let package = &packages[id];
        format!("pkg:cargo/{}@{}", text(package, "name"), text(package, "version"))
    };
    let component = |id: &String| component(&packages[id], &reference(id), checksums);
    let dependencies: Vec<_> = reached
        .iter()
        .map(|id| {
            let needs: BTreeSet<_> = needs[id].iter().map(|need| reference(need)).collect();
            json!({ "ref": reference(id), "dependsOn": needs })
        })
        .collect();
    let mut main = component(first);
    main["type"] = "application".into();
    Ok(json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": { "component": main },
        "components": reached.iter().filter(|id| *id != first).map(component).collect::<Vec<_>>(),
        "dependencies": dependencies,
    }))
}

/// What a package needs at run time, and not for its build script or its tests.
fn normal(node: &Value) -> Vec<String> {
    let is_normal = |dependency: &&Value| {
        let kinds = dependency["dep_kinds"].as_array();
        kinds.is_some_and(|kinds| kinds.iter().any(|kind| kind["kind"].is_null()))
    };
    let dependencies = node["deps"].as_array().into_iter().flatten();
    dependencies
        .filter(is_normal)
        .filter_map(|dependency| dependency["pkg"].as_str().map(str::to_owned))
        .collect()
}

fn text<'a>(package: &'a Value, key: &str) -> &'a str {
    package[key].as_str().unwrap_or_default()
}

fn component(package: &Value, reference: &str, checksums: &BTreeMap<(String, String), String>) -> Value {
    let (name, version) = (text(package, "name"), text(package, "version"));
    let mut component = json!({ "type": "library", "bom-ref": reference, "name": name, "version": version, "purl": reference });
    // Old crates write `/` for OR.
    let licence = text(package, "license").replace('/', " OR ");
    if !licence.is_empty() {
        component["licenses"] = json!([{ "expression": licence }]);
    }
    if let Some(checksum) = checksums.get(&(name.to_owned(), version.to_owned())) {
        component["hashes"] = json!([{ "alg": "SHA-256", "content": checksum }]);
    }
    component
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "this is a test")]

    #[test]
    fn the_bill_has_what_is_linked_and_not_what_only_tests_need() {
        let text = super::of("punnet", "aarch64-unknown-linux-musl").unwrap();
        let bill: serde_json::Value = serde_json::from_str(&text).unwrap();
        let components = bill["components"].as_array().unwrap();
        let named = |name: &str| components.iter().find(|component| component["name"] == name);
        for name in ["nix", "rustls", "punnet-runtime", "punnet-apps", "postcard"] {
            assert!(named(name).is_some(), "{name} is missing");
        }
        for name in ["clap", "tempfile", "rumqttd", "serde_json", "xtask"] {
            assert!(named(name).is_none(), "{name} is not linked");
        }
        let nix = named("nix").unwrap();
        assert_eq!(nix["hashes"][0]["content"].as_str().unwrap().len(), 64);
        assert_eq!(nix["licenses"][0]["expression"], "MIT");
        assert_eq!(bill["metadata"]["component"]["name"], "punnet");
        assert_eq!(text, super::of("punnet", "aarch64-unknown-linux-musl").unwrap());
    }
}
