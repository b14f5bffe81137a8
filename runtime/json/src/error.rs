use std::fmt;

/// Why a text is not the document it should be. One pointer wide.
#[derive(Debug)]
pub struct Error(Box<Inner>);

#[derive(Debug)]
struct Inner {
    text: String,
    /// From 1; 0 when the error is not of a place.
    line: usize,
    column: usize,
}

impl Error {
    /// An error that is not of one place: what a whole document may not be.
    #[cold]
    pub fn custom(text: impl Into<String>) -> Self {
        Self::at(text.into(), 0, 0)
    }

    #[cold]
    pub(crate) fn at(text: String, line: usize, column: usize) -> Self {
        Self(Box::new(Inner { text, line, column }))
    }

    /// Line of the error, from 1; 0 when it is not of a place.
    pub fn line(&self) -> usize {
        self.0.line
    }

    /// Bytes of that line up to the error.
    pub fn column(&self) -> usize {
        self.0.column
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.text)?;
        match self.0.line {
            0 => Ok(()),
            line => write!(f, " at line {line} column {}", self.0.column),
        }
    }
}

impl std::error::Error for Error {}
