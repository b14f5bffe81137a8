//! A card that was made with its apps and their images on it: the board runs them from its first start on, and never meets a controller.

use anyhow::{Context, Result, ensure};

use super::image_options;
use super::story::{STEP_TIMEOUT, Story};
use crate::image;

/// The image's name on the card.
const IMAGE: &str = "hello:1";
/// docs/apps.md
const APP: &str = "image: hello:1\nenv: [GREETING=alone]\n";

impl Story {
    /// `cargo xtask image --preload hello.oci.tar --apps DIR`, and a first start without network. The board is off.
    pub(super) fn start_alone(&mut self) -> Result<()> {
        let folder = self.folder.path().join("alone");
        let apps = folder.join("apps");
        std::fs::create_dir_all(&apps)?;
        std::fs::write(apps.join("hello.yaml"), APP)?;
        let archive = folder.join("hello.oci.tar");
        self.stand.save_hello_for(self.platform(), IMAGE, &archive)?;
        let mut options = image_options(&self.artefacts.description.board.name, &self.programs, None);
        (options.preload, options.apps) = (vec![archive], Some(apps));
        self.artefacts = image::make(&options, &folder)?;
        self.switch_on_isolated(&[])?;
        self.wait_console()?;
        let machine = self.machine()?;
        let said = machine.ask_until("logs hello", STEP_TIMEOUT, |answer| answer.contains("alone: "))?;
        let line = said.lines().find(|line| line.contains("alone: "));
        println!("    | {}", line.context("just seen")?);
        // Loaded once: the archive has made room.
        let left = machine.ask_until("ls /var/lib/punnet/preload", STEP_TIMEOUT, |_| true)?;
        ensure!(!left.contains(".tar"), "the archive is still on the card: {left}");
        self.cut_power()?;
        self.switch_on_isolated(&[])?;
        self.wait_console()?;
        self.expect_hello()?;
        self.cut_power()
    }
}
