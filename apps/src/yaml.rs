//! The part of YAML 1.2 that app files are written in: mappings, lists, texts, in blocks or as JSON writes them, comments. What is left out
//! (anchors, tags, texts over several lines, several documents) is refused by name, with line and column; nothing is guessed.
//!
//! Values are texts here: what a field takes decides what a text means, so that `no` is never anything but two letters.

use std::fmt;

/// Deepest nesting: the deepest of an app file is three.
const DEPTH_MAX: u32 = 8;
/// Most values in a file: what an app file may hold is below 500.
const NODES_MAX: usize = 2000;

/// Where something stands, counted from 1; columns in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Line.
    pub line: u32,
    /// Column.
    pub column: u32,
}

/// What reading a file comes to. The error is one pointer wide: each `?` passes it on, and errors are rare.
pub type Result<T, E = Box<FileError>> = std::result::Result<T, E>;

/// What is wrong with a file, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileError {
    /// Where.
    pub place: Place,
    /// What.
    pub what: String,
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "line {}, column {}: {}",
            self.place.line, self.place.column, self.what
        )
    }
}

impl std::error::Error for FileError {}

impl FileError {
    /// An error at a place.
    pub fn at(place: Place, what: impl Into<String>) -> Box<Self> {
        Box::new(Self {
            place,
            what: what.into(),
        })
    }
}

/// A value and where it begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Where.
    pub place: Place,
    /// What.
    pub value: Value,
}

/// A value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Nothing stood there.
    Nothing,
    /// As written, without its quotes.
    Text(String),
    /// `- a` or `[a]`
    List(Vec<Node>),
    /// `a: b` or `{a: b}`; keys are unique.
    Map(Vec<(Place, String, Node)>),
}

/// Reads a whole file.
pub fn parse(text: &str) -> Result<Node> {
    let mut parser = Parser {
        rest: text.strip_prefix('\u{feff}').unwrap_or(text),
        place: Place { line: 1, column: 1 },
        before: '\n',
        depth: 0,
        nodes: 0,
    };
    parser.blank()?;
    if parser.document_line("---") {
        parser.bump(3);
        parser.blank()?;
    }
    let node = parser.block(0)?;
    parser.blank()?;
    if parser.rest.is_empty() {
        Ok(node)
    } else if parser.document_line("---") || parser.document_line("...") {
        Err(parser.wrong("one document a file"))
    } else {
        Err(parser.wrong("this belongs to nothing above it: is it indented as its neighbours are?"))
    }
}

struct Parser<'a> {
    rest: &'a str,
    place: Place,
    /// The character before: a comment begins behind a blank.
    before: char,
    depth: u32,
    nodes: usize,
}

impl Parser<'_> {
    fn wrong(&self, what: impl Into<String>) -> Box<FileError> {
        FileError::at(self.place, what)
    }

    fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    fn bump(&mut self, characters: usize) {
        for _ in 0..characters {
            let Some(next) = self.peek() else { return };
            self.rest = &self.rest[next.len_utf8()..];
            self.before = next;
            if next == '\n' {
                self.place = Place {
                    line: self.place.line + 1,
                    column: 1,
                };
            } else {
                self.place.column += 1;
            }
        }
    }

    /// Over blanks on this line, and a comment at its end.
    fn blank_on_line(&mut self) -> Result<()> {
        let begin = self.place.column;
        while let Some(next) = self.peek() {
            match next {
                ' ' | '\r' => self.bump(1),
                '\t' if self.place.column == 1 || begin == 1 => {
                    return Err(self.wrong("a tab: indent with blanks"));
                }
                '\t' => self.bump(1),
                '#' if self.before.is_whitespace() => {
                    while self.peek().is_some_and(|next| next != '\n') {
                        self.bump(1);
                    }
                }
                _ => break,
            }
        }
        Ok(())
    }

    /// Over blanks, comments and empty lines to what comes next.
    fn blank(&mut self) -> Result<()> {
        loop {
            self.blank_on_line()?;
            if self.peek() != Some('\n') {
                return Ok(());
            }
            self.bump(1);
        }
    }

    fn at_line_end(&self) -> bool {
        self.rest.is_empty() || self.rest.starts_with('\n')
    }

    fn document_line(&self, mark: &str) -> bool {
        self.place.column == 1
            && self
                .rest
                .strip_prefix(mark)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with(['\n', ' ', '\r']))
    }

    /// A list's item begins here.
    fn at_item(&self) -> bool {
        let after = self.rest.strip_prefix('-');
        after.is_some_and(|after| after.is_empty() || after.starts_with([' ', '\n', '\r', '\t']))
    }

    /// A mapping's key stands here: a text, then a colon and a blank.
    fn at_key(&self) -> bool {
        let line = self.rest.split('\n').next().unwrap_or_default();
        let after = match line.chars().next() {
            Some(quote @ ('"' | '\'')) => {
                let mut escaped = false;
                let end = line.char_indices().skip(1).find(|&(_, c)| {
                    let ends = c == quote && !escaped;
                    escaped = quote == '"' && c == '\\' && !escaped;
                    ends
                });
                match end {
                    Some((at, _)) => line[at + 1..].trim_start(),
                    None => return false,
                }
            }
            Some('[' | '{') => return false,
            _ => line.split(" #").next().unwrap_or_default(),
        };
        let is_colon = |(at, _): (usize, &str)| {
            let rest = &after[at + 1..];
            rest.is_empty() || rest.starts_with([' ', '\r', '\t'])
        };
        if line.starts_with(['"', '\'']) {
            after.starts_with(':') && is_colon((0, ":"))
        } else {
            after.match_indices(':').any(is_colon)
        }
    }

    fn deeper(&mut self) -> Result<()> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(self.wrong(format!("nested deeper than {DEPTH_MAX} levels")));
        }
        Ok(())
    }

    fn node(&mut self, place: Place, value: Value) -> Result<Node> {
        self.nodes += 1;
        if self.nodes > NODES_MAX {
            return Err(FileError::at(place, format!("more than {NODES_MAX} values")));
        }
        Ok(Node { place, value })
    }

    /// What stands here, when it stands right of `column`.
    fn block(&mut self, column: u32) -> Result<Node> {
        let place = self.place;
        if self.rest.is_empty() || place.column <= column {
            return self.node(place, Value::Nothing);
        }
        self.deeper()?;
        let value = if self.at_item() {
            self.list(place.column)?
        } else if self.at_key() {
            self.map(place.column)?
        } else {
            let value = self.inline(false)?;
            self.end_of_line()?;
            value
        };
        self.depth -= 1;
        self.node(place, value)
    }

    fn list(&mut self, column: u32) -> Result<Value> {
        let mut items = Vec::new();
        loop {
            self.bump(1);
            self.blank_on_line()?;
            if self.at_line_end() {
                self.blank()?;
            }
            items.push(self.block(column)?);
            self.blank()?;
            if self.place.column != column || !self.at_item() {
                return Ok(Value::List(items));
            }
        }
    }

    fn map(&mut self, column: u32) -> Result<Value> {
        let mut entries: Vec<(Place, String, Node)> = Vec::new();
        loop {
            let place = self.place;
            let key = self.key(false)?;
            self.unique(&entries, place, &key)?;
            self.blank_on_line()?;
            let value = if self.at_line_end() {
                self.blank()?;
                // A list may stand below its key without being indented.
                let from = if self.at_item() { column - 1 } else { column };
                self.block(from)?
            } else {
                let place = self.place;
                if self.at_item() {
                    return Err(self.wrong("a list begins on a line of its own, or is written [a, b]"));
                }
                let value = self.inline(false)?;
                self.end_of_line()?;
                self.node(place, value)?
            };
            entries.push((place, key, value));
            self.blank()?;
            if self.rest.is_empty() || self.place.column < column {
                return Ok(Value::Map(entries));
            }
            if self.place.column > column {
                return Err(self.wrong("indented more than the line that it follows"));
            }
            if !self.at_key() {
                if self.at_item() || self.document_line("---") || self.document_line("...") {
                    return Ok(Value::Map(entries));
                }
                return Err(self.wrong("not KEY: VALUE"));
            }
        }
    }

    fn unique(&self, entries: &[(Place, String, Node)], place: Place, key: &str) -> Result<()> {
        match entries.iter().find(|(_, known, _)| known == key) {
            Some((first, ..)) => Err(FileError::at(
                place,
                format!("{key} is there already, in line {}", first.line),
            )),
            None => Ok(()),
        }
    }

    /// A key and its colon.
    fn key(&mut self, in_flow: bool) -> Result<String> {
        let place = self.place;
        let key = match self.peek() {
            Some('"' | '\'') => self.quoted()?,
            _ => self.plain(in_flow, true)?,
        };
        self.blank_on_line()?;
        if self.peek() != Some(':') {
            return Err(self.wrong("a colon is missing behind the key"));
        }
        self.bump(1);
        if key.is_empty() {
            return Err(FileError::at(place, "a key is missing before the colon"));
        }
        Ok(key)
    }

    fn end_of_line(&mut self) -> Result<()> {
        self.blank_on_line()?;
        if self.at_line_end() {
            Ok(())
        } else {
            Err(self.wrong("the value has ended before this"))
        }
    }

    /// A value that needs no lines of its own.
    fn inline(&mut self, in_flow: bool) -> Result<Value> {
        match self.peek() {
            Some('[') => self.flow_list(),
            Some('{') => self.flow_map(),
            Some('"' | '\'') => Ok(Value::Text(self.quoted()?)),
            _ => {
                let text = self.plain(in_flow, false)?;
                Ok(if text.is_empty() {
                    Value::Nothing
                } else {
                    Value::Text(text)
                })
            }
        }
    }

    fn flow_list(&mut self) -> Result<Value> {
        let mut items = Vec::new();
        self.deeper()?;
        self.bump(1);
        loop {
            self.blank()?;
            if self.peek() == Some(']') {
                break;
            }
            let place = self.place;
            let value = self.inline(true)?;
            items.push(self.node(place, value)?);
            self.comma(']')?;
        }
        self.bump(1);
        self.depth -= 1;
        Ok(Value::List(items))
    }

    fn flow_map(&mut self) -> Result<Value> {
        let mut entries = Vec::new();
        self.deeper()?;
        self.bump(1);
        loop {
            self.blank()?;
            if self.peek() == Some('}') {
                break;
            }
            let place = self.place;
            let key = self.key(true)?;
            self.unique(&entries, place, &key)?;
            self.blank()?;
            let at = self.place;
            let value = self.inline(true)?;
            let node = self.node(at, value)?;
            entries.push((place, key, node));
            self.comma('}')?;
        }
        self.bump(1);
        self.depth -= 1;
        Ok(Value::Map(entries))
    }

    fn comma(&mut self, end: char) -> Result<()> {
        self.blank()?;
        match self.peek() {
            Some(',') => self.bump(1),
            Some(next) if next == end => {}
            None => return Err(self.wrong(format!("{end} is missing at the end"))),
            Some(_) => return Err(self.wrong(format!("neither a comma nor {end}"))),
        }
        Ok(())
    }

    /// A text without quotes: to the end of the line, or to what ends it.
    fn plain(&mut self, in_flow: bool, as_key: bool) -> Result<String> {
        let refused = match self.peek() {
            Some('&' | '*') => "anchors and aliases are not understood here; quote the text",
            Some('!') => "tags are not understood here; quote the text",
            Some('|' | '>') => {
                "texts over several lines are not understood here; quote the text, with \\n in it"
            }
            Some('%' | '@' | '`' | ']' | '}' | ',') => "a text cannot begin with this; quote it",
            Some('?') if self.rest[1..].starts_with([' ', '\n']) => "complex keys are not understood here",
            _ => "",
        };
        if !refused.is_empty() {
            return Err(self.wrong(refused));
        }
        let mut text = String::new();
        while let Some(next) = self.peek() {
            let after = self.rest[next.len_utf8()..].chars().next().unwrap_or('\n');
            let ends_key = next == ':'
                && (matches!(after, ' ' | '\n' | '\r' | '\t') || in_flow && matches!(after, ',' | ']' | '}'));
            if next == '\n'
                || next == '#' && self.before.is_whitespace()
                || in_flow && matches!(next, ',' | '[' | ']' | '{' | '}')
            {
                break;
            }
            if ends_key {
                if as_key {
                    break;
                }
                return Err(self.wrong("a colon and a blank within a text: quote it"));
            }
            if next.is_control() && next != '\r' && next != '\t' {
                return Err(self.wrong("a control character"));
            }
            text.push(next);
            self.bump(1);
        }
        text.truncate(text.trim_end().len());
        Ok(text)
    }

    fn quoted(&mut self) -> Result<String> {
        let begin = self.place;
        let quote = self.peek().unwrap_or('"');
        self.bump(1);
        let mut text = String::new();
        loop {
            let next = self.peek();
            match next {
                None | Some('\n') => {
                    return Err(FileError::at(begin, "the closing quote is missing on this line"));
                }
                Some(next) if next == quote => {
                    self.bump(1);
                    if quote == '"' || self.peek() != Some('\'') {
                        return Ok(text);
                    }
                    text.push('\'');
                    self.bump(1);
                }
                Some('\\') if quote == '"' => text.push(self.escape()?),
                Some(next) => {
                    text.push(next);
                    self.bump(1);
                }
            }
        }
    }

    /// As JSON has them, and `\xNN`.
    fn escape(&mut self) -> Result<char> {
        let place = self.place;
        self.bump(1);
        let kind = self.peek().unwrap_or(' ');
        self.bump(1);
        let digits = match kind {
            'n' => return Ok('\n'),
            't' => return Ok('\t'),
            'r' => return Ok('\r'),
            '"' | '\\' | '/' => return Ok(kind),
            'x' => 2,
            'u' => 4,
            _ => {
                return Err(FileError::at(
                    place,
                    "not an escape: \\n \\t \\r \\\" \\\\ \\/ \\xNN \\uNNNN are",
                ));
            }
        };
        let code = self
            .rest
            .get(..digits)
            .and_then(|hex| u32::from_str_radix(hex, 16).ok());
        let character = code
            .and_then(char::from_u32)
            .filter(|character| *character != '\0');
        let character = character.ok_or_else(|| FileError::at(place, "no such character"))?;
        self.bump(digits);
        Ok(character)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As JSON would write it: the shortest way to see the whole.
    fn shown(node: &Node) -> String {
        match &node.value {
            Value::Nothing => "null".into(),
            Value::Text(text) => format!("{text:?}"),
            Value::List(items) => format!("[{}]", items.iter().map(shown).collect::<Vec<_>>().join(",")),
            Value::Map(entries) => {
                let entries: Vec<_> = entries
                    .iter()
                    .map(|(_, key, value)| format!("{key}:{}", shown(value)))
                    .collect();
                format!("{{{}}}", entries.join(","))
            }
        }
    }

    #[test]
    fn what_app_files_are_written_in_is_read() {
        let cases = [
            ("", "null"),
            ("# nothing\n\n", "null"),
            ("---\na: 1\n", r#"{a:"1"}"#),
            ("a: b c # d\nb: c#d", r#"{a:"b c",b:"c#d"}"#),
            ("a: http://x:80/y\n", r#"{a:"http://x:80/y"}"#),
            (
                "a:\n  - x\n  - y: 1\n    z: 2\nb: no\n",
                r#"{a:["x",{y:"1",z:"2"}],b:"no"}"#,
            ),
            ("a:\n- x\n- y\nb: 1\n", r#"{a:["x","y"],b:"1"}"#),
            ("a:\n  b:\n    c: 1\n  d: 2\n", r#"{a:{b:{c:"1"},d:"2"}}"#),
            (
                "a: [x, 'it''s', \"q\\n\\u00e4\"]\n",
                "{a:[\"x\",\"it's\",\"q\\nä\"]}",
            ),
            ("a: [\n  x, # first\n  y,\n]\n", r#"{a:["x","y"]}"#),
            (
                "m: [{source: /a, target: /b}]\n",
                r#"{m:[{source:"/a",target:"/b"}]}"#,
            ),
            (r#"{"a": [1, true], "b": {}}"#, r#"{a:["1","true"],b:{}}"#),
            ("\"a b\": 1\n'c': 2\n", r#"{a b:"1",c:"2"}"#),
            ("a:\nb:\n", "{a:null,b:null}"),
            ("a: 1\r\nb: 2\r\n", r#"{a:"1",b:"2"}"#),
            ("- - x\n  - y\n", r#"[["x","y"]]"#),
            ("a: -1\nb: - \n", "error"),
            ("\u{feff}a: ü\n", r#"{a:"ü"}"#),
        ];
        for (text, want) in cases {
            let got = parse(text).map_or_else(|_| "error".into(), |node| shown(&node));
            assert_eq!(got, want, "{text:?}");
        }
    }

    #[test]
    fn what_is_not_understood_is_refused_with_its_place() {
        let cases = [
            ("a: &x 1\n", "line 1, column 4: anchors"),
            ("a: *x\n", "line 1, column 4: anchors"),
            ("a: !!str 1\n", "line 1, column 4: tags"),
            ("a: |\n  x\n", "line 1, column 4: texts over several lines"),
            ("a: 1\n\tb: 2\n", "line 2, column 1: a tab"),
            ("a: 1\n  b: 2\n", "line 2, column 3: indented more"),
            ("a: 1\nb\n", "line 2, column 1: not KEY: VALUE"),
            (
                "a: 1\nb: 2\na: 3\n",
                "line 3, column 1: a is there already, in line 1",
            ),
            ("a: [x\nb: 1\n", "line 2, column 1: neither a comma nor ]"),
            ("a: [x", "line 1, column 6: ] is missing"),
            ("a: \"x\n", "line 1, column 4: the closing quote"),
            ("a: \"\\q\"\n", "line 1, column 5: not an escape"),
            ("a: \"x\" y\n", "line 1, column 8: the value has ended"),
            ("a: x: y\n", "line 1, column 5: a colon and a blank"),
            ("a: 1\n---\nb: 2\n", "line 2, column 1: one document"),
            ("a: 1\n- b\n", "line 2, column 1: this belongs to nothing"),
            ("a: x\0\n", "line 1, column 5: a control character"),
            ("- [[[[[[[[[[1]]]]]]]]]]\n", "nested deeper than 8"),
            ("ä: \tx: \n", "column 6"),
        ];
        for (text, want) in cases {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(want), "{text:?} gave {error:?}");
        }
        let long = "- x\n".repeat(NODES_MAX + 1);
        assert!(parse(&long).unwrap_err().what.contains("more than"));
    }
}
