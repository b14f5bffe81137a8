//! Bringing images here, one at a time: manifest, config, layers, then into the store.
//!
//! What has come of an image stays on disk through failures and restarts; only content that turned out wrong is thrown away.

use std::collections::BTreeSet;

use punnet_protocol::topics::Purpose;
use punnet_protocol::{BlockAnswerView, BlockRefusal, BlockWant, Digest, Rejection, ReplyTo, envelope};

use super::backoff::pause_ms;
use super::transfer::{Taken, Transfer};
use super::wanted::Wanted;
use super::{Core, Done, Job, Level, Now, Opened, manifest};

/// Pauses before an image that could not be fetched is tried again.
const RETRY_FIRST_MS: u64 = 5_000;
const RETRY_MOST_MS: u64 = 300_000;

/// An image on its way.
#[derive(Debug)]
struct Fetch {
    image: Digest,
    manifest_bytes: u64,
    total_bytes: u64,
    reference: String,
    media_type: String,
    /// The manifest, and once it is read all that it names.
    blobs: Vec<(Digest, u64)>,
    /// Which of them is next.
    at: usize,
    /// Bytes of those before.
    whole_bytes: u64,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    Opening,
    Transferring(Transfer),
    Finishing,
    Reading,
    Importing,
}

/// An image that could not be fetched.
#[derive(Debug)]
struct Failure {
    image: Digest,
    failures: u32,
    retry_at: u64,
    detail: String,
}

/// How far an image is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    Fetching { done_bytes: u64, total_bytes: u64 },
    Importing,
}

/// Images: those in the store, those partly here, the one being fetched.
#[derive(Debug, Default)]
pub struct Fetcher {
    store: BTreeSet<Digest>,
    partials: Vec<Digest>,
    current: Option<Fetch>,
    /// An import that was begun; its blobs are in use until it ends, whether or not it is still wanted.
    importing: Option<Digest>,
    failures: Vec<Failure>,
    /// The rate cap's next free moment.
    ask_not_before: u64,
    wake_at: Option<u64>,
    /// Blobs that came with other content than their digest.
    pub wrong_blobs: u64,
}

impl Fetcher {
    pub fn started(&mut self, images: Vec<Digest>, partials: Vec<Digest>) {
        self.store = images.into_iter().collect();
        self.partials = partials;
    }

    pub fn set_images(&mut self, images: Vec<Digest>) {
        self.store = images.into_iter().collect();
    }

    pub fn has(&self, image: &Digest) -> bool {
        self.store.contains(image)
    }

    pub fn is_busy(&self) -> bool {
        self.current.is_some()
    }

    pub fn progress(&self, image: &Digest) -> Option<Progress> {
        let fetch = self.current.as_ref().filter(|fetch| fetch.image == *image)?;
        let received = match &fetch.stage {
            Stage::Importing => return Some(Progress::Importing),
            Stage::Transferring(transfer) => transfer.received,
            Stage::Opening | Stage::Finishing | Stage::Reading => 0,
        };
        Some(Progress::Fetching {
            done_bytes: fetch.whole_bytes + received,
            total_bytes: fetch.total_bytes,
        })
    }

    /// Why an image is not here, when fetching it failed or gets no answer.
    pub fn failure(&self, image: &Digest) -> Option<&str> {
        let failure = self.failures.iter().find(|failure| failure.image == *image);
        failure.map(|failure| failure.detail.as_str())
    }

    /// The fleet has not answered for a while.
    pub fn is_silent(&self) -> bool {
        matches!(&self.current, Some(Fetch { stage: Stage::Transferring(transfer), .. }) if transfer.is_silent())
    }

    pub fn wake_at(&self) -> Option<u64> {
        self.wake_at
    }

    pub fn disconnected(&mut self) {
        if let Some(Fetch {
            stage: Stage::Transferring(transfer),
            ..
        }) = &mut self.current
        {
            transfer.disconnected();
        }
    }

    fn transfer(&mut self) -> Option<&mut Transfer> {
        match &mut self.current.as_mut()?.stage {
            Stage::Transferring(transfer) => Some(transfer),
            _ => None,
        }
    }
}

impl Core {
    pub(super) fn pursue_fetch(&mut self, now: Now) {
        self.drop_unwanted();
        if self.fetcher.current.is_none()
            && let Some(wanted) = self.next_to_fetch(now)
        {
            let image = wanted.image;
            let (manifest_bytes, total_bytes) = (u64::from(wanted.manifest_bytes), wanted.total_bytes);
            if !self.fetcher.partials.contains(&image) {
                self.fetcher.partials.push(image);
            }
            self.fetcher.current = Some(Fetch {
                image,
                manifest_bytes,
                total_bytes,
                reference: wanted.reference,
                media_type: String::new(),
                blobs: vec![(image, manifest_bytes)],
                at: 0,
                whole_bytes: 0,
                stage: Stage::Opening,
            });
            self.log(Level::Info, format!("fetches {image}, {total_bytes} bytes"));
            self.reporter.touch(now);
            self.open_blob();
        }
        self.ask(now);
        self.fetcher.wake_at = self.fetch_wake_at(now);
    }

    fn fetch_wake_at(&mut self, now: Now) -> Option<u64> {
        let ready = self.link.is_ready();
        let not_before = self.fetcher.ask_not_before;
        if let Some(transfer) = self.fetcher.transfer() {
            let rate = (not_before > now.ms).then_some(not_before);
            return [transfer.wake_at(now.ms), rate]
                .into_iter()
                .flatten()
                .min()
                .filter(|_| ready);
        }
        let waiting = self.fetcher.current.is_none();
        let needed = |failure: &&Failure| self.apps.list.iter().any(|app| app.fetch == Some(failure.image));
        self.fetcher
            .failures
            .iter()
            .filter(needed)
            .map(|failure| failure.retry_at)
            .min()
            .filter(|_| waiting)
    }

    fn next_to_fetch(&self, now: Now) -> Option<Wanted> {
        self.apps.list.iter().find_map(|app| {
            let image = app.fetch?;
            let failure = self
                .fetcher
                .failures
                .iter()
                .find(|failure| failure.image == image);
            let due = failure.is_none_or(|failure| failure.retry_at <= now.ms);
            let free = self.fetcher.importing != Some(image);
            let versions = [&app.wanted, &app.good].into_iter().flatten();
            versions
                .filter(|_| due && free)
                .find(|version| version.image == image)
                .cloned()
        })
    }

    /// Gives up what no app needs any more.
    fn drop_unwanted(&mut self) {
        let apps = &self.apps.list;
        let needed = |image: &Digest| {
            apps.iter().any(|app| {
                [&app.wanted, &app.good]
                    .into_iter()
                    .flatten()
                    .any(|w| w.image == *image)
            })
        };
        let fetcher = &mut self.fetcher;
        fetcher.failures.retain(|failure| needed(&failure.image));
        if fetcher
            .current
            .as_ref()
            .is_some_and(|fetch| !needed(&fetch.image))
        {
            fetcher.current = None;
        }
        let importing = fetcher.importing;
        let unwanted =
            |image: &Digest| (!needed(image) || fetcher.store.contains(image)) && importing != Some(*image);
        let dropped: Vec<_> = fetcher.partials.iter().copied().filter(unwanted).collect();
        fetcher.partials.retain(|image| !dropped.contains(image));
        for image in dropped {
            self.job(Job::DropImage { image });
        }
    }

    fn open_blob(&mut self) {
        let Some(fetch) = &mut self.fetcher.current else {
            return;
        };
        let image = fetch.image;
        if let Some((blob, _)) = fetch.blobs.get(fetch.at) {
            fetch.stage = Stage::Opening;
            let (blob, need_bytes) = (*blob, fetch.total_bytes - fetch.whole_bytes);
            return self.job(Job::OpenBlob {
                image,
                blob,
                need_bytes,
            });
        }
        fetch.stage = Stage::Importing;
        self.fetcher.importing = Some(image);
        let (manifest_bytes, media_type) = (fetch.manifest_bytes, fetch.media_type.clone());
        let reference = fetch.reference.clone();
        self.job(Job::Import {
            image,
            manifest_bytes,
            media_type,
            reference,
        });
    }

    /// Asks for blocks as far as the window, the rate cap and the connection allow.
    fn ask(&mut self, now: Now) {
        if !self.link.can_ask() {
            return;
        }
        if let Some(transfer) = self.fetcher.transfer()
            && transfer.check_silence(now.ms)
        {
            self.reporter.touch(now);
            self.log(
                Level::Warn,
                "the fleet does not answer requests for blocks".into(),
            );
        }
        while self.link.has_room() && now.ms >= self.fetcher.ask_not_before {
            let Some(transfer) = self.fetcher.transfer() else {
                return;
            };
            let blob = transfer.blob;
            let Some((offset, length)) = transfer.next_want(now.ms) else {
                return;
            };
            if let Some(rate) = self.config.fetch_bytes_per_s {
                self.fetcher.ask_not_before = now.ms + u64::from(length) * 1000 / u64::from(rate.max(1));
            }
            self.publish(Purpose::Want, &BlockWant { blob, offset, length }, false);
        }
    }

    pub(super) fn block_message(&mut self, now: Now, payload: &[u8]) {
        let answer = match envelope::decode::<BlockAnswerView<'_>>(payload) {
            Ok(answer) => answer,
            Err(error) => {
                let (reason, detail) = super::desired::refusal(error.into());
                let to = ReplyTo::Packet {
                    purpose: Purpose::Block,
                };
                return self.reject(now, to, reason, &detail);
            }
        };
        let Some(image) = self.fetcher.current.as_ref().map(|fetch| fetch.image) else {
            return;
        };
        let Some(transfer) = self.fetcher.transfer() else {
            return;
        };
        match answer {
            BlockAnswerView::Data(block) => match transfer.take(now.ms, &block) {
                Taken::Ignored => {}
                Taken::Write(offset) => {
                    let (blob, data) = (block.blob, block.data.to_vec());
                    self.job(Job::AppendBlob {
                        image,
                        blob,
                        offset,
                        data,
                    });
                    self.reporter.touch_progress(now);
                }
                Taken::Wrong(why) => self.wrong_blob(now, &why),
            },
            BlockAnswerView::Refused { blob, .. } if blob != transfer.blob => {}
            BlockAnswerView::Refused {
                reason: BlockRefusal::Busy,
                ..
            } => transfer.busy(now.ms),
            BlockAnswerView::Refused {
                blob,
                reason: BlockRefusal::Unknown,
            } => {
                self.fetch_failed(now, format!("the fleet has no {blob}"));
            }
            BlockAnswerView::Refused {
                reason: BlockRefusal::OutOfRange,
                ..
            } => {
                self.wrong_blob(now, "the fleet says it is shorter than the image says");
            }
        }
    }

    pub(super) fn fetch_done(&mut self, now: Now, done: Done) {
        if let Done::Imported { image, result } = done {
            return self.imported(now, image, result);
        }
        let Some(fetch) = &mut self.fetcher.current else {
            return;
        };
        let Some(&(expected, bytes)) = fetch.blobs.get(fetch.at) else {
            return;
        };
        match (done, &mut fetch.stage) {
            (Done::BlobOpened { blob, result }, Stage::Opening) if blob == expected => match result {
                Ok(Opened::Whole) => self.blob_is_whole(now),
                Ok(Opened::Part { bytes: here, .. }) if here > bytes => {
                    self.wrong_blob(now, "what is here of it is longer than the image says");
                }
                Ok(Opened::Part { bytes: here, hash }) => {
                    fetch.stage = Stage::Transferring(Transfer::new(blob, bytes, here, hash));
                    self.check_written(now);
                }
                Err(error) => self.fetch_failed(now, error),
            },
            (Done::BlobAppended { blob, result }, Stage::Transferring(transfer)) if blob == expected => {
                match result {
                    Ok(end) => {
                        transfer.wrote(end);
                        self.check_written(now);
                    }
                    Err(error) => self.fetch_failed(now, error),
                }
            }
            (Done::BlobFinished { blob, result }, Stage::Finishing) if blob == expected => match result {
                Ok(()) => self.blob_is_whole(now),
                Err(error) => self.fetch_failed(now, error),
            },
            (Done::BlobRead { blob, result }, Stage::Reading) if blob == expected => {
                let bytes_max = fetch.total_bytes - fetch.manifest_bytes;
                match result.and_then(|bytes| manifest::parse(&bytes, bytes_max)) {
                    Ok(manifest) => self.manifest_is_read(manifest),
                    Err(error) => self.fetch_failed(now, error),
                }
            }
            _ => {}
        }
    }

    fn check_written(&mut self, now: Now) {
        let Some(fetch) = &mut self.fetcher.current else {
            return;
        };
        let Stage::Transferring(transfer) = &fetch.stage else {
            return;
        };
        if !transfer.is_written() {
            return;
        }
        if !transfer.is_genuine() {
            return self.wrong_blob(now, "its content is not what its digest says");
        }
        let (image, blob) = (fetch.image, transfer.blob);
        fetch.stage = Stage::Finishing;
        self.job(Job::FinishBlob { image, blob });
    }

    fn blob_is_whole(&mut self, now: Now) {
        let Some(fetch) = &mut self.fetcher.current else {
            return;
        };
        self.reporter.touch_progress(now);
        if fetch.at == 0 {
            fetch.stage = Stage::Reading;
            let (image, blob) = (fetch.image, fetch.image);
            return self.job(Job::ReadBlob { image, blob });
        }
        fetch.whole_bytes += fetch.blobs[fetch.at].1;
        fetch.at += 1;
        self.open_blob();
    }

    fn manifest_is_read(&mut self, manifest: manifest::Manifest) {
        let Some(fetch) = &mut self.fetcher.current else {
            return;
        };
        fetch.media_type = manifest.media_type;
        fetch.blobs.extend(manifest.blobs);
        fetch.whole_bytes = fetch.manifest_bytes;
        fetch.at = 1;
        self.open_blob();
    }

    fn wrong_blob(&mut self, now: Now, why: &str) {
        let Some(fetch) = &self.fetcher.current else {
            return;
        };
        let Some(&(blob, _)) = fetch.blobs.get(fetch.at) else {
            return;
        };
        let image = fetch.image;
        self.fetcher.wrong_blobs += 1;
        self.job(Job::DropBlob { image, blob });
        let detail = format!("{blob}: {why}");
        let to = ReplyTo::Packet {
            purpose: Purpose::Block,
        };
        self.reject(now, to, Rejection::Malformed, &detail);
        self.fetch_failed(now, detail);
    }

    fn fetch_failed(&mut self, now: Now, detail: String) {
        let Some(fetch) = self.fetcher.current.take() else {
            return;
        };
        self.log(Level::Error, format!("{}: {detail}", fetch.image));
        let failures = &mut self.fetcher.failures;
        let at = failures
            .iter()
            .position(|failure| failure.image == fetch.image)
            .unwrap_or_else(|| {
                failures.push(Failure {
                    image: fetch.image,
                    failures: 0,
                    retry_at: 0,
                    detail: String::new(),
                });
                failures.len() - 1
            });
        let failure = &mut failures[at];
        failure.failures = failure.failures.saturating_add(1);
        failure.retry_at = now.ms + pause_ms(failure.failures, RETRY_FIRST_MS, RETRY_MOST_MS);
        failure.detail = detail;
        self.reporter.touch(now);
    }

    fn imported(&mut self, now: Now, image: Digest, result: Result<(), String>) {
        self.fetcher.importing = None;
        let current = self
            .fetcher
            .current
            .as_ref()
            .is_some_and(|fetch| fetch.image == image);
        match result {
            Ok(()) => {
                self.log(Level::Info, format!("{image} is in the store"));
                self.fetcher.store.insert(image);
                self.fetcher.partials.retain(|partial| *partial != image);
                self.fetcher.failures.retain(|failure| failure.image != image);
                if current {
                    self.fetcher.current = None;
                }
                self.reporter.touch(now);
            }
            Err(error) => {
                // Whatever it was, the next attempt begins with fresh blobs.
                self.fetcher.partials.retain(|partial| *partial != image);
                self.job(Job::DropImage { image });
                if current {
                    self.fetch_failed(now, error);
                }
            }
        }
    }
}
