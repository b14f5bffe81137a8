//! Images between punnet and an engine, both ways.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Result;

use super::habits::{Habits, IMAGE};
use super::{Checks, expect};
use crate::packages::busybox;
use crate::process::stdout_of;

/// A device of ours beside an engine.
pub struct Ours {
    punnet: PathBuf,
    folder: PathBuf,
}

impl Ours {
    /// With data of its own in a new folder there.
    pub fn new(punnet: &Path, folder: &Path, name: &str) -> Result<Self> {
        let folder = folder.join(name);
        std::fs::create_dir(&folder)?;
        Ok(Self {
            punnet: punnet.into(),
            folder,
        })
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.punnet);
        for name in ["data", "run"] {
            command.arg(format!("--{name}-root")).arg(self.folder.join(name));
        }
        command.args(words).stdin(Stdio::null());
        command
    }

    fn ok(&self, words: &[&str]) -> Result<String> {
        Ok(stdout_of(&mut self.command(words))?.trim().to_owned())
    }

    fn path(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }

    /// A context with a static busybox; its path.
    fn context(&self) -> Result<String> {
        let context = self.folder.join("context");
        std::fs::create_dir_all(&context)?;
        std::fs::copy(busybox()?, context.join("busybox"))?;
        let text = "FROM scratch\nCOPY --chmod=755 busybox /bin/busybox\nENTRYPOINT [\"/bin/busybox\"]\n";
        std::fs::write(context.join("Containerfile"), text)?;
        Ok(context.display().to_string())
    }

    /// What we save is loaded and run there, in these formats; what is saved there is loaded and run here.
    pub fn check(&self, habits: &Habits<'_>, formats: &[&str], checks: &mut Checks) {
        for format in formats {
            checks.check(&format!("loads and runs a {format} that punnet saved"), || {
                self.give(habits, format)
            });
        }
        checks.check("saves what punnet loads and runs", || self.take(habits));
    }

    fn give(&self, habits: &Habits<'_>, format: &str) -> Result<()> {
        let context = self.context()?;
        let archive = self.path(&format!("{format}.tar"));
        let tag = format!("ours:{format}");
        self.ok(&["build", "--quiet", "--tag", &tag, &context])?;
        self.ok(&["save", "--format", format, "--output", &archive, &tag])?;
        habits.engine.ok(&["load", "--input", &archive])?;
        let mut words = vec!["run", "--rm", "--network", "none"];
        words.extend(habits.run);
        words.extend([tag.as_str(), "echo", "out"]);
        expect("output", habits.engine.ok(&words)?.as_str(), "out")
    }

    fn take(&self, habits: &Habits<'_>) -> Result<()> {
        let archive = self.path("theirs.tar");
        habits.engine.ok(&["save", "--output", &archive, IMAGE])?;
        self.ok(&["load", "--tag", "theirs", &archive])?;
        let out = self.ok(&["run", "--rm", "--network", "none", "theirs", "echo", "out"])?;
        expect("output", out.as_str(), "out")
    }
}
