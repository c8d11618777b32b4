//! Extraction of credentials from request headers, distinguished by shape alone.

use std::fmt;

use http::HeaderValue;
use http::header::{AUTHORIZATION, HeaderMap, HeaderName};

use crate::Reason;

/// The header that carries an API key.
pub const API_KEY_HEADER: HeaderName = HeaderName::from_static("x-api-key");

/// The credentials of one request, not yet verified. Query and body are never read.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct ExtractedCredentials<'a> {
    /// A Bearer value with two or more dots, which is only ever treated as a token.
    pub token: Option<&'a str>,
    /// The value of `X-API-Key`, or a Bearer value with fewer than two dots.
    pub api_key: Option<&'a str>,
    /// Reason why `Authorization` contains no readable token although `X-API-Key` is present; the mode decides whether
    /// it matters.
    pub unusable: Option<Reason>,
}

impl fmt::Debug for ExtractedCredentials<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Presented")
            .field("token", &self.token.is_some())
            .field("api_key", &self.api_key.is_some())
            .field("unusable", &self.unusable)
            .finish()
    }
}

impl<'a> ExtractedCredentials<'a> {
    /// Extracts the credentials of a request.
    ///
    /// # Errors
    /// A [`Reason`] if a header is repeated, is not text, is empty or too long, or if the scheme is not Bearer (RFC
    /// 6750, section 2.1) and there is no API key.
    pub fn find(headers: &'a HeaderMap) -> Result<Self, Reason> {
        let header = single(headers, &API_KEY_HEADER, Reason::ApiKeyRepeated)?;
        let authorization = single(headers, &AUTHORIZATION, Reason::AuthorizationRepeated);
        let bearer = match (authorization.and_then(|value| value.map(bearer).transpose()), header) {
            (Ok(bearer), _) => bearer,
            (Err(reason), None) => return Err(reason),
            (Err(reason), Some(key)) => {
                check_key(key)?;
                return Ok(Self { token: None, api_key: header, unusable: Some(reason) });
            }
        };
        let (token, bearer_key) = match bearer {
            Some(value) if value.splitn(3, '.').count() == 3 => (Some(value), None),
            key => (None, key),
        };
        if bearer_key.is_some() && header.is_some() {
            return Err(Reason::ApiKeyRepeated);
        }
        let api_key = bearer_key.or(header);
        api_key.map_or(Ok(()), check_key)?;
        Ok(Self { token, api_key, unusable: None })
    }
}

/// Checks the length and the characters of an API key.
pub(crate) fn check_key(key: &str) -> Result<(), Reason> {
    if key.len() > MAX_KEY_BYTES {
        Err(Reason::CredentialTooLong)
    } else if key.trim().is_empty() {
        Err(Reason::CredentialEmpty)
    } else {
        Ok(())
    }
}

/// Returns the value of a header that may occur once. Consecutive programs could pick different ones of two values.
fn single<'a>(headers: &'a HeaderMap, name: &HeaderName, repeated: Reason) -> Result<Option<&'a str>, Reason> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(repeated);
    }
    text(value).map(Some).ok_or(Reason::AuthorizationNotText)
}

/// Like [`HeaderValue::to_str`], but without a branch per byte: it runs for each token of each request.
fn text(value: &HeaderValue) -> Option<&str> {
    let is_text = |byte: u8| byte == b'\t' || (b' '..=b'~').contains(&byte);
    let is_all_text = value.as_bytes().iter().fold(true, |so_far, &byte| so_far & is_text(byte));
    if is_all_text { std::str::from_utf8(value.as_bytes()).ok() } else { None }
}

fn bearer(value: &str) -> Result<&str, Reason> {
    match value.split_once(' ') {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("bearer") => {
            // One word only: another program might read the text after a second space.
            if rest.contains(' ') && !rest.trim().is_empty() { Err(Reason::TokenAlphabet) } else { Ok(rest) }
        }
        None if value.eq_ignore_ascii_case("bearer") => Err(Reason::CredentialEmpty),
        _ => Err(Reason::SchemeUnknown),
    }
}

/// Maximum length of an API key: enough for every provider, and cheap to hash.
const MAX_KEY_BYTES: usize = 1024;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        headers
    }

    #[test]
    fn a_bearer_value_is_a_token_by_its_dots_and_a_key_without() {
        let request = headers(&[("authorization", "Bearer a.b.c")]);
        let found = |token, api_key| Ok(ExtractedCredentials { token, api_key, unusable: None });
        assert_eq!(ExtractedCredentials::find(&request), found(Some("a.b.c"), None));
        let request = headers(&[("authorization", "bearer sk-1.x")]);
        assert_eq!(ExtractedCredentials::find(&request), found(None, Some("sk-1.x")));
        let request = headers(&[("authorization", "Bearer a.b.c"), ("x-api-key", "k")]);
        assert_eq!(ExtractedCredentials::find(&request), found(Some("a.b.c"), Some("k")));
        assert_eq!(ExtractedCredentials::find(&HeaderMap::new()), Ok(ExtractedCredentials::default()));
    }

    #[test]
    fn what_two_programs_could_read_differently_is_refused() {
        let long_key = "k".repeat(1025);
        let table: &[(&[(&'static str, &str)], Reason)] = &[
            // A proxy may check the first while the service reads the last.
            (&[("authorization", "Bearer a.b.c"), ("authorization", "Bearer d.e.f")], Reason::AuthorizationRepeated),
            (&[("x-api-key", "a"), ("x-api-key", "b")], Reason::ApiKeyRepeated),
            (&[("authorization", "Bearer key"), ("x-api-key", "other")], Reason::ApiKeyRepeated),
            (&[("authorization", "Basic dTpw")], Reason::SchemeUnknown),
            (&[("authorization", "Token a.b.c")], Reason::SchemeUnknown),
            (&[("authorization", "Bearer\ta.b.c")], Reason::SchemeUnknown),
            (&[("authorization", "Bearer")], Reason::CredentialEmpty),
            (&[("authorization", "Bearer  ")], Reason::CredentialEmpty),
            (&[("x-api-key", "")], Reason::CredentialEmpty),
            (&[("x-api-key", "schlüssel")], Reason::AuthorizationNotText),
            // Large values are refused before hashing.
            (&[("x-api-key", &long_key)], Reason::CredentialTooLong),
        ];
        for (request, reason) in table {
            assert_eq!(ExtractedCredentials::find(&headers(request)), Err(*reason), "{request:?}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_token_does_not_hide_the_key_beside_it() {
        let table: &[(&[(&'static str, &str)], Reason)] = &[
            (&[("authorization", "Bearer a.b.c"), ("authorization", "Bearer d.e.f")], Reason::AuthorizationRepeated),
            (&[("authorization", "Basic dTpw")], Reason::SchemeUnknown),
            (&[("authorization", "Bearer a.b.c d")], Reason::TokenAlphabet),
        ];
        for (request, reason) in table {
            let mut headers = headers(request);
            headers.insert("x-api-key", HeaderValue::from_static("k"));
            let found = ExtractedCredentials { token: None, api_key: Some("k"), unusable: Some(*reason) };
            assert_eq!(ExtractedCredentials::find(&headers), Ok(found), "{request:?}");
            headers.append("x-api-key", HeaderValue::from_static("k"));
            assert_eq!(ExtractedCredentials::find(&headers), Err(Reason::ApiKeyRepeated), "{request:?}");
        }
    }

    #[test]
    fn a_credential_in_a_query_a_cookie_or_a_body_is_none() {
        // Tokens in URLs end up in logs, histories and referrers (RFC 6750, section 5.3).
        let (parts, _body) = http::Request::post("/assets?access_token=a.b.c&api_key=k")
            .header("cookie", "access_token=a.b.c")
            .header("content-type", "application/x-www-form-urlencoded")
            .body("access_token=a.b.c")
            .unwrap()
            .into_parts();
        assert_eq!(ExtractedCredentials::find(&parts.headers), Ok(ExtractedCredentials::default()));
    }

    #[test]
    fn debug_output_holds_no_credential() {
        let request = headers(&[("authorization", "Bearer a.secret.c"), ("x-api-key", "secret")]);
        assert!(!format!("{:?}", ExtractedCredentials::find(&request).unwrap()).contains("secret"));
    }

    proptest! {
        #[test]
        fn any_header_bytes_are_answered_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(value) = HeaderValue::from_bytes(&bytes) {
                prop_assert_eq!(text(&value), value.to_str().ok());
                let mut headers = HeaderMap::new();
                headers.insert(AUTHORIZATION, value);
                let _ = ExtractedCredentials::find(&headers);
            }
        }

        #[test]
        fn a_bearer_value_is_taken_if_and_only_if_it_is_one_word_after_one_scheme(value in "(Bearer|bearer|BEARER|Basic|Bearer:|) {0,2}[!-~]{0,4}( [!-~]{1,2})?") {
            let request = headers(&[("authorization", &value)]);
            let words: Vec<&str> = value.split(' ').collect();
            let is_one = matches!(words.as_slice(), [scheme, word] if scheme.eq_ignore_ascii_case("bearer") && !word.is_empty());
            prop_assert_eq!(ExtractedCredentials::find(&request).is_ok(), is_one, "{:?}", value);
        }

        #[test]
        fn a_value_with_two_dots_is_never_taken_for_a_key(value in "[!-~]{0,8}\\.[!-~]{0,8}\\.[!-~]{0,8}") {
            let request = headers(&[("authorization", &format!("Bearer {value}"))]);
            prop_assert_eq!(ExtractedCredentials::find(&request).unwrap().api_key, None);
        }
    }
}
