//! Builds of several stages, on bases, with archives and here-documents, for several platforms, and what is remembered of them.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use punnet_images::build::BuildOptions;
use punnet_images::oci::Index;
use punnet_images::{Blobs, ImportOptions, Platform, Source, Store, export, platform};

use crate::support::{Bench, BuiltImage, bytes_below, chain, tool};

/// Options that name a stage.
fn targeting(bench: &Bench, target: &str) -> BuildOptions {
    BuildOptions {
        target: Some(target.into()),
        ..bench.options()
    }
}

/// Puts a built image into the bench's store under a name, with its blobs or without.
fn store(bench: &Bench, image: &BuiltImage, name: &str, blobs: Blobs) -> punnet_images::Image {
    let store = Store::open(bench.path("store")).unwrap();
    let mut options = ImportOptions {
        name: None,
        platform: "linux/amd64".parse().unwrap(),
        reference: Some(name.parse().unwrap()),
        expect: None,
        blobs,
        progress: &mut |_| {},
    };
    store.import(&image.source, &mut options).unwrap()
}

#[test]
fn a_layout_that_nobody_else_needs_becomes_the_stores() {
    let bench = Bench::new(&[("file", "content")]);
    let image = bench.build("COPY file /\n").unwrap();
    let layout = image.source.path().to_owned();
    let kept = store(&bench, &image, "kept", Blobs::Keep);
    assert!(layout.is_dir());
    let blobs_of = |image: &punnet_images::Image| {
        let (source, manifest) = image.source().unwrap();
        let (document, _) = source.read_manifest(&manifest).unwrap();
        (manifest.digest, document.layers)
    };
    let before = blobs_of(&kept);
    let store_of_bench = Store::open(bench.path("store")).unwrap();
    store_of_bench.remove("kept").unwrap();
    let taken = store(&bench, &image, "taken", Blobs::Take);
    assert!(!layout.exists(), "it was copied");
    assert_eq!(blobs_of(&taken), before);
    assert_eq!(store_of_bench.verify(&taken).unwrap(), []);
}

#[test]
fn a_stage_copies_from_an_earlier_one_with_owner_and_mode() {
    let bench = Bench::new(&[("app", "program"), ("etc/a.conf", "a"), ("etc/b.txt", "b")]);
    symlink("etc", bench.context().join("link")).unwrap();
    let text = "FROM scratch AS build\nCOPY --chown=7:8 --chmod=750 app /out/app\nCOPY . /all/\nWORKDIR /out\nENV KEPT=no\n\
                FROM scratch AS unused\nCOPY missing /\n\
                FROM scratch\nCOPY --from=build /out/ /bin/\nCOPY --from=0 /all/link/*.conf /all/link /conf/\nCOPY --from=build --chown=1 out/app /own\n";
    let image = bench.build_file(text, &bench.options()).unwrap();
    let paths = image.paths();
    let app = &paths["bin/app"];
    assert_eq!(
        (app.data.as_str(), app.mode, app.owner),
        ("program", 0o750, (7, 8))
    );
    assert_eq!(paths["own"].owner, (1, 1));
    let files: Vec<_> = image.files().into_iter().map(|(path, _)| path).collect();
    assert_eq!(files, ["bin/app", "conf/a.conf", "conf/b.txt", "own"]);
    assert!(image.config.config.env.is_empty());
    // Layers of stages that are only copied from are not in the image, nor in the layout.
    assert_eq!(image.manifest.layers.len(), 3);
    let blobs = fs::read_dir(image.layout.join("blobs/sha256")).unwrap();
    assert_eq!(blobs.count(), 5);
}

#[test]
fn a_stage_on_a_stage_goes_on_where_that_ended() {
    let bench = Bench::new(&[("a", "1"), ("b", "2")]);
    let text = "FROM scratch AS base\nARG X=base\nENV A=$X\nCOPY a /\nWORKDIR /w\nCMD [\"one\"]\n\
                FROM base AS next\nENV B=$A-$X\nCOPY b .\nENTRYPOINT [\"two\"]\n";
    let image = bench.build_file(text, &bench.options()).unwrap();
    assert_eq!(image.config.config.env, ["A=base", "B=base-"]);
    assert_eq!(image.config.config.entrypoint, Some(vec!["two".into()]));
    assert_eq!(image.config.config.cmd, None, "it was for the other entrypoint");
    assert_eq!(image.config.config.working_dir, "/w");
    let files: Vec<_> = image.files().into_iter().map(|(path, _)| path).collect();
    assert_eq!(files, ["a", "w/b"]);
    let base = bench.build_file(text, &targeting(&bench, "base")).unwrap();
    assert_eq!(base.manifest.layers, image.manifest.layers[..2]);
    assert_eq!(base.config.config.cmd, Some(vec!["one".into()]));
}

#[test]
fn a_base_whose_blobs_are_here_keeps_its_layers() {
    let bench = Bench::new(&[("a", "1"), ("b", "2")]);
    let base = bench
        .build("COPY a /etc/a\nENV FROM_BASE=1\nHEALTHCHECK --interval=5s CMD check\nSHELL [\"/sh\", \"-x\"]\nUSER 5\n")
        .unwrap();
    let stored = store(&bench, &base, "base", Blobs::Keep);
    let text = "ARG BASE=base\nFROM $BASE\nENV NEW=$FROM_BASE\nCOPY b /etc/\nCMD run it\n";
    let image = bench.build_file(text, &bench.options()).unwrap();
    assert_eq!(image.manifest.layers[0], base.manifest.layers[0]);
    assert_eq!(image.config.rootfs.diff_ids[0], base.config.rootfs.diff_ids[0]);
    assert_eq!(image.config.config.env, ["FROM_BASE=1", "NEW=1"]);
    assert_eq!(image.config.config.user, "5");
    assert_eq!(
        image.config.config.cmd,
        Some(["/sh", "-x", "run it"].map(String::from).to_vec())
    );
    let check = image.config.config.healthcheck.unwrap();
    assert_eq!(check.test, ["CMD-SHELL", "check"]);
    assert_eq!(check.interval, 5_000_000_000);
    let annotations = &image.manifest.annotations;
    assert_eq!(annotations["org.opencontainers.image.base.name"], "base:latest");
    assert_eq!(
        annotations["org.opencontainers.image.base.digest"],
        stored.manifest.to_string()
    );
    assert_eq!(image.config.history.len(), base.config.history.len() + 3);
}

#[test]
fn a_base_of_which_only_the_tree_is_here_becomes_one_layer_that_unpacks_to_it() {
    let bench = Bench::new(&[("one/a", "1"), ("one/b", "1"), ("two/a", "2"), ("c", "3")]);
    let base = bench
        .build("COPY --chmod=640 one /d/\nCOPY two /d/\nENV A=1\n")
        .unwrap();
    let stored = store(&bench, &base, "base", Blobs::Leave);
    let text = "FROM base\nCOPY c /d/\n";
    let image = bench.build_file(text, &bench.options()).unwrap();
    assert_eq!(image.manifest.layers.len(), 2);
    let again = bench.build_file(text, &bench.options()).unwrap();
    assert_eq!(bytes_below(&image.layout), bytes_below(&again.layout));
    let built = store(&bench, &image, "built", Blobs::Leave);
    for name in ["d/a", "d/b"] {
        let [before, after] = [&stored, &built].map(|image| image.rootfs().join(name));
        assert_eq!(fs::read(&before).unwrap(), fs::read(&after).unwrap());
        let mode = |path| fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode(&before), mode(&after));
    }
    assert_eq!(fs::read_to_string(built.rootfs().join("d/c")).unwrap(), "3");
    assert_eq!(image.config.config.env, ["A=1"]);
}

#[test]
fn names_of_the_base_are_known_to_chown() {
    let bench = Bench::new(&[
        ("etc/passwd", "app:x:1000:50::/home:/bin/sh\n"),
        ("etc/group", "dialout:x:20:\n"),
        ("a", ""),
    ]);
    let base = bench.build("COPY etc /etc\n").unwrap();
    store(&bench, &base, "base", Blobs::Keep);
    let lines = "COPY --chown=app a /x/a\nCOPY --chown=app:dialout a /y\nCOPY --chown=3:dialout a /z\nUSER app\nWORKDIR /home/new\n";
    let text = format!("FROM base\n{lines}");
    let paths = bench.build_file(&text, &bench.options()).unwrap().paths();
    for (path, owner) in [
        ("x/a", (1000, 50)),
        ("x/", (1000, 50)),
        ("y", (1000, 20)),
        ("z", (3, 20)),
        ("home/new/", (1000, 50)),
    ] {
        assert_eq!(paths[path].owner, owner, "{path}");
    }
    // The same names, copied in by the stage itself.
    let paths = bench.build(&format!("COPY etc /etc\n{lines}")).unwrap().paths();
    assert_eq!(paths["y"].owner, (1000, 20));
    let error = bench
        .build_file("FROM base\nCOPY --chown=nobody a /\n", &bench.options())
        .map(drop)
        .unwrap_err();
    assert!(
        chain(&error).contains(":2:1: the image has no user \"nobody\""),
        "{error}"
    );
}

#[test]
fn images_are_copied_from_and_their_links_stay_inside() {
    let bench = Bench::new(&[("usr/lib/one", "1"), ("outside", "host")]);
    symlink("usr/lib", bench.context().join("lib")).unwrap();
    symlink("../../../../../../etc", bench.context().join("up")).unwrap();
    let base = bench.build("COPY . /\nCOPY usr/lib/one /etc/inside\n").unwrap();
    store(&bench, &base, "tools:1", Blobs::Leave);
    let image = bench
        .build("COPY --from=tools:1 /lib/one /\nCOPY --from=tools:1 /up/ /e/\n")
        .unwrap();
    assert_eq!(
        image.files(),
        [
            ("e/inside".to_owned(), "1".to_owned()),
            ("one".into(), "1".into())
        ]
    );
}

#[test]
fn a_base_for_another_platform_or_with_onbuild_is_refused() {
    let bench = Bench::new(&[("a", "1")]);
    let options = BuildOptions {
        platforms: vec!["linux/arm64".parse().unwrap()],
        ..bench.options()
    };
    let base = bench.build("COPY a /\n").unwrap();
    store(&bench, &base, "base", Blobs::Keep);
    let error = bench.build_file("FROM base\n", &options).map(drop).unwrap_err();
    let text = chain(&error);
    assert!(
        text.contains("linux/amd64") && text.contains("linux/arm64"),
        "{text}"
    );
    let text = "FROM --platform=linux/amd64 base AS tools\nFROM scratch\nCOPY --from=tools /a /\n";
    let image = bench.build_file(text, &options).unwrap();
    assert_eq!(image.config.platform().to_string(), "linux/arm64/v8");
}

#[test]
fn here_documents_become_files() {
    let bench = Bench::new(&[("plain", "p")]);
    let lines = "ARG WHO=\"a b\"\nCOPY --chmod=600 <<one.conf <<-'two' plain /etc/\nhello \"$WHO\" \\$WHO\n# no comment\n\none.conf\n\t$WHO\n\ttwo\n\
                 COPY <<EOF /single\nEOF\n";
    let paths = bench.build(lines).unwrap().paths();
    for (path, data) in [
        ("etc/one.conf", "hello \"a b\" $WHO\n# no comment\n\n"),
        ("etc/two", "$WHO\n"),
        ("etc/plain", "p"),
        ("single", ""),
    ] {
        assert_eq!(paths[path].data, data, "{path}");
    }
    assert_eq!((paths["etc/one.conf"].mode, paths["single"].mode), (0o600, 0o644));
}

#[test]
fn add_unpacks_archives_and_copy_does_not() {
    let bench = Bench::new(&[("plain.gz", "")]);
    let mut archive = tar::Builder::new(Vec::new());
    let mut add = |path: &str, kind: tar::EntryType, data: &str, link: Option<&str>| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(data.len() as u64);
        header.set_mode(0o710);
        header.set_uid(11);
        header.set_gid(12);
        header.set_mtime(99);
        match link {
            Some(target) => archive.append_link(&mut header, path, target).unwrap(),
            None => archive.append_data(&mut header, path, data.as_bytes()).unwrap(),
        }
    };
    add("./d/", tar::EntryType::Directory, "", None);
    add("./d/file", tar::EntryType::Regular, "text", None);
    add("d/hard", tar::EntryType::Link, "", Some("d/file"));
    add("d/soft", tar::EntryType::Symlink, "", Some("file"));
    let bytes = archive.into_inner().unwrap();
    fs::write(bench.context().join("t.tar"), &bytes).unwrap();
    let gzipped = |bytes: &[u8]| {
        use std::io::Write;
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    };
    fs::write(bench.context().join("t.tgz"), gzipped(&bytes)).unwrap();
    fs::write(bench.context().join("plain.gz"), gzipped(b"no archive")).unwrap();
    let lines = "ADD t.tar /a/\nADD --chown=1:2 t.tgz /b\nCOPY t.tgz /c/\nADD plain.gz /c/\n";
    let image = bench.build(lines).unwrap();
    let paths = image.paths();
    for (path, data, owner) in [
        ("a/d/file", "text", (11, 12)),
        ("a/d/hard", "text", (11, 12)),
        ("a/d/soft", "file", (11, 12)),
        ("b/d/file", "text", (1, 2)),
    ] {
        let shown = &paths[path];
        assert_eq!(
            (shown.data.as_str(), shown.owner, shown.mtime),
            (data, owner, 0),
            "{path}"
        );
    }
    assert_eq!(paths["a/d/"].mode, 0o710);
    assert!(paths.contains_key("c/t.tgz") && paths.contains_key("c/plain.gz"));
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Regular);
    // One byte more than an archive may have.
    for (name, size, complaint) in [
        (b"../out", 0, "`..`"),
        (b"large.", (16 << 30) + 1, "17179869184 bytes"),
    ] {
        header.as_gnu_mut().unwrap().name[..6].copy_from_slice(name);
        header.set_size(size);
        header.set_cksum();
        let archive = [header.as_bytes().as_slice(), &[0; 1024]].concat();
        fs::write(bench.context().join("bad.tar"), archive).unwrap();
        let error = bench.refusal("ADD bad.tar /\n");
        assert!(error.contains(":2:1:") && error.contains(complaint), "{error}");
    }
}

#[test]
fn labels_of_the_specification_are_annotations_too() {
    let bench = Bench::new(&[]);
    let lines = "LABEL org.opencontainers.image.title=\"A title\" org.opencontainers.image.version=1 other=x\nMAINTAINER Somebody\n";
    let options = BuildOptions {
        labels: vec![("org.opencontainers.image.version".into(), "2".into())],
        ..bench.options()
    };
    let image = bench
        .build_file(&format!("FROM scratch\n{lines}"), &options)
        .unwrap();
    let annotations: Vec<_> = image
        .manifest
        .annotations
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    assert_eq!(
        annotations,
        [
            ("org.opencontainers.image.title", "A title"),
            ("org.opencontainers.image.version", "2")
        ]
    );
    assert_eq!(image.config.config.labels.len(), 3);
    assert_eq!(image.config.author.as_deref(), Some("Somebody"));
}

/// What stands for a program of each.
const PROGRAMS: [(&str, &str); 4] = [
    ("app-amd64", "x86"),
    ("app-arm64v8", "a64"),
    ("app-armv7", "v7"),
    ("app-armv6", "v6"),
];

const BOARDS: [&str; 4] = ["linux/amd64", "linux/arm64", "linux/arm/v7", "linux/arm/v6"];

fn for_all_boards(bench: &Bench) -> BuiltImage {
    let options = BuildOptions {
        platforms: BOARDS.map(|text| text.parse::<Platform>().unwrap()).to_vec(),
        reference: Some("app:1".parse().unwrap()),
        ..bench.options()
    };
    let text = "FROM --platform=$BUILDPLATFORM scratch AS choose\nARG TARGETARCH TARGETVARIANT\nCOPY app-$TARGETARCH$TARGETVARIANT /app\n\
                FROM scratch\nARG BUILDPLATFORM TARGETPLATFORM TARGETOS\nENV ON=$TARGETPLATFORM/$TARGETOS FROM=$BUILDPLATFORM\nCOPY --from=choose /app /app\n";
    bench.build_file(text, &options).unwrap()
}

#[test]
fn one_build_makes_images_for_all_boards_as_an_index() {
    let bench = Bench::new(&PROGRAMS);
    let image = for_all_boards(&bench);
    let index = Index::from_json(&image.source.document(&image.descriptor).unwrap()).unwrap();
    assert_eq!(index.manifests, image.manifests);
    for (manifest, (platform, data)) in image.manifests.iter().zip([
        ("linux/amd64", "x86"),
        ("linux/arm64/v8", "a64"),
        ("linux/arm/v7", "v7"),
        ("linux/arm/v6", "v6"),
    ]) {
        assert_eq!(manifest.platform.as_ref().unwrap().to_string(), platform);
        let (document, config) = image.source.read_manifest(manifest).unwrap();
        assert_eq!(config.platform().to_string(), platform);
        assert_eq!(config.config.env[0], format!("ON={platform}/linux"));
        assert_eq!(config.config.env[1], format!("FROM={}", platform::host()));
        let blob = image.source.blob_of(&document.layers[0]).unwrap();
        let mut text = String::new();
        let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(blob));
        let mut entry = archive.entries().unwrap().next().unwrap().unwrap();
        std::io::Read::read_to_string(&mut entry, &mut text).unwrap();
        assert_eq!(text, data);
        // A board that opens it takes what is its own.
        let chosen = image.source.select(None, &platform.parse().unwrap()).unwrap();
        assert_eq!(chosen.digest, manifest.digest);
    }
    let again = for_all_boards(&bench);
    assert_eq!(bytes_below(&image.layout), bytes_below(&again.layout));
}

#[test]
fn skopeo_and_umoci_read_an_index_and_take_the_platform_asked_for() {
    let bench = Bench::new(&PROGRAMS);
    let image = for_all_boards(&bench);
    let archive = bench.path("app.oci.tar");
    let reference = "app:1".parse().unwrap();
    export::write(
        &image.source,
        &image.descriptor,
        Some(&reference),
        export::Format::OciArchive,
        &archive,
    )
    .unwrap();
    let reread = Source::open(&archive).unwrap();
    let v6 = reread.select(None, &"linux/arm/v6".parse().unwrap()).unwrap();
    assert_eq!(v6.digest, image.manifests[3].digest);
    let from = format!("oci-archive:{}:1", archive.display());
    for (variant, digest) in [("v6", &image.manifests[3]), ("v7", &image.manifests[2])] {
        let to = bench.path(variant);
        let copied = tool(
            "skopeo",
            &[
                "--override-arch=arm",
                &format!("--override-variant={variant}"),
                "copy",
                "-q",
                &from,
                &format!("oci:{}:x", to.display()),
            ],
        );
        if copied.is_none() {
            return;
        }
        let copy = Source::open(&to).unwrap();
        assert_eq!(copy.index().manifests[0].digest, digest.digest, "{variant}");
        let unpacked = bench.path(&format!("{variant}-rootfs"));
        let image = format!("{}:x", to.display());
        let unpacked_text = unpacked.to_str().unwrap();
        if tool(
            "umoci",
            &["unpack", "--rootless", "--image", &image, unpacked_text],
        )
        .is_some()
        {
            assert_eq!(fs::read_to_string(unpacked.join("rootfs/app")).unwrap(), variant);
        }
    }
}

#[test]
fn layers_come_from_the_cache_and_are_the_same_bytes() {
    let mut bench = Bench::new(&[("a", "1"), ("b", "2")]);
    let text = "FROM scratch\nCOPY a /d/\nCOPY b /d/\n";
    let without = bench.build_file(text, &bench.options()).unwrap();
    bench.caches = true;
    let first = bench.build_file(text, &bench.options()).unwrap();
    let is_hidden = |path: &Path| {
        path.file_name()
            .is_some_and(|name| name.as_encoded_bytes()[0] == b'.')
    };
    let entries = || -> Vec<std::path::PathBuf> {
        let all = fs::read_dir(bench.path("cache")).unwrap();
        let all = all.map(|entry| entry.unwrap().path());
        // Replaced ones have names that begin with a dot.
        all.filter(|path| path.join("layer.json").exists() && !is_hidden(path))
            .collect()
    };
    assert_eq!(entries().len(), 2);
    let second = bench.build_file(text, &bench.options()).unwrap();
    for image in [&first, &second] {
        assert_eq!(bytes_below(&image.layout), bytes_below(&without.layout));
    }
    // A damaged one is found out, and made anew.
    for entry in entries() {
        fs::remove_file(entry.join("blob")).unwrap();
        fs::write(entry.join("blob"), "damaged").unwrap();
    }
    let third = bench.build_file(text, &bench.options()).unwrap();
    assert_eq!(bytes_below(&third.layout), bytes_below(&without.layout));
    for entry in entries() {
        assert_ne!(fs::read(entry.join("blob")).unwrap(), b"damaged");
    }
    // What interrupted builds have left goes with the next.
    fs::create_dir(bench.path("cache/.new-1-1")).unwrap();
    bench.build_file(text, &bench.options()).unwrap();
    assert!(!bench.path("cache/.new-1-1").exists());
    let pruned = punnet_images::build::prune(&bench.path("cache"))
        .unwrap()
        .unwrap();
    assert_eq!(pruned.steps, 2);
    assert!(entries().is_empty());
}

#[test]
fn a_changed_file_is_never_taken_for_the_old_one() {
    let mut bench = Bench::new(&[("a", "1")]);
    bench.caches = true;
    let text = "FROM scratch\nARG WHO=x\nCOPY a /d/$WHO\n";
    let mut seen = std::collections::BTreeSet::new();
    for (content, mode, who) in [
        ("1", 0o644, "x"),
        ("2", 0o644, "x"),
        ("2", 0o755, "x"),
        ("2", 0o755, "y"),
    ] {
        let file = bench.context().join("a");
        fs::write(&file, content).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        let options = BuildOptions {
            build_args: vec![("WHO".into(), who.into())],
            ..bench.options()
        };
        let image = bench.build_file(text, &options).unwrap();
        assert_eq!(image.paths()[&format!("d/{who}")].data, content);
        seen.insert(image.manifest.layers[0].digest);
    }
    assert_eq!(seen.len(), 4);
}
