//! Extractors for handlers: the principal, and the peer.

use std::sync::Arc;

use crate::principal::{Connection, PeerIdentity, Principal};
use crate::{Reason, Refusal};

/// The principal as an extractor. On a public route it responds with 500, because the handler does not match its route.
impl<S: Sync> axum_core::extract::FromRequestParts<S> for Principal {
    type Rejection = axum_core::response::Response;

    async fn from_request_parts(parts: &mut http::request::Parts, _: &S) -> Result<Self, Self::Rejection> {
        parts.extensions.get::<Self>().cloned().ok_or_else(|| {
            tracing::error!("handler requires a principal, but its route is public");
            crate::problem(http::StatusCode::INTERNAL_SERVER_ERROR, "This service is misconfigured.")
        })
    }
}

/// The peer as an extractor. Without a peer, on a route that does not require one, it responds with 401.
impl<S: Sync> axum_core::extract::FromRequestParts<S> for PeerIdentity {
    type Rejection = axum_core::response::Response;

    async fn from_request_parts(parts: &mut http::request::Parts, _: &S) -> Result<Self, Self::Rejection> {
        let connection = parts.extensions.get::<Arc<Connection>>();
        let peer = connection.and_then(|connection| connection.peer.clone());
        peer.ok_or_else(|| Refusal::from(Reason::PeerMissing).response())
    }
}

impl<S: Sync> axum_core::extract::OptionalFromRequestParts<S> for PeerIdentity {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut http::request::Parts, _: &S) -> Result<Option<Self>, Self::Rejection> {
        Ok(parts.extensions.get::<Arc<Connection>>().and_then(|connection| connection.peer.clone()))
    }
}
