//! The runtime killed at any point, and others in its way: `delete --force` leaves nothing of any of it.

use crate::bundle::{Answer, Bundle, is_emulated, wait_until};
use crate::references::differs;
use nix::sys::ptrace;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// More system calls than any verb makes.
const CALLS_MAX: usize = 2000;

/// Runs a verb of the runtime, after a shell has done `set_up` in a mount namespace of its own, and kills it when it enters its `call`-th system call. False when it ended before.
#[allow(
    clippy::zombie_processes,
    reason = "waitpid(2) below sees its end, as the tracer has to"
)]
fn killed_at(bundle: &Bundle, set_up: &str, words: &[&str], call: usize) -> bool {
    let command = bundle.command(words);
    // Stopped before it begins, so that no call is missed.
    let child = Command::new("unshare")
        .args([
            "--mount",
            "sh",
            "-c",
            &format!("{set_up}; kill -STOP $$; exec \"$@\""),
            "sh",
        ])
        .arg(command.get_program())
        .args(command.get_args())
        .current_dir(bundle.dir.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let pid = Pid::from_raw(child.id().cast_signed());
    wait_until("the shell has stopped", || {
        std::fs::read_to_string(format!("/proc/{pid}/stat"))
            .is_ok_and(|stat| stat.contains(") T") || stat.contains(") t"))
    });
    ptrace::seize(
        pid,
        ptrace::Options::PTRACE_O_TRACESYSGOOD | ptrace::Options::PTRACE_O_TRACEEXEC,
    )
    .unwrap();
    kill(pid, Signal::SIGCONT).unwrap();
    let (mut count, mut is_ours) = (0, false);
    loop {
        let signal = match waitpid(pid, None).unwrap() {
            WaitStatus::Exited(..) | WaitStatus::Signaled(..) => return false,
            // The shell has become the runtime.
            WaitStatus::PtraceEvent(_, _, EVENT_EXEC) => {
                is_ours = true;
                None
            }
            WaitStatus::PtraceSyscall(_) if is_ours => {
                // Each is told twice, entered and left.
                count += 1;
                if count == 2 * call {
                    kill(pid, Signal::SIGKILL).unwrap();
                    waitpid(pid, None).unwrap();
                    return true;
                }
                None
            }
            WaitStatus::Stopped(_, signal) if signal != Signal::SIGTRAP && signal != Signal::SIGSTOP => {
                Some(signal)
            }
            _ => None,
        };
        if is_ours {
            ptrace::syscall(pid, signal).unwrap();
        } else {
            ptrace::cont(pid, signal).unwrap();
        }
    }
}

/// PTRACE_EVENT_EXEC of linux/ptrace.h.
const EVENT_EXEC: i32 = 4;

/// Processes that were made for this bundle and still run: they carry its path in their command line, or are its shell.
fn processes(bundle: &Bundle) -> Vec<String> {
    let path = bundle.dir.path().display().to_string();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let text = |name: &str| std::fs::read(entry.path().join(name)).unwrap_or_default();
        let root = std::fs::read_link(entry.path().join("root")).unwrap_or_default();
        let command = String::from_utf8_lossy(&text("cmdline")).replace('\0', " ");
        if command.contains(&path) || root.starts_with(&path) || command.contains(&marker(bundle)) {
            found.push(format!("{} {command}", entry.file_name().display()));
        }
    }
    found
}

/// An argument of the container's program that nobody else has.
fn marker(bundle: &Bundle) -> String {
    format!("marker-{}", bundle.id())
}

fn cgroup(bundle: &Bundle) -> [PathBuf; 2] {
    ["", "unified/"].map(|place| format!("/sys/fs/cgroup/{place}punnet/{}", bundle.id()).into())
}

/// Deletes by force and looks for everything that could have stayed.
#[track_caller]
fn nothing_stays(bundle: &Bundle, when: &str) {
    let answer = bundle.call(&["delete", "--force", &bundle.id()]);
    assert_eq!(answer.code, 0, "{when}: {answer:?}");
    assert!(
        !bundle.state_root().join(bundle.id()).exists(),
        "{when}: state stayed"
    );
    for folder in cgroup(bundle) {
        assert!(!folder.exists(), "{when}: a cgroup stayed");
    }
    // With its processes go its namespaces: the network, the mounts.
    for _ in 0..1000 {
        if processes(bundle).is_empty() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    assert_eq!(processes(bundle), [""; 0], "{when}");
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let path = bundle.dir.path().display().to_string();
    assert!(!mounts.contains(&path), "{when}: a mount stayed: {mounts}");
}

fn sleeper() -> Bundle {
    let mut bundle = Bundle::sh("sleep 1000");
    let marker = marker(&bundle);
    bundle.process().args.extend(["sh".into(), marker]);
    bundle.write();
    bundle
}

/// Kills `words` at one system call after the other until it is done before; `before` brings the container where the verb takes it up.
fn kill_everywhere(set_up: &str, verb: &str, before: &[&[&str]], step: usize) {
    let bundle = sleeper();
    let id = bundle.id();
    let words: Vec<&str> = verb.split(' ').chain([id.as_str()]).collect();
    for call in (1..CALLS_MAX).step_by(if is_emulated() { 20 * step } else { step }) {
        for words in before {
            let words: Vec<&str> = words.iter().copied().chain([id.as_str()]).collect();
            let answer = bundle.call(&words);
            assert_eq!(answer.code, 0, "{answer:?}");
        }
        let was_killed = killed_at(&bundle, set_up, &words, call);
        nothing_stays(&bundle, &format!("{verb} killed at system call {call}"));
        if !was_killed {
            assert!(call > 50, "{verb} was hardly traced");

            return;
        }
    }
    panic!("{verb} has made more than {CALLS_MAX} system calls");
}

#[test]
fn create_killed_at_any_system_call_leaves_nothing_that_delete_force_does_not_remove() {
    if differs("create_killed_at_any_system_call_leaves_nothing_that_delete_force_does_not_remove") {
        return;
    }
    kill_everywhere(":", "create", &[], 2);
}

#[test]
fn without_a_cgroup_too_nothing_of_a_killed_create_lives_on() {
    // Then nothing but the process itself, which nobody has written down yet, can see to its end.
    kill_everywhere("umount -l -R /sys/fs/cgroup", "create", &[], 5);
}

#[test]
fn start_killed_at_any_system_call_leaves_nothing_that_delete_force_does_not_remove() {
    kill_everywhere(":", "start", &[&["create"]], 6);
}

#[test]
fn delete_killed_at_any_system_call_can_be_repeated() {
    kill_everywhere(":", "delete --force", &[&["create"], &["start"]], 6);
}

#[test]
fn creating_and_deleting_the_same_id_at_once_leaves_nothing() {
    if differs("creating_and_deleting_the_same_id_at_once_leaves_nothing") {
        return;
    }
    let bundle = sleeper();
    let id = bundle.id();
    for _ in 0..10 {
        let answers: Vec<Answer> = std::thread::scope(|scope| {
            let call = |words: &'static [&'static str]| {
                let (bundle, id) = (&bundle, id.as_str());
                scope.spawn(move || bundle.call(&words.iter().copied().chain([id]).collect::<Vec<_>>()))
            };
            let calls = [
                call(&["create"]),
                call(&["delete", "--force"]),
                call(&["create"]),
                call(&["delete", "--force"]),
                call(&["run", "--detach"]),
                call(&["delete", "--force"]),
            ];
            calls.into_iter().map(|call| call.join().unwrap()).collect()
        });
        for (index, answer) in answers.iter().enumerate() {
            let is_delete = index % 2 == 1;
            assert!(
                answer.code == 0 || !is_delete && !answer.err.is_empty(),
                "{answers:?}"
            );
            assert!(!answer.err.contains("panicked"), "{answers:?}");
        }
        nothing_stays(&bundle, "after the race");
    }
}
