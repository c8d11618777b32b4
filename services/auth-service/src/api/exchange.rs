//! `POST /internal/token-exchange`.

use std::net::IpAddr;
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{Extension, State};
use axum::response::Response;
use gaia_auth::audit::Origin;
use gaia_auth::issue::DelegatedClaims;
use gaia_auth::{Client, Connection, Introspected, PeerIdentity, Refusal, audit_line, problem_with};
use gaia_runtime::wire::{JWT_TYPE, TOKEN_EXCHANGE_PATH};
use http::HeaderMap;

use super::refusals::{RefusalKey, Refused};
use super::{Issuing, IssuingInputs, TokenAnswer, token_id};
use crate::denial::Denial;
use crate::exchange::{ExchangeRequest, SubjectCredential, claims};
use crate::form;

pub(super) async fn handle(
    State(issuing): State<Issuing>,
    Extension(connection): Extension<Arc<Connection>>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let result = match (&connection.peer, body) {
        (Some(peer), Ok(body)) => issuing.exchange(peer, &connection, &headers, &body).await,
        _ => Err(Denial::Malformed.into()),
    };
    issuing.respond(("delegated", TOKEN_EXCHANGE_PATH), (&connection, &headers), result, |denial| {
        let (status, message) = denial.answer();
        problem_with(status, message, &[("error", denial.oauth_code()), ("error_description", message)])
    })
}

impl Issuing {
    async fn exchange(
        &self,
        peer: &PeerIdentity,
        connection: &Connection,
        headers: &HeaderMap,
        body: &[u8],
    ) -> Result<TokenAnswer, Refused> {
        let client = Client::of(headers);
        let site = client.site();
        let charged = |denial: Denial| match denial.is_of_the_request() {
            true => self.limits.check_refused(peer, site, connection).err().unwrap_or(denial),
            false => denial,
        };
        let form = form::parse(headers, body).ok_or(Denial::Malformed);
        let request = form.and_then(ExchangeRequest::parse).map_err(charged)?;
        let inputs = self.ready()?;
        let key = RefusalKey::of_exchange(peer, &request, &inputs, self.authenticator.user_keys());
        self.refusals.check(key)?;
        let result = self.exchange_for(client, peer, connection, headers, &request, inputs).await;
        result.map_err(|denial| {
            self.refusals.remember(key, (peer, site, connection), denial);
            charged(denial).into()
        })
    }

    async fn exchange_for(
        &self,
        client: Client,
        peer: &PeerIdentity,
        connection: &Connection,
        headers: &HeaderMap,
        request: &ExchangeRequest,
        IssuingInputs { signer, grants, generation }: IssuingInputs,
    ) -> Result<TokenAnswer, Denial> {
        let site = client.site();
        let examined = match &request.subject {
            SubjectCredential::Token(token) => {
                let client = Client { address: client.address.or(connection.address), ..client };
                self.authenticator.introspect_token(token, Some(peer), client).await
            }
            SubjectCredential::ApiKey(key) => {
                self.authenticator.introspect_key(key, TOKEN_EXCHANGE_PATH, headers, connection)
            }
        };
        let subject = examined.map_err(|refusal| refused(peer, &refusal))?;
        self.limits.check_exchange(&subject.subject.to_string(), peer, site, connection)?;
        let claims = claims(&grants, generation.denied(), peer, &subject, request, self.clock.now(), token_id()?)?;
        let (access_token, claims) = self.signing.sign(&peer.spiffe_id, Arc::clone(&signer), claims).await?;
        // Before the response, so that every issued token is audited.
        audit_issue((peer, Origin::of(connection, headers), site), &subject, signer.kid(), &claims);
        Ok(TokenAnswer {
            access_token,
            issued_token_type: Some(JWT_TYPE),
            token_type: "Bearer",
            expires_in: claims.exp - claims.iat,
            scope: claims.scope,
        })
    }
}

fn refused(peer: &PeerIdentity, refusal: &Refusal) -> Denial {
    let trace = &refusal.trace;
    tracing::info!(
        peer = peer.spiffe_id.as_str(),
        reason = refusal.reason.as_str(),
        kid = trace.kid.as_deref(),
        jti = trace.jti.as_deref(),
        sub = trace.sub.as_deref(),
        claimed_sub = trace.claimed_sub(),
        key_id = trace.key_id.as_deref(),
        "token exchange refused"
    );
    Denial::SubjectRefused(refusal.reason)
}

fn audit_issue(
    (peer, origin, client): (&PeerIdentity, Origin<'_>, Option<IpAddr>),
    subject: &Introspected,
    kid: &str,
    claims: &DelegatedClaims,
) {
    audit_line!(
        origin,
        event = "token_issued",
        result = "issued",
        who = peer.spiffe_id.as_str(),
        how = "mtls",
        serial = peer.serial.as_ref(),
        kid,
        jti = claims.jti,
        sub = claims.sub,
        aud = claims.aud,
        scope = claims.scope,
        expires = claims.exp,
        subject_credential = subject.kind.as_str(),
        subject_kid = subject.trace.kid.as_deref(),
        subject_jti = subject.trace.jti.as_deref(),
        client_address = client.map(tracing::field::display),
        route = TOKEN_EXCHANGE_PATH,
    );
}
