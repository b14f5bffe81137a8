//! Board files as written: TOML with `inherit`.

use std::path::Path;

use toml::{Table, Value};

use crate::{Board, BoardError};

/// Longest chain of `inherit`: base, family, model, variant is four; twice that is a mistake.
const INHERIT_DEPTH_MAX: usize = 8;

/// Reads `<folder>/<name>.toml` and what it inherits from the same folder.
///
/// A table is merged key by key, anything else is replaced. A file whose board has no `description` (base.toml) is for inheriting only.
pub fn load(folder: &Path, name: &str) -> Result<Board, BoardError> {
    let path = folder.join(name).with_extension("toml");
    let mut merged = merge_chain(folder, name, 0)?;
    merged.insert("name".into(), Value::String(name.into()));
    Value::Table(merged)
        .try_into()
        .map_err(|error: toml::de::Error| BoardError::Parse {
            path,
            text: error.message().trim().into(),
        })
}

/// Every board of `folder`, by name.
pub fn load_all(folder: &Path) -> Result<Vec<Board>, BoardError> {
    let read = |source| BoardError::Read {
        path: folder.into(),
        source,
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
    names.retain(|name| !matches!(name.as_str(), "base" | "Cargo"));
    names.sort();
    names.iter().map(|name| load(folder, name)).collect()
}

fn merge_chain(folder: &Path, name: &str, depth: usize) -> Result<Table, BoardError> {
    let path = folder.join(name).with_extension("toml");
    if depth == INHERIT_DEPTH_MAX {
        return Err(BoardError::InheritDepth {
            path,
            depth_max: INHERIT_DEPTH_MAX,
        });
    }
    let text = std::fs::read_to_string(&path).map_err(|source| BoardError::Read {
        path: path.clone(),
        source,
    })?;
    let parse = |text: String| BoardError::Parse {
        path: path.clone(),
        text,
    };
    let mut own: Table = text
        .parse()
        .map_err(|error: toml::de::Error| parse(error.to_string()))?;
    match own.remove("inherit") {
        None => Ok(own),
        Some(Value::String(parent)) => {
            let mut merged = merge_chain(folder, &parent, depth + 1)?;
            merge(&mut merged, own);
            Ok(merged)
        }
        Some(_) => Err(parse(
            "`inherit` is the name of another board file, in quotes".into(),
        )),
    }
}

fn merge(under: &mut Table, over: Table) {
    for (key, value) in over {
        match (under.get_mut(&key), value) {
            (Some(Value::Table(under)), Value::Table(over)) => merge(under, over),
            (_, value) => {
                under.insert(key, value);
            }
        }
    }
}
