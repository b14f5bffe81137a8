//! Running programs, and ending them for certain.

use std::ffi::OsStr;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// How long a server gets between SIGTERM and SIGKILL.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// Pause between two looks at something that is waited for.
pub const POLL: Duration = Duration::from_millis(20);

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// From now on Ctrl-C and SIGTERM make [`interrupted`] true instead of ending the process, so that what was started is cleaned up. Once in a process.
pub fn catch_interrupts() -> Result<()> {
    ctrlc::set_handler(|| INTERRUPTED.store(true, Ordering::Relaxed)).context("cannot catch Ctrl-C")
}

/// True once Ctrl-C was pressed.
pub fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

/// Runs to the end, output to the terminal.
pub fn run(command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("cannot start {}", shown(command)))?;
    if interrupted() {
        bail!("interrupted");
    }
    if !status.success() {
        bail!("{} ended with {status}", shown(command));
    }
    Ok(())
}

/// Runs to the end and returns what it printed on stdout.
pub fn stdout_of(command: &mut Command) -> Result<String> {
    let output = output_of(command)?;
    if !output.status.success() {
        bail!(
            "{} ended with {}: {}",
            shown(command),
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs to the end, whatever comes of it.
pub fn output_of(command: &mut Command) -> Result<Output> {
    command
        .output()
        .with_context(|| format!("cannot start {}", shown(command)))
}

/// True when `program` is on the PATH, or is the whole path of one.
pub fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // Servers live in sbin, which an ordinary user's PATH may leave out.
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .any(|folder| folder.join(program).is_file())
}

/// Does each in a thread of its own. What came of them, in their order, once all have ended; or the first error in that order.
pub fn side_by_side<I: Send, T: Send>(
    items: impl IntoIterator<Item = I>,
    work: impl Fn(I) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    std::thread::scope(|scope| {
        let work = &work;
        let running: Vec<_> = items
            .into_iter()
            .map(|item| scope.spawn(move || work(item)))
            .collect();
        let ended = running.into_iter().map(|thread| {
            thread
                .join()
                .map_err(|_| anyhow::anyhow!("a thread has panicked"))?
        });
        ended.collect::<Vec<_>>().into_iter().collect()
    })
}

/// Looks again and again until `ready` has an answer.
pub fn wait_for<T>(what: &str, timeout: Duration, mut ready: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let began = Instant::now();
    loop {
        if let Some(answer) = ready()? {
            return Ok(answer);
        }
        if interrupted() {
            bail!("interrupted");
        }
        if began.elapsed() > timeout {
            bail!("waited {} s for {what} in vain", timeout.as_secs());
        }
        std::thread::sleep(POLL);
    }
}

/// Runs to the end; the most memory it has had at once, KiB. What it starts itself is not counted.
pub fn peak_rss_kib(command: &mut Command) -> Result<u64> {
    /// Between two looks; what grows in the last of them is missed.
    const SAMPLE: Duration = Duration::from_millis(2);
    let mut child = command
        .spawn()
        .with_context(|| format!("cannot start {}", shown(command)))?;
    let path = format!("/proc/{}/status", child.id());
    let ended = AtomicBool::new(false);
    let (status, peak) = std::thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let mut peak = 0;
            // It only ever rises, and is not there any more once the program has ended.
            while !ended.load(Ordering::Relaxed) {
                peak = peak.max(high_water_mark_kib(&path).unwrap_or(0));
                std::thread::sleep(SAMPLE);
            }
            peak
        });
        let status = child.wait();
        ended.store(true, Ordering::Relaxed);
        (status, watcher.join().expect("a watching thread does not panic"))
    });
    let status = status?;
    if !status.success() {
        bail!("{} ended with {status}", shown(command));
    }
    Ok(peak)
}

/// VmHWM in a status file (proc_pid_status(5)).
pub fn high_water_mark_kib(path: &str) -> Result<u64> {
    status_kib(path, "VmHWM:")
}

/// A line of a status file (proc_pid_status(5)) that counts KiB.
pub fn status_kib(path: &str, key: &str) -> Result<u64> {
    let status = std::fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(key))
        .with_context(|| format!("{path} has no {key}"))?;
    Ok(line.trim().trim_end_matches("kB").trim().parse()?)
}

/// A server that ends with this value.
pub struct Server {
    watch: Watch,
}

/// Who waits for what a server does learns from this that it is gone, whoever owns the server.
#[derive(Clone)]
pub struct Watch {
    name: &'static str,
    child: Arc<Mutex<Child>>,
}

impl Watch {
    /// An error when it has ended.
    pub fn check(&self) -> Result<()> {
        match self.child().try_wait()? {
            Some(status) => bail!("the {} ended by itself with {status}", self.name),
            None => Ok(()),
        }
    }

    fn child(&self) -> MutexGuard<'_, Child> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Server {
    /// Starts it, out of reach of the terminal's Ctrl-C: it ends when we end it.
    pub fn start(name: &'static str, command: &mut Command) -> Result<Self> {
        let child = command
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {}", shown(command)))?;
        let child = Arc::new(Mutex::new(child));
        Ok(Self {
            watch: Watch { name, child },
        })
    }

    /// The same for one whose standard input and output are pipes.
    pub fn start_with_pipes(
        name: &'static str,
        command: &mut Command,
    ) -> Result<(Self, ChildStdin, ChildStdout)> {
        let server = Self::start(name, command)?;
        let mut child = server.watch.child();
        let pipes = child.stdin.take().zip(child.stdout.take());
        drop(child);
        let (stdin, stdout) = pipes.context("the command was not given pipes")?;
        Ok((server, stdin, stdout))
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.watch.child().id()
    }

    /// For somebody who waits for what it does.
    pub fn watch(&self) -> Watch {
        self.watch.clone()
    }

    /// An error when it has ended by itself.
    pub fn check(&self) -> Result<()> {
        self.watch.check()
    }

    /// `Some` once it has ended by itself.
    pub fn ended(&self) -> Result<Option<()>> {
        Ok(self.watch.child().try_wait()?.map(drop))
    }

    /// SIGKILL, as a crash or the kernel's OOM killer would.
    pub fn kill(self) -> Result<()> {
        let mut child = self.watch.child();
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// SIGTERM, then SIGKILL.
    pub fn stop(&self) -> Result<()> {
        let mut child = self.watch.child();
        if child.try_wait()?.is_some() {
            return Ok(());
        }
        let pid = Pid::from_raw(i32::try_from(child.id()).expect("a pid fits pid_t"));
        kill(pid, Signal::SIGTERM)?;
        let began = Instant::now();
        while child.try_wait()?.is_none() {
            if began.elapsed() > STOP_TIMEOUT {
                child.kill()?;
                child.wait()?;
                bail!(
                    "the {} did not end within {} s of SIGTERM and was killed",
                    self.watch.name,
                    STOP_TIMEOUT.as_secs()
                );
            }
            std::thread::sleep(POLL);
        }
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            eprintln!("warning: {error:#}");
        }
    }
}

/// The command line, for people.
pub fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
}

/// The memory that is a process's own share, from /proc/PID/smaps_rollup (proc_pid_smaps(5)), KiB.
pub fn pss_kib(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/smaps_rollup");
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("Pss:"))
        .with_context(|| format!("no Pss in {path}"))?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

/// Starts a command stopped, before its first instruction but for a shell's: so that it can be traced from there.
#[allow(
    clippy::zombie_processes,
    reason = "waitpid(2) sees its end, as the tracer has to"
)]
pub fn start_stopped(words: &[String], folder: &Path) -> Result<Pid> {
    let child = Command::new("sh")
        .args(["-c", "kill -STOP $$; exec \"$@\"", "sh"])
        .args(words)
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .context("cannot start sh")?;
    let pid = Pid::from_raw(child.id().cast_signed());
    let status = waitpid(pid, Some(WaitPidFlag::WUNTRACED))?;
    ensure!(
        matches!(status, WaitStatus::Stopped(..)),
        "the shell did not stop"
    );
    Ok(pid)
}
