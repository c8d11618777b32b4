//! Users, and random names for everything.

pub(crate) mod totp;

use anyhow::Result;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::random::random;

/// One user.
#[derive(Clone)]
pub struct User {
    /// A UUID.
    pub id: String,
    /// The address; empty: an anonymous user.
    pub email: String,
    pub(super) password: String,
    pub(super) created: Timestamp,
    pub(super) last_sign_in: Timestamp,
    /// Time of the confirmation of the address.
    pub(super) confirmed: Option<Timestamp>,
    pub(super) banned_until: Option<Timestamp>,
    pub(super) metadata: Map<String, Value>,
    pub(super) providers: Vec<String>,
    pub(super) factors: Vec<Factor>,
}

/// A time-based second factor.
#[derive(Debug, Clone)]
pub(super) struct Factor {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) secret: Vec<u8>,
    pub(super) is_verified: bool,
    pub(super) created: Timestamp,
    pub(super) challenges: Vec<String>,
}

impl std::fmt::Debug for User {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("User").field("id", &self.id).field("email", &self.email).finish_non_exhaustive()
    }
}

impl User {
    pub(super) fn is_anonymous(&self) -> bool {
        self.email.is_empty()
    }

    pub(super) fn app_metadata(&self) -> Value {
        match self.providers.first() {
            Some(first) => json!({ "provider": first, "providers": self.providers }),
            None => json!({}),
        }
    }

    pub(super) fn user_metadata(&self) -> Value {
        let mut metadata = self.metadata.clone();
        if !self.is_anonymous() {
            metadata.insert("email_verified".to_owned(), self.confirmed.is_some().into());
        }
        metadata.into()
    }

    pub(super) fn is_banned(&self, now: Timestamp) -> bool {
        self.banned_until.is_some_and(|until| now < until)
    }

    pub(super) fn has_second_factor(&self) -> bool {
        self.factors.iter().any(|factor| factor.is_verified)
    }

    fn identities(&self) -> Vec<Value> {
        let identity = |provider: &String| {
            json!({
                "identity_id": self.id,
                "id": self.id,
                "user_id": self.id,
                "identity_data": { "email": self.email, "email_verified": self.confirmed.is_some(), "sub": self.id },
                "provider": provider,
                "last_sign_in_at": self.last_sign_in,
                "created_at": self.created,
                "updated_at": self.last_sign_in,
                "email": self.email,
            })
        };
        self.providers.iter().map(identity).collect()
    }

    /// The user as in a session, and in the answer of `GET /user`.
    pub(super) fn to_json(&self) -> Value {
        let mut user = json!({
            "id": self.id,
            "aud": "authenticated",
            "role": "authenticated",
            "email": self.email,
            "email_confirmed_at": self.confirmed,
            "phone": "",
            "confirmed_at": self.confirmed,
            "last_sign_in_at": self.last_sign_in,
            "app_metadata": self.app_metadata(),
            "user_metadata": self.user_metadata(),
            "identities": self.identities(),
            "created_at": self.created,
            "updated_at": self.last_sign_in,
            "is_anonymous": self.is_anonymous(),
        });
        if !self.factors.is_empty() {
            user["factors"] = self.factors.iter().map(Factor::to_json).collect();
        }
        if let Some(until) = self.banned_until {
            user["banned_until"] = json!(until);
        }
        user
    }
}

impl Factor {
    fn to_json(&self) -> Value {
        json!({
            "id": self.id,
            "created_at": self.created,
            "updated_at": self.created,
            "friendly_name": self.name,
            "factor_type": "totp",
            "status": if self.is_verified { "verified" } else { "unverified" },
        })
    }
}

/// A random UUID (RFC 9562, section 5.4).
pub(super) fn uuid() -> Result<String> {
    let mut bytes: [u8; 16] = random()?;
    bytes[6] = (bytes[6] & 0x0f) | 0x40;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    let hex = format!("{:032x}", u128::from_be_bytes(bytes));
    let (a, b, c, d, e) = (&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]);
    Ok(format!("{a}-{b}-{c}-{d}-{e}"))
}
