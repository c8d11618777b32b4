//! Users, their sessions, and the refresh tokens of those: GoTrue's rules, without HTTP.

use std::collections::HashMap;

use anyhow::Result;
use aws_lc_rs::digest::{SHA256, digest};
use jiff::{SignedDuration, Timestamp};

use super::failure::Failure;
use super::identity::{User, refresh_token, uuid};
use super::keys::base64;

/// Everything a project remembers.
pub(super) struct Sessions {
    reuse_interval: SignedDuration,
    users: HashMap<String, User>,
    sessions: HashMap<String, Session>,
    refresh_tokens: HashMap<String, RefreshToken>,
    codes: HashMap<String, Flow>,
    /// How many refresh tokens there were.
    granted: u64,
}

/// How and since when a user is signed in.
#[derive(Debug, Clone)]
pub(super) struct Session {
    pub(super) id: String,
    pub(super) user: String,
    pub(super) method: &'static str,
    pub(super) since: Timestamp,
}

/// What a sign-in or a refresh gives.
#[derive(Debug)]
pub(super) struct Granted {
    pub(super) user: User,
    pub(super) session: Session,
    pub(super) refresh_token: String,
}

#[derive(Debug)]
struct RefreshToken {
    number: u64,
    session: String,
    parent: Option<String>,
    /// Since when it is no longer the one to use.
    revoked: Option<Timestamp>,
}

/// A sign-in at an outside provider that waits for its verifier.
#[derive(Debug)]
struct Flow {
    user: String,
    challenge: String,
    since: Timestamp,
}

/// Which sessions of a user a sign-out ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LogoutScope {
    Local,
    Global,
    Others,
}

impl Sessions {
    pub(super) fn new(reuse_interval: SignedDuration) -> Self {
        Self {
            reuse_interval,
            users: HashMap::new(),
            sessions: HashMap::new(),
            refresh_tokens: HashMap::new(),
            codes: HashMap::new(),
            granted: 0,
        }
    }

    pub(super) fn sign_up(&mut self, email: &str, password: &str, now: Timestamp) -> Result<Granted, Failure> {
        if self.by_email(email).is_some() {
            return Err(Failure::USER_EXISTS);
        }
        if password.chars().count() < SHORTEST_PASSWORD {
            return Err(Failure::WEAK_PASSWORD);
        }
        let user = self.user_or_new(email, password, now)?;
        self.begin(&user.id, "password", now)
    }

    pub(super) fn sign_up_anonymously(&mut self, now: Timestamp) -> Result<Granted, Failure> {
        let user = self.new_user("", "", now)?;
        self.begin(&user.id, "anonymous", now)
    }

    pub(super) fn user_or_new(&mut self, email: &str, password: &str, now: Timestamp) -> Result<User> {
        match self.by_email(email) {
            Some(user) => Ok(user.clone()),
            None => self.new_user(email, password, now),
        }
    }

    fn new_user(&mut self, email: &str, password: &str, now: Timestamp) -> Result<User> {
        let user = User {
            id: uuid()?,
            email: email.to_lowercase(),
            password: password.to_owned(),
            created: now,
            last_sign_in: now,
        };
        self.users.insert(user.id.clone(), user.clone());
        Ok(user)
    }

    pub(super) fn by_password(&mut self, email: &str, password: &str, now: Timestamp) -> Result<Granted, Failure> {
        let user = self.by_email(email).filter(|user| user.password == password).ok_or(Failure::CREDENTIALS)?;
        let id = user.id.clone();
        self.begin(&id, "password", now)
    }

    pub(super) fn authorize(&mut self, email: &str, challenge: &str, now: Timestamp) -> Result<Option<String>> {
        let Some(user) = self.by_email(email).map(|user| user.id.clone()) else { return Ok(None) };
        let code = uuid()?;
        self.codes.insert(code.clone(), Flow { user, challenge: challenge.to_owned(), since: now });
        Ok(Some(code))
    }

    pub(super) fn by_code(&mut self, code: &str, verifier: &str, now: Timestamp) -> Result<Granted, Failure> {
        let flow = self.codes.get(code).ok_or(Failure::NO_FLOW)?;
        if now.duration_since(flow.since) > FLOW_LIFE {
            return Err(Failure::FLOW_EXPIRED);
        }
        if base64(digest(&SHA256, verifier.as_bytes()).as_ref()) != flow.challenge {
            return Err(Failure::VERIFIER);
        }
        let user = flow.user.clone();
        self.codes.remove(code);
        self.begin(&user, "oauth", now)
    }

    /// Exchanges a refresh token. One that was exchanged before is a sign of theft, but also of an answer that got lost:
    /// the parent of the active one gets that one again, any other works within the reuse interval, and after it ends
    /// the whole family.
    pub(super) fn refresh(&mut self, text: &str, now: Timestamp) -> Result<Granted, Failure> {
        let token = self.refresh_tokens.get(text).ok_or(Failure::NOT_FOUND)?;
        let session = self.sessions.get(&token.session).cloned().ok_or(Failure::NOT_FOUND)?;
        let user = self.users.get(&session.user).cloned().ok_or(Failure::NOT_FOUND)?;
        if let Some(revoked) = token.revoked {
            let active = self.refresh_tokens.iter().filter(|(_, t)| t.session == session.id && t.revoked.is_none());
            let active = active.max_by_key(|(_, token)| token.number);
            if let Some((active, _)) = active.filter(|(_, active)| active.parent.as_deref() == Some(text)) {
                return Ok(Granted { user, refresh_token: active.clone(), session });
            }
            if now > revoked + self.reuse_interval {
                self.revoke_family(&session.id, now);
                return Err(Failure::ALREADY_USED);
            }
        }
        if let Some(token) = self.refresh_tokens.get_mut(text) {
            token.revoked.get_or_insert(now);
        }
        let refresh_token = self.new_refresh_token(&session.id, Some(text.to_owned()))?;
        Ok(Granted { user, session, refresh_token })
    }

    pub(super) fn signed_in(&self, user: &str, session: &str) -> Option<&User> {
        self.sessions.get(session).filter(|session| session.user == user).and_then(|_| self.users.get(user))
    }

    pub(super) fn log_out(&mut self, user: &str, session: &str, scope: LogoutScope) {
        let ends = |candidate: &Session| match scope {
            LogoutScope::Local => candidate.id == session,
            LogoutScope::Global => candidate.user == user,
            LogoutScope::Others => candidate.user == user && candidate.id != session,
        };
        self.sessions.retain(|_, candidate| !ends(candidate));
        self.refresh_tokens.retain(|_, token| self.sessions.contains_key(&token.session));
    }

    fn begin(&mut self, user: &str, method: &'static str, now: Timestamp) -> Result<Granted, Failure> {
        let user = self.users.get_mut(user).ok_or(Failure::CREDENTIALS)?;
        user.last_sign_in = now;
        let user = user.clone();
        let session = Session { id: uuid()?, user: user.id.clone(), method, since: now };
        self.sessions.insert(session.id.clone(), session.clone());
        let refresh_token = self.new_refresh_token(&session.id, None)?;
        Ok(Granted { user, session, refresh_token })
    }

    fn new_refresh_token(&mut self, session: &str, parent: Option<String>) -> Result<String> {
        let text = refresh_token()?;
        self.granted += 1;
        let token = RefreshToken { number: self.granted, session: session.to_owned(), parent, revoked: None };
        self.refresh_tokens.insert(text.clone(), token);
        Ok(text)
    }

    fn revoke_family(&mut self, session: &str, now: Timestamp) {
        for token in self.refresh_tokens.values_mut().filter(|token| token.session == session) {
            token.revoked.get_or_insert(now);
        }
    }

    fn by_email(&self, email: &str) -> Option<&User> {
        let email = email.to_lowercase();
        self.users.values().find(|user| !user.is_anonymous() && user.email == email)
    }
}

const SHORTEST_PASSWORD: usize = 6;
const FLOW_LIFE: SignedDuration = SignedDuration::from_mins(5);
