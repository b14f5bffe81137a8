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

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The specification's version that these types follow.
pub const OCI_VERSION: &str = "1.3.0";

/// Any JSON: for fields that are only ever refused by name.
pub use serde_json::Value;

pub(crate) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// `config.json` of a bundle.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Spec {
    /// Version of the specification the file follows.
    pub oci_version: String,
    /// What to run. Needed by `start`, not by `create`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<Process>,
    /// The root file system, unless a mount with destination `/` brings it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root: Option<Root>,
    /// Host name inside the uts namespace.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub hostname: String,
    /// NIS domain name inside the uts namespace.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub domainname: String,
    /// Mounts beyond the root, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mounts: Vec<Mount>,
    /// Programs run at points of the container's life.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hooks: Option<Hooks>,
    /// Free key-value pairs.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Everything particular to Linux.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub linux: Option<Linux>,
    /// Other systems' settings: never used here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vm: Option<Value>,
}

impl Spec {
    /// Reads a `config.json`. The error names line, column and what was expected.
    pub fn from_json(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(bytes)
    }

    /// Writes a `config.json`, indented for people.
    pub fn to_json(&self) -> Result<Vec<u8>, serde_json::Error> {
        serde_json::to_vec_pretty(self)
    }
}

/// The root file system.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Root {
    /// Absolute, or relative to the bundle.
    pub path: String,
    /// Remount the root read-only before the program starts.
    #[serde(default, skip_serializing_if = "is_default")]
    pub readonly: bool,
}

/// One mount.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Mount {
    /// Absolute path inside the container.
    pub destination: String,
    /// File system type; `bind` or `none` for a bind mount.
    #[serde(default, rename = "type", skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// Device, directory or a name; a relative path is relative to the bundle.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub source: String,
    /// Options as in fstab(5), and the specification's own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
    /// Mapping of an id-mapped mount.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub uid_mappings: Vec<IdMapping>,
    /// Mapping of an id-mapped mount.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gid_mappings: Vec<IdMapping>,
}

/// Hooks of all six kinds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Hooks {
    /// Deprecated: run in the runtime's namespaces after the namespaces are there.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub prestart: Vec<Hook>,
    /// Run in the runtime's namespaces during `create`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub create_runtime: Vec<Hook>,
    /// Run in the container's namespaces during `create`, before pivot_root.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub create_container: Vec<Hook>,
    /// Run in the container's namespaces during `start`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub start_container: Vec<Hook>,
    /// Run in the runtime's namespaces after `start`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub poststart: Vec<Hook>,
    /// Run in the runtime's namespaces after `delete`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub poststop: Vec<Hook>,
}

/// One program to run, with the container's state on its standard input.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hook {
    /// Absolute path of the program.
    pub path: String,
    /// argv, including argv\[0\].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// Whole environment.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    /// Seconds until the hook is killed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<i64>,
}
