//! Header rules for forwarded requests and responses.

use std::collections::HashSet;
use std::sync::LazyLock;

use gaia_auth::{API_KEY_HEADER, REQUEST_ID_HEADER};
use http::header::{
    AUTHORIZATION, CONNECTION, CONTENT_LENGTH, COOKIE, EXPECT, FORWARDED, HOST, HeaderMap, HeaderName, HeaderValue,
    LINK, ORIGIN, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, SERVER, SET_COOKIE, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
    VIA, WWW_AUTHENTICATE,
};

/// Returns the headers to forward to an upstream: without hop-by-hop headers, credentials, and headers that state the
/// client's address or identity.
#[must_use]
pub fn for_upstream(headers: &HeaderMap, request_id: Option<&HeaderValue>) -> HeaderMap {
    let mut passed = passing(headers, |name| {
        let name = folded(name.as_str());
        FOLDED.contains(&name) || ["x_gaia_", "x_forwarded_"].iter().any(|prefix| name.starts_with(prefix))
    });
    if let Some(id) = request_id {
        passed.insert(REQUEST_ID_HEADER, id.clone());
    }
    passed
}

/// Folds a header name as CGI does: RFC 3875, section 4.1.18, turns `-` into `_`, and some programs turn every other
/// character into it. Names that such a program cannot distinguish are treated as equal.
fn folded(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' }).collect()
}

/// Returns the headers of a response for the client: without hop-by-hop and internal headers. Upstreams cannot set
/// cookies for this origin. Deprecation headers of an upstream concern the gateway's credential, not the client's.
#[must_use]
pub fn for_client(headers: &HeaderMap) -> HeaderMap {
    let mut passed = passing(headers, |name| ONLY_ANSWER.contains(name) || name.as_str().starts_with("x-gaia-"));
    let links: Vec<HeaderValue> = passed.get_all(LINK).iter().filter_map(without_deprecation).collect();
    passed.remove(LINK);
    for link in links {
        passed.append(LINK, link);
    }
    passed
}

/// Removes from a `Link` header (RFC 8288) the links that point to deprecation documentation (RFC 9745).
fn without_deprecation(value: &HeaderValue) -> Option<HeaderValue> {
    let Ok(text) = value.to_str() else { return None };
    let all = split(text, ',');
    let kept: Vec<&str> = all.iter().copied().filter(|link| !is_of_deprecation(link)).collect();
    if kept.len() == all.len() {
        return Some(value.clone());
    }
    HeaderValue::from_str(kept.join(",").trim()).ok().filter(|value| !value.is_empty())
}

fn is_of_deprecation(link: &str) -> bool {
    split(link, ';').into_iter().skip(1).filter_map(|parameter| parameter.split_once('=')).any(|(name, value)| {
        let mut relations = value.trim().trim_matches('"').split_ascii_whitespace();
        name.trim().eq_ignore_ascii_case("rel") && relations.any(|it| it.eq_ignore_ascii_case("deprecation"))
    })
}

/// Splits at a character outside of `<address>` and quoted strings.
fn split(text: &str, separator: char) -> Vec<&str> {
    let (mut is_address, mut is_quoted, mut is_escaped) = (false, false, false);
    let is_separator = |character: char| {
        match character {
            _ if is_escaped => is_escaped = false,
            '\\' if is_quoted => is_escaped = true,
            '"' if !is_address => is_quoted = !is_quoted,
            '<' if !is_quoted => is_address = true,
            '>' if !is_quoted => is_address = false,
            character => return character == separator && !is_address && !is_quoted,
        }
        false
    };
    text.split(is_separator).collect()
}

fn passing(headers: &HeaderMap, is_dropped: impl Fn(&HeaderName) -> bool) -> HeaderMap {
    let named = named_by_connection(headers);
    let passes = |name: &HeaderName| !HOP_BY_HOP.contains(name) && !named.contains(name.as_str()) && !is_dropped(name);
    let pairs = headers.iter().filter(|(name, _)| passes(name));
    let mut passed = HeaderMap::with_capacity(headers.len());
    for (name, value) in pairs {
        passed.append(name, value.clone());
    }
    passed
}

/// Returns the header names listed in `Connection`, which are meant for the next hop only (RFC 9110, section 7.6.1).
fn named_by_connection(headers: &HeaderMap) -> HashSet<String> {
    let values = headers.get_all(CONNECTION).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(|name| name.trim().to_ascii_lowercase()).collect()
}

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");

static HOP_BY_HOP: [HeaderName; 11] = [
    CONNECTION,
    KEEP_ALIVE,
    PROXY_CONNECTION,
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
    HTTP2_SETTINGS,
    VIA,
];

/// Folded names of the headers that are never forwarded to an upstream.
static FOLDED: LazyLock<HashSet<String>> =
    LazyLock::new(|| ONLY_REQUEST.iter().chain(&HOP_BY_HOP).map(|name| folded(name.as_str())).collect());

/// Content length and expectation belong to this connection; the HTTP client sets its own. `Origin` was checked here.
static ONLY_REQUEST: [HeaderName; 26] = [
    HOST,
    CONTENT_LENGTH,
    EXPECT,
    ORIGIN,
    AUTHORIZATION,
    API_KEY_HEADER,
    COOKIE,
    // Project API key of Supabase.
    HeaderName::from_static("apikey"),
    // A CGI program reads it as its proxy's address (httpoxy).
    HeaderName::from_static("proxy"),
    FORWARDED,
    REQUEST_ID_HEADER,
    HeaderName::from_static("x-real-ip"),
    HeaderName::from_static("x-client-ip"),
    HeaderName::from_static("x-cluster-client-ip"),
    HeaderName::from_static("true-client-ip"),
    HeaderName::from_static("cf-connecting-ip"),
    HeaderName::from_static("fastly-client-ip"),
    HeaderName::from_static("fly-client-ip"),
    HeaderName::from_static("x-envoy-external-address"),
    HeaderName::from_static("x-original-url"),
    HeaderName::from_static("x-rewrite-url"),
    HeaderName::from_static("x-http-method-override"),
    HeaderName::from_static("x-method-override"),
    HeaderName::from_static("x-http-method"),
    HeaderName::from_static("x-remote-user"),
    HeaderName::from_static("x-ssl-client-cert"),
];

static ONLY_ANSWER: [HeaderName; 7] = [
    SET_COOKIE,
    SERVER,
    WWW_AUTHENTICATE,
    REQUEST_ID_HEADER,
    HeaderName::from_static("deprecation"),
    HeaderName::from_static("sunset"),
    HeaderName::from_static("x-powered-by"),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    fn names(headers: &HeaderMap) -> Vec<&str> {
        headers.keys().map(HeaderName::as_str).collect()
    }

    #[test]
    fn of_a_request_only_what_is_the_services_business_passes() {
        let request = headers(&[
            ("host", "shop.example"),
            ("accept", "*/*"),
            ("accept", "text/html"),
            ("authorization", "Bearer a.b.c"),
            ("x-api-key", "k"),
            ("cookie", "a=b"),
            ("connection", "close, X-Secret-Hop"),
            ("connection", "x-other-hop"),
            ("x-secret-hop", "1"),
            ("x-other-hop", "1"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "keep-alive"),
            ("te", "trailers"),
            ("transfer-encoding", "chunked"),
            ("trailer", "x"),
            ("upgrade", "h2c"),
            ("http2-settings", "x"),
            ("content-length", "3"),
            ("expect", "100-continue"),
            ("forwarded", "for=1.2.3.4"),
            ("x-forwarded-for", "1.2.3.4"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-client-cert", "Subject=gateway"),
            ("x-real-ip", "1.2.3.4"),
            ("x-gaia-subject", "user:supabase:admin"),
            ("x-request-id", "theirs"),
            ("content-type", "text/plain"),
        ]);
        let passed = for_upstream(&request, Some(&HeaderValue::from_static("ours")));
        assert_eq!(names(&passed), ["accept", "content-type", "x-request-id"]);
        assert_eq!(passed.get_all("accept").iter().count(), 2);
        assert_eq!(passed["x-request-id"], "ours");
    }

    #[test]
    fn a_name_that_folds_into_a_trusted_one_does_not_pass() {
        let trusted = ONLY_REQUEST.iter().chain(&HOP_BY_HOP).map(HeaderName::as_str);
        let trusted = trusted.chain(["x-gaia-subject", "x-gaia-client-ip", "x-forwarded-for", "x-forwarded-user"]);
        for name in trusted.filter(|name| name.contains('-')) {
            for other in "!#$%&'*+._`|~".chars() {
                for spelled in [name.replace('-', &other.to_string()), name.replacen('-', &other.to_string(), 1)] {
                    let mut request = HeaderMap::new();
                    let spelled: HeaderName = spelled.to_ascii_uppercase().parse().unwrap();
                    request.insert(spelled.clone(), HeaderValue::from_static("user:supabase:admin"));
                    assert!(for_upstream(&request, None).is_empty(), "{spelled}");
                }
            }
        }
        let request = headers(&[("x_custom", "1"), ("traceparent", "00-1-1-00"), ("x-gaiaonline", "1")]);
        assert_eq!(names(&for_upstream(&request, None)), ["x_custom", "traceparent", "x-gaiaonline"]);
    }

    #[test]
    fn of_an_answer_nothing_internal_passes_and_no_cookie() {
        let answer = headers(&[
            ("content-type", "text/plain"),
            ("deprecation", "@1800000000"),
            ("sunset", "Fri, 15 Jan 2027 08:00:00 GMT"),
            ("set-cookie", "a=b"),
            ("connection", "x-hop"),
            ("x-hop", "1"),
            ("transfer-encoding", "chunked"),
            ("server", "s"),
            ("www-authenticate", "Bearer"),
            ("x-gaia-instance", "i"),
            ("content-length", "3"),
        ]);
        assert_eq!(names(&for_client(&answer)), ["content-type", "content-length"]);
    }

    #[test]
    fn of_the_links_of_an_answer_all_pass_but_those_about_a_deprecation() {
        for (link, passed) in [
            (r#"<https://docs.example/tokens>; rel="deprecation""#, None),
            ("</a>;REL=Deprecation", None),
            (r#"</a>; title="b"; rel="help deprecation""#, None),
            (r#"</a>; rel="next", </b>; rel=deprecation"#, Some(r#"</a>; rel="next""#)),
            (r#"</b;rel=deprecation>; rel="next""#, Some(r#"</b;rel=deprecation>; rel="next""#)),
            (
                r#"</a,b>; title=", \"; rel=deprecation"; rel=up"#,
                Some(r#"</a,b>; title=", \"; rel=deprecation"; rel=up"#),
            ),
        ] {
            let answer = headers(&[("link", link), ("link", "</c>; rel=prev")]);
            let left = for_client(&answer);
            let left: Vec<&str> = left.get_all("link").iter().map(|value| value.to_str().unwrap()).collect();
            assert_eq!(left, passed.into_iter().chain(["</c>; rel=prev"]).collect::<Vec<_>>(), "{link}");
        }
    }
}
