//! The socket between the runtime and the process that becomes the container, during set-up. One letter a message; it is
//! close-on-exec, so its end without a message is execve(2)'s success. unix(7), SOCK_SEQPACKET

use crate::error::{Error, OsContext, Result};
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, send, sendmsg, socketpair,
};
use std::io::IoSlice;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// Longest message: an error with two paths.
const MESSAGE_BYTES_MAX: usize = 16 * 1024;

/// What one side tells the other.
#[derive(Debug)]
pub(crate) enum Message {
    /// Go on.
    Go,
    /// The namespaces are there: run the hooks of this point.
    Hooks,
    /// The pseudo terminal's master.
    Terminal(OwnedFd),
    /// The process is `pid` (told by a process that has joined namespaces for it).
    Pid(i32),
    /// Set up; waits to be started.
    Ready,
    /// Set-up failed.
    Failed(Box<Error>),
    /// The other side is gone.
    Closed,
}

/// One end.
#[derive(Debug)]
pub(crate) struct Channel(OwnedFd);

impl Channel {
    pub fn pair() -> Result<(Self, Self)> {
        let (ours, theirs) = socketpair(
            AddressFamily::Unix,
            SockType::SeqPacket,
            None,
            SockFlag::SOCK_CLOEXEC,
        )
        .os("make", "a socket pair")?;
        Ok((Self(ours), Self(theirs)))
    }

    /// Sends a message. A peer that is gone shows at the next `receive`.
    pub fn send(&self, message: &Message) -> Result<()> {
        let bytes = match message {
            Message::Go => b"G".to_vec(),
            Message::Hooks => b"H".to_vec(),
            Message::Ready => b"R".to_vec(),
            Message::Pid(pid) => format!("P{pid}").into_bytes(),
            Message::Terminal(_) => b"T".to_vec(),
            Message::Failed(error) => error.encode(),
            Message::Closed => return Ok(()),
        };
        let bytes = &bytes[..bytes.len().min(MESSAGE_BYTES_MAX)];
        if let Message::Terminal(master) = message {
            return send_fd(self.0.as_fd(), bytes, master.as_fd());
        }
        send(self.0.as_raw_fd(), bytes, MsgFlags::MSG_NOSIGNAL).os("send to", "the set-up socket")?;
        Ok(())
    }

    /// Waits for a message.
    pub fn receive(&self) -> Result<Message> {
        let mut bytes = vec![0; MESSAGE_BYTES_MAX];
        let (length, fd) = loop {
            match punnet_sys::recv_with_fd(self.0.as_fd(), &mut bytes) {
                Err(nix::errno::Errno::EINTR) => {}
                // A peer that ended with unread messages in its queue resets the connection.
                Err(nix::errno::Errno::ECONNRESET) => break (0, None),
                result => break result.os("receive from", "the set-up socket")?,
            }
        };
        let bytes = &bytes[..length];
        Ok(match (bytes.first(), fd) {
            (None, _) => Message::Closed,
            (Some(b'G'), _) => Message::Go,
            (Some(b'H'), _) => Message::Hooks,
            (Some(b'R'), _) => Message::Ready,
            (Some(b'T'), Some(master)) => Message::Terminal(master),
            (Some(b'P'), _) => {
                let pid = std::str::from_utf8(&bytes[1..])
                    .ok()
                    .and_then(|text| text.parse().ok());
                pid.map_or_else(|| Message::Failed(Error::decode(bytes)), Message::Pid)
            }
            _ => Message::Failed(Error::decode(bytes)),
        })
    }

    /// Waits for `Go`; anything else means that the runtime has given up.
    pub fn wait_for_go(&self) -> Result<()> {
        match self.receive()? {
            Message::Go => Ok(()),
            _ => Err(Error::Setup("the runtime ended before the container was set up".to_owned()).into()),
        }
    }
}

/// Sends bytes with one descriptor. sendmsg(2), SCM_RIGHTS
pub(crate) fn send_fd(socket: BorrowedFd<'_>, bytes: &[u8], fd: BorrowedFd<'_>) -> Result<()> {
    let fds = [fd.as_raw_fd()];
    let control = [ControlMessage::ScmRights(&fds)];
    sendmsg::<()>(
        socket.as_raw_fd(),
        &[IoSlice::new(bytes)],
        &control,
        MsgFlags::MSG_NOSIGNAL,
        None,
    )
    .os("send", "the terminal's descriptor")?;
    Ok(())
}
