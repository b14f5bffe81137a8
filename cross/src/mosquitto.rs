//! A Mosquitto of our own for a fleet: TLS and passwords, as people run it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::packages;
use crate::process::{Server, Watch, run, wait_for};
use crate::stand::free_address;

/// Programs it takes, and the Debian package of each.
const PROGRAMS: &[(&str, &str)] = &[
    ("mosquitto", "mosquitto"),
    ("mosquitto_passwd", "mosquitto"),
    ("openssl", "openssl"),
];
/// The password of every user: of tests, on this machine's loopback.
const PASSWORD: &str = "only-of-this-test";
/// How long it may take until it listens.
const READY_TIMEOUT: Duration = Duration::from_secs(30);

/// The broker; ends with this value.
pub struct Mosquitto {
    folder: PathBuf,
    port: String,
    server: Option<Server>,
}

impl Mosquitto {
    /// Starts it with certificates and users of its own, in `folder`.
    pub fn start(folder: &Path, users: &[&str]) -> Result<Self> {
        packages::ensure(PROGRAMS)?;
        std::fs::create_dir_all(folder)?;
        let address = free_address()?;
        let port = address
            .rsplit(':')
            .next()
            .context("an address has a port")?
            .to_owned();
        let mut broker = Self {
            folder: folder.into(),
            port,
            server: None,
        };
        broker.make_certificates()?;
        for (number, user) in users.iter().enumerate() {
            let create: &[&str] = if number == 0 { &["-c"] } else { &[] };
            run(Command::new("mosquitto_passwd")
                .args(create)
                .arg("-b")
                .arg(broker.file("users"))
                .args([user, PASSWORD])
                .stderr(Stdio::null()))?;
        }
        let file = |name| broker.file(name).display().to_string();
        let config = format!(
            "user root\npersistence false\nallow_anonymous false\npassword_file {}\nlistener {} 127.0.0.1\ncafile {}\ncertfile {}\nkeyfile {}\n",
            file("users"),
            broker.port,
            file("ca.pem"),
            file("server.pem"),
            file("server.key")
        );
        std::fs::write(broker.file("conf"), config)?;
        broker.begin()?;
        Ok(broker)
    }

    /// Starts it again at the same port.
    pub fn begin(&mut self) -> Result<()> {
        // Where an ordinary user's PATH may not lead.
        let sbin = Path::new("/usr/sbin/mosquitto");
        let program = if sbin.exists() {
            sbin
        } else {
            Path::new("mosquitto")
        };
        let log = std::fs::File::create(self.file("log"))?;
        let mut command = Command::new(program);
        command
            .arg("-c")
            .arg(self.file("conf"))
            .stdout(Stdio::null())
            .stderr(log);
        let server = Server::start("mosquitto", &mut command)?;
        let address = format!("127.0.0.1:{}", self.port);
        wait_for("Mosquitto to listen", READY_TIMEOUT, || {
            server.check()?;
            Ok(std::net::TcpStream::connect(&address).ok())
        })?;
        self.server = Some(server);
        Ok(())
    }

    /// Tells when it ends by itself.
    pub fn watch(&self) -> Option<Watch> {
        self.server.as_ref().map(Server::watch)
    }

    /// SIGKILL.
    pub fn kill(&mut self) -> Result<()> {
        self.server.take().map_or(Ok(()), Server::kill)
    }

    /// How `user` reaches it at `host`.
    pub fn url(&self, user: &str, host: &str) -> String {
        format!("mqtts://{user}:{PASSWORD}@{host}:{}", self.port)
    }

    /// The certificate that it can be known by.
    pub fn ca(&self) -> PathBuf {
        self.file("ca.pem")
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// An authority, and a certificate of it for this machine as it and the emulator call it.
    fn make_certificates(&self) -> Result<()> {
        let names = "subjectAltName=IP:127.0.0.1,IP:10.0.2.2,DNS:localhost\n";
        std::fs::write(self.file("names"), names)?;
        let openssl = |line: &str| {
            let mut command = Command::new("openssl");
            run(command
                .args(line.split(' '))
                .current_dir(&self.folder)
                .stderr(Stdio::null()))
        };
        let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
        openssl(&format!(
            "req -x509 {key} -keyout ca.key -out ca.pem -subj /CN=ca -days 2"
        ))?;
        openssl(&format!(
            "req {key} -keyout server.key -out server.csr -subj /CN=server"
        ))?;
        openssl(
            "x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out server.pem -days 2 -extfile names",
        )
    }
}
