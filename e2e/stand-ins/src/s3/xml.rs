//! The part of XML and percent-encoding that the protocol needs.

use std::collections::BTreeMap;

use axum::response::{IntoResponse as _, Response};
use http::header;
use percent_encoding::percent_decode_str;

/// An element with texts in it.
pub(super) fn answer(name: &str, fields: &[(&str, &str)]) -> Response {
    let fields: String = fields.iter().map(|(name, value)| element(name, value)).collect();
    respond(name, &fields)
}

/// A page of a list: keys, sizes and entity tags, and the start of the next one.
pub(super) fn list<'a>(objects: impl Iterator<Item = (&'a str, usize, String)>, next: Option<&str>) -> Response {
    let mut content: String = objects
        .map(|(key, size, etag)| {
            let fields = [("Key", key), ("Size", &size.to_string()), ("ETag", &etag), ("LastModified", MODIFIED)];
            let fields: String = fields.iter().map(|(name, value)| element(name, value)).collect();
            format!("<Contents>{fields}</Contents>")
        })
        .collect();
    if let Some(next) = next {
        content.push_str(&element("NextContinuationToken", next));
    }
    content.push_str(&element("IsTruncated", if next.is_some() { "true" } else { "false" }));
    respond("ListBucketResult", &content)
}

/// The names and values of a query.
pub(super) fn query(text: &str) -> BTreeMap<String, String> {
    let pair = |pair: &str| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decoded(&name.replace('+', " ")), decoded(&value.replace('+', " ")))
    };
    text.split('&').map(pair).collect()
}

pub(super) fn decoded(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().into_owned()
}

fn element(name: &str, text: &str) -> String {
    let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;");
    format!("<{name}>{text}</{name}>")
}

fn respond(name: &str, content: &str) -> Response {
    let xml = format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<{name}>{content}</{name}>");
    ([(header::CONTENT_TYPE, "application/xml")], xml).into_response()
}

const MODIFIED: &str = "2026-01-01T00:00:00.000Z";
