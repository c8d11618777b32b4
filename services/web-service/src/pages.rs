//! Template models of the pages.

pub(crate) mod chat;
pub(crate) mod files;
pub(crate) mod headers;
pub(crate) mod me;
pub(crate) mod statics;
pub(crate) mod user_error;
use askama::Template;
use axum::response::{Html, IntoResponse as _, Response};
use http::StatusCode;
use jiff::Timestamp;
use jiff::fmt::strtime;
use serde::{Deserialize, Serialize};

use crate::pages::statics::{STATICS, Statics};
use crate::sessions::session::Session;
use crate::site::Site;

/// The common parts of every page.
#[derive(Debug)]
pub(crate) struct Frame {
    statics: &'static Statics,
    /// Display name of the signed-in user.
    person: Option<String>,
    has_chat: bool,
    has_files: bool,
    here: &'static str,
}

impl Frame {
    /// Creates the frame of the page `here`.
    pub(crate) fn new(site: &Site, session: Option<&Session>, here: &'static str) -> Self {
        let person = session.map(|session| session.email.clone().unwrap_or_else(|| session.sub.clone()));
        Self { statics: &STATICS, person, has_chat: site.chat.is_some(), has_files: site.assets.is_some(), here }
    }
}

/// A notice on a page.
#[derive(Debug)]
pub(crate) struct Notice {
    pub(crate) kind: &'static str,
    /// Code of an error, in the `data-code` attribute; empty for other notices.
    pub(crate) code: &'static str,
    pub(crate) text: String,
    /// Seconds until a retry is permitted, which a script counts down.
    pub(crate) wait_seconds: Option<u64>,
}

impl Notice {
    pub(crate) fn good(text: &str) -> Self {
        Self { kind: "good", ..Self::plain(text) }
    }

    pub(crate) fn plain(text: impl Into<String>) -> Self {
        Self { kind: "", code: "", text: text.into(), wait_seconds: None }
    }

    pub(crate) fn bad(code: &'static str, text: impl Into<String>) -> Self {
        Self { kind: "bad", code, ..Self::plain(text) }
    }

    pub(crate) fn wait(code: &'static str, text: &str, seconds: u64) -> Self {
        Self { wait_seconds: Some(seconds), ..Self::bad(code, text) }
    }

    fn role(&self) -> &'static str {
        if self.kind == "bad" { "alert" } else { "status" }
    }
}

#[derive(Template)]
#[template(path = "sign_in.html")]
pub(crate) struct SignIn<'a> {
    pub(crate) frame: Frame,
    pub(crate) is_on: bool,
    pub(crate) notice: Option<Notice>,
    pub(crate) is_wrong: bool,
    pub(crate) email: &'a str,
    pub(crate) next: &'a str,
    pub(crate) providers: Vec<Provider<'a>>,
}

pub(crate) struct Provider<'a> {
    pub(crate) name: &'a str,
    pub(crate) title: String,
}

impl<'a> Provider<'a> {
    pub(crate) fn new(name: &'a str) -> Self {
        let title = match name {
            "github" => "GitHub".to_owned(),
            "gitlab" => "GitLab".to_owned(),
            "linkedin" | "linkedin_oidc" => "LinkedIn".to_owned(),
            name => {
                let mut letters = name.chars();
                letters
                    .next()
                    .map_or_else(String::new, |first| format!("{}{}", first.to_ascii_uppercase(), letters.as_str()))
            }
        };
        Self { name, title }
    }
}

#[derive(Template)]
#[template(path = "message.html")]
pub(crate) struct Message<'a> {
    pub(crate) frame: Frame,
    pub(crate) code: &'a str,
    pub(crate) title: &'a str,
    pub(crate) text: &'a str,
    pub(crate) link: &'a str,
    pub(crate) link_text: &'a str,
}

#[derive(Template)]
#[template(path = "chat.html")]
pub(crate) struct Chat<'a> {
    pub(crate) frame: Frame,
    pub(crate) subject: String,
    pub(crate) turns: &'a [Turn],
    pub(crate) history: String,
    pub(crate) error: Option<Notice>,
    pub(crate) draft: &'a str,
    pub(crate) max_message: usize,
}

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Turn {
    pub(crate) role: Role,
    pub(crate) content: String,
}

/// Author of a message. A page cannot send `system` messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Role {
    User,
    Assistant,
}

impl Role {
    fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Assistant => "assistant",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::User => "You",
            Self::Assistant => "Assistant",
        }
    }
}

#[derive(Template)]
#[template(path = "files.html")]
pub(crate) struct FileList {
    pub(crate) frame: Frame,
    pub(crate) notice: Option<Notice>,
    pub(crate) is_shared: bool,
    pub(crate) is_listed: bool,
    pub(crate) files: Vec<File>,
    pub(crate) has_more: bool,
}

pub(crate) struct File {
    pub(crate) path: String,
    /// The encoded path for URLs.
    pub(crate) href: String,
    pub(crate) size: String,
    pub(crate) modified: Option<Timestamp>,
    pub(crate) modified_text: String,
}

#[derive(Template)]
#[template(path = "me.html")]
pub(crate) struct Me<'a> {
    pub(crate) frame: Frame,
    pub(crate) is_late: bool,
    pub(crate) email: Option<&'a str>,
    pub(crate) subject: String,
    pub(crate) issuer: &'a str,
    pub(crate) since: Timestamp,
    pub(crate) since_text: String,
    pub(crate) expires: Timestamp,
    pub(crate) expires_text: String,
    pub(crate) services: Vec<Known>,
    pub(crate) mode: &'static str,
    pub(crate) mode_text: &'static str,
    pub(crate) has_api_key: bool,
}

/// The user's identity at one service.
pub(crate) struct Known {
    pub(crate) name: &'static str,
    pub(crate) credential: &'static str,
}

/// Renders a page as a response.
pub(crate) fn page(status: StatusCode, template: &impl Template) -> Response {
    match template.render() {
        Ok(text) => (status, Html(text)).into_response(),
        Err(error) => {
            tracing::error!(%error, "failed to render a page");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

/// Formats a time for users, in UTC because their zone is unknown.
pub(crate) fn time_text(time: Timestamp) -> String {
    strtime::format("%-d %B %Y, %H:%M UTC", time).unwrap_or_else(|_| time.to_string())
}

/// Formats a size for users.
pub(crate) fn size_text(bytes: u64) -> String {
    let (unit, name) = match bytes {
        0..1024 => return format!("{bytes} B"),
        1024..1_048_576 => (1024, "KiB"),
        1_048_576..1_073_741_824 => (1_048_576, "MiB"),
        _ => (1_073_741_824, "GiB"),
    };
    let tenths = bytes.saturating_mul(10) / unit;
    if tenths >= 100 { format!("{} {name}", tenths / 10) } else { format!("{}.{} {name}", tenths / 10, tenths % 10) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_are_for_people() {
        assert_eq!(
            [0, 1023, 1024, 1536, 20_480, 67_108_864].map(size_text),
            ["0 B", "1023 B", "1.0 KiB", "1.5 KiB", "20 KiB", "64 MiB"]
        );
        assert_eq!(time_text("2026-03-01T09:05:00Z".parse().unwrap()), "1 March 2026, 09:05 UTC");
    }

    #[test]
    fn a_provider_is_called_what_it_calls_itself() {
        assert_eq!(
            ["github", "google", "linkedin_oidc"].map(|name| Provider::new(name).title),
            ["GitHub", "Google", "LinkedIn"]
        );
    }
}
