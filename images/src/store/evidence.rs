//! The signatures that came with an image, or that were made here: `signatures/<manifest hex>` holds them, unchecked. They are looked at before each start.

use std::fs;
use std::io;

use super::{Image, Store, sync_folder, write_durably};
use crate::signature::{Evidence, Signature};
use crate::{Digest, Error, Result};

impl Store {
    /// What is known of where an image comes from.
    pub fn evidence(&self, manifest: &Digest) -> Result<Evidence> {
        let path = self.evidence_path(manifest);
        match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Evidence::default()),
            Err(error) => Err(Error::io("read", &path, error)),
            Ok(bytes) => Evidence::from_json(&bytes),
        }
    }

    /// Adds to it; what is known already is not written again.
    pub fn add_evidence(&self, manifest: &Digest, more: &Evidence) -> Result<()> {
        // What cannot be read proves nothing: it is replaced.
        let mut all = self.evidence(manifest).unwrap_or_default();
        let before = all.clone();
        let new = |known: &[Signature], one: &&Signature| !known.contains(one);
        all.signatures.extend(
            more.signatures
                .iter()
                .filter(|one| new(&before.signatures, one))
                .cloned(),
        );
        all.indexes.extend(
            more.indexes
                .iter()
                .filter(|one| !before.indexes.contains(one))
                .cloned(),
        );
        if all == before {
            return Ok(());
        }
        let folder = self.root.join("signatures");
        fs::create_dir_all(&folder).map_err(Error::at("create", &folder))?;
        sync_folder(&self.root)?;
        write_durably(&self.evidence_path(manifest), &all.to_json())
    }

    /// Adds a signature to an image.
    pub fn sign(&self, image: &Image, signature: Signature) -> Result<()> {
        let evidence = Evidence {
            signatures: vec![signature],
            indexes: Vec::new(),
        };
        self.add_evidence(&image.manifest, &evidence)
    }

    fn evidence_path(&self, manifest: &Digest) -> std::path::PathBuf {
        self.root.join("signatures").join(manifest.hex())
    }

    /// Signatures of images that are gone, and files that were being written.
    pub(super) fn remove_unused_evidence(&self) -> Result<()> {
        let folder = self.root.join("signatures");
        if !folder.is_dir() {
            return Ok(());
        }
        for path in super::entries(&folder)? {
            let name = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            if Digest::from_hex(&name).is_none_or(|digest| !self.folder(&digest).is_dir()) {
                fs::remove_file(&path).map_err(Error::at("remove", &path))?;
            }
        }
        Ok(())
    }
}
