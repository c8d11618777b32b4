//! Talking to the model: as a page with a form, and as a stream for the page's script.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::extract::rejection::{FormRejection, JsonRejection};
use axum::response::{IntoResponse as _, Response};
use axum::{Form, Json};
use http::header::{ACCEPT, CONTENT_TYPE, HeaderName};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use serde::Deserialize;
use serde_json::json;

use crate::pages::{self, Frame, Role, Turn};
use crate::session::Session;
use crate::site::{Site, User};
use crate::trouble::{Service, Trouble};

/// The page.
pub(crate) async fn show(State(site): State<Arc<Site>>, User(session): User) -> Response {
    if site.chat.is_none() {
        return Trouble::NoPage.response(&site, Some(&session), true);
    }
    chat_page(&site, &session, StatusCode::OK, &[], None, "")
}

#[derive(Deserialize)]
pub(crate) struct Sent {
    message: String,
    #[serde(default)]
    history: String,
}

/// The form, for browsers without our script: the whole answer at once, and the conversation kept in the page.
pub(crate) async fn submit(
    State(site): State<Arc<Site>>,
    User(session): User,
    sent: Result<Form<Sent>, FormRejection>,
) -> Response {
    let Ok(Form(Sent { message, history })) = sent else {
        return Trouble::BadForm.response(&site, Some(&session), true);
    };
    let history = if history.is_empty() { Ok(Vec::new()) } else { serde_json::from_str::<Vec<Turn>>(&history) };
    let Ok(mut turns) = history else { return Trouble::BadForm.response(&site, Some(&session), true) };
    let message = message.trim().replace("\r\n", "\n");
    turns.push(Turn { role: Role::User, content: message.clone() });
    if !is_conversation(&turns) {
        return Trouble::BadForm.response(&site, Some(&session), true);
    }
    match whole_answer(&site, &session, &turns).await {
        Ok(text) => {
            turns.push(Turn { role: Role::Assistant, content: text });
            chat_page(&site, &session, StatusCode::OK, &turns, None, "")
        }
        Err(trouble) => {
            turns.pop();
            chat_page(&site, &session, trouble.status(), &turns, Some(trouble.text()), &message)
        }
    }
}

#[derive(Deserialize)]
pub(crate) struct Conversation {
    messages: Vec<Turn>,
}

/// The stream, for our script: chat-service's own.
pub(crate) async fn stream(
    State(site): State<Arc<Site>>,
    User(session): User,
    conversation: Result<Json<Conversation>, JsonRejection>,
) -> Response {
    let turns = match conversation {
        Ok(Json(Conversation { messages })) if is_conversation(&messages) => messages,
        _ => return Trouble::BadForm.response(&site, Some(&session), false),
    };
    match ask(&site, &session, &turns, EVENT_STREAM).await {
        Ok(answer) => {
            let headers = [(CONTENT_TYPE, EVENT_STREAM), (HeaderName::from_static("x-accel-buffering"), "no")];
            (headers, Body::new(answer.into_body())).into_response()
        }
        Err(trouble) => trouble.response(&site, Some(&session), false),
    }
}

async fn whole_answer(site: &Site, session: &Session, turns: &[Turn]) -> Result<String, Trouble> {
    #[derive(Deserialize)]
    struct Answer {
        text: String,
    }
    let answer = ask(site, session, turns, "application/json").await?;
    let away = || Trouble::Away(Service::Chat);
    let reading = Limited::new(answer.into_body(), MAX_ANSWER_BYTES).collect();
    let body = tokio::time::timeout(PATIENCE, reading).await.map_err(|_| away())?.map_err(|_| away())?;
    let answer: Answer = serde_json::from_slice(&body.to_bytes()).map_err(|_| away())?;
    Ok(answer.text)
}

async fn ask(
    site: &Site,
    session: &Session,
    turns: &[Turn],
    accept: &'static str,
) -> Result<http::Response<Incoming>, Trouble> {
    let chat = site.chat.as_ref().ok_or(Trouble::NoPage)?;
    let request = Request::builder()
        .method(Method::POST)
        .uri(chat.uri("/chat"))
        .header(CONTENT_TYPE, "application/json")
        .header(ACCEPT, accept)
        .body(Bytes::from(json!({ "messages": turns }).to_string()))
        .map_err(|_| Trouble::BadForm)?;
    let answer = chat.call(request, session, PATIENCE).await;
    let answer = answer.map_err(|error| Trouble::of_error(Service::Chat, &error))?;
    let type_of = |answer: &http::Response<Incoming>| {
        let value = answer.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        value.is_some_and(|value| value.split(';').next().is_some_and(|value| value.trim() == accept))
    };
    if answer.status() == StatusCode::OK && type_of(&answer) {
        Ok(answer)
    } else {
        Err(Trouble::of_answer(Service::Chat, &answer))
    }
}

/// Whether it can be sent on: not too much of it, and the last word is the person's.
fn is_conversation(turns: &[Turn]) -> bool {
    let is_mine = turns.last().is_some_and(|turn| turn.role == Role::User);
    let bytes: usize = turns.iter().map(|turn| turn.content.len()).sum();
    is_mine
        && turns.len() <= MAX_TURNS
        && bytes <= MAX_BYTES
        && turns.iter().all(|turn| !turn.content.trim().is_empty())
}

fn chat_page(
    site: &Site,
    session: &Session,
    status: StatusCode,
    turns: &[Turn],
    error: Option<String>,
    draft: &str,
) -> Response {
    let history = if turns.is_empty() { String::new() } else { json!(turns).to_string() };
    let frame = Frame::new(site, Some(session), "chat");
    let subject = session.subject().to_string();
    pages::page(status, &pages::Chat { frame, subject, turns, history, error, draft, max_message: MAX_MESSAGE_CHARS })
}

const EVENT_STREAM: &str = "text/event-stream";
/// For the head of an answer, or all of one that is not streamed: a model may think for a while.
const PATIENCE: Duration = Duration::from_secs(120);
const MAX_MESSAGE_CHARS: usize = 8000;
const MAX_TURNS: usize = 200;
const MAX_BYTES: usize = 256 * 1024;
/// With what form and JSON add to a conversation.
pub(crate) const MAX_REQUEST_BYTES: usize = 4 * MAX_BYTES;
const MAX_ANSWER_BYTES: usize = 1024 * 1024;
