//! The board's own system as an app: kept when all is well with it, left alone when it did not stay.

use punnet_agent::core::*;
use punnet_protocol::*;

use super::Bench;
use crate::fleet::{app, name};

fn system(image: &ImageSource) -> App {
    let mut app = app("system", image, 1);
    app.restart = RestartPolicy::Never;
    app.soak_ms = 30_000;
    app.device_classes = [clipped("system")].into_iter().collect();
    app
}

/// A device with an ordinary app, on which a new system has just been started.
fn on_trial() -> Bench {
    let mut bench = Bench::connected();
    let image = bench.fleet.image(1, &[10]);
    bench.desire(1, &[app("web", &image, 1), system(&image)]);
    bench.pass(1000);
    assert!(bench.device.pid("system") > 0);
    // The restart that starting it is.
    bench.device.jobs.clear();
    bench.restart();
    bench
}

fn kept(bench: &Bench) -> bool {
    bench.device.jobs.iter().any(|job| job == "Keep")
}

#[test]
fn a_system_is_kept_only_once_it_has_reached_its_fleet() {
    let mut bench = on_trial();
    bench.pass(60_000);
    assert!(!kept(&bench), "nobody has heard of it yet");
    bench.connect();
    bench.pass(100);
    assert!(kept(&bench));
    // And again after a restart between the agent's record and the firmware's.
    bench.device.jobs.clear();
    bench.restart();
    assert!(kept(&bench));
}

#[test]
fn a_system_under_which_another_app_fails_is_not_kept() {
    let mut bench = on_trial();
    bench.connect();
    for _ in 0..60 {
        bench.exits("web", 1);
        bench.pass(900);
    }
    assert!(!kept(&bench));
    bench.pass(600_000);
    assert!(kept(&bench), "it runs again");
}

#[test]
fn a_system_that_did_not_stay_is_reported_and_not_tried_again() {
    let mut bench = on_trial();
    let seen = bench.device.containers.get_mut(&name("system")).unwrap();
    (seen.status, seen.pid, seen.exit_code) = (Status::Stopped, 0, Some(1));
    bench.device.jobs.clear();
    bench.restart();
    bench.connect();
    bench.pass(600_000);
    let report = bench.report();
    let system = report.apps.iter().find(|app| app.name == name("system")).unwrap();
    assert_eq!(system.state, AppState::Exited { code: 1 });
    assert!(system.detail.contains("the one before runs"), "{}", system.detail);
    let touched = ["Create", "Start", "Stop", "Remove", "Keep"];
    let of_containers = |job: &&String| touched.contains(&job.as_str());
    assert_eq!(bench.device.jobs.iter().find(of_containers), None);
}

#[test]
fn a_system_that_would_be_tried_again_and_again_is_refused() {
    let mut bench = Bench::connected();
    let image = bench.fleet.image(1, &[10]);
    let mut always = system(&image);
    always.restart = RestartPolicy::Always;
    bench.desire(1, &[always]);
    let (_, reason, detail) = bench.refusal();
    assert_eq!(reason, Rejection::Unsupported);
    assert!(detail.contains("tried once"), "{detail}");
}
