//! Where things are on this device: see "Directories on a device" in ARCHITECTURE.md.

use std::path::PathBuf;

use nix::unistd::geteuid;

use crate::error::{CliError, Result};

/// What `--data-root` and `--run-root` said.
#[derive(Clone, Default)]
pub struct Roots {
    /// On flash; survives a reboot.
    pub data: Option<PathBuf>,
    /// In RAM; gone after a reboot.
    pub run: Option<PathBuf>,
}

impl Roots {
    /// `--data-root`, `PUNNET_DATA_ROOT`, then /var/lib/punnet for root and `$XDG_DATA_HOME/punnet` for others.
    pub fn data(&self) -> Result<PathBuf> {
        let given = self.data.clone().or_else(|| variable("PUNNET_DATA_ROOT"));
        let found = given.or_else(|| geteuid().is_root().then(|| "/var/lib/punnet".into()));
        let home =
            || variable("XDG_DATA_HOME").or_else(|| variable("HOME").map(|home| home.join(".local/share")));
        absolute(
            found
                .or_else(|| home().map(|home| home.join("punnet")))
                .ok_or(CliError::NoHome)?,
        )
    }

    /// `--run-root`, `PUNNET_RUN_ROOT`, then /run/punnet for root and `$XDG_RUNTIME_DIR/punnet` for others.
    pub fn run(&self) -> Result<PathBuf> {
        let given = self.run.clone().or_else(|| variable("PUNNET_RUN_ROOT"));
        let found = given.or_else(|| geteuid().is_root().then(|| "/run/punnet".into()));
        let own = || variable("XDG_RUNTIME_DIR").map(|folder| folder.join("punnet"));
        absolute(found.or_else(own).ok_or(CliError::NoRuntimeDir)?)
    }

    /// The file that says what the board is, as the tools write it (board-configs/), where there is one: under the data root or in /etc/punnet.
    #[cfg(feature = "images")]
    pub fn board_file(&self) -> Result<Option<PathBuf>> {
        let places = [self.data()?.join("board.json"), "/etc/punnet/board.json".into()];
        Ok(places.into_iter().find(|path| path.exists()))
    }

    /// What the board is, a generic one without a file; and what is wrong with the file, which is no reason to do nothing.
    #[cfg(feature = "images")]
    pub fn board(&self) -> Result<(punnet_boards::Board, Option<String>)> {
        use punnet_boards::{Arch, Board};
        Ok(match self.board_file()? {
            Some(path) => Board::as_far_as_readable(&path),
            None => (Board::generic(Arch::OWN), None),
        })
    }
}

fn variable(name: &str) -> Option<PathBuf> {
    std::env::var_os(name)
        .filter(|value| !value.is_empty())
        .map(PathBuf::from)
}

/// A bundle's paths must not depend on who reads them from where.
fn absolute(path: PathBuf) -> Result<PathBuf> {
    std::path::absolute(&path).map_err(|source| {
        CliError::File {
            what: "cannot find",
            path,
            source,
        }
        .into()
    })
}
