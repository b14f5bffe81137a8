//! A Mosquitto of our own on free ports.

use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

const PROGRAM: &str = "/usr/sbin/mosquitto";

pub struct Mosquitto {
    /// Of the listener without TLS.
    pub port: u16,
    pub tls: Option<Tls>,
    folder: TempDir,
    child: Option<Child>,
}

/// What a device needs for the listener with TLS.
pub struct Tls {
    pub port: u16,
    pub ca_pem: String,
    pub client_cert_pem: String,
    pub client_key_pem: String,
}

impl Mosquitto {
    /// `None`, and a word why, where there is no Mosquitto.
    pub fn start() -> Option<Self> {
        if !Path::new(PROGRAM).exists() {
            println!("SKIPPED: Mosquitto is not installed (Debian package mosquitto)");
            return None;
        }
        let (port, folder) = (free_port(), tempfile::tempdir().unwrap());
        // Without root the user is what it is, and Mosquitto does not mind.
        let config =
            format!("listener {port} 127.0.0.1\nallow_anonymous true\npersistence false\nuser root\n");
        std::fs::write(folder.path().join("conf"), config).unwrap();
        let mut broker = Self {
            port,
            tls: None,
            folder,
            child: None,
        };
        broker.begin();
        Some(broker)
    }

    /// With a second listener that wants TLS and a certificate of a client.
    pub fn start_with_tls() -> Option<Self> {
        if Command::new("openssl")
            .arg("version")
            .stdout(Stdio::null())
            .status()
            .is_err()
        {
            println!("SKIPPED: openssl is not installed (Debian package openssl)");
            return None;
        }
        let mut broker = Self::start()?;
        broker.stop();
        let folder = broker.folder.path().to_owned();
        make_certificates(&folder);
        let port = free_port();
        let conf = folder.join("conf");
        let file = |name: &str| folder.join(name).display().to_string();
        let config = format!(
            "{}listener {port} 127.0.0.1\ncafile {}\ncertfile {}\nkeyfile {}\nrequire_certificate true\n",
            std::fs::read_to_string(&conf).unwrap(),
            file("ca.pem"),
            file("server.pem"),
            file("server.key"),
        );
        std::fs::write(&conf, config).unwrap();
        let read = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap();
        let (ca_pem, client_cert_pem, client_key_pem) =
            (read("ca.pem"), read("client.pem"), read("client.key"));
        broker.tls = Some(Tls {
            port,
            ca_pem,
            client_cert_pem,
            client_key_pem,
        });
        broker.begin();
        Some(broker)
    }

    pub fn begin(&mut self) {
        let mut command = Command::new(PROGRAM);
        command
            .arg("-c")
            .arg(self.folder.path().join("conf"))
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        self.child = Some(command.spawn().unwrap());
        for _ in 0..200 {
            if TcpStream::connect(("127.0.0.1", self.port)).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("Mosquitto does not start");
    }

    pub fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        self.stop();
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

/// A certificate authority, and a certificate of it for the server and for a client.
fn make_certificates(folder: &Path) {
    std::fs::write(folder.join("names"), "subjectAltName=DNS:localhost").unwrap();
    let openssl = |line: &str| {
        let made = Command::new("openssl")
            .args(line.split(' '))
            .current_dir(folder)
            .stderr(Stdio::null())
            .status();
        assert!(made.unwrap().success(), "openssl {line}");
    };
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    openssl(&format!(
        "req -x509 {key} -keyout ca.key -out ca.pem -subj /CN=ca -days 2"
    ));
    for of in ["server", "client"] {
        openssl(&format!(
            "req {key} -keyout {of}.key -out {of}.csr -subj /CN={of}"
        ));
        openssl(&format!(
            "x509 -req -in {of}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out {of}.pem -days 2 -extfile names"
        ));
    }
}
