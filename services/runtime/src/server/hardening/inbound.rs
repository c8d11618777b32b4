//! Filter for bytes of one connection before hyper reads them: ambiguous requests, floods, and requests above the
//! source's share of memory end the connection here.

use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

use crate::server::hardening::frames::{Flood, Frames};
use crate::server::hardening::framing::{Framing, POISON};
use crate::server::hardening::heads::{ConnectionHeads, HeadsExhausted};
use crate::server::protocol::Protocol;

/// A connection as hyper reads it.
pub(crate) struct Inbound<IO> {
    io: IO,
    follow: Follow,
    heads: ConnectionHeads,
    /// Bytes that replace the rest of the input.
    poison: Option<Vec<u8>>,
    /// Timeout for one HTTP/1 head, from its first to its last byte.
    head_timeout: Duration,
    head_deadline: Option<Pin<Box<Sleep>>>,
}

enum Follow {
    Http1(Framing),
    Http2(Frames),
}

/// How a connection ends.
enum End {
    /// After this many received bytes, followed by these replacement bytes.
    With(usize, Vec<u8>),
    /// Immediately.
    Now,
}

impl<IO> Inbound<IO> {
    pub(crate) fn new(io: IO, protocol: Protocol, heads: ConnectionHeads, head_timeout: Duration) -> Self {
        let follow = match protocol {
            Protocol::Http1 => Follow::Http1(Framing::default()),
            Protocol::Http2 => Follow::Http2(Frames::new(Instant::now())),
        };
        Self { io, follow, heads, poison: None, head_timeout, head_deadline: None }
    }
}

impl<IO> Inbound<IO> {
    fn time_head(&mut self) {
        let Follow::Http1(framing) = &self.follow else { return };
        match (framing.unfinished(), &self.head_deadline) {
            (0, _) => self.head_deadline = None,
            (_, None) => self.head_deadline = Some(Box::pin(sleep(self.head_timeout))),
            _ => {}
        }
    }
}

impl Follow {
    /// Reads less than hyper's first buffer has (HTTP/1): after a read that fills its buffer hyper doubles it, up to 64 KiB, and
    /// keeps it while the connection is open.
    fn poll_read<IO: AsyncRead>(
        &self,
        io: Pin<&mut IO>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if matches!(self, Self::Http2(_)) || buf.remaining() <= MAX_READ_BYTES {
            return io.poll_read(cx, buf);
        }
        let mut part = ReadBuf::new(buf.initialize_unfilled_to(MAX_READ_BYTES));
        ready!(io.poll_read(cx, &mut part))?;
        let read = part.filled().len();
        buf.advance(read);
        Poll::Ready(Ok(()))
    }

    fn see(&mut self, bytes: &[u8], heads: &ConnectionHeads) -> Result<(), End> {
        match self {
            Self::Http1(framing) => {
                framing.see(bytes).map_err(|good| End::With(good, POISON.to_vec()))?;
                let exhausted = |HeadsExhausted| End::With(bytes.len(), framing.too_large());
                heads.set_unfinished(framing.unfinished()).map_err(exhausted)
            }
            Self::Http2(frames) => {
                let seen = frames.see(bytes, Instant::now());
                seen.map_err(|Flood { good }| End::With(good, frames.goaway()))?;
                heads.arrived(frames.arrived()).map_err(|HeadsExhausted| match frames.is_at_boundary() {
                    true => End::With(bytes.len(), frames.goaway()),
                    false => End::Now,
                })
            }
        }
    }

    /// Takes bytes of the server.
    fn wrote<'a>(&mut self, written: impl Iterator<Item = &'a [u8]>, heads: &ConnectionHeads) {
        match self {
            Self::Http1(_) => heads.wrote_response(written.map(<[u8]>::len).sum(), None),
            Self::Http2(frames) => {
                let data = written.map(|bytes| frames.wrote(bytes)).sum();
                heads.wrote_response(data, Some(frames.streams()));
            }
        }
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Inbound<IO> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.poison.is_none() {
            let before = buf.filled().len();
            if this.follow.poll_read(Pin::new(&mut this.io), cx, buf)?.is_pending() {
                let Some(deadline) = &mut this.head_deadline else { return Poll::Pending };
                ready!(deadline.as_mut().poll(cx));
                return Poll::Ready(Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    "the request head arrived too slowly",
                )));
            }
            // Data of complete records has been decrypted, so the reservation for records is released.
            let _ = this.heads.set_records(0);
            match this.follow.see(&buf.filled()[before..], &this.heads) {
                Ok(()) => {
                    this.time_head();
                    return Poll::Ready(Ok(()));
                }
                Err(End::Now) => return Poll::Ready(Err(io::Error::other(HeadsExhausted))),
                Err(End::With(good, poison)) => {
                    buf.set_filled(before + good);
                    this.poison = Some(poison);
                }
            }
        }
        if let Some(poison) = &mut this.poison {
            let later = poison.split_off(poison.len().min(buf.remaining()));
            buf.put_slice(poison);
            *poison = later;
        }
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Inbound<IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let written = ready!(Pin::new(&mut this.io).poll_write(cx, buf))?;
        this.follow.wrote(std::iter::once(&buf[..written]), &this.heads);
        Poll::Ready(Ok(written))
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let written = ready!(Pin::new(&mut this.io).poll_write_vectored(cx, bufs))?;
        let mut left = written;
        let parts = bufs.iter().map(|buf| {
            let part = left.min(buf.len());
            left -= part;
            &buf[..part]
        });
        this.follow.wrote(parts, &this.heads);
        Poll::Ready(Ok(written))
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

/// One byte less than hyper's first buffer.
const MAX_READ_BYTES: usize = 8 * 1024 - 1;

/// The connection below TLS, which counts bytes that TLS has not decrypted yet.
pub(crate) struct UnderTls<IO> {
    io: IO,
    heads: ConnectionHeads,
}

impl<IO> UnderTls<IO> {
    pub(crate) fn new(io: IO, heads: ConnectionHeads) -> Self {
        Self { io, heads }
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for UnderTls<IO> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buf))?;
        self.heads.add_records(buf.filled().len() - before).map_err(io::Error::other)?;
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for UnderTls<IO> {
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

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt as _;

    use super::*;

    /// Kind: hyper doubles its buffer after each read that fills it, up to 64 KiB for each open connection.
    #[tokio::test]
    async fn read_of_http1_fills_no_buffer_of_hyper() {
        let heads = crate::server::hardening::heads::HeadBudget::new(1 << 20).connection([127, 0, 0, 1].into());
        let body = [b"PUT / HTTP/1.1\r\nhost: x\r\ncontent-length: 60000\r\n\r\n".as_slice(), &[7; 60_000]].concat();
        let mut inbound = Inbound::new(body.as_slice(), Protocol::Http1, heads, Duration::from_secs(1));
        let (mut read, mut buffer) = (Vec::new(), vec![0; 64 * 1024]);
        loop {
            let bytes = inbound.read(&mut buffer).await.unwrap();
            assert!(bytes < 8192, "{bytes}");
            if bytes == 0 {
                break;
            }
            read.extend_from_slice(&buffer[..bytes]);
        }
        assert_eq!(read, body);
    }
}
