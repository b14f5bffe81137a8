//! Writing images out: the digests stay, other tools read what we write and we read what they write, and a write that fails leaves
//! nothing behind.

use crate::support::{Bench, BuiltImage, Mounted, bytes_below, chain, noise, tool};
use punnet_images::export::{self, Format};
use punnet_images::{Blobs, Error, Image, ImportOptions, Platform, Reference, Source, Store};
use std::fs;
use std::path::Path;

const FORMATS: [(Format, &str); 3] = [
    (Format::OciDir, "dir"),
    (Format::OciArchive, "oci.tar"),
    (Format::DockerArchive, "docker.tar"),
];

fn sample(bench: &Bench) -> BuiltImage {
    bench
        .build(
            "COPY --chmod=755 hello /bin/hello\nCOPY d /d\nENV A=1\nENTRYPOINT [\"/bin/hello\"]\nLABEL x=y\n",
        )
        .unwrap()
}

fn bench() -> Bench {
    Bench::new(&[
        ("hello", "program"),
        ("d/one", "1"),
        ("d/e/two", &"2".repeat(100_000)),
    ])
}

fn platform() -> Platform {
    "linux/amd64".parse().unwrap()
}

fn reference() -> Reference {
    "example.org/team/hello:1.0".parse().unwrap()
}

fn import(store: &Store, source: &Source, blobs: Blobs) -> Image {
    let mut options = ImportOptions {
        name: None,
        platform: platform(),
        reference: Some(reference()),
        expect: None,
        blobs,
        progress: &mut |_| {},
    };
    store.import(source, &mut options).unwrap()
}

fn write(bench: &Bench, image: &BuiltImage, format: Format, name: &str) -> std::path::PathBuf {
    let to = bench.path(name);
    export::write(&image.source, &image.descriptor, Some(&reference()), format, &to).unwrap();
    to
}

#[test]
fn oci_layouts_and_archives_keep_every_digest() {
    let bench = bench();
    let image = sample(&bench);
    for (format, name) in [(Format::OciDir, "dir"), (Format::OciArchive, "tar")] {
        let source = Source::open(write(&bench, &image, format, name)).unwrap();
        let chosen = source
            .select(Some("example.org/team/hello:1.0"), &platform())
            .unwrap();
        assert_eq!(chosen.digest, image.descriptor.digest);
        let (manifest, config) = source.read_manifest(&chosen).unwrap();
        assert_eq!((&manifest, &config), (&image.manifest, &image.config));
        for layer in &manifest.layers {
            let mut reader = punnet_images::HashingReader::new(source.blob_of(layer).unwrap());
            std::io::copy(&mut reader, &mut std::io::sink()).unwrap();
            assert_eq!(reader.finish(), (layer.size, layer.digest));
        }
    }
}

#[test]
fn the_same_image_gives_the_same_archive() {
    let bench = bench();
    let image = sample(&bench);
    for (format, name) in FORMATS {
        let first = write(&bench, &image, format, &format!("1-{name}"));
        let second = write(&bench, &image, format, &format!("2-{name}"));
        if format == Format::OciDir {
            assert_eq!(bytes_below(&first), bytes_below(&second));
        } else {
            assert_eq!(fs::read(first).unwrap(), fs::read(second).unwrap(), "{name}");
        }
    }
}

#[test]
fn an_image_passes_through_the_store_byte_for_byte() {
    let bench = bench();
    let image = sample(&bench);
    let direct = write(&bench, &image, Format::OciArchive, "direct");
    let store = Store::open(bench.path("store")).unwrap();
    let stored = import(&store, &image.source, Blobs::Keep);
    let kept = Source::open(stored.layout().unwrap()).unwrap();
    let entry = kept.index().manifests[0].clone();
    let to = bench.path("through");
    export::write(&kept, &entry, Some(&reference()), Format::OciArchive, &to).unwrap();
    assert_eq!(fs::read(direct).unwrap(), fs::read(to).unwrap());
}

#[test]
fn a_docker_archive_unpacks_to_the_same_tree() {
    let bench = bench();
    let image = sample(&bench);
    let source = Source::open(write(&bench, &image, Format::DockerArchive, "docker.tar")).unwrap();
    assert_eq!(
        source.images()[0].name.as_deref(),
        Some("example.org/team/hello:1.0")
    );
    let direct = import(
        &Store::open(bench.path("store1")).unwrap(),
        &image.source,
        Blobs::Leave,
    );
    let through = import(&Store::open(bench.path("store2")).unwrap(), &source, Blobs::Leave);
    assert_eq!(bytes_below(&direct.rootfs()), bytes_below(&through.rootfs()));
    assert_eq!(through.config().unwrap(), image.config);
}

#[test]
fn a_damaged_blob_is_not_passed_on() {
    for (format, name) in FORMATS {
        let bench = bench();
        let image = sample(&bench);
        let blob = image
            .layout
            .join("blobs/sha256")
            .join(image.manifest.layers[1].digest.hex());
        let mut bytes = fs::read(&blob).unwrap();
        // The gzip header's time: the content still unpacks to the same, only the digest tells.
        bytes[4] ^= 1;
        fs::write(&blob, &bytes).unwrap();
        let to = bench.path(name);
        let result = export::write(&image.source, &image.descriptor, None, format, &to);
        if format == Format::DockerArchive {
            result.unwrap();
            bytes.truncate(bytes.len() - 9);
            fs::write(&blob, &bytes).unwrap();
            fs::remove_file(&to).unwrap();
            let error = export::write(&image.source, &image.descriptor, None, format, &to).unwrap_err();
            assert!(matches!(*error, Error::Size { .. }));
        } else {
            let error = result.unwrap_err();
            assert!(matches!(*error, Error::Mismatch { .. }), "{name}: {error}");
        }
        assert_nothing_new(bench.folder.path(), name);
    }
}

#[test]
fn a_target_that_cannot_be_written_is_named_and_left_alone() {
    let bench = bench();
    let image = sample(&bench);
    let folder = bench.path("taken");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("mine"), "x").unwrap();
    for (format, _) in FORMATS {
        for to in [folder.clone(), bench.path("no/such/folder")] {
            let error = export::write(&image.source, &image.descriptor, None, format, &to).unwrap_err();
            assert!(chain(&error).contains(to.to_str().unwrap()), "{}", chain(&error));
        }
    }
    assert_eq!(fs::read_to_string(folder.join("mine")).unwrap(), "x");
    assert!(!bench.path("no").exists());
}

#[test]
fn a_full_disk_is_told_and_leaves_nothing() {
    if !nix::unistd::geteuid().is_root() {
        println!("SKIPPED: mounting a small file system takes root");
        return;
    }
    let bench = bench();
    fs::write(bench.context().join("hello"), noise(300_000)).unwrap();
    let image = sample(&bench);
    let small = Mounted::tmpfs(&bench.path("small"), "size=128k");
    for (format, name) in FORMATS {
        let error = export::write(
            &image.source,
            &image.descriptor,
            None,
            format,
            &small.0.join(name),
        )
        .unwrap_err();
        assert!(matches!(*error, Error::Full { .. }), "{name}: {}", chain(&error));
        assert_eq!(fs::read_dir(&small.0).unwrap().count(), 0, "{name}");
    }
}

#[test]
fn skopeo_reads_all_three_formats() {
    let bench = bench();
    let image = sample(&bench);
    for ((format, name), scheme) in FORMATS.into_iter().zip(["oci", "oci-archive", "docker-archive"]) {
        let to = write(&bench, &image, format, name);
        let tag = if format == Format::DockerArchive {
            ""
        } else {
            ":1.0"
        };
        let at = format!("{scheme}:{}{tag}", to.display());
        let Some(text) = tool("skopeo", &["inspect", &at]) else {
            return;
        };
        let shown: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            (&shown["Architecture"], &shown["Os"], &shown["Labels"]["x"]),
            (&"amd64".into(), &"linux".into(), &"y".into())
        );
        assert_eq!(
            shown["Layers"].as_array().unwrap().len(),
            image.manifest.layers.len()
        );
        if format != Format::DockerArchive {
            assert_eq!(shown["Digest"], image.descriptor.digest.to_string());
        }
        // copy reads every layer and checks its digest.
        let copied = format!("oci:{}:copy", bench.path(&format!("copied-{name}")).display());
        tool("skopeo", &["copy", "--insecure-policy", &at, &copied]);
    }
}

#[test]
fn umoci_unpacks_what_we_write() {
    let bench = bench();
    let image = sample(&bench);
    let to = write(&bench, &image, Format::OciDir, "dir");
    let (at, bundle) = (format!("{}:1.0", to.display()), bench.path("bundle"));
    let mut arguments = vec!["unpack", "--image", &at, bundle.to_str().unwrap()];
    if !nix::unistd::geteuid().is_root() {
        arguments.insert(1, "--rootless");
    }
    if tool("umoci", &arguments).is_none() {
        return;
    }
    let store = Store::open(bench.path("store")).unwrap();
    let stored = import(&store, &image.source, Blobs::Leave);
    assert_eq!(bytes_below(&bundle.join("rootfs")), bytes_below(&stored.rootfs()));
    let config: serde_json::Value =
        serde_json::from_slice(&fs::read(bundle.join("config.json")).unwrap()).unwrap();
    assert_eq!(config["process"]["args"], serde_json::json!(["/bin/hello"]));
}

#[test]
fn what_skopeo_writes_is_read() {
    let bench = bench();
    let image = sample(&bench);
    let from = format!(
        "oci:{}:1.0",
        write(&bench, &image, Format::OciDir, "dir").display()
    );
    let want = bytes_below(
        &import(
            &Store::open(bench.path("store")).unwrap(),
            &image.source,
            Blobs::Leave,
        )
        .rootfs(),
    );
    for (number, scheme) in ["oci", "oci-archive", "docker-archive"].into_iter().enumerate() {
        let path = bench.path(&format!("by-skopeo-{number}"));
        let to = format!("{scheme}:{}:example.org/team/hello:1.0", path.display());
        if tool("skopeo", &["copy", "--insecure-policy", &from, &to]).is_none() {
            return;
        }
        let source = Source::open(&path).unwrap();
        let stored = import(
            &Store::open(bench.path(&format!("store-{number}"))).unwrap(),
            &source,
            Blobs::Leave,
        );
        assert_eq!(bytes_below(&stored.rootfs()), want, "{scheme}");
    }
}

/// Neither the target nor anything temporary beside it.
fn assert_nothing_new(folder: &Path, name: &str) {
    let left: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert!(
        !left.iter().any(|entry| entry.to_string_lossy().starts_with(name)),
        "{left:?}"
    );
}

#[test]
fn what_is_no_file_stays_what_it_is() {
    let bench = bench();
    let image = sample(&bench);
    let made = |name: &str| bench.path(name);
    nix::unistd::mkfifo(&made("pipe"), nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
    std::os::unix::fs::symlink("pipe", made("link-to-pipe")).unwrap();
    std::os::unix::fs::symlink("nowhere", made("dangling")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(made("socket")).unwrap();
    std::fs::write(made("file"), "before").unwrap();
    std::fs::create_dir(made("folder")).unwrap();
    let state = |name: &str| {
        let found = std::fs::symlink_metadata(made(name)).unwrap();
        (found.file_type(), std::os::unix::fs::MetadataExt::ino(&found))
    };
    let try_all = |formats: &[Format], names: &[&str]| {
        for (format, name) in formats
            .iter()
            .flat_map(|format| names.iter().map(move |name| (format, name)))
        {
            let before = state(name);
            let to = made(name);
            let result = export::write(&image.source, &image.descriptor, None, *format, &to);
            let complaint = chain(&result.unwrap_err());
            assert!(
                complaint.contains(name.trim_start_matches("link-to-")),
                "{complaint}"
            );
            assert_eq!(state(name), before, "{name}");
        }
    };
    let archives = [Format::OciArchive, Format::DockerArchive];
    try_all(
        &archives,
        &["pipe", "link-to-pipe", "dangling", "socket", "folder"],
    );
    try_all(
        &[Format::OciDir],
        &["pipe", "link-to-pipe", "socket", "folder", "file"],
    );
    assert_eq!(std::fs::read(made("file")).unwrap(), b"before");
}

#[test]
fn a_link_to_a_file_stays_a_link() {
    let bench = bench();
    let image = sample(&bench);
    std::fs::write(bench.path("real"), "before").unwrap();
    std::os::unix::fs::symlink("real", bench.path("link")).unwrap();
    export::write(
        &image.source,
        &image.descriptor,
        None,
        Format::OciArchive,
        &bench.path("link"),
    )
    .unwrap();
    assert!(bench.path("link").is_symlink());
    Source::open(bench.path("real")).unwrap();
}

#[test]
fn a_file_of_the_temporary_name_is_not_ours_and_stays() {
    let bench = bench();
    let image = sample(&bench);
    let name = format!("out.new-{}", std::process::id());
    std::fs::create_dir(bench.path(&name)).unwrap();
    std::fs::write(bench.path(&name).join("precious"), "x").unwrap();
    for format in [Format::OciDir, Format::OciArchive, Format::DockerArchive] {
        let result = export::write(&image.source, &image.descriptor, None, format, &bench.path("out"));
        assert!(chain(&result.unwrap_err()).contains(&name));
        assert_eq!(std::fs::read(bench.path(&name).join("precious")).unwrap(), b"x");
        assert!(!bench.path("out").exists());
    }
}
