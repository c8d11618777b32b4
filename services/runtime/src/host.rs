//! Whom a request is for: over HTTP/2 it says so in `:authority`, and handlers look for `Host`.

use http::header::HOST;
use http::uri::{Authority, Scheme};
use http::{HeaderValue, Request, Uri};

/// A request does not say clearly whom it is for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct UnclearHost;

/// Makes `Host` say what `:authority` says. Where it says something else already, or there is a user before the host,
/// nobody can tell who is meant (RFC 9113, section 8.3.1).
pub(crate) fn name_host<B>(request: &mut Request<B>) -> Result<(), UnclearHost> {
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

/// Whether both are one place: letters of either case, and the usual port said or not (RFC 3986, section 6.2).
fn is_same(host: &Authority, authority: &Authority, uri: &Uri) -> bool {
    let usual = if uri.scheme() == Some(&Scheme::HTTP) { 80 } else { 443 };
    let port = |authority: &Authority| authority.port_u16().unwrap_or(usual);
    host.host().eq_ignore_ascii_case(authority.host()) && port(host) == port(authority)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The `Host` that is seen of a request to a URI that came with others.
    fn seen(uri: &str, hosts: &[&str]) -> Result<Option<String>, UnclearHost> {
        let mut request = Request::get(uri);
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
}
