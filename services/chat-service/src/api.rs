//! The endpoint of chat-service.

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use axum::BoxError;
use axum::Json;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use futures::{Stream, stream};
use gaia_auth::{Access, Principal};
use gaia_runtime::{Held, Routes};
use http::{HeaderMap, HeaderValue, header};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use serde_json::json;
use tokio::time::timeout;

use crate::chat::{Asked, Chat, Chats};
use crate::error::ChatError;
use crate::provider::Part;
use crate::question::{MAX_BODY_BYTES, Question};

/// The endpoint and what it works with.
pub(crate) struct Endpoint {
    pub(crate) chats: Chats,
    pub(crate) comment_after: Duration,
}

pub(crate) fn routes(routes: Routes, endpoint: Endpoint) -> Routes {
    routes.route("/chat", Access::Scopes(&["chat:write"]), post(chat).with_state(Arc::new(endpoint)))
}

async fn chat(State(endpoint): State<Arc<Endpoint>>, principal: Principal, request: Request) -> Response {
    let wants_json = wants_json(request.headers());
    let asked = match receive_question(&endpoint.chats, &principal, request).await {
        Ok(asked) => asked,
        Err(error) => return refused(error),
    };
    let chats = Arc::clone(&endpoint);
    let mut beginning = Box::pin(async move { chats.chats.begin(&principal, asked).await });
    if wants_json {
        let answer = async { whole(beginning.await?).await };
        return answer.await.unwrap_or_else(refused);
    }
    // While a model reads a long conversation it is silent for minutes, and proxies in between wait for half of one: the
    // stream begins without it then, and comments keep it open.
    let next = match timeout(endpoint.comment_after, &mut beginning).await {
        Ok(Ok(chat)) => Next::Part(Box::new(chat)),
        Ok(Err(error)) => return refused(error),
        Err(_) => Next::Beginning(beginning),
    };
    let keep_alive = KeepAlive::new().interval(endpoint.comment_after).text("the provider is silent");
    let mut response = Sse::new(events(next)).keep_alive(keep_alive).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    // nginx and those who follow it collect an answer before they pass it on, unless they are told.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

/// The next step of a stream of events.
enum Next<F> {
    /// The provider has not begun to answer.
    Beginning(F),
    /// The next piece of the answer.
    Part(Box<Chat>),
    /// Nothing.
    End,
}

/// Takes a place before it takes the question: who has to wait for one sends nothing that is held meanwhile.
async fn receive_question(chats: &Chats, principal: &Principal, request: Request) -> Result<Asked, ChatError> {
    let mut account = chats.metrics.begin();
    // What the question takes is held until the provider has it.
    let mut held = chats.room.hold();
    let received = async {
        let slot = chats.slots.take(&principal.subject)?;
        let body = receive(request.into_body(), &mut held).await?;
        Ok::<_, ChatError>((slot, Question::parse(&body)?))
    };
    match received.await {
        Ok((slot, question)) => Ok(Asked { question, slot, account, _held: held }),
        Err(error) => {
            account.came_to(error.code());
            Err(error)
        }
    }
}

async fn receive(body: Body, held: &mut Held) -> Result<Vec<u8>, ChatError> {
    let broken_off =
        |error: BoxError| if error.is::<LengthLimitError>() { ChatError::TooLarge } else { ChatError::NotArrived };
    let mut body = Limited::new(body, MAX_BODY_BYTES);
    let mut received = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(broken_off)?;
        if let Ok(piece) = frame.into_data() {
            held.grow(piece.len()).await?;
            received.extend_from_slice(&piece);
        }
    }
    Ok(received)
}

/// The answer as it comes.
fn events<F>(next: Next<F>) -> impl Stream<Item = Result<Event, Infallible>>
where
    F: Future<Output = Result<Chat, ChatError>> + Unpin,
{
    stream::unfold(next, |next| async {
        let chat = match next {
            Next::Beginning(beginning) => beginning.await.map(Box::new),
            Next::Part(chat) => Ok(chat),
            Next::End => return None,
        };
        let part = match chat {
            Ok(mut chat) => chat.next().await.map(|part| (part, chat)),
            Err(error) => Err(error),
        };
        let (event, next) = match part {
            Ok((Part::Text(text), chat)) => (event("delta", &json!({ "text": text })), Next::Part(chat)),
            Ok((Part::End { finish_reason }, _)) => {
                (event("done", &json!({ "finish_reason": finish_reason })), Next::End)
            }
            Err(error) => {
                log(&error);
                (event("error", &json!({ "code": error.code(), "message": error.message() })), Next::End)
            }
        };
        Some((Ok(event), next))
    })
}

/// The answer in one piece.
async fn whole(mut chat: Chat) -> Result<Response, ChatError> {
    let mut answer = String::new();
    loop {
        match chat.next().await? {
            Part::Text(text) => answer.push_str(&text),
            Part::End { finish_reason } => {
                let body = Json(json!({ "text": answer, "finish_reason": finish_reason }));
                return Ok(([(header::CACHE_CONTROL, "no-store")], body).into_response());
            }
        }
    }
}

fn event(name: &str, data: &serde_json::Value) -> Event {
    Event::default().event(name).data(data.to_string())
}

fn refused(error: ChatError) -> Response {
    log(&error);
    error.into_response()
}

/// What the caller is not told is in the log.
fn log(error: &ChatError) {
    if let ChatError::Provider(failed) = error {
        tracing::warn!(error = %chain(failed), code = error.code(), "the provider failed");
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// Whoever takes JSON and does not ask for a stream gets it whole.
fn wants_json(headers: &HeaderMap) -> bool {
    let accepts = |kind: &str| {
        let accepted = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
        let mut ranges = accepted.flat_map(|value| value.split(','));
        ranges.any(|range| range.split(';').next().is_some_and(|range| range.trim().eq_ignore_ascii_case(kind)))
    };
    accepts("application/json") && !accepts("text/event-stream")
}
