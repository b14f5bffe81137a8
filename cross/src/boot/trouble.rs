//! What a board meets in the field: a spoiled boot partition, a clock in 1970, no way out, a card that cannot be written or holds no data.

use anyhow::{Result, ensure};

use super::story::{DEVICE, STEP_TIMEOUT, Story};
use crate::image;

/// As a board without a battery: the emulated clock begins there.
const IN_1970: &[&str] = &["-rtc", "base=1970-01-01T00:00:00"];
/// Where the superblock of an ext4 file system is, and its size.
const SUPERBLOCK: u64 = 1024;
const SUPERBLOCK_BYTES: usize = 1024;

impl Story {
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

    /// The data is gone: the fleet fills RAM with what shall run.
    pub(super) fn start_without_data(&mut self) -> Result<()> {
        let card = self.artefacts.card.clone();
        let (offset, _) = image::data_on_card(&card)?;
        image::write_on_card(&card, offset + SUPERBLOCK, &[0x5a; SUPERBLOCK_BYTES])?;
        let enrolment = self.enrol()?;
        image::put_on_card(&card, &enrolment, "enrolment.json")?;
        self.switch_on()?;
        self.expect_troubles(&["no data partition", "kept in RAM until this is mended"])?;
        self.wait_online()?;
        self.wait_app("hello", "to run from RAM", |app| app["state"] == "running")?;
        self.cut_power()
    }

    fn expect_troubles(&mut self, wanted: &[&str]) -> Result<()> {
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
