//! Conditional and range requests (RFC 9110, sections 13 and 14).

use std::ops::Range;
use std::time::SystemTime;

use headers::{
    ETag, Header, HeaderMapExt as _, IfMatch, IfModifiedSince, IfNoneMatch, IfRange, IfUnmodifiedSince, LastModified,
};
use http::{HeaderMap, header};

use crate::error::AssetError;

/// Validators of one state of an asset.
#[derive(Debug, Clone)]
pub(crate) struct Validators {
    pub(crate) etag: Option<ETag>,
    pub(crate) modified: SystemTime,
}

impl Validators {
    /// Adds them to a response.
    pub(crate) fn write(&self, headers: &mut HeaderMap) {
        if let Some(etag) = &self.etag {
            headers.typed_insert(etag.clone());
        }
        headers.typed_insert(LastModified::from(self.modified));
    }
}

/// Result of the conditions of a read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reading {
    /// The asset is sent.
    Go,
    /// The client has this state already.
    NotModified,
}

/// Evaluates the conditions of a GET or HEAD of an existing asset.
///
/// # Errors
/// [`AssetError::Condition`] if one fails, [`AssetError::BadCondition`] if one is malformed.
pub(crate) fn check_read(headers: &HeaderMap, found: &Validators) -> Result<Reading, AssetError> {
    if !preconditions_hold(headers, Some(found))? {
        return Err(AssetError::Condition);
    }
    let is_same = match read::<IfNoneMatch>(headers)? {
        Some(known) => names(&known, found),
        // A malformed date is ignored.
        None => headers.typed_get::<IfModifiedSince>().is_some_and(|since| !since.is_modified(found.modified)),
    };
    Ok(if is_same { Reading::NotModified } else { Reading::Go })
}

/// Evaluates the conditions of a PUT or DELETE; `found` is the current state.
///
/// # Errors
/// [`AssetError::Condition`] if one fails, [`AssetError::BadCondition`] if one is malformed.
pub(crate) fn check_write(headers: &HeaderMap, found: Option<&Validators>) -> Result<(), AssetError> {
    let is_known = match (read::<IfNoneMatch>(headers)?, found) {
        (Some(known), Some(found)) => names(&known, found),
        _ => false,
    };
    if !is_known && preconditions_hold(headers, found)? { Ok(()) } else { Err(AssetError::Condition) }
}

/// Returns true if `If-None-Match` contains this state.
fn names(known: &IfNoneMatch, found: &Validators) -> bool {
    *known == IfNoneMatch::any() || found.etag.as_ref().is_some_and(|etag| !known.precondition_passes(etag))
}

/// Evaluates `If-Match`, otherwise `If-Unmodified-Since`.
fn preconditions_hold(headers: &HeaderMap, found: Option<&Validators>) -> Result<bool, AssetError> {
    let Some(wanted) = read::<IfMatch>(headers)? else {
        let since = headers.typed_get::<IfUnmodifiedSince>();
        return Ok(since.is_none_or(|since| found.is_some_and(|found| since.precondition_passes(found.modified))));
    };
    Ok(found.is_some_and(|found| {
        wanted.is_any() || found.etag.as_ref().is_some_and(|etag| wanted.precondition_passes(etag))
    }))
}

/// Returns true if a write has a condition.
pub(crate) fn is_conditional(headers: &HeaderMap) -> bool {
    [header::IF_MATCH, header::IF_NONE_MATCH, header::IF_UNMODIFIED_SINCE].iter().any(|name| headers.contains_key(name))
}

/// Returns the byte range of a GET; none for the whole asset.
///
/// # Errors
/// [`AssetError::RangeNotSatisfiable`] if the range is outside of the asset.
pub(crate) fn wanted_range(
    headers: &HeaderMap,
    size: u64,
    found: &Validators,
) -> Result<Option<Range<u64>>, AssetError> {
    // Malformed ranges and other units are ignored: RFC 9110, section 14.2. Multiple ranges are ignored too, because
    // they are not needed and can amplify a request.
    let text = headers.get(header::RANGE).and_then(|value| value.to_str().ok());
    let Some((first, last)) = text.and_then(one_range) else { return Ok(None) };
    let modified = LastModified::from(found.modified);
    let is_of_this_state = match headers.typed_try_get::<IfRange>() {
        Ok(condition) => condition.is_none_or(|condition| !condition.is_modified(found.etag.as_ref(), Some(&modified))),
        Err(_) => false,
    };
    if !is_of_this_state {
        return Ok(None);
    }
    let range = match (first, last) {
        (Some(first), last) => first..last.map_or(size, |last| last.saturating_add(1).min(size)),
        (None, last) => size.saturating_sub(last.unwrap_or_default())..size,
    };
    if range.start < range.end { Ok(Some(range)) } else { Err(AssetError::RangeNotSatisfiable { size }) }
}

/// Parses `bytes=` with a first and a last position, or one of the two.
fn one_range(text: &str) -> Option<(Option<u64>, Option<u64>)> {
    let (first, last) = text.strip_prefix("bytes=")?.trim().split_once('-')?;
    let position = |text: &str| {
        let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        // A number that overflows is beyond any asset.
        is_number.then(|| text.parse().unwrap_or(u64::MAX))
    };
    match (position(first), position(last)) {
        (Some(first), Some(last)) if first <= last => Some((Some(first), Some(last))),
        (Some(first), None) if last.is_empty() => Some((Some(first), None)),
        (None, Some(last)) if first.is_empty() => Some((None, Some(last))),
        _ => None,
    }
}

fn read<H: Header>(headers: &HeaderMap) -> Result<Option<H>, AssetError> {
    headers.typed_try_get().map_err(|_| AssetError::BadCondition)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::{HeaderName, HeaderValue};

    use super::*;

    fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
        let field = |(name, value): &(&'static str, &str)| {
            (HeaderName::from_static(name), HeaderValue::try_from(*value).unwrap())
        };
        fields.iter().map(field).collect()
    }

    /// Entity tag "a", last modified on Thu, 01 Jan 2026 00:00:00.5 GMT.
    fn state() -> Validators {
        let modified = SystemTime::UNIX_EPOCH + Duration::from_millis(1_767_225_600_500);
        Validators { etag: Some("\"a\"".parse().unwrap()), modified }
    }

    const THEN: &str = "Thu, 01 Jan 2026 00:00:00 GMT";
    const BEFORE: &str = "Wed, 31 Dec 2025 23:59:59 GMT";

    #[test]
    fn a_reader_gets_what_it_does_not_have_yet() {
        for (fields, expected) in [
            (&[][..], "go"),
            (&[("if-none-match", "\"a\"")], "304"),
            (&[("if-none-match", "\"b\", W/\"a\"")], "304"),
            (&[("if-none-match", "*")], "304"),
            (&[("if-none-match", "\"b\"")], "go"),
            (&[("if-modified-since", THEN)], "304"),
            (&[("if-modified-since", BEFORE)], "go"),
            (&[("if-modified-since", "yesterday")], "go"),
            (&[("if-none-match", "\"b\""), ("if-modified-since", THEN)], "go"),
            (&[("if-match", "\"a\"")], "go"),
            (&[("if-match", "*")], "go"),
            (&[("if-match", "\"b\"")], "412"),
            (&[("if-match", "W/\"a\"")], "412"),
            (&[("if-match", "\"a\""), ("if-none-match", "\"a\"")], "304"),
            (&[("if-match", "\"b\""), ("if-none-match", "\"a\"")], "412"),
            (&[("if-unmodified-since", THEN)], "go"),
            (&[("if-unmodified-since", BEFORE)], "412"),
        ] {
            let found = match check_read(&headers(fields), &state()) {
                Ok(Reading::Go) => "go",
                Ok(Reading::NotModified) => "304",
                Err(AssetError::Condition) => "412",
                Err(error) => panic!("{fields:?}: {error}"),
            };
            assert_eq!(found, expected, "{fields:?}");
        }
    }

    #[test]
    fn a_writer_writes_over_what_it_knows_and_nothing_else() {
        for (fields, over_it, over_nothing) in [
            (&[][..], true, true),
            (&[("if-match", "\"a\"")], true, false),
            (&[("if-match", "*")], true, false),
            (&[("if-match", "\"b\", \"c\"")], false, false),
            (&[("if-none-match", "*")], false, true),
            (&[("if-none-match", "\"a\"")], false, true),
            (&[("if-none-match", "\"b\"")], true, true),
            (&[("if-unmodified-since", THEN)], true, false),
            (&[("if-unmodified-since", BEFORE)], false, false),
        ] {
            let headers = headers(fields);
            assert_eq!(check_write(&headers, Some(&state())).is_ok(), over_it, "{fields:?}");
            assert_eq!(check_write(&headers, None).is_ok(), over_nothing, "{fields:?}");
        }
    }

    #[test]
    fn one_range_is_served_and_what_is_none_is_passed_over() {
        for (range, expected) in [
            ("bytes=0-0", Ok(Some(0..1))),
            ("bytes=2-4", Ok(Some(2..5))),
            ("bytes=2-", Ok(Some(2..10))),
            ("bytes=2-99999999999999999999", Ok(Some(2..10))),
            ("bytes=2-99", Ok(Some(2..10))),
            ("bytes=-3", Ok(Some(7..10))),
            ("bytes=-99", Ok(Some(0..10))),
            ("bytes=9-9", Ok(Some(9..10))),
            ("bytes=10-", Err(())),
            ("bytes=99-100", Err(())),
            ("bytes=-0", Err(())),
            ("bytes=0-1,4-5", Ok(None)),
            ("bytes=4-2", Ok(None)),
            ("bytes=", Ok(None)),
            ("bytes=-", Ok(None)),
            ("bytes=+1-2", Ok(None)),
            ("bytes=1-2-3", Ok(None)),
            ("bytes=a-b", Ok(None)),
            ("lines=1-2", Ok(None)),
        ] {
            let found = wanted_range(&headers(&[("range", range)]), 10, &state()).map_err(drop);
            assert_eq!(found, expected, "{range}");
        }
        assert!(wanted_range(&headers(&[("range", "bytes=0-")]), 0, &state()).is_err());
    }

    #[test]
    fn a_range_of_another_state_is_the_whole() {
        for (condition, is_part) in
            [("\"a\"", true), ("\"b\"", false), ("W/\"a\"", false), (THEN, true), (BEFORE, false), ("nonsense", false)]
        {
            let headers = headers(&[("range", "bytes=1-2"), ("if-range", condition)]);
            assert_eq!(wanted_range(&headers, 10, &state()).unwrap().is_some(), is_part, "{condition}");
        }
    }
}
