//! HTTP clients.
//!
//! In: a request and the name of a peer, or the URL of an external service. Out: its response, or a typed error. The mesh
//! client accepts a server only by the SPIFFE ID that the policy allows for the host; the external client only by the
//! system's and the configured trust anchors, and never in the cluster's own networks unless the configuration names them.
//!
//! Read `target` (hosts to expected identities), `mesh_client`, `pool` (connections and their streams), then `external`.

pub mod external;
pub(crate) mod mesh_client;
pub(crate) mod pool;
pub(crate) mod target;
