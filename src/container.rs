//! A container as the user's verbs know it: a folder under the data root that is an OCI bundle and says what it was made from.
//!
//! ```text
//! <data root>/containers/<name>/   made by create, removed by rm
//!   config.json                    OCI runtime configuration (the bundle)
//!   meta.json                      what `ps` shows and `stop` needs
//!   upper/ work/                   the writable layer; mountpoints/ for a read-only container
//! <run root>/containers/<name>/    made by start, gone with a reboot
//!   log, log.times                 output (punnet-logs)
//!   layer/                         the writable layer, with --writable-layer ram
//!   exit_code                      when somebody was there to learn it
//!   meta.json                      the record of `run --rm`
//! <run root>/oci/<name>/           the runtime's own state
//! ```
//! A folder whose meta.json is missing was never finished or is being removed: `rm --force` clears it. Of a container that is removed at its end the
//! record is in RAM, and meta.json points to it: nothing is waited for that must survive a power cut.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use nix::unistd::geteuid;
use punnet_json::{FromJson, Map, ToJson};

use crate::error::{CliError, Result};
use crate::roots::Roots;

/// What is written once, when the container is created.
#[derive(Clone, Debug, ToJson, FromJson)]
#[json(deny_unknown_fields)]
pub struct Meta {
    /// As the user gave it.
    pub image: String,
    /// Digest of the image's manifest.
    pub manifest: String,
    /// Entrypoint and arguments, for people.
    pub command: Vec<String>,
    /// Unix seconds.
    pub created_at_s: u64,
    /// `KEY=VALUE` of `--label`.
    pub labels: Map<String>,
    /// Signal number that asks the process to end.
    pub stop_signal: i32,
    /// Seconds between it and SIGKILL.
    pub stop_timeout_s: u64,
    /// What it writes is in RAM, in [`Folders::ram_layer`], and belongs to this user and group.
    #[json(default)]
    pub ram_layer: Option<Owner>,
    /// The image is for another CPU.
    #[json(default, skip_if_empty)]
    pub is_emulated: bool,
}

/// User and group of a folder that is the container's.
pub type Owner = (u32, u32);

/// The folders of one container.
pub struct Folders {
    /// Its name, which is also its OCI container id.
    pub name: String,
    /// The bundle.
    pub bundle: PathBuf,
    /// What is in RAM.
    pub run: PathBuf,
}

impl Folders {
    /// The folders a container of this name has or would have.
    pub fn of(roots: &Roots, name: &str) -> Result<Self> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        if name.is_empty()
            || name.len() > 128
            || !name.bytes().all(allowed)
            || !name.as_bytes()[0].is_ascii_alphanumeric()
        {
            return Err(CliError::usage(format_args!(
                "{name:?} is no container name: letters, digits, '-', '_', '.', a letter or digit first, at most 128"
            )));
        }
        let folder = |root: PathBuf| root.join("containers").join(name);
        Ok(Self {
            name: name.into(),
            bundle: folder(roots.data()?),
            run: folder(roots.run()?),
        })
    }

    /// The folders of a container that exists.
    pub fn existing(roots: &Roots, name: &str) -> Result<Self> {
        let folders = Self::of(roots, name)?;
        if folders.bundle.is_dir() {
            Ok(folders)
        } else {
            Err(CliError::NoContainer(name.into()).into())
        }
    }

    /// All containers, by name.
    pub fn all(roots: &Roots) -> Result<Vec<Self>> {
        let path = roots.data()?.join("containers");
        let entries = match fs::read_dir(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(file("cannot list", &path))?,
        };
        let mut names = Vec::new();
        for entry in entries {
            names.extend(
                entry
                    .map_err(file("cannot list", &path))?
                    .file_name()
                    .into_string()
                    .ok(),
            );
        }
        names.sort_unstable();
        names.iter().map(|name| Self::of(roots, name)).collect()
    }

    /// Makes the bundle folder; the name is taken from then on, for other processes too.
    pub fn claim(&self) -> Result<()> {
        make_private(self.bundle.parent().unwrap_or(Path::new("/")))?;
        match fs::create_dir(&self.bundle) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                Err(CliError::NameTaken(self.name.clone()).into())
            }
            other => other.map_err(file("cannot create", &self.bundle)),
        }
    }

    /// Reads what `create` wrote.
    pub fn meta(&self) -> Result<Meta> {
        let path = self.bundle.join("meta.json");
        let text = fs::read(&path).map_err(file("cannot read", &path))?;
        punnet_json::from_slice(&text).map_err(|source| CliError::Record { path, source }.into())
    }

    /// Writes configuration and record, in this order, each durable: with the record the container exists.
    pub fn write(&self, config: &[u8], meta: &Meta) -> Result<()> {
        let path = self.bundle.join("config.json");
        let written = File::create(&path).and_then(|mut file| {
            file.write_all(config)?;
            file.sync_all()
        });
        written.map_err(file("cannot write", &path))?;
        // Its folder is synced with the record's name.
        write_durably(&self.bundle.join("meta.json"), &record(meta))
    }

    /// The same for a container that a power cut may take with it.
    pub fn write_for_now(&self, config: &[u8], meta: &Meta) -> Result<()> {
        let path = self.bundle.join("config.json");
        fs::write(&path, config).map_err(file("cannot write", &path))?;
        make_private(&self.run)?;
        let run = fs::canonicalize(&self.run).map_err(file("cannot resolve", &self.run))?;
        let place = run.join("meta.json");
        fs::write(&place, record(meta)).map_err(file("cannot write", &place))?;
        let link = self.bundle.join("meta.json");
        std::os::unix::fs::symlink(&place, &link).map_err(file("cannot create", &link))
    }

    /// The process's exit code, when somebody was there to learn it.
    pub fn exit_code(&self) -> Option<i32> {
        fs::read_to_string(self.run.join("exit_code"))
            .ok()?
            .trim()
            .parse()
            .ok()
    }

    /// Records the exit code for `ps`.
    pub fn write_exit_code(&self, code: i32) -> Result<()> {
        let path = self.run.join("exit_code");
        fs::write(&path, code.to_string()).map_err(file("cannot write", &path))
    }

    /// A container that runs has no exit code.
    pub fn forget_exit_code(&self) -> Result<()> {
        let path = self.run.join("exit_code");
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(file("cannot remove", &path)(error)),
            _ => Ok(()),
        }
    }

    /// Makes the folder in RAM, and in it what a reboot has taken.
    pub fn make_run(&self) -> Result<()> {
        make_private(&self.run)?;
        if let Some(owner) = self.meta()?.ram_layer {
            let layer = self.ram_layer();
            for path in [layer.clone(), layer.join("upper"), layer.join("work")] {
                make_visible(&path, owner)?;
            }
        }
        Ok(())
    }

    /// Where a writable layer in RAM is.
    pub fn ram_layer(&self) -> PathBuf {
        self.run.join("layer")
    }

    /// Removes both folders.
    pub fn remove(&self) -> Result<()> {
        self.remove_files_of_other_ids()?;
        // The record first: what is half removed is no container any more.
        for path in [
            self.bundle.join("meta.json"),
            self.bundle.clone(),
            self.run.clone(),
        ] {
            punnet_images::remove_tree(&path)?;
        }
        Ok(())
    }

    /// What an ordinary user's container has written as somebody else than root belongs to an id that only its user namespace has.
    fn remove_files_of_other_ids(&self) -> Result<()> {
        let configuration = fs::read(self.bundle.join("config.json")).unwrap_or_default();
        let spec = punnet_spec::Spec::from_json(&configuration).unwrap_or_default();
        let linux = spec.linux.unwrap_or_default();
        let has_ranges = |map: &[punnet_spec::IdMapping]| map.len() > 1;
        if geteuid().is_root() || !has_ranges(&linux.uid_mappings) {
            return Ok(());
        }
        Ok(punnet_runtime::as_root_of(
            &linux.uid_mappings,
            &linux.gid_mappings,
            || {
                ["upper", "work"].iter().try_for_each(|name| {
                    punnet_images::remove_tree(&self.bundle.join(name)).map_err(|error| error.to_string())
                })
            },
        )?)
    }
}

fn record(meta: &Meta) -> Vec<u8> {
    punnet_json::to_vec(meta)
}

/// Milliseconds since 1970; 0 on a board whose clock stands before that.
pub fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Adds what was tried, on which file.
pub fn file(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Box<CliError> {
    move |source| CliError::file(what, path, source)
}

/// A folder that only its owner may enter, with its parents.
fn make_private(path: &Path) -> Result<()> {
    fs::create_dir_all(path).map_err(file("cannot create", path))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o700)).map_err(file("cannot protect", path))
}

/// A folder that everybody in the container may look into; it may be there already.
pub fn make_visible(path: &Path, (uid, gid): Owner) -> Result<()> {
    match fs::create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        other => other.map_err(file("cannot create", path))?,
    }
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).map_err(file("cannot protect", path))?;
    std::os::unix::fs::chown(path, Some(uid), Some(gid)).map_err(file("cannot give away", path))
}

/// Temporary name, sync, rename: whole or not there, also after a power cut.
fn write_durably(path: &Path, content: &[u8]) -> Result<()> {
    let temporary = path.with_extension("new");
    let write = || {
        let mut file = File::create(&temporary)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
    };
    write().map_err(file("cannot write", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn roots(folder: &Path) -> Roots {
        Roots {
            data: Some(folder.join("data")),
            run: Some(folder.join("run")),
        }
    }

    #[test]
    fn a_name_is_claimed_once() {
        let folder = tempfile::tempdir().unwrap();
        let folders = Folders::of(&roots(folder.path()), "one").unwrap();
        folders.claim().unwrap();
        assert!(matches!(*folders.claim().unwrap_err(), CliError::NameTaken(ref name) if name == "one"));
        assert_eq!(Folders::all(&roots(folder.path())).unwrap().len(), 1);
    }

    #[test]
    fn a_record_for_now_ends_with_what_is_in_ram() {
        let folder = tempfile::tempdir().unwrap();
        let folders = Folders::of(&roots(folder.path()), "one").unwrap();
        let meta = Meta {
            image: "app".into(),
            manifest: String::new(),
            command: Vec::new(),
            created_at_s: 0,
            labels: Map::new(),
            stop_signal: 15,
            stop_timeout_s: 10,
            ram_layer: None,
            is_emulated: false,
        };
        folders.claim().unwrap();
        folders.write_for_now(b"{}", &meta).unwrap();
        assert_eq!(folders.meta().unwrap().image, "app");
        // A power cut.
        fs::remove_dir_all(folder.path().join("run")).unwrap();
        let error = folders.meta().unwrap_err().to_string();
        assert!(error.contains("cannot read"), "{error}");
        folders.remove().unwrap();
        assert!(!folders.bundle.exists());
    }

    #[test]
    fn names_that_could_leave_the_folder_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["", "..", ".", "a/b", "-x", "a b", "ä", &"x".repeat(129)] {
            let error = Folders::of(&roots(folder.path()), name).err().unwrap();
            assert!(matches!(*error, CliError::Usage(_)), "{name:?}");
        }
    }

    #[test]
    fn a_damaged_record_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let folders = Folders::of(&roots(folder.path()), "one").unwrap();
        folders.claim().unwrap();
        fs::write(folders.bundle.join("meta.json"), "{\"image\":").unwrap();
        let error = folders.meta().unwrap_err().to_string();
        assert!(error.contains("meta.json is damaged"), "{error}");
    }
}
