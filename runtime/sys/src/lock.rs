//! Locks that go with one process.

use std::fs::File;

use nix::fcntl::{FcntlArg, fcntl};
use nix::unistd::Pid;

/// Takes a file's lock for this process alone; false when another has it. fcntl(2), F_SETLK
///
/// A lock of flock(2) is shared with each child until it executes a program, so that whoever follows a killed process may be refused because of a child it
/// has left. This one ends with the process, and as soon as the process closes any descriptor of the file. The file is open for writing.
pub fn lock_for_process(file: &File) -> nix::Result<bool> {
    match fcntl(file, FcntlArg::F_SETLK(&whole_file())) {
        Ok(_) => Ok(true),
        // POSIX leaves open which of the two it is.
        Err(nix::Error::EAGAIN | nix::Error::EACCES) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// The other process that has a file's lock. fcntl(2), F_GETLK
pub fn process_with_lock(file: &File) -> nix::Result<Option<Pid>> {
    let mut lock = whole_file();
    fcntl(file, FcntlArg::F_GETLK(&mut lock))?;
    let is_free = i32::from(lock.l_type) == libc::F_UNLCK;
    Ok((!is_free).then(|| Pid::from_raw(lock.l_pid)))
}

fn whole_file() -> libc::flock {
    libc::flock {
        l_type: libc::F_WRLCK as _,
        l_whence: libc::SEEK_SET as _,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::path::Path;
    use std::process::{Command, Stdio};

    use super::*;

    /// Names the file to lock, when this program plays the process that has it.
    const FILE: &str = "PUNNET_TEST_LOCK";

    fn open(path: &Path) -> File {
        let mut options = File::options();
        options
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .unwrap()
    }

    #[test]
    fn a_lock_ends_with_its_process_whatever_its_children_do() {
        if let Some(path) = std::env::var_os(FILE) {
            return hold(Path::new(&path));
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let mut holder = Command::new(std::env::current_exe().unwrap())
            .args(["--nocapture", "a_lock_ends_with_its_process"])
            .env(FILE, &path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(holder.stdout.take().unwrap()).lines();
        let child = lines
            .map_while(Result::ok)
            .find_map(|line| Some(line.split_once("left ")?.1.trim().to_owned()));
        let child: i32 = child.unwrap().parse().unwrap();
        let file = open(&path);
        let owner = Pid::from_raw(holder.id() as i32);
        assert_eq!(process_with_lock(&file), Ok(Some(owner)));
        assert_eq!(lock_for_process(&file), Ok(false));
        holder.kill().unwrap();
        holder.wait().unwrap();
        assert_eq!(process_with_lock(&file), Ok(None));
        assert_eq!(lock_for_process(&file), Ok(true));
        nix::sys::signal::kill(Pid::from_raw(child), nix::sys::signal::Signal::SIGKILL).unwrap();
    }

    /// Takes the lock, leaves a child that has the same description open, and waits to be killed.
    fn hold(path: &Path) {
        let file = open(path);
        assert_eq!(lock_for_process(&file), Ok(true));
        let mut child = Command::new("sleep");
        child
            .arg("60")
            .stdin(file.try_clone().unwrap())
            .stdout(Stdio::null());
        let child = child.spawn();
        println!("left {}", child.unwrap().id());
        std::thread::sleep(std::time::Duration::from_secs(60));
    }
}
