//! Board files as written: TOML with `inherit`.

use std::path::Path;

use serde::de::DeserializeOwned;
use toml::{Table, Value};

use crate::image::{Description, RawFile};
use crate::{Board, BoardError, Result};

/// Longest chain of `inherit`: base, family, model, variant is four; twice that is a mistake.
const INHERIT_DEPTH_MAX: usize = 8;

/// What a device is told of the board `<folder>/<name>.toml`.
pub fn load(folder: &Path, name: &str) -> Result<Board> {
    Ok(describe(folder, name)?.board)
}

/// Reads `<folder>/<name>.toml` and what it inherits from the same folder.
///
/// A table is merged key by key, a list goes on where the inherited one ends, anything else is replaced.
pub fn describe(folder: &Path, name: &str) -> Result<Description> {
    let path = folder.join(name).with_extension("toml");
    let mut merged = merge_chain(folder, name, 0)?;
    merged.insert("name".into(), Value::String(name.into()));
    let image = merged.remove("image");
    let qemu = merged.remove("qemu");
    // A family says how its members' images are made, and is none itself.
    let image = image.filter(|image| image.get("kernel_package").is_some());
    Ok(Description {
        board: typed(&path, Value::Table(merged))?,
        image: image.map(|image| typed(&path, image)).transpose()?,
        qemu: qemu.map(|qemu| typed(&path, qemu)).transpose()?,
    })
}

fn typed<T: DeserializeOwned>(path: &Path, value: Value) -> Result<T> {
    value.try_into().map_err(|error: toml::de::Error| {
        BoardError::Parse {
            path: path.into(),
            text: error.message().trim().into(),
        }
        .into()
    })
}

/// Every board of `folder`, by name. A file without a description, as base.toml, is for inheriting only.
pub fn load_all(folder: &Path) -> Result<Vec<Description>> {
    let read = |source| {
        Box::new(BoardError::Read {
            path: folder.into(),
            source,
        })
    };
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(read)? {
        let path = entry.map_err(read)?.path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            names.extend(
                path.file_stem()
                    .and_then(|stem| stem.to_str())
                    .map(str::to_string),
            );
        }
    }
    names.retain(|name| !matches!(name.as_str(), "base" | "initramfs" | "Cargo"));
    names.sort();
    names.iter().map(|name| describe(folder, name)).collect()
}

fn merge_chain(folder: &Path, name: &str, depth: usize) -> Result<Table> {
    let path = folder.join(name).with_extension("toml");
    if depth == INHERIT_DEPTH_MAX {
        return Err(BoardError::InheritDepth {
            path,
            depth_max: INHERIT_DEPTH_MAX,
        }
        .into());
    }
    let text = std::fs::read_to_string(&path).map_err(|source| BoardError::Read {
        path: path.clone(),
        source,
    })?;
    let parse = |error: toml::de::Error| {
        Box::new(BoardError::Parse {
            path: path.clone(),
            text: error.to_string().trim_end().into(),
        })
    };
    toml::from_str::<RawFile>(&text).map_err(parse)?;
    let mut own: Table = text.parse().map_err(parse)?;
    match own.remove("inherit") {
        Some(Value::String(parent)) => {
            let mut merged = merge_chain(folder, &parent, depth + 1)?;
            merge(&mut merged, own);
            Ok(merged)
        }
        _ => Ok(own),
    }
}

fn merge(under: &mut Table, over: Table) {
    for (key, value) in over {
        match (under.get_mut(&key), value) {
            (Some(Value::Table(under)), Value::Table(over)) => merge(under, over),
            (Some(Value::Array(under)), Value::Array(over)) => under.extend(over),
            (_, value) => {
                under.insert(key, value);
            }
        }
    }
}
