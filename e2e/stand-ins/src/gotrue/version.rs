//! The API version of an answer: an error of 2024 has its word in `code` and its text in `message`.

use axum::Json;
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use http::{HeaderName, HeaderValue};
use serde_json::json;

use super::failure::Failure;

/// Converts errors for clients that request the API of 2024.
pub(super) async fn version(request: Request, next: Next) -> Response {
    let asked = request.headers().get(HEADER).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let response = next.run(request).await;
    let failure = response.extensions().get::<Failure>().copied();
    match (failure, asked) {
        (Some(failure), Some(asked)) if is_date(&asked) && asked.as_str() >= VERSION => {
            let body = json!({ "code": failure.code, "message": failure.message });
            let mut response = (failure.status, [("x-sb-error-code", failure.code)], Json(body)).into_response();
            response.headers_mut().insert(HEADER, HeaderValue::from_static(VERSION));
            response
        }
        _ => response,
    }
}

fn is_date(text: &str) -> bool {
    text.parse::<jiff::civil::Date>().is_ok()
}

const HEADER: HeaderName = HeaderName::from_static("x-supabase-api-version");
const VERSION: &str = "2024-01-01";
