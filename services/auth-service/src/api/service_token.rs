//! `POST /internal/service-token`.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{Extension, State};
use axum::response::Response;
use gaia_auth::audit::Origin;
use gaia_auth::issue::ServiceClaims;
use gaia_auth::{Connection, PeerIdentity, audit_line, problem};
use gaia_runtime::wire::SERVICE_TOKEN_PATH;
use http::HeaderMap;

use super::refusals::{RefusalKey, Refused};
use super::{Issuing, IssuingInputs, TokenAnswer, token_id};
use crate::denial::Denial;
use crate::issuer::{claims, parse};

pub(super) async fn handle(
    State(issuing): State<Issuing>,
    Extension(connection): Extension<Arc<Connection>>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let result = match (&connection.peer, body) {
        (Some(peer), Ok(body)) => issuing.service_token(peer, &connection, &headers, &body).await,
        _ => Err(Denial::Malformed.into()),
    };
    issuing.respond(("service", SERVICE_TOKEN_PATH), (&connection, &headers), result, |denial| {
        let (status, message) = denial.answer();
        problem(status, message)
    })
}

impl Issuing {
    async fn service_token(
        &self,
        peer: &PeerIdentity,
        connection: &Connection,
        headers: &HeaderMap,
        body: &[u8],
    ) -> Result<TokenAnswer, Refused> {
        let charged = || self.limits.check_caller(peer, connection);
        let request = parse(body).or_else(|denial| charged().and(Err(denial)))?;
        let inputs = self.ready()?;
        let key = RefusalKey::of_service_token(peer, &request, &inputs);
        self.refusals.check(key)?;
        charged()?;
        let IssuingInputs { signer, grants, generation } = inputs;
        let claims = claims(&grants, generation.denied(), peer, &request, self.clock.now(), token_id()?);
        let claims = claims.inspect_err(|denial| self.refusals.remember(key, (peer, None, connection), *denial))?;
        let (access_token, claims) = self.signing.sign(&peer.spiffe_id, Arc::clone(&signer), claims).await?;
        // Before the response, so that every issued token is audited.
        audit_issue((peer, Origin::of(connection, headers)), signer.kid(), &claims);
        Ok(TokenAnswer {
            access_token,
            issued_token_type: None,
            token_type: "Bearer",
            expires_in: claims.exp - claims.iat,
            scope: None,
        })
    }
}

fn audit_issue((peer, origin): (&PeerIdentity, Origin<'_>), kid: &str, claims: &ServiceClaims) {
    audit_line!(
        origin,
        event = "token_issued",
        result = "issued",
        who = peer.spiffe_id.as_str(),
        how = "mtls",
        serial = peer.serial.as_ref(),
        kid,
        jti = claims.jti,
        aud = claims.aud,
        scope = claims.scope,
        expires = claims.exp,
        route = SERVICE_TOKEN_PATH,
    );
}
