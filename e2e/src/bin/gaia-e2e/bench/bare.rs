//! The bare client: it repeats the operator's writes, as fast as it can, and decides nothing.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use anyhow::{Context as _, Result};
use gaia_api::crd::{ServiceCertificate, ServiceCertificateSpec};
use gaia_api::names::{MANAGED_BY, MANAGED_BY_LABEL, annotation, key};
use gaia_api::sync::lock;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{Pod, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::task::JoinSet;

/// The operator's objects for a ServiceCertificate.
pub(super) struct Model {
    secret: Secret,
    status: Value,
}

/// A namespace to write to, and the number of concurrent requests.
#[derive(Clone)]
pub(super) struct Bare {
    client: Client,
    namespace: String,
    concurrency: usize,
}

/// A ServiceCertificate and its Secret as last seen: every write has a precondition on a known state, as the operator's have.
#[derive(Clone)]
pub(super) struct Entry {
    certificate: ObjectMeta,
    secret: ObjectMeta,
}

impl Model {
    pub(super) async fn of(client: &Client, namespace: &str, index: usize) -> Result<Arc<Self>> {
        let certificates: Api<ServiceCertificate> = Api::namespaced(client.clone(), namespace);
        let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
        let status = certificates.get(&name(index)).await?.status.context("nothing is reported")?;
        let secret = secrets.get(&format!("{}-tls", name(index))).await?;
        Ok(Arc::new(Self { secret, status: serde_json::to_value(status)? }))
    }

    /// The size of the Secret's data.
    pub(super) fn secret_bytes(&self) -> usize {
        self.secret.data.iter().flatten().map(|(_, value)| value.0.len()).sum()
    }

    /// The size of the status, as JSON.
    pub(super) fn status_bytes(&self) -> usize {
        self.status.to_string().len()
    }
}

impl Bare {
    pub(super) fn new(client: Client, namespace: &str, concurrency: usize) -> Self {
        Self { client, namespace: namespace.to_owned(), concurrency }
    }

    pub(super) async fn create_certificates(&self, count: usize) -> Result<Vec<Entry>> {
        self.each((0..count).collect(), |bare, index| async move { bare.create_certificate(index).await }).await
    }

    /// A Secret and a status for each.
    pub(super) async fn write_pairs(&self, entries: Vec<Entry>, model: &Arc<Model>) -> Result<Vec<Entry>> {
        let model = Arc::clone(model);
        self.each(entries, move |bare, entry| {
            let model = Arc::clone(&model);
            async move { bare.write_pair(entry, &model).await }
        })
        .await
    }

    /// A ServiceCertificate, a Secret and a status.
    pub(super) async fn write_triples(&self, count: usize, model: &Arc<Model>) -> Result<Vec<Entry>> {
        let model = Arc::clone(model);
        self.each((0..count).collect(), move |bare, index| {
            let model = Arc::clone(&model);
            async move {
                let entry = bare.create_certificate(index).await?;
                bare.write_pair(entry, &model).await
            }
        })
        .await
    }

    /// Another certificate in the Secret and another status for each.
    pub(super) async fn replace_pairs(
        &self,
        entries: Vec<Entry>,
        model: &Arc<Model>,
        revision: usize,
    ) -> Result<Vec<Entry>> {
        let model = Arc::clone(model);
        self.each(entries, move |bare, entry| {
            let model = Arc::clone(&model);
            async move { bare.replace_pair(entry, &model, revision).await }
        })
        .await
    }

    /// Secrets of other owners.
    pub(super) async fn create_secrets(&self, count: usize) -> Result<()> {
        self.each((0..count).collect(), |bare, index| async move {
            let metadata = ObjectMeta { name: Some(format!("foreign-{index}")), ..Default::default() };
            let data = BTreeMap::from([("payload".to_owned(), ByteString(vec![b'x'; 1024]))]);
            let secret = Secret { metadata, data: Some(data), ..Default::default() };
            Ok(bare.secrets().create(&PostParams::default(), &secret).await.map(drop)?)
        })
        .await?;
        Ok(())
    }

    /// Secrets of this size with the operator's label.
    pub(super) async fn create_labelled_secrets(&self, count: usize, bytes: usize) -> Result<()> {
        self.each((0..count).collect(), move |bare, index| async move {
            let labels = BTreeMap::from([(MANAGED_BY_LABEL.to_owned(), MANAGED_BY.to_owned())]);
            let name = Some(format!("labelled-{index}"));
            let metadata = ObjectMeta { name, labels: Some(labels), ..Default::default() };
            let data = BTreeMap::from([("payload".to_owned(), ByteString(vec![b'x'; bytes]))]);
            let secret = Secret { metadata, data: Some(data), ..Default::default() };
            Ok(bare.secrets().create(&PostParams::default(), &secret).await.map(drop)?)
        })
        .await?;
        Ok(())
    }

    /// Pods that use no object of the operator.
    pub(super) async fn create_pods(&self, count: usize) -> Result<()> {
        self.each((0..count).collect(), |bare, index| async move {
            let pods: Api<Pod> = Api::namespaced(bare.client.clone(), &bare.namespace);
            let pod: Pod = serde_json::from_value(json!({
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": { "name": format!("foreign-{index}") },
                "spec": { "containers": [{ "name": "idle", "image": "localhost/idle" }] },
            }))?;
            Ok(pods.create(&PostParams::default(), &pod).await.map(drop)?)
        })
        .await?;
        Ok(())
    }

    async fn create_certificate(&self, index: usize) -> Result<Entry> {
        let certificate = ServiceCertificate::new(&name(index), ServiceCertificateSpec::default());
        let made = self.certificates().create(&PostParams::default(), &certificate).await?;
        Ok(Entry { certificate: made.metadata, secret: ObjectMeta::default() })
    }

    async fn write_pair(&self, entry: Entry, model: &Model) -> Result<Entry> {
        let mut secret = model.secret.clone();
        secret.metadata = ObjectMeta {
            name: Some(format!("{}-tls", entry.certificate.name.as_deref().unwrap_or_default())),
            labels: secret.metadata.labels,
            annotations: secret.metadata.annotations,
            owner_references: Some(vec![owner(&entry.certificate)]),
            ..Default::default()
        };
        let secret = self.secrets().create(&PostParams::default(), &secret).await?;
        self.write_status(entry, secret.metadata, model).await
    }

    async fn replace_pair(&self, entry: Entry, model: &Model, revision: usize) -> Result<Entry> {
        let now = "2026-01-01T00:00:00Z";
        let annotations = json!({ annotation::REVISION: revision.to_string(), annotation::ISSUED_AT: now });
        let data = model.secret.data.iter().flatten().filter(|(name, _)| *name != key::CA_CERT);
        let data: BTreeMap<_, _> = data.collect();
        let mut patch = json!({ "metadata": { "annotations": annotations }, "data": data });
        on_state(&mut patch, &entry.secret);
        let name = entry.secret.name.clone().unwrap_or_default();
        let secret = self.secrets().patch(&name, &PatchParams::default(), &Patch::Merge(patch)).await?;
        self.write_status(entry, secret.metadata, model).await
    }

    async fn write_status(&self, entry: Entry, secret: ObjectMeta, model: &Model) -> Result<Entry> {
        let mut patch = json!({ "status": model.status });
        on_state(&mut patch, &entry.certificate);
        let name = entry.certificate.name.clone().unwrap_or_default();
        let patch = Patch::Merge(patch);
        let certificate = self.certificates().patch_status(&name, &PatchParams::default(), &patch).await?;
        Ok(Entry { certificate: certificate.metadata, secret })
    }

    fn certificates(&self) -> Api<ServiceCertificate> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    fn secrets(&self) -> Api<Secret> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// As many tasks as concurrent requests, each scheduled separately, as the operator's workers
    /// are: with all requests in one task, that task would be measured.
    async fn each<I, T, F>(&self, items: Vec<I>, work: impl Fn(Self, I) -> F + Clone + Send + 'static) -> Result<Vec<T>>
    where
        I: Send + 'static,
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send,
    {
        let items = Arc::new(Mutex::new(items.into_iter()));
        let next = move || lock(&items).next();
        let mut tasks = JoinSet::new();
        for _ in 0..self.concurrency {
            let (bare, work, next) = (self.clone(), work.clone(), next.clone());
            tasks.spawn(async move {
                let mut done = vec![];
                while let Some(item) = next() {
                    done.push(work(bare.clone(), item).await?);
                }
                anyhow::Ok(done)
            });
        }
        let done = tasks.join_all().await.into_iter().collect::<Result<Vec<Vec<T>>>>()?;
        Ok(done.into_iter().flatten().collect())
    }
}

pub(super) fn name(index: usize) -> String {
    format!("service-{index:05}")
}

/// The API server refuses the patch if the object has changed in between.
fn on_state(patch: &mut Value, meta: &ObjectMeta) {
    patch["metadata"]["uid"] = json!(meta.uid);
    patch["metadata"]["resourceVersion"] = json!(meta.resource_version);
}

fn owner(certificate: &ObjectMeta) -> OwnerReference {
    OwnerReference {
        api_version: "gaia.dev/v1alpha1".to_owned(),
        kind: "ServiceCertificate".to_owned(),
        name: certificate.name.clone().unwrap_or_default(),
        uid: certificate.uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: None,
    }
}
