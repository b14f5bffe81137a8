//! Bringing images here, one at a time: manifest, config, layers, then into the store.
//!
//! What has come of an image stays on disk through failures and restarts; only content that turned out wrong is thrown away.

mod answers;

use std::collections::BTreeSet;

use punnet_protocol::topics::Purpose;
use punnet_protocol::{BlockWant, Digest};

use super::transfer::Transfer;
use super::wanted::Wanted;
use super::{Core, Job, Level, Now};

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
}
