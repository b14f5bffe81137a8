//! An initramfs: a newc cpio archive (kernel documentation, driver-api/early-userspace/buffer-format.rst), written without root.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Type bits and permissions of a folder and of an executable file.
const FOLDER: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const LINK: u32 = 0o120_777;
const CHARACTER_DEVICE: u32 = 0o020_600;

/// The archive's last entry.
const TRAILER: &str = "TRAILER!!!";

/// An archive that grows. Entries have no time and no owner: the same content is the same bytes.
#[derive(Default)]
pub struct Initramfs {
    bytes: Vec<u8>,
    folders: BTreeSet<PathBuf>,
    entries: u32,
}

impl Initramfs {
    /// Adds a file and the folders above it.
    pub fn add(&mut self, path: &str, content: &[u8]) {
        self.add_folders_above(path);
        self.entry(path, PROGRAM, content);
    }

    /// Adds a symbolic link.
    pub fn add_link(&mut self, path: &str, target: &str) {
        self.add_folders_above(path);
        self.entry(path, LINK, target.as_bytes());
    }

    /// Adds the device node of a character device.
    pub fn add_device(&mut self, path: &str, major: u32, minor: u32) {
        self.add_folders_above(path);
        self.entry_of(path, CHARACTER_DEVICE, &[], [major, minor]);
    }

    fn add_folders_above(&mut self, path: &str) {
        let mut above: Vec<_> = Path::new(path).ancestors().skip(1).collect();
        above.pop();
        for folder in above.into_iter().rev() {
            if self.folders.insert(folder.into()) {
                self.entry(&folder.to_string_lossy(), FOLDER, &[]);
            }
        }
    }

    /// Adds a file of this machine.
    pub fn add_file(&mut self, path: &str, source: &Path) -> Result<()> {
        let content = std::fs::read(source).with_context(|| format!("cannot read {}", source.display()))?;
        self.add(path, &content);
        Ok(())
    }

    /// The whole archive.
    pub fn finish(mut self) -> Vec<u8> {
        self.entry(TRAILER, 0, &[]);
        self.bytes
    }

    fn entry(&mut self, name: &str, mode: u32, content: &[u8]) {
        self.entry_of(name, mode, content, [0, 0]);
    }

    fn entry_of(&mut self, name: &str, mode: u32, content: &[u8], [major, minor]: [u32; 2]) {
        self.entries += 1;
        let (inode, links) = (self.entries, 1);
        let size = u32::try_from(content.len()).expect("an initramfs is in memory");
        let name_size = u32::try_from(name.len() + 1).expect("a path is short");
        self.bytes.extend(b"070701");
        // ino, mode, uid, gid, nlink, mtime, filesize, devmajor, devminor, rdevmajor, rdevminor, namesize, check
        for field in [
            inode, mode, 0, 0, links, 0, size, 0, 0, major, minor, name_size, 0,
        ] {
            self.bytes.extend(format!("{field:08x}").bytes());
        }
        self.bytes.extend(name.bytes().chain([0]));
        self.pad();
        self.bytes.extend(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

/// The files of `wanted` kernel modules and of all they need, in the order in which they can be inserted.
///
/// `folder` is the one that depmod(8) has written modules.dep into; a module that is built in, or that this kernel does not have, is an error.
pub fn modules_in_order(folder: &Path, wanted: &[&str]) -> Result<Vec<PathBuf>> {
    let path = folder.join("modules.dep");
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    // "kernel/fs/9p/9p.ko: kernel/net/9p/9pnet.ko ...": what is needed first comes last.
    let needs: BTreeMap<&str, (&str, &str)> = text
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(file, needs)| (module_name(file), (file, needs)))
        .collect();
    let mut ordered = Vec::new();
    for name in wanted {
        let (file, needs) = needs
            .get(name)
            .with_context(|| format!("this kernel has no module {name} in {}", folder.display()))?;
        for file in needs.split_whitespace().rev().chain([*file]) {
            let file = PathBuf::from(file);
            if !ordered.contains(&file) {
                ordered.push(file);
            }
        }
    }
    Ok(ordered)
}

/// `kernel/fs/9p/9p.ko.xz` is of `9p`.
pub fn module_name(file: &str) -> &str {
    let name = file.rsplit('/').next().unwrap_or(file);
    name.split(".ko").next().unwrap_or(name)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "this is a test")]

    use std::io::Write;
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn cpio_reads_what_we_write() {
        let mut made = Initramfs::default();
        made.add("init", b"#!/bin/sh\n");
        made.add("deep/er/file", b"content");
        made.add_link("deep/link", "er/file");
        let folder = tempfile::tempdir().unwrap();
        let mut child = Command::new("busybox")
            .args(["cpio", "-i", "-d"])
            .current_dir(&folder)
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(&made.finish()).unwrap();
        assert!(child.wait().unwrap().success());
        assert_eq!(
            std::fs::read(folder.path().join("deep/er/file")).unwrap(),
            b"content"
        );
        assert_eq!(
            std::fs::read(folder.path().join("deep/link")).unwrap(),
            b"content"
        );
        assert_eq!(std::fs::read(folder.path().join("init")).unwrap(), b"#!/bin/sh\n");
    }

    #[test]
    fn what_a_module_needs_comes_before_it_and_once() {
        let folder = tempfile::tempdir().unwrap();
        let text = "k/a.ko: k/b.ko.xz k/c.ko\nk/b.ko.xz: k/c.ko\nk/c.ko:\nk/d.ko: k/c.ko\n";
        std::fs::write(folder.path().join("modules.dep"), text).unwrap();
        let found = modules_in_order(folder.path(), &["a", "d"]).unwrap();
        let names: Vec<_> = found.iter().map(|path| path.to_str().unwrap()).collect();
        assert_eq!(names, ["k/c.ko", "k/b.ko.xz", "k/a.ko", "k/d.ko"]);
        let error = modules_in_order(folder.path(), &["e"]).unwrap_err();
        assert!(error.to_string().contains("no module e"), "{error}");
    }
}
