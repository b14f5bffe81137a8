//! What is done next about an app: a pure function of what is wanted and what is there.

use crate::Restart;

/// The first pause after a failure; each further one doubles it.
const PAUSE_FIRST_MS: u64 = 1000;
/// The longest pause: a board that waits for its network tries once a minute.
const PAUSE_MOST_MS: u64 = 60_000;

/// The container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// There is none.
    Absent,
    /// It does not run: just made, ended, or from before the boot.
    Idle,
    /// It runs.
    Running,
}

/// What is to be known about an app.
#[derive(Clone, Copy, Debug)]
pub struct Look {
    /// There is a file.
    pub wanted: bool,
    /// A person has stopped it.
    pub held: bool,
    /// The container.
    pub found: Found,
    /// It was made from what the file says, and from the image that its name means.
    pub same: bool,
    /// The store has the image.
    pub image_is_here: bool,
    /// How it ended since the board has started: `Some(None)` when nobody was there to learn the exit code.
    pub ended: Option<Option<i32>>,
    /// When it ends.
    pub restart: Restart,
    /// Not before this is anything tried again.
    pub retry_at_ms: u64,
    /// Those that come before it have been started, or tried.
    pub after_others: bool,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing now.
    Nothing,
    /// Fetch the image.
    Pull,
    /// Make the container.
    Create,
    /// Start it.
    Start,
    /// Stop it.
    Stop,
    /// Remove it.
    Remove,
}

/// The next step.
pub fn next(now_ms: u64, look: &Look) -> Step {
    let waits = now_ms < look.retry_at_ms;
    match look.found {
        // Also what stops or removes may fail, and is not tried again at once.
        _ if waits => Step::Nothing,
        Found::Running if !look.wanted || look.held || !look.same => Step::Stop,
        Found::Running => Step::Nothing,
        Found::Idle if !look.wanted => Step::Remove,
        Found::Absent if !look.wanted => Step::Nothing,
        _ if look.held => Step::Nothing,
        // What is to be replaced is replaced only by something that is there.
        Found::Idle | Found::Absent if !(look.image_is_here || look.found == Found::Idle && look.same) => {
            Step::Pull
        }
        Found::Idle if !look.same => Step::Remove,
        _ if !look.after_others => Step::Nothing,
        Found::Absent => Step::Create,
        Found::Idle if stays_ended(look.restart, look.ended) => Step::Nothing,
        Found::Idle => Step::Start,
    }
}

/// Whether an app that ended so stays ended.
pub fn stays_ended(restart: Restart, ended: Option<Option<i32>>) -> bool {
    match (restart, ended) {
        (_, None) | (Restart::Always, _) => false,
        (Restart::Never, Some(_)) => true,
        (Restart::OnFailure, Some(code)) => code == Some(0),
    }
}

/// How long to wait after so many failures in a row.
pub fn pause_ms(failures: u32) -> u64 {
    let doublings = failures.saturating_sub(1).min(16);
    (PAUSE_FIRST_MS << doublings).min(PAUSE_MOST_MS)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A wanted app whose container has been made and never started.
    fn made() -> Look {
        Look {
            wanted: true,
            held: false,
            found: Found::Idle,
            same: true,
            image_is_here: true,
            ended: None,
            restart: Restart::Always,
            retry_at_ms: 0,
            after_others: true,
        }
    }

    #[test]
    fn each_situation_has_its_step() {
        let check = |what: &str, change: fn(&mut Look), want: Step| {
            let mut look = made();
            change(&mut look);
            assert_eq!(next(100, &look), want, "{what}");
        };
        check("made", |_| {}, Step::Start);
        check("runs", |l| l.found = Found::Running, Step::Nothing);
        check("new", |l| l.found = Found::Absent, Step::Create);
        check(
            "no image",
            |l| (l.found, l.image_is_here) = (Found::Absent, false),
            Step::Pull,
        );
        check("made, its image gone", |l| l.image_is_here = false, Step::Start);
        check(
            "changed",
            |l| (l.found, l.same) = (Found::Running, false),
            Step::Stop,
        );
        check("changed, stopped", |l| l.same = false, Step::Remove);
        check(
            "changed, new image not here",
            |l| (l.same, l.image_is_here) = (false, false),
            Step::Pull,
        );
        check(
            "file gone",
            |l| (l.wanted, l.found) = (false, Found::Running),
            Step::Stop,
        );
        check("file gone, stopped", |l| l.wanted = false, Step::Remove);
        check(
            "file and container gone",
            |l| (l.wanted, l.found) = (false, Found::Absent),
            Step::Nothing,
        );
        check(
            "stopped by a person",
            |l| (l.held, l.found) = (true, Found::Running),
            Step::Stop,
        );
        check("and stopped", |l| l.held = true, Step::Nothing);
        check("pause", |l| l.retry_at_ms = 101, Step::Nothing);
        check("pause over", |l| l.retry_at_ms = 100, Step::Start);
        check("waits for others", |l| l.after_others = false, Step::Nothing);
        check(
            "fetches meanwhile",
            |l| (l.found, l.image_is_here, l.after_others) = (Found::Absent, false, false),
            Step::Pull,
        );
    }

    #[test]
    fn restart_is_as_the_file_says() {
        let cases = [
            (Restart::Always, Some(Some(0)), false),
            (Restart::Always, Some(None), false),
            (Restart::OnFailure, Some(Some(0)), true),
            (Restart::OnFailure, Some(Some(1)), false),
            (Restart::OnFailure, Some(None), false),
            (Restart::Never, Some(Some(1)), true),
            (Restart::Never, None, false),
        ];
        for (restart, ended, want) in cases {
            assert_eq!(stays_ended(restart, ended), want, "{restart:?} {ended:?}");
        }
    }

    #[test]
    fn pauses_double_up_to_a_minute() {
        let pauses: Vec<_> = [0, 1, 2, 3, 7, u32::MAX].map(pause_ms).into();
        assert_eq!(pauses, [1000, 1000, 2000, 4000, 60_000, 60_000]);
    }
}
