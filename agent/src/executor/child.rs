//! Running our own binary: bounded output, bounded time, an error in one line.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;
use tokio::time::timeout;

/// Standard output taken: `ps --json` of some hundred containers.
const STDOUT_BYTES_MAX: usize = 256 * 1024;
/// Of standard error the end counts.
const STDERR_BYTES_MAX: usize = 4 * 1024;
/// After the process has ended its output is in the pipe; a container that inherited the pipe must not hold us up.
const DRAIN: Duration = Duration::from_millis(5);

/// How our own binary is called.
#[derive(Clone)]
pub struct Punnet {
    /// The file; `/proc/self/exe` but in tests.
    pub program: PathBuf,
    /// `--data-root`
    pub data_root: PathBuf,
    /// `--run-root`
    pub run_root: PathBuf,
    /// Processes of ours that somebody waits for.
    pub waited_for: WaitedFor,
}

/// Process ids that the reaper of orphans must leave alone.
pub type WaitedFor = Arc<Mutex<BTreeSet<u32>>>;

impl Punnet {
    /// Runs `punnet ARGS` and returns its standard output. The error is for people.
    pub fn run<A: Into<OsString>>(
        &self,
        args: impl IntoIterator<Item = A>,
        time: Duration,
    ) -> impl Future<Output = Result<Vec<u8>, String>> + Send {
        self.run_words(args.into_iter().map(Into::into).collect(), time)
    }

    async fn run_words(&self, args: Vec<OsString>, time: Duration) -> Result<Vec<u8>, String> {
        let verb = args
            .first()
            .map(|verb| verb.to_string_lossy().into_owned())
            .unwrap_or_default();
        let mut command = Command::new(&self.program);
        command
            .arg("--data-root")
            .arg(&self.data_root)
            .arg("--run-root")
            .arg(&self.run_root)
            .args(args);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        // Those are between systemd and the agent alone.
        command.env_remove("NOTIFY_SOCKET").env_remove("WATCHDOG_USEC");
        let mut child = command
            .spawn()
            .map_err(|error| format!("cannot run {}: {error}", self.program.display()))?;
        let pid = child.id().unwrap_or_default();
        self.note(pid, true);
        let mut stdout = Capture::new(child.stdout.take(), STDOUT_BYTES_MAX);
        let mut stderr = Capture::new(child.stderr.take(), STDERR_BYTES_MAX);
        let ended = timeout(time, async {
            loop {
                tokio::select! {
                    status = child.wait() => break status,
                    () = stdout.read() => {}
                    () = stderr.read() => {}
                }
            }
        });
        let ended = ended.await;
        if ended.is_err() {
            // Killed and reaped; an error means that it has ended by itself.
            drop(child.kill().await);
        }
        self.note(pid, false);
        let Ok(status) = ended else {
            return Err(format!("{verb} took longer than {} s", time.as_secs()));
        };
        let status = status.map_err(|error| format!("{verb}: {error}"))?;
        stdout.drain().await;
        stderr.drain().await;
        if !status.success() {
            return Err(stderr
                .complaint()
                .unwrap_or_else(|| format!("{verb} ended with {status}")));
        }
        if stdout.overflowed {
            return Err(format!("{verb} printed more than {STDOUT_BYTES_MAX} bytes"));
        }
        Ok(stdout.bytes)
    }

    fn note(&self, pid: u32, running: bool) {
        let mut pids = self.waited_for.lock().unwrap_or_else(PoisonError::into_inner);
        if running {
            pids.insert(pid);
        } else {
            pids.remove(&pid);
        }
    }
}

/// A pipe's last bytes.
struct Capture<R> {
    pipe: Option<R>,
    bytes: Vec<u8>,
    bytes_max: usize,
    overflowed: bool,
}

impl<R: AsyncRead + Unpin> Capture<R> {
    fn new(pipe: Option<R>, bytes_max: usize) -> Self {
        Self {
            pipe,
            bytes: Vec::new(),
            bytes_max,
            overflowed: false,
        }
    }

    /// Takes what comes next; for ever pending once the pipe is closed.
    async fn read(&mut self) {
        let Some(pipe) = &mut self.pipe else {
            return std::future::pending().await;
        };
        let mut buffer = [0; 1024];
        match pipe.read(&mut buffer).await {
            Ok(read) if read > 0 => {
                self.bytes.extend_from_slice(&buffer[..read]);
                let over = self.bytes.len().saturating_sub(self.bytes_max);
                self.overflowed |= over > 0;
                self.bytes.drain(..over);
            }
            _ => self.pipe = None,
        }
    }

    async fn drain(&mut self) {
        while self.pipe.is_some() && timeout(DRAIN, self.read()).await.is_ok() {}
    }

    /// The last line, as our binary prints its errors.
    fn complaint(&self) -> Option<String> {
        let text = String::from_utf8_lossy(&self.bytes);
        let lines: Vec<_> = text
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty())
            .collect();
        let first = lines
            .iter()
            .rposition(|line| line.starts_with("punnet: "))
            .unwrap_or(lines.len().checked_sub(1)?);
        let said = lines[first..].join("; ");
        Some(said.strip_prefix("punnet: ").map(str::to_owned).unwrap_or(said))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn punnet(folder: &std::path::Path, script: &str) -> Punnet {
        let program = folder.join("fake");
        fs::write(&program, format!("#!/bin/sh\nshift 4\n{script}\n")).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let (data_root, run_root) = (folder.into(), folder.into());
        Punnet {
            program,
            data_root,
            run_root,
            waited_for: WaitedFor::default(),
        }
    }

    fn run(script: &str, time_ms: u64) -> Result<Vec<u8>, String> {
        let folder = tempfile::tempdir().unwrap();
        let punnet = punnet(folder.path(), script);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let result = runtime.block_on(punnet.run(["ps", "--all"], Duration::from_millis(time_ms)));
        assert!(punnet.waited_for.lock().unwrap().is_empty());
        result
    }

    #[test]
    fn output_comes_back_whole() {
        assert_eq!(
            run(r#"echo "$@"; head -c 200000 /dev/zero"#, 10_000)
                .unwrap()
                .len(),
            9 + 200_000
        );
        assert!(
            run("head -c 300000 /dev/zero", 10_000)
                .unwrap_err()
                .contains("more than")
        );
    }

    #[test]
    fn the_complaint_is_the_error() {
        let error = run(
            "echo noise >&2; echo 'punnet: no such image' >&2; echo '  caused by: x' >&2; exit 1",
            10_000,
        );
        assert_eq!(error.unwrap_err(), "no such image; caused by: x");
        assert!(run("exit 3", 10_000).unwrap_err().contains("3"));
    }

    #[test]
    fn a_process_that_takes_too_long_is_ended() {
        assert!(run("exec sleep 60", 100).unwrap_err().contains("took longer"));
    }

    #[test]
    fn a_heir_of_the_pipe_holds_nothing_up() {
        let began = std::time::Instant::now();
        assert_eq!(run("echo done; sleep 5 &", 10_000).unwrap(), b"done\n");
        assert!(began.elapsed() < Duration::from_secs(3));
    }
}
