//! A board's image in QEMU: its serial line as text, its power switch.

use std::io::{Read, Write};
use std::path::Path;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use punnet_boards::{Drive, Qemu};

use crate::build::target_dir;
use crate::image::{Artefacts, command_line};
use crate::packages;
use crate::process::{self, Server, run, wait_for};

/// Lines of the serial console that an error shows.
const TAIL_LINES: usize = 40;

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
}

impl Machine {
    /// Switches it on, with these words on the kernel's command line besides the board's.
    pub fn start(artefacts: &Artefacts, words: &[&str]) -> Result<Self> {
        let mut command = command(artefacts, words)?;
        command
            .args(["-serial", "stdio", "-monitor", "none"])
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
        Ok(Self {
            server,
            keyboard,
            output,
        })
    }

    /// The terminal is its serial console until it ends.
    pub fn interactive(artefacts: &Artefacts) -> Result<()> {
        run(command(artefacts, &["punnet.console"])?.args(["-serial", "mon:stdio"]))
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
        let (server, output) = (&mut self.server, &self.output);
        let text = || output.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let answer = wait_for(what, timeout, || {
            server.check()?;
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

    /// From one moment to the next.
    pub fn cut_power(self) -> Result<()> {
        self.server.kill()
    }

    /// Waits until it has switched itself off or wants to restart.
    pub fn wait_ended(&mut self, timeout: Duration) -> Result<()> {
        let ended = wait_for("the board to end", timeout, || self.server.ended());
        ended.with_context(|| format!("the end of the serial line:\n{}", tail(&self.output())))
    }
}

fn tail(text: &str) -> String {
    let lines: Vec<_> = text.lines().rev().take(TAIL_LINES).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join("\n")
}

fn command(artefacts: &Artefacts, words: &[&str]) -> Result<Command> {
    packages::ensure(PROGRAMS)?;
    let description = &artefacts.description;
    let qemu = description
        .qemu
        .as_ref()
        .with_context(|| format!("{} has no [qemu] part", description.board.name))?;
    let line = command_line(&description.board);
    let own = qemu.command_line.iter().map(String::as_str);
    let line: Vec<_> = [line.as_str()]
        .into_iter()
        .chain(own)
        .chain(words.iter().copied())
        .collect();
    let mut command = Command::new(&qemu.program);
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
        .arg(&artefacts.kernel)
        .arg("-initrd")
        .arg(&artefacts.initramfs)
        .arg("-drive")
        .arg(drive(qemu.drive, &artefacts.card)?)
        .args([
            "-netdev",
            "user,id=net",
            "-device",
            &format!("{},netdev=net", qemu.network),
        ]);
    if let Some(tree) = device_tree(artefacts, qemu)? {
        command.arg("-dtb").arg(tree);
    }
    Ok(command)
}

fn drive(kind: Drive, card: &Path) -> Result<String> {
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
    Ok(format!("file={},format=raw,if={interface}", card.display()))
}

/// A copy of the kernel's device tree without what QEMU does not model.
fn device_tree(artefacts: &Artefacts, qemu: &Qemu) -> Result<Option<std::path::PathBuf>> {
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
    if process::interrupted() {
        bail!("interrupted");
    }
    Ok(Some(copy))
}
