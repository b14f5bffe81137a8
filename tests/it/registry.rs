//! Pull and push against Debian's docker-registry, filled and read by skopeo, podman and umoci, over links good and bad.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use punnet_boards::Arch;
use serde_json::{Value, json};
use xtask::process::wait_for;

use xtask::registry::{DockerRegistry, Door};

use crate::registry_stand::{Board, Fault, FaultProxy};
use crate::support::{fails, ok};

/// Copies with skopeo.
fn skopeo_copy(args: &[&str]) {
    xtask::registry::skopeo_copy(args).unwrap();
}

/// Bytes that do not compress, the same every time.
fn noise(count: usize) -> Vec<u8> {
    let mut state = 7u64;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    std::iter::repeat_with(next).take(count).collect()
}

fn busybox(arch: Arch) -> Vec<u8> {
    let package = xtask::debian_package("busybox-static", arch).unwrap();
    fs::read(package.join("bin/busybox")).unwrap()
}

const PLATFORMS: [(&str, Arch); 4] = [
    ("linux/amd64", Arch::Amd64),
    ("linux/arm64", Arch::Arm64),
    ("linux/arm/v7", Arch::ArmV7),
    ("linux/arm/v6", Arch::ArmV6),
];

/// An OCI layout with Debian's busybox for all platforms, in its index.json one by one.
fn busybox_layout(board: &Board) -> String {
    let layout = board.path("layout").display().to_string();
    for (platform, arch) in PLATFORMS {
        let name = platform.replace('/', "-");
        let lines = "COPY --chmod=755 busybox /bin/busybox\nENTRYPOINT [\"/bin/busybox\"]";
        let archive = board.build(&name, platform, lines, &[("busybox", &busybox(arch))]);
        skopeo_copy(&[
            &format!("oci-archive:{}", archive.display()),
            &format!("oci:{layout}:{name}"),
        ]);
    }
    layout
}

/// Puts the entries of a layout's index.json into one index, as image builders do; skopeo gives them no platforms.
fn as_one_image(layout: &str) {
    let path = Path::new(layout).join("index.json");
    let mut index: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    for entry in index["manifests"].as_array_mut().unwrap() {
        let name = entry["annotations"]["org.opencontainers.image.ref.name"]
            .as_str()
            .unwrap()
            .to_owned();
        let words: Vec<_> = name.split('-').collect();
        entry["platform"] = json!({ "os": words[0], "architecture": words[1] });
        if let Some(variant) = words.get(2) {
            entry["platform"]["variant"] = json!(variant);
        }
        entry.as_object_mut().unwrap().remove("annotations");
    }
    index["mediaType"] = json!("application/vnd.oci.image.index.v1+json");
    let bytes = serde_json::to_vec(&index).unwrap();
    let digest = ok(Command::new("sha256sum").arg({
        let file = Path::new(layout).join("blobs/sha256/new");
        fs::write(&file, &bytes).unwrap();
        file
    }));
    let digest = &digest[..64];
    let blobs = Path::new(layout).join("blobs/sha256");
    fs::rename(blobs.join("new"), blobs.join(digest)).unwrap();
    let top = json!({ "schemaVersion": 2, "manifests": [{
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "digest": format!("sha256:{digest}"),
        "size": bytes.len(),
        "annotations": { "org.opencontainers.image.ref.name": "all" },
    }] });
    fs::write(path, serde_json::to_vec(&top).unwrap()).unwrap();
}

#[test]
fn an_image_for_every_board_gives_each_its_own() {
    let (board, registry) = (Board::new(), DockerRegistry::start(Door::Open).unwrap());
    let layout = busybox_layout(&board);
    // Our own index first, sent from a layout with several entries; then skopeo's, of an index.
    let ours = format!("{}/boards/busybox:ours", registry.address);
    ok(&mut board.punnet(&["push", "--from", &layout, &ours]));
    as_one_image(&layout);
    let theirs = format!("{}/boards/busybox:theirs", registry.address);
    skopeo_copy(&[
        "--all",
        &format!("oci:{layout}:all"),
        &format!("docker://{theirs}"),
    ]);
    for reference in [&ours, &theirs] {
        let raw = ok(Command::new("skopeo").args([
            "inspect",
            "--raw",
            "--tls-verify=false",
            &format!("docker://{reference}"),
        ]));
        assert_eq!(
            serde_json::from_str::<Value>(&raw).unwrap()["manifests"]
                .as_array()
                .unwrap()
                .len(),
            4,
            "{raw}"
        );
        for (platform, arch) in PLATFORMS {
            ok(&mut board.punnet(&[
                "pull",
                "--quiet",
                "--platform",
                platform,
                "--tag",
                "one",
                reference,
            ]));
            assert!(
                board.stored("one:latest", "bin/busybox") == busybox(arch),
                "{platform} of {reference}"
            );
        }
        let before = registry.log().unwrap().matches("/blobs/").count();
        let complaint = fails(
            &mut board.punnet(&["pull", "--platform", "linux/riscv64", reference]),
            1,
        );
        assert_eq!(
            complaint.trim().replace("/v8", ""),
            "punnet: the image is built for linux/amd64, linux/arm64, linux/arm/v7, linux/arm/v6, but this board is linux/riscv64"
        );
        assert_eq!(
            registry.log().unwrap().matches("/blobs/").count(),
            before,
            "no blob was asked for"
        );
    }
    // The board's own is fetched by whoever wants to run it, and only then.
    let run = |policy: &str| board.punnet(&["run", "--rm", "--pull", policy, &ours, "echo", "hello"]);
    let complaint = fails(&mut run("never"), 125);
    assert!(complaint.contains("no image"), "{complaint}");
    assert_eq!(ok(&mut run("missing")), "hello\n");
    assert_eq!(ok(&mut run("never")), "hello\n");
    assert_eq!(ok(&mut run("always")), "hello\n");
    // A board that is older than any of these.
    let complaint = fails(
        &mut board.punnet(&["pull", "--platform", "linux/arm/v5", &ours]),
        1,
    );
    assert!(
        complaint.contains("but this board is linux/arm/v5"),
        "{complaint}"
    );
}

#[test]
fn zstd_gzip_and_dockers_own_manifests_are_the_same_image() {
    let (board, registry) = (Board::new(), DockerRegistry::start(Door::Open).unwrap());
    let content = [noise(300_000), vec![b'a'; 300_000]].concat();
    let archive = board.build("app", "linux/amd64", "COPY file /file", &[("file", &content)]);
    let from = format!("oci-archive:{}", archive.display());
    for (tag, options) in [
        ("zstd", &["--dest-compress-format", "zstd"][..]),
        ("gzip", &["--dest-compress-format", "gzip"]),
        ("docker", &["--format", "v2s2"]),
    ] {
        let reference = format!("{}/app:{tag}", registry.address);
        skopeo_copy(&[options, &[&from, &format!("docker://{reference}")]].concat());
        ok(&mut board.punnet(&["pull", "--quiet", &reference]));
        assert!(board.stored(&reference, "file") == content, "{tag}");
    }
}

#[test]
fn a_pull_takes_little_memory_also_of_what_skopeo_compresses_with_zstd() {
    let (board, registry) = (Board::new(), DockerRegistry::start(Door::Open).unwrap());
    // What repeats lies farther behind than memory is held for it.
    let content = noise(5 << 20).repeat(4);
    let peak_kib = |format: &str| {
        // Another layer for each: skopeo does not send what the registry has in another form.
        let content = [format.as_bytes(), &content].concat();
        let archive = board.build(format, "linux/amd64", "COPY file /file", &[("file", &content)]);
        let reference = format!("{}/app:{format}", registry.address);
        skopeo_copy(&[
            "--dest-compress-format",
            format,
            &format!("oci-archive:{}", archive.display()),
            &format!("docker://{reference}"),
        ]);
        let raw = ok(Command::new("skopeo").args([
            "inspect",
            "--raw",
            "--tls-verify=false",
            &format!("docker://{reference}"),
        ]));
        assert!(raw.contains(&format!("tar+{format}")), "{raw}");
        let mut pull = board.punnet(&["pull", "--quiet", &reference]);
        let peak = xtask::process::peak_rss_kib(pull.stdout(Stdio::null())).unwrap();
        assert!(board.stored(&reference, "file") == content, "{format}");
        peak
    };
    let (gzip, zstd) = (peak_kib("gzip"), peak_kib("zstd"));
    println!("{gzip} KiB with gzip, {zstd} KiB with zstd");
    // A build for tests takes more by itself: it is the difference that is held to its budget here.
    assert!(zstd <= gzip + 2048, "{gzip} and {zstd} KiB");
}

#[test]
fn what_we_push_is_read_by_podman_umoci_and_skopeo() {
    let (board, registry) = (Board::new(), DockerRegistry::start(Door::Open).unwrap());
    // Many layers, one of them larger than a chunk of an upload.
    let large = noise(9 << 20);
    let names: Vec<String> = (0..40).map(|number| format!("file{number}")).collect();
    let mut files: Vec<(&str, &[u8])> = names
        .iter()
        .map(|name| (name.as_str(), name.as_bytes()))
        .collect();
    files.push(("large", &large));
    let lines: Vec<String> = files
        .iter()
        .map(|(name, _)| format!("COPY {name} /{name}"))
        .collect();
    let reference = format!("{}/many/layers:1", registry.address);
    board.build("many", "linux/amd64", &lines.join("\n"), &files);
    let mut build = board.punnet(&["build", "--platform", "linux/amd64", "--tag", &reference]);
    let digest = ok(build.arg(board.path("context-many")));
    assert_eq!(ok(&mut board.punnet(&["push", "--quiet", &reference])), digest);
    assert!(
        registry
            .log()
            .unwrap()
            .contains("PATCH /v2/many/layers/blobs/uploads/"),
        "the large layer went in chunks"
    );
    // A second time everything is there; under another name the registry takes the layers over.
    let uploads = || registry.log().unwrap().matches("POST /v2/").count();
    let before = uploads();
    ok(&mut board.punnet(&["push", "--quiet", &reference]));
    assert_eq!(uploads(), before);
    let other = format!("{}/other/name:2", registry.address);
    let told = board.punnet(&["push", &reference, &other]).output().unwrap();
    let told = String::from_utf8(told.stderr).unwrap();
    assert_eq!(
        told.matches("taken from another repository").count(),
        41,
        "{told}"
    );

    let folder = board.path("read");
    fs::create_dir(&folder).unwrap();
    let at = |name: &str| folder.join(name).display().to_string();
    skopeo_copy(&[&format!("docker://{other}"), &format!("oci:{}:x", at("oci"))]);
    ok(Command::new("umoci").args([
        "unpack",
        "--rootless",
        "--image",
        &format!("{}:x", at("oci")),
        &at("bundle"),
    ]));
    assert!(fs::read(folder.join("bundle/rootfs/large")).unwrap() == large);
    assert_eq!(fs::read(folder.join("bundle/rootfs/file39")).unwrap(), b"file39");
    let mut podman = Command::new("podman");
    podman.args([
        "--storage-driver",
        "vfs",
        "--root",
        &at("root"),
        "--runroot",
        &at("runroot"),
    ]);
    let id = ok(podman.args(["pull", "--quiet", "--tls-verify=false", &reference]));
    let config = ok(Command::new("skopeo").args([
        "inspect",
        "--raw",
        "--tls-verify=false",
        &format!("docker://{reference}"),
    ]));
    let config: Value = serde_json::from_str(&config).unwrap();
    assert_eq!(config["config"]["digest"], format!("sha256:{}", id.trim()));
}

#[test]
fn a_locked_registry_wants_its_authority_and_a_login() {
    let (board, registry) = (Board::new(), DockerRegistry::start(Door::Locked).unwrap());
    let ca = registry.ca().display().to_string();
    let reference = format!("{}/app:1", registry.address);
    let archive = board.build("app", "linux/amd64", "COPY file /file", &[("file", b"content")]);
    // Without the authority nothing is said to it.
    let settings = |json: Value| fs::write(board.path("data/registries.json"), json.to_string()).unwrap();
    settings(json!({ "registries": { registry.address.clone(): { "insecure": false } } }));
    let complaint = fails(&mut board.punnet(&["pull", &reference]), 1);
    assert!(complaint.contains("certificate is not accepted"), "{complaint}");
    let complaint = fails(&mut board.punnet(&["pull", "--ca", &ca, &reference]), 1);
    assert!(complaint.contains("punnet login 127.0.0.1:"), "{complaint}");
    let login = |password: &str| {
        let file = board.path("password");
        fs::write(&file, password).unwrap();
        let mut command = board.punnet(&["login", "--user", "user", "--ca", &ca, &registry.address]);
        command.stdin(fs::File::open(file).unwrap());
        command
    };
    let complaint = fails(&mut login("wrong"), 1);
    assert!(complaint.contains("password is not right"), "{complaint}");
    assert!(
        !board.path("data/auth.json").exists(),
        "a wrong password is not kept"
    );
    ok(&mut login("secret\n"));
    let push = |name: &str| {
        board.punnet(&[
            "push",
            "--quiet",
            "--ca",
            &ca,
            "--from",
            archive.to_str().unwrap(),
            name,
        ])
    };
    ok(&mut push(&reference));
    // The authority from the settings, the password from Docker's file.
    ok(&mut board.punnet(&["logout", &registry.address]));
    settings(json!({ "registries": { registry.address.clone(): { "ca_file": ca } } }));
    fails(&mut board.punnet(&["pull", &reference]), 1);
    fs::create_dir_all(board.path("home/.docker")).unwrap();
    let docker = json!({ "auths": { registry.address.clone(): { "auth": "dXNlcjpzZWNyZXQ=" } } });
    fs::write(board.path("home/.docker/config.json"), docker.to_string()).unwrap();
    ok(&mut board.punnet(&["pull", &reference]));
    assert_eq!(board.stored(&reference, "file"), b"content");
}

#[test]
fn tls_goes_through_a_proxy_that_damages_it_and_arrives_whole() {
    let (board, registry) = (Board::new(), DockerRegistry::start(Door::Locked).unwrap());
    let content = noise(1_500_000);
    let archive = board.build("app", "linux/amd64", "COPY file /file", &[("file", &content)]);
    skopeo_copy(&[
        "--dest-creds=user:secret",
        &format!("oci-archive:{}", archive.display()),
        &format!("docker://{}/app:1", registry.address),
    ]);
    // Damage within TLS is a broken link: it goes on on the next connection.
    let proxy = FaultProxy::start(&registry.address, |number| match number {
        0 => Fault::Drop(200_000),
        1 => Fault::Flip(300_000),
        2 => Fault::Close(400_000),
        3 => Fault::Drop(1_000),
        _ => Fault::None,
    });
    let auth = json!({ "auths": { "registry.test": { "auth": "dXNlcjpzZWNyZXQ=" } } });
    fs::create_dir_all(board.path("home/.docker")).unwrap();
    fs::write(board.path("home/.docker/config.json"), auth.to_string()).unwrap();
    let mut pull = board.punnet(&["pull", "--json", "--ca"]);
    pull.arg(registry.ca()).arg("registry.test/app:1");
    pull.env("https_proxy", format!("http://{}", proxy.address));
    let events = ok(&mut pull);
    assert!(board.stored("registry.test/app:1", "file") == content);
    assert_eq!(proxy.connections(), 5);
    let events: Vec<Value> = events
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(
        events.iter().filter(|event| event["event"] == "waiting").count(),
        4
    );
    let last = events.iter().rfind(|event| event["event"] == "progress").unwrap();
    assert_eq!(last["done_bytes"], last["total_bytes"]);
    ok(&mut board.punnet(&["verify"]));
}

#[test]
fn a_pull_that_is_killed_goes_on_at_the_byte_if_what_came_was_kept() {
    let (board, registry) = (Board::new(), DockerRegistry::start(Door::Open).unwrap());
    let content = noise(3_000_000);
    let archive = board.build("app", "linux/amd64", "COPY file /file", &[("file", &content)]);
    skopeo_copy(&[
        &format!("oci-archive:{}", archive.display()),
        &format!("docker://{}/app:1", registry.address),
    ]);
    // Kills a pull over a slow link in the middle; then how many bytes the next pull took.
    let killed_and_pulled_again = |options: &[&str]| {
        let proxy = FaultProxy::start(&registry.address, |number| match number {
            0 => Fault::Slow(Duration::from_millis(2)),
            _ => Fault::None,
        });
        let reference = format!("{}/app:1", proxy.address);
        let words = [&["pull", "--quiet", "--tag", "app"], options, &[&reference]].concat();
        let mut first = board.punnet(&words).spawn().unwrap();
        wait_for("half of the image", Duration::from_secs(60), || {
            Ok((proxy.bytes() > 1_500_000).then_some(()))
        })
        .unwrap();
        first.kill().unwrap();
        first.wait().unwrap();
        assert_eq!(ok(&mut board.punnet(&["images", "--quiet"])), "");
        let before = proxy.bytes();
        ok(&mut board.punnet(&words));
        assert!(board.stored("app:latest", "file") == content);
        assert!(
            !board.path("data/store/partial").exists() || {
                fs::read_dir(board.path("data/store/partial")).unwrap().count() == 0
            }
        );
        ok(&mut board.punnet(&["verify"]));
        ok(&mut board.punnet(&["rmi", "app"]));
        ok(&mut board.punnet(&["prune"]));
        proxy.bytes() - before
    };
    // What is on its way is some buffers of the two sockets; what no sync has told yet is there after a kill.
    let kept = killed_and_pulled_again(&["--keep-partial"]);
    assert!(
        (100_000..2_200_000).contains(&kept),
        "{kept} bytes were served again"
    );
    let not_kept = killed_and_pulled_again(&[]);
    assert!(not_kept > 3_000_000, "only {not_kept} bytes were served again");
}

/// Puts beside an image of a registry what `cosign sign --key` puts there (SIGNATURE_SPEC.md), made by OpenSSL and sent by skopeo.
fn sign_as_cosign_does(board: &Board, image: &str, private_key: &Path) {
    let digest = ok(Command::new("skopeo").args([
        "inspect",
        "--tls-verify=false",
        "--format={{.Digest}}",
        &format!("docker://{image}"),
    ]));
    let digest = digest.trim();
    let layout = board.path("signature-layout");
    let blobs = layout.join("blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    let blob = |media_type: &str, bytes: &[u8]| {
        let file = board.path("blob");
        fs::write(&file, bytes).unwrap();
        let hex = ok(Command::new("sha256sum").arg(&file))[..64].to_owned();
        fs::rename(&file, blobs.join(&hex)).unwrap();
        json!({ "mediaType": media_type, "size": bytes.len(), "digest": format!("sha256:{hex}") })
    };
    let payload = json!({
        "critical": {
            "identity": { "docker-reference": image },
            "image": { "docker-manifest-digest": digest },
            "type": "cosign container image signature",
        },
        "optional": null,
    });
    let (message, signature) = (board.path("payload"), board.path("signature"));
    fs::write(&message, payload.to_string()).unwrap();
    ok(Command::new("openssl")
        .args(["dgst", "-sha256", "-sign"])
        .arg(private_key)
        .arg("-out")
        .args([&signature, &message]));
    let signature = ok(Command::new("base64").arg("--wrap=0").arg(signature));
    let mut layer = blob(
        "application/vnd.dev.cosign.simplesigning.v1+json",
        payload.to_string().as_bytes(),
    );
    layer["annotations"] = json!({ "dev.cosignproject.cosign/signature": signature });
    let config = json!({
        "architecture": "", "os": "", "config": {},
        "rootfs": { "type": "layers", "diff_ids": [layer["digest"]] },
    });
    let config = blob(
        "application/vnd.oci.image.config.v1+json",
        config.to_string().as_bytes(),
    );
    const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    let manifest = json!({
        "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [layer],
    });
    let manifest = blob(MANIFEST, manifest.to_string().as_bytes());
    let index = json!({ "schemaVersion": 2, "manifests": [manifest] });
    fs::write(layout.join("index.json"), index.to_string()).unwrap();
    fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    let repository = image.rsplit_once(':').unwrap().0;
    skopeo_copy(&[
        &format!("oci:{}", layout.display()),
        &format!("docker://{repository}:{}.sig", digest.replace(':', "-")),
    ]);
}

#[test]
fn an_image_signed_in_the_registry_as_cosign_does_runs_and_others_do_not() {
    let (board, registry) = (Board::new(), DockerRegistry::start(Door::Open).unwrap());
    let lines = "COPY --chmod=755 busybox /bin/busybox\nENTRYPOINT [\"/bin/busybox\"]";
    let program = busybox(Arch::Amd64);
    let key = board.path("key.pem");
    ok(Command::new("openssl")
        .args([
            "genpkey",
            "-algorithm",
            "EC",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-out",
        ])
        .arg(&key));
    let public = ok(Command::new("openssl").args(["pkey", "-pubout", "-in"]).arg(&key));
    for name in ["signed", "unsigned"] {
        let lines = format!("{lines}\nLABEL name={name}");
        let archive = board.build(name, "linux/amd64", &lines, &[("busybox", &program)]);
        skopeo_copy(&[
            &format!("oci-archive:{}", archive.display()),
            &format!("docker://{}/{name}:1", registry.address),
        ]);
    }
    let image = |name: &str| format!("{}/{name}:1", registry.address);
    sign_as_cosign_does(&board, &image("signed"), &key);
    let policy = json!({
        "version": 1, "keys": { "vendor": public }, "rules": [{ "images": "", "signed_by": ["vendor"] }],
    });
    fs::write(board.path("data/signatures.json"), policy.to_string()).unwrap();
    let run = |name: &str| board.punnet(&["run", "--rm", &image(name), "echo", "hello"]);
    assert_eq!(ok(&mut run("signed")), "hello\n");
    let complaint = fails(&mut run("unsigned"), 125);
    assert!(complaint.contains("it has no signature"), "{complaint}");
}

/// Runs with standard error on a terminal of its own; what was drawn there. Nobody else gets the terminal: it ends with the program.
fn drawn_on_a_terminal(mut command: Command) -> String {
    use nix::fcntl::OFlag;
    let master = nix::pty::posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC).unwrap();
    nix::pty::grantpt(&master).unwrap();
    nix::pty::unlockpt(&master).unwrap();
    let name = nix::pty::ptsname_r(&master).unwrap();
    let terminal = fs::File::options().read(true).write(true).open(name).unwrap();
    let mut child = command
        .stdout(Stdio::null())
        .stderr(Stdio::from(terminal))
        .spawn()
        .unwrap();
    drop(command);
    let mut drawn = Vec::new();
    let mut master = fs::File::from(std::os::fd::OwnedFd::from(master));
    // EIO: nobody has the other side any more (pty(7)).
    let ended = master.read_to_end(&mut drawn).unwrap_err();
    assert_eq!(ended.raw_os_error(), Some(nix::libc::EIO));
    assert!(child.wait().unwrap().success());
    String::from_utf8(drawn).unwrap()
}

#[test]
fn a_terminal_gets_a_bar_with_rate_and_time_left_and_a_file_gets_lines() {
    let (board, registry) = (Board::new(), DockerRegistry::start(Door::Open).unwrap());
    let content = noise(1_000_000);
    let files = [("one", &content[..400_000]), ("two", &content[400_000..])];
    let archive = board.build("app", "linux/amd64", "COPY one /one\nCOPY two /two", &files);
    skopeo_copy(&[
        &format!("oci-archive:{}", archive.display()),
        &format!("docker://{}/app:1", registry.address),
    ]);
    // Slow enough for several pictures.
    let proxy = FaultProxy::start(&registry.address, |_| Fault::Slow(Duration::from_millis(4)));
    let reference = format!("{}/app:1", proxy.address);
    let drawn = drawn_on_a_terminal(board.punnet(&["pull", &reference]));
    let pictures: Vec<&str> = drawn.split("\r\x1b[K").collect();
    let half_way = pictures.iter().any(|picture| {
        let is_bar = picture.starts_with("layer 2 of 2 [###") && picture.contains(".] ");
        is_bar && picture.contains(" of 978 KiB, ") && picture.contains("/s, ") && picture.ends_with(" left")
    });
    assert!(half_way, "{drawn:?}");
    assert!(
        pictures.iter().any(|picture| picture.contains(&"#".repeat(24))),
        "{drawn:?}"
    );
    assert_eq!(
        pictures.last(),
        Some(&""),
        "the line is left to others: {drawn:?}"
    );
    assert!(!drawn.contains('\n'), "{drawn:?}");
    ok(&mut board.punnet(&["rmi", &reference]));
    let reference = format!("{}/app:1", registry.address);
    let plain = board.punnet(&["pull", &reference]).output().unwrap();
    let lines = String::from_utf8(plain.stderr).unwrap();
    assert_eq!(
        lines,
        "layer 1 of 2, 978 KiB of all\nlayer 2 of 2, 978 KiB of all\n"
    );
}

#[test]
fn a_damaged_file_is_mended_from_the_registry_by_its_layer_alone() {
    let (board, registry) = (Board::new(), DockerRegistry::start(Door::Open).unwrap());
    let content = noise(3_200_000);
    let files = [
        ("below", &content[..1_500_000]),
        ("damaged", &content[1_500_000..1_700_000]),
        ("above", &content[1_700_000..]),
    ];
    let archive = board.build(
        "app",
        "linux/amd64",
        "COPY below /below\nCOPY damaged /damaged\nCOPY above /above",
        &files,
    );
    let proxy = FaultProxy::start(&registry.address, |_| Fault::None);
    let reference = format!("{}/app:1", proxy.address);
    skopeo_copy(&[
        &format!("oci-archive:{}", archive.display()),
        &format!("docker://{}/app:1", registry.address),
    ]);
    ok(&mut board.punnet(&["pull", "--quiet", &reference]));
    let rootfs = ok(&mut board.punnet(&["inspect", &reference]));
    let rootfs: Value = serde_json::from_str(&rootfs).unwrap();
    let damaged = Path::new(rootfs[0]["rootfs"].as_str().unwrap()).join("damaged");
    // Without a change of its size or its time, as a worn card does it.
    let before = fs::metadata(&damaged).unwrap().modified().unwrap();
    fs::write(&damaged, vec![0; 200_000]).unwrap();
    fs::File::open(&damaged).unwrap().set_modified(before).unwrap();
    let complaint = fails(&mut board.punnet(&["verify"]), 1);
    assert!(complaint.contains("1 of 1"), "{complaint}");
    let served = proxy.bytes();
    let shown = ok(&mut board.punnet(&["verify", "--repair"]));
    let served = proxy.bytes() - served;
    assert!(shown.contains("repaired 1 files under 1 paths"), "{shown}");
    assert!(
        (200_000..250_000).contains(&served),
        "{served} bytes were served for a file of 200000"
    );
    assert!(board.stored(&reference, "damaged") == files[1].1);
    assert_eq!(ok(&mut board.punnet(&["verify"])), "");
}

#[test]
fn a_bad_link_without_tls_is_survived_or_told() {
    let (board, registry) = (Board::new(), DockerRegistry::start(Door::Open).unwrap());
    let content = noise(1_000_000);
    let archive = board.build("app", "linux/amd64", "COPY file /file", &[("file", &content)]);
    ok(&mut board.punnet(&[
        "push",
        "--quiet",
        "--from",
        archive.to_str().unwrap(),
        &format!("{}/app:1", registry.address),
    ]));
    let pull = |proxy: &FaultProxy| {
        board.punnet(&[
            "pull",
            "--quiet",
            "--tag",
            "app",
            "--retries",
            "2",
            &format!("{}/app:1", proxy.address),
        ])
    };
    // A bit that turned is found by the digest, and nothing of the image is there.
    let flipping = FaultProxy::start(&registry.address, |_| Fault::Flip(500_000));
    let complaint = fails(&mut pull(&flipping), 1);
    assert!(complaint.contains("is damaged"), "{complaint}");
    board.assert_empty();
    // A link that never gives more is given up, and may be tried again.
    let dead = FaultProxy::start(&registry.address, |number| {
        Fault::Close(if number == 0 { 100_000 } else { 0 })
    });
    let complaint = fails(&mut pull(&dead), 75);
    assert!(complaint.contains("closed too early"), "{complaint}");
    board.assert_empty();
    // One that breaks again and again, and crawls in between, brings it.
    let breaking = FaultProxy::start(&registry.address, |number| match number % 3 {
        0 => Fault::Drop(150_000),
        1 => Fault::Close(150_000),
        _ => Fault::Slow(Duration::from_millis(1)),
    });
    ok(&mut pull(&breaking));
    assert!(board.stored("app:latest", "file") == content);
    assert_eq!(breaking.connections(), 3);
    // An upload goes on too.
    let large = board.build(
        "large",
        "linux/amd64",
        "COPY file /file",
        &[("file", &noise(20 << 20))],
    );
    let cutting = FaultProxy::start(&registry.address, |number| {
        if number == 0 {
            Fault::Close(1500)
        } else {
            Fault::None
        }
    });
    let to = format!("{}/large:1", cutting.address);
    ok(&mut board.punnet(&["push", "--quiet", "--from", large.to_str().unwrap(), &to]));
    assert!(cutting.connections() > 1, "the link has not broken");
    ok(&mut board.punnet(&["pull", "--quiet", &format!("{}/large:1", registry.address)]));
    ok(&mut board.punnet(&["verify"]));
}
