//! Every board file of the repository is valid, and what goes wrong with one is said with its name.

#![cfg(feature = "toml")]

use std::path::Path;

use punnet_boards::{Arch, Board, Description, LedConfig, load, load_all};

fn folder() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn every_board_file_is_valid_and_inherits_the_device_classes() {
    let boards = load_all(folder()).unwrap();
    assert!(boards.len() >= 14, "only {} boards found", boards.len());
    for Description { board, image, qemu } in boards {
        let name = &board.name;
        assert!(
            board.device_classes.contains_key("gpio"),
            "{name} has lost the gpio class"
        );
        assert!(
            (512..=8192).contains(&board.memory_budget_kib),
            "{name}: odd memory budget"
        );
        if name == "generic" {
            continue;
        }
        assert!(
            !board.serial_console.is_empty() && !board.cpu.is_empty(),
            "{name}: no serial console or processor"
        );
        assert!(board.watchdog.is_some(), "{name}: no watchdog");
        for module in ["ext4", "vfat", "overlay"] {
            assert!(
                board.kernel_modules.iter().any(|known| known == module),
                "{name}: no {module}"
            );
        }
        assert!(
            qemu.is_none() || image.is_some(),
            "{name}: emulated without an image"
        );
    }
}

#[test]
fn the_built_in_generic_board_is_the_one_of_the_file() {
    assert_eq!(load(folder(), "generic").unwrap(), Board::generic(Arch::Arm64));
}

#[test]
fn a_pi_overrides_only_what_it_says() {
    let board = load(folder(), "raspberry-pi-zero").unwrap();
    assert_eq!(board.arch, Arch::ArmV6);
    assert_eq!(board.status_led, Some(LedConfig::Class("ACT".into())));
    assert!(
        board
            .kernel_command_line
            .iter()
            .any(|word| word == "cgroup_enable=memory")
    );
}

#[test]
fn bad_files_are_refused_with_their_name_and_place() {
    let cases = [
        ("arch = \"arm64\"\n[led\n", "line 2"),
        ("inherit = \"loop\"\n", "inherit"),
        ("inherit = 3\n", "line 1, column 11"),
        (
            "description = \"x\"\n[image]\nboot_lader = \"extlinux\"\n",
            "line 3, column 1",
        ),
        ("kernel_modules = [\"a\", 3]\n", "line 1, column 24"),
        ("status_led.clas = \"ACT\"\n", "line 1, column 12"),
        ("inherit = \"absent\"\n", "absent.toml"),
        (
            "description = \"x\"\narch = \"z80\"\nmemory_budget_kib = 1\n",
            "z80",
        ),
        (
            "description = \"x\"\narch = \"arm64\"\nmemory_budget_kib = 1\ncolour = 2\n",
            "colour",
        ),
    ];
    for (text, want) in cases {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("loop.toml"), text).unwrap();
        let error = load(folder.path(), "loop").unwrap_err().to_string();
        assert!(
            error.contains(want) && error.contains(".toml"),
            "{text:?} gave {error:?}"
        );
    }
}
