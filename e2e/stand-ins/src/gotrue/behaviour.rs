//! Injected faults, and counts of requests.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use http::{StatusCode, header};

use super::Shared;
use super::failure::Failure;

/// The treatment of a request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Behaviour {
    /// It is answered.
    #[default]
    Normal,
    /// It is answered after a delay.
    Slow(Duration),
    /// It is never answered.
    Hang,
    /// It fails as GoTrue fails with this status.
    Fail(StatusCode),
    /// It gets this answer.
    Answer(StatusCode, String),
    /// It is redirected.
    Redirect(String),
}

/// The behaviour of each path, and the requests so far.
#[derive(Debug, Default)]
pub(super) struct Conduct {
    behaviours: BTreeMap<String, Behaviour>,
    requests: HashMap<String, u64>,
}

impl Conduct {
    pub(super) fn set(&mut self, path: &str, behaviour: Behaviour) {
        self.behaviours.insert(path.to_owned(), behaviour);
    }

    pub(super) fn requests(&self, path: &str) -> u64 {
        self.requests.iter().filter(|(asked, _)| asked.starts_with(path)).map(|(_, count)| count).sum()
    }

    fn received(&mut self, asked: String) -> Behaviour {
        let begins = |(path, _): &(&String, &Behaviour)| asked.starts_with(path.as_str());
        let behaviour = self.behaviours.iter().filter(begins).max_by_key(|(path, _)| path.len());
        let behaviour = behaviour.map(|(_, behaviour)| behaviour.clone()).unwrap_or_default();
        *self.requests.entry(asked).or_default() += 1;
        behaviour
    }
}

pub(super) async fn conduct(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let path = request.uri().path().strip_prefix(shared.prefix.as_str()).unwrap_or(request.uri().path());
    let grant = request.uri().query().and_then(|query| query.split('&').find(|pair| pair.starts_with("grant_type=")));
    let asked = grant.map_or_else(|| path.to_owned(), |grant| format!("{path}?{grant}"));
    let behaviour = shared.conduct().received(asked);
    match behaviour {
        Behaviour::Normal => next.run(request).await,
        Behaviour::Slow(pause) => {
            tokio::time::sleep(pause).await;
            next.run(request).await
        }
        Behaviour::Hang => std::future::pending().await,
        Behaviour::Fail(StatusCode::TOO_MANY_REQUESTS) => Failure::TOO_MANY.into_response(),
        Behaviour::Fail(status) => Failure::unexpected(status).into_response(),
        Behaviour::Answer(status, body) => (status, [(header::CONTENT_TYPE, "application/json")], body).into_response(),
        Behaviour::Redirect(to) => (StatusCode::FOUND, [(header::LOCATION, to)]).into_response(),
    }
}
