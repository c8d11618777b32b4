//! Listeners: the mesh (mutual TLS), the ingress and what both share.
//!
//! In: TCP connections. Out: requests with the identity of their peer, for the service's routes. A connection passes
//! `slots` (share of its source), `handshake` (within `handshake_limits`), `hardening` (framing, sizes, minimum rates) and `connection` (its age, its
//! drain, its end when a CA is distrusted).
//!
//! Read `mesh`, then `connection`, `handshake` and `slots`; `ingress` is the listener for browsers and user clients,
//! `tracking` the list of open mesh connections, `activity` the requests in progress on one.

pub(crate) mod activity;
pub(crate) mod connection;
pub(crate) mod handshake;
pub(crate) mod handshake_limits;
pub(crate) mod hardening;
pub(crate) mod ingress;
pub(crate) mod mesh;
pub(crate) mod protocol;
pub(crate) mod request_id;
pub(crate) mod slots;
pub(crate) mod tracking;
