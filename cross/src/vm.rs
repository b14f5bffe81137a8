//! `cargo xtask vm -- COMMAND`: runs a command in a virtual x86-64 machine that has what a container host may lack: cgroup v2 with every controller,
//! all capabilities, loadable modules, a power switch.
//!
//! Its root is this machine's own, over 9p and read-only, with all changes on a scratch disk that ends with the run: programs and paths
//! are the same inside. The kernel is Debian's. QEMU emulates (TCG): KVM is not everywhere.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use punnet_boards::Arch;
use tempfile::TempDir;

use crate::build::{root, target_dir};
use crate::initramfs::{Initramfs, modules_in_order};
use crate::kernel::Kernel;
use crate::packages;
use crate::process::{Server, run, wait_for};

/// The package that names the kernel package of today.
const KERNEL_PACKAGE: &str = "linux-image-amd64";

/// What has to be in the kernel before its root is there; the rest is loaded when asked for.
const MODULES: &[&str] = &[
    "virtio_pci",
    "virtio_blk",
    "virtio_net",
    "9pnet_virtio",
    "9p",
    "crc32c_generic",
    "ext4",
    "overlay",
];

/// From the end of the command to the end of the machine.
const POWER_OFF_TIMEOUT: Duration = Duration::from_secs(60);

/// Size of the scratch disk, bytes; the file has holes.
const DISK_BYTES: u64 = 16 << 30;

/// Programs the machine is made with, and the Debian package of each.
const PROGRAMS: &[(&str, &str)] = &[
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("mkfs.ext4", "e2fsprogs"),
    ("busybox", "busybox-static"),
];

/// Options of `vm`.
#[derive(clap::Args)]
pub struct Options {
    /// Memory of the machine, MiB
    #[arg(long, default_value_t = 2048)]
    memory: u32,
    /// Seconds after which the machine is switched off
    #[arg(long, default_value_t = 1800)]
    timeout: u64,
    /// Add to the kernel's command line, as cgroup_disable=memory
    #[arg(long, default_value = "")]
    append: String,
    /// Set an environment variable for the command
    #[arg(long, value_name = "NAME=VALUE")]
    env: Vec<String>,
    /// The command and its arguments, run as root in the current folder
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

/// Runs the command inside; its exit code is ours.
pub fn run_command(options: &Options) -> Result<()> {
    let mut machine = Machine::new(&options.command)?;
    machine.memory_mib = options.memory;
    machine.append.clone_from(&options.append);
    let code = machine
        .with_environment(&options.env)
        .run(Duration::from_secs(options.timeout))?;
    ensure!(
        code == 0,
        "{} ended with exit code {code} in the virtual machine",
        options.command.join(" ")
    );
    Ok(())
}

/// A machine that runs one command.
pub struct Machine {
    command: Vec<String>,
    environment: Vec<String>,
    memory_mib: u32,
    /// More words for the kernel's command line.
    append: String,
    /// More disks, /dev/vdb and so on, in qcow2, which stay when the machine has ended.
    disks: Vec<PathBuf>,
    /// More folders that must be there, with commas between.
    visible: String,
}

impl Machine {
    /// For this command.
    pub fn new<S: AsRef<str>>(command: &[S]) -> Result<Self> {
        packages::ensure(PROGRAMS)?;
        Ok(Self {
            command: command.iter().map(|word| word.as_ref().to_owned()).collect(),
            environment: Vec::new(),
            memory_mib: 2048,
            append: String::new(),
            disks: Vec::new(),
            visible: String::new(),
        })
    }

    /// With these files, in QEMU's qcow2, as more disks: /dev/vdb, /dev/vdc and so on. When the machine is killed, they have what it was told that they
    /// have, by an answer to a flush, and of what it had only written some: QEMU keeps the places of new clusters in its memory until it is told to flush.
    pub fn with_disks(mut self, files: &[PathBuf]) -> Self {
        self.disks = files.to_vec();
        self
    }

    /// With these folders, commas between, though /tmp is new inside.
    pub fn with_visible(mut self, folders: &str) -> Self {
        self.visible = format!(",{folders}");
        self
    }

    /// With these NAME=VALUE besides.
    pub fn with_environment(mut self, pairs: &[String]) -> Self {
        self.environment.extend_from_slice(pairs);
        self
    }

    /// With these words on the kernel's command line besides.
    pub fn with_kernel_words(mut self, words: &str) -> Self {
        words.clone_into(&mut self.append);
        self
    }

    /// Boots, runs, switches off; the command's exit code.
    pub fn run(&self, timeout: Duration) -> Result<i32> {
        let folder = Self::folder()?;
        let machine = self.boot(folder.path())?;
        let code = wait_for("the command in the virtual machine to end", timeout, || {
            let ended = machine.ended()?;
            match (exit_code(&said(folder.path())), ended) {
                (None, Some(())) => bail!("the virtual machine ended before the command did"),
                (code, _) => Ok(code),
            }
        })?;
        // The disks are written by now. That the kernel cannot switch the emulated power off, as it has been seen, is no fault of the command.
        if wait_for("it to switch itself off", POWER_OFF_TIMEOUT, || machine.ended()).is_err() {
            eprintln!("    (the virtual machine did not switch itself off: it is ended)");
            machine.stop()?;
        }
        Ok(code)
    }

    /// Boots, waits until the command has written a line `ready` to /dev/ttyS1, does `meanwhile` with what was there before it, and cuts the power.
    pub fn run_until(
        &self,
        timeout: Duration,
        ready: &str,
        meanwhile: impl FnOnce(&str) -> Result<()>,
    ) -> Result<()> {
        let folder = Self::folder()?;
        let machine = self.boot(folder.path())?;
        let said = wait_for("the virtual machine to begin", timeout, || {
            machine.check()?;
            let said = said(folder.path()).replace('\r', "");
            let before = said.strip_suffix(&format!("{ready}\n"));
            Ok(before.map(str::to_owned))
        })?;
        meanwhile(&said)?;
        machine
            .check()
            .context("the command ended before its power was cut")?;
        machine.kill()
    }

    fn folder() -> Result<TempDir> {
        Ok(tempfile::Builder::new().prefix("punnet-vm-").tempdir()?)
    }

    fn boot(&self, folder: &Path) -> Result<Server> {
        let kernel = Kernel::get(KERNEL_PACKAGE, Arch::Amd64)?;
        let path = |name: &str| folder.join(name);
        std::fs::write(path("initramfs"), self.initramfs(&kernel)?)?;
        File::create(path("disk"))?.set_len(DISK_BYTES)?;
        run(Command::new("mkfs.ext4")
            .args(["-q", "-F", "-O", "^has_journal", "-E", "lazy_itable_init=1"])
            .arg(path("disk")))?;
        // An emulated timer that comes late on a loaded machine is not a broken one: without the word the kernel panics.
        let append = format!(
            "console=ttyS0 quiet panic=-1 no_timer_check {} punnet.modules={} punnet.visible={},{}{}",
            self.append,
            kernel.folder.join("lib/modules").display(),
            root().display(),
            target_dir().display(),
            self.visible,
        );
        let mut command = Command::new("qemu-system-x86_64");
        command
            .args([
                "-M",
                "q35",
                "-accel",
                "tcg,thread=multi",
                "-cpu",
                "max",
                "-smp",
                "2",
                "-no-reboot",
                "-display",
                "none",
            ])
            .args(["-m", &self.memory_mib.to_string(), "-append", &append, "-kernel"])
            .arg(&kernel.image)
            .arg("-initrd")
            .arg(path("initramfs"))
            .args(["-nic", "user,model=virtio-net-pci", "-serial", "stdio", "-serial"])
            .arg(format!("file:{}", path("code").display()))
            .arg("-drive")
            .arg(format!(
                "file={},format=raw,if=virtio,cache=unsafe",
                path("disk").display()
            ))
            .args([
                "-virtfs",
                "local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap",
            ]);
        for disk in &self.disks {
            command.arg("-drive").arg(format!(
                "file={},format=qcow2,if=virtio,cache=writeback",
                disk.display()
            ));
        }
        Server::start("virtual machine", command.stdin(Stdio::null()))
    }

    fn initramfs(&self, kernel: &Kernel) -> Result<Vec<u8>> {
        let mut made = Initramfs::default();
        made.add_file("bin/busybox", &packages::busybox()?)?;
        made.add("init", include_bytes!("vm/init.sh"));
        made.add("command", self.script()?.as_bytes());
        let mut order = String::new();
        for (number, file) in modules_in_order(&kernel.modules, MODULES)?.iter().enumerate() {
            made.add_file(&format!("modules/{number}"), &kernel.modules.join(file))?;
            order += &format!("{number}\n");
        }
        made.add("modules/order", order.as_bytes());
        Ok(made.finish())
    }

    /// The command as a shell script, with the folder and the environment that make it find what it finds here.
    fn script(&self) -> Result<String> {
        let mut script = format!("cd {}\n", quoted(&std::env::current_dir()?.display().to_string()));
        for name in ["PATH", "HOME"] {
            let value = std::env::var(name).with_context(|| format!("{name} is not set"))?;
            script += &format!("export {name}={}\n", quoted(&value));
        }
        for pair in &self.environment {
            let (name, value) = pair
                .split_once('=')
                .with_context(|| format!("{pair} is not NAME=VALUE"))?;
            script += &format!("export {name}={}\n", quoted(value));
        }
        let words: Vec<_> = self.command.iter().map(|word| quoted(word)).collect();
        Ok(script + "exec " + &words.join(" ") + "\n")
    }
}

/// What the machine has written to /dev/ttyS1.
fn said(folder: &Path) -> String {
    std::fs::read_to_string(folder.join("code")).unwrap_or_default()
}

/// The exit code in a machine's last line, once that is whole.
fn exit_code(said: &str) -> Option<i32> {
    let last = said.strip_suffix('\n')?.lines().last()?;
    last.strip_prefix("ended with ")?.trim().parse().ok()
}

/// A word that the shell takes as it is.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::{exit_code, quoted};

    #[test]
    fn the_exit_code_is_in_the_last_line_once_that_is_whole() {
        assert_eq!(exit_code("7\r\nended with 12\r\n"), Some(12));
        for said in ["", "7\r\n", "ended with 1", "ended with 1\r\nmore\r\n"] {
            assert_eq!(exit_code(said), None, "{said:?}");
        }
    }

    #[test]
    fn a_word_reaches_the_shell_as_it_is() {
        assert_eq!(quoted("a b"), "'a b'");
        assert_eq!(quoted("it's $HOME"), r"'it'\''s $HOME'");
    }
}
