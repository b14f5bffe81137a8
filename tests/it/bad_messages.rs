//! A broker, or whoever holds it, says what it likes to a device that runs something.

use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use xtask::process::wait_for;
use xtask::stand::{Broker, Stand, json_of};

use crate::fleet::{Mosquitto, running_stand};
use crate::support::{containers, ok, processes_of};

const DEVICE: &str = "board-1";
const PATIENCE: Duration = Duration::from_secs(45);

/// Publishes bytes to one of the device's topics.
fn publish(stand: &Stand, mosquitto: &Mosquitto, purpose: &str, payload: &[u8], retain: bool) {
    let file = stand.path().join("payload");
    std::fs::write(&file, payload).unwrap();
    let (url, topic) = (mosquitto.url(), format!("punnet/home/{DEVICE}/{purpose}"));
    let mut command = Command::new("mosquitto_pub");
    command
        .args(["-L", &format!("{url}/{topic}"), "-q", "1", "-f"])
        .arg(&file);
    if retain {
        command.arg("-r");
    }
    ok(&mut command);
}

/// What the broker holds as the device's desired state.
fn retained(mosquitto: &Mosquitto) -> Vec<u8> {
    let topic = format!("{}/punnet/home/{DEVICE}/desired", mosquitto.url());
    let mut command = Command::new("mosquitto_sub");
    let output = command
        .args(["-L", &topic, "-C", "1", "-N", "-W", "5"])
        .stderr(Stdio::null())
        .output()
        .unwrap();
    assert!(!output.stdout.is_empty(), "no desired state is retained");
    output.stdout
}

fn device(stand: &Stand) -> Value {
    json_of(&mut stand.fleet(&["devices", "--json"])).unwrap()[0].clone()
}

/// Waits until the controller shows a refusal that says this.
fn wait_refusal(stand: &Stand, word: &str) {
    let told = || {
        Ok(device(stand)["refusal"]
            .to_string()
            .to_lowercase()
            .contains(word)
            .then_some(()))
    };
    if let Err(error) = wait_for("the refusal", PATIENCE, told) {
        panic!(
            "{error} {word:?}: {}\n{}",
            device(stand)["refusal"],
            stand.log_tail("agent.log")
        );
    }
}

/// The container that ran before still runs, the same one, and the agent still does as its fleet says.
fn still_well(stand: &Stand, pid: &Value) {
    assert_eq!(
        containers(stand)
            .iter()
            .find(|found| found["name"] == "hello")
            .unwrap()["pid"],
        *pid,
        "{}",
        stand.log_tail("agent.log")
    );
    assert_eq!(processes_of(stand, "hello"), 1);
    let mut deploy = stand.fleet(&[
        "deploy", "--app", "second", "--image", "hello", "--device", DEVICE,
    ]);
    ok(&mut deploy);
    // A refusal of garbage that is still on its way must not be taken for one of this: look at what runs.
    wait_for("the second app to run", PATIENCE, || {
        let running = |found: &Value| found["name"] == "second" && found["status"] == "running";
        Ok(containers(stand).iter().any(running).then_some(()))
    })
    .unwrap();
    ok(&mut stand.fleet(&["rm", "--app", "second", "--device", DEVICE]));
    wait_for("the second app to go", PATIENCE, || {
        Ok((containers(stand).len() == 1).then_some(()))
    })
    .unwrap();
}

fn stand_that_runs(mosquitto: &Mosquitto) -> (Stand, Value) {
    let stand = running_stand(Broker::External(&mosquitto.url()));
    let mark = format!("PUNNET_STAND={}", stand.path().display());
    ok(&mut stand.fleet(&[
        "deploy",
        "--app",
        "hello",
        "--image",
        "hello",
        "--device",
        DEVICE,
        "--env",
        &mark,
        "--wait=60s",
    ]));
    let pid = containers(&stand)[0]["pid"].clone();
    (stand, pid)
}

#[test]
fn a_forged_altered_or_old_desired_state_is_refused_with_its_reason() {
    let mosquitto = Mosquitto::start();
    let (stand, pid) = stand_that_runs(&mosquitto);
    let old = retained(&mosquitto);
    let mut deploy = stand.fleet(&[
        "deploy",
        "--app",
        "other",
        "--image",
        "hello",
        "--device",
        DEVICE,
        "--wait=60s",
    ]);
    ok(&mut deploy);
    let good = retained(&mosquitto);
    ok(&mut stand.fleet(&["rm", "--app", "other", "--device", DEVICE]));
    wait_for("the other app to go", PATIENCE, || {
        Ok((containers(&stand).len() == 1).then_some(()))
    })
    .unwrap();

    // Signed by the fleet, but of a generation that has passed.
    publish(&stand, &mosquitto, "desired", &old, false);
    wait_for("the refusal in the agent's log", PATIENCE, || {
        let log = std::fs::read_to_string(stand.path().join("agent.log"))?;
        Ok(log.contains("has been accepted already").then_some(()))
    })
    .unwrap();
    still_well(&stand, &pid);
    // One bit of the content changed, the checksum put right: the signature is wrong.
    let mut forged = good.clone();
    *forged.last_mut().unwrap() ^= 1;
    let checksum = crc32fast::hash(&forged[9..]);
    forged[5..9].copy_from_slice(&checksum.to_le_bytes());
    publish(&stand, &mosquitto, "desired", &forged, false);
    wait_refusal(&stand, "sign");
    still_well(&stand, &pid);
    // Cut short.
    publish(&stand, &mosquitto, "desired", &good[..good.len() / 2], false);
    wait_refusal(&stand, "malformed");
    still_well(&stand, &pid);
    stand.remove().unwrap();
}

#[test]
fn garbage_on_every_topic_is_survived() {
    let mosquitto = Mosquitto::start();
    let (stand, pid) = stand_that_runs(&mosquitto);
    for purpose in ["desired", "command", "block"] {
        for payload in [
            &b"garbage"[..],
            &[1],
            &[0xff; 5000],
            b"\x02\x00\x00\x00\x00\x00\x00\x00\x00",
        ] {
            publish(&stand, &mosquitto, purpose, payload, false);
        }
    }
    still_well(&stand, &pid);
    stand.remove().unwrap();
}

#[test]
fn a_topic_poisoned_with_ten_retained_mebibytes_does_not_wedge_the_agent() {
    let mosquitto = Mosquitto::start();
    let (mut stand, pid) = stand_that_runs(&mosquitto);
    let poison = vec![0x55; 10 << 20];
    for purpose in ["command", "block", "desired"] {
        publish(&stand, &mosquitto, purpose, &poison, true);
        wait_refusal(&stand, "large");
        // Also for one that meets the poison when it starts.
        stand.kill_agent().unwrap();
        stand.start_agent().unwrap();
        stand.wait_online(DEVICE).unwrap();
        still_well(&stand, &pid);
    }
    stand.remove().unwrap();
}

#[test]
fn a_desired_state_replaced_by_garbage_is_published_again_and_a_deployment_goes_on() {
    let mosquitto = Mosquitto::start();
    let (stand, pid) = stand_that_runs(&mosquitto);
    let before = retained(&mosquitto);
    publish(&stand, &mosquitto, "desired", b"no message of ours", true);
    wait_refusal(&stand, "desired");
    wait_for("the desired state to be back", PATIENCE, || {
        Ok((retained(&mosquitto) == before).then_some(()))
    })
    .unwrap();
    // The refusal of the garbage is still the last one: it says nothing about another deployment.
    ok(&mut stand.fleet(&[
        "deploy",
        "--app",
        "other",
        "--image",
        "hello",
        "--device",
        DEVICE,
        "--wait=60s",
    ]));
    ok(&mut stand.fleet(&["rm", "--app", "other", "--device", DEVICE]));
    still_well(&stand, &pid);
}
