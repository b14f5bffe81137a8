//! What comes back of a fetch: blocks from the fleet, and the ends of jobs.

use punnet_protocol::topics::Purpose;
use punnet_protocol::{BlockAnswerView, BlockRefusal, Digest, Rejection, ReplyTo, envelope};

use super::{Failure, RETRY_FIRST_MS, RETRY_MOST_MS, Stage};
use crate::core::backoff::pause_ms;
use crate::core::transfer::{Taken, Transfer};
use crate::core::{Core, Done, Job, Level, Now, Opened, desired, manifest};

impl Core {
    pub(in crate::core) fn block_message(&mut self, now: Now, payload: &[u8]) {
        let answer = match envelope::decode::<BlockAnswerView<'_>>(payload) {
            Ok(answer) => answer,
            Err(error) => {
                let (reason, detail) = desired::refusal(error.into());
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

    pub(in crate::core) fn fetch_done(&mut self, now: Now, done: Done) {
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
