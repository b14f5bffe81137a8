//! The two boot slots of a board, and how the update of its system stands: one line of text in the data root, written by `punnet system`,
//! read by the agent.

use std::fmt;
use std::str::FromStr;

/// The record's name in the data root.
pub const FILE: &str = "system";
/// An app that asks for this device class is no container but the board's system.
pub const DEVICE_CLASS: &str = "system";
/// So much of the file is read: one line of names and digests.
pub const FILE_BYTES_MAX: u64 = 1024;

/// A folder of the boot partition with kernel, initramfs, device trees and command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slot {
    /// What a new card starts from.
    A,
    /// The other one.
    B,
}

impl Slot {
    /// Its folder's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::A => "a",
            Self::B => "b",
        }
    }

    /// The one an update is written to.
    pub const fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }

    /// By its folder's name.
    pub fn named(name: &str) -> Option<Self> {
        [Self::A, Self::B].into_iter().find(|slot| slot.name() == name)
    }

    /// The slot that this kernel was started from, by its command line: `punnet.slot=a`.
    pub fn booted(command_line: &str) -> Option<Self> {
        let word = |word: &str| word.strip_prefix("punnet.slot=").and_then(Self::named);
        command_line.split_whitespace().find_map(word)
    }
}

/// How far an update has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// It is whole in its slot.
    Written,
    /// The firmware was told to start it once.
    Tried,
    /// It is what the firmware starts from now on.
    Kept,
    /// It is no longer wanted; what runs goes on until another one takes its place.
    Left,
}

impl Stage {
    const ALL: [(&'static str, Self); 4] = [
        ("written", Self::Written),
        ("tried", Self::Tried),
        ("kept", Self::Kept),
        ("left", Self::Left),
    ];

    fn name(self) -> &'static str {
        Self::ALL
            .iter()
            .find(|(_, stage)| *stage == self)
            .map_or("", |(name, _)| name)
    }
}

/// An update of the system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SystemUpdate {
    /// The app it is in the fleet's desired state.
    pub app: String,
    /// Digest of that app's settings.
    pub spec: String,
    /// Its slot.
    pub slot: Slot,
    /// How far it has come.
    pub stage: Stage,
}

impl SystemUpdate {
    /// True when this update is what runs.
    pub fn runs(&self, booted: Option<Slot>) -> bool {
        booted == Some(self.slot) && matches!(self.stage, Stage::Tried | Stage::Kept)
    }

    /// True when it was started and the firmware has gone back to the other slot.
    pub fn failed(&self, booted: Option<Slot>) -> bool {
        booted != Some(self.slot) && matches!(self.stage, Stage::Tried | Stage::Kept)
    }
}

impl fmt::Display for SystemUpdate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (slot, stage) = (self.slot.name(), self.stage.name());
        writeln!(f, "{} {} {slot} {stage}", self.app, self.spec)
    }
}

impl FromStr for SystemUpdate {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut words = text.split_whitespace();
        let mut word = || words.next().ok_or(());
        let (app, spec) = (word()?.to_owned(), word()?.to_owned());
        let slot = Slot::named(word()?).ok_or(())?;
        let stage = word()?;
        let stage = Stage::ALL.iter().find(|(name, _)| *name == stage).ok_or(())?.1;
        Ok(Self {
            app,
            spec,
            slot,
            stage,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_survives_its_file_and_says_how_it_stands() {
        for (_, stage) in Stage::ALL {
            let update = SystemUpdate {
                app: "system".into(),
                spec: "sha256:00".into(),
                slot: Slot::B,
                stage,
            };
            assert_eq!(update.to_string().parse(), Ok(update.clone()));
            let counts = matches!(stage, Stage::Tried | Stage::Kept);
            assert_eq!(update.runs(Some(Slot::B)), counts, "{stage:?}");
            assert_eq!(update.failed(Some(Slot::A)), counts, "{stage:?}");
            assert!(!update.runs(Some(Slot::A)) && !update.failed(Some(Slot::B)));
        }
        for bad in ["", "system", "system x c tried", "system x a new"] {
            assert!(bad.parse::<SystemUpdate>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_command_line_names_the_slot() {
        assert_eq!(Slot::booted("quiet punnet.slot=b x"), Some(Slot::B));
        assert_eq!(Slot::booted("punnet.slot=c"), None);
        assert_eq!(Slot::booted("quiet"), None);
    }
}
