//! A card that was made with its apps and their images on it: the board runs them from its first start on, and never meets a controller.

use std::time::Instant;

use anyhow::{Context, Result, ensure};

use super::image_options;
use super::measure::Start;
use super::story::{Clock, STEP_TIMEOUT, Story};
use crate::image;

/// The image's name on the card.
const IMAGE: &str = "hello:1";
/// docs/apps.md
const APP: &str = "image: hello:1\nenv: [GREETING=alone]\nargs: [--uptime]\n";
/// What its lines begin with.
const GREETING: &str = "alone: ";
/// From the first process to the app's first output, seconds by the counted clock.
const START_MAX_S: f64 = 0.3;
/// That clock goes on while the board waits for its disk, and a busy machine lets it wait long: the best of so many starts counts.
const STARTS: usize = 5;

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
        let said = machine.ask_until("logs hello", STEP_TIMEOUT, |answer| answer.contains(GREETING))?;
        let line = said.lines().find(|line| line.contains(GREETING));
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

    /// As `start_alone` has left it, the board has the app's first output in time. The board is off.
    pub(super) fn start_in_time(&mut self) -> Result<()> {
        let mut fastest_s = f64::INFINITY;
        for _ in 0..STARTS {
            let began = Instant::now();
            self.with_clock(Clock::Counted, |story| story.switch_on_isolated(&[]))?;
            let start = Start::of(self.machine()?, began, GREETING)?;
            self.cut_power()?;
            fastest_s = fastest_s.min(start.after_pid_1_s());
            println!("    | {start}");
            if fastest_s <= START_MAX_S {
                break;
            }
        }
        ensure!(
            fastest_s <= START_MAX_S,
            "the app's first output came {fastest_s:.2} s after the first process, of {STARTS} starts at best; {START_MAX_S} s are allowed"
        );
        Ok(())
    }
}
