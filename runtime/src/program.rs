//! Finds the program and executes it, by a directory descriptor and a name that is not a link: whatever the image does to its paths,
//! /proc/self/exe (which is this runtime's own file until execve(2)) cannot be what is executed (CVE-2019-5736). Scripts are taken apart
//! here, because the kernel would look their interpreter up by path. Only a program for another CPU is executed by its path, because the kernel's
//! emulators (binfmt_misc) refuse a descriptor that the emulator will not have: and only by a runtime whose own file nothing inside can write.

use crate::OutOfReach;
use crate::elf::Built;
use crate::error::{Error, OsContext, Result};
use crate::paths::{open_in_root, open_plain};
use crate::plan::Plan;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, readlinkat};
use nix::sys::stat::{Mode, SFlag, fstat, fstatat};
use nix::unistd::{AccessFlags, execve, execveat, faccessat};
use std::convert::Infallible;
use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io::Read as _;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// The kernel's bound on symbolic links in a path (MAXSYMLINKS).
const LINKS_MAX: usize = 40;
/// The kernel's bound on interpreters of interpreters (binfmt_script's recursion).
const INTERPRETERS_MAX: usize = 5;
/// What the kernel reads of a file before it decides how to execute it (BINPRM_BUF_SIZE).
const HEAD_BYTES: usize = 256;
/// Where to look when the environment has no PATH.
const FALLBACK_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A program that can be executed, and how.
#[derive(Debug)]
pub(crate) struct Program {
    /// With its links, as the kernel or an emulator is to look it up: many a program goes by the name of a link.
    path: PathBuf,
    directory: OwnedFd,
    name: CString,
    args: Vec<CString>,
    /// As the user wrote it.
    shown: String,
    /// First bytes of the file.
    head: Vec<u8>,
    /// What the file was built for, if it is a program.
    built: Option<Built>,
}

/// Looks `args[0]` up in the environment's PATH, as the current user in the current root.
pub(crate) fn find(args: &[CString], env: &[CString]) -> Result<Program> {
    let asked = args.first().map(|arg| arg.as_bytes()).unwrap_or_default();
    let shown = String::from_utf8_lossy(asked).into_owned();
    let path = if asked.contains(&b'/') {
        PathBuf::from(OsStr::from_bytes(asked))
    } else {
        search(asked, env, &shown)?
    };
    let mut program = open(&path, args.to_vec(), &shown)?;
    let mut path = path;
    for _ in 0..INTERPRETERS_MAX {
        let Some((interpreter, argument)) = shebang(&program.head) else {
            return Ok(program);
        };
        // As the kernel does: interpreter, its one argument, the script's path, the arguments.
        let mut args = vec![interpreter.clone()];
        args.extend(argument);
        args.push(CString::new(path.as_os_str().as_bytes()).unwrap_or_default());
        args.extend(program.args.into_iter().skip(1));
        path = PathBuf::from(OsStr::from_bytes(interpreter.as_bytes()));
        program = open(&path, args, &shown).map_err(|error| {
            not_executable(
                &shown,
                format!(
                    "its interpreter {} cannot be used: {}",
                    path.display(),
                    error.chain()
                ),
            )
        })?;
    }
    Err(not_executable(&shown, "more than 5 interpreters of interpreters"))
}

/// Docker looks for "permission denied" in these letters, and ends with 126 then.
fn denied(program: &str, errno: Errno) -> Box<Error> {
    not_executable(program, errno.desc().to_lowercase())
}

fn not_executable(program: &str, why: impl Into<String>) -> Box<Error> {
    Box::new(Error::ProgramNotExecutable {
        program: program.to_owned(),
        why: why.into(),
    })
}

fn search(name: &[u8], env: &[CString], shown: &str) -> Result<PathBuf> {
    let mut denied = None;
    for candidate in candidates(name, env) {
        match open(&candidate, Vec::new(), shown) {
            Ok(_) => return Ok(candidate),
            Err(error) if matches!(*error, Error::ProgramNotExecutable { .. }) => {
                denied = denied.or(Some(error));
            }
            Err(_) => {}
        }
    }
    Err(denied.unwrap_or_else(|| Error::ProgramNotFound(shown.to_owned()).into()))
}

/// Where a program of this name may be: the name itself when it is a path, or in each directory of the environment's PATH.
fn candidates<'a>(name: &'a [u8], env: &'a [CString]) -> impl Iterator<Item = PathBuf> + 'a {
    let list = env
        .iter()
        .rev()
        .find_map(|entry| entry.as_bytes().strip_prefix(b"PATH="))
        .unwrap_or(FALLBACK_PATH.as_bytes());
    let list: &[u8] = if name.contains(&b'/') { b"" } else { list };
    list.split(|byte| *byte == b':')
        .filter(|_| !name.is_empty())
        .map(move |directory| {
            let directory: &[u8] = if directory.is_empty() { b"." } else { directory };
            Path::new(OsStr::from_bytes(directory)).join(OsStr::from_bytes(name))
        })
}

/// Follows links by hand, so that the last step is never one.
fn open(path: &Path, args: Vec<CString>, shown: &str) -> Result<Program> {
    let missing = |errno: Errno| match errno {
        Errno::ENOENT | Errno::ENOTDIR => Error::ProgramNotFound(shown.to_owned()).into(),
        errno => denied(shown, errno),
    };
    let asked = path;
    let mut path = path.to_owned();
    for _ in 0..LINKS_MAX {
        let Some(name) = path.file_name() else {
            return Err(not_executable(shown, "is a directory: permission denied"));
        };
        let parent = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let directory = open_plain(parent, OFlag::O_PATH | OFlag::O_DIRECTORY).map_err(missing)?;
        match readlinkat(&directory, name) {
            Ok(target) => path = parent.join(target),
            Err(Errno::EINVAL) => return check(asked, directory, name, args, shown),
            Err(errno) => return Err(missing(errno)),
        }
    }
    Err(missing(Errno::ELOOP))
}

fn check(path: &Path, directory: OwnedFd, name: &OsStr, args: Vec<CString>, shown: &str) -> Result<Program> {
    let denied = |errno: Errno| denied(shown, errno);
    let stat = fstatat(&directory, name, AtFlags::AT_SYMLINK_NOFOLLOW).map_err(denied)?;
    match SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT {
        SFlag::S_IFREG => {}
        SFlag::S_IFDIR => return Err(not_executable(shown, "is a directory: permission denied")),
        _ => return Err(not_executable(shown, "is not a regular file")),
    }
    faccessat(&directory, name, AccessFlags::X_OK, AtFlags::AT_EACCESS).map_err(denied)?;
    let name = CString::new(name.as_bytes()).map_err(|_| denied(Errno::EINVAL))?;
    // A file that may be executed and not read is left to the kernel.
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let mut head = vec![0; HEAD_BYTES];
    let mut file = openat(&directory, name.as_c_str(), flags, Mode::empty())
        .ok()
        .map(File::from);
    let length = file
        .as_mut()
        .map_or(Ok(0), |file| file.read(&mut head))
        .unwrap_or(0);
    head.truncate(length);
    let built = Built::of(&head, file.as_ref());
    if let Some(built) = built.filter(|built| built.is_too_new_for(&machine())) {
        return Err(not_executable(shown, wrong_format(&head, Some(built))));
    }
    Ok(Program {
        path: path.to_owned(),
        directory,
        name,
        args,
        shown: shown.to_owned(),
        head,
        built,
    })
}

/// Interpreter and optional argument of a `#!` line. execve(2)
fn shebang(head: &[u8]) -> Option<(CString, Option<CString>)> {
    let line = head.strip_prefix(b"#!")?.split(|byte| *byte == b'\n').next()?;
    let line = line.trim_ascii();
    let end = line
        .iter()
        .position(|byte| *byte == b' ' || *byte == b'\t')
        .unwrap_or(line.len());
    let (interpreter, argument) = line.split_at(end);
    let argument = argument.trim_ascii();
    let interpreter = CString::new(interpreter).ok().filter(|text| !text.is_empty())?;
    let argument = if argument.is_empty() {
        None
    } else {
        Some(CString::new(argument).ok()?)
    };
    Some((interpreter, argument))
}

impl Program {
    /// Becomes the program; comes back only with the reason why not. The directory's descriptor is close-on-exec, so the kernel executes no
    /// script and nothing of binfmt_misc, whatever the file has become meanwhile (ENOENT). execveat(2)
    pub fn execute(self, env: &[CString], own_file: Option<OutOfReach>) -> Result<Infallible> {
        match execveat(
            &self.directory,
            &self.name,
            &self.args,
            env,
            AtFlags::AT_SYMLINK_NOFOLLOW,
        ) {
            Err(Errno::ENOEXEC) => Err(not_executable(&self.shown, wrong_format(&self.head, self.built))),
            Err(Errno::ENOENT) if self.built.is_some_and(Built::is_foreign) => self.emulate(env, own_file),
            // The file is there: what is missing is what it names inside.
            Err(Errno::ENOENT) => Err(not_executable(
                &self.shown,
                "the dynamic loader it names is not in the container",
            )),
            Err(errno @ (Errno::EACCES | Errno::EPERM | Errno::ETXTBSY | Errno::EISDIR | Errno::ELIBBAD)) => {
                Err(denied(&self.shown, errno))
            }
            result => result.os("execute", &self.shown),
        }
    }

    /// By path, so that the kernel executes its emulator for such programs, which opens the path. Whatever the path leads to by now, it is not a file
    /// of ours that somebody could write. execve(2)
    fn emulate(&self, env: &[CString], own_file: Option<OutOfReach>) -> Result<Infallible> {
        let machine = self.built.map(Built::machine).unwrap_or_default();
        if own_file.is_none() {
            return Err(not_executable(
                &self.shown,
                format!("built for {machine}, and the container is not (punnet run --platform)"),
            ));
        }
        let path =
            CString::new(self.path.as_os_str().as_bytes()).map_err(|_| denied(&self.shown, Errno::EINVAL))?;
        match execve(&path, &self.args, env) {
            Err(Errno::ENOENT) => Err(not_executable(
                &self.shown,
                format!(
                    "the kernel's emulator for {machine} is not in the container: register it with binfmt_misc's flag F, or copy it into the image"
                ),
            )),
            Err(errno) => Err(denied(&self.shown, errno)),
        }
    }
}

/// Whether the program that a plan names is for another CPU, as far as that is seen from outside of a root that is a directory. It decides nothing but whether
/// the runtime gets ready for it.
pub(crate) fn is_foreign(plan: &Plan) -> bool {
    let (Some(process), None) = (&plan.process, &plan.root.mount) else {
        return false;
    };
    let head = |root: &OwnedFd, path: &Path| -> Option<Vec<u8>> {
        let found = open_in_root(root.as_fd(), path, OFlag::O_PATH).ok()?;
        if SFlag::from_bits_truncate(fstat(&found).ok()?.st_mode) & SFlag::S_IFMT != SFlag::S_IFREG {
            return None;
        }
        let mut file = File::open(format!("/proc/self/fd/{}", found.as_raw_fd())).ok()?;
        let mut head = vec![0; HEAD_BYTES];
        let length = file.read(&mut head).ok()?;
        head.truncate(length);
        Some(head)
    };
    let Ok(root) = open_plain(&plan.root.path, OFlag::O_PATH | OFlag::O_DIRECTORY) else {
        return false;
    };
    let asked = process.args.first().map(|arg| arg.as_bytes()).unwrap_or_default();
    let mut found = candidates(asked, &process.env).find_map(|path| head(&root, &process.cwd.join(path)));
    for _ in 0..INTERPRETERS_MAX {
        match found.as_deref().map(|head| (shebang(head), head)) {
            Some((Some((interpreter, _)), _)) => {
                found = head(&root, Path::new(OsStr::from_bytes(interpreter.as_bytes())));
            }
            Some((None, head)) => return Built::of(head, None).is_some_and(Built::is_foreign),
            None => return false,
        }
    }
    false
}

/// Why the kernel does not know how to execute a file.
fn wrong_format(head: &[u8], built: Option<Built>) -> String {
    match built {
        Some(built) if built.is_too_new_for(&machine()) => {
            format!("built for {}, and this board is {}", built.machine(), machine())
        }
        Some(built) => format!(
            "built for {}, and this board is {}, whose kernel knows no emulator for it: install one that registers with binfmt_misc (Debian: qemu-user-static)",
            built.machine(),
            machine()
        ),
        None if head.is_empty() => "is empty".to_owned(),
        None => "is neither a program nor a script that starts with #!".to_owned(),
    }
}

/// `uname -m`
fn machine() -> String {
    nix::sys::utsname::uname().map_or_else(
        |_| std::env::consts::ARCH.to_owned(),
        |name| name.machine().to_string_lossy().into_owned(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn c(text: &str) -> CString {
        CString::new(text).unwrap()
    }

    #[test]
    fn shebang_lines_are_split_as_the_kernel_does() {
        for (head, expected) in [
            ("#!/bin/sh\nx", Some(("/bin/sh", None))),
            ("#! /bin/sh -e -x \n", Some(("/bin/sh", Some("-e -x")))),
            ("#!/usr/bin/env\tpython", Some(("/usr/bin/env", Some("python")))),
            ("#!\n", None),
            ("\x7fELF", None),
            ("", None),
        ] {
            let found = shebang(head.as_bytes());
            assert_eq!(
                found,
                expected.map(|(path, argument)| (c(path), argument.map(c))),
                "{head:?}"
            );
        }
    }

    #[test]
    fn foreign_programs_are_named() {
        let mut elf = b"\x7fELF\x01\x01".to_vec();
        elf.resize(64, 0);
        elf[18] = 40;
        let why = |head: &[u8]| wrong_format(head, Built::of(head, None));
        assert!(why(&elf).contains("built for arm"));
        assert!(why(b"hello").contains("neither"));
        assert!(why(b"\x7fELF").contains("neither"));
        assert!(why(b"").contains("empty"));
    }

    #[test]
    fn lookup_says_not_found_or_not_executable() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("plain"), "x").unwrap();
        let env = [c(&format!("PATH={}:/bin", dir.path().display()))];
        let error = |program: &str| *find(&[c(program)], &env).unwrap_err();
        assert!(matches!(error("nope"), Error::ProgramNotFound(_)));
        assert!(matches!(error(""), Error::ProgramNotFound(_)));
        assert!(matches!(error("plain"), Error::ProgramNotExecutable { .. }));
        assert!(matches!(error("/bin/"), Error::ProgramNotExecutable { .. }));
        assert!(find(&[c("sh")], &env).is_ok());
    }

    #[test]
    fn links_of_proc_are_read_as_text_and_never_jumped_through() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink("/proc/self/fd/0/../exe", &link).unwrap();
        let args = [c(link.to_str().unwrap())];
        assert!(find(&args, &[]).is_err());
    }
}
