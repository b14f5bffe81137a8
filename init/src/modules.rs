//! Loading kernel modules of the initramfs, and what coldplugged devices ask for.

use std::collections::BTreeSet;
use std::ffi::CString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::kmod::{ModuleInitFlags, finit_module};

use crate::plan::modules::Index;
use crate::{InitError, Result};

const FOLDER: &str = "/lib/modules";
/// Depth of /sys/devices that is walked: a device behind four hubs is at some twenty.
const DEPTH_MAX: usize = 32;

/// The index's text, empty when the initramfs has none.
pub fn index_text() -> String {
    fs::read_to_string(Path::new(FOLDER).join("index")).unwrap_or_default()
}

/// Loads what the board wants at boot; the names of what could not be loaded, with why.
pub fn load_at_boot(index: &Index) -> Vec<String> {
    let mut failed: Vec<String> = index
        .bad_lines
        .iter()
        .map(|line| format!("{FOLDER}/index line {line} makes no sense"))
        .collect();
    for name in index.at_boot() {
        if let Err(error) = load(name) {
            failed.push(format!(
                "kernel module {name}: {} (does the kernel match the initramfs?)",
                crate::chain(&error)
            ));
        }
    }
    failed
}

/// Loads what this device asks for; a driver that does not want is no trouble of the board.
pub fn load_for(index: &Index, modalias: &str) {
    for name in index.for_device(modalias) {
        if let Err(error) = load(name) {
            crate::say(format_args!("{modalias}: {}", crate::chain(&error)));
        }
    }
}

/// Loads what the devices that are there already ask for, unless they have asked before: what could not be loaded then is said once.
pub fn coldplug(index: &Index, asked: &mut BTreeSet<String>) {
    let mut found = Vec::new();
    modaliases(Path::new("/sys/devices"), 0, &mut found);
    for modalias in found {
        if !asked.contains(&modalias) {
            load_for(index, &modalias);
            asked.insert(modalias);
        }
    }
}

fn modaliases(folder: &Path, depth: usize, found: &mut Vec<String>) {
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    for entry in entries.flatten() {
        let Ok(kind) = entry.file_type() else { continue };
        if kind.is_dir() && depth < DEPTH_MAX {
            modaliases(&entry.path(), depth + 1, found);
        } else if entry.file_name() == "modalias" {
            found.push(crate::read_word(entry.path()));
        }
    }
}

fn load(name: &str) -> Result<()> {
    if Path::new("/sys/module").join(name.replace('-', "_")).exists() {
        return Ok(());
    }
    let path = PathBuf::from(FOLDER).join(format!("{name}.ko"));
    let file = File::open(&path).map_err(InitError::at("open", &path))?;
    let no_parameters = CString::default();
    match finit_module(&file, &no_parameters, ModuleInitFlags::empty()) {
        Ok(()) | Err(Errno::EEXIST) => {
            // The initramfs is RAM: the kernel has its own copy now. Where it cannot be removed, it stays.
            fs::remove_file(&path).ok();
            Ok(())
        }
        // A driver for hardware that this board lacks.
        Err(Errno::ENODEV) => Ok(()),
        Err(error) => Err(InitError::at("load", &path)(error)),
    }
}
