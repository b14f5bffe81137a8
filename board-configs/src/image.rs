//! What the tools need to make a board's image and to emulate it. Devices never read this.

use serde::{Deserialize, Serialize};

use crate::Board;

/// A board file with everything in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// What the device itself is told.
    pub board: Board,
    /// `[image]`; only boards that `cargo xtask image` can be asked for have one.
    pub image: Option<Image>,
    /// `[qemu]`
    pub qemu: Option<Qemu>,
}

/// How the board's boot partition is made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Image {
    /// Debian's kernel package; none where Debian has no kernel for the board.
    pub kernel_package: Option<String>,
    /// Who starts the kernel.
    pub boot_loader: BootLoader,
    /// Files below the package's folder of device trees.
    #[serde(default)]
    pub device_trees: Vec<String>,
}

/// Who starts the kernel, and so which files it is told by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BootLoader {
    /// The Pi's firmware: config.txt and cmdline.txt.
    RaspberryPi,
    /// U-Boot and others: extlinux/extlinux.conf.
    Extlinux,
    /// The emulator (cross/src/emulator.rs), which plays the Pi's firmware.
    Emulator,
}

/// How QEMU emulates the board.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Qemu {
    /// Its program.
    pub program: String,
    /// Machine, processor, memory.
    pub arguments: Vec<String>,
    /// The device tree, when QEMU does not make one.
    pub device_tree: Option<String>,
    /// Nodes of it that are switched off because QEMU does not model them.
    #[serde(default)]
    pub disabled_nodes: Vec<String>,
    /// Properties of it that QEMU wants otherwise.
    #[serde(default)]
    pub changed_properties: Vec<ChangedProperty>,
    /// Words of the kernel's command line that only the emulation needs.
    #[serde(default)]
    pub command_line: Vec<String>,
    /// Kernel modules besides the board's.
    #[serde(default)]
    pub kernel_modules: Vec<String>,
    /// In place of the board's, whose model in QEMU is not like it.
    #[serde(default)]
    pub watchdog: Option<crate::Watchdog>,
    /// Kind of the card's drive.
    pub drive: Drive,
    /// QEMU's network device.
    pub network: String,
}

/// A property of a device tree's node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChangedProperty {
    /// The node's path.
    pub node: String,
    /// The property's name.
    pub property: String,
    /// Its new text; none removes it.
    pub value: Option<String>,
}

/// Kind of a drive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Drive {
    /// A paravirtual disk.
    Virtio,
    /// A card in the SoC's own slot.
    Sd,
}

/// A file by itself: every key may be missing, none may be unknown. Only its errors are wanted, which have line and column.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(
    dead_code,
    reason = "read for its errors; the values are taken from the merged tables"
)]
pub(crate) struct RawFile {
    inherit: Option<String>,
    description: Option<String>,
    arch: Option<crate::Arch>,
    cpu: Option<String>,
    memory_budget_kib: Option<u32>,
    serial_console: Option<String>,
    kernel_command_line: Option<Vec<String>>,
    kernel_modules: Option<Vec<String>>,
    hotplug_modules: Option<Vec<String>>,
    kernel_options: Option<Vec<String>>,
    ntp_servers: Option<Vec<String>>,
    watchdog: Option<crate::Watchdog>,
    button: Option<crate::GpioLine>,
    status_led: Option<crate::LedConfig>,
    device_classes: Option<std::collections::BTreeMap<String, crate::DeviceClass>>,
    image: Option<RawImage>,
    qemu: Option<Qemu>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "as RawFile")]
struct RawImage {
    kernel_package: Option<String>,
    boot_loader: Option<BootLoader>,
    device_trees: Option<Vec<String>>,
}
