//! Sending an image to a registry: blobs that it lacks, then the manifests that name them, the one with the name last.
//!
//! A small blob goes in one request. A large one goes in chunks, so that a broken link costs no more than the chunk that was on its way.
//!
//! <https://github.com/opencontainers/distribution-spec/blob/main/spec.md#push>

use super::client::{Client, Method, Request, Response, nonsense};
use super::url::Url;
use crate::oci::{self, ANNOTATION_IMAGE_NAME, ANNOTATION_REF_NAME, Descriptor, Index, Manifest, media_type};
use crate::source::Blob;
use crate::{Digest, Error, Result, Source};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read};

/// Blobs up to this go whole; larger ones in pieces of it. What a broken link costs, against a request for each piece.
const CHUNK_BYTES: u64 = 8 << 20;
/// A registry may want larger pieces (`OCI-Chunk-Min-Length`), but not these.
const CHUNK_BYTES_MAX: u64 = 256 << 20;
/// Uploads of one blob that are begun before it is given up: registries forget what is unfinished.
const UPLOADS_MAX: u32 = 4;

/// What happened to a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// The registry had it.
    AlreadyThere,
    /// The registry took it over from another repository of its own.
    Mounted,
    /// Its bytes were sent.
    Uploaded,
}

/// What is sent: a manifest or an index, with its bytes.
pub struct Top {
    /// What it is.
    pub descriptor: Descriptor,
    bytes: Vec<u8>,
}

impl Top {
    /// A document of the source.
    pub fn of(source: &Source, descriptor: Descriptor) -> Result<Self> {
        let bytes = source.document(&descriptor)?;
        Ok(Self { descriptor, bytes })
    }

    /// All that the source holds: its only entry, or an index of them as one image, which is how a registry has several platforms.
    pub fn of_all(source: &Source) -> Result<Self> {
        let mut manifests = source.index().manifests.clone();
        if let [only] = manifests.as_slice() {
            return Self::of(source, only.clone());
        }
        for entry in &mut manifests {
            entry.annotations.remove(ANNOTATION_IMAGE_NAME);
            entry.annotations.remove(ANNOTATION_REF_NAME);
            if entry.platform.is_none() && media_type::is_manifest(&entry.media_type) {
                entry.platform = Some(source.read_manifest(entry)?.1.platform());
            }
        }
        let bytes = oci::to_json(&Index::of(manifests));
        Ok(Self {
            descriptor: Descriptor::of(media_type::INDEX, &bytes),
            bytes,
        })
    }
}

/// Sends `top` with all it points to, under this tag.
///
/// `elsewhere` names, for blobs that another repository of the same registry is known to have, that repository.
pub fn push(
    client: &Client,
    source: &Source,
    top: &Top,
    tag: &str,
    elsewhere: &BTreeMap<Digest, String>,
    told: &mut dyn FnMut(&Descriptor, Sent),
) -> Result<()> {
    let mut done = BTreeSet::new();
    if media_type::is_index(&top.descriptor.media_type) {
        for entry in Index::from_json(&top.bytes)?.manifests {
            let manifest = source.document(&entry)?;
            send_blobs(client, source, &manifest, elsewhere, &mut done, told)?;
            put_manifest(client, &entry, &manifest, &entry.digest.to_string())?;
        }
    } else {
        send_blobs(client, source, &top.bytes, elsewhere, &mut done, told)?;
    }
    put_manifest(client, &top.descriptor, &top.bytes, tag)
}

fn send_blobs(
    client: &Client,
    source: &Source,
    manifest: &[u8],
    elsewhere: &BTreeMap<Digest, String>,
    done: &mut BTreeSet<Digest>,
    told: &mut dyn FnMut(&Descriptor, Sent),
) -> Result<()> {
    let manifest = Manifest::from_json(manifest)?;
    for blob in manifest.layers.iter().chain([&manifest.config]) {
        if done.insert(blob.digest) {
            let from = elsewhere.get(&blob.digest).map(String::as_str);
            let sent = send_blob(client, source, blob, from)?;
            told(blob, sent);
        }
    }
    Ok(())
}

fn send_blob(client: &Client, source: &Source, blob: &Descriptor, from: Option<&str>) -> Result<Sent> {
    let mut question = Request::get(client.endpoint().url(&format!("blobs/{}", blob.digest)));
    question.method = Method::Head;
    if let Some(answer) = client.send(&question)? {
        client.keep(answer);
        return Ok(Sent::AlreadyThere);
    }
    let content = Content {
        source,
        blob,
        open: RefCell::default(),
    };
    for _ in 0..UPLOADS_MAX {
        let Some(upload) = Upload::begin(client, blob, from)? else {
            return Ok(Sent::Mounted);
        };
        if upload.send(client, &content)? {
            return Ok(Sent::Uploaded);
        }
    }
    let why = format!(
        "it has forgotten the upload of {} {UPLOADS_MAX} times",
        blob.digest
    );
    Err(nonsense(&question.url, why))
}

/// An upload that was begun.
struct Upload {
    /// Where its next part goes.
    url: Url,
    chunk_bytes: u64,
}

impl Upload {
    /// `None` when the registry took the blob from another repository and nothing is to be sent.
    fn begin(client: &Client, blob: &Descriptor, from: Option<&str>) -> Result<Option<Self>> {
        let mut url = client.endpoint().url("blobs/uploads/");
        if let Some(from) = from {
            url = url
                .with_parameter("mount", &blob.digest.to_string())
                .with_parameter("from", from);
        }
        let mut request = Request::get(url.clone());
        request.method = Method::Post;
        let answer = client.send(&request)?.ok_or_else(|| missing(client))?;
        if answer.head.status == 201 {
            client.keep(answer);
            return Ok(None);
        }
        let least = answer
            .head
            .get("oci-chunk-min-length")
            .and_then(|text| text.parse().ok());
        Ok(Some(Self {
            url: next_place(&url, &answer)?,
            chunk_bytes: least.unwrap_or(0).clamp(CHUNK_BYTES, CHUNK_BYTES_MAX),
        }))
    }

    /// False when the registry has forgotten it meanwhile.
    fn send(mut self, client: &Client, content: &Content<'_>) -> Result<bool> {
        let (blob, mut offset) = (content.blob, 0);
        let mut pace = client.pace();
        while blob.size > self.chunk_bytes && offset < blob.size {
            let length = self.chunk_bytes.min(blob.size - offset);
            let open = || content.at(offset);
            let request = Request {
                method: Method::Patch,
                url: self.url.clone(),
                headers: format!(
                    "Content-Type: application/octet-stream\r\nContent-Range: {offset}-{}\r\n",
                    offset + length - 1
                ),
                body: Some((&open, length)),
            };
            match client.attempt(&request) {
                Ok(None) => return Ok(false),
                Ok(Some(answer)) => {
                    self.url = next_place(&self.url, &answer)?;
                    client.keep(answer);
                    offset += length;
                    pace.moved(length);
                }
                // The registry knows how far it came; it may have taken part of the chunk.
                Err(fault) => {
                    client.wait(&mut pace, fault, &self.url)?;
                    match self.state(client, blob.size)? {
                        Some(come_to) => offset = come_to,
                        None => return Ok(false),
                    }
                }
            }
        }
        self.finish(client, content, offset)
    }

    /// How many bytes the registry has, and where the next go.
    fn state(&mut self, client: &Client, size: u64) -> Result<Option<u64>> {
        let Some(answer) = client.send(&Request::get(self.url.clone()))? else {
            return Ok(None);
        };
        self.url = next_place(&self.url, &answer)?;
        let range = answer
            .head
            .get("range")
            .map(|range| range.trim_start_matches("bytes=").to_owned());
        let last = range.and_then(|range| range.split_once('-')?.1.parse::<u64>().ok());
        client.keep(answer);
        // `0-0` is one byte or, with many registries, none: sent again it is either way.
        Ok(Some(
            last.filter(|&last| last > 0 && last < size)
                .map_or(0, |last| last + 1),
        ))
    }

    /// The last request names the digest; with it goes what was not sent yet.
    fn finish(self, client: &Client, content: &Content<'_>, offset: u64) -> Result<bool> {
        let digest = content.blob.digest;
        let open = || content.at(offset);
        let request = Request {
            method: Method::Put,
            url: self.url.with_parameter("digest", &digest.to_string()),
            headers: "Content-Type: application/octet-stream\r\n".to_owned(),
            body: Some((&open, content.blob.size - offset)),
        };
        match client.send(&request)? {
            Some(answer) => {
                client.keep(answer);
                Ok(true)
            }
            None => Ok(false),
        }
    }
}

/// The data of a blob, read on where the last request left it as long as that is where the next begins.
struct Content<'a> {
    source: &'a Source,
    blob: &'a Descriptor,
    open: RefCell<Option<(u64, Blob)>>,
}

impl Content<'_> {
    fn at(&self, offset: u64) -> Result<Box<dyn Read + '_>> {
        let mut open = self.open.borrow_mut();
        if open.as_ref().is_none_or(|(position, _)| *position != offset) {
            let mut blob = self.source.blob_of(self.blob)?;
            let skipped = io::copy(&mut (&mut blob).take(offset), &mut io::sink()).map_err(Error::stream)?;
            *open = Some((skipped, blob));
        }
        Ok(Box::new(Piece(&self.open)))
    }
}

struct Piece<'a>(&'a RefCell<Option<(u64, Blob)>>);

impl Read for Piece<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let mut open = self.0.borrow_mut();
        let Some((position, blob)) = open.as_mut() else {
            return Ok(0);
        };
        let count = blob.read(out)?;
        *position += count as u64;
        Ok(count)
    }
}

fn put_manifest(client: &Client, descriptor: &Descriptor, bytes: &[u8], name: &str) -> Result<()> {
    let open = || Ok(Box::new(bytes) as Box<dyn Read>);
    let url = client.endpoint().url(&format!("manifests/{name}"));
    let request = Request {
        method: Method::Put,
        url: url.clone(),
        headers: format!("Content-Type: {}\r\n", descriptor.media_type),
        body: Some((&open, bytes.len() as u64)),
    };
    let answer = client.send(&request)?.ok_or_else(|| missing(client))?;
    let stored = answer.head.get("docker-content-digest").map(str::to_owned);
    client.keep(answer);
    match stored {
        Some(stored) if stored != descriptor.digest.to_string() => Err(nonsense(
            &url,
            format!("it was sent {} and has stored {stored}", descriptor.digest),
        )),
        _ => Ok(()),
    }
}

fn next_place(url: &Url, answer: &Response) -> Result<Url> {
    let place = answer
        .head
        .get("location")
        .and_then(|location| url.join(location));
    place.ok_or_else(|| nonsense(url, "it does not say where the data goes".to_owned()))
}

fn missing(client: &Client) -> Box<Error> {
    let endpoint = client.endpoint();
    Error::NotThere {
        what: format!("repository {}, and makes none", endpoint.repository),
        registry: endpoint.origin.to_string(),
    }
    .into()
}
