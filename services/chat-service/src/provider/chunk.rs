//! One event of a provider's answer.

use serde::Deserialize;
use serde_json::Value;

use super::ProviderError;

/// What an event says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Chunk {
    /// What is to be added to the answer; may be empty.
    pub(crate) text: String,
    /// Why the answer is at its end, if it is.
    pub(crate) finish_reason: Option<&'static str>,
}

/// Reads the data of an event.
///
/// # Errors
/// [`ProviderError::Garbage`], or what the provider reports in it.
pub(crate) fn read(data: &[u8]) -> Result<Chunk, ProviderError> {
    let event: Event = serde_json::from_slice(data).map_err(|_| ProviderError::Garbage)?;
    if let Some(error) = event.error {
        let kinds = [&error["code"], &error["type"]];
        let is_rate = kinds.iter().any(|kind| kind.as_str().is_some_and(|kind| kind.starts_with("rate_limit")));
        let error = ProviderError::ErrorMidStream;
        return Err(if is_rate { ProviderError::RateLimited { retry_after: None } } else { error });
    }
    // There is one choice, as one was asked for; the event with the usage has none.
    let Some(choice) = event.choices.into_iter().next() else { return Ok(Chunk::default()) };
    let text = choice.delta.and_then(|delta| delta.content).unwrap_or_default();
    Ok(Chunk { text, finish_reason: choice.finish_reason.as_deref().map(known_reason) })
}

/// A text from outside becomes one of ours.
fn known_reason(reason: &str) -> &'static str {
    let known = ["stop", "length", "content_filter", "tool_calls"];
    known.into_iter().find(|known| *known == reason).unwrap_or("other")
}

#[derive(Debug, Deserialize)]
struct Event {
    #[serde(default)]
    choices: Vec<Choice>,
    error: Option<Value>,
}

#[derive(Debug, Deserialize)]
struct Choice {
    delta: Option<Delta>,
    finish_reason: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Delta {
    content: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(text: &str, finish_reason: Option<&'static str>) -> Chunk {
        Chunk { text: text.to_owned(), finish_reason }
    }

    #[test]
    fn an_event_adds_a_text_or_ends_the_answer_or_does_neither() {
        for (data, expected) in [
            (
                r#"{"choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]}"#,
                chunk("", None),
            ),
            (r#"{"id":"1","choices":[{"delta":{"content":"hä"}}]}"#, chunk("hä", None)),
            (r#"{"choices":[{"delta":{},"finish_reason":"stop"}]}"#, chunk("", Some("stop"))),
            (r#"{"choices":[{"delta":{"content":"."},"finish_reason":"length"}]}"#, chunk(".", Some("length"))),
            (r#"{"choices":[{"delta":null,"finish_reason":"because\n"}]}"#, chunk("", Some("other"))),
            (r#"{"choices":[],"usage":{"total_tokens":3}}"#, chunk("", None)),
        ] {
            assert_eq!(read(data.as_bytes()).unwrap(), expected, "{data}");
        }
    }

    #[test]
    fn what_is_no_event_is_an_error() {
        for data in ["", "{", "[DONE", "7", r#"{"choices":7}"#, "\u{fffd}"] {
            assert!(matches!(read(data.as_bytes()), Err(ProviderError::Garbage)), "{data}");
        }
        let error = |data: &str| read(data.as_bytes()).unwrap_err().code();
        assert_eq!(error(r#"{"error":{"message":"overloaded","type":"server_error"}}"#), "provider_unavailable");
        assert_eq!(error(r#"{"error":{"code":"rate_limit_exceeded"}}"#), "provider_rate_limited");
        assert_eq!(error(r#"{"error":"a text"}"#), "provider_unavailable");
    }
}
