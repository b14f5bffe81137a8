//! The reader.

use std::borrow::Cow;

use crate::{Error, Object, Shape};

type Result<T> = std::result::Result<T, Error>;

const DEPTH_MAX: u8 = 127;

/// A number as it stands.
pub(crate) enum Number<'a> {
    Whole {
        negative: bool,
        magnitude: u64,
        text: &'a str,
    },
    /// With a fraction, an exponent, or beyond 64 bits.
    Other(&'a str),
}

/// Reads values from a text, one after another.
pub struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    /// Where the last key ended.
    key_end: usize,
    depth: u8,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self {
            bytes,
            at: 0,
            key_end: 0,
            depth: 0,
        }
    }

    /// An error at what was read last.
    #[cold]
    pub fn error(&self, text: impl Into<String>) -> Error {
        self.error_at(text.into(), self.at)
    }

    /// An error at the next byte.
    #[cold]
    fn error_ahead(&self, text: &str) -> Error {
        self.error_at(text.into(), self.bytes.len().min(self.at + 1))
    }

    fn error_at(&self, text: String, at: usize) -> Error {
        let before = &self.bytes[..at];
        let line = before.iter().filter(|&&byte| byte == b'\n').count();
        let begin = before
            .iter()
            .rposition(|&byte| byte == b'\n')
            .map_or(0, |newline| newline + 1);
        Error::at(text, line + 1, at - begin)
    }

    /// What is next, after blanks.
    pub(crate) fn peek(&mut self) -> Option<u8> {
        while let Some(&byte) = self.bytes.get(self.at) {
            if !matches!(byte, b' ' | b'\n' | b'\t' | b'\r') {
                return Some(byte);
            }
            self.at += 1;
        }
        None
    }

    fn peek_or(&mut self, ended: &str) -> Result<u8> {
        self.peek().ok_or_else(|| self.error(ended))
    }

    pub(crate) fn end(&mut self) -> Result<()> {
        match self.peek() {
            None => Ok(()),
            Some(_) => Err(self.error_ahead("trailing characters")),
        }
    }

    /// Takes `null` if that is next.
    pub fn null(&mut self) -> Result<bool> {
        if self.peek() != Some(b'n') {
            return Ok(false);
        }
        self.literal("null")?;
        Ok(true)
    }

    fn literal(&mut self, word: &str) -> Result<()> {
        for expected in word.bytes() {
            match self.bytes.get(self.at) {
                None => return Err(self.error("EOF while parsing a value")),
                Some(&byte) => {
                    self.at += 1;
                    if byte != expected {
                        return Err(self.error("expected ident"));
                    }
                }
            }
        }
        Ok(())
    }

    /// The error of a value that is not `expected`, which is read as far as it takes to name it.
    #[cold]
    pub fn not_expected(&mut self, expected: &str) -> Error {
        let found = match self.found() {
            Ok(found) => found,
            Err(error) => return error,
        };
        self.error(format!("invalid type: {found}, expected {expected}"))
    }

    fn found(&mut self) -> Result<String> {
        Ok(match self.peek_or("EOF while parsing a value")? {
            b'n' => {
                self.literal("null")?;
                "null".into()
            }
            b't' | b'f' => format!("boolean `{}`", self.bool()?),
            b'"' => format!("string {:?}", self.text()?),
            b'[' => "sequence".into(),
            b'{' => "map".into(),
            b'-' | b'0'..=b'9' => match self.number()? {
                Number::Whole {
                    negative, magnitude, ..
                } => format!("integer `{}`", signed(negative, magnitude)),
                Number::Other(text) => format!("floating point `{text}`"),
            },
            _ => return Err(self.error_ahead("expected value")),
        })
    }

    /// A boolean.
    pub fn bool(&mut self) -> Result<bool> {
        match self.peek() {
            Some(b't') => self.literal("true").map(|()| true),
            Some(b'f') => self.literal("false").map(|()| false),
            _ => Err(self.not_expected("a boolean")),
        }
    }

    /// A whole number from `-least` to `most`, as two's complement.
    pub(crate) fn integer(&mut self, least: u64, most: u64, expected: &str) -> Result<u64> {
        if !matches!(self.peek(), Some(b'-' | b'0'..=b'9')) {
            return Err(self.not_expected(expected));
        }
        match self.number()? {
            Number::Whole {
                negative: true,
                magnitude,
                ..
            } if magnitude <= least => Ok(magnitude.wrapping_neg()),
            Number::Whole {
                negative: false,
                magnitude,
                ..
            } if magnitude <= most => Ok(magnitude),
            Number::Whole {
                negative, magnitude, ..
            } => Err(self.error(format!(
                "invalid value: integer `{}`, expected {expected}",
                signed(negative, magnitude)
            ))),
            Number::Other(text) => Err(self.error(format!(
                "invalid type: floating point `{text}`, expected {expected}"
            ))),
        }
    }

    /// The next value, which is a number.
    pub(crate) fn number(&mut self) -> Result<Number<'a>> {
        let start = self.at;
        let negative = self.take(b'-');
        let digits = self.at;
        let mut magnitude = Some(0_u64);
        while let Some(digit @ b'0'..=b'9') = self.bytes.get(self.at) {
            let digit = u64::from(digit - b'0');
            magnitude = magnitude.and_then(|so_far| so_far.checked_mul(10)?.checked_add(digit));
            self.at += 1;
        }
        match self.bytes[digits..self.at] {
            [] if self.at == self.bytes.len() => return Err(self.error("EOF while parsing a value")),
            [] => return Err(self.error_ahead("invalid number")),
            [b'0', _, ..] => {
                self.at = digits + 1;
                return Err(self.error_ahead("invalid number"));
            }
            _ => {}
        }
        let mut whole = true;
        if self.take(b'.') {
            whole = false;
            self.digits()?;
        }
        if self.take(b'e') || self.take(b'E') {
            whole = false;
            if !self.take(b'+') {
                self.take(b'-');
            }
            self.digits()?;
        }
        let text = std::str::from_utf8(&self.bytes[start..self.at]).unwrap_or_default();
        // Below what i64 holds it is no whole number for us, nor is a negative zero: as serde_json has it.
        match magnitude.filter(|&magnitude| !negative || (1..=1 << 63).contains(&magnitude)) {
            Some(magnitude) if whole => Ok(Number::Whole {
                negative,
                magnitude,
                text,
            }),
            _ => Ok(Number::Other(text)),
        }
    }

    fn digits(&mut self) -> Result<()> {
        let start = self.at;
        while matches!(self.bytes.get(self.at), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        if self.at > start {
            return Ok(());
        }
        if self.at == self.bytes.len() {
            return Err(self.error("EOF while parsing a value"));
        }
        Err(self.error_ahead("invalid number"))
    }

    fn take(&mut self, byte: u8) -> bool {
        let found = self.bytes.get(self.at) == Some(&byte);
        self.at += usize::from(found);
        found
    }

    /// A string.
    pub fn string(&mut self) -> Result<Cow<'a, str>> {
        self.string_for("a string")
    }

    /// A string, where the error says that something else was `expected`.
    pub fn string_for(&mut self, expected: &str) -> Result<Cow<'a, str>> {
        match self.peek() {
            Some(b'"') => self.text(),
            _ => Err(self.not_expected(expected)),
        }
    }

    /// The string whose quote is next.
    fn text(&mut self) -> Result<Cow<'a, str>> {
        self.at += 1;
        let mut unescaped = Vec::new();
        let mut start = self.at;
        loop {
            match self.bytes.get(self.at) {
                None => return Err(self.error("EOF while parsing a string")),
                Some(b'"') => break,
                Some(b'\\') => {
                    unescaped.extend_from_slice(&self.bytes[start..self.at]);
                    self.at += 1;
                    self.escape(&mut unescaped)?;
                    start = self.at;
                }
                Some(0..=0x1f) => {
                    self.at += 1;
                    return Err(
                        self.error("control character (\\u0000-\\u001F) found while parsing a string")
                    );
                }
                Some(_) => self.at += 1,
            }
        }
        let rest = &self.bytes[start..self.at];
        self.at += 1;
        let not_unicode = |_| self.error("invalid unicode code point");
        if unescaped.is_empty() {
            return std::str::from_utf8(rest).map(Cow::Borrowed).map_err(not_unicode);
        }
        unescaped.extend_from_slice(rest);
        std::str::from_utf8(&unescaped).map_err(not_unicode)?;
        Ok(Cow::Owned(String::from_utf8(unescaped).unwrap_or_default()))
    }

    fn escape(&mut self, into: &mut Vec<u8>) -> Result<()> {
        let Some(&byte) = self.bytes.get(self.at) else {
            return Err(self.error("EOF while parsing a string"));
        };
        self.at += 1;
        into.push(match byte {
            b'"' | b'\\' | b'/' => byte,
            b'b' => 8,
            b'f' => 12,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'u' => {
                let letter = self.unicode_escape()?;
                into.extend_from_slice(letter.encode_utf8(&mut [0; 4]).as_bytes());
                return Ok(());
            }
            _ => return Err(self.error("invalid escape")),
        });
        Ok(())
    }

    fn unicode_escape(&mut self) -> Result<char> {
        let first = self.hex()?;
        let code = match first {
            0xd800..0xdc00 => {
                if !(self.take(b'\\') && self.take(b'u')) {
                    return Err(self.error_ahead("unexpected end of hex escape"));
                }
                match self.hex()? {
                    second @ 0xdc00..0xe000 => 0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00),
                    _ => return Err(self.error("lone leading surrogate in hex escape")),
                }
            }
            _ => first,
        };
        char::from_u32(code).ok_or_else(|| self.error("lone leading surrogate in hex escape"))
    }

    fn hex(&mut self) -> Result<u32> {
        let Some(digits) = self.bytes.get(self.at..self.at + 4) else {
            self.at = self.bytes.len();
            return Err(self.error("EOF while parsing a string"));
        };
        self.at += 4;
        digits
            .iter()
            .try_fold(0, |code, &digit| {
                Some(code << 4 | char::from(digit).to_digit(16)?)
            })
            .ok_or_else(|| self.error("invalid escape"))
    }

    /// A string that is one of these; which.
    pub fn word(&mut self, words: &[&str]) -> Result<usize> {
        let text = self.string()?;
        words
            .iter()
            .position(|word| *word == text)
            .ok_or_else(|| self.error(unknown("variant", &text, words.iter().copied())))
    }

    fn enter(&mut self, bracket: u8, expected: &str) -> Result<()> {
        if self.peek() != Some(bracket) {
            return Err(self.not_expected(expected));
        }
        if self.depth == DEPTH_MAX {
            return Err(self.error_ahead("recursion limit exceeded"));
        }
        self.depth += 1;
        self.at += 1;
        Ok(())
    }

    /// Whether there is one more, before which a comma stands unless it is the first.
    fn next(&mut self, first: &mut bool, bracket: u8, ended: &str, comma: &str) -> Result<bool> {
        let mut next = self.peek_or(ended)?;
        if next == bracket {
            self.at += 1;
            self.depth -= 1;
            return Ok(false);
        }
        if !std::mem::take(first) {
            if next != b',' {
                return Err(self.error_ahead(comma));
            }
            self.at += 1;
            next = self.peek_or("EOF while parsing a value")?;
            if next == bracket {
                return Err(self.error_ahead("trailing comma"));
            }
        }
        Ok(true)
    }

    /// An array, of which each element is read by `element`.
    pub fn array(&mut self, expected: &str, element: &mut dyn FnMut(&mut Self) -> Result<()>) -> Result<()> {
        self.enter(b'[', expected)?;
        let mut first = true;
        while self.next(
            &mut first,
            b']',
            "EOF while parsing a list",
            "expected `,` or `]`",
        )? {
            element(self)?;
        }
        Ok(())
    }

    /// An object, of which each value is read by `member`, which gets its key.
    pub fn map(
        &mut self,
        expected: &str,
        member: &mut dyn FnMut(&mut Self, Cow<'a, str>) -> Result<()>,
    ) -> Result<()> {
        self.enter(b'{', expected)?;
        let mut first = true;
        while self.next(
            &mut first,
            b'}',
            "EOF while parsing an object",
            "expected `,` or `}`",
        )? {
            if self.peek() != Some(b'"') {
                return Err(self.error_ahead("key must be a string"));
            }
            let key = self.text()?;
            self.key_end = self.at;
            if self.peek_or("EOF while parsing an object")? != b':' {
                return Err(self.error_ahead("expected `:`"));
            }
            self.at += 1;
            member(self, key)?;
        }
        Ok(())
    }

    /// A struct.
    pub fn object(&mut self, into: &mut dyn Object) -> Result<()> {
        let Shape {
            expected,
            closed,
            fields,
        } = into.shape();
        let mut seen = 0_u64;
        self.map(expected, &mut |reader, key| {
            let Some(index) = fields.iter().position(|field| field.key == key) else {
                if *closed {
                    let keys = fields.iter().map(|field| field.key);
                    return Err(reader.error_at(unknown("field", &key, keys), reader.key_end));
                }
                return reader.skip();
            };
            if seen >> index & 1 == 1 {
                return Err(reader.error_at(format!("duplicate field `{key}`"), reader.key_end));
            }
            seen |= 1 << index;
            if fields[index].null_is_default && reader.null()? {
                return Ok(());
            }
            into.member(index).read(reader)
        })?;
        let missing = fields
            .iter()
            .enumerate()
            .find(|(index, field)| field.required && seen >> index & 1 == 0);
        match missing {
            None => Ok(()),
            Some((_, field)) => Err(self.error(format!("missing field `{}`", field.key))),
        }
    }

    /// Any value, of which nothing is kept.
    pub fn skip(&mut self) -> Result<()> {
        match self.peek() {
            Some(b'[') => self.array("", &mut |reader| reader.skip()),
            Some(b'{') => self.map("", &mut |reader, _| reader.skip()),
            Some(b'"') => self.text().map(drop),
            Some(b't' | b'f') => self.bool().map(drop),
            Some(b'-' | b'0'..=b'9') => self.number().map(drop),
            _ if self.null()? => Ok(()),
            _ => Err(self.not_expected("any valid JSON value")),
        }
    }
}

fn signed(negative: bool, magnitude: u64) -> String {
    format!("{}{magnitude}", if negative { "-" } else { "" })
}

fn unknown<'k>(what: &str, found: &str, known: impl ExactSizeIterator<Item = &'k str>) -> String {
    let mut text = format!("unknown {what} `{found}`");
    let count = known.len();
    for (index, name) in known.enumerate() {
        text += match index {
            0 if count > 2 => ", expected one of ",
            0 => ", expected ",
            1 if count == 2 => " or ",
            _ => ", ",
        };
        text += "`";
        text += name;
        text += "`";
    }
    if count == 0 {
        text += ", there are no ";
        text += what;
        text += "s";
    }
    text
}
