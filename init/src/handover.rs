//! What the roles leave for each other in RAM: /run/init.

use std::fs;
use std::io;

use crate::plan::settings::{self, Settings};

/// The folder, for nobody but root.
pub const FOLDER: &str = "/run/init";
/// A copy of `punnet.txt` of the boot partition.
pub const SETTINGS: &str = "/run/init/punnet.txt";
/// A checked copy of the boot partition's enrolment file.
pub const ENROLMENT: &str = "/run/init/enrolment.json";
/// The watchdog's node and its timeout in seconds.
pub const WATCHDOG: &str = "/run/init/watchdog";
/// What is wrong with this board, a line each.
pub const TROUBLES: &str = "/run/init/troubles";
/// There when the emergency console is to run.
pub const CONSOLE: &str = "/run/init/console";
/// There when the system that runs is on trial: it was started once, and another start brings the one before back.
pub const TRIAL: &str = "/run/init/trial";
/// There when the firmware shall start the other slot, once.
pub const TRY: &str = "/run/init/try";
/// Where the agent tells PID 1 that it lives.
pub const NOTIFY: &str = "/run/init/notify";
/// Where images and containers are.
pub const DATA_ROOT: &str = "/var/lib/punnet";
/// Archives of images that came with the card, until they are loaded.
pub const PRELOAD: &str = "/var/lib/punnet/preload";
/// App files of the boot partition.
pub const APPS: &str = "/etc/punnet/apps";
/// Seconds since 1970 when the board was last switched off, or found out the time.
pub const CLOCK: &str = "/var/lib/punnet/clock";
/// Where the image builder puts what the board is.
pub const BOARD_FOLDER: &str = "/etc/punnet";
/// What the board is (board-configs/); what `setup` makes of it when it is spoiled or not there.
pub const BOARD: &str = "/etc/punnet/board.json";

/// What the person said, as `setup` has found it; what is wrong with it has been said there.
pub fn settings() -> Settings {
    settings::parse(&fs::read_to_string(SETTINGS).unwrap_or_default()).0
}

/// Keeps the time on flash, so that the next boot begins no earlier.
pub fn keep_clock() -> io::Result<()> {
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    fs::write(CLOCK, format!("{}\n", now.as_secs()))
}

/// Later than this (2200-01-01) no kept time is: the file is damaged then.
const KEPT_MAX_S: u64 = 7_258_118_400;

/// The time kept; 0 when there is none, or none that makes sense.
pub fn kept_clock_s() -> u64 {
    kept_s(&crate::read_word(CLOCK))
}

fn kept_s(text: &str) -> u64 {
    text.parse().ok().filter(|s| *s <= KEPT_MAX_S).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_damaged_clock_file_is_no_time() {
        for (text, want) in [
            ("1800000000", 1_800_000_000),
            ("", 0),
            ("-1", 0),
            ("18446744073709551615", 0),
        ] {
            assert_eq!(super::kept_s(text), want, "{text:?}");
        }
    }
}
