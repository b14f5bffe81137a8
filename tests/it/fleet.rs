//! From a controller's word to a running container and back, through a real broker.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use xtask::process::wait_for;
use xtask::stand::{Broker, Stand, free_address, json_of};

use crate::support::{containers, ok, output, processes_of, stand};

/// How long anything may take on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(45);

const DEVICE: &str = "board-1";

/// A Mosquitto of the test's own that ends with this value.
pub struct Mosquitto {
    folder: tempfile::TempDir,
    address: String,
    child: Child,
}

impl Mosquitto {
    pub fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let address = free_address().unwrap();
        let (host, port) = address.split_once(':').unwrap();
        let config = format!(
            "listener {port} {host}\nallow_anonymous true\nset_tcp_nodelay true\npersistence false\n"
        );
        std::fs::write(folder.path().join("mosquitto.conf"), config).unwrap();
        let child = Self::spawn(&folder);
        let mosquitto = Self {
            folder,
            address,
            child,
        };
        mosquitto.wait();
        mosquitto
    }

    fn spawn(folder: &tempfile::TempDir) -> Child {
        let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
        let mut command = Command::new("mosquitto");
        command
            .arg("-c")
            .arg(folder.path().join("mosquitto.conf"))
            .env("PATH", path);
        command
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("mosquitto is not installed: cargo xtask test does it")
    }

    fn wait(&self) {
        let up = || Ok(std::net::TcpStream::connect(&self.address).ok());
        wait_for("mosquitto", PATIENCE, up).unwrap();
    }

    pub fn url(&self) -> String {
        format!("mqtt://{}", self.address)
    }

    /// Killed and started again: retained messages and sessions are gone.
    fn restart(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.child = Self::spawn(&self.folder);
        self.wait();
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        self.child
            .kill()
            .and_then(|()| self.child.wait())
            .expect("mosquitto is a child of ours");
    }
}

/// A stand with everything running and the example image in the fleet.
pub fn running_stand(broker: Broker) -> Stand {
    let mut stand = stand();
    let archive = stand.build_hello().unwrap();
    ok(&mut stand.punnet(&["rmi", "hello"]));
    ok(&mut stand.punnet(&["prune"]));
    stand.start_controller(broker).unwrap();
    stand.enrol(DEVICE).unwrap();
    stand.start_agent().unwrap();
    stand.wait_online(DEVICE).unwrap();
    stand.add_image(&archive).unwrap();
    stand
}

/// What the controller knows of the device's apps.
pub fn apps(stand: &Stand) -> Vec<Value> {
    let status = json_of(&mut stand.fleet(&["status", "--json"])).unwrap_or_default();
    status[0]["apps"].as_array().cloned().unwrap_or_default()
}

/// `deploy` without waiting; every process it makes is marked as this stand's.
fn deploy(stand: &Stand, app: &str, image: &str) -> Command {
    let mark = format!("PUNNET_STAND={}", stand.path().display());
    stand.fleet(&[
        "deploy", "--app", app, "--image", image, "--device", DEVICE, "--env", &mark, "--soak", "1s",
    ])
}

fn wait_running(stand: &Stand, app: &str) {
    let running = || {
        let found = apps(stand)
            .iter()
            .any(|found| found["name"] == app && found["state"] == "running");
        Ok(found.then_some(()))
    };
    if let Err(error) = wait_for("the app to run", PATIENCE, running) {
        panic!(
            "{error}; {:?}\n{}\n{}",
            apps(stand),
            stand.log_tail("agent.log"),
            stand.log_tail("controller.log")
        );
    }
}

/// What the container has written; nothing while there is none, as between two versions.
fn log_of(stand: &Stand, app: &str) -> String {
    String::from_utf8(output(&mut stand.punnet(&["logs", app])).stdout).unwrap()
}

fn wait_gone(stand: &Stand) {
    wait_for("the container to go", PATIENCE, || {
        Ok(containers(stand).is_empty().then_some(()))
    })
    .unwrap();
}

#[track_caller]
fn runs_exactly_once(stand: &Stand, app: &str) {
    let names: Vec<_> = containers(stand)
        .iter()
        .map(|found| found["name"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(names, [app]);
    assert_eq!(processes_of(stand, app), 1, "{}", stand.log_tail("agent.log"));
}

#[test]
fn whoever_waits_for_a_controller_is_told_that_it_died() {
    let mut stand = stand();
    stand.start_controller(Broker::Embedded).unwrap();
    let watch = stand.watch().unwrap();
    let listed = output(Command::new("pgrep").arg("-f").arg(stand.path().join("fleet")));
    let pid = String::from_utf8(listed.stdout).unwrap();
    ok(Command::new("kill").args(["-KILL", pid.trim()]));
    // Far longer than the test may take: it ends as soon as the controller has.
    let waited = wait_for::<()>("nothing", Duration::from_secs(86_400), || {
        watch.check()?;
        Ok(None)
    });
    let error = waited.unwrap_err().to_string();
    assert!(error.contains("controller ended by itself"), "{error}");
    let lines = stand.first_lines_with("hello", DEVICE, 1, &[watch]);
    let error = format!("{:#}", lines.unwrap_err());
    assert!(error.contains("ended"), "{error}");
}

fn the_main_job(broker: Broker) {
    let stand = running_stand(broker);
    ok(deploy(&stand, "hello", "hello").args(["--env", "GREETING=ahoy", "--wait=60s"]));
    let lines = stand.first_lines("hello", DEVICE, 2).unwrap();
    assert!(
        lines[0].starts_with("ahoy: ") && lines[1] == "up 1 s",
        "{lines:?}"
    );
    runs_exactly_once(&stand, "hello");
    assert!(ok(&mut stand.fleet(&["status"])).contains("running"));
    assert!(stand.agent_pss_kib().unwrap() > 0);
    // Another version takes the place of the one that runs; the image is the same.
    let first = containers(&stand)[0]["pid"].clone();
    ok(deploy(&stand, "hello", "hello").args(["--env", "GREETING=second", "--wait=60s"]));
    assert_ne!(
        containers(&stand)[0]["pid"],
        first,
        "--wait ends with the new process"
    );
    let second = || Ok(log_of(&stand, "hello").starts_with("second: ").then_some(()));
    wait_for("the second version", PATIENCE, second).unwrap();
    runs_exactly_once(&stand, "hello");
    ok(&mut stand.fleet(&["rm", "--app", "hello", "--device", DEVICE]));
    wait_gone(&stand);
    stand.remove().unwrap();
}

/// Every image needs a signature of this key.
fn want_signatures_of(stand: &Stand, key: &str) {
    let policy = serde_json::json!({
        "version": 1, "keys": { "key": key }, "rules": [{ "images": "", "signed_by": ["key"] }],
    });
    std::fs::write(stand.path().join("data/signatures.json"), policy.to_string()).unwrap();
}

#[test]
fn where_a_policy_wants_the_fleets_key_what_it_deploys_is_signed_by_it() {
    let stand = running_stand(Broker::Embedded);
    want_signatures_of(&stand, &"ab".repeat(32));
    ok(&mut deploy(&stand, "hello", "hello"));
    wait_for("the refusal", PATIENCE, || {
        Ok(stand.log_tail("agent.log").contains("may not run").then_some(()))
    })
    .unwrap();
    assert!(containers(&stand).is_empty());
    // The agent tries again by itself.
    let enrolment = std::fs::read(stand.path().join("enrolment.json")).unwrap();
    let enrolment: Value = serde_json::from_slice(&enrolment).unwrap();
    want_signatures_of(&stand, enrolment["fleet_key"].as_str().unwrap());
    wait_running(&stand, "hello");
    // By hand the same image needs a signature of its own.
    let digest = ok(&mut stand.punnet(&["images", "--quiet"])).trim().to_owned();
    let by_hand = output(&mut stand.punnet(&["run", "--rm", &digest, "--once"]));
    assert_eq!(by_hand.status.code(), Some(125));
    let complaint = String::from_utf8(by_hand.stderr).unwrap();
    assert!(complaint.contains("may not run"), "{complaint}");
    stand.remove().unwrap();
}

#[test]
fn a_container_runs_because_the_controller_said_so_through_the_embedded_broker() {
    the_main_job(Broker::Embedded);
}

#[test]
fn a_container_runs_because_the_controller_said_so_through_mosquitto() {
    the_main_job(Broker::External(&Mosquitto::start().url()));
}

#[test]
fn a_second_agent_on_the_same_data_root_is_refused() {
    let stand = running_stand(Broker::Embedded);
    let second = output(stand.punnet(&["agent", "--enrolment"]).arg(stand.enrolment()));
    assert_eq!(second.status.code(), Some(1));
    let complaint = String::from_utf8(second.stderr).unwrap();
    assert!(
        complaint.contains("another agent runs with the data root"),
        "{complaint}"
    );
    stand.remove().unwrap();
}

#[test]
fn an_agent_killed_at_any_moment_ends_with_the_container_running_once() {
    let mut stand = running_stand(Broker::Embedded);
    for round in 0..8_u32 {
        let greeting = format!("GREETING=round {round}");
        ok(deploy(&stand, "hello", "hello").args(["--env", &greeting]));
        // From before the message is there to after the container has started.
        std::thread::sleep(Duration::from_millis(u64::from(round) * 35));
        stand.kill_agent().unwrap();
        stand.start_agent().unwrap();
        let wanted = || {
            Ok(log_of(&stand, "hello")
                .contains(&greeting["GREETING=".len()..])
                .then_some(()))
        };
        wait_running(&stand, "hello");
        if let Err(error) = wait_for("the new version's greeting", PATIENCE, wanted) {
            panic!(
                "round {round}: {error:#}; the agent:\n{}",
                stand.log_tail("agent.log")
            );
        }
        // What the killed agent had begun may end with it and be started anew after a pause. Twice it must not run at any time.
        let settled = || {
            let processes = processes_of(&stand, "hello");
            assert!(processes <= 1, "{}", stand.log_tail("agent.log"));
            Ok((processes == 1).then_some(()))
        };
        wait_for("the app to settle", PATIENCE, settled).unwrap();
        runs_exactly_once(&stand, "hello");
    }
    stand.remove().unwrap();
}

#[test]
fn with_a_spoiled_board_file_what_ran_runs_and_the_fleet_is_told() {
    let mut stand = running_stand(Broker::Embedded);
    ok(&mut deploy(&stand, "hello", "hello"));
    wait_running(&stand, "hello");
    stand.kill_agent().unwrap();
    ok(&mut stand.punnet(&["stop", "hello"]));
    let spoiled = r#"{"name":"kitchen","colour":"red"}"#;
    std::fs::write(stand.path().join("data/board.json"), spoiled).unwrap();
    stand.start_agent().unwrap();
    stand.wait_online(DEVICE).unwrap();
    wait_running(&stand, "hello");
    runs_exactly_once(&stand, "hello");
    let status = || json_of(&mut stand.fleet(&["status", DEVICE, "--json"]));
    let told = wait_for("the trouble", PATIENCE, || {
        Ok(status()?[0]["troubles"][0].as_str().map(str::to_owned))
    });
    let told = told.unwrap();
    assert!(told.contains("unknown field `colour` at line 1 column"), "{told}");
    assert_eq!(status().unwrap()[0]["board"], "kitchen");
    stand.remove().unwrap();
}

#[test]
fn a_controller_killed_at_any_moment_keeps_its_word() {
    let mut stand = running_stand(Broker::Embedded);
    for round in 0..6_u32 {
        let greeting = format!("GREETING=round {round}");
        let mut child = deploy(&stand, "hello", "hello")
            .args(["--env", &greeting])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(u64::from(round) * 12));
        stand.kill_controller().unwrap();
        let accepted = child.wait().unwrap().success();
        stand.start_controller(Broker::Embedded).unwrap();
        if !accepted {
            // The controller died before it had answered: the user tries again.
            ok(deploy(&stand, "hello", "hello").args(["--env", &greeting]));
        }
        wait_running(&stand, "hello");
        let wanted = || {
            Ok(log_of(&stand, "hello")
                .contains(&greeting["GREETING=".len()..])
                .then_some(()))
        };
        wait_for("the new version's greeting", PATIENCE, wanted).unwrap();
        runs_exactly_once(&stand, "hello");
    }
    stand.remove().unwrap();
}

#[test]
fn a_broker_that_goes_away_in_the_middle_of_a_transfer_costs_only_time() {
    let mut mosquitto = Mosquitto::start();
    let url = mosquitto.url();
    let stand = running_stand(Broker::External(&url));
    let context = stand.path().join("large");
    std::fs::create_dir(&context).unwrap();
    std::fs::copy(stand.path().join("hello/hello"), context.join("hello")).unwrap();
    // What does not compress takes a while.
    let mut noise = vec![0; 6 << 20];
    std::io::Read::read_exact(&mut std::fs::File::open("/dev/urandom").unwrap(), &mut noise).unwrap();
    std::fs::write(context.join("noise"), noise).unwrap();
    std::fs::write(
        context.join("Containerfile"),
        "FROM scratch\nCOPY . /\nENTRYPOINT [\"/hello\"]\n",
    )
    .unwrap();
    let archive = stand.path().join("large.tar");
    let builder = tempfile::tempdir().unwrap();
    ok(Command::new(env!("CARGO_BIN_EXE_punnet"))
        .arg("--data-root")
        .arg(builder.path())
        .args(["build", "--output"])
        .arg(&archive)
        .arg(&context));
    ok(stand.fleet(&["images", "add", "--name", "large"]).arg(&archive));
    ok(&mut deploy(&stand, "large", "large"));
    let fetching = || {
        Ok(apps(&stand)
            .iter()
            .any(|app| app["done_bytes"].as_u64().is_some_and(|done| done > 0))
            .then_some(()))
    };
    // A fast machine may have it all before the first report: then the restart comes after the transfer, which must do no harm either.
    drop(wait_for(
        "the transfer to begin",
        Duration::from_secs(3),
        fetching,
    ));
    mosquitto.restart();
    wait_running(&stand, "large");
    runs_exactly_once(&stand, "large");
    stand.remove().unwrap();
}

#[test]
fn what_ran_last_runs_again_without_network_broker_or_controller() {
    let mut stand = running_stand(Broker::Embedded);
    ok(deploy(&stand, "hello", "hello").arg("--wait=60s"));
    stand.kill_controller().unwrap();
    stand.kill_agent().unwrap();
    // As after a reboot: no process, nothing in RAM.
    ok(&mut stand.punnet(&["stop", "--time", "0", "hello"]));
    std::fs::remove_dir_all(stand.path().join("run")).unwrap();
    assert_eq!(processes_of(&stand, "hello"), 0);
    stand.start_agent().unwrap();
    let running = || {
        Ok(containers(&stand)
            .iter()
            .any(|found| found["status"] == "running")
            .then_some(()))
    };
    wait_for("the container to run", PATIENCE, running).unwrap();
    runs_exactly_once(&stand, "hello");
    stand.remove().unwrap();
}

#[test]
fn a_version_that_fails_its_soak_gives_way_to_the_one_before() {
    let stand = running_stand(Broker::Embedded);
    ok(deploy(&stand, "hello", "hello").args(["--env", "GREETING=good", "--wait=60s"]));
    // Good only after its soak.
    std::thread::sleep(Duration::from_millis(1500));
    let failed = output(deploy(&stand, "hello", "hello").args([
        "--env",
        "GREETING=bad",
        "--wait=60s",
        "--",
        "--exit",
        "3",
    ]));
    assert_eq!(
        failed.status.code(),
        Some(1),
        "{}",
        String::from_utf8_lossy(&failed.stdout)
    );
    let back = || {
        let rolled_back = apps(&stand).iter().any(|app| app["state"] == "rolled-back");
        Ok((rolled_back && processes_of(&stand, "hello") == 1).then_some(()))
    };
    if let Err(error) = wait_for("the version before to run again", PATIENCE, back) {
        panic!("{error}: {:?}\n{}", apps(&stand), stand.log_tail("agent.log"));
    }
    stand.remove().unwrap();
}

#[test]
fn a_full_disk_is_reported_and_touches_nothing_that_runs() {
    if !nix::unistd::geteuid().is_root() {
        println!("SKIPPED: a small file system needs root to be mounted");
        return;
    }
    let mut stand = stand();
    let archive = stand.build_hello().unwrap();
    let data = stand.path().join("data");
    ok(&mut stand.punnet(&["rmi", "hello"]));
    std::fs::remove_dir_all(&data).unwrap();
    std::fs::create_dir(&data).unwrap();
    let size = archive.metadata().unwrap().len() * 4 + (4 << 20);
    ok(Command::new("mount")
        .args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
        .arg(&data));
    let unmount = Unmount(data.clone());
    stand.start_controller(Broker::Embedded).unwrap();
    stand.enrol(DEVICE).unwrap();
    stand.start_agent().unwrap();
    stand.wait_online(DEVICE).unwrap();
    stand.add_image(&archive).unwrap();
    ok(deploy(&stand, "hello", "hello").arg("--wait=60s"));
    std::fs::write(data.join("ballast"), vec![0; usize::try_from(size).unwrap()]).unwrap_err();
    let context = stand.path().join("second");
    std::fs::create_dir(&context).unwrap();
    std::fs::write(context.join("file"), vec![7; 1 << 20]).unwrap();
    std::fs::write(
        context.join("Containerfile"),
        "FROM scratch\nCOPY . /\nCMD [\"/file\"]\n",
    )
    .unwrap();
    let second = stand.path().join("second.tar");
    let builder = tempfile::tempdir().unwrap();
    ok(Command::new(env!("CARGO_BIN_EXE_punnet"))
        .arg("--data-root")
        .arg(builder.path())
        .args(["build", "--output"])
        .arg(&second)
        .arg(&context));
    ok(stand.fleet(&["images", "add", "--name", "second"]).arg(&second));
    ok(&mut deploy(&stand, "second", "second"));
    let told = || {
        let told = |view: &Value| view.to_string().to_lowercase().contains("space");
        let status = json_of(&mut stand.fleet(&["status", "--json"]))?;
        Ok(told(&status).then_some(()))
    };
    if let Err(error) = wait_for("the full disk to be reported", PATIENCE, told) {
        panic!("{error}: {:?}\n{}", apps(&stand), stand.log_tail("agent.log"));
    }
    assert_eq!(processes_of(&stand, "hello"), 1);
    // With room again the device goes on by itself.
    std::fs::remove_file(data.join("ballast")).unwrap();
    ok(&mut stand.fleet(&["rm", "--app", "second", "--device", DEVICE]));
    ok(deploy(&stand, "hello", "hello").args(["--env", "GREETING=again", "--wait=60s"]));
    ok(&mut stand.punnet(&["verify"]));
    stand.stop_all().unwrap();
    drop(unmount);
}

struct Unmount(std::path::PathBuf);

impl Drop for Unmount {
    fn drop(&mut self) {
        let done = Command::new("umount").arg("--lazy").arg(&self.0).status();
        assert!(done.is_ok_and(|status| status.success()) || std::thread::panicking());
    }
}

#[test]
fn waiting_for_new_settings_of_the_same_image_ends_when_the_new_process_runs() {
    let stand = running_stand(Broker::Embedded);
    for greeting in ["one", "two", "three"] {
        let setting = format!("GREETING={greeting}");
        ok(deploy(&stand, "hello", "hello").args(["--env", &setting, "--wait=60s"]));
        runs_exactly_once(&stand, "hello");
        let pid = &containers(&stand)[0]["pid"];
        let environment = std::fs::read_to_string(format!("/proc/{pid}/environ")).unwrap();
        assert!(
            environment.split('\0').any(|pair| pair == setting),
            "{environment}"
        );
    }
}

#[test]
fn an_app_that_is_stopped_stays_listed_and_stopped() {
    let mut stand = running_stand(Broker::Embedded);
    ok(deploy(&stand, "hello", "hello").arg("--wait=60s"));
    ok(&mut stand.fleet(&["stop", "--app", "hello", "--device", DEVICE]));
    wait_for("the app to stop", PATIENCE, || {
        Ok((processes_of(&stand, "hello") == 0).then_some(()))
    })
    .unwrap();
    // Not started again either, by an agent that knows nothing else than its disk.
    stand.kill_agent().unwrap();
    stand.start_agent().unwrap();
    stand.wait_online(DEVICE).unwrap();
    let listed = apps(&stand);
    assert_eq!(
        (&listed[0]["name"], &listed[0]["wanted"]),
        (&"hello".into(), &"stopped".into()),
        "{listed:?}"
    );
    assert_eq!(processes_of(&stand, "hello"), 0);
}
