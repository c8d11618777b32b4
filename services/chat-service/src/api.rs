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
use gaia_runtime::{MemoryReservation, Routes, error_chain};
use http::{HeaderMap, HeaderValue, header};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use serde_json::json;
use tokio::time::timeout;

use crate::chat::{Asked, Chat, Chats};
use crate::error::ChatError;
use crate::provider::Part;
use crate::question::{MAX_BODY_BYTES, Question};

/// The endpoint and its state.
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
    // A model can be silent for minutes while it reads a long conversation, and proxies time out after half a minute.
    // The stream then starts early and is kept open with comments.
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
    // nginx and compatible proxies buffer a response unless this header is set.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

/// The next step of an event stream.
enum Next<F> {
    /// The provider has not started its response.
    Beginning(F),
    /// The next part of the answer.
    Part(Box<Chat>),
    /// The end.
    End,
}

/// Takes a slot before it reads the question, so that waiting requests use no memory.
async fn receive_question(chats: &Chats, principal: &Principal, request: Request) -> Result<Asked, ChatError> {
    let mut account = chats.metrics.begin();
    // The question is charged to the memory budget until the provider has received it.
    let mut held = chats.memory.of(&principal.subject).reservation();
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

async fn receive(body: Body, held: &mut MemoryReservation) -> Result<Vec<u8>, ChatError> {
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

/// Converts the answer to events as it arrives.
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

/// Collects the complete answer.
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

/// Logs details that are not sent to the client.
fn log(error: &ChatError) {
    if let ChatError::Provider(failed) = error {
        tracing::warn!(error = %error_chain(failed), code = error.code(), "the provider failed");
    }
}

/// Returns true if the client accepts JSON and does not request a stream.
fn wants_json(headers: &HeaderMap) -> bool {
    let accepts = |kind: &str| {
        let accepted = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
        let mut ranges = accepted.flat_map(|value| value.split(','));
        ranges.any(|range| range.split(';').next().is_some_and(|range| range.trim().eq_ignore_ascii_case(kind)))
    };
    accepts("application/json") && !accepts("text/event-stream")
}
