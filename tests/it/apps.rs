//! `punnet apps`: files become containers, without any controller.

use std::io::Read as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use xtask::registry::{DockerRegistry, Door, skopeo_copy};
use xtask::stand::{Stand, json_of};

use crate::support::{containers, fails, ok, output, stand_with_image};

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// `punnet apps serve` over a folder of files.
struct Served {
    stand: Stand,
    server: Option<Child>,
}

impl Served {
    fn new(files: &[(&str, &str)]) -> Self {
        let served = Self {
            stand: stand_with_image(),
            server: None,
        };
        std::fs::create_dir(served.folder()).unwrap();
        files.iter().for_each(|(name, text)| served.write(name, text));
        served
    }

    fn folder(&self) -> PathBuf {
        self.stand.path().join("apps")
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.folder().join(name), text).unwrap();
    }

    fn command(&self, words: &[&str]) -> Command {
        let folder = self.folder().display().to_string();
        let mut command = self
            .stand
            .punnet(&[&["apps", "--folder", &folder][..], words].concat());
        // Registries here are on loopback.
        for name in ["http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"] {
            command.env_remove(name);
        }
        command
    }

    fn serve(&mut self) {
        let mut command = self.command(&["serve"]);
        self.server = Some(command.stderr(Stdio::piped()).spawn().unwrap());
        let began = Instant::now();
        while json_of(&mut self.command(&["--json"])).unwrap()["served"] != true {
            assert!(began.elapsed() < PATIENCE, "nobody serves");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn signal(&self, signal: Signal) {
        let pid = self.server.as_ref().unwrap().id();
        kill(Pid::from_raw(i32::try_from(pid).unwrap()), signal).unwrap();
    }

    /// Ends it by this signal; what it has said.
    fn end(&mut self, signal: Signal) -> String {
        self.signal(signal);
        let mut server = self.server.take().unwrap();
        let status = server.wait().unwrap();
        assert_eq!(status.success(), signal == Signal::SIGTERM, "{status}");
        let mut said = String::new();
        server.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        said
    }

    fn app(&self, name: &str) -> Value {
        let all = json_of(&mut self.command(&["--json"])).unwrap();
        let apps = all["apps"].as_array().unwrap().clone();
        let found = apps.iter().find(|app| app["name"] == name).cloned();
        found.unwrap_or_else(|| panic!("{name} is not in {all}"))
    }

    #[track_caller]
    fn wait_for(&self, name: &str, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
        let began = Instant::now();
        loop {
            let app = self.app(name);
            if is_so(&app) {
                return app;
            }
            assert!(began.elapsed() < PATIENCE, "{name} is not {what}: {app}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    #[track_caller]
    fn running(&self, name: &str) -> i64 {
        let app = self.wait_for(name, "running", |app| app["status"] == "running");
        app["pid"].as_i64().unwrap()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        if self.server.is_some() {
            self.signal(Signal::SIGTERM);
            self.server.take().unwrap().wait().unwrap();
        }
    }
}

#[test]
fn files_become_containers_and_only_what_has_changed_is_started_again() {
    let mut served = Served::new(&[
        ("db.yaml", "image: hello\n"),
        ("web.yaml", "image: hello\nafter: [db]\nenv: [GREETING=servus]\n"),
        ("bad.yaml", "image: hello\nrestart: maybe\n"),
        ("once.yaml", "image: hello\nargs: [--once]\nrestart: never\n"),
    ]);
    let complaint = output(&mut served.command(&["check"]));
    let text = String::from_utf8_lossy(&complaint.stderr).into_owned();
    assert_eq!(complaint.status.code(), Some(1));
    assert!(text.contains("bad.yaml: line 2, column 10: \"maybe\""), "{text}");
    served.serve();
    let (db, web) = (served.running("db"), served.running("web"));
    let once = served.wait_for("once", "ended", |app| app["status"] == "ended");
    assert_eq!(once["exit_code"], 0, "{once}");
    let bad = served.app("bad");
    assert_eq!(bad["status"], "bad file");
    assert!(
        bad["error"].as_str().unwrap().contains("line 2, column 10"),
        "{bad}"
    );
    let logs = ok(&mut served.stand.punnet(&["logs", "web"]));
    assert!(logs.starts_with("servus"), "{logs}");

    served.write(
        "web.yaml",
        "# The same but for this line.\nimage: hello\nafter: [db]\nenv: [GREETING=servus]\n",
    );
    served.write("bad.yaml", "image: hello\n");
    ok(&mut served.command(&["reload"]));
    served.running("bad");
    assert_eq!((served.running("db"), served.running("web")), (db, web));

    served.write("web.yaml", "image: hello\nafter: [db]\nenv: [GREETING=moin]\n");
    std::fs::remove_file(served.folder().join("bad.yaml")).unwrap();
    ok(&mut served.command(&["reload"]));
    served.wait_for("web", "another", |app| {
        app["pid"].as_i64().is_some_and(|pid| pid != web)
    });
    assert!(ok(&mut served.stand.punnet(&["logs", "web"])).starts_with("moin"));
    assert_eq!(served.running("db"), db);
    let began = Instant::now();
    while containers(&served.stand)
        .iter()
        .any(|container| container["name"] == "bad")
    {
        assert!(began.elapsed() < PATIENCE, "a container outlives its file");
        std::thread::sleep(Duration::from_millis(50));
    }

    // A file that becomes bad leaves its container as it is.
    served.write("db.yaml", "image: [hello\n");
    ok(&mut served.command(&["reload"]));
    let db_now = served.wait_for("db", "named", |app| !app["error"].is_null());
    assert_eq!(
        (db_now["pid"].as_i64(), &db_now["status"]),
        (Some(db), &"running".into())
    );
    served.write("db.yaml", "image: hello\n");
    ok(&mut served.command(&["reload"]));

    let said = served.end(Signal::SIGTERM);
    let at = |line: &str| said.find(line).unwrap_or_else(|| panic!("no {line:?} in {said}"));
    assert!(at("db: started") < at("web: started"), "{said}");
    assert!(at("web: stopped") < at("db: stopped"), "{said}");
    assert!(
        containers(&served.stand)
            .iter()
            .all(|container| container["status"] != "running")
    );
}

#[test]
fn an_end_is_noted_though_a_command_ends_at_the_same_time() {
    let mut served = Served::new(&[
        ("app.yaml", "image: hello\nrestart: never\n"),
        ("other.yaml", "image: hello\n"),
    ]);
    served.serve();
    let pid = served.running("app");
    served.running("other");
    let server = served.server.as_ref().unwrap().id();
    let mut order = served.command(&["stop", "other"]).spawn().unwrap();
    let began = Instant::now();
    let job = loop {
        let children = std::fs::read_to_string(format!("/proc/{server}/task/{server}/children")).unwrap();
        let is_stop = |child: &&str| {
            let words = std::fs::read_to_string(format!("/proc/{child}/cmdline")).unwrap_or_default();
            words.contains("\0stop\0other")
        };
        if let Some(job) = children.split_whitespace().find(is_stop) {
            break job.to_owned();
        }
        assert!(began.elapsed() < PATIENCE, "nobody stops it");
    };
    // Both ends are there when it goes on.
    served.signal(Signal::SIGSTOP);
    kill(Pid::from_raw(i32::try_from(pid).unwrap()), Signal::SIGKILL).unwrap();
    while !std::fs::read_to_string(format!("/proc/{job}/stat"))
        .unwrap()
        .contains(") Z ")
    {
        assert!(began.elapsed() < PATIENCE, "stop does not end");
        std::thread::sleep(Duration::from_millis(20));
    }
    served.signal(Signal::SIGCONT);
    let app = served.wait_for("app", "ended", |app| app["status"] == "ended");
    assert_eq!(app["exit_code"], 137, "{app}");
    order.wait().unwrap();
}

#[test]
fn an_app_is_started_again_as_its_file_says() {
    let mut served = Served::new(&[
        ("always.yaml", "image: hello\nargs: [--once]\n"),
        (
            "failing.yaml",
            "image: hello\nargs: [--exit, 3]\nrestart: on-failure\n",
        ),
        ("never.yaml", "image: hello\nargs: [--exit, 4]\nrestart: never\n"),
        ("absent.yaml", "image: localhost:1/absent\n"),
        ("user.yaml", "image: hello\n"),
    ]);
    ok(&mut served.stand.punnet(&["create", "--name", "user", "hello"]));
    served.serve();
    let greetings = |name: &str| {
        let log = output(&mut served.stand.punnet(&["logs", name])).stdout;
        String::from_utf8_lossy(&log).lines().count()
    };
    let began = Instant::now();
    while greetings("always") < 2 || greetings("failing") < 2 {
        assert!(began.elapsed() < PATIENCE, "not started again");
        std::thread::sleep(Duration::from_millis(100));
    }
    let never = served.wait_for("never", "ended", |app| app["status"] == "ended");
    assert_eq!((&never["exit_code"], greetings("never")), (&4.into(), 1));
    // What cannot be fetched is told, and holds up nobody; what is somebody else's is left alone.
    let absent = served.wait_for("absent", "named", |app| !app["error"].is_null());
    assert!(
        absent["error"].as_str().unwrap().contains("localhost:1"),
        "{absent}"
    );
    let user = served.wait_for("user", "named", |app| !app["error"].is_null());
    assert!(
        user["error"].as_str().unwrap().contains("exists already"),
        "{user}"
    );
    assert_eq!(user["status"], "waiting");
}

#[test]
fn containers_outlive_the_server_and_orders_are_obeyed() {
    let mut served = Served::new(&[("web.yaml", "image: hello\n")]);
    let complaint = fails(&mut served.command(&["stop", "web"]), 2);
    assert!(complaint.contains("systemctl start punnet-apps"), "{complaint}");
    served.serve();
    let web = served.running("web");
    let complaint = fails(&mut served.command(&["serve"]), 2);
    assert!(complaint.contains("runs already"), "{complaint}");
    served.end(Signal::SIGKILL);
    assert_eq!(served.running("web"), web);
    served.serve();
    ok(&mut served.command(&["restart", "web"]));
    let again = served.running("web");
    assert_ne!(again, web);
    ok(&mut served.command(&["stop", "web"]));
    assert_eq!(served.app("web")["status"], "stopped");
    ok(&mut served.command(&["reload"]));
    assert_eq!(served.app("web")["status"], "stopped");
    ok(&mut served.command(&["start", "web"]));
    served.running("web");
    let complaint = fails(&mut served.command(&["stop", "wbe"]), 1);
    assert!(complaint.contains("there is no wbe.yaml"), "{complaint}");
    // One that nobody was there to see end is started again.
    served.end(Signal::SIGKILL);
    ok(&mut served.stand.punnet(&["kill", "web"]));
    served.serve();
    served.running("web");
}

#[test]
fn an_image_that_is_not_here_is_pulled() {
    let registry = DockerRegistry::start(Door::Open).unwrap();
    let mut served = Served::new(&[]);
    let archive = served.stand.path().join("hello.oci.tar");
    let image = format!("{}/hello:1", registry.address);
    skopeo_copy(&[
        &format!("oci-archive:{}", archive.display()),
        &format!("docker://{image}"),
    ])
    .unwrap();
    served.write("web.yaml", &format!("image: {image}\n"));
    served.serve();
    served.running("web");
}
