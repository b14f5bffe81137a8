//! Seccomp user notification: hands the descriptor of the filter to whoever listens on `linux.seccomp.listenerPath`.
//! <https://github.com/opencontainers/runtime-spec/blob/main/config-linux.md#the-container-process-state>

use crate::error::{OsContext, Result};
use crate::host::HostProc;
use crate::seccomp::{Filter, Notify};
use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use punnet_spec::{ContainerProcessState, OCI_VERSION, State, Status};
use std::io::IoSlice;
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

/// A connection to the listener, made while its path can still be seen. It lasts for one filter and ends at execve(2).
#[derive(Debug)]
pub(crate) struct Listener<'a> {
    socket: UnixStream,
    notify: &'a Notify,
}

impl<'a> Listener<'a> {
    /// Connects, when the filter notifies.
    pub fn connect(filter: Option<&'a Filter>) -> Result<Option<Self>> {
        let Some(notify) = filter.and_then(|filter| filter.notify.as_ref()) else {
            return Ok(None);
        };
        let socket = UnixStream::connect(&notify.listener_path)
            .os("connect to linux.seccomp.listenerPath", &notify.listener_path)?;
        Ok(Some(Self { socket, notify }))
    }

    /// Installs the filter that notifies and sends its descriptor. From the first to the last line the only call is the one that sends.
    pub fn install(&self, proc: &HostProc, state: &State) -> Result<()> {
        let mut state = state.clone();
        let pid = proc.own_pid()?;
        if state.status == Status::Creating {
            (state.status, state.pid) = (Status::Created, Some(pid));
        }
        let document = ContainerProcessState {
            oci_version: OCI_VERSION.to_owned(),
            fds: vec!["seccompFd".to_owned()],
            pid,
            metadata: self.notify.listener_metadata.clone(),
            state,
        };
        let bytes = punnet_json::to_vec(&document);
        let filter = punnet_sys::seccomp_set_mode_filter_listener(&self.notify.program, self.notify.flags)
            .os("install", "the seccomp filter that notifies")?;
        let fds = [filter.as_raw_fd()];
        let control = [ControlMessage::ScmRights(&fds)];
        let parts = [IoSlice::new(&bytes)];
        let sent = sendmsg::<()>(
            self.socket.as_raw_fd(),
            &parts,
            &control,
            MsgFlags::MSG_NOSIGNAL,
            None,
        );
        // Closed before an error is told: with a listener that nobody has, telling could wait for ever.
        drop(filter);
        match sent {
            // One document a connection: the listener may read to its end.
            Ok(length) if length == bytes.len() => self
                .socket
                .shutdown(Shutdown::Write)
                .os("tell the seccomp listener", &self.notify.listener_path),
            Ok(_) => Err(Errno::EMSGSIZE).os("tell the seccomp listener", &self.notify.listener_path),
            Err(errno) => Err(errno).os("tell the seccomp listener", &self.notify.listener_path),
        }
    }
}
