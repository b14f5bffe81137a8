//! `cargo xtask boot`: a board's image in QEMU, beside a fleet controller on this machine. What a user counts on is tried in order: the
//! board enrols, runs what it is told, survives a power cut in the middle of an update, runs without network what it last ran.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use punnet_boards::Arch;
use serde_json::Value;
use tempfile::TempDir;

use crate::build;
use crate::cross::Compiler;
use crate::emulator::Machine;
use crate::image::{self, Artefacts};
use crate::stand::{Broker, Programs, Stand, json_of};

/// The device's name in the fleet.
const DEVICE: &str = "board";
/// From power-on to being online, on an emulated board on a loaded machine.
const ONLINE_TIMEOUT: Duration = Duration::from_secs(600);
/// For one thing that the fleet asks for.
const STEP_TIMEOUT: Duration = Duration::from_secs(600);
/// What makes the second version's transfer long enough to be cut: it does not compress.
const BALLAST_BYTES: usize = 6 << 20;

/// Options of `boot`.
#[derive(clap::Args)]
pub struct Options {
    /// Which board (a file in board-configs/ with a [qemu] part, without .toml)
    #[arg(long, value_name = "BOARD")]
    board: String,
    /// Take the programs in this folder instead of compiling them: punnet and punnet-fleet of this machine, and the board's punnet, hello
    /// and blink in a folder named like its Rust target
    #[arg(long, value_name = "DIR")]
    programs: Option<PathBuf>,
    /// Only boot it, with the terminal as its serial console (Ctrl-A X ends)
    #[arg(long)]
    interactive: bool,
}

/// Makes the image and tries everything.
pub fn run_command(options: &Options) -> Result<()> {
    let programs = BoardPrograms::get(&options.board, options.programs.as_deref())?;
    if options.interactive {
        let folder = tempfile::tempdir()?;
        let image = image_options(&options.board, &programs, None);
        return Machine::interactive(&image::make(&image, folder.path())?);
    }
    scenario(&options.board, programs)
}

/// Programs for the board and for this machine.
pub struct BoardPrograms {
    /// The board's device binary.
    punnet: PathBuf,
    /// The board's example of GPIO.
    blink: PathBuf,
    /// What runs here, and the board's example.
    here: Programs,
}

impl BoardPrograms {
    /// Builds them, or takes them from a folder.
    pub fn get(board: &str, folder: Option<&Path>) -> Result<Self> {
        let arch = crate::cross::board(board)?.board.arch;
        if let Some(folder) = folder {
            let own = folder.join(arch.target());
            let mut here = Programs::in_folder(folder);
            here.hello = own.join("hello");
            return Ok(Self {
                punnet: own.join("punnet"),
                blink: own.join("blink"),
                here,
            });
        }
        let here = |package| build::device_binary(package, &[], build::Strip::Yes);
        // This machine's own kind of board runs what this machine runs, when that is static: nothing is compiled twice.
        let is_own = build::static_target()?.is_static && arch.target().starts_with(std::env::consts::ARCH);
        let compiler = if is_own { None } else { Some(Compiler::find()?) };
        let there = |package| match &compiler {
            Some(compiler) => compiler.build(package, arch, &[]),
            None => here(package),
        };
        Ok(Self {
            punnet: there("punnet")?,
            blink: there("blink")?,
            here: Programs {
                hello: there("hello")?,
                punnet: here("punnet")?,
                fleet: build::fleet_binary()?,
            },
        })
    }
}

fn image_options(board: &str, programs: &BoardPrograms, enroll: Option<PathBuf>) -> image::Options {
    image::Options {
        board: board.into(),
        enroll,
        settings: None,
        firmware: None,
        punnet: Some(programs.punnet.clone()),
        kernel: None,
    }
}

/// What every CI run has time for.
const BOARDS_OF_CI: &[&str] = &["qemu-x86_64", "qemu-virt-aarch64"];

/// The whole story on the boards that every CI run has time for.
pub fn run_in_ci() -> Result<()> {
    BOARDS_OF_CI
        .iter()
        .try_for_each(|board| scenario(board, BoardPrograms::get(board, None)?))
}

/// The whole story on every board that QEMU emulates.
pub fn run_on_all() -> Result<()> {
    for found in punnet_boards::load_all(&build::root().join("board-configs"))? {
        if found.qemu.is_some() {
            scenario(&found.board.name, BoardPrograms::get(&found.board.name, None)?)?;
        }
    }
    Ok(())
}

/// The whole story, on one board.
pub fn scenario(board: &str, programs: BoardPrograms) -> Result<()> {
    let began = Instant::now();
    let step = |what: &str| eprintln!("==> {board}, {:.0} s: {what}", began.elapsed().as_secs_f64());
    step("making the image");
    let mut story = Story::new(board, programs)?;
    step("switching on");
    story.switch_on()?;
    story.wait_online()?;
    step("deploying over MQTT");
    story.deploy_first()?;
    step("cutting power in the middle of an update");
    story.cut_power_during_update()?;
    step("starting without network");
    story.start_offline()?;
    step("the fleet comes back");
    story.complete_update()?;
    if story.has_gpio {
        step("switching a GPIO line from a container");
        story.switch_line()?;
    }
    step("exceeding a limit of memory");
    story.exceed_memory()?;
    step("freezing the agent");
    story.freeze_agent()?;
    step("switching off in order");
    story.power_off()?;
    step("done");
    Ok(())
}

struct Story {
    folder: TempDir,
    artefacts: Artefacts,
    stand: Stand,
    machine: Option<Machine>,
    platform: &'static str,
    /// The program that switches a GPIO line.
    blink: Vec<u8>,
    /// Whether there is one to switch.
    has_gpio: bool,
}

impl Story {
    fn new(board: &str, programs: BoardPrograms) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("punnet-boot-").tempdir()?;
        let arch = crate::cross::board(board)?.board.arch;
        let mut image = image_options(board, &programs, None);
        let blink = std::fs::read(&programs.blink)?;
        let mut stand = Stand::new(programs.here)?;
        stand.start_controller(Broker::Embedded)?;
        image.enroll = Some(stand.enrol_by(DEVICE, &stand.broker_seen_from_emulator())?);
        let artefacts = image::make(&image, folder.path())?;
        Ok(Self {
            folder,
            platform: platform(arch),
            blink,
            has_gpio: arch != Arch::Amd64,
            artefacts,
            stand,
            machine: None,
        })
    }

    fn machine(&mut self) -> Result<&mut Machine> {
        self.machine.as_mut().context("the board is off")
    }

    fn switch_on(&mut self) -> Result<()> {
        self.machine = Some(Machine::start(&self.artefacts, &["punnet.console"])?);
        Ok(())
    }

    fn wait_online(&mut self) -> Result<()> {
        let devices = || json_of(&mut self.stand.fleet(&["devices", "--json"]));
        let machine = self.machine.as_mut().context("the board is off")?;
        machine.wait_for("the board to be online", ONLINE_TIMEOUT, |_| {
            let devices = devices()?;
            let online = |entry: &Value| entry["name"] == DEVICE && entry["online"] == true;
            Ok(devices
                .as_array()
                .is_some_and(|all| all.iter().any(online))
                .then_some(()))
        })
    }

    /// Builds a version for the board's platform; `ballast` makes it large.
    fn add_image(&self, ballast: usize) -> Result<()> {
        let layout = self.folder.path().join(format!("layout-{ballast}"));
        let more = [("blink", &*self.blink), ("ballast", &noise(ballast))];
        self.stand.build_hello_for(self.platform, &layout, &more)?;
        self.stand.add_image(&layout)
    }

    fn deploy_first(&mut self) -> Result<()> {
        self.add_image(0)?;
        // Good at once, so that it is what the board goes back to.
        let options = ["--env", "GREETING=first", "--soak", "0s"];
        self.stand.begin_deploy("hello", DEVICE, &options)?;
        self.wait_app("hello", "to run", |app| app["state"] == "running")?;
        let lines = self.stand.first_lines("hello", DEVICE, 2)?;
        ensure!(
            lines[0].starts_with("first: "),
            "the app's output came back as {lines:?}"
        );
        println!("    | {}", lines[0]);
        Ok(())
    }

    fn cut_power_during_update(&mut self) -> Result<()> {
        self.add_image(BALLAST_BYTES)?;
        self.stand
            .begin_deploy("hello", DEVICE, &["--env", "GREETING=second"])?;
        self.wait_app("hello", "to be half way", |app| {
            app["state"] == "fetching" && app["done_bytes"].as_u64().unwrap_or(0) > 0
        })?;
        self.machine.take().context("the board is off")?.cut_power()?;
        self.stand.kill_controller()
    }

    fn wait_console(&mut self) -> Result<()> {
        self.machine()?.wait_for("the console", ONLINE_TIMEOUT, |output| {
            Ok(output.contains("punnet> ").then_some(()))
        })
    }

    fn start_offline(&mut self) -> Result<()> {
        self.switch_on()?;
        let machine = self.machine()?;
        machine.wait_for("the console", ONLINE_TIMEOUT, |output| {
            Ok(output.contains("punnet> ").then_some(()))
        })?;
        // The agent starts it as soon as it can; nobody is there to tell us but the board itself.
        machine.ask_until("ps", STEP_TIMEOUT, |answer| {
            answer.contains("hello") && answer.contains("running")
        })?;
        let said = machine.ask_until("logs hello", STEP_TIMEOUT, |answer| answer.contains(": "))?;
        ensure!(
            said.contains("first: "),
            "not the last-known-good version runs: {said}"
        );
        Ok(())
    }

    fn complete_update(&mut self) -> Result<()> {
        self.stand.start_controller(Broker::Embedded)?;
        self.wait_online()?;
        self.wait_app("hello", "to be the second version", |app| {
            app["state"] == "running" && app["as_wanted"] == true
        })?;
        let lines = self.stand.first_lines("hello", DEVICE, 1)?;
        ensure!(lines[0].starts_with("second: "), "after the update: {lines:?}");
        println!("    | {}", lines[0]);
        Ok(())
    }

    /// A line of the first chip that no LED is on.
    fn switch_line(&mut self) -> Result<()> {
        let options = [
            "--device-class",
            "gpio",
            "--entrypoint",
            "/blink",
            "--restart",
            "never",
            "--",
            "/dev/gpiochip0",
            "5",
            "--times",
            "3",
        ];
        self.stand.begin_deploy("blink", DEVICE, &options)?;
        self.wait_app("blink", "to have switched a line", |app| app["state"] == "exited")?;
        let lines = self.stand.first_lines("blink", DEVICE, 3)?;
        let want = [1, 0, 1].map(|level| format!("line 5 set to {level}, reads {level}"));
        ensure!(lines == want, "the line did not follow: {lines:?}");
        println!("    | {}", lines[0]);
        Ok(())
    }

    fn exceed_memory(&mut self) -> Result<()> {
        let options = ["--memory", "8m", "--restart", "never", "--", "--fill", "64"];
        self.stand.begin_deploy("leak", DEVICE, &options)?;
        self.wait_app("leak", "to be killed", |app| {
            app["detail"]
                .as_str()
                .is_some_and(|detail| detail.contains("out of memory"))
        })?;
        Ok(())
    }

    /// Nobody but the watchdog can help then. What it restarts comes up with what ran.
    fn freeze_agent(&mut self) -> Result<()> {
        let machine = self.machine()?;
        let processes = machine.ask_until("processes", STEP_TIMEOUT, |answer| {
            answer.contains("punnet agent")
        })?;
        let line = processes
            .lines()
            .find(|line| line.contains("punnet agent"))
            .context("no agent runs")?;
        let pid = line.split_whitespace().next().unwrap_or_default().to_owned();
        machine.type_line(&format!("signal STOP {pid}"))?;
        machine.wait_ended(STEP_TIMEOUT)?;
        let output = machine.output();
        ensure!(
            output.contains("the watchdog is no longer fed"),
            "it ended otherwise"
        );
        self.switch_on()?;
        self.wait_console()?;
        self.machine()?.ask_until("ps", STEP_TIMEOUT, |answer| {
            answer.contains("hello") && answer.contains("running")
        })?;
        Ok(())
    }

    fn power_off(&mut self) -> Result<()> {
        let mut machine = self.machine.take().context("the board is off")?;
        machine.type_line("poweroff")?;
        machine.wait_ended(STEP_TIMEOUT)?;
        let output = machine.output();
        ensure!(output.contains("switching off"), "it ended otherwise");
        Ok(())
    }

    /// Waits until the fleet's view of the app is as wanted.
    fn wait_app(&mut self, app: &str, what: &str, wanted: impl Fn(&Value) -> bool) -> Result<()> {
        let stand = &self.stand;
        let machine = self.machine.as_mut().context("the board is off")?;
        let mut last = Value::Null;
        let done = machine.wait_for(&format!("{app} {what}"), STEP_TIMEOUT, |_| {
            last = stand.app(DEVICE, app)?;
            Ok(wanted(&last).then_some(()))
        });
        done.with_context(|| format!("the fleet knows: {last}"))
    }
}

/// The OCI platform of an architecture.
const fn platform(arch: Arch) -> &'static str {
    match arch {
        Arch::Amd64 => "linux/amd64",
        Arch::Arm64 => "linux/arm64",
        Arch::ArmV7 => "linux/arm/v7",
        Arch::ArmV6 => "linux/arm/v6",
    }
}

/// Bytes that do not compress and are the same each time (xorshift).
fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    std::iter::repeat_with(next).take(bytes).collect()
}
