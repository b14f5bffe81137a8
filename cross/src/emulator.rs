//! A board's image in QEMU: its serial line as text, its power switch.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use punnet_boards::{Drive, Qemu};

use crate::build::target_dir;
use crate::image::{self, Artefacts};
use crate::kernel;
use crate::packages;
use crate::process::{self, Server, Watch, run, stdout_of, wait_for};

/// Lines of the serial console that an error shows.
const TAIL_LINES: usize = 40;

/// So many times longer the emulated firmware waits for a kernel of which nothing was heard yet.
const SILENT_FACTOR: u32 = 10;

/// For an answer of the console.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// For a time of its own clock to come, by this machine's.
const UPTIME_TIMEOUT: Duration = Duration::from_secs(600);

/// Programs it takes, and the Debian package of each.
const PROGRAMS: &[(&str, &str)] = &[
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("qemu-system-aarch64", "qemu-system-arm"),
    ("qemu-system-arm", "qemu-system-arm"),
    ("fdtput", "device-tree-compiler"),
];

/// A board that is switched on.
pub struct Machine {
    server: Server,
    keyboard: ChildStdin,
    output: Arc<Mutex<String>>,
    /// What the board needs besides itself.
    others: Vec<Watch>,
    /// How long the firmware waits for a kernel to take the watchdog over, and since when.
    firmware_watchdog: Option<(Duration, Instant)>,
    /// The card, as the kernel calls it.
    disk: &'static str,
    /// The socket of QEMU's monitor.
    monitor: PathBuf,
}

impl Machine {
    /// Switches it on, with these words on the kernel's command line besides the board's.
    pub fn start(artefacts: &Artefacts, words: &[&str], conditions: &Conditions<'_>) -> Result<Self> {
        let mut command = command(artefacts, words, conditions)?;
        let monitor = artefacts.card.with_extension("monitor");
        command
            .args(["-serial", "stdio", "-monitor"])
            .arg(format!("unix:{},server=on,wait=off", monitor.display()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let (server, keyboard, mut screen) = Server::start_with_pipes("emulated board", &mut command)?;
        let output = Arc::new(Mutex::new(String::new()));
        let collected = output.clone();
        let log = target_dir().join(format!("serial-{}.log", artefacts.description.board.name));
        let mut log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(&log)
            .with_context(|| format!("cannot write {}", log.display()))?;
        std::thread::spawn(move || {
            let mut piece = [0; 4096];
            while let Ok(length @ 1..) = screen.read(&mut piece) {
                // For people; the tests go by what is collected.
                log.write_all(&piece[..length]).ok();
                let text = String::from_utf8_lossy(&piece[..length]).replace('\r', "");
                collected
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push_str(&text);
            }
        });
        let config = image::read_on_card(&artefacts.card, "config.txt")?.unwrap_or_default();
        let seconds = value_in(&String::from_utf8_lossy(&config), "kernel_watchdog_timeout=")
            .and_then(|value| value.parse().ok());
        Ok(Self {
            server,
            keyboard,
            output,
            others: Vec::new(),
            firmware_watchdog: seconds.map(|seconds| (Duration::from_secs(seconds), Instant::now())),
            disk: match artefacts.description.qemu.as_ref().map(|qemu| qemu.drive) {
                Some(Drive::Sd) => "mmcblk0",
                Some(Drive::Virtio) | None => "vda",
            },
            monitor,
        })
    }

    /// The terminal is its serial console until it ends.
    pub fn interactive(artefacts: &Artefacts) -> Result<()> {
        run(command(artefacts, &["punnet.console"], &Conditions::default())?.args(["-serial", "mon:stdio"]))
    }

    /// Without these the board waits in vain: whoever waits for it is told when one ends by itself.
    pub fn needs(&mut self, others: Vec<Watch>) {
        self.others = others;
    }

    /// All that came over the serial line.
    pub fn output(&self) -> String {
        self.output.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Looks again and again until `ready`, which sees the serial line so far, has an answer.
    pub fn wait_for<T>(
        &mut self,
        what: &str,
        timeout: Duration,
        mut ready: impl FnMut(&str) -> Result<Option<T>>,
    ) -> Result<T> {
        let (server, others, output) = (&self.server, &self.others, &self.output);
        let text = || output.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let answer = wait_for(what, timeout, || {
            server.check()?;
            others.iter().try_for_each(Watch::check)?;
            ready(&text())
        });
        answer.with_context(|| format!("the end of the serial line:\n{}", tail(&text())))
    }

    /// Types a line on the serial console.
    pub fn type_line(&mut self, line: &str) -> Result<()> {
        self.keyboard
            .write_all(format!("{line}\n").as_bytes())
            .context("the board does not listen")
    }

    /// Asks the board's console until the answer is as wanted, and returns it.
    pub fn ask_until(
        &mut self,
        line: &str,
        timeout: Duration,
        wanted: impl Fn(&str) -> bool,
    ) -> Result<String> {
        let began = std::time::Instant::now();
        loop {
            let before = self.output().len();
            self.type_line(line)?;
            let answer = self.wait_for(line, timeout, |output| {
                // Up to the next prompt: the agent's own words may follow it.
                let answer = output[before..].split_once("\npunnet> ");
                Ok(answer.map(|(answer, _)| answer.to_owned()))
            })?;
            if wanted(&answer) {
                return Ok(answer);
            }
            ensure!(
                began.elapsed() < timeout,
                "{line} was answered again and again with: {answer}"
            );
            std::thread::sleep(Duration::from_millis(500));
        }
    }

    /// Sectors that the board has written to its card since it was switched on (Linux Documentation/block/stat.rst). The board is at its console.
    pub fn sectors_written(&mut self) -> Result<u64> {
        let disk = self.disk;
        let stat = |answer: &str| {
            let line = answer
                .lines()
                .find(|line| line.split_whitespace().count() >= 11)?;
            line.split_whitespace().nth(6)?.parse().ok()
        };
        let answer = self.ask_until(&format!("cat /sys/block/{disk}/stat"), ANSWER_TIMEOUT, |answer| {
            stat(answer).is_some()
        })?;
        stat(&answer).context("the kernel counts no writes")
    }

    /// Waits until it has been up so long by its own clock, and returns how long it has been, seconds. The board is at its console.
    pub fn wait_uptime(&mut self, seconds: f64) -> Result<f64> {
        let uptime = |answer: &str| {
            answer
                .split_whitespace()
                .find_map(|word| word.parse::<f64>().ok())
        };
        let answer = self.ask_until("cat /proc/uptime", UPTIME_TIMEOUT, |answer| {
            uptime(answer).is_some_and(|now| now >= seconds)
        })?;
        uptime(&answer).context("just seen")
    }

    /// Plugs something in: what `-device` takes. QEMU, human monitor: device_add
    pub fn plug_in(&self, device: &str) -> Result<()> {
        let mut monitor = UnixStream::connect(&self.monitor).context("QEMU's monitor does not answer")?;
        monitor.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        read_prompt(&mut monitor)?;
        monitor.write_all(format!("device_add {device}\n").as_bytes())?;
        let answer = read_prompt(&mut monitor)?;
        ensure!(!answer.contains("Error"), "QEMU takes no {device}: {answer}");
        Ok(())
    }

    /// From one moment to the next.
    pub fn cut_power(self) -> Result<()> {
        self.server.kill()
    }

    /// What the firmware knows at the next start: the kernel's last words tell it.
    pub fn reboot_flag(&self) -> RebootFlag {
        if self
            .output()
            .contains("Restarting system with command '0 tryboot'")
        {
            RebootFlag::TryBoot
        } else {
            RebootFlag::None
        }
    }

    /// Waits until it has switched itself off or wants to restart. As the Pi's firmware does with `kernel_watchdog_timeout`, a system that has not
    /// taken the watchdog over in time is restarted.
    pub fn wait_ended(&mut self, timeout: Duration) -> Result<()> {
        let (server, output, watchdog) = (&self.server, &self.output, self.firmware_watchdog);
        let mut heard_at = None;
        let mut bites = |(patience, since): (Duration, Instant)| {
            let output = output.lock().unwrap_or_else(PoisonError::into_inner);
            if output.contains("restarts the board when it is not fed") {
                return false;
            }
            // A kernel that says nothing may just have got no processor of this machine so far.
            if !output.is_empty() {
                heard_at.get_or_insert_with(Instant::now);
            }
            heard_at.map_or(since + SILENT_FACTOR * patience, |at| at + patience) <= Instant::now()
        };
        let ended = wait_for("the board to end", timeout, || {
            if watchdog.is_some_and(&mut bites) {
                server.stop()?;
            }
            self.others.iter().try_for_each(Watch::check)?;
            server.ended()
        });
        ended.with_context(|| format!("the end of the serial line:\n{}", tail(&self.output())))
    }
}

/// What the system tells the firmware when it restarts: reboot(2)'s argument. The firmware forgets it as soon as it has read it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RebootFlag {
    /// Nothing, as after power was cut.
    #[default]
    None,
    /// "0 tryboot": tryboot.txt counts in place of config.txt, this once.
    TryBoot,
}

/// What a board is switched on with.
#[derive(Default)]
pub struct Conditions<'a> {
    /// What the firmware was told before.
    pub flag: RebootFlag,
    /// The card cannot be written.
    pub read_only: bool,
    /// More words for QEMU.
    pub arguments: &'a [&'a str],
    /// A `-netdev` among them that the board is connected to; none is this machine's own network.
    pub network: Option<&'a str>,
}

/// What the firmware starts.
struct Booted {
    kernel: PathBuf,
    initramfs: PathBuf,
    command_line: String,
}

/// Reads the boot partition as the Pi's firmware does (Raspberry Pi documentation: config.txt, tryboot), as far as ours has it.
fn boot_files(artefacts: &Artefacts, flag: RebootFlag) -> Result<Booted> {
    let on_card = |name: &str| image::read_on_card(&artefacts.card, name);
    let config = match flag {
        RebootFlag::TryBoot => on_card("tryboot.txt")?,
        RebootFlag::None => None,
    };
    let config = match config {
        Some(config) => config,
        None => on_card("config.txt")?.context("there is no config.txt on the card")?,
    };
    let config = String::from_utf8_lossy(&config);
    let value = |key| value_in(&config, key);
    let prefix = value("os_prefix=").unwrap_or_default();
    let initramfs = value("initramfs ").and_then(|value| value.split_whitespace().next());
    let take = |name: Option<&str>| -> Result<PathBuf> {
        let name = name.context("config.txt names no kernel or no initramfs")?;
        let path = artefacts.card.with_extension(name);
        let content = on_card(&format!("{prefix}{name}"))?
            .with_context(|| format!("there is no {prefix}{name} on the card"))?;
        std::fs::write(&path, content)?;
        Ok(path)
    };
    let command_line =
        on_card(&format!("{prefix}cmdline.txt"))?.context("there is no cmdline.txt on the card")?;
    Ok(Booted {
        kernel: take(value("kernel="))?,
        initramfs: take(initramfs)?,
        command_line: String::from_utf8_lossy(&command_line).into_owned(),
    })
}

/// What is behind the key, in the first line that begins with it.
fn value_in<'a>(config: &'a str, key: &str) -> Option<&'a str> {
    let found = config.lines().find_map(|line| line.strip_prefix(key));
    found.map(str::trim)
}

/// What QEMU's monitor says until it wants the next command.
fn read_prompt(monitor: &mut UnixStream) -> Result<String> {
    let mut said = Vec::new();
    while !said.ends_with(b"(qemu) ") {
        let mut byte = [0];
        monitor
            .read_exact(&mut byte)
            .context("QEMU's monitor does not go on")?;
        said.push(byte[0]);
    }
    Ok(String::from_utf8_lossy(&said).into_owned())
}

fn tail(text: &str) -> String {
    let lines: Vec<_> = text.lines().rev().take(TAIL_LINES).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join("\n")
}

/// The QEMU that knows the board's machine: the installed one, or else Debian's backport of a newer one (raspi4b came with 9.0).
pub fn program(qemu: &Qemu) -> Result<PathBuf> {
    packages::ensure(PROGRAMS)?;
    let installed = PathBuf::from(&qemu.program);
    if knows(&installed, qemu)? {
        return Ok(installed);
    }
    let package = PROGRAMS.iter().find(|(program, _)| *program == qemu.program);
    let (_, package) = package.with_context(|| format!("no package is known to have {}", qemu.program))?;
    let newer = kernel::backport(package)?.join("usr/bin").join(&qemu.program);
    ensure!(
        knows(&newer, qemu)?,
        "neither the installed {} nor Debian's backport of it emulates this board",
        qemu.program
    );
    Ok(newer)
}

/// One that is not installed must not load what belongs to one that is.
fn of_its_own(program: &Path) -> Command {
    let mut command = Command::new(program);
    if let Some(folder) = program.parent().filter(|folder| folder.is_absolute()) {
        command.env("QEMU_MODULE_DIR", folder);
    }
    command
}

fn knows(program: &Path, qemu: &Qemu) -> Result<bool> {
    let machine = qemu.arguments.iter().skip_while(|word| *word != "-M").nth(1);
    let name = machine
        .and_then(|machine| machine.split(',').next())
        .context("[qemu] names no machine (-M)")?;
    let listed = stdout_of(of_its_own(program).args(["-M", "help"]))?;
    Ok(listed
        .lines()
        .any(|line| line.split_whitespace().next() == Some(name)))
}

fn command(artefacts: &Artefacts, words: &[&str], conditions: &Conditions<'_>) -> Result<Command> {
    let description = &artefacts.description;
    let qemu = description
        .qemu
        .as_ref()
        .with_context(|| format!("{} has no [qemu] part", description.board.name))?;
    let booted = boot_files(artefacts, conditions.flag)?;
    let own = qemu.command_line.iter().map(String::as_str);
    let line: Vec<_> = [booted.command_line.trim()]
        .into_iter()
        .chain(own)
        .chain(words.iter().copied())
        .collect();
    let mut command = of_its_own(&program(qemu)?);
    command
        .args(&qemu.arguments)
        .args([
            "-display",
            "none",
            "-no-reboot",
            "-append",
            &line.join(" "),
            "-kernel",
        ])
        .arg(&booted.kernel)
        .arg("-initrd")
        .arg(&booted.initramfs)
        .arg("-drive")
        .arg(drive(qemu.drive, &artefacts.card, conditions.read_only)?)
        .args(conditions.arguments)
        .args([
            "-device",
            &format!("{},netdev={}", qemu.network, conditions.network.unwrap_or("net")),
        ]);
    if conditions.network.is_none() {
        command.args(["-netdev", "user,id=net"]);
    }
    if let Some(tree) = device_tree(artefacts, qemu)? {
        command.arg("-dtb").arg(tree);
    }
    Ok(command)
}

fn drive(kind: Drive, card: &Path, read_only: bool) -> Result<String> {
    let interface = match kind {
        Drive::Virtio => "virtio",
        Drive::Sd => {
            // QEMU's card has a size that is a power of two.
            let bytes = std::fs::metadata(card)?.len();
            if !bytes.is_power_of_two() {
                std::fs::File::options()
                    .write(true)
                    .open(card)?
                    .set_len(bytes.next_power_of_two())?;
            }
            "sd"
        }
    };
    let lock = if read_only { ",readonly=on" } else { "" };
    // Cutting the board's power leaves what this machine's kernel has of the card: nothing needs to wait for its disk.
    Ok(format!(
        "file={},format=raw,if={interface},cache=unsafe{lock}",
        card.display()
    ))
}

/// A copy of the kernel's device tree without what QEMU does not model, and as it wires the rest.
fn device_tree(artefacts: &Artefacts, qemu: &Qemu) -> Result<Option<PathBuf>> {
    let Some(tree) = &qemu.device_tree else {
        return Ok(None);
    };
    let copy = artefacts.card.with_extension("dtb");
    std::fs::copy(artefacts.device_trees.join(tree), &copy)
        .with_context(|| format!("this kernel has no device tree {tree}"))?;
    for node in &qemu.disabled_nodes {
        run(Command::new("fdtput")
            .args(["-t", "s"])
            .arg(&copy)
            .args([node, "status", "disabled"]))?;
    }
    for changed in &qemu.changed_properties {
        let mut command = Command::new("fdtput");
        match &changed.value {
            Some(value) => {
                command
                    .args(["-t", "s"])
                    .arg(&copy)
                    .args([&changed.node, &changed.property, value])
            }
            None => command
                .arg("-d")
                .arg(&copy)
                .args([&changed.node, &changed.property]),
        };
        run(&mut command)?;
    }
    if process::interrupted() {
        bail!("interrupted");
    }
    Ok(Some(copy))
}
