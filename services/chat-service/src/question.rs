//! Strict parser for questions; errors name the invalid field.

use serde::{Deserialize, Serialize};

use crate::config::is_model;

/// A conversation to continue.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Question {
    /// The messages so far, oldest first.
    pub messages: Vec<Message>,
    /// The model; none for the default.
    pub model: Option<String>,
}

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Message {
    /// The author.
    pub role: Role,
    /// The text.
    pub content: String,
}

/// Author of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The instructions for the conversation.
    System,
    /// The user.
    User,
    /// The model.
    Assistant,
}

/// Fault of a question.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} {what}")]
pub struct InvalidQuestion {
    /// The field, such as `messages[3].content`.
    pub field: String,
    /// Description of the fault, which follows the field's name.
    pub what: String,
}

impl Question {
    /// Parses a question from JSON.
    ///
    /// # Errors
    /// [`InvalidQuestion`] for the first invalid field.
    pub fn parse(json: &[u8]) -> Result<Self, InvalidQuestion> {
        let mut deserializer = serde_json::Deserializer::from_slice(json);
        let question: Self = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
            // "." is the whole body; a path that ends with "?" is inside an unknown field, which the message names.
            let field = match error.path().to_string() {
                path if path == "." => "the body".to_owned(),
                path => path,
            };
            invalid(&field, &format!("is invalid: {}", brief(&error.inner().to_string())))
        })?;
        deserializer.end().map_err(|_| invalid("the body", "has trailing data"))?;
        question.check()?;
        Ok(question)
    }

    fn check(&self) -> Result<(), InvalidQuestion> {
        if !(1..=MAX_MESSAGES).contains(&self.messages.len()) {
            return Err(invalid("messages", &format!("must have 1 to {MAX_MESSAGES} messages")));
        }
        for (number, message) in self.messages.iter().enumerate() {
            if !(1..=MAX_CONTENT_BYTES).contains(&message.content.len()) {
                let field = format!("messages[{number}].content");
                return Err(invalid(&field, &format!("must have 1 to {MAX_CONTENT_BYTES} bytes")));
            }
        }
        if self.model.as_deref().is_some_and(|model| !is_model(model)) {
            return Err(invalid("model", "must be 1 to 128 letters, digits and -._:/@+"));
        }
        Ok(())
    }
}

/// Creates an [`InvalidQuestion`].
pub(crate) fn invalid(field: &str, what: &str) -> InvalidQuestion {
    InvalidQuestion { field: field.to_owned(), what: what.to_owned() }
}

/// Truncates the parser's message, which may contain text of the client.
fn brief(text: &str) -> String {
    match text.char_indices().nth(MAX_REASON_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// Maximum size of a request.
pub const MAX_BODY_BYTES: usize = 512 * 1024;
const MAX_MESSAGES: usize = 200;
const MAX_CONTENT_BYTES: usize = 64 * 1024;
const MAX_REASON_CHARS: usize = 160;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_question_is_some_messages_and_perhaps_a_model() {
        let question = Question::parse(br#"{"messages":[{"role":"user","content":"hi"}],"model":"a/b"}"#).unwrap();
        assert_eq!(question.messages, [Message { role: Role::User, content: "hi".to_owned() }]);
        assert_eq!(question.model.as_deref(), Some("a/b"));
    }

    #[test]
    fn what_is_wrong_is_named_by_its_field() {
        let message = json!({ "role": "user", "content": "hi" });
        let with = |message| json!({ "messages": [{ "role": "system", "content": "a" }, message] }).to_string();
        for (body, field, what) in [
            (String::new(), "the body", "EOF"),
            ("[]".to_owned(), "the body", "is invalid"),
            ("{} {}".to_owned(), "the body", "missing field `messages`"),
            (json!({ "messages": [message] }).to_string() + "x", "the body", "trailing data"),
            (json!({ "messages": [] }).to_string(), "messages", "1 to 200"),
            (json!({ "messages": vec![message.clone(); 201] }).to_string(), "messages", "1 to 200"),
            (json!({ "messages": "hi" }).to_string(), "messages", "a sequence"),
            (with(json!({ "role": "user" })), "messages[1]", "missing field `content`"),
            (with(json!({ "role": "tool", "content": "a" })), "messages[1].role", "unknown variant `tool`"),
            (with(json!({ "role": "user", "content": 7 })), "messages[1].content", "expected a string"),
            (with(json!({ "role": "user", "content": "" })), "messages[1].content", "1 to 65536"),
            (with(json!({ "role": "user", "content": "a".repeat(65_537) })), "messages[1].content", "1 to 65536"),
            (with(json!({ "role": "user", "content": "a", "name": "b" })), "messages[1].name", "unknown field"),
            (json!({ "messages": [message], "model": "a b" }).to_string(), "model", "letters"),
            (json!({ "messages": [message], "stream": true }).to_string(), "stream", "unknown field"),
        ] {
            let error = Question::parse(body.as_bytes()).unwrap_err();
            assert_eq!(error.field, field, "{error}");
            assert!(error.what.contains(what), "{error}");
        }
    }

    #[test]
    fn what_is_said_of_it_is_short() {
        let body = json!({ "messages": [{ "role": "x".repeat(10_000), "content": "a" }] }).to_string();
        assert!(Question::parse(body.as_bytes()).unwrap_err().to_string().len() < 250);
    }
}
