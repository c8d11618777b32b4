//! Users, their sessions, and the refresh tokens of those: GoTrue's rules, without HTTP.

pub(crate) mod refresh_token;

use std::collections::HashMap;

use anyhow::Result;
use aws_lc_rs::digest::{SHA256, digest};
use jiff::{SignedDuration, Timestamp};

use self::refresh_token::{Parsed, Signed};
use super::failure::Failure;
use super::identity::{User, uuid};
use super::keys::base64;
use super::settings::{ProjectSettings, RefreshTokens};
use crate::random::random;

/// The state of a project.
pub(super) struct Sessions {
    reuse_interval: SignedDuration,
    form: RefreshTokens,
    pub(super) users: HashMap<String, User>,
    sessions: HashMap<String, Session>,
    refresh_tokens: HashMap<String, RefreshToken>,
    codes: HashMap<String, Flow>,
    /// The number of refresh tokens of the first form so far.
    granted: u64,
}

/// A method and time of a user's sign-in.
#[derive(Debug, Clone)]
pub(super) struct Session {
    pub(super) id: String,
    pub(super) user: String,
    pub(super) method: &'static str,
    pub(super) since: Timestamp,
    /// Time of the second factor.
    pub(super) second_factor: Option<Timestamp>,
    refreshed: Timestamp,
    /// Of refresh tokens of the second form: their key, and the number of the newest.
    key: [u8; 32],
    counter: u64,
}

/// The result of a sign-in or a refresh.
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
    /// Time from which it is no longer the newest one.
    revoked: Option<Timestamp>,
}

/// A sign-in at an external provider that waits for its verifier.
#[derive(Debug)]
struct Flow {
    user: String,
    challenge: String,
    since: Timestamp,
}

/// The sessions of a user that a sign-out ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LogoutScope {
    Local,
    Global,
    Others,
}

impl Sessions {
    pub(super) fn new(reuse_interval: SignedDuration, settings: &ProjectSettings) -> Self {
        Self {
            reuse_interval,
            form: settings.refresh_tokens,
            users: HashMap::new(),
            sessions: HashMap::new(),
            refresh_tokens: HashMap::new(),
            codes: HashMap::new(),
            granted: 0,
        }
    }

    /// A new user, signed in if the address is confirmed.
    pub(super) fn sign_up(
        &mut self,
        (email, password): (&str, &str),
        is_confirmed: bool,
        now: Timestamp,
    ) -> Result<(User, Option<Granted>), Failure> {
        if self.by_email(email).is_some() {
            return Err(Failure::USER_EXISTS);
        }
        if password.chars().count() < SHORTEST_PASSWORD {
            return Err(Failure::WEAK_PASSWORD);
        }
        let user = self.new_user(email, password, is_confirmed, now)?;
        let granted = if is_confirmed { Some(self.begin(&user.id, "password", now)?) } else { None };
        Ok((user, granted))
    }

    pub(super) fn sign_up_anonymously(&mut self, now: Timestamp) -> Result<Granted, Failure> {
        let user = self.new_user("", "", false, now)?;
        self.begin(&user.id, "anonymous", now)
    }

    pub(super) fn user_or_new(&mut self, email: &str, password: &str, now: Timestamp) -> Result<User> {
        match self.by_email(email) {
            Some(user) => Ok(user.clone()),
            None => self.new_user(email, password, true, now),
        }
    }

    fn new_user(&mut self, email: &str, password: &str, is_confirmed: bool, now: Timestamp) -> Result<User> {
        let user = User {
            id: uuid()?,
            email: email.to_lowercase(),
            password: password.to_owned(),
            created: now,
            last_sign_in: now,
            confirmed: is_confirmed.then_some(now),
            banned_until: None,
            metadata: serde_json::Map::new(),
            providers: if email.is_empty() { vec![] } else { vec!["email".to_owned()] },
            factors: vec![],
        };
        self.users.insert(user.id.clone(), user.clone());
        Ok(user)
    }

    pub(super) fn by_password(&mut self, email: &str, password: &str, now: Timestamp) -> Result<Granted, Failure> {
        let user = self.by_email(email).ok_or(Failure::CREDENTIALS)?;
        // In this order: a ban is reported whatever the password, an unconfirmed address only with the right one.
        if user.is_banned(now) {
            return Err(Failure::BANNED);
        }
        if user.password != password {
            return Err(Failure::CREDENTIALS);
        }
        if user.confirmed.is_none() {
            return Err(Failure::NOT_CONFIRMED);
        }
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

    /// Exchanges a refresh token, by the rules of its form.
    pub(super) fn refresh(&mut self, text: &str, now: Timestamp) -> Result<Granted, Failure> {
        match refresh_token::parse(text).ok_or(Failure::REFRESH_FORM)? {
            Parsed::V1 => self.refresh_v1(text, now),
            Parsed::V2(token) => self.refresh_v2(&token, now),
        }
    }

    /// A token that was exchanged before is a sign of theft, but also of a lost answer: the parent of the active
    /// one gets that one again, any other works within the reuse interval, and after it ends the whole family.
    fn refresh_v1(&mut self, text: &str, now: Timestamp) -> Result<Granted, Failure> {
        let token = self.refresh_tokens.get(text).ok_or(Failure::NOT_FOUND)?;
        let (session, user) = self.of_session(&token.session, now)?;
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

    /// The token before the newest gets the newest again, and so does any older one soon after the last refresh; after
    /// that it ends the session.
    fn refresh_v2(&mut self, token: &Signed, now: Timestamp) -> Result<Granted, Failure> {
        let id = dashed(token.session);
        let (mut session, user) = self.of_session(&id, now)?;
        if !token.is_signed_by(&session.key) {
            return Err(Failure::NOT_FOUND);
        }
        let behind = session.counter.checked_sub(token.counter).ok_or(Failure::REFRESH_AHEAD)?;
        let is_concurrent = now.duration_since(session.refreshed) < self.reuse_interval;
        if behind > 1 && !is_concurrent {
            self.sessions.remove(&id);
            return Err(Failure::ALREADY_USED);
        }
        if behind == 0 {
            session.counter += 1;
        }
        session.refreshed = now;
        let refresh_token = refresh_token::new_v2(token.session, session.counter, &session.key);
        self.sessions.insert(id, session.clone());
        Ok(Granted { user, session, refresh_token })
    }

    fn of_session(&self, id: &str, now: Timestamp) -> Result<(Session, User), Failure> {
        let session = self.sessions.get(id).ok_or(Failure::NOT_FOUND)?;
        let user = self.users.get(&session.user).ok_or(Failure::NOT_FOUND)?;
        if user.is_banned(now) { Err(Failure::REFRESH_BANNED) } else { Ok((session.clone(), user.clone())) }
    }

    /// The user and the session of an access token.
    pub(super) fn signed_in(&self, user: &str, session: &str, now: Timestamp) -> Result<(&User, &Session), Failure> {
        let user = self.users.get(user).ok_or(Failure::NO_USER)?;
        if user.is_banned(now) {
            return Err(Failure::BEARER_BANNED);
        }
        let session = self.sessions.get(session).filter(|session| session.user == user.id);
        Ok((user, session.ok_or(Failure::NO_SESSION)?))
    }

    /// A session with a second factor continues with another token.
    pub(super) fn raise(&mut self, session: &str, now: Timestamp) -> Result<Granted, Failure> {
        let session = self.sessions.get_mut(session).ok_or(Failure::NO_SESSION)?;
        session.second_factor = Some(now);
        session.counter += 1;
        let session = session.clone();
        let user = self.users.get(&session.user).cloned().ok_or(Failure::NO_USER)?;
        let mut tokens = self.refresh_tokens.iter_mut();
        let parent = tokens.find(|(_, token)| token.session == session.id && token.revoked.is_none());
        let parent = parent.map(|(text, token)| {
            token.revoked = Some(now);
            text.clone()
        });
        let refresh_token = self.new_refresh_token(&session.id, parent)?;
        Ok(Granted { user, session, refresh_token })
    }

    pub(super) fn log_out(&mut self, user: &str, session: &str, scope: LogoutScope) {
        self.end(|candidate| match scope {
            LogoutScope::Local => candidate.id == session,
            LogoutScope::Global => candidate.user == user,
            LogoutScope::Others => candidate.user == user && candidate.id != session,
        });
    }

    /// A user with all sessions.
    pub(super) fn delete(&mut self, user: &str) -> bool {
        self.end(|candidate| candidate.user == user);
        self.users.remove(user).is_some()
    }

    fn end(&mut self, ends: impl Fn(&Session) -> bool) {
        self.sessions.retain(|_, candidate| !ends(candidate));
        self.refresh_tokens.retain(|_, token| self.sessions.contains_key(&token.session));
    }

    fn begin(&mut self, user: &str, method: &'static str, now: Timestamp) -> Result<Granted, Failure> {
        let user = self.users.get_mut(user).ok_or(Failure::CREDENTIALS)?;
        user.last_sign_in = now;
        let user = user.clone();
        let session = Session {
            id: uuid()?,
            user: user.id.clone(),
            method,
            since: now,
            second_factor: None,
            refreshed: now,
            key: random()?,
            counter: 0,
        };
        self.sessions.insert(session.id.clone(), session.clone());
        let refresh_token = self.new_refresh_token(&session.id, None)?;
        Ok(Granted { user, session, refresh_token })
    }

    fn new_refresh_token(&mut self, session: &str, parent: Option<String>) -> Result<String> {
        if self.form == RefreshTokens::V2
            && let Some(session) = self.sessions.get(session)
        {
            return Ok(refresh_token::new_v2(undashed(&session.id), session.counter, &session.key));
        }
        let text = refresh_token::new_v1()?;
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

    pub(super) fn by_email(&self, email: &str) -> Option<&User> {
        let email = email.to_lowercase();
        self.users.values().find(|user| !user.is_anonymous() && user.email == email)
    }
}

fn undashed(uuid: &str) -> u128 {
    u128::from_str_radix(&uuid.replace('-', ""), 16).unwrap_or_default()
}

fn dashed(uuid: u128) -> String {
    let hex = format!("{uuid:032x}");
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

pub(super) const SHORTEST_PASSWORD: usize = 6;
const FLOW_LIFE: SignedDuration = SignedDuration::from_mins(5);
