//! OCI runtime-spec 1.3 types: `config.json` and the state document.
//!
//! Shapes only. Words with a fixed set of values (namespace types, seccomp actions, mount options) stay strings here: the
//! runtime parses them once, when it plans, and names the one it does not know. Unknown fields are ignored, as the
//! specification demands; every field the specification has is here, so that one we do not support can be refused by name.
//! Fields of other systems and the ones we always refuse are kept as raw JSON.
//!
//! <https://github.com/opencontainers/runtime-spec/blob/main/config.md>
#![forbid(unsafe_code)]

mod defaults;
mod linux;
mod names;
mod process;
mod state;

pub use defaults::{DEFAULT_CAPABILITIES, DEFAULT_PATH, MASKED_PATHS, READONLY_PATHS, default_mounts};
pub use linux::*;
pub use names::Names;
pub use process::*;
pub use state::*;

use punnet_json::{FromJson, Map, ToJson};

/// The specification's version that these types follow.
pub const OCI_VERSION: &str = "1.3.0";

/// Any JSON: for fields that are only ever refused by name.
pub use punnet_json::Value;

/// `config.json` of a bundle.
#[derive(Clone, Debug, Default, PartialEq, ToJson, FromJson)]
#[json(rename_all = "camelCase")]
pub struct Spec {
    /// Version of the specification the file follows.
    pub oci_version: String,
    /// What to run. Needed by `start`, not by `create`.
    #[json(default, skip_if_empty)]
    pub process: Option<Process>,
    /// The root file system, unless a mount with destination `/` brings it.
    #[json(default, skip_if_empty)]
    pub root: Option<Root>,
    /// Host name inside the uts namespace.
    #[json(default, skip_if_empty)]
    pub hostname: String,
    /// NIS domain name inside the uts namespace.
    #[json(default, skip_if_empty)]
    pub domainname: String,
    /// Mounts beyond the root, in order.
    #[json(default, skip_if_empty)]
    pub mounts: Vec<Mount>,
    /// Programs run at points of the container's life.
    #[json(default, skip_if_empty)]
    pub hooks: Option<Hooks>,
    /// Free key-value pairs.
    #[json(default, skip_if_empty)]
    pub annotations: Map<String>,
    /// Everything particular to Linux.
    #[json(default, skip_if_empty)]
    pub linux: Option<Linux>,
    /// Other systems' settings: never used here.
    #[json(default, skip_if_empty)]
    pub vm: Option<Value>,
}

impl Spec {
    /// Reads a `config.json`. The error names line, column and what was expected.
    pub fn from_json(bytes: &[u8]) -> Result<Self, punnet_json::Error> {
        punnet_json::from_slice(bytes)
    }

    /// Writes a `config.json`, indented for people.
    pub fn to_json(&self) -> Vec<u8> {
        punnet_json::to_vec_pretty(self)
    }
}

/// The root file system.
#[derive(Clone, Debug, Default, PartialEq, Eq, ToJson, FromJson)]
pub struct Root {
    /// Absolute, or relative to the bundle.
    pub path: String,
    /// Remount the root read-only before the program starts.
    #[json(default, skip_if_empty)]
    pub readonly: bool,
}

/// One mount.
#[derive(Clone, Debug, Default, PartialEq, Eq, ToJson, FromJson)]
#[json(rename_all = "camelCase")]
pub struct Mount {
    /// Absolute path inside the container.
    pub destination: String,
    /// File system type; `bind` or `none` for a bind mount.
    #[json(default, rename = "type", skip_if_empty)]
    pub kind: String,
    /// Device, directory or a name; a relative path is relative to the bundle.
    #[json(default, skip_if_empty)]
    pub source: String,
    /// Options as in fstab(5), and the specification's own.
    #[json(default, skip_if_empty)]
    pub options: Vec<String>,
    /// Mapping of an id-mapped mount.
    #[json(default, skip_if_empty)]
    pub uid_mappings: Vec<IdMapping>,
    /// Mapping of an id-mapped mount.
    #[json(default, skip_if_empty)]
    pub gid_mappings: Vec<IdMapping>,
}

/// Hooks of all six kinds.
#[derive(Clone, Debug, Default, PartialEq, Eq, ToJson, FromJson)]
#[json(rename_all = "camelCase", default)]
pub struct Hooks {
    /// Deprecated: run in the runtime's namespaces after the namespaces are there.
    #[json(skip_if_empty)]
    pub prestart: Vec<Hook>,
    /// Run in the runtime's namespaces during `create`.
    #[json(skip_if_empty)]
    pub create_runtime: Vec<Hook>,
    /// Run in the container's namespaces during `create`, before pivot_root.
    #[json(skip_if_empty)]
    pub create_container: Vec<Hook>,
    /// Run in the container's namespaces during `start`.
    #[json(skip_if_empty)]
    pub start_container: Vec<Hook>,
    /// Run in the runtime's namespaces after `start`.
    #[json(skip_if_empty)]
    pub poststart: Vec<Hook>,
    /// Run in the runtime's namespaces after `delete`.
    #[json(skip_if_empty)]
    pub poststop: Vec<Hook>,
}

/// One program to run, with the container's state on its standard input.
#[derive(Clone, Debug, Default, PartialEq, Eq, ToJson, FromJson)]
pub struct Hook {
    /// Absolute path of the program.
    pub path: String,
    /// argv, including argv\[0\].
    #[json(default, skip_if_empty)]
    pub args: Vec<String>,
    /// Whole environment.
    #[json(default, skip_if_empty)]
    pub env: Vec<String>,
    /// Seconds until the hook is killed.
    #[json(default, skip_if_empty)]
    pub timeout: Option<i64>,
}
