//! Limits on what a client sends before a request is handled.
//!
//! In: bytes of a connection. Out: the same bytes, or the end of the connection with a reason. `inbound` is the reader that
//! applies `framing` (HTTP/1, RFC 9112) and `frames` (HTTP/2 floods, RFC 9113) to the bytes before hyper parses them and
//! charges the memory of header sections to `heads`. `host` checks the Host field, `min_rate` the minimum transfer rate,
//! `drain` reads the rest of a request body, `received` charges unread bodies to `heads`.

pub(crate) mod drain;
pub(crate) mod frames;
pub(crate) mod framing;
pub(crate) mod heads;
pub(crate) mod host;
pub(crate) mod inbound;
pub(crate) mod min_rate;
pub(crate) mod received;
