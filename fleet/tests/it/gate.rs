//! Who gets in at the embedded broker, and what they may do there.

use punnet_protocol::topics::Purpose;
use punnet_protocol::{Arch, Presence};
use rumqttc::{Event, Packet, QoS};

use crate::stand::{Broker, Device, HONEST, Manners, Stand, eventually};

#[test]
fn a_wrong_password_client_id_or_will_is_refused_and_a_new_device_needs_no_restart() {
    let stand = Stand::start(Broker::Embedded);
    let enrolment = stand.enrol("pi");
    stand.enrol("other");
    let refused = |manners: Manners, code: &str| {
        let why = Device::open(&enrolment, 1, &manners).ended();
        assert!(why.contains(code), "{why}");
    };
    refused(
        Manners {
            password: Some("guess"),
            ..HONEST
        },
        "BadUserNamePassword",
    );
    refused(
        Manners {
            client_id: Some("punnet-home-other"),
            ..HONEST
        },
        "BadClientId",
    );
    refused(
        Manners {
            will_topic: Some("punnet/home/other/presence"),
            ..HONEST
        },
        "NotAuthorized",
    );
    Device::connect(&enrolment, 1);
    let again = stand.enrol("pi");
    let why = Device::open(&enrolment, 1, &HONEST).ended();
    assert!(
        why.contains("BadUserNamePassword"),
        "the old enrolment file: {why}"
    );
    Device::connect(&again, 2);
}

#[test]
fn a_device_that_leaves_its_own_topics_is_cut_off() {
    let stand = Stand::start(Broker::Embedded);
    let enrolment = stand.enrol("pi");
    let _other = stand.device("other", Arch::Amd64);
    for topic in [
        "punnet/home/other/presence",
        "punnet/home/pi/desired",
        "punnet/home/pi",
        "x",
        "\u{e9}/x",
    ] {
        let device = Device::connect(&enrolment, 1);
        device
            .client
            .publish(topic, QoS::AtLeastOnce, true, vec![1])
            .unwrap();
        device.ended();
    }
    for filter in [
        "#",
        "punnet/home/+/desired",
        "punnet/home/other/desired",
        "punnet/home/pi/log",
        "$share/g/x",
    ] {
        let device = Device::connect(&enrolment, 1);
        device.client.subscribe(filter, QoS::AtLeastOnce).unwrap();
        device.ended();
    }
    assert_eq!(stand.ignored("denied_by_gate"), 10);
    // The broker and everybody else are as before.
    assert_eq!(stand.device_view("other")["online"], true);
    let mut device = Device::connect(&enrolment, 5);
    device.report(Arch::Amd64, 0, &[]);
    stand.wait_online("pi");
}

#[test]
fn bytes_that_are_no_mqtt_end_only_their_own_connection() {
    use std::io::{Read, Write};
    let stand = Stand::start(Broker::Embedded);
    for bytes in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        &[0x10, 0xff, 0xff, 0xff, 0xff],
        &[0x10, 2, 0, 9],
        &[0xf0; 64],
    ] {
        let mut stream = std::net::TcpStream::connect(("127.0.0.1", stand.port)).unwrap();
        stream.write_all(bytes).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        // Closed, with or without a reset.
        stream.read_to_end(&mut Vec::new()).ok();
    }
    let mut device = Device::connect(&stand.enrol("pi"), 1);
    device.report(Arch::Amd64, 0, &[]);
    stand.wait_online("pi");
}

#[test]
fn the_will_of_a_lost_connection_marks_the_device_offline() {
    let stand = Stand::start(Broker::Embedded);
    let device = stand.device("pi", Arch::Amd64);
    drop(device);
    eventually("it is offline", || {
        (stand.device_view("pi")["online"] == false).then_some(())
    });
}

#[test]
fn a_connection_that_is_taken_over_does_not_mark_its_successor_offline() {
    let stand = Stand::start(Broker::Embedded);
    let enrolment = stand.enrol("pi");
    let _old = Device::connect(&enrolment, 1);
    for session in 2..8 {
        let mut new = Device::connect(&enrolment, session);
        new.report(Arch::Amd64, 0, &[]);
        eventually("the new session is known", || {
            (stand.device_view("pi")["session"] == session).then_some(())
        });
        // What the broker keeps for those who come later is the birth, not a will.
        std::thread::sleep(std::time::Duration::from_millis(50));
        let view = stand.device_view("pi");
        assert_eq!(
            (view["online"].as_bool(), view["session"].as_u64()),
            (Some(true), Some(session))
        );
        std::mem::forget(new);
    }
}

#[test]
fn a_goodbye_sends_no_will() {
    let stand = Stand::start(Broker::Embedded);
    let mut device = stand.device("pi", Arch::Amd64);
    device.publish(
        Purpose::Presence,
        &Presence {
            session: 1,
            online: true,
        },
        true,
    );
    device.client.disconnect().unwrap();
    device.ended();
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert_eq!(
        stand.device_view("pi")["online"],
        true,
        "only the device's own word counts then"
    );
}

#[test]
fn large_reports_pass_and_the_acknowledgement_comes() {
    let stand = Stand::start(Broker::Embedded);
    let mut device = stand.device("pi", Arch::Amd64);
    let topic = "punnet/home/pi/reported";
    device.publish_raw(topic, vec![0; punnet_protocol::PAYLOAD_BYTES_MAX], false);
    device.wait_for(|event| matches!(event, Event::Incoming(Packet::PubAck(_))).then_some(()));
    eventually("it is counted as malformed", || {
        (stand.ignored("malformed") == 1).then_some(())
    });
}
