//! A proxy between a registry and us that does what bad links do, and a board of our own.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tempfile::TempDir;

use crate::support::ok;

/// What happens to the bytes that come from the server on one connection.
#[derive(Clone, Copy, Debug)]
pub enum Fault {
    None,
    /// The connection is reset after so many.
    Drop(usize),
    /// It is closed in order after so many.
    Close(usize),
    /// One bit of this byte is turned.
    Flip(usize),
    /// A pause before each piece.
    Slow(Duration),
}

/// Stands between a client and a server. Understands CONNECT, which it passes to the server whatever was asked for.
pub struct FaultProxy {
    pub address: SocketAddr,
    connections: Arc<AtomicUsize>,
    bytes: Arc<AtomicUsize>,
}

impl FaultProxy {
    /// `fault` decides for each connection, counted from 0.
    pub fn start(server: &str, fault: impl Fn(usize) -> Fault + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let proxy = Self {
            address: listener.local_addr().unwrap(),
            connections: Arc::default(),
            bytes: Arc::default(),
        };
        let (server, connections) = (server.to_owned(), Arc::clone(&proxy.connections));
        let bytes = Arc::clone(&proxy.bytes);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let number = connections.fetch_add(1, Ordering::Relaxed);
                let (server, fault, bytes) = (server.clone(), fault(number), Arc::clone(&bytes));
                // What goes wrong here is what a bad link does anyway.
                std::thread::spawn(move || carry(client, &server, fault, &bytes).ok());
            }
        });
        proxy
    }

    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// What the server has sent through it so far.
    pub fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }
}

fn carry(mut client: TcpStream, server: &str, fault: Fault, bytes: &AtomicUsize) -> std::io::Result<()> {
    let mut server = TcpStream::connect(server)?;
    let mut begin = [0; 8];
    let count = client.peek(&mut begin)?;
    if begin[..count] == *b"CONNECT " {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            client.read_exact(&mut byte)?;
            head.push(byte[0]);
        }
        client.write_all(b"HTTP/1.1 200 Connected\r\n\r\n")?;
    }
    let (mut from_client, mut to_server) = (client.try_clone()?, server.try_clone()?);
    std::thread::spawn(move || {
        std::io::copy(&mut from_client, &mut to_server).ok();
        to_server.shutdown(Shutdown::Write).ok();
    });
    let mut piece = [0; 4096];
    let mut position = 0;
    loop {
        let count = server.read(&mut piece)?;
        if count == 0 {
            return client.shutdown(Shutdown::Write);
        }
        let limit = match fault {
            Fault::Drop(limit) | Fault::Close(limit) => limit.saturating_sub(position).min(count),
            _ => count,
        };
        match fault {
            Fault::Flip(at) if (position..position + count).contains(&at) => piece[at - position] ^= 1,
            Fault::Slow(pause) => std::thread::sleep(pause),
            _ => {}
        }
        client.write_all(&piece[..limit])?;
        bytes.fetch_add(limit, Ordering::Relaxed);
        position += limit;
        if limit < count {
            server.shutdown(Shutdown::Both)?;
            if matches!(fault, Fault::Drop(_)) {
                // With data unread the kernel resets the connection.
                return Ok(());
            }
            return client.shutdown(Shutdown::Both);
        }
    }
}

/// A board: its data, and punnet on it.
pub struct Board {
    pub folder: TempDir,
}

impl Board {
    pub fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn punnet(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_punnet"));
        for (option, name) in [("--data-root", "data"), ("--run-root", "run")] {
            command.arg(option).arg(self.path(name));
        }
        for name in [
            "http_proxy",
            "https_proxy",
            "no_proxy",
            "HTTP_PROXY",
            "HTTPS_PROXY",
            "NO_PROXY",
        ] {
            command.env_remove(name);
        }
        command.env("HOME", self.path("home")).env_remove("DOCKER_CONFIG");
        command.args(args);
        command
    }

    /// Builds an image from these lines and files, in a context of its own, into an OCI archive.
    pub fn build(&self, name: &str, platform: &str, lines: &str, files: &[(&str, &[u8])]) -> PathBuf {
        let context = self.path(&format!("context-{name}"));
        fs::create_dir_all(&context).unwrap();
        for (file, content) in files {
            fs::write(context.join(file), content).unwrap();
        }
        fs::write(context.join("Containerfile"), format!("FROM scratch\n{lines}\n")).unwrap();
        let archive = self.path(&format!("{name}.tar"));
        let mut build = self.punnet(&["build", "--platform", platform, "--output"]);
        ok(build.arg(&archive).arg(&context));
        archive
    }

    /// The content of a file of a stored image.
    pub fn stored(&self, image: &str, file: &str) -> Vec<u8> {
        let rows = ok(&mut self.punnet(&["images", "--json"]));
        let rows: serde_json::Value = serde_json::from_str(&rows).unwrap();
        let row = rows
            .as_array()
            .unwrap()
            .iter()
            .find(|row| row["reference"] == image);
        let manifest = row.unwrap_or_else(|| panic!("{image} is not in {rows}"))["manifest"]
            .as_str()
            .unwrap();
        let hex = manifest.strip_prefix("sha256:").unwrap();
        fs::read(self.path("data/store/images").join(hex).join("rootfs").join(file)).unwrap()
    }

    /// No image, no staging, and after a prune no file either.
    pub fn assert_empty(&self) {
        assert_eq!(ok(&mut self.punnet(&["images", "--quiet"])), "");
        ok(&mut self.punnet(&["prune"]));
        for part in ["staging", "images", "refs"] {
            let left = fs::read_dir(self.path("data/store").join(part)).unwrap().count();
            assert_eq!(left, 0, "{part}");
        }
        let objects = fs::read_dir(self.path("data/store/objects")).unwrap();
        let left: usize = objects
            .flatten()
            .map(|fan| fs::read_dir(fan.path()).unwrap().count())
            .sum();
        assert_eq!(left, 0, "objects");
    }
}
