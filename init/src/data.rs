//! The partition with images and containers: found, grown to the card's size, made when it is blank, checked by mounting it (ext4 replays its
//! journal), or stood in for by RAM.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::path::Path;

use flate2::read::GzDecoder;
use nix::mount::MsFlags;

use crate::handover::DATA_ROOT;
use crate::partitions::Partition;
use crate::plan::disk::{BOOT_LABEL, Content, DATA_LABEL, grown};
use crate::{InitError, Result, chain, mount, say};

/// An empty ext4 file system with our label, compressed, from the image builder.
const TEMPLATE: &str = "/lib/punnet/data.ext4.gz";
/// What a template may unpack to.
const TEMPLATE_BYTES_MAX: u64 = 256 << 20;
/// In RAM as long as there is nothing else: half of what is free, or images push the agent and PID 1 out. tmpfs(5), proc_meminfo(5)
fn ram_options() -> String {
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    match available_kib(&meminfo) {
        Some(kib) => format!("mode=755,size={}k", kib / 2),
        None => "mode=755,size=25%".into(),
    }
}

fn available_kib(meminfo: &str) -> Option<u64> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix(" kB")?.parse().ok()
}

const FLAGS: MsFlags = MsFlags::MS_NOSUID
    .union(MsFlags::MS_NODEV)
    .union(MsFlags::MS_NOATIME);

/// Which partition holds the data, and what has to be done first.
#[derive(Clone, Debug)]
pub enum Choice {
    /// This one.
    Ready(Partition),
    /// This blank one, on the disk we were started from.
    Make(Partition),
    /// None.
    Missing,
}

/// Picks: by our label; otherwise a blank second partition beside our boot partition, which nobody can miss.
pub fn choose(all: &[Partition]) -> Choice {
    let labelled = |partition: &&Partition| matches!(&partition.content, Content::Ext4 { label, .. } if label == DATA_LABEL);
    if let Some(found) = all.iter().find(labelled) {
        return Choice::Ready(found.clone());
    }
    let boot_disk = boot(all).and_then(|boot| boot.on.clone()).map(|(_, disk)| disk);
    let blank = |partition: &&Partition| {
        partition.content == Content::Blank
            && partition
                .on
                .as_ref()
                .is_some_and(|(number, disk)| *number == 2 && Some(disk) == boot_disk.as_ref())
    };
    all.iter()
        .find(blank)
        .map_or(Choice::Missing, |found| Choice::Make(found.clone()))
}

/// The partition with our boot label.
pub fn boot(all: &[Partition]) -> Option<&Partition> {
    all.iter()
        .find(|partition| matches!(&partition.content, Content::Fat { label } if label == BOOT_LABEL))
}

/// Puts the data root in place. What went wrong, for people; the data root is usable all the same, at worst in RAM.
pub fn mount_root(choice: Choice) -> Vec<String> {
    let mut troubles = Vec::new();
    if let Err(error) = fs::create_dir_all(DATA_ROOT) {
        troubles.push(format!("cannot make {DATA_ROOT}: {error}"));
    }
    let found = match choice {
        Choice::Ready(partition) => Some(partition),
        Choice::Make(partition) => match make(&partition) {
            Ok(()) => Some(partition),
            Err(error) => {
                troubles.push(format!(
                    "no file system could be made on {}: {}",
                    partition.name,
                    chain(&error)
                ));
                None
            }
        },
        Choice::Missing => {
            troubles.push(format!(
                "no data partition: none has an ext4 file system with the label {DATA_LABEL}, and none beside the boot partition is blank"
            ));
            None
        }
    };
    if let Some(partition) = found {
        grow_partition(&partition, &mut troubles);
        if matches!(partition.content, Content::Ext4 { has_errors: true, .. }) {
            troubles.push(format!(
                "the file system on {} has errors: mend it on a computer with `e2fsck -f`, or write the card anew",
                partition.name
            ));
        }
        match mount_partition(&partition) {
            Ok(None) => {
                grow_file_system(&partition, &mut troubles);
                return troubles;
            }
            Ok(Some(trouble)) => {
                troubles.push(trouble);
                return troubles;
            }
            Err(error) => troubles.push(format!("the data partition cannot be used: {}", chain(&error))),
        }
    }
    troubles.push("images and containers are kept in RAM until this is mended".into());
    if let Err(error) = mount("tmpfs", DATA_ROOT, Some("tmpfs"), FLAGS, &ram_options()) {
        troubles.push(chain(&error));
    }
    troubles
}

/// Mounts read-write, or read-only with what is in the way: the second value is the trouble then.
fn mount_partition(partition: &Partition) -> Result<Option<String>> {
    let node = partition.node();
    let node = node.to_string_lossy();
    let first = mount(&node, DATA_ROOT, Some("ext4"), FLAGS, "errors=remount-ro");
    let Err(error) = first else {
        return Ok(None);
    };
    // A write-protected card, or a journal that cannot be replayed: what is there can still be looked at and run.
    let read_only = FLAGS.union(MsFlags::MS_RDONLY);
    for options in ["", "noload"] {
        if mount(&node, DATA_ROOT, Some("ext4"), read_only, options).is_ok() {
            over_read_only()?;
            return Ok(Some(format!(
                "{} is read-only ({}): changes are kept in RAM only",
                partition.name,
                chain(&error)
            )));
        }
    }
    Err(error)
}

/// Where the read-only partition goes when RAM stands in front of it.
const BELOW: &str = "/run/init/data";

/// Lets what must be written be written to RAM: the store stays where it is, the agent's state and the containers' descriptions are copied.
fn over_read_only() -> Result<()> {
    fs::create_dir_all(BELOW).map_err(InitError::at("make", BELOW))?;
    mount(DATA_ROOT, BELOW, None, MsFlags::MS_MOVE, "")?;
    mount("tmpfs", DATA_ROOT, Some("tmpfs"), FLAGS, &ram_options())?;
    let (below, root) = (Path::new(BELOW), Path::new(DATA_ROOT));
    copy_small(below, root, 0).map_err(InitError::at("copy", BELOW))?;
    let store = root.join("store");
    if below.join("store").is_dir() {
        fs::create_dir_all(&store).map_err(InitError::at("make", &store))?;
        let from = below.join("store");
        mount(
            &from.to_string_lossy(),
            &store.to_string_lossy(),
            None,
            MsFlags::MS_BIND,
            "",
        )?;
    }
    Ok(())
}

/// Files up to this size are copied: records are some kilobytes, what containers write may be gigabytes.
const SMALL_BYTES: u64 = 64 * 1024;
/// Depth that is copied: containers/ID/config.json, agent/partial/MANIFEST.
const COPY_DEPTH_MAX: usize = 3;

fn copy_small(from: &Path, to: &Path, depth: usize) -> std::io::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (kind, target) = (entry.file_type()?, to.join(entry.file_name()));
        if kind.is_dir() && depth < COPY_DEPTH_MAX && entry.file_name() != "store" {
            fs::create_dir_all(&target)?;
            copy_small(&entry.path(), &target, depth + 1)?;
        } else if kind.is_file() && entry.metadata()?.len() <= SMALL_BYTES {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

/// Writes the empty file system of the image builder.
fn make(partition: &Partition) -> Result<()> {
    say(format_args!(
        "{} is blank: making the data file system",
        partition.name
    ));
    let node = partition.node();
    let template = File::open(TEMPLATE).map_err(InitError::at("open", TEMPLATE))?;
    let mut unpacked =
        GzDecoder::new(Box::new(template) as Box<dyn Read>).take(partition.bytes.min(TEMPLATE_BYTES_MAX));
    let mut disk = OpenOptions::new()
        .write(true)
        .open(&node)
        .map_err(InitError::at("open", &node))?;
    // The first blocks, which make it a file system, come last: a power cut leaves it blank.
    let mut head = vec![0; crate::plan::disk::PROBE_BYTES];
    unpacked
        .read_exact(&mut head)
        .map_err(InitError::at("read", TEMPLATE))?;
    let mut write = || {
        disk.seek(SeekFrom::Start(head.len() as u64))?;
        std::io::copy(&mut unpacked, &mut disk)?;
        disk.sync_all()?;
        disk.seek(SeekFrom::Start(0))?;
        disk.write_all(&head)?;
        disk.sync_all()
    };
    write().map_err(InitError::at("write", &node))
}

/// The partition to the end of the card: an image is written onto cards of any size.
fn grow_partition(partition: &Partition, troubles: &mut Vec<String>) {
    let Some((number, disk)) = &partition.on else {
        return;
    };
    let node = Path::new("/dev").join(disk);
    let grow = || -> std::io::Result<bool> {
        let sectors: u64 = crate::read_word(format!("/sys/class/block/{disk}/size"))
            .parse()
            .unwrap_or(0);
        let mut file = OpenOptions::new().read(true).write(true).open(&node)?;
        let mut first = vec![0; 512];
        file.read_exact(&mut first)?;
        let Some(new) = grown(&first, *number, sectors * 512) else {
            return Ok(false);
        };
        file.seek(SeekFrom::Start(0))?;
        file.write_all(&new)?;
        file.sync_all()?;
        punnet_sys::reread_partitions(file.as_fd())?;
        Ok(true)
    };
    match grow() {
        Ok(true) => say(format_args!(
            "{} now reaches to the end of {disk}",
            partition.name
        )),
        Ok(false) => {}
        Err(error) => troubles.push(format!("cannot let {} grow: {error}", partition.name)),
    }
}

/// The mounted file system to the partition's size.
fn grow_file_system(partition: &Partition, troubles: &mut Vec<String>) {
    let sectors: u64 = crate::read_word(format!("/sys/class/block/{}/size", partition.name))
        .parse()
        .unwrap_or(0);
    let head = crate::partitions::head(&partition.name).unwrap_or_default();
    let Content::Ext4 {
        bytes, block_bytes, ..
    } = crate::plan::disk::identify(&head)
    else {
        return;
    };
    let blocks = sectors * 512 / block_bytes;
    if blocks <= bytes / block_bytes {
        return;
    }
    let grown = File::open(DATA_ROOT).and_then(|root| Ok(punnet_sys::ext4_resize(root.as_fd(), blocks)?));
    match grown {
        Ok(()) => say(format_args!(
            "the data file system has {} MiB now",
            (blocks * block_bytes) >> 20
        )),
        Err(error) => troubles.push(format!("the data file system cannot grow: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_free_is_read_from_the_line_that_says_so() {
        let text = "MemTotal:         440924 kB\nMemFree:          1 kB\nMemAvailable:   12792 kB\n";
        assert_eq!(available_kib(text), Some(12_792));
        assert_eq!(available_kib("MemTotal: 440924 kB\n"), None);
        assert_eq!(available_kib("MemAvailable: many kB\n"), None);
    }

    fn partition(name: &str, content: Content, on: Option<(usize, &str)>) -> Partition {
        Partition {
            name: name.into(),
            content,
            bytes: 1 << 30,
            on: on.map(|(number, disk)| (number, disk.into())),
        }
    }

    fn ext4(label: &str) -> Content {
        Content::Ext4 {
            label: label.into(),
            bytes: 1 << 20,
            block_bytes: 4096,
            has_errors: false,
        }
    }

    fn chosen(all: &[Partition]) -> String {
        match choose(all) {
            Choice::Ready(partition) => format!("ready {}", partition.name),
            Choice::Make(partition) => format!("make {}", partition.name),
            Choice::Missing => "missing".into(),
        }
    }

    #[test]
    fn only_our_label_or_a_blank_neighbour_of_our_boot_partition_is_taken() {
        let boot = partition(
            "a1",
            Content::Fat {
                label: "PUNNET".into(),
            },
            Some((1, "a")),
        );
        let data = partition("a2", ext4("punnet-data"), Some((2, "a")));
        let foreign = partition("b1", ext4("photos"), Some((1, "b")));
        let blank = |name: &str, number, disk| partition(name, Content::Blank, Some((number, disk)));
        let other = partition("a2", Content::Other, Some((2, "a")));
        let whole = partition("a", Content::Blank, None);
        for (all, want) in [
            (vec![boot.clone(), data.clone(), foreign.clone()], "ready a2"),
            (vec![boot.clone(), blank("a2", 2, "a")], "make a2"),
            (vec![boot.clone(), blank("a3", 3, "a")], "missing"),
            (vec![boot.clone(), blank("b2", 2, "b")], "missing"),
            (vec![boot.clone(), other], "missing"),
            (vec![blank("a2", 2, "a")], "missing"),
            (vec![boot, foreign], "missing"),
            (vec![whole], "missing"),
            (vec![], "missing"),
        ] {
            assert_eq!(chosen(&all), want, "{all:?}");
        }
    }

    #[test]
    fn records_are_copied_and_what_is_large_or_deep_is_not() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let put = |path: &str, bytes: usize| {
            let path = from.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, vec![b'x'; bytes]).unwrap();
        };
        put("agent/state.0", 10);
        put("containers/a/config.json", 10);
        put("containers/a/big", SMALL_BYTES as usize + 1);
        put("containers/a/upper/x/y", 10);
        put("store/objects/1", 10);
        copy_small(from.path(), to.path(), 0).unwrap();
        let there = |path: &str| to.path().join(path).exists();
        assert!(there("agent/state.0") && there("containers/a/config.json"));
        assert!(!there("containers/a/big") && !there("containers/a/upper/x/y") && !there("store"));
    }
}
