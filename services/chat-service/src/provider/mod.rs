//! Client of the provider of chat completions, with OpenAI's API.
//!
//! Requests always use streaming, even if the client wants the answer as a whole, so that there is one way in which an
//! answer arrives, ends and fails. No proxy and no redirect is followed, and only the messages of the caller's request
//! are forwarded.

mod chunk;
mod error;
mod events;
#[cfg(test)]
mod streams;

use std::path::PathBuf;
use std::time::Duration;

use gaia_runtime::rate::retry_after_of;
use gaia_runtime::{OutsideClientError, outside_client};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use reqwest::{Client, Response, Url};
use serde::Serialize;
use tokio::time::{Instant, timeout, timeout_at};
use zeroize::Zeroizing;

pub use error::ProviderError;

use crate::config::{PlainHttpError, ProviderConfig};
use crate::question::Message;
use chunk::Finish;
use events::{Event, EventReader};

/// Time limits of a provider. Tests shorten them.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// Until the first text of the answer. Models are silent for minutes while they read a long conversation or reason
    /// first; some servers send the response headers before that, and some after it.
    pub beginning: Duration,
    /// Without data within an answer.
    pub silence: Duration,
    /// Without data after a finish reason. Long, because some providers send one too early.
    pub ending: Duration,
    /// For the whole answer.
    pub whole: Duration,
    /// Interval without text after which the client gets a comment, so that proxies do not time out. The stream also
    /// starts after this time if the provider has not responded yet.
    pub comment_after: Duration,
    /// Until there is memory for the next bytes of a question.
    pub memory: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            beginning: Duration::from_secs(300),
            silence: Duration::from_secs(60),
            ending: Duration::from_secs(30),
            whole: Duration::from_secs(600),
            comment_after: Duration::from_secs(15),
            memory: Duration::from_secs(10),
        }
    }
}

/// Reason why the provider's configuration is unusable.
#[derive(Debug, thiserror::Error)]
pub enum ProviderConfigError {
    /// The HTTP client cannot be created.
    #[error(transparent)]
    Client(#[from] OutsideClientError),
    /// Plain HTTP is not permitted for this URL.
    #[error(transparent)]
    PlainHttp(#[from] PlainHttpError),
}

/// The configured provider.
#[derive(Debug, Clone)]
pub struct Provider {
    client: Client,
    completions: Url,
    key_file: Option<PathBuf>,
    patience: Patience,
}

/// An answer in progress. Dropping it closes the connection, which stops the provider.
#[derive(Debug)]
pub struct Answer {
    response: Response,
    events: EventReader,
    finish: Option<Finish>,
    has_text: bool,
    /// An event came that may be an error in a form of the provider's own.
    has_unknown: bool,
    has_ended: bool,
    /// Deadline for the first text.
    begins_before: Instant,
    patience: Patience,
}

/// A part of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// More text.
    Text(String),
    /// The end.
    End {
        /// `stop`, `length`, `content_filter`, `tool_calls` or `other`.
        finish_reason: &'static str,
    },
}

#[derive(Serialize)]
struct Request<'a> {
    model: &'a str,
    messages: &'a [Message],
    stream: bool,
}

impl Provider {
    /// Creates the client for a configured provider.
    ///
    /// # Errors
    /// [`ProviderConfigError`] if the root certificates cannot be loaded, or the URL is plain HTTP and that is not
    /// permitted.
    pub fn new(config: &ProviderConfig) -> Result<Self, ProviderConfigError> {
        config.check_plain_http()?;
        let mut completions = config.provider_url.clone();
        let path = format!("{}/chat/completions", completions.path().trim_end_matches('/'));
        completions.set_path(&path);
        Ok(Self {
            client: outside_client(config.provider_ca_file.as_deref(), None)?,
            completions,
            key_file: config.provider_key_file.clone(),
            patience: config.patience,
        })
    }

    /// Sends the request, and returns when the response has started.
    ///
    /// # Errors
    /// [`ProviderError`] if there is no answer.
    pub async fn ask(&self, model: &str, messages: &[Message]) -> Result<Answer, ProviderError> {
        let body = serde_json::to_vec(&Request { model, messages, stream: true }).unwrap_or_default();
        let begins_before = Instant::now() + self.patience.beginning;
        let request = self.client.post(self.completions.clone()).headers(self.headers().await?).body(body);
        let response = timeout_at(begins_before, request.send()).await;
        let response = response.map_err(|_| ProviderError::NoBeginning)?;
        let response = response.map_err(|error| ProviderError::NotReached(error.without_url()))?;
        judge(&response)?;
        Ok(Answer {
            response,
            events: EventReader::default(),
            finish: None,
            has_text: false,
            has_unknown: false,
            has_ended: false,
            begins_before,
            patience: self.patience,
        })
    }

    async fn headers(&self) -> Result<HeaderMap, ProviderError> {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(header::ACCEPT, HeaderValue::from_static(EVENT_STREAM));
        if let Some(path) = &self.key_file {
            headers.insert(header::AUTHORIZATION, bearer(path).await?);
        }
        Ok(headers)
    }
}

impl Answer {
    /// Returns the next part. It must not be called after the end or an error.
    ///
    /// # Errors
    /// [`ProviderError`] if the answer cannot be continued.
    pub async fn next(&mut self) -> Result<Part, ProviderError> {
        loop {
            while let Some(event) = self.event()? {
                let data = match event {
                    Event::Data(data) => data,
                    Event::Error(data) => return Err(chunk::error_event(&data)),
                };
                if data.trim_ascii().eq_ignore_ascii_case(b"[DONE]") {
                    return self.done();
                }
                let chunk = chunk::read(&data)?;
                self.has_unknown |= chunk.is_unknown;
                if !chunk.text.is_empty() {
                    // A reason followed by more text is not final.
                    self.finish = chunk.finish;
                    self.has_text = true;
                    return Ok(Part::Text(chunk.text));
                }
                self.finish = chunk.finish.or(self.finish);
            }
            if self.has_ended {
                return self.end().unwrap_or(Err(ProviderError::EndedEarly));
            }
            match self.receive().await {
                Ok(()) => {}
                // With a finish reason the answer is complete, however the stream ends.
                Err(error) => return self.end().unwrap_or(Err(error)),
            }
        }
    }

    fn event(&mut self) -> Result<Option<Event>, ProviderError> {
        match self.events.next()? {
            None if self.has_ended => self.events.rest(),
            event => Ok(event),
        }
    }

    async fn receive(&mut self) -> Result<(), ProviderError> {
        let receiving = self.response.chunk();
        let piece = if self.finish.is_some() {
            timeout(self.patience.ending, receiving).await.map_err(|_| ProviderError::Silent)?
        } else if self.has_text {
            timeout(self.patience.silence, receiving).await.map_err(|_| ProviderError::Silent)?
        } else {
            timeout_at(self.begins_before, receiving).await.map_err(|_| ProviderError::NoBeginning)?
        };
        match piece.map_err(|error| ProviderError::BrokeOff(error.without_url()))? {
            Some(piece) => self.events.push(&piece),
            None => self.has_ended = true,
        }
        Ok(())
    }

    /// Handles `[DONE]`. Some providers send no reason before it, but one that sends no text either, or an event outside the
    /// protocol, has failed.
    fn done(&self) -> Result<Part, ProviderError> {
        let has_ended_early = !self.has_text || self.has_unknown;
        let without_reason =
            || if has_ended_early { Err(ProviderError::EndedEarly) } else { Ok(Part::End { finish_reason: "stop" }) };
        self.end().unwrap_or_else(without_reason)
    }

    /// Returns the end by a finish reason, if there was one.
    fn end(&self) -> Option<Result<Part, ProviderError>> {
        Some(match self.finish? {
            Finish::Reason(finish_reason) => Ok(Part::End { finish_reason }),
            Finish::Failed => Err(ProviderError::ErrorMidStream),
        })
    }
}

fn judge(response: &Response) -> Result<(), ProviderError> {
    let status = response.status();
    match status {
        StatusCode::OK => {}
        StatusCode::TOO_MANY_REQUESTS => {
            return Err(ProviderError::RateLimited { retry_after: retry_after_of(response.headers()) });
        }
        StatusCode::BAD_REQUEST
        | StatusCode::NOT_FOUND
        | StatusCode::PAYLOAD_TOO_LARGE
        | StatusCode::UNPROCESSABLE_ENTITY => return Err(ProviderError::Refused(status)),
        _ => return Err(ProviderError::Status(status)),
    }
    let kind = response.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let is_stream = kind.is_some_and(|kind| kind.trim_start().to_ascii_lowercase().starts_with(EVENT_STREAM));
    // No encoding is asked for, and an encoded stream would be read as garbage.
    let mut encodings = response.headers().get_all(header::CONTENT_ENCODING).iter();
    let is_plain = encodings.all(|encoding| encoding.as_bytes().eq_ignore_ascii_case(b"identity"));
    if is_stream && is_plain { Ok(()) } else { Err(ProviderError::NotAStream) }
}

/// Reads the key from its file, so that a replaced file takes effect without a restart.
async fn bearer(path: &PathBuf) -> Result<HeaderValue, ProviderError> {
    let text = tokio::fs::read(path).await.map(Zeroizing::new);
    let text = text.map_err(|source| ProviderError::KeyNotRead { path: path.clone(), source })?;
    let key = text.trim_ascii();
    let is_key = (1..=MAX_KEY_BYTES).contains(&key.len()) && key.iter().all(u8::is_ascii_graphic);
    let value = Zeroizing::new([b"Bearer ", key].concat());
    let value = HeaderValue::from_bytes(&value).ok().filter(|_| is_key);
    let mut value = value.ok_or_else(|| ProviderError::NoKey { path: path.clone() })?;
    value.set_sensitive(true);
    Ok(value)
}

const EVENT_STREAM: &str = "text/event-stream";
const MAX_KEY_BYTES: usize = 4096;
