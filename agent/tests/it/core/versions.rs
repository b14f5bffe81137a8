//! One version after the other: the running one stays until the next can take its place, and comes back when that fails.

use punnet_agent::core::*;
use punnet_protocol::topics::Purpose;
use punnet_protocol::*;

use super::Bench;
use crate::fleet::{app, name, spec};

/// A device that runs version 1 well.
fn running() -> (Bench, App) {
    let mut bench = Bench::connected();
    let image = bench.fleet.image(1, &[10]);
    let web = app("web", &image, 1);
    bench.desire(1, std::slice::from_ref(&web));
    bench.pass(20_000);
    assert!(bench.report().converged);
    (bench, web)
}

fn runs(bench: &Bench, version: &App) -> bool {
    let seen = bench.device.containers.get(&version.name);
    seen.is_some_and(|seen| seen.status == Status::Running && seen.spec == Some(spec(version)))
}

#[test]
fn the_running_version_stays_until_the_next_image_is_in_the_store() {
    let (mut bench, old) = running();
    let pid = bench.device.pid("web");
    let image = bench.fleet.image(2, &[100_000]);
    let new = app("web", &image, 2);
    bench.serves_blocks = false;
    bench.desire(2, std::slice::from_ref(&new));
    bench.pass(60_000);
    assert!(runs(&bench, &old) && bench.device.pid("web") == pid);
    assert!(matches!(bench.report().apps[0].state, AppState::Fetching { .. }));
    bench.serves_blocks = true;
    bench.pass(120_000);
    assert!(runs(&bench, &new) && bench.report().converged);
}

#[test]
fn each_report_says_which_settings_its_process_was_made_from() {
    let (mut bench, old) = running();
    let mut new = old.clone();
    new.env = Strings::new(["A=b"]).unwrap();
    bench.desire(2, std::slice::from_ref(&new));
    bench.pass(5000);
    let reports: Vec<Reported> = bench.take(Purpose::Reported);
    let running = reports
        .iter()
        .filter(|report| matches!(report.apps[0].state, AppState::Running { .. }));
    let specs: Vec<_> = running.map(|report| report.apps[0].spec).collect();
    assert_eq!(
        specs,
        [spec(&new)],
        "the same image, and never the old process as the new one"
    );
}

#[test]
fn after_a_power_cut_in_the_middle_of_an_update_the_last_good_version_runs_without_a_network() {
    let (mut bench, old) = running();
    let image = bench.fleet.image(2, &[100_000]);
    bench.serves_blocks = false;
    bench.desire(2, &[app("web", &image, 2)]);
    bench.device.cut_power();
    bench.restart();
    assert!(runs(&bench, &old), "at once, before anything is connected");
    bench.exits("web", 1);
    bench.pass(10_000);
    assert!(runs(&bench, &old), "and it is looked after");
}

#[test]
fn containers_of_before_are_started_before_the_network_is_touched() {
    let (mut bench, old) = running();
    bench.device.cut_power();
    bench.device.jobs.clear();
    bench.restart();
    assert!(runs(&bench, &old));
    assert_eq!(bench.device.jobs, ["Start"]);
    assert!(bench.will.is_none(), "not even asked to connect");
    bench.pass(1000);
    assert!(bench.will.is_some());
}

#[test]
fn a_version_that_fails_its_soak_goes_back_and_is_refused_until_another_is_wanted() {
    let (mut bench, old) = running();
    let image = bench.fleet.image(2, &[10]);
    let bad = app("web", &image, 2);
    bench.desire(2, std::slice::from_ref(&bad));
    bench.pass(1000);
    assert!(runs(&bench, &bad));
    bench.exits("web", 3);
    bench.pass(5000);
    assert!(runs(&bench, &old));
    let report = bench.report();
    assert_eq!(
        (report.apps[0].state, report.converged),
        (AppState::RolledBack, false)
    );
    assert_eq!(report.apps[0].manifest, old.image.manifest);
    assert!(
        report.apps[0]
            .detail
            .contains("it ended with code 3 within its soak"),
        "{}",
        report.apps[0].detail
    );
    // Remembered through a restart, and through a new generation that wants the same.
    bench.restart();
    bench.connect();
    bench.desire(3, std::slice::from_ref(&bad));
    bench.pass(60_000);
    assert!(runs(&bench, &old));
    assert_eq!(bench.report().apps[0].state, AppState::RolledBack);
    let better = app("web", &image, 3);
    bench.desire(4, std::slice::from_ref(&better));
    bench.pass(60_000);
    assert!(runs(&bench, &better) && bench.report().converged);
}

#[test]
fn a_version_that_cannot_be_made_within_its_soak_goes_back() {
    let (mut bench, old) = running();
    let image = bench.fleet.image(2, &[10]);
    let bad = app("web", &image, 2);
    bench.device.broken = Some((spec(&bad), "no such device class: laser".into()));
    bench.desire(2, std::slice::from_ref(&bad));
    bench.pass(2000);
    let report = bench.report();
    assert_eq!(
        (report.apps[0].state, report.apps[0].detail.as_str()),
        (AppState::Failed, "no such device class: laser")
    );
    bench.pass(10_000);
    assert!(runs(&bench, &old));
    let report = bench.report();
    assert_eq!(
        (report.apps[0].state, report.apps[0].detail.as_str()),
        (AppState::RolledBack, "no such device class: laser")
    );
}

#[test]
fn a_first_version_that_fails_is_tried_again_with_growing_pauses() {
    let mut bench = Bench::connected();
    let image = bench.fleet.image(1, &[10]);
    bench.desire(1, &[app("web", &image, 1)]);
    bench.pass(100);
    let mut starts = Vec::new();
    for _ in 0..6 {
        starts.push(bench.now.ms);
        let pid = bench.device.pid("web");
        bench.exits("web", 1);
        while bench.device.pid("web") == 0 {
            bench.pass(100);
        }
        assert_ne!(bench.device.pid("web"), pid);
    }
    let pauses: Vec<_> = starts
        .windows(2)
        .map(|pair| (pair[1] - pair[0]).div_ceil(1000))
        .collect();
    assert_eq!(pauses, [1, 2, 4, 8, 16]);
    let report = bench.report();
    assert_eq!(report.apps[0].restarts, 6);
}

#[test]
fn a_process_that_ends_well_stays_ended_when_policy_says_so() {
    for (policy, code, stays) in [
        (RestartPolicy::Never, 0, true),
        (RestartPolicy::Never, 1, true),
        (RestartPolicy::OnFailure, 0, true),
        (RestartPolicy::OnFailure, 1, false),
        (RestartPolicy::Always, 0, false),
    ] {
        let mut bench = Bench::connected();
        let image = bench.fleet.image(1, &[10]);
        let mut job = app("job", &image, 1);
        job.restart = policy;
        bench.desire(1, &[job]);
        bench.pass(100);
        bench.exits("job", code);
        let report = bench.report();
        bench.pass(10_000);
        assert_eq!(bench.device.pid("job") == 0, stays, "{policy:?} {code}");
        if stays {
            assert_eq!(
                (report.apps[0].state, report.converged),
                (AppState::Exited { code }, true)
            );
        }
    }
}

#[test]
fn an_app_that_the_kernel_killed_for_memory_is_reported_so() {
    let mut bench = Bench::connected();
    let image = bench.fleet.image(1, &[10]);
    let mut leak = app("leak", &image, 1);
    leak.restart = RestartPolicy::Never;
    bench.desire(1, &[leak]);
    bench.pass(10_000);
    bench.exits_because("leak", 137, true);
    bench.pass(300);
    let detail = bench.report().apps[0].detail.clone();
    assert!(detail.contains("code 137: out of memory"), "{detail}");
}

#[test]
fn a_job_that_is_done_is_not_run_again_after_a_power_cut_unless_asked() {
    let mut bench = Bench::connected();
    let image = bench.fleet.image(1, &[10]);
    let mut job = app("job", &image, 1);
    job.restart = RestartPolicy::OnFailure;
    bench.desire(1, &[job]);
    bench.pass(100);
    bench.exits("job", 0);
    bench.pass(1000);
    bench.device.cut_power();
    bench.device.jobs.clear();
    bench.restart();
    bench.connect();
    let session = bench.session();
    assert_eq!(bench.report().apps[0].state, AppState::Exited { code: 0 });
    assert!(bench.device.jobs.is_empty(), "{:?}", bench.device.jobs);
    let again = bench
        .fleet
        .command(session, 1, CommandAction::Restart { app: name("job") });
    bench.message(Purpose::Command, again);
    assert!(bench.device.pid("job") > 0);
    bench.device.cut_power();
    bench.restart();
    assert!(bench.device.pid("job") > 0, "it had not ended this time");
}

#[test]
fn a_container_the_agent_did_not_make_in_this_life_is_not_started_twice() {
    let (mut bench, old) = running();
    let pid = bench.device.pid("web");
    bench.device.jobs.clear();
    bench.restart();
    bench.connect();
    bench.pass(60_000);
    assert_eq!((bench.device.pid("web"), runs(&bench, &old)), (pid, true));
    assert!(bench.device.jobs.is_empty(), "{:?}", bench.device.jobs);
}

#[test]
fn changes_in_a_burst_are_one_report() {
    let mut bench = Bench::connected();
    bench.pass(1000);
    bench.take::<Reported>(Purpose::Reported);
    let image = bench.fleet.image(1, &[10]);
    let apps: Vec<_> = (0..8).map(|n| app(&format!("app{n}"), &image, 1)).collect();
    bench.desire(1, &apps);
    bench.pass(2000);
    let reports: Vec<Reported> = bench.take(Purpose::Reported);
    assert_eq!(reports.len(), 1, "{reports:?}");
    assert!(
        reports[0]
            .apps
            .iter()
            .all(|app| matches!(app.state, AppState::Running { .. }))
    );
    bench.pass(3_600_000);
    assert!(
        bench.take::<Reported>(Purpose::Reported).len() <= 1,
        "only that all has run well, if that shows"
    );
}

#[test]
fn an_app_that_is_no_longer_wanted_is_stopped_and_removed() {
    let (mut bench, web) = running();
    let image = bench.fleet.image(1, &[10]);
    bench.desire(2, &[app("db", &image, 1)]);
    bench.pass(20_000);
    assert!(!bench.device.containers.contains_key(&web.name));
    assert!(bench.device.pid("db") > 0);
    assert_eq!(
        bench
            .report()
            .apps
            .iter()
            .map(|app| &app.name)
            .collect::<Vec<_>>(),
        [&name("db")]
    );
}
