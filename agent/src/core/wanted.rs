//! An app of a desired state as the planner needs it; all else stays encoded until its container is made.

use std::sync::Arc;

use punnet_boards::slots::DEVICE_CLASS;
use punnet_protocol::{App, Digest, Name, RestartPolicy};
use sha2::{Digest as _, Sha256};

/// Largest manifest fetched: containerd and docker refuse more than 4 MiB; an image for a board has a few layers.
pub const MANIFEST_BYTES_MAX: u32 = 256 * 1024;

/// One app that shall run.
#[derive(Clone, Debug, PartialEq)]
pub struct Wanted {
    pub name: Name,
    /// SHA-256 of `encoded`: another spec is another container.
    pub spec: Digest,
    pub image: Digest,
    pub manifest_bytes: u32,
    pub total_bytes: u64,
    pub reference: String,
    pub restart: RestartPolicy,
    pub stop_timeout_ms: u32,
    pub soak_ms: u32,
    /// The board's own system, no container.
    pub is_system: bool,
    pub encoded: Arc<[u8]>,
}

impl Wanted {
    pub fn new(app: &App, encoded: &[u8]) -> Self {
        Self {
            name: app.name.clone(),
            spec: Digest(Sha256::digest(encoded).into()),
            image: app.image.manifest,
            manifest_bytes: app.image.manifest_bytes,
            total_bytes: app.image.total_bytes,
            reference: app.image.reference.as_str().to_owned(),
            restart: app.restart,
            stop_timeout_ms: app.stop_timeout_ms,
            soak_ms: app.soak_ms,
            is_system: is_system(app),
            encoded: encoded.into(),
        }
    }
}

/// Longest soak of a system: within the time that PID 1 gives it (init/src/supervisor.rs).
const SYSTEM_SOAK_MS_MAX: u32 = 1_200_000;

fn is_system(app: &App) -> bool {
    app.device_classes
        .iter()
        .any(|class| class.as_str() == DEVICE_CLASS)
}

/// Why a well-formed app cannot be run on any device; `None` when it can.
pub fn objection(app: &App) -> Option<String> {
    let name = &app.name;
    if app.image.manifest_bytes == 0 || app.image.manifest_bytes > MANIFEST_BYTES_MAX {
        let bytes = app.image.manifest_bytes;
        return Some(format!(
            "{name}: a manifest of {bytes} bytes; 1 to {MANIFEST_BYTES_MAX} are taken"
        ));
    }
    if app.image.total_bytes < u64::from(app.image.manifest_bytes) {
        return Some(format!("{name}: total_bytes is less than manifest_bytes"));
    }
    if is_system(app) && (app.restart != RestartPolicy::Never || app.soak_ms > SYSTEM_SOAK_MS_MAX) {
        return Some(format!(
            "{name}: a system (device class {DEVICE_CLASS}) is tried once: restart policy never, soak at most {} s",
            SYSTEM_SOAK_MS_MAX / 1000
        ));
    }
    if let Some(bad) = app
        .env
        .iter()
        .find(|pair| pair.find('=').is_none_or(|at| at == 0))
    {
        return Some(format!("{name}: environment entry {bad:?} is not KEY=VALUE"));
    }
    for path in app.mounts.iter().flat_map(|mount| [&mount.source, &mount.target]) {
        // `punnet create` takes SOURCE:TARGET.
        if !path.starts_with('/') || path.contains([':', '\0']) {
            return Some(format!(
                "{name}: mount path {path:?} must be absolute and without ':'"
            ));
        }
    }
    None
}
