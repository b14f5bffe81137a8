//! A running board beside its description (board-configs/): pure, as the other checks are. [`BoardFacts`] is read below.

use std::fs;
use std::path::Path;

use punnet_boards::{Arch, Board, GpioLine, LedConfig};

use super::checks::{is_on, known_controller};
use super::{Facts, Finding};

/// What is looked at for a board besides [`Facts`].
#[derive(Clone, Debug, Default)]
pub struct BoardFacts {
    /// /proc/cmdline
    pub command_line: String,
    /// Modules that are loaded, or part of the kernel; `_` for `-`.
    pub modules: Vec<String>,
    /// Modules that could be loaded.
    pub modules_at_hand: Vec<String>,
    /// Each device class, and its nodes that are there.
    pub classes: Vec<(String, Vec<String>)>,
    /// Files of the description that are there: device nodes, LEDs.
    pub there: Vec<String>,
    /// Memory that Punnet's own processes take, KiB (PSS); `None` when it cannot be read or nothing runs.
    pub own_kib: Option<u64>,
}

/// Everything there is to say about a board.
pub fn examine(board: &Board, facts: &Facts, own: &BoardFacts) -> Vec<Finding> {
    let mut findings = vec![
        Finding::pass("board", format!("{}: {}", board.name, board.description)),
        processor(board, facts),
        options(board, facts),
        modules(board, own),
    ];
    findings.extend(command_line(board, facts, own));
    findings.extend(
        own.classes
            .iter()
            .map(|(class, nodes)| class_finding(class, nodes)),
    );
    findings.extend(board.watchdog.as_ref().map(|watchdog| {
        let node = watchdog.node.display().to_string();
        is_there(
            own,
            "watchdog",
            &node,
            "load its driver (the board's kernel_modules name it): modprobe bcm2835_wdt on a Raspberry Pi",
        )
    }));
    findings.extend(board.status_led.as_ref().map(|led| {
        is_there(
            own,
            "status LED",
            &led_path(led),
            "ls /sys/class/leds shows what there is; the name depends on the device tree",
        )
    }));
    findings.extend(board.button.as_ref().map(|line| {
        is_there(
            own,
            "button",
            &chip(line),
            "the chip's driver is missing: see dmesg",
        )
    }));
    findings.push(memory(board, own));
    findings
}

/// How new a processor is, by what Linux says of it.
fn level(machine: &str) -> Option<Arch> {
    match machine {
        "x86_64" => Some(Arch::Amd64),
        "aarch64" => Some(Arch::Arm64),
        machine if machine.starts_with("armv7") || machine == "armv8l" => Some(Arch::ArmV7),
        machine if machine.starts_with("armv6") => Some(Arch::ArmV6),
        _ => None,
    }
}

fn processor(board: &Board, facts: &Facts) -> Finding {
    const CHECK: &str = "processor";
    let found = format!(
        "{}, described as {} ({})",
        facts.machine,
        board.arch.target(),
        board.cpu
    );
    let rank = |arch: Arch| Arch::ALL.iter().rev().position(|known| *known == arch);
    let is_x86 = |arch: Arch| arch == Arch::Amd64;
    match level(&facts.machine) {
        Some(machine) if machine == board.arch => Finding::pass(CHECK, found),
        // An ARM runs what was made for an older one.
        Some(machine) if is_x86(machine) == is_x86(board.arch) && rank(machine) > rank(board.arch) => {
            Finding::warn(
                CHECK,
                found,
                "works; a description, a kernel and a punnet for this processor would use all of it",
            )
        }
        _ => Finding::fail(
            CHECK,
            found,
            "this is another board: take its own description, and the punnet that was built for it",
        ),
    }
}

fn options(board: &Board, facts: &Facts) -> Finding {
    const CHECK: &str = "board's kernel options";
    let Some(config) = &facts.kernel_config else {
        return Finding::pass(CHECK, "the kernel does not tell its configuration");
    };
    let missing: Vec<_> = board
        .kernel_options
        .iter()
        .filter(|option| !is_on(config, option))
        .map(|option| format!("CONFIG_{option}"))
        .collect();
    if missing.is_empty() {
        Finding::pass(CHECK, format!("all {} on", board.kernel_options.len()))
    } else {
        Finding::fail(
            CHECK,
            format!("missing: {}", missing.join(", ")),
            "build the kernel with them, or take the distribution's",
        )
    }
}

fn modules(board: &Board, own: &BoardFacts) -> Finding {
    const CHECK: &str = "board's modules";
    let plain = |name: &str| name.replace('-', "_");
    let missing: Vec<&str> = board
        .kernel_modules
        .iter()
        .map(String::as_str)
        .filter(|name| !own.modules.contains(&plain(name)))
        .collect();
    let (at_hand, nowhere): (Vec<&str>, Vec<&str>) = missing
        .iter()
        .partition(|name| own.modules_at_hand.contains(&plain(name)));
    if !nowhere.is_empty() {
        Finding::fail(
            CHECK,
            format!("this kernel has no {}", nowhere.join(", ")),
            "install the modules of this very kernel, or a kernel that has them",
        )
    } else if !at_hand.is_empty() {
        Finding::warn(
            CHECK,
            format!("not loaded: {}", at_hand.join(", ")),
            format!(
                "modprobe -a {}; a line each in /etc/modules-load.d/punnet.conf loads them at boot",
                at_hand.join(" ")
            ),
        )
    } else {
        Finding::pass(CHECK, format!("all {} there", board.kernel_modules.len()))
    }
}

fn command_line(board: &Board, facts: &Facts, own: &BoardFacts) -> Vec<Finding> {
    const CHECK: &str = "kernel command line";
    let console = format!("console={}", board.serial_console);
    let console = (!board.serial_console.is_empty()).then_some(console.as_str());
    let words: Vec<&str> = own.command_line.split_whitespace().collect();
    // How a kernel behaves when it panics, and what it prints, is this system's own affair.
    let is_taste = |word: &str| word == "quiet" || word.starts_with("panic=") || word.starts_with("console=");
    let missing = board
        .kernel_command_line
        .iter()
        .map(String::as_str)
        .chain(console)
        .filter(|word| !words.contains(word));
    let (mut needed, mut taste) = (Vec::new(), Vec::new());
    for word in missing {
        match word {
            "cgroup_enable=memory" if known_controller(facts, "memory") => {}
            word if is_taste(word) => taste.push(word),
            word => needed.push(word),
        }
    }
    let remedy = "add them to cmdline.txt of the boot partition (or to the boot loader's own) and reboot";
    vec![match (needed.join(" "), taste.join(" ")) {
        (needed, _) if !needed.is_empty() => Finding::fail(CHECK, format!("missing: {needed}"), remedy),
        (_, taste) if !taste.is_empty() => Finding::pass(
            CHECK,
            format!("what is needed is there; not as described: {taste}"),
        ),
        _ => Finding::pass(CHECK, "as described"),
    }]
}

fn class_finding(class: &str, nodes: &[String]) -> Finding {
    let check = format!("device class {class}");
    if !nodes.is_empty() {
        return Finding::pass(&check, nodes.join(" "));
    }
    let remedy = match class {
        "i2c" => "dtparam=i2c_arm=on in config.txt of a Raspberry Pi, and modprobe i2c-dev",
        "spi" => "dtparam=spi=on in config.txt of a Raspberry Pi",
        "serial" => {
            "enable_uart=1 in config.txt of a Raspberry Pi; a USB adapter appears when it is plugged in"
        }
        "gpio" => "the kernel needs CONFIG_GPIO_CDEV and the driver of the chip: see dmesg",
        "watchdog" => "load its driver: modprobe bcm2835_wdt on a Raspberry Pi, softdog elsewhere",
        _ => "plug it in, or load its driver; nothing needs it unless an app asks for it",
    };
    Finding::warn(&check, "no device is there", remedy)
}

fn is_there(own: &BoardFacts, check: &str, path: &str, remedy: &str) -> Finding {
    if own.there.iter().any(|there| there == path) {
        Finding::pass(check, path)
    } else {
        Finding::fail(check, format!("{path} is not there"), remedy)
    }
}

fn memory(board: &Board, own: &BoardFacts) -> Finding {
    const CHECK: &str = "memory for Punnet itself";
    let budget = u64::from(board.memory_budget_kib);
    match own.own_kib {
        None => Finding::pass(
            CHECK,
            format!("{budget} KiB; nothing of it runs, or may be looked at"),
        ),
        Some(kib) if kib <= budget => Finding::pass(CHECK, format!("{kib} of {budget} KiB")),
        Some(kib) => Finding::warn(
            CHECK,
            format!("{kib} KiB, {budget} are its budget"),
            "just after a start or a transfer it is more: look again in a minute; else please report it",
        ),
    }
}

fn led_path(led: &LedConfig) -> String {
    match led {
        LedConfig::Class(name) => format!("/sys/class/leds/{name}"),
        LedConfig::Gpio(line) => chip(line),
    }
}

fn chip(line: &GpioLine) -> String {
    line.chip.display().to_string()
}

impl BoardFacts {
    /// Reads them on this machine.
    pub fn read(board: &Board, release: &str) -> Self {
        let led = board.status_led.as_ref().map(led_path);
        let button = board.button.as_ref().map(chip);
        let watchdog = board
            .watchdog
            .as_ref()
            .map(|watchdog| watchdog.node.display().to_string());
        let paths = led.into_iter().chain(button).chain(watchdog);
        Self {
            command_line: fs::read_to_string("/proc/cmdline").unwrap_or_default(),
            modules: modules_here(release),
            modules_at_hand: modules_listed(release, "modules.dep"),
            classes: board
                .device_classes
                .iter()
                .map(|(name, class)| {
                    let nodes = class
                        .present()
                        .iter()
                        .map(|node| node.display().to_string())
                        .collect();
                    (name.clone(), nodes)
                })
                .collect(),
            there: paths.filter(|path| Path::new(path).exists()).collect(),
            own_kib: own_kib(),
        }
    }
}

/// In /sys/module is what is loaded, and what is built in and has parameters; the rest of the latter is in modules.builtin.
fn modules_here(release: &str) -> Vec<String> {
    let loaded = fs::read_dir("/sys/module").into_iter().flatten().flatten();
    let loaded = loaded.filter_map(|entry| entry.file_name().into_string().ok());
    loaded.chain(modules_listed(release, "modules.builtin")).collect()
}

/// `kernel/fs/ext4/ext4.ko.xz: ...` lists `ext4`.
fn modules_listed(release: &str, list: &str) -> Vec<String> {
    let text = fs::read_to_string(format!("/lib/modules/{release}/{list}")).unwrap_or_default();
    let name = |line: &str| {
        let file = line.split(':').next()?.rsplit('/').next()?;
        Some(file.split(".ko").next()?.replace('-', "_"))
    };
    text.lines().filter_map(name).collect()
}

/// What all other processes of this very program take: proc_pid_smaps(5), Pss.
fn own_kib() -> Option<u64> {
    use std::os::unix::fs::MetadataExt as _;
    let identity = |process: &str| {
        let file = fs::metadata(format!("/proc/{process}/exe")).ok()?;
        Some((file.dev(), file.ino()))
    };
    let ours = identity("self")?;
    let mut sum = None;
    for entry in fs::read_dir("/proc").ok()?.flatten() {
        let name = entry.file_name();
        let Some(pid) = name
            .to_str()
            .filter(|name| name.parse::<u32>().is_ok_and(|pid| pid != std::process::id()))
        else {
            continue;
        };
        if identity(pid) != Some(ours) {
            continue;
        }
        let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
        let kib = text.lines().find_map(|line| line.strip_prefix("Pss:"));
        let kib = kib.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
        sum = kib.map_or(sum, |kib| Some(sum.unwrap_or(0) + kib));
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::super::{Verdict, worst};
    use super::*;

    /// A Raspberry Pi 3 as it should be.
    fn pi() -> (Board, Facts, BoardFacts) {
        let board = Board {
            name: "pi".into(),
            cpu: "cortex-a53".into(),
            kernel_command_line: vec![
                "panic=10".into(),
                "cgroup_enable=memory".into(),
                "dwc_otg.lpm_enable=0".into(),
            ],
            kernel_modules: vec!["i2c-dev".into(), "overlay".into()],
            kernel_options: vec!["OVERLAY_FS".into()],
            serial_console: "ttyS1,115200".into(),
            status_led: Some(LedConfig::Class("ACT".into())),
            watchdog: Some(punnet_boards::Watchdog {
                node: "/dev/watchdog0".into(),
                timeout_s: 15,
            }),
            ..Board::generic(Arch::Arm64)
        };
        let facts = Facts {
            machine: "aarch64".into(),
            kernel_config: Some("CONFIG_OVERLAY_FS=m\n".into()),
            ..Facts::default()
        };
        let words: Vec<_> = board.kernel_command_line.iter().map(String::as_str).collect();
        let own = BoardFacts {
            command_line: format!("{} console=ttyS1,115200", words.join(" ")),
            modules: vec!["i2c_dev".into(), "overlay".into()],
            modules_at_hand: vec!["overlay".into(), "i2c_dev".into()],
            classes: vec![("gpio".into(), vec!["/dev/gpiochip0".into()])],
            there: vec!["/sys/class/leds/ACT".into(), "/dev/watchdog0".into()],
            own_kib: Some(1084),
        };
        (board, facts, own)
    }

    type Spoil = fn(&mut Board, &mut Facts, &mut BoardFacts);

    #[test]
    fn each_thing_that_differs_is_named_with_its_remedy() {
        let (board, facts, own) = pi();
        assert_eq!(worst(&examine(&board, &facts, &own)), Verdict::Pass);
        use Verdict::{Fail, Warn};
        let cases: [(&str, Spoil, Verdict, &str); 12] = [
            (
                "processor",
                |b, _, _| b.arch = Arch::ArmV6,
                Warn,
                "arm-unknown-linux-musleabihf",
            ),
            ("processor", |_, f, _| f.machine = "armv7l".into(), Fail, "armv7l"),
            ("processor", |b, _, _| b.arch = Arch::Amd64, Fail, "x86_64"),
            (
                "board's kernel options",
                |_, f, _| f.kernel_config = Some(String::new()),
                Fail,
                "CONFIG_OVERLAY_FS",
            ),
            (
                "board's modules",
                |_, _, o| o.modules.clear(),
                Warn,
                "modprobe -a i2c-dev overlay",
            ),
            (
                "board's modules",
                |b, _, _| b.kernel_modules.push("nope".into()),
                Fail,
                "no nope",
            ),
            (
                "kernel command line",
                |_, _, o| o.command_line.clear(),
                Fail,
                "cgroup_enable=memory dwc_otg.lpm_enable=0",
            ),
            (
                "device class gpio",
                |_, _, o| o.classes[0].1.clear(),
                Warn,
                "CONFIG_GPIO_CDEV",
            ),
            ("watchdog", |_, _, o| drop(o.there.pop()), Fail, "/dev/watchdog0"),
            (
                "status LED",
                |_, _, o| drop(o.there.remove(0)),
                Fail,
                "/sys/class/leds/ACT",
            ),
            (
                "button",
                |b, _, _| {
                    b.button = Some(GpioLine {
                        chip: "/dev/gpiochip9".into(),
                        line: 1,
                        active_low: false,
                    });
                },
                Fail,
                "/dev/gpiochip9",
            ),
            (
                "memory for Punnet itself",
                |_, _, o| o.own_kib = Some(9000),
                Warn,
                "9000 KiB",
            ),
        ];
        for (check, spoil, verdict, words) in cases {
            let (mut board, mut facts, mut own) = pi();
            spoil(&mut board, &mut facts, &mut own);
            let findings = examine(&board, &facts, &own);
            let bad: Vec<_> = findings
                .iter()
                .filter(|finding| finding.verdict != Verdict::Pass)
                .collect();
            assert_eq!(bad.len(), 1, "{check}: {bad:?}");
            assert_eq!(
                (bad[0].check.as_str(), bad[0].verdict),
                (check, verdict),
                "{bad:?}"
            );
            let text = format!("{} {}", bad[0].found, bad[0].remedy);
            assert!(text.contains(words) && !bad[0].remedy.is_empty(), "{text}");
        }
    }

    #[test]
    fn a_memory_controller_that_is_on_needs_no_word() {
        let (board, mut facts, mut own) = pi();
        own.command_line = "dwc_otg.lpm_enable=0 console=ttyS1,115200".into();
        facts.controllers.root_controllers = Some("memory".into());
        facts.cgroup_root = Some("/sys/fs/cgroup".into());
        assert_eq!(worst(&examine(&board, &facts, &own)), Verdict::Pass);
    }
}
