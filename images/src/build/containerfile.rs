//! The Containerfile language: text to instructions, pure. Variables are left as they stand; quotes too, where they will be expanded.
//!
//! <https://docs.docker.com/reference/dockerfile/>

use crate::{Error, Result};

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
    /// As written, lines joined.
    pub text: String,
    /// What it says.
    pub kind: Kind,
}

impl Instruction {
    /// An error of this instruction.
    pub fn error(&self, why: impl Into<String>) -> Error {
        error(self.line, self.column, why)
    }
}

/// What an instruction says.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are the language's")]
pub enum Kind {
    From { image: String },
    Arg { name: String, default: Option<String> },
    Env(Vec<(String, String)>),
    Label(Vec<(String, String)>),
    Copy(Copy),
    Entrypoint(Command),
    Cmd(Command),
    Workdir(String),
    User(String),
    Expose(Vec<String>),
    Volume(Vec<String>),
    StopSignal(String),
}

/// COPY or ADD.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copy {
    /// It was ADD.
    pub is_add: bool,
    /// Owner and group.
    pub owner: (u32, u32),
    /// Permission bits for everything copied.
    pub mode: Option<u32>,
    /// Paths in the context.
    pub sources: Vec<String>,
    /// Path in the image.
    pub target: String,
}

/// A command in one of its two forms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// A JSON array.
    Exec(Vec<String>),
    /// A line for `/bin/sh -c`.
    Shell(String),
}

fn error(line: u32, column: u32, why: impl Into<String>) -> Error {
    Error::Containerfile {
        file: "Containerfile".into(),
        line,
        column,
        why: why.into(),
    }
}

/// Lines joined to one instruction, with the way back from an offset to line and column.
#[derive(Default)]
struct Joined {
    text: String,
    /// Offset in `text` where a piece begins, its line, and the column it begins at.
    pieces: Vec<(usize, u32, u32)>,
}

impl Joined {
    fn place(&self, offset: usize) -> (u32, u32) {
        let piece = self.pieces.iter().rev().find(|(begin, ..)| *begin <= offset);
        let (begin, line, column) = piece.copied().unwrap_or((0, 1, 1));
        let passed = self
            .text
            .get(begin..offset)
            .map_or(0, |text| text.chars().count());
        (line, column + u32::try_from(passed).unwrap_or(u32::MAX))
    }

    fn error(&self, offset: usize, why: impl Into<String>) -> Error {
        let (line, column) = self.place(offset);
        error(line, column, why)
    }
}

/// Parses a Containerfile. Errors carry line and column.
pub fn parse(text: &str) -> Result<Containerfile> {
    let escape = escape_directive(text)?;
    let mut instructions = Vec::new();
    for joined in join(text, escape) {
        if instructions.len() == INSTRUCTIONS_MAX {
            return Err(joined.error(0, format!("more than {INSTRUCTIONS_MAX} instructions")));
        }
        let (line, column) = joined.place(0);
        let kind = instruction(&joined, escape)?;
        instructions.push(Instruction {
            line,
            column,
            text: joined.text,
            kind,
        });
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

/// Drops comments and empty lines, joins lines that end with the escape character.
fn join(text: &str, escape: char) -> Vec<Joined> {
    let mut all = Vec::new();
    let mut current: Option<Joined> = None;
    for (number, line) in (1..).zip(text.lines()) {
        let trimmed = line.trim();
        // Also between continued lines.
        if trimmed.starts_with('#') || trimmed.is_empty() {
            continue;
        }
        let mut joined = current.take().unwrap_or_default();
        let first = joined.pieces.is_empty();
        let content = if first { line.trim_start() } else { line };
        let indent = line.chars().count() - content.chars().count();
        joined.pieces.push((
            joined.text.len(),
            number,
            u32::try_from(indent + 1).unwrap_or(u32::MAX),
        ));
        match content.trim_end().strip_suffix(escape) {
            Some(more) => {
                joined.text += more;
                current = Some(joined);
            }
            None => {
                joined.text += content.trim_end();
                all.push(joined);
            }
        }
    }
    all.extend(current);
    all
}

fn instruction(joined: &Joined, escape: char) -> Result<Kind> {
    let text = joined.text.as_str();
    let end = text.find(char::is_whitespace).unwrap_or(text.len());
    let keyword = text[..end].to_ascii_uppercase();
    let rest_at = end + text[end..].len() - text[end..].trim_start().len();
    let rest = &text[rest_at..];
    let at = |offset| rest_at + offset;
    let words = split(rest, escape);
    let unsupported = |what: &str| Err(joined.error(0, format!("{keyword} is not supported: {what}")));
    match keyword.as_str() {
        "RUN" => {
            return unsupported(
                "images are built FROM scratch without running anything; build the program first and COPY it",
            );
        }
        "ONBUILD" | "HEALTHCHECK" | "SHELL" | "MAINTAINER" => {
            return unsupported("leave it out (LABEL takes what MAINTAINER said)");
        }
        "FROM" | "ARG" | "ENV" | "LABEL" | "COPY" | "ADD" | "ENTRYPOINT" | "CMD" | "WORKDIR" | "USER"
        | "EXPOSE" | "VOLUME" | "STOPSIGNAL" => {}
        _ => return Err(joined.error(0, format!("{:?} is no instruction", &text[..end]))),
    }
    if rest.is_empty() {
        return Err(joined.error(end, format!("{keyword} needs an argument")));
    }
    let one = || match words.as_slice() {
        [(_, word)] => Ok((*word).to_owned()),
        [_, (offset, _), ..] => Err(joined.error(at(*offset), format!("{keyword} takes one argument"))),
        [] => Err(joined.error(end, format!("{keyword} needs an argument"))),
    };
    match keyword.as_str() {
        "FROM" => from(joined, rest_at, &words),
        "ARG" => argument(&one()?).ok_or_else(|| joined.error(rest_at, "ARG takes NAME or NAME=DEFAULT")),
        "ENV" => Ok(Kind::Env(pairs(joined, rest_at, rest, &words)?)),
        "LABEL" => Ok(Kind::Label(pairs(joined, rest_at, rest, &words)?)),
        "COPY" | "ADD" => copy(joined, rest_at, rest, &words, keyword == "ADD").map(Kind::Copy),
        "ENTRYPOINT" => Ok(Kind::Entrypoint(command(joined, rest_at, rest)?)),
        "CMD" => Ok(Kind::Cmd(command(joined, rest_at, rest)?)),
        // A path may have blanks: the rest of the line is one argument.
        "WORKDIR" => Ok(Kind::Workdir(rest.trim_end().to_owned())),
        "USER" => Ok(Kind::User(one()?)),
        "STOPSIGNAL" => Ok(Kind::StopSignal(one()?)),
        "EXPOSE" => Ok(Kind::Expose(
            words.iter().map(|(_, word)| (*word).to_owned()).collect(),
        )),
        "VOLUME" => match command(joined, rest_at, rest)? {
            Command::Exec(paths) => Ok(Kind::Volume(paths)),
            Command::Shell(_) => Ok(Kind::Volume(
                words.iter().map(|(_, word)| (*word).to_owned()).collect(),
            )),
        },
        _ => unreachable!("the keywords were checked above"),
    }
}

/// Words with their offsets; quotes and escapes keep blanks together and stay in the word.
fn split(text: &str, escape: char) -> Vec<(usize, &str)> {
    let mut words = Vec::new();
    let mut begin = None;
    let mut quote = None;
    let mut escaped = false;
    for (offset, character) in text.char_indices() {
        if character.is_whitespace() && quote.is_none() && !escaped {
            words.extend(begin.take().map(|begin| (begin, &text[begin..offset])));
            continue;
        }
        begin.get_or_insert(offset);
        if escaped {
            escaped = false;
        } else if character == escape && quote != Some('\'') {
            escaped = true;
        } else if quote == Some(character) {
            quote = None;
        } else if quote.is_none() && matches!(character, '"' | '\'') {
            quote = Some(character);
        }
    }
    words.extend(begin.map(|begin| (begin, &text[begin..])));
    words
}

fn from(joined: &Joined, rest_at: usize, words: &[(usize, &str)]) -> Result<Kind> {
    match words {
        [(offset, flag), ..] if flag.starts_with("--") => Err(joined.error(
            rest_at + offset,
            format!("{flag} is not supported here: punnet build --platform says what the image is for"),
        )),
        [(_, image)] => Ok(Kind::From {
            image: (*image).to_owned(),
        }),
        [(_, image), (_, word), (_, _)] if word.eq_ignore_ascii_case("as") => Ok(Kind::From {
            image: (*image).to_owned(),
        }),
        _ => Err(joined.error(rest_at, "FROM takes IMAGE or IMAGE AS NAME")),
    }
}

fn argument(word: &str) -> Option<Kind> {
    let (name, default) = word
        .split_once('=')
        .map_or((word, None), |(name, default)| (name, Some(default.to_owned())));
    is_name(name).then(|| Kind::Arg {
        name: name.to_owned(),
        default,
    })
}

fn is_name(text: &str) -> bool {
    let first = text
        .bytes()
        .next()
        .is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
    first && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// `KEY=VALUE ...`, or the old form `KEY the rest of the line`.
fn pairs(
    joined: &Joined,
    rest_at: usize,
    rest: &str,
    words: &[(usize, &str)],
) -> Result<Vec<(String, String)>> {
    let (_, first) = words.first().copied().unwrap_or_default();
    if !first.contains('=') {
        let value = rest[first.len()..].trim();
        if value.is_empty() {
            return Err(joined.error(rest_at, format!("{first:?} has no value: NAME=VALUE")));
        }
        return Ok(vec![(first.to_owned(), value.to_owned())]);
    }
    let pair = |(offset, word): &(usize, &str)| match word.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(joined.error(rest_at + offset, format!("{word:?} is not NAME=VALUE"))),
    };
    words.iter().map(pair).collect()
}

fn copy(joined: &Joined, rest_at: usize, rest: &str, words: &[(usize, &str)], is_add: bool) -> Result<Copy> {
    let mut copy = Copy {
        is_add,
        owner: (0, 0),
        mode: None,
        sources: Vec::new(),
        target: String::new(),
    };
    let flags = words
        .iter()
        .take_while(|(_, word)| word.starts_with("--"))
        .count();
    for (offset, flag) in &words[..flags] {
        let refused = |why: &str| joined.error(rest_at + offset, format!("{flag}: {why}"));
        let (name, value) = flag.split_once('=').unwrap_or((flag, ""));
        match name {
            "--chown" => {
                let ids = owner(value).ok_or_else(|| {
                    refused("an image FROM scratch has no names of users yet: write UID or UID:GID")
                })?;
                copy.owner = ids;
            }
            "--chmod" => {
                let mode = u32::from_str_radix(value, 8).ok().filter(|mode| *mode <= 0o7777);
                copy.mode = Some(mode.ok_or_else(|| refused("permissions are an octal number, as 755"))?);
            }
            "--from" => return Err(refused("other stages and images are not supported")),
            _ => return Err(refused("this option is not supported")),
        }
    }
    let begin = words.get(flags).map_or(rest.len(), |(offset, _)| *offset);
    let as_words = || {
        words[flags..]
            .iter()
            .map(|(_, word)| (*word).to_owned())
            .collect()
    };
    let mut paths = match is_array(&rest[begin..]) {
        true => match command(joined, rest_at + begin, &rest[begin..])? {
            Command::Exec(paths) => paths,
            Command::Shell(_) => as_words(),
        },
        // A pattern such as `[ab].txt` begins with a bracket too.
        false => as_words(),
    };
    if let Some((offset, word)) = words[flags..].iter().find(|(_, word)| word.starts_with("<<")) {
        return Err(joined.error(
            rest_at + offset,
            format!("{word}: here-documents are not supported; put the text into a file"),
        ));
    }
    copy.target = paths.pop().unwrap_or_default();
    copy.sources = paths;
    if copy.sources.is_empty() {
        return Err(joined.error(rest_at + begin, "needs at least a source and a destination"));
    }
    if let Some(url) = copy
        .sources
        .iter()
        .find(|source| is_add && source.contains("://"))
    {
        return Err(joined.error(
            rest_at + begin,
            format!("ADD {url}: nothing is fetched while building; fetch it first and COPY it"),
        ));
    }
    Ok(copy)
}

fn owner(text: &str) -> Option<(u32, u32)> {
    let (uid, gid) = text.split_once(':').unwrap_or((text, text));
    Some((uid.parse().ok()?, gid.parse().ok()?))
}

/// Whether a list of paths is written as a JSON array of strings.
fn is_array(text: &str) -> bool {
    let inside = text.trim_start().strip_prefix('[').map(str::trim_start);
    inside.is_some_and(|inside| inside.starts_with('"'))
}

/// A JSON array when it begins like one; one that is broken is an error rather than a line for a shell.
fn command(joined: &Joined, at: usize, rest: &str) -> Result<Command> {
    if !rest.trim_start().starts_with('[') {
        return Ok(Command::Shell(rest.trim().to_owned()));
    }
    serde_json::from_str(rest).map(Command::Exec).map_err(|error| {
        let column = error.column().saturating_sub(1).min(rest.len());
        let why = error.to_string();
        let why = why.split(" at line ").next().unwrap_or_default().to_owned();
        joined.error(
            at + floor_boundary(rest, column),
            format!("this is no JSON array of strings: {why}"),
        )
    })
}

fn floor_boundary(text: &str, mut offset: usize) -> usize {
    while !text.is_char_boundary(offset) {
        offset -= 1;
    }
    offset
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(text: &str) -> Vec<Kind> {
        parse(text)
            .unwrap()
            .instructions
            .into_iter()
            .map(|instruction| instruction.kind)
            .collect()
    }

    #[test]
    fn comments_blank_and_continued_lines_are_joined() {
        let text = "# a comment\nFROM scratch\n\nENV A=1 \\\n  # between\n  B=\"two words\"\n";
        let pairs = vec![
            ("A".to_owned(), "1".to_owned()),
            ("B".to_owned(), "\"two words\"".to_owned()),
        ];
        assert_eq!(
            kinds(text),
            [
                Kind::From {
                    image: "scratch".into()
                },
                Kind::Env(pairs)
            ]
        );
    }

    #[test]
    fn commands_have_two_forms() {
        let exec = Command::Exec(vec!["/a".into(), "b c".into()]);
        assert_eq!(
            kinds("CMD [\"/a\", \"b c\"]\nCMD echo \"hi\" $X"),
            [
                Kind::Cmd(exec),
                Kind::Cmd(Command::Shell("echo \"hi\" $X".into()))
            ]
        );
    }

    #[test]
    fn copy_takes_owner_and_mode() {
        let copy = Copy {
            is_add: false,
            owner: (7, 8),
            mode: Some(0o755),
            sources: vec!["a".into(), "b".into()],
            target: "/c/".into(),
        };
        assert_eq!(
            kinds("COPY --chown=7:8 --chmod=755 a b /c/"),
            [Kind::Copy(copy.clone())]
        );
        assert_eq!(
            kinds("copy --chown=7:8 --chmod=0755 [\"a\", \"b\", \"/c/\"]"),
            [Kind::Copy(copy)]
        );
    }

    #[test]
    fn the_escape_character_can_be_chosen() {
        let file = parse("# escape=`\nFROM scratch\nENV A=1 `\n B=2\n").unwrap();
        assert_eq!((file.escape, file.instructions.len()), ('`', 2));
    }

    #[test]
    fn errors_say_where() {
        let cases = [
            ("FROM scratch\nFORM x", 2, 1, "\"FORM\" is no instruction"),
            ("FROM scratch\n  RUN make", 2, 3, "RUN is not supported"),
            ("FROM scratch\nCOPY --from=x a b", 2, 6, "--from"),
            (
                "FROM scratch\nCOPY a \\\n  --chmod=9 b\nCOPY --chmod=9 a b",
                4,
                6,
                "octal",
            ),
            ("FROM scratch\nCOPY a", 2, 6, "a source and a destination"),
            ("FROM scratch\nCMD [\"a\", 3]", 2, 11, "JSON"),
            ("FROM scratch\nENV", 2, 4, "needs an argument"),
            ("FROM scratch\nENV A=1 \\\n   =2", 3, 4, "NAME=VALUE"),
            ("FROM scratch\nUSER a b", 2, 8, "one argument"),
            ("FROM --platform=x scratch", 1, 6, "--platform"),
            (
                "FROM scratch\nADD https://x.example/y /",
                2,
                5,
                "nothing is fetched",
            ),
            ("FROM scratch\nCOPY <<EOF /x", 2, 6, "here-documents"),
            ("ARG 1x", 1, 5, "ARG takes"),
            ("# escape=x", 1, 1, "escape"),
        ];
        for (text, want_line, want_column, want) in cases {
            match parse(text) {
                Err(Error::Containerfile {
                    line, column, why, ..
                }) => {
                    assert_eq!((line, column), (want_line, want_column), "{text:?}: {why}");
                    assert!(why.contains(want), "{text:?}: {why}");
                }
                other => panic!("{text:?} gave {other:?}"),
            }
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "(FROM|COPY|ENV|CMD|ARG|#|\\\\|\\[|\"|'|=|\\$|\n| |é|x){0,60}") {
            drop(parse(&text));
        }
    }
}
