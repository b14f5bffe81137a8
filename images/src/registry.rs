//! Images on registries (OCI distribution specification 1.1) and on plain web servers: a synchronous client on one connection, with constant
//! memory. What it opens is a [`Source`] like a layout or an archive, so that pulling is importing: socket, decompression, hashes and
//! unpacking are one stream, and nothing is stored in between.
//!
//! Pure parts, tested in tables: `challenge` and `auth` (login), `settings` and `url` (where to ask), `policy` (redirects, waiting), `proxy`.
//! Parts with effects: `connect` (sockets, TLS), `client` (one request to its answer), `remote` (documents, blobs that go on after a broken
//! link), `push`. `http` is the wire format over any stream.
//!
//! <https://github.com/opencontainers/distribution-spec/blob/main/spec.md>

mod auth;
mod challenge;
mod client;
mod connect;
mod credentials;
mod http;
mod policy;
mod proxy;
mod push;
mod remote;
mod settings;
mod url;

use crate::oci::{ANNOTATION_IMAGE_NAME, Descriptor, Index};
use crate::source::check_layout;
use crate::{Digest, Error, Reference, Result, Source};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read};
use std::path::Path;

pub use client::{Client, Notice, Options};
pub use credentials::{Credentials, Found, Keyring};
pub use proxy::Proxies;
pub use push::{Sent, Top};
pub(crate) use remote::{Remote, RemoteBlob};
pub use settings::{DOCKER_HUB, Endpoint, Registry, Settings, place};
pub use url::{Origin, Url};

/// Finds an image on its registry's mirrors or on the registry itself. Layers are not asked for before they are read.
pub fn open(reference: &Reference, settings: &Settings, options: &Options) -> Result<Source> {
    let endpoints = settings.endpoints(reference)?;
    let name = match reference.digest() {
        Some(digest) => digest.to_string(),
        None => reference.tag().unwrap_or("latest").to_owned(),
    };
    let mut last = None;
    for endpoint in endpoints {
        let remote = Remote::of_registry(Client::new(endpoint, options.clone()));
        match remote.resolve(&name, reference.digest()) {
            Ok(Some(descriptor)) => return Ok(source(remote, reference, descriptor)),
            Ok(None) => {}
            // What a mirror has or has not is no answer; that of the registry itself, which comes last, is.
            Err(error) => {
                last = Some(error);
                continue;
            }
        }
        last = Some(
            Error::NotThere {
                what: format!("image `{reference}`"),
                registry: remote.client().endpoint().origin.to_string(),
            }
            .into(),
        );
    }
    Err(last.expect("a reference has at least the endpoint of its registry"))
}

fn source(remote: Remote, reference: &Reference, mut descriptor: Descriptor) -> Source {
    let annotations = &mut descriptor.annotations;
    annotations.insert(ANNOTATION_IMAGE_NAME.to_owned(), reference.to_string());
    let place = remote.client().endpoint().url("").to_string();
    Source::remote(place.into(), Index::of(vec![descriptor]), remote)
}

/// Opens an image on a web server: an archive, when the URL's path ends in `.tar`, `.tar.gz` or `.tgz`; otherwise an OCI layout directory, the
/// folder that holds `oci-layout`, `index.json` and `blobs/`. An archive has to be read to and fro: it is put into `folder` first, in a file
/// that has no name and goes with the source.
pub fn open_url(text: &str, mut settings: Settings, options: &Options, folder: &Path) -> Result<Source> {
    let refused = |why: &str| {
        Box::new(Error::NotAnImage {
            path: text.into(),
            why: why.to_owned(),
        })
    };
    let url = Url::parse(text).ok_or_else(|| refused("it is not a URL of HTTP or HTTPS"))?;
    // A URL says itself whether there is TLS.
    let name = url.origin.authority();
    settings.registry(&name).insecure = Some(!url.origin.https);
    let mut endpoint = settings.endpoint(&name, &url.target)?;
    endpoint.origin = url.origin.clone();
    let client = Client::new(endpoint, options.clone());
    let path = url.target.split('?').next().unwrap_or_default();
    if [".tar", ".tar.gz", ".tgz"].iter().any(|end| path.ends_with(end)) {
        return Source::from_stream(Remote::file(client, url)?, folder);
    }
    if url.target.contains('?') {
        return Err(refused("a layout is a folder: its URL has no query"));
    }
    let place = url.origin.url(format!("{}/", url.target.trim_end_matches('/')));
    let remote = Remote::of_layout(client, place);
    let layout = remote.layout_file("oci-layout")?;
    check_layout(&layout.ok_or_else(|| refused("there is no `oci-layout` file"))?)?;
    let index = remote.layout_file("index.json")?;
    let index = Index::from_json(&index.ok_or_else(|| refused("there is no index.json"))?)?;
    Ok(Source::remote(text.into(), index, remote))
}

/// Sends an image, or an index of images, to the registry that `reference` names, under its tag.
///
/// `elsewhere` names, for blobs that another repository of the same registry is known to have, that repository.
pub fn push(
    source: &Source,
    top: &Top,
    reference: &Reference,
    settings: &Settings,
    options: &Options,
    elsewhere: &BTreeMap<Digest, String>,
    told: &mut dyn FnMut(&Descriptor, Sent),
) -> Result<()> {
    let (registry, repository) = place(reference);
    let Some(tag) = reference.tag() else {
        return Err(Error::Reference {
            text: reference.to_string(),
            why: "an image is pushed under a tag; its digest is what it has",
        }
        .into());
    };
    let endpoint = settings.endpoint(registry, &repository)?;
    let mut client = Client::new(endpoint, options.clone());
    // Asked for one by one, a token for reading would come first and then not reach.
    client = client.with_scope(format!("repository:{repository}:pull,push"));
    for other in elsewhere.values().collect::<BTreeSet<_>>() {
        client = client.with_scope(format!("repository:{other}:pull"));
    }
    push::push(&client, source, top, tag, elsewhere, told)
}

/// Tries a user name and a password on a registry, as `punnet login` does before it keeps them.
pub fn check_login(registry: &str, settings: &Settings, options: &Options) -> Result<()> {
    let endpoint = settings.endpoint(registry, "")?;
    let url = endpoint.origin.url("/v2/");
    let client = Client::new(endpoint, options.clone());
    match client.send(&client::Request::get(url.clone()))? {
        Some(_) => Ok(()),
        None => Err(client::nonsense(
            &url,
            "it is no registry: there is no /v2/".to_owned(),
        )),
    }
}

/// The name that `docker.io` goes by, whatever it was called.
pub fn registry_name(text: &str) -> &str {
    let name = url::split_scheme(text)
        .map_or(text, |(_, rest)| rest)
        .trim_end_matches('/');
    match name {
        "index.docker.io" | "registry-1.docker.io" | "index.docker.io/v1" => DOCKER_HUB,
        name => name,
    }
}

/// Reads bytes as everything that a server sends: for the fuzz target, which cannot reach the parts.
#[doc(hidden)]
pub fn read_as_answer(bytes: &[u8]) {
    const BYTES_MAX: u64 = 1 << 20;
    let url = Url::parse("https://r.example/v2/a/manifests/b?c=d").expect("it is one");
    let mut wire = http::Wire::new(Box::new(io::Cursor::new(bytes.to_vec())));
    if let Ok(head) = wire.read_head() {
        let challenges = challenge::parse(head.all("www-authenticate"));
        drop(auth::plan(
            &challenges,
            &Found::Nothing,
            "r.example",
            &url.origin,
            &[],
        ));
        for challenge in &challenges {
            if let Some(realm) = challenge.parameter("realm").and_then(|realm| url.join(realm)) {
                assert_eq!(
                    Url::parse(&format!("{}{}", realm.origin, realm.target)),
                    Some(realm)
                );
            }
        }
        drop(policy::next(&url, true, &head));
        drop(remote::manifest_kind(&url, head.media_type(), bytes));
        head.content_range();
        if let Ok(body) = wire.into_body(&head, false) {
            drop(io::copy(&mut body.take(BYTES_MAX), &mut io::sink()));
        }
    }
    drop(auth::read_token(bytes));
}
