//! `mounts`: each entry to what the mount system calls take. mount(8), mount_setattr(2)

use super::{HostFacts, NamespacePlan, namespaces};
use crate::error::{Error, Result};
use punnet_spec::{IdMapping, Mount};
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

/// The maps through which the owners of a mount's files are shown. mount_setattr(2), MOUNT_ATTR_IDMAP
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdmapPlan {
    /// Also for the mounts below.
    pub recursive: bool,
    /// Where the maps come from.
    pub maps: Maps,
}

/// Where the maps of an id-mapped mount come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Maps {
    /// Lines for users and for groups: container ids are those on the disk, host ids those that are seen.
    Given(Vec<IdMapping>, Vec<IdMapping>),
    /// The user namespace behind this file, which the container joins.
    Namespace(PathBuf),
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
    /// Id-mapped.
    pub idmap: Option<IdmapPlan>,
    /// Copy what the root has at the destination into the new file system first.
    pub copy_up: bool,
}

impl MountPlan {
    /// Whether it shows a part of the host.
    pub fn is_bind(&self) -> bool {
        matches!(self.source, MountSource::Bind { .. })
    }

    /// Whether what is mounted below it is to appear elsewhere.
    pub fn is_shared(&self) -> bool {
        self.propagation
            .iter()
            .any(|asked| asked.kind == propagation::SHARED)
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
        "sync" | "dirsync" | "lazytime" => Super,
        // Defaults; what the kernel has dropped (mand, Linux 5.15); what only says how loud mount(2) is; a counter for file servers that
        // no system call here can ask for. A mount that is not there yet is not remounted, it is made so.
        "defaults" | "async" | "nomand" | "nolazytime" | "noiversion" | "loud" | "remount" | "mand"
        | "iversion" | "silent" => Nothing,
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

/// Plans `mounts[index]`.
pub fn plan(
    mount: &Mount,
    index: usize,
    label: &str,
    namespaces: &NamespacePlan,
    host: &HostFacts,
) -> Result<MountPlan> {
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
        idmap: None,
        copy_up: false,
    };
    let mut bind = (mount.kind == "bind").then_some(false);
    let mut options = Vec::new();
    let mut idmap = None;
    for option in &mount.options {
        match option.as_str() {
            "idmap" => idmap = Some(false),
            "ridmap" => idmap = Some(true),
            "tmpcopyup" if mount.kind == "tmpfs" => plan.copy_up = true,
            "tmpcopyup" => return Err(Error::config(field("options"), "tmpcopyup is for a tmpfs")),
            option => match parse_word(option) {
                Some((Word::Bind, recursive)) => bind = Some(recursive),
                Some((Word::Super, _)) => options.push((option.to_owned(), None)),
                Some((word, recursive)) => plan.apply(&word, recursive),
                None => options.push(match option.split_once('=') {
                    Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
                    None => (option.to_owned(), None),
                }),
            },
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
            // What belongs to a whole file system does not change with one more view of it, as with mount(8); words alone may be misspelt
            // ones of ours.
            let is_plain = |key: &str| matches!(parse_plain_word(key), Some(Word::Super));
            if let Some((key, _)) = options
                .iter()
                .find(|(key, value)| (value.is_none() || key.ends_with("idmap")) && !is_plain(key))
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
            if !label.is_empty() && !UNLABELLED.contains(&kind) {
                options.push(("context".to_owned(), Some(label.to_owned())));
            }
            MountSource::New {
                kind: kind.to_owned(),
                source: mount.source.clone(),
                options,
            }
        }
    };
    plan.idmap = plan_idmap(mount, idmap, &field, namespaces, host)?;
    // Of an overlay it is the layers below that are mapped, for which they have to be named here.
    let is_root_overlay = plan.destination == Path::new("/") && plan.new_kind() == Some("overlay");
    if plan.idmap.is_some() && !plan.is_bind() && !is_root_overlay {
        return Err(Error::config(
            field("options"),
            "only bind mounts, and an overlay at /, can be id-mapped here",
        ));
    }
    if plan.destination == Path::new("/proc") && !plan.is_bind() && plan.new_kind() != Some("proc") {
        return Err(Error::config(
            field("destination"),
            "only procfs may be mounted on /proc",
        ));
    }
    Ok(plan)
}

/// File systems whose files have labels of their own, which no mount changes.
const UNLABELLED: [&str; 3] = ["proc", "sysfs", "mqueue"];

/// Plans `idmap` and `ridmap` (`option`, and whether the second), `uidMappings` and `gidMappings`.
fn plan_idmap(
    mount: &Mount,
    option: Option<bool>,
    field: &dyn Fn(&str) -> String,
    namespaces: &NamespacePlan,
    host: &HostFacts,
) -> Result<Option<IdmapPlan>> {
    let (uids, gids) = (&mount.uid_mappings, &mount.gid_mappings);
    if uids.is_empty() && gids.is_empty() && option.is_none() {
        return Ok(None);
    }
    if uids.is_empty() != gids.is_empty() {
        return Err(Error::config(
            field("uidMappings"),
            "and gidMappings need each other",
        ));
    }
    if host.euid != 0 {
        return Err(Error::config(
            field("uidMappings"),
            "only root may map the ids of a mount: the kernel asks who owns its file system",
        ));
    }
    let joined = namespaces.join.iter().find(|join| join.kind == namespaces::USER);
    let maps = if !uids.is_empty() {
        Maps::Given(
            namespaces::mappings(&field("uidMappings"), uids, 0)?,
            namespaces::mappings(&field("gidMappings"), gids, 0)?,
        )
    } else if let Some(join) = joined {
        Maps::Namespace(join.path.clone())
    } else if namespaces.has(namespaces::USER) {
        Maps::Given(namespaces.uid_map.clone(), namespaces.gid_map.clone())
    } else {
        return Err(Error::config(
            field("options"),
            "idmap without uidMappings and gidMappings needs a user namespace",
        ));
    };
    Ok(Some(IdmapPlan {
        recursive: option == Some(true),
        maps,
    }))
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
        plan(&mount, 0, "", &namespaces, &host).map_err(|error| error.to_string())
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
            ("none", &["bind", "mode=755", "size=1k"], false),
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
            ("bind", &["bind", "fancy"][..], "fancy"),
            ("bind", &["bind", "tmpcopyup"], "tmpcopyup"),
            ("bind", &["bind", "idmap"], "needs a user namespace"),
            ("bind", &["bind", "ridmap=uids"], "ridmap"),
            ("tmpfs", &["=x"], "not an option"),
            ("none", &["ro"], "neither bind nor rbind"),
        ] {
            let error = check(kind, options, 0).unwrap_err();
            assert!(error.contains(word), "{error}");
        }
    }

    /// Every word of the specification's table is an option of a bind mount or of a new file system, and never an unknown one.
    #[test]
    fn every_option_of_the_specification_is_known() {
        const WORDS: &str = "async atime bind defaults dev diratime dirsync exec iversion lazytime loud mand noatime nodev nodiratime \
            noexec noiversion nolazytime nomand norelatime nostrictatime nosuid nosymfollow private ratime rbind rdev rdiratime relatime \
            remount rexec rnoatime rnodiratime rnoexec rnorelatime rnostrictatime rnosuid rnosymfollow ro rprivate rrelatime rro rrw \
            rshared rslave rstrictatime rsuid rsymfollow runbindable rw shared silent slave strictatime suid symfollow sync unbindable";
        for word in WORDS.split_whitespace() {
            check("bind", &["rbind", word], 0).unwrap();
            let MountSource::New { options, .. } = (match check("tmpfs", &[word], 0).unwrap().source {
                MountSource::Bind { .. } if word.ends_with("bind") => continue,
                source => source,
            }) else {
                panic!("{word}")
            };
            let own = ["sync", "dirsync", "lazytime"].contains(&word);
            assert_eq!(options.len(), usize::from(own), "{word}: {options:?}");
        }
    }

    #[test]
    fn recursive_options_change_all_mounts_below() {
        let plan = check(
            "bind",
            &["rbind", "rro", "rnosuid", "rsuid", "rnoatime", "noexec"],
            0,
        )
        .unwrap();
        assert_eq!((plan.set, plan.clear), (attr::NOEXEC, 0));
        assert_eq!(plan.set_recursive, attr::RDONLY | attr::NOATIME);
        assert_eq!(plan.clear_recursive, attr::NOSUID | attr::ATIME);
    }

    #[test]
    fn idmapped_mounts_take_their_own_maps_or_the_containers() {
        let line = |host_id| IdMapping {
            container_id: 0,
            host_id,
            size: 10,
        };
        let host = HostFacts::default();
        let own = NamespacePlan {
            new: namespaces::USER,
            uid_map: vec![line(100)],
            gid_map: vec![line(200)],
            ..NamespacePlan::default()
        };
        let joined = NamespacePlan {
            join: vec![super::super::Join {
                kind: namespaces::USER,
                name: "user",
                path: "/ns".into(),
            }],
            ..NamespacePlan::default()
        };
        let given = (vec![line(7)], vec![line(8)]);
        let none = (Vec::new(), Vec::new());
        let check = |option: &str,
                     maps: &(Vec<IdMapping>, Vec<IdMapping>),
                     namespaces: &NamespacePlan,
                     host: &HostFacts| {
            let mount = Mount {
                destination: "/x".into(),
                source: "/y".into(),
                options: vec!["rbind".into(), option.into()],
                uid_mappings: maps.0.clone(),
                gid_mappings: maps.1.clone(),
                ..Mount::default()
            };
            plan(&mount, 0, "", namespaces, host)
                .map(|plan| plan.idmap.map(|idmap| (idmap.recursive, idmap.maps)))
                .map_err(|error| error.to_string())
        };
        let maps = |maps: &(Vec<IdMapping>, Vec<IdMapping>)| Maps::Given(maps.0.clone(), maps.1.clone());
        for (option, lines, namespaces, expected) in [
            ("ro", &given, &own, (false, maps(&given))),
            ("ridmap", &given, &own, (true, maps(&given))),
            (
                "idmap",
                &none,
                &own,
                (false, Maps::Given(vec![line(100)], vec![line(200)])),
            ),
            ("ridmap", &none, &joined, (true, Maps::Namespace("/ns".into()))),
        ] {
            assert_eq!(check(option, lines, namespaces, &host).unwrap(), Some(expected));
        }
        assert_eq!(check("ro", &none, &own, &host).unwrap(), None);
        let half = (vec![line(1)], Vec::new());
        assert!(
            check("idmap", &half, &own, &host)
                .unwrap_err()
                .contains("gidMappings")
        );
        let user = HostFacts {
            euid: 1000,
            ..HostFacts::default()
        };
        assert!(
            check("idmap", &none, &own, &user)
                .unwrap_err()
                .contains("only root")
        );
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
    fn the_label_is_an_option_of_file_systems_that_have_labels() {
        let namespaces = NamespacePlan::default();
        for (kind, labelled) in [
            ("tmpfs", true),
            ("devpts", true),
            ("proc", false),
            ("sysfs", false),
        ] {
            let mount = Mount {
                destination: "/x".into(),
                kind: kind.into(),
                ..Mount::default()
            };
            let plan = plan(&mount, 0, "a:b:c:d", &namespaces, &HostFacts::default()).unwrap();
            let MountSource::New { options, .. } = plan.source else {
                panic!()
            };
            assert_eq!(
                options.iter().any(|(key, _)| key == "context"),
                labelled,
                "{kind}"
            );
        }
    }

    #[test]
    fn paths_cannot_leave_the_root_by_dots() {
        assert_eq!(absolute("../../etc/./x/.."), Path::new("/etc"));
        assert_eq!(absolute(""), Path::new("/"));
    }
}
