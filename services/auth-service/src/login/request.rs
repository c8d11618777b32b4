//! Sign-in requests. They contain secrets and have no `Debug`.

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use gaia_auth::sha256;
use serde::Deserialize;
use serde_json::{Value, json};

use super::failure::LoginFailure;
use super::limits::Account;

/// Credentials for sign-in.
#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum SignIn {
    /// A password.
    Password(Password),
    /// A code from an external provider (PKCE, RFC 7636).
    Code(Code),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Password {
    email: String,
    password: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Code {
    auth_code: String,
    code_verifier: String,
}

/// A refresh request.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Refresh {
    refresh_token: String,
}

/// A sign-out request.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Logout {
    pub(super) access_token: String,
    #[serde(default)]
    pub(super) scope: LogoutScope,
}

/// The sessions of the user to end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum LogoutScope {
    /// This one.
    #[default]
    Local,
    /// All.
    Global,
    /// All others.
    Others,
}

impl SignIn {
    pub(super) fn parse(body: Result<Bytes, BytesRejection>) -> Result<Self, LoginFailure> {
        let mut wanted: Self = parse(body)?;
        if let Self::Password(Password { email, .. }) = &mut wanted {
            // Copied addresses and mobile keyboards add spaces, which are never part of an address.
            *email = email.trim().to_owned();
        }
        let is_whole = match &wanted {
            Self::Password(Password { email, password }) => !email.is_empty() && !password.is_empty(),
            Self::Code(Code { auth_code, code_verifier }) => !auth_code.is_empty() && !code_verifier.is_empty(),
        };
        if is_whole { Ok(wanted) } else { Err(LoginFailure::Malformed) }
    }

    /// Returns the label for metrics and audit.
    pub(super) fn action(&self) -> &'static str {
        match self {
            Self::Password(_) => "password",
            Self::Code(_) => "pkce",
        }
    }

    /// Returns the account of a password attempt.
    pub(super) fn account(&self) -> Option<Account> {
        match self {
            Self::Password(Password { email, .. }) => Some(Account::new(email)),
            Self::Code(_) => None,
        }
    }

    /// Returns GoTrue's `grant_type`, and the body of its request.
    pub(super) fn grant(&self) -> (&'static str, Value) {
        match self {
            Self::Password(Password { email, password }) => {
                ("password", json!({ "email": email, "password": password }))
            }
            Self::Code(Code { auth_code, code_verifier }) => {
                ("pkce", json!({ "auth_code": auth_code, "code_verifier": code_verifier }))
            }
        }
    }
}

impl Refresh {
    pub(super) fn parse(body: Result<Bytes, BytesRejection>) -> Result<Self, LoginFailure> {
        let wanted: Self = parse(body)?;
        if wanted.refresh_token.is_empty() { Err(LoginFailure::Malformed) } else { Ok(wanted) }
    }

    /// Returns the hash of the token; requests with equal hashes result in one request to GoTrue.
    pub(super) fn hash(&self) -> [u8; 32] {
        sha256(self.refresh_token.as_bytes())
    }

    pub(super) fn grant(&self) -> (&'static str, Value) {
        ("refresh_token", json!({ "refresh_token": self.refresh_token }))
    }
}

impl Logout {
    pub(super) fn parse(body: Result<Bytes, BytesRejection>) -> Result<Self, LoginFailure> {
        parse(body)
    }
}

impl LogoutScope {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Global => "global",
            Self::Others => "others",
        }
    }
}

fn parse<T: for<'de> Deserialize<'de>>(body: Result<Bytes, BytesRejection>) -> Result<T, LoginFailure> {
    let body = body.map_err(|_| LoginFailure::Malformed)?;
    // The parser's message could contain a password.
    serde_json::from_slice(&body).map_err(|_| LoginFailure::Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sign_in(body: &'static str) -> Result<(&'static str, Value), LoginFailure> {
        SignIn::parse(Ok(Bytes::from_static(body.as_bytes()))).map(|wanted| wanted.grant())
    }

    #[test]
    fn one_signs_in_by_password_or_by_code_and_not_by_both() {
        let (grant, body) = sign_in(r#"{"email":"a@example.com","password":"p"}"#).unwrap();
        assert_eq!((grant, body), ("password", json!({ "email": "a@example.com", "password": "p" })));
        assert_eq!(sign_in(r#"{"auth_code":"c","code_verifier":"v"}"#).unwrap().0, "pkce");
        let (_, body) = sign_in(r#"{"email":" a@example.com\t","password":" p "}"#).unwrap();
        assert_eq!(body, json!({ "email": "a@example.com", "password": " p " }), "blanks belong to passwords alone");
        for body in [
            r#"{"email":"a","password":"p","auth_code":"c","code_verifier":"v"}"#,
            r#"{"email":"a"}"#,
            r#"{"email":"  ","password":"p"}"#,
            r#"{"email":"a","password":""}"#,
            r#"{"email":"a","password":"p","client_ip":"192.0.2.1"}"#,
            "[]",
            "",
        ] {
            assert_eq!(sign_in(body), Err(LoginFailure::Malformed), "{body}");
        }
    }

    #[test]
    fn signing_out_is_of_this_session_unless_more_is_asked_for() {
        let scope = |body: &'static str| Logout::parse(Ok(Bytes::from_static(body.as_bytes()))).map(|w| w.scope);
        assert_eq!(scope(r#"{"access_token":"t"}"#), Ok(LogoutScope::Local));
        assert_eq!(scope(r#"{"access_token":"t","scope":"global"}"#), Ok(LogoutScope::Global));
        assert_eq!(scope(r#"{"access_token":"t","scope":"all"}"#), Err(LoginFailure::Malformed));
    }
}
