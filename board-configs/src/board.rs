//! A board, checked.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use punnet_json::{FromJson, Map, Reader, ToJson, Value, Writer};
use serde::{Deserialize, Serialize};

use crate::{BoardError, Result};

/// A kind of board, everything resolved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToJson, Deserialize, FromJson)]
#[serde(deny_unknown_fields)]
pub struct Board {
    /// File name without `.toml`.
    pub name: String,
    /// For people.
    pub description: String,
    /// CPU architecture and with it the Rust target.
    pub arch: Arch,
    /// How much memory Punnet itself may use on it, KiB.
    pub memory_budget_kib: u32,
    /// Words that must be on the kernel's command line.
    #[serde(default)]
    pub kernel_command_line: Vec<String>,
    /// Kernel modules to load.
    #[serde(default)]
    pub kernel_modules: Vec<String>,
    /// Kernel modules to load when a device asks for them.
    #[serde(default)]
    pub hotplug_modules: Vec<String>,
    /// Kernel options that must be on, without `CONFIG_`.
    #[serde(default)]
    pub kernel_options: Vec<String>,
    /// What the code is compiled for, in GCC's words: `arm1176jzf-s`.
    #[serde(default)]
    pub cpu: String,
    /// Where the kernel's messages go: `ttyAMA0,115200`.
    #[serde(default)]
    pub serial_console: String,
    /// Time servers when neither the person nor DHCP names any.
    #[serde(default)]
    pub ntp_servers: Vec<String>,
    /// Restarts a board that hangs.
    #[serde(default)]
    pub watchdog: Option<Watchdog>,
    /// A button that a person can press, if the board has one.
    #[serde(default)]
    pub button: Option<GpioLine>,
    /// The LED that shows how the agent is, if the board has one.
    #[serde(default)]
    pub status_led: Option<LedConfig>,
    /// What an app may ask for by class instead of by device node.
    #[serde(default)]
    pub device_classes: BTreeMap<String, DeviceClass>,
}

/// CPU architectures Punnet is built for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToJson, Deserialize, FromJson)]
#[serde(rename_all = "kebab-case")]
pub enum Arch {
    /// x86-64
    Amd64,
    /// ARMv8, 64 bits
    Arm64,
    /// ARMv7, hard float
    ArmV7,
    /// ARMv6, hard float (Pi Zero, Pi 1)
    ArmV6,
}

impl Arch {
    /// Every one.
    pub const ALL: [Self; 4] = [Self::Amd64, Self::Arm64, Self::ArmV7, Self::ArmV6];

    /// What this program was built for.
    pub const OWN: Self = if cfg!(target_arch = "x86_64") {
        Self::Amd64
    } else if cfg!(target_arch = "aarch64") {
        Self::Arm64
    } else if cfg!(target_abi = "eabihf") && cfg!(target_feature = "v7") {
        Self::ArmV7
    } else {
        Self::ArmV6
    };

    /// The Rust target triple its static binary is built for.
    pub const fn target(self) -> &'static str {
        match self {
            Self::Amd64 => "x86_64-unknown-linux-musl",
            Self::Arm64 => "aarch64-unknown-linux-musl",
            Self::ArmV7 => "armv7-unknown-linux-musleabihf",
            Self::ArmV6 => "arm-unknown-linux-musleabihf",
        }
    }

    /// The OCI platform of images for it.
    pub const fn platform(self) -> &'static str {
        match self {
            Self::Amd64 => "linux/amd64",
            Self::Arm64 => "linux/arm64",
            Self::ArmV7 => "linux/arm/v7",
            Self::ArmV6 => "linux/arm/v6",
        }
    }
}

/// A watchdog of the hardware.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToJson, Deserialize, FromJson)]
#[serde(deny_unknown_fields)]
pub struct Watchdog {
    /// Its device node.
    pub node: PathBuf,
    /// Seconds without being fed after which it restarts the board.
    pub timeout_s: u32,
}

/// Device nodes that belong together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToJson, Deserialize, FromJson)]
#[serde(deny_unknown_fields)]
pub struct DeviceClass {
    /// Device nodes; the last level may end in `*`.
    pub nodes: Vec<String>,
}

impl DeviceClass {
    /// The nodes that are there now, in order of name.
    pub fn present(&self) -> Vec<PathBuf> {
        let mut found: Vec<PathBuf> = self
            .nodes
            .iter()
            .flat_map(|node| matching(Path::new(node)))
            .collect();
        found.sort_unstable();
        found
    }
}

/// The status LED.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum LedConfig {
    /// A line of a GPIO chip.
    Gpio(GpioLine),
    /// A LED that a kernel driver already owns: its name below /sys/class/leds.
    Class(String),
}

impl ToJson for LedConfig {
    fn write(&self, writer: &mut Writer) {
        writer.map(&mut |writer| match self {
            Self::Gpio(line) => writer.member("gpio", line),
            Self::Class(name) => writer.member("class", name),
        });
    }
}

impl FromJson for LedConfig {
    fn empty() -> Self {
        Self::Class(String::new())
    }

    fn read(&mut self, reader: &mut Reader<'_>) -> Result<(), punnet_json::Error> {
        let mut members = 0;
        reader.map("`gpio` or `class`", &mut |reader, key| {
            members += 1;
            match (&*key, members) {
                ("gpio", 1) => {
                    let mut line = GpioLine::empty();
                    line.read(reader)?;
                    *self = Self::Gpio(line);
                }
                ("class", 1) => {
                    let mut name = String::new();
                    name.read(reader)?;
                    *self = Self::Class(name);
                }
                _ => {
                    return Err(reader.error(format!("unknown variant `{key}`, expected `gpio` or `class`")));
                }
            }
            Ok(())
        })?;
        match members {
            0 => Err(reader.error("missing field `gpio` or `class`")),
            _ => Ok(()),
        }
    }
}

/// A line of a GPIO chip (Linux `Documentation/userspace-api/gpio/chardev.rst`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToJson, Deserialize, FromJson)]
#[serde(deny_unknown_fields)]
pub struct GpioLine {
    /// Device node of the chip.
    pub chip: PathBuf,
    /// Offset of the line in it.
    pub line: u32,
    /// On means a low level.
    #[serde(default)]
    pub active_low: bool,
}

impl Board {
    /// A board nobody described: no LED, the device classes every Linux has.
    pub fn generic(arch: Arch) -> Self {
        let class = |nodes: &[&str]| DeviceClass {
            nodes: nodes.iter().map(ToString::to_string).collect(),
        };
        Self {
            name: "generic".into(),
            description: "A board without a description of its own".into(),
            arch,
            memory_budget_kib: 2048,
            kernel_command_line: Vec::new(),
            kernel_modules: Vec::new(),
            hotplug_modules: Vec::new(),
            kernel_options: Vec::new(),
            cpu: String::new(),
            serial_console: String::new(),
            ntp_servers: Vec::new(),
            watchdog: None,
            button: None,
            status_led: None,
            device_classes: BTreeMap::from([
                ("gpio".into(), class(&["/dev/gpiochip*"])),
                ("i2c".into(), class(&["/dev/i2c-*"])),
                (
                    "serial".into(),
                    class(&["/dev/ttyACM*", "/dev/ttyAMA*", "/dev/ttyS*", "/dev/ttyUSB*"]),
                ),
                ("spi".into(), class(&["/dev/spidev*"])),
                ("video".into(), class(&["/dev/media*", "/dev/video*"])),
                ("watchdog".into(), class(&["/dev/watchdog*"])),
            ]),
        }
    }

    /// Reads a resolved board as the tools write it.
    pub fn from_json_file(path: &Path) -> Result<Self> {
        let text = std::fs::read(path).map_err(|source| BoardError::Read {
            path: path.into(),
            source,
        })?;
        punnet_json::from_slice(&text).map_err(|error| {
            BoardError::Parse {
                path: path.into(),
                text: short(&error),
            }
            .into()
        })
    }

    /// As [`Self::from_json_file`] reads it.
    pub fn to_json(&self) -> String {
        punnet_json::to_string(self)
    }

    /// What a board that runs takes itself for, and what is wrong with its file, for people: each key that can be understood counts, the rest is what most
    /// boards have.
    pub fn as_far_as_readable(path: &Path) -> (Self, Option<String>) {
        match Self::from_json_file(path) {
            Ok(board) => (board, None),
            Err(error) => {
                // Nothing can be understood of a file that is not there.
                let text = std::fs::read(path).unwrap_or_default();
                let cause =
                    std::error::Error::source(&error).map_or_else(String::new, |cause| format!(": {cause}"));
                let wrong = format!("{error}{cause}; what is not understood of it is as on a generic board");
                (Self::salvaged(&text), Some(wrong))
            }
        }
    }

    /// By way of text, so that a device needs no other reader and writer of boards than those it has.
    fn salvaged(text: &[u8]) -> Self {
        let mut board = Self::guessed();
        let object = |text: &[u8]| punnet_json::from_slice::<Map<Value>>(text).unwrap_or_default();
        let mut whole = object(board.to_json().as_bytes());
        for (key, value) in object(text) {
            let before = whole.insert(key.clone(), value);
            let tried = punnet_json::to_vec(&whole);
            match punnet_json::from_slice(&tried) {
                Ok(better) => board = better,
                Err(_) => {
                    match before {
                        Some(before) => whole.insert(key, before),
                        None => whole.remove(&key),
                    };
                }
            }
        }
        board
    }

    /// A board whose description is lost: a hang is ended and trouble is shown wherever there is what most of our boards have for it.
    fn guessed() -> Self {
        Self {
            watchdog: Some(Watchdog {
                node: "/dev/watchdog0".into(),
                timeout_s: 15,
            }),
            status_led: Some(LedConfig::Class("ACT".into())),
            ..Self::generic(Arch::OWN)
        }
    }
}

/// Without the names of all keys there are, which is most of what is said of one that there is not; a device tells its fleet in 192 bytes.
fn short(error: &punnet_json::Error) -> String {
    let text = error.to_string();
    let parts = text
        .split_once(", expected one of ")
        .filter(|(what, _)| what.starts_with("unknown field"));
    match parts.and_then(|(what, rest)| Some((what, rest.rsplit_once(" at line ")?.1))) {
        Some((what, place)) => format!("{what} at line {place}"),
        None => text,
    }
}

/// The paths that `pattern` stands for; a `*` is understood only at the end of the last level.
fn matching(pattern: &Path) -> Vec<PathBuf> {
    let (Some(folder), Some(name)) = (
        pattern.parent(),
        pattern.file_name().and_then(|name| name.to_str()),
    ) else {
        return Vec::new();
    };
    let Some(prefix) = name.strip_suffix('*') else {
        return if pattern.exists() {
            vec![pattern.into()]
        } else {
            Vec::new()
        };
    };
    let Ok(entries) = std::fs::read_dir(folder) else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter(|entry| {
            entry
                .file_name()
                .to_str()
                .is_some_and(|name| name.starts_with(prefix))
        })
        .map(|entry| entry.path())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_lists_the_nodes_that_are_there_in_order() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["i2c-1", "i2c-0", "spidev0.0", "exact"] {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        let node = |name: &str| folder.path().join(name).to_str().unwrap().to_string();
        let class = DeviceClass {
            nodes: vec![node("i2c-*"), node("exact"), node("absent"), node("absent*")],
        };
        let found: Vec<_> = class
            .present()
            .iter()
            .map(|path| path.file_name().unwrap().to_owned())
            .collect();
        assert_eq!(found, ["exact", "i2c-0", "i2c-1"]);
    }

    #[test]
    fn a_resolved_board_survives_json() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("board.json");
        let board = Board::generic(Arch::ArmV6);
        std::fs::write(&path, board.to_json()).unwrap();
        assert_eq!(Board::from_json_file(&path).unwrap(), board);
    }

    #[test]
    fn an_unknown_key_is_named_with_its_place() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("board.json");
        std::fs::write(&path, r#"{"name":"x","colour":"red"}"#).unwrap();
        let error = Board::from_json_file(&path).unwrap_err().to_string();
        assert!(
            error.contains("colour") && error.contains("line 1 column"),
            "{error}"
        );
        assert!(!error.contains("expected"), "{error}");
    }

    #[test]
    fn of_a_spoiled_file_all_that_can_be_understood_counts() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("board.json");
        let whole = Board {
            name: "kitchen".into(),
            ntp_servers: vec!["time.example".into()],
            status_led: None,
            watchdog: Some(Watchdog {
                node: "/dev/watchdog1".into(),
                timeout_s: 9,
            }),
            ..Board::generic(Arch::ALL[0])
        };
        let good = whole.to_json();
        let of = |text: &str| {
            std::fs::write(&path, text).unwrap();
            Board::as_far_as_readable(&path)
        };
        assert_eq!(of(&good), (whole.clone(), None));
        type Change = fn(&mut Board);
        let cases: [(&str, &str, &str, Change); 3] = [
            (
                "\"name\"",
                "\"nahm\"",
                "unknown field `nahm` at line 1 column",
                |board| {
                    board.name = Board::guessed().name;
                },
            ),
            (
                "\"timeout_s\":9",
                "\"timeout_s\":\"9\"",
                "invalid type",
                |board| {
                    board.watchdog = Board::guessed().watchdog;
                },
            ),
            (
                "\"status_led\":null",
                "\"status_led\":{\"lamp\":\"x\"}",
                "unknown variant `lamp`",
                |board| {
                    board.status_led = Board::guessed().status_led;
                },
            ),
        ];
        for (right, spoiled, complaint, change) in cases {
            let mut want = whole.clone();
            change(&mut want);
            assert!(good.contains(right), "{right}");
            let (found, wrong) = of(&good.replace(right, spoiled));
            assert_eq!(found, want, "{spoiled}");
            let wrong = wrong.unwrap();
            assert!(
                wrong.contains("board.json: ") && wrong.contains(complaint),
                "{wrong}"
            );
        }
    }

    #[test]
    fn a_file_of_which_nothing_is_understood_is_a_board_with_watchdog_and_led() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("board.json");
        for text in [
            None,
            Some(""),
            Some("[]"),
            Some("{\"name\":\"kit"),
            Some("\0\0\0"),
            Some("{}"),
        ] {
            if let Some(text) = text {
                std::fs::write(&path, text).unwrap();
            }
            let (board, wrong) = Board::as_far_as_readable(&path);
            assert_eq!(board, Board::guessed(), "{text:?}");
            let wrong = wrong.unwrap();
            assert!(wrong.contains("board.json"), "{text:?}: {wrong}");
        }
        assert_eq!(Board::guessed().arch, Arch::OWN);
        assert!(Board::guessed().device_classes.contains_key("gpio"));
    }
}
