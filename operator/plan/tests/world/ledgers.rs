//! The ledgers of pods: who used which API key of a service, and what the operator has read of it.

use gaia_api::ledger::{LedgerCaller, LedgerEntry, LedgerReport};
use gaia_api::mount::SCHEMA_VERSION;
use gaia_api::names;
use gaia_plan::api_key_usage::{Watch, Watched};
use gaia_plan::instances::instance::{Probe, Shown};

use super::pods::Pod;
use super::{Name, World};

impl World {
    pub(super) fn read_ledger(&mut self, index: usize) {
        let (now, pod) = (self.now, &mut self.pods[index]);
        let reports = matches!(&pod.probe, Some(Probe { seen: Ok(Shown { report: Ok(_), .. }), .. }));
        if !reports {
            pod.failing = pod.failing.or(Some(now));
            return;
        }
        let report = LedgerReport {
            schema_version: SCHEMA_VERSION,
            instance: format!("process of {}", pod.uid),
            started_at: pod.started.unwrap_or(now),
            entries: pod.ledger.clone(),
            plain: pod.plain.clone(),
        };
        if pod.ends {
            self.memory.last_words.insert(report.instance.clone(), (pod.namespace.clone(), report.clone()));
        }
        (pod.read, pod.failing) = (Some((now, report)), None);
    }

    /// A client presents an API key to a pod.
    pub(crate) fn use_key(&mut self, pod: &str, key: &str, route: &str) {
        let date = self.now.to_zoned(jiff::tz::TimeZone::UTC).date();
        let caller = LedgerCaller::Unknown { address: None, user_agent: Some("curl".into()), route: route.to_owned() };
        let pod = self.pod(pod);
        pod.ledger.retain(|entry| (entry.key.as_str(), &entry.caller) != (key, &caller));
        pod.ledger.push(LedgerEntry { key: key.to_owned(), caller, date });
    }

    /// A pod accepts a request without a client certificate.
    pub(crate) fn accept_plain(&mut self, pod: &str, transport: &str, route: &str) {
        let date = self.now.to_zoned(jiff::tz::TimeZone::UTC).date();
        let caller = LedgerCaller::Unknown { address: None, user_agent: Some("curl".into()), route: route.to_owned() };
        let rows = self.pod(pod).plain.as_mut().unwrap();
        rows.retain(|entry| (entry.key.as_str(), &entry.caller) != (transport, &caller));
        rows.push(LedgerEntry { key: transport.to_owned(), caller, date });
    }

    /// The operator's view of a service's ledgers.
    pub(super) fn ledgers<'a>(&'a self, (namespace, service): &Name) -> Watch<'a> {
        let secret = names::leaf_secret(service);
        let is_its = |pod: &&Pod| pod.namespace == *namespace && pod.secret.as_ref() == Some(&secret);
        let instances = self.pods.iter().filter(is_its).map(|pod| Watched {
            name: &pod.name,
            uid: &pod.uid,
            serves: pod.started.is_some(),
            has_said_its_last: pod.ends && pod.read.is_some(),
            read: pod.read.as_ref().map(|(at, report)| (*at, report)),
            failing: pod.failing.map(|since| (since, "connection refused")),
            excluded: None,
        });
        let instances = instances.chain(self.excluded_watched(namespace, service));
        let last_words = self.memory.last_words.values().filter(|(of, _)| of == namespace);
        Watch {
            since: self.began,
            before: self.before,
            instances: instances.collect(),
            unknown: self.pods_unknown.as_deref(),
            blind: None,
            last_words: last_words.map(|(_, report)| report).collect(),
            unread: None,
        }
    }
}
