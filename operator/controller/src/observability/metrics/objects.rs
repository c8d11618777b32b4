//! Series of custom resources. They are kept by object, so that all of them are removed with it.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use gaia_plan::keyring::ring::RingKind;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use tokio::time::Instant;

use super::ring_label;
use crate::cache::Census;
use crate::store::ObjectRef;

/// The measurements of one custom resource.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Measured {
    pub(crate) is_ready: bool,
    /// Of a ServiceCertificate: the stored certificate has expired.
    pub(crate) is_expired: bool,
    /// Of a ServiceCertificate, in Unix seconds, as the next two.
    pub(crate) not_after: Option<i64>,
    pub(crate) renewal: Option<i64>,
    pub(crate) served_not_after: Option<i64>,
    /// Of a GaiaService, in Unix seconds.
    pub(crate) legacy_last_used: Option<i64>,
    /// Of a TrustDomain, as all that follow; in Unix seconds.
    pub(crate) ca_not_after: Option<i64>,
    pub(crate) signing_key_age: Option<i64>,
    /// The time since which a rotation of the CA waits for instances.
    pub(crate) ca_waits_since: Option<Instant>,
    /// The time since which a rotation of the signing keys waits for instances.
    pub(crate) signing_keys_wait_since: Option<Instant>,
    pub(crate) instances: Census,
    /// Rotations by ring and result.
    pub(crate) rotations: BTreeMap<(&'static str, &'static str), u64>,
}

/// The measurements of all custom resources.
#[derive(Default)]
pub(super) struct Objects(Mutex<BTreeMap<ObjectRef, Measured>>);

impl Objects {
    /// Changes the measurements of an object.
    pub(super) fn measure(&self, key: &ObjectRef, change: impl FnOnce(&mut Measured)) {
        let mut objects = self.lock();
        if let Some(known) = objects.get_mut(key) {
            change(known);
        } else {
            let mut measured = Measured::default();
            change(&mut measured);
            objects.insert(key.clone(), measured);
        }
    }

    /// Removes all series of an object.
    pub(super) fn forget(&self, key: &ObjectRef) {
        self.lock().remove(key);
    }

    /// The ServiceCertificates whose stored certificate has expired: the first by name, and how many they are.
    pub(super) fn expired(&self, most: usize) -> (Vec<String>, usize) {
        let objects = self.lock();
        let expired = || objects.iter().filter(|(_, measured)| measured.is_expired).map(|(key, _)| key.names());
        let named = expired().take(most).map(|(namespace, name)| format!("{namespace}/{name}"));
        (named.collect(), expired().count())
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<ObjectRef, Measured>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Objects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Objects").finish_non_exhaustive()
    }
}

impl Collector for Objects {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let objects = self.lock();
        let shown = shown(&objects);
        let left_out = ConstGauge::new(number(objects.len() - shown.len()));
        let help = "Custom resources without series of their own because there are too many";
        left_out.encode(encoder.encode_descriptor("objects_not_measured", help, None, MetricType::Gauge)?)?;

        let mut ready = encoder.encode_descriptor("ready", "1 where Ready is True, else 0", None, MetricType::Gauge)?;
        for (key, measured) in &shown {
            let (namespace, name) = key.names();
            let labels = [("kind", key.kind()), ("namespace", namespace), ("name", name)];
            gauge(&mut ready, &labels, i64::from(measured.is_ready))?;
        }
        for (metric, help, value) in NAMED {
            let mut family = encoder.encode_descriptor(metric, help, None, MetricType::Gauge)?;
            for (key, measured) in &shown {
                let (namespace, name) = key.names();
                if let Some(value) = value(measured) {
                    gauge(&mut family, &[("namespace", namespace), ("name", name)], value)?;
                }
            }
        }
        let domains: Vec<(&str, &Measured)> = shown
            .iter()
            .filter_map(|(key, measured)| match key {
                ObjectRef::TrustDomain(name) => Some((name.as_str(), *measured)),
                ObjectRef::Certificate(..) | ObjectRef::Service(..) => None,
            })
            .collect();
        for (metric, help, value) in OF_TRUST_DOMAINS {
            let mut family = encoder.encode_descriptor(metric, help, None, MetricType::Gauge)?;
            for (trust_domain, measured) in &domains {
                if let Some(value) = value(measured) {
                    gauge(&mut family, &[("trust_domain", *trust_domain)], value)?;
                }
            }
        }
        let help = "Time for which a rotation has been waiting for instances";
        let mut family = encoder.encode_descriptor("rotation_waiting_seconds", help, None, MetricType::Gauge)?;
        for (trust_domain, measured) in &domains {
            for (ring, since) in
                [(RingKind::Ca, measured.ca_waits_since), (RingKind::SigningKeys, measured.signing_keys_wait_since)]
            {
                let seconds = since.map_or(0, |since| since.elapsed().as_secs());
                let labels = [("trust_domain", *trust_domain), ("ring", ring_label(ring))];
                gauge(&mut family, &labels, i64::try_from(seconds).unwrap_or(i64::MAX))?;
            }
        }
        let mut family = encoder.encode_descriptor("rotation", "Rotations by result", None, MetricType::Counter)?;
        for (trust_domain, measured) in &domains {
            for ((ring, result), count) in &measured.rotations {
                let labels = [("trust_domain", *trust_domain), ("ring", *ring), ("result", *result)];
                ConstCounter::new(*count).encode(family.encode_family(&labels)?)?;
            }
        }
        let help = "Pods and endpoints by state: current, lagging or unknown";
        let mut family = encoder.encode_descriptor("instances", help, None, MetricType::Gauge)?;
        let sum = |of: fn(&Census) -> usize| objects.values().map(|measured| of(&measured.instances)).sum::<usize>();
        for (state, count) in [
            ("current", sum(|census| census.current)),
            ("behind", sum(|census| census.behind)),
            ("unknown", sum(|census| census.unknown)),
        ] {
            gauge(&mut family, &[("state", state)], number(count))?;
        }
        Ok(())
    }
}

/// The objects that have series. TrustDomains always do; of the largest namespaces some objects are left out where there
/// are more than [`MOST`].
fn shown(objects: &BTreeMap<ObjectRef, Measured>) -> Vec<(&ObjectRef, &Measured)> {
    let mut counts: HashMap<&str, usize> = HashMap::new();
    for key in objects.keys() {
        *counts.entry(key.names().0).or_default() += 1;
    }
    let share = equal_share(counts.iter().filter(|(namespace, _)| !namespace.is_empty()).map(|(_, n)| *n), MOST);
    let mut used: HashMap<&str, usize> = HashMap::new();
    let mut shown = vec![];
    for (key, measured) in objects {
        let namespace = key.names().0;
        let used = used.entry(namespace).or_default();
        *used += 1;
        if namespace.is_empty() || *used <= share {
            shown.push((key, measured));
        }
    }
    shown
}

/// The largest share at which all counts, each cut to it, stay within the limit.
fn equal_share(counts: impl Iterator<Item = usize>, limit: usize) -> usize {
    let mut counts: Vec<usize> = counts.collect();
    counts.sort_unstable();
    let mut left = limit;
    for (index, count) in counts.iter().enumerate() {
        let share = left / (counts.len() - index);
        if *count > share {
            return share;
        }
        left -= count;
    }
    usize::MAX
}

fn gauge(family: &mut MetricEncoder<'_>, labels: &impl EncodeLabelSet, value: i64) -> fmt::Result {
    ConstGauge::new(value).encode(family.encode_family(labels)?)
}

fn number(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

type Gauge = (&'static str, &'static str, fn(&Measured) -> Option<i64>);

const NAMED: [Gauge; 4] = [
    ("certificate_not_after_timestamp_seconds", "Expiry of the stored certificate", |measured| measured.not_after),
    ("certificate_renewal_timestamp_seconds", "Time of the next renewal", |measured| measured.renewal),
    (
        "certificate_served_not_after_timestamp_seconds",
        "Earliest expiry of the certificates that instances present",
        |measured| measured.served_not_after,
    ),
    (
        "legacy_last_used_timestamp_seconds",
        "Start of the last day on which an API key of a service was used",
        |measured| measured.legacy_last_used,
    ),
];
const OF_TRUST_DOMAINS: [Gauge; 2] = [
    ("ca_not_after_timestamp_seconds", "Expiry of the active CA", |measured| measured.ca_not_after),
    ("signing_key_age_seconds", "Age of the active JWT signing key", |measured| measured.signing_key_age),
];
/// Objects in namespaces that have series at most.
const MOST: usize = 40_000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observability::metrics::Metrics;

    fn everything() -> Measured {
        let now = Some(Instant::now());
        Measured {
            is_ready: true,
            is_expired: false,
            not_after: Some(1),
            renewal: Some(2),
            served_not_after: Some(3),
            legacy_last_used: Some(4),
            ca_not_after: Some(5),
            signing_key_age: Some(6),
            ca_waits_since: now,
            signing_keys_wait_since: now,
            instances: Census { current: 7, behind: 8, unknown: 9 },
            rotations: BTreeMap::from([(("ca", "completed"), 1)]),
        }
    }

    /// The kind: series of deleted objects. All measurements of an object are removed with it.
    #[test]
    fn no_series_is_left_of_a_deleted_object() {
        for key in [
            ObjectRef::TrustDomain("doomed".to_owned()),
            ObjectRef::Certificate("shop".to_owned(), "doomed".to_owned()),
            ObjectRef::Service("shop".to_owned(), "doomed".to_owned()),
        ] {
            let metrics = Metrics::new();
            let before = metrics.text();
            metrics.measure(&key, |measured| *measured = everything());
            let text = metrics.text();
            assert!(text.contains(&format!("gaia_ready{{kind=\"{}\"", key.kind())), "{text}");
            metrics.forget(&key);
            assert_eq!(metrics.text(), before);
        }
    }

    /// The kind: a certificate that expired is named only in its own status.
    #[test]
    fn expired_certificates_are_named_until_they_are_replaced() {
        let metrics = Metrics::new();
        for name in ["a", "b", "c"] {
            let key = ObjectRef::Certificate("shop".to_owned(), name.to_owned());
            metrics.measure(&key, |measured| measured.is_expired = name != "b");
        }
        assert_eq!(metrics.expired(1), (vec!["shop/a".to_owned()], 2));
        metrics.measure(&ObjectRef::Certificate("shop".to_owned(), "a".to_owned()), |measured| {
            measured.is_expired = false;
        });
        metrics.forget(&ObjectRef::Certificate("shop".to_owned(), "c".to_owned()));
        assert_eq!(metrics.expired(1), (vec![], 0));
    }

    #[test]
    fn rotations_are_measured_by_trust_domain() {
        let metrics = Metrics::new();
        metrics.measure(&ObjectRef::TrustDomain("gaia".to_owned()), |measured| *measured = everything());
        let text = metrics.text();
        for line in [
            "gaia_ready{kind=\"TrustDomain\",namespace=\"\",name=\"gaia\"} 1",
            "gaia_rotation_total{trust_domain=\"gaia\",ring=\"ca\",result=\"completed\"} 1",
            "gaia_rotation_waiting_seconds{trust_domain=\"gaia\",ring=\"signing-keys\"} 0",
            "gaia_ca_not_after_timestamp_seconds{trust_domain=\"gaia\"} 5",
            "gaia_instances{state=\"behind\"} 8",
        ] {
            assert!(text.contains(line), "{line}: {text}");
        }
    }

    #[test]
    fn a_namespace_with_too_many_objects_has_fewer_series() {
        let mut objects = BTreeMap::new();
        for n in 0..MOST {
            objects.insert(ObjectRef::Certificate("busy".to_owned(), n.to_string()), Measured::default());
        }
        for n in 0..10 {
            objects.insert(ObjectRef::Service("shop".to_owned(), n.to_string()), Measured::default());
        }
        objects.insert(ObjectRef::TrustDomain("gaia".to_owned()), Measured::default());
        let shown = shown(&objects);
        assert_eq!(shown.len(), MOST + 1);
        assert_eq!(shown.iter().filter(|(key, _)| key.names().0 == "shop").count(), 10);
    }
}
