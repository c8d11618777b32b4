//! Strict parser for `application/x-www-form-urlencoded`.

use std::collections::BTreeMap;

use http::{HeaderMap, header};

/// Parses the fields of a form. `None` for another content type or a repeated name (RFC 6749, section 3.2), which two
/// programs could interpret differently.
pub(crate) fn parse(headers: &HeaderMap, body: &[u8]) -> Option<BTreeMap<String, String>> {
    let content_type = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    if !essence.eq_ignore_ascii_case("application/x-www-form-urlencoded") {
        return None;
    }
    let mut fields = BTreeMap::new();
    for (name, value) in form_urlencoded::parse(body) {
        if fields.insert(name.into_owned(), value.into_owned()).is_some() {
            return None;
        }
    }
    Some(fields)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn headers(content_type: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(header::CONTENT_TYPE, http::HeaderValue::from_static(content_type))])
    }

    #[test]
    fn a_form_has_each_name_once_and_is_called_one() {
        let form = headers("application/x-www-form-urlencoded; charset=utf-8");
        let fields = parse(&form, b"a=1&b=%2F+x&c=").unwrap();
        assert_eq!((fields["a"].as_str(), fields["b"].as_str(), fields["c"].as_str()), ("1", "/ x", ""));
        assert_eq!(parse(&form, b"a=1&a=2"), None);
        assert_eq!(parse(&headers("application/json"), b"a=1"), None);
        assert_eq!(parse(&HeaderMap::new(), b"a=1"), None);
    }
}
