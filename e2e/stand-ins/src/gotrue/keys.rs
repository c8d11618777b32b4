//! The keys that tokens are signed with, and the tokens.

use anyhow::{Result, anyhow};
use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, UnparsedPublicKey,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::random::random;

use super::identity::uuid;

/// The signing method of a project's access tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signing {
    /// By a key whose public half is published.
    Es256,
    /// By a secret that only the project has: nothing is published, and tokens are verified by a request to it.
    Hs256,
}

/// All keys of a project.
pub(super) struct Keys {
    signing: Signing,
    /// Of an `Hs256` project, and of the project's own keys (`anon`, `service_role`) always.
    secret: hmac::Key,
    secret_id: String,
    /// The newest last: it signs.
    pairs: Vec<Pair>,
}

struct Pair {
    kid: String,
    pair: EcdsaKeyPair,
}

impl Keys {
    pub(super) fn new(signing: Signing) -> Result<Self> {
        let secret = hmac::Key::new(hmac::HMAC_SHA256, &random::<32>()?);
        let pairs = if signing == Signing::Es256 { vec![Pair::generate()?] } else { vec![] };
        Ok(Self { signing, secret, secret_id: uuid()?, pairs })
    }

    pub(super) fn signing(&self) -> Signing {
        self.signing
    }

    pub(super) fn rotate(&mut self) -> Result<()> {
        match self.signing {
            Signing::Es256 => self.pairs.push(Pair::generate()?),
            Signing::Hs256 => self.secret = hmac::Key::new(hmac::HMAC_SHA256, &random::<32>()?),
        }
        Ok(())
    }

    pub(super) fn revoke_old(&mut self) {
        self.pairs.drain(..self.pairs.len().saturating_sub(1));
    }

    /// The published set; of an `Hs256` project an empty one.
    pub(super) fn jwks(&self) -> Value {
        json!({ "keys": self.pairs.iter().map(Pair::jwk).collect::<Vec<_>>() })
    }

    /// The key of a project in one role: valid for ten years, without a user.
    pub(super) fn project_key(&self, role: &str, now: Timestamp) -> String {
        let ends = now + SignedDuration::from_hours(10 * 365 * 24);
        let claims = json!({
            "iss": "supabase",
            "ref": "gaiae2eproject",
            "role": role,
            "iat": now.as_second(),
            "exp": ends.as_second(),
        });
        self.sign_by_secret(&json!({ "alg": "HS256", "typ": "JWT" }), &claims)
    }

    pub(super) fn sign(&self, claims: &Value) -> Result<String> {
        let Some(newest) = self.pairs.last() else {
            let header = json!({ "alg": "HS256", "kid": self.secret_id, "typ": "JWT" });
            return Ok(self.sign_by_secret(&header, claims));
        };
        let text = unsigned(&json!({ "alg": "ES256", "kid": newest.kid, "typ": "JWT" }), claims);
        let signature = newest.pair.sign(&SystemRandom::new(), text.as_bytes()).map_err(|_| anyhow!("no signature"))?;
        Ok(format!("{text}.{}", base64(signature.as_ref())))
    }

    fn sign_by_secret(&self, header: &Value, claims: &Value) -> String {
        let text = unsigned(header, claims);
        let tag = hmac::sign(&self.secret, text.as_bytes());
        format!("{text}.{}", base64(tag.as_ref()))
    }

    /// The claims of one of its own tokens that has not expired; `None` for any other token.
    pub(super) fn claims(&self, token: &str, now: Timestamp) -> Option<Value> {
        let (text, signature) = token.rsplit_once('.')?;
        let (header, payload) = text.split_once('.')?;
        let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
        let parse = |part: &str| serde_json::from_slice::<Value>(&URL_SAFE_NO_PAD.decode(part).ok()?).ok();
        let header = parse(header)?;
        let is_good = match header["alg"].as_str()? {
            "HS256" => hmac::verify(&self.secret, text.as_bytes(), &signature).is_ok(),
            "ES256" => {
                let pair = self.pairs.iter().find(|pair| header["kid"] == pair.kid.as_str())?;
                let public = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, pair.pair.public_key().as_ref());
                public.verify(text.as_bytes(), &signature).is_ok()
            }
            _ => false,
        };
        let claims = parse(payload).filter(|_| is_good)?;
        (claims["exp"].as_i64()? > now.as_second()).then_some(claims)
    }
}

impl Pair {
    fn generate() -> Result<Self> {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).map_err(|_| anyhow!("no key"))?;
        Ok(Self { kid: uuid()?, pair })
    }

    fn jwk(&self) -> Value {
        // Uncompressed point: 4, then x and y with 32 bytes each.
        let point = self.pair.public_key().as_ref();
        json!({
            "alg": "ES256",
            "crv": "P-256",
            "ext": true,
            "key_ops": ["verify"],
            "kid": self.kid,
            "kty": "EC",
            "use": "sig",
            "x": base64(&point[1..33]),
            "y": base64(&point[33..65]),
        })
    }
}

fn unsigned(header: &Value, claims: &Value) -> String {
    format!("{}.{}", base64(header.to_string().as_bytes()), base64(claims.to_string().as_bytes()))
}

pub(super) fn base64(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}
