//! The requested host: `:authority` in HTTP/2, `Host` in HTTP/1. Handlers read `Host`.

use http::header::HOST;
use http::uri::{Authority, Scheme};
use http::{HeaderValue, Request, Uri, Version};

/// The request does not name exactly one valid host.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct UnclearHost;

/// Sets `Host` to the authority of the request target where there is one: `:authority` in HTTP/2, the absolute form in
/// HTTP/1.
///
/// # Errors
/// [`UnclearHost`] if `Host` and authority differ or the authority has user information (RFC 9113, section 8.3.1); if
/// `Host` is repeated or invalid, or missing in HTTP/1.1 (RFC 9112, section 3.2).
pub(crate) fn name_host<B>(request: &mut Request<B>) -> Result<(), UnclearHost> {
    if request.version() <= Version::HTTP_11 {
        let mut hosts = request.headers().get_all(HOST).iter();
        let is_clear = match (hosts.next(), hosts.next()) {
            (Some(host), None) => is_valid(host),
            (None, _) => request.version() < Version::HTTP_11,
            (Some(_), Some(_)) => false,
        };
        if !is_clear {
            return Err(UnclearHost);
        }
    }
    let Some(authority) = request.uri().authority() else { return Ok(()) };
    let is_the_same = |host: &HeaderValue| {
        let host: Option<Authority> = host.to_str().ok().and_then(|host| host.parse().ok());
        host.is_some_and(|host| is_same(&host, authority, request.uri()))
    };
    if authority.as_str().contains('@') || !request.headers().get_all(HOST).iter().all(is_the_same) {
        return Err(UnclearHost);
    }
    let host = HeaderValue::from_str(authority.as_str()).map_err(|_| UnclearHost)?;
    request.headers_mut().insert(HOST, host);
    Ok(())
}

/// Returns true if a `Host` is `uri-host [ ":" port ]` (RFC 9110, section 7.2). An empty one is not valid.
fn is_valid(host: &HeaderValue) -> bool {
    let Some(text) = host.to_str().ok().filter(|text| !text.contains('@')) else { return false };
    let Ok(authority) = text.parse::<Authority>() else { return false };
    let port = text.strip_prefix(authority.host()).unwrap_or_default();
    let is_port =
        |port: &str| port.is_empty() || port.parse::<u16>().is_ok() && port.bytes().all(|b| b.is_ascii_digit());
    !authority.host().is_empty() && (port.is_empty() || port.strip_prefix(':').is_some_and(is_port))
}

/// Returns true if both are equal, ignoring case and the default port (RFC 3986, section 6.2).
fn is_same(host: &Authority, authority: &Authority, uri: &Uri) -> bool {
    let usual = if uri.scheme() == Some(&Scheme::HTTP) { 80 } else { 443 };
    let port = |authority: &Authority| authority.port_u16().unwrap_or(usual);
    host.host().eq_ignore_ascii_case(authority.host()) && port(host) == port(authority)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the `Host` that handlers see for a request to `uri` with these headers.
    fn seen(uri: &str, hosts: &[&str]) -> Result<Option<String>, UnclearHost> {
        let mut request = Request::get(uri).version(Version::HTTP_2);
        for host in hosts {
            request = request.header(HOST, *host);
        }
        let mut request = request.body(()).unwrap();
        name_host(&mut request)?;
        let seen: Vec<_> = request.headers().get_all(HOST).iter().collect();
        assert!(seen.len() < 2);
        Ok(seen.first().map(|host| host.to_str().unwrap().to_owned()))
    }

    #[test]
    fn a_request_without_a_host_gets_that_of_its_authority() {
        assert_eq!(seen("https://shop.example:8443/a", &[]), Ok(Some("shop.example:8443".to_owned())));
        assert_eq!(seen("/a", &[]), Ok(None));
        assert_eq!(seen("/a", &["shop.example"]), Ok(Some("shop.example".to_owned())));
    }

    #[test]
    fn the_same_host_may_be_written_in_another_way() {
        for (uri, host) in [
            ("https://shop.example/", "Shop.Example"),
            ("https://shop.example/", "shop.example:443"),
            ("https://shop.example:443/", "shop.example"),
            ("http://shop.example/", "shop.example:80"),
            ("https://[::1]:8443/", "[::1]:8443"),
        ] {
            assert!(seen(uri, &[host]).is_ok(), "{uri} {host}");
        }
    }

    #[test]
    fn two_hosts_are_one_too_many() {
        for host in ["other.example", "shop.example:8443", "shop.example:80", "shop.example@other.example", "", "ä"] {
            assert_eq!(seen("https://shop.example/", &[host]), Err(UnclearHost), "{host}");
        }
        assert_eq!(seen("https://shop.example/", &["shop.example", "other.example"]), Err(UnclearHost));
        assert_eq!(seen("https://user@shop.example/", &[]), Err(UnclearHost));
    }

    #[test]
    fn http_1_1_needs_exactly_one_valid_host() {
        let check = |version: Version, uri: &str, hosts: &[&str]| {
            let mut request = Request::get(uri).version(version);
            for host in hosts {
                request = request.header(HOST, *host);
            }
            name_host(&mut request.body(()).unwrap())
        };
        for hosts in [
            &[][..],
            &["a", "a"],
            &["a", "b"],
            &[""],
            &[" "],
            &["a b"],
            &["a/b"],
            &["user@a"],
            &["a:b"],
            &["a:99999"],
            &["a:+80"],
            &["a:80:80"],
            &[":80"],
            &["http://a"],
            &["[::1"],
            &["a?b"],
            &["a#b"],
            &["a\\b"],
        ] {
            assert_eq!(check(Version::HTTP_11, "/", hosts), Err(UnclearHost), "{hosts:?}");
        }
        for host in ["a", "a:80", "a:", "10.0.0.1:9090", "[fd00::1]:9090", "[::1]", "my_service.shop.svc", "A.example"]
        {
            assert_eq!(check(Version::HTTP_11, "/", &[host]), Ok(()), "{host}");
            assert_eq!(check(Version::HTTP_10, "/", &[host]), Ok(()), "{host}");
        }
        assert_eq!(check(Version::HTTP_10, "/", &[]), Ok(()), "HTTP/1.0 has no Host");
        assert_eq!(check(Version::HTTP_10, "/", &["a", "a"]), Err(UnclearHost));
        assert_eq!(check(Version::HTTP_11, "http://a/", &["a"]), Ok(()));
        assert_eq!(check(Version::HTTP_11, "http://a/", &["b"]), Err(UnclearHost));
        assert_eq!(check(Version::HTTP_11, "http://a/", &[]), Err(UnclearHost));
    }
}
