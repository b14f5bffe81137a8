//! What `punnet install` does to a system that somebody else's init runs: a plan of steps, then a loop that takes them.
//!
//! `services` has the texts, [`Plan`] decides where they go, `apply` writes and removes, and keeps in [`RECORD`] what it has written: so
//! `punnet uninstall` takes away exactly that. Nothing here starts or stops anything; the verb does (src/verbs/install.rs).

mod apply;
mod services;

use std::path::{Path, PathBuf};

pub use apply::{apply, remove, undo};
pub use services::Service;

/// What was written, a line each: `file PATH`, `link PATH`, `folder PATH`, `lines PATH`. Paths are as the installed system sees them.
pub const RECORD: &str = "/etc/punnet/installed";
/// App files (apps/), started at boot without any controller.
pub const APPS: &str = "/etc/punnet/apps";
/// Where the agent keeps its enrolment file; the services look there.
pub const ENROLMENT: &str = "/var/lib/punnet/agent/enrolment.json";
/// Where a copy of the program goes when it does not lie in a system folder.
pub const PROGRAM: &str = "/usr/local/bin/punnet";
/// Around our lines in a file that is not ours.
pub const LINES_BEGIN: &str = "# punnet install: begin";
/// See [`LINES_BEGIN`].
pub const LINES_END: &str = "# punnet install: end";

/// Who starts services there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Init {
    /// systemd.
    Systemd,
    /// OpenRC (Alpine, Gentoo).
    OpenRc,
    /// /etc/inittab of sysvinit.
    Inittab,
    /// /etc/inittab of BusyBox, which has no run levels.
    BusyboxInittab,
}

impl Init {
    /// What is installed below `root`: an image that is being built does not run.
    pub fn detect(root: &Path) -> Option<Self> {
        let has =
            |path: &str| std::fs::symlink_metadata(inside(root, path)).is_ok_and(|found| !found.is_dir());
        if has("/lib/systemd/systemd") || has("/usr/lib/systemd/systemd") {
            Some(Self::Systemd)
        } else if has("/sbin/openrc-run") || has("/usr/sbin/openrc-run") {
            Some(Self::OpenRc)
        } else {
            Self::by_inittab(root)
        }
    }

    /// sysvinit's, or BusyBox's when a line of it has no run levels.
    pub fn by_inittab(root: &Path) -> Option<Self> {
        let text = std::fs::read_to_string(inside(root, "/etc/inittab")).ok()?;
        let busybox = text.lines().any(|line| line.trim_start().starts_with("::"));
        Some(if busybox {
            Self::BusyboxInittab
        } else {
            Self::Inittab
        })
    }
}

/// One step. Paths are as the installed system sees them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// A folder that may be there already.
    Folder(PathBuf),
    /// A file with this content and these permissions.
    File(PathBuf, Vec<u8>, u32),
    /// A copy of a file of the running system.
    Copy(PathBuf, PathBuf),
    /// A symbolic link, and where it leads.
    Link(PathBuf, PathBuf),
    /// Our lines in a file of somebody else's; none takes them out.
    Lines(PathBuf, String),
}

/// What to install.
pub struct Plan {
    /// Who starts services.
    pub init: Init,
    /// The program, as the installed system sees it.
    pub program: PathBuf,
    /// Copy this file there.
    pub copy: Option<PathBuf>,
    /// The board belongs to a fleet: without, an inittab would start the agent in vain for ever.
    pub enrolled: bool,
    /// A package has brought the services; they are left to it.
    pub packaged: bool,
}

impl Plan {
    /// In this order.
    pub fn steps(&self) -> Vec<Step> {
        let mut steps = vec![Step::Folder(APPS.into())];
        if let Some(source) = &self.copy {
            steps.push(Step::Copy(source.clone(), self.program.clone()));
        }
        if self.packaged {
            return steps;
        }
        for service in Service::ALL {
            let name = service.name();
            match self.init {
                Init::Systemd => {
                    let unit = format!("/etc/systemd/system/{name}.service");
                    let wanted = format!("/etc/systemd/system/multi-user.target.wants/{name}.service");
                    steps.push(Step::File(
                        unit.clone().into(),
                        service.unit(&self.program).into(),
                        0o644,
                    ));
                    steps.push(Step::Link(wanted.into(), unit.into()));
                }
                Init::OpenRc => {
                    let script = format!("/etc/init.d/{name}");
                    steps.push(Step::File(
                        script.clone().into(),
                        service.openrc(&self.program).into(),
                        0o755,
                    ));
                    steps.push(Step::Link(
                        format!("/etc/runlevels/default/{name}").into(),
                        script.into(),
                    ));
                }
                Init::Inittab | Init::BusyboxInittab => {}
            }
        }
        if matches!(self.init, Init::Inittab | Init::BusyboxInittab) {
            let busybox = self.init == Init::BusyboxInittab;
            let lines = Service::ALL
                .into_iter()
                .filter(|service| self.enrolled || *service != Service::Agent)
                .map(|service| service.inittab(&self.program, busybox))
                .collect();
            steps.push(Step::Lines("/etc/inittab".into(), lines));
        }
        steps
    }
}

/// A path of the installed system, below `root`.
pub fn inside(root: &Path, path: impl AsRef<Path>) -> PathBuf {
    let path = path.as_ref();
    root.join(path.strip_prefix("/").unwrap_or(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(init: Init) -> Plan {
        Plan {
            init,
            program: "/usr/bin/punnet".into(),
            copy: None,
            enrolled: false,
            packaged: false,
        }
    }

    #[test]
    fn an_inittab_has_the_agent_only_on_a_board_of_a_fleet() {
        let lines = |enrolled| {
            let steps = Plan {
                enrolled,
                ..plan(Init::BusyboxInittab)
            }
            .steps();
            match steps.last() {
                Some(Step::Lines(_, lines)) => lines.clone(),
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(lines(false), "::respawn:/usr/bin/punnet apps serve\n");
        assert_eq!(
            lines(true),
            "::respawn:/usr/bin/punnet agent\n::respawn:/usr/bin/punnet apps serve\n"
        );
    }

    #[test]
    fn the_services_of_a_package_are_left_to_it() {
        let packaged = Plan {
            packaged: true,
            ..plan(Init::Systemd)
        };
        assert_eq!(packaged.steps(), [Step::Folder(APPS.into())]);
    }

    #[test]
    fn what_starts_services_is_seen_in_an_image_that_does_not_run() {
        for (file, text, want) in [
            ("lib/systemd/systemd", "", Some(Init::Systemd)),
            ("sbin/openrc-run", "", Some(Init::OpenRc)),
            ("etc/inittab", "id:2:initdefault:\n", Some(Init::Inittab)),
            ("etc/inittab", "::sysinit:/etc/rc\n", Some(Init::BusyboxInittab)),
            ("etc/other", "", None),
        ] {
            let root = tempfile::tempdir().unwrap();
            let path = root.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
            assert_eq!(Init::detect(root.path()), want, "{file} {text}");
        }
    }
}
