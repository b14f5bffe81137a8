//! The connection: presence, oversized packets, cloned devices, pauses.

use punnet_agent::core::*;
use punnet_protocol::topics::Purpose;
use punnet_protocol::*;

use super::Bench;
use crate::fleet::{app, encoded};

fn lose(bench: &mut Bench, error: LinkError) {
    bench.subscribed.clear();
    bench.sent.clear();
    bench.event(Event::Disconnected(error));
}

#[test]
fn will_and_birth_carry_the_same_session_which_grows() {
    let mut bench = Bench::new();
    let mut before = 0;
    for restart in [false, false, true, false] {
        if restart {
            bench.restart();
        }
        bench.pass(120_000);
        let will: Presence = envelope::decode(bench.will.as_ref().unwrap()).unwrap();
        bench.connect();
        let births: Vec<Presence> = bench.take(Purpose::Presence);
        assert_eq!(
            births,
            [Presence {
                session: will.session,
                online: true
            }]
        );
        assert!(!will.online && will.session > before);
        before = will.session;
        bench.event(Event::Disconnected(LinkError::ClosedByPeer));
    }
}

#[test]
fn the_birth_is_retained_and_comes_after_all_subscriptions_are_answered() {
    let mut bench = Bench::new();
    bench.grants = false;
    bench.connect();
    assert_eq!(bench.subscribed, Purpose::TO_DEVICE);
    assert!(bench.sent.is_empty());
    for purpose in Purpose::TO_DEVICE {
        assert!(bench.sent.is_empty());
        bench.event(Event::Subscribed {
            purpose,
            granted: true,
        });
    }
    assert_eq!((bench.sent[0].0, bench.sent[0].2), (Purpose::Presence, true));
}

#[test]
fn a_goodbye_is_said_offline_and_retained() {
    let mut bench = Bench::connected();
    let session = bench.session();
    bench.sent.clear();
    bench.event(Event::Goodbye);
    let (purpose, payload, retain) = &bench.sent[0];
    assert_eq!((*purpose, *retain), (Purpose::Presence, true));
    assert_eq!(
        envelope::decode::<Presence>(payload).unwrap(),
        Presence {
            session,
            online: false
        }
    );
    bench.event(Event::Disconnected(LinkError::ClosedByPeer));
    assert_eq!(bench.core.wake_at(), None, "it stays away");
}

#[test]
fn pauses_before_connecting_grow_to_a_minute_and_are_random() {
    let mut bench = Bench::new();
    let mut pauses = Vec::new();
    for _ in 0..60 {
        bench.pass(120_000);
        assert!(bench.will.take().is_some());
        let lost_at = bench.now.ms;
        bench.event(Event::Disconnected(LinkError::Other("connection refused".into())));
        while bench.will.is_none() {
            bench.pass(1);
        }
        pauses.push(bench.now.ms - lost_at);
    }
    assert!(
        pauses[0] <= 1001 && pauses.iter().all(|pause| *pause <= 60_001),
        "{pauses:?}"
    );
    let late = &pauses[10..];
    assert!(
        late.iter().any(|pause| *pause > 30_000) && late.iter().any(|pause| *pause < 20_000),
        "{pauses:?}"
    );
}

#[test]
fn a_poisoned_topic_is_found_cleared_and_left_alone_while_the_others_are_served() {
    for poisoned in Purpose::TO_DEVICE {
        let mut bench = Bench::connected();
        let image = bench.fleet.image(1, &[10]);
        bench.desire(1, &[app("web", &image, 1)]);
        bench.pass(10_000);
        let pid = bench.device.pid("web");
        lose(&mut bench, LinkError::Oversized);
        // One by one, until it happens again.
        bench.connect();
        while bench.subscribed.last() != Some(&poisoned) {
            assert!(bench.take::<Presence>(Purpose::Presence).is_empty());
            bench.pass(301);
        }
        lose(&mut bench, LinkError::Oversized);
        bench.connect();
        bench.pass(1000);
        assert!(
            !bench.subscribed.contains(&poisoned),
            "{poisoned:?} is left alone"
        );
        assert_eq!(bench.subscribed.len(), 2, "the others are not");
        let cleared = bench
            .sent
            .iter()
            .position(|sent| *sent == (poisoned, Vec::new(), true));
        assert!(cleared.is_some(), "the retained message is cleared");
        bench.sent.remove(cleared.unwrap());
        let (to, reason, _) = bench.refusal();
        assert_eq!(
            (to, reason),
            (ReplyTo::Packet { purpose: poisoned }, Rejection::TooLarge)
        );
        assert_eq!(
            bench.session(),
            bench.take::<Reported>(Purpose::Reported)[0].session
        );
        // Later it is tried again, and all is well.
        bench.pass(6000);
        assert_eq!(bench.subscribed.last(), Some(&poisoned));
        bench.pass(60_000);
        assert_eq!(bench.subscribed.len(), 3);
        assert_eq!(bench.device.pid("web"), pid, "nothing that runs was touched");
    }
}

#[test]
fn a_topic_poisoned_for_ever_is_tried_less_and_less_often() {
    let mut bench = Bench::connected();
    lose(&mut bench, LinkError::Oversized);
    bench.connect();
    let mut tries = Vec::new();
    let began = bench.now.ms;
    while bench.now.ms < began + 7_200_000 {
        if bench.subscribed.last() == Some(&Purpose::Desired) {
            tries.push(bench.now.ms);
            lose(&mut bench, LinkError::Oversized);
            bench.connect();
        }
        bench.pass(100);
    }
    assert!((6..20).contains(&tries.len()), "{} in two hours", tries.len());
    let longest = tries.windows(2).map(|pair| pair[1] - pair[0]).max();
    assert!(longest > Some(1_000_000), "{longest:?}");
}

#[test]
fn an_oversized_packet_that_was_not_retained_leaves_no_topic_out() {
    let mut bench = Bench::connected();
    lose(&mut bench, LinkError::Oversized);
    bench.connect();
    bench.pass(2000);
    assert_eq!(bench.subscribed, Purpose::TO_DEVICE);
    assert_eq!(bench.take::<Presence>(Purpose::Presence).len(), 1);
}

#[test]
fn a_device_whose_name_another_uses_says_so_and_waits_long() {
    let mut bench = Bench::connected();
    let ours = bench.session();
    lose(&mut bench, LinkError::ClosedByPeer);
    bench.connect();
    lose(&mut bench, LinkError::ClosedByPeer);
    bench.connect();
    assert!(
        bench.subscribed.contains(&Purpose::Presence),
        "it listens who else is there"
    );
    bench.message(
        Purpose::Presence,
        encoded(&Presence {
            session: ours,
            online: false,
        }),
    );
    assert_eq!(bench.disconnects, 0, "that was our own");
    bench.message(
        Purpose::Presence,
        encoded(&Presence {
            session: ours ^ 1,
            online: true,
        }),
    );
    assert_eq!(bench.disconnects, 1);
    assert!(bench.logged.iter().any(|line| line.contains("cloned identity")));
    bench.pass(599_000);
    assert!(bench.will.is_none());
    bench.pass(602_000);
    assert!(bench.will.is_some());
}

#[test]
fn a_broker_that_restarts_twice_is_no_clone() {
    let mut bench = Bench::connected();
    for _ in 0..3 {
        lose(&mut bench, LinkError::ClosedByPeer);
        bench.connect();
    }
    let session = bench.session();
    bench.message(
        Purpose::Presence,
        encoded(&Presence {
            session,
            online: true,
        }),
    );
    bench.message(
        Purpose::Presence,
        encoded(&Presence {
            session: 5,
            online: false,
        }),
    );
    assert_eq!(bench.disconnects, 0);
}

#[test]
fn an_empty_message_and_a_strange_topic_are_acknowledged_and_nothing_else() {
    let mut bench = Bench::connected();
    bench.pass(10_000);
    bench.sent.clear();
    bench.device.jobs.clear();
    for purpose in [
        Purpose::Desired,
        Purpose::Command,
        Purpose::Block,
        Purpose::Reply,
        Purpose::Log,
    ] {
        let packet = bench.message(purpose, Vec::new());
        assert!(bench.acknowledged.contains(&packet));
    }
    let packet = bench.message(Purpose::Reply, b"whatever".to_vec());
    assert!(bench.acknowledged.contains(&packet));
    assert!(bench.sent.is_empty() && bench.device.jobs.is_empty());
}

#[test]
fn a_board_in_trouble_says_so_in_each_report_and_one_that_is_mended_no_more() {
    let mut bench = Bench::new();
    let of_last_report = |bench: &mut Bench| {
        bench.sent.clear();
        bench.connect();
        bench.pass(2000);
        let reported = |(purpose, _, _): &&(Purpose, Vec<u8>, bool)| *purpose == Purpose::Reported;
        let (_, payload, retain) = bench.sent.iter().rfind(reported).unwrap();
        assert!(retain);
        let troubles = Report::decode(payload).unwrap().troubles;
        (
            payload[0],
            troubles.iter().map(|text| text.to_string()).collect::<Vec<_>>(),
        )
    };
    let long = "x".repeat(DETAIL_BYTES_MAX + 1);
    bench.device.troubles = vec!["no data partition".into(), long.clone()];
    bench.device.troubles.resize(TROUBLES_MAX + 1, "more".into());
    bench.restart();
    let (version, troubles) = of_last_report(&mut bench);
    assert_eq!(version, TROUBLED_VERSION);
    assert_eq!(troubles[..2], ["no data partition", &long[1..]]);
    assert_eq!(troubles.len(), TROUBLES_MAX);
    bench.device.troubles.clear();
    bench.restart();
    assert_eq!(of_last_report(&mut bench), (SCHEMA_VERSION, Vec::new()));
}
