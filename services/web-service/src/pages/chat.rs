//! The chat: as a page with a form, and as a stream for the page's script.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::extract::rejection::{FormRejection, JsonRejection};
use axum::response::{IntoResponse as _, Response};
use axum::{Form, Json};
use gaia_runtime::AnswerBody;
use http::header::{ACCEPT, CONTENT_TYPE, HeaderName};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use serde::Deserialize;
use serde_json::json;

use crate::pages::user_error::{Service, UserError};
use crate::pages::{self, Frame, Notice, Role, Turn};
use crate::sessions::session::Session;
use crate::site::{Site, User};

/// Renders the page.
pub(crate) async fn show(State(site): State<Arc<Site>>, User(session): User) -> Response {
    if site.chat.is_none() {
        return UserError::PageNotFound.response(&site, Some(&session), true);
    }
    chat_page(&site, &session, StatusCode::OK, &[], None, "")
}

#[derive(Deserialize)]
pub(crate) struct Sent {
    message: String,
    #[serde(default)]
    history: String,
}

/// Handles the form of browsers without our script: returns the whole answer, and keeps the conversation in the page.
pub(crate) async fn submit(
    State(site): State<Arc<Site>>,
    User(session): User,
    sent: Result<Form<Sent>, FormRejection>,
) -> Response {
    let Sent { message, history } = match sent {
        Ok(Form(sent)) => sent,
        Err(rejection) => return of_rejection(rejection.status()).response(&site, Some(&session), true),
    };
    let history = if history.is_empty() { Ok(Vec::new()) } else { serde_json::from_str::<Vec<Turn>>(&history) };
    let Ok(mut turns) = history else { return UserError::BadForm.response(&site, Some(&session), true) };
    let message = message.trim().replace("\r\n", "\n");
    turns.push(Turn { role: Role::User, content: message.clone() });
    let answered = match judge(&turns) {
        Ok(()) => whole_answer(&site, &session, &turns).await,
        Err(UserError::BadForm) => return UserError::BadForm.response(&site, Some(&session), true),
        Err(user_error) => Err(user_error),
    };
    match answered {
        Ok((text, note)) => {
            turns.push(Turn { role: Role::Assistant, content: text });
            chat_page(
                &site,
                &session,
                StatusCode::OK,
                &turns,
                note.map(|text| Notice::bad("answer_truncated", text)),
                "",
            )
        }
        Err(user_error) => {
            turns.pop();
            let page = chat_page(&site, &session, user_error.status(), &turns, Some(user_error.notice()), &message);
            user_error.when_to_retry(page)
        }
    }
}

#[derive(Deserialize)]
pub(crate) struct Conversation {
    messages: Vec<Turn>,
}

/// Streams chat-service's response to our script.
pub(crate) async fn stream(
    State(site): State<Arc<Site>>,
    User(session): User,
    conversation: Result<Json<Conversation>, JsonRejection>,
) -> Response {
    let asked = match conversation {
        Ok(Json(Conversation { messages })) => match judge(&messages) {
            Ok(()) => ask(&site, &session, &messages, EVENT_STREAM).await,
            Err(user_error) => Err(user_error),
        },
        Err(rejection) => Err(of_rejection(rejection.status())),
    };
    match asked {
        Ok(answer) => {
            let headers = [(CONTENT_TYPE, EVENT_STREAM), (HeaderName::from_static("x-accel-buffering"), "no")];
            (headers, Body::new(answer.into_body())).into_response()
        }
        Err(user_error) => user_error.response(&site, Some(&session), false),
    }
}

/// Returns the whole answer, with a note if it was truncated.
async fn whole_answer(
    site: &Site,
    session: &Session,
    turns: &[Turn],
) -> Result<(String, Option<&'static str>), UserError> {
    #[derive(Deserialize)]
    struct Answer {
        text: String,
        #[serde(default)]
        finish_reason: String,
    }
    let answer = ask(site, session, turns, "application/json").await?;
    let away = || UserError::ServiceUnavailable(Service::Chat);
    let reading = Limited::new(answer.into_body(), MAX_ANSWER_BYTES).collect();
    let body = tokio::time::timeout(PATIENCE, reading).await.map_err(|_| away())?.map_err(|_| away())?;
    let answer: Answer = serde_json::from_slice(&body.to_bytes()).map_err(|_| away())?;
    // An empty message in the conversation would make chat-service refuse every later request.
    if answer.text.trim().is_empty() {
        return Err(UserError::EmptyAnswer);
    }
    let note = match answer.finish_reason.as_str() {
        "length" => Some("The answer reached the model's limit. Ask for the rest, or for a shorter answer."),
        "content_filter" => Some("The provider's content filter stopped the answer."),
        _ => None,
    };
    Ok((answer.text, note))
}

async fn ask(
    site: &Site,
    session: &Session,
    turns: &[Turn],
    accept: &'static str,
) -> Result<http::Response<AnswerBody>, UserError> {
    let chat = site.chat.as_ref().ok_or(UserError::PageNotFound)?;
    let request = Request::builder()
        .method(Method::POST)
        .uri(chat.uri("/chat"))
        .header(CONTENT_TYPE, "application/json")
        .header(ACCEPT, accept)
        .body(Bytes::from(json!({ "messages": turns }).to_string()))
        .map_err(|_| UserError::BadForm)?;
    let answer = chat.call(request, session, "chat:write", PATIENCE).await;
    let answer = answer.map_err(|error| UserError::of_error(Service::Chat, &error))?;
    let type_of = |answer: &http::Response<AnswerBody>| {
        let value = answer.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        value.is_some_and(|value| value.split(';').next().is_some_and(|value| value.trim() == accept))
    };
    if answer.status() == StatusCode::OK && type_of(&answer) {
        Ok(answer)
    } else {
        Err(UserError::of_answer(Service::Chat, &answer))
    }
}

/// Checks that a conversation can be sent: the last message is the user's, none is empty, and it is not too long.
fn judge(turns: &[Turn]) -> Result<(), UserError> {
    let is_mine = turns.last().is_some_and(|turn| turn.role == Role::User);
    if !is_mine || turns.iter().any(|turn| turn.content.trim().is_empty()) {
        return Err(UserError::BadForm);
    }
    let bytes: usize = turns.iter().map(|turn| turn.content.len()).sum();
    let is_too_long =
        turns.len() > MAX_TURNS || bytes > MAX_BYTES || turns.iter().any(|turn| turn.content.len() > MAX_TURN_BYTES);
    if is_too_long { Err(UserError::ConversationTooLong) } else { Ok(()) }
}

/// Returns the error for a conversation that could not be parsed.
fn of_rejection(status: StatusCode) -> UserError {
    if status == StatusCode::PAYLOAD_TOO_LARGE { UserError::ConversationTooLong } else { UserError::BadForm }
}

fn chat_page(
    site: &Site,
    session: &Session,
    status: StatusCode,
    turns: &[Turn],
    error: Option<Notice>,
    draft: &str,
) -> Response {
    let history = if turns.is_empty() { String::new() } else { json!(turns).to_string() };
    let frame = Frame::new(site, Some(session), "chat");
    let subject = session.subject().to_string();
    pages::page(status, &pages::Chat { frame, subject, turns, history, error, draft, max_message: MAX_MESSAGE_CHARS })
}

const EVENT_STREAM: &str = "text/event-stream";
/// Timeout for the response headers, or for a complete response that is not streamed; models can take long.
const PATIENCE: Duration = Duration::from_secs(120);
const MAX_MESSAGE_CHARS: usize = 8000;
/// Limits of chat-service: number of messages and size of one message.
const MAX_TURNS: usize = 200;
const MAX_TURN_BYTES: usize = 64 * 1024;
const MAX_BYTES: usize = 256 * 1024;
/// The form and JSON encodings enlarge a conversation.
pub(crate) const MAX_REQUEST_BYTES: usize = 4 * MAX_BYTES;
const MAX_ANSWER_BYTES: usize = 1024 * 1024;
