//! Parser for one event of a provider's stream, in the variants that providers send (table in `streams.json`).

use serde_json::Value;

use super::ProviderError;

/// The content of an event.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Chunk {
    /// The text to append to the answer; may be empty.
    pub(crate) text: String,
    /// The finish reason, if the event has one.
    pub(crate) finish: Option<Finish>,
    /// An object without choices that is none of the known ones. It may be an error in a form of the provider's own, so an
    /// end mark after it does not complete the answer.
    pub(crate) is_unknown: bool,
}

/// The reason for the end of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Finish {
    /// `stop`, `length`, `content_filter`, `tool_calls` or `other`.
    Reason(&'static str),
    /// The provider aborted the answer, so it is incomplete.
    Failed,
}

/// Parses the data of an event.
///
/// # Errors
/// [`ProviderError::Garbage`], or the error that the event reports.
pub(crate) fn read(data: &[u8]) -> Result<Chunk, ProviderError> {
    if data.trim_ascii().is_empty() {
        return Ok(Chunk::default());
    }
    let event = match serde_json::from_slice(data) {
        Ok(Value::Null) => return Ok(Chunk::default()),
        Ok(Value::Object(event)) => Value::Object(event),
        // Gemini sends its error as a list of one.
        Ok(Value::Array(mut events)) if events.first().is_some_and(|event| error_in(event).is_some()) => {
            events.swap_remove(0)
        }
        _ => return Err(ProviderError::Garbage),
    };
    if let Some(error) = error_in(&event) {
        return Err(reported(error));
    }
    let choices = match &event["choices"] {
        Value::Null => return Ok(Chunk { is_unknown: is_unknown(&event), ..Chunk::default() }),
        Value::Array(choices) => choices,
        _ => return Err(ProviderError::Garbage),
    };
    // The request asks for one choice; events with usage or content-filter annotations have none.
    let Some(choice) = choices.iter().find(|choice| !choice.is_null()) else { return Ok(Chunk::default()) };
    let delta = &choice["delta"];
    let mut text = String::new();
    append(&mut text, &delta["content"])?;
    if text.is_empty() {
        append(&mut text, &delta["refusal"])?;
    }
    let reason = if choice["finish_reason"].is_null() { &choice["finishReason"] } else { &choice["finish_reason"] };
    Ok(Chunk { text, finish: finish(reason), is_unknown: false })
}

/// Returns true for an event without choices that is neither empty, nor a ping, nor a count of tokens.
fn is_unknown(event: &Value) -> bool {
    let is_known = |name: &String| KNOWN_MEMBERS.contains(&name.as_str());
    let is_ping = event["type"] == "ping";
    !is_ping && event.as_object().is_some_and(|members| !members.keys().all(is_known))
}

/// Returns the error of an event with the name `error`, whatever its data.
pub(crate) fn error_event(data: &[u8]) -> ProviderError {
    let event: Value = serde_json::from_slice(data).unwrap_or_default();
    reported(error_in(&event).unwrap_or(&event))
}

/// Returns the error object of an event: under `error`, or the event itself (older forms of vLLM and Mistral, and
/// Anthropic's).
fn error_in(event: &Value) -> Option<&Value> {
    let error = &event["error"];
    let is_empty = match error {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Object(members) => members.is_empty(),
        _ => false,
    };
    if !is_empty {
        return Some(error);
    }
    // Cloudflare lists errors.
    if let Some(error) = event["errors"].as_array().and_then(|errors| errors.first()) {
        return Some(error);
    }
    // MiniMax has a status in each event, and FastChat a code in its errors.
    if event["base_resp"]["status_code"].as_i64().is_some_and(|code| code != 0) {
        return Some(&event["base_resp"]);
    }
    if event["error_code"].as_i64().is_some_and(|code| code != 0) {
        return Some(event);
    }
    let is_marked = event["object"] == "error" || event["type"] == "error";
    // A proxy sends the error of its framework: a text or a list under `message` or `detail`, and no choices.
    let is_message = event.get("choices").is_none() && ["message", "detail"].iter().any(|name| !event[*name].is_null());
    (is_marked || is_message).then_some(event)
}

fn reported(error: &Value) -> ProviderError {
    let is_rate_limit = ["code", "type", "status", "status_code"].iter().any(|name| match &error[*name] {
        Value::Number(code) => code.as_u64() == Some(429),
        Value::String(code) => {
            let code: String = code.chars().filter(char::is_ascii_alphanumeric).collect();
            let code = code.to_ascii_lowercase();
            code == "429" || RATE_LIMITS.iter().any(|limit| code.starts_with(limit))
        }
        _ => false,
    });
    if is_rate_limit { ProviderError::RateLimited { retry_after: None } } else { ProviderError::ErrorMidStream }
}

/// Appends a content: a text, or the texts of a list of parts. Reasoning, references and images are skipped.
fn append(text: &mut String, content: &Value) -> Result<(), ProviderError> {
    match content {
        Value::Null => {}
        Value::String(content) => text.push_str(content),
        Value::Array(parts) => {
            for part in parts {
                append(text, part)?;
            }
        }
        Value::Object(part) => {
            let is_text = part.get("type").and_then(Value::as_str).is_none_or(|kind| TEXT_PARTS.contains(&kind));
            if is_text && let Some(content) = part.get("text").or_else(|| part.get("refusal")) {
                append(text, content)?;
            }
        }
        _ => return Err(ProviderError::Garbage),
    }
    Ok(())
}

/// Maps a reason to one of a fixed set, so that no text of a provider gets into responses and metrics.
fn finish(reason: &Value) -> Option<Finish> {
    // SGLang sent an object with the reason under `type` for some time.
    let reason = reason.as_str().or_else(|| reason["type"].as_str())?.trim().to_ascii_lowercase();
    Some(match reason.as_str() {
        // Not the end. Ollama and SGLang sent an empty text where the protocol has null.
        "" | "null" | "none" => return None,
        "stop" | "eos" | "eos_token" | "end_turn" | "stop_sequence" | "complete" | "completed" => {
            Finish::Reason("stop")
        }
        "length"
        | "model_length"
        | "max_length"
        | "max_tokens"
        | "max_output_tokens"
        | "model_context_window_exceeded" => Finish::Reason("length"),
        "content_filter"
        | "content_filtered"
        | "safety"
        | "sensitive"
        | "recitation"
        | "prohibited_content"
        | "blocklist"
        | "spii"
        | "guardrail_intervened"
        | "error_toxic"
        | "refusal" => Finish::Reason("content_filter"),
        "tool_calls" | "function_call" | "tool_use" => Finish::Reason("tool_calls"),
        "error"
        | "failed"
        | "timeout"
        | "abort"
        | "aborted"
        | "cancelled"
        | "canceled"
        | "network_error"
        | "unload"
        | "insufficient_system_resource" => Finish::Failed,
        _ => Finish::Reason("other"),
    })
}

/// Members of events without choices that say nothing of the answer.
const KNOWN_MEMBERS: [&str; 11] = [
    "choices",
    "created",
    "error",
    "id",
    "model",
    "object",
    "obfuscation",
    "prompt_filter_results",
    "service_tier",
    "system_fingerprint",
    "usage",
];
/// The beginnings of codes of rate limits, in lower case and without signs: OpenAI and LiteLLM, Gemini, Bedrock.
const RATE_LIMITS: [&str; 4] = ["ratelimit", "toomanyrequests", "resourceexhausted", "throttl"];
/// The types of parts whose text belongs to the answer.
const TEXT_PARTS: [&str; 4] = ["text", "output_text", "refusal", ""];

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(text: &str, reason: Option<&'static str>) -> Chunk {
        Chunk { text: text.to_owned(), finish: reason.map(Finish::Reason), is_unknown: false }
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
    fn other_spellings_of_an_event_mean_the_same() {
        for (data, expected) in [
            ("null", chunk("", None)),
            ("", chunk("", None)),
            (" ", chunk("", None)),
            ("{}", chunk("", None)),
            (r#"{"choices":null,"usage":{}}"#, chunk("", None)),
            (r#"{"choices":[null]}"#, chunk("", None)),
            (r#"{"error":null,"choices":[{"delta":{"content":"a"}}]}"#, chunk("a", None)),
            (r#"{"choices":[{"delta":{"content":"a"},"finish_reason":""}]}"#, chunk("a", None)),
            (r#"{"choices":[{"delta":{"content":"a"},"finish_reason":"null"}]}"#, chunk("a", None)),
            (r#"{"choices":[{"delta":{"content":null}}]}"#, chunk("", None)),
            (r#"{"choices":[{"delta":{"content":["a","b"]}}]}"#, chunk("ab", None)),
            (
                r#"{"choices":[{"delta":{"content":[{"type":"thinking","thinking":[{"type":"text","text":"hm"}]},{"type":"text","text":"a"},null,{"text":"b"}]}}]}"#,
                chunk("ab", None),
            ),
            (r#"{"choices":[{"delta":{"content":{"type":"text","text":"a"}}}]}"#, chunk("a", None)),
            (r#"{"choices":[{"delta":{"content":null,"refusal":"No."}}]}"#, chunk("No.", None)),
            (r#"{"choices":[{"finish_reason":"STOP","delta":{}}]}"#, chunk("", Some("stop"))),
            (r#"{"choices":[{"finishReason":"MAX_TOKENS","delta":{}}]}"#, chunk("", Some("length"))),
            (r#"{"choices":[{"finish_reason":{"type":"length","length":4},"delta":{}}]}"#, chunk("", Some("length"))),
            (r#"{"choices":[{"finish_reason":"model_length","delta":{}}]}"#, chunk("", Some("length"))),
        ] {
            assert_eq!(read(data.as_bytes()).unwrap(), expected, "{data}");
        }
        let failed = Chunk { finish: Some(Finish::Failed), ..chunk("a", None) };
        let data = br#"{"choices":[{"delta":{"content":"a"},"finish_reason":"abort"}]}"#;
        assert_eq!(read(data).unwrap(), failed, "an answer that was given up is not complete");
    }

    #[test]
    fn objects_without_choices_are_known_or_spoil_the_end_mark() {
        for data in [
            "{}",
            r#"{"type":"ping"}"#,
            r#"{"id":"1","object":"chat.completion.chunk","model":"m","created":1,"usage":{"total_tokens":3}}"#,
            r#"{"choices":null,"prompt_filter_results":[]}"#,
        ] {
            assert!(!read(data.as_bytes()).unwrap().is_unknown, "{data}");
        }
        for data in [r#"{"status":"failed"}"#, r#"{"fault":{"faultstring":"x"}}"#, r#"{"success":false}"#] {
            assert!(read(data.as_bytes()).unwrap().is_unknown, "{data}");
        }
    }

    #[test]
    fn finish_reasons_of_each_vendor_are_of_a_fixed_set() {
        for (reason, expected) in [
            ("COMPLETE", "stop"),
            ("end_turn", "stop"),
            ("MAX_TOKENS", "length"),
            ("model_context_window_exceeded", "length"),
            ("SAFETY", "content_filter"),
            ("PROHIBITED_CONTENT", "content_filter"),
            ("guardrail_intervened", "content_filter"),
            ("refusal", "content_filter"),
            ("tool_use", "tool_calls"),
            ("pause_turn", "other"),
        ] {
            let data = serde_json::json!({ "choices": [{ "delta": {}, "finish_reason": reason }] }).to_string();
            assert_eq!(read(data.as_bytes()).unwrap(), chunk("", Some(expected)), "{reason}");
        }
        for reason in ["ERROR", "timeout", "insufficient_system_resource"] {
            let data = serde_json::json!({ "choices": [{ "delta": {}, "finish_reason": reason }] }).to_string();
            assert_eq!(read(data.as_bytes()).unwrap().finish, Some(Finish::Failed), "{reason}");
        }
    }

    #[test]
    fn what_is_no_event_is_an_error() {
        for data in [
            "{",
            "[DONE",
            "7",
            "[]",
            r#""text""#,
            r#"{"choices":7}"#,
            r#"{"choices":[{"delta":{"content":7}}]}"#,
            "\u{fffd}",
        ] {
            assert!(matches!(read(data.as_bytes()), Err(ProviderError::Garbage)), "{data}");
        }
    }

    #[test]
    fn an_error_is_found_in_each_form() {
        let error = |data: &str| read(data.as_bytes()).unwrap_err().code();
        for data in [
            r#"{"error":{"message":"overloaded","type":"server_error"}}"#,
            r#"{"error":"a text"}"#,
            r#"{"error":{"message":"Engine died","code":"500","type":"None","param":"None"},"choices":null}"#,
            r#"{"object":"error","message":"too long","type":"BadRequestError","param":null,"code":400}"#,
            r#"{"type":"error","error":{"type":"overloaded_error"}}"#,
            r#"{"message":"Internal server error","code":500}"#,
            r#"{"detail":[{"msg":"field required"}]}"#,
            r#"{"success":false,"errors":[{"code":3040,"message":"Capacity temporarily exceeded"}]}"#,
            r#"{"text":"**NETWORK ERROR**","error_code":50004}"#,
            r#"{"choices":null,"base_resp":{"status_code":1000,"status_msg":"unknown error"}}"#,
            r#"[{"error":{"code":503,"message":"overloaded","status":"UNAVAILABLE"}}]"#,
        ] {
            assert_eq!(error(data), "provider_unavailable", "{data}");
        }
        for data in [
            r#"{"error":{"code":"rate_limit_exceeded"}}"#,
            r#"{"error":{"message":"slow down","code":429}}"#,
            r#"{"error":{"message":"slow down","code":"429","type":"None"}}"#,
            r#"{"object":"error","message":"slow down","type":"RateLimitError","code":null}"#,
            r#"[{"error":{"code":429,"message":"slow down","status":"RESOURCE_EXHAUSTED"}}]"#,
            r#"{"error":{"status":"RESOURCE_EXHAUSTED"}}"#,
            r#"{"error":{"message":"slow down","status_code":429}}"#,
            r#"{"error":{"code":"Throttling.RateQuota"}}"#,
        ] {
            assert_eq!(error(data), "provider_rate_limited", "{data}");
        }
    }
}
