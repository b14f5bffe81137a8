//! `--help`.

const MAIN: &str = "\
punnet-oci runs containers from OCI bundles.

Usage: punnet-oci [--root DIR] [--log FILE] [--log-format text|json] [--debug] COMMAND [OPTIONS] ID

Commands:
  create   set a container up; its program waits for `start`
  start    let a created container run its program
  run      create and start; stays until the program ends
  state    print a container's state as JSON
  kill     send a signal to a container
  delete   forget a stopped container and what was made for it
  exec     run one more process in a container
  list     list containers
  ps       list the processes of a container
  events   print what a container uses, and when it runs out of memory
  pause    suspend the processes of a container
  resume   let them go on
  update   change a container's limits
  spec     write an example config.json
  features print what this runtime understands, as JSON

Options:
  --root DIR          where states are kept (default /run/punnet/oci; others: $XDG_RUNTIME_DIR/punnet/oci)
  --log FILE          write errors here too
  --log-format FORM   text or json
  --debug             log what is done, too
  --systemd-cgroup    not supported: configure the engine for the cgroupfs driver
  -h, --help          this, or a command's own with `COMMAND --help`
  -v, --version       version of this program and of the specification

`run` and `exec` end with the program's status, 128 and the signal that ended it, 125 for errors of the runtime, 126 for a program that
cannot be executed, 127 for one that is not there. Other commands end with 0 or 1.";

const CREATE: &str = "\
Usage: punnet-oci create [OPTIONS] ID
       punnet-oci run [OPTIONS] ID

  -b, --bundle DIR        directory with config.json (default: the current one)
  --console-socket SOCK   send the terminal's master to this Unix socket
  --pid-file FILE         write the process id here
  --preserve-fds N        pass N more descriptors, from 3 up
  --no-new-keyring        keep the caller's session keyring
  --no-pivot              not supported: without pivot_root the host's files stay reachable
  -d, --detach            (run) return once the program runs
  --keep                  (run) leave the container for `delete` when it has ended";

const EXEC: &str = "\
Usage: punnet-oci exec [OPTIONS] ID COMMAND [ARGS]
       punnet-oci exec [OPTIONS] --process FILE ID

  -p, --process FILE      a `process` object as in config.json
  -e, --env NAME=VALUE    add to the environment (repeatable)
  --cwd DIR               working directory
  -u, --user UID[:GID]    run as
  -g, --additional-gids N add a group (repeatable)
  -c, --cap CAP           add a capability (repeatable)
  --no-new-privs          set no_new_privs
  --process-label LABEL   SELinux label
  --apparmor PROFILE      AppArmor profile
  --cgroup PATH           put it in a cgroup below the container's own, that exists
  --ignore-paused         also in a paused container, where it waits for `resume`
  -t, --tty               give it a terminal
  -d, --detach            return once it runs
  --console-socket SOCK   send the terminal's master to this Unix socket
  --pid-file FILE         write the process id here
  --preserve-fds N        pass N more descriptors, from 3 up";

const UPDATE: &str = "\
Usage: punnet-oci update [OPTIONS] ID

  -r, --resources FILE        a `resources` object as in config.json, - for standard input; other options are then ignored
  --memory BYTES              memory; 64m is 67108864, -1 is no limit
  --memory-swap BYTES         memory and swap together
  --memory-reservation BYTES  memory that is taken back last
  --cpu-share N               weight beside others, 2 to 262144
  --cpu-quota US              processor time in a period; -1 is no limit
  --cpu-period US             length of a period
  --cpu-burst US              time saved up for later periods
  --cpu-idle N                1 runs it only when nothing else does
  --cpuset-cpus LIST          processors, as 0-2,7
  --cpuset-mems LIST          memory nodes
  --pids-limit N              tasks; 0 or less is no limit
  --blkio-weight N            weight of disk access, 10 to 1000

What is not given stays as it is.";

/// The text for a verb, or the overview.
pub(super) fn text(verb: &str) -> &'static str {
    match verb {
        "create" | "run" => CREATE,
        "exec" => EXEC,
        "start" => "Usage: punnet-oci start ID",
        "state" => "Usage: punnet-oci state ID",
        "kill" => {
            "Usage: punnet-oci kill [--all] ID [SIGNAL]\n\nSIGNAL is a name or a number (default TERM)."
        }
        "delete" => {
            "Usage: punnet-oci delete [--force] ID\n\n  -f, --force   kill it first; succeeds when there is none"
        }
        "ps" => {
            "Usage: punnet-oci ps [--format table|json] ID [PS-OPTIONS]\n\nThe table is made by ps(1) of this machine, with -ef unless \
             options for it follow the id."
        }
        "events" => {
            "Usage: punnet-oci events [--interval TIME] ID\n       punnet-oci events --stats ID\n\n  --interval TIME   between two \
             measurements (default 5s)\n  --stats           measure once"
        }
        "pause" => "Usage: punnet-oci pause ID",
        "resume" => "Usage: punnet-oci resume ID",
        "update" => UPDATE,
        "features" => "Usage: punnet-oci features",
        "list" => "Usage: punnet-oci list [--format table|json] [--quiet]",
        "spec" => "Usage: punnet-oci spec [--bundle DIR] [--rootless]",
        _ => MAIN,
    }
}

#[cfg(test)]
mod tests {
    use super::{MAIN, text};

    #[test]
    fn every_command_of_the_overview_has_a_text_of_its_own() {
        let (_, rest) = MAIN.split_once("Commands:\n").unwrap();
        let (commands, _) = rest.split_once("\n\n").unwrap();
        for line in commands.lines() {
            let verb = line.split_whitespace().next().unwrap();
            let text = text(verb);
            assert!(
                text.contains(&format!("punnet-oci {verb} ")) || text.ends_with(verb),
                "{verb}: {text}"
            );
            assert_ne!(text, MAIN, "{verb}");
        }
    }
}
