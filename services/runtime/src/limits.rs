//! Limits of time and memory per client, so that slow or silent clients do not affect others.

use std::time::Duration;

/// The limits of one listener's connections. Tests shorten them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Maximum number of open connections, shared among sources.
    pub(crate) connections: usize,
    /// Maximum number of open connections of the admin listener.
    pub(crate) admin_connections: usize,
    /// Memory for heads and requests in progress of all connections.
    pub(crate) head_bytes: usize,
    /// From the connection to the end of the TLS handshake.
    pub(crate) handshake: Duration,
    /// From there to the end of the first request's head; also ends a silent or incomplete HTTP/2 preface.
    pub(crate) first_request: Duration,
    /// From the end of a response to the end of the next request's head (HTTP/1).
    pub(crate) keep_alive: Duration,
    /// From the first byte of a head to its end (HTTP/1).
    pub(crate) head: Duration,
    /// Without a request in progress (HTTP/2, where pings would keep a connection alive indefinitely).
    pub(crate) idle: Duration,
    /// Time that a body may lag behind [`MIN_BYTES_PER_SECOND`], in either direction.
    pub(crate) slack: Duration,
    /// Maximum age of a connection, so that peers present their current leaf and see ours.
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
    /// Returns the defaults for a memory limit. A connection costs up to 40 KiB; a third of the limit is for the
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
/// Minimum average transfer rate of a client.
pub(crate) const MIN_BYTES_PER_SECOND: u32 = 1024;
pub(crate) const MAX_STREAMS: u32 = 128;
/// Maximum size of a request head, in both HTTP versions.
pub(crate) const MAX_HEAD_BYTES: u32 = 64 * 1024;
/// Requests in progress on one client connection before another shard is used (HTTP/2). Well below the limit of
/// servers, because a request that ended here may still be in progress there.
pub(crate) const SHARD_STREAMS: u32 = MAX_STREAMS / 2;
/// Buffer of a stream that is received faster than it is read (HTTP/2).
pub(crate) const STREAM_WINDOW_BYTES: u32 = 64 * 1024;
/// Buffer of all streams of one connection. An unread stream consumes its whole window from this one, so there is space
/// for all requests of one shard; otherwise a few unread streams would stall the others. This applies to requests at a
/// server and to responses at a client.
pub(crate) const CONNECTION_WINDOW_BYTES: u32 = SHARD_STREAMS * STREAM_WINDOW_BYTES;
/// Buffer of a stream that is written faster than it is received (HTTP/2).
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
