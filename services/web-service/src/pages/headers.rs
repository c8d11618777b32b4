//! Security headers of all responses.

use axum::response::Response;
use http::header::HeaderName;
use http::{HeaderMap, HeaderValue};

use crate::origin::PublicUrl;

/// Adds the headers to a response; headers that are already set are kept.
pub(crate) fn secure(mut response: Response, public_url: Option<&PublicUrl>) -> Response {
    let headers = response.headers_mut();
    for (name, value) in EVERYWHERE {
        set(headers, name, value);
    }
    // On loopback there may be no TLS, and the host is shared by many services.
    if public_url.is_some_and(|url| url.origin().starts_with("https://")) {
        set(headers, "strict-transport-security", "max-age=31536000");
    }
    response
}

fn set(headers: &mut HeaderMap, name: &'static str, value: &'static str) {
    headers.entry(HeaderName::from_static(name)).or_insert(HeaderValue::from_static(value));
}

/// No inline code, no external resources, and no framing by other pages.
pub(crate) const CSP: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// `same-origin` and not `no-referrer`: with the latter browsers send `Origin: null` for our own forms.
const EVERYWHERE: [(&str, &str); 8] = [
    ("content-security-policy", CSP),
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
    ("referrer-policy", "same-origin"),
    ("cache-control", "no-store"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
    ("permissions-policy", "camera=(), geolocation=(), microphone=(), payment=(), usb=()"),
];

#[cfg(test)]
mod tests {
    use axum::response::IntoResponse as _;
    use http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, STRICT_TRANSPORT_SECURITY, X_CONTENT_TYPE_OPTIONS};

    use super::*;

    #[test]
    fn the_policy_allows_our_own_files_and_nothing_inline() {
        let directives: Vec<&str> = CSP.split("; ").collect();
        for name in ["script-src", "style-src", "img-src", "connect-src", "form-action"] {
            assert!(directives.contains(&format!("{name} 'self'").as_str()), "{name}");
        }
        for name in ["default-src", "base-uri", "frame-ancestors"] {
            assert!(directives.contains(&format!("{name} 'none'").as_str()), "{name}");
        }
        assert!(!CSP.contains("unsafe") && !CSP.contains('*') && !CSP.contains("http") && !CSP.contains("data:"));
    }

    #[test]
    fn an_answer_keeps_what_it_says_by_itself() {
        let file = ([(CACHE_CONTROL, "public"), (CONTENT_SECURITY_POLICY, "sandbox")], "x").into_response();
        let secured = secure(file, None);
        assert_eq!(
            (&secured.headers()[CACHE_CONTROL], &secured.headers()[CONTENT_SECURITY_POLICY]),
            (&HeaderValue::from_static("public"), &HeaderValue::from_static("sandbox"))
        );
        assert_eq!(secured.headers()[X_CONTENT_TYPE_OPTIONS], "nosniff");
        assert!(!secured.headers().contains_key(STRICT_TRANSPORT_SECURITY));
        let public = PublicUrl::parse("https://app.example").unwrap();
        assert!(secure("x".into_response(), Some(&public)).headers().contains_key(STRICT_TRANSPORT_SECURITY));
    }
}
