//! Debian's kernels, for any architecture: fetched once, unpacked, with a list of their modules. No root and no foreign architecture of
//! this machine's dpkg is needed: apt works on lists of its own below the target directory.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use punnet_boards::Arch;

use crate::build::target_dir;
use crate::initramfs::module_name;
use crate::packages;
use crate::process::{run, stdout_of};

/// The release whose kernels are taken.
pub const RELEASE: &str = "bookworm";

/// The part of a suite that is free software.
const MAIN: &str = "main";

/// Programs it takes, and the Debian package of each.
const PROGRAMS: &[(&str, &str)] = &[("apt-get", "apt"), ("dpkg-deb", "dpkg"), ("depmod", "kmod")];

/// An unpacked kernel package.
pub struct Kernel {
    /// Its root folder.
    pub folder: PathBuf,
    /// What is booted.
    pub image: PathBuf,
    /// lib/modules/VERSION in it.
    pub modules: PathBuf,
    /// Device trees, by file name.
    pub device_trees: PathBuf,
}

impl Kernel {
    /// The one fetched before, else Debian's of today.
    pub fn get(package: &str, arch: Arch) -> Result<Self> {
        packages::ensure(PROGRAMS)?;
        let folder = target_dir().join("kernels").join(package);
        if !folder.exists() {
            fetch(package, debian_arch(arch), &folder)
                .with_context(|| format!("cannot fetch the kernel package {package}"))?;
        }
        Self::in_folder(&folder)
    }

    /// One that is unpacked already: boot/vmlinuz-VERSION, lib/modules/VERSION, usr/lib/linux-image-VERSION.
    pub fn in_folder(folder: &Path) -> Result<Self> {
        let modules = only_entry(&folder.join("lib/modules"))?;
        let version = modules
            .file_name()
            .context("a version has a name")?
            .to_string_lossy()
            .into_owned();
        Ok(Self {
            image: folder.join(format!("boot/vmlinuz-{version}")),
            device_trees: folder.join(format!("usr/lib/linux-image-{version}")),
            modules,
            folder: folder.into(),
        })
    }

    /// The modules there are, by name.
    pub fn list(&self) -> Result<Modules> {
        let read = |name: &str| {
            let path = self.modules.join(name);
            std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
        };
        let builtin = read("modules.builtin")?;
        Ok(Modules {
            folder: self.modules.clone(),
            built_in: builtin.lines().map(|line| plain(module_name(line))).collect(),
            needs: needs(&read("modules.dep")?),
            aliases: aliases(&read("modules.alias")?),
        })
    }
}

/// What depmod(8) knows.
pub struct Modules {
    folder: PathBuf,
    built_in: BTreeSet<String>,
    /// File below the folder, and the names of what it needs.
    needs: BTreeMap<String, (PathBuf, Vec<String>)>,
    aliases: BTreeMap<String, Vec<String>>,
}

/// A module, with what the board's index says of it.
pub struct Chosen {
    /// Its name, as in file names but with `_`.
    pub name: String,
    /// Its line of the index (init/src/plan/modules.rs).
    pub line: String,
    /// Its file.
    pub file: PathBuf,
}

impl Modules {
    /// `boot` and `demand` with all that they need. A module of `boot` that this kernel lacks is an error, one of `demand` is said.
    pub fn choose(&self, boot: &[String], demand: &[String]) -> Result<Vec<Chosen>> {
        let mut chosen = Vec::new();
        let mut seen = BTreeSet::new();
        for (names, when) in [(boot, "boot"), (demand, "demand")] {
            for name in names {
                let name = plain(name);
                if self.built_in.contains(&name) {
                    continue;
                }
                if !self.needs.contains_key(&name) {
                    if when == "boot" {
                        bail!("this kernel has no module {name} in {}", self.folder.display());
                    }
                    eprintln!("    (this kernel has no module {name})");
                    continue;
                }
                self.add(&name, when, &mut seen, &mut chosen);
            }
        }
        Ok(chosen)
    }

    fn add(&self, name: &str, when: &str, seen: &mut BTreeSet<String>, chosen: &mut Vec<Chosen>) {
        let Some((file, needs)) = self.needs.get(name) else {
            return;
        };
        if !seen.insert(name.to_owned()) {
            return;
        }
        // What is only needed is loaded with what needs it.
        for need in needs {
            self.add(need, "demand", seen, chosen);
        }
        let list = if needs.is_empty() {
            "-".into()
        } else {
            needs.join(",")
        };
        let aliases = self
            .aliases
            .get(name)
            .map(|all| all.join(" "))
            .unwrap_or_default();
        chosen.push(Chosen {
            line: format!("{name} {when} {list} {aliases}").trim_end().to_owned(),
            file: self.folder.join(file),
            name: name.to_owned(),
        });
    }
}

/// The kernel takes `-` and `_` in names for the same.
fn plain(name: &str) -> String {
    name.replace('-', "_")
}

/// Lines of modules.dep: `kernel/fs/a.ko: kernel/lib/b.ko`; what is needed first comes last.
fn needs(text: &str) -> BTreeMap<String, (PathBuf, Vec<String>)> {
    let line = |line: &str| {
        let (file, needs) = line.split_once(':')?;
        let needs = needs
            .split_whitespace()
            .rev()
            .map(|file| plain(module_name(file)))
            .collect();
        Some((plain(module_name(file)), (file.into(), needs)))
    };
    text.lines().filter_map(line).collect()
}

/// Lines of modules.alias: `alias PATTERN MODULE`.
fn aliases(text: &str) -> BTreeMap<String, Vec<String>> {
    let mut all: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for line in text.lines() {
        if let ["alias", pattern, module] = line.split_whitespace().collect::<Vec<_>>()[..] {
            all.entry(plain(module)).or_default().push(pattern.into());
        }
    }
    all
}

/// Debian's name of an architecture; its ARMv6 kernel is in the port that has no hard float, which a kernel does not have anyway.
pub const fn debian_arch(arch: Arch) -> &'static str {
    match arch {
        Arch::Amd64 => "amd64",
        Arch::Arm64 => "arm64",
        Arch::ArmV7 => "armhf",
        Arch::ArmV6 => "armel",
    }
}

/// A private apt for one architecture, for one at a time: tests and boards want it at the same moment.
struct Apt {
    options: Vec<String>,
    _lock: File,
}

impl Apt {
    /// Of one part of a suite: what is fetched comes alone, without what it depends on.
    fn new(arch: &str, suite: &str, part: &str) -> Result<Self> {
        let folder = target_dir().join("apt").join(format!("{suite}-{part}-{arch}"));
        for part in ["lists/partial", "cache/archives/partial"] {
            std::fs::create_dir_all(folder.join(part))?;
        }
        let lock = File::create(folder.join("lock"))?;
        lock.lock()?;
        let sources = folder.join("sources.list");
        std::fs::write(&sources, format!("deb {} {suite} {part}\n", mirror()?))?;
        let at = |name: &str| folder.join(name).display().to_string();
        let options = [
            format!("APT::Architecture={arch}"),
            format!("APT::Architectures={arch}"),
            format!("Dir::State::Lists={}", at("lists")),
            "Dir::State::status=/dev/null".into(),
            format!("Dir::Cache={}", at("cache")),
            "Dir::Etc::SourceParts=/dev/null".into(),
            format!("Dir::Etc::SourceList={}", sources.display()),
            // Its own user could not write here.
            "APT::Sandbox::User=".into(),
        ];
        Ok(Self {
            options: options
                .into_iter()
                .flat_map(|option| ["-o".into(), option])
                .collect(),
            _lock: lock,
        })
    }

    fn command(&self, program: &str, args: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(&self.options).args(args);
        command
    }
}

/// The mirror that this machine's apt takes Debian from.
pub fn mirror() -> Result<String> {
    let format = ["indextargets", "--format", "$(REPO_URI) $(RELEASE)"];
    let listed = stdout_of(Command::new("apt-get").args(format))?;
    let found = listed
        .lines()
        .find_map(|line| line.strip_suffix(&format!(" {RELEASE}")));
    found
        .map(|uri| uri.trim_end_matches('/').to_owned())
        .with_context(|| {
            format!("this machine's apt knows no source of Debian's {RELEASE}: add one, see sources.list(5), then apt-get update")
        })
}

/// A Debian package for any board, extracted: fetched once.
pub fn debian_package(package: &str, arch: Arch) -> Result<PathBuf> {
    let name = debian_arch(arch);
    extracted(package, name, (RELEASE, MAIN), &format!("{package}-{name}"))
}

/// The firmware that a Raspberry Pi starts with, extracted: Debian's package of it, which is not free software. Fetched once.
pub fn raspi_firmware() -> Result<PathBuf> {
    const PACKAGE: &str = "raspi-firmware";
    extracted(
        PACKAGE,
        debian_arch(Arch::Arm64),
        (RELEASE, "non-free-firmware"),
        PACKAGE,
    )
}

/// A package of Debian's backports for this machine, extracted: fetched once, and not installed, so that everything else keeps the release's own.
pub fn backport(package: &str) -> Result<PathBuf> {
    let arch = stdout_of(Command::new("dpkg").arg("--print-architecture"))?;
    let suite = format!("{RELEASE}-backports");
    extracted(
        package,
        arch.trim(),
        (&suite, MAIN),
        &format!("{package}-{suite}"),
    )
}

fn extracted(package: &str, arch: &str, (suite, part): (&str, &str), folder: &str) -> Result<PathBuf> {
    let folder = target_dir().join("debian").join(folder);
    if folder.is_dir() {
        return Ok(folder);
    }
    packages::ensure(PROGRAMS)?;
    let apt = Apt::new(arch, suite, part)?;
    // Somebody may have fetched it while this one waited.
    if !folder.is_dir() {
        run(&mut apt.command("apt-get", &["-qq", "update"]))?;
        let partial = tempfile::tempdir_in(target_dir())?;
        download(&apt, package, partial.path())?;
        std::fs::create_dir_all(target_dir().join("debian"))?;
        // Whole or not there.
        std::fs::rename(partial.path(), &folder)?;
    }
    Ok(folder)
}

fn download(apt: &Apt, package: &str, to: &Path) -> Result<()> {
    let archive = tempfile::tempdir()?;
    stdout_of(
        apt.command("apt-get", &["-qq", "download", package])
            .current_dir(&archive),
    )?;
    run(Command::new("dpkg-deb")
        .arg("--extract")
        .arg(only_entry(archive.path())?)
        .arg(to))
}

fn fetch(package: &str, arch: &str, folder: &Path) -> Result<()> {
    let apt = Apt::new(arch, RELEASE, MAIN)?;
    // Somebody may have fetched it while this one waited.
    if folder.is_dir() {
        return Ok(());
    }
    eprintln!("==> fetching the kernel, {package} ({arch})");
    run(&mut apt.command("apt-get", &["-qq", "update"]))?;
    let depends = stdout_of(&mut apt.command("apt-cache", &["depends", package]))?;
    let newest = depends
        .lines()
        .find_map(|line| line.trim().strip_prefix("Depends: "))
        .filter(|name| name.starts_with("linux-image-"))
        .with_context(|| format!("{package} names no kernel"))?;
    let partial = folder.with_extension("partial");
    if partial.exists() {
        std::fs::remove_dir_all(&partial)?;
    }
    std::fs::create_dir_all(&partial)?;
    download(&apt, newest, &partial)?;
    let modules = only_entry(&partial.join("lib/modules"))?;
    run(Command::new("depmod")
        .arg("--basedir")
        .arg(&partial)
        .arg(modules.file_name().unwrap_or_default()))?;
    Ok(std::fs::rename(partial, folder)?)
}

fn only_entry(folder: &Path) -> Result<PathBuf> {
    let entries: Vec<_> = std::fs::read_dir(folder)
        .with_context(|| format!("cannot list {}", folder.display()))?
        .collect::<Result<_, _>>()?;
    match entries.as_slice() {
        [entry] => Ok(entry.path()),
        _ => bail!(
            "{} entries where one was expected, in {}",
            entries.len(),
            folder.display()
        ),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "this is a test")]

    use super::*;

    fn modules() -> Modules {
        Modules {
            folder: "/k".into(),
            built_in: ["mmc_block".to_owned()].into(),
            needs: needs("fs/a-x.ko: lib/b.ko lib/c.ko\nlib/b.ko: lib/c.ko\nlib/c.ko:\nusb/d.ko: lib/c.ko\n"),
            aliases: aliases("# comment\nalias usb:v1p* d\nalias fs-a a_x\n"),
        }
    }

    fn lines(boot: &[&str], demand: &[&str]) -> Result<Vec<String>> {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let chosen = modules().choose(&owned(boot), &owned(demand))?;
        Ok(chosen.into_iter().map(|module| module.line).collect())
    }

    #[test]
    fn the_index_has_what_is_needed_and_nothing_that_is_built_in() {
        let want = [
            "c demand -",
            "b demand c",
            "a_x boot c,b fs-a",
            "d demand c usb:v1p*",
        ];
        assert_eq!(lines(&["a-x", "mmc_block"], &["d", "absent"]).unwrap(), want);
        let error = lines(&["absent"], &[]).unwrap_err().to_string();
        assert!(error.contains("no module absent"), "{error}");
    }
}
