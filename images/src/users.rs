//! Users and groups of an image: /etc/passwd and /etc/group of its tree, read as data that anyone may have written (passwd(5), group(5)).

use std::fs::File;
use std::io::Read;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::sys::stat::Mode;

use crate::{Error, Result};

/// Bytes of a passwd or group file that are looked at: tens of thousands of users.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Groups of one user: the kernel's NGROUPS_MAX is 65536, no image uses more than a few.
const GROUPS_MAX: usize = 256;

/// The two files as text; empty where there is none.
#[derive(Clone, Debug, Default)]
pub struct Users {
    passwd: String,
    group: String,
}

/// Who a process runs as.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resolved {
    /// The ids.
    pub ids: punnet_spec::User,
    /// The home directory, `/` when nothing is known.
    pub home: String,
}

impl std::ops::Deref for Resolved {
    type Target = punnet_spec::User;
    fn deref(&self) -> &punnet_spec::User {
        &self.ids
    }
}

impl Users {
    /// Reads the files of a tree; a link in it cannot lead out of it.
    pub fn read(rootfs: &Path) -> Result<Self> {
        let flags = OFlag::O_DIRECTORY | OFlag::O_PATH | OFlag::O_CLOEXEC;
        let root = open(rootfs, flags, Mode::empty()).map_err(Error::at("open", rootfs))?;
        let read = |name: &str| {
            let how = OpenHow::new()
                .flags(OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC)
                .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
            match openat2(&root, name, how) {
                Err(Errno::ENOENT | Errno::ENOTDIR) => Ok(String::new()),
                other => Self::read_file(File::from(other.map_err(Error::at("open", name))?)),
            }
        };
        Ok(Self::of(read("etc/passwd")?, read("etc/group")?))
    }

    /// The texts of the two files.
    pub(crate) fn of(passwd: String, group: String) -> Self {
        Self { passwd, group }
    }

    /// Reads one of the two, as far as it is looked at; what is no regular file is empty.
    pub(crate) fn read_file(file: File) -> Result<String> {
        let failed = |error| Error::io("read", "etc/passwd or etc/group", error);
        if !file.metadata().map_err(failed)?.is_file() {
            return Ok(String::new());
        }
        let mut bytes = Vec::new();
        file.take(FILE_BYTES_MAX)
            .read_to_end(&mut bytes)
            .map_err(failed)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// `USER[:GROUP]`, names or numbers; empty is root. A number needs no entry, a name does.
    pub fn resolve(&self, text: &str) -> Result<Resolved> {
        let (user, group) = text
            .split_once(':')
            .map_or((text, None), |(user, group)| (user, Some(group)));
        let unknown = |what: &str, name: &str| {
            Box::new(Error::Run(format!(
                "the image has no {what} {name:?} (its /etc/passwd and /etc/group were looked at)"
            )))
        };
        let user = if user.is_empty() { "0" } else { user };
        let number = user.parse::<u32>().ok();
        // name:password:uid:gid:comment:home:shell
        let entry = self.passwd.lines().map(fields).find(|entry| match number {
            Some(uid) => entry.get(2).and_then(|field| field.parse().ok()) == Some(uid),
            None => entry.first() == Some(&user),
        });
        let field = |index: usize| entry.as_ref().and_then(|entry| entry.get(index)).copied();
        let id = |index: usize| field(index).and_then(|field| field.parse::<u32>().ok());
        let uid = number.or_else(|| id(2)).ok_or_else(|| unknown("user", user))?;
        let gid = match group.filter(|group| !group.is_empty()) {
            Some(group) => self.group_id(group).ok_or_else(|| unknown("group", group))?,
            None => id(3).unwrap_or(0),
        };
        // Docker gives the further groups only when none is asked for.
        let additional_gids = if group.is_none() {
            self.groups_of(field(0).unwrap_or_default(), gid)
        } else {
            Vec::new()
        };
        let home = field(5)
            .filter(|home| home.starts_with('/'))
            .unwrap_or(if uid == 0 { "/root" } else { "/" });
        let ids = punnet_spec::User {
            uid,
            gid,
            additional_gids,
            ..punnet_spec::User::default()
        };
        Ok(Resolved {
            ids,
            home: home.into(),
        })
    }

    fn group_id(&self, group: &str) -> Option<u32> {
        if let Ok(gid) = group.parse() {
            return Some(gid);
        }
        let mut entries = self.group.lines().map(fields);
        entries
            .find(|entry| entry.first() == Some(&group))?
            .get(2)?
            .parse()
            .ok()
    }

    fn groups_of(&self, name: &str, gid: u32) -> Vec<u32> {
        if name.is_empty() {
            return Vec::new();
        }
        // name:password:gid:member,member
        let has = |entry: &Vec<&str>| {
            entry
                .get(3)
                .is_some_and(|members| members.split(',').any(|member| member == name))
        };
        let ids = self
            .group
            .lines()
            .map(fields)
            .filter(has)
            .filter_map(|entry| entry.get(2)?.parse().ok());
        ids.filter(|&id| id != gid).take(GROUPS_MAX).collect()
    }
}

fn fields(line: &str) -> Vec<&str> {
    line.splitn(8, ':').collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn users() -> Users {
        Users {
            passwd: "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34:web:/var/www:/bin/false\nbroken\n:::\nbad:x:many:1::/x:\n".into(),
            group: "root:x:0:\nweb:x:34:\nvideo:x:44:web,other\ngpio:x:997:web\nbroken\n".into(),
        }
    }

    #[test]
    fn names_and_numbers_are_looked_up() {
        let ids = |text: &str| {
            let found = users().resolve(text).unwrap();
            (found.uid, found.gid, found.additional_gids.clone(), found.home)
        };
        assert_eq!(ids(""), (0, 0, vec![], "/root".into()));
        assert_eq!(ids("web"), (33, 34, vec![44, 997], "/var/www".into()));
        assert_eq!(ids("33"), (33, 34, vec![44, 997], "/var/www".into()));
        assert_eq!(ids("web:video"), (33, 44, vec![], "/var/www".into()));
        assert_eq!(ids("4711:12"), (4711, 12, vec![], "/".into()));
    }

    #[test]
    fn names_the_image_does_not_know_are_named() {
        for text in ["nobody", "web:nogroup", "bad", "-1"] {
            let error = users().resolve(text).unwrap_err().to_string();
            assert!(error.contains("the image has no"), "{text}: {error}");
        }
    }

    #[test]
    fn a_link_out_of_the_tree_leads_nowhere() {
        let folder = tempfile::tempdir().unwrap();
        let (rootfs, secret) = (folder.path().join("rootfs"), folder.path().join("secret"));
        std::fs::create_dir_all(rootfs.join("etc")).unwrap();
        std::fs::write(&secret, "evil:x:5:5::/:\n").unwrap();
        std::os::unix::fs::symlink(&secret, rootfs.join("etc/passwd")).unwrap();
        std::os::unix::fs::symlink("../../secret", rootfs.join("etc/group")).unwrap();
        let users = Users::read(&rootfs).unwrap();
        assert_eq!((users.passwd.as_str(), users.group.as_str()), ("", ""));
    }

    #[test]
    fn a_huge_file_is_cut() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("etc")).unwrap();
        std::fs::write(folder.path().join("etc/passwd"), vec![b'x'; 3 << 20]).unwrap();
        assert_eq!(Users::read(folder.path()).unwrap().passwd.len(), 1 << 20);
    }
}
