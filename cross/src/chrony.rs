//! A chrony of our own for a board: a time server that leaves this machine's clock alone. chronyd(8), chrony.conf(5)

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use punnet_boards::Arch;

use crate::kernel::debian_package;
use crate::process::{Server, Watch};
use crate::stand::free_address;

/// The time server; ends with this value.
pub struct Chrony {
    port: String,
    server: Server,
    began: Duration,
}

impl Chrony {
    /// Starts it at a port of its own, its files in `folder`. The package is not installed, as it would take the place of this machine's own.
    pub fn start(folder: &Path) -> Result<Self> {
        std::fs::create_dir_all(folder)?;
        let address = free_address()?;
        let (host, port) = address.split_once(':').context("an address has a port")?;
        let log = std::fs::File::create(folder.join("log"))?;
        let mut command = Command::new(debian_package("chrony", Arch::OWN)?.join("usr/sbin/chronyd"));
        // In the foreground, without touching the clock, as who starts it.
        command
            .args(["-d", "-x", "-U", "-u", "root"])
            .arg(format!("bindaddress {host}"))
            .arg(format!("port {port}"))
            .arg(format!("allow {host}"))
            .arg(format!("pidfile {}", folder.join("pid").display()))
            // Good by itself, and ordered by nobody.
            .args(["local stratum 8", "cmdport 0", "bindcmdaddress /"])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        Ok(Self {
            port: port.to_owned(),
            began: since_1970()?,
            server: Server::start("time server", &mut command)?,
        })
    }

    /// As QEMU's user network shows it: this machine's loopback is 10.0.2.2 there.
    pub fn seen_from_emulator(&self) -> String {
        format!("10.0.2.2:{}", self.port)
    }

    /// What it can have said so far, in seconds since 1970.
    pub fn has_said_s(&self) -> Result<std::ops::RangeInclusive<u64>> {
        Ok(self.began.as_secs()..=since_1970()?.as_secs())
    }

    /// Tells when it ends by itself.
    pub fn watch(&self) -> Watch {
        self.server.watch()
    }
}

fn since_1970() -> Result<Duration> {
    Ok(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?)
}
