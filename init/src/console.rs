//! The role `console`: a prompt on the serial line for a person who wants to know what is wrong. No shell: the board has none.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::process::Command;

use nix::fcntl::OFlag;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, dup2_stderr, dup2_stdin, dup2_stdout, setsid};

use crate::handover::TROUBLES;
use crate::read_word;

const HELP: &str = "troubles           what is wrong with this board\n\
                    ls DIR, cat FILE   look around\n\
                    kernel             the kernel's last messages\n\
                    processes          what runs\n\
                    signal NAME PID    signal STOP 7\n\
                    reboot, poweroff   end in order\n\
                    anything else      a verb of punnet: ps, logs NAME, images, help ...";
/// Of a file or of the kernel's messages, at once.
const SHOWN_BYTES_MAX: u64 = 64 * 1024;

/// Until the line closes.
pub fn run() {
    if let Err(error) = take_terminal() {
        crate::say(format_args!("no terminal for the console: {error}"));
    }
    println!("\nThis board is run by punnet. `help` lists what can be asked here.");
    print!("{}", fs::read_to_string(TROUBLES).unwrap_or_default());
    let mut lines = BufReader::new(std::io::stdin()).lines();
    loop {
        print!("punnet> ");
        // The next line tells when nobody reads.
        drop(std::io::stdout().flush());
        let Some(Ok(line)) = lines.next() else { return };
        let words: Vec<_> = line.split_whitespace().collect();
        answer(&words);
    }
}

/// The console's own device: /dev/console can control nothing.
fn take_terminal() -> std::io::Result<()> {
    setsid()?;
    let active = read_word("/sys/class/tty/console/active");
    let name = active.split_whitespace().last().unwrap_or("console");
    let terminal = OpenOptions::new()
        .read(true)
        .write(true)
        .open(PathBuf::from("/dev").join(name))?;
    dup2_stdin(&terminal)?;
    dup2_stdout(&terminal)?;
    dup2_stderr(&terminal)?;
    punnet_sys::set_controlling_terminal(terminal.as_fd())?;
    Ok(())
}

fn answer(words: &[&str]) {
    let done = match words {
        [] => Ok(()),
        ["help"] => {
            println!("{HELP}");
            Ok(())
        }
        ["troubles"] => show(TROUBLES, 0),
        ["kernel"] => show("/dev/kmsg", OFlag::O_NONBLOCK.bits()),
        ["cat", file] => show(file, OFlag::O_NONBLOCK.bits()),
        ["ls", folder] => list(folder),
        ["processes"] => processes(),
        ["signal", name, pid] => signal(name, pid),
        ["reboot"] => kill(Pid::from_raw(1), Signal::SIGTERM).map_err(Into::into),
        ["poweroff"] => kill(Pid::from_raw(1), Signal::SIGUSR2).map_err(Into::into),
        verb => Command::new("/proc/self/exe").args(verb).status().map(drop),
    };
    if let Err(error) = done {
        println!("{}: {error}", words.join(" "));
    }
}

fn show(path: &str, flags: i32) -> std::io::Result<()> {
    let mut file: File = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let mut out = std::io::stdout().lock();
    let mut left = SHOWN_BYTES_MAX;
    let mut piece = [0; 8192];
    // /dev/kmsg gives a record at a time, and would block at its end.
    while left > 0 {
        match file.read(&mut piece) {
            Ok(0) => break,
            Ok(length) => {
                out.write_all(&piece[..length])?;
                left = left.saturating_sub(length as u64);
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn processes() -> std::io::Result<()> {
    let pids = fs::read_dir("/proc")?
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    for pid in pids {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        // Threads of the kernel have no command line.
        if !line.is_empty() {
            println!("{pid:>5} {}", String::from_utf8_lossy(&line).replace('\0', " "));
        }
    }
    Ok(())
}

fn signal(name: &str, pid: &str) -> std::io::Result<()> {
    let signal = format!("SIG{name}").parse::<Signal>()?;
    let pid = pid.parse().map_err(std::io::Error::other)?;
    Ok(kill(Pid::from_raw(pid), signal)?)
}

fn list(folder: &str) -> std::io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        let mark = if metadata.is_dir() { "/" } else { "" };
        println!(
            "{:>10} {}{mark}",
            metadata.len(),
            entry.file_name().to_string_lossy()
        );
    }
    Ok(())
}
