//! Where one HTTP/1 request ends and the next begins, read strictly.
//!
//! hyper takes what RFC 9112 lets a server take: two lengths that agree, or a length beside chunks, of which it believes the
//! chunks. It passes neither on, but a proxy in front of us may have believed the other one. So such a request is made
//! into one that hyper refuses, with a 400, before its head is complete.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use memchr::memchr;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A connection that brings no request whose end could be seen in two places.
pub(crate) struct Framed<IO> {
    io: IO,
    framing: Option<Framing>,
    /// What is read in place of the rest.
    poison: &'static [u8],
    is_refused: bool,
}

impl<IO> Framed<IO> {
    /// HTTP/1.
    pub(crate) fn strictly(io: IO) -> Self {
        Self { io, framing: Some(Framing::default()), poison: &[], is_refused: false }
    }

    /// Something that frames in another way.
    pub(crate) fn freely(io: IO) -> Self {
        Self { io, framing: None, poison: &[], is_refused: false }
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Framed<IO> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if !this.is_refused {
            let before = buf.filled().len();
            ready!(Pin::new(&mut this.io).poll_read(cx, buf))?;
            let Some(framing) = &mut this.framing else { return Poll::Ready(Ok(())) };
            let Err(good) = framing.see(&buf.filled()[before..]) else { return Poll::Ready(Ok(())) };
            buf.set_filled(before + good);
            this.is_refused = true;
            this.poison = POISON;
        }
        let (now, later) = this.poison.split_at(this.poison.len().min(buf.remaining()));
        buf.put_slice(now);
        this.poison = later;
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Framed<IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }
    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// Follows the requests of one connection byte by byte.
#[derive(Debug, Default)]
struct Framing {
    state: State,
    /// What came of a line whose end has not, as far as it is looked at.
    line: Vec<u8>,
    length: Option<u64>,
    is_chunked: bool,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Before the request line, where empty lines are skipped.
    #[default]
    Start,
    Header,
    /// So many bytes are left of the body, or of a chunk.
    Data {
        left: u64,
        is_chunk: bool,
    },
    /// Behind the data of a chunk.
    ChunkEnd,
    ChunkSize,
    Trailer,
}

/// There are two ways to read it.
struct Ambiguous;

impl Framing {
    /// Takes the next bytes.
    ///
    /// # Errors
    /// How many of them are good, if the rest must not be read.
    fn see(&mut self, bytes: &[u8]) -> Result<(), usize> {
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
            let part = &rest[..end];
            at += end;
            if self.line.is_empty() {
                self.line_ended(&part[..end.min(MAX_LINE_BYTES)]).map_err(|Ambiguous| at)?;
            } else {
                self.keep(part);
                let line = std::mem::take(&mut self.line);
                self.line_ended(&line).map_err(|Ambiguous| at)?;
                self.line = line;
                self.line.clear();
            }
            at += 1;
        }
        Ok(())
    }

    /// Keeps part of a line until its end is there.
    fn keep(&mut self, part: &[u8]) {
        let room = MAX_LINE_BYTES.saturating_sub(self.line.len());
        self.line.extend_from_slice(&part[..part.len().min(room)]);
    }

    fn line_ended(&mut self, line: &[u8]) -> Result<(), Ambiguous> {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
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
            // No other coding is known here, so no other can be undone.
            if self.is_chunked || self.length.is_some() || !value.eq_ignore_ascii_case(b"chunked") {
                return Err(Ambiguous);
            }
            self.is_chunked = true;
        }
        Ok(())
    }
}

/// The size that a chunk's first line begins with (RFC 9112, section 7.1).
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

/// Neither a head nor a chunk may have a NUL in it: hyper refuses both.
const POISON: &[u8] = b"\0\r\n\r\n";
/// What is looked at of a line. Both headers that count, and the size of a chunk, are shorter where they are good.
const MAX_LINE_BYTES: usize = 256;
const MAX_SIZE_DIGITS: usize = 15;

#[cfg(test)]
mod tests {
    use super::*;

    /// How many bytes are good, read in pieces of `step`; none: all of them.
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
            "GET / HTTP/1.1\nHost: x\n\n".to_owned(),
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
    fn a_chunk_that_is_none_is_read_no_further() {
        for chunks in ["zz\r\n", "\r\n", "3\r\nabcd\r\n", "-1\r\n", "0x3\r\n", "10000000000000000\r\n"] {
            let request = format!("PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}0\r\n\r\n");
            assert!(good(&request, 4096).is_some(), "{chunks:?}");
        }
    }
}
