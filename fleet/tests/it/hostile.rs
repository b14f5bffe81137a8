//! An open broker on which anybody writes anything.

use punnet_protocol::topics::Purpose;
use punnet_protocol::{AppState, Arch, Presence};

use crate::on_both_brokers;
use crate::stand::{Broker, Device, Stand, encode, eventually, has_mosquitto};

on_both_brokers! {
    an_old_sessions_will_is_ignored
}

fn an_old_sessions_will_is_ignored(broker: Broker) {
    let stand = Stand::start(broker);
    let mut device = Device::connect(&stand.enrol("pi"), 9);
    device.report(Arch::Amd64, 0, &[]);
    stand.wait_online("pi");
    device.publish(
        Purpose::Presence,
        &Presence {
            session: 8,
            online: false,
        },
        true,
    );
    eventually("it is counted", || {
        (stand.ignored("old_session") > 0).then_some(())
    });
    assert_eq!(stand.device_view("pi")["online"], true);
    device.publish(
        Purpose::Presence,
        &Presence {
            session: 9,
            online: false,
        },
        true,
    );
    eventually("its own will counts", || {
        (stand.device_view("pi")["online"] == false).then_some(())
    });
}

#[test]
fn garbage_and_huge_retained_messages_stop_nothing_not_even_after_a_restart() {
    if !has_mosquitto() {
        return;
    }
    let mut stand = Stand::start(Broker::Mosquitto);
    let image = stand.add_image("hello", &["linux/amd64"]);
    let mut device = stand.device("pi", Arch::Amd64);
    let huge = vec![0x55; 10 * 1024 * 1024];
    for purpose in ["presence", "reported", "reply", "want", "log"] {
        let topic = format!("punnet/home/pi/{purpose}");
        let mut truncated = encode(&Presence {
            session: 1,
            online: true,
        });
        truncated.pop();
        for payload in [vec![], vec![0], vec![0xff; 300], truncated] {
            device.publish_raw(&topic, payload, false);
        }
        device.publish_raw(&topic, huge.clone(), true);
    }
    for topic in [
        "punnet/home/PI/presence",
        "punnet/home/a_b/presence",
        "punnet/home/-/log",
    ] {
        device.publish_raw(topic, vec![1], true);
    }
    eventually("all of it is counted", || {
        let counts = ["too_large", "malformed", "bad_topic"].map(|reason| stand.ignored(reason));
        (counts == [5, 20, 3]).then_some(())
    });
    stand.kill_controller();
    stand.start_controller();
    eventually("the retained ones came again", || {
        (stand.ignored("too_large") == 5).then_some(())
    });
    stand.run(&["deploy", "--app", "web", "--image", "hello", "--device", "pi"]);
    device.desired_of(1);
    device.report(
        Arch::Amd64,
        1,
        &[("web", &image.manifests[0], AppState::Running { pid: 1 })],
    );
    eventually("the report is taken", || {
        (stand.device_view("pi")["converged"] == true).then_some(())
    });
}

#[test]
fn devices_that_nobody_enrolled_are_ignored_and_counted() {
    if !has_mosquitto() {
        return;
    }
    let stand = Stand::start(Broker::Mosquitto);
    let mut stranger = stand.enrol("known");
    stranger.device = "stranger".parse().unwrap();
    let mut device = Device::connect(&stranger, 1);
    device.report(Arch::Amd64, 0, &[]);
    device.publish(
        Purpose::Want,
        &punnet_protocol::BlockWant {
            blob: punnet_protocol::Digest([0; 32]),
            offset: 0,
            length: 1,
        },
        false,
    );
    eventually("they are counted", || {
        (stand.ignored("unknown_device") == 3).then_some(())
    });
    let names = stand.json(&["devices", "--json"]);
    assert_eq!(names.as_array().unwrap().len(), 1);
    assert!(
        stand
            .refused(&["status", "stranger"])
            .contains("no device is called 'stranger'")
    );
}

#[test]
fn a_foreign_broker_that_is_not_there_is_said_and_tried_again() {
    if !has_mosquitto() {
        return;
    }
    let mut stand = Stand::start(Broker::Mosquitto);
    stand.kill_mosquitto();
    let text = eventually("it is noticed", || {
        let text = stand.run(&["ping"]);
        text.contains("not connected: ").then_some(text)
    });
    assert!(
        text.contains("refused") || text.contains("closed") || text.contains("reset"),
        "{text}"
    );
    stand.start_mosquitto();
    eventually("it is back", || {
        stand.run(&["ping"]).contains(": connected").then_some(())
    });
}
