//! What a user counts on, in order, on one board.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use punnet_boards::Arch;
use serde_json::Value;
use tempfile::TempDir;

use super::measure::Start;
use super::{BoardPrograms, image_options};
use crate::chrony::Chrony;
use crate::emulator::{Conditions, Machine, RebootFlag};
use crate::image::{self, Artefacts};
use crate::mosquitto::Mosquitto;
use crate::process::Watch;
use crate::stand::{Broker, Stand, json_of};

/// The device's name in the fleet.
pub(super) const DEVICE: &str = "board";
/// The controller's name at a broker that asks for one.
const CONTROLLER: &str = "fleet";
/// From power-on to being online, on an emulated board on a loaded machine.
pub(super) const ONLINE_TIMEOUT: Duration = Duration::from_secs(600);
/// For one thing that the fleet asks for.
pub(super) const STEP_TIMEOUT: Duration = Duration::from_secs(600);
/// For either on a board that may have too little RAM: several times what it takes with enough.
const TRIED_TIMEOUT: Duration = Duration::from_secs(180);
/// What makes the second version's transfer long enough to be cut: it does not compress.
const BALLAST_BYTES: usize = 6 << 20;
/// The board whose fleet has Mosquitto with TLS and passwords. It has a clock, so that certificates are good from the start.
const BOARD_ON_MOSQUITTO: &str = "qemu-x86_64";
/// The board that something is plugged into while it runs.
const BOARD_WITH_USB: &str = "qemu-x86_64";
/// A host controller whose driver is loaded because it is there, and a serial line for the adapter. QEMU, usb-serial (FTDI's chip)
const USB: [&str; 4] = ["-device", "qemu-xhci", "-chardev", "null,id=line"];
/// The board that is told its address instead of asking for one; what QEMU's user network would give it is another (10.0.2.15).
const BOARD_WITH_FIXED_ADDRESS: &str = "qemu-x86_64";
const FIXED_ADDRESS: &str = "address=10.0.2.77/24\ngateway=10.0.2.2\n";
/// What QEMU's user network advertises by IPv6, as /proc/net/if_inet6 writes it.
const ADVERTISED_PREFIX: &str = "fec0000000000000";
/// ::1, which lo has once it is up, likewise.
const LOOPBACK: &str = "00000000000000000000000000000001";
/// The board whose system is updated: its kernel is the smallest one.
const BOARD_WITH_UPDATES: &str = "qemu-x86_64";
/// Its firmware gives a kernel so long to take the watchdog over; a busy machine needs some, and nobody waits for a minute.
const FIRMWARE_WAITS_S: u32 = 30;
/// The board that asks a time server of ours: it has no clock.
const BOARD_WITHOUT_CLOCK: &str = "raspberry-pi-zero";
/// The board that is watched at rest: its emulation can hurry.
const BOARD_AT_REST: &str = "qemu-virt-aarch64";
/// The board that meets what goes wrong in the field: it starts soonest.
const BOARD_IN_TROUBLE: &str = "qemu-virt-aarch64";
/// The board whose LED is the kernel's, where it can be read back.
const BOARD_WITH_LED: &str = "raspberry-pi-zero";

/// How the board's clock goes. QEMU, TCG instruction counting
#[derive(Clone, Copy, Default)]
pub enum Clock {
    /// As this machine's.
    #[default]
    Real,
    /// It counts instructions, 2 ns each, on one processor: what it measures is the same whatever else this machine does. While the board waits, it goes as
    /// this machine's.
    Counted,
    /// Likewise, but while the board waits it goes on to when somebody is to wake.
    Hurried,
}

impl Clock {
    const fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::Real => &[],
            Self::Counted => &["-icount", "shift=1,sleep=on"],
            Self::Hurried => &["-icount", "shift=1,sleep=off"],
        }
    }
}

/// What the board is given that is not its own.
#[derive(Clone, Copy, Default)]
pub struct Variant {
    /// RAM.
    pub memory_mib: Option<u32>,
    /// Its clock.
    pub clock: Clock,
    /// It may well not work: nobody waits for it as long as for one that shall.
    pub is_tried: bool,
    /// Without the modules that only devices ask for.
    pub no_hotplug: bool,
}

impl Variant {
    /// More words for QEMU.
    pub(super) fn arguments(self) -> Vec<String> {
        let memory = self.memory_mib.map(|mib| ["-m".into(), mib.to_string()]);
        let clock = self.clock.arguments().iter().map(|word| (*word).to_owned());
        memory.into_iter().flatten().chain(clock).collect()
    }

    /// For the board to be online, and for one thing that the fleet asks for.
    const fn patience(self) -> Duration {
        if self.is_tried {
            TRIED_TIMEOUT
        } else {
            STEP_TIMEOUT
        }
    }

    /// More words for the kernel: without room for frame buffers and the like, which a board this small does not have, and for the tests of ciphers, in
    /// which the kernel itself runs out of memory.
    pub(super) const fn words(self) -> &'static [&'static str] {
        match self.memory_mib {
            Some(_) => &["cma=0", "cryptomgr.notests"],
            None => &[],
        }
    }
}

/// The whole story, on one board.
pub fn scenario(board: &str, programs: BoardPrograms, variant: Variant) -> Result<()> {
    let began = Instant::now();
    let step = |what: &str| eprintln!("==> {board}, {:.0} s: {what}", began.elapsed().as_secs_f64());
    step("making the image");
    let mut story = Story::new(board, programs, variant)?;
    step("switching on");
    story.switch_on()?;
    story.wait_online()?;
    story.check_addresses()?;
    if board == BOARD_WITHOUT_CLOCK {
        step("learning the time");
        story.learn_time()?;
    }
    step("deploying over MQTT");
    story.deploy_first()?;
    story.tell_memory()?;
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
    if board == BOARD_IN_TROUBLE {
        step("crashing what PID 1 has started");
        story.crash_roles()?;
    }
    step("freezing the agent");
    story.freeze_agent()?;
    if board == BOARD_WITH_UPDATES {
        step("updating its system");
        story.update_system()?;
        step("updating its system to one that does not get well");
        story.update_system_to_one_that_stays_on_trial()?;
        step("updating its system to one that does not start");
        story.update_system_to_a_bad_one()?;
        step("updating its system to one that hangs");
        story.update_system_to_one_that_hangs()?;
    }
    step("switching off in order");
    story.power_off()?;
    if board == BOARD_AT_REST {
        step("resting for an hour of its own clock");
        story.rest_for_an_hour()?;
    }
    if board == BOARD_WITH_USB {
        step("plugging in a serial adapter");
        story.plug_in_an_adapter()?;
    }
    if board == BOARD_ON_MOSQUITTO {
        step("telling the fleet what is wrong");
        story.tell_fleet_of_trouble()?;
    }
    if board == BOARD_WITH_LED {
        step("starting with a spoiled board file, and blinking");
        story.show_trouble_by_led()?;
    }
    if board == BOARD_IN_TROUBLE {
        step("starting from a full card");
        story.start_with_full_data()?;
        step("starting without a board file");
        story.start_without_a_board_file()?;
        step("starting from a damaged card");
        story.start_with_damaged_data()?;
        step("starting with a spoiled boot partition, in 1970, without network");
        story.start_with_a_spoiled_boot_partition()?;
        step("starting from a read-only card");
        story.start_from_a_read_only_card()?;
        step("starting without data");
        story.start_without_data()?;
        step("starting with a blank data partition");
        story.start_with_blank_data()?;
        step("starting with another kernel than its modules are of");
        story.start_with_another_kernel()?;
        step("starting from a card with its apps on it");
        story.start_alone()?;
        step("starting by a clock that counts instructions");
        story.start_in_time()?;
    }
    step("done");
    Ok(())
}

pub(super) struct Story {
    pub(super) folder: TempDir,
    pub(super) artefacts: Artefacts,
    pub(super) stand: Stand,
    /// In place of the embedded broker.
    mosquitto: Option<Mosquitto>,
    /// What tells the board the time.
    chrony: Option<Chrony>,
    machine: Option<Machine>,
    /// What the firmware was told by the last restart.
    flag: RebootFlag,
    /// What the board is given that is not its own.
    pub(super) variant: Variant,
    /// The card's switch is at "lock".
    pub(super) read_only: bool,
    /// The board's programs, for another version of its system.
    pub(super) programs: BoardPrograms,
    platform: &'static str,
    /// The program that switches a GPIO line.
    blink: Vec<u8>,
    /// Whether there is one to switch.
    has_gpio: bool,
}

impl Story {
    pub(super) fn new(board: &str, programs: BoardPrograms, variant: Variant) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("punnet-boot-").tempdir()?;
        let arch = crate::cross::board(board)?.board.arch;
        let mut stand = Stand::new(programs.here.clone())?;
        let mosquitto = (board == BOARD_ON_MOSQUITTO)
            .then(|| Mosquitto::start(&folder.path().join("broker"), &[CONTROLLER, DEVICE]))
            .transpose()?;
        start_controller(&mut stand, mosquitto.as_ref())?;
        let enrolment = enrol(&stand, mosquitto.as_ref())?;
        let chrony = (board == BOARD_WITHOUT_CLOCK)
            .then(|| Chrony::start(&folder.path().join("chrony")))
            .transpose()?;
        let mut options = image_options(board, &programs, Some(enrolment));
        let fixed = (board == BOARD_WITH_FIXED_ADDRESS).then(|| FIXED_ADDRESS.to_owned());
        let asking = chrony
            .as_ref()
            .map(|chrony| format!("ntp={}\n", chrony.seen_from_emulator()));
        if let Some(text) = fixed.or(asking) {
            let settings = folder.path().join("settings");
            std::fs::write(&settings, text)?;
            options.settings = Some(settings);
        }
        options.no_hotplug = variant.no_hotplug;
        let artefacts = image::make(&options, folder.path())?;
        if board == BOARD_WITH_UPDATES {
            let config = image::read_on_card(&artefacts.card, "config.txt")?.context("a card has one")?;
            let sooner = String::from_utf8(config)?.replace(
                "kernel_watchdog_timeout=60",
                &format!("kernel_watchdog_timeout={FIRMWARE_WAITS_S}"),
            );
            let file = folder.path().join("sooner");
            std::fs::write(&file, sooner)?;
            image::put_on_card(&artefacts.card, &file, "config.txt")?;
        }
        Ok(Self {
            folder,
            platform: arch.platform(),
            blink: std::fs::read(&programs.blink)?,
            has_gpio: arch != Arch::Amd64,
            artefacts,
            stand,
            mosquitto,
            chrony,
            machine: None,
            flag: RebootFlag::None,
            variant,
            read_only: false,
            programs,
        })
    }

    /// The board's enrolment file anew.
    pub(super) fn enrol(&self) -> Result<PathBuf> {
        enrol(&self.stand, self.mosquitto.as_ref())
    }

    /// Controller and broker, from one moment to the next.
    fn lose_fleet(&mut self) -> Result<()> {
        self.stand.kill_controller()?;
        self.mosquitto.as_mut().map_or(Ok(()), Mosquitto::kill)
    }

    fn bring_fleet_back(&mut self) -> Result<()> {
        self.mosquitto.as_mut().map_or(Ok(()), Mosquitto::begin)?;
        start_controller(&mut self.stand, self.mosquitto.as_ref())?;
        let fleet = self.fleet();
        self.machine()?.needs(fleet);
        Ok(())
    }

    pub(super) const fn platform(&self) -> &'static str {
        self.platform
    }

    pub(super) fn machine(&mut self) -> Result<&mut Machine> {
        self.machine.as_mut().context("the board is off")
    }

    pub(super) fn switch_on(&mut self) -> Result<()> {
        self.switch_on_with(&[], None)
    }

    /// With more words for QEMU, and a cable that leads nowhere.
    pub(super) fn switch_on_isolated(&mut self, arguments: &[&str]) -> Result<()> {
        let isolated = ["-netdev", "user,id=alone,restrict=on"];
        self.switch_on_with(&[arguments, &isolated].concat(), Some("alone"))
    }

    /// Switches it on with another clock, this once.
    pub(super) fn with_clock(
        &mut self,
        clock: Clock,
        switch_on: impl FnOnce(&mut Self) -> Result<()>,
    ) -> Result<()> {
        let usual = std::mem::replace(&mut self.variant.clock, clock);
        let done = switch_on(self);
        self.variant.clock = usual;
        done
    }

    /// With more words for QEMU, and another network than this machine's.
    pub(super) fn switch_on_with(&mut self, arguments: &[&str], network: Option<&str>) -> Result<()> {
        let words = [&["punnet.console"], self.variant.words()].concat();
        let more = self.variant.arguments();
        let arguments: Vec<_> = arguments
            .iter()
            .copied()
            .chain(more.iter().map(String::as_str))
            .collect();
        let conditions = Conditions {
            flag: std::mem::take(&mut self.flag),
            read_only: self.read_only,
            arguments: &arguments,
            network,
        };
        let mut machine = Machine::start(&self.artefacts, &words, &conditions)?;
        machine.needs(self.fleet());
        self.machine = Some(machine);
        Ok(())
    }

    /// Controller and broker, as far as they run: without them nothing that is waited for comes.
    fn fleet(&self) -> Vec<Watch> {
        let broker = self.mosquitto.as_ref().and_then(Mosquitto::watch);
        let time = self.chrony.as_ref().map(Chrony::watch);
        self.stand.watch().into_iter().chain(broker).chain(time).collect()
    }

    /// The first lines of an app's output.
    fn first_lines(&self, app: &str, count: usize) -> Result<Vec<String>> {
        self.stand.first_lines_with(app, DEVICE, count, &self.fleet())
    }

    pub(super) fn wait_online(&mut self) -> Result<()> {
        let devices = || json_of(&mut self.stand.fleet(&["devices", "--json"]));
        let machine = self.machine.as_mut().context("the board is off")?;
        machine.wait_for("the board to be online", self.variant.patience(), |_| {
            let devices = devices()?;
            let online = |entry: &Value| entry["name"] == DEVICE && entry["online"] == true;
            Ok(devices
                .as_array()
                .is_some_and(|all| all.iter().any(online))
                .then_some(()))
        })
    }

    /// By DHCP or as `punnet.txt` says, by router advertisement, and loopback's.
    fn check_addresses(&mut self) -> Result<()> {
        let fixed = self.artefacts.description.board.name == BOARD_WITH_FIXED_ADDRESS;
        self.wait_console()?;
        let machine = self.machine()?;
        let address = if fixed { "10.0.2.77" } else { "10.0.2.15" };
        ensure!(
            machine.output().contains(&format!("is {address}/24")),
            "the board has not the address {address}"
        );
        machine.ask_until("cat /proc/net/if_inet6", STEP_TIMEOUT, |answer| {
            answer.contains(ADVERTISED_PREFIX) && answer.contains(LOOPBACK)
        })?;
        Ok(())
    }

    /// From the moment below which no clock is to what the time server says, which is kept on the card.
    fn learn_time(&mut self) -> Result<()> {
        let kept = |answer: &str| answer.lines().find_map(|line| line.trim().parse::<u64>().ok());
        self.wait_console()?;
        let machine = self.machine()?;
        let answer = machine.ask_until("cat /var/lib/punnet/clock", STEP_TIMEOUT, |answer| {
            kept(answer).is_some()
        })?;
        let said = machine.output();
        let kept_s = kept(&answer).context("just seen")?;
        let has_said_s = self.chrony.as_ref().context("it was started")?.has_said_s()?;
        ensure!(
            has_said_s.contains(&kept_s),
            "the board keeps {kept_s}, the time server has said one of {has_said_s:?}"
        );
        for (what, line) in [
            ("set forward", "the clock showed 1970, it begins in 2026"),
            ("set by the server", "the clock is set by "),
        ] {
            ensure!(said.contains(line), "the clock was not {what}: {said}");
        }
        Ok(())
    }

    /// Builds a version for the board's platform; `ballast` makes it large.
    fn add_image(&self, ballast: usize) -> Result<()> {
        let layout = self.folder.path().join(format!("layout-{ballast}"));
        let more = [("blink", &*self.blink), ("ballast", &noise(ballast))];
        self.stand.build_hello_for(self.platform, &layout, &more)?;
        self.stand.add_image(&layout)
    }

    pub(super) fn deploy_first(&mut self) -> Result<()> {
        self.add_image(0)?;
        // Good at once, so that it is what the board goes back to.
        let options = ["--env", "GREETING=first", "--soak", "0s", "--", "--uptime"];
        self.stand.begin_deploy("hello", DEVICE, &options)?;
        self.wait_app("hello", "to run", |app| app["state"] == "running")?;
        let lines = self.first_lines("hello", 2)?;
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
        self.cut_power()?;
        self.lose_fleet()
    }

    pub(super) fn cut_power(&mut self) -> Result<()> {
        self.machine.take().context("the board is off")?.cut_power()
    }

    /// The board restarts, and its firmware takes up what it was told.
    pub(super) fn wait_restarted(&mut self) -> Result<String> {
        let mut machine = self.machine.take().context("the board is off")?;
        machine.wait_ended(STEP_TIMEOUT)?;
        self.flag = machine.reboot_flag();
        let said = machine.output();
        self.switch_on()?;
        Ok(said)
    }

    pub(super) fn wait_console(&mut self) -> Result<()> {
        self.machine()?.wait_for("the console", ONLINE_TIMEOUT, |output| {
            Ok(output.contains("punnet> ").then_some(()))
        })
    }

    fn start_offline(&mut self) -> Result<()> {
        let began = Instant::now();
        self.switch_on()?;
        // The last-known-good version.
        let start = Start::of(self.machine()?, began, "first: ")?;
        println!("    | {start}");
        Ok(())
    }

    fn complete_update(&mut self) -> Result<()> {
        self.bring_fleet_back()?;
        self.wait_online()?;
        self.wait_app("hello", "to be the second version", |app| {
            app["state"] == "running" && app["as_wanted"] == true
        })?;
        let lines = self.first_lines("hello", 1)?;
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
        let lines = self.first_lines("blink", 3)?;
        let want = [1, 0, 1].map(|level| format!("line 5 set to {level}, reads {level}"));
        ensure!(lines == want, "the line did not follow: {lines:?}");
        println!("    | {}", lines[0]);
        Ok(())
    }

    /// Its modules are loaded when it comes. The board is off, before and after.
    fn plug_in_an_adapter(&mut self) -> Result<()> {
        self.switch_on_with(&USB, None)?;
        self.wait_console()?;
        let machine = self.machine()?;
        machine.ask_until("ls /sys/bus/usb/devices", STEP_TIMEOUT, |answer| {
            answer.contains("usb1")
        })?;
        let before = machine.ask_until("ls /dev", STEP_TIMEOUT, |answer| answer.contains("ttyS0"))?;
        ensure!(!before.contains("ttyUSB"), "it has an adapter already: {before}");
        machine.plug_in("usb-serial,chardev=line,always-plugged=on")?;
        machine.ask_until("ls /dev", STEP_TIMEOUT, |answer| answer.contains("ttyUSB0"))?;
        self.power_off()
    }

    fn exceed_memory(&mut self) -> Result<()> {
        let options = ["--memory", "8m", "--restart", "never", "--", "--fill", "16"];
        self.stand.begin_deploy("leak", DEVICE, &options)?;
        self.wait_app("leak", "to be killed", |app| {
            app["detail"]
                .as_str()
                .is_some_and(|detail| detail.contains("out of memory"))
        })?;
        Ok(())
    }

    /// What a panic ends: PID 1 starts each role again, and the app goes on.
    fn crash_roles(&mut self) -> Result<()> {
        let app = self.pid_of(" /hello ", "")?;
        for role in ["punnet agent", "init attend"] {
            let crashed = self.pid_of(role, "")?;
            self.machine()?.type_line(&format!("signal ABRT {crashed}"))?;
            self.pid_of(role, &crashed)?;
        }
        let still = self.pid_of(" /hello ", "")?;
        ensure!(still == app, "the app was started anew: {app} is {still}");
        self.wait_app("hello", "to run on", |app| app["state"] == "running")?;
        // Its parent died: PID 1 is left to reap it.
        self.machine()?.type_line(&format!("signal KILL {app}"))?;
        self.pid_of(" /hello ", &app)?;
        let stat = format!("cat /proc/{app}/stat");
        self.machine()?
            .ask_until(&stat, STEP_TIMEOUT, |answer| answer.contains("No such file"))?;
        Ok(())
    }

    /// The process whose line has this in it, once there is one with another id than `not`.
    fn pid_of(&mut self, what: &str, not: &str) -> Result<String> {
        let pid = |answer: &str| {
            let mut lines = answer.lines().filter(|line| line.contains(what));
            let mut pids = lines.by_ref().filter_map(|line| line.split_whitespace().next());
            pids.find(|pid| *pid != not).map(str::to_owned)
        };
        let answer = self
            .machine()?
            .ask_until("processes", STEP_TIMEOUT, |answer| pid(answer).is_some())?;
        pid(&answer).context("just seen")
    }

    /// Nobody but the watchdog can help then. What it restarts comes up with what ran.
    fn freeze_agent(&mut self) -> Result<()> {
        let pid = self.pid_of("punnet agent", "")?;
        self.machine()?.type_line(&format!("signal STOP {pid}"))?;
        let output = self.wait_restarted()?;
        ensure!(
            output.contains("the watchdog is no longer fed"),
            "it ended otherwise"
        );
        self.wait_console()?;
        self.machine()?.ask_until("ps", STEP_TIMEOUT, |answer| {
            answer.contains("hello") && answer.contains("running")
        })?;
        Ok(())
    }

    pub(super) fn power_off(&mut self) -> Result<()> {
        let mut machine = self.machine.take().context("the board is off")?;
        machine.type_line("poweroff")?;
        machine.wait_ended(STEP_TIMEOUT)?;
        let output = machine.output();
        ensure!(output.contains("switching off"), "it ended otherwise");
        Ok(())
    }

    /// Waits until the fleet is told that these things are wrong with the board, or is told of them no more.
    pub(super) fn wait_troubles(&mut self, named: &[&str], are_told: bool) -> Result<()> {
        let stand = &self.stand;
        let machine = self.machine.as_mut().context("the board is off")?;
        let mut last = Value::Null;
        let done = machine.wait_for("the fleet to know what is wrong", STEP_TIMEOUT, |_| {
            last = json_of(&mut stand.fleet(&["status", DEVICE, "--json"]))?[0]["troubles"].clone();
            let told = last.as_array().context("the fleet tells no troubles")?;
            let is_told = |name: &&str| {
                told.iter()
                    .filter_map(Value::as_str)
                    .any(|trouble| trouble.contains(name))
            };
            Ok(named.iter().all(|name| is_told(name) == are_told).then_some(()))
        });
        done.with_context(|| format!("the fleet knows: {last}"))
    }

    /// Waits until the fleet's view of the app is as wanted.
    pub(super) fn wait_app(&mut self, app: &str, what: &str, wanted: impl Fn(&Value) -> bool) -> Result<()> {
        let stand = &self.stand;
        let machine = self.machine.as_mut().context("the board is off")?;
        let mut last = Value::Null;
        let done = machine.wait_for(&format!("{app} {what}"), self.variant.patience(), |_| {
            last = stand.app(DEVICE, app)?;
            Ok(wanted(&last).then_some(()))
        });
        done.with_context(|| format!("the fleet knows: {last}"))
    }
}

fn enrol(stand: &Stand, broker: Option<&Mosquitto>) -> Result<PathBuf> {
    match broker {
        None => stand.enrol_by(DEVICE, &stand.broker_seen_from_emulator(), None),
        Some(broker) => stand.enrol_by(DEVICE, &broker.url(DEVICE, "10.0.2.2"), Some(&broker.ca())),
    }
}

fn start_controller(stand: &mut Stand, broker: Option<&Mosquitto>) -> Result<()> {
    match broker {
        None => stand.start_controller(Broker::Embedded),
        Some(broker) => {
            let (url, ca) = (broker.url(CONTROLLER, "127.0.0.1"), broker.ca());
            stand.start_controller(Broker::Trusted(&url, &ca))
        }
    }
}

/// The number in front of a text, in the first line that has it.
pub(super) fn seconds_before(output: &str, text: &str) -> Option<f64> {
    let (before, _) = output.split_once(text)?;
    before.rsplit([' ', '\n']).next()?.parse().ok()
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
