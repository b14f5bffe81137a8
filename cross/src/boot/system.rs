//! The update of a board's own system over MQTT: one that works, and one whose kernel does not get as far as a first process.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::image_options;
use super::story::{DEVICE, STEP_TIMEOUT, Story};
use crate::image;

/// The app that is the system.
const APP: &str = "system";
const OPTIONS: &[&str] = &["--device-class", "system", "--restart", "never", "--soak", "2s"];

impl Story {
    /// The other slot is written, tried, found good and kept.
    pub(super) fn update_system(&mut self) -> Result<()> {
        let mut options = image_options(&self.artefacts.description.board.name, &self.programs, None);
        options.name = Some("second".into());
        let made = image::make(&options, &self.folder.path().join("second"))?;
        self.stand
            .add_built("system-second", self.platform(), &made.system)?;
        self.stand
            .begin_deploy_of("system-second", APP, DEVICE, OPTIONS)?;
        let before = self.wait_restarted()?;
        ensure!(before.contains("of slot a"), "it did not run from slot a before");
        self.wait_online()?;
        self.wait_app(APP, "to run from the other slot", |app| app["state"] == "running")?;
        // What ran goes on running beside it.
        self.wait_app("hello", "to run under the new system", |app| {
            app["state"] == "running"
        })?;
        self.wait_console()?;
        self.machine()?
            .ask_until("system", STEP_TIMEOUT, |answer| answer.contains(" b kept"))?;
        // Without any flag now: it is what the firmware starts.
        self.cut_power()?;
        self.switch_on()?;
        self.wait_console()?;
        let said = self.machine()?.output();
        ensure!(said.contains("system second of slot b"), "it went back: {said}");
        self.wait_online()
    }

    /// It is tried once; its panic brings the one before back, and the fleet is told.
    pub(super) fn update_system_to_a_bad_one(&mut self) -> Result<()> {
        let context = self.folder.path().join("second/system");
        std::fs::write(context.join("boot/initramfs"), "no archive")?;
        self.stand.add_built("system-bad", self.platform(), &context)?;
        self.stand.begin_deploy_of("system-bad", APP, DEVICE, OPTIONS)?;
        let before = self.wait_restarted()?;
        ensure!(before.contains("of slot b"), "it did not run from slot b before");
        let panicked = self.wait_restarted()?;
        ensure!(
            panicked.contains("Kernel panic"),
            "the bad system ended otherwise: {panicked}"
        );
        self.wait_online()?;
        let failed = |app: &Value| app["state"] == "exited" && app["exit_code"] == 1;
        self.wait_app(APP, "to have failed", failed)?;
        let detail = self.stand.app(DEVICE, APP)?["detail"].clone();
        let detail = detail.as_str().context("the failure has no detail")?;
        ensure!(detail.contains("did not start"), "the fleet is told: {detail}");
        println!("    | {detail}");
        self.wait_console()?;
        let said = self.machine()?.output();
        ensure!(
            said.contains("system second of slot b") && said.contains("slot a did not start"),
            "not the system before runs: {said}"
        );
        self.wait_app("hello", "to run as before", |app| app["state"] == "running")
    }
}
