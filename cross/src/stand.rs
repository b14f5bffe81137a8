//! A test stand: a fleet controller, a broker and a device agent on this machine, in a folder of their own.
//!
//! The demo, the bench and the end-to-end measurements all stand on it. Everything it makes is in one temporary folder and ends with it.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;
use tempfile::TempDir;

use crate::build::{self, Strip};
use crate::process::{Server, Watch, output_of, run, stdout_of, wait_for};

/// How long a server may take until it answers. Generous: an emulated or loaded machine is slow, a broken one is slow for ever.
const READY_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a deployment may take, seconds.
const DEPLOY_TIMEOUT_S: u32 = 60;

/// How long the output of a running app may take: of a board that is emulated on a loaded machine.
const OUTPUT_TIMEOUT: Duration = Duration::from_secs(600);

/// The example image.
const CONTAINERFILE: &str = include_str!("../../examples/hello/Containerfile");

/// Our programs, built.
#[derive(Clone)]
pub struct Programs {
    /// The device binary.
    pub punnet: PathBuf,
    /// The controller.
    pub fleet: PathBuf,
    /// The example's program.
    pub hello: PathBuf,
}

impl Programs {
    /// Builds them all.
    pub fn build() -> Result<Self> {
        Ok(Self {
            punnet: build::device_binary("punnet", &[], Strip::Yes)?,
            fleet: build::fleet_binary()?,
            hello: build::device_binary("hello", &[], Strip::Yes)?,
        })
    }

    /// Programs built before, in one folder.
    pub fn in_folder(folder: &Path) -> Self {
        Self {
            punnet: folder.join("punnet"),
            fleet: folder.join("punnet-fleet"),
            hello: folder.join("hello"),
        }
    }

    /// Copies them into one folder, for a user who may not read where they were built.
    pub fn copy_to(&self, folder: &Path) -> Result<()> {
        for (program, name) in [
            (&self.punnet, "punnet"),
            (&self.fleet, "punnet-fleet"),
            (&self.hello, "hello"),
        ] {
            std::fs::copy(program, folder.join(name))
                .with_context(|| format!("cannot copy {}", program.display()))?;
        }
        Ok(())
    }
}

/// The stand.
pub struct Stand {
    /// `None` only while it is being removed.
    folder: Option<TempDir>,
    programs: Programs,
    /// Where the embedded broker listens: the same after a restart.
    listen: String,
    agent: Option<Server>,
    controller: Option<Server>,
}

/// Who carries the messages.
#[derive(Clone, Copy)]
pub enum Broker<'a> {
    /// The one inside the controller.
    Embedded,
    /// Another one, by its URL.
    External(&'a str),
    /// Another one with TLS, and the certificate of its authority.
    Trusted(&'a str, &'a Path),
}

impl Stand {
    /// An empty one: nothing runs yet.
    pub fn new(programs: Programs) -> Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("punnet-")
            .tempdir()
            .context("no temporary folder")?;
        Ok(Self {
            folder: Some(folder),
            programs,
            listen: free_address()?,
            agent: None,
            controller: None,
        })
    }

    /// Its folder.
    pub fn path(&self) -> &Path {
        self.folder
            .as_ref()
            .expect("it is there until the stand is removed")
            .path()
    }

    /// A command of the controller.
    pub fn fleet(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.programs.fleet);
        command.arg("--state").arg(self.path().join("fleet")).args(args);
        command
    }

    /// A command on the device.
    pub fn punnet(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.programs.punnet);
        command.arg("--data-root").arg(self.path().join("data"));
        command.arg("--run-root").arg(self.path().join("run")).args(args);
        command
    }

    /// Builds the example image for this machine into the device's store, and returns it as an archive too.
    pub fn build_hello(&self) -> Result<PathBuf> {
        let archive = self.path().join("hello.oci.tar");
        let mut command = self.punnet(&["build", "--quiet", "--tag", "hello", "--output"]);
        run(command
            .arg(&archive)
            .arg(self.hello_context()?)
            .stdout(Stdio::null()))?;
        Ok(archive)
    }

    /// Builds the example image for another platform, as an OCI layout directory and nowhere else, with these executable files besides.
    pub fn build_hello_for(&self, platform: &str, layout: &Path, more: &[(&str, &[u8])]) -> Result<()> {
        let context = self.hello_context()?;
        let mut file = CONTAINERFILE.to_owned();
        for (name, content) in more {
            std::fs::write(context.join(name), content)?;
            file += &format!("COPY --chmod=755 {name} /{name}\n");
        }
        std::fs::write(context.join("Containerfile"), file)?;
        let mut command = self.punnet(&["build", "--quiet", "--platform", platform, "--output"]);
        run(command.arg(layout.join("")).arg(context).stdout(Stdio::null()))
    }

    /// Builds the example image for another platform, as an archive in which it has this name.
    pub fn save_hello_for(&self, platform: &str, name: &str, archive: &Path) -> Result<()> {
        let words = [
            "build",
            "--quiet",
            "--platform",
            platform,
            "--tag",
            name,
            "--output",
        ];
        let context = self.hello_context()?;
        run(self
            .punnet(&words)
            .arg(archive)
            .arg(context)
            .stdout(Stdio::null()))
    }

    /// Takes what a build makes of `context` for `platform` into the fleet as `name`.
    pub fn add_built(&self, name: &str, platform: &str, context: &Path) -> Result<()> {
        let layout = self.path().join(format!("built-{name}"));
        let mut command = self.punnet(&["build", "--quiet", "--platform", platform, "--output"]);
        run(command.arg(layout.join("")).arg(context).stdout(Stdio::null()))?;
        run(self
            .fleet(&["images", "add", "--name", name])
            .arg(layout)
            .stdout(Stdio::null()))
    }

    /// A folder with the example program and its Containerfile.
    pub fn hello_context(&self) -> Result<PathBuf> {
        let context = self.path().join("hello");
        std::fs::create_dir_all(&context)?;
        std::fs::copy(&self.programs.hello, context.join("hello"))?;
        std::fs::write(context.join("Containerfile"), CONTAINERFILE)?;
        Ok(context)
    }

    /// Starts the controller, again if need be.
    pub fn start_controller(&mut self, broker: Broker) -> Result<()> {
        let mut command = self.fleet(&["serve", "--api", "127.0.0.1:0"]);
        match broker {
            Broker::Embedded => command.args(["--listen", &self.listen]),
            Broker::External(url) => command.args(["--broker", url]),
            Broker::Trusted(url, ca) => command.args(["--broker", url, "--broker-ca"]).arg(ca),
        };
        let log = self.log("controller.log")?;
        let server = Server::start(
            "controller",
            command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log),
        )?;
        let ready = wait_for("the controller to answer", READY_TIMEOUT, || {
            server.check()?;
            Ok(output_of(&mut self.fleet(&["devices", "--json"]))?
                .status
                .success()
                .then_some(()))
        });
        ready.with_context(|| self.log_tail("controller.log"))?;
        self.controller = Some(server);
        Ok(())
    }

    /// Writes a device's enrolment file.
    pub fn enrol(&self, device: &str) -> Result<()> {
        run(self
            .fleet(&["enroll", device, "--output"])
            .arg(self.enrolment())
            .stdout(Stdio::null()))
    }

    /// Writes an enrolment file for a device that reaches the broker at `url`.
    pub fn enrol_by(&self, device: &str, url: &str, ca: Option<&Path>) -> Result<PathBuf> {
        let path = self.path().join(format!("{device}.json"));
        let mut command = self.fleet(&["enroll", device, "--broker", url, "--output"]);
        command.arg(&path).stdout(Stdio::null());
        if let Some(ca) = ca {
            command.arg("--ca").arg(ca);
        }
        run(&mut command)?;
        Ok(path)
    }

    /// The embedded broker's address as QEMU's user network shows it: this machine's loopback is 10.0.2.2 there.
    pub fn broker_seen_from_emulator(&self) -> String {
        let port = self.listen.rsplit(':').next().unwrap_or_default();
        format!("mqtt://10.0.2.2:{port}")
    }

    /// Starts the enrolled device's agent, again if need be.
    pub fn start_agent(&mut self) -> Result<()> {
        let mut command = self.punnet(&["agent", "--enrolment"]);
        let log = self.log("agent.log")?;
        command
            .arg(self.enrolment())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        self.agent = Some(Server::start("agent", &mut command)?);
        Ok(())
    }

    /// Waits until the controller sees the device online.
    pub fn wait_online(&mut self, device: &str) -> Result<()> {
        let online = wait_for("the device to be online", READY_TIMEOUT, || {
            self.agent.as_ref().map_or(Ok(()), Server::check)?;
            let devices = json_of(&mut self.fleet(&["devices", "--json"]))?;
            let found = |entry: &Value| entry["name"] == device && entry["online"] == true;
            Ok(devices
                .as_array()
                .is_some_and(|all| all.iter().any(found))
                .then_some(()))
        });
        online.with_context(|| self.log_tail("agent.log"))
    }

    /// SIGKILL to the agent.
    pub fn kill_agent(&mut self) -> Result<()> {
        self.agent.take().map_or(Ok(()), Server::kill)
    }

    /// SIGKILL to the controller.
    pub fn kill_controller(&mut self) -> Result<()> {
        self.controller.take().map_or(Ok(()), Server::kill)
    }

    /// What the agent is given.
    pub fn enrolment(&self) -> PathBuf {
        self.path().join("enrolment.json")
    }

    /// Takes the archive into the fleet as `hello`.
    pub fn add_image(&self, archive: &Path) -> Result<()> {
        run(self
            .fleet(&["images", "add", "--name", "hello"])
            .arg(archive)
            .stdout(Stdio::null()))
    }

    /// Deploys `hello` as `app` and waits until the device reports it running.
    pub fn deploy(&self, app: &str, device: &str) -> Result<()> {
        let wait = format!("--wait={DEPLOY_TIMEOUT_S}s");
        let words = [
            "deploy",
            "--app",
            app,
            "--image",
            "hello",
            "--device",
            device,
            "--env",
            "GREETING=hello from the fleet",
            &wait,
        ];
        run(&mut self.fleet(&words)).with_context(|| self.log_tail("agent.log"))
    }

    /// Asks for `hello` as `app` and waits for nothing.
    pub fn begin_deploy(&self, app: &str, device: &str, options: &[&str]) -> Result<()> {
        self.begin_deploy_of("hello", app, device, options)
    }

    /// Asks for `image` as `app` and waits for nothing.
    pub fn begin_deploy_of(&self, image: &str, app: &str, device: &str, options: &[&str]) -> Result<()> {
        let words = ["deploy", "--app", app, "--image", image, "--device", device];
        run(self.fleet(&words).args(options).stdout(Stdio::null()))
    }

    /// What the fleet knows of an app on a device; null when it knows nothing.
    pub fn app(&self, device: &str, app: &str) -> Result<Value> {
        let named = |entry: &&Value, name: &str| entry["name"] == name;
        let all = json_of(&mut self.fleet(&["devices", "--json"]))?;
        let device = all
            .as_array()
            .and_then(|all| all.iter().find(|entry| named(entry, device)));
        let apps = device.and_then(|device| device["apps"].as_array());
        Ok(apps
            .and_then(|apps| apps.iter().find(|entry| named(entry, app)))
            .cloned()
            .unwrap_or_default())
    }

    /// Tells when the controller ends by itself.
    pub fn watch(&self) -> Option<Watch> {
        self.controller.as_ref().map(Server::watch)
    }

    /// The first `count` lines of an app's output, as they come back over MQTT.
    pub fn first_lines(&self, app: &str, device: &str, count: usize) -> Result<Vec<String>> {
        self.first_lines_with(app, device, count, &[])
    }

    /// The same, given up when one of these ends by itself.
    pub fn first_lines_with(
        &self,
        app: &str,
        device: &str,
        count: usize,
        others: &[Watch],
    ) -> Result<Vec<String>> {
        let mut child = Lines(
            self.fleet(&["logs", "--follow", device, app])
                .stdout(Stdio::piped())
                .spawn()?,
        );
        let stdout = child.0.stdout.take().context("logs has no stdout")?;
        let (tell, heard) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let lines = BufReader::new(stdout).lines().take(count);
            // Nobody listens any more when one of the others has ended.
            tell.send(lines.collect::<Result<Vec<_>, _>>()).ok();
        });
        let lines = wait_for(&format!("the output of {app}"), OUTPUT_TIMEOUT, || {
            others.iter().try_for_each(Watch::check)?;
            Ok(heard.try_recv().ok())
        })??;
        if lines.len() < count {
            bail!("the output of {app} ended after {} lines", lines.len());
        }
        Ok(lines)
    }

    /// The agent's own share of memory, KiB.
    pub fn agent_pss_kib(&self) -> Result<u64> {
        crate::process::pss_kib(self.agent.as_ref().context("no agent runs")?.pid())
    }

    /// Stops all that runs and removes the folder.
    pub fn remove(mut self) -> Result<()> {
        self.stop_all()?;
        let path = self.path().to_path_buf();
        self.folder
            .take()
            .map_or(Ok(()), TempDir::close)
            .with_context(|| format!("cannot remove {}", path.display()))
    }

    /// Leaves all that runs as it is and returns the folder and the process ids of agent and controller.
    pub fn keep(mut self) -> (PathBuf, Vec<u32>) {
        let servers = [self.agent.take(), self.controller.take()];
        let pids = servers.iter().flatten().map(Server::pid).collect();
        std::mem::forget(servers);
        let folder = self
            .folder
            .take()
            .expect("it is there until the stand is removed");
        (folder.keep(), pids)
    }

    /// Stops the agent, removes all containers, stops the controller.
    pub fn stop_all(&mut self) -> Result<()> {
        if let Some(agent) = self.agent.take() {
            agent.stop()?;
        }
        // In process groups of their own: a second Ctrl-C does not stop the cleaning.
        let containers = json_of(self.punnet(&["ps", "--all", "--json"]).process_group(0))?;
        for container in containers.as_array().into_iter().flatten() {
            let name = container["name"].as_str().context("ps names no name")?;
            stdout_of(self.punnet(&["rm", "--force", name]).process_group(0))?;
        }
        self.controller
            .take()
            .map_or(Ok(()), |controller| controller.stop())
    }

    fn log(&self, name: &str) -> Result<File> {
        let path = self.path().join(name);
        File::options()
            .create(true)
            .append(true)
            .open(&path)
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// The end of a server's log, for messages.
    pub fn log_tail(&self, name: &str) -> String {
        let text = std::fs::read_to_string(self.path().join(name)).unwrap_or_default();
        let lines: Vec<_> = text.lines().rev().take(15).collect();
        format!(
            "the end of {name}:\n{}",
            lines.into_iter().rev().collect::<Vec<_>>().join("\n")
        )
    }
}

impl Drop for Stand {
    fn drop(&mut self) {
        if (self.agent.is_some() || self.controller.is_some())
            && let Err(error) = self.stop_all()
        {
            eprintln!("warning: {error:#}");
        }
    }
}

/// A child that ends with this value.
struct Lines(Child);

impl Drop for Lines {
    fn drop(&mut self) {
        if self.0.kill().and_then(|()| self.0.wait()).is_err() {
            eprintln!("warning: a log reader could not be ended");
        }
    }
}

/// What a command prints, as JSON.
pub fn json_of(command: &mut Command) -> Result<Value> {
    let text = stdout_of(command)?;
    serde_json::from_str(&text).with_context(|| format!("this is no JSON: {text}"))
}

/// A loopback address that was free a moment ago.
pub fn free_address() -> Result<String> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string())
}

/// Milliseconds since `began`.
pub fn elapsed_ms(began: Instant) -> f64 {
    began.elapsed().as_secs_f64() * 1000.0
}
