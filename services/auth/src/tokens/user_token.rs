//! Verification of tokens of external issuers.

use std::sync::Arc;

use gaia_api::mount::{UserTokenIssuer, UserTokenProfile};
use jiff::Timestamp;
use serde_json::{Map, Value};

use super::claims::{self, TimeFormat, Times, bounded, text};
use super::header::{HeaderRules, Parts, Unverified};
use super::keys::KeySet;
use crate::denylist::Denied;
use crate::principal::{Identity, MAX_SUBJECT_BYTES, PeerIdentity, is_subject_byte};
use crate::{Reason, Refusal, Trace};

/// Verification rules for tokens of one external issuer.
#[derive(Debug, Clone, Copy)]
pub struct UserTokenRules<'a> {
    /// The issuer.
    pub issuer: &'a UserTokenIssuer,
    /// The denylist.
    pub denied: &'a Denied,
}

/// A verified user token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserToken {
    /// The issuer's short name.
    pub issuer: String,
    /// The user ID at the issuer.
    pub sub: String,
    /// Set for an anonymous user, created by the issuer without sign-in.
    pub is_anonymous: bool,
    /// Expiry.
    pub expires: Timestamp,
    /// Loggable details of the token.
    pub trace: Trace,
    times: Times,
    kid: Option<Arc<str>>,
    jti: Option<Arc<str>>,
    thumbprint: Option<String>,
}

impl UserTokenRules<'_> {
    /// Verifies a token with the issuer's keys at `now`. The route decides whether anonymous users are accepted.
    ///
    /// # Errors
    /// A [`Refusal`] for the first rule that the token breaks.
    pub fn verify(
        &self,
        keys: &KeySet,
        token: &str,
        peer: Option<&PeerIdentity>,
        now: Timestamp,
    ) -> Result<UserToken, Refusal> {
        let token = self.read(keys, token)?;
        match token.check(self.denied, peer, now) {
            Ok(()) => Ok(token),
            Err(reason) => Err(Refusal { trace: token.trace, ..reason.into() }),
        }
    }

    /// Verifies the parts that do not change between requests: signature and claims.
    pub(crate) fn read(&self, keys: &KeySet, token: &str) -> Result<UserToken, Refusal> {
        self.traced(|trace| {
            let unverified = Unverified::of(&Parts::cut(token)?, HeaderRules::External)?;
            trace.kid = Some(unverified.kid.as_str().into());
            let accepted = &self.issuer.algorithms;
            if !accepted.is_empty() && !accepted.iter().any(|name| name == unverified.algorithm.as_str()) {
                return Err(Reason::AlgorithmWrong);
            }
            let claims = claims::signed(&unverified, keys, self.denied, is_user_type)?;
            self.evaluate(&claims, unverified.typ.as_deref(), Some(unverified.kid.into()), trace)
        })
    }

    /// Parses a token whose signature only the issuer can verify; its claims are untrusted until the issuer confirms
    /// them. All other rules are checked here.
    ///
    /// # Errors
    /// A [`Refusal`] for the first rule that the token breaks.
    pub fn read_unverified(&self, token: &str) -> Result<UserToken, Refusal> {
        let read = self.traced(|trace| {
            let parts = Parts::cut(token)?;
            let header = parts.header(HeaderRules::External)?;
            let typ = header.text("typ")?;
            if !is_user_type(typ) {
                return Err(Reason::TypeWrong);
            }
            if header.algorithm()?.is_none_or(|name| name.eq_ignore_ascii_case("none")) {
                return Err(Reason::AlgorithmWrong);
            }
            let kid = header.text("kid")?.map(bounded);
            trace.kid.clone_from(&kid);
            self.evaluate(&parts.claims()?, typ, kid, trace)
        });
        match read {
            Ok(token) => Ok(UserToken { trace: token.trace.into_claimed(), ..token }),
            Err(refusal) => Err(Refusal { trace: refusal.trace.into_claimed(), ..refusal }),
        }
    }

    fn traced(&self, read: impl FnOnce(&mut Trace) -> Result<UserToken, Reason>) -> Result<UserToken, Refusal> {
        let mut trace = Trace::default();
        read(&mut trace).map_err(|reason| Refusal { trace, ..reason.into() })
    }

    fn evaluate(
        &self,
        claims: &Map<String, Value>,
        typ: Option<&str>,
        kid: Option<Arc<str>>,
        trace: &mut Trace,
    ) -> Result<UserToken, Reason> {
        trace.jti = text(claims, "jti").map(bounded);
        trace.sub = text(claims, "sub").map(bounded);
        let issuer = self.issuer;
        if text(claims, "iss") != Some(&issuer.issuer) {
            return Err(Reason::IssuerWrong);
        }
        // The project keys are tokens that name no user, and are published with web pages.
        if matches!(text(claims, "role"), Some("anon" | "service_role")) {
            return Err(Reason::ProjectKey);
        }
        if is_id_token(typ, claims) {
            return Err(Reason::IdToken);
        }
        self.check_audience(claims)?;
        let sub = text(claims, "sub").ok_or(Reason::SubjectWrong)?;
        if !(1..=MAX_SUBJECT_BYTES).contains(&sub.len()) || !sub.bytes().all(is_subject_byte) {
            return Err(Reason::SubjectWrong);
        }
        if issuer.profile == UserTokenProfile::Supabase {
            check_supabase(claims, sub)?;
        }
        let required_client = issuer.required_claims.get("client_id");
        if let Some(client) = claims.get("client_id")
            && !issuer.client_ids.iter().chain(required_client).any(|listed| client == listed.as_str())
        {
            return Err(Reason::ClientNotListed);
        }
        if issuer.required_claims.iter().any(|(name, value)| claims.get(name) != Some(&Value::from(value.as_str()))) {
            return Err(Reason::ClaimRequired);
        }
        if OTHER_KINDS.iter().any(|name| claims.contains_key(*name)) {
            return Err(Reason::KindNotAccepted);
        }
        let is_anonymous = match claims.get("is_anonymous") {
            None => false,
            Some(value) => value.as_bool().ok_or(Reason::ClaimRequired)?,
        };
        let times =
            Times::of(claims, issuer.max_ttl_seconds.unwrap_or(DEFAULT_MAX_TTL_SECONDS), TimeFormat::NumericDate)?;
        Ok(UserToken {
            issuer: issuer.name.clone(),
            sub: sub.to_owned(),
            is_anonymous,
            expires: times.expires,
            trace: trace.clone(),
            times,
            kid,
            jti: text(claims, "jti").map(Into::into),
            thumbprint: claims::confirmation(claims)?,
        })
    }

    /// RFC 7519, section 4.1.3: a string, or a list of strings. A token without `aud` is accepted from a generic issuer
    /// without `audiences` whose `requiredClaims` name the application it was issued to.
    fn check_audience(&self, claims: &Map<String, Value>) -> Result<(), Reason> {
        let accepted = &self.issuer.audiences;
        let is_mine = |audience: &str| {
            if accepted.is_empty() {
                audience == DEFAULT_AUDIENCE
            } else {
                accepted.iter().any(|mine| mine == audience)
            }
        };
        let is_good = match claims.get("aud") {
            Some(Value::String(audience)) => is_mine(audience),
            Some(Value::Array(audiences)) => {
                audiences.iter().all(Value::is_string) && audiences.iter().filter_map(Value::as_str).any(is_mine)
            }
            None => {
                let is_generic = self.issuer.profile == UserTokenProfile::Generic;
                let names_client = CLIENT_CLAIMS.iter().any(|name| self.issuer.required_claims.contains_key(*name));
                is_generic && accepted.is_empty() && names_client
            }
            _ => false,
        };
        if is_good { Ok(()) } else { Err(Reason::AudienceWrong) }
    }
}

impl UserToken {
    /// Returns the user as a subject.
    #[must_use]
    pub fn identity(&self) -> Identity {
        Identity::User { issuer: self.issuer.clone(), sub: self.sub.clone() }
    }

    /// Marks the claims as verified after the issuer has confirmed the token.
    pub(crate) fn confirmed(self) -> Self {
        Self { trace: self.trace.into_verified(), ..self }
    }

    pub(crate) fn issued(&self) -> Timestamp {
        self.times.issued
    }

    /// Checks the conditions that may change between requests.
    pub(crate) fn check(&self, denied: &Denied, peer: Option<&PeerIdentity>, now: Timestamp) -> Result<(), Reason> {
        self.times.check(now)?;
        if let Some(kid) = &self.kid {
            denied.check_kid(kid)?;
        }
        claims::check_confirmation(self.thumbprint.as_deref(), peer)?;
        denied.check_token(self.jti.as_deref().unwrap_or_default(), &self.identity().to_string(), self.times.issued)
    }
}

/// Checks the claims of a Supabase Auth session.
fn check_supabase(claims: &Map<String, Value>, sub: &str) -> Result<(), Reason> {
    if !is_uuid(sub) {
        return Err(Reason::SubjectWrong);
    }
    let has_session = text(claims, "session_id").is_some_and(is_uuid);
    // A custom access token hook may set any database role; `requiredClaims` can ask for one.
    let has_role = text(claims, "role").is_some_and(|role| !role.is_empty());
    if has_role && has_session { Ok(()) } else { Err(Reason::ClaimRequired) }
}

/// Returns true for an ID token. `nonce` is a claim of ID tokens alone (OpenID Connect Core, section 2), except where the
/// issuer says that the token is an access token: Keycloak before version 25 copied it.
fn is_id_token(typ: Option<&str>, claims: &Map<String, Value>) -> bool {
    let token_use = text(claims, "token_use");
    let kind = text(claims, "typ");
    let is_access = typ.is_some_and(|typ| !typ.eq_ignore_ascii_case("JWT"))
        || token_use == Some("access")
        || kind.is_some_and(|kind| kind.eq_ignore_ascii_case("Bearer"));
    ID_TOKEN_CLAIMS.iter().any(|name| claims.contains_key(*name))
        || token_use == Some("id")
        || kind.is_some_and(|kind| kind.eq_ignore_ascii_case("ID"))
        || (claims.contains_key("nonce") && !is_access)
}

/// RFC 9562, section 4, in lower case as Supabase writes it: a second spelling would be a second subject.
fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
        })
}

/// `typ` of a user token: absent, `JWT` (RFC 7519, section 5.1) or that of an access token (RFC 9068, section 2.1).
fn is_user_type(typ: Option<&str>) -> bool {
    typ.is_none_or(|typ| USER_TYPES.iter().any(|known| typ.eq_ignore_ascii_case(known)))
}

const USER_TYPES: [&str; 3] = ["JWT", "at+jwt", "application/at+jwt"];
/// Claims that name the application a token was issued to.
const CLIENT_CLAIMS: [&str; 2] = ["azp", "client_id"];
/// Claims of tokens that are no access tokens of a user: a delegation (RFC 8693, section 4.1), and a security event, such as
/// a logout token (RFC 8417, section 2.2).
const OTHER_KINDS: [&str; 2] = ["act", "events"];
/// Claims that only ID tokens have (OpenID Connect Core, sections 2 and 3.3.2.11).
const ID_TOKEN_CLAIMS: [&str; 3] = ["at_hash", "c_hash", "s_hash"];
/// Values that Supabase Auth writes.
const DEFAULT_AUDIENCE: &str = "authenticated";
const DEFAULT_MAX_TTL_SECONDS: u64 = 24 * 3600;

#[cfg(test)]
mod real_issuers;
#[cfg(test)]
mod tests;
