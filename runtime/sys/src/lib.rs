//! The system calls that `nix` lacks. One function is one system call (or one command of a multiplexed one), named after it; file
//! descriptors come and go as `OwnedFd` and `BorrowedFd`. No policy: what to call in which order stands in punnet-runtime.
//!
//! This is the only crate with `unsafe`.

mod auxv;
mod block;
mod bpf;
mod caps;
mod landlock;
mod lock;
mod memory;
mod mount;
mod net;
mod process;
mod seccomp;
mod trap;
mod tty;
mod xattr;

pub use auxv::*;
pub use block::*;
pub use bpf::*;
pub use caps::*;
pub use landlock::*;
pub use lock::*;
pub use memory::*;
pub use mount::*;
pub use net::*;
pub use process::*;
pub use seccomp::*;
pub use trap::*;
pub use tty::*;
pub use xattr::*;

/// What every function here returns.
pub type Result<T> = nix::Result<T>;

/// Turns the kernel's -1 into its errno.
fn check(result: libc::c_long) -> Result<libc::c_long> {
    nix::errno::Errno::result(result)
}
