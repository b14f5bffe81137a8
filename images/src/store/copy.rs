//! A tree of its own for one container, where the kernel cannot lay a writable layer over a shared one.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::{linkat, mkfifoat, symlinkat};

use super::flatten::TreeArchive;
use super::object::Metadata;
use super::unpack::set_link_metadata;
use super::{Image, tree};
use crate::tar_stream::{Entry, EntryKind, Sequential, TarStream};
use crate::{Error, Result};

impl Image {
    /// Copies the tree into an empty directory, hard links as the image has them, nothing shared with the store. Returns the bytes of files.
    pub fn copy_to(&self, folder: &Path) -> Result<u64> {
        let root = tree::open_folder(folder)?;
        let mut tree = TreeArchive::open(&self.folder)?;
        let mut archive = TarStream::new(Sequential(&mut tree));
        // Those that the next entry may lie in, the root first: each gets its time when nothing is made in it any more.
        let mut open: Vec<(PathBuf, Metadata)> = Vec::new();
        let leave = |(path, metadata): (PathBuf, Metadata)| {
            let folder = tree::open(&root, tree::at_root(&path), OFlag::O_DIRECTORY | OFlag::O_RDONLY);
            folder
                .and_then(|folder| metadata.apply(folder.as_fd()))
                .map_err(Error::at("set the metadata of", path))
        };
        let mut bytes = 0;
        while let Some(entry) = archive.next_entry()? {
            let metadata = Metadata::of_entry(&entry);
            let path: PathBuf = match tree::split(&entry.path)? {
                None => PathBuf::new(),
                Some((parents, name)) => {
                    let parent = tree::open_parent(&root, &parents, &entry.path, &mut |_, _| Ok(()))?;
                    let path = parents.iter().collect::<PathBuf>().join(&name);
                    let failed = Error::at::<io::Error>("copy", path.clone());
                    copy_entry(&root, (&parent, &name), &entry, &metadata, &mut archive).map_err(failed)?;
                    path
                }
            };
            bytes += entry.size;
            while let Some(left) = open.pop_if(|(folder, _)| !path.starts_with(folder)) {
                leave(left)?;
            }
            if entry.kind == EntryKind::Directory {
                open.push((path, metadata));
            }
        }
        open.into_iter().rev().try_for_each(leave)?;
        Ok(bytes)
    }
}

fn copy_entry(
    root: &OwnedFd,
    (folder, name): (&OwnedFd, &std::ffi::OsString),
    entry: &Entry,
    metadata: &Metadata,
    content: &mut dyn io::Read,
) -> io::Result<()> {
    let link = std::ffi::OsStr::from_bytes(&entry.link);
    match entry.kind {
        EntryKind::Directory => Ok(mkdirat(folder, name.as_os_str(), Mode::S_IRWXU)?),
        EntryKind::File => {
            let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_WRONLY | OFlag::O_CLOEXEC;
            let mut file = File::from(openat(
                folder,
                name.as_os_str(),
                flags,
                Mode::S_IRUSR | Mode::S_IWUSR,
            )?);
            io::copy(content, &mut file)?;
            Ok(metadata.apply(file.as_fd())?)
        }
        EntryKind::HardLink => Ok(linkat(root, link, folder, name.as_os_str(), AtFlags::empty())?),
        EntryKind::Symlink => {
            symlinkat(link, folder, name.as_os_str())?;
            Ok(set_link_metadata(folder, name, metadata)?)
        }
        EntryKind::Fifo => {
            mkfifoat(folder, name.as_os_str(), metadata.mode())?;
            Ok(set_link_metadata(folder, name, metadata)?)
        }
        // There is none in a stored tree.
        EntryKind::Device => Ok(()),
    }
}
