//! The folder of app files, read as a whole: what is good, and what is wrong with the rest.

use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use punnet_apps::{App, FILE_BYTES_MAX, order_errors};

use crate::container::file;
use crate::error::{CliError, Result};

/// Most files: more apps than a board of this class can run.
const FILES_MAX: usize = 64;

/// Name of an app, and what its file says or what is wrong with it: `PATH: line 1, column 2: what`.
type Read = (String, Result<App, String>);

/// What the folder holds, in order of name.
pub struct Files {
    /// Each file.
    pub all: Vec<Read>,
}

/// Reads all of them; a folder that is not there has none.
pub fn read_files(folder: &Path) -> Result<Files> {
    let mut paths = Vec::new();
    match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(file("cannot list", folder)(error)),
        Ok(entries) => {
            for entry in entries {
                paths.push(entry.map_err(file("cannot list", folder))?.path());
            }
        }
    }
    // Editors leave theirs beside: .web.yaml.swp, web.yaml~
    paths.retain(|path| {
        let hidden = path
            .file_name()
            .is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        !hidden
            && path
                .extension()
                .is_some_and(|extension| extension == "yaml" || extension == "yml")
    });
    paths.sort_unstable();
    if paths.len() > FILES_MAX {
        return Err(CliError::usage(format_args!(
            "{} has more than {FILES_MAX} app files",
            folder.display()
        )));
    }
    let mut all: Vec<Read> = paths.iter().map(|path| read(path)).collect();
    check_order(&mut all, &paths);
    Ok(Files { all })
}

fn read(path: &Path) -> Read {
    let stem = path
        .file_stem()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let parsed = stem
        .parse()
        .map_err(|why| format!("{}: the file's name is the app's: {why}", path.display()))
        .and_then(|name| {
            let text = read_text(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
            App::parse(&name, &text).map_err(|error| format!("{}: {error}", path.display()))
        });
    (stem, parsed)
}

fn read_text(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    fs::File::open(path)?
        .take(FILE_BYTES_MAX as u64 + 1)
        .read_to_string(&mut text)?;
    Ok(text)
}

/// Two files of one name, and orders that cannot be, are errors of those files.
fn check_order(all: &mut [Read], paths: &[PathBuf]) {
    for index in 1..all.len() {
        if all[index].0 == all[index - 1].0 {
            all[index].1 = Err(format!(
                "{}: there is {} already",
                paths[index].display(),
                paths[index - 1].display()
            ));
        }
    }
    let apps: Vec<App> = all.iter().filter_map(|(_, app)| app.clone().ok()).collect();
    let known: Vec<_> = all.iter().filter_map(|(name, _)| name.parse().ok()).collect();
    for (name, error) in order_errors(&apps, &known) {
        let of_name = |(read, app): &Read| *read == name.as_str() && app.is_ok();
        if let Some(index) = all.iter().position(of_name) {
            all[index].1 = Err(format!("{}: {error}", paths[index].display()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_file_is_named_with_its_place_and_the_others_are_good() {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in [
            ("db.yaml", "image: db\n"),
            ("web.yaml", "image: web\nafter: [db]\n"),
            ("bad.yaml", "image: web\nrestart: maybe\n"),
            ("loop.yaml", "image: web\nafter: [loop]\n"),
            ("db.yml", "image: other\n"),
            ("Big.yaml", "image: web\n"),
            (".web.yaml.swp", "x"),
            ("README", "x"),
        ] {
            fs::write(folder.path().join(name), text).unwrap();
        }
        let files = read_files(folder.path()).unwrap();
        let said = |name: &str, index: usize| {
            let mut of_name = files.all.iter().filter(|(read, _)| read == name);
            of_name
                .nth(index)
                .map(|(_, app)| app.as_ref().err().cloned().unwrap_or_default())
        };
        assert_eq!(files.all.len(), 6);
        assert_eq!(said("db", 0).as_deref(), Some(""));
        assert_eq!(said("web", 0).as_deref(), Some(""));
        for (name, index, want) in [
            ("bad", 0, "bad.yaml: line 2, column 10: \"maybe\" is none of"),
            (
                "loop",
                0,
                "loop.yaml: line 2, column 9: loop comes after loop itself",
            ),
            ("db", 1, "db.yml: there is"),
            ("Big", 0, "Big.yaml: the file's name is the app's"),
        ] {
            let text = said(name, index).unwrap();
            assert!(text.contains(want), "{name}: {text}");
        }
        assert!(read_files(&folder.path().join("absent")).unwrap().all.is_empty());
    }
}
