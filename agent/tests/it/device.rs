//! A device where everything works: jobs are done at once, unless a test says otherwise.

use std::collections::{BTreeMap, BTreeSet};

use punnet_agent::core::*;
use punnet_protocol::*;
use sha2::{Digest as _, Sha256};

use crate::fleet::{board, digest};

#[derive(Default)]
pub struct Device {
    pub slots: [Option<Vec<u8>>; 2],
    pub starts: u32,
    pub store: BTreeSet<Digest>,
    pub containers: BTreeMap<Name, Seen>,
    pub partials: BTreeMap<Digest, BTreeMap<Digest, (Vec<u8>, bool)>>,
    pub logs: BTreeMap<Name, (u64, Vec<u8>)>,
    /// What the disk says to each write, when it is full.
    pub full: Option<String>,
    /// A version whose container cannot be made, and what is said of it.
    pub broken: Option<(Digest, String)>,
    /// What the next import ends with.
    pub import_error: Option<String>,
    pub jobs: Vec<String>,
    /// What is wrong with the board.
    pub troubles: Vec<String>,
    pub next_pid: u32,
}

impl Device {
    pub fn on_disk(&mut self) -> Box<OnDisk> {
        self.starts += 1;
        Box::new(OnDisk {
            slots: self.slots.clone(),
            starts: self.starts,
            containers: self.containers.values().cloned().collect(),
            images: self.store.iter().copied().collect(),
            partials: self.partials.keys().copied().collect(),
            board: board(),
            troubles: self.troubles.clone(),
        })
    }

    /// As after a power cut.
    pub fn cut_power(&mut self) {
        for seen in self.containers.values_mut() {
            // What says that it was ever started is on the run root, in RAM.
            (seen.status, seen.pid, seen.exit_code) = (Status::Created, 0, None);
        }
    }

    pub fn pid(&self, app: &str) -> u32 {
        self.containers
            .get(&app.parse::<Name>().unwrap())
            .filter(|seen| seen.status == Status::Running)
            .map_or(0, |seen| seen.pid)
    }

    /// Bytes of images that are not in the store yet.
    pub fn partial_bytes(&self) -> u64 {
        self.partials
            .values()
            .flat_map(BTreeMap::values)
            .map(|(bytes, _)| bytes.len() as u64)
            .sum()
    }

    pub fn run(&mut self, job: Job) -> Option<Done> {
        let word = format!("{job:?}");
        self.jobs.push(word.split([' ', '(']).next().unwrap().to_owned());
        let write = self.full.clone().map_or(Ok(()), Err);
        Some(match job {
            Job::Persist { slot, record } => {
                if write.is_ok() {
                    self.slots[slot] = Some(record);
                }
                Done::Persisted(write)
            }
            Job::CountStart => {
                self.starts += 1;
                Done::StartCounted(self.starts)
            }
            Job::OpenBlob { image, blob, .. } => {
                let (bytes, whole) = self.partials.entry(image).or_default().entry(blob).or_default();
                let hash = Box::new(Sha256::new_with_prefix(&bytes));
                let part = Opened::Part {
                    bytes: bytes.len() as u64,
                    hash,
                };
                Done::BlobOpened {
                    blob,
                    result: Ok(if *whole { Opened::Whole } else { part }),
                }
            }
            Job::AppendBlob {
                image,
                blob,
                offset,
                data,
            } => {
                let (bytes, _) = self.partials.entry(image).or_default().entry(blob).or_default();
                assert_eq!(bytes.len() as u64, offset);
                if write.is_ok() {
                    bytes.extend(data);
                }
                let end = bytes.len() as u64;
                Done::BlobAppended {
                    blob,
                    result: write.map(|()| end),
                }
            }
            Job::FinishBlob { image, blob } => {
                let (bytes, whole) = self.partials.get_mut(&image).unwrap().get_mut(&blob).unwrap();
                assert_eq!(digest(bytes), blob);
                *whole = true;
                Done::BlobFinished { blob, result: Ok(()) }
            }
            Job::DropBlob { image, blob } => {
                self.partials.entry(image).or_default().remove(&blob);
                Done::Dropped
            }
            Job::ReadBlob { image, blob } => Done::BlobRead {
                blob,
                result: Ok(self.partials[&image][&blob].0.clone()),
            },
            Job::Import { image, .. } => {
                let result = self.import_error.take().map_or(write, Err);
                if result.is_ok() {
                    self.partials.remove(&image);
                    self.store.insert(image);
                }
                Done::Imported { image, result }
            }
            Job::DropImage { image } => {
                self.partials.remove(&image);
                Done::Dropped
            }
            Job::Create { app, spec, .. } => {
                if let Some((_, error)) = self.broken.as_ref().filter(|(broken, _)| *broken == spec) {
                    let error = Some(error.clone());
                    return Some(Done::Container {
                        app,
                        error,
                        observed: Observed::Absent,
                    });
                }
                let seen = Seen {
                    app: app.clone(),
                    spec: Some(spec),
                    status: Status::Created,
                    pid: 0,
                    exit_code: None,
                    out_of_memory: false,
                };
                self.container(app, |containers, app| {
                    assert!(containers.insert(app, seen).is_none(), "it is there already");
                })
            }
            Job::Start { app } => {
                self.next_pid += 1;
                let pid = self.next_pid;
                self.container(app, |containers, app| {
                    let seen = containers.get_mut(&app).unwrap();
                    assert_ne!(seen.status, Status::Running, "it would run twice");
                    (seen.status, seen.pid, seen.exit_code) = (Status::Running, pid, None);
                })
            }
            Job::Stop { app, .. } => self.container(app, |containers, app| {
                let seen = containers.get_mut(&app).unwrap();
                (seen.status, seen.exit_code) = (Status::Stopped, Some(143));
            }),
            Job::Remove { app } => self.container(app, |containers, app| drop(containers.remove(&app))),
            Job::Refresh => Done::Refreshed {
                containers: self.containers.values().cloned().collect(),
                images: self.store.iter().copied().collect(),
            },
            Job::ReadLog { stream, app, from } => {
                let result = self.logs.get(&app).map(|(container, bytes)| {
                    let end = bytes.len() as u64;
                    let offset = match from {
                        LogFrom::Tail(bytes) => end.saturating_sub(bytes.into()),
                        LogFrom::At(offset) => offset.min(end),
                    };
                    let data = bytes[offset as usize..]
                        .iter()
                        .copied()
                        .take(LOG_BYTES_MAX)
                        .collect();
                    LogRead {
                        container: *container,
                        offset,
                        data,
                        end,
                    }
                });
                Done::LogRead { stream, result }
            }
            Job::Keep { .. } => Done::Kept(Ok(())),
            Job::WatchLog { .. } => return None,
        })
    }

    fn container(&mut self, app: Name, change: impl FnOnce(&mut BTreeMap<Name, Seen>, Name)) -> Done {
        change(&mut self.containers, app.clone());
        let observed = self
            .containers
            .get(&app)
            .cloned()
            .map_or(Observed::Absent, Observed::Present);
        Done::Container {
            app,
            error: None,
            observed,
        }
    }
}
