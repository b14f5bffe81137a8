//! containerd's `ctr run --runc-binary` with the shim for runtimes that speak as runc does.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Result, ensure};

use super::{Checks, Engine, PATIENCE, expect};
use crate::process::{Server, wait_for};

/// The name that `docker save` gives the image.
const IMAGE: &str = "docker.io/library/box:latest";

/// A containerd of our own.
pub fn start(folder: &Path) -> Result<Server> {
    let log = std::fs::File::create(folder.join("containerd.log"))?;
    let socket = folder.join("containerd.sock");
    let server = Server::start(
        "containerd",
        Command::new("containerd")
            .args([
                "--log-level",
                "warn",
                "--root",
                "/var/lib/containerd",
                "--state",
                "/run/containerd",
            ])
            .arg("--address")
            .arg(&socket)
            .env("PATH", super::path_with_sbin())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log),
    )?;
    wait_for("containerd's socket", PATIENCE, || {
        server.check()?;
        Ok(socket.exists().then_some(()))
    })?;
    Ok(server)
}

/// The checks that failed.
pub fn check(runtime: &str, folder: &Path, archive: &Path) -> Vec<String> {
    let socket = folder.join("containerd.sock").display().to_string();
    let engine = Engine::new("ctr", &["ctr", "--address", &socket]);
    let mut checks = Checks::new("containerd");
    let run = |options: &[&str], command: &[&str]| {
        let mut words = vec![
            "run",
            "--runtime",
            "io.containerd.runc.v2",
            "--runc-binary",
            runtime,
        ];
        words.extend(options);
        words.push(IMAGE);
        words.extend(command);
        engine.ok(&words)
    };
    checks.check("imports an image", || {
        engine
            .ok(&["images", "import", &archive.display().to_string()])
            .map(drop)
    });
    checks.check("runs a program", || {
        expect(
            "output",
            run(&["--rm"], &["once", "echo", "out"])?.as_str(),
            "out",
        )
    });
    checks.check("starts a service", || {
        run(&["--detach"], &["service", "sleep", "1000"]).map(drop)
    });
    checks.check("execs a program", || {
        let out = engine.ok(&[
            "task",
            "exec",
            "--exec-id",
            "one",
            "service",
            "cat",
            "/proc/1/cmdline",
        ])?;
        ensure!(out.contains("sleep"), "{out:?}");
        Ok(())
    });
    checks.check("measures and lists", || {
        let text = engine.ok(&["task", "metrics", "service"])?;
        ensure!(text.contains("memory.usage"), "{text}");
        let text = engine.ok(&["task", "ps", "service"])?;
        ensure!(text.lines().count() == 2, "{text}");
        Ok(())
    });
    checks.check("pauses and goes on", || {
        engine.ok(&["task", "pause", "service"])?;
        expect("paused", status(&engine)?.as_str(), "PAUSED")?;
        engine.ok(&["task", "resume", "service"])?;
        expect("resumed", status(&engine)?.as_str(), "RUNNING")
    });
    checks.check("stops and deletes", || {
        engine.ok(&["task", "kill", "--signal", "9", "service"])?;
        wait_for("the task to end", PATIENCE, || {
            Ok((status(&engine)? == "STOPPED").then_some(()))
        })?;
        engine.ok(&["task", "delete", "service"])?;
        engine.ok(&["container", "delete", "service"]).map(drop)
    });
    checks.failed
}

fn status(engine: &Engine) -> Result<String> {
    let table = engine.ok(&["task", "ls"])?;
    let line = table.lines().find(|line| line.starts_with("service"));
    Ok(line
        .and_then(|line| line.split_whitespace().last())
        .unwrap_or_default()
        .to_owned())
}
