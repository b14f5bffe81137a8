//! Pulling from registries that work, fail, lie and attack, over real sockets: each failure is one clear error within bounds, and nothing of
//! it is stored.

use crate::registry_server::{Honest, Reply, Seen, Server, range_begin, reply};
use crate::store_input::{Made, assert_nothing_stored, file};
use crate::support::{chain, noise_text};
use punnet_images::oci::{self, Descriptor, Index, media_type};
use punnet_images::registry::{self, Keyring, Notice, Options, Proxies, Settings};
use punnet_images::{Blobs, Digest, Error, Image, ImportOptions, Platform, Reference, Result, Source};
use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// What a client may have taken of something endless: its own bounds, and what kernels hold in between.
const BOUNDED_BYTES: u64 = 24 << 20;

fn options() -> Options {
    Options {
        retries: 3,
        ..Options::default()
    }
}

fn settings(json: &str, folder: &Made) -> Settings {
    let path = folder.folder.path().join("registries.json");
    fs::write(&path, json).unwrap();
    Settings::read(&path).unwrap()
}

fn open(reference: &str, options: &Options) -> Result<Source> {
    let reference: Reference = reference.parse().unwrap();
    registry::open(&reference, &Settings::default(), options)
}

fn take_in(made: &Made, source: &Source, reference: &str) -> Result<Image> {
    let mut import = ImportOptions {
        name: None,
        platform: "linux/amd64".parse().unwrap(),
        reference: Some(reference.parse().unwrap()),
        expect: None,
        blobs: Blobs::Leave,
        progress: &mut |_| {},
    };
    made.store().import(source, &mut import)
}

fn pull(made: &Made, server: &Server) -> Result<Image> {
    pull_with(made, &server.reference("app:1"), &options())
}

fn pull_with(made: &Made, reference: &str, options: &Options) -> Result<Image> {
    take_in(made, &open(reference, options)?, reference)
}

/// An image of this many layers with content that compresses little, written.
fn made(layers: usize) -> Made {
    let layer = |number| file(&format!("file{number}"), &noise_text(number, 100_000));
    let mut made = Made::new(&(0..layers).map(layer).collect::<Vec<_>>());
    drop(made.source());
    made
}

fn is_layer(made: &Made, seen: &Seen) -> bool {
    made.manifest
        .layers
        .iter()
        .any(|layer| seen.target.ends_with(&layer.digest.to_string()))
}

#[test]
fn a_pull_takes_one_connection_and_one_request_for_each_part() {
    let made = made(3);
    let honest = Honest::of(&made);
    let server = Server::start(move |seen| honest.answer(seen));
    let image = pull(&made, &server).unwrap();
    assert!(made.store().verify(&image).unwrap().is_empty());
    assert_eq!(image.summary.files, 3);
    let blobs = std::iter::once(&made.manifest.config).chain(&made.manifest.layers);
    let mut expected = vec!["GET /v2/app/manifests/1".to_owned()];
    expected.extend(blobs.map(|blob| format!("GET /v2/app/blobs/{}", blob.digest)));
    assert_eq!(server.log(), expected);
    assert_eq!(server.connections(), 1);
    // What is there already is not fetched again.
    pull(&made, &server).unwrap();
    assert_eq!(server.log().len(), expected.len() + 2);
}

/// Serves layers in pieces of this many bytes, a connection each, with ranges or without.
fn cutting(made: &Made, piece: usize, ranges: bool) -> Server {
    let (honest, layers) = (Honest::of(made), made.manifest.layers.clone());
    Server::start(move |seen| {
        let Some(layer) = layers
            .iter()
            .find(|layer| seen.target.ends_with(&layer.digest.to_string()))
        else {
            return honest.answer(seen);
        };
        let bytes = honest.blob(&layer.digest.to_string()).unwrap();
        let begin = range_begin(seen).filter(|_| ranges).unwrap_or(0);
        let asked = range_begin(seen).unwrap_or(0);
        let end = bytes.len().min(asked + piece);
        let head = match begin {
            0 => format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", bytes.len()),
            _ => format!(
                "HTTP/1.1 206 X\r\nContent-Length: {}\r\nContent-Range: bytes {begin}-{}/{}\r\n\r\n",
                bytes.len() - begin,
                bytes.len() - 1,
                bytes.len()
            ),
        };
        Reply::Raw([head.as_bytes(), &bytes[begin..end]].concat())
    })
}

#[test]
fn a_broken_link_goes_on_at_the_byte() {
    let made = made(2);
    let server = cutting(&made, 20_000, true);
    let image = pull(&made, &server).unwrap();
    assert!(made.store().verify(&image).unwrap().is_empty());
    for layer in &made.manifest.layers {
        let begins: Vec<_> = server
            .seen()
            .iter()
            .filter(|seen| seen.target.ends_with(&layer.digest.to_string()))
            .map(|seen| range_begin(seen).unwrap_or(0))
            .collect();
        let expected: Vec<_> = (0..layer.size as usize).step_by(20_000).collect();
        assert_eq!(
            begins, expected,
            "no byte is asked for twice and none is left out"
        );
        assert!(begins.len() >= 3, "the link has not broken");
    }
}

#[test]
fn a_server_without_ranges_is_read_again_to_where_it_broke() {
    let made = made(1);
    let server = cutting(&made, 30_000, false);
    let image = pull(&made, &server).unwrap();
    assert!(made.store().verify(&image).unwrap().is_empty());
    assert!(server.seen().iter().filter(|seen| is_layer(&made, seen)).count() >= 3);
}

#[test]
fn a_link_that_gives_nothing_is_given_up_and_the_same_may_work_later() {
    let made = made(1);
    let server = cutting(&made, 100, true);
    let error = pull(&made, &server).unwrap_err();
    assert!(error.is_temporary(), "{}", chain(&error));
    assert!(chain(&error).contains("closed too early"), "{}", chain(&error));
    let asked = server.seen().iter().filter(|seen| is_layer(&made, seen)).count();
    assert_eq!(asked, 1 + options().retries as usize);
    assert_nothing_stored(&made);
}

fn offer(platforms: &[&str]) -> Server {
    let entry = |text: &&str| Descriptor {
        platform: Some(text.parse::<Platform>().unwrap()),
        ..Descriptor::of(media_type::MANIFEST, text.as_bytes())
    };
    let index = oci::to_json(&Index::of(platforms.iter().map(entry).collect()));
    Server::start(move |_| {
        reply(
            200,
            &format!("Content-Type: {}\r\n", media_type::INDEX),
            index.clone(),
        )
    })
}

#[test]
fn an_image_for_other_boards_is_refused_in_a_sentence_before_any_blob_is_asked_for() {
    let made = made(1);
    for (platforms, expected) in [
        (
            &["linux/arm64", "linux/arm/v7", "windows/amd64"][..],
            "the image is built for linux/arm64/v8, linux/arm/v7, windows/amd64, but this board is linux/amd64",
        ),
        (
            &["windows/amd64"],
            "the image is built for windows/amd64, but this board is linux/amd64",
        ),
        (
            &[],
            "the image is built for no platform at all, but this board is linux/amd64",
        ),
    ] {
        let server = offer(platforms);
        let error = pull(&made, &server).unwrap_err();
        assert_eq!(chain(&error), expected);
        assert_eq!(server.log(), ["GET /v2/app/manifests/1"]);
    }
    // A lone manifest tells its platform in the configuration: that is asked for, and no layer.
    let mut windows = Made::new(&[file("a", "b")]);
    windows.config.os = "windows".into();
    drop(windows.source());
    let honest = Honest::of(&windows);
    let server = Server::start(move |seen| honest.answer(seen));
    let error = pull(&made, &server).unwrap_err();
    assert_eq!(
        chain(&error),
        "the image is built for windows/amd64, but this board is linux/amd64"
    );
    assert!(!server.seen().iter().any(|seen| is_layer(&windows, seen)));
    assert_nothing_stored(&made);
}

/// A keyring with `user:secret` for this registry.
fn keyring(made: &Made, registry: &str) -> Keyring {
    let keyring = Keyring {
        own: Some(made.folder.path().join("auth.json")),
        docker: None,
    };
    keyring.add(registry, "user", "secret").unwrap();
    keyring
}

const BASIC: &str = "Basic dXNlcjpzZWNyZXQ=";

#[test]
fn a_redirected_blob_is_fetched_without_the_password() {
    let made = made(2);
    let (honest, storage) = (Honest::of(&made), Honest::of(&made));
    let storage = Server::start(move |seen| storage.answer(seen));
    let (elsewhere, layers) = (storage.url(""), made.manifest.layers.clone());
    let server = Server::start(move |seen| {
        if seen.header("authorization") != Some(BASIC) {
            return reply(401, "WWW-Authenticate: Basic realm=\"x\"\r\n", "");
        }
        if layers
            .iter()
            .any(|layer| seen.target.ends_with(&layer.digest.to_string()))
        {
            return reply(307, &format!("Location: {elsewhere}{}\r\n", seen.target), "");
        }
        honest.answer(seen)
    });
    let options = Options {
        keyring: keyring(&made, &server.address.to_string()),
        ..options()
    };
    let image = pull_with(&made, &server.reference("app:1"), &options).unwrap();
    assert!(made.store().verify(&image).unwrap().is_empty());
    assert_eq!(storage.seen().len(), 2);
    assert!(
        storage
            .seen()
            .iter()
            .all(|seen| seen.header("authorization").is_none())
    );
}

#[test]
fn a_challenge_after_a_redirect_is_not_answered() {
    let made = made(1);
    let thief = Server::start(|_| reply(401, "WWW-Authenticate: Basic realm=\"registry\"\r\n", ""));
    let target = thief.url("/");
    let server = Server::start(move |_| reply(302, &format!("Location: {target}\r\n"), ""));
    let options = Options {
        keyring: Keyring {
            own: {
                let keyring = keyring(&made, &server.address.to_string());
                keyring.add(&thief.address.to_string(), "user", "secret").unwrap();
                keyring.own
            },
            docker: None,
        },
        ..options()
    };
    let error = pull_with(&made, &server.reference("app:1"), &options).unwrap_err();
    assert!(matches!(*error, Error::Answer { .. }), "{error}");
    assert_eq!(thief.seen().len(), 1);
    assert!(
        thief
            .seen()
            .iter()
            .all(|seen| seen.header("authorization").is_none())
    );
}

/// A registry that wants a token of its own service, which gives `issued` tokens one after another; each is good for so many requests.
fn with_tokens(made: &Made, good_for: usize) -> Server {
    let honest = Honest::of(made);
    let uses = AtomicUsize::new(0);
    let issued = AtomicUsize::new(0);
    let address = Arc::new(Mutex::new(String::new()));
    let own = Arc::clone(&address);
    let server = Server::start(move |seen| {
        if seen.target.starts_with("/token") {
            uses.store(0, Ordering::Relaxed);
            let number = issued.fetch_add(1, Ordering::Relaxed) + 1;
            return reply(200, "", format!(r#"{{"token":"t{number}","expires_in":60}}"#));
        }
        let current = format!("Bearer t{}", issued.load(Ordering::Relaxed));
        let fits = seen.header("authorization") == Some(&current);
        if !fits || uses.fetch_add(1, Ordering::Relaxed) >= good_for {
            let realm = format!("http://{}/token", own.lock().unwrap());
            let challenge = format!(
                "WWW-Authenticate: Bearer realm=\"{realm}\",service=\"s\",scope=\"repository:app:pull\"\r\n"
            );
            return reply(401, &challenge, "");
        }
        honest.answer(seen)
    });
    *address.lock().unwrap() = server.address.to_string();
    server
}

#[test]
fn tokens_are_fetched_as_nobody_or_somebody_and_again_when_they_have_run_out() {
    let made = made(3);
    let server = with_tokens(&made, 2);
    let image = pull(&made, &server).unwrap();
    assert!(made.store().verify(&image).unwrap().is_empty());
    let tokens: Vec<_> = server
        .seen()
        .into_iter()
        .filter(|seen| seen.target.starts_with("/token"))
        .collect();
    assert_eq!(tokens.len(), 3, "five requests at two a token");
    assert_eq!(tokens[0].target, "/token?service=s&scope=repository:app:pull");
    assert!(tokens.iter().all(|seen| seen.header("authorization").is_none()));
    let options = Options {
        keyring: keyring(&made, &server.address.to_string()),
        ..options()
    };
    pull_with(&made, &server.reference("app:1"), &options).unwrap();
    let last = server
        .seen()
        .into_iter()
        .rfind(|seen| seen.target.starts_with("/token"))
        .unwrap();
    assert_eq!(last.header("authorization"), Some(BASIC));
}

#[test]
fn a_registry_that_loops_is_left() {
    let made = made(1);
    // Tokens that are never good.
    let server = with_tokens(&made, 0);
    let error = pull(&made, &server).unwrap_err();
    assert!(matches!(*error, Error::Denied { .. }), "{error}");
    assert_eq!(server.log().len(), 3, "{:?}", server.log());
    // Redirects to itself.
    let server = Server::start(|seen| reply(307, &format!("Location: {}x\r\n", seen.target), ""));
    let error = pull(&made, &server).unwrap_err();
    assert!(
        error.to_string().contains("redirects more than 10 times"),
        "{error}"
    );
    assert_eq!(server.log().len(), 11);
    // A token service that sends one to another.
    let server = Server::start(|seen| match seen.target.starts_with("/token") {
        true => reply(302, "Location: /token\r\n", ""),
        false => {
            let host = seen.header("host").unwrap();
            reply(
                401,
                &format!("WWW-Authenticate: Bearer realm=\"http://{host}/token\"\r\n"),
                "",
            )
        }
    });
    let error = pull(&made, &server).unwrap_err();
    assert!(error.to_string().contains("no token"), "{error}");
    assert_eq!(server.log().len(), 2);
    assert_nothing_stored(&made);
}

#[test]
fn who_must_log_in_is_told_how() {
    let made = made(1);
    let server = Server::start(|_| reply(401, "WWW-Authenticate: Basic realm=\"x\"\r\n", ""));
    let error = pull(&made, &server).unwrap_err().to_string();
    assert!(error.contains("punnet login 127.0.0.1:"), "{error}");
    let docker = made.folder.path().join("config.json");
    let json = format!(r#"{{"credHelpers":{{"{}":"cloud"}}}}"#, server.address);
    fs::write(&docker, json).unwrap();
    let options = Options {
        keyring: Keyring {
            own: None,
            docker: Some(docker),
        },
        ..options()
    };
    let error = pull_with(&made, &server.reference("app:1"), &options)
        .unwrap_err()
        .to_string();
    assert!(error.contains("docker-credential-cloud"), "{error}");
}

#[test]
fn a_busy_registry_is_asked_again_when_it_said() {
    let made = made(1);
    let honest = Honest::of(&made);
    let asked = AtomicUsize::new(0);
    let server = Server::start(move |seen| match asked.fetch_add(1, Ordering::Relaxed) {
        0 => reply(429, "Retry-After: 0\r\n", ""),
        2 => reply(503, "Retry-After: 1\r\n", ""),
        _ => honest.answer(seen),
    });
    let waits: Arc<Mutex<Vec<std::time::Duration>>> = Arc::default();
    let told = Arc::clone(&waits);
    let options = Options {
        notify: Arc::new(move |notice| {
            let Notice::Waiting { pause, .. } = notice;
            told.lock().unwrap().push(*pause);
        }),
        ..options()
    };
    pull_with(&made, &server.reference("app:1"), &options).unwrap();
    assert_eq!(*waits.lock().unwrap(), [0, 1].map(std::time::Duration::from_secs));
    // One that wants to be left alone for an hour is.
    let server = Server::start(|_| reply(429, "Retry-After: 3600\r\n", ""));
    let error = pull(&made, &server).unwrap_err();
    assert!(
        error.is_temporary() && error.to_string().contains("3600 s"),
        "{error}"
    );
    assert_eq!(server.log().len(), 1);
}

#[test]
fn mirrors_come_first_and_are_passed_over_when_they_fail() {
    let made = made(1);
    let honest = || {
        let honest = Honest::of(&made);
        Server::start(move |seen| honest.answer(seen))
    };
    let (origin, mirror) = (honest(), honest());
    let empty = Server::start(|_| reply(404, "", ""));
    let closed = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let liar = Server::start(|_| reply(200, &format!("Content-Type: {}\r\n", media_type::MANIFEST), "{}"));
    let digest = Honest::of(&made).manifest().digest;
    let reference = origin.reference(&format!("app@{digest}"));
    let open = |mirrors: &[String]| {
        let json =
            serde_json::json!({ "registries": { origin.address.to_string(): { "mirrors": mirrors } } });
        let settings = settings(&json.to_string(), &made);
        registry::open(&reference.parse().unwrap(), &settings, &options()).unwrap();
    };
    open(&[
        empty.url("/"),
        format!("http://{closed}"),
        liar.url(""),
        mirror.url("/prefix"),
    ]);
    assert_eq!(empty.log().len(), 1);
    assert_eq!(liar.log().len(), 1);
    assert_eq!(mirror.log(), [format!("GET /v2/prefix/app/manifests/{digest}")]);
    assert!(origin.log().is_empty());
    open(&[empty.url("/")]);
    assert_eq!(origin.log().len(), 1);
}

#[test]
fn an_image_pulled_by_tag_and_digest_goes_by_that_name() {
    let made = made(1);
    let honest = Honest::of(&made);
    let digest = honest.manifest().digest;
    let server = Server::start(move |seen| honest.answer(seen));
    let name = server.reference(&format!("app:1@{digest}"));
    pull_with(&made, &name, &options()).unwrap();
    assert_eq!(server.log()[0], format!("GET /v2/app/manifests/{digest}"));
    assert_eq!(made.store().get(&name).unwrap().manifest, digest);
    // Another manifest under that digest is none.
    let other = Server::start(|_| reply(200, &format!("Content-Type: {}\r\n", media_type::MANIFEST), "{}"));
    let error = open(&other.reference(&format!("app@{digest}")), &options()).unwrap_err();
    assert!(matches!(*error, Error::Mismatch { .. }), "{error}");
}

#[test]
fn a_proxy_gets_whole_urls_and_its_own_password() {
    let made = made(1);
    let honest = Honest::of(&made);
    let proxy = Server::start(move |seen| honest.answer(seen));
    let url = format!("http://me:pw@{}", proxy.address);
    let options = Options {
        proxies: Proxies::from(|name| (name == "http_proxy").then(|| url.clone())).unwrap(),
        ..options()
    };
    let settings = settings(r#"{"registries":{"registry.test":{"insecure":true}}}"#, &made);
    let source = registry::open(&"registry.test/app:1".parse().unwrap(), &settings, &options).unwrap();
    take_in(&made, &source, "app").unwrap();
    assert!(
        proxy
            .log()
            .iter()
            .all(|line| line.starts_with("GET http://registry.test/v2/app/"))
    );
    for seen in proxy.seen() {
        assert_eq!(seen.header("proxy-authorization"), Some("Basic bWU6cHc="));
        assert_eq!(seen.header("host"), Some("registry.test"));
    }
}

#[test]
fn a_layout_on_a_web_server_is_an_image() {
    let mut made = made(2);
    drop(made.source());
    let root = made.folder.path().join("layout");
    let server = Server::start(move |seen| {
        match fs::read(root.join(seen.target.trim_start_matches("/images/app/"))) {
            Ok(bytes) => reply(200, "", bytes),
            Err(_) => reply(404, "", "<html>"),
        }
    });
    for url in [server.url("/images/app"), server.url("/images/app/")] {
        let source = registry::open_url(&url, Settings::default(), &options(), made.folder.path()).unwrap();
        let image = take_in(&made, &source, "app").unwrap();
        assert!(made.store().verify(&image).unwrap().is_empty());
    }
    let error = registry::open_url(
        &server.url("/nothing/here"),
        Settings::default(),
        &options(),
        made.folder.path(),
    )
    .unwrap_err();
    assert!(error.to_string().contains("oci-layout"), "{error}");
}

/// What a hostile registry answers for the manifest, and a part of the error.
fn hostile_manifests() -> Vec<(&'static str, Reply)> {
    let json = |body: &str| reply(200, &format!("Content-Type: {}\r\n", media_type::MANIFEST), body);
    let zero = Digest::of(b"");
    let config = media_type::CONFIG;
    let layers = format!(
        r#"{{"mediaType":"{}","digest":"{zero}","size":1}},"#,
        media_type::LAYER
    )
    .repeat(1025);
    vec![
        (
            "login page",
            reply(200, "Content-Type: text/html\r\n", "<html>log in</html>"),
        ),
        ("cannot be read", Reply::Raw(b"SSH-2.0-x\r\n".to_vec())),
        ("closed too early", Reply::Raw(Vec::new())),
        (
            "head is too long",
            Reply::Endless(b"HTTP/1.1 200 OK\r\nX: ".to_vec(), vec![b'x'; 4096]),
        ),
        (
            "too long",
            Reply::Endless(b"HTTP/1.1 200 OK\r\n".to_vec(), b"X: y\r\n".repeat(100)),
        ),
        (
            "never comes to the point",
            Reply::Endless(Vec::new(), b"HTTP/1.1 100 C\r\n\r\n".to_vec()),
        ),
        (
            "over the limit",
            Reply::Endless(b"HTTP/1.1 200 OK\r\n\r\n".to_vec(), vec![b' '; 4096]),
        ),
        (
            "over the limit",
            Reply::Endless(
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec(),
                b"4\r\n    \r\n".repeat(100),
            ),
        ),
        (
            "over the limit",
            Reply::Endless(
                b"HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551615\r\n\r\n".to_vec(),
                vec![b' '; 4096],
            ),
        ),
        ("malformed", json("[[[[[[")),
        ("malformed", json(&"[".repeat(100_000))),
        (
            "schema version",
            json(&format!(
                r#"{{"schemaVersion":1,"config":{{"mediaType":"{config}","digest":"{zero}","size":0}},"layers":[]}}"#
            )),
        ),
        (
            "an artifact",
            json(&format!(
                r#"{{"schemaVersion":2,"config":{{"mediaType":"x","digest":"{zero}","size":0}},"layers":[]}}"#
            )),
        ),
        (
            "number of layers",
            json(&format!(
                r#"{{"schemaVersion":2,"config":{{"mediaType":"{config}","digest":"{zero}","size":0}},"layers":[{}]}}"#,
                layers.trim_end_matches(',')
            )),
        ),
        // The configuration it names is answered with the same.
        (
            "its descriptor says 5",
            json(&format!(
                r#"{{"schemaVersion":2,"config":{{"mediaType":"{config}","digest":"{zero}","size":5}},"layers":[]}}"#
            )),
        ),
        (
            "schema 1",
            reply(
                200,
                "Content-Type: application/vnd.docker.distribution.manifest.v1+json\r\n",
                "{}",
            ),
        ),
        (
            "status 418 (short and stout)",
            reply(418, "", r#"{"errors":[{"message":"short and\n stout"}]}"#),
        ),
    ]
}

#[test]
fn a_hostile_registry_gets_one_clear_error_and_little_of_our_memory() {
    let made = made(1);
    for (part, answer) in hostile_manifests() {
        let server = Server::start(move |_| answer.clone());
        let error = match pull(&made, &server) {
            Ok(_) => panic!("{part} was pulled"),
            Err(error) => chain(&error),
        };
        assert!(error.contains(part), "{part:?} is not in: {error}");
        assert!(error.lines().count() == 1 && error.len() < 1000, "{error}");
        assert!(
            server.sent() < BOUNDED_BYTES,
            "{part}: {} bytes were taken",
            server.sent()
        );
    }
    assert_nothing_stored(&made);
}

/// Answers for a layer by a server that is honest about everything else, and a part of the error.
fn hostile_layers(layer: &[u8]) -> Vec<(&'static str, Reply)> {
    let length = layer.len();
    let mut flipped = layer.to_vec();
    flipped[length / 2] ^= 1;
    let endless = |head: &str| {
        Reply::Endless(
            format!("HTTP/1.1 200 OK\r\n{head}\r\n").into_bytes(),
            vec![b'x'; 4096],
        )
    };
    vec![
        ("is damaged: its digest is", reply(200, "", flipped)),
        ("its descriptor says", reply(200, "", &layer[..length - 1])),
        ("its descriptor says", reply(200, "", [layer, b"x"].concat())),
        (
            "its descriptor says",
            endless("Content-Length: 1000000000000\r\n"),
        ),
        // Without a length the descriptor's is where it ends.
        ("is damaged: its digest is", endless("")),
        ("has no blob", reply(404, "", "")),
        (
            "sends from 5000000",
            reply(206, "Content-Range: bytes 5000000-5000001/*\r\n", "xx"),
        ),
        ("refuses access", reply(403, "", "")),
        (
            "closed too early",
            Reply::Raw(b"HTTP/1.1 200 OK\r\n\r\n".to_vec()),
        ),
    ]
}

#[test]
fn a_layer_that_is_not_what_was_said_is_refused_and_nothing_stays() {
    let made = made(2);
    let layer = made.manifest.layers[1].clone();
    let whole = Honest::of(&made).blob(&layer.digest.to_string()).unwrap();
    for (part, answer) in hostile_layers(&whole) {
        let (honest, name) = (Honest::of(&made), layer.digest.to_string());
        let server = Server::start(move |seen| match seen.target.ends_with(&name) {
            true => answer.clone(),
            false => honest.answer(seen),
        });
        let error = match pull(&made, &server) {
            Ok(_) => panic!("{part} was pulled"),
            Err(error) => chain(&error),
        };
        assert!(error.contains(part), "{part:?} is not in: {error}");
        assert!(
            server.sent() < BOUNDED_BYTES,
            "{part}: {} bytes were taken",
            server.sent()
        );
        assert_nothing_stored(&made);
    }
}

#[test]
fn plain_http_is_not_spoken_to_the_internet() {
    let made = made(1);
    // A documentation address: nobody is there, and nobody is asked.
    let settings = settings(r#"{"registries":{"203.0.113.7:5000":{"insecure":true}}}"#, &made);
    let error = registry::open(&"203.0.113.7:5000/app".parse().unwrap(), &settings, &options()).unwrap_err();
    assert!(error.to_string().contains("loopback and private"), "{error}");
}

#[test]
fn a_server_without_tls_is_told_from_a_bad_certificate() {
    let made = made(1);
    let server = Server::start(|_| reply(200, "", ""));
    let json = format!(
        r#"{{"registries":{{"{}":{{"insecure":false}}}}}}"#,
        server.address
    );
    let settings = settings(&json, &made);
    let error = registry::open(&server.reference("app").parse().unwrap(), &settings, &options()).unwrap_err();
    assert!(error.to_string().contains("does not speak TLS"), "{error}");
}

#[test]
fn a_rate_limit_holds_and_nothing_is_lost_by_it() {
    let made = made(1);
    let honest = Honest::of(&made);
    let server = Server::start(move |seen| honest.answer(seen));
    let layer = made.manifest.layers[0].size;
    let options = Options {
        rate_bytes_per_s: Some(layer),
        ..options()
    };
    let began = std::time::Instant::now();
    let image = pull_with(&made, &server.reference("app:1"), &options).unwrap();
    // A lower bound only: a loaded machine may take longer, never less.
    assert!(began.elapsed().as_millis() >= 900, "{:?}", began.elapsed());
    assert!(made.store().verify(&image).unwrap().is_empty());
}

#[test]
fn what_was_kept_is_not_fetched_again_by_the_next_process() {
    let made = made(3);
    let partial = made.folder.path().join("partial");
    let options = Options {
        partial: Some(partial.clone()),
        retries: 0,
        ..options()
    };
    // The second layer breaks at its 30000th byte, and nobody tries again: the power is gone.
    let layers = made.manifest.layers.clone();
    let (honest, name) = (Honest::of(&made), layers[1].digest.to_string());
    let broken = Server::start(move |seen| {
        if !seen.target.ends_with(&name) {
            return honest.answer(seen);
        }
        let bytes = honest.blob(&name).unwrap();
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", bytes.len());
        Reply::Raw([head.as_bytes(), &bytes[..30_000]].concat())
    });
    let error = pull_with(&made, &broken.reference("app:1"), &options).unwrap_err();
    assert!(error.is_temporary(), "{}", chain(&error));
    assert_nothing_stored(&made);
    let honest = Honest::of(&made);
    let server = Server::start(move |seen| honest.answer(seen));
    let image = pull_with(&made, &server.reference("app:1"), &options).unwrap();
    assert!(made.store().verify(&image).unwrap().is_empty());
    let seen = server.seen();
    let asked: Vec<_> = layers
        .iter()
        .map(|layer| {
            seen.iter()
                .find(|seen| seen.target.ends_with(&layer.digest.to_string()))
        })
        .map(|seen| seen.map(|seen| range_begin(seen).unwrap_or(0)))
        .collect();
    assert_eq!(asked, [None, Some(30_000), Some(0)]);
    // Damage in what was kept is found like any other.
    made.store().remove(&server.reference("app:1")).unwrap();
    fs::write(
        partial.join(layers[0].digest.hex()),
        vec![b'x'; layers[0].size as usize],
    )
    .unwrap();
    let error = pull_with(&made, &server.reference("app:1"), &options).unwrap_err();
    assert!(chain(&error).contains("is damaged"), "{}", chain(&error));
}

#[test]
fn an_archive_on_a_web_server_is_an_image_over_a_broken_link_too() {
    let made = made(2);
    let archive = made.folder.path().join("app.tar");
    let mut builder = tar::Builder::new(fs::File::create(&archive).unwrap());
    builder
        .append_dir_all("", made.folder.path().join("layout"))
        .unwrap();
    builder.finish().unwrap();
    let bytes = fs::read(&archive).unwrap();
    let length = bytes.len();
    let server = Server::start(move |seen| match (seen.method.as_str(), range_begin(seen)) {
        ("HEAD", _) => reply(200, "", bytes.clone()),
        (_, Some(begin)) => {
            let range = format!("Content-Range: bytes {begin}-{}/{length}\r\n", length - 1);
            reply(206, &range, &bytes[begin..])
        }
        _ => Reply::Raw(
            [
                format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n").as_bytes(),
                &bytes[..50_000],
            ]
            .concat(),
        ),
    });
    let url = server.url("/images/app.tar");
    let source = registry::open_url(&url, Settings::default(), &options(), made.folder.path()).unwrap();
    let image = take_in(&made, &source, "app").unwrap();
    assert!(made.store().verify(&image).unwrap().is_empty());
    let asked: Vec<_> = server.seen().iter().map(range_begin).collect();
    assert_eq!(asked, [None, None, Some(50_000)]);
}
