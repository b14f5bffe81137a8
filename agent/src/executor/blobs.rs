//! Images on their way: an OCI image layout (image-spec image-layout.md) that fills up blob by blob.
//!
//! ```text
//! <data root>/agent/partial/<manifest hex>/
//!   blobs/sha256/<hex>.partial   the first bytes of a blob
//!   blobs/sha256/<hex>           all of it, its digest checked
//!   oci-layout, index.json       written when all blobs are here
//! ```

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use nix::sys::statvfs::statvfs;
use punnet_protocol::Digest;
use sha2::{Digest as _, Sha256};

use crate::core::{Opened, hex};

/// A partial blob is synced each time this much was added: a stall of a moment on a slow card, not of half a minute at the end.
const SYNC_BYTES: u64 = 4 << 20;
/// Left free for all else (logs, state, the writable layers) when an image is fetched.
const KEEP_FREE_BYTES: u64 = 4 << 20;
/// Read at once when a partial blob is hashed again.
const READ_BYTES: usize = 64 * 1024;

/// The folder of partial images.
#[derive(Clone)]
pub struct Blobs {
    folder: PathBuf,
}

impl Blobs {
    pub fn new(agent_folder: &Path) -> Self {
        Self {
            folder: agent_folder.join("partial"),
        }
    }

    /// Images that are partly here. Anything else in the folder is removed.
    pub fn partials(&self) -> Vec<Digest> {
        let Ok(entries) = fs::read_dir(&self.folder) else {
            return Vec::new();
        };
        entries
            .flatten()
            .filter_map(|entry| format!("sha256:{}", entry.file_name().to_str()?).parse().ok())
            .collect()
    }

    /// The layout's folder.
    pub fn layout(&self, image: &Digest) -> PathBuf {
        self.folder.join(hex(image))
    }

    fn whole(&self, image: &Digest, blob: &Digest) -> PathBuf {
        self.layout(image).join("blobs/sha256").join(hex(blob))
    }

    fn partial(&self, image: &Digest, blob: &Digest) -> PathBuf {
        self.whole(image, blob).with_extension("partial")
    }

    /// What is there of a blob; makes its place. The hash of a long one is yielded over, so that nothing else waits for it.
    pub async fn open(&self, image: &Digest, blob: &Digest, need_bytes: u64) -> Result<Opened, String> {
        let (whole, partial) = (self.whole(image, blob), self.partial(image, blob));
        if whole.is_file() {
            return Ok(Opened::Whole);
        }
        let folder = self.layout(image).join("blobs/sha256");
        fs::create_dir_all(&folder).map_err(|error| tell("create", &folder, &error))?;
        let file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .open(&partial);
        let mut file = file.map_err(|error| tell("open", &partial, &error))?;
        let mut hash = Box::new(Sha256::new());
        let mut bytes = 0_u64;
        let mut buffer = vec![0; READ_BYTES];
        loop {
            match file
                .read(&mut buffer)
                .map_err(|error| tell("read", &partial, &error))?
            {
                0 => break,
                read => {
                    hash.update(&buffer[..read]);
                    bytes += read as u64;
                }
            }
            tokio::task::yield_now().await;
        }
        self.check_space(need_bytes.saturating_sub(bytes))?;
        Ok(Opened::Part { bytes, hash })
    }

    fn check_space(&self, need_bytes: u64) -> Result<(), String> {
        let Ok(stat) = statvfs(&self.folder) else {
            return Ok(());
        };
        // Both are 32 bits wide on 32-bit boards.
        #[allow(clippy::useless_conversion, reason = "the types depend on the target")]
        let free = u64::from(stat.blocks_available()) * u64::from(stat.fragment_size());
        if free < need_bytes + KEEP_FREE_BYTES {
            let (need, free) = ((need_bytes + KEEP_FREE_BYTES) >> 10, free >> 10);
            return Err(format!(
                "the disk is too full: {need} KiB are needed, {free} KiB are free"
            ));
        }
        Ok(())
    }

    /// Adds bytes at the end; returns how long the partial blob is then. After an error it is as long as before.
    pub fn append(&self, image: &Digest, blob: &Digest, offset: u64, data: &[u8]) -> Result<u64, String> {
        let path = self.partial(image, blob);
        let add = || {
            let mut file = OpenOptions::new().write(true).open(&path)?;
            let here = file.seek(SeekFrom::End(0))?;
            if here != offset {
                return Err(io::Error::other(format!(
                    "it has {here} bytes, {offset} were expected"
                )));
            }
            if let Err(error) = file.write_all(data) {
                file.set_len(offset)?;
                return Err(error);
            }
            let end = offset + data.len() as u64;
            if offset / SYNC_BYTES != end / SYNC_BYTES {
                file.sync_data()?;
            }
            Ok(end)
        };
        add().map_err(|error| tell("write", &path, &error))
    }

    /// Gives a checked blob its name, durably.
    pub fn finish(&self, image: &Digest, blob: &Digest) -> Result<(), String> {
        let (partial, whole) = (self.partial(image, blob), self.whole(image, blob));
        let finish = || {
            File::open(&partial)?.sync_all()?;
            fs::rename(&partial, &whole)
        };
        finish().map_err(|error| tell("store", &whole, &error))
    }

    /// Forgets a blob.
    pub fn drop_blob(&self, image: &Digest, blob: &Digest) {
        for path in [self.partial(image, blob), self.whole(image, blob)] {
            // What cannot be removed now is found again when the image is opened next.
            drop(fs::remove_file(path));
        }
    }

    /// Forgets an image.
    pub fn drop_image(&self, image: &Digest) {
        drop(fs::remove_dir_all(self.layout(image)));
    }

    /// All of a blob that is here.
    pub fn read(&self, image: &Digest, blob: &Digest) -> Result<Vec<u8>, String> {
        let path = self.whole(image, blob);
        fs::read(&path).map_err(|error| tell("read", &path, &error))
    }

    /// Writes what makes the blobs an image layout, and returns its folder.
    pub fn complete(
        &self,
        image: &Digest,
        bytes: u64,
        media_type: &str,
        reference: &str,
    ) -> Result<PathBuf, String> {
        let folder = self.layout(image);
        let index = punnet_json::json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": [{
                "mediaType": media_type,
                "digest": image.to_string(),
                "size": bytes,
                "annotations": { "org.opencontainers.image.ref.name": reference },
            }],
        });
        let write = || {
            fs::write(folder.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;
            fs::write(folder.join("index.json"), punnet_json::to_vec(&index))
        };
        write().map_err(|error| tell("write", &folder, &error))?;
        Ok(folder)
    }
}

fn tell(operation: &str, path: &Path, error: &io::Error) -> String {
    format!("cannot {operation} {}: {error}", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(of: &[u8]) -> Digest {
        Digest(Sha256::digest(of).into())
    }

    async fn part(blobs: &Blobs, image: &Digest, blob: &Digest) -> (u64, Digest) {
        match blobs.open(image, blob, 0).await.unwrap() {
            Opened::Part { bytes, hash } => (bytes, Digest(hash.finalize().into())),
            Opened::Whole => panic!("it is whole"),
        }
    }

    fn run(test: impl Future<Output = ()>) {
        tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap()
            .block_on(test);
    }

    #[test]
    fn a_blob_is_taken_up_at_the_byte_where_it_was_left() {
        run(async {
            let folder = tempfile::tempdir().unwrap();
            let blobs = Blobs::new(folder.path());
            let (image, blob) = (Digest([1; 32]), digest(b"first second"));
            assert_eq!(part(&blobs, &image, &blob).await, (0, digest(b"")));
            assert_eq!(blobs.append(&image, &blob, 0, b"first").unwrap(), 5);
            let again = Blobs::new(folder.path());
            assert_eq!(again.partials(), [image]);
            assert_eq!(part(&again, &image, &blob).await, (5, digest(b"first")));
            assert!(
                again
                    .append(&image, &blob, 4, b"x")
                    .unwrap_err()
                    .contains("it has 5 bytes, 4 were expected")
            );
            assert_eq!(again.append(&image, &blob, 5, b" second").unwrap(), 12);
            again.finish(&image, &blob).unwrap();
            assert!(matches!(again.open(&image, &blob, 0).await, Ok(Opened::Whole)));
            assert_eq!(again.read(&image, &blob).unwrap(), b"first second");
            again.drop_image(&image);
            assert!(again.partials().is_empty());
        });
    }

    #[test]
    fn an_image_larger_than_the_disk_is_refused_before_it_is_fetched() {
        run(async {
            let folder = tempfile::tempdir().unwrap();
            let blobs = Blobs::new(folder.path());
            let error = blobs
                .open(&Digest([1; 32]), &Digest([2; 32]), u64::MAX / 2)
                .await
                .unwrap_err();
            assert!(error.contains("the disk is too full"), "{error}");
        });
    }

    #[test]
    fn a_complete_layout_names_the_manifest() {
        run(async {
            let folder = tempfile::tempdir().unwrap();
            let blobs = Blobs::new(folder.path());
            let image = digest(b"{}");
            part(&blobs, &image, &image).await;
            let layout = blobs.complete(&image, 2, "application/x", "hello:1").unwrap();
            let index: serde_json::Value =
                serde_json::from_slice(&fs::read(layout.join("index.json")).unwrap()).unwrap();
            assert_eq!(index["manifests"][0]["digest"], image.to_string());
            assert_eq!(index["manifests"][0]["size"], 2);
            assert!(layout.join("oci-layout").is_file());
        });
    }
}
