//! `punnet system`: an update of the system itself, from the image in the store to the slot that the firmware starts from.
//!
//! | order | what it does |
//! |---|---|
//! | write | the image's files go into the slot that is not in use, and are read back |
//! | try | the firmware is told to start that slot once, and the board restarts |
//! | keep | the slot that runs is the one to start from now on |
//! | leave, forget | it is no longer wanted: the record goes, the slots stay |
//!
//! Until `keep`, any restart (power, watchdog, panic) brings the system before back: nobody has to decide it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::mount::MsFlags;
use nix::sys::signal::{Signal, kill};
use nix::sys::statfs::EXT4_SUPER_MAGIC;
use nix::unistd::Pid;
use punnet_boards::Board;
use punnet_boards::slots::{FILE, FILE_BYTES_MAX, Slot, Stage, SystemUpdate};

use crate::handover::{BOARD, DATA_ROOT, TRIAL, TRY};
use crate::plan::slots;
use crate::{InitError, Result, data, mount, partitions, read_word};

/// Where the boot partition is while it is written.
const BOOT: &str = "/run/init/boot";
/// Folder of the image whose files go into the slot.
const IMAGE_FOLDER: &str = "boot";
/// Files of a slot: kernel, initramfs, command line, the device trees of a family.
const FILES_MAX: usize = 64;
/// How much is read at once.
const PIECE_BYTES: usize = 64 * 1024;
/// config.txt and tryboot.txt.
const CONFIG_BYTES_MAX: u64 = 64 * 1024;
/// How long the board may take to restart.
const RESTART_WAIT: Duration = Duration::from_secs(180);

/// The record of the last update, if there is one.
pub fn record() -> Option<SystemUpdate> {
    let mut text = String::new();
    let file = File::open(Path::new(DATA_ROOT).join(FILE)).ok()?;
    file.take(FILE_BYTES_MAX).read_to_string(&mut text).ok()?;
    text.parse().ok()
}

/// The slot that runs.
pub fn booted() -> Option<Slot> {
    Slot::booted(&read_word("/proc/cmdline"))
}

/// Puts an image into the slot that is not in use.
pub fn write(app: &str, spec: &str, image: &Path) -> Result<()> {
    let refuse = |why: &str| Err(Box::new(InitError::System(why.into())));
    let Some(slot) = booted().map(Slot::other) else {
        return refuse(
            "the kernel was not started from a slot (punnet.slot=): this board's boot loader has no try-boot",
        );
    };
    let data = nix::sys::statfs::statfs(DATA_ROOT).map_err(InitError::at("look at", DATA_ROOT))?;
    if data.filesystem_type() != EXT4_SUPER_MAGIC {
        // What was tried would be forgotten by the restart, and tried again for ever.
        return refuse("there is no data partition that can be written");
    }
    let source = image.join(IMAGE_FOLDER);
    let board = Board::from_json_file(Path::new(BOARD)).map_or_else(|_| String::new(), |board| board.name);
    let made_for = read_word(source.join("board"));
    if made_for != board {
        return refuse(&format!(
            "the image is for the board {made_for:?}, this is {board:?}"
        ));
    }
    let files = files_of(&source)?;
    if !["kernel", "initramfs", "cmdline.txt"]
        .iter()
        .all(|name| files.iter().any(|file| file == name))
    {
        return refuse("the image has no boot/kernel, boot/initramfs or boot/cmdline.txt");
    }
    let boot = BootPartition::mount()?;
    boot.config()?;
    boot.remove("tryboot.txt")?;
    let target = boot.path(slot.name());
    if target.exists() {
        fs::remove_dir_all(&target).map_err(InitError::at("remove", &target))?;
    }
    fs::create_dir_all(&target).map_err(InitError::at("make", &target))?;
    for name in &files {
        copy(&source.join(name), &target.join(name))?;
    }
    let line = format!(
        "{} punnet.slot={}\n",
        read_word(source.join("cmdline.txt")),
        slot.name()
    );
    boot.write(&format!("{}/cmdline.txt", slot.name()), line.as_bytes())?;
    boot.unmount()?;
    // Mounted anew: what comes back is the card's, not what was kept in RAM.
    let boot = BootPartition::mount()?;
    for name in files.iter().filter(|name| *name != "cmdline.txt") {
        if !same(&source.join(name), &boot.path(slot.name()).join(name))? {
            return refuse(&format!(
                "{name} reads back otherwise than it was written: the card is worn out"
            ));
        }
    }
    boot.unmount()?;
    keep_record(&SystemUpdate {
        app: app.into(),
        spec: spec.into(),
        slot,
        stage: Stage::Written,
    })
}

/// Restarts into the slot that was written. Does not come back when all goes well.
pub fn try_it() -> Result<()> {
    let update = record_or_error()?;
    let boot = BootPartition::mount()?;
    let config = boot.config()?;
    let other = slots::with(&config, update.slot).ok_or_else(no_slot)?;
    boot.write("tryboot.txt", &other)?;
    boot.unmount()?;
    keep_record(&SystemUpdate {
        stage: Stage::Tried,
        ..update
    })?;
    fs::write(TRY, "").map_err(InitError::at("write", TRY))?;
    kill(Pid::from_raw(1), Signal::SIGTERM).map_err(InitError::at("signal", "/proc/1"))?;
    std::thread::sleep(RESTART_WAIT);
    Err(InitError::System("the board does not restart".into()).into())
}

/// Makes the slot that runs the one to start from.
pub fn keep() -> Result<()> {
    let update = record_or_error()?;
    if update.stage == Stage::Kept {
        return Ok(());
    }
    if !update.runs(booted()) {
        return Err(InitError::System("the update is not what runs".into()).into());
    }
    let boot = BootPartition::mount()?;
    let (at, named) = slots::named(&boot.config()?).ok_or_else(no_slot)?;
    if named != update.slot {
        let path = boot.path("config.txt");
        let mut file = OpenOptions::new()
            .write(true)
            .open(&path)
            .map_err(InitError::at("open", &path))?;
        file.seek(SeekFrom::Start(at as u64))
            .and_then(|_| file.write_all(update.slot.name().as_bytes()))
            .and_then(|()| file.sync_all())
            .map_err(InitError::at("write", &path))?;
    }
    boot.remove("tryboot.txt")?;
    boot.unmount()?;
    keep_record(&SystemUpdate {
        stage: Stage::Kept,
        ..update
    })?;
    match fs::remove_file(TRIAL) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(InitError::at("remove", TRIAL)(error)),
        _ => Ok(()),
    }
}

/// The update is no longer wanted.
pub fn leave() -> Result<()> {
    let update = record_or_error()?;
    keep_record(&SystemUpdate {
        stage: Stage::Left,
        ..update
    })
}

/// Nothing is known of it any more.
pub fn forget() -> Result<()> {
    let path = Path::new(DATA_ROOT).join(FILE);
    fs::remove_file(&path).map_err(InitError::at("remove", path))
}

fn record_or_error() -> Result<SystemUpdate> {
    record().ok_or_else(|| InitError::System("no update was written".into()).into())
}

fn no_slot() -> Box<InitError> {
    InitError::System(
        "config.txt names no slot (os_prefix=a/): this card was not made by `cargo xtask image`".into(),
    )
    .into()
}

/// Whole or not there.
fn keep_record(update: &SystemUpdate) -> Result<()> {
    let (path, new) = (
        Path::new(DATA_ROOT).join(FILE),
        Path::new(DATA_ROOT).join(".system"),
    );
    let write = || -> io::Result<()> {
        let mut file = File::create(&new)?;
        file.write_all(update.to_string().as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, &path)?;
        File::open(DATA_ROOT)?.sync_all()
    };
    write().map_err(InitError::at("write", &path))
}

/// The regular files of the image's folder, by name.
fn files_of(folder: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(InitError::at("list", folder))? {
        let entry = entry.map_err(InitError::at("list", folder))?;
        let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
        match entry.file_name().into_string() {
            Ok(name) if is_file && names.len() < FILES_MAX => names.push(name),
            _ => {
                let what = format!("boot/ of the image holds more than {FILES_MAX} plain files");
                return Err(InitError::System(what).into());
            }
        }
    }
    Ok(names)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let copy = || -> io::Result<()> {
        let mut file = File::create(to)?;
        io::copy(&mut File::open(from)?, &mut file)?;
        file.sync_all()
    };
    copy().map_err(InitError::at("write", to))
}

fn same(one: &Path, other: &Path) -> Result<bool> {
    let compare = || -> io::Result<bool> {
        let (mut one, mut other) = (File::open(one)?, File::open(other)?);
        if one.metadata()?.len() != other.metadata()?.len() {
            return Ok(false);
        }
        let mut pieces = [vec![0; PIECE_BYTES], vec![0; PIECE_BYTES]];
        loop {
            let length = one.read(&mut pieces[0])?;
            other.read_exact(&mut pieces[1][..length])?;
            if length == 0 || pieces[0][..length] != pieces[1][..length] {
                return Ok(length == 0);
            }
        }
    };
    compare().map_err(InitError::at("read", other))
}

/// The boot partition, mounted for writing until it is let go.
struct BootPartition {
    mounted: bool,
}

impl BootPartition {
    fn mount() -> Result<Self> {
        let all = partitions::all();
        let Some(found) = data::boot(&all) else {
            return Err(InitError::System("there is no boot partition with the label PUNNET".into()).into());
        };
        fs::create_dir_all(BOOT).map_err(InitError::at("make", BOOT))?;
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        mount(
            &found.node().to_string_lossy(),
            BOOT,
            Some("vfat"),
            flags,
            "umask=077",
        )?;
        Ok(Self { mounted: true })
    }

    fn path(&self, name: &str) -> PathBuf {
        Path::new(BOOT).join(name)
    }

    /// config.txt, which names a slot.
    fn config(&self) -> Result<Vec<u8>> {
        let path = self.path("config.txt");
        let mut config = Vec::new();
        File::open(&path)
            .and_then(|file| file.take(CONFIG_BYTES_MAX).read_to_end(&mut config))
            .map_err(InitError::at("read", &path))?;
        slots::named(&config).ok_or_else(no_slot)?;
        Ok(config)
    }

    fn write(&self, name: &str, content: &[u8]) -> Result<()> {
        let path = self.path(name);
        File::create(&path)
            .and_then(|mut file| file.write_all(content).and_then(|()| file.sync_all()))
            .map_err(InitError::at("write", &path))
    }

    fn remove(&self, name: &str) -> Result<()> {
        let path = self.path(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(InitError::at("remove", path)(error))
            }
            _ => Ok(()),
        }
    }

    /// All that was written is on the card when this comes back.
    fn unmount(mut self) -> Result<()> {
        self.mounted = false;
        nix::mount::umount(BOOT).map_err(InitError::at("unmount", BOOT))
    }
}

impl Drop for BootPartition {
    fn drop(&mut self) {
        if self.mounted {
            // The error that led here is told.
            nix::mount::umount(BOOT).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_copied_is_the_same_and_one_byte_makes_it_another() {
        let folder = tempfile::tempdir().unwrap();
        let [one, two] = ["one", "two"].map(|name| folder.path().join(name));
        let mut content = vec![7; PIECE_BYTES + 9];
        fs::write(&one, &content).unwrap();
        copy(&one, &two).unwrap();
        assert!(same(&one, &two).unwrap());
        content[PIECE_BYTES + 1] = 8;
        fs::write(&two, &content).unwrap();
        assert!(!same(&one, &two).unwrap());
        fs::write(&two, &content[..9]).unwrap();
        assert!(!same(&one, &two).unwrap());
    }

    #[test]
    fn a_folder_inside_the_image_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("kernel"), "").unwrap();
        assert_eq!(files_of(folder.path()).unwrap(), ["kernel"]);
        fs::create_dir(folder.path().join("overlays")).unwrap();
        assert!(files_of(folder.path()).is_err());
    }
}
