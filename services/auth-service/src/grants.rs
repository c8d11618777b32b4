//! Index of `grants.json`: services by name and identity, and permitted calls.

use std::collections::{BTreeSet, HashMap};

use gaia_api::SpiffeId;
use gaia_api::mount::{Grant, Grants, ServiceIdentity, TokenRules};
use gaia_auth::sha256;

/// The grants of a trust domain.
#[derive(Debug)]
pub struct GrantTable {
    /// SHA-256 of the whole.
    hash: [u8; 32],
    tokens: TokenRules,
    ttl_seconds: Option<u64>,
    services: Vec<ServiceIdentity>,
    /// Indices into `services`, in their order.
    by_name: HashMap<String, Vec<usize>>,
    by_id: HashMap<SpiffeId, Vec<usize>>,
    pairs: HashMap<(SpiffeId, SpiffeId), Pair>,
}

/// Permissions of a caller at a target.
#[derive(Debug)]
struct Pair {
    scopes: Vec<String>,
    on_behalf_of: bool,
}

/// Reason why a name does not identify one service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameError {
    /// No service has the name.
    Unknown,
    /// Several services have the name, and none is in the caller's namespace.
    Ambiguous,
}

impl From<Grants> for GrantTable {
    fn from(grants: Grants) -> Self {
        let pair = |grant: Grant| {
            let pair = Pair { scopes: grant.scopes, on_behalf_of: grant.on_behalf_of };
            ((grant.caller, grant.target), pair)
        };
        let (mut by_name, mut by_id) = (HashMap::<_, Vec<usize>>::new(), HashMap::<_, Vec<usize>>::new());
        for (place, service) in grants.services.iter().enumerate() {
            by_name.entry(service.name.clone()).or_default().push(place);
            by_id.entry(service.spiffe_id.clone()).or_default().push(place);
        }
        // Plain data of our own always has a JSON form.
        let hash = sha256(&serde_json::to_vec(&grants).unwrap_or_default());
        let pairs = grants.grants.into_iter().map(pair).collect();
        Self {
            hash,
            tokens: grants.tokens,
            ttl_seconds: grants.token_ttl_seconds,
            services: grants.services,
            by_name,
            by_id,
            pairs,
        }
    }
}

impl GrantTable {
    /// Returns the hash of the grants: decisions based on them stay valid until it changes.
    #[must_use]
    pub fn hash(&self) -> [u8; 32] {
        self.hash
    }

    /// Returns the settings of tokens.
    #[must_use]
    pub fn tokens(&self) -> &TokenRules {
        &self.tokens
    }

    /// Returns the validity of a service token in seconds: the requested or configured one, at most `maxTTL`.
    #[must_use]
    pub fn validity_seconds(&self, asked: Option<u64>) -> u64 {
        asked.or(self.ttl_seconds).unwrap_or(DEFAULT_VALIDITY_SECONDS).min(self.tokens.max_ttl_seconds)
    }

    /// Returns the service named `name` (or `namespace/name`) with the identity `id`.
    #[must_use]
    pub fn own(&self, name: &str, id: &SpiffeId) -> Option<&ServiceIdentity> {
        self.under(id).find(|service| is_called(service, name))
    }

    /// Returns the first service with the identity `id`.
    #[must_use]
    pub fn service(&self, id: &SpiffeId) -> Option<&ServiceIdentity> {
        self.under(id).next()
    }

    /// Returns the service that a caller calls `name` or `namespace/name`: without a namespace the one in its own
    /// namespace, otherwise the only one.
    ///
    /// # Errors
    /// [`NameError`] if there is none or the name is ambiguous.
    pub fn target(&self, name: &str, caller: &ServiceIdentity) -> Result<&ServiceIdentity, NameError> {
        let places = self.by_name.get(name.rsplit_once('/').map_or(name, |(_, name)| name));
        let mut found = self.at(places).filter(|service| is_called(service, name));
        let first = found.next().ok_or(NameError::Unknown)?;
        let mut all = std::iter::once(first).chain(found);
        match all.clone().find(|service| service.namespace == caller.namespace) {
            Some(neighbour) => Ok(neighbour),
            None => match (all.next(), all.next()) {
                (Some(only), None) => Ok(only),
                _ => Err(NameError::Ambiguous),
            },
        }
    }

    /// Returns the scopes that a caller may request for a target, empty for all; `None` if it may not call it.
    #[must_use]
    pub fn scopes(&self, caller: &SpiffeId, target: &SpiffeId) -> Option<&[String]> {
        self.pair(caller, target).map(|pair| pair.scopes.as_slice())
    }

    /// Returns true if a caller may carry another identity to a target.
    #[must_use]
    pub fn is_on_behalf_of(&self, caller: &SpiffeId, target: &SpiffeId) -> bool {
        self.pair(caller, target).is_some_and(|pair| pair.on_behalf_of)
    }

    fn under(&self, id: &SpiffeId) -> impl Iterator<Item = &ServiceIdentity> {
        self.at(self.by_id.get(id))
    }

    fn at<'a>(&'a self, places: Option<&'a Vec<usize>>) -> impl Iterator<Item = &'a ServiceIdentity> + Clone {
        places.into_iter().flatten().filter_map(|place| self.services.get(*place))
    }

    fn pair(&self, caller: &SpiffeId, target: &SpiffeId) -> Option<&Pair> {
        self.pairs.get(&(caller.clone(), target.clone()))
    }
}

/// Returns the granted part of the requested scopes. `Ok(None)`: nothing was requested and nothing is limited, so the
/// token has no scope. `Err`: none of them is granted, and a token without a scope would permit everything.
pub(crate) fn granted(requested: Option<&[&str]>, allowed: &[String]) -> Result<Option<String>, ()> {
    let allowed: BTreeSet<&str> = allowed.iter().map(String::as_str).collect();
    let granted: BTreeSet<&str> = match requested {
        None if allowed.is_empty() => return Ok(None),
        None => allowed,
        Some(requested) => requested.iter().copied().filter(|s| allowed.is_empty() || allowed.contains(s)).collect(),
    };
    if granted.is_empty() { Err(()) } else { Ok(Some(granted.into_iter().collect::<Vec<_>>().join(" "))) }
}

fn is_called(service: &ServiceIdentity, name: &str) -> bool {
    match name.split_once('/') {
        Some((namespace, name)) => service.namespace == namespace && service.name == name,
        None => service.name == name,
    }
}

const DEFAULT_VALIDITY_SECONDS: u64 = 15 * 60;

#[cfg(test)]
mod tests {
    use gaia_api::mount::SCHEMA_VERSION;

    use super::*;

    fn service(namespace: &str, name: &str) -> ServiceIdentity {
        let spiffe_id = SpiffeId::workload("gaia.local", namespace, name);
        ServiceIdentity { namespace: namespace.into(), name: name.into(), spiffe_id }
    }

    fn table() -> GrantTable {
        let services = vec![service("a", "chat"), service("b", "chat"), service("a", "web"), service("c", "web-2")];
        let grant = Grant {
            on_behalf_of: false,
            caller: service("a", "web").spiffe_id,
            target: service("b", "chat").spiffe_id,
            scopes: vec!["chat:write".into()],
        };
        let tokens = TokenRules { issuer: "i".into(), audience: "all".into(), max_ttl_seconds: 3600 };
        GrantTable::from(Grants {
            schema_version: SCHEMA_VERSION,
            tokens,
            token_ttl_seconds: None,
            services,
            grants: vec![grant],
        })
    }

    #[test]
    fn a_bare_name_means_the_neighbour_else_the_only_one() {
        let table = table();
        let target = |name: &str, from: &str| table.target(name, &service(from, "x")).map(|s| s.namespace.clone());
        assert_eq!(target("chat", "a"), Ok("a".into()));
        assert_eq!(target("chat", "b"), Ok("b".into()));
        assert_eq!(target("b/chat", "a"), Ok("b".into()));
        assert_eq!(target("chat", "c"), Err(NameError::Ambiguous));
        assert_eq!(target("web", "c"), Ok("a".into()));
        assert_eq!(target("nobody", "a"), Err(NameError::Unknown));
        assert_eq!(target("a/b/chat", "a"), Err(NameError::Unknown));
    }

    #[test]
    fn a_service_can_only_go_by_its_own_names() {
        let table = table();
        let web = service("a", "web").spiffe_id;
        assert!(table.own("web", &web).is_some());
        assert!(table.own("a/web", &web).is_some());
        assert!(table.own("chat", &web).is_none());
        assert!(table.own("b/web", &web).is_none());
    }

    #[test]
    fn only_granted_pairs_have_scopes() {
        let table = table();
        let (web, chat) = (service("a", "web").spiffe_id, service("b", "chat").spiffe_id);
        assert_eq!(table.scopes(&web, &chat), Some(&["chat:write".to_owned()][..]));
        assert_eq!(table.scopes(&chat, &web), None);
    }

    #[test]
    fn a_token_names_what_was_asked_for_and_is_granted() {
        let allowed = ["a".to_owned(), "b".to_owned()];
        assert_eq!(granted(Some(&["b", "c"]), &allowed), Ok(Some("b".into())));
        assert_eq!(granted(Some(&["c"]), &allowed), Err(()), "no scope left must not become all scopes");
        assert_eq!(granted(Some(&["c"]), &[]), Ok(Some("c".into())));
        assert_eq!(granted(None, &allowed), Ok(Some("a b".into())));
        assert_eq!(granted(None, &[]), Ok(None));
    }
}
