//! A registry that says what a test wants it to say, on plain threads, and remembers what it was asked.

use crate::store_input::Made;
use punnet_images::oci::{Descriptor, Index};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// Bytes after which a server that never ends does so all the same: far beyond what a client may take.
const ENDLESS_BYTES: usize = 64 << 20;

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: String,
    pub target: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Seen {
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(known, _)| known == name)?;
        Some(&found.1)
    }
}

/// An answer.
#[derive(Clone)]
pub enum Reply {
    /// A whole one; the length is added.
    Whole {
        status: u16,
        headers: String,
        body: Vec<u8>,
    },
    /// These bytes, and then the connection is closed.
    Raw(Vec<u8>),
    /// These bytes, and then the second ones again and again.
    Endless(Vec<u8>, Vec<u8>),
}

pub fn reply(status: u16, headers: &str, body: impl Into<Vec<u8>>) -> Reply {
    Reply::Whole {
        status,
        headers: headers.to_owned(),
        body: body.into(),
    }
}

pub type Handler = Box<dyn Fn(&Seen) -> Reply + Send + Sync>;

/// Listens on loopback until the process ends.
#[derive(Clone)]
pub struct Server {
    pub address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    connections: Arc<AtomicUsize>,
    sent: Arc<AtomicU64>,
}

impl Server {
    pub fn start(handler: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = Self {
            address: listener.local_addr().unwrap(),
            seen: Arc::default(),
            connections: Arc::default(),
            sent: Arc::default(),
        };
        let (handler, running): (Arc<Handler>, _) = (Arc::new(Box::new(handler)), server.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                running.connections.fetch_add(1, Ordering::Relaxed);
                let (running, handler) = (running.clone(), Arc::clone(&handler));
                std::thread::spawn(move || running.serve(stream, &handler));
            }
        });
        server
    }

    /// `host:port` with `below`, as a reference.
    pub fn reference(&self, below: &str) -> String {
        format!("{}/{below}", self.address)
    }

    pub fn url(&self, target: &str) -> String {
        format!("http://{}{target}", self.address)
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// `METHOD target` of each request.
    pub fn log(&self) -> Vec<String> {
        let line = |seen: &Seen| format!("{} {}", seen.method, seen.target);
        self.seen().iter().map(line).collect()
    }

    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// Bytes that the clients' kernels have taken.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    fn serve(&self, stream: TcpStream, handler: &Handler) {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        while let Some(seen) = read_request(&mut reader) {
            self.seen.lock().unwrap().push(seen.clone());
            let goes_on = match handler(&seen) {
                Reply::Whole {
                    status,
                    headers,
                    body,
                } => {
                    let length = body.len();
                    let head = format!("HTTP/1.1 {status} X\r\nContent-Length: {length}\r\n{headers}\r\n");
                    let body = if seen.method == "HEAD" { &[][..] } else { &body };
                    self.write(&stream, head.as_bytes()) && self.write(&stream, body)
                }
                Reply::Raw(bytes) => {
                    self.write(&stream, &bytes);
                    false
                }
                Reply::Endless(head, piece) => {
                    let mut pieces = 0..ENDLESS_BYTES / piece.len();
                    if self.write(&stream, &head) {
                        pieces.all(|_| self.write(&stream, &piece));
                    }
                    false
                }
            };
            if !goes_on {
                stream.shutdown(std::net::Shutdown::Write).ok();
                return;
            }
        }
    }

    fn write(&self, mut stream: &TcpStream, bytes: &[u8]) -> bool {
        let written = stream.write_all(bytes).is_ok();
        if written {
            self.sent.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        }
        written
    }
}

fn read_request(reader: &mut BufReader<TcpStream>) -> Option<Seen> {
    let mut line = String::new();
    if reader.read_line(&mut line).is_err() {
        // As web servers answer what begins with TLS.
        reader
            .get_mut()
            .write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            .ok()?;
        return None;
    }
    let mut words = line.split_whitespace().map(str::to_owned);
    let (method, target) = (words.next()?, words.next()?);
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim().split_once(':') else {
            break;
        };
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let mut seen = Seen {
        method,
        target,
        headers,
        body: Vec::new(),
    };
    let length = seen
        .header("content-length")
        .and_then(|length| length.parse().ok());
    seen.body.resize(length.unwrap_or(0), 0);
    reader.read_exact(&mut seen.body).ok()?;
    Some(seen)
}

/// What a real registry would answer for the layout of a made image, whatever the repository and the tag.
pub struct Honest {
    blobs: PathBuf,
    index: Index,
}

impl Honest {
    /// `made` must have been written.
    pub fn of(made: &Made) -> Self {
        let layout = made.folder.path().join("layout");
        Self {
            blobs: layout.join("blobs/sha256"),
            index: Index::from_json(&fs::read(layout.join("index.json")).unwrap()).unwrap(),
        }
    }

    pub fn manifest(&self) -> &Descriptor {
        &self.index.manifests[0]
    }

    pub fn blob(&self, digest: &str) -> Option<Vec<u8>> {
        fs::read(self.blobs.join(digest.strip_prefix("sha256:")?)).ok()
    }

    pub fn answer(&self, seen: &Seen) -> Reply {
        let (kind, name) = seen.target.rsplit_once('/').unwrap();
        let absent = || {
            reply(
                404,
                "",
                r#"{"errors":[{"code":"NAME_UNKNOWN","message":"unknown"}]}"#,
            )
        };
        if kind.ends_with("/manifests") {
            let digest = self.manifest().digest.to_string();
            let digest = if name.starts_with("sha256:") {
                name
            } else {
                &digest
            };
            let kind = format!("Content-Type: {}\r\n", self.manifest().media_type);
            return self
                .blob(digest)
                .map_or_else(absent, |bytes| reply(200, &kind, bytes));
        }
        let Some(bytes) = self.blob(name) else {
            return absent();
        };
        match range_begin(seen) {
            Some(begin) => {
                let range = format!(
                    "Content-Range: bytes {begin}-{}/{}\r\n",
                    bytes.len() - 1,
                    bytes.len()
                );
                reply(206, &range, &bytes[begin..])
            }
            None => reply(200, "", bytes),
        }
    }
}

/// `Range: bytes=N-`
pub fn range_begin(seen: &Seen) -> Option<usize> {
    let range = seen.header("range")?.strip_prefix("bytes=")?;
    range.strip_suffix('-')?.parse().ok()
}
