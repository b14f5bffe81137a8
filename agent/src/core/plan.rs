//! The next step for one app: a pure function from what shall be and what is.

use punnet_protocol::{Digest, RestartPolicy};

use super::wanted::Wanted;
use super::{Seen, Status};

/// What shall be done next for an app.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// All is as it shall be.
    Rest,
    /// Its process has ended and policy says that it stays so.
    Ended,
    /// Neither wanted nor there: no longer an app.
    Forget,
    /// Its image is not in the store.
    Fetch(Digest),
    /// Nothing before this time.
    Wait(u64),
    Create,
    Start,
    Stop,
    Remove,
}

/// What bears on an app besides what shall be and what is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Circumstances {
    /// The target's image is in the store.
    pub image_here: bool,
    /// No create or start before this time.
    pub retry_at: Option<u64>,
    /// Somebody asked to stop and start it.
    pub restart_asked: bool,
    /// The container could not be started and has to be made anew.
    pub remake: bool,
}

/// The next step.
///
/// A container that runs is not touched before the image of what shall take its place is in the store.
pub fn next(now_ms: u64, target: Option<&Wanted>, container: Option<&Seen>, about: Circumstances) -> Step {
    let Some(target) = target else {
        return match container {
            None => Step::Forget,
            Some(seen) if seen.status == Status::Running => Step::Stop,
            Some(_) => Step::Remove,
        };
    };
    let as_wanted = container.is_some_and(|seen| seen.spec == Some(target.spec));
    if !as_wanted && !about.image_here {
        return Step::Fetch(target.image);
    }
    let when_due = |step| match about.retry_at {
        Some(at) if now_ms < at => Step::Wait(at),
        _ => step,
    };
    match container {
        None => when_due(Step::Create),
        Some(seen) if !as_wanted => {
            if seen.status == Status::Running {
                Step::Stop
            } else {
                Step::Remove
            }
        }
        Some(seen) => match seen.status {
            Status::Created | Status::Stopped if about.remake => Step::Remove,
            Status::Created => when_due(Step::Start),
            Status::Running if about.restart_asked => Step::Stop,
            Status::Running => Step::Rest,
            Status::Stopped if about.restart_asked => Step::Start,
            Status::Stopped if stays_ended(target.restart, seen.exit_code) => Step::Ended,
            Status::Stopped => when_due(Step::Start),
        },
    }
}

/// Whether a process that ended with `code` (`None`: not known, as after a power cut) stays so.
pub fn stays_ended(policy: RestartPolicy, code: Option<i32>) -> bool {
    match policy {
        RestartPolicy::Never => true,
        RestartPolicy::OnFailure => code == Some(0),
        RestartPolicy::Always => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(spec: u8, restart: RestartPolicy) -> Wanted {
        Wanted {
            name: "web".parse().unwrap(),
            spec: Digest([spec; 32]),
            image: Digest([0xee; 32]),
            manifest_bytes: 1,
            total_bytes: 1,
            reference: String::new(),
            restart,
            stop_timeout_ms: 1,
            soak_ms: 1,
            is_system: false,
            encoded: [].into(),
        }
    }

    fn seen(spec: u8, status: Status, exit_code: Option<i32>) -> Seen {
        Seen {
            app: "web".parse().unwrap(),
            spec: Some(Digest([spec; 32])),
            status,
            pid: 1,
            exit_code,
            out_of_memory: false,
        }
    }

    const HERE: Circumstances = Circumstances {
        image_here: true,
        retry_at: None,
        restart_asked: false,
        remake: false,
    };
    const AWAY: Circumstances = Circumstances {
        image_here: false,
        retry_at: None,
        restart_asked: false,
        remake: false,
    };
    const LATER: Circumstances = Circumstances {
        image_here: true,
        retry_at: Some(500),
        restart_asked: false,
        remake: false,
    };
    const REMAKE: Circumstances = Circumstances {
        image_here: true,
        retry_at: Some(500),
        restart_asked: false,
        remake: true,
    };
    const ASKED: Circumstances = Circumstances {
        image_here: true,
        retry_at: Some(500),
        restart_asked: true,
        remake: false,
    };

    #[test]
    fn every_case_has_its_step() {
        use RestartPolicy::{Always, Never, OnFailure};
        use Status::{Created, Running, Stopped};
        let fetch = Step::Fetch(Digest([0xee; 32]));
        let table = [
            // Not wanted.
            (None, None, AWAY, Step::Forget),
            (None, Some(seen(1, Running, None)), AWAY, Step::Stop),
            (None, Some(seen(1, Stopped, Some(0))), AWAY, Step::Remove),
            (None, Some(seen(1, Created, None)), AWAY, Step::Remove),
            // The image is not here: nothing that is there is touched.
            (Some(Always), None, AWAY, fetch),
            (Some(Always), Some(seen(2, Running, None)), AWAY, fetch),
            (Some(Always), Some(seen(2, Stopped, None)), AWAY, fetch),
            // The image is gone from the store but the container runs as wanted.
            (Some(Always), Some(seen(1, Running, None)), AWAY, Step::Rest),
            // Another version is there.
            (Some(Always), Some(seen(2, Running, None)), HERE, Step::Stop),
            (Some(Always), Some(seen(2, Running, None)), LATER, Step::Stop),
            (Some(Always), Some(seen(2, Stopped, None)), HERE, Step::Remove),
            (Some(Always), Some(seen(2, Created, None)), HERE, Step::Remove),
            // The wanted version.
            (Some(Always), None, HERE, Step::Create),
            (Some(Always), None, LATER, Step::Wait(500)),
            (Some(Never), Some(seen(1, Created, None)), HERE, Step::Start),
            (Some(Never), Some(seen(1, Created, None)), LATER, Step::Wait(500)),
            (Some(Always), Some(seen(1, Running, None)), LATER, Step::Rest),
            // Policy.
            (Some(Always), Some(seen(1, Stopped, Some(0))), HERE, Step::Start),
            (
                Some(Always),
                Some(seen(1, Stopped, Some(0))),
                LATER,
                Step::Wait(500),
            ),
            (
                Some(OnFailure),
                Some(seen(1, Stopped, Some(0))),
                HERE,
                Step::Ended,
            ),
            (
                Some(OnFailure),
                Some(seen(1, Stopped, Some(1))),
                HERE,
                Step::Start,
            ),
            (Some(OnFailure), Some(seen(1, Stopped, None)), HERE, Step::Start),
            (Some(Never), Some(seen(1, Stopped, Some(1))), HERE, Step::Ended),
            (Some(Never), Some(seen(1, Stopped, None)), HERE, Step::Ended),
            // It could not be started: made anew.
            (Some(Always), Some(seen(1, Created, None)), REMAKE, Step::Remove),
            (Some(Always), Some(seen(1, Stopped, None)), REMAKE, Step::Remove),
            (Some(Always), Some(seen(1, Running, None)), REMAKE, Step::Rest),
            (Some(Always), None, REMAKE, Step::Wait(500)),
            // Asked to restart: at once, whatever the policy.
            (Some(Never), Some(seen(1, Running, None)), ASKED, Step::Stop),
            (Some(Never), Some(seen(1, Stopped, Some(143))), ASKED, Step::Start),
        ];
        for (policy, container, about, step) in table {
            let target = policy.map(|policy| wanted(1, policy));
            let found = next(100, target.as_ref(), container.as_ref(), about);
            assert_eq!(found, step, "{policy:?} {container:?} {about:?}");
        }
    }

    #[test]
    fn a_container_without_a_readable_spec_is_replaced() {
        let mut odd = seen(1, Status::Running, None);
        odd.spec = None;
        assert_eq!(
            next(0, Some(&wanted(1, RestartPolicy::Always)), Some(&odd), HERE),
            Step::Stop
        );
    }
}
