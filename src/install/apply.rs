//! Takes the steps of a plan, and takes them back.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use super::{LINES_BEGIN, LINES_END, RECORD, Step, inside};
use crate::container::file;
use crate::error::Result;

/// Takes the steps below `root`, or only tells them. Says each; true when something was changed.
pub fn apply(steps: &[Step], root: &Path, dry: bool) -> Result<bool> {
    let mut record = read_record(root)?;
    let before = record.len();
    let mut changed = false;
    for step in steps {
        changed |= take(step, root, dry, &mut record)?;
    }
    if record.len() > before && !dry {
        // Last: what was not finished is finished by the next call, which finds it and records it.
        let text: String = record.iter().map(|line| format!("{line}\n")).collect();
        write(&inside(root, RECORD), text.as_bytes(), 0o644)?;
    }
    Ok(changed)
}

fn take(step: &Step, root: &Path, dry: bool, record: &mut BTreeSet<String>) -> Result<bool> {
    let (kind, path) = match step {
        Step::Folder(path) => ("folder", path),
        Step::File(path, ..) | Step::Copy(_, path) => ("file", path),
        Step::Link(path, _) => ("link", path),
        Step::Lines(path, _) => ("lines", path),
    };
    let place = inside(root, path);
    let wanted = match step {
        Step::File(_, content, _) => content.clone(),
        Step::Copy(source, _) => fs::read(source).map_err(file("cannot read", source))?,
        Step::Lines(_, lines) => {
            let old = fs::read_to_string(&place).map_err(file("cannot read", &place))?;
            with_lines(&old, lines).into_bytes()
        }
        Step::Folder(_) | Step::Link(..) => Vec::new(),
    };
    let is_there = match step {
        Step::Folder(_) => place.is_dir(),
        Step::Link(_, target) => fs::read_link(&place).is_ok_and(|found| found == *target),
        _ => fs::read(&place).is_ok_and(|found| found == wanted),
    };
    let entry = format!("{kind} {}", path.display());
    if is_there {
        say("is there", &entry);
        // A folder, or a program, that was there before us is not ours.
        if !matches!(step, Step::Folder(_) | Step::Copy(..)) {
            record.insert(entry);
        }
        return Ok(false);
    }
    say(if dry { "would write" } else { "wrote" }, &entry);
    if dry {
        return Ok(true);
    }
    match step {
        Step::Folder(_) => fs::create_dir_all(&place).map_err(file("cannot create", &place))?,
        Step::File(_, _, mode) => write(&place, &wanted, *mode)?,
        Step::Copy(..) => write(&place, &wanted, 0o755)?,
        Step::Lines(..) => {
            let mode = fs::metadata(&place).map_or(0o644, |found| found.permissions().mode() & 0o7777);
            write(&place, &wanted, mode)?;
        }
        Step::Link(_, target) => {
            make_parent(&place)?;
            remove_file(&place)?;
            symlink(target, &place).map_err(file("cannot link", &place))?;
        }
    }
    record.insert(entry);
    Ok(true)
}

/// Takes back everything recorded below `root`, and says so; false when nothing was.
pub fn undo(root: &Path, dry: bool) -> Result<bool> {
    let record = read_record(root)?;
    // Files and links before the folders they are in.
    for entry in record.iter().rev() {
        let Some((kind, path)) = entry.split_once(' ') else {
            continue;
        };
        let place = inside(root, path);
        if kind == "folder" && fs::read_dir(&place).is_ok_and(|mut entries| entries.next().is_some()) {
            say("kept, with what is in it", entry);
            continue;
        }
        say(if dry { "would remove" } else { "removed" }, entry);
        if dry {
            continue;
        }
        match kind {
            "lines" => {
                if let Ok(old) = fs::read_to_string(&place) {
                    let mode =
                        fs::metadata(&place).map_or(0o644, |found| found.permissions().mode() & 0o7777);
                    write(&place, with_lines(&old, "").as_bytes(), mode)?;
                }
            }
            "folder" => absent_is_fine(fs::remove_dir(&place)).map_err(file("cannot remove", &place))?,
            _ => remove_file(&place)?,
        }
    }
    if !dry {
        let record = inside(root, RECORD);
        remove_file(&record)?;
        // Only when nothing of the user's is in it.
        record.parent().map(fs::remove_dir);
    }
    Ok(!record.is_empty())
}

/// Removes a folder with everything in it, and says so.
pub fn remove(root: &Path, path: &str, dry: bool) -> Result<()> {
    let place = inside(root, path);
    if fs::symlink_metadata(&place).is_err() {
        return Ok(());
    }
    say(
        if dry { "would remove" } else { "removed" },
        &format!("folder {path} with all in it"),
    );
    if dry {
        return Ok(());
    }
    Ok(punnet_images::remove_tree(&place)?)
}

fn say(what: &str, entry: &str) {
    println!("{what}: {entry}");
}

fn read_record(root: &Path) -> Result<BTreeSet<String>> {
    let path = inside(root, RECORD);
    match fs::read_to_string(&path) {
        Ok(text) => Ok(text.lines().map(str::to_owned).collect()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(BTreeSet::new()),
        Err(error) => Err(file("cannot read", &path)(error)),
    }
}

/// The text with our lines in it, once, at the place where they were or at the end; without them when there are none.
fn with_lines(old: &str, lines: &str) -> String {
    let block = if lines.is_empty() {
        String::new()
    } else {
        format!("{LINES_BEGIN}\n{lines}{LINES_END}\n")
    };
    let begin = old.find(LINES_BEGIN);
    let end = begin.and_then(|begin| Some(begin + old[begin..].find(LINES_END)? + LINES_END.len()));
    match (begin, end) {
        (Some(begin), Some(end)) => {
            let after = old[end..].strip_prefix('\n').unwrap_or(&old[end..]);
            format!("{}{block}{after}", &old[..begin])
        }
        _ if block.is_empty() || old.is_empty() || old.ends_with('\n') => format!("{old}{block}"),
        _ => format!("{old}\n{block}"),
    }
}

fn make_parent(path: &Path) -> Result<()> {
    let parent = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(parent).map_err(file("cannot create", parent))
}

/// Whole or not at all: init must not find half a unit, nor a running program half overwritten.
fn write(path: &Path, content: &[u8], mode: u32) -> Result<()> {
    make_parent(path)?;
    let mut name = path.as_os_str().to_owned();
    name.push(".punnet-new");
    let temporary = PathBuf::from(name);
    let write = || {
        fs::write(&temporary, content)?;
        fs::set_permissions(&temporary, fs::Permissions::from_mode(mode))?;
        fs::File::open(&temporary)?.sync_all()?;
        fs::rename(&temporary, path)
    };
    write().map_err(file("cannot write", path))
}

fn remove_file(path: &Path) -> Result<()> {
    absent_is_fine(fs::remove_file(path)).map_err(file("cannot remove", path))
}

fn absent_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_lines_are_in_a_file_once_and_leave_it_as_it_was() {
        for old in ["", "a\n", "a\nb", "# x\n::sysinit:/etc/rc\n"] {
            let once = with_lines(old, "one\n");
            assert!(once.contains("begin\none\n# punnet install: end\n"), "{once}");
            assert_eq!(with_lines(&once, "one\n"), once, "{old:?}");
            let replaced = with_lines(&format!("{once}after\n"), "two\n");
            assert!(
                replaced.ends_with("two\n# punnet install: end\nafter\n"),
                "{replaced}"
            );
            assert!(!replaced.contains("one"), "{replaced}");
            let without = with_lines(&once, "");
            assert_eq!(without.trim_end(), old.trim_end());
        }
    }
}
