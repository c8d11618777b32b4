//! The provider of chat completions, over OpenAI's protocol.
//!
//! Always a stream, also where the caller wants the answer whole: then there is one way in which an answer comes, ends
//! and fails. No proxy and no redirect is followed, and nothing of the caller's request goes along but the messages.

mod chunk;
mod error;
mod events;

use std::path::PathBuf;
use std::time::Duration;

use gaia_runtime::rate::retry_after_of;
use gaia_runtime::{OutsideClientError, outside_client};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use reqwest::{Client, Response, Url};
use serde::Serialize;
use tokio::time::timeout;
use zeroize::Zeroizing;

pub use error::ProviderError;

use crate::config::ProviderConfig;
use crate::question::Message;
use events::EventReader;

/// How long a provider may take. Tests shorten it.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// Until its answer begins.
    pub beginning: Duration,
    /// Without a byte in the middle of an answer.
    pub silence: Duration,
    /// For the whole answer.
    pub whole: Duration,
    /// After so long without a text the caller is sent a comment, so that nobody in between takes the stream for dead.
    pub comment_after: Duration,
    /// Until there is room for the next bytes of a question.
    pub room: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            beginning: Duration::from_secs(60),
            silence: Duration::from_secs(60),
            whole: Duration::from_secs(600),
            comment_after: Duration::from_secs(15),
            room: Duration::from_secs(10),
        }
    }
}

/// Who answers.
#[derive(Debug, Clone)]
pub struct Provider {
    client: Client,
    completions: Url,
    key_file: Option<PathBuf>,
    patience: Patience,
}

/// An answer that is on its way. Dropping it tells the provider that nobody listens any more.
#[derive(Debug)]
pub struct Answer {
    response: Response,
    events: EventReader,
    finish_reason: Option<&'static str>,
    has_ended: bool,
    patience: Patience,
}

/// A piece of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// More of it.
    Text(String),
    /// Its end.
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
    /// A provider as it is configured.
    ///
    /// # Errors
    /// [`OutsideClientError`] if there are no root certificates.
    pub fn new(config: &ProviderConfig) -> Result<Self, OutsideClientError> {
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

    /// Asks. What comes back is an answer that has begun.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn ask(&self, model: &str, messages: &[Message]) -> Result<Answer, ProviderError> {
        let body = serde_json::to_vec(&Request { model, messages, stream: true }).unwrap_or_default();
        let request = self.client.post(self.completions.clone()).headers(self.headers().await?).body(body);
        let response = timeout(self.patience.beginning, request.send()).await;
        let response = response.map_err(|_| ProviderError::NoBeginning)?;
        let response = response.map_err(|error| ProviderError::NotReached(error.without_url()))?;
        judge(&response)?;
        let patience = self.patience;
        Ok(Answer { response, events: EventReader::default(), finish_reason: None, has_ended: false, patience })
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
    /// The next piece. After the end and after an error there is nothing to ask for.
    ///
    /// # Errors
    /// Why the answer goes no further.
    pub async fn next(&mut self) -> Result<Part, ProviderError> {
        loop {
            while let Some(data) = self.event()? {
                if data == b"[DONE]" {
                    return Ok(self.end().unwrap_or(Part::End { finish_reason: "stop" }));
                }
                let chunk = chunk::read(&data)?;
                self.finish_reason = chunk.finish_reason.or(self.finish_reason);
                if !chunk.text.is_empty() {
                    return Ok(Part::Text(chunk.text));
                }
            }
            if self.has_ended {
                return self.end().ok_or(ProviderError::EndedEarly);
            }
            match self.receive().await {
                Ok(()) => {}
                // The answer is whole; how the stream ends is of no interest.
                Err(error) => return self.end().ok_or(error),
            }
        }
    }

    fn event(&mut self) -> Result<Option<Vec<u8>>, ProviderError> {
        match self.events.next()? {
            None if self.has_ended => self.events.rest(),
            event => Ok(event),
        }
    }

    async fn receive(&mut self) -> Result<(), ProviderError> {
        let patience = if self.finish_reason.is_some() { GOODBYE } else { self.patience.silence };
        let piece = timeout(patience, self.response.chunk()).await.map_err(|_| ProviderError::Silent)?;
        match piece.map_err(|error| ProviderError::BrokeOff(error.without_url()))? {
            Some(piece) => self.events.push(&piece),
            None => self.has_ended = true,
        }
        Ok(())
    }

    fn end(&self) -> Option<Part> {
        self.finish_reason.map(|finish_reason| Part::End { finish_reason })
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
    if is_stream { Ok(()) } else { Err(ProviderError::NotAStream) }
}

/// The key, as it is in its file now: whoever replaces it there need not restart us.
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
/// Between the finish reason and the end of the stream.
const GOODBYE: Duration = Duration::from_secs(2);
const MAX_KEY_BYTES: usize = 4096;
