//! What a board meets in the field: a card that is full, damaged, read-only or without data, a spoiled boot partition, a clock in 1970, no way out, another
//! kernel than its modules are of.

use std::io::Read;

use anyhow::{Context, Result, ensure};
use flate2::read::GzDecoder;

use super::story::{DEVICE, STEP_TIMEOUT, Story};
use crate::image;

/// As a board without a battery: the emulated clock begins there.
const IN_1970: &[&str] = &["-rtc", "base=1970-01-01T00:00:00"];
/// Where the superblock of an ext4 file system is, and its size.
const SUPERBLOCK: u64 = 1024;
const SUPERBLOCK_BYTES: usize = 1024;
/// As much of a partition as tells what it holds (init/src/plan/disk.rs), and more.
const BLANK_BYTES: usize = 1 << 20;
/// What each file that fills a card leaves free: the list of a large file's blocks takes some too.
const SPARE_BYTES: [u64; 2] = [1 << 20, 4096];

/// Part of what a module says of the kernel it is for (`vermagic`), and the same of a kernel that there is not.
const VERMAGIC: [&[u8]; 2] = [b" mod_unload ", b" mod_remain "];

/// The description's name in an initramfs, with the NUL that ends it, and another.
const NAME_OF_BOARD: [&[u8]; 2] = [b"etc/punnet/board.json\0", b"etc/punnet/bored.json\0"];
/// A key of the board's description, and one that there is not; no program has it so, as it is behind a comma.
const KEY_OF_BOARD: [&[u8]; 2] = [b",\"status_led\":", b",\"status_lid\":"];

impl Story {
    /// Hardly a block is free: what ran runs, and the board is online. The board was switched off in order.
    pub(super) fn start_with_full_data(&mut self) -> Result<()> {
        let card = self.artefacts.card.clone();
        let filler = self.folder.path().join("filler");
        for spare_bytes in SPARE_BYTES {
            let bytes = image::free_in_data(&card)? - spare_bytes;
            std::fs::write(&filler, vec![0x5a; usize::try_from(bytes)?])?;
            image::in_data(
                &card,
                &format!("write {} /filler.{spare_bytes}\n", filler.display()),
            )?;
        }
        self.switch_on()?;
        self.wait_console()?;
        self.expect_hello()?;
        self.wait_online()?;
        self.wait_app("hello", "to run", |app| app["state"] == "running")?;
        self.power_off()?;
        let remove = SPARE_BYTES.map(|spare_bytes| format!("rm /filler.{spare_bytes}\n"));
        image::in_data(&card, &remove.concat())
    }

    /// A file system in which the kernel has found errors. The board was switched off in order.
    pub(super) fn start_with_damaged_data(&mut self) -> Result<()> {
        // EXT2_ERROR_FS
        image::in_data(&self.artefacts.card.clone(), "set_super_value state 2\n")?;
        self.switch_on()?;
        self.expect_troubles(&["has errors: mend it on a computer"])?;
        self.expect_hello()?;
        self.cut_power()
    }

    /// A boot partition that nobody could read, no clock and no network: what ran last runs.
    pub(super) fn start_with_a_spoiled_boot_partition(&mut self) -> Result<()> {
        let card = self.artefacts.card.clone();
        let spoiled = self.folder.path().join("spoiled");
        std::fs::write(&spoiled, "{ \"version\": 1, \"fleet\": ")?;
        image::put_on_card(&card, &spoiled, "enrolment.json")?;
        std::fs::write(&spoiled, "hostname=kitchen\naddres=192.0.2.7/24\n")?;
        image::put_on_card(&card, &spoiled, "punnet.txt")?;
        self.switch_on_isolated(IN_1970)?;
        self.expect_troubles(&[
            "enrolment.json on the boot partition is not used",
            "punnet.txt: line 2 column 8: there is no key \"addres\"",
        ])?;
        let said = self.machine()?.output();
        ensure!(
            said.contains("the clock showed 1970"),
            "the clock was not set forward: {said}"
        );
        // What is good in a bad file counts.
        self.machine()?
            .ask_until("cat /proc/sys/kernel/hostname", STEP_TIMEOUT, |answer| {
                answer.contains("kitchen")
            })?;
        self.expect_hello()?;
        self.cut_power()
    }

    /// A write-protected card, and a broker whose name leads nowhere.
    pub(super) fn start_from_a_read_only_card(&mut self) -> Result<()> {
        let enrolment = self.stand.enrol_by(DEVICE, "mqtt://nowhere.invalid:1883", None)?;
        image::put_on_card(&self.artefacts.card, &enrolment, "enrolment.json")?;
        self.read_only = true;
        self.switch_on()?;
        self.read_only = false;
        self.expect_troubles(&["is read-only"])?;
        self.expect_hello()?;
        self.machine()?
            .wait_for("the agent to name its broker", STEP_TIMEOUT, |output| {
                Ok(output.contains("nowhere.invalid").then_some(()))
            })?;
        self.cut_power()
    }

    /// The data is gone: the fleet fills RAM with what shall run. Where RAM is too small for it, that is all that fails.
    pub(super) fn start_without_data(&mut self) -> Result<()> {
        let card = self.artefacts.card.clone();
        let (offset, _) = image::data_on_card(&card)?;
        image::write_on_card(&card, offset + SUPERBLOCK, &[0x5a; SUPERBLOCK_BYTES])?;
        let enrolment = self.enrol()?;
        image::put_on_card(&card, &enrolment, "enrolment.json")?;
        self.switch_on()?;
        let wrong = ["no data partition", "kept in RAM until this is mended"];
        self.expect_troubles(&wrong)?;
        self.wait_online()?;
        self.wait_troubles(&wrong, true)?;
        if self
            .variant
            .memory_mib
            .is_some_and(|mib| mib <= super::lowest::ENOUGH_MIB)
        {
            self.wait_app("hello", "to have no room", |app| {
                app["detail"]
                    .as_str()
                    .is_some_and(|detail| detail.contains("is too full"))
            })?;
            self.wait_online()?;
        } else {
            self.wait_app("hello", "to run from RAM", |app| app["state"] == "running")?;
        }
        self.cut_power()
    }

    /// Zeros where the data was, as behind a card's own two partitions: a file system is made, filled by the fleet, and kept.
    pub(super) fn start_with_blank_data(&mut self) -> Result<()> {
        let card = self.artefacts.card.clone();
        let (offset, _) = image::data_on_card(&card)?;
        image::write_on_card(&card, offset, &[0; BLANK_BYTES])?;
        self.switch_on()?;
        self.wait_console()?;
        self.machine()?
            .wait_for("the file system to be made", STEP_TIMEOUT, |output| {
                Ok(output
                    .contains("is blank: making the data file system")
                    .then_some(()))
            })?;
        self.wait_online()?;
        self.wait_app("hello", "to run", |app| app["state"] == "running")?;
        self.power_off()?;
        self.switch_on_isolated(&[])?;
        self.wait_console()?;
        self.expect_hello()?;
        self.cut_power()
    }

    /// No module fits: there are neither disk nor network, and the serial line names each.
    pub(super) fn start_with_another_kernel(&mut self) -> Result<()> {
        self.spoil_initramfs(VERMAGIC)?;
        self.switch_on()?;
        self.expect_troubles(&[
            "kernel module ext4: ",
            "kernel module virtio_blk: ",
            "does the kernel match the initramfs?",
            "no data partition",
        ])?;
        self.cut_power()
    }

    /// What the board is cannot be told: it does all that any board can, under a watchdog, and says so.
    pub(super) fn start_without_a_board_file(&mut self) -> Result<()> {
        self.spoil_initramfs(NAME_OF_BOARD)?;
        self.switch_on()?;
        let wrong = ["cannot read the board file"];
        self.expect_troubles(&wrong)?;
        self.expect_hello()?;
        self.wait_online()?;
        self.wait_troubles(&wrong, true)?;
        self.wait_app("hello", "to run", |app| app["state"] == "running")?;
        let said = self.machine()?.output();
        ensure!(
            said.contains("/dev/watchdog0 restarts the board when it is not fed"),
            "the watchdog is not used: {said}"
        );
        // Updates of its system are for it as before.
        let name = format!("\"name\":\"{}\"", self.artefacts.description.board.name);
        self.machine()?
            .ask_until("cat /etc/punnet/board.json", STEP_TIMEOUT, |answer| {
                answer.contains(&name)
            })?;
        self.cut_power()?;
        let good = self.artefacts.initramfs.clone();
        image::put_on_card(&self.artefacts.card, &good, "a/initramfs")
    }

    /// Puts an initramfs on the card that has the second in place of the first, wherever that is.
    fn spoil_initramfs(&self, [ours, other]: [&[u8]; 2]) -> Result<()> {
        ensure!(ours.len() == other.len(), "an archive's entries keep their sizes");
        let mut unpacked = Vec::new();
        GzDecoder::new(&*std::fs::read(&self.artefacts.initramfs)?).read_to_end(&mut unpacked)?;
        let mut at = 0;
        while let Some(found) = unpacked[at..].windows(ours.len()).position(|piece| piece == ours) {
            at += found;
            unpacked[at..at + ours.len()].copy_from_slice(other);
        }
        ensure!(
            at > 0,
            "there is no {:?} in the initramfs",
            String::from_utf8_lossy(ours)
        );
        let spoiled = self.folder.path().join("spoiled");
        std::fs::write(&spoiled, image::gzip(&unpacked)?)?;
        image::put_on_card(&self.artefacts.card, &spoiled, "a/initramfs")
    }

    /// As long as it is so, and no longer. The board is off.
    pub(super) fn tell_fleet_of_trouble(&mut self) -> Result<()> {
        let card = self.artefacts.card.clone();
        let settings = image::read_on_card(&card, "punnet.txt")?.context("a card has one")?;
        let file = self.folder.path().join("settings-of-trouble");
        for (more, is_wrong) in [("hostnme=kitchen\n", true), ("", false)] {
            std::fs::write(&file, [&*settings, more.as_bytes()].concat())?;
            image::put_on_card(&card, &file, "punnet.txt")?;
            self.switch_on()?;
            self.wait_online()?;
            self.wait_troubles(&["there is no key \"hostnme\""], is_wrong)?;
            self.cut_power()?;
        }
        Ok(())
    }

    /// With all apps as they shall be the LED would be steady. Of the board's description just what it says of the LED cannot be understood.
    pub(super) fn show_trouble_by_led(&mut self) -> Result<()> {
        self.spoil_initramfs(KEY_OF_BOARD)?;
        self.switch_on()?;
        self.expect_troubles(&["unknown field `status_lid` at line 1 column "])?;
        self.wait_online()?;
        self.wait_app("hello", "to run", |app| app["state"] == "running")?;
        for want in ["1", "0", "1"] {
            let is_so = |answer: &str| answer.lines().any(|line| line.trim() == want);
            self.machine()?
                .ask_until("cat /sys/class/leds/ACT/brightness", STEP_TIMEOUT, is_so)?;
        }
        self.cut_power()
    }

    pub(super) fn expect_troubles(&mut self, wanted: &[&str]) -> Result<()> {
        self.wait_console()?;
        let troubles = self
            .machine()?
            .ask_until("troubles", STEP_TIMEOUT, |answer| !answer.is_empty())?;
        for want in wanted {
            ensure!(
                troubles.contains(want),
                "{want:?} is not among the troubles: {troubles}"
            );
        }
        Ok(())
    }

    pub(super) fn expect_hello(&mut self) -> Result<()> {
        let running = |answer: &str| answer.contains("hello") && answer.contains("running");
        self.machine()?.ask_until("ps", STEP_TIMEOUT, running)?;
        Ok(())
    }
}
