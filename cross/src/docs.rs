//! `cargo xtask docs`: writes docs/boards.md out of board-configs/. A test holds that it is current.

use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::{Result, ensure};
use punnet_boards::{Board, BootLoader, Description, LedConfig};

use crate::build::root;

const HEAD: &str = include_str!("docs/boards-head.md");

/// Options of `docs`.
#[derive(clap::Args)]
pub struct Options {
    /// Only say whether it is current
    #[arg(long)]
    check: bool,
}

/// Writes the page, or compares it.
pub fn run(options: &Options) -> Result<()> {
    let (path, text) = (path(), boards()?);
    if options.check {
        let is_current = std::fs::read_to_string(&path).is_ok_and(|old| old == text);
        ensure!(
            is_current,
            "{} is not what `cargo xtask docs` writes",
            path.display()
        );
        return Ok(());
    }
    Ok(std::fs::write(path, text)?)
}

fn path() -> PathBuf {
    root().join("docs/boards.md")
}

/// The page.
fn boards() -> Result<String> {
    let boards = punnet_boards::load_all(&root().join("board-configs"))?;
    let mut page = HEAD.to_owned();
    for found in &boards {
        row(&mut page, found)?;
    }
    for found in boards.iter().filter(|found| found.board.name != "generic") {
        details(&mut page, found)?;
    }
    Ok(page)
}

fn row(page: &mut String, found: &Description) -> Result<()> {
    let board = &found.board;
    let yes = |there: bool| if there { "yes" } else { "-" };
    writeln!(
        page,
        "| `{}` | {} | `{}` | {} | {} |",
        board.name,
        board.description,
        board.arch.target(),
        yes(found.image.is_some()),
        yes(found.qemu.is_some()),
    )?;
    Ok(())
}

fn details(page: &mut String, found: &Description) -> Result<()> {
    let board = &found.board;
    writeln!(page, "\n## {}\n{}.\n", board.name, board.description)?;
    let mut line = |what: &str, value: String| {
        if value.is_empty() {
            Ok(())
        } else {
            writeln!(page, "- {what}: {value}")
        }
    };
    line("processor", board.cpu.clone())?;
    line(
        "memory for Punnet itself",
        format!("{} KiB", board.memory_budget_kib),
    )?;
    line("serial console", code(&board.serial_console))?;
    line("kernel command line", code(&board.kernel_command_line.join(" ")))?;
    line("modules at boot", board.kernel_modules.join(", "))?;
    line("modules when a device asks", board.hotplug_modules.join(", "))?;
    line("kernel options", board.kernel_options.join(", "))?;
    line("status LED", led(board))?;
    line("button", board.button.as_ref().map(gpio).unwrap_or_default())?;
    let watchdog = board.watchdog.as_ref();
    line(
        "watchdog",
        watchdog
            .map(|watchdog| format!("`{}`, {} s", watchdog.node.display(), watchdog.timeout_s))
            .unwrap_or_default(),
    )?;
    line("device classes", classes(board))?;
    if let Some(image) = &found.image {
        line("kernel", image.kernel_package.clone().unwrap_or_default())?;
        line("device trees", image.device_trees.join(", "))?;
        let loader = match image.boot_loader {
            BootLoader::RaspberryPi => "the Pi's firmware: `config.txt`, `a/cmdline.txt`",
            BootLoader::Extlinux => "U-Boot or another: `extlinux/extlinux.conf`",
            BootLoader::Emulator => {
                "the emulator, which plays the Pi's firmware: `config.txt`, `a/cmdline.txt`"
            }
        };
        line("started by", loader.into())?;
    }
    Ok(())
}

fn code(text: &str) -> String {
    if text.is_empty() {
        String::new()
    } else {
        format!("`{text}`")
    }
}

fn led(board: &Board) -> String {
    match &board.status_led {
        Some(LedConfig::Class(name)) => format!("`{name}` of the kernel"),
        Some(LedConfig::Gpio(line)) => gpio(line),
        None => String::new(),
    }
}

fn gpio(line: &punnet_boards::GpioLine) -> String {
    format!("line {} of `{}`", line.line, line.chip.display())
}

fn classes(board: &Board) -> String {
    let class = |(name, class): (&String, &punnet_boards::DeviceClass)| {
        format!("{name} (`{}`)", class.nodes.join("`, `"))
    };
    board
        .device_classes
        .iter()
        .map(class)
        .collect::<Vec<_>>()
        .join("; ")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "this is a test")]

    #[test]
    fn the_page_of_boards_is_current() {
        super::run(&super::Options { check: true }).unwrap();
    }
}
