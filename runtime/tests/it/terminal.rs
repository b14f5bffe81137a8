//! `terminal: true`, with and without a console socket.

use crate::bundle::{Bundle, wait_until};
use crate::references::differs;
use punnet_spec::ConsoleSize;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::process::Stdio;

fn bundle(script: &str) -> Bundle {
    let mut bundle = Bundle::sh(script);
    bundle.process().terminal = true;
    bundle.process().console_size = Some(ConsoleSize {
        height: 33,
        width: 77,
    });
    bundle
}

/// What comes out of a terminal until its other side is closed.
fn read_all(master: std::os::fd::OwnedFd) -> String {
    let mut file = std::fs::File::from(master);
    let (mut text, mut buffer) = (Vec::new(), [0; 1024]);
    while let Ok(length @ 1..) = file.read(&mut buffer) {
        text.extend(&buffer[..length]);
    }
    String::from_utf8_lossy(&text).into_owned()
}

#[test]
fn the_console_socket_gets_the_master() {
    let bundle = bundle(
        "tty; stty size; test -c /dev/console && echo console; exec < /dev/tty && echo controlling; exit 5",
    );
    bundle.write();
    let listener = UnixListener::bind(bundle.dir.path().join("sock")).unwrap();
    let mut child = bundle
        .command(&["create", "--console-socket", "sock", &bundle.id()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let (stream, _) = listener.accept().unwrap();
    let (_, master) = punnet_sys::recv_with_fd(stream.as_fd(), &mut [0; 256]).unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(bundle.call(&["start", &bundle.id()]).code, 0);
    let text = read_all(master.unwrap());
    let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
    assert_eq!(lines, ["/dev/pts/0", "33 77", "console", "controlling"]);
}

#[test]
fn create_with_a_terminal_needs_a_console_socket() {
    let bundle = bundle("true");
    bundle.write();
    let answer = bundle.call(&["create", &bundle.id()]);
    assert!(answer.code != 0 && answer.err.contains("console"), "{answer:?}");
}

#[test]
fn a_foreground_run_passes_the_terminal_through() {
    if differs("a_foreground_run_passes_the_terminal_through") {
        return;
    }
    let bundle = bundle("read line; echo got $line; exit 4");
    bundle.write();
    let mut child = bundle
        .command(&["run", &bundle.id()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.as_mut().unwrap().write_all(b"hello\n").unwrap();
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("got hello"), "{text}");
    assert_eq!(output.status.code(), Some(4));
}

#[test]
fn exec_gets_a_terminal_of_its_own() {
    if differs("exec_gets_a_terminal_of_its_own") {
        return;
    }
    let bundle = Bundle::sh("sleep 100");
    bundle.start();
    wait_until("running", || bundle.status() == "running");
    let answer = bundle.call(&["exec", "--tty", &bundle.id(), "sh", "-c", "tty; exit 6"]);
    assert_eq!((answer.code, answer.out.trim()), (6, "/dev/pts/0"), "{answer:?}");
}
