//! What a bare client does: the same writes as the operator's, without any deciding.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use gaia_api::crd::condition::{READY, STALLED};
use gaia_api::crd::{ServiceCertificate, ServiceCertificateSpec, is_true};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};

use gaia_e2e::wait;

/// As many objects in one namespace.
pub(super) struct Load {
    certificates: Api<ServiceCertificate>,
    secrets: Api<Secret>,
    count: usize,
}

impl Load {
    pub(super) fn new(client: Client, namespace: &str, count: usize) -> Self {
        let secrets = Api::namespaced(client.clone(), namespace);
        Self { certificates: Api::namespaced(client, namespace), secrets, count }
    }

    pub(super) async fn create_certificates(&self) -> Result<()> {
        self.each(async |index| self.create_certificate(index).await).await
    }

    /// A Secret and a status for resources that exist.
    pub(super) async fn write_pairs(&self) -> Result<()> {
        self.each(async |index| self.write_pair(index).await).await
    }

    /// A resource, a Secret and a status.
    pub(super) async fn write_triples(&self) -> Result<()> {
        self.each(async |index| {
            self.create_certificate(index).await?;
            self.write_pair(index).await
        })
        .await
    }

    pub(super) async fn create_foreign_secrets(&self, count: usize) -> Result<()> {
        stream::iter(0..count)
            .map(|index| async move {
                let metadata = ObjectMeta { name: Some(format!("foreign-{index}")), ..Default::default() };
                let data = BTreeMap::from([("payload".to_owned(), ByteString(vec![b'x'; 1024]))]);
                let secret = Secret { metadata, data: Some(data), ..Default::default() };
                self.secrets.create(&PostParams::default(), &secret).await.map(drop)
            })
            .buffer_unordered(CONCURRENCY)
            .try_collect::<()>()
            .await?;
        Ok(())
    }

    pub(super) async fn wait_ready(&self) -> Result<()> {
        self.wait_for(READY).await
    }

    pub(super) async fn wait_stalled(&self) -> Result<()> {
        self.wait_for(STALLED).await
    }

    /// Polled rather than watched: listing twice a second costs the API server less than a thousand watch events.
    async fn wait_for(&self, condition: &str) -> Result<()> {
        let what = format!("{} ServiceCertificates are {condition}", self.count);
        wait::until(&what, Duration::from_secs(300), async || -> Result<bool> {
            let list = self.certificates.list(&ListParams::default()).await?;
            let holds = |found: &&ServiceCertificate| {
                found.status.as_ref().is_some_and(|status| is_true(&status.conditions, condition))
            };
            Ok(list.items.iter().filter(holds).count() == self.count)
        })
        .await?;
        Ok(())
    }

    async fn create_certificate(&self, index: usize) -> Result<()> {
        let certificate = ServiceCertificate::new(&name(index), ServiceCertificateSpec::default());
        self.certificates.create(&PostParams::default(), &certificate).await?;
        Ok(())
    }

    async fn write_pair(&self, index: usize) -> Result<()> {
        let name = name(index);
        self.secrets.create(&PostParams::default(), &secret(&name)).await?;
        let patch = Patch::Merge(json!({ "status": status(&name) }));
        self.certificates.patch_status(&name, &PatchParams::default(), &patch).await?;
        Ok(())
    }

    async fn each(&self, work: impl AsyncFn(usize) -> Result<()>) -> Result<()> {
        stream::iter(0..self.count).map(|index| work(index)).buffer_unordered(CONCURRENCY).try_collect::<()>().await
    }
}

fn name(index: usize) -> String {
    format!("service-{index:05}")
}

/// As large as one of the operator's, and as hard to compress.
fn secret(name: &str) -> Secret {
    let pem = |size: usize| {
        let line: String =
            (0..size).map(|at| char::from(b'A' + u8::try_from((at * 7 + at / 13) % 26).unwrap_or(0))).collect();
        ByteString(format!("-----BEGIN CERTIFICATE-----\n{line}\n-----END CERTIFICATE-----\n").into_bytes())
    };
    let data = BTreeMap::from([
        ("tls.crt".to_owned(), pem(1150)),
        ("tls.key".to_owned(), pem(190)),
        ("ca.crt".to_owned(), pem(650)),
    ]);
    let labels =
        [("app.kubernetes.io/managed-by", "nobody"), ("gaia.dev/trust-domain", "gaia"), ("gaia.dev/component", "leaf")];
    let annotations = [("gaia.dev/revision", "1"), ("gaia.dev/spec-hash", HASH)];
    let map = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    Secret {
        metadata: ObjectMeta {
            name: Some(format!("{name}-tls")),
            labels: Some(map(&labels)),
            annotations: Some(map(&annotations)),
            ..Default::default()
        },
        type_: Some("kubernetes.io/tls".to_owned()),
        data: Some(data),
        ..Default::default()
    }
}

/// A status like those the operator reports.
fn status(name: &str) -> Value {
    let condition = |type_: &str, status: &str, reason: &str, message: &str| {
        json!({ "type": type_, "status": status, "reason": reason, "message": message, "observedGeneration": 1,
            "lastTransitionTime": "2026-01-01T00:00:00Z" })
    };
    json!({
        "observedGeneration": 1,
        "secretName": format!("{name}-tls"),
        "notBefore": "2026-01-01T00:00:00Z",
        "notAfter": "2026-05-16T00:00:00Z",
        "renewalTime": "2026-04-01T00:00:00Z",
        "serialNumber": "5214b3e01907bbd22e52c479eb854e87",
        "fingerprint": HASH,
        "issuer": "77e283c2",
        "revision": 1,
        "served": { "current": 0, "total": 0, "summary": "-" },
        "conditions": [
            condition("Ready", "True", "Ready", "Secret x-tls holds a certificate until 2026-05-16T00:00:00Z"),
            condition("Reconciling", "False", "Settled", ""),
            condition("Stalled", "False", "Settled", ""),
            condition("Served", "Unknown", "NotProbed", "instances are not probed by this version"),
        ],
    })
}

const CONCURRENCY: usize = 16;
const HASH: &str = "b1362f9d5b1648e243ff2d1d855cfead78bd238e51e1a9c8cf9cc2d70dc1fe1c";
