//! A Mosquitto of our own on a free port.

use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

pub struct Mosquitto {
    pub port: u16,
    folder: TempDir,
    child: Option<Child>,
}

impl Mosquitto {
    /// `None`, and a word why, where there is no Mosquitto.
    pub fn start() -> Option<Self> {
        let here = ["/usr/sbin/mosquitto", "/usr/local/sbin/mosquitto"]
            .iter()
            .find(|path| Path::new(path).exists());
        if here.is_none() {
            println!("SKIPPED: Mosquitto is not installed (Debian package mosquitto)");
            return None;
        }
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let folder = tempfile::tempdir().unwrap();
        // Without root the user is what it is, and Mosquitto does not mind.
        let config = format!(
            "listener {port} 127.0.0.1
allow_anonymous true
persistence false
user root
"
        );
        std::fs::write(folder.path().join("conf"), config).unwrap();
        let mut broker = Self {
            port,
            folder,
            child: None,
        };
        broker.begin();
        Some(broker)
    }

    pub fn begin(&mut self) {
        let path = if Path::new("/usr/sbin/mosquitto").exists() {
            "/usr/sbin/mosquitto"
        } else {
            "mosquitto"
        };
        let mut command = Command::new(path);
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
