//! The store against images that lie or attack: each is refused by name, nothing is written outside, and nothing of it stays.

use crate::support::{bytes_below, chain, tool};
use flate2::{Compression, write::GzEncoder};
use punnet_images::oci::{self, Descriptor, ImageConfig, Index, Manifest, RootFs, media_type};
use punnet_images::{Blobs, Digest, Error, Image, ImportOptions, Result, Source, Store};
use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use tempfile::TempDir;

/// A layout of these layers, each a tar, written gzip-compressed.
pub struct Made {
    pub folder: TempDir,
    pub manifest: Manifest,
    pub config: ImageConfig,
}

impl Made {
    pub fn new(layers: &[Vec<u8>]) -> Self {
        let folder = TempDir::new().unwrap();
        fs::create_dir_all(folder.path().join("layout/blobs/sha256")).unwrap();
        let mut made = Self {
            folder,
            manifest: Manifest {
                schema_version: 2,
                media_type: media_type::MANIFEST.into(),
                config: Descriptor::of(media_type::CONFIG, b""),
                layers: Vec::new(),
                annotations: Default::default(),
            },
            config: ImageConfig {
                architecture: "amd64".into(),
                os: "linux".into(),
                rootfs: RootFs {
                    kind: "layers".into(),
                    diff_ids: Vec::new(),
                },
                ..ImageConfig::default()
            },
        };
        for layer in layers {
            made.add_layer(&gzip(layer), Digest::of(layer));
        }
        made
    }

    /// One more layer, compressed.
    fn add_layer(&mut self, bytes: &[u8], diff_id: Digest) {
        let blob = self.blob(media_type::LAYER_GZIP, bytes);
        self.manifest.layers.push(blob);
        self.config.rootfs.diff_ids.push(diff_id);
    }

    fn blob(&self, media_type: &str, bytes: &[u8]) -> Descriptor {
        let descriptor = Descriptor::of(media_type, bytes);
        fs::write(self.blob_path(&descriptor), bytes).unwrap();
        descriptor
    }

    pub fn blob_path(&self, descriptor: &Descriptor) -> std::path::PathBuf {
        self.folder
            .path()
            .join("layout/blobs/sha256")
            .join(descriptor.digest.hex())
    }

    /// Writes configuration, manifest and index as they are now.
    pub fn source(&mut self) -> Source {
        self.manifest.config = self.blob(media_type::CONFIG, &oci::to_json(&self.config));
        let manifest = self.blob(media_type::MANIFEST, &oci::to_json(&self.manifest));
        let layout = self.folder.path().join("layout");
        fs::write(
            layout.join("index.json"),
            oci::to_json(&Index::of(vec![manifest])),
        )
        .unwrap();
        fs::write(layout.join("oci-layout"), br#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        Source::open(&layout).unwrap()
    }

    pub fn store(&self) -> Store {
        Store::open(self.folder.path().join("store")).unwrap()
    }

    fn import(&mut self) -> Result<Image> {
        import(&self.store(), &self.source())
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub fn import(store: &Store, source: &Source) -> Result<Image> {
    import_as(store, source, "app")
}

pub fn import_as(store: &Store, source: &Source, name: &str) -> Result<Image> {
    let mut options = ImportOptions {
        name: None,
        platform: "linux/amd64".parse().unwrap(),
        reference: Some(name.parse().unwrap()),
        expect: None,
        blobs: Blobs::Leave,
        progress: &mut |_| {},
    };
    store.import(source, &mut options)
}

/// One entry with a name that no archive library would write.
pub fn entry(kind: u8, name: &str, link: &str, data: &[u8]) -> Vec<u8> {
    let mut header = tar::Header::new_ustar();
    header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
    header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
    header.as_old_mut().linkflag[0] = kind;
    header.set_mode(if kind == b'5' { 0o755 } else { 0o644 });
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(data.len() as u64);
    header.set_cksum();
    let mut bytes = header.as_bytes().to_vec();
    bytes.extend_from_slice(data);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

pub fn file(name: &str, data: &str) -> Vec<u8> {
    entry(b'0', name, "", data.as_bytes())
}

/// An entry behind an extended header of these records.
pub fn pax(records: &[(&str, &str)], entry_bytes: Vec<u8>) -> Vec<u8> {
    let mut data = Vec::new();
    for (key, value) in records {
        let rest = key.len() + value.len() + 3;
        let length = (rest + 1..)
            .find(|length| length.to_string().len() + rest == *length)
            .unwrap();
        data.extend(format!("{length} {key}={value}\n").into_bytes());
    }
    [entry(b'x', "PaxHeaders/x", "", &data), entry_bytes].concat()
}

/// Nothing is published, and nothing of the attempt is left that prune would not take.
pub fn assert_nothing_stored(made: &Made) {
    let store = made.store();
    assert!(store.list().unwrap().is_empty());
    store.prune(|_| false).unwrap();
    let root = made.folder.path().join("store");
    for part in ["images", "refs", "staging", "objects"] {
        assert!(bytes_below(&root.join(part)).is_empty(), "{part} is not empty");
    }
}

#[test]
fn entries_that_lead_out_of_the_tree_are_refused_by_name() {
    let outside = TempDir::new().unwrap();
    let target = outside.path().to_str().unwrap();
    fs::write(outside.path().join("host"), "host").unwrap();
    for (layer, part) in [
        (file("../evil", "x"), "../evil"),
        (file("a/../../evil", "x"), "a/../../evil"),
        (file("/evil", "x"), "/evil"),
        (
            [entry(b'2', "out", target, b""), file("out/evil", "x")].concat(),
            "out/evil",
        ),
        (
            [
                entry(b'2', "up", "../../../../../../..", b""),
                file("up/tmp/evil", "x"),
            ]
            .concat(),
            "up/tmp/evil",
        ),
        (
            [entry(b'2', "out", target, b""), entry(b'5', "out/evil/", "", b"")].concat(),
            "out/evil",
        ),
        (
            [
                entry(b'2', "out", target, b""),
                entry(b'1', "in", "out/host", b""),
            ]
            .concat(),
            "`in`",
        ),
        (
            [entry(b'2', "out", target, b""), file("out/.wh.host", "")].concat(),
            "out/.wh.host",
        ),
        (
            [entry(b'2', "out", target, b""), file("out/.wh..wh..opq", "")].concat(),
            "out/.wh..wh..opq",
        ),
        (
            entry(b'1', "in", "../../../../etc/passwd", b""),
            "out of the image",
        ),
        (entry(b'1', "in", "/etc/passwd", b""), "out of the image"),
    ] {
        let mut made = Made::new(&[[file("before", "x"), layer].concat()]);
        let error = chain(&made.import().expect_err(part));
        assert!(error.contains(part), "{part}: {error}");
        assert_nothing_stored(&made);
    }
    assert_eq!(bytes_below(outside.path()).len(), 1);
}

#[test]
fn a_link_in_the_place_of_a_file_is_replaced_and_not_followed() {
    let outside = TempDir::new().unwrap();
    let host = outside.path().join("host");
    fs::write(&host, "host").unwrap();
    let layer = [entry(b'2', "f", host.to_str().unwrap(), b""), file("f", "mine")].concat();
    let image = Made::new(std::slice::from_ref(&layer))
        .import()
        .map(|image| fs::symlink_metadata(image.rootfs().join("f")).unwrap().is_file());
    assert!(image.unwrap());
    assert_eq!(fs::read_to_string(host).unwrap(), "host");
}

#[test]
fn damaged_and_lying_blobs_are_refused_as_such() {
    let layer = [file("a", &"x".repeat(5000)), vec![0; 1024]].concat();
    let tampered = |change: &dyn Fn(&mut Made)| {
        let mut made = Made::new(std::slice::from_ref(&layer));
        change(&mut made);
        let error = made.import().expect_err("it lies");
        assert_nothing_stored(&made);
        error
    };
    let edit = |made: &Made, edit: &dyn Fn(&mut Vec<u8>)| {
        let path = made.blob_path(&made.manifest.layers[0]);
        let mut bytes = fs::read(&path).unwrap();
        edit(&mut bytes);
        fs::write(&path, bytes).unwrap();
    };
    // The gzip header's time: unpacks to the same, only the digest tells.
    let error = chain(&tampered(&|made| edit(made, &|bytes| bytes[4] ^= 1)));
    assert!(error.contains("is damaged: its digest is"), "{error}");
    let error = chain(&tampered(&|made| edit(made, &|bytes| bytes[20] ^= 0x55)));
    assert!(error.contains("is damaged"), "{error}");
    let error = chain(&tampered(&|made| edit(made, &|bytes| bytes.truncate(30))));
    assert!(error.contains("30 bytes"), "{error}");
    let error = chain(&tampered(&|made| made.manifest.layers[0].size += 1));
    assert!(error.contains("its descriptor says"), "{error}");
    let error = chain(&tampered(&|made| {
        made.config.rootfs.diff_ids[0] = Digest::of(b"other");
    }));
    assert!(error.contains(&Digest::of(b"other").to_string()), "{error}");
    let error = chain(&tampered(&|made| {
        made.config.rootfs.diff_ids.push(Digest::of(b"other"));
    }));
    assert!(error.contains("1 layers"), "{error}");
    let error = tampered(&|made| made.config.architecture = "s390x".into());
    assert!(
        matches!(&*error, Error::WrongPlatform(text) if text.contains("linux/s390x") && text.contains("linux/amd64")),
        "{error}"
    );
    let error = tampered(&|made| made.config.os = "windows".into());
    assert!(
        matches!(&*error, Error::WrongPlatform(text) if text.contains("windows/amd64")),
        "{error}"
    );
    let error = chain(&tampered(&|made| {
        made.manifest.layers[0].media_type = media_type::LAYER_ZSTD.into();
    }));
    assert!(error.contains("zstd"), "{error}");
}

#[test]
fn a_layer_that_never_ends_is_stopped() {
    // 64 MiB of zeros behind the end of the archive, in 64 KiB.
    let mut made = Made::new(&[[file("a", "x"), vec![0; 64 << 20]].concat()]);
    let error = chain(&made.import().expect_err("it has no end"));
    assert!(error.contains("refused"), "{error}");
    assert_nothing_stored(&made);
}

#[test]
fn more_bytes_than_an_image_may_have_are_refused_by_what_headers_say() {
    const LIMIT: u64 = 64 << 30;
    const FIRST: usize = 1000;
    let left = LIMIT - FIRST as u64;
    // In the three ways in which a header can say so much, after a layer that has some already.
    let pax_size = |size: u64| pax(&[("size", &size.to_string())], file("large", "x"));
    let old_size = |size: u64| {
        let mut header = tar::Header::new_gnu();
        header.set_path("large").unwrap();
        header.set_entry_type(tar::EntryType::Regular);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(size);
        header.set_cksum();
        header.as_bytes().to_vec()
    };
    let sparse = |size: u64| {
        let size = size.to_string();
        let records = [("GNU.sparse.map", "0,0"), ("GNU.sparse.size", &size)];
        pax(&records, file("large", ""))
    };
    for large in [pax_size(left + 1), old_size(left + 1), sparse(left + 1)] {
        let mut made = Made::new(&[file("first", &"x".repeat(FIRST)), large]);
        let error = chain(&made.import().expect_err("it is too large"));
        assert!(
            error.contains("the unpacked size is over the limit of 68719476736 bytes"),
            "{error}"
        );
        assert_nothing_stored(&made);
    }
    // One byte less is no matter of size: what is said is not there.
    for large in [pax_size(left), old_size(left)] {
        let mut made = Made::new(&[file("first", &"x".repeat(FIRST)), large]);
        let error = chain(&made.import().expect_err("it is not there"));
        assert!(error.contains("unexpected end of file"), "{error}");
        assert_nothing_stored(&made);
    }
}

#[test]
fn more_entries_than_an_image_may_have_are_refused() {
    // Of devices nothing is made; what one tells of them is here as often as the first layer and the limit leave room for, and once more.
    const AT_ONCE: usize = 1000;
    let mut made = Made::new(&[file("first", "x")]);
    let devices = entry(b'3', "device", "", b"").repeat(AT_ONCE);
    // Compressed one by one: gzip's members follow each other.
    made.add_layer(
        &gzip(&devices).repeat(1_000_000 / AT_ONCE),
        Digest::of(b"nobody asks"),
    );
    let error = chain(&made.import().expect_err("they are too many"));
    assert!(
        error.contains("the number of entries is over the limit of 1000000"),
        "{error}"
    );
    assert_nothing_stored(&made);
}

#[test]
fn whiteouts_hide_lower_layers_only() {
    let base = [
        file("keep", "1"),
        file("gone", "2"),
        file("d/x", "3"),
        file("d/y", "4"),
        file("e/z", "5"),
        file("e/w/v", "6"),
    ]
    .concat();
    let top = [
        file(".wh.gone", ""),
        file("d/new", "7"),
        file("d/.wh..wh..opq", ""),
        file("e/.wh.w", ""),
        file("e/w", "8"),
    ]
    .concat();
    let mut made = Made::new(&[base, top]);
    let image = made.import().unwrap();
    let files: Vec<_> = bytes_below(&image.rootfs())
        .into_keys()
        .map(|path| path.display().to_string())
        .collect();
    assert_eq!(files, ["d/new", "e/w", "e/z", "keep"]);
}

#[test]
fn the_last_of_duplicate_entries_counts() {
    let layer = [
        file("a", "1"),
        entry(b'5', "a/", "", b""),
        file("a/b", "2"),
        file("c", "3"),
        file("c", "4"),
    ]
    .concat();
    let mut made = Made::new(&[layer]);
    let image = made.import().unwrap();
    let files: Vec<_> = bytes_below(&image.rootfs())
        .into_iter()
        .map(|(path, data)| (path.display().to_string(), data))
        .collect();
    assert_eq!(
        files,
        [("a/b".to_owned(), b"2".to_vec()), ("c".to_owned(), b"4".to_vec())]
    );
}

#[test]
fn files_that_upper_layers_replace_are_listed_as_they_ended() {
    let layer = |seed: usize| -> Vec<u8> {
        (0..200)
            .flat_map(|number| file(&format!("f{number}"), &format!("{seed} {number}")))
            .collect()
    };
    let mut made = Made::new(&[layer(1), layer(2), layer(1), layer(3)]);
    let store = made.store();
    let image = import(&store, &made.source()).unwrap();
    assert_eq!(store.verify(&image).unwrap(), []);
    assert_eq!(fs::read_to_string(image.rootfs().join("f7")).unwrap(), "3 7");
}

#[test]
fn a_whiteout_of_the_folder_itself_hides_nothing() {
    let top = [file("d/.wh.", ""), file("d/.wh..", ""), file("d/.wh...", "")].concat();
    let mut made = Made::new(&[[file("a", "1"), file("d/b", "2")].concat(), top]);
    let image = made.import().unwrap();
    assert!(image.rootfs().join("a").exists() && image.rootfs().join("d/b").exists());
}

#[test]
fn equal_files_share_one_inode_across_images_and_prune_takes_what_is_left() {
    let mut first = Made::new(&[[file("same", "shared"), file("one", "1")].concat()]);
    let mut second = Made::new(&[[file("other/name", "shared"), file("two", "2")].concat()]);
    let store = first.store();
    let a = import(&store, &first.source()).unwrap();
    let b = import(&store, &second.source()).unwrap();
    let inode = |path: &Path| fs::metadata(path).unwrap().ino();
    assert_eq!(
        inode(&a.rootfs().join("same")),
        inode(&b.rootfs().join("other/name"))
    );
    store.tag(&a, &"first".parse().unwrap()).unwrap();
    store.remove("app").unwrap();
    assert_eq!(store.list().unwrap().len(), 1);
    assert!(store.verify(&a).unwrap().is_empty());
    assert_eq!(bytes_below(&first.folder.path().join("store/objects")).len(), 2);
}

#[test]
fn verify_names_what_is_damaged() {
    let mut made = Made::new(&[[file("fine", "1"), file("cut", "content"), file("lost", "3")].concat()]);
    let store = made.store();
    let image = import(&store, &made.source()).unwrap();
    assert!(store.verify(&image).unwrap().is_empty());
    // What a power cut does to a disk that lies: an empty file, and a name that is gone.
    fs::File::options()
        .write(true)
        .open(image.rootfs().join("cut"))
        .unwrap()
        .set_len(0)
        .unwrap();
    fs::remove_file(image.rootfs().join("lost")).unwrap();
    let problems = store.verify(&image).unwrap();
    let mut problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
    problems.sort();
    let expected = [
        ".: mode, owner or time has changed",
        "cut: has 0 bytes instead of 7",
        "lost: is missing",
    ];
    assert_eq!(problems, expected);
}

#[test]
fn verify_looks_at_manifest_and_configuration_too() {
    let mut made = Made::new(&[file("fine", "1")]);
    let store = made.store();
    let image = import(&store, &made.source()).unwrap();
    for name in ["manifest.json", "config.json"] {
        let path = image.rootfs().with_file_name(name);
        let whole = fs::read(&path).unwrap();
        let mut turned = whole.clone();
        turned[whole.len() / 2] ^= 1;
        for damaged in [&turned[..], b""] {
            fs::write(&path, damaged).unwrap();
            let problems = store.verify(&image).unwrap();
            assert_eq!(problems.len(), 1, "{name}: {problems:?}");
            assert!(problems[0].to_string().starts_with(name), "{problems:?}");
        }
        fs::write(&path, &whole).unwrap();
        assert!(store.verify(&image).unwrap().is_empty());
    }
}

#[test]
fn a_tree_that_no_path_reaches_can_be_removed() {
    let folder = TempDir::new().unwrap();
    let kept = folder.path().join("kept");
    fs::write(&kept, "").unwrap();
    let tree = folder.path().join("tree");
    fs::create_dir_all(tree.join("work/work")).unwrap();
    std::os::unix::fs::symlink(&kept, tree.join("link")).unwrap();
    fs::set_permissions(tree.join("work/work"), fs::Permissions::from_mode(0o000)).unwrap();
    // 3000 levels are more than PATH_MAX has characters for and more than a process may open.
    let mode = nix::sys::stat::Mode::S_IRWXU;
    let mut at = std::os::fd::OwnedFd::from(fs::File::open(&tree).unwrap());
    for _ in 0..3000 {
        nix::sys::stat::mkdirat(&at, "d", mode).unwrap();
        let flags = nix::fcntl::OFlag::O_DIRECTORY | nix::fcntl::OFlag::O_RDONLY;
        at = nix::fcntl::openat(&at, "d", flags, nix::sys::stat::Mode::empty()).unwrap();
    }
    punnet_images::remove_tree(&tree).unwrap();
    punnet_images::remove_tree(&tree).unwrap();
    assert!(!tree.exists() && kept.exists());
}

#[test]
fn paths_up_to_path_max_are_kept_and_longer_ones_refused_without_a_trace() {
    let name = |count: usize| ["n".repeat(200).as_str()].repeat(count).join("/");
    let longest = name(20);
    let mut made = Made::new(&[pax(&[("path", &longest)], file("x", "deep"))]);
    let store = made.store();
    let image = import(&store, &made.source()).unwrap();
    assert_eq!(store.verify(&image).unwrap(), []);
    let (source, descriptor) = image.source().unwrap();
    let (manifest, _) = source.read_manifest(&descriptor).unwrap();
    let copied = std::io::copy(
        &mut source.blob_of(&manifest.layers[0]).unwrap(),
        &mut std::io::sink(),
    );
    assert_eq!(copied.unwrap(), manifest.layers[0].size);
    store.remove("app").unwrap();

    let too_long = name(21);
    // Through a link the tree becomes deeper than any name of the archive.
    let through_link = [
        pax(&[("path", &format!("{}/file", name(19)))], file("x", "")),
        pax(&[("linkpath", &name(19))], entry(b'2', "l", "x", b"")),
        pax(&[("path", &format!("l/{}", name(19)))], file("x", "")),
    ];
    for layer in [pax(&[("path", &too_long)], file("x", "")), through_link.concat()] {
        let mut made = Made::new(&[layer]);
        let error = chain(&made.import().expect_err("it is too long"));
        assert!(error.contains("4096 bytes"), "{error}");
        assert_nothing_stored(&made);
    }
}

#[test]
fn sparse_files_keep_content_and_holes_in_every_form_of_gnu_tar() {
    let folder = TempDir::new().unwrap();
    let sparse = folder.path().join("sparse");
    fs::create_dir(&sparse).unwrap();
    let with_holes = |name: &str, size: u64, parts: &[u64]| {
        let file = fs::File::create(sparse.join(name)).unwrap();
        for &at in parts {
            std::os::unix::fs::FileExt::write_all_at(&file, format!("data at {at}").as_bytes(), at).unwrap();
        }
        file.set_len(size).unwrap();
    };
    with_holes("hole-at-end", 3 << 20, &[0]);
    with_holes("hole-first", (3 << 20) + 5, &[2 << 20]);
    with_holes("all-hole", 1 << 20, &[]);
    // More parts than a header has room for.
    with_holes(
        "many",
        20 << 20,
        &(0..60).map(|part| part * 300_000).collect::<Vec<_>>(),
    );
    fs::write(sparse.join("plain"), "x").unwrap();
    for form in [
        &["--format=gnu"][..],
        &["--format=pax", "--sparse-version=0.0"],
        &["--format=pax", "--sparse-version=0.1"],
        &["--format=pax", "--sparse-version=1.0"],
    ] {
        let tar = folder.path().join("tar").display().to_string();
        let words = [
            "--create",
            "--sparse",
            "--numeric-owner",
            "--file",
            &tar,
            "--directory",
        ];
        tool("tar", &[form, &words, &[sparse.to_str().unwrap(), "."]].concat()).unwrap();
        let layer = fs::read(&tar).unwrap();
        assert!(layer.len() < 4 << 20, "{form:?}: tar has written the holes");
        let mut made = Made::new(&[layer]);
        let store = made.store();
        let image = import(&store, &made.source()).unwrap();
        assert_eq!(store.verify(&image).unwrap(), [], "{form:?}");
        let (want, have) = (bytes_below(&sparse), bytes_below(&image.rootfs()));
        assert_eq!(
            have.keys().collect::<Vec<_>>(),
            want.keys().collect::<Vec<_>>(),
            "{form:?}"
        );
        assert!(have == want, "{form:?}: content differs");
        let blocks: u64 = want
            .keys()
            .map(|name| fs::metadata(image.rootfs().join(name)).unwrap().blocks())
            .sum();
        assert!(
            blocks * 512 < 8 << 20,
            "{form:?}: {blocks} blocks are on the disk"
        );
    }
}

#[test]
fn maps_of_sparse_files_that_lie_are_refused() {
    let sparse = |map: &str, size: &str, data: &[u8]| {
        let records = [
            ("GNU.sparse.map", map),
            ("GNU.sparse.size", size),
            ("GNU.sparse.name", "a"),
        ];
        pax(&records, entry(b'0', "a", "", data))
    };
    let good = sparse("0,2,8,2", "10", b"abcd");
    let mut made = Made::new(&[good]);
    let image = import(&made.store(), &made.source()).unwrap();
    assert_eq!(fs::read(image.rootfs().join("a")).unwrap(), b"ab\0\0\0\0\0\0cd");
    for (map, size) in [
        ("0,2,8,2", "9"),
        ("8,2,0,2", "10"),
        ("0,4,2,2", "10"),
        ("0,2,8,3", "11"),
        ("0,2", "10"),
        ("0,18446744073709551615", "10"),
        ("18446744073709551615,4", "10"),
        ("x", "10"),
        ("0,4", "99999999999999999999"),
    ] {
        let mut made = Made::new(&[sparse(map, size, b"abcd")]);
        let error = chain(&made.import().expect_err(map));
        assert!(error.contains("sparse"), "{map} {size}: {error}");
        assert_nothing_stored(&made);
    }
    // Eight exbibytes in a kibibyte.
    let mut made = Made::new(&[sparse("0,4", "9223372036854775807", b"abcd")]);
    let error = chain(&made.import().expect_err("it is too large"));
    assert!(error.contains("limit"), "{error}");
    assert_nothing_stored(&made);
}
