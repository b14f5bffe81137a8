//! The update of a board's own system over MQTT: one that works, one that does not get well, one whose kernel does not get as far as a first process,
//! one that hangs.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::image_options;
use super::story::{DEVICE, STEP_TIMEOUT, Story};
use crate::image;
use crate::initramfs::Initramfs;

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

    /// It runs, and the fleet is never content with it: at the end of its trial it restarts itself.
    pub(super) fn update_system_to_one_that_stays_on_trial(&mut self) -> Result<()> {
        let line = self.system_context().join("boot/cmdline.txt");
        let before = std::fs::read_to_string(&line)?;
        // Half an hour, when it is not said.
        std::fs::write(&line, format!("{} punnet.trial=15\n", before.trim()))?;
        let soaks = ["--device-class", "system", "--restart", "never", "--soak", "20m"];
        let said = self.update_system_in_vain("on-trial", &soaks)?;
        std::fs::write(&line, before)?;
        ensure!(
            said.contains("of slot a") && said.contains("did not get well"),
            "the system on trial ended otherwise: {said}"
        );
        Ok(())
    }

    /// Its panic brings the one before back.
    pub(super) fn update_system_to_a_bad_one(&mut self) -> Result<()> {
        std::fs::write(self.system_context().join("boot/initramfs"), "no archive")?;
        let said = self.update_system_in_vain("bad", OPTIONS)?;
        ensure!(
            said.contains("Kernel panic"),
            "the bad system ended otherwise: {said}"
        );
        Ok(())
    }

    /// Its kernel runs and nothing of ours: nobody takes over the watchdog that the firmware has started.
    pub(super) fn update_system_to_one_that_hangs(&mut self) -> Result<()> {
        let mut made = Initramfs::default();
        made.add_file("init", &self.programs.here.hello)?;
        made.add_device("dev/console", 5, 1);
        let packed = image::gzip(&made.finish())?;
        std::fs::write(self.system_context().join("boot/initramfs"), packed)?;
        let said = self.update_system_in_vain("hangs", OPTIONS)?;
        ensure!(
            said.contains("hello from") && !said.contains("PID 1"),
            "the hanging system ended otherwise: {said}"
        );
        Ok(())
    }

    /// What the next version of the system is made from.
    fn system_context(&self) -> PathBuf {
        self.folder.path().join("second/system")
    }

    /// It is tried once, the system before runs again, and the fleet is told; what the one on trial has said.
    fn update_system_in_vain(&mut self, name: &str, options: &[&str]) -> Result<String> {
        let image = format!("system-{name}");
        self.stand
            .add_built(&image, self.platform(), &self.system_context())?;
        self.stand.begin_deploy_of(&image, APP, DEVICE, options)?;
        let before = self.wait_restarted()?;
        ensure!(before.contains("of slot b"), "it did not run from slot b before");
        let tried = self.wait_restarted()?;
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
        self.wait_app("hello", "to run as before", |app| app["state"] == "running")?;
        Ok(tried)
    }
}
