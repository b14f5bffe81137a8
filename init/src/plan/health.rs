//! When the hardware watchdog is fed, and when an ended process is started again.

use std::time::Duration;

/// The agent says so often that it is alive: half of what it is told in `WATCHDOG_USEC`.
pub const ALIVE_PERIOD: Duration = Duration::from_secs(5);
/// Silence that counts as frozen: four messages missed.
pub const SILENCE_MAX: Duration = Duration::from_secs(20);
/// From the start to the first message: a store that is looked through after a power cut, on a slow card.
pub const START_MAX: Duration = Duration::from_secs(300);
/// Between two feedings: a third of the shortest timeout of the boards' watchdogs, 15 s.
pub const FEED_PERIOD: Duration = Duration::from_secs(5);

/// How the agent is, as far as PID 1 knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Agent {
    /// It does not run: it ended and waits to be started again, which is seen to and no reason to take the containers down.
    Away,
    /// It was started so long ago and has said nothing yet.
    Starting(Duration),
    /// It last spoke so long ago.
    Spoke(Duration),
}

/// True while the watchdog is to be fed.
pub fn is_healthy(agent: Agent) -> bool {
    match agent {
        Agent::Away => true,
        Agent::Starting(since) => since < START_MAX,
        Agent::Spoke(since) => since < SILENCE_MAX,
    }
}

/// First pause before a process is started again; it doubles with each quick end.
const PAUSE_MIN: Duration = Duration::from_secs(1);
/// Longest pause: a person who has put the enrolment file in place waits no longer than this.
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// Who ran this long did not end quickly.
const STEADY: Duration = Duration::from_secs(60);

/// How long to wait before a process that ended is started again, and how many quick ends in a row that makes.
pub fn restart_pause(quick_ends: u32, ran_for: Duration) -> (Duration, u32) {
    if ran_for >= STEADY {
        return (PAUSE_MIN, 1);
    }
    let pause = PAUSE_MIN.saturating_mul(1 << quick_ends.min(6));
    (pause.min(PAUSE_MAX), quick_ends.saturating_add(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frozen_agent_is_not_fed_for_and_an_ended_one_is() {
        let s = Duration::from_secs;
        for (agent, healthy) in [
            (Agent::Away, true),
            (Agent::Starting(s(299)), true),
            (Agent::Starting(s(300)), false),
            (Agent::Spoke(s(19)), true),
            (Agent::Spoke(s(20)), false),
        ] {
            assert_eq!(is_healthy(agent), healthy, "{agent:?}");
        }
    }

    #[test]
    fn pauses_double_up_to_a_minute_and_begin_anew_after_a_steady_run() {
        let s = Duration::from_secs;
        let mut quick = 0;
        let mut pauses = Vec::new();
        for _ in 0..8 {
            let (pause, next) = restart_pause(quick, s(0));
            quick = next;
            pauses.push(pause.as_secs());
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(restart_pause(quick, s(60)), (s(1), 1));
        assert_eq!(restart_pause(u32::MAX, s(0)), (s(60), u32::MAX));
    }
}
