//! Users, and random names for everything.

use anyhow::Result;
use jiff::Timestamp;
use serde_json::{Value, json};

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
        if self.is_anonymous() { json!({}) } else { json!({ "provider": "email", "providers": ["email"] }) }
    }

    /// As it stands in a session, and as `GET /user` gives it.
    pub(super) fn to_json(&self) -> Value {
        let confirmed = (!self.is_anonymous()).then_some(self.created);
        json!({
            "id": self.id,
            "aud": "authenticated",
            "role": "authenticated",
            "email": self.email,
            "email_confirmed_at": confirmed,
            "phone": "",
            "confirmed_at": confirmed,
            "last_sign_in_at": self.last_sign_in,
            "app_metadata": self.app_metadata(),
            "user_metadata": { "email_verified": !self.is_anonymous() },
            "identities": [],
            "created_at": self.created,
            "updated_at": self.last_sign_in,
            "is_anonymous": self.is_anonymous(),
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

/// The text of a refresh token: twelve letters and digits, as GoTrue's are.
pub(super) fn refresh_token() -> Result<String> {
    let bytes: [u8; 12] = random()?;
    Ok(bytes.iter().map(|byte| char::from(ALPHABET[usize::from(*byte) % ALPHABET.len()])).collect())
}

const ALPHABET: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";
