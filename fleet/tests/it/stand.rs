//! A controller with its broker in a folder of its own, images to deploy, and a device made of an MQTT client.

use std::collections::{BTreeMap, VecDeque};
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use punnet_fleet::enrolment::Enrolment;
use punnet_protocol::topics::{self, Purpose};
use punnet_protocol::{
    APPS_MAX, AppReport, AppState, Arch, BoardInfo, Desired, Digest, Name, Outcome, PAYLOAD_BYTES_MAX,
    Presence, Reply, ReplyTo, Report, Reported, clipped, envelope, signed,
};
use rumqttc::{Client, Connection, Event, LastWill, MqttOptions, Packet, QoS, RecvTimeoutError};
use serde::Serialize;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

/// Long enough for a loaded machine; what never comes is waited for once only.
pub const SOON: Duration = Duration::from_secs(20);

/// Which broker the controller works with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Broker {
    Embedded,
    Mosquitto,
}

/// Runs the same test on both brokers.
#[macro_export]
macro_rules! on_both_brokers {
    ($($name:ident)*) => { $(
        mod $name {
            #[test]
            fn embedded() {
                super::$name($crate::stand::Broker::Embedded);
            }
            #[test]
            fn mosquitto() {
                if $crate::stand::has_mosquitto() {
                    super::$name($crate::stand::Broker::Mosquitto);
                }
            }
        }
    )* };
}

pub const MOSQUITTO: &str = "/usr/sbin/mosquitto";

pub fn has_mosquitto() -> bool {
    let there = Path::new(MOSQUITTO).exists();
    if !there {
        eprintln!("SKIPPED: {MOSQUITTO} is not installed");
    }
    there
}

pub struct Stand {
    pub folder: TempDir,
    pub broker: Broker,
    pub port: u16,
    mosquitto: Option<Child>,
    controller: Option<Child>,
}

impl Stand {
    pub fn start(broker: Broker) -> Self {
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let folder = tempfile::tempdir().unwrap();
        let mut stand = Self {
            folder,
            broker,
            port,
            mosquitto: None,
            controller: None,
        };
        stand.start_mosquitto();
        stand.start_controller();
        stand
    }

    pub fn start_mosquitto(&mut self) {
        if self.broker == Broker::Embedded {
            return;
        }
        let config = self.folder.path().join("mosquitto.conf");
        let text = format!(
            "listener {} 127.0.0.1\nallow_anonymous true\npersistence false\n",
            self.port
        );
        std::fs::write(&config, text).unwrap();
        let log = std::fs::File::create(self.folder.path().join("mosquitto.log")).unwrap();
        let child = Command::new(MOSQUITTO)
            .arg("-c")
            .arg(&config)
            .stderr(log)
            .stdout(Stdio::null())
            .spawn();
        self.mosquitto = Some(child.unwrap());
        let port = self.port;
        eventually("mosquitto listens", || {
            std::net::TcpStream::connect(("127.0.0.1", port)).ok()
        });
    }

    pub fn kill_mosquitto(&mut self) {
        end(self.mosquitto.take());
    }

    pub fn start_controller(&mut self) {
        let mut command = self.command(&["serve"]);
        match self.broker {
            Broker::Embedded => command.args(["--listen", &format!("127.0.0.1:{}", self.port)]),
            Broker::Mosquitto => command.args(["--broker", &format!("mqtt://127.0.0.1:{}", self.port)]),
        };
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.log_path())
            .unwrap();
        let mut child = command.stdout(Stdio::piped()).stderr(log).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let ready = lines
            .map(Result::unwrap)
            .any(|line| line.contains(" is served: "));
        assert!(ready, "the controller did not start: {}", self.log());
        self.controller = Some(child);
        eventually("the controller is connected", || {
            let pong = self.json(&["ping", "--json"]);
            (pong["connected"] == true).then_some(())
        });
    }

    pub fn kill_controller(&mut self) {
        end(self.controller.take());
    }

    pub fn controller_pid(&self) -> u32 {
        self.controller.as_ref().unwrap().id()
    }

    pub fn wait_for_end(&mut self) -> std::process::ExitStatus {
        let mut child = self.controller.take().unwrap();
        eventually("the controller ends", || child.try_wait().unwrap())
    }

    pub fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    fn log_path(&self) -> PathBuf {
        self.folder.path().join("controller.log")
    }

    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_punnet-fleet"));
        command
            .arg("--state")
            .arg(self.state())
            .args(words)
            .env_remove("PUNNET_FLEET_BROKER");
        command
    }

    pub fn try_run(&self, words: &[&str]) -> Output {
        self.command(words).output().unwrap()
    }

    /// Standard output of a verb that must work.
    pub fn run(&self, words: &[&str]) -> String {
        let output = self.try_run(words);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "{words:?}: {errors}\ncontroller: {}",
            self.log()
        );
        String::from_utf8(output.stdout).unwrap()
    }

    /// Standard error of a verb that must fail.
    pub fn refused(&self, words: &[&str]) -> String {
        let output = self.try_run(words);
        assert_eq!(output.status.code(), Some(1), "{words:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    pub fn json(&self, words: &[&str]) -> Value {
        serde_json::from_str(&self.run(words)).unwrap()
    }

    pub fn device_view(&self, device: &str) -> Value {
        self.json(&["status", device, "--json"])[0].clone()
    }

    pub fn ignored(&self, reason: &str) -> u64 {
        self.json(&["ping", "--json"])["ignored"][reason]
            .as_u64()
            .unwrap()
    }

    pub fn enrol(&self, device: &str) -> Enrolment {
        serde_json::from_str(&self.run(&["enroll", device])).unwrap()
    }

    /// A device that is online and has reported.
    pub fn device(&self, name: &str, arch: Arch) -> Device {
        let mut device = Device::connect(&self.enrol(name), 1);
        device.report(arch, 0, &[]);
        self.wait_online(name);
        device
    }

    pub fn wait_online(&self, name: &str) {
        eventually("the device is online", || {
            let view = self.device_view(name);
            (view["online"] == true && view["platform"].is_string()).then_some(())
        });
    }

    /// Adds an image for these platforms.
    pub fn add_image(&self, name: &str, platforms: &[&str]) -> TestImage {
        let image = TestImage::write(&self.folder.path().join(format!("image-{name}")), platforms);
        self.run(&["images", "add", image.path.to_str().unwrap(), "--name", name]);
        image
    }
}

impl Drop for Stand {
    fn drop(&mut self) {
        self.kill_controller();
        self.kill_mosquitto();
        if std::thread::panicking() {
            eprintln!("controller said:\n{}", self.log());
        }
    }
}

fn end(child: Option<Child>) {
    if let Some(mut child) = child {
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

/// Tries until it gives something.
pub fn eventually<T>(what: &str, mut attempt: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + SOON;
    loop {
        if let Some(value) = attempt() {
            return value;
        }
        assert!(Instant::now() < until, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// An OCI layout with one layer that no block is the same in.
pub struct TestImage {
    pub path: PathBuf,
    /// Manifest digests in the order of the platforms.
    pub manifests: Vec<String>,
    /// The layer.
    pub layer: Vec<u8>,
    pub layer_digest: String,
}

impl TestImage {
    pub fn write(path: &Path, platforms: &[&str]) -> Self {
        let layer: Vec<u8> = (0..50_000_u32).flat_map(u32::to_le_bytes).collect();
        let blob = |bytes: &[u8]| {
            let digest = punnet_fleet::hex(&Sha256::digest(bytes));
            std::fs::write(path.join("blobs/sha256").join(&digest), bytes).unwrap();
            format!("sha256:{digest}")
        };
        std::fs::create_dir_all(path.join("blobs/sha256")).unwrap();
        std::fs::write(path.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        let layer_digest = blob(&layer);
        let mut manifests = Vec::new();
        let mut entries = Vec::new();
        for platform in platforms {
            let mut parts = platform.split('/');
            let (os, architecture, variant) = (parts.next(), parts.next(), parts.next());
            let mut platform = json!({ "os": os, "architecture": architecture });
            if let Some(variant) = variant {
                platform["variant"] = variant.into();
            }
            let mut config = platform.clone();
            config["config"] = json!({});
            config["rootfs"] = json!({ "type": "layers", "diff_ids": [layer_digest] });
            let config = serde_json::to_vec(&config).unwrap();
            let manifest = json!({
                "schemaVersion": 2,
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "config": {
                    "mediaType": "application/vnd.oci.image.config.v1+json",
                    "digest": blob(&config),
                    "size": config.len(),
                },
                "layers": [{
                    "mediaType": "application/vnd.oci.image.layer.v1.tar",
                    "digest": layer_digest,
                    "size": layer.len(),
                }],
            });
            let manifest = serde_json::to_vec(&manifest).unwrap();
            let digest = blob(&manifest);
            entries.push(json!({
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "digest": digest,
                "size": manifest.len(),
                "platform": platform,
            }));
            manifests.push(digest);
        }
        let index = json!({ "schemaVersion": 2, "manifests": entries });
        std::fs::write(path.join("index.json"), index.to_string()).unwrap();
        Self {
            path: path.to_owned(),
            manifests,
            layer,
            layer_digest,
        }
    }
}

/// A device: an MQTT client with an enrolment.
pub struct Device {
    pub name: Name,
    pub session: u64,
    pub client: Client,
    connection: Connection,
    /// Messages that came while something else was waited for.
    backlog: VecDeque<Event>,
    enrolment: Enrolment,
    sequence: u64,
    arch: Arch,
    /// Of the apps of the newest desired state that was looked at: what its containers are made from.
    pub specs: BTreeMap<Name, Digest>,
}

/// How a device differs from an honest one.
pub struct Manners<'a> {
    pub client_id: Option<&'a str>,
    pub password: Option<&'a str>,
    pub will_topic: Option<&'a str>,
}

pub const HONEST: Manners = Manners {
    client_id: None,
    password: None,
    will_topic: None,
};

impl Device {
    /// Connects, subscribes and publishes its birth.
    pub fn connect(enrolment: &Enrolment, session: u64) -> Self {
        let mut device = Self::open(enrolment, session, &HONEST);
        device.wait_for(|event| matches!(event, Event::Incoming(Packet::ConnAck(_))).then_some(()));
        for purpose in Purpose::TO_DEVICE {
            let topic = topics::topic(&enrolment.fleet, &enrolment.device, purpose);
            device.client.subscribe(topic.as_str(), QoS::AtLeastOnce).unwrap();
            device.wait_for(|event| matches!(event, Event::Incoming(Packet::SubAck(_))).then_some(()));
        }
        device.publish(
            Purpose::Presence,
            &Presence {
                session,
                online: true,
            },
            true,
        );
        device
    }

    /// Only opens the connection.
    pub fn open(enrolment: &Enrolment, session: u64, manners: &Manners) -> Self {
        let url: punnet_fleet::broker_url::BrokerUrl = enrolment.broker.parse().unwrap();
        let (fleet, name) = (&enrolment.fleet, &enrolment.device);
        let id = topics::client_id(fleet, name);
        let mut options = MqttOptions::new(manners.client_id.unwrap_or(&id), url.host, url.port);
        let password = manners.password.or(enrolment.password.as_deref()).unwrap();
        options.set_credentials(enrolment.username.clone().unwrap(), password);
        options.set_max_packet_size(PAYLOAD_BYTES_MAX * 2, 64 * 1024 * 1024);
        let presence = topics::topic(fleet, name, Purpose::Presence);
        let will = encode(&Presence {
            session,
            online: false,
        });
        let topic = manners.will_topic.unwrap_or(&presence);
        options.set_last_will(LastWill::new(topic, will, QoS::AtLeastOnce, true));
        let (client, connection) = Client::new(options, 100);
        let enrolment = enrolment.clone();
        let (name, arch) = (enrolment.device.clone(), Arch::Amd64);
        Self {
            name,
            session,
            client,
            connection,
            backlog: VecDeque::new(),
            enrolment,
            sequence: 0,
            arch,
            specs: BTreeMap::new(),
        }
    }

    pub fn publish<T: Serialize>(&mut self, purpose: Purpose, message: &T, retain: bool) {
        let topic = topics::topic(&self.enrolment.fleet, &self.name, purpose);
        self.publish_raw(&topic, encode(message), retain);
    }

    /// Publishes and waits for the broker's acknowledgement.
    pub fn publish_raw(&mut self, topic: &str, payload: Vec<u8>, retain: bool) {
        self.client
            .publish(topic, QoS::AtLeastOnce, retain, payload)
            .unwrap();
        self.wait_for(|event| matches!(event, Event::Outgoing(rumqttc::Outgoing::Publish(_))).then_some(()));
    }

    /// Reports these apps: name, manifest, state.
    pub fn report(&mut self, arch: Arch, generation: u64, apps: &[(&str, &str, AppState)]) {
        self.arch = arch;
        self.sequence += 1;
        let apps = apps.iter().map(|(name, manifest, state)| AppReport {
            name: name.parse().unwrap(),
            manifest: manifest.parse().unwrap(),
            state: *state,
            restarts: 0,
            detail: clipped(if matches!(state, AppState::Failed) {
                "no space left"
            } else {
                ""
            }),
            spec: self
                .specs
                .get(&name.parse::<Name>().unwrap())
                .copied()
                .unwrap_or(Digest([0; 32])),
        });
        self.report_of(generation, apps.collect(), &[]);
    }

    /// Reports that no app runs and that these things are wrong.
    pub fn report_troubles(&mut self, troubles: &[&str]) {
        self.sequence += 1;
        self.report_of(0, heapless::Vec::new(), troubles);
    }

    fn report_of(&mut self, generation: u64, apps: heapless::Vec<AppReport, APPS_MAX>, troubles: &[&str]) {
        let arch = self.arch;
        let reported = Reported {
            session: self.session,
            sequence: self.sequence,
            generation,
            converged: true,
            board: BoardInfo {
                arch,
                agent_version: clipped("0.1.0"),
                board: clipped("generic"),
                kernel: clipped("6.1.0"),
                memory_bytes: 1 << 28,
                disk_free_bytes: 1 << 30,
            },
            apps,
        };
        let troubles = troubles.iter().map(|text| clipped(text)).collect();
        let mut buffer = vec![0; PAYLOAD_BYTES_MAX];
        let payload = Report { reported, troubles }
            .encode(&mut buffer)
            .unwrap()
            .to_vec();
        let topic = topics::topic(&self.enrolment.fleet, &self.name, Purpose::Reported);
        self.publish_raw(&topic, payload, true);
    }

    pub fn reply(&mut self, to: ReplyTo, outcome: Outcome) {
        let session = self.session;
        self.publish(Purpose::Reply, &Reply { session, to, outcome }, false);
    }

    /// The next message on a topic; the connection goes on working meanwhile.
    pub fn next(&mut self, purpose: Purpose) -> Vec<u8> {
        self.next_within(purpose, SOON)
            .unwrap_or_else(|| panic!("nothing on {purpose:?}"))
    }

    pub fn next_within(&mut self, purpose: Purpose, time: Duration) -> Option<Vec<u8>> {
        let topic = topics::topic(&self.enrolment.fleet, &self.name, purpose);
        self.wait_within(time, |event| match event {
            Event::Incoming(Packet::Publish(publish)) if publish.topic == topic.as_str() => {
                Some(publish.payload.to_vec())
            }
            _ => None,
        })
    }

    /// The next desired state, its signature checked with the key of the enrolment.
    pub fn desired(&mut self) -> Desired {
        let payload = self.next(Purpose::Desired);
        let desired: Desired = self.verified(&payload);
        let spec = |app| Digest(Sha256::digest(postcard::to_allocvec(app).unwrap()).into());
        self.specs = desired
            .apps
            .iter()
            .map(|app| (app.name.clone(), spec(app)))
            .collect();
        desired
    }

    /// Skips to the desired state of this generation.
    pub fn desired_of(&mut self, generation: u64) -> Desired {
        loop {
            let desired = self.desired();
            assert!(desired.generation <= generation, "{generation} was skipped");
            if desired.generation == generation {
                return desired;
            }
        }
    }

    pub fn command(&mut self) -> punnet_protocol::Command {
        let payload = self.next(Purpose::Command);
        self.verified(&payload)
    }

    pub fn verified<T: signed::Signed>(&self, payload: &[u8]) -> T {
        let hex = self.enrolment.fleet_key.as_bytes();
        let key: Vec<u8> = hex
            .chunks(2)
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
            .collect();
        let key = ring::signature::UnparsedPublicKey::new(&ring::signature::ED25519, key);
        let mut scratch = vec![0; PAYLOAD_BYTES_MAX];
        signed::decode(payload, &mut scratch, |bytes, signature| {
            key.verify(bytes, signature).is_ok()
        })
        .unwrap()
    }

    pub fn wait_for<T>(&mut self, pick: impl FnMut(&Event) -> Option<T>) -> T {
        self.wait_within(SOON, pick).expect("the event comes")
    }

    pub fn wait_within<T>(&mut self, time: Duration, mut pick: impl FnMut(&Event) -> Option<T>) -> Option<T> {
        let until = Instant::now() + time;
        let found = self
            .backlog
            .iter()
            .enumerate()
            .find_map(|(at, event)| Some((at, pick(event)?)));
        if let Some((at, picked)) = found {
            self.backlog.remove(at);
            return Some(picked);
        }
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match self.connection.recv_timeout(left) {
                Ok(Ok(event)) => {
                    if let Some(picked) = pick(&event) {
                        return Some(picked);
                    }
                    if matches!(event, Event::Incoming(Packet::Publish(_))) {
                        self.backlog.push_back(event);
                    }
                }
                Ok(Err(error)) => panic!("the device's connection ended: {error}"),
                Err(RecvTimeoutError::Timeout) => return None,
                Err(error) => panic!("{error:?}"),
            }
        }
    }

    /// How the broker ends the connection.
    pub fn ended(mut self) -> String {
        let until = Instant::now() + SOON;
        while Instant::now() < until {
            if let Ok(Err(error)) = self.connection.recv_timeout(SOON) {
                return error.to_string();
            }
        }
        panic!("the connection goes on");
    }
}

pub fn encode<T: Serialize>(message: &T) -> Vec<u8> {
    let mut buffer = vec![0; PAYLOAD_BYTES_MAX];
    envelope::encode(message, &mut buffer).unwrap().to_vec()
}
