//! The identity of a stored file: what it is and what is in it.
//!
//! An object's name is SHA-256 over, in this order: `punnet-object-1` and a NUL byte; mode, uid, gid as little-endian u32; modification time as
//! i64 seconds and u32 nanoseconds; for each extended attribute in order of name the lengths (u32) of name and value and both; a u32 of
//! all ones; the size as u64; the content. So two images share a file only when nobody can tell the two apart.

use std::ffi::CString;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;

use nix::sys::stat::{Mode, fchmod, futimens};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, fchown, geteuid};
use sha2::{Digest as _, Sha256};

use crate::tar_stream::{Entry, EntryKind};

/// Bytes of one attribute's value and of the list of names: the kernel's own limits (xattr(7)).
const XATTR_BYTES_MAX: usize = 64 * 1024;

/// What a file is, beside its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metadata {
    mode: u32,
    uid: u32,
    gid: u32,
    mtime_seconds: i64,
    mtime_nanoseconds: u32,
    /// In order of name.
    xattrs: Xattrs,
}

/// Names and values of extended attributes.
pub type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

impl Metadata {
    /// As the archive has it, less what is not kept here (see [`super`]).
    pub fn of_entry(entry: &Entry) -> Self {
        let root = geteuid().is_root();
        let mut xattrs: Vec<_> = entry
            .xattrs
            .iter()
            .filter(|(name, _)| is_kept(name, root))
            .cloned()
            .collect();
        xattrs.sort_unstable();
        xattrs.dedup_by(|later, earlier| later.0 == earlier.0);
        let owner = |id| if root { id } else { 0 };
        // An ordinary user must be able to read what it verifies and to enter what it removes.
        let readable = match (root, entry.kind) {
            (true, _) => 0,
            (false, EntryKind::Directory) => 0o700,
            (false, _) => 0o400,
        };
        Self {
            mode: entry.mode & 0o7777 | readable,
            uid: owner(entry.uid),
            gid: owner(entry.gid),
            mtime_seconds: entry.mtime_seconds,
            mtime_nanoseconds: entry.mtime_nanoseconds,
            xattrs,
        }
    }

    /// As a stored file has it.
    pub fn of_file(file: &File) -> std::io::Result<Self> {
        let mut metadata = Self::of_link(&file.metadata()?);
        metadata.xattrs = read_xattrs(file.as_fd(), geteuid().is_root())?;
        Ok(metadata)
    }

    /// Gives a file this metadata. Owner first: a change of owner clears set-id bits and capabilities (chown(2)).
    pub fn apply(&self, file: BorrowedFd<'_>) -> nix::Result<()> {
        if geteuid().is_root() {
            fchown(file, Some(Uid::from_raw(self.uid)), Some(Gid::from_raw(self.gid)))?;
        }
        fchmod(file, Mode::from_bits_truncate(self.mode))?;
        for (name, value) in &self.xattrs {
            let name = CString::new(name.as_slice()).map_err(|_| nix::errno::Errno::EINVAL)?;
            punnet_sys::fsetxattr(file, &name, value)?;
        }
        let mtime = self.mtime();
        futimens(file, &mtime, &mtime)
    }

    /// Takes from a file the attributes that this metadata has not.
    pub fn remove_others(&self, file: BorrowedFd<'_>) -> std::io::Result<()> {
        for name in xattr_names(file)?.into_iter().filter(|name| is_minded(name)) {
            if !self.xattrs.iter().any(|(ours, _)| *ours == name) {
                punnet_sys::fremovexattr(file, &CString::new(name)?)?;
            }
        }
        Ok(())
    }

    /// As a stored symbolic link or named pipe has it: those have no attributes that are kept.
    pub fn of_link(metadata: &std::fs::Metadata) -> Self {
        let root = geteuid().is_root();
        let owner = |id| if root { id } else { 0 };
        Self {
            mode: metadata.mode() & 0o7777,
            uid: owner(metadata.uid()),
            gid: owner(metadata.gid()),
            mtime_seconds: metadata.mtime(),
            mtime_nanoseconds: u32::try_from(metadata.mtime_nsec()).unwrap_or(0),
            xattrs: Vec::new(),
        }
    }

    /// The same metadata with these attributes.
    pub fn with_xattrs(mut self, xattrs: Xattrs) -> Self {
        self.xattrs = xattrs;
        self
    }

    /// `<mode, octal> <uid> <gid> <seconds> <nanoseconds>`: all but attributes.
    pub fn to_text(&self) -> String {
        format!(
            "{:o} {} {} {} {}",
            self.mode, self.uid, self.gid, self.mtime_seconds, self.mtime_nanoseconds
        )
    }

    /// Reads what [`Self::to_text`] has written.
    pub fn from_text(text: &str) -> Option<Self> {
        let mut words = text.split(' ');
        let mut next = || words.next();
        let metadata = Self {
            mode: u32::from_str_radix(next()?, 8).ok()?,
            uid: next()?.parse().ok()?,
            gid: next()?.parse().ok()?,
            mtime_seconds: next()?.parse().ok()?,
            mtime_nanoseconds: next()?.parse().ok()?,
            xattrs: Vec::new(),
        };
        words.next().is_none().then_some(metadata)
    }

    /// What a directory has that no archive lists: the same wherever and whenever it is unpacked.
    pub fn of_implied_folder() -> Self {
        Self {
            mode: 0o755,
            uid: 0,
            gid: 0,
            mtime_seconds: 0,
            mtime_nanoseconds: 0,
            xattrs: Vec::new(),
        }
    }

    /// The modification time, seconds and nanoseconds.
    pub fn mtime_parts(&self) -> (i64, u32) {
        (self.mtime_seconds, self.mtime_nanoseconds)
    }

    /// Extended attributes in order of name.
    pub fn xattrs(&self) -> &[(Vec<u8>, Vec<u8>)] {
        &self.xattrs
    }

    /// The modification time.
    pub fn mtime(&self) -> TimeSpec {
        // Seconds beyond 32 bits are cut on boards whose time_t has no more.
        TimeSpec::new(self.mtime_seconds as _, self.mtime_nanoseconds as _)
    }

    /// Permission bits.
    pub fn mode(&self) -> Mode {
        Mode::from_bits_truncate(self.mode)
    }

    /// Owner and group.
    pub fn owner(&self) -> (Uid, Gid) {
        (Uid::from_raw(self.uid), Gid::from_raw(self.gid))
    }

    /// A hasher that has taken in the metadata and waits for the content.
    pub fn hasher(&self, size: u64) -> Sha256 {
        let mut hasher = Sha256::new();
        hasher.update(b"punnet-object-1\0");
        for number in [self.mode, self.uid, self.gid] {
            hasher.update(number.to_le_bytes());
        }
        hasher.update(self.mtime_seconds.to_le_bytes());
        hasher.update(self.mtime_nanoseconds.to_le_bytes());
        for (name, value) in &self.xattrs {
            for part in [name, value] {
                hasher.update(u32::try_from(part.len()).unwrap_or(u32::MAX).to_le_bytes());
            }
            hasher.update(name);
            hasher.update(value);
        }
        hasher.update(u32::MAX.to_le_bytes());
        hasher.update(size.to_le_bytes());
        hasher
    }
}

/// Attributes of overlayfs would let an image redirect lookups of its own mount; what is not `user.*` needs root.
fn is_kept(name: &[u8], root: bool) -> bool {
    (name.starts_with(b"user.") && !name.starts_with(b"user.overlay."))
        || (root && name == b"security.capability")
}

/// What changes what a file may do or what overlayfs makes of it: nobody but the store gives such to what is in it. Labels of security modules are the
/// device's own.
fn is_minded(name: &[u8]) -> bool {
    name.starts_with(b"user.") || name.starts_with(b"trusted.overlay.") || name == b"security.capability"
}

/// Whether somebody has given a file attributes that the store keeps of none.
pub fn has_foreign_xattrs(file: BorrowedFd<'_>) -> std::io::Result<bool> {
    let root = geteuid().is_root();
    let names = xattr_names(file)?;
    Ok(names.iter().any(|name| is_minded(name) && !is_kept(name, root)))
}

fn xattr_names(file: BorrowedFd<'_>) -> std::io::Result<Vec<Vec<u8>>> {
    let names_bytes = match punnet_sys::flistxattr(file, &mut []) {
        // A file system without attributes has none.
        Ok(0) | Err(nix::errno::Errno::EOPNOTSUPP) => return Ok(Vec::new()),
        other => other?.min(XATTR_BYTES_MAX),
    };
    let mut names = vec![0; names_bytes];
    let read = punnet_sys::flistxattr(file, &mut names)?;
    let words = names[..read].split(|&b| b == 0).filter(|name| !name.is_empty());
    Ok(words.map(<[u8]>::to_vec).collect())
}

/// The attributes that are kept, in order of name.
pub fn read_xattrs(file: BorrowedFd<'_>, root: bool) -> std::io::Result<Xattrs> {
    let mut xattrs = Xattrs::new();
    for name in xattr_names(file)?.into_iter().filter(|name| is_kept(name, root)) {
        let c_name = CString::new(name.as_slice())?;
        let mut value = vec![0; punnet_sys::fgetxattr(file, &c_name, &mut [])?.min(XATTR_BYTES_MAX)];
        let read = punnet_sys::fgetxattr(file, &c_name, &mut value)?;
        value.truncate(read);
        xattrs.push((name, value));
    }
    xattrs.sort_unstable();
    Ok(xattrs)
}
