//! A minimal browser with cookies and an origin.

use std::collections::BTreeMap;

use axum::body::Body;
use http::header::{CONTENT_TYPE, COOKIE, HOST, HeaderMap, ORIGIN, SET_COOKIE};
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt as _;

/// Cookies and origin of a browser. It follows no redirects, so that tests can inspect them.
#[derive(Clone)]
pub(super) struct Browser {
    pub(super) origin: String,
    pub(super) cookies: BTreeMap<String, String>,
}

pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: String,
}

impl Answer {
    pub(super) fn location(&self) -> &str {
        self.headers.get("location").map_or("", |value| value.to_str().unwrap())
    }

    pub(super) fn sets_session(&self) -> bool {
        self.headers.get_all(SET_COOKIE).iter().any(|value| value.to_str().unwrap().starts_with("__Host-gaia="))
    }
}

impl Browser {
    pub(super) async fn get(&mut self, path: &str) -> Answer {
        self.send(Request::get(self.url(path)).header("accept", "text/html").body(Body::empty()).unwrap()).await
    }

    pub(super) async fn post_form(&mut self, path: &str, fields: &[(&str, &str)]) -> Answer {
        let encode =
            |text: &str| percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string();
        let body = fields.iter().map(|(name, value)| format!("{name}={}", encode(value))).collect::<Vec<_>>().join("&");
        let request = Request::post(self.url(path))
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .header("accept", "text/html")
            .header(ORIGIN, &self.origin);
        self.send(request.body(Body::from(body)).unwrap()).await
    }

    /// Sends a request like a script of one of our pages.
    pub(super) async fn fetch(
        &mut self,
        method: Method,
        path: &str,
        content_type: &str,
        body: impl Into<Body>,
    ) -> Answer {
        let request = Request::builder()
            .method(method)
            .uri(self.url(path))
            .header(CONTENT_TYPE, content_type)
            .header("accept", "application/json, text/event-stream")
            .header(ORIGIN, &self.origin);
        self.send(request.body(body.into()).unwrap()).await
    }

    pub(super) async fn send(&mut self, mut request: Request<Body>) -> Answer {
        if !self.cookies.is_empty() {
            request.headers_mut().extend(self.cookie_header());
        }
        request.headers_mut().remove(HOST);
        let client: hyper_util::client::legacy::Client<_, Body> =
            hyper_util::client::legacy::Client::builder(hyper_util::rt::TokioExecutor::new()).build_http();
        let (parts, body) = client.request(request).await.unwrap().into_parts();
        for header in parts.headers.get_all(SET_COOKIE) {
            let text = header.to_str().unwrap();
            assert!(text.contains("; Path=/; Secure; HttpOnly; SameSite=Lax; Max-Age="), "{text}");
            let (name, value) = text.split(';').next().unwrap().split_once('=').unwrap();
            if text.ends_with("Max-Age=0") {
                self.cookies.remove(name);
            } else {
                self.cookies.insert(name.to_owned(), value.to_owned());
            }
        }
        let body = String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap();
        Answer { status: parts.status, headers: parts.headers, body }
    }

    pub(super) fn cookie_header(&self) -> HeaderMap {
        let pairs = self.cookies.iter().map(|(name, value)| format!("{name}={value}"));
        HeaderMap::from_iter([(COOKIE, pairs.collect::<Vec<_>>().join("; ").parse().unwrap())])
    }

    /// Returns the cookies of a session, without the one for known accounts.
    pub(super) fn session_cookies(&self) -> Vec<&str> {
        let names = self.cookies.keys().map(String::as_str);
        names.filter(|name| *name != "__Host-gaia-known").collect()
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.origin)
    }
}
