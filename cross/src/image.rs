//! `cargo xtask image`: what a board boots from. Kernel and initramfs by themselves, and a whole card: an MBR, a FAT partition with the boot
//! files, an ext4 partition for images and containers. Without root; the same sources and kernel give the same bytes.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use flate2::{Compression, GzBuilder};
use punnet_boards::slots::Slot;
use punnet_boards::{Board, BootLoader, Description, Image};

use crate::build::target_dir;
use crate::cross::{self, Compiler};
use crate::initramfs::Initramfs;
use crate::kernel::{Kernel, raspi_firmware};
use crate::packages;
use crate::process::{output_of, run, stdout_of};

/// Programs it takes, and the Debian package of each.
const PROGRAMS: &[(&str, &str)] = &[
    ("mkfs.ext4", "e2fsprogs"),
    ("mformat", "mtools"),
    ("mcopy", "mtools"),
    ("mtype", "mtools"),
    ("debugfs", "e2fsprogs"),
];

const SECTOR: u64 = 512;
const MIB: u64 = 1 << 20;
/// Where the first partition begins: U-Boot of several families lies before it.
const BOOT_FIRST: u64 = 4 * MIB / SECTOR;
/// Room beside the boot files for a second set of them: an update never overwrites what works.
const BOOT_BYTES_MIN: u64 = 96 * MIB;
/// Of the data partition as made; `punnet init` lets it grow to the card's end.
const DATA_BYTES: u64 = 96 * MIB;
/// Of the empty file system in the initramfs.
const TEMPLATE_BYTES: u64 = 32 * MIB;
/// Identities that are the same in each image: nothing looks for them, and the bytes do not change.
const DISK_ID: u32 = 0x504e_5431;
const FAT_ID: &str = "504e5432";
const EXT4_ID: &str = "504e5433-0000-4000-8000-70756e6e6574";
/// The moment all files are from: FAT knows none before 1980.
const EPOCH_S: &str = "315532800";

/// Options of `image`.
#[derive(clap::Args)]
pub struct Options {
    /// For this board (a file in board-configs/, without .toml)
    #[arg(long, value_name = "BOARD")]
    pub board: String,
    /// Put this enrolment file (`punnet-fleet enroll`) on the boot partition
    #[arg(long, value_name = "FILE")]
    pub enroll: Option<PathBuf>,
    /// Put this settings file on the boot partition, in place of the one that explains itself
    #[arg(long, value_name = "FILE")]
    pub settings: Option<PathBuf>,
    /// Put this image (an archive as `punnet build --output` and `punnet save` write) on the card: the board loads it at its first start
    #[arg(long, value_name = "ARCHIVE")]
    pub preload: Vec<PathBuf>,
    /// Put the app files of this folder (docs/apps.md) on the boot partition: they run from the first start on, without any controller
    #[arg(long, value_name = "DIR")]
    pub apps: Option<PathBuf>,
    /// Copy everything in this folder onto the boot partition: the Pi's firmware, a boot loader
    #[arg(long, value_name = "DIR")]
    pub firmware: Option<PathBuf>,
    /// Put the Pi's firmware onto the boot partition, from Debian's package raspi-firmware (not free software; its licence goes with it)
    #[arg(long, conflicts_with = "firmware")]
    pub debian_firmware: bool,
    /// Take this static binary instead of compiling one
    #[arg(long, value_name = "FILE")]
    pub punnet: Option<PathBuf>,
    /// Take kernel, modules and device trees from an unpacked Debian kernel package
    #[arg(long, value_name = "DIR")]
    pub kernel: Option<PathBuf>,
    /// What this system is called: it says so when it starts
    #[arg(long = "system", value_name = "NAME")]
    pub name: Option<String>,
    /// Leave out the kernel modules that are loaded only when a device asks for them (USB serial, USB disks): a start takes some 2 MiB less RAM
    #[arg(long)]
    pub no_hotplug: bool,
    /// For QEMU instead of the board itself
    #[arg(skip)]
    pub emulated: bool,
}

/// What was made.
pub struct Artefacts {
    /// What is booted.
    pub kernel: PathBuf,
    /// With it.
    pub initramfs: PathBuf,
    /// The whole card.
    pub card: PathBuf,
    /// A build context: `punnet build` makes of it what a fleet updates the board's system with.
    pub system: PathBuf,
    /// Where device trees are.
    pub device_trees: PathBuf,
    /// What the board is.
    pub description: Description,
}

/// Makes it and says where it is.
pub fn run_command(options: &Options) -> Result<()> {
    let made = make(options, &target_dir().join("images").join(&options.board))?;
    for (what, path) in [
        ("kernel", &made.kernel),
        ("initramfs", &made.initramfs),
        ("card", &made.card),
    ] {
        let kib = std::fs::metadata(path)?.len().div_ceil(1024);
        println!("{what:<10} {kib:>8} KiB  {}", path.display());
    }
    println!(
        "Write it:  dd if={} of=/dev/CARD bs=4M conv=fsync",
        made.card.display()
    );
    println!(
        "Update a board that has it:  punnet build --platform {} --output system.oci.tar {}  (docs/boards.md)",
        made.description.board.arch.platform(),
        made.system.display()
    );
    let is_given = options.firmware.is_some() || options.debian_firmware;
    if let Some(what) = firmware_missing(&made).filter(|_| !is_given) {
        println!("{what}");
    }
    Ok(())
}

/// What the user has to add, when no package of ours has it.
fn firmware_missing(made: &Artefacts) -> Option<&'static str> {
    let loader = made.description.image.as_ref()?.boot_loader;
    match loader {
        BootLoader::Emulator => None,
        BootLoader::RaspberryPi => Some(
            "The Pi's firmware is not in it, and it does not start without: add --debian-firmware, or --firmware DIR for another version (docs/boards.md).",
        ),
        BootLoader::Extlinux => {
            Some("The board's boot loader is not in it: write its U-Boot to the card as its manual says.")
        }
    }
}

/// Makes everything into `folder`.
pub fn make(options: &Options, folder: &Path) -> Result<Artefacts> {
    packages::ensure(PROGRAMS)?;
    let mut description = cross::board(&options.board)?;
    if let Some(qemu) = description.qemu.as_ref().filter(|_| options.emulated) {
        let board = &mut description.board;
        board.kernel_modules.extend(qemu.kernel_modules.iter().cloned());
        board.watchdog = qemu.watchdog.clone().or(board.watchdog.take());
    }
    if options.no_hotplug {
        description.board.hotplug_modules.clear();
    }
    let (board, image) = (&description.board, description.image.as_ref());
    let kernel = match (
        &options.kernel,
        image.and_then(|image| image.kernel_package.as_deref()),
    ) {
        (Some(folder), _) => Kernel::in_folder(folder)?,
        (None, Some(package)) => Kernel::get(package, board.arch)?,
        (None, None) => bail!(
            "{}: Debian has no kernel for it; give one with --kernel DIR",
            board.name
        ),
    };
    let pi = Image {
        kernel_package: None,
        boot_loader: BootLoader::RaspberryPi,
        device_trees: Vec::new(),
    };
    let image = image.unwrap_or(&pi);
    let punnet = match &options.punnet {
        Some(file) => file.clone(),
        None => Compiler::find()?.build("punnet", board.arch, &[])?,
    };
    std::fs::create_dir_all(folder)?;
    let path = |name: &str| folder.join(name);
    let initramfs = initramfs(board, options.name.as_deref(), &kernel, &punnet, folder)?;
    std::fs::write(path("initramfs"), &initramfs)?;
    std::fs::copy(&kernel.image, path("kernel"))?;
    let boot = path("boot");
    if boot.exists() {
        std::fs::remove_dir_all(&boot)?;
    }
    boot_files(&boot, board, image, &kernel, &initramfs, options)?;
    let system = path("system");
    system_context(&system, board, &boot.join(Slot::A.name()))?;
    card(&path("card.img"), &boot, &options.preload)?;
    Ok(Artefacts {
        kernel: path("kernel"),
        initramfs: path("initramfs"),
        card: path("card.img"),
        system,
        device_trees: kernel.device_trees,
        description,
    })
}

fn initramfs(
    board: &Board,
    name: Option<&str>,
    kernel: &Kernel,
    punnet: &Path,
    folder: &Path,
) -> Result<Vec<u8>> {
    let mut made = Initramfs::default();
    made.add_file("bin/punnet", punnet)?;
    made.add_link("init", "bin/punnet");
    // The kernel opens the first, and Rust's start-up the second where there is no first.
    made.add_device("dev/console", 5, 1);
    made.add_device("dev/null", 1, 3);
    made.add("etc/punnet/board.json", board.to_json().as_bytes());
    if let Some(name) = name {
        made.add("etc/punnet/system", name.as_bytes());
    }
    let mut index = String::new();
    for module in kernel
        .list()?
        .choose(&board.kernel_modules, &board.hotplug_modules)?
    {
        ensure!(
            module.file.extension().is_some_and(|extension| extension == "ko"),
            "{}: compressed modules are not unpacked here",
            module.file.display()
        );
        let module_bytes =
            std::fs::read(&module.file).with_context(|| format!("cannot read {}", module.file.display()))?;
        made.add(
            &format!("lib/modules/{}.ko", module.name),
            without_signature(&module_bytes),
        );
        index += &format!("{}\n", module.line);
    }
    made.add("lib/modules/index", index.as_bytes());
    made.add("lib/punnet/data.ext4.gz", &gzip(&template(folder)?)?);
    gzip(&made.finish())
}

/// A module without the signature at its end (Linux include/linux/module_signature.h). Checking those was four fifths of the time that an emulated
/// board took to load its modules, and proves nothing here: who can change the initramfs can change the kernel. A kernel that enforces signatures
/// (lockdown) is none of Debian's on a board.
fn without_signature(module: &[u8]) -> &[u8] {
    const MAGIC: &[u8] = b"~Module signature appended~\n";
    /// struct module_signature; its last four bytes are the signature's length, big-endian.
    const TRAILER_BYTES: usize = 12;
    let end = module.strip_suffix(MAGIC).and_then(|rest| {
        let length = u32::from_be_bytes(*rest.last_chunk()?);
        rest.len().checked_sub(TRAILER_BYTES + length as usize)
    });
    &module[..end.unwrap_or(module.len())]
}

/// Without a name or a time: the same content is the same bytes.
pub(crate) fn gzip(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut packed = GzBuilder::new().write(Vec::new(), Compression::best());
    packed.write_all(bytes)?;
    Ok(packed.finish()?)
}

/// An empty data file system.
fn template(folder: &Path) -> Result<Vec<u8>> {
    let path = folder.join("data.ext4");
    File::create(&path)?.set_len(TEMPLATE_BYTES)?;
    data_file_system(&path, 0, TEMPLATE_BYTES)?;
    Ok(std::fs::read(path)?)
}

/// Makes the data file system at an offset of a file.
fn data_file_system(file: &Path, offset: u64, bytes: u64) -> Result<()> {
    run(Command::new("mkfs.ext4")
        .args(["-q", "-F", "-b", "4096", "-I", "256", "-m", "1", "-L", "punnet-data", "-U", EXT4_ID])
        // metadata_csum seeds from the UUID; what mkfs.ext4 puts off would be written while the board runs.
        .args(["-O", "metadata_csum,64bit,resize_inode", "-E"])
        .arg(format!(
            "offset={offset},hash_seed={EXT4_ID},root_owner=0:0,lazy_itable_init=0,lazy_journal_init=0,resize=33554432"
        ))
        .arg(file)
        .arg(format!("{}k", bytes / 1024))
        // The names for the same in different versions.
        .env("E2FSPROGS_FAKE_TIME", EPOCH_S)
        .env("SOURCE_DATE_EPOCH", EPOCH_S)
        .stderr(Stdio::null()))
}

/// The kernel's command line.
pub fn command_line(board: &Board) -> String {
    let own = [
        format!("console={}", board.serial_console),
        // Which board this is, should its description be lost.
        format!("punnet.board={}", board.name),
    ];
    let words: Vec<_> = board.kernel_command_line.iter().chain(&own).cloned().collect();
    words.join(" ")
}

/// What the boot partition holds; the system itself is in the folder `a`, and its first update goes to `b`.
fn boot_files(
    boot: &Path,
    board: &Board,
    image: &Image,
    kernel: &Kernel,
    initramfs: &[u8],
    options: &Options,
) -> Result<()> {
    let slot = boot.join(Slot::A.name());
    std::fs::create_dir_all(&slot)?;
    std::fs::copy(&kernel.image, slot.join("kernel"))?;
    std::fs::write(slot.join("initramfs"), initramfs)?;
    for tree in &image.device_trees {
        let name = Path::new(tree).file_name().context("a device tree has a name")?;
        std::fs::copy(kernel.device_trees.join(tree), slot.join(name))
            .with_context(|| format!("this kernel has no device tree {tree}"))?;
    }
    let line = command_line(board);
    match image.boot_loader {
        BootLoader::RaspberryPi | BootLoader::Emulator => {
            std::fs::write(boot.join("config.txt"), config_txt(board))?;
            std::fs::write(slot.join("cmdline.txt"), format!("{line} punnet.slot=a\n"))?;
        }
        BootLoader::Extlinux => {
            std::fs::create_dir_all(boot.join("extlinux"))?;
            std::fs::write(boot.join("extlinux/extlinux.conf"), extlinux_conf(&line))?;
        }
    }
    let settings = match &options.settings {
        Some(file) => std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?,
        None => SETTINGS.into(),
    };
    std::fs::write(boot.join("punnet.txt"), settings)?;
    if let Some(file) = &options.enroll {
        std::fs::copy(file, boot.join("enrolment.json"))
            .with_context(|| format!("cannot copy {}", file.display()))?;
    }
    if let Some(folder) = &options.apps {
        run(Command::new("cp").arg("-rL").arg(folder).arg(boot.join("apps")))?;
    }
    if options.debian_firmware {
        ensure!(
            image.boot_loader == BootLoader::RaspberryPi,
            "{}: only a Raspberry Pi starts with the firmware of raspi-firmware",
            board.name
        );
        put_debian_firmware(boot)?;
    }
    if let Some(folder) = &options.firmware {
        run(Command::new("cp")
            .args(["-r", "--no-target-directory"])
            .arg(folder)
            .arg(boot))?;
    }
    Ok(())
}

/// Raspberry Pi documentation, "Boot folder contents": `_cd` and `cd` are the ones that `gpu_mem=16` asks for; 4 is the Pi 4's, which has bootcode.bin's part
/// in its EEPROM.
const FIRMWARE: [&str; 9] = [
    "bootcode.bin",
    "start.elf",
    "fixup.dat",
    "start_cd.elf",
    "fixup_cd.dat",
    "start4.elf",
    "fixup4.dat",
    "start4cd.elf",
    "fixup4cd.dat",
];

/// Of every Pi, as one card may start several; who passes it on has to pass its licence on.
fn put_debian_firmware(boot: &Path) -> Result<()> {
    let package = raspi_firmware()?;
    let licence = (
        "usr/share/doc/raspi-firmware/copyright".to_owned(),
        "LICENCE.firmware",
    );
    let blobs = FIRMWARE.map(|name| (format!("usr/lib/raspi-firmware/{name}"), name));
    for (from, to) in blobs.into_iter().chain([licence]) {
        std::fs::copy(package.join(&from), boot.join(to))
            .with_context(|| format!("Debian's raspi-firmware has no {from}"))?;
    }
    Ok(())
}

/// What `punnet system write` (init/src/system.rs) takes from an image: the files of a slot, and the board they are for.
fn system_context(context: &Path, board: &Board, slot: &Path) -> Result<()> {
    let boot = context.join("boot");
    if context.exists() {
        std::fs::remove_dir_all(context)?;
    }
    std::fs::create_dir_all(&boot)?;
    run(Command::new("cp")
        .args(["-r", "--no-target-directory"])
        .arg(slot)
        .arg(&boot))?;
    std::fs::write(boot.join("cmdline.txt"), format!("{}\n", command_line(board)))?;
    std::fs::write(boot.join("board"), format!("{}\n", board.name))?;
    std::fs::write(context.join("Containerfile"), "FROM scratch\nCOPY boot /boot\n")?;
    Ok(())
}

const SETTINGS: &str = "\
# Settings of this one board. Remove the # in front of a line and change what is behind the =.
#hostname=kitchen
# A fixed address instead of DHCP:
#address=192.168.1.20/24
#gateway=192.168.1.1
#dns=192.168.1.1
# Time servers in place of the router's; behind a : the port, if it is not 123:
#ntp=pool.ntp.org
# A prompt on the serial line, even when nothing is wrong:
#console=on
";

/// Raspberry Pi documentation, config.txt: one card for 32-bit and 64-bit models, everything of ours below os_prefix.
fn config_txt(board: &Board) -> String {
    let bits = u8::from(board.arch == punnet_boards::Arch::Arm64);
    format!(
        "# Made by cargo xtask image. Kernel, initramfs, device trees and cmdline.txt are in the folder that os_prefix names.\n\
         os_prefix=a/\nkernel=kernel\ninitramfs initramfs followkernel\narm_64bit={bits}\nenable_uart=1\ndisable_splash=1\n\
         # Device trees of the kernel's own, without overlays of the firmware.\nupstream_kernel=1\ngpu_mem=16\n\
         # A kernel that hangs before it has the watchdog is restarted too.\nkernel_watchdog_timeout=60\n"
    )
}

fn extlinux_conf(command_line: &str) -> String {
    format!(
        "# Made by cargo xtask image.\ndefault a\ntimeout 1\nlabel a\n  kernel /a/kernel\n  initrd /a/initramfs\n  fdtdir /a\n  append {command_line}\n"
    )
}

/// The whole card, holes where nothing is.
fn card(card: &Path, boot: &Path, preload: &[PathBuf]) -> Result<()> {
    let boot_bytes = (2 * folder_bytes(boot)? + 16 * MIB)
        .max(BOOT_BYTES_MIN)
        .next_multiple_of(MIB);
    let mut data_bytes = DATA_BYTES;
    for archive in preload {
        data_bytes += PRELOAD_FACTOR * image_archive_bytes(archive)?;
    }
    let data_bytes = data_bytes.next_multiple_of(MIB);
    let (boot_count, data_count) = (boot_bytes / SECTOR, data_bytes / SECTOR);
    let data_first = BOOT_FIRST + boot_count;
    let mut file = File::create(card).with_context(|| format!("cannot write {}", card.display()))?;
    file.set_len((data_first + data_count) * SECTOR)?;
    let partitions = [(0x0c, BOOT_FIRST, boot_count), (0x83, data_first, data_count)];
    file.write_all(&mbr(&partitions)?)?;
    drop(file);
    fat(card, boot, boot_count)?;
    data_file_system(card, data_first * SECTOR, data_bytes)?;
    put_preloaded(card, data_first * SECTOR, preload)
}

/// Room for an archive and for the image unpacked, compressed as usual, until the partition has grown.
const PRELOAD_FACTOR: u64 = 4;

/// Size of what `punnet load` will take; anything else is refused here and not by a board without a screen.
fn image_archive_bytes(archive: &Path) -> Result<u64> {
    let listing = Command::new("tar").arg("-tf").arg(archive).output()?;
    let names = String::from_utf8_lossy(&listing.stdout);
    let is_one = names
        .lines()
        .any(|name| matches!(name.trim_start_matches("./"), "index.json" | "manifest.json"));
    ensure!(
        listing.status.success() && is_one,
        "{} is no archive of an image: make one with `punnet build --output FILE`, or `punnet pull --platform linux/arm64 REF` and `punnet save --output FILE REF`",
        archive.display()
    );
    Ok(std::fs::metadata(archive)?.len())
}

/// Into the folder that `punnet init` loads from. debugfs needs neither root nor a mount, makes everything root's, and takes the time from the
/// environment.
fn put_preloaded(card: &Path, offset: u64, preload: &[PathBuf]) -> Result<()> {
    if preload.is_empty() {
        return Ok(());
    }
    let mut commands = "mkdir /preload\n".to_owned();
    for (number, archive) in preload.iter().enumerate() {
        let path = archive.canonicalize()?;
        commands += &format!("write \"{}\" /preload/{number:02}.tar\n", path.display());
    }
    in_data_at(card, offset, &commands)
}

/// Does what these commands to debugfs(8) say in a card's data file system.
pub fn in_data(card: &Path, commands: &str) -> Result<()> {
    in_data_at(card, data_on_card(card)?.0, commands)
}

/// Bytes that are free in a card's data file system.
pub fn free_in_data(card: &Path) -> Result<u64> {
    let (offset, _) = data_on_card(card)?;
    let stats = stdout_of(
        Command::new("debugfs")
            .args(["-R", "stats -h"])
            .arg(format!("{}?offset={offset}", card.display())),
    )?;
    let number = |key: &str| {
        let line = stats.lines().find_map(|line| line.strip_prefix(key))?;
        line.trim().parse::<u64>().ok()
    };
    let free = number("Free blocks:").zip(number("Block size:"));
    let (blocks, bytes) = free.context("debugfs does not say what is free")?;
    Ok(blocks * bytes)
}

fn in_data_at(card: &Path, offset: u64, commands: &str) -> Result<()> {
    let script = card.with_extension("debugfs");
    std::fs::write(&script, commands)?;
    let ended = Command::new("debugfs")
        .args(["-w", "-f"])
        .arg(&script)
        .arg(format!("{}?offset={offset}", card.display()))
        .env("E2FSPROGS_FAKE_TIME", EPOCH_S)
        .env("SOURCE_DATE_EPOCH", EPOCH_S)
        .output()?;
    std::fs::remove_file(&script)?;
    let said = String::from_utf8_lossy(&ended.stderr);
    // It ends well whatever went wrong; its first line is its version.
    let complaints: Vec<_> = said.lines().skip(1).collect();
    ensure!(ended.status.success() && complaints.is_empty(), "debugfs: {said}");
    Ok(())
}

/// A master boot record; the first partition is the active one.
fn mbr(partitions: &[(u8, u64, u64)]) -> Result<[u8; 512]> {
    let mut sector = [0; 512];
    sector[440..444].copy_from_slice(&DISK_ID.to_le_bytes());
    for (number, (kind, first, count)) in partitions.iter().enumerate() {
        let at = 446 + 16 * number;
        sector[at] = if number == 0 { 0x80 } else { 0 };
        // Cylinders, heads and sectors that say "too large": only the numbers below count.
        sector[at + 1..at + 8].copy_from_slice(&[0xfe, 0xff, 0xff, *kind, 0xfe, 0xff, 0xff]);
        sector[at + 8..at + 12].copy_from_slice(&u32::try_from(*first)?.to_le_bytes());
        sector[at + 12..at + 16].copy_from_slice(&u32::try_from(*count)?.to_le_bytes());
    }
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    Ok(sector)
}

fn fat(card: &Path, boot: &Path, sectors: u64) -> Result<()> {
    let image = format!("{}@@{}", card.display(), BOOT_FIRST * SECTOR);
    let tool = |program: &str| {
        let mut command = Command::new(program);
        command
            .args(["-i", &image])
            .env("SOURCE_DATE_EPOCH", EPOCH_S)
            .env("TZ", "UTC")
            .env("MTOOLS_SKIP_CHECK", "1");
        command
    };
    run(tool("mformat").args([
        "-T",
        &sectors.to_string(),
        "-h",
        "64",
        "-s",
        "32",
        "-H",
        &BOOT_FIRST.to_string(),
        "-F",
        "-c",
        "1",
        "-N",
        FAT_ID,
        "-v",
        "PUNNET",
        "::",
    ]))?;
    let mut names: Vec<_> = std::fs::read_dir(boot)?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_>>()?;
    names.sort();
    run(tool("mcopy").args(["-s", "-Q"]).args(names).arg("::"))
}

fn folder_bytes(folder: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        bytes += if entry.file_type()?.is_dir() {
            folder_bytes(&entry.path())?
        } else {
            entry.metadata()?.len()
        };
    }
    Ok(bytes)
}

/// Puts a file onto a card's boot partition, or replaces it.
pub fn put_on_card(card: &Path, file: &Path, name: &str) -> Result<()> {
    run(Command::new("mcopy")
        .args(["-o", "-i"])
        .arg(format!("{}@@{}", card.display(), BOOT_FIRST * SECTOR))
        .arg(file)
        .arg(format!("::{name}")))
}

/// A file of a card's boot partition; `None` when there is none.
pub fn read_on_card(card: &Path, name: &str) -> Result<Option<Vec<u8>>> {
    let mut command = Command::new("mtype");
    command
        .arg("-i")
        .arg(format!("{}@@{}", card.display(), BOOT_FIRST * SECTOR))
        .arg(format!("::{name}"))
        // As a card that was pulled out of a running board.
        .env("MTOOLS_SKIP_CHECK", "1");
    let output = output_of(&mut command)?;
    Ok(output.status.success().then_some(output.stdout))
}

/// Where the data partition of a card is: first byte and size.
pub fn data_on_card(card: &Path) -> Result<(u64, u64)> {
    let mut sector = [0; 512];
    File::open(card)?.read_exact(&mut sector)?;
    let word = |at: usize| u64::from(u32::from_le_bytes([0, 1, 2, 3].map(|byte| sector[at + byte])));
    Ok((word(446 + 16 + 8) * SECTOR, word(446 + 16 + 12) * SECTOR))
}

/// Overwrites part of a card.
pub fn write_on_card(card: &Path, offset: u64, bytes: &[u8]) -> Result<()> {
    let mut file = File::options().write(true).open(card)?;
    file.seek(SeekFrom::Start(offset))?;
    Ok(file.write_all(bytes)?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "this is a test")]

    use super::*;

    /// Whoever puts the time into a file system does so in seconds; FAT has every second one.
    const FAT_TICK: std::time::Duration = std::time::Duration::from_millis(2100);

    fn boot_folder(folder: &Path) -> PathBuf {
        let boot = folder.join("boot");
        std::fs::create_dir_all(boot.join("a")).unwrap();
        std::fs::write(boot.join("a/kernel"), vec![7; 100_000]).unwrap();
        std::fs::write(boot.join("punnet.txt"), SETTINGS).unwrap();
        boot
    }

    #[test]
    fn a_card_made_twice_is_the_same_and_both_file_systems_are_sound() {
        packages::ensure(PROGRAMS).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let archive = folder.path().join("image of mine.tar");
        std::fs::write(folder.path().join("index.json"), vec![b' '; 3 << 20]).unwrap();
        run(Command::new("tar")
            .arg("-cf")
            .arg(&archive)
            .arg("-C")
            .arg(folder.path())
            .arg("index.json"))
        .unwrap();
        let made: Vec<_> = ["one", "two"]
            .iter()
            .map(|name| {
                let folder = folder.path().join(name);
                std::fs::create_dir_all(&folder).unwrap();
                let path = folder.join("card.img");
                card(&path, &boot_folder(&folder), std::slice::from_ref(&archive)).unwrap();
                std::thread::sleep(FAT_TICK);
                path
            })
            .collect();
        let [one, two] = [&made[0], &made[1]].map(|path| std::fs::read(path).unwrap());
        assert!(one == two, "the cards differ");
        let (offset, bytes) = data_on_card(&made[0]).unwrap();
        let data = folder.path().join("data");
        std::fs::write(&data, &one[offset as usize..(offset + bytes) as usize]).unwrap();
        run(Command::new("e2fsck").arg("-fn").arg(&data)).unwrap();
        let back = folder.path().join("back");
        let dump = format!("dump /preload/00.tar {}", back.display());
        run(Command::new("debugfs").args(["-R", &dump]).arg(&data)).unwrap();
        assert!(
            std::fs::read(&back).unwrap() == std::fs::read(&archive).unwrap(),
            "the archive came back changed"
        );
        let stat = Command::new("debugfs")
            .args(["-R", "stat /preload/00.tar"])
            .arg(&data)
            .output()
            .unwrap();
        let stat = String::from_utf8_lossy(&stat.stdout).into_owned();
        assert!(
            stat.contains("User:     0") && stat.contains("Group:     0"),
            "{stat}"
        );
        let refused = card(
            &made[0],
            &boot_folder(&folder.path().join("one")),
            &[back.with_extension("none")],
        );
        assert!(format!("{:#}", refused.unwrap_err()).contains("punnet save --output"));
        let image = format!("{}@@{}", made[0].display(), BOOT_FIRST * SECTOR);
        run(Command::new("mcopy")
            .args(["-i", &image, "::a/kernel"])
            .arg(&back))
        .unwrap();
        assert_eq!(std::fs::read(back).unwrap(), vec![7; 100_000]);
        let settings = folder.path().join("settings");
        std::fs::write(&settings, "console=on\n").unwrap();
        put_on_card(&made[0], &settings, "punnet.txt").unwrap();
    }

    #[test]
    fn an_image_made_twice_is_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::create_dir(path("apps")).unwrap();
        for name in ["apps/b.yaml", "apps/a.yaml", "index.json"] {
            std::fs::write(path(name), "image: hello:1\n").unwrap();
        }
        run(Command::new("tar")
            .arg("-cf")
            .arg(path("hello.tar"))
            .arg("-C")
            .arg(folder.path())
            .arg("index.json"))
        .unwrap();
        let made = ["one", "a folder with another name"].map(|name| {
            let options = Options {
                board: "qemu-x86_64".into(),
                enroll: Some(path("apps/a.yaml")),
                settings: None,
                preload: vec![path("hello.tar")],
                apps: Some(path("apps")),
                firmware: None,
                debian_firmware: false,
                // Whatever the program is, it is packed as it is.
                punnet: Some(packages::busybox().unwrap()),
                kernel: None,
                name: Some("first".into()),
                no_hotplug: false,
                emulated: false,
            };
            let made = make(&options, &path(name)).unwrap();
            std::thread::sleep(FAT_TICK);
            made
        });
        let same = |a: &Path, b: &Path| {
            run(Command::new("diff").arg("--recursive").arg(a).arg(b)).unwrap();
        };
        let [one, two] = &made;
        same(&one.card, &two.card);
        same(&one.initramfs, &two.initramfs);
        same(&one.system, &two.system);
    }

    #[test]
    fn debians_firmware_is_on_the_card_with_its_licence() {
        packages::ensure(PROGRAMS).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let boot = boot_folder(folder.path());
        put_debian_firmware(&boot).unwrap();
        let path = folder.path().join("card.img");
        card(&path, &boot, &[]).unwrap();
        for name in FIRMWARE {
            let on_card = read_on_card(&path, name).unwrap().unwrap();
            assert!(!on_card.is_empty(), "{name}");
            assert_eq!(on_card, std::fs::read(boot.join(name)).unwrap(), "{name}");
        }
        let licence = read_on_card(&path, "LICENCE.firmware").unwrap().unwrap();
        assert!(String::from_utf8_lossy(&licence).contains("Broadcom"));
    }

    #[test]
    fn a_module_loses_its_signature_and_nothing_else() {
        let signed = [
            &b"ELF code"[..],
            b"SIGNATURE",
            &[0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 9],
            b"~Module signature appended~\n",
        ]
        .concat();
        assert_eq!(without_signature(&signed), b"ELF code");
        let torn = [&[0xff; 12][..], b"~Module signature appended~\n"].concat();
        for module in [&b"ELF code"[..], b"", &torn] {
            assert_eq!(without_signature(module), module);
        }
    }

    #[test]
    fn a_pi_is_told_where_its_system_is() {
        let zero = cross::board("raspberry-pi-zero").unwrap().board;
        let four = cross::board("raspberry-pi-4").unwrap().board;
        assert!(config_txt(&zero).contains("os_prefix=a/") && config_txt(&zero).contains("arm_64bit=0"));
        assert!(config_txt(&four).contains("arm_64bit=1"));
        let line = command_line(&zero);
        for word in [
            "cgroup_enable=memory",
            "console=ttyAMA0,115200",
            "punnet.board=raspberry-pi-zero",
        ] {
            assert!(line.split(' ').any(|found| found == word), "{line}");
        }
    }
}
