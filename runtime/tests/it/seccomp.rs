//! What a filter does to a program: each action, and user notification.

use crate::bundle::{Bundle, bind, wait_until};
use crate::references::differs;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use punnet_spec::{Seccomp, SyscallRule};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;

/// The longest state document: an id, a path, some words.
const STATE_BYTES_MAX: usize = 8192;

fn filter(action: &str, errno_ret: Option<u32>) -> Seccomp {
    Seccomp {
        default_action: "SCMP_ACT_ALLOW".into(),
        syscalls: vec![SyscallRule {
            names: ["mkdir", "mkdirat"].into_iter().collect(),
            action: action.into(),
            errno_ret,
            args: Vec::new(),
        }],
        ..Seccomp::default()
    }
}

#[test]
fn every_action_does_what_it_says() {
    // 159 is 128 and SIGSYS.
    for (action, errno_ret, said, code) in [
        ("SCMP_ACT_ALLOW", None, "", "0"),
        ("SCMP_ACT_LOG", None, "", "0"),
        ("SCMP_ACT_ERRNO", None, "Operation not permitted", "1"),
        ("SCMP_ACT_ERRNO", Some(28), "No space left", "1"),
        ("SCMP_ACT_TRACE", None, "not implemented", "1"),
        ("SCMP_ACT_TRAP", None, "Bad system call", "159"),
        ("SCMP_ACT_KILL", None, "Bad system call", "159"),
        ("SCMP_ACT_KILL_THREAD", None, "Bad system call", "159"),
        ("SCMP_ACT_KILL_PROCESS", None, "Bad system call", "159"),
    ] {
        let mut bundle = Bundle::sh("mkdir /dev/x; echo $?");
        bundle.linux().seccomp = Some(filter(action, errno_ret));
        let answer = bundle.run();
        assert_eq!(answer.out.trim(), code, "{action}: {answer:?}");
        assert!(answer.err.contains(said), "{action}: {answer:?}");
    }
}

#[test]
fn a_filter_that_is_built_in_holds_for_the_program_and_for_exec() {
    if differs("a_filter_that_is_built_in_holds_for_the_program_and_for_exec") {
        return;
    }
    let mut bundle = Bundle::sh("sleep 100");
    let named = punnet_runtime::seccomp::named_default_seccomp(&[]);
    assert!(named.syscalls.is_empty());
    bundle.linux().seccomp = Some(named.clone());
    bundle.start();
    let script = "unshare -U true || echo denied; cat /proc/self/status";
    let answer = bundle.call(&["exec", &bundle.id(), "sh", "-c", script]);
    assert!(answer.out.starts_with("denied\n"), "{answer:?}");
    assert!(answer.out.contains("Seccomp:\t2\n"), "{answer:?}");

    let mut bundle = Bundle::sh("unshare -U true || echo denied; (sleep 0; echo child) & wait");
    bundle.linux().seccomp = Some(named.clone());
    let answer = bundle.run();
    assert_eq!(answer.out, "denied\nchild\n", "{answer:?}");

    let mut bundle = Bundle::sh("true");
    bundle.linux().seccomp = Some(Seccomp {
        default_action: format!("{}_OF_LATER", named.default_action),
        ..named
    });
    let answer = bundle.run();
    assert!(answer.code != 0 && answer.err.contains("_OF_LATER"), "{answer:?}");
}

/// Waits for one state document and the descriptor that comes with it; the connection ends behind it.
fn accept(listener: &UnixListener) -> (serde_json::Value, OwnedFd) {
    let (stream, _) = listener.accept().unwrap();
    let mut bytes = vec![0; STATE_BYTES_MAX];
    let (mut length, fd) = punnet_sys::recv_with_fd(stream.as_fd(), &mut bytes).unwrap();
    loop {
        match punnet_sys::recv_with_fd(stream.as_fd(), &mut bytes[length..]).unwrap() {
            (0, _) => break,
            (more, _) => length += more,
        }
    }
    (
        serde_json::from_slice(&bytes[..length]).unwrap(),
        fd.expect("the filter's descriptor"),
    )
}

fn has_notification(fd: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::ZERO).unwrap() == 1
}

#[test]
fn notifications_reach_the_listener_with_the_container_process_state() {
    for no_new_privileges in [true, false] {
        let out = tempfile::tempdir().unwrap();
        let done = out.path().join("done");
        let mut bundle = Bundle::sh("mkdir /dev/x; touch /out/done; sleep 100");
        bundle.spec.mounts.push(bind(out.path(), "/out", &[]));
        bundle.process().no_new_privileges = no_new_privileges;
        let path = bundle.dir.path().join("listener");
        let listener = UnixListener::bind(&path).unwrap();
        bundle.linux().seccomp = Some(Seccomp {
            listener_path: path.to_str().unwrap().into(),
            listener_metadata: "some words".into(),
            ..filter("SCMP_ACT_NOTIFY", None)
        });
        // The agent runs beside: the runtime may wait for it.
        let agent = std::thread::spawn(move || accept(&listener));
        bundle.start();
        let (state, fd) = agent.join().unwrap();
        assert_eq!(state["fds"], serde_json::json!(["seccompFd"]));
        assert_eq!(state["metadata"], "some words");
        assert_eq!(state["pid"], bundle.pid());
        assert_eq!(state["state"]["id"], bundle.id().as_str());
        assert_eq!(state["state"]["bundle"], bundle.dir.path().to_str().unwrap());
        let link = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).unwrap();
        assert_eq!(link.to_str(), Some("anon_inode:seccomp notify"));
        wait_until("the call waits for us", || has_notification(&fd));
        // Nobody is left to answer: the kernel does, with ENOSYS, and the program goes on.
        drop(fd);
        wait_until("the program goes on", || done.exists());
    }
}

#[test]
fn exec_has_a_notification_of_its_own() {
    if differs("exec_has_a_notification_of_its_own") {
        // runc 1.1 keeps the filter's descriptor while exec runs, so that the call is never answered.
        return;
    }
    let mut bundle = Bundle::sh("sleep 100");
    let path = bundle.dir.path().join("listener");
    let listener = UnixListener::bind(&path).unwrap();
    bundle.linux().seccomp = Some(Seccomp {
        listener_path: path.to_str().unwrap().into(),
        ..filter("SCMP_ACT_NOTIFY", None)
    });
    let agent = std::thread::spawn(move || {
        let first = accept(&listener);
        let (state, fd) = accept(&listener);
        drop(fd);
        (first, state)
    });
    bundle.start();
    let answer = bundle.call(&["exec", &bundle.id(), "/bin/mkdir", "/dev/x"]);
    assert!(answer.err.contains("not implemented"), "{answer:?}");
    let ((first, _fd), second) = agent.join().unwrap();
    assert_ne!(first["pid"], second["pid"]);
    assert_eq!(second["state"]["id"], bundle.id().as_str());
}

#[test]
fn a_listener_that_is_not_there_fails_create_and_leaves_nothing() {
    let mut bundle = Bundle::sh("true");
    bundle.linux().seccomp = Some(Seccomp {
        listener_path: bundle.dir.path().join("nobody").to_str().unwrap().into(),
        ..filter("SCMP_ACT_NOTIFY", None)
    });
    let answer = bundle.run();
    assert_ne!(answer.code, 0, "{answer:?}");
    if differs("listenerPath by name") {
        return;
    }
    assert!(answer.err.contains("linux.seccomp.listenerPath"), "{answer:?}");
}
