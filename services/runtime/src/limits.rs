//! How long a client may take and how much it may hold: what keeps a slow or silent one from costing the others.

use std::time::Duration;

/// The limits of one listener's connections. Tests shorten them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Open at a time; more wait in the kernel's queue.
    pub(crate) connections: usize,
    /// From the connection to the end of the TLS handshake.
    pub(crate) handshake: Duration,
    /// From there to the end of the first request's head: a silent or half-sent HTTP/2 preface ends here too.
    pub(crate) first_request: Duration,
    /// For the head of each later request, the wait for its first byte included (HTTP/1).
    pub(crate) head: Duration,
    /// Without a request under way (HTTP/2, where pings keep a connection alive for ever).
    pub(crate) idle: Duration,
    /// What a body may fall behind [`MIN_BYTES_PER_SECOND`], in either direction.
    pub(crate) slack: Duration,
    /// How long a connection is used, so that peers that keep theirs open come to show their newest leaf, and to see
    /// ours.
    pub(crate) age: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 4096,
            handshake: Duration::from_secs(10),
            first_request: Duration::from_secs(10),
            head: Duration::from_secs(30),
            idle: Duration::from_secs(60),
            slack: Duration::from_secs(20),
            age: Duration::from_secs(600),
        }
    }
}

/// What a client must send or take, on average.
pub(crate) const MIN_BYTES_PER_SECOND: u32 = 1024;
pub(crate) const MAX_STREAMS: u32 = 128;
pub(crate) const MAX_HEAD_BYTES: usize = 64 * 1024;
pub(crate) const MAX_HEADER_LIST_BYTES: u32 = 32 * 1024;
/// How many requests are under way on one connection of ours before the next ones take another (HTTP/2). Well below what
/// servers take, for what ends here may still be on its way there.
pub(crate) const LANE_STREAMS: u32 = MAX_STREAMS / 2;
/// What is held for one stream that sends faster than it is read (HTTP/2).
pub(crate) const STREAM_WINDOW_BYTES: u32 = 64 * 1024;
/// The same for all streams of one connection. Where nobody reads, a stream takes its whole window out of this one and
/// gives nothing back: there is room for all that our clients put on a connection, or a few that are not read would hold
/// up all others. It is so for requests at a server, and for answers at a client.
pub(crate) const CONNECTION_WINDOW_BYTES: u32 = LANE_STREAMS * STREAM_WINDOW_BYTES;
/// What is held for one stream that is written faster than it is taken (HTTP/2).
pub(crate) const MAX_SEND_BUFFER_BYTES: usize = 64 * 1024;
