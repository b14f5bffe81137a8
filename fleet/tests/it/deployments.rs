//! Deployments: what a device hears, and what the operator sees of it.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use punnet_protocol::topics::Purpose;
use punnet_protocol::{AppState, Arch, Network, Outcome, Rejection, ReplyTo, RestartPolicy, clipped};

use crate::on_both_brokers;
use crate::stand::{Broker, Stand, eventually};

const RUNNING: AppState = AppState::Running { pid: 42 };

on_both_brokers! {
    a_deployment_reaches_the_device_signed_and_wait_ends_with_its_report
    every_change_has_a_larger_generation
    a_rejection_ends_the_wait_and_is_shown_until_accepted
    what_is_wrong_with_a_device_is_shown_until_it_is_mended
}

fn a_deployment_reaches_the_device_signed_and_wait_ends_with_its_report(broker: Broker) {
    let stand = Stand::start(broker);
    let image = stand.add_image("hello", &["linux/amd64", "linux/arm/v7"]);
    let mut device = stand.device("kitchen", Arch::ArmV7);
    let mut deploy = stand.command(&[
        "deploy",
        "--app",
        "web",
        "--image",
        "hello",
        "--device",
        "kitchen",
        "--env",
        "A=b c",
        "--network",
        "host",
        "--restart",
        "on-failure",
        "--memory",
        "64m",
        "--pids",
        "32",
        "--cpus",
        "0.5",
        "--mount",
        "/srv:/data:ro",
        "--device-class",
        "gpio",
        "--read-only",
        "--stop-timeout",
        "3s",
        "--soak",
        "250ms",
        "--wait",
        "--",
        "-v",
        "x y",
    ]);
    let mut deploy = deploy.stdout(Stdio::piped()).spawn().unwrap();

    let desired = device.desired();
    assert_eq!(
        (
            desired.generation,
            desired.fleet.as_str(),
            desired.device.as_str()
        ),
        (1, "home", "kitchen")
    );
    let app = &desired.apps[0];
    assert_eq!(
        app.image.manifest.to_string(),
        image.manifests[1],
        "the manifest for its CPU"
    );
    assert_eq!(app.image.reference.as_str(), "hello:latest");
    assert!(app.image.total_bytes > image.layer.len() as u64);
    assert_eq!(app.args.iter().collect::<Vec<_>>(), ["-v", "x y"]);
    assert_eq!(app.env.iter().collect::<Vec<_>>(), ["A=b c"]);
    assert_eq!(
        (app.network, app.restart),
        (Network::Host, RestartPolicy::OnFailure)
    );
    assert_eq!(app.limits.memory_bytes_max, Some(64 << 20));
    assert_eq!(
        (app.limits.pids_max, app.limits.cpu_millis_max),
        (Some(32), Some(500))
    );
    assert_eq!(
        (app.stop_timeout_ms, app.soak_ms, app.read_only),
        (3000, 250, true)
    );
    assert_eq!(
        (app.mounts[0].source.as_str(), app.mounts[0].read_only),
        ("/srv", true)
    );

    device.reply(ReplyTo::Desired { generation: 1 }, Outcome::Accepted);
    let fetching = AppState::Fetching {
        done_bytes: 1,
        total_bytes: 2,
    };
    device.report(Arch::ArmV7, 1, &[("web", &image.manifests[1], fetching)]);
    assert!(
        deploy.try_wait().unwrap().is_none(),
        "it waits while the device fetches"
    );
    device.report(Arch::ArmV7, 1, &[("web", &image.manifests[1], RUNNING)]);
    assert!(deploy.wait().unwrap().success());
    let view = stand.device_view("kitchen");
    assert_eq!(
        (view["converged"].as_bool(), view["apps"][0]["state"].as_str()),
        (Some(true), Some("running"))
    );
    let table = stand.run(&["status"]);
    assert!(table.contains("kitchen  web  hello:latest  running"), "{table}");
}

fn every_change_has_a_larger_generation(broker: Broker) {
    let stand = Stand::start(broker);
    stand.add_image("hello", &["linux/amd64"]);
    let mut device = stand.device("pi", Arch::Amd64);
    let mut expect = |words: &[&str], generation, apps: &[&str]| {
        stand.run(words);
        let desired = device.desired();
        let names: Vec<_> = desired.apps.iter().map(|app| app.name.as_str()).collect();
        assert_eq!(
            (desired.generation, names.as_slice()),
            (generation, apps),
            "{words:?}"
        );
    };
    let on = ["--device", "pi"];
    expect(
        &[&["deploy", "--app", "a", "--image", "hello"][..], &on].concat(),
        1,
        &["a"],
    );
    expect(
        &["deploy", "--app", "b", "--image", "hello", "--all"],
        2,
        &["a", "b"],
    );
    expect(
        &["deploy", "--app", "b", "--image", "hello", "--all"],
        3,
        &["a", "b"],
    );
    expect(&[&["stop", "--app", "a"][..], &on].concat(), 4, &["b"]);
    let stopped = &stand.device_view("pi")["apps"][0];
    assert_eq!(
        (stopped["wanted"].as_str(), stopped["state"].as_str()),
        (Some("stopped"), Some("stopped"))
    );
    expect(&[&["start", "--app", "a"][..], &on].concat(), 5, &["a", "b"]);
    expect(&[&["rm", "--app", "b"][..], &on].concat(), 6, &["a"]);
    let error = stand.refused(&["rm", "--app", "b", "--device", "pi"]);
    assert!(error.contains("device 'pi' has no app called 'b'"), "{error}");
}

fn a_rejection_ends_the_wait_and_is_shown_until_accepted(broker: Broker) {
    let stand = Stand::start(broker);
    let image = stand.add_image("hello", &["linux/amd64"]);
    let mut device = stand.device("pi", Arch::Amd64);
    let words = [
        "deploy",
        "--app",
        "web",
        "--image",
        "hello",
        "--device",
        "pi",
        "--wait=20s",
    ];
    let deploy = stand.command(&words).stderr(Stdio::piped()).spawn().unwrap();
    assert_eq!(device.desired().generation, 1);
    let detail = clipped("memory limits need cgroup_enable=memory in cmdline.txt");
    let outcome = Outcome::Rejected {
        reason: Rejection::Unsupported,
        detail,
    };
    device.reply(ReplyTo::Desired { generation: 1 }, outcome);
    let output = deploy.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(
        errors.contains("it rejected desired state 1: memory limits need cgroup_enable=memory"),
        "{errors}"
    );
    assert!(
        stand
            .run(&["status"])
            .contains("pi rejected desired state 1: memory limits")
    );

    let deploy = stand.command(&words).spawn().unwrap();
    assert_eq!(device.desired().generation, 2);
    device.reply(ReplyTo::Desired { generation: 2 }, Outcome::Accepted);
    device.report(Arch::Amd64, 2, &[("web", &image.manifests[0], RUNNING)]);
    assert!(deploy.wait_with_output().unwrap().status.success());
    assert!(!stand.run(&["status"]).contains("rejected"));
}

#[test]
fn wait_is_not_content_with_the_process_of_the_settings_before() {
    let stand = Stand::start(Broker::Embedded);
    let image = stand.add_image("hello", &["linux/amd64"]);
    let mut device = stand.device("pi", Arch::Amd64);
    let on_pi = ["deploy", "--app", "web", "--image", "hello", "--device", "pi"];
    stand.run(&on_pi);
    device.desired_of(1);
    device.report(Arch::Amd64, 1, &[("web", &image.manifests[0], RUNNING)]);
    let before = device.specs.clone();

    let mut deploy = stand
        .command(&[&on_pi[..], &["--env", "A=b", "--wait=20s"]].concat())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(deploy.stderr.take().unwrap()).lines();
    let mut says = |text: &str| said.any(|line| line.unwrap().contains(text));
    device.desired_of(2);
    let wanted = std::mem::replace(&mut device.specs, before);
    // Garbage that came meanwhile has nothing to do with it.
    let purpose = Purpose::Command;
    let outcome = Outcome::Rejected {
        reason: Rejection::Malformed,
        detail: clipped(""),
    };
    device.reply(ReplyTo::Packet { purpose }, outcome);
    // The image is the same and generation 2 is accepted: only the settings tell the old process from the new one.
    device.report(Arch::Amd64, 2, &[("web", &image.manifests[0], RUNNING)]);
    assert!(says("pi: the version before it is to be replaced"));
    assert!(deploy.try_wait().unwrap().is_none());
    device.specs = wanted;
    device.report(Arch::Amd64, 2, &[("web", &image.manifests[0], RUNNING)]);
    assert!(deploy.wait().unwrap().success());
}

#[test]
fn wait_fails_with_the_reported_reason_and_when_the_time_is_up() {
    let stand = Stand::start(Broker::Embedded);
    let image = stand.add_image("hello", &["linux/amd64"]);
    let mut device = stand.device("pi", Arch::Amd64);
    let deploy = |time: &str| {
        let words = [
            "deploy",
            "--app",
            "web",
            "--image",
            "hello",
            "--device",
            "pi",
            &format!("--wait={time}"),
        ];
        stand.command(&words).stderr(Stdio::piped()).spawn().unwrap()
    };
    let failing = deploy("20s");
    device.desired_of(1);
    device.report(Arch::Amd64, 1, &[("web", &image.manifests[0], AppState::Failed)]);
    let output = failing.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("pi: failed: no space left"));

    let ending = deploy("20s");
    device.desired_of(2);
    device.report(
        Arch::Amd64,
        2,
        &[("web", &image.manifests[0], AppState::Exited { code: 3 })],
    );
    let output = ending.wait_with_output().unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("its process ended with exit code 3"));

    let began = std::time::Instant::now();
    let output = deploy("300ms").wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(began.elapsed().as_secs() < 8, "the time is kept");
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        errors.contains("pi: not running after 0 s: waiting for its answer"),
        "{errors}"
    );
}

#[test]
fn an_image_for_another_cpu_is_refused_in_one_sentence() {
    let stand = Stand::start(Broker::Embedded);
    stand.add_image("hello", &["linux/amd64", "linux/arm/v7"]);
    let _device = stand.device("zero", Arch::ArmV6);
    let error = stand.refused(&["deploy", "--app", "web", "--image", "hello", "--device", "zero"]);
    assert_eq!(
        error,
        "punnet-fleet: image 'hello:latest' offers linux/amd64, linux/arm/v7, but device 'zero' is linux/arm/v6; build or \
         add the image for linux/arm/v6\n"
    );
    assert_eq!(
        stand.device_view("zero")["generation_wanted"],
        0,
        "nothing was changed"
    );
}

#[test]
fn a_device_that_never_reported_gets_its_manifest_with_its_first_report() {
    let stand = Stand::start(Broker::Embedded);
    let image = stand.add_image("hello", &["linux/amd64", "linux/arm/v7"]);
    let enrolment = stand.enrol("new");
    stand.run(&["deploy", "--app", "web", "--image", "hello", "--device", "new"]);
    assert_eq!(stand.device_view("new")["apps"][0]["state"], "pending");
    let mut device = crate::stand::Device::connect(&enrolment, 1);
    assert_eq!(device.desired().apps.len(), 0);
    device.report(Arch::ArmV7, 1, &[]);
    let desired = device.desired_of(2);
    assert_eq!(
        (desired.generation, desired.apps[0].image.manifest.to_string()),
        (2, image.manifests[1].clone())
    );
}

#[test]
fn a_single_platform_that_was_guessed_wrong_becomes_a_shown_problem() {
    let stand = Stand::start(Broker::Embedded);
    stand.add_image("hello", &["linux/amd64"]);
    let enrolment = stand.enrol("new");
    stand.run(&["deploy", "--app", "web", "--image", "hello", "--device", "new"]);
    let mut device = crate::stand::Device::connect(&enrolment, 1);
    assert_eq!(device.desired().apps.len(), 1);
    device.report(Arch::ArmV7, 1, &[]);
    assert_eq!(device.desired_of(2).apps.len(), 0);
    let view = &stand.device_view("new")["apps"][0];
    assert_eq!(view["state"], "impossible");
    assert!(
        view["detail"]
            .as_str()
            .unwrap()
            .contains("offers linux/amd64, but device 'new' is linux/arm/v7")
    );
}

#[test]
fn a_controller_from_an_old_backup_signs_above_what_its_devices_know() {
    let stand = Stand::start(Broker::Embedded);
    stand.add_image("hello", &["linux/amd64"]);
    let mut device = stand.device("pi", Arch::Amd64);
    stand.run(&["deploy", "--app", "web", "--image", "hello", "--device", "pi"]);
    device.desired_of(1);
    device.report(Arch::Amd64, 90, &[]);
    assert_eq!(device.desired().generation, 91);
    eventually("the device is seen behind", || {
        (stand.device_view("pi")["generation_wanted"] == 91).then_some(())
    });
}

fn what_is_wrong_with_a_device_is_shown_until_it_is_mended(broker: Broker) {
    let stand = Stand::start(broker);
    let mut device = stand.device("pi", Arch::ArmV6);
    let wrong = ["no data partition", "a \u{1b}[2J in it"];
    device.report_troubles(&wrong);
    let troubles = || stand.device_view("pi")["troubles"].clone();
    eventually("the troubles", || {
        (troubles() == serde_json::json!(["no data partition", "a \u{fffd}[2J in it"])).then_some(())
    });
    for verb in ["devices", "status"] {
        let said = stand.run(&[verb]);
        assert!(
            said.contains("\npi: no data partition\npi: a \u{fffd}[2J in it"),
            "{said}"
        );
    }
    device.report(Arch::ArmV6, 0, &[]);
    eventually("no troubles", || {
        (troubles() == serde_json::json!([])).then_some(())
    });
    assert!(!stand.run(&["devices"]).contains("no data partition"));
    assert_eq!(stand.ignored("malformed"), 0);
}
