//! Revocation check of a platform token by its holder.

use gaia_api::SpiffeId;
use jiff::Timestamp;

use super::claims::text;
use super::header::{HeaderRules, Parts};
use super::keys::KeySet;
use crate::Reason;
use crate::denylist::Denied;

/// The fields of a platform token that decide whether it was revoked. The holder received it from the token issuer and
/// does not verify it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldToken {
    issuer: String,
    kid: String,
    jti: String,
    /// Its `sub` and `client_id`.
    parties: [String; 2],
    issued: Timestamp,
    /// Whether the key was published when the token was received.
    was_published: bool,
}

impl HeldToken {
    /// Parses a token; `None` if it is not a platform token. `keys` are the published keys of the platform.
    #[must_use]
    pub fn read(token: &str, keys: Option<&KeySet>) -> Option<Self> {
        let parts = Parts::cut(token).ok()?;
        let kid = parts.header(HeaderRules::Platform).ok()?.text("kid").ok()??.to_owned();
        let claims = parts.claims().ok()?;
        let member = |name| text(&claims, name).map(str::to_owned);
        Some(Self {
            was_published: keys.is_some_and(|keys| keys.contains(&kid)),
            issuer: member("iss")?,
            kid,
            jti: member("jti")?,
            parties: [member("sub")?, member("client_id")?],
            issued: Timestamp::from_second(claims.get("iat")?.as_i64()?).ok()?,
        })
    }

    /// Checks that the token is still one of `issuer` for the holder `own`, and that neither the denylist nor the
    /// withdrawal of its key has revoked it. A key that was not published when the token was received does not count as
    /// withdrawn: the files of the holder may be older than the issuer's.
    ///
    /// # Errors
    /// The [`Reason`] for which verifiers reject it.
    pub fn check(&self, own: &SpiffeId, issuer: &str, denied: &Denied, keys: Option<&KeySet>) -> Result<(), Reason> {
        if self.parties[1] != own.as_str() {
            return Err(Reason::PeerDiffers);
        }
        if self.issuer != issuer {
            return Err(Reason::IssuerWrong);
        }
        denied.check_kid(&self.kid)?;
        if self.was_published && keys.is_some_and(|keys| !keys.contains(&self.kid)) {
            return Err(Reason::KidUnknown);
        }
        self.parties.iter().try_for_each(|party| denied.check_token(&self.jti, party, self.issued))
    }
}

#[cfg(test)]
mod tests {
    use gaia_api::mount::{DeniedSubject, Denylist};
    use serde_json::json;

    use super::*;
    use crate::fixtures::{EC_SIGNER, RSA_SIGNER, at, claims, keys};

    #[test]
    fn only_changes_that_revoke_a_held_token_drop_it() {
        let (keys, claims) = (keys(), claims());
        let token = RSA_SIGNER.sign(&claims).unwrap();
        let own = SpiffeId::parse(&claims.client_id).unwrap();
        let held = HeldToken::read(&token, Some(&keys)).unwrap();
        let under = |list: &Denylist| held.check(&own, &claims.iss, &Denied::from(list), Some(&keys));
        let empty = Denylist::empty;
        let subject = |sub: &str, second| vec![DeniedSubject { sub: sub.to_owned(), not_before: at(second) }];
        let issued = claims.iat;
        for unrelated in [
            empty(),
            Denylist { subjects: subject("user:supabase:other", issued + 1), ..empty() },
            Denylist { subjects: subject(&claims.sub, issued), ..empty() },
            Denylist { jtis: vec!["other".into()], kids: vec!["other".into()], ..empty() },
            Denylist { leaves: vec!["ab".repeat(32)], issuers: vec!["cd".repeat(32)], ..empty() },
        ] {
            assert_eq!(under(&unrelated), Ok(()), "{unrelated:?}");
        }
        let later = subject(&claims.sub, issued + 1);
        assert_eq!(under(&Denylist { subjects: later, ..empty() }), Err(Reason::SubjectRevoked));
        assert_eq!(under(&Denylist { jtis: vec![claims.jti.clone()], ..empty() }), Err(Reason::TokenIdRevoked));
        let kids = vec![RSA_SIGNER.kid().to_owned()];
        assert_eq!(under(&Denylist { kids, ..empty() }), Err(Reason::KidRevoked));
    }

    #[test]
    fn a_withdrawn_key_another_identity_or_another_issuer_drop_a_held_token() {
        let (keys, claims, denied) = (keys(), claims(), Denied::default());
        let token = RSA_SIGNER.sign(&claims).unwrap();
        let own = SpiffeId::parse(&claims.client_id).unwrap();
        let others = KeySet::parse(json!({ "keys": [EC_SIGNER.jwk()] }).to_string().as_bytes()).unwrap();
        let held = HeldToken::read(&token, Some(&keys)).unwrap();
        let check = |held: &HeldToken, keys| held.check(&own, &claims.iss, &denied, keys);
        assert_eq!(check(&held, None), Ok(()), "unreadable keys revoke nothing");
        assert_eq!(check(&held, Some(&others)), Err(Reason::KidUnknown));
        let early = HeldToken::read(&token, Some(&others)).unwrap();
        assert_eq!(check(&early, Some(&others)), Ok(()), "the issuer's key set may be newer");
        let renamed = SpiffeId::workload("gaia.local", "shop", "renamed");
        assert_eq!(held.check(&renamed, &claims.iss, &denied, Some(&keys)), Err(Reason::PeerDiffers));
        assert_eq!(held.check(&own, "another", &denied, Some(&keys)), Err(Reason::IssuerWrong));
        assert_eq!(HeldToken::read("opaque", Some(&keys)), None);
    }
}
