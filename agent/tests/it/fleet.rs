//! A fleet's side, as small as tests need it: keys, images, signed messages, blocks.

use std::collections::BTreeMap;

use punnet_protocol::*;
use ring::signature::{Ed25519KeyPair, KeyPair};
use serde::Serialize;
use sha2::{Digest as _, Sha256};

pub fn name(text: &str) -> Name {
    text.parse().unwrap()
}

pub fn digest(bytes: &[u8]) -> Digest {
    Digest(Sha256::digest(bytes).into())
}

/// A fleet called `home` with a device called `kitchen`.
pub struct Fleet {
    key: Ed25519KeyPair,
    /// All blobs of all images.
    pub blobs: BTreeMap<Digest, Vec<u8>>,
}

impl Fleet {
    pub fn new() -> Self {
        Self {
            key: Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap(),
            blobs: BTreeMap::new(),
        }
    }

    pub fn public_key(&self) -> [u8; 32] {
        self.key.public_key().as_ref().try_into().unwrap()
    }

    /// An image with layers of these sizes, other content for another `seed`.
    pub fn image(&mut self, seed: u8, layer_bytes: &[usize]) -> ImageSource {
        let mut total_bytes = 0;
        let mut blob = |bytes: Vec<u8>| {
            let descriptor = format!(
                r#"{{"mediaType":"x","digest":"{}","size":{}}}"#,
                digest(&bytes),
                bytes.len()
            );
            total_bytes += bytes.len() as u64;
            self.blobs.insert(digest(&bytes), bytes);
            descriptor
        };
        let config = blob(format!(r#"{{"seed":{seed}}}"#).into_bytes());
        let layers: Vec<_> = layer_bytes
            .iter()
            .enumerate()
            .map(|(at, &bytes)| blob(content(seed, at as u8, bytes)))
            .collect();
        let manifest = format!(
            r#"{{"schemaVersion":2,"config":{config},"layers":[{}]}}"#,
            layers.join(",")
        )
        .into_bytes();
        total_bytes += manifest.len() as u64;
        let source = ImageSource {
            reference: clipped(&format!("image:{seed}")),
            manifest: digest(&manifest),
            manifest_bytes: manifest.len() as u32,
            total_bytes,
        };
        self.blobs.insert(source.manifest, manifest);
        source
    }

    pub fn desired(&self, generation: u64, apps: &[App]) -> Vec<u8> {
        self.desired_for("home", "kitchen", generation, apps)
    }

    pub fn desired_for(&self, fleet: &str, device: &str, generation: u64, apps: &[App]) -> Vec<u8> {
        let (fleet, device) = (name(fleet), name(device));
        let apps = heapless::Vec::from_slice(apps).unwrap();
        self.signed(&Desired {
            fleet,
            device,
            generation,
            signed_at_s: 1_790_000_000 + generation,
            apps,
        })
    }

    pub fn command(&self, session: u64, id: u64, action: CommandAction) -> Vec<u8> {
        self.signed(&Command {
            fleet: name("home"),
            device: name("kitchen"),
            session,
            id,
            action,
        })
    }

    pub fn signed<T: signed::Signed>(&self, message: &T) -> Vec<u8> {
        let mut buffer = vec![0; PAYLOAD_BYTES_MAX];
        let sign = |bytes: &[u8]| self.key.sign(bytes).as_ref().try_into().unwrap();
        signed::encode(message, &mut buffer, sign).unwrap().to_vec()
    }

    /// The answer to a request for a block.
    pub fn block(&self, want: &BlockWant) -> Vec<u8> {
        let Some(bytes) = self.blobs.get(&want.blob) else {
            return encoded(&BlockAnswer::Refused {
                blob: want.blob,
                reason: BlockRefusal::Unknown,
            });
        };
        let end = want.offset as usize + want.length as usize;
        let data = bytes
            .get(want.offset as usize..end)
            .expect("the agent asks within the blob");
        encoded(&BlockAnswer::Data(Block {
            blob: want.blob,
            offset: want.offset,
            total_bytes: bytes.len() as u64,
            data: heapless::Vec::from_slice(data).unwrap(),
        }))
    }
}

pub fn encoded<T: Serialize>(message: &T) -> Vec<u8> {
    let mut buffer = vec![0; PAYLOAD_BYTES_MAX];
    envelope::encode(message, &mut buffer).unwrap().to_vec()
}

/// An app that runs for ever; `version` makes another spec of it.
pub fn app(of: &str, image: &ImageSource, version: u32) -> App {
    App {
        name: name(of),
        image: image.clone(),
        entrypoint: Strings::default(),
        args: Strings::new([version.to_string()]).unwrap(),
        env: Strings::default(),
        network: Network::None,
        restart: RestartPolicy::Always,
        limits: Limits::default(),
        device_classes: heapless::Vec::new(),
        mounts: heapless::Vec::new(),
        read_only: false,
        stop_timeout_ms: 1000,
        soak_ms: 5000,
    }
}

pub fn spec(app: &App) -> Digest {
    digest(&postcard::to_allocvec(app).unwrap())
}

/// What a device at rest says of itself.
pub fn board() -> BoardInfo {
    BoardInfo {
        arch: Arch::ArmV6,
        agent_version: clipped("0"),
        board: clipped("test"),
        kernel: clipped("6"),
        memory_bytes: 1,
        disk_free_bytes: 1,
    }
}

fn content(seed: u8, layer: u8, bytes: usize) -> Vec<u8> {
    (0..bytes)
        .map(|at| (at as u8).wrapping_mul(31) ^ seed ^ layer.wrapping_mul(97) ^ (at >> 8) as u8)
        .collect()
}
