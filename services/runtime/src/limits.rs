//! How long a client may take and how much it may hold: what keeps a slow or silent one from costing the others.

use std::time::Duration;

/// The limits of one listener's connections. Tests shorten them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Open at a time, shared out over their sources.
    pub(crate) connections: usize,
    /// Of the admin listener.
    pub(crate) admin_connections: usize,
    /// Memory for heads and requests under way, over all connections.
    pub(crate) head_bytes: usize,
    /// From the connection to the end of the TLS handshake.
    pub(crate) handshake: Duration,
    /// From there to the end of the first request's head: a silent or half-sent HTTP/2 preface ends here too.
    pub(crate) first_request: Duration,
    /// From the end of an answer to the end of the next request's head (HTTP/1).
    pub(crate) keep_alive: Duration,
    /// From the first byte of a head to its end (HTTP/1).
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
            connections: MAX_CONNECTIONS,
            admin_connections: 64,
            head_bytes: MAX_HEAD_BUDGET_BYTES,
            handshake: Duration::from_secs(10),
            first_request: Duration::from_secs(10),
            keep_alive: Duration::from_secs(30),
            head: Duration::from_secs(30),
            idle: Duration::from_secs(60),
            slack: Duration::from_secs(20),
            age: Duration::from_secs(600),
        }
    }
}

impl Limits {
    /// The defaults, where a connection costs up to 40 KiB and the process may use so much memory: a third of it for the
    /// connections of a listener, and an eighth for heads.
    pub(crate) fn within(memory: Option<u64>) -> Self {
        let memory = memory.and_then(|bytes| usize::try_from(bytes).ok()).unwrap_or(usize::MAX);
        Self {
            connections: (memory / MEMORY_PER_CONNECTION).clamp(MIN_CONNECTIONS, MAX_CONNECTIONS),
            head_bytes: (memory / 8).clamp(MIN_HEAD_BUDGET_BYTES, MAX_HEAD_BUDGET_BYTES),
            ..Self::default()
        }
    }
}

const MEMORY_PER_CONNECTION: usize = 128 * 1024;
const MIN_CONNECTIONS: usize = 256;
const MAX_CONNECTIONS: usize = 4096;
const MIN_HEAD_BUDGET_BYTES: usize = 4 * 1024 * 1024;
const MAX_HEAD_BUDGET_BYTES: usize = 64 * 1024 * 1024;
/// What a client must send or take, on average.
pub(crate) const MIN_BYTES_PER_SECOND: u32 = 1024;
pub(crate) const MAX_STREAMS: u32 = 128;
/// The head of a request, in both HTTP versions.
pub(crate) const MAX_HEAD_BYTES: u32 = 64 * 1024;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_follow_the_memory_limit_of_the_process() {
        let bounds = |mebibytes: Option<u64>| {
            let limits = Limits::within(mebibytes.map(|mebibytes| mebibytes * 1024 * 1024));
            (limits.connections, limits.head_bytes / 1024 / 1024)
        };
        assert_eq!(bounds(Some(128)), (1024, 16));
        assert_eq!(bounds(Some(16)), (256, 4));
        assert_eq!(bounds(Some(512)), (4096, 64));
        assert_eq!(bounds(Some(1 << 20)), (4096, 64));
        assert_eq!(bounds(None), (4096, 64));
    }
}
