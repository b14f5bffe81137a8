//! Network interfaces, and descriptors over Unix sockets.

use crate::Result;
use nix::errno::Errno;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// Brings the loopback interface of the caller's network namespace up, through any socket of it. netdevice(7)
pub fn loopback_up(socket: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: all fields of this plain C struct may be zero.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[0] = b'l' as libc::c_char;
    request.ifr_name[1] = b'o' as libc::c_char;
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: `request` is a live ifreq with a name that ends with a zero.
    Errno::result(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &raw const request) })?;
    Ok(())
}

/// Room for one control message with one descriptor, aligned as cmsghdr needs.
#[repr(C)]
union ControlBuffer {
    bytes: [u8; 64],
    align: libc::cmsghdr,
}

/// Receives bytes and at most one descriptor, which is close-on-exec. Zero bytes mean that the peer is gone. recvmsg(2)
pub fn recv_with_fd(socket: BorrowedFd<'_>, bytes: &mut [u8]) -> Result<(usize, Option<OwnedFd>)> {
    let mut control = ControlBuffer { bytes: [0; 64] };
    let mut part = libc::iovec {
        iov_base: bytes.as_mut_ptr().cast(),
        iov_len: bytes.len(),
    };
    // SAFETY: all fields of this plain C struct may be zero.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = (&raw mut control).cast();
    message.msg_controllen = size_of::<ControlBuffer>() as _;
    // SAFETY: `message` points to live buffers with their sizes.
    let received = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_CMSG_CLOEXEC) };
    let received = Errno::result(received)? as usize;
    // SAFETY: the kernel has filled in `message`.
    let header = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
    if header.is_null() {
        return Ok((received, None));
    }
    // SAFETY: CMSG_FIRSTHDR gave a header inside our buffer.
    let (level, kind) = unsafe { ((*header).cmsg_level, (*header).cmsg_type) };
    if level != libc::SOL_SOCKET || kind != libc::SCM_RIGHTS {
        return Ok((received, None));
    }
    // SAFETY: an SCM_RIGHTS message carries at least one descriptor number, which is ours now.
    let fd = unsafe { OwnedFd::from_raw_fd(libc::CMSG_DATA(header).cast::<libc::c_int>().read_unaligned()) };
    Ok((received, Some(fd)))
}
