//! `--help`, `--version` and shell completion, all out of the table of verbs.

use std::process::ExitCode;

use crate::verbs::{Flag, VERBS, Verb};

/// `punnet --version`.
pub fn print_version() -> ExitCode {
    println!("punnet version {}", env!("CARGO_PKG_VERSION"));
    ExitCode::SUCCESS
}

/// `punnet --help`.
pub fn print_overview() -> ExitCode {
    println!(
        "Usage: punnet [--data-root DIR] [--run-root DIR] VERB [ARGUMENTS]\n\n\
         Runs containers on small boards: no daemon, hardly any memory, and an agent for a fleet.\n\nVerbs:"
    );
    for verb in VERBS {
        println!("  {:<11} {}", verb.name, verb.summary);
    }
    println!(
        "  oci         The OCI runtime command line for container engines (also as a link named punnet-oci)"
    );
    println!(
        "\nOptions:\n  \
         --data-root DIR  Images and containers [PUNNET_DATA_ROOT; /var/lib/punnet, for users $XDG_DATA_HOME/punnet]\n  \
         --run-root DIR   What runs, in RAM [PUNNET_RUN_ROOT; /run/punnet, for users $XDG_RUNTIME_DIR/punnet]\n  \
         -h, --help       This text; `punnet VERB --help` for one verb\n  \
         -V, --version    The version\n\n\
         Exit status: 0 done; 1 failed, the reason is on stderr; 2 the command line makes no sense.\n\
         run, start, exec: the process's own; 125 Punnet failed; 126 not executable; 127 not found; 128+N ended by signal N."
    );
    ExitCode::SUCCESS
}

/// `punnet VERB --help`.
pub fn print_verb(verb: &Verb) -> ExitCode {
    println!(
        "Usage: punnet {} {}\n\n{}.",
        verb.name, verb.synopsis, verb.summary
    );
    if !verb.details.is_empty() {
        println!("\n{}", verb.details);
    }
    println!("\nOptions:");
    for flag in verb.flags {
        println!("  {:<28} {}", flag_column(flag), flag.help);
    }
    println!("  -h, --help                   This text");
    ExitCode::SUCCESS
}

fn flag_column(flag: &Flag) -> String {
    let short = flag.short.map_or("    ".into(), |short| format!("-{short}, "));
    let value = if flag.value.is_empty() {
        String::new()
    } else {
        format!(" {}", flag.value)
    };
    format!("{short}--{}{value}", flag.long)
}

/// A completion script: verbs first, then the verb's own options, files everywhere else.
pub fn completion(shell: &str) -> Option<String> {
    let verbs = || {
        VERBS
            .iter()
            .map(|verb| verb.name)
            .chain(["oci"])
            .collect::<Vec<_>>()
            .join(" ")
    };
    let flags = |verb: &Verb| {
        verb.flags
            .iter()
            .map(|flag| format!("--{}", flag.long))
            .chain(["--help".into()])
            .collect::<Vec<_>>()
            .join(" ")
    };
    match shell {
        "bash" | "zsh" => {
            let mut script = String::new();
            if shell == "zsh" {
                script += "autoload -U +X bashcompinit && bashcompinit\n";
            }
            script +=
                "_punnet() {\n  local current=${COMP_WORDS[COMP_CWORD]}\n  case \"${COMP_WORDS[1]}\" in\n";
            for verb in VERBS {
                script += &format!(
                    "    {}) COMPREPLY=($(compgen -W \"{}\" -- \"$current\")) ;;\n",
                    verb.name,
                    flags(verb)
                );
            }
            script += &format!(
                "    *) COMPREPLY=($(compgen -W \"{}\" -- \"$current\")) ;;\n",
                verbs()
            );
            script += "  esac\n}\ncomplete -o default -F _punnet punnet\n";
            Some(script)
        }
        "fish" => {
            let mut script = String::new();
            for verb in VERBS {
                script += &format!(
                    "complete -c punnet -n __fish_use_subcommand -a {} -d '{}'\n",
                    verb.name,
                    verb.summary.replace('\'', "\\'")
                );
                for flag in verb.flags {
                    script += &format!(
                        "complete -c punnet -n '__fish_seen_subcommand_from {}' -l {} -d '{}'\n",
                        verb.name,
                        flag.long,
                        flag.help.replace('\'', "\\'")
                    );
                }
            }
            Some(script)
        }
        _ => None,
    }
}
