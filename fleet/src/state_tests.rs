//! Tables for [`super`].

use punnet_protocol::topics::Purpose;
use punnet_protocol::{BoardInfo, clipped};

use super::*;

const LIVE: Arrival = Arrival {
    now_s: 100,
    retained: false,
};
const RETAINED: Arrival = Arrival {
    now_s: 100,
    retained: true,
};

fn report(session: u64, sequence: u64, generation: u64) -> Reported {
    Reported {
        session,
        sequence,
        generation,
        converged: true,
        board: BoardInfo {
            arch: Arch::ArmV7,
            agent_version: clipped("0.1.0"),
            board: clipped("generic"),
            kernel: clipped("6.1"),
            memory_bytes: 1 << 28,
            disk_free_bytes: 1 << 30,
        },
        apps: heapless::Vec::new(),
    }
}

fn device(session: u64, generation: u64) -> Device {
    Device {
        session,
        generation,
        online: true,
        ..Device::default()
    }
}

#[test]
fn a_will_counts_only_for_its_own_session() {
    let table = [(4, true), (5, false), (6, true)];
    for (session, online_after) in table {
        let mut it = device(5, 0);
        let result = it.presence(
            Presence {
                session,
                online: false,
            },
            LIVE,
        );
        assert_eq!(it.online, online_after, "will of session {session}");
        assert_eq!(result.is_err(), online_after);
        assert_eq!(it.session, 5);
    }
}

#[test]
fn a_birth_counts_even_when_the_device_lost_its_session_counter() {
    let mut it = device(500, 0);
    let effects = it
        .presence(
            Presence {
                session: 1,
                online: true,
            },
            LIVE,
        )
        .unwrap();
    assert!(effects.session_changed && it.online);
    assert_eq!(it.session, 1);
    it.reported(report(1, 1, 0), LIVE).unwrap();
}

#[test]
fn a_retained_report_is_no_sign_of_life() {
    let mut it = Device::default();
    it.reported(report(3, 1, 0), RETAINED).unwrap();
    assert!(!it.online && it.seen_s.is_none());
    it.reported(report(3, 2, 0), LIVE).unwrap();
    assert!(it.online && it.seen_s == Some(100));
}

#[test]
fn old_and_repeated_reports_change_nothing() {
    let mut it = device(5, 7);
    it.reported(report(5, 3, 7), LIVE).unwrap();
    let before = it.clone();
    assert_eq!(it.reported(report(5, 3, 7), LIVE), Err(Ignored::Known));
    assert_eq!(it.reported(report(5, 2, 6), LIVE), Err(Ignored::Known));
    assert_eq!(it.reported(report(4, 9, 6), LIVE), Err(Ignored::OldSession));
    assert_eq!(it, before);
}

#[test]
fn converged_needs_this_very_generation_and_no_refusal() {
    let mut it = device(5, 7);
    it.reported(report(5, 1, 6), LIVE).unwrap();
    assert!(!it.converged());
    it.reported(report(5, 2, 7), LIVE).unwrap();
    assert!(it.converged());
    let unreadable = Reply {
        session: 5,
        to: ReplyTo::Packet {
            purpose: Purpose::Desired,
        },
        outcome: Outcome::Rejected {
            reason: Rejection::Signature,
            detail: clipped(""),
        },
    };
    it.reply(unreadable, LIVE).unwrap();
    assert!(!it.converged());
    assert!(
        it.refusal
            .as_ref()
            .unwrap()
            .detail
            .contains("enrol the device again")
    );
}

#[test]
fn a_device_ahead_of_a_restored_controller_raises_the_generation_within_bounds() {
    let table = [
        (7, None),
        (8, Some(8)),
        (7 + GENERATION_RAISE_MAX, Some(7 + GENERATION_RAISE_MAX)),
    ];
    for (reported, expected) in table {
        assert_eq!(
            device(5, 7)
                .reported(report(5, 1, reported), LIVE)
                .unwrap()
                .sign_above,
            expected
        );
    }
    for too_far in [8 + GENERATION_RAISE_MAX, u64::MAX] {
        assert_eq!(
            device(5, 7)
                .reported(report(5, 1, too_far), LIVE)
                .unwrap()
                .sign_above,
            None
        );
    }
}

#[test]
fn a_refusal_stays_until_the_same_or_a_newer_generation_is_accepted() {
    let reply = |generation, outcome| Reply {
        session: 5,
        to: ReplyTo::Desired { generation },
        outcome,
    };
    let no = Outcome::Rejected {
        reason: Rejection::Unsupported,
        detail: clipped("no memory controller\x1b[2J"),
    };
    let mut it = device(5, 7);
    it.reply(reply(6, no.clone()), LIVE).unwrap();
    assert_eq!(it.refusal, None, "an answer to an older generation");
    it.reply(reply(7, no), LIVE).unwrap();
    let refusal = it.refusal.clone().unwrap();
    assert_eq!(refusal.of, "desired state 7");
    assert!(
        !refusal.detail.contains('\x1b'),
        "control characters reach no terminal"
    );
    it.reply(reply(6, Outcome::Accepted), LIVE).unwrap();
    assert!(it.refusal.is_some());
    it.reply(reply(7, Outcome::Accepted), LIVE).unwrap();
    assert_eq!(it.refusal, None);
}

#[test]
fn the_first_report_makes_the_architecture_known() {
    let mut it = device(5, 7);
    assert!(it.reported(report(5, 1, 7), LIVE).unwrap().arch_changed);
    assert!(!it.reported(report(5, 2, 7), LIVE).unwrap().arch_changed);
}

#[test]
fn a_desired_state_that_was_replaced_is_published_again_but_makes_no_storm() {
    let refused = |purpose| Reply {
        session: 5,
        to: ReplyTo::Packet { purpose },
        outcome: Outcome::Rejected {
            reason: Rejection::TooLarge,
            detail: clipped(""),
        },
    };
    let at = |now_s| Arrival { now_s, ..LIVE };
    let mut it = device(5, 7);
    let mut again = |purpose, now_s| it.reply(refused(purpose), at(now_s)).unwrap().desired_replaced;
    assert!(!again(Purpose::Command, 100));
    assert!(again(Purpose::Desired, 101));
    assert!(!again(Purpose::Desired, 100 + PUBLISH_AGAIN_S));
    assert!(again(Purpose::Desired, 100 + 2 * PUBLISH_AGAIN_S));
}

#[test]
fn troubles_are_those_of_the_newest_report() {
    let mut it = device(5, 7);
    let troubled = Report {
        troubles: ["the card is read-only"].map(clipped).into_iter().collect(),
        ..report(5, 2, 7).into()
    };
    it.reported(troubled, LIVE).unwrap();
    assert_eq!(it.troubles, ["the card is read-only"]);
    assert_eq!(it.reported(report(5, 1, 7), LIVE), Err(Ignored::Known));
    assert_eq!(it.troubles.len(), 1);
    it.reported(report(5, 3, 7), LIVE).unwrap();
    assert!(it.troubles.is_empty());
}
