//! The world: a disk, a store, containers, a broker, a fleet, and faults.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use punnet_agent::core::*;
use punnet_protocol::topics::Purpose;
use punnet_protocol::*;
use sha2::{Digest as _, Sha256};

use crate::fleet::{Fleet, app, board, digest, encoded, name, spec};

/// Steps with faults.
const STEPS: usize = 1500;
/// Steps after which the device must have converged.
const STEPS_TO_CONVERGE: usize = 30_000;
/// More actions of one step would be a flood.
const ACTIONS_MAX: usize = 64;

#[derive(Default)]
struct Blob {
    bytes: Vec<u8>,
    whole: bool,
}

struct Container {
    seen: Seen,
    image: Digest,
    /// The agent that is running now started it: it learns the exit code.
    child: bool,
    bad: bool,
}

pub struct World {
    rng: u64,
    loud: bool,
    faults: bool,
    now: Now,
    core: Core,
    pub trail: Vec<u8>,
    // The device.
    slots: [Option<Vec<u8>>; 2],
    starts: u32,
    partials: BTreeMap<Digest, BTreeMap<Digest, Blob>>,
    store: BTreeSet<Digest>,
    containers: BTreeMap<Name, Container>,
    next_pid: u32,
    disk_full: bool,
    store_jobs: VecDeque<Job>,
    other_jobs: Vec<Job>,
    happened: VecDeque<Event>,
    // The broker.
    connected: bool,
    connecting: bool,
    to_device: Vec<(Purpose, Vec<u8>)>,
    retained: Vec<u8>,
    packet: u16,
    packets: BTreeMap<u16, u64>,
    // The fleet.
    fleet: Fleet,
    images: Vec<ImageSource>,
    generation: u64,
    history: Vec<Vec<u8>>,
    wanted: Vec<App>,
    signed_specs: BTreeMap<Digest, (App, u64)>,
    reported: Option<Box<Reported>>,
    // What has been promised.
    acknowledged: u64,
    newest_durable: u64,
    newest_seen: u64,
}

impl World {
    pub fn new(seed: u64, loud: bool) -> Self {
        let mut fleet = Fleet::new();
        let images = (0..4)
            .map(|n| fleet.image(n, &[100, 40_000, 16_384, 0][..n as usize + 1]))
            .collect();
        let core = Core::new(config(&fleet, seed));
        let mut world = Self {
            rng: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x1234_5678,
            loud,
            faults: true,
            now: Now { ms: 1000, unix_ms: 0 },
            core,
            trail: Vec::new(),
            slots: [None, None],
            starts: 0,
            partials: BTreeMap::new(),
            store: BTreeSet::new(),
            containers: BTreeMap::new(),
            next_pid: 100,
            disk_full: false,
            store_jobs: VecDeque::new(),
            other_jobs: Vec::new(),
            happened: VecDeque::new(),
            connected: false,
            connecting: false,
            to_device: Vec::new(),
            retained: Vec::new(),
            packet: 0,
            packets: BTreeMap::new(),
            fleet,
            images,
            generation: 0,
            history: Vec::new(),
            wanted: Vec::new(),
            signed_specs: BTreeMap::new(),
            reported: None,
            acknowledged: 0,
            newest_durable: 0,
            newest_seen: 0,
        };
        world.boot(false);
        world
    }

    /// Lives through the faults, then converges.
    pub fn live(&mut self) {
        for _ in 0..STEPS {
            self.tumble();
            self.check();
        }
        self.faults = false;
        self.disk_full = false;
        self.deploy();
        for step in 0..STEPS_TO_CONVERGE {
            if self.has_converged() {
                return self.say(&format!("converged after {step} steps"));
            }
            self.go_on();
            self.check();
        }
        panic!(
            "not converged: wanted {:?}\nreported {:?}",
            self.wanted, self.reported
        );
    }

    fn random(&mut self, below: usize) -> usize {
        self.rng = self
            .rng
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let drawn = (self.rng >> 33) as usize % below;
        self.trail.push(drawn as u8);
        drawn
    }

    fn chance(&mut self, percent: usize) -> bool {
        self.random(100) < percent
    }

    fn say(&self, text: &str) {
        if self.loud {
            println!("{:>9} {text}", self.now.ms);
        }
    }

    /// One step with the chance of a fault.
    fn tumble(&mut self) {
        match self.random(100) {
            0 => self.crash(false),
            1 if self.chance(40) => self.crash(true),
            2 => self.lose_connection(),
            3 if self.chance(30) => self.disk_full = !self.disk_full,
            4 | 5 => self.deploy_sometimes(),
            6 => self.process_ends(),
            7 => self.mischief(),
            8 if !self.to_device.is_empty() => {
                let at = self.random(self.to_device.len());
                let lost = self.to_device.remove(at);
                self.say(&format!("loses a message on {:?}", lost.0));
            }
            9 if !self.to_device.is_empty() => {
                let at = self.random(self.to_device.len());
                self.to_device.push(self.to_device[at].clone());
            }
            _ => self.go_on(),
        }
    }

    /// Something of what is due happens; in any order.
    fn go_on(&mut self) {
        if let Some(event) = self.happened.pop_front() {
            return self.event(event);
        }
        let choices = [
            self.store_jobs.len().min(1) * 3,
            self.other_jobs.len().min(1) * 2,
            self.to_device.len().min(1) * 3,
            usize::from(self.connecting) * 2,
            1,
        ];
        let mut drawn = self.random(choices.iter().sum());
        let choice = choices.iter().position(|weight| {
            let here = drawn < *weight;
            drawn = drawn.wrapping_sub(*weight);
            here
        });
        match choice.unwrap() {
            0 => self.do_store_job(),
            1 => {
                let at = self.random(self.other_jobs.len());
                let job = self.other_jobs.remove(at);
                self.do_other_job(job, true);
            }
            2 => {
                let at = if self.faults && self.chance(30) {
                    self.random(self.to_device.len())
                } else {
                    0
                };
                self.deliver(at);
            }
            3 => {
                self.connecting = false;
                self.connected = !(self.faults && self.chance(30));
                let down = Event::Disconnected(LinkError::Other("refused".into()));
                self.event(if self.connected { Event::Connected } else { down });
            }
            _ => self.pass_time(),
        }
    }

    fn pass_time(&mut self) {
        self.bad_processes_end();
        let wake = self.core.wake_at();
        match wake {
            Some(at) => {
                assert!(at > self.now.ms, "wakes in the past");
                self.now = Now { ms: at, unix_ms: at };
                self.event(Event::Tick);
            }
            None => self.now.ms += 1000,
        }
    }

    fn event(&mut self, event: Event) {
        if self.loud {
            let text = format!("{event:?}");
            self.say(&format!("event {}", text.chars().take(200).collect::<String>()));
        }
        let actions = self.core.step(self.now, event);
        assert!(actions.len() <= ACTIONS_MAX, "{} actions at once", actions.len());
        for action in actions {
            self.act(action);
            if self.faults && self.random(1000) == 0 {
                // Between any two actions.
                let power = self.chance(30);
                return self.crash(power);
            }
        }
    }

    fn act(&mut self, action: Action) {
        if self.loud {
            let text = format!("{action:?}");
            self.say(&format!("    {}", text.chars().take(200).collect::<String>()));
        }
        match action {
            Action::Connect { .. } => {
                assert!(!self.connected && !self.connecting);
                self.connecting = true;
            }
            Action::Disconnect => self.drop_connection(),
            Action::Subscribe(purpose) => {
                self.happened.push_back(Event::Subscribed {
                    purpose,
                    granted: true,
                });
                if purpose == Purpose::Desired && !self.retained.is_empty() {
                    self.to_device.push((purpose, self.retained.clone()));
                }
            }
            Action::Publish { purpose, payload, .. } => {
                assert!(self.connected);
                self.happened.push_back(Event::Published);
                self.hear(purpose, &payload);
            }
            Action::Ack(packet) => {
                if let Some(generation) = self.packets.remove(&packet.id) {
                    self.acknowledged = self.acknowledged.max(generation);
                }
            }
            Action::Job(job) => self.take_job(job),
            Action::Led(_) | Action::Log(..) => {}
        }
    }

    fn take_job(&mut self, job: Job) {
        match &job {
            Job::Create { app, spec, encoded } => {
                // The first invariant: only what the fleet has signed, and what is durable.
                assert_eq!(digest(encoded), *spec);
                let (signed, generation) = self.signed_specs.get(spec).expect("the fleet has signed it");
                assert_eq!(&signed.name, app);
                assert!(*generation <= self.durable(), "{generation} is not durable yet");
            }
            Job::Stop { app, .. } => self.check_stop(app),
            _ => {}
        }
        match job {
            Job::WatchLog { .. } => {}
            Job::Persist { .. }
            | Job::CountStart
            | Job::OpenBlob { .. }
            | Job::AppendBlob { .. }
            | Job::FinishBlob { .. }
            | Job::DropBlob { .. }
            | Job::ReadBlob { .. }
            | Job::DropImage { .. } => self.store_jobs.push_back(job),
            _ => self.other_jobs.push(job),
        }
    }

    /// A container makes place for another version only when that version can be made.
    fn check_stop(&self, app: &Name) {
        let current = self
            .history
            .iter()
            .rposition(|payload| generation_of(payload) == self.durable());
        let wanted = current.and_then(|at| {
            self.signed_specs.values().find(|(wanted, generation)| {
                wanted.name == *app && *generation == generation_of(&self.history[at])
            })
        });
        let (Some((wanted, _)), Some(container)) = (wanted, self.containers.get(app)) else {
            return;
        };
        let same = container.seen.spec == Some(spec(wanted));
        let others = self.signed_specs.values().filter(|(other, _)| other.name == *app);
        let any_here = others.clone().any(|(other, _)| {
            container.seen.spec != Some(spec(other)) && self.store.contains(&other.image.manifest)
        });
        assert!(
            same || any_here,
            "{app} is stopped and nothing can take its place"
        );
    }

    fn do_store_job(&mut self) {
        let Some(job) = self.store_jobs.pop_front() else {
            return;
        };
        let full = self.disk_full;
        let no_space = || "no space left on device".to_owned();
        let done = match job {
            Job::Persist { slot, record } => {
                // Writing in place: a full disk leaves the slot cut short.
                self.slots[slot] = Some(if full {
                    record[..record.len() / 2].to_vec()
                } else {
                    record
                });
                Done::Persisted(if full { Err(no_space()) } else { Ok(()) })
            }
            Job::CountStart => {
                self.starts += 1;
                Done::StartCounted(self.starts)
            }
            Job::OpenBlob { image, blob, .. } => {
                let here = self.partials.entry(image).or_default().entry(blob).or_default();
                let result = if here.whole {
                    Opened::Whole
                } else {
                    let hash = Box::new(Sha256::new_with_prefix(&here.bytes));
                    Opened::Part {
                        bytes: here.bytes.len() as u64,
                        hash,
                    }
                };
                Done::BlobOpened {
                    blob,
                    result: Ok(result),
                }
            }
            Job::AppendBlob {
                image,
                blob,
                offset,
                data,
            } => {
                let here = self.partials.entry(image).or_default().entry(blob).or_default();
                let result = if full {
                    Err(no_space())
                } else if here.bytes.len() as u64 != offset {
                    Err("another length".into())
                } else {
                    here.bytes.extend(data);
                    Ok(here.bytes.len() as u64)
                };
                Done::BlobAppended { blob, result }
            }
            Job::FinishBlob { image, blob } => {
                let here = self.partials.entry(image).or_default().entry(blob).or_default();
                assert_eq!(digest(&here.bytes), blob, "finished with other content");
                here.whole = true;
                Done::BlobFinished { blob, result: Ok(()) }
            }
            Job::ReadBlob { image, blob } => Done::BlobRead {
                blob,
                result: Ok(self.partials[&image][&blob].bytes.clone()),
            },
            Job::DropBlob { image, blob } => {
                self.partials.entry(image).or_default().remove(&blob);
                Done::Dropped
            }
            Job::DropImage { image } => {
                self.partials.remove(&image);
                Done::Dropped
            }
            other => panic!("{other:?} is no store job"),
        };
        self.event(Event::Done(done));
    }

    /// The work of a child process; it goes on when the agent dies, and then nobody hears of it.
    fn do_other_job(&mut self, job: Job, heard: bool) {
        let fails = self.faults && self.chance(8);
        let mut error = fails.then(|| "something failed".to_owned());
        let of = match &job {
            Job::Create { app, .. } | Job::Start { app } | Job::Stop { app, .. } | Job::Remove { app } => {
                app.clone()
            }
            _ => name("none"),
        };
        match job {
            Job::Create { app, spec, .. } if !fails => {
                let (signed, _) = &self.signed_specs[&spec];
                let image = signed.image.manifest;
                if self.containers.contains_key(&app) {
                    error = Some("the name is taken".into());
                } else if !self.store.contains(&image) {
                    error = Some("no such image".into());
                } else {
                    let bad = signed.env.iter().any(|pair| pair == "BAD=1");
                    let seen = Seen {
                        app: app.clone(),
                        spec: Some(spec),
                        status: Status::Created,
                        pid: 0,
                        exit_code: None,
                        out_of_memory: false,
                    };
                    self.containers.insert(
                        app,
                        Container {
                            seen,
                            image,
                            child: heard,
                            bad,
                        },
                    );
                }
            }
            Job::Start { app } if !fails => {
                self.next_pid += 1;
                match self.containers.get_mut(&app) {
                    Some(container) if container.seen.status == Status::Running => {
                        error = Some("it runs already".into());
                    }
                    Some(container) => {
                        container.seen.status = Status::Running;
                        container.seen.pid = self.next_pid;
                        container.seen.exit_code = None;
                        container.child = heard;
                    }
                    None => error = Some("no such container".into()),
                }
            }
            Job::Stop { app, .. } if !fails => {
                if let Some(container) = self.containers.get_mut(&app) {
                    container.seen.status = Status::Stopped;
                    container.seen.exit_code = Some(143);
                }
            }
            Job::Remove { app } if !fails => {
                self.containers.remove(&app);
            }
            Job::Import { image, .. } => {
                if self.disk_full {
                    error = Some("no space left on device".into());
                }
                if error.is_none() {
                    self.import(image);
                }
                if heard {
                    self.event(Event::Done(Done::Imported {
                        image,
                        result: error.map_or(Ok(()), Err),
                    }));
                }
                return;
            }
            Job::Keep { .. } => {
                if heard {
                    self.event(Event::Done(Done::Kept(error.map_or(Ok(()), Err))));
                }
                return;
            }
            Job::Refresh => {
                let (containers, images) = (self.seen(), self.store.iter().copied().collect());
                if heard {
                    self.event(Event::Done(Done::Refreshed { containers, images }));
                }
                return;
            }
            _ => {}
        }
        if heard {
            let blind = self.faults && self.chance(3);
            let observed = match self.containers.get(&of) {
                _ if blind => Observed::Unknown,
                Some(container) => Observed::Present(container.seen.clone()),
                None => Observed::Absent,
            };
            self.event(Event::Done(Done::Container {
                app: of,
                error,
                observed,
            }));
        }
    }

    fn import(&mut self, image: Digest) {
        let Some(blobs) = self.partials.remove(&image) else {
            panic!("{image} is imported without its blobs")
        };
        for (blob, here) in &blobs {
            assert!(
                here.whole && digest(&here.bytes) == *blob,
                "{blob} is imported and is not whole"
            );
        }
        let manifest = String::from_utf8(blobs[&image].bytes.clone()).unwrap();
        let named = manifest.matches("sha256:").count();
        assert_eq!(blobs.len(), named + 1, "blobs of the image are missing");
        self.store.insert(image);
    }

    fn seen(&self) -> Vec<Seen> {
        self.containers
            .values()
            .map(|container| container.seen.clone())
            .collect()
    }

    fn end_process(&mut self, app: &Name, code: i32) {
        let Some(container) = self.containers.get_mut(app) else {
            return;
        };
        if container.seen.status != Status::Running {
            return;
        }
        container.seen.status = Status::Stopped;
        let code = container.child.then_some(code);
        container.seen.exit_code = code;
        let pid = container.seen.pid;
        self.happened.push_back(Event::Exited {
            app: app.clone(),
            pid,
            code,
            out_of_memory: false,
        });
    }

    fn process_ends(&mut self) {
        let running: Vec<_> = self.containers.keys().cloned().collect();
        if !running.is_empty() {
            let at = self.random(running.len());
            let code = [0, 1, 137][self.random(3)];
            self.end_process(&running[at], code);
        }
    }

    fn bad_processes_end(&mut self) {
        let bad: Vec<_> = self
            .containers
            .iter()
            .filter(|(_, c)| c.bad)
            .map(|(app, _)| app.clone())
            .collect();
        bad.iter().for_each(|app| self.end_process(app, 1));
    }

    /// The agent dies; with `power` so does everything else.
    fn crash(&mut self, power: bool) {
        self.say(if power { "POWER CUT" } else { "AGENT KILLED" });
        let torn = self.chance(50);
        if torn && let Some(Job::Persist { slot, record }) = self.store_jobs.front().cloned() {
            let end = self.random(record.len() + 1);
            self.slots[slot] = Some(record[..end].to_vec());
        }
        self.store_jobs.clear();
        for job in std::mem::take(&mut self.other_jobs) {
            if !power && self.chance(50) {
                self.do_other_job(job, false);
            }
        }
        if power {
            for container in self.containers.values_mut() {
                container.seen.status = Status::Created;
                container.seen.exit_code = None;
                container.seen.pid = 0;
            }
            for at in 0..self.partials.len() {
                let keep = self.random(50_000);
                let blobs = self.partials.values_mut().nth(at).unwrap();
                blobs
                    .values_mut()
                    .filter(|blob| !blob.whole)
                    .for_each(|blob| blob.bytes.truncate(keep));
            }
        }
        self.boot(power);
    }

    fn boot(&mut self, power: bool) {
        self.happened.clear();
        self.connected = false;
        self.connecting = false;
        self.to_device.clear();
        self.packets.clear();
        self.newest_seen = 0;
        self.containers
            .values_mut()
            .for_each(|container| container.child = false);
        self.starts += 1;
        if power {
            self.now = Now { ms: 1, unix_ms: 0 };
        }
        self.core = Core::new(config(&self.fleet, self.rng));
        let disk = OnDisk {
            slots: self.slots.clone(),
            starts: self.starts,
            containers: self.seen(),
            images: self.store.iter().copied().collect(),
            partials: self.partials.keys().copied().collect(),
            board: board(),
            troubles: Vec::new(),
        };
        self.event(Event::Started(Box::new(disk)));
    }

    fn drop_connection(&mut self) {
        self.connected = false;
        self.connecting = false;
        self.to_device.clear();
        self.packets.clear();
        self.happened
            .retain(|event| !matches!(event, Event::Published | Event::Subscribed { .. }));
    }

    fn lose_connection(&mut self) {
        if self.connected || self.connecting {
            self.drop_connection();
            let error = [
                LinkError::ClosedByPeer,
                LinkError::Oversized,
                LinkError::Other("lost".into()),
            ];
            let at = self.random(3);
            self.event(Event::Disconnected(error[at].clone()));
        }
    }

    fn deliver(&mut self, at: usize) {
        let (purpose, payload) = self.to_device.remove(at);
        self.packet = self.packet.wrapping_add(1).max(1);
        if purpose == Purpose::Desired && self.history.contains(&payload) {
            // Only the newest is a promise once acknowledged; an older one is refused, and that is final.
            let generation = generation_of(&payload);
            self.newest_seen = self.newest_seen.max(generation);
            if generation == self.newest_seen && generation > self.durable() {
                self.packets.insert(self.packet, generation);
            }
        }
        let packet = Packet {
            connection: 0,
            id: self.packet,
        };
        self.event(Event::Message {
            purpose,
            packet,
            payload,
        });
    }

    fn deploy_sometimes(&mut self) {
        if self.chance(25) {
            self.deploy();
        } else if self.connected && !self.retained.is_empty() {
            self.to_device.push((Purpose::Desired, self.retained.clone()));
        }
    }

    /// The fleet wants something else.
    fn deploy(&mut self) {
        self.generation += 1;
        let mut apps = Vec::new();
        for of in ["a", "b", "c"] {
            if self.chance(75) {
                let at = self.random(4);
                let image = self.images[at].clone();
                let mut app = app(of, &image, self.generation as u32);
                app.restart = [
                    RestartPolicy::Always,
                    RestartPolicy::OnFailure,
                    RestartPolicy::Never,
                ][self.random(3)];
                if self.faults && self.chance(25) {
                    app.env = Strings::new(["BAD=1"]).unwrap();
                }
                if !self.faults {
                    app.restart = RestartPolicy::Always;
                }
                apps.push(app);
            }
        }
        for app in &apps {
            self.signed_specs
                .insert(spec(app), (app.clone(), self.generation));
        }
        self.retained = self.fleet.desired(self.generation, &apps);
        self.history.push(self.retained.clone());
        self.wanted = apps;
        self.say(&format!(
            "DEPLOY {}: {:?}",
            self.generation,
            self.wanted.iter().map(|a| &a.name).collect::<Vec<_>>()
        ));
        if self.connected {
            self.to_device.push((Purpose::Desired, self.retained.clone()));
        }
    }

    /// Somebody with access to the broker tries his luck.
    fn mischief(&mut self) {
        if !self.connected {
            return;
        }
        let purpose = Purpose::TO_DEVICE[self.random(3)];
        let payload = match self.random(5) {
            0 => (0..self.random(300)).map(|_| self.random(256) as u8).collect(),
            1 if !self.history.is_empty() => {
                let at = self.random(self.history.len());
                self.history[at].clone()
            }
            2 if !self.history.is_empty() => {
                let at = self.random(self.history.len());
                let mut altered = self.history[at].clone();
                let at = self.random(altered.len());
                altered[at] ^= 1;
                altered
            }
            3 => {
                let stranger = app("evil", &self.images[0], 1);
                let mut fleet = Fleet::new();
                std::mem::swap(&mut fleet, &mut self.fleet);
                let payload = fleet.desired_for("home", "bathroom", self.generation + 9, &[stranger]);
                std::mem::swap(&mut fleet, &mut self.fleet);
                payload
            }
            _ => Vec::new(),
        };
        self.to_device.push((purpose, payload));
    }

    /// What the device says.
    fn hear(&mut self, purpose: Purpose, payload: &[u8]) {
        match purpose {
            Purpose::Want => {
                let want: BlockWant = envelope::decode(payload).unwrap();
                assert!(want.length as usize <= BLOCK_BYTES_MAX);
                let mut answer = self.fleet.block(&want);
                if self.faults && self.chance(5) {
                    let Ok(BlockAnswer::Data(mut block)) = envelope::decode(&answer) else {
                        return;
                    };
                    match self.random(3) {
                        0 if !block.data.is_empty() => block.data[0] ^= 1,
                        1 => drop(block.data.pop()),
                        _ => block.total_bytes += 1,
                    }
                    answer = encoded(&BlockAnswer::Data(block));
                } else if self.faults && self.chance(5) {
                    let reason = [
                        BlockRefusal::Busy,
                        BlockRefusal::Unknown,
                        BlockRefusal::OutOfRange,
                    ][self.random(3)];
                    answer = encoded(&BlockAnswer::Refused {
                        blob: want.blob,
                        reason,
                    });
                }
                self.to_device.push((Purpose::Block, answer));
            }
            Purpose::Reported => {
                let reported: Reported = envelope::decode(payload).unwrap();
                assert!(reported.generation <= self.generation);
                self.reported = Some(Box::new(reported));
            }
            Purpose::Reply => drop(envelope::decode::<Reply>(payload).unwrap()),
            Purpose::Presence => drop(envelope::decode::<Presence>(payload).unwrap()),
            Purpose::Log => drop(envelope::decode::<LogChunk>(payload).unwrap()),
            Purpose::Desired | Purpose::Command | Purpose::Block => {
                assert!(payload.is_empty(), "only to clear it");
            }
        }
    }

    fn durable(&self) -> u64 {
        self.core.generation()
    }

    fn check(&mut self) {
        let durable = self.durable();
        assert!(
            durable >= self.newest_durable,
            "generation went from {} back to {durable}",
            self.newest_durable
        );
        self.newest_durable = durable;
        assert!(
            durable >= self.acknowledged,
            "{} was acknowledged, {durable} is durable",
            self.acknowledged
        );
    }

    fn has_converged(&self) -> bool {
        let Some(reported) = &self.reported else {
            return false;
        };
        let runs = |app: &App| {
            self.containers.get(&app.name).is_some_and(|container| {
                container.seen.status == Status::Running
                    && container.seen.spec == Some(spec(app))
                    && container.image == app.image.manifest
            })
        };
        reported.converged
            && reported.generation == self.generation
            && self.containers.len() == self.wanted.len()
            && self.wanted.iter().all(runs)
    }
}

fn config(fleet: &Fleet, seed: u64) -> Config {
    let (fleet_key, fetch_bytes_per_s) = (fleet.public_key(), None);
    Config {
        fleet: name("home"),
        device: name("kitchen"),
        fleet_key,
        fetch_bytes_per_s,
        seed,
    }
}

fn generation_of(payload: &[u8]) -> u64 {
    let mut scratch = vec![0; payload.len()];
    let message = signed::open::<Desired>(payload, &mut scratch, |_, _| true).unwrap();
    DesiredView::read(message).unwrap().generation
}
