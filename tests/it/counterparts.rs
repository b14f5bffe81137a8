//! A debootstrap'ed Debian of many layers, made by umoci and served by docker-registry: we have the tree that umoci has, and umoci has what we write.

use std::path::Path;
use std::process::Command;

use nix::unistd::geteuid;
use serde_json::Value;
use xtask::debian;
use xtask::registry::{DockerRegistry, Door, skopeo_copy};

use crate::registry_stand::Board;
use crate::support::ok;

/// Every entry with type, mode, owner, time, link target and, of files, size and content; in order. Device nodes are left out: a container gets its own, and the
/// store keeps none of an image's.
fn facts(root: &Path) -> String {
    let find = |words: &[&str]| ok(Command::new("find").current_dir(root).arg(".").args(words));
    let all = find(&[
        "!",
        "-type",
        "c",
        "!",
        "-type",
        "b",
        "-printf",
        "%p %y %m %U %G %T@ %l\\n",
    ]);
    let files = find(&["-type", "f", "-printf", "%p %s ", "-exec", "sha256sum", "{}", ";"]);
    let mut lines: Vec<&str> = all.lines().chain(files.lines()).collect();
    lines.sort_unstable();
    lines.join("\n")
}

/// Where the first few lines differ.
fn assert_same(found: &str, wanted: &str) {
    if found == wanted {
        return;
    }
    let missing: Vec<_> = wanted
        .lines()
        .filter(|line| !found.lines().any(|other| other == *line))
        .take(5)
        .collect();
    let extra: Vec<_> = found
        .lines()
        .filter(|line| !wanted.lines().any(|other| other == *line))
        .take(5)
        .collect();
    panic!("missing {missing:#?}, instead {extra:#?}");
}

fn unpacked_by_umoci(image: &str, to: &Path) -> String {
    ok(Command::new("umoci").args(["unpack", "--image", image]).arg(to));
    facts(&to.join("rootfs"))
}

#[test]
fn a_debootstrapped_image_of_many_layers_is_the_same_tree_here_and_there() {
    if !geteuid().is_root() {
        println!("SKIPPED: debootstrap and umoci's owners take root");
        return;
    }
    let board = Board::new();
    let layout = debian::many_layers().unwrap();
    let theirs = format!("{}:{}", layout.display(), debian::IMAGE);
    let wanted = unpacked_by_umoci(&theirs, &board.path("umoci"));
    for part in ["./etc/issue ", "./usr/share/doc/new ", "./usr/local/bin/link "] {
        assert!(wanted.contains(part), "umoci has no {part}");
    }
    for part in [
        "./etc/motd ",
        "./etc/apt/sources.list ",
        "./usr/share/doc/base-files",
    ] {
        assert!(!wanted.contains(part), "umoci has {part}");
    }

    let registry = DockerRegistry::start(Door::Locked).unwrap();
    let reference = format!("{}/debian:layers", registry.address);
    let credentials = "--dest-creds=user:secret";
    skopeo_copy(&[
        credentials,
        &format!("oci:{theirs}"),
        &format!("docker://{reference}"),
    ])
    .unwrap();
    let password = board.path("password");
    std::fs::write(&password, "secret").unwrap();
    let ca = registry.ca().display().to_string();
    let mut login = board.punnet(&["login", "--user", "user", "--ca", &ca, &registry.address]);
    ok(login.stdin(std::fs::File::open(password).unwrap()));
    let pull = ["pull", "--quiet", "--ca", &ca, "--tag", "debian", &reference];
    ok(&mut board.punnet(&pull));
    let inspected: Value = serde_json::from_str(&ok(&mut board.punnet(&["inspect", "debian"]))).unwrap();
    let rootfs = inspected[0]["rootfs"].as_str().unwrap();
    assert_same(&facts(Path::new(rootfs)), &wanted);
    ok(&mut board.punnet(&["verify"]));
    let script = "cat /etc/issue && dpkg-query --show libc6 && new";
    let out = ok(&mut board.punnet(&["run", "--rm", "debian", "sh", "-c", script]));
    assert!(
        out.starts_with("replaced\nlibc6") && out.ends_with("\nnew\n"),
        "{out}"
    );

    // Of the image only its files are here: what is saved has one layer, and the same tree.
    let archive = board.path("saved.tar");
    ok(board.punnet(&["save", "--output"]).arg(&archive).arg("debian"));
    let again = board.path("again").display().to_string();
    skopeo_copy(&[
        &format!("oci-archive:{}", archive.display()),
        &format!("oci:{again}:saved"),
    ])
    .unwrap();
    let found = unpacked_by_umoci(&format!("{again}:saved"), &board.path("umoci-again"));
    assert_same(&found, &wanted);
}
