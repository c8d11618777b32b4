//! Extraction of credentials from a request.

use gaia_auth::ExtractedCredentials;
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue};

/// Lines that begin with `A` are `Authorization` headers, others `X-API-Key`.
pub(crate) fn bearer(data: &[u8]) {
    let mut headers = HeaderMap::new();
    let (mut authorizations, mut keys) = (Vec::new(), Vec::new());
    for line in data.split(|&byte| byte == b'\n').take(4) {
        let Some((&kind, text)) = line.split_first() else { continue };
        let Ok(value) = HeaderValue::from_bytes(text) else { continue };
        if kind == b'A' {
            headers.append(AUTHORIZATION, value);
            authorizations.push(text);
        } else {
            headers.append("x-api-key", value);
            keys.push(text);
        }
    }
    let found = ExtractedCredentials::find(&headers);
    let expected = expected(&authorizations, &keys);
    assert_eq!(found.ok().map(|found| (found.token, found.api_key)), expected, "{headers:?}");
    if let Ok(found) = ExtractedCredentials::find(&headers) {
        assert!(format!("{found:?}").len() < 64, "a credential is printed");
    }
}

type Found<'a> = (Option<&'a str>, Option<&'a str>);

/// RFC 6750, section 2.1, and the rules of docs/auth.md: one header of each, one word after one scheme; a value with two
/// dots is a token, any other is a key, of which there is one. A key in its own header is found whatever the other header has.
fn expected<'a>(authorizations: &[&'a [u8]], keys: &[&'a [u8]]) -> Option<Found<'a>> {
    let text = |bytes: &'a [u8]| {
        let is_text = bytes.iter().all(|&byte| (0x20..0x7f).contains(&byte) || byte == b'\t');
        is_text.then(|| std::str::from_utf8(bytes).ok()).flatten()
    };
    let one = |values: &[&'a [u8]]| match values {
        [] => Some(None),
        [value] => text(value).map(Some),
        _ => None,
    };
    let key = one(keys)?;
    let is_good = |key: &str| !key.trim().is_empty() && key.len() <= 1024;
    let bearer = |value: &'a str| {
        let (scheme, word) = value.split_at_checked(6).filter(|(_, rest)| rest.starts_with(' '))?;
        let word = &word[1..];
        (scheme.eq_ignore_ascii_case("bearer") && !word.contains(' ')).then_some(word)
    };
    let word = match one(authorizations) {
        Some(None) => None,
        Some(Some(value)) if bearer(value).is_some() => bearer(value),
        // It is malformed: a key in the other header counts alone.
        _ => return key.filter(|key| is_good(key)).map(|key| (None, Some(key))),
    };
    let is_token = |word: &&str| word.matches('.').count() >= 2;
    let (token, bearer_key) = (word.filter(is_token), word.filter(|word| !is_token(word)));
    if bearer_key.is_some() && key.is_some() {
        return None;
    }
    let key = bearer_key.or(key);
    if key.is_some_and(|key| !is_good(key)) {
        return None;
    }
    Some((token, key))
}
