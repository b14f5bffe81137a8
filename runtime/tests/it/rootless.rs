//! An ordinary user, without any set-up of the machine.

use crate::bundle::{Answer, Bundle, install, runtime};
use crate::references::differs;
use std::process::Command;

/// nobody and nogroup of Debian.
pub const UID: u32 = 65534;

/// A copy of the runtime that the user may read, and the words that run it as that user, whom the bundle then belongs to.
pub fn for_user(bundle: &Bundle, words: &[&str]) -> Vec<String> {
    let dir = bundle.dir.path();
    let copy = dir.join("runtime");
    if !copy.exists() {
        install(runtime(), &copy);
        let owner = Command::new("chown")
            .arg("-R")
            .arg(format!("{UID}:{UID}"))
            .arg(dir)
            .status()
            .unwrap();
        assert!(owner.success());
    }
    let (user, directory) = (UID.to_string(), format!("XDG_RUNTIME_DIR={}", dir.display()));
    let (copy, root) = (
        copy.display().to_string(),
        bundle.state_root().display().to_string(),
    );
    let become_user = ["env", &directory, "setpriv", "--reuid", &user, "--regid", &user];
    let begin = [
        &become_user[..],
        &["--clear-groups", "--inh-caps=-all", &copy, "--root", &root],
    ]
    .concat();
    begin.iter().chain(words).map(|&word| word.to_owned()).collect()
}

fn run_as_user(bundle: &Bundle, words: &[&str]) -> Answer {
    let words = for_user(bundle, words);
    let output = Command::new(&words[0])
        .args(&words[1..])
        .current_dir(bundle.dir.path())
        .output()
        .unwrap();
    output.into()
}

pub fn rootless(script: &str) -> Bundle {
    let mut bundle = Bundle::sh(script);
    bundle.spec.mounts = punnet_spec::default_mounts(true);
    bundle.spec.linux = Some(punnet_spec::Linux::default_for(Some((UID, UID))));
    bundle.process().rlimits.clear();
    bundle.spec.root.as_mut().unwrap().readonly = false;
    bundle.write();
    bundle
}

#[test]
fn an_ordinary_user_is_root_inside_and_nobody_outside() {
    let bundle = rootless(
        "id -u; cat /proc/self/uid_map; touch /made; echo x > /dev/null && ls /dev/shm /dev/pts; hostname",
    );
    let answer = run_as_user(&bundle, &["run", "r"]);
    assert_eq!(answer.code, 0, "{answer:?}");
    let words: Vec<&str> = answer.out.split_whitespace().collect();
    assert_eq!(words[..4], ["0", "0", "65534", "1"], "{answer:?}");
    use std::os::unix::fs::MetadataExt;
    assert_eq!(
        std::fs::metadata(bundle.rootfs().join("made")).unwrap().uid(),
        UID
    );
}

#[test]
fn an_ordinary_user_creates_starts_executes_and_deletes() {
    // The container would keep our pipes open: it lets go of them.
    let bundle = rootless("exec >/dev/null 2>&1 </dev/null; sleep 100");
    let call = |words: &[&str]| run_as_user(&bundle, words);
    let answer = call(&["run", "--detach", "r"]);
    assert_eq!(answer.code, 0, "{answer:?}");
    let answer = call(&[
        "exec",
        "r",
        "sh",
        "-c",
        "id -u; readlink /proc/1/ns/user; readlink /proc/self/ns/user",
    ]);
    let lines: Vec<&str> = answer.out.lines().collect();
    assert_eq!((lines[0], lines[1] == lines[2]), ("0", true), "{answer:?}");
    assert_eq!(call(&["delete", "--force", "r"]).code, 0);
    assert_eq!(call(&["list", "-q"]).out, "");
}

#[test]
fn an_overlay_root_works_for_an_ordinary_user() {
    if differs("an_overlay_root_works_for_an_ordinary_user") {
        return;
    }
    let mut bundle = rootless("echo new > /made; cat /made");
    let path = |name: &str| bundle.dir.path().join(name).display().to_string();
    for name in ["upper", "work"] {
        std::fs::create_dir(path(name)).unwrap();
    }
    let options = vec![
        format!("lowerdir={}", path("rootfs")),
        format!("upperdir={}", path("upper")),
        format!("workdir={}", path("work")),
    ];
    let root = punnet_spec::Mount {
        destination: "/".into(),
        kind: "overlay".into(),
        source: "overlay".into(),
        options,
        ..Default::default()
    };
    bundle.spec.mounts.insert(0, root);
    bundle.spec.root = None;
    bundle.write();
    let answer = run_as_user(&bundle, &["run", "r"]);
    assert_eq!((answer.code, answer.out.as_str()), (0, "new\n"), "{answer:?}");
    assert!(bundle.dir.path().join("upper/made").exists());
}

#[test]
fn what_an_ordinary_user_cannot_have_is_refused_with_a_reason() {
    if differs("what_an_ordinary_user_cannot_have_is_refused_with_a_reason") {
        return;
    }
    let mut bundle = rootless("true");
    bundle
        .linux()
        .namespaces
        .retain(|namespace| namespace.kind != "user");
    bundle.linux().uid_mappings.clear();
    bundle.linux().gid_mappings.clear();
    bundle.write();
    let answer = run_as_user(&bundle, &["run", "r"]);
    assert!(
        answer.code == 125 && answer.err.contains("user namespace"),
        "{answer:?}"
    );
    let mut bundle = rootless("true");
    bundle.linux().resources = Some(punnet_spec::Resources {
        pids: Some(punnet_spec::Pids { limit: Some(3) }),
        ..Default::default()
    });
    bundle.write();
    let answer = run_as_user(&bundle, &["run", "r"]);
    // Where there are controllers, the cgroup itself cannot be made.
    assert!(
        answer.code == 125 && (answer.err.contains("pids") || answer.err.contains("cannot make the cgroup")),
        "{answer:?}"
    );
    let mut bundle = rootless("true");
    bundle.process().user.additional_gids = vec![5];
    bundle.write();
    let answer = run_as_user(&bundle, &["run", "r"]);
    assert!(
        answer.code == 125 && answer.err.contains("additionalGids"),
        "{answer:?}"
    );
}
