//! One tenant with thousands of endpoints that never answer and thousands of certificates, beside another tenant. Time is
//! virtual: what is measured is how many calls and probes of the one the other waits for.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use gaia_plan::object::ObjectKey;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::Prober;
use super::endpoint::{EndpointDialer, Resolver};
use super::identity::Identities;
use crate::cache::{NamespaceFacts, lock};
use crate::reconcile::Reconciler;
use crate::reconcile::scripted::with_store;
use crate::store::ObjectRef;
use crate::store::memory::MemoryStore;

/// Never answers, and notes when each name was asked for first.
#[derive(Default)]
struct Silent {
    asked: Mutex<HashMap<String, Instant>>,
}

impl Silent {
    fn asked(&self, name: &str) -> Option<Instant> {
        self.asked.lock().unwrap().get(name).copied()
    }
}

impl Resolver for Silent {
    fn resolve(&self, name: String) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> {
        self.asked.lock().unwrap().entry(name).or_insert_with(Instant::now);
        futures::future::pending().boxed()
    }
}

/// An operator at work on a store in memory.
struct Cluster {
    reconciler: Arc<Reconciler<MemoryStore>>,
    resolver: Arc<Silent>,
}

impl Cluster {
    async fn start() -> Self {
        let reconciler = Arc::new(with_store(MemoryStore::new(LATENCY)));
        let resolver = Arc::new(Silent::default());
        let scheduler = reconciler.scheduler.clone();
        let prober = Arc::new(Prober {
            executor: Arc::clone(&reconciler.executor),
            scheduler: scheduler.clone(),
            metrics: reconciler.metrics.clone(),
            identities: Identities::default(),
            endpoints: EndpointDialer::new(Arc::<Silent>::clone(&resolver)),
        });
        {
            let mut world = lock(&reconciler.executor.world);
            for namespace in [BUSY, SHOP] {
                let labels = std::collections::BTreeMap::new();
                world.apply_namespace(namespace, NamespaceFacts { labels, terminating: false });
            }
            world.pods_watched(None, Ok(()));
            world.set_api_server(BTreeSet::new());
        }
        scheduler.begin_probing(&reconciler.executor.world);
        for _ in 0..scheduler.probes.workers() {
            tokio::spawn(Arc::clone(&prober).work());
        }
        for _ in 0..scheduler.decisions.workers() {
            tokio::spawn(Arc::clone(&reconciler).work());
        }
        let cluster = Self { reconciler, resolver };
        let key = ObjectRef::TrustDomain("gaia".to_owned());
        let domain = json!({ "metadata": { "name": "gaia" }, "spec": { "trustDomain": "gaia.local",
            "namespaceSelector": {}, "tokens": { "algorithm": "ES256" },
            "allowedEndpoints": [{ "namespaces": [BUSY, SHOP], "hosts": ["*.example.com"] }] } });
        let domain = cluster.store().add(&key, domain);
        cluster.arrives(|world| world.apply_trust_domain(domain));
        cluster
    }

    fn store(&self) -> &MemoryStore {
        &self.reconciler.executor.store
    }

    /// A watch reports it.
    fn arrives(&self, apply: impl FnOnce(&mut crate::cache::ClusterCache) -> BTreeSet<ObjectRef>) {
        let keys = apply(&mut lock(&self.reconciler.executor.world));
        self.reconciler.scheduler.push(&self.reconciler.executor.world, keys);
    }

    fn certificate(&self, namespace: &str, name: &str) {
        let key = ObjectRef::Certificate(namespace.to_owned(), name.to_owned());
        let certificate = self.store().add(&key, resource(namespace, name, json!({})));
        self.arrives(|world| world.apply_certificate(certificate));
    }

    fn service(&self, namespace: &str, name: &str, endpoints: &[String]) {
        let key = ObjectRef::Service(namespace.to_owned(), name.to_owned());
        let service = self.store().add(&key, resource(namespace, name, json!({ "endpoints": endpoints })));
        self.arrives(|world| world.apply_service(service));
    }

    /// How long it takes from now until this is so.
    async fn until<T>(&self, what: &str, found: impl Fn(&Self) -> Option<T>) -> Duration {
        let began = Instant::now();
        while found(self).is_none() {
            assert!(began.elapsed() < Duration::from_secs(600), "{what}: not within ten minutes");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        began.elapsed()
    }

    async fn issued(&self, namespace: &str, name: &str) -> Duration {
        let secret = ObjectKey::secret(namespace, format!("{name}-tls"));
        self.until(&secret.to_string(), |cluster| cluster.store().created(&secret)).await
    }
}

fn resource(namespace: &str, name: &str, mut spec: Value) -> Value {
    spec["trustDomainRef"] = json!({ "name": "gaia" });
    json!({ "metadata": { "namespace": namespace, "name": name }, "spec": spec })
}

/// Kind: work of one tenant that another tenant waits for. Certificates, repairs and probes of the other are begun within a
/// second, and take not much longer than on an idle operator.
#[tokio::test(start_paused = true)]
async fn thousands_of_mute_endpoints_and_certificates_of_one_tenant_delay_another_by_less_than_a_second() {
    let cluster = Cluster::start().await;
    cluster.certificate(SHOP, "idle");
    cluster.issued(SHOP, "idle").await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    cluster.certificate(SHOP, "alone");
    let alone = cluster.issued(SHOP, "alone").await;

    for service in 0..ENDPOINTS / LISTED {
        let endpoints: Vec<String> = (0..LISTED).map(|n| format!("e{n}-{service}.example.com:443")).collect();
        cluster.service(BUSY, &format!("mute-{service}"), &endpoints);
    }
    for certificate in 0..CERTIFICATES {
        cluster.certificate(BUSY, &format!("c{certificate}"));
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    let (decisions, probes) = (&cluster.reconciler.scheduler.decisions, &cluster.reconciler.scheduler.probes);
    assert!(decisions.waiting() > CERTIFICATES / 2, "{} wait", decisions.waiting());
    assert!(probes.waiting() > ENDPOINTS / 2, "{} wait", probes.waiting());

    cluster.certificate(SHOP, "beside");
    let busy = cluster.issued(SHOP, "beside").await;
    assert!(busy <= A_SECOND && busy <= alone * 4, "{busy:?}, and {alone:?} on an idle operator");

    cluster.service(SHOP, "web", &["web.example.com:443".to_owned()]);
    let probed = cluster.until("a probe", |cluster| cluster.resolver.asked("web.example.com")).await;
    assert!(probed <= A_SECOND, "probed after {probed:?}");

    let secret = ObjectKey::secret(SHOP, "beside-tls");
    cluster.store().remove(&secret);
    cluster.arrives(|world| world.remove_secret(&(SHOP.to_owned(), "beside-tls".to_owned()), None));
    let repaired = cluster.issued(SHOP, "beside").await;
    assert!(repaired <= A_SECOND, "repaired after {repaired:?}");

    // Nothing of the busy tenant is held back for it: its work went on, and is still waiting.
    let issued = cluster.store().secrets_in(BUSY);
    assert!(issued > 0 && issued < CERTIFICATES && decisions.waiting() > 0, "{issued} are issued");
}

const BUSY: &str = "busy";
const SHOP: &str = "shop";
const ENDPOINTS: usize = 2_048;
/// What `spec.endpoints` of a GaiaService may list.
const LISTED: usize = 64;
const CERTIFICATES: usize = 5_000;
/// Of each call to the API server.
const LATENCY: Duration = Duration::from_millis(20);
const A_SECOND: Duration = Duration::from_secs(1);
