//! An image on a registry, or as an OCI layout on a web server: documents by digest, and blobs as streams that go on where the link broke.

use super::client::{Client, Fault, Method, Request, Response, nonsense};
use super::policy::Pace;
use super::url::Url;
use crate::oci::{self, Descriptor, media_type};
use crate::{Digest, Error, Result};
use nix::fcntl::{Flock, FlockArg};
use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Documents that are kept, since they are asked for more than once. Larger ones are fetched again.
const KEPT_BYTES_MAX: usize = 512 * 1024;
/// What a power cut may cost of a blob that is kept.
const PARTIAL_SYNC_BYTES: u64 = 4 << 20;
/// Connections one blob may take: an end for a link that gives a little each time.
const CONNECTIONS_MAX: u32 = 4096;

/// Where the blobs of an image are.
pub struct Remote {
    client: Arc<Client>,
    place: Place,
    kept: Mutex<BTreeMap<Digest, Vec<u8>>>,
}

/// How a digest becomes a URL.
enum Place {
    Registry,
    /// The URL of a layout directory, with its last slash.
    Layout(Url),
}

impl fmt::Debug for Remote {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Remote({:?})", self.client)
    }
}

impl Remote {
    /// The repository of the client's endpoint.
    pub fn of_registry(client: Client) -> Self {
        Self::new(client, Place::Registry)
    }

    /// A layout directory at a URL.
    pub fn of_layout(client: Client, folder: Url) -> Self {
        Self::new(client, Place::Layout(folder))
    }

    fn new(client: Client, place: Place) -> Self {
        Self {
            client: Arc::new(client),
            place,
            kept: Mutex::default(),
        }
    }

    /// False for a layout on a web server, whose index names all there is.
    pub fn is_registry(&self) -> bool {
        matches!(self.place, Place::Registry)
    }

    /// Whom it asks.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The manifest or index that a tag or a digest names, and what it is. `None` when the registry has none.
    pub fn resolve(&self, name: &str, expected: Option<Digest>) -> Result<Option<Descriptor>> {
        let url = self.client.endpoint().url(&format!("manifests/{name}"));
        let mut request = Request::get(url.clone());
        request.headers = accept_manifests();
        let Some((bytes, kind, named)) = self
            .fetch(&request, |response| {
                let named = response
                    .head
                    .get("docker-content-digest")
                    .and_then(|digest| digest.parse().ok());
                (response.head.media_type().to_owned(), named)
            })?
            .map(|(bytes, (kind, named))| (bytes, kind, named))
        else {
            return Ok(None);
        };
        let kind = manifest_kind(&url, &kind, &bytes)?;
        for digest in expected.into_iter().chain(named) {
            Digest::check(&digest, &bytes, &format!("the manifest of {name}"))?;
        }
        let descriptor = Descriptor::of(&kind, &bytes);
        self.remember(descriptor.digest, bytes);
        Ok(Some(descriptor))
    }

    /// A file of the layout, not named by its digest.
    pub fn layout_file(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let Place::Layout(folder) = &self.place else {
            return Ok(None);
        };
        let url = folder.origin.url(format!("{}{name}", folder.target));
        Ok(self.fetch(&Request::get(url), |_| ())?.map(|(bytes, ())| bytes))
    }

    /// A manifest, index or configuration, with size and digest checked.
    pub fn document(&self, descriptor: &Descriptor) -> Result<Vec<u8>> {
        if let Some(bytes) = self.kept().get(&descriptor.digest) {
            return Ok(bytes.clone());
        }
        let digest = &descriptor.digest;
        let mut request = Request::get(self.url_of(descriptor));
        if media_type::is_manifest(&descriptor.media_type) || media_type::is_index(&descriptor.media_type) {
            request.headers = accept_manifests();
        }
        let (bytes, ()) = self
            .fetch(&request, |_| ())?
            .ok_or_else(|| self.missing(digest))?;
        if bytes.len() as u64 != descriptor.size {
            return Err(Error::Size {
                what: format!("blob {digest}"),
                expected: descriptor.size,
                actual: bytes.len() as u64,
            }
            .into());
        }
        digest.check(&bytes, &format!("blob {digest}"))?;
        self.remember(*digest, bytes.clone());
        Ok(bytes)
    }

    /// A layer. Nothing is asked for before it is read.
    pub fn blob(&self, descriptor: &Descriptor) -> RemoteBlob {
        RemoteBlob {
            client: Arc::clone(&self.client),
            url: self.url_of(descriptor),
            name: format!("blob {}", descriptor.digest),
            size: descriptor.size,
            position: 0,
            response: None,
            pace: None,
            connections: 0,
            limiter: self.client.rate_bytes_per_s().map(Limiter::new),
            partial: self
                .client
                .partial()
                .and_then(|folder| Partial::open(folder, descriptor)),
            failure: None,
        }
    }

    /// A whole file at a URL, whose length the server must know.
    pub fn file(client: Client, url: Url) -> Result<RemoteBlob> {
        let mut question = Request::get(url.clone());
        question.method = Method::Head;
        let name = format!("file {url}");
        let answer = client.send(&question)?.ok_or_else(|| missing(&client, &name))?;
        let length = answer
            .head
            .get("content-length")
            .and_then(|length| length.parse().ok());
        client.keep(answer);
        let size = length.ok_or_else(|| nonsense(&url, "it does not say how long the file is".to_owned()))?;
        Ok(RemoteBlob {
            limiter: client.rate_bytes_per_s().map(Limiter::new),
            client: Arc::new(client),
            url,
            name,
            size,
            position: 0,
            response: None,
            pace: None,
            connections: 0,
            partial: None,
            failure: None,
        })
    }

    fn url_of(&self, descriptor: &Descriptor) -> Url {
        let is_manifest =
            media_type::is_manifest(&descriptor.media_type) || media_type::is_index(&descriptor.media_type);
        match &self.place {
            Place::Registry if is_manifest => self
                .client
                .endpoint()
                .url(&format!("manifests/{}", descriptor.digest)),
            Place::Registry => self
                .client
                .endpoint()
                .url(&format!("blobs/{}", descriptor.digest)),
            Place::Layout(folder) => folder.origin.url(format!(
                "{}blobs/sha256/{}",
                folder.target,
                descriptor.digest.hex()
            )),
        }
    }

    /// A whole answer and something of its head, tried again while the link fails.
    fn fetch<T>(&self, request: &Request<'_>, look: impl Fn(&Response) -> T) -> Result<Option<(Vec<u8>, T)>> {
        let mut pace = self.client.pace();
        loop {
            let attempt = || -> Result<_, Fault> {
                let Some(response) = self.client.attempt(request)? else {
                    return Ok(None);
                };
                let seen = look(&response);
                let bytes = self.client.read_document(response, oci::DOCUMENT_BYTES_MAX)?;
                Ok(Some((bytes, seen)))
            };
            match attempt() {
                Ok(answer) => return Ok(answer),
                Err(fault) => self.client.wait(&mut pace, fault, &request.url)?,
            }
        }
    }

    fn missing(&self, digest: &Digest) -> Box<Error> {
        missing(&self.client, &format!("blob {digest}"))
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, BTreeMap<Digest, Vec<u8>>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remember(&self, digest: Digest, bytes: Vec<u8>) {
        let mut kept = self.kept();
        let sum: usize = kept.values().map(Vec::len).sum();
        if sum + bytes.len() <= KEPT_BYTES_MAX {
            kept.insert(digest, bytes);
        }
    }
}

fn missing(client: &Client, name: &str) -> Box<Error> {
    Error::NotThere {
        what: format!("{name} of {}", client.endpoint().repository),
        registry: client.endpoint().origin.to_string(),
    }
    .into()
}

fn accept_manifests() -> String {
    use media_type::{DOCKER_INDEX, DOCKER_MANIFEST, INDEX, MANIFEST};
    format!("Accept: {INDEX}, {MANIFEST}, {DOCKER_INDEX}, {DOCKER_MANIFEST}\r\n")
}

/// What a document is: what the server calls it, unless it says nothing of use and the document says it itself.
pub fn manifest_kind(url: &Url, header: &str, bytes: &[u8]) -> Result<String> {
    #[derive(punnet_json::FromJson)]
    #[json(rename_all = "camelCase")]
    struct Outline {
        #[json(default)]
        media_type: String,
        #[json(default)]
        manifests: Option<punnet_json::Ignored>,
    }
    const SCHEMA_1: &str = "application/vnd.docker.distribution.manifest.v1+";
    let known = |kind: &str| media_type::is_manifest(kind) || media_type::is_index(kind);
    if known(header) {
        return Ok(header.to_owned());
    }
    if header.starts_with(SCHEMA_1) {
        return Err(Error::Unsupported {
            what: format!("the image at {url}"),
            why: "it is in Docker's schema 1, which is no more; push it again with a tool of this decade"
                .to_owned(),
        }
        .into());
    }
    let outline: Option<Outline> = punnet_json::from_slice(bytes).ok();
    match outline {
        Some(outline) if known(&outline.media_type) => Ok(outline.media_type),
        Some(outline) if outline.manifests.is_some() => Ok(media_type::INDEX.to_owned()),
        Some(_) if header.contains("json") => Ok(media_type::MANIFEST.to_owned()),
        _ => {
            let shown: String = header.chars().filter(|c| !c.is_control()).take(60).collect();
            let why = format!("`{shown}` instead of a manifest; is a login page or a proxy in between?");
            Err(nonsense(url, why))
        }
    }
}

/// A blob as it comes. After a broken link it goes on at the byte it came to; the reader sees nothing of it.
pub struct RemoteBlob {
    client: Arc<Client>,
    url: Url,
    /// What it is called in errors.
    name: String,
    size: u64,
    position: u64,
    response: Option<Response>,
    pace: Option<Pace>,
    connections: u32,
    limiter: Option<Limiter>,
    partial: Option<Partial>,
    /// Why it was given up: told to whoever reads on, and nothing more is asked for.
    failure: Option<Arc<Error>>,
}

impl fmt::Debug for RemoteBlob {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            out,
            "RemoteBlob({}, {} of {})",
            self.name, self.position, self.size
        )
    }
}

impl RemoteBlob {
    /// One attempt at the next bytes.
    fn attempt(&mut self, out: &mut [u8]) -> Result<usize, Fault> {
        let mut response = match self.response.take() {
            Some(response) => response,
            None => self.open()?,
        };
        let left = usize::try_from(self.size - self.position).unwrap_or(usize::MAX);
        let wanted = left.min(out.len());
        let count = response.body.read(&mut out[..wanted])?;
        if count == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        self.position += count as u64;
        if self.position == self.size {
            self.client.keep(response);
        } else {
            self.response = Some(response);
        }
        Ok(count)
    }

    /// Asks for what is still to come.
    fn open(&mut self) -> Result<Response, Fault> {
        self.connections += 1;
        if self.connections > CONNECTIONS_MAX {
            return Err(Fault::Fatal(
                Error::Limit {
                    what: format!("the number of connections for {}", self.name),
                    limit: CONNECTIONS_MAX.to_string(),
                }
                .into(),
            ));
        }
        let mut request = Request::get(self.url.clone());
        if self.position > 0 {
            request.headers = format!("Range: bytes={}-\r\n", self.position);
        }
        let response = self.client.attempt(&request)?;
        let mut response = response.ok_or_else(|| missing(&self.client, &self.name))?;
        let (begin, total) = match response.head.content_range() {
            Some((begin, total)) if response.head.status == 206 => (begin, total),
            _ => (0, response.body.length()),
        };
        if let Some(actual) = total.filter(|&total| total != self.size) {
            return Err(Fault::Fatal(
                Error::Size {
                    what: self.name.clone(),
                    expected: self.size,
                    actual,
                }
                .into(),
            ));
        }
        // A server without ranges sends all again: what is known already is passed over.
        let skip = self.position.checked_sub(begin).ok_or_else(|| {
            nonsense(
                &self.url,
                format!("it was asked for byte {} and sends from {begin}", self.position),
            )
        })?;
        if io::copy(&mut (&mut response.body).take(skip), &mut io::sink())? < skip {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        Ok(response)
    }
}

impl Read for RemoteBlob {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.position == self.size || out.is_empty() {
            return Ok(0);
        }
        if let Some(failure) = &self.failure {
            return Err(io::Error::other(Error::Transfer(Arc::clone(failure))));
        }
        let kept = self
            .partial
            .as_ref()
            .map_or(Ok(0), |partial| partial.read(out, self.position))?;
        if kept > 0 {
            self.position += kept as u64;
            return Ok(kept);
        }
        let wanted = match &mut self.limiter {
            Some(limiter) => limiter.most_at_once().min(out.len()),
            None => out.len(),
        };
        loop {
            match self.attempt(&mut out[..wanted]) {
                Ok(count) => {
                    if let Some(pace) = &mut self.pace {
                        pace.moved(count as u64);
                    }
                    if let Some(limiter) = &mut self.limiter {
                        limiter.count(count as u64);
                    }
                    let begin = self.position - count as u64;
                    // What cannot be kept is fetched again, should it come to that: no reason to fail now.
                    self.partial = self
                        .partial
                        .take()
                        .and_then(|partial| partial.keep(&out[..count], begin));
                    return Ok(count);
                }
                Err(fault) => {
                    let client = Arc::clone(&self.client);
                    let pace = self.pace.get_or_insert_with(|| client.pace());
                    if let Err(error) = client.wait(pace, fault, &self.url) {
                        let failure = self.failure.insert(Arc::from(error));
                        return Err(io::Error::other(Error::Transfer(Arc::clone(failure))));
                    }
                }
            }
        }
    }
}

/// The beginning of a blob on the disk, as it was transferred: only when asked for, since it is written in addition to what is unpacked.
struct Partial {
    file: Flock<File>,
    unsynced_bytes: u64,
}

impl Partial {
    /// `None` when it cannot be had: another process has it, or the disk does not play along.
    fn open(folder: &Path, descriptor: &Descriptor) -> Option<Self> {
        std::fs::create_dir_all(folder).ok()?;
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(false);
        let file = options.open(folder.join(descriptor.digest.hex())).ok()?;
        let file = Flock::lock(file, FlockArg::LockExclusiveNonblock).ok()?;
        if file.metadata().ok()?.len() > descriptor.size {
            file.set_len(0).ok()?;
        }
        Some(Self {
            file,
            unsynced_bytes: 0,
        })
    }

    /// Nothing where nothing is kept.
    fn read(&self, out: &mut [u8], position: u64) -> io::Result<usize> {
        self.file.read_at(out, position)
    }

    fn keep(mut self, bytes: &[u8], position: u64) -> Option<Self> {
        self.file.write_all_at(bytes, position).ok()?;
        self.unsynced_bytes += bytes.len() as u64;
        if self.unsynced_bytes >= PARTIAL_SYNC_BYTES {
            self.file.sync_data().ok()?;
            self.unsynced_bytes = 0;
        }
        Some(self)
    }
}

/// Holds a stream to so many bytes a second, by sleeping.
struct Limiter {
    bytes_per_s: u64,
    since: Instant,
    bytes: u64,
}

impl Limiter {
    fn new(bytes_per_s: u64) -> Self {
        Self {
            bytes_per_s: bytes_per_s.max(1),
            since: Instant::now(),
            bytes: 0,
        }
    }

    /// A tenth of a second's worth, so that the sleeps are short.
    fn most_at_once(&self) -> usize {
        usize::try_from(self.bytes_per_s / 10)
            .unwrap_or(usize::MAX)
            .max(512)
    }

    fn count(&mut self, bytes: u64) {
        self.bytes += bytes;
        let due = Duration::from_secs_f64(self.bytes as f64 / self.bytes_per_s as f64);
        let elapsed = self.since.elapsed();
        if due > elapsed {
            std::thread::sleep(due - elapsed);
        }
        // What a stalled link did not use is not made up for in one go.
        if elapsed > due + Duration::from_secs(1) {
            (self.since, self.bytes) = (Instant::now(), 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_is_what_its_server_or_itself_says() {
        let url = Url::parse("https://r.example/v2/a/manifests/1").unwrap();
        for (header, bytes, expected) in [
            (media_type::DOCKER_MANIFEST, "{}", Ok(media_type::DOCKER_MANIFEST)),
            ("application/json", r#"{"manifests":[]}"#, Ok(media_type::INDEX)),
            ("application/json", r#"{"layers":[]}"#, Ok(media_type::MANIFEST)),
            (
                "text/plain",
                r#"{"mediaType":"application/vnd.oci.image.index.v1+json"}"#,
                Ok(media_type::INDEX),
            ),
            ("text/html", "<html>", Err("text/html")),
            ("", "", Err("login page")),
            (
                "application/vnd.docker.distribution.manifest.v1+prettyjws",
                "{}",
                Err("schema 1"),
            ),
        ] {
            match (manifest_kind(&url, header, bytes.as_bytes()), expected) {
                (Ok(found), Ok(expected)) => assert_eq!(found, expected, "{header}"),
                (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{error}"),
                (found, _) => panic!("{header}: {found:?}"),
            }
        }
    }
}
