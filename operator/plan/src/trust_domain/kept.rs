//! Entries of shared files for services that cannot be read: they are kept as last written.

use std::collections::{BTreeMap, BTreeSet};

use gaia_api::SpiffeId;
use gaia_api::mount::{Grants, ServiceIdentity};

/// The services of a TrustDomain that cannot be read and never could since the operator started, and `grants.json` as it
/// was last written.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct KeptGrants {
    /// Namespace and name of each.
    pub services: BTreeSet<(String, String)>,
    /// None: the written content is unknown. Then it is not overwritten.
    pub written: Option<Grants>,
}

impl KeptGrants {
    /// The file with the last written entries of these services; none: it must not be changed.
    #[must_use]
    pub fn merge(&self, mut grants: Grants) -> Option<Grants> {
        if self.services.is_empty() {
            return Some(grants);
        }
        let written = self.written.as_ref()?;
        let is_kept = |service: &ServiceIdentity| {
            self.services.iter().any(|(namespace, name)| *namespace == service.namespace && *name == service.name)
        };
        let kept: Vec<&ServiceIdentity> = written.services.iter().filter(|service| is_kept(service)).collect();
        // The readable part of such a service may lack its identity: other entries keep naming it as before.
        let mut renamed: BTreeMap<SpiffeId, SpiffeId> = BTreeMap::new();
        for service in grants.services.iter().filter(|service| is_kept(service)) {
            let known = kept.iter().find(|known| known.namespace == service.namespace && known.name == service.name);
            renamed.extend(known.map(|known| (service.spiffe_id.clone(), known.spiffe_id.clone())));
        }
        let assumed: BTreeSet<SpiffeId> = grants
            .services
            .iter()
            .filter(|service| is_kept(service))
            .map(|service| service.spiffe_id.clone())
            .collect();
        grants.services.retain(|service| !is_kept(service));
        let others: BTreeSet<&SpiffeId> = grants.services.iter().map(|service| &service.spiffe_id).collect();
        grants.grants.retain(|grant| others.contains(&grant.target) || !assumed.contains(&grant.target));
        for grant in &mut grants.grants {
            if let Some(known) = renamed.get(&grant.caller).filter(|_| !others.contains(&grant.caller)) {
                grant.caller = known.clone();
            }
        }
        let targets: BTreeSet<&SpiffeId> = kept.iter().map(|service| &service.spiffe_id).collect();
        let rows = written.grants.iter().filter(|grant| targets.contains(&grant.target)).cloned();
        grants.grants.extend(rows);
        grants.services.extend(kept.into_iter().cloned());
        grants.services.sort();
        grants.services.dedup();
        grants.grants.sort();
        grants.grants.dedup();
        Some(grants)
    }
}

#[cfg(test)]
mod tests {
    use gaia_api::mount::{Grant, SCHEMA_VERSION, TokenRules};

    use super::*;

    fn id(name: &str) -> SpiffeId {
        SpiffeId::workload("gaia.local", "shop", name)
    }

    fn grants(services: &[(&str, &str)], rows: &[(&str, &str, &[&str])]) -> Grants {
        let service = |(name, account): &(&str, &str)| ServiceIdentity {
            spiffe_id: id(account),
            namespace: "shop".to_owned(),
            name: (*name).to_owned(),
        };
        let row = |(caller, target, scopes): &(&str, &str, &[&str])| Grant {
            caller: id(caller),
            target: id(target),
            scopes: scopes.iter().map(|scope| (*scope).to_owned()).collect(),
            on_behalf_of: false,
        };
        Grants {
            schema_version: SCHEMA_VERSION,
            tokens: TokenRules { issuer: "i".to_owned(), audience: "a".to_owned(), max_ttl_seconds: 900 },
            token_ttl_seconds: None,
            services: services.iter().map(service).collect(),
            grants: rows.iter().map(row).collect(),
        }
    }

    fn kept(written: Option<Grants>) -> KeptGrants {
        KeptGrants { services: BTreeSet::from([("shop".to_owned(), "orders".to_owned())]), written }
    }

    #[test]
    fn rows_of_a_service_that_cannot_be_read_stay_as_last_written() {
        let written = grants(
            &[("gone", "gone"), ("orders", "orders-sa"), ("web", "web")],
            &[("web", "orders-sa", &["read"]), ("gone", "web", &[]), ("orders-sa", "web", &[])],
        );
        // Of orders neither the service account nor its callers can be read.
        let computed = grants(
            &[("new", "new"), ("orders", "orders"), ("web", "web")],
            &[("new", "web", &[]), ("orders", "web", &[])],
        );
        let expected = grants(
            &[("new", "new"), ("orders", "orders-sa"), ("web", "web")],
            &[("new", "web", &[]), ("orders-sa", "web", &[]), ("web", "orders-sa", &["read"])],
        );
        assert_eq!(kept(Some(written)).merge(computed), Some(expected));
    }

    #[test]
    fn a_file_that_is_not_known_is_not_written_over() {
        let computed = grants(&[("orders", "orders")], &[]);
        assert_eq!(kept(None).merge(computed.clone()), None);
        assert_eq!(KeptGrants::default().merge(computed.clone()), Some(computed));
    }
}
