//! Errors shown to users or returned to the page's script.

use axum::Json;
use axum::response::{IntoResponse as _, Response};
use gaia_runtime::rate::{retry_after_of, when_to_retry};
use http::{StatusCode, header};
use serde_json::json;

use crate::pages::{self, Frame, Notice};
use crate::sessions::session::Session;
use crate::site::Site;
use crate::upstream::UpstreamError;

/// An error, described for the user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum UserError {
    /// The request came from a page of another origin.
    OtherOrigin,
    /// The user is not signed in.
    SignedOut,
    /// The session has ended.
    SessionEnded,
    /// The session could not be refreshed at present.
    LoginUnavailable,
    /// The page does not exist.
    PageNotFound,
    /// The page does not support the method.
    MethodNotAllowed,
    /// The form data is malformed.
    BadForm,
    /// The service did not respond, or failed.
    ServiceUnavailable(Service),
    /// The service rejected the user's token.
    TokenRejected(Service),
    /// The service accepted the token, but the user lacks permission.
    NotAllowed,
    /// The file does not exist.
    FileNotFound,
    /// The file name is not permitted.
    BadName,
    /// A folder and a file would have the same name.
    NameConflict,
    /// The file is too large.
    TooLarge,
    /// The store is full, or the user's quota is used up.
    StorageFull,
    /// The conversation is too long.
    ConversationTooLong,
    /// The model rejected the conversation.
    ConversationRejected,
    /// The model returned an empty answer.
    EmptyAnswer,
    /// Too many requests.
    RateLimited {
        /// Seconds until the next request is permitted, if known.
        retry_after: Option<u64>,
    },
}

/// A service called by the pages, as named for users.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Service {
    /// chat-service.
    Chat,
    /// asset-service.
    Files,
}

impl Service {
    fn name(self) -> &'static str {
        match self {
            Self::Chat => "chat service",
            Self::Files => "file service",
        }
    }
}

impl UserError {
    /// Returns the error for an unexpected response of a service.
    pub(crate) fn of_answer<B>(service: Service, answer: &http::Response<B>) -> Self {
        let status = answer.status();
        match status {
            StatusCode::UNAUTHORIZED => Self::TokenRejected(service),
            StatusCode::FORBIDDEN => Self::NotAllowed,
            StatusCode::NOT_FOUND if service == Service::Files => Self::FileNotFound,
            StatusCode::BAD_REQUEST if service == Service::Files => Self::BadName,
            StatusCode::CONFLICT if service == Service::Files => Self::NameConflict,
            StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY if service == Service::Chat => {
                Self::ConversationRejected
            }
            StatusCode::PAYLOAD_TOO_LARGE if service == Service::Chat => Self::ConversationTooLong,
            StatusCode::PAYLOAD_TOO_LARGE => Self::TooLarge,
            StatusCode::INSUFFICIENT_STORAGE => Self::StorageFull,
            StatusCode::TOO_MANY_REQUESTS => Self::RateLimited { retry_after: retry_after_of(answer.headers()) },
            _ => {
                tracing::warn!(service = service.name(), %status, "a service returned an error");
                Self::ServiceUnavailable(service)
            }
        }
    }

    /// Returns the error for a missing response.
    pub(crate) fn of_error(service: Service, error: &UpstreamError) -> Self {
        tracing::warn!(service = service.name(), %error, "failed to call a service");
        match error {
            UpstreamError::TokenRefused(_) => Self::TokenRejected(service),
            UpstreamError::ScopeMissing(_) => Self::NotAllowed,
            _ => Self::ServiceUnavailable(service),
        }
    }

    pub(crate) fn status(self) -> StatusCode {
        match self {
            Self::OtherOrigin | Self::NotAllowed => StatusCode::FORBIDDEN,
            Self::SignedOut | Self::SessionEnded => StatusCode::UNAUTHORIZED,
            Self::LoginUnavailable | Self::ServiceUnavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::PageNotFound | Self::FileNotFound => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::BadForm | Self::BadName => StatusCode::BAD_REQUEST,
            Self::TokenRejected(_) | Self::EmptyAnswer => StatusCode::BAD_GATEWAY,
            Self::NameConflict => StatusCode::CONFLICT,
            Self::TooLarge | Self::ConversationTooLong => StatusCode::PAYLOAD_TOO_LARGE,
            Self::StorageFull => StatusCode::INSUFFICIENT_STORAGE,
            Self::ConversationRejected => StatusCode::UNPROCESSABLE_ENTITY,
            Self::RateLimited { .. } => StatusCode::TOO_MANY_REQUESTS,
        }
    }

    /// Returns the code for programs.
    fn code(self) -> &'static str {
        match self {
            Self::OtherOrigin => "other_origin",
            Self::SignedOut => "signed_out",
            Self::SessionEnded => "session_ended",
            Self::LoginUnavailable => "login_unavailable",
            Self::PageNotFound => "no_page",
            Self::MethodNotAllowed => "not_that_way",
            Self::BadForm => "bad_form",
            Self::ServiceUnavailable(_) => "service_unavailable",
            Self::TokenRejected(_) => "not_taken",
            Self::NotAllowed => "not_allowed",
            Self::FileNotFound => "no_file",
            Self::BadName => "bad_name",
            Self::NameConflict => "name_taken",
            Self::TooLarge => "too_large",
            Self::StorageFull => "storage_full",
            Self::ConversationTooLong => "conversation_too_long",
            Self::ConversationRejected => "conversation_not_taken",
            Self::EmptyAnswer => "nothing_said",
            Self::RateLimited { .. } => "too_many",
        }
    }

    /// Returns the heading.
    fn title(self) -> &'static str {
        match self {
            Self::OtherOrigin | Self::NotAllowed | Self::TokenRejected(_) => "Not permitted",
            Self::SignedOut | Self::SessionEnded => "You are signed out",
            Self::LoginUnavailable => "Please try again",
            Self::PageNotFound | Self::FileNotFound => "Page not found",
            Self::ServiceUnavailable(_) | Self::RateLimited { .. } | Self::EmptyAnswer => "Something went wrong",
            Self::MethodNotAllowed
            | Self::BadForm
            | Self::BadName
            | Self::NameConflict
            | Self::TooLarge
            | Self::StorageFull
            | Self::ConversationTooLong
            | Self::ConversationRejected => "Not possible",
        }
    }

    /// Returns the message.
    fn text(self) -> String {
        match self {
            Self::OtherOrigin => "The request did not come from a page of this site, so it was refused.".to_owned(),
            Self::SignedOut => "Sign in to continue.".to_owned(),
            Self::SessionEnded => "Your session has ended. Sign in again to continue.".to_owned(),
            Self::LoginUnavailable => {
                "Your session could not be refreshed: the sign-in service does not respond. You are still signed in; try again in a minute."
                    .to_owned()
            }
            Self::PageNotFound => "This page does not exist.".to_owned(),
            Self::MethodNotAllowed => "This page does not support the request.".to_owned(),
            Self::BadForm => "The form data is invalid. Reload the page and try again.".to_owned(),
            Self::ServiceUnavailable(service) => format!("The {} does not respond. Try again in a minute.", service.name()),
            Self::TokenRejected(service) => format!("The {} rejected your sign-in.", service.name()),
            Self::NotAllowed => "You are not permitted to do this.".to_owned(),
            Self::FileNotFound => "The file does not exist.".to_owned(),
            Self::BadName => "This file name is not permitted.".to_owned(),
            Self::NameConflict => "A folder and a file would have the same name.".to_owned(),
            Self::StorageFull => "There is no space left for this file. Delete files that you no longer need.".to_owned(),
            Self::TooLarge => "The file is too large: the limit is 64 MiB.".to_owned(),
            Self::ConversationTooLong => "This conversation is too long. Start a new one.".to_owned(),
            Self::ConversationRejected => {
                "The assistant rejected this conversation: it may be too long. Start a new one.".to_owned()
            }
            Self::EmptyAnswer => "The assistant returned no answer. Try again, or rephrase your message.".to_owned(),
            Self::RateLimited { retry_after: Some(seconds) } => {
                format!("Too many requests. Try again in {seconds} seconds.")
            }
            Self::RateLimited { retry_after: None } => "Too many requests. Try again in a minute.".to_owned(),
        }
    }

    /// Returns the notice on a page.
    pub(crate) fn notice(self) -> Notice {
        Notice::bad(self.code(), self.text())
    }

    /// Returns a page, or for a script a problem document (RFC 9457) with a `code`.
    pub(crate) fn response(self, site: &Site, session: Option<&Session>, wants_page: bool) -> Response {
        let response = if wants_page {
            let (link, link_text) = match self {
                Self::SignedOut | Self::SessionEnded => ("/sign-in", "Sign in"),
                Self::FileNotFound | Self::BadName | Self::NameConflict | Self::TooLarge => ("/files", "Go to files"),
                Self::ConversationTooLong => ("/chat", "Start a new conversation"),
                _ => ("/", "Go to the start page"),
            };
            let text = self.text();
            let frame = Frame::new(site, session, "");
            let message =
                pages::Message { frame, code: self.code(), title: self.title(), text: &text, link, link_text };
            pages::page(self.status(), &message)
        } else {
            let status = self.status();
            let body =
                json!({ "title": self.title(), "status": status.as_u16(), "code": self.code(), "detail": self.text() });
            (status, [(header::CONTENT_TYPE, "application/problem+json")], Json(body)).into_response()
        };
        self.when_to_retry(response)
    }

    /// The same response with the time of the next attempt, where that is known. A page that shows the cause among other
    /// content needs it too.
    pub(crate) fn when_to_retry(self, response: Response) -> Response {
        match self {
            Self::RateLimited { retry_after } => when_to_retry(response, retry_after),
            _ => response,
        }
    }
}
