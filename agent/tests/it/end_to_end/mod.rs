//! The whole agent as a process of its own, against Mosquitto, with a `punnet` that is a shell script: processes, descriptors,
//! signals, files and exit codes are real, containers are plain processes.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use punnet_agent::core::Level;
use punnet_agent::{AgentOptions, run};
use punnet_boards::{Arch, Board};
use punnet_protocol::topics::Purpose;
use punnet_protocol::*;
use tempfile::TempDir;

use crate::broker::{Controller, Mosquitto};
use crate::fleet::{Fleet, app};

/// Set for the process that is the agent; its value is the test's folder.
const AGENT: &str = "PUNNET_TEST_AGENT";

/// Not a test but the agent: the tests run this very binary again with [`AGENT`] set.
#[test]
fn agent_process() {
    let Some(folder) = std::env::var_os(AGENT).map(PathBuf::from) else {
        return;
    };
    let options = AgentOptions {
        data_root: folder.join("data"),
        run_root: folder.join("run"),
        enrolment: Some(folder.join("enrolment.json")),
        stop_containers: folder.join("stop-containers").exists(),
        fetch_bytes_per_s: None,
        board: Board::generic(Arch::Amd64),
        troubles: Vec::new(),
        program: Some(folder.join("punnet")),
        log_level: Level::Debug,
    };
    run(options).unwrap();
}

struct Stand {
    folder: TempDir,
    _broker: Mosquitto,
    fleet: Fleet,
    controller: Controller,
    agent: Option<Child>,
}

impl Stand {
    async fn new() -> Option<Self> {
        Self::on(Mosquitto::start()?).await
    }

    /// With TLS and a certificate for the device, on the broker's other listener.
    async fn with_tls() -> Option<Self> {
        Self::on(Mosquitto::start_with_tls()?).await
    }

    async fn on(broker: Mosquitto) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let fleet = Fleet::new();
        let key: String = fleet
            .public_key()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let mut enrolment = serde_json::json!({
            "version": 1, "fleet": "home", "device": "kitchen", "fleet_key": key,
            "broker": format!("mqtt://127.0.0.1:{}", broker.port),
        });
        if let Some(tls) = &broker.tls {
            enrolment["broker"] = format!("mqtts://localhost:{}", tls.port).into();
            enrolment["ca_pem"] = tls.ca_pem.clone().into();
            enrolment["client_cert_pem"] = tls.client_cert_pem.clone().into();
            enrolment["client_key_pem"] = tls.client_key_pem.clone().into();
        }
        let write = |name: &str, text: &str, mode| {
            let path = folder.path().join(name);
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        };
        write("enrolment.json", &enrolment.to_string(), 0o600);
        write("punnet", include_str!("punnet.sh"), 0o755);
        let controller = Controller::connect(&broker, fleet.blobs.clone()).await;
        let mut stand = Self {
            folder,
            _broker: broker,
            fleet,
            controller,
            agent: None,
        };
        stand.start_agent();
        Some(stand)
    }

    fn path(&self, of: &str) -> PathBuf {
        self.folder.path().join(of)
    }

    fn start_agent(&mut self) {
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.path("agent.log"))
            .unwrap();
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", "end_to_end::agent_process", "--nocapture"])
            .env(AGENT, self.folder.path());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.agent = Some(command.spawn().unwrap());
    }

    fn signal_agent(&mut self, signal: &str) {
        let mut agent = self.agent.take().unwrap();
        let status = Command::new("kill")
            .args([signal, &agent.id().to_string()])
            .status()
            .unwrap();
        assert!(status.success());
        agent.wait().unwrap();
    }

    fn shell_app(&mut self, of: &str, version: u32, command: &str) -> App {
        let image = self.fleet.image(version as u8, &[40_000]);
        self.controller.serve(self.fleet.blobs.clone());
        let mut app = app(of, &image, version);
        app.args = Strings::new([command]).unwrap();
        app.soak_ms = 1500;
        app
    }

    async fn deploy(&self, generation: u64, apps: &[App]) {
        let payload = self.fleet.desired(generation, apps);
        self.controller.publish(Purpose::Desired, payload, true).await;
    }

    async fn until(&self, what: &str, is_so: impl Fn(&Reported) -> bool) -> Reported {
        let is_so = || {
            self.controller
                .reported()
                .is_some_and(|reported| is_so(&reported))
        };
        if tokio::time::timeout(Duration::from_secs(30), self.controller.until(is_so))
            .await
            .is_err()
        {
            let log = fs::read_to_string(self.path("agent.log")).unwrap();
            panic!("never {what}: {:?}\n{log}", self.controller.reported());
        }
        self.controller.reported().unwrap()
    }

    fn pid(&self, app: &str) -> u32 {
        let text = fs::read_to_string(self.path("run/containers").join(app).join("pid")).unwrap();
        text.trim().parse().unwrap()
    }

    fn starts(&self, app: &str) -> usize {
        fs::read_to_string(self.path("data/c").join(app).join("starts"))
            .unwrap()
            .lines()
            .count()
    }
}

impl Drop for Stand {
    fn drop(&mut self) {
        if let Some(mut agent) = self.agent.take() {
            agent.kill().unwrap();
            agent.wait().unwrap();
        }
        for entry in fs::read_dir(self.path("run/containers"))
            .into_iter()
            .flatten()
            .flatten()
        {
            if let Ok(pid) = fs::read_to_string(entry.path().join("pid")) {
                drop(
                    Command::new("kill")
                        .args(["-9", pid.trim()])
                        .stderr(Stdio::null())
                        .status(),
                );
            }
        }
    }
}

fn with_stand(test: impl AsyncFnOnce(Stand)) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        if let Some(stand) = Stand::new().await {
            test(stand).await;
        }
    });
}

#[test]
fn over_tls_with_a_certificate_of_its_own_it_works_as_well() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let Some(mut stand) = Stand::with_tls().await else {
            return;
        };
        let web = stand.shell_app("web", 1, "exec sleep 1000");
        stand.deploy(1, &[web]).await;
        stand
            .until("running", |it| it.converged && it.apps.len() == 1)
            .await;
    });
}

fn is_alive(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}/cmdline")).exists()
        && !fs::read_to_string(format!("/proc/{pid}/stat"))
            .unwrap_or_default()
            .contains(") Z ")
}

#[test]
fn an_app_is_fetched_run_heard_and_outlives_the_agent() {
    with_stand(async |mut stand| {
        let hello = stand.shell_app("hello", 1, "echo hello from inside; exec sleep 1000");
        stand.deploy(1, &[hello]).await;
        let reported = stand
            .until("running", |it| it.converged && it.apps.len() == 1)
            .await;
        let pid = stand.pid("hello");
        assert_eq!(reported.apps[0].state, AppState::Running { pid });
        let action = CommandAction::StreamLog {
            app: "hello".parse().unwrap(),
            tail_bytes: 100,
            follow_ms: 0,
        };
        let payload = stand.fleet.command(reported.session, 1, action);
        stand.controller.publish(Purpose::Command, payload, false).await;
        stand
            .controller
            .until(|| stand.controller.heard_log().contains("hello from inside\n"))
            .await;
        stand.signal_agent("-KILL");
        assert!(is_alive(pid));
        stand
            .controller
            .until(|| {
                stand
                    .controller
                    .presence()
                    .is_some_and(|presence| !presence.online)
            })
            .await;
        stand.start_agent();
        let again = stand
            .until("back", |it| it.session > reported.session && it.converged)
            .await;
        assert_eq!(again.apps[0].state, AppState::Running { pid });
        assert_eq!(stand.starts("hello"), 1, "it runs exactly once");
        // It is no child of this agent; its end is learnt all the same.
        Command::new("kill")
            .arg("-9")
            .arg(pid.to_string())
            .status()
            .unwrap();
        stand
            .until(
                "restarted",
                |it| matches!(it.apps[0].state, AppState::Running { pid: other } if other != pid),
            )
            .await;
        stand.signal_agent("-TERM");
        assert!(is_alive(stand.pid("hello")), "the agent's end does not end it");
        stand
            .controller
            .until(|| {
                stand
                    .controller
                    .presence()
                    .is_some_and(|presence| !presence.online)
            })
            .await;
    });
}

#[test]
fn exit_codes_are_learnt_even_of_processes_that_end_at_once_and_a_bad_version_goes_back() {
    with_stand(async |mut stand| {
        let good = stand.shell_app("web", 1, "exec sleep 1000");
        let once = {
            let mut once = stand.shell_app("once", 2, "exit 7");
            once.restart = RestartPolicy::Never;
            once.soak_ms = 0;
            once
        };
        stand.deploy(1, &[good.clone(), once]).await;
        let exited = |it: &Reported| {
            it.apps
                .iter()
                .any(|app| app.state == AppState::Exited { code: 7 })
        };
        stand.until("exited", exited).await;
        assert_eq!(
            fs::read_to_string(stand.path("run/containers/once/exit_code")).unwrap(),
            "7"
        );
        stand.deploy(2, std::slice::from_ref(&good)).await;
        stand.until("good", |it| it.generation == 2 && it.converged).await;
        tokio::time::sleep(Duration::from_millis(2500)).await;
        let bad = stand.shell_app("web", 3, "exit 9");
        stand.deploy(3, &[bad]).await;
        let back = stand
            .until("rolled back", |it| it.apps[0].state == AppState::RolledBack)
            .await;
        assert!(
            back.apps[0].detail.contains("code 9"),
            "{:?}",
            back.apps[0].detail
        );
        let runs =
            || fs::read_to_string(stand.path("data/c/web/command")).is_ok_and(|it| it.contains("sleep"));
        stand
            .controller
            .until(|| runs() && stand.path("run/containers/web/pid").exists())
            .await;
    });
}

#[test]
fn an_agent_told_to_stop_its_containers_does_so() {
    with_stand(async |mut stand| {
        fs::write(stand.path("stop-containers"), "").unwrap();
        stand.signal_agent("-KILL");
        stand.start_agent();
        let web = stand.shell_app("web", 1, "exec sleep 1000");
        stand.deploy(1, &[web]).await;
        stand
            .until("running", |it| it.converged && it.apps.len() == 1)
            .await;
        let pid = stand.pid("web");
        stand.signal_agent("-INT");
        assert!(!is_alive(pid));
    });
}

#[test]
fn a_container_that_writes_for_ever_keeps_within_its_bound() {
    with_stand(async |mut stand| {
        let noisy = stand.shell_app(
            "noisy",
            1,
            "while :; do head -c 300000 /dev/zero; sleep 0.2; done",
        );
        stand.deploy(1, &[noisy]).await;
        stand
            .until("running", |it| it.converged && it.apps.len() == 1)
            .await;
        tokio::time::sleep(Duration::from_secs(4)).await;
        let log = fs::metadata(stand.path("run/containers/noisy/log")).unwrap();
        use std::os::unix::fs::MetadataExt;
        assert!(
            log.len() > 3_000_000 && log.blocks() * 512 < 2_500_000,
            "{} of {}",
            log.blocks() * 512,
            log.len()
        );
    });
}

#[test]
fn an_idle_agent_with_ten_containers_sleeps() {
    with_stand(async |mut stand| {
        let apps: Vec<_> = (0..10)
            .map(|n| stand.shell_app(&format!("app{n}"), 1, "exec sleep 1000"))
            .collect();
        stand.deploy(1, &apps).await;
        stand
            .until("running", |it| it.converged && it.apps.len() == 10)
            .await;
        tokio::time::sleep(Duration::from_secs(4)).await;
        let pid = stand.agent.as_ref().unwrap().id();
        let switches = || {
            let status = fs::read_to_string(format!("/proc/{pid}/task/{pid}/status")).unwrap();
            let all = fs::read_dir(format!("/proc/{pid}/task"))
                .unwrap()
                .flatten()
                .map(|task| fs::read_to_string(task.path().join("status")).unwrap_or(status.clone()));
            all.flat_map(|status| {
                let line = status
                    .lines()
                    .find(|line| line.starts_with("voluntary"))
                    .map(str::to_owned);
                line.and_then(|line| line.split_whitespace().last().unwrap().parse::<u64>().ok())
            })
            .sum::<u64>()
        };
        let before = switches();
        tokio::time::sleep(Duration::from_secs(5)).await;
        let woken = switches() - before;
        let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
        let pss: Vec<_> = rollup.lines().filter(|line| line.starts_with("Pss")).collect();
        println!("woken {woken} times in 5 s; {pss:?} (a test build)");
        assert!(woken <= 10, "woken {woken} times in 5 s with nothing to do");
    });
}
