//! The two services, in the words of each init. `cargo xtask dist` packages the same texts.

use std::path::Path;

use super::{APPS, ENROLMENT};

/// A service of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// `punnet agent`: what a fleet wants to run here.
    Agent,
    /// `punnet apps serve`: what this board runs by its own files.
    Apps,
}

/// What both units say, each line with its reason.
const UNIT_SHARED: &str = "\
# A board that nobody looks at is never given up.
Restart=always
RestartSec=1
# It speaks twice in this time; one that hangs is killed and started again, its containers go on.
WatchdogSec=60
# Cgroups below this unit are not systemd's, and every controller stays switched on for the limits of containers.
Delegate=yes
# Only the process itself is ended: containers are stopped in order or go on.
KillMode=process
# A container that the kernel kills at its own limit of memory is not this service's failure.
OOMPolicy=continue
# Containers have limits of their own; all of them together are not to share one of systemd's.
TasksMax=infinity
# What no container of this service may have, nor anything that breaks out of one: kernel modules, raw hardware, rebooting, the clock, the kernel's log.
CapabilityBoundingSet=~CAP_SYS_MODULE CAP_SYS_RAWIO CAP_SYS_BOOT CAP_SYS_TIME CAP_SYSLOG CAP_MAC_ADMIN CAP_MAC_OVERRIDE CAP_AUDIT_CONTROL CAP_AUDIT_READ CAP_WAKE_ALARM CAP_BLOCK_SUSPEND
# Not here, on purpose: ProtectSystem, ProtectHome, PrivateTmp and the like show another file system, and volumes would be taken from that;
# SystemCallFilter, NoNewPrivileges, RestrictNamespaces, MemoryDenyWriteExecute and OOMScoreAdjust are inherited by containers, which have
# filters of their own.
";

impl Service {
    /// Both, in the order in which they are written.
    pub const ALL: [Self; 2] = [Self::Agent, Self::Apps];

    /// As `systemctl` knows it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Agent => "punnet-agent",
            Self::Apps => "punnet-apps",
        }
    }

    const fn description(self) -> &'static str {
        match self {
            Self::Agent => "Punnet: containers of this board's fleet",
            Self::Apps => "Punnet: containers of /etc/punnet/apps",
        }
    }

    const fn words(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Apps => "apps serve",
        }
    }

    /// systemd.service(5)
    pub fn unit(self, program: &Path) -> String {
        let (program, words) = (program.display(), self.words());
        let (condition, own) = match self {
            Self::Agent => (format!("ConditionPathExists={ENROLMENT}"), String::new()),
            Self::Apps => (
                format!("ConditionDirectoryNotEmpty={APPS}"),
                format!(
                    "ExecReload={program} apps reload\n# Containers are stopped in order, each in its own time.\nTimeoutStopSec=180\n"
                ),
            ),
        };
        format!(
            "# Written by `punnet install`. Change it with `systemctl edit {name}`.\n\
             [Unit]\nDescription={description}\nDocumentation=man:punnet(1)\n\
             # Containers do not wait for the network: what they need is on the disk.\n\
             {condition}\nStartLimitIntervalSec=0\n\n\
             [Service]\nType=notify\nExecStart={program} {words}\n{own}{UNIT_SHARED}\n\
             [Install]\nWantedBy=multi-user.target\n",
            name = self.name(),
            description = self.description(),
        )
    }

    /// openrc-run(8)
    pub fn openrc(self, program: &Path) -> String {
        let (program, words) = (program.display(), self.words());
        let own = match self {
            Self::Agent => format!(
                "start_pre() {{\n\t[ -e {ENROLMENT} ] || {{ eerror \"not enrolled: punnet install --enroll FILE\"; return 1; }}\n}}\n"
            ),
            Self::Apps => "# Containers are stopped in order, each in its own time.\nretry=TERM/180/KILL/5\n\
                 extra_started_commands=reload\nreload() {\n\t\"$command\" apps reload\n}\n"
                .to_owned(),
        };
        format!(
            "#!/sbin/openrc-run\n# Written by `punnet install`.\n# shellcheck shell=sh disable=SC2034\n\
             description=\"{description}\"\ncommand={program}\ncommand_args=\"{words}\"\n\
             # Started again whenever it ends; its containers go on meanwhile.\n\
             supervisor=supervise-daemon\nrespawn_delay=1\nrespawn_max=0\n\
             depend() {{\n\tneed localmount\n\tafter bootmisc modules\n}}\n{own}",
            description = self.description(),
        )
    }

    /// inittab(5): a line.
    pub fn inittab(self, program: &Path, busybox: bool) -> String {
        let id = match (self, busybox) {
            (_, true) => ":",
            (Self::Agent, false) => "pna:2345",
            (Self::Apps, false) => "pnb:2345",
        };
        format!("{id}:respawn:{} {}\n", program.display(), self.words())
    }
}
