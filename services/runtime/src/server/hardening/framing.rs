//! Strict HTTP/1 message framing in front of hyper.
//!
//! hyper accepts everything that RFC 9112 permits: two equal lengths, a length together with chunks (it uses the
//! chunks), and a bare LF as the end of a header line. A proxy in front may frame such a request differently. The
//! request is therefore cut off before its head is complete, and replaced by bytes that hyper answers with 400. Both
//! parsers must agree on the start of each request, otherwise a request could pass unchecked: `tests::framing` compares
//! them.

use memchr::memchr;

/// Tracks the requests of one connection byte by byte.
#[derive(Debug, Default)]
pub(crate) struct Framing {
    state: State,
    /// The first bytes of an unfinished line, at most [`MAX_LINE_BYTES`].
    line: Vec<u8>,
    /// Set if the last byte of that line is a CR.
    ends_in_cr: bool,
    /// Bytes of the unfinished head.
    head_bytes: usize,
    length: Option<u64>,
    is_chunked: bool,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Before the request line, where empty lines are skipped.
    #[default]
    Start,
    Header,
    /// Inside a body or a chunk with this number of remaining bytes.
    Data {
        left: u64,
        is_chunk: bool,
    },
    /// After the data of a chunk.
    ChunkEnd,
    ChunkSize,
    Trailer,
}

/// The message can be framed in two ways.
struct Ambiguous;

impl Framing {
    /// Returns the size of the unfinished head or trailers.
    pub(crate) fn unfinished(&self) -> usize {
        self.head_bytes
    }

    #[cfg(test)]
    pub(crate) fn is_at_start(&self) -> bool {
        self.state == State::Start
    }

    #[cfg(test)]
    pub(crate) fn is_in_data(&self) -> bool {
        matches!(self.state, State::Data { .. })
    }

    /// Returns bytes that make hyper answer the unfinished head with 431: more fields than hyper accepts.
    pub(crate) fn too_large(&self) -> Vec<u8> {
        let start: &[u8] = match self.state {
            State::Start => b" HTTP/1.1\r\n",
            _ if self.ends_in_cr => b"\n",
            _ => b"\r\n",
        };
        [start, &b"a:\r\n".repeat(MORE_FIELDS_THAN_READ), b"\r\n"].concat()
    }

    /// Processes the next bytes.
    ///
    /// # Errors
    /// The number of accepted bytes, if the rest must not be read.
    pub(crate) fn see(&mut self, bytes: &[u8]) -> Result<(), usize> {
        let mut at = 0;
        while at < bytes.len() {
            if let State::Data { left, is_chunk } = self.state {
                let here = left.min((bytes.len() - at) as u64);
                at += usize::try_from(here).unwrap_or(bytes.len() - at);
                self.state = match (left - here, is_chunk) {
                    (0, true) => State::ChunkEnd,
                    (0, false) => State::Start,
                    (left, is_chunk) => State::Data { left, is_chunk },
                };
                continue;
            }
            let rest = &bytes[at..];
            let Some(end) = memchr(b'\n', rest) else {
                self.keep(rest);
                break;
            };
            self.keep(&rest[..end]);
            at += end;
            // RFC 9112, section 2.2: a recipient may accept a bare LF. hyper does in heads and does not in trailers.
            if !std::mem::take(&mut self.ends_in_cr) {
                return Err(at);
            }
            self.head_bytes += 1;
            let mut line = std::mem::take(&mut self.line);
            let ended = self.line_ended(line.strip_suffix(b"\r").unwrap_or(&line));
            line.clear();
            self.line = line;
            ended.map_err(|Ambiguous| at)?;
            at += 1;
        }
        Ok(())
    }

    /// Buffers part of a line until it is complete.
    fn keep(&mut self, part: &[u8]) {
        let Some(last) = part.last() else { return };
        self.ends_in_cr = *last == b'\r';
        if matches!(self.state, State::Start | State::Header | State::Trailer) {
            self.head_bytes += part.len();
        }
        let room = MAX_LINE_BYTES.saturating_sub(self.line.len());
        self.line.extend_from_slice(&part[..part.len().min(room)]);
    }

    fn line_ended(&mut self, line: &[u8]) -> Result<(), Ambiguous> {
        self.state = match self.state {
            State::Start if line.is_empty() => State::Start,
            State::Start => {
                (self.length, self.is_chunked) = (None, false);
                State::Header
            }
            State::Header if line.is_empty() => match self.length {
                _ if self.is_chunked => State::ChunkSize,
                Some(left) if left > 0 => State::Data { left, is_chunk: false },
                _ => State::Start,
            },
            State::Header => {
                self.header(line)?;
                State::Header
            }
            State::ChunkSize => match chunk_size(line)? {
                0 => State::Trailer,
                left => State::Data { left, is_chunk: true },
            },
            State::ChunkEnd if line.is_empty() => State::ChunkSize,
            State::Trailer if line.is_empty() => State::Start,
            State::Trailer => State::Trailer,
            State::ChunkEnd | State::Data { .. } => return Err(Ambiguous),
        };
        if !matches!(self.state, State::Header | State::Trailer) {
            self.head_bytes = 0;
        }
        Ok(())
    }

    fn header(&mut self, line: &[u8]) -> Result<(), Ambiguous> {
        let colon = line.iter().position(|&byte| byte == b':').ok_or(Ambiguous)?;
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if name.iter().any(u8::is_ascii_whitespace) {
            return Err(Ambiguous);
        }
        if name.eq_ignore_ascii_case(b"content-length") {
            let is_first = self.length.is_none() && !self.is_chunked;
            let length = std::str::from_utf8(value).ok().filter(|value| value.bytes().all(|b| b.is_ascii_digit()));
            let length = length.and_then(|value| value.parse().ok()).filter(|_| is_first);
            self.length = Some(length.ok_or(Ambiguous)?);
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            // Other transfer codings are not supported.
            if self.is_chunked || self.length.is_some() || !value.eq_ignore_ascii_case(b"chunked") {
                return Err(Ambiguous);
            }
            self.is_chunked = true;
        }
        Ok(())
    }
}

/// Parses the size at the start of a chunk's first line (RFC 9112, section 7.1).
fn chunk_size(line: &[u8]) -> Result<u64, Ambiguous> {
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let text = std::str::from_utf8(&line[..digits]).map_err(|_| Ambiguous)?;
    match line.get(digits) {
        None | Some(b';' | b' ' | b'\t') if (1..=MAX_SIZE_DIGITS).contains(&digits) => {
            u64::from_str_radix(text, 16).map_err(|_| Ambiguous)
        }
        _ => Err(Ambiguous),
    }
}

/// hyper refuses a NUL in heads and in chunk sizes.
pub(crate) const POISON: &[u8] = b"\0\r\n\r\n";
/// Maximum length of a line that is buffered. Valid values of both framing headers and of chunk sizes are shorter.
const MAX_LINE_BYTES: usize = 256;
const MAX_SIZE_DIGITS: usize = 15;
/// hyper accepts 100 fields.
const MORE_FIELDS_THAN_READ: usize = 101;

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the number of accepted bytes, read in pieces of `step`; none if all are accepted.
    fn good(text: &str, step: usize) -> Option<usize> {
        let mut framing = Framing::default();
        let mut before = 0;
        for piece in text.as_bytes().chunks(step) {
            if let Err(good) = framing.see(piece) {
                return Some(before + good);
            }
            before += piece.len();
        }
        None
    }

    const NEXT: &str = "GET / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n";

    #[test]
    fn the_next_request_begins_where_the_one_before_ends_however_it_is_cut() {
        let long = format!("X-Long: {}\r\n", "content-length: 5".repeat(50));
        for request in [
            "GET / HTTP/1.1\r\n\r\n".to_owned(),
            "\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(),
            "PUT / HTTP/1.1\r\nContent-Length: 5\r\n\r\nGET /".to_owned(),
            "PUT / HTTP/1.1\r\nContent-Length: 0\r\n\r\n".to_owned(),
            "PUT / HTTP/1.1\r\ntransfer-encoding: Chunked\r\n\r\n5\r\nGET /\r\n0\r\n\r\n".to_owned(),
            "PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nA;x=y\r\n0123456789\r\n0\r\nContent-Length: 9\r\n\r\n"
                .to_owned(),
            format!("GET / HTTP/1.1\r\n{long}\r\n"),
        ] {
            for step in [1, 2, 3, 7, 4096] {
                assert_eq!(good(&request, step), None, "{request:?}");
                let both = format!("{request}{request}{NEXT}");
                let refused = both.len() - "\n\r\n".len();
                assert_eq!(good(&both, step), Some(refused), "{both:?} in pieces of {step}");
            }
        }
    }

    #[test]
    fn a_head_is_never_complete_that_has_two_ends() {
        for lines in [
            "Content-Length: 3\r\nContent-Length: 3\r\n",
            "Content-Length: 3\r\ntransfer-encoding: chunked\r\n",
            "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: gzip, chunked\r\n",
            "Transfer-Encoding:\r\n",
            "Content-Length: 3,3\r\n",
            "Content-Length: +3\r\n",
            "Content-Length:\r\n",
            "Content-Length : 3\r\n",
            " Content-Length: 3\r\n",
            "no colon\r\n",
        ] {
            let request = format!("PUT / HTTP/1.1\r\n{lines}\r\n");
            for step in [1, 5, 4096] {
                let good = good(&request, step).unwrap_or_else(|| panic!("{lines:?}"));
                assert!(!request[..good].ends_with("\r\n\r\n"), "{lines:?}");
            }
        }
    }

    #[test]
    fn a_bare_lf_ends_no_line() {
        let chunked = "PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
        for request in [
            "\nGET / HTTP/1.1\r\n\r\n".to_owned(),
            "GET / HTTP/1.1\nHost: x\r\n\r\n".to_owned(),
            "GET / HTTP/1.1\r\nHost: x\n\r\n".to_owned(),
            "GET / HTTP/1.1\r\nHost: x\r\n\n".to_owned(),
            format!("GET / HTTP/1.1\r\nX-Long: {}\n\r\n", "x".repeat(2 * MAX_LINE_BYTES)),
            format!("{chunked}1\na\r\n0\r\n\r\n"),
            format!("{chunked}1\r\na\n0\r\n\r\n"),
            format!("{chunked}0\n\r\n"),
            format!("{chunked}0\r\n\n"),
            format!("{chunked}0\r\nA: b\n\r\n"),
            format!("{chunked}0\r\nA: b\r\n\nGET / HTTP/1.1\r\n\r\n"),
        ] {
            for step in [1, 2, 3, 7, 4096] {
                assert!(good(&request, step).is_some(), "{request:?} in pieces of {step}");
            }
        }
    }

    #[test]
    fn a_chunk_that_is_none_is_read_no_further() {
        for chunks in ["zz\r\n", "\r\n", "3\r\nabcd\r\n", "-1\r\n", "0x3\r\n", "10000000000000000\r\n"] {
            let request = format!("PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}0\r\n\r\n");
            assert!(good(&request, 4096).is_some(), "{chunks:?}");
        }
    }
}
