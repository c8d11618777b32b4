//! Reasons why the platform rejects an access token that the login server has just issued.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

use super::failure::LoginFailure;

/// Returns the failure explained by the claims of a rejected token; none if they do not explain it.
pub(super) fn refused_user(token: &str, required: &BTreeMap<String, String>) -> Option<LoginFailure> {
    let payload = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
    let claims: Value = serde_json::from_slice(&payload).ok()?;
    let lacks = |name: &str| required.get(name).is_some_and(|value| claims[name] != value.as_str());
    if claims["role"] != "authenticated" || lacks("role") {
        return Some(LoginFailure::RoleNotAdmitted);
    }
    if lacks("aal") {
        return Some(LoginFailure::SecondFactorRequired);
    }
    // Other required claims are also properties of the account.
    required.keys().any(|name| lacks(name)).then_some(LoginFailure::RoleNotAdmitted)
}

/// Maximum length of a token that services accept.
pub(super) const MAX_BYTES: usize = 8 * 1024;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn claims_explain_a_refusal() {
        let required = BTreeMap::from([("aal".to_owned(), "aal2".to_owned())]);
        let refused = |claims: Value| {
            let token = format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims.to_string()));
            refused_user(&token, &required)
        };
        let claims = |role: &str, aal: &str| json!({ "role": role, "aal": aal });
        assert_eq!(refused(claims("authenticated", "aal1")), Some(LoginFailure::SecondFactorRequired));
        assert_eq!(refused(claims("editor", "aal2")), Some(LoginFailure::RoleNotAdmitted));
        assert_eq!(refused(claims("service_role", "aal2")), Some(LoginFailure::RoleNotAdmitted));
        assert_eq!(refused(claims("authenticated", "aal2")), None);
        assert_eq!(refused_user("nonsense", &required), None);
    }
}
