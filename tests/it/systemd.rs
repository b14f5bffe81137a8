//! The services under systemd itself, as PID 1 of a PID namespace that sees no units but these.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use xtask::stand::Stand;

use crate::install::ENROLMENT;
use crate::support::{ok, stand_with_image};

/// Targets that services refer to without being told.
const TARGETS: [&str; 10] = [
    "sysinit",
    "basic",
    "multi-user",
    "shutdown",
    "default",
    "umount",
    "final",
    "exit",
    "emergency",
    "rescue",
];

/// Gives the process a cgroup of its own, a tree that begins there, and systemd.
const MACHINE: &str = r#"
tree=$(findmnt -n -t cgroup2 -o TARGET | head -n 1)/$1
mkdir -p "$tree" && echo $$ >"$tree/cgroup.procs" || exit 99
exec unshare --mount --pid --fork --cgroup --kill-child --propagation private sh -c '
    umount -R /sys/fs/cgroup; mount -t cgroup2 cgroup2 /sys/fs/cgroup && mount -t tmpfs tmpfs /run && mount -t proc proc /proc &&
    exec env -i PATH="$PATH" container=test SYSTEMD_UNIT_PATH="$1" /lib/systemd/systemd --system --unit=probe.service --log-target=console
' sh "$2"
"#;

/// What is done in there; each line of the answer is NAME=VALUE.
const PROBE: &str = r#"
show() { systemctl show --value -p "$2" "$1"; }
pid_of_web() { "$PUNNET" $ROOTS ps --json | sed -n 's/.*"pid":\([0-9]*\).*/\1/p'; }
until_true() { n=0; until eval "$1"; do n=$((n + 1)); [ $n -lt 300 ] || { echo "timeout=$1"; return; }; sleep 0.1; done; }
answer() { echo "$1=$2"; }
until_true '[ "$(show punnet-apps ActiveState)" = active ]'
until_true '[ -n "$(pid_of_web)" ]'
answer agent "$(show punnet-agent ActiveState)"
apps=$(show punnet-apps MainPID) agent=$(show punnet-agent MainPID) web=$(pid_of_web)
kill -9 "$apps" "$agent"
until_true '[ "$(show punnet-apps MainPID)" != "$apps" ] && [ "$(show punnet-apps ActiveState)" = active ]'
until_true '[ "$(show punnet-agent MainPID)" != "$agent" ] && [ "$(show punnet-agent ActiveState)" = active ]'
answer restarts "$(show punnet-apps NRestarts),$(show punnet-agent NRestarts)"
[ "$(pid_of_web)" = "$web" ]; answer kept $?
apps=$(show punnet-apps MainPID)
kill -STOP "$apps"
until_true '[ "$(show punnet-apps MainPID)" != "$apps" ] && [ "$(show punnet-apps ActiveState)" = active ]'
answer watchdog "$(show punnet-apps NRestarts)"
[ "$(pid_of_web)" = "$web" ]; answer kept_again $?
answer delegated "$(show punnet-apps Delegate)"
answer capabilities "$(sed -n 's/^CapBnd:\t*//p' /proc/$(show punnet-apps MainPID)/status)"
systemctl reload punnet-apps; answer reload $?
systemctl stop punnet-apps; answer stop $?
answer left "$(pid_of_web)"
systemctl exit 0
"#;

fn write(folder: &Path, name: &str, text: &str) {
    fs::write(folder.join(name), text).unwrap();
}

/// The units as `punnet install` writes them, for roots of this stand; a watchdog that bites within the test's patience.
fn units(stand: &Stand, roots: &str, folder: &Path) {
    let image = stand.path().join("image");
    fs::create_dir_all(image.join("lib/systemd")).unwrap();
    write(&image, "lib/systemd/systemd", "");
    let words = ["install", "--program", "/usr/bin/punnet", "--root"];
    ok(stand.punnet(&words).arg(&image).stdout(Stdio::null()));
    let apps = stand.path().join("apps").display().to_string();
    let program = format!("{} {roots}", env!("CARGO_BIN_EXE_punnet"));
    for name in ["punnet-agent.service", "punnet-apps.service"] {
        let text = fs::read_to_string(image.join("etc/systemd/system").join(name)).unwrap();
        let text = text
            .replace("/usr/bin/punnet apps", &format!("{program} apps --folder {apps}"))
            .replace("/usr/bin/punnet", &program)
            .replace("/etc/punnet/apps", &apps)
            .replace(
                "/var/lib/punnet",
                &stand.path().join("data").display().to_string(),
            )
            .replace("WatchdogSec=60", "WatchdogSec=2");
        write(folder, name, &text);
    }
}

#[test]
fn systemd_starts_watches_and_restarts_the_services_and_containers_go_on() {
    if !nix::unistd::geteuid().is_root() {
        println!("SKIPPED: systemd as PID 1 of a namespace needs root");
        return;
    }
    let stand = stand_with_image();
    let at = |name: &str| stand.path().join(name);
    for folder in ["units", "apps", "data/agent"] {
        fs::create_dir_all(at(folder)).unwrap();
    }
    write(&at("apps"), "web.yaml", "image: hello\n");
    let enrolment = at("data/agent/enrolment.json");
    fs::write(&enrolment, ENROLMENT.replace("192.0.2.7", "127.0.0.1:1")).unwrap();
    fs::set_permissions(&enrolment, fs::Permissions::from_mode(0o600)).unwrap();
    let roots = format!(
        "--data-root {} --run-root {}",
        at("data").display(),
        at("run").display()
    );
    units(&stand, &roots, &at("units"));
    for target in TARGETS {
        // `systemctl exit` ends the manager by exit.target.
        let more = if target == "exit" {
            "Requires=systemd-exit.service\nAfter=systemd-exit.service\n"
        } else {
            ""
        };
        write(
            &at("units"),
            &format!("{target}.target"),
            &format!("[Unit]\nDefaultDependencies=no\n{more}"),
        );
    }
    write(
        &at("units"),
        "systemd-exit.service",
        "[Unit]\nDefaultDependencies=no\n[Service]\nType=oneshot\nExecStart=systemctl --force exit\n",
    );
    let probe = format!(
        "PUNNET={} ROOTS='{roots}'\nexec >{}\n{PROBE}",
        env!("CARGO_BIN_EXE_punnet"),
        at("answer").display()
    );
    write(stand.path(), "probe.sh", &probe);
    write(
        &at("units"),
        "probe.service",
        &format!(
            "[Unit]\nWants=punnet-agent.service punnet-apps.service\n[Service]\nType=oneshot\nTimeoutStartSec=120\nExecStart=/bin/sh {}\n",
            at("probe.sh").display()
        ),
    );
    let name = format!("punnet-systemd-{}", std::process::id());
    let machine = Command::new("timeout")
        .args(["150", "sh", "-c", MACHINE, "sh", &name])
        .arg(at("units"))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let log =
        String::from_utf8_lossy(&machine.stderr).into_owned() + &String::from_utf8_lossy(&machine.stdout);
    let remove = format!("find /sys/fs/cgroup -depth -type d -path '*/{name}*' -exec rmdir {{}} +");
    Command::new("sh").args(["-c", &remove]).output().unwrap();
    let text = fs::read_to_string(at("answer")).unwrap_or_default();
    let answers: BTreeMap<&str, &str> = text.lines().filter_map(|line| line.split_once('=')).collect();
    let is = |name: &str, want: &str| assert_eq!(answers.get(name), Some(&want), "{name}: {text}\n{log}");
    is("agent", "active");
    is("restarts", "1,1");
    is("kept", "0");
    is("watchdog", "2");
    is("kept_again", "0");
    is("delegated", "yes");
    is("reload", "0");
    is("stop", "0");
    is("left", "");
    // CAP_SYS_MODULE is bit 16, CAP_SYS_ADMIN 21: the first is gone, the second needed. capabilities(7)
    let capabilities = u64::from_str_radix(answers["capabilities"], 16).unwrap();
    assert_eq!((capabilities >> 16 & 1, capabilities >> 21 & 1), (0, 1), "{text}");
    assert!(!text.contains("timeout="), "{text}\n{log}");
}
