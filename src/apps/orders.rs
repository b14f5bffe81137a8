//! What a person tells the one `punnet apps serve`, and what it tells back: small files in RAM.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::container::file;
use crate::error::{CliError, Result};
use crate::roots::Roots;

/// What a person wants of an app, against its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Stay stopped until the next boot, or until told otherwise.
    Stop,
    /// Be started now, whatever came before.
    Start,
}

/// The folder of these files.
pub struct Orders {
    folder: PathBuf,
}

impl Orders {
    /// Below the run root.
    pub fn of(roots: &Roots) -> Result<Self> {
        Ok(Self {
            folder: roots.run()?.join("apps"),
        })
    }

    /// A file of an app's.
    pub fn path(&self, app: &str, kind: &str) -> PathBuf {
        self.folder.join(format!("{app}.{kind}"))
    }

    /// Makes this process the only one that serves.
    pub fn lock(&self) -> Result<File> {
        fs::create_dir_all(&self.folder).map_err(file("cannot create", &self.folder))?;
        let path = self.folder.join("lock");
        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path);
        let lock = lock.map_err(file("cannot open", &path))?;
        let is_ours =
            punnet_sys::lock_for_process(&lock).map_err(|errno| file("cannot lock", &path)(errno.into()))?;
        if is_ours {
            Ok(lock)
        } else {
            Err(CliError::Usage("another `punnet apps serve` runs already".into()).into())
        }
    }

    /// The one that serves; `None` when nobody does.
    pub fn server(&self) -> Option<Pid> {
        let lock = File::open(self.folder.join("lock")).ok()?;
        punnet_sys::process_with_lock(&lock).ok()?
    }

    /// Makes the server look at files and orders.
    pub fn tell(&self) -> Result<()> {
        let nobody = || {
            Box::new(CliError::Usage(
                "nobody serves the apps of this board: `systemctl start punnet-apps`, or `punnet apps serve`; `punnet install` starts it at boot"
                    .into(),
            ))
        };
        let server = self.server().ok_or_else(nobody)?;
        kill(server, Signal::SIGHUP)
            .map_err(|errno| file("cannot signal the server of", &self.folder)(errno.into()))
    }

    /// Leaves an order.
    pub fn give(&self, app: &str, order: Order) -> Result<()> {
        let path = self.path(app, "order");
        let word = match order {
            Order::Stop => "stop",
            Order::Start => "start",
        };
        fs::write(&path, word).map_err(file("cannot write", &path))
    }

    /// The order that lies there; one to start is taken away.
    pub fn take(&self, app: &str) -> Option<Order> {
        let path = self.path(app, "order");
        match fs::read_to_string(&path).ok()?.as_str() {
            "stop" => Some(Order::Stop),
            _ => {
                // Nobody reads what cannot be removed twice: it says what has been done already.
                drop(fs::remove_file(&path));
                Some(Order::Start)
            }
        }
    }

    /// Whether a person has stopped it.
    pub fn is_held(&self, app: &str) -> bool {
        fs::read_to_string(self.path(app, "order")).is_ok_and(|word| word == "stop")
    }

    /// Why the last attempt failed.
    pub fn error(&self, app: &str) -> Option<String> {
        fs::read_to_string(self.path(app, "error")).ok()
    }

    /// Keeps it, or forgets it.
    pub fn note_error(&self, app: &str, error: Option<&str>) {
        let path = self.path(app, "error");
        let kept = match error {
            Some(error) => fs::write(&path, error),
            None => fs::remove_file(&path),
        };
        // It is for people to read; nothing depends on it.
        if let Err(error) = kept
            && error.kind() != io::ErrorKind::NotFound
        {
            eprintln!("punnet apps: cannot write {}: {error}", path.display());
        }
    }
}
