//! The state document: what `state` prints and hooks read.

use punnet_json::{FromJson, Map, ToJson};

/// Where a container is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ToJson, FromJson)]
#[json(rename_all = "lowercase")]
pub enum Status {
    /// `create` has not ended.
    Creating,
    /// Waits for `start`.
    Created,
    /// The program runs.
    Running,
    /// Its processes are suspended: beyond the specification's four, in runc's word.
    Paused,
    /// The program ended.
    Stopped,
}

impl Status {
    /// The specification's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        }
    }
}

/// State of one container.
#[derive(Clone, Debug, PartialEq, Eq, ToJson, FromJson)]
#[json(rename_all = "camelCase")]
pub struct State {
    /// Version of the specification this document follows.
    pub oci_version: String,
    /// The container's id.
    pub id: String,
    /// Where in its life.
    pub status: Status,
    /// Process id of the container's init on the host; absent when stopped.
    #[json(default, skip_if_empty)]
    pub pid: Option<i32>,
    /// Absolute path of the bundle.
    pub bundle: String,
    /// From config.json.
    #[json(default, skip_if_empty)]
    pub annotations: Map<String>,
}

/// What a seccomp listener is told beside the descriptor of the filter.
/// <https://github.com/opencontainers/runtime-spec/blob/main/config-linux.md#the-container-process-state>
#[derive(Clone, Debug, PartialEq, Eq, ToJson, FromJson)]
#[json(rename_all = "camelCase")]
pub struct ContainerProcessState {
    /// Version of the specification this document follows.
    pub oci_version: String,
    /// Names of the descriptors that are sent along.
    #[json(default)]
    pub fds: Vec<String>,
    /// The process under the filter, as the runtime sees it.
    pub pid: i32,
    /// `linux.seccomp.listenerMetadata`.
    #[json(default, skip_if_empty)]
    pub metadata: String,
    /// The container.
    pub state: State,
}
