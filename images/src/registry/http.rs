//! HTTP/1.1 as a client of registries needs it: one request at a time on a connection, bodies as streams, a bound on everything.
//!
//! <https://www.rfc-editor.org/rfc/rfc9112>. Not here: pipelining, HTTP/2, content codings (none is asked for), cookies.

use std::io::{self, Read, Write};
use std::time::{Duration, Instant};

/// Bytes of an answer's head: tokens and signed links make long headers.
const HEAD_BYTES_MAX: usize = 32 * 1024;
/// Header lines of an answer.
const HEADERS_MAX: usize = 128;
/// Bytes of a chunk's size line with its extensions.
const CHUNK_LINE_BYTES_MAX: usize = 256;
/// Trailer lines after the last chunk.
const TRAILERS_MAX: usize = 32;
/// Interim answers before the one that counts.
const INTERIM_MAX: usize = 8;
/// A head takes no longer, even one that arrives byte by byte.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);
/// Piece in which data comes from the socket.
const BUFFER_BYTES: usize = 16 * 1024;

/// Status and headers of an answer.
#[derive(Clone, Debug)]
pub struct Head {
    /// Three digits.
    pub status: u16,
    headers: Vec<(String, String)>,
}

impl Head {
    /// Reads a head: all lines up to the empty one.
    pub fn parse(bytes: &[u8]) -> Result<Self, &'static str> {
        let text = String::from_utf8_lossy(bytes);
        let mut lines = text
            .split('\n')
            .map(|line| line.strip_suffix('\r').unwrap_or(line));
        let status_line = lines.next().unwrap_or_default();
        let rest = status_line.strip_prefix("HTTP/1.").ok_or("it is not HTTP/1")?;
        let status = rest.get(2..5).and_then(|digits| digits.parse().ok());
        let status = status
            .filter(|status| (100..600).contains(status))
            .ok_or("its status line is malformed")?;
        let mut headers = Vec::new();
        for line in lines.take_while(|line| !line.is_empty()) {
            let (name, value) = line.split_once(':').ok_or("a header has no colon")?;
            if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_graphic()) {
                return Err("a header's name is malformed");
            }
            if headers.len() == HEADERS_MAX {
                return Err("it has too many headers");
            }
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        Ok(Self { status, headers })
    }

    /// The first header of that name, in lower case.
    pub fn get(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(known, _)| known == name)?;
        Some(&found.1)
    }

    /// All headers of that name, in lower case.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        let found = self.headers.iter().filter(move |(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }

    /// The media type, without parameters.
    pub fn media_type(&self) -> &str {
        let whole = self.get("content-type").unwrap_or_default();
        whole.split(';').next().unwrap_or_default().trim()
    }

    /// First and total byte of `Content-Range: bytes 5-9/10`; the total may be unknown.
    pub fn content_range(&self) -> Option<(u64, Option<u64>)> {
        let (range, total) = self
            .get("content-range")?
            .strip_prefix("bytes ")?
            .split_once('/')?;
        Some((range.split_once('-')?.0.parse().ok()?, total.parse().ok()))
    }

    /// How the body ends.
    fn framing(&self, answers_head: bool) -> Result<Framing, &'static str> {
        if answers_head || matches!(self.status, 100..=199 | 204 | 304) {
            return Ok(Framing::Length(0));
        }
        let lengths: Vec<_> = self.all("content-length").collect();
        match (self.get("transfer-encoding"), lengths.as_slice()) {
            (Some(coding), []) if coding.eq_ignore_ascii_case("chunked") => {
                Ok(Framing::Chunked { left: 0, first: true })
            }
            (Some(_), []) => Err("its transfer coding is not supported"),
            // Two readers could disagree where it ends.
            (Some(_), _) => Err("it has both a length and a transfer coding"),
            (None, []) => Ok(Framing::UntilClose),
            (None, [first, rest @ ..]) if rest.iter().all(|other| other == first) => Ok(Framing::Length(
                first.parse().map_err(|_| "its length is malformed")?,
            )),
            (None, _) => Err("it has several lengths"),
        }
    }

    fn keeps_connection(&self) -> bool {
        let mut words = self.all("connection").flat_map(|value| value.split(','));
        !words.any(|word| word.trim().eq_ignore_ascii_case("close"))
    }
}

/// What carries bytes both ways.
pub trait Transport: Read + Write + Send {}
impl<T: Read + Write + Send> Transport for T {}

/// A connection with what was read of it and not yet used.
pub struct Wire {
    stream: Box<dyn Transport>,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    /// Headers and absolute targets for a proxy that passes requests on.
    pub through_proxy: Option<ThroughProxy>,
}

/// Said in each request to a proxy that passes requests on.
#[derive(Clone)]
pub struct ThroughProxy {
    /// Value of `Proxy-Authorization`.
    pub authorization: Option<String>,
}

impl Wire {
    /// Over a connected stream.
    pub fn new(stream: Box<dyn Transport>) -> Self {
        Self {
            stream,
            buffer: vec![0; BUFFER_BYTES].into(),
            start: 0,
            end: 0,
            through_proxy: None,
        }
    }

    /// The stream, when nothing was read ahead of it: after CONNECT.
    pub fn into_stream(self) -> Box<dyn Transport> {
        self.stream
    }

    /// Sends.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)?;
        self.stream.flush()
    }

    /// Sends a body to its end, which must be at `length`.
    pub fn write_body(&mut self, body: &mut dyn Read, length: u64) -> io::Result<()> {
        let sent = io::copy(&mut body.take(length), &mut self.stream)?;
        if sent < length {
            return Err(io::Error::other("the data to send is shorter than it was"));
        }
        self.stream.flush()
    }

    /// Reads an answer up to its body.
    pub fn read_head(&mut self) -> io::Result<Head> {
        let deadline = Instant::now() + HEAD_TIMEOUT;
        for _ in 0..INTERIM_MAX {
            let mut bytes = Vec::new();
            loop {
                let begin = bytes.len();
                self.line(&mut bytes, HEAD_BYTES_MAX)?;
                if !bytes.starts_with(b"HTTP/1.") {
                    return Err(malformed("it is not HTTP/1"));
                }
                if matches!(&bytes[begin..], b"\n" | b"\r\n") {
                    break;
                }
                if Instant::now() > deadline {
                    return Err(io::ErrorKind::TimedOut.into());
                }
            }
            let head = Head::parse(&bytes).map_err(malformed)?;
            if head.status >= 200 {
                return Ok(head);
            }
        }
        Err(malformed("it never comes to the point"))
    }

    /// The body that follows this head.
    pub fn into_body(self, head: &Head, answers_head: bool) -> io::Result<Body> {
        let framing = head.framing(answers_head).map_err(malformed)?;
        Ok(Body {
            keeps: head.keeps_connection() && framing != Framing::UntilClose,
            wire: self,
            framing,
        })
    }

    /// Appends a line with its end.
    fn line(&mut self, line: &mut Vec<u8>, bytes_max: usize) -> io::Result<()> {
        let deadline = Instant::now() + HEAD_TIMEOUT;
        loop {
            let ready = self.ready()?;
            let end = ready.iter().position(|&byte| byte == b'\n').map(|at| at + 1);
            let count = end.unwrap_or(ready.len());
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            line.extend_from_slice(&ready[..count]);
            self.start += count;
            if line.len() > bytes_max {
                return Err(malformed("its head is too long"));
            }
            if end.is_some() {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
    }

    /// What was read and not used; nothing at the end.
    fn ready(&mut self) -> io::Result<&[u8]> {
        if self.start == self.end {
            (self.start, self.end) = (0, read_some(&mut self.stream, &mut self.buffer)?);
        }
        Ok(&self.buffer[self.start..self.end])
    }

    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.start == self.end && out.len() >= self.buffer.len() {
            return read_some(&mut self.stream, out);
        }
        let ready = self.ready()?;
        let count = ready.len().min(out.len());
        out[..count].copy_from_slice(&ready[..count]);
        self.start += count;
        Ok(count)
    }
}

fn read_some(stream: &mut impl Read, out: &mut [u8]) -> io::Result<usize> {
    loop {
        match stream.read(out) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Framing {
    Length(u64),
    Chunked { left: u64, first: bool },
    Done,
    UntilClose,
}

/// The body of an answer. An end before its end is an error; the end of a body without a length is where the connection ends.
pub struct Body {
    wire: Wire,
    framing: Framing,
    keeps: bool,
}

impl Body {
    /// Its length, when the server said it.
    pub fn length(&self) -> Option<u64> {
        match self.framing {
            Framing::Length(length) => Some(length),
            _ => None,
        }
    }

    /// The connection, when it is ready for the next request.
    pub fn into_wire(mut self) -> Option<Wire> {
        // The last chunk may be read while its end is not.
        if let Framing::Chunked { .. } = self.framing {
            self.read(&mut [0]).ok().filter(|&count| count == 0)?;
        }
        let is_over = matches!(self.framing, Framing::Length(0) | Framing::Done);
        (self.keeps && is_over && self.wire.start == self.wire.end).then_some(self.wire)
    }

    /// Comes to the next chunk. Returns what is left of it: nothing after the last.
    fn next_chunk(&mut self, first: bool) -> io::Result<u64> {
        let mut line = Vec::new();
        if !first {
            self.wire.line(&mut line, CHUNK_LINE_BYTES_MAX)?;
            if line.trim_ascii() != b"" {
                return Err(malformed("a chunk is longer than its size"));
            }
            line.clear();
        }
        self.wire.line(&mut line, CHUNK_LINE_BYTES_MAX)?;
        let digits = line
            .split(|&byte| byte == b';')
            .next()
            .unwrap_or_default()
            .trim_ascii();
        let digits = std::str::from_utf8(digits)
            .ok()
            .filter(|digits| !digits.starts_with('+'));
        let size = digits.and_then(|digits| u64::from_str_radix(digits, 16).ok());
        let size = size.ok_or_else(|| malformed("a chunk's size is malformed"))?;
        if size == 0 {
            for _ in 0..TRAILERS_MAX {
                line.clear();
                self.wire.line(&mut line, HEAD_BYTES_MAX)?;
                if line.trim_ascii() == b"" {
                    return Ok(0);
                }
            }
            return Err(malformed("it has too many trailers"));
        }
        Ok(size)
    }
}

impl Read for Body {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if let Framing::Chunked { left: 0, first } = self.framing {
            self.framing = match self.next_chunk(first)? {
                0 => Framing::Done,
                left => Framing::Chunked { left, first: false },
            };
        }
        let left = match self.framing {
            Framing::Done | Framing::Length(0) => return Ok(0),
            Framing::UntilClose => return self.wire.read(out),
            Framing::Length(left) | Framing::Chunked { left, .. } => left,
        };
        let wanted = out.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let count = self.wire.read(&mut out[..wanted])?;
        if count == 0 && wanted > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        match &mut self.framing {
            Framing::Length(left) | Framing::Chunked { left, .. } => *left -= count as u64,
            _ => {}
        }
        Ok(count)
    }
}

fn malformed(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives bytes one by one, so that every boundary is met.
    struct Drops(io::Cursor<Vec<u8>>);

    impl Read for Drops {
        fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
            let count = out.len().min(1);
            self.0.read(&mut out[..count])
        }
    }

    impl Write for Drops {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// The body as text and whether the connection can go on, or what is wrong.
    fn answer(text: &str) -> Result<(String, bool), String> {
        let stream = Drops(io::Cursor::new(text.as_bytes().to_vec()));
        let mut wire = Wire::new(Box::new(stream));
        let head = wire.read_head().map_err(|error| error.to_string())?;
        let mut body = wire.into_body(&head, false).map_err(|error| error.to_string())?;
        let mut text = String::new();
        body.read_to_string(&mut text)
            .map_err(|error| error.to_string())?;
        Ok((text, body.into_wire().is_some()))
    }

    #[test]
    fn bodies_end_where_rfc_9112_says() {
        let ok = |text: &str, keeps| Ok((text.to_owned(), keeps));
        let error = |text: &str| Err(text.to_owned());
        for (text, expected) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", ok("abc", true)),
            ("HTTP/1.1 200\nContent-Length: 0\n\n", ok("", true)),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: x, Close\r\n\r\nabc",
                ok("abc", false),
            ),
            (
                "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
                ok("", true),
            ),
            ("HTTP/1.0 200 OK\r\n\r\nabc", ok("abc", false)),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n1\r\nd\r\n0\r\nT: r\r\n\r\n",
                ok("abcd", true),
            ),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab",
                error("unexpected end of file"),
            ),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
                error("unexpected end of file"),
            ),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n",
                error("a chunk is longer than its size"),
            ),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n+3\r\nabc\r\n",
                error("a chunk's size is malformed"),
            ),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n",
                error("a chunk's size is malformed"),
            ),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
                error("its transfer coding is not supported"),
            ),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n",
                error("it has both a length and a transfer coding"),
            ),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n",
                error("it has several lengths"),
            ),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: -3\r\n\r\n",
                error("its length is malformed"),
            ),
            ("HTTP/1.1 2x0 OK\r\n\r\n", error("its status line is malformed")),
            (
                "HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
                error("a header has no colon"),
            ),
            (
                "HTTP/1.1 200 OK\r\nX: y\r\n folded: z\r\n\r\n",
                error("a header's name is malformed"),
            ),
            ("SSH-2.0-OpenSSH\r\n\r\n", error("it is not HTTP/1")),
            ("", error("unexpected end of file")),
        ] {
            assert_eq!(answer(text), expected, "{text}");
        }
    }

    #[test]
    fn heads_have_a_bound() {
        let long = format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "y".repeat(HEAD_BYTES_MAX));
        assert_eq!(answer(&long), Err("its head is too long".into()));
        let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "X: y\r\n".repeat(HEADERS_MAX + 1));
        assert_eq!(answer(&many), Err("it has too many headers".into()));
        let interim = "HTTP/1.1 100 Continue\r\n\r\n".repeat(INTERIM_MAX + 1);
        assert_eq!(answer(&interim), Err("it never comes to the point".into()));
    }

    proptest::proptest! {
        #[test]
        fn any_answer_ends(text in "\\PC{0,60}|HTTP/1.1 200 OK\r\n(Transfer-Encoding: chunked\r\n)?\r\n[0-9a-f;\r\n]{0,60}") {
            drop(answer(&text));
        }
    }
}
