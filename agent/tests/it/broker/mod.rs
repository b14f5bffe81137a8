//! The session against a real Mosquitto: the core and the connection are the real ones, the device beneath works at once.

mod controller;
mod mosquitto;
mod node;

use std::time::Duration;

use punnet_protocol::topics::Purpose;
use punnet_protocol::*;

use crate::fleet::{Fleet, app};
pub use controller::Controller;
pub use mosquitto::Mosquitto;
use node::Node;

/// Ten MiB, as in the field (thin-edge 3124): far beyond what is taken.
const POISON_BYTES: usize = 10 << 20;

fn with_broker(test: impl AsyncFnOnce(Mosquitto)) {
    let Some(broker) = Mosquitto::start() else { return };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        tokio::time::timeout(Duration::from_secs(90), test(broker))
            .await
            .expect("it takes too long");
    });
}

#[test]
fn a_device_runs_what_the_fleet_wants_and_says_so() {
    with_broker(async |broker| {
        let mut fleet = Fleet::new();
        let image = fleet.image(1, &[300_000, 10]);
        let mut node = Node::new(broker.port, &fleet);
        let controller = Controller::connect(&broker, fleet.blobs.clone()).await;
        controller
            .publish(Purpose::Desired, fleet.desired(1, &[app("web", &image, 1)]), true)
            .await;
        node.until(|node| node.device.pid("web") > 0).await;
        node.until(|_| controller.reported().is_some_and(|reported| reported.converged))
            .await;
        let reported = controller.reported().unwrap();
        assert_eq!((reported.generation, reported.apps.len()), (1, 1));
        assert_eq!(
            controller.presence(),
            Some(Presence {
                session: reported.session,
                online: true
            })
        );
        assert!(
            controller
                .replies()
                .iter()
                .any(|reply| reply.outcome == Outcome::Accepted)
        );
        node.goodbye().await;
        controller
            .until(|| controller.presence().is_some_and(|presence| !presence.online))
            .await;
    });
}

#[test]
fn a_device_that_is_gone_without_a_word_is_offline_by_its_will() {
    with_broker(async |broker| {
        let fleet = Fleet::new();
        let mut node = Node::new(broker.port, &fleet);
        let controller = Controller::connect(&broker, fleet.blobs.clone()).await;
        node.until(|_| controller.presence().is_some_and(|presence| presence.online))
            .await;
        let session = controller.presence().unwrap().session;
        drop(node);
        controller
            .until(|| {
                controller.presence()
                    == Some(Presence {
                        session,
                        online: false,
                    })
            })
            .await;
    });
}

#[test]
fn ten_mebibytes_retained_on_any_topic_do_not_keep_the_others_from_being_served() {
    for poisoned in Purpose::TO_DEVICE {
        with_broker(async |broker| {
            let mut fleet = Fleet::new();
            let image = fleet.image(1, &[100]);
            let mut node = Node::new(broker.port, &fleet);
            let controller = Controller::connect(&broker, fleet.blobs.clone()).await;
            controller
                .publish(Purpose::Desired, fleet.desired(1, &[app("web", &image, 1)]), true)
                .await;
            node.until(|node| node.device.pid("web") > 0).await;
            let pid = node.device.pid("web");
            controller.publish(poisoned, vec![7; POISON_BYTES], true).await;
            // It loses its connection, finds the topic, has it cleared, says so.
            node.until(|_| controller.too_large().contains(&poisoned)).await;
            node.until(|node| node.said("left alone")).await;
            assert_eq!(node.device.pid("web"), pid, "what runs is not touched");
            node.until(|_| controller.cleared(poisoned)).await;
            // And all topics work, also the one that was poisoned.
            let image = fleet.image(2, &[100]);
            controller.serve(fleet.blobs.clone());
            node.until(|node| node.subscribed.last() == Some(&poisoned)).await;
            controller
                .publish(Purpose::Desired, fleet.desired(2, &[app("web", &image, 2)]), true)
                .await;
            node.until(|_| {
                controller
                    .reported()
                    .is_some_and(|it| it.generation == 2 && it.converged)
            })
            .await;
            let session = controller.reported().unwrap().session;
            let report = fleet.command(session, 1, CommandAction::Report);
            controller.publish(Purpose::Command, report, false).await;
            let to = ReplyTo::Command { id: 1 };
            node.until(|_| {
                controller
                    .replies()
                    .iter()
                    .any(|it| it.to == to && it.outcome == Outcome::Accepted)
            })
            .await;
        });
    }
}

#[test]
fn ten_mebibytes_while_connected_cost_a_connection_and_nothing_else() {
    with_broker(async |broker| {
        let fleet = Fleet::new();
        let mut node = Node::new(broker.port, &fleet);
        let controller = Controller::connect(&broker, fleet.blobs.clone()).await;
        node.until(|_| controller.presence().is_some_and(|presence| presence.online))
            .await;
        let before = controller.presence().unwrap().session;
        controller
            .publish(Purpose::Command, vec![7; POISON_BYTES], false)
            .await;
        node.until(|_| {
            controller
                .presence()
                .is_some_and(|it| it.online && it.session > before)
        })
        .await;
        assert!(!node.said("left alone"), "no topic is left out");
    });
}

#[test]
fn without_a_broker_the_containers_of_before_run_and_it_connects_when_there_is_one() {
    with_broker(async |mut broker| {
        let mut fleet = Fleet::new();
        let image = fleet.image(1, &[100]);
        let mut node = Node::new(broker.port, &fleet);
        let controller = Controller::connect(&broker, fleet.blobs.clone()).await;
        controller
            .publish(Purpose::Desired, fleet.desired(1, &[app("web", &image, 1)]), true)
            .await;
        node.until(|node| node.device.pid("web") > 0).await;
        drop(controller);
        broker.stop();
        node.device.cut_power();
        node.restart();
        assert!(node.device.pid("web") > 0, "before anything else");
        node.until(|node| node.said("refused")).await;
        broker.begin();
        let controller = Controller::connect(&broker, fleet.blobs.clone()).await;
        node.until(|_| {
            controller
                .reported()
                .is_some_and(|reported| reported.generation == 1)
        })
        .await;
    });
}

#[test]
fn a_transfer_goes_on_where_it_was_when_the_broker_comes_back() {
    with_broker(async |mut broker| {
        let mut fleet = Fleet::new();
        let image = fleet.image(1, &[2_000_000]);
        let mut node = Node::new(broker.port, &fleet);
        let controller = Controller::connect(&broker, fleet.blobs.clone()).await;
        controller
            .publish(Purpose::Desired, fleet.desired(1, &[app("web", &image, 1)]), true)
            .await;
        node.until(|node| node.device.partial_bytes() > 500_000).await;
        broker.stop();
        drop(controller);
        node.until(|node| node.said("not connected")).await;
        let had = node.device.partial_bytes();
        assert!(had < 1_900_000, "it was in the middle");
        broker.begin();
        let controller = Controller::connect(&broker, fleet.blobs.clone()).await;
        controller
            .publish(Purpose::Desired, fleet.desired(1, &[app("web", &image, 1)]), true)
            .await;
        node.until(|node| node.device.pid("web") > 0).await;
        let asked = controller.bytes_asked();
        assert!(
            asked <= 2_100_000 - had,
            "{asked} bytes were asked for when {had} were there"
        );
    });
}

#[test]
fn two_devices_of_one_name_do_not_push_each_other_off_for_ever() {
    with_broker(async |broker| {
        let fleet = Fleet::new();
        let mut one = Node::new(broker.port, &fleet);
        let mut other = Node::with_starts(broker.port, &fleet, 1);
        let cloned = |node: &Node| node.said("cloned identity");
        tokio::select! {
            () = one.until(cloned) => {}
            () = other.until(cloned) => {}
        }
        assert!(cloned(&one) != cloned(&other), "one of them makes way");
    });
}
