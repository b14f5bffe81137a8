//! What came with the card besides the system: images on the data partition, app files on the boot partition.

use std::fs;
use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::handover::{APPS, PRELOAD};

/// Most app files taken, and the most bytes of one: what `punnet apps` reads.
const APPS_MAX: usize = 64;
const APP_BYTES_MAX: u64 = 64 * 1024;

/// Loads each archive into the store, and removes it when its image is there. What cannot be loaded is named, and tried again at the next
/// start: a power cut in the middle costs no more than that.
pub fn load_images() -> Vec<String> {
    let load = |path: &Path| -> io::Result<()> {
        let ended = Command::new("/proc/self/exe")
            .arg0("punnet")
            .arg("load")
            .arg(path)
            .stdout(Stdio::null())
            .status()?;
        if !ended.success() {
            return Err(io::Error::other(format!("load ended with {ended}")));
        }
        fs::remove_file(path)
    };
    files_in(Path::new(PRELOAD))
        .iter()
        .filter_map(|path| Some(format!("{}: {}", path.display(), load(path).err()?)))
        .collect()
}

/// Copies the app files of the boot partition to where `punnet apps` looks.
pub fn copy_apps(boot: &Path) -> Vec<String> {
    let copy = |path: &Path| -> io::Result<()> {
        let mut text = Vec::new();
        fs::File::open(path)?
            .take(APP_BYTES_MAX + 1)
            .read_to_end(&mut text)?;
        fs::create_dir_all(APPS)?;
        fs::write(Path::new(APPS).join(path.file_name().unwrap_or_default()), text)
    };
    files_in(&boot.join("apps"))
        .iter()
        .take(APPS_MAX)
        .filter_map(|path| Some(format!("the app file {}: {}", path.display(), copy(path).err()?)))
        .collect()
}

/// In order of name; none where there is no such folder.
fn files_in(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut files: Vec<_> = entries
        .map(|entry| entry.path())
        .filter(|path| path.is_file())
        .collect();
    files.sort_unstable();
    files
}
