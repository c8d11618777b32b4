//! Signing of service tokens, for the token issuer.

use std::fmt;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, RSA_PKCS1_SHA256, RsaKeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Serialize;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::tokens::{Algorithm, SERVICE_TOKEN_TYPE};

/// The claims of a service token (RFC 9068, section 2.2). Times are whole seconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ServiceClaims {
    /// The TrustDomain's issuer name.
    pub iss: String,
    /// The caller's SPIFFE ID.
    pub sub: String,
    /// The caller's SPIFFE ID again: the client the token was issued to.
    pub client_id: String,
    /// The caller's service name, for readability.
    pub service: String,
    /// The target's SPIFFE ID, or the broad audience.
    pub aud: String,
    /// The token ID.
    pub jti: String,
    /// Issue time.
    pub iat: i64,
    /// Expiry.
    pub exp: i64,
    /// The granted scopes, separated by spaces; none: only the target's policy applies.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
}

/// The claims of a delegated token: a caller acts for a user or the holder of a key (RFC 8693, section 4.1). Times are
/// whole seconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DelegatedClaims {
    /// The TrustDomain's issuer name.
    pub iss: String,
    /// The subject: `user:<issuer>:<sub>` or `key:<id>`.
    pub sub: String,
    /// The caller's SPIFFE ID.
    pub client_id: String,
    /// The caller as the actor.
    pub act: Actor,
    /// The caller's service name, for readability.
    pub service: String,
    /// The target's SPIFFE ID: a delegated token never has the broad audience.
    pub aud: String,
    /// The token ID.
    pub jti: String,
    /// Issue time.
    pub iat: i64,
    /// Expiry: at most [`MAX_DELEGATED_SECONDS`](crate::tokens::MAX_DELEGATED_SECONDS) after `iat`.
    pub exp: i64,
    /// The granted scopes, separated by spaces; none: only the target's policy applies.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
}

/// The `act` claim.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Actor {
    /// The SPIFFE ID of the actor.
    pub sub: String,
}

/// Claims of a token that a platform key may sign.
pub trait PlatformClaims: Serialize + sealed::Sealed {}

impl PlatformClaims for ServiceClaims {}
impl PlatformClaims for DelegatedClaims {}

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::ServiceClaims {}
    impl Sealed for super::DelegatedClaims {}
}

/// A private signing key. It is parsed once, because parsing an RSA key costs a large part of a signature.
pub struct Signer {
    kid: String,
    key: Key,
    jwk: Value,
}

enum Key {
    Rsa(RsaKeyPair),
    Ec(EcdsaKeyPair),
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signer").field("kid", &self.kid).finish_non_exhaustive()
    }
}

/// Reason why a signing key was rejected or failed to sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignerError {
    /// Not PEM with one `PRIVATE KEY` (PKCS#8) block.
    #[error("the signing key is not one PKCS#8 private key in PEM")]
    NotPem,
    /// Neither RSA of 2048 to 4096 bits nor ECDSA P-256.
    #[error("the signing key is neither RSA with 2048 to 4096 bits nor ECDSA P-256")]
    Unsupported,
    /// The cryptography library failed.
    #[error("signing failed")]
    Failed,
}

impl Signer {
    /// Reads a private key (PEM, PKCS#8).
    ///
    /// # Errors
    /// [`SignerError`] if the text is not such a key. The error never contains the text.
    pub fn from_pem(text: &[u8]) -> Result<Self, SignerError> {
        let block = pem::parse(text).map_err(|_| SignerError::NotPem)?;
        if block.tag() != "PRIVATE KEY" {
            return Err(SignerError::NotPem);
        }
        Self::from_pkcs8(&Zeroizing::new(block.into_contents()))
    }

    /// Reads a private key (DER, PKCS#8).
    ///
    /// # Errors
    /// [`SignerError::Unsupported`] for any other kind of key.
    pub fn from_pkcs8(der: &[u8]) -> Result<Self, SignerError> {
        let (key, jwk) = if let Ok(pair) = RsaKeyPair::from_pkcs8(der) {
            if !(256..=512).contains(&pair.public_modulus_len()) {
                return Err(SignerError::Unsupported);
            }
            let jwk = json!({
                "e": base64(pair.public_key().exponent().big_endian_without_leading_zero()),
                "kty": "RSA",
                "n": base64(pair.public_key().modulus().big_endian_without_leading_zero()),
            });
            (Key::Rsa(pair), jwk)
        } else {
            let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der)
                .map_err(|_| SignerError::Unsupported)?;
            // Uncompressed point: 4, then x and y with 32 bytes each.
            let point = pair.public_key().as_ref();
            let (Some(x), Some(y)) = (point.get(1..33), point.get(33..65)) else {
                return Err(SignerError::Unsupported);
            };
            let jwk = json!({ "crv": "P-256", "kty": "EC", "x": base64(x), "y": base64(y) });
            (Key::Ec(pair), jwk)
        };
        let kid = thumbprint(&jwk);
        Ok(Self { kid, key, jwk })
    }

    /// Returns the key ID: the RFC 7638 thumbprint.
    #[must_use]
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// Returns the signature algorithm.
    #[must_use]
    pub fn algorithm(&self) -> Algorithm {
        match self.key {
            Key::Rsa(_) => Algorithm::RS256,
            Key::Ec(_) => Algorithm::ES256,
        }
    }

    /// Returns the public key as a member of a JWK set.
    #[must_use]
    pub fn jwk(&self) -> Value {
        let mut jwk = self.jwk.clone();
        jwk["kid"] = json!(self.kid);
        jwk["use"] = json!("sig");
        jwk["alg"] = json!(self.algorithm().as_str());
        jwk
    }

    /// Signs a service token or a delegated token.
    ///
    /// # Errors
    /// [`SignerError::Failed`] if the cryptography library fails.
    pub fn sign(&self, claims: &impl PlatformClaims) -> Result<String, SignerError> {
        let claims = serde_json::to_vec(claims).map_err(|_| SignerError::Failed)?;
        let header = json!({ "alg": self.algorithm().as_str(), "kid": self.kid, "typ": SERVICE_TOKEN_TYPE });
        self.sign_parts(header.to_string().as_bytes(), &claims)
    }

    /// Signs any header and payload; tests forge tokens with it.
    pub(crate) fn sign_parts(&self, header: &[u8], payload: &[u8]) -> Result<String, SignerError> {
        let mut token = format!("{}.{}", base64(header), base64(payload));
        let random = SystemRandom::new();
        let signature = match &self.key {
            Key::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &random, token.as_bytes(), &mut signature)
                    .map_err(|_| SignerError::Failed)?;
                signature
            }
            Key::Ec(pair) => pair.sign(&random, token.as_bytes()).map_err(|_| SignerError::Failed)?.as_ref().to_vec(),
        };
        token.push('.');
        token.push_str(&base64(&signature));
        Ok(token)
    }
}

/// RFC 7638, section 3: SHA-256 of the required members, sorted, without spaces. `serde_json` writes exactly that.
fn thumbprint(jwk: &Value) -> String {
    base64(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, jwk.to_string().as_bytes()).as_ref())
}

fn base64(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{EC_SIGNER, RSA_SIGNER, claims};
    use crate::tokens::KeySet;

    #[test]
    fn an_issued_token_is_accepted_by_an_independent_library() {
        for signer in [&*RSA_SIGNER, &*EC_SIGNER] {
            let token = signer.sign(&claims()).unwrap();
            let jwk: jsonwebtoken::jwk::Jwk = serde_json::from_value(signer.jwk()).unwrap();
            let mut validation = jsonwebtoken::Validation::new(signer.algorithm().as_str().parse().unwrap());
            validation.validate_exp = false;
            validation.set_audience(&[claims().aud]);
            validation.set_issuer(&[claims().iss]);
            let key = jsonwebtoken::DecodingKey::from_jwk(&jwk).unwrap();
            let data = jsonwebtoken::decode::<Value>(&token, &key, &validation).unwrap();
            assert_eq!(data.header.kid.as_deref(), Some(signer.kid()));
            assert_eq!(data.header.typ.as_deref(), Some("at+jwt"));
            assert_eq!(data.claims, serde_json::to_value(claims()).unwrap());
        }
    }

    #[test]
    fn the_kid_is_the_thumbprint_an_independent_library_computes() {
        for signer in [&*RSA_SIGNER, &*EC_SIGNER] {
            let jwk: jsonwebtoken::jwk::Jwk = serde_json::from_value(signer.jwk()).unwrap();
            assert_eq!(jwk.thumbprint(jsonwebtoken::jwk::ThumbprintHash::SHA256).unwrap(), signer.kid());
            let set = json!({ "keys": [signer.jwk()] }).to_string();
            assert!(KeySet::parse(set.as_bytes()).unwrap().contains(signer.kid()));
        }
    }

    #[test]
    fn what_is_no_private_key_is_refused_without_repeating_it() {
        let garbage = b"-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n";
        assert_eq!(Signer::from_pem(garbage).unwrap_err(), SignerError::Unsupported);
        assert_eq!(Signer::from_pem(b"secret").unwrap_err(), SignerError::NotPem);
        assert!(!format!("{:?}", &*RSA_SIGNER).contains("n\":"));
    }
}
