//! install, uninstall: Punnet as a service of a system that has an init of its own.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use super::{Given, Verb, Words, flag, valued};
use crate::container::{Folders, file as file_error};
use crate::error::{CliError, Result};
use crate::install::{self, ENROLMENT, Init, PROGRAM, Plan, Service, inside};
use crate::roots::Roots;
use crate::verbs::containers;

/// `punnet install`
pub const INSTALL: Verb = Verb {
    name: "install",
    summary: "Start the agent and the apps of /etc/punnet/apps at every boot",
    synopsis: "[--init INIT] [--root DIR] [--program PATH] [--enroll FILE] [--dry-run]",
    details: "Writes a systemd unit, an OpenRC script or inittab lines for the agent (which runs once the board is enrolled) and for `punnet apps serve`, has them\n\
              started, and says what it did; doing it again changes nothing. Where a package has brought the services they are left to it. What was written\n\
              is listed in /etc/punnet/installed, and `punnet uninstall` removes exactly that.",
    flags: &[
        valued("init", "INIT", "systemd, openrc or inittab [what is there]"),
        valued(
            "root",
            "DIR",
            "Into this root of an image that is being built; nothing is started",
        ),
        valued(
            "program",
            "PATH",
            "Where punnet is in the installed system [where this one is, or a copy as /usr/local/bin/punnet]",
        ),
        valued("enroll", "FILE", "Take this enrolment up (punnet-fleet enroll)"),
        flag("dry-run", "Only say what would be done"),
    ],
    words: Words::Between(0, 0),
    act: |_, given| install(&given),
};

/// `punnet uninstall`
pub const UNINSTALL: Verb = Verb {
    name: "uninstall",
    summary: "Remove what `punnet install` has written",
    synopsis: "[--root DIR] [--purge] [--dry-run]",
    details: "Stops the services and removes exactly what /etc/punnet/installed lists. Images, containers, the enrolment and app files stay unless --purge is given;\n\
              containers that the agent has started go on.",
    flags: &[
        valued("root", "DIR", "From this root of an image that is being built"),
        flag(
            "purge",
            "Stop all containers, remove /var/lib/punnet, /run/punnet and /etc/punnet with all that is in them",
        ),
        flag("dry-run", "Only say what would be done"),
    ],
    words: Words::Between(0, 0),
    act: |_, given| uninstall(&given),
};

/// Folders in which a program stays: units may name it there.
const SYSTEM_FOLDERS: [&str; 5] = ["/usr/bin", "/usr/sbin", "/usr/local/bin", "/bin", "/sbin"];

/// Where packages put units.
const PACKAGED_UNIT: [&str; 2] = [
    "/lib/systemd/system/punnet-apps.service",
    "/usr/lib/systemd/system/punnet-apps.service",
];

fn install(given: &Given) -> Result<ExitCode> {
    let root = Path::new(given.one("root").unwrap_or("/"));
    let dry = given.has("dry-run");
    let init = init_of(given.one("init"), root)?;
    let enrolment = inside(root, ENROLMENT);
    let (program, copy) = program(given.one("program"), root)?;
    let plan = Plan {
        init,
        program,
        copy,
        enrolled: given.one("enroll").is_some() || enrolment.exists(),
        packaged: init == Init::Systemd && PACKAGED_UNIT.iter().any(|path| inside(root, path).exists()),
    };
    let mut changed = install::apply(&plan.steps(), root, dry)?;
    if let Some(file) = given.one("enroll") {
        changed = true;
        if dry {
            println!("would write: file {ENROLMENT}, from {file}");
        } else {
            let folder = enrolment.parent().unwrap_or(root);
            std::fs::create_dir_all(folder).map_err(file_error("cannot create", folder))?;
            let taken = punnet_agent::Enrolment::take_up(Some(Path::new(file)), &enrolment)?;
            println!("enrolled: device {} of the fleet {}", taken.device, taken.fleet);
        }
    } else if !plan.enrolled {
        println!("not enrolled: the agent starts after `punnet install --enroll FILE`");
    }
    if is_live(root) {
        let commands = start(init, changed);
        commands.iter().try_for_each(|words| act(words, dry, true))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn uninstall(given: &Given) -> Result<ExitCode> {
    let root = Path::new(given.one("root").unwrap_or("/"));
    let (dry, purge) = (given.has("dry-run"), given.has("purge"));
    let init = Init::detect(root);
    let live = is_live(root);
    let recorded = inside(root, install::RECORD).exists();
    if live && recorded {
        let stop = |service: Service| match init {
            Some(Init::Systemd) => vec![["systemctl", "stop", service.name()]],
            Some(Init::OpenRc) => vec![["rc-service", service.name(), "stop"]],
            _ => vec![],
        };
        for words in Service::ALL.into_iter().flat_map(stop) {
            act(&words, dry, false)?;
        }
    }
    if !install::undo(root, dry)? {
        println!("nothing was installed by `punnet install`");
    }
    if live && recorded {
        match init {
            Some(Init::Systemd) => act(&["systemctl", "daemon-reload"], dry, false)?,
            Some(Init::Inittab) => act(&["telinit", "q"], dry, false)?,
            Some(Init::BusyboxInittab) => act(&["kill", "-HUP", "1"], dry, false)?,
            _ => {}
        }
    }
    if purge {
        if live && !dry {
            let roots = Roots::default();
            for folders in Folders::all(&roots)? {
                containers::remove(&roots, &folders, true)?;
                println!("removed: container {}", folders.name);
            }
        }
        for folder in ["/var/lib/punnet", "/run/punnet", "/etc/punnet"] {
            install::remove(root, folder, dry)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn init_of(named: Option<&str>, root: &Path) -> Result<Init> {
    let found = match named {
        None => Init::detect(root),
        Some("systemd") => Some(Init::Systemd),
        Some("openrc") => Some(Init::OpenRc),
        Some("inittab") => Init::by_inittab(root),
        Some(_) => None,
    };
    found.ok_or_else(|| {
        CliError::usage(format_args!(
            "cannot tell who starts services in {}: no systemd, no OpenRC, no /etc/inittab; say --init systemd, openrc or inittab",
            root.display()
        ))
    })
}

/// Where the program will be, and the file to copy there when it is not there yet.
fn program(named: Option<&str>, root: &Path) -> Result<(PathBuf, Option<PathBuf>)> {
    if let Some(named) = named {
        return Ok((named.into(), None));
    }
    let exe = Path::new("/proc/self/exe");
    let own = std::fs::read_link(exe).map_err(file_error("cannot read", exe))?;
    if is_live(root)
        && own
            .parent()
            .is_some_and(|parent| SYSTEM_FOLDERS.iter().any(|path| parent == Path::new(path)))
    {
        return Ok((own, None));
    }
    let there = SYSTEM_FOLDERS
        .iter()
        .map(|folder| Path::new(folder).join("punnet"))
        .find(|path| path != Path::new(PROGRAM) && inside(root, path).exists());
    Ok(match there {
        Some(program) => (program, None),
        None => (PROGRAM.into(), Some(exe.into())),
    })
}

/// The system that runs, and not an image.
fn is_live(root: &Path) -> bool {
    root == Path::new("/")
}

/// How the services are started; those that run are started again only when something has changed.
fn start(init: Init, changed: bool) -> Vec<Vec<&'static str>> {
    match init {
        Init::Systemd if !changed => vec![vec!["systemctl", "start", "punnet-agent", "punnet-apps"]],
        Init::Systemd => vec![
            vec!["systemctl", "daemon-reload"],
            // Containers of the agent's go on meanwhile; those of the apps would be stopped, so they keep their process.
            vec!["systemctl", "restart", "punnet-agent"],
            vec!["systemctl", "start", "punnet-apps"],
        ],
        Init::OpenRc => vec![
            vec!["rc-service", "--ifstopped", "punnet-agent", "start"],
            vec!["rc-service", "--ifstopped", "punnet-apps", "start"],
        ],
        Init::Inittab => vec![vec!["telinit", "q"]],
        Init::BusyboxInittab => vec![vec!["kill", "-HUP", "1"]],
    }
}

/// Runs a command of the init's. One that fails is told, and is no reason to undo what is written: the next boot starts it.
fn act(words: &[&str], dry: bool, wanted: bool) -> Result<()> {
    let line = words.join(" ");
    if dry {
        println!("would run: {line}");
        return Ok(());
    }
    println!("running: {line}");
    let ended = Command::new(words[0]).args(&words[1..]).status();
    let why = match ended {
        Ok(status) if status.success() => return Ok(()),
        Ok(status) => status.to_string(),
        Err(error) => error.to_string(),
    };
    let after = if wanted { "; the next boot starts it" } else { "" };
    eprintln!("punnet: `{line}`: {why}{after}");
    Ok(())
}
