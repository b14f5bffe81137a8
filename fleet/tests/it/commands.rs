//! Commands and output.

use std::io::Read;
use std::process::Stdio;
use std::time::Duration;

use punnet_protocol::topics::Purpose;
use punnet_protocol::{Arch, CommandAction, LogChunk, Outcome, Presence, Rejection, ReplyTo, clipped};

use crate::on_both_brokers;
use crate::stand::{Broker, Device, Stand, eventually};

on_both_brokers! {
    output_comes_back_byte_for_byte_and_gaps_are_told
    a_new_session_is_asked_for_the_output_again
}

fn with_app(broker: Broker) -> (Stand, Device) {
    let stand = Stand::start(broker);
    stand.add_image("hello", &["linux/amd64"]);
    let device = stand.device("pi", Arch::Amd64);
    stand.run(&["deploy", "--app", "web", "--image", "hello", "--device", "pi"]);
    (stand, device)
}

fn send(device: &mut Device, offset: u64, data: &[u8], last: bool) {
    let data = heapless::Vec::from_slice(data).unwrap();
    let chunk = LogChunk {
        session: device.session,
        app: "web".parse().unwrap(),
        offset,
        seen_at_ms: 1,
        last,
        data,
    };
    device.publish(Purpose::Log, &chunk, false);
}

/// The next command that is not a request for a report, answered.
fn answered(device: &mut Device, outcome: Outcome) -> CommandAction {
    loop {
        let command = device.command();
        assert_eq!((command.session, command.device.as_str()), (device.session, "pi"));
        if command.action == CommandAction::Report {
            device.reply(ReplyTo::Command { id: command.id }, Outcome::Accepted);
            continue;
        }
        device.reply(ReplyTo::Command { id: command.id }, outcome);
        return command.action;
    }
}

fn output_comes_back_byte_for_byte_and_gaps_are_told(broker: Broker) {
    let (stand, mut device) = with_app(broker);
    let logs = stand
        .command(&["logs", "--tail", "4k", "pi", "web"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let action = answered(&mut device, Outcome::Accepted);
    let expected = CommandAction::StreamLog {
        app: "web".parse().unwrap(),
        tail_bytes: 4096,
        follow_ms: 0,
    };
    assert_eq!(action, expected);
    send(&mut device, 10, b"one\xff\0\n", false);
    send(&mut device, 10, b"one\xff\0\n", false);
    send(&mut device, 20, b"two", true);
    let output = logs.wait_with_output().unwrap();
    assert!(output.status.success());
    assert_eq!(output.stdout, b"one\xff\0\ntwo");
    assert!(String::from_utf8_lossy(&output.stderr).contains("4 bytes of output are missing"));
}

fn a_new_session_is_asked_for_the_output_again(broker: Broker) {
    let (stand, mut device) = with_app(broker);
    let mut logs = stand
        .command(&["logs", "-f", "pi", "web"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut read = |wanted: &str| {
        let mut bytes = vec![0; wanted.len()];
        logs.stdout.as_mut().unwrap().read_exact(&mut bytes).unwrap();
        assert_eq!(String::from_utf8(bytes).unwrap(), wanted);
    };
    answered(&mut device, Outcome::Accepted);
    send(&mut device, 0, b"hello ", false);
    read("hello ");
    device.session += 1;
    let session = device.session;
    device.publish(
        Purpose::Presence,
        &Presence {
            session,
            online: true,
        },
        true,
    );
    let CommandAction::StreamLog { tail_bytes, .. } = answered(&mut device, Outcome::Accepted) else {
        panic!("no stream")
    };
    assert_eq!(tail_bytes, 5);
    send(&mut device, 1, b"ello world", false);
    read("world");
    logs.kill().unwrap();
    logs.wait().unwrap();
    // Nobody reads any more: the device is told.
    assert!(matches!(
        answered(&mut device, Outcome::Accepted),
        CommandAction::StopLog { .. }
    ));
}

#[test]
fn a_command_is_repeated_until_answered_and_its_rejection_is_an_error() {
    let (stand, mut device) = with_app(Broker::Embedded);
    let restart = stand.command(&["restart", "--app", "web", "--device", "pi"]);
    let run = |mut command: std::process::Command| command.stderr(Stdio::piped()).spawn().unwrap();
    let restart = run(restart);
    let first = device.command();
    let second = device.command();
    assert_eq!(
        (first.id, &first.action),
        (second.id, &second.action),
        "the same command, again"
    );
    device.reply(ReplyTo::Command { id: first.id }, Outcome::Accepted);
    assert!(restart.wait_with_output().unwrap().status.success());

    let restart = run(stand.command(&["restart", "--app", "web", "--device", "pi"]));
    let next = device.command();
    assert!(next.id > first.id);
    let outcome = Outcome::Rejected {
        reason: Rejection::Unknown,
        detail: clipped(""),
    };
    device.reply(ReplyTo::Command { id: next.id }, outcome);
    let output = restart.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(
        errors,
        "punnet-fleet: device 'pi' rejected it: the device has no such app\n"
    );
}

#[test]
fn a_command_for_a_lost_session_is_signed_again_for_the_next() {
    let (stand, mut device) = with_app(Broker::Embedded);
    let restart = stand
        .command(&["restart", "--app", "web", "--device", "pi"])
        .spawn()
        .unwrap();
    let lost = device.command();
    device.session = 7;
    device.publish(
        Purpose::Presence,
        &Presence {
            session: 7,
            online: true,
        },
        true,
    );
    let action = answered(&mut device, Outcome::Accepted);
    assert_eq!(action, lost.action);
    assert!(restart.wait_with_output().unwrap().status.success());
}

#[test]
fn logs_of_an_offline_device_and_of_no_app_are_refused() {
    let (stand, mut device) = with_app(Broker::Embedded);
    let error = stand.refused(&["logs", "pi", "other"]);
    assert!(error.contains("device 'pi' has no app called 'other'"), "{error}");
    let session = device.session;
    device.publish(
        Purpose::Presence,
        &Presence {
            session,
            online: false,
        },
        true,
    );
    eventually("it is offline", || {
        (stand.device_view("pi")["online"] == false).then_some(())
    });
    assert!(
        stand
            .refused(&["logs", "pi", "web"])
            .contains("device 'pi' is offline")
    );
    let nothing = device.next_within(Purpose::Command, Duration::from_millis(200));
    assert_eq!(nothing, None, "nothing is sent to a device that is away");
}
