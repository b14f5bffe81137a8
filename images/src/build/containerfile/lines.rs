//! Lines of the file to lines of the language: comments go, continued lines become one, here-documents are taken out of the way.

use super::error;
use crate::{Error, Result};

/// Here-documents of one instruction.
const HEREDOCS_MAX: usize = 16;

/// Text between `<<NAME` and `NAME`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heredoc {
    /// What it ends with; for COPY also the name of the file.
    pub name: String,
    /// Its lines as they stand, each with its end.
    pub raw: String,
    /// Variables mean something in it: the name was not quoted.
    pub expands: bool,
    /// `<<-`: tabs that lines begin with do not belong to it.
    pub strips_tabs: bool,
}

impl Heredoc {
    /// Its text.
    pub fn text(&self) -> String {
        if !self.strips_tabs {
            return self.raw.clone();
        }
        let lines = self.raw.split_inclusive('\n');
        lines.map(|line| line.trim_start_matches('\t')).collect()
    }
}

/// Lines joined to one instruction, with the way back from an offset to line and column.
#[derive(Default)]
pub struct Joined {
    /// One line, without its end.
    pub text: String,
    /// What followed it, in order.
    pub heredocs: Vec<Heredoc>,
    /// Offset in `text` where a piece begins, its line, and the column it begins at.
    pieces: Vec<(usize, u32, u32)>,
}

impl Joined {
    /// Line and column of an offset.
    pub fn place(&self, offset: usize) -> (u32, u32) {
        let piece = self.pieces.iter().rev().find(|(begin, ..)| *begin <= offset);
        let (begin, line, column) = piece.copied().unwrap_or((0, 1, 1));
        let passed = self
            .text
            .get(begin..offset)
            .map_or(0, |text| text.chars().count());
        (line, column + u32::try_from(passed).unwrap_or(u32::MAX))
    }

    /// An error there.
    pub fn error(&self, offset: usize, why: impl Into<String>) -> Box<Error> {
        let (line, column) = self.place(offset);
        error(line, column, why)
    }

    /// With its here-documents, as a shell reads them.
    pub fn whole(&self) -> String {
        self.with_heredocs(&self.text)
    }

    /// A part of its line with the here-documents behind it.
    pub fn with_heredocs(&self, line: &str) -> String {
        let mut whole = line.to_owned();
        for heredoc in &self.heredocs {
            whole += &format!("\n{}{}", heredoc.raw, heredoc.name);
        }
        whole
    }
}

/// Drops comments and empty lines, joins lines that end with the escape character.
pub fn join(text: &str, escape: char) -> Result<Vec<Joined>> {
    let mut all = Vec::new();
    let mut current: Option<Joined> = None;
    let mut lines = (1..).zip(text.lines());
    while let Some((number, line)) = lines.next() {
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
                take_heredocs(&mut joined, escape, &mut lines)?;
                all.push(joined);
            }
        }
    }
    all.extend(current);
    Ok(all)
}

fn take_heredocs<'a>(
    joined: &mut Joined,
    escape: char,
    lines: &mut impl Iterator<Item = (u32, &'a str)>,
) -> Result<()> {
    let keyword = joined.text.split_whitespace().next().unwrap_or_default();
    if !["RUN", "COPY", "ADD"]
        .iter()
        .any(|name| keyword.eq_ignore_ascii_case(name))
    {
        return Ok(());
    }
    let markers: Vec<(usize, Heredoc)> = split(&joined.text, escape)
        .into_iter()
        .filter_map(|(offset, word)| Some((offset, marker(word)?)))
        .collect();
    if markers.len() > HEREDOCS_MAX {
        return Err(joined.error(0, format!("more than {HEREDOCS_MAX} here-documents")));
    }
    for (offset, mut heredoc) in markers {
        loop {
            let Some((_, line)) = lines.next() else {
                let why = format!("the here-document is not closed: no line is {:?}", heredoc.name);
                return Err(joined.error(offset, why));
            };
            let end = if heredoc.strips_tabs {
                line.trim_start_matches('\t')
            } else {
                line
            };
            if end == heredoc.name {
                break;
            }
            heredoc.raw += line;
            heredoc.raw.push('\n');
        }
        joined.heredocs.push(heredoc);
    }
    Ok(())
}

/// `<<NAME`, `<<-NAME`, with the name in quotes or not, and the number of a descriptor before it or not: an empty here-document.
pub fn marker(word: &str) -> Option<Heredoc> {
    let rest = word.trim_start_matches(|c: char| c.is_ascii_digit());
    let rest = rest.strip_prefix("<<")?;
    let (strips_tabs, rest) = rest.strip_prefix('-').map_or((false, rest), |rest| (true, rest));
    let quoted = ['\'', '"'].iter().find_map(|quote| {
        rest.strip_prefix(*quote)
            .and_then(|rest| rest.strip_suffix(*quote))
    });
    let name = quoted.unwrap_or(rest);
    let plain = |c: char| !c.is_whitespace() && !matches!(c, '<' | '>' | '\'' | '"' | '\\' | '/');
    (!name.is_empty() && name.chars().all(plain)).then(|| Heredoc {
        name: name.to_owned(),
        raw: String::new(),
        expands: quoted.is_none(),
        strips_tabs,
    })
}

/// Words with their offsets; quotes and escapes keep blanks together and stay in the word.
pub fn split(text: &str, escape: char) -> Vec<(usize, &str)> {
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
