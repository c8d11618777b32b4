//! The HTTP versions that listeners serve.

/// The HTTP version of a connection, known before its first byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    Http1,
    Http2,
}
