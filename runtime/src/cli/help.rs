//! `--help`.

const MAIN: &str = "\
punnet-oci runs containers from OCI bundles.

Usage: punnet-oci [--root DIR] [--log FILE] [--log-format text|json] COMMAND [OPTIONS] ID

Commands:
  create   set a container up; its program waits for `start`
  start    let a created container run its program
  run      create and start; stays until the program ends
  state    print a container's state as JSON
  kill     send a signal to a container
  delete   forget a stopped container and what was made for it
  exec     run one more process in a container
  list     list containers
  spec     write an example config.json

Options:
  --root DIR          where states are kept (default /run/punnet/oci; others: $XDG_RUNTIME_DIR/punnet/oci)
  --log FILE          write errors here too
  --log-format FORM   text or json
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
  -d, --detach            (run) return once the program runs";

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
  -t, --tty               give it a terminal
  -d, --detach            return once it runs
  --console-socket SOCK   send the terminal's master to this Unix socket
  --pid-file FILE         write the process id here
  --preserve-fds N        pass N more descriptors, from 3 up";

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
        "list" => "Usage: punnet-oci list [--format table|json] [--quiet]",
        "spec" => "Usage: punnet-oci spec [--bundle DIR] [--rootless]",
        _ => MAIN,
    }
}
