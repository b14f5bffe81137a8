//! The role `setup`: everything once, in order. What goes wrong is said and kept for the others; nothing of it stops the board.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant, UNIX_EPOCH};

use nix::mount::MsFlags;
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_settime};
use punnet_boards::Board;
use punnet_boards::slots::Stage;

use crate::data::{self, Choice};
use crate::handover::{
    self, BOARD, BOARD_FOLDER, CONSOLE, ENROLMENT, FOLDER, SETTINGS, TRIAL, TROUBLES, WATCHDOG,
};
use crate::plan::modules::Index;
use crate::plan::mounts::REST;
use crate::plan::settings::{self, Settings};
use crate::{Hooks, chain, kernel_word, modules, mount, partitions, preload, say, system};

/// Cards and USB sticks take their time; longer than this they take only when they are not there.
const DISK_WAIT: Duration = Duration::from_secs(20);
/// Between two looks at what disks there are.
const DISK_POLL: Duration = Duration::from_millis(50);
/// An enrolment file holds three PEM texts at most.
const ENROLMENT_BYTES_MAX: u64 = 64 * 1024;
/// Where the boot partition is while it is read.
const BOOT: &str = "/run/init/boot";
/// Read-only, for root alone: it carries secrets.
const BOOT_OPTIONS: &str = "umask=077";
/// Older than this code no moment is at which it runs: 2026-01-01.
const BUILD_FLOOR_S: u64 = 1_767_225_600;

/// Does it.
pub fn run(hooks: Hooks) {
    let mut troubles = Troubles::default();
    mounts(&mut troubles);
    let text = modules::index_text();
    let index = crate::plan::modules::parse(&text);
    modules::load_at_boot(&index)
        .into_iter()
        .for_each(|trouble| troubles.add(trouble));
    let board = board(&mut troubles);
    watchdog(&board);
    let all = disks(&index);
    let device = match data::boot(&all) {
        Some(boot) => read_boot(&boot.node().to_string_lossy(), hooks, &mut troubles),
        None => {
            troubles.add("no boot partition: none has a FAT file system with the label PUNNET; its settings and enrolment file are not used");
            None
        }
    };
    data::mount_root(data::choose(&all))
        .into_iter()
        .for_each(|trouble| troubles.add(trouble));
    trial(&mut troubles);
    preload::load_images()
        .into_iter()
        .for_each(|trouble| troubles.add(trouble));
    let settings = handover::settings();
    time_floor(&mut troubles);
    hostname(&settings, device, &mut troubles);
    troubles.hand_over(&settings);
}

/// What is wrong, said at once and kept.
#[derive(Default)]
struct Troubles(Vec<String>);

impl Troubles {
    fn add(&mut self, trouble: impl Into<String>) {
        let trouble = trouble.into();
        say(&trouble);
        self.0.push(trouble);
    }

    /// Leaves them where other roles look, and asks for the console when there are any.
    fn hand_over(self, settings: &Settings) {
        let text: String = self.0.iter().map(|line| format!("{line}\n")).collect();
        let wanted = !self.0.is_empty() || settings.console || kernel_word("console").is_some();
        let mut left = fs::write(TROUBLES, text);
        if wanted {
            left = left.and_then(|()| fs::write(CONSOLE, ""));
        }
        if let Err(error) = left {
            say(format_args!("cannot write below {FOLDER}: {error}"));
        }
    }
}

fn mounts(troubles: &mut Troubles) {
    for step in REST {
        if let Err(error) = crate::make_and_mount(&step) {
            // Kernels without them are common and nothing of ours needs them.
            if !matches!(step.kind, "bpf" | "securityfs" | "mqueue") {
                troubles.add(format!("{} ({})", chain(&error), step.kind));
            }
        }
    }
    if let Err(error) = fs::create_dir_all(BOOT).and_then(|()| {
        let private = <fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o700);
        fs::set_permissions(FOLDER, private)
    }) {
        troubles.add(format!("cannot make {FOLDER}: {error}"));
    }
}

/// What the board is, left for the other roles where its description is, or should be.
fn board(troubles: &mut Troubles) -> Board {
    let (mut board, wrong) = Board::as_far_as_readable(Path::new(BOARD));
    if let Some(wrong) = wrong {
        troubles.add(wrong);
        // An update of the system is made for one board, and may be what mends this.
        if let Some(name) = kernel_word("board") {
            board.name = name;
        }
        let written =
            fs::create_dir_all(BOARD_FOLDER).and_then(|()| fs::write(BOARD, board.to_json() + "\n"));
        if let Err(error) = written {
            say(format_args!("cannot write {BOARD}: {error}"));
        }
    }
    board
}

fn watchdog(board: &Board) {
    if let Some(watchdog) = &board.watchdog {
        let text = format!("{} {}\n", watchdog.node.display(), watchdog.timeout_s);
        if let Err(error) = fs::write(WATCHDOG, text) {
            say(format_args!("cannot write {WATCHDOG}: {error}"));
        }
    }
}

/// Waits until both of our partitions are there, or until they can no longer be expected. Modules that devices ask for are loaded here only where the
/// disk needs them: `attend` does it for all, and nothing waits for it.
fn disks(index: &Index) -> Vec<partitions::Partition> {
    let began = Instant::now();
    let mut asked = BTreeSet::new();
    loop {
        let all = partitions::all();
        let complete = data::boot(&all).is_some() && !matches!(data::choose(&all), Choice::Missing);
        if complete || began.elapsed() > DISK_WAIT {
            return all;
        }
        std::thread::sleep(DISK_POLL);
        // What has appeared meanwhile, as the card behind its controller, may want a module.
        modules::coldplug(index, &mut asked);
    }
}

/// Takes settings and enrolment file from the boot partition; the device's name when the latter is good.
fn read_boot(node: &str, hooks: Hooks, troubles: &mut Troubles) -> Option<String> {
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    if let Err(error) = mount(node, BOOT, Some("vfat"), flags, BOOT_OPTIONS) {
        troubles.add(format!("the boot partition cannot be read: {}", chain(&error)));
        return None;
    }
    let file = |name: &str| {
        let mut bytes = Vec::new();
        let read = fs::File::open(Path::new(BOOT).join(name))
            .and_then(|file| file.take(ENROLMENT_BYTES_MAX + 1).read_to_end(&mut bytes));
        match read {
            Ok(_) => Some(Ok(bytes)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => Some(Err(error)),
        }
    };
    let mut device = None;
    match file("punnet.txt") {
        None => {}
        Some(Err(error)) => troubles.add(format!("punnet.txt cannot be read: {error}")),
        Some(Ok(bytes)) => take_settings(&bytes, troubles),
    }
    match file("enrolment.json") {
        None => {}
        Some(Err(error)) => troubles.add(format!("enrolment.json cannot be read: {error}")),
        Some(Ok(bytes)) => match (hooks.check_enrolment)(&bytes) {
            Err(why) => troubles.add(format!("enrolment.json on the boot partition is not used: {why}")),
            Ok(name) => {
                device = Some(name);
                let written = OpenOptions::new()
                    .write(true)
                    .create_new(true)
                    .mode(0o600)
                    .open(ENROLMENT)
                    .and_then(|mut file| file.write_all(&bytes));
                if let Err(error) = written {
                    troubles.add(format!("cannot write {ENROLMENT}: {error}"));
                }
            }
        },
    }
    preload::copy_apps(Path::new(BOOT))
        .into_iter()
        .for_each(|trouble| troubles.add(trouble));
    if let Err(error) = nix::mount::umount(BOOT) {
        say(format_args!("cannot unmount the boot partition: {error}"));
    }
    device
}

fn take_settings(bytes: &[u8], troubles: &mut Troubles) {
    if bytes.len() > settings::FILE_BYTES_MAX {
        troubles.add("punnet.txt is larger than 16 KiB and is not used");
        return;
    }
    let text = String::from_utf8_lossy(bytes);
    for wrong in settings::parse(&text).1 {
        troubles.add(format!("punnet.txt: {wrong}"));
    }
    if let Err(error) = fs::write(SETTINGS, &*text) {
        troubles.add(format!("cannot write {SETTINGS}: {error}"));
    }
}

/// Tells PID 1 when the system that runs has still to show that it is well; says it when the one before had to come back.
fn trial(troubles: &mut Troubles) {
    let (update, booted) = (system::record(), system::booted());
    if let Some(slot) = booted {
        let name = crate::read_word("/etc/punnet/system");
        say(format_args!("system {name} of slot {}", slot.name()));
    }
    let Some(update) = update.filter(|update| update.stage == Stage::Tried) else {
        return;
    };
    if update.failed(booted) {
        troubles.add(format!(
            "the update of the system in slot {} did not start, or did not get well: the one before runs",
            update.slot.name()
        ));
    } else if let Err(error) = fs::write(TRIAL, "") {
        troubles.add(format!("cannot write {TRIAL}: {error}"));
    }
}

/// Boards have no clock that goes on without power: it is at least as late as when this was built, and as when it was last switched off.
fn time_floor(troubles: &mut Troubles) {
    let floor_s = handover::kept_clock_s().max(BUILD_FLOOR_S);
    let now = std::time::SystemTime::now();
    let now_s = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    if now_s >= floor_s {
        return;
    }
    let floor = TimeSpec::from(Duration::from_secs(floor_s));
    match clock_settime(ClockId::CLOCK_REALTIME, floor) {
        Ok(()) => {
            // Years are near enough for people: 365.2425 days each.
            let year = |s: u64| 1970 + s / 31_556_952;
            say(format_args!(
                "the clock showed {}, it begins in {}",
                year(now_s),
                year(floor_s)
            ));
        }
        Err(error) => troubles.add(format!("cannot set the clock: {error}")),
    }
}

fn hostname(settings: &Settings, device: Option<String>, troubles: &mut Troubles) {
    let name = settings
        .hostname
        .clone()
        .or(device)
        .unwrap_or_else(|| "punnet".into());
    if let Err(error) = nix::unistd::sethostname(&name) {
        troubles.add(format!("cannot set the host name {name}: {error}"));
    }
    // resolv.conf(5) follows with the network; without this file localhost has no address.
    let hosts = format!("127.0.0.1 localhost {name}\n::1 localhost {name}\n");
    if let Err(error) = fs::create_dir_all("/etc").and_then(|()| fs::write("/etc/hosts", hosts)) {
        troubles.add(format!("cannot write /etc/hosts: {error}"));
    }
}
