//! The writer.

use std::fmt::Write as _;

use crate::{Members, ToJson};

/// Writes values into a text.
pub struct Writer {
    text: String,
    pretty: bool,
    depth: usize,
    /// Nothing stands in the innermost list or object yet.
    first: bool,
}

impl Writer {
    pub(crate) fn new(pretty: bool) -> Self {
        Self {
            text: String::new(),
            pretty,
            depth: 0,
            first: true,
        }
    }

    pub(crate) fn into_text(self) -> String {
        self.text
    }

    /// `null`, a boolean or a number.
    pub fn plain(&mut self, text: &str) {
        self.text += text;
    }

    /// A number.
    pub fn number(&mut self, negative: bool, magnitude: u64) {
        if negative {
            self.text.push('-');
        }
        let mut digits = [0; 20];
        let mut at = digits.len();
        let mut rest = magnitude;
        loop {
            at -= 1;
            digits[at] = b'0' + (rest % 10) as u8;
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        self.text += std::str::from_utf8(&digits[at..]).unwrap_or_default();
    }

    /// A string.
    pub fn string(&mut self, text: &str) {
        self.text.push('"');
        let mut start = 0;
        for (at, byte) in text.bytes().enumerate() {
            let short = match byte {
                b'"' => '"',
                b'\\' => '\\',
                8 => 'b',
                12 => 'f',
                b'\n' => 'n',
                b'\r' => 'r',
                b'\t' => 't',
                0..=0x1f => 'u',
                _ => continue,
            };
            self.text += &text[start..at];
            start = at + 1;
            self.text.push('\\');
            self.text.push(short);
            if short == 'u' {
                // Into a text nothing fails.
                write!(self.text, "{byte:04x}").unwrap_or_default();
            }
        }
        self.text += &text[start..];
        self.text.push('"');
    }

    fn open(&mut self, bracket: char) {
        self.text.push(bracket);
        self.depth += 1;
        self.first = true;
    }

    fn close(&mut self, bracket: char) {
        self.depth -= 1;
        if !std::mem::take(&mut self.first) {
            self.line();
        }
        self.text.push(bracket);
    }

    fn line(&mut self) {
        if self.pretty {
            self.text.push('\n');
            for _ in 0..self.depth {
                self.text += "  ";
            }
        }
    }

    /// Begins one more element or member.
    fn next(&mut self) {
        if !std::mem::take(&mut self.first) {
            self.text.push(',');
        }
        self.line();
    }

    /// An array, whose elements `write` gives to [`Self::element`].
    pub fn array(&mut self, write: &mut dyn FnMut(&mut Self)) {
        self.open('[');
        write(self);
        self.close(']');
    }

    /// One element of an array.
    pub fn element(&mut self, value: &dyn ToJson) {
        self.next();
        value.write(self);
        self.first = false;
    }

    /// An object, whose members `write` gives to [`Self::member`].
    pub fn map(&mut self, write: &mut dyn FnMut(&mut Self)) {
        self.open('{');
        write(self);
        self.close('}');
    }

    /// One member of an object.
    pub fn member(&mut self, key: &str, value: &dyn ToJson) {
        self.next();
        self.string(key);
        self.text += if self.pretty { ": " } else { ":" };
        value.write(self);
        self.first = false;
    }

    /// A struct.
    pub fn object(&mut self, of: &dyn Members) {
        self.open('{');
        self.members(of);
        self.close('}');
    }

    /// A struct's members, within an object.
    pub fn members(&mut self, of: &dyn Members) {
        for (index, field) in of.shape().fields.iter().enumerate() {
            let value = of.member(index);
            if !(field.never_written || field.skipped_if_empty && value.is_empty()) {
                self.member(field.key, value);
            }
        }
    }
}
