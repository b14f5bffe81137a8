//! The controller and the broker end at any moment; nothing promised is lost.

use punnet_protocol::Arch;

use crate::on_both_brokers;
use crate::stand::{Broker, Device, Stand, eventually, has_mosquitto};

on_both_brokers! {
    a_killed_controller_publishes_again_and_goes_on_counting
}

fn a_killed_controller_publishes_again_and_goes_on_counting(broker: Broker) {
    let mut stand = Stand::start(broker);
    stand.add_image("hello", &["linux/amd64"]);
    let enrolment = stand.enrol("pi");
    stand.run(&["deploy", "--app", "web", "--image", "hello", "--device", "pi"]);
    stand.kill_controller();
    stand.start_controller();
    let mut device = Device::connect(&enrolment, 1);
    let desired = device.desired();
    assert_eq!((desired.generation, desired.apps.len()), (1, 1));
    device.report(Arch::Amd64, 1, &[]);
    stand.wait_online("pi");
    stand.run(&["deploy", "--app", "web", "--image", "hello", "--device", "pi"]);
    assert_eq!(device.desired_of(2).apps.len(), 1);
}

#[test]
fn a_broker_that_forgot_everything_gets_it_again() {
    if !has_mosquitto() {
        return;
    }
    let mut stand = Stand::start(Broker::Mosquitto);
    stand.add_image("hello", &["linux/amd64"]);
    let enrolment = stand.enrol("pi");
    stand.run(&["deploy", "--app", "web", "--image", "hello", "--device", "pi"]);
    stand.kill_mosquitto();
    stand.start_mosquitto();
    let mut device = Device::connect(&enrolment, 1);
    assert_eq!(device.desired().generation, 1);
}

#[test]
fn a_deployment_made_while_the_broker_is_away_arrives_when_it_is_back() {
    if !has_mosquitto() {
        return;
    }
    let mut stand = Stand::start(Broker::Mosquitto);
    stand.add_image("hello", &["linux/amd64"]);
    let enrolment = stand.enrol("pi");
    stand.kill_mosquitto();
    stand.run(&["deploy", "--app", "web", "--image", "hello", "--device", "pi"]);
    stand.run(&["deploy", "--app", "two", "--image", "hello", "--device", "pi"]);
    stand.start_mosquitto();
    let mut device = Device::connect(&enrolment, 1);
    assert_eq!(device.desired_of(2).apps.len(), 2);
}

#[test]
fn sigterm_ends_in_order_and_takes_the_address_away() {
    let mut stand = Stand::start(Broker::Embedded);
    assert!(stand.state().join("api.address").exists());
    let pid = stand.controller_pid().to_string();
    assert!(
        std::process::Command::new("kill")
            .args(["-TERM", &pid])
            .status()
            .unwrap()
            .success()
    );
    assert!(stand.wait_for_end().success());
    assert!(!stand.state().join("api.address").exists());
    assert!(stand.refused(&["status"]).contains("no controller runs on"));
    // What a killed one leaves behind misleads nobody either.
    stand.start_controller();
    stand.kill_controller();
    assert!(stand.refused(&["devices"]).contains("no controller runs on"));
    stand.start_controller();
}

#[test]
fn a_second_controller_on_the_same_state_is_refused() {
    let stand = Stand::start(Broker::Embedded);
    let error = stand.refused(&["serve", "--listen", "127.0.0.1:0"]);
    assert!(
        error.contains(&format!("(process {})", stand.controller_pid())),
        "{error}"
    );
    stand.run(&["ping"]);
}

#[test]
fn a_port_in_use_is_an_error_that_names_it() {
    let stand = Stand::start(Broker::Embedded);
    let state = stand.folder.path().join("second");
    let listen = format!("127.0.0.1:{}", stand.port);
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_punnet-fleet"))
        .args(["--state", state.to_str().unwrap(), "serve", "--listen", &listen])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(
        error.contains(&format!("cannot listen on {listen}: Address already in use")),
        "{error}"
    );
}

#[test]
fn devices_are_offline_after_a_restart_until_they_are_heard() {
    let mut stand = Stand::start(Broker::Embedded);
    let device = stand.device("pi", Arch::Amd64);
    stand.kill_controller();
    drop(device);
    stand.start_controller();
    let view = stand.device_view("pi");
    assert_eq!(
        (view["online"].as_bool(), view["platform"].as_str()),
        (Some(false), Some("linux/amd64"))
    );
    eventually("it is heard of again", || {
        let mut device = Device::connect(&stand.enrol("pi"), 2);
        device.report(Arch::Amd64, 0, &[]);
        stand.wait_online("pi");
        Some(())
    });
}
