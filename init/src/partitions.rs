//! The partitions that are there: /sys/class/block and their first bytes.

use std::fs::File;
use std::io::Read;
use std::path::PathBuf;

use crate::plan::disk::{Content, PROBE_BYTES, identify};
use crate::read_word;

/// A partition, or a disk without any.
#[derive(Clone, Debug)]
pub struct Partition {
    /// `mmcblk0p2`
    pub name: String,
    /// What it holds.
    pub content: Content,
    /// Its size.
    pub bytes: u64,
    /// Its number, and the disk it is on; none for a whole disk.
    pub on: Option<(usize, String)>,
}

impl Partition {
    /// Its device node.
    pub fn node(&self) -> PathBuf {
        PathBuf::from("/dev").join(&self.name)
    }
}

/// All of them, in order of name. What cannot be read is left out.
pub fn all() -> Vec<Partition> {
    let mut names: Vec<String> = std::fs::read_dir("/sys/class/block")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| {
            !["loop", "ram", "zram", "nbd"]
                .iter()
                .any(|kind| name.starts_with(kind))
        })
        .collect();
    names.sort_unstable();
    names.into_iter().filter_map(probe).collect()
}

fn probe(name: String) -> Option<Partition> {
    let folder = PathBuf::from("/sys/class/block").join(&name);
    let sectors: u64 = read_word(folder.join("size")).parse().ok()?;
    let head = head(&name)?;
    let number = read_word(folder.join("partition")).parse().ok();
    let disk = folder.canonicalize().ok().and_then(|path| {
        let disk = path.parent()?.file_name()?.to_str()?;
        Some(disk.to_owned())
    });
    Some(Partition {
        content: identify(&head),
        bytes: sectors * 512,
        on: number.zip(disk),
        name,
    })
}

/// The first [`PROBE_BYTES`] of a disk or partition.
pub fn head(name: &str) -> Option<Vec<u8>> {
    let mut head = Vec::new();
    File::open(PathBuf::from("/dev").join(name))
        .ok()?
        .take(PROBE_BYTES as u64)
        .read_to_end(&mut head)
        .ok()?;
    Some(head)
}
