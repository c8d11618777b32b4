//! Questions and answers in OpenAI's protocol.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::response::{IntoResponse as _, Response};
use futures::stream::{self, BoxStream, StreamExt as _};
use http::{StatusCode, header};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Behaviour, UnderWay};

/// The used fields of a question.
#[derive(Debug, Deserialize)]
pub(super) struct Question {
    model: String,
    messages: Vec<Message>,
    #[serde(default)]
    stream: bool,
}

#[derive(Debug, Deserialize)]
struct Message {
    #[serde(rename = "role")]
    _role: String,
    content: String,
}

impl Question {
    pub(super) fn behaviour(&self) -> Behaviour {
        Behaviour::of(self.last_message())
    }

    /// The answer; it is open until it is complete, or the client disconnects.
    pub(super) fn answer(&self, pause: Duration, under_way: UnderWay) -> Response {
        if !self.stream {
            return self.whole();
        }
        let body = self.pieces(pause).map(move |piece| {
            let _until_it_ends = &under_way;
            piece
        });
        let headers = [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-cache")];
        (headers, Body::from_stream(body)).into_response()
    }

    fn last_message(&self) -> &str {
        self.messages.last().map_or("", |message| &message.content)
    }

    fn text(&self) -> String {
        format!("You said: {}", self.last_message())
    }

    fn finish_reason(&self) -> &'static str {
        if self.behaviour() == Behaviour::Length { "length" } else { "stop" }
    }

    fn whole(&self) -> Response {
        let message = json!({ "role": "assistant", "content": self.text() });
        let choice = json!({ "index": 0, "message": message, "finish_reason": self.finish_reason() });
        let id = json!({ "id": "chatcmpl-1", "object": "chat.completion", "created": 0, "model": self.model });
        let mut answer = id;
        answer["choices"] = json!([choice]);
        answer["usage"] = json!({ "prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2 });
        json(StatusCode::OK, &answer)
    }

    fn pieces(&self, pause: Duration) -> BoxStream<'static, Result<Bytes, Cut>> {
        let text = self.text();
        let words: Vec<String> =
            text.split_inclusive(' ').map(|word| self.chunk(&json!({ "content": word }), None)).collect();
        let role = self.chunk(&json!({ "role": "assistant", "content": "" }), None);
        let first: Vec<String> = [role].into_iter().chain(words.iter().take(WORDS_BEFORE).cloned()).collect();
        let rest: Vec<String> = words.into_iter().skip(WORDS_BEFORE).collect();
        let end = [self.chunk(&json!({}), Some(self.finish_reason())), "data: [DONE]\n\n".to_owned()];
        let until_end = move || sent(rest.into_iter().chain(end), pause);
        let first = sent(first, pause);
        match self.behaviour() {
            Behaviour::ErrorMidStream => {
                let error = json!({ "error": { "message": "The model is overloaded.", "type": "server_error" } });
                first.chain(sent([data(&error)], pause)).boxed()
            }
            Behaviour::Stall => first.chain(stream::pending()).boxed(),
            Behaviour::Pause { seconds } => {
                let waiting = stream::once(async move {
                    tokio::time::sleep(Duration::from_secs(seconds)).await;
                    Ok(Bytes::new())
                });
                first.chain(waiting).chain(until_end()).boxed()
            }
            Behaviour::Cut => {
                let cutting = stream::once(async {
                    // Yields first, so that the events before are sent.
                    tokio::task::yield_now().await;
                    Err(Cut)
                });
                first.chain(cutting).boxed()
            }
            Behaviour::EarlyEnd => first.boxed(),
            Behaviour::Garbage => {
                first.chain(sent(["data: {\"choices\": [\n\n".to_owned()], pause)).chain(until_end()).boxed()
            }
            Behaviour::Oversized => {
                let piece = Bytes::from("x".repeat(OVERSIZED_PIECE_BYTES));
                let line = stream::iter(std::iter::repeat_n(Ok(piece), OVERSIZED_PIECES));
                first
                    .chain(sent(["data: ".to_owned()], pause))
                    .chain(line)
                    .chain(sent(["\n\n".to_owned()], pause))
                    .chain(until_end())
                    .boxed()
            }
            _ => first.chain(until_end()).boxed(),
        }
    }

    fn chunk(&self, delta: &Value, finish_reason: Option<&str>) -> String {
        let choice = json!({ "index": 0, "delta": delta, "finish_reason": finish_reason });
        data(&json!({
            "id": "chatcmpl-1",
            "object": "chat.completion.chunk",
            "created": 0,
            "model": self.model,
            "choices": [choice],
        }))
    }
}

/// The connection is to be closed in the middle.
#[derive(Debug, Clone, thiserror::Error)]
#[error("connection closed by request of the test")]
pub(super) struct Cut;

/// An error in the protocol's form.
pub(super) fn error(status: StatusCode, code: &str, message: &str) -> Response {
    json(status, &json!({ "error": { "message": message, "type": "error", "param": null, "code": code } }))
}

pub(super) fn json(status: StatusCode, value: &Value) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], value.to_string()).into_response()
}

fn data(value: &Value) -> String {
    format!("data: {value}\n\n")
}

fn sent(
    lines: impl IntoIterator<Item = String, IntoIter: Send + 'static>,
    pause: Duration,
) -> impl futures::Stream<Item = Result<Bytes, Cut>> + Send + 'static {
    stream::iter(lines.into_iter().map(Ok::<_, Infallible>)).then(move |line| async move {
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
        line.map(Bytes::from).map_err(|never| match never {})
    })
}

const WORDS_BEFORE: usize = 2;
const OVERSIZED_PIECE_BYTES: usize = 64 * 1024;
const OVERSIZED_PIECES: usize = 64;
