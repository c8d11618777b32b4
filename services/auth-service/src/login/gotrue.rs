//! Client of the login server (GoTrue).

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::body::Bytes;
use gaia_api::mount::UserTokenIssuer;
use gaia_api::names;
use gaia_auth::sha256;
use gaia_runtime::external::{self, FetchError};
use gaia_runtime::issuer_key;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderName};
use http::{HeaderMap, HeaderValue, Method, Request};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::failure::LoginFailure;
use super::meaning::{Asked, code, meaning};
use super::request::{Logout, Refresh, SignIn};

/// A session of GoTrue, without other members of its response. It has no `Debug`, because it contains secrets.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Session {
    pub(super) access_token: String,
    token_type: String,
    expires_in: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<i64>,
    pub(super) refresh_token: String,
    pub(super) user: Value,
}

impl Session {
    /// Returns the user's ID.
    pub(super) fn sub(&self) -> Option<&str> {
        self.user["id"].as_str()
    }

    /// Returns the hash of the refresh token.
    pub(super) fn token_hash(&self) -> [u8; 32] {
        sha256(self.refresh_token.as_bytes())
    }
}

/// The project at which users sign in.
pub(super) struct Project {
    issuer: UserTokenIssuer,
    /// The project's API key, required by the API gateway in front of GoTrue.
    api_key: Option<HeaderValue>,
    /// The client's address, for the rate limits of the project; none if forwarding is not configured.
    forwarded_for: Option<IpAddr>,
}

/// Whether the project's API key was missing at the last read.
#[derive(Debug, Clone, Default)]
pub(super) struct KeyWatch(Arc<AtomicBool>);

impl KeyWatch {
    /// Records the state, and returns true if the key is newly missing, so that it is logged once.
    fn is_news(&self, is_missing: bool) -> bool {
        !self.0.swap(is_missing, Ordering::Relaxed) && is_missing
    }
}

impl Project {
    pub(super) async fn of(issuer: &UserTokenIssuer, dir: &Path, watch: &KeyWatch) -> Self {
        let key = issuer_key(dir, &issuer.name).await;
        if watch.is_news(key.is_err())
            && let Err(error) = &key
        {
            let file = names::issuer_key(&issuer.name);
            tracing::warn!(file, %error, "cannot read the API key of the login server");
        }
        let api_key = key.ok().and_then(|key| sensitive(&key));
        Self { issuer: issuer.clone(), api_key, forwarded_for: None }
    }

    /// Forwards the client's address to the project, which then limits each address separately.
    pub(super) fn forwarded_for(self, address: Option<IpAddr>) -> Self {
        Self { forwarded_for: address, ..self }
    }

    /// Returns the claims that the platform requires in each access token of the project.
    pub(super) fn required_claims(&self) -> &BTreeMap<String, String> {
        &self.issuer.required_claims
    }

    /// Returns the issuer's short name.
    pub(super) fn name(&self) -> &str {
        &self.issuer.name
    }

    pub(super) async fn sign_in(&self, wanted: &SignIn) -> Result<Session, LoginFailure> {
        self.session(Asked::SignIn, wanted.grant()).await
    }

    pub(super) async fn refresh(&self, wanted: &Refresh) -> Result<Session, LoginFailure> {
        self.session(Asked::Refresh, wanted.grant()).await
    }

    pub(super) async fn log_out(&self, wanted: &Logout) -> Result<(), LoginFailure> {
        let bearer = sensitive(&format!("Bearer {}", wanted.access_token)).ok_or(LoginFailure::Malformed)?;
        let headers = HeaderMap::from_iter([(AUTHORIZATION, bearer)]);
        let path = format!("/logout?scope={}", wanted.scope.as_str());
        let answer = self.ask(Asked::LogOut, &path, headers, Bytes::new()).await;
        match answer {
            // The session had already ended.
            Ok(_) | Err(LoginFailure::SessionEnded) => Ok(()),
            Err(failure) => Err(failure),
        }
    }

    async fn session(&self, asked: Asked, (grant, body): (&str, Value)) -> Result<Session, LoginFailure> {
        let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static("application/json"))]);
        let path = format!("/token?grant_type={grant}");
        let answer = self.ask(asked, &path, headers, Bytes::from(body.to_string())).await?;
        // The parser's message could contain a token.
        serde_json::from_slice(&answer).map_err(|_| {
            tracing::error!(issuer = self.name(), grant, "the login server responded with 200 but without a session");
            LoginFailure::Unavailable
        })
    }

    /// Returns the sign-in methods that the project offers.
    pub(super) async fn methods(&self) -> Result<Methods, LoginFailure> {
        let answer = self.send(Asked::Settings, Method::GET, "/settings", HeaderMap::new(), Bytes::new()).await?;
        Methods::read(&answer).ok_or_else(|| {
            tracing::warn!(issuer = self.name(), "the login server responded with 200 but without its settings");
            LoginFailure::Unavailable
        })
    }

    async fn ask(&self, asked: Asked, path: &str, headers: HeaderMap, body: Bytes) -> Result<Bytes, LoginFailure> {
        self.send(asked, Method::POST, path, headers, body).await
    }

    async fn send(
        &self,
        asked: Asked,
        method: Method,
        path: &str,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<Bytes, LoginFailure> {
        let mut request = Request::new(body);
        *request.method_mut() = method;
        let url = format!("{}{path}", self.issuer.issuer.trim_end_matches('/'));
        *request.uri_mut() = url.parse().map_err(|_| LoginFailure::Unavailable)?;
        *request.headers_mut() = headers;
        if let Some(key) = &self.api_key {
            request.headers_mut().insert("apikey", key.clone());
        }
        if let Some(address) = self.forwarded_for
            && let Ok(address) = HeaderValue::try_from(address.to_string())
        {
            request.headers_mut().insert(FORWARDED_FOR, address);
        }
        let answer = match external::send(request, self.issuer.ca_bundle.as_deref()).await {
            Ok(answer) if answer.status.is_success() => return Ok(answer.body),
            Ok(answer) => answer,
            Err(FetchError::TooLarge) if matches!(asked, Asked::SignIn | Asked::Refresh) => {
                tracing::warn!(issuer = self.name(), "session of the login server is larger than 64 KiB");
                return Err(LoginFailure::SessionTooLarge);
            }
            Err(error) => {
                tracing::warn!(issuer = self.name(), %error, "cannot reach the login server");
                return Err(LoginFailure::Unavailable);
            }
        };
        let code = code(&answer.body);
        let failure = meaning(asked, answer.status, &code, &answer.headers);
        if failure == LoginFailure::Unavailable {
            tracing::warn!(
                issuer = self.name(),
                status = answer.status.as_u16(),
                code = code.chars().take(MAX_LOGGED_CHARACTERS).collect::<String>(),
                "the login server returned an error"
            );
        }
        Err(failure)
    }
}

/// The sign-in methods of a project.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Methods {
    /// Sign-in with an email address and a password.
    password: bool,
    /// Enabled providers, by GoTrue's names.
    providers: Vec<String>,
}

impl Methods {
    /// Parses GoTrue's `GET /settings`.
    fn read(body: &[u8]) -> Option<Self> {
        #[derive(Deserialize)]
        struct Settings {
            external: BTreeMap<String, Value>,
        }
        let mut external = serde_json::from_slice::<Settings>(body).ok()?.external;
        let password = external.remove("email").as_ref().and_then(Value::as_bool)?;
        let is_on =
            |(name, value): (String, Value)| (value == true && !OWN_METHODS.contains(&name.as_str())).then_some(name);
        Some(Self { password, providers: external.into_iter().filter_map(is_on).take(MAX_PROVIDERS).collect() })
    }
}

fn sensitive(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// GoTrue's rate limits use this header if the project has IP address forwarding enabled.
const FORWARDED_FOR: HeaderName = HeaderName::from_static("sb-forwarded-for");
/// Entries of `external` that are not providers.
const OWN_METHODS: [&str; 3] = ["email", "phone", "anonymous_users"];
const MAX_PROVIDERS: usize = 64;
const MAX_LOGGED_CHARACTERS: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn that_there_is_no_key_is_told_once_each_time_it_goes_missing() {
        let watch = KeyWatch::default();
        let told = [true, true, true, false, false, true, true].map(|is_missing| watch.is_news(is_missing));
        assert_eq!(told, [true, false, false, false, false, true, false]);
    }

    #[test]
    fn methods_of_a_project_are_those_that_are_switched_on() {
        let body = br#"{"external":{"anonymous_users":true,"email":true,"github":true,"google":false,"phone":true},"disable_signup":true}"#;
        let methods = Methods::read(body).unwrap();
        assert_eq!(methods, Methods { password: true, providers: vec!["github".to_owned()] });
        assert_eq!(Methods::read(br#"{"message":"no settings"}"#), None);
    }
}
