//! Origin checks of requests, and the public URL of this service.

use http::header::{HOST, HeaderMap, ORIGIN};
use http::uri::{Authority, Scheme};
use http::{Method, Uri};

/// The public URL: scheme, host and port, and nothing else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicUrl {
    origin: String,
}

impl PublicUrl {
    /// Parses `https://host`, `https://host:port`, or the same with http on loopback.
    ///
    /// # Errors
    /// A description of the fault.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = || "must be https://host or https://host:port, or http on loopback".to_owned();
        let uri: Uri = text.parse().map_err(|_| wrong())?;
        let authority = uri.authority().filter(|authority| !authority.as_str().contains('@')).ok_or_else(wrong)?;
        if uri.path() != "/" || uri.query().is_some() {
            return Err(wrong());
        }
        match uri.scheme() {
            Some(scheme) if *scheme == Scheme::HTTPS || (*scheme == Scheme::HTTP && is_loopback(authority)) => {
                Ok(Self { origin: origin(scheme, authority) })
            }
            _ => Err(wrong()),
        }
    }

    /// Returns the origin as a browser serializes it.
    #[must_use]
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// Returns the public URL for a request: the configured one, otherwise the requested host. The scheme is https
    /// except on loopback, even if an ingress controller has terminated TLS: without https browsers would not keep our
    /// cookies.
    #[must_use]
    pub fn of(configured: Option<&Self>, headers: &HeaderMap) -> Option<Self> {
        if let Some(configured) = configured {
            return Some(configured.clone());
        }
        let host: Authority = headers.get(HOST)?.to_str().ok()?.parse().ok()?;
        let scheme = if is_loopback(&host) { Scheme::HTTP } else { Scheme::HTTPS };
        (!host.as_str().contains('@')).then(|| Self { origin: origin(&scheme, &host) })
    }
}

/// Returns true if a request may change state: its method is safe, or it was sent by one of our pages. Browsers send an
/// `Origin` with every other method; requests without one are refused.
#[must_use]
pub fn may_act(method: &Method, headers: &HeaderMap, configured: Option<&PublicUrl>) -> bool {
    if matches!(*method, Method::GET | Method::HEAD) {
        return true;
    }
    let mut origins = headers.get_all(ORIGIN).iter();
    let (Some(found), None) = (origins.next(), origins.next()) else { return false };
    let Ok(found) = found.to_str() else { return false };
    if let Some(configured) = configured {
        return found == configured.origin();
    }
    // Without a configured URL both schemes are accepted on loopback, because this service may use TLS there.
    let Some(PublicUrl { origin }) = PublicUrl::of(None, headers) else { return false };
    let with_tls = origin.strip_prefix("http://").map(|host| format!("https://{host}"));
    found == origin || with_tls.as_deref() == Some(found)
}

/// Returns the path of one of our own pages; `None` for anything that a browser could resolve to another origin.
#[must_use]
pub fn own_path(text: &str) -> Option<&str> {
    let is_path = text.starts_with('/') && !text.starts_with("//") && text.len() <= MAX_PATH_BYTES;
    (is_path && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\')).then_some(text)
}

fn origin(scheme: &Scheme, authority: &Authority) -> String {
    // The default port is omitted in an origin (RFC 6454, section 6.2).
    let usual = if *scheme == Scheme::HTTPS { ":443" } else { ":80" };
    let authority = authority.as_str().to_ascii_lowercase();
    format!("{scheme}://{}", authority.strip_suffix(usual).unwrap_or(&authority))
}

/// Returns true for hosts that browsers trust without TLS:
/// <https://w3c.github.io/webappsec-secure-contexts/#is-origin-trustworthy>.
fn is_loopback(authority: &Authority) -> bool {
    let host = authority.host().to_ascii_lowercase();
    host == "localhost" || host.ends_with(".localhost") || host == "[::1]" || host == "127.0.0.1"
}

const MAX_PATH_BYTES: usize = 512;

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(http::HeaderName, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(name, value.parse().unwrap());
        }
        headers
    }

    fn may_post(pairs: &[(http::HeaderName, &str)], configured: Option<&str>) -> bool {
        let configured = configured.map(|url| PublicUrl::parse(url).unwrap());
        may_act(&Method::POST, &headers(pairs), configured.as_ref())
    }

    #[test]
    fn a_post_of_our_own_page_may_act() {
        assert!(may_post(&[(HOST, "app.example"), (ORIGIN, "https://app.example")], None));
        assert!(may_post(&[(HOST, "app.example:8443"), (ORIGIN, "https://app.example:8443")], None));
        assert!(may_post(&[(HOST, "localhost:8080"), (ORIGIN, "http://localhost:8080")], None));
        assert!(may_post(&[(HOST, "localhost:8443"), (ORIGIN, "https://localhost:8443")], None));
        assert!(may_post(&[(HOST, "inner:8080"), (ORIGIN, "https://app.example")], Some("https://app.example")));
        assert!(may_post(&[(ORIGIN, "https://app.example")], Some("https://app.example:443")));
    }

    #[test]
    fn a_post_of_any_other_page_or_of_nobody_may_not() {
        for origin in
            ["https://evil.example", "null", "https://app.example.evil.example", "http://app.example", "", "*"]
        {
            assert!(!may_post(&[(HOST, "app.example"), (ORIGIN, origin)], None), "{origin}");
            assert!(!may_post(&[(HOST, "app.example"), (ORIGIN, origin)], Some("https://app.example")), "{origin}");
        }
        assert!(!may_post(&[(HOST, "app.example")], None));
        assert!(!may_post(&[(ORIGIN, "https://app.example")], None), "no Host, nothing to compare with");
        let two = [(HOST, "app.example"), (ORIGIN, "https://app.example"), (ORIGIN, "https://app.example")];
        assert!(!may_post(&two, None));
        assert!(!may_post(&[(HOST, "evil.example"), (ORIGIN, "https://evil.example")], Some("https://app.example")));
        for method in [Method::PUT, Method::DELETE, Method::PATCH, Method::OPTIONS] {
            assert!(!may_act(&method, &headers(&[(HOST, "app.example")]), None));
        }
    }

    #[test]
    fn a_get_needs_no_origin() {
        assert!(may_act(&Method::GET, &HeaderMap::new(), None) && may_act(&Method::HEAD, &HeaderMap::new(), None));
    }

    #[test]
    fn a_public_url_is_an_origin_that_browsers_keep_secure_cookies_for() {
        assert_eq!(PublicUrl::parse("https://App.Example:443/").unwrap().origin(), "https://app.example");
        assert_eq!(PublicUrl::parse("http://localhost:8080").unwrap().origin(), "http://localhost:8080");
        for wrong in ["http://app.example", "https://app.example/path", "https://a@b", "app.example", "https://a?b", ""]
        {
            assert!(PublicUrl::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn only_paths_of_ours_are_gone_back_to() {
        for good in ["/", "/files", "/files/a%20b?x=y"] {
            assert_eq!(own_path(good), Some(good));
        }
        for bad in ["", "//evil.example", "/\\evil.example", "https://evil.example", "javascript:x", "/a\nb", "/ä"] {
            assert_eq!(own_path(bad), None, "{bad:?}");
        }
    }
}
