//! The Containerfile language: text to instructions, pure. Variables are left as they stand; quotes too, where they will be expanded.
//!
//! `lines` joins lines and takes here-documents out, `instruction` reads one instruction; errors carry line and column.
//!
//! <https://docs.docker.com/reference/dockerfile/>

mod lines;

mod instruction;

#[cfg(test)]
mod tests;

use crate::oci::Healthcheck;
use crate::{Error, Result};

pub use instruction::mode_of;
pub use lines::Heredoc;

/// Instructions of one file: a page of them is long.
const INSTRUCTIONS_MAX: usize = 1000;

/// A parsed file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Containerfile {
    /// In order.
    pub instructions: Vec<Instruction>,
    /// What stands before a character that is to be taken as it is.
    pub escape: char,
}

/// One instruction and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// From 1.
    pub line: u32,
    /// From 1.
    pub column: u32,
    /// As written, lines joined, with its here-documents.
    pub text: String,
    /// What it says.
    pub kind: Kind,
}

impl Instruction {
    /// An error of this instruction.
    pub fn error(&self, why: impl Into<String>) -> Box<Error> {
        error(self.line, self.column, why)
    }

    /// The first line, for people who wait.
    pub fn first_line(&self) -> &str {
        self.text.lines().next().unwrap_or_default()
    }
}

/// What an instruction says.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are the language's")]
pub enum Kind {
    From(From),
    Arg(Vec<(String, Option<String>)>),
    Env(Vec<(String, String)>),
    Label(Vec<(String, String)>),
    Copy(Copy),
    Run(Run),
    Shell(Vec<String>),
    Entrypoint(Command),
    Cmd(Command),
    /// A test without words is `HEALTHCHECK CMD` in shell form: the second field is its line.
    Healthcheck(Healthcheck, Option<String>),
    Workdir(String),
    User(String),
    Expose(Vec<String>),
    Volume(Vec<String>),
    StopSignal(String),
    Maintainer(String),
}

/// FROM: a stage begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct From {
    /// `scratch`, an earlier stage, or an image.
    pub image: String,
    /// `--platform`.
    pub platform: Option<String>,
    /// `AS name`, in lower case.
    pub name: Option<String>,
}

/// COPY or ADD.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Copy {
    /// It was ADD.
    pub is_add: bool,
    /// `--from`: a stage or an image instead of the context.
    pub from: Option<String>,
    /// `--chown`, as written.
    pub owner: Option<String>,
    /// `--chmod`, as written: permission bits for everything copied.
    pub mode: Option<String>,
    /// Paths in the context.
    pub sources: Vec<String>,
    /// Files whose text stands in the Containerfile.
    pub heredocs: Vec<Heredoc>,
    /// Path in the image.
    pub target: String,
}

/// RUN.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// What to execute.
    pub command: Command,
    /// A here-document that is the whole command: a script. `command` is empty then.
    pub script: Option<Heredoc>,
    /// `--network=none` for this step alone.
    pub is_offline: bool,
}

/// A command in one of its two forms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// A JSON array.
    Exec(Vec<String>),
    /// A line for the shell: that of SHELL, or `/bin/sh -c`.
    Shell(String),
}

fn error(line: u32, column: u32, why: impl Into<String>) -> Box<Error> {
    Error::Containerfile {
        file: "Containerfile".into(),
        line,
        column,
        why: why.into(),
    }
    .into()
}

/// Parses a Containerfile. Errors carry line and column.
pub fn parse(text: &str) -> Result<Containerfile> {
    let escape = escape_directive(text)?;
    let mut instructions: Vec<Instruction> = Vec::new();
    for joined in lines::join(text, escape)? {
        if instructions.len() == INSTRUCTIONS_MAX {
            return Err(joined.error(0, format!("more than {INSTRUCTIONS_MAX} instructions")));
        }
        let (line, column) = joined.place(0);
        let kind = instruction::read(&joined, escape)?;
        let is_first = !instructions
            .iter()
            .any(|earlier| matches!(earlier.kind, Kind::From(_)));
        if is_first && !matches!(kind, Kind::From(_) | Kind::Arg(_)) {
            return Err(joined.error(0, "the first instruction is FROM (only ARG may stand before it)"));
        }
        instructions.push(Instruction {
            line,
            column,
            text: joined.whole(),
            kind,
        });
    }
    if !instructions
        .iter()
        .any(|instruction| matches!(instruction.kind, Kind::From(_)))
    {
        return Err(error(1, 1, "there is no FROM"));
    }
    Ok(Containerfile { instructions, escape })
}

/// `# escape=X` may stand before anything else; `# syntax=` names a frontend, of which there is only this one.
fn escape_directive(text: &str) -> Result<char> {
    for (line, content) in (1..).zip(text.lines()) {
        let Some((name, value)) = content
            .trim()
            .strip_prefix('#')
            .and_then(|directive| directive.split_once('='))
        else {
            break;
        };
        match (name.trim().to_ascii_lowercase().as_str(), value.trim()) {
            ("escape", "\\") => return Ok('\\'),
            ("escape", "`") => return Ok('`'),
            ("escape", other) => {
                return Err(error(
                    line,
                    1,
                    format!("the escape character is \\ or `, not {other:?}"),
                ));
            }
            ("syntax" | "check", _) => {}
            _ => break,
        }
    }
    Ok('\\')
}
