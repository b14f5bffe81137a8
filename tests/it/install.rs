//! `punnet install` into roots of images, the units judged by systemd itself, the scripts by a shell.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use crate::support::{fails, ok, output};

pub const ENROLMENT: &str = r#"{"version":1,"fleet":"home","device":"kitchen","broker":"mqtt://192.0.2.7",
    "fleet_key":"0000000000000000000000000000000000000000000000000000000000000000"}"#;

fn punnet(words: &[&str], root: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_punnet"));
    command.args(words).arg("--root").arg(root);
    command
}

/// A root of an image with these files in it, and punnet as /usr/bin/punnet.
fn image(files: &[(&str, &str)]) -> TempDir {
    let root = tempfile::tempdir().unwrap();
    for (name, text) in [&[("usr/bin/punnet", "#!/bin/sh\n")], files].concat() {
        let path = root.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    root
}

/// Every file and link, with its content.
fn tree(root: &Path) -> BTreeMap<String, Vec<u8>> {
    let listing = ok(Command::new("find")
        .arg(root)
        .args(["-mindepth", "1", "-not", "-type", "d"]));
    let content = |path: &str| {
        fs::read_link(path).map_or_else(
            |_| fs::read(path).unwrap(),
            |to| to.into_os_string().into_encoded_bytes(),
        )
    };
    listing
        .lines()
        .map(|path| {
            (
                path.strip_prefix(root.to_str().unwrap()).unwrap().to_owned(),
                content(path),
            )
        })
        .collect()
}

const SYSTEMD: (&str, &str) = ("lib/systemd/systemd", "");
const BUSYBOX: (&str, &str) = ("etc/inittab", "::sysinit:/etc/rc\n::respawn:getty\n");

#[test]
fn what_is_installed_is_said_done_once_and_removed_exactly() {
    for (what, files, marks) in [
        (
            "systemd",
            &[SYSTEMD][..],
            &[
                "/etc/systemd/system/punnet-agent.service",
                "/etc/systemd/system/multi-user.target.wants/punnet-apps.service",
            ][..],
        ),
        (
            "openrc",
            &[("sbin/openrc-run", "")],
            &["/etc/init.d/punnet-agent", "/etc/runlevels/default/punnet-apps"],
        ),
        ("busybox", &[BUSYBOX], &["/etc/inittab"]),
        (
            "sysvinit",
            &[("etc/inittab", "id:2:initdefault:\n")],
            &["/etc/inittab"],
        ),
    ] {
        let root = image(files);
        let before = tree(root.path());
        let said = ok(&mut punnet(&["install", "--dry-run"], root.path()));
        assert_eq!(
            tree(root.path()),
            before,
            "{what}: a dry run has changed something"
        );
        assert!(marks.iter().all(|mark| said.contains(mark)), "{what}: {said}");
        let said = ok(&mut punnet(&["install"], root.path()));
        assert!(
            said.contains("wrote: ") && said.contains("not enrolled"),
            "{what}: {said}"
        );
        let installed = tree(root.path());
        let again = ok(&mut punnet(&["install"], root.path()));
        assert!(!again.contains("wrote"), "{what}: {again}");
        assert_eq!(tree(root.path()), installed, "{what}");
        for mark in marks {
            assert_ne!(
                installed.get(*mark),
                before.get(*mark),
                "{what}: nothing at {mark}"
            );
            assert!(said.contains(mark), "{what}: {said}");
        }
        let said = ok(&mut punnet(&["uninstall"], root.path()));
        assert!(said.contains("removed: "), "{what}: {said}");
        assert_eq!(
            tree(root.path()),
            before,
            "{what}: uninstall leaves or takes something"
        );
        let nothing = ok(&mut punnet(&["uninstall"], root.path()));
        assert!(nothing.contains("nothing was installed"), "{nothing}");
    }
}

#[test]
fn data_stay_unless_they_are_purged() {
    let root = image(&[SYSTEMD]);
    let file = root.path().join("enrolment.json");
    fs::write(&file, ENROLMENT).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let said = ok(punnet(&["install"], root.path()).arg("--enroll").arg(&file));
    assert!(said.contains("device kitchen of the fleet home"), "{said}");
    let kept = root.path().join("var/lib/punnet/agent/enrolment.json");
    assert_eq!(fs::metadata(&kept).unwrap().permissions().mode() & 0o777, 0o600);
    let app = root.path().join("etc/punnet/apps/web.yaml");
    fs::write(&app, "image: web\n").unwrap();
    ok(&mut punnet(&["uninstall"], root.path()));
    assert!(kept.exists() && app.exists());
    ok(&mut punnet(&["install"], root.path()));
    ok(&mut punnet(&["uninstall", "--purge"], root.path()));
    assert!(!kept.exists() && !app.exists());
    assert!(root.path().join("usr/bin/punnet").exists());
}

#[test]
fn a_bad_enrolment_or_an_unknown_init_is_refused() {
    let root = image(&[SYSTEMD]);
    let file = root.path().join("enrolment.json");
    fs::write(&file, "{}").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let complaint = fails(punnet(&["install"], root.path()).arg("--enroll").arg(&file), 1);
    assert!(complaint.contains("enrolment.json"), "{complaint}");
    let bare = image(&[]);
    let complaint = fails(&mut punnet(&["install"], bare.path()), 2);
    assert!(
        complaint.contains("--init systemd, openrc or inittab"),
        "{complaint}"
    );
    assert_eq!(tree(bare.path()).len(), 1);
}

#[test]
fn systemd_finds_nothing_wrong_with_the_units() {
    let root = image(&[SYSTEMD]);
    ok(&mut punnet(&["install"], root.path()));
    for name in ["punnet-agent", "punnet-apps"] {
        let unit = root.path().join(format!("etc/systemd/system/{name}.service"));
        // It looks for the program where the unit says.
        let here = tempfile::tempdir().unwrap();
        let copy = here.path().join(format!("{name}.service"));
        let text = fs::read_to_string(&unit).unwrap();
        for line in [
            "Type=notify",
            "Delegate=yes",
            "WatchdogSec=60",
            "OOMPolicy=continue",
            "KillMode=process",
            "Restart=always",
        ] {
            assert!(text.lines().any(|found| found == line), "{name} lacks {line}");
        }
        fs::write(
            &copy,
            text.replace("/usr/bin/punnet", env!("CARGO_BIN_EXE_punnet")),
        )
        .unwrap();
        let judged = output(
            Command::new("systemd-analyze")
                .args(["verify", "--man=no"])
                .arg(&copy),
        );
        let text = String::from_utf8_lossy(&judged.stderr).into_owned();
        assert!(judged.status.success() && !text.contains(name), "{text}");
        // A wrong line is found, so that the test can fail.
        fs::write(&copy, "[Service]\nExecStart=/absent/program\nWatchdogSec=soon\n").unwrap();
        let judged = output(
            Command::new("systemd-analyze")
                .args(["verify", "--man=no"])
                .arg(&copy),
        );
        assert!(String::from_utf8_lossy(&judged.stderr).contains(name));
    }
}

#[test]
fn a_shell_finds_nothing_wrong_with_the_scripts() {
    let root = image(&[("sbin/openrc-run", "")]);
    ok(&mut punnet(&["install"], root.path()));
    for name in ["punnet-agent", "punnet-apps"] {
        let script = root.path().join("etc/init.d").join(name);
        assert_eq!(fs::metadata(&script).unwrap().permissions().mode() & 0o777, 0o755);
        ok(Command::new("busybox").args(["sh", "-n"]).arg(&script));
        ok(Command::new("shellcheck").arg(&script));
    }
}

#[test]
fn the_program_is_copied_where_there_is_none() {
    let root = image(&[SYSTEMD]);
    fs::remove_file(root.path().join("usr/bin/punnet")).unwrap();
    ok(&mut punnet(&["install"], root.path()));
    let copy = root.path().join("usr/local/bin/punnet");
    assert!(ok(Command::new(&copy).arg("--version")).starts_with("punnet version"));
    let unit = fs::read_to_string(root.path().join("etc/systemd/system/punnet-agent.service")).unwrap();
    assert!(unit.contains("ExecStart=/usr/local/bin/punnet agent"), "{unit}");
    ok(&mut punnet(&["uninstall"], root.path()));
    assert!(!copy.exists());
}
