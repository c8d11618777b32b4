//! One request and its answer.

use std::error::Error;

use axum_core::body::Body;
use bytes::Bytes;
use gaia_runtime::MeshClient;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Limited};

/// The credential of a request.
#[derive(Clone, Copy)]
pub(super) enum Credential<'a> {
    ApiKey(&'a str),
    Token(&'a str),
    None,
}

/// The answer.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    /// True if a 401 is about the token, so that another one may be accepted.
    pub(super) refuses_token: bool,
    pub(super) body: Bytes,
}

/// Makes a request, within [`super::TIMEOUT`]. The error describes why there is no answer.
pub(super) async fn send(
    client: &MeshClient,
    method: Method,
    url: &str,
    credential: Credential<'_>,
    body: Bytes,
) -> Result<Answer, String> {
    let request = Request::builder().method(method).uri(url);
    let request = match credential {
        Credential::ApiKey(key) => request.header("x-api-key", key),
        Credential::Token(token) => request.header(header::AUTHORIZATION, format!("Bearer {token}")),
        Credential::None => request,
    };
    let request = request.body(Body::from(body)).map_err(|error| error.to_string())?;
    match tokio::time::timeout(super::TIMEOUT, exchange(client, request)).await {
        Ok(answer) => answer,
        Err(_) => Err(format!("no answer within {} s", super::TIMEOUT.as_secs())),
    }
}

async fn exchange(client: &MeshClient, request: Request<Body>) -> Result<Answer, String> {
    let response = client.request(request).await.map_err(|error| in_words(&error))?;
    let status = response.status();
    let challenge = response.headers().get(header::WWW_AUTHENTICATE).and_then(|value| value.to_str().ok());
    let refuses_token = status == StatusCode::UNAUTHORIZED
        && challenge.is_some_and(|challenge| challenge.contains(r#"error="invalid_token""#));
    let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect().await;
    let body = body.map_err(|error| format!("{status}, but its body broke off: {error}"))?.to_bytes();
    Ok(Answer { status, refuses_token, body })
}

/// An error with its chain of causes: a client's reason is the last one.
pub(crate) fn in_words(error: &dyn Error) -> String {
    let mut words = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_words = cause.to_string();
        if !words.contains(&cause_words) {
            words = format!("{words}: {cause_words}");
        }
        source = cause.source();
    }
    words
}

const MAX_ANSWER_BYTES: usize = 4 * 1024 * 1024;
