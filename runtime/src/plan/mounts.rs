//! `mounts`: each entry to what the mount system calls take. mount(8), mount_setattr(2)

use super::{HostFacts, NamespacePlan, namespaces};
use crate::error::{Error, Result};
use punnet_spec::Mount;
use punnet_sys::{attr, propagation};
use std::path::{Component, Path, PathBuf};

/// A propagation type to set. mount_namespaces(7)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Propagation {
    /// A `punnet_sys::propagation` value.
    pub kind: u64,
    /// Also for the mounts below.
    pub recursive: bool,
}

/// Where a mount's content comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MountSource {
    /// A file or directory of the host.
    Bind {
        /// Absolute path.
        path: PathBuf,
        /// With the mounts below it.
        recursive: bool,
    },
    /// A new file system.
    New {
        /// Type, as `tmpfs`.
        kind: String,
        /// Name or device.
        source: String,
        /// The file system's own options: keys, and values where there are some.
        options: Vec<(String, Option<String>)>,
    },
    /// The container's own view of the cgroup v2 tree.
    Cgroup,
}

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountPlan {
    /// Absolute path inside the container.
    pub destination: PathBuf,
    /// What is mounted.
    pub source: MountSource,
    /// `punnet_sys::attr` flags to set and to clear on the mount.
    pub set: u64,
    /// See `set`.
    pub clear: u64,
    /// The same for the mount and all below it.
    pub set_recursive: u64,
    /// See `set_recursive`.
    pub clear_recursive: u64,
    /// Propagation, in the order given.
    pub propagation: Vec<Propagation>,
}

impl MountPlan {
    /// Whether it shows a part of the host.
    pub fn is_bind(&self) -> bool {
        matches!(self.source, MountSource::Bind { .. })
    }

    /// Type of the new file system, if it is one.
    pub fn new_kind(&self) -> Option<&str> {
        match &self.source {
            MountSource::New { kind, .. } => Some(kind),
            _ => None,
        }
    }
}

/// An absolute path without `.`, `..` and doubled slashes: `..` at the root stays there.
pub(crate) fn absolute(path: &str) -> PathBuf {
    let mut clean = PathBuf::from("/");
    for component in Path::new(path).components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => drop(clean.pop()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    clean
}

/// What one word of `options` means.
enum Word {
    Set(u64),
    Clear(u64),
    Atime(u64),
    Propagate(u64),
    Bind,
    Super,
    Nothing,
}

/// Mount options that are not the file system's own. A leading `r` makes most of them recursive: see [`parse_word`].
fn parse_plain_word(word: &str) -> Option<Word> {
    use Word::{Atime, Bind, Clear, Nothing, Propagate, Set, Super};
    Some(match word {
        "ro" => Set(attr::RDONLY),
        "rw" => Clear(attr::RDONLY),
        "nosuid" => Set(attr::NOSUID),
        "suid" => Clear(attr::NOSUID),
        "nodev" => Set(attr::NODEV),
        "dev" => Clear(attr::NODEV),
        "noexec" => Set(attr::NOEXEC),
        "exec" => Clear(attr::NOEXEC),
        "nodiratime" => Set(attr::NODIRATIME),
        "diratime" => Clear(attr::NODIRATIME),
        "nosymfollow" => Set(attr::NOSYMFOLLOW),
        "symfollow" => Clear(attr::NOSYMFOLLOW),
        "relatime" | "atime" | "nostrictatime" => Atime(attr::RELATIME),
        "noatime" => Atime(attr::NOATIME),
        "strictatime" => Atime(attr::STRICTATIME),
        "norelatime" => Atime(attr::STRICTATIME),
        "private" => Propagate(propagation::PRIVATE),
        "shared" => Propagate(propagation::SHARED),
        "slave" => Propagate(propagation::SLAVE),
        "unbindable" => Propagate(propagation::UNBINDABLE),
        "bind" => Bind,
        "sync" | "dirsync" | "lazytime" | "mand" | "iversion" | "silent" => Super,
        "defaults" | "async" | "nomand" | "nolazytime" | "noiversion" | "loud" | "remount" => Nothing,
        _ => return None,
    })
}

fn parse_word(word: &str) -> Option<(Word, bool)> {
    if let Some(plain) = parse_plain_word(word) {
        return Some((plain, false));
    }
    match word.strip_prefix('r').and_then(parse_plain_word) {
        Some(Word::Super | Word::Nothing) | None => None,
        Some(recursive) => Some((recursive, true)),
    }
}

/// Options that would change what the mount means and that we do not implement.
const REFUSED: [&str; 3] = ["tmpcopyup", "idmap", "ridmap"];

/// Plans `mounts[index]`.
pub fn plan(mount: &Mount, index: usize, namespaces: &NamespacePlan, host: &HostFacts) -> Result<MountPlan> {
    let field = |name: &str| format!("mounts[{index}].{name}");
    for (name, value) in [
        ("destination", &mount.destination),
        ("source", &mount.source),
        ("type", &mount.kind),
    ] {
        if value.contains('\0') {
            return Err(Error::config(field(name), "has a zero byte"));
        }
    }
    if mount.destination.is_empty() {
        return Err(Error::config(field("destination"), "is empty"));
    }
    let mut plan = MountPlan {
        destination: absolute(&mount.destination),
        source: MountSource::Cgroup,
        set: 0,
        clear: 0,
        set_recursive: 0,
        clear_recursive: 0,
        propagation: Vec::new(),
    };
    let mut bind = (mount.kind == "bind").then_some(false);
    let mut options = Vec::new();
    for option in &mount.options {
        if REFUSED.contains(&option.as_str()) || option.starts_with("idmap=") || option.starts_with("ridmap=")
        {
            return Err(Error::config(
                field("options"),
                format!("{option:?} is not supported yet"),
            ));
        }
        match parse_word(option) {
            Some((Word::Bind, recursive)) => bind = Some(recursive),
            Some((Word::Super, _)) => options.push((option.clone(), None)),
            Some((word, recursive)) => plan.apply(&word, recursive),
            None => options.push(match option.split_once('=') {
                Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
                None => (option.clone(), None),
            }),
        }
    }
    if let Some((key, _)) = options
        .iter()
        .find(|(key, _)| key.is_empty() || key.contains('\0'))
    {
        return Err(Error::config(
            field("options"),
            format!("{key:?} is not an option"),
        ));
    }
    plan.source = match (bind, mount.kind.as_str()) {
        (Some(recursive), _) => {
            if let Some((key, _)) = options
                .iter()
                .find(|(_, value)| value.is_some())
                .or(options.first())
            {
                return Err(Error::config(
                    field("options"),
                    format!("unknown option {key:?} for a bind mount"),
                ));
            }
            if mount.source.is_empty() {
                return Err(Error::config(field("source"), "a bind mount needs one"));
            }
            MountSource::Bind {
                path: host.bundle.join(&mount.source),
                recursive,
            }
        }
        (None, "cgroup" | "cgroup2") => MountSource::Cgroup,
        (None, "" | "none") => {
            return Err(Error::config(
                field("type"),
                "is missing, and the options say neither bind nor rbind",
            ));
        }
        (None, kind) => {
            let in_userns = namespaces.has(namespaces::USER);
            if kind == "overlay" && in_userns && !options.iter().any(|(key, _)| key == "userxattr") {
                // The kernel keeps trusted.* attributes from the owner of a user namespace.
                options.push(("userxattr".to_owned(), None));
            }
            MountSource::New {
                kind: kind.to_owned(),
                source: mount.source.clone(),
                options,
            }
        }
    };
    if plan.destination == Path::new("/proc") && !plan.is_bind() && plan.new_kind() != Some("proc") {
        return Err(Error::config(
            field("destination"),
            "only procfs may be mounted on /proc",
        ));
    }
    Ok(plan)
}

impl MountPlan {
    fn apply(&mut self, word: &Word, recursive: bool) {
        let (set, clear) = if recursive {
            (&mut self.set_recursive, &mut self.clear_recursive)
        } else {
            (&mut self.set, &mut self.clear)
        };
        match *word {
            Word::Set(flag) => {
                *set |= flag;
                *clear &= !flag;
            }
            Word::Clear(flag) => {
                *set &= !flag;
                *clear |= flag;
            }
            Word::Atime(value) => {
                *set = *set & !attr::ATIME | value;
                *clear |= attr::ATIME;
            }
            Word::Propagate(kind) => self.propagation.push(Propagation { kind, recursive }),
            Word::Bind | Word::Super | Word::Nothing => {}
        }
    }
}

/// Parses `linux.rootfsPropagation`.
pub(crate) fn parse_propagation(word: &str) -> Option<Propagation> {
    match parse_word(word) {
        Some((Word::Propagate(kind), recursive)) => Some(Propagation { kind, recursive }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(kind: &str, options: &[&str], namespaces: u64) -> std::result::Result<MountPlan, String> {
        let mount = Mount {
            destination: "/x/../data//y".into(),
            kind: kind.into(),
            source: "src".into(),
            options: options.iter().map(|&option| option.into()).collect(),
            ..Mount::default()
        };
        let host = HostFacts {
            bundle: "/b".into(),
            ..HostFacts::default()
        };
        let namespaces = NamespacePlan {
            new: namespaces,
            ..NamespacePlan::default()
        };
        plan(&mount, 0, &namespaces, &host).map_err(|error| error.to_string())
    }

    #[test]
    fn later_options_win_and_destinations_are_cleaned() {
        let plan = check(
            "tmpfs",
            &[
                "ro",
                "rw",
                "nosuid",
                "noatime",
                "strictatime",
                "size=1k",
                "rslave",
            ],
            0,
        )
        .unwrap();
        assert_eq!(plan.destination, Path::new("/data/y"));
        assert_eq!(plan.set, attr::NOSUID | attr::STRICTATIME);
        assert_eq!(plan.clear, attr::RDONLY | attr::ATIME);
        assert_eq!(
            plan.propagation,
            [Propagation {
                kind: propagation::SLAVE,
                recursive: true
            }]
        );
        let MountSource::New { options, .. } = plan.source else {
            panic!()
        };
        assert_eq!(options, [("size".to_owned(), Some("1k".to_owned()))]);
    }

    #[test]
    fn bind_is_known_by_type_or_option_and_relative_to_the_bundle() {
        for (kind, options, recursive) in [
            ("bind", &[][..], false),
            ("none", &["bind"], false),
            ("", &["rbind"], true),
            ("bind", &["rbind", "rro"], true),
        ] {
            let plan = check(kind, options, 0).unwrap();
            assert_eq!(
                plan.source,
                MountSource::Bind {
                    path: "/b/src".into(),
                    recursive
                }
            );
        }
    }

    #[test]
    fn unknown_options_are_named() {
        for (kind, options, word) in [
            ("bind", &["bind", "sizzle=3"][..], "sizzle"),
            ("bind", &["fancy"], "fancy"),
            ("tmpfs", &["tmpcopyup"], "tmpcopyup"),
            ("tmpfs", &["=x"], "not an option"),
            ("none", &["ro"], "neither bind nor rbind"),
        ] {
            let error = check(kind, options, 0).unwrap_err();
            assert!(error.contains(word), "{error}");
        }
    }

    #[test]
    fn overlay_in_a_user_namespace_gets_userxattr_once() {
        for (given, bits, count) in [
            (&[][..], 0, 0),
            (&[], namespaces::USER, 1),
            (&["userxattr"], namespaces::USER, 1),
        ] {
            let MountSource::New { options, .. } = check("overlay", given, bits).unwrap().source else {
                panic!()
            };
            assert_eq!(
                options.iter().filter(|(key, _)| key == "userxattr").count(),
                count
            );
        }
    }

    #[test]
    fn paths_cannot_leave_the_root_by_dots() {
        assert_eq!(absolute("../../etc/./x/.."), Path::new("/etc"));
        assert_eq!(absolute(""), Path::new("/"));
    }
}
