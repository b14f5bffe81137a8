//! Images of very many entries: the memory of taking one in, of looking through it and of writing it out must not grow with them.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::images::Bench;
use crate::process::{run, stdout_of};

/// Entries of the small image: more than are kept in memory.
const FEW: u64 = 10_000;

/// How much more the large image may take, KiB: what differs from one run to the next, and far less than a byte for each entry.
const GROWTH_KIB_MAX: u64 = 512;

/// Size of a tar block.
const BLOCK: usize = 512;

/// Takes in an image of `FEW` entries and one of `many`, verifies and saves it.
pub(super) fn rows(bench: &Bench, many: u64) -> Result<()> {
    let mut peaks = Vec::new();
    for entries in [FEW, many] {
        let files = bench.folder.join("entries");
        let archive = image(&files, entries)?.display().to_string();
        // On a disk of its own: the files go with it, at once.
        let disk = bench.disk_for("loaded", 2 * entries)?;
        let data = disk.path().join("data");
        let of = |verb: &str| format!("{verb} of an image of {entries} entries");
        let saved = disk.path().join("saved.tar").display().to_string();
        let commands: [(&str, &[&str]); 3] = [
            ("load", &["load", &archive]),
            ("verify", &["verify"]),
            ("save", &["save", "--output", &saved, "entries:1"]),
        ];
        for (verb, words) in commands {
            peaks.push((verb, bench.peak(&data, words, &of(verb))?));
        }
        std::fs::remove_dir_all(files)?;
    }
    let (few, many) = peaks.split_at(peaks.len() / 2);
    for ((verb, few), (_, many)) in few.iter().zip(many) {
        if *many > few + GROWTH_KIB_MAX {
            bench.over(format!(
                "the memory of {verb} grows with the entries of an image: {few} KiB for {FEW}, {many} KiB for more"
            ));
        }
    }
    Ok(())
}

/// A docker-archive of two layers with long names: half of the entries in one directory, the others a directory and a file each.
fn image(folder: &Path, entries: u64) -> Result<PathBuf> {
    std::fs::create_dir_all(folder)?;
    let long = "long-".repeat(18);
    let layers = [("flat.tar", 0), ("deep.tar", 1)];
    let mut diff_ids = Vec::new();
    for (name, kind) in layers {
        let path = folder.join(name);
        let mut out = BufWriter::new(File::create(&path)?);
        for number in 0..entries / 2 / (1 + kind) {
            match kind {
                0 => entry(
                    &mut out,
                    b'0',
                    &format!("{long}/{long}{number}"),
                    &number.to_string(),
                )?,
                _ => {
                    entry(&mut out, b'5', &format!("{long}{number}"), "")?;
                    entry(
                        &mut out,
                        b'0',
                        &format!("{long}{number}/{long}"),
                        &number.to_string(),
                    )?;
                }
            }
        }
        out.write_all(&[0; 2 * BLOCK])?;
        out.flush()?;
        let digest = stdout_of(Command::new("sha256sum").arg(&path))?;
        diff_ids.push(format!(
            "sha256:{}",
            digest.split_whitespace().next().context("no digest")?
        ));
    }
    let arch = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let config = serde_json::json!({
        "architecture": arch, "os": "linux", "config": {}, "rootfs": { "type": "layers", "diff_ids": diff_ids }
    });
    let names: Vec<_> = layers.iter().map(|(name, _)| *name).collect();
    let manifest =
        serde_json::json!([{ "Config": "config.json", "RepoTags": ["entries:1"], "Layers": names }]);
    std::fs::write(folder.join("config.json"), config.to_string())?;
    std::fs::write(folder.join("manifest.json"), manifest.to_string())?;
    let archive = folder.join("image.tar");
    let mut tar = Command::new("tar");
    tar.arg("-cf").arg(&archive).arg("-C").arg(folder);
    run(tar.args(["manifest.json", "config.json"]).args(names))?;
    Ok(archive)
}

/// One entry with a header of POSIX.1-1988; what is longer than its name goes into its prefix.
fn entry(out: &mut impl Write, kind: u8, path: &str, data: &str) -> Result<()> {
    let (prefix, name) = match path.rsplit_once('/') {
        Some((prefix, name)) => (prefix, name),
        None => ("", path),
    };
    let mut header = [0; BLOCK];
    let mut put = |at: usize, text: &str| header[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(0, name);
    put(100, if kind == b'5' { "0000755" } else { "0000644" });
    put(108, "0000000");
    put(116, "0000000");
    put(124, &format!("{:011o}", data.len()));
    put(136, "00000000000");
    put(148, "        ");
    put(257, "ustar\x0000");
    put(345, prefix);
    header[156] = kind;
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    out.write_all(&header)?;
    out.write_all(data.as_bytes())?;
    out.write_all(&[0; BLOCK][..(BLOCK - data.len() % BLOCK) % BLOCK])?;
    Ok(())
}
