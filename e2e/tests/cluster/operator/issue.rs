//! Requested certificates are issued, and administrators can inspect them with their tools.

use std::time::Duration;

use crate::common::openssl::{CA_EXTENSIONS, OpenSsl};
use crate::common::{OPERATOR, OPERATOR_NAMESPACE, Plane, SOON, Scene};
use gaia_e2e::{OperatorProcess, wait};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::ListParams;
use serde_json::{Value, json};

#[tokio::test]
async fn everything_that_is_asked_for_becomes_ready_and_kubectl_can_wait_for_it() {
    let Some(scene) = Scene::begin().await else { return };
    scene.create(scene.trust_domain(json!({ "tokens": { "algorithm": "RS256" } }))).await;
    scene.create(scene.service("auth", json!({}))).await;
    scene.create(scene.service("asset", json!({ "callers": [{ "service": "auth", "scopes": ["asset:read"] }] }))).await;
    scene.create(scene.certificate("worker", json!({}))).await;
    let namespace = scene.namespace.as_str();
    for (kind, name) in
        [("td", scene.domain.as_str()), ("gsvc", "auth"), ("gsvc", "asset"), ("scert", "worker"), ("scert", "asset")]
    {
        let object = format!("{kind}/{name}");
        let wait = ["wait", "--for=condition=Ready", "--timeout=60s", "-n", namespace, &object];
        scene.plane.kubectl(&wait).await.unwrap();
    }
    for name in ["auth", "asset"] {
        for condition in ["CertificateReady", "PolicyPublished"] {
            assert_eq!(scene.condition("GaiaService", name, condition).await.unwrap().status, "True");
        }
    }
    scene.end().await;
}

#[tokio::test]
async fn the_default_columns_show_state_reason_and_times() {
    let Some(scene) = Scene::begin().await else { return };
    scene.ready_domain(json!({})).await;
    scene.create(scene.service("orders", json!({}))).await;
    scene.wait_ready("GaiaService", &["orders"]).await;

    let row = table_row(&scene, "servicecertificates", "orders").await;
    assert_eq!(columns(&row), ["NAME", "READY", "REASON", "SECRET", "EXPIRES", "RENEWS", "SERVED", "AGE"]);
    assert_eq!((cell(&row, "READY"), cell(&row, "SECRET"), cell(&row, "SERVED")), ("True", "orders-tls", "-"));
    let renews: jiff::Timestamp = cell(&row, "RENEWS").parse().unwrap();
    let expires: jiff::Timestamp = cell(&row, "EXPIRES").parse().unwrap();
    assert!(renews < expires);

    let row = table_row(&scene, "gaiaservices", "orders").await;
    assert_eq!(columns(&row), ["NAME", "MODE", "TLS", "READY", "REASON", "EXPIRES", "SERVED", "LEGACY-USED", "AGE"]);
    assert_eq!((cell(&row, "MODE"), cell(&row, "TLS"), cell(&row, "READY")), ("Dual", "Permissive", "True"));
    assert_eq!((cell(&row, "SERVED"), cell(&row, "EXPIRES").parse::<jiff::Timestamp>().unwrap()), ("-", expires));

    let row = table_row(&scene, "trustdomains", &scene.domain).await;
    let wanted = ["NAME", "READY", "REASON", "CA-EXPIRES", "SIGNING-KEY", "ROTATING", "PODS-UPDATED", "AGE"];
    assert_eq!(columns(&row), wanted);
    assert_eq!((cell(&row, "READY"), cell(&row, "ROTATING"), cell(&row, "PODS-UPDATED")), ("True", "-", "-"));
    assert_eq!(cell(&row, "SIGNING-KEY").len(), 8);
    assert!(cell(&row, "CA-EXPIRES").parse::<jiff::Timestamp>().unwrap() > expires);
    scene.end().await;
}

/// One object in the output of `kubectl get`: pairs of column and cell. The columns are cut where their headers begin.
async fn table_row(scene: &Scene, resource: &str, name: &str) -> Vec<(String, String)> {
    let table = scene.plane.kubectl(&["get", resource, name, "-n", &scene.namespace]).await.unwrap();
    let (header, line) = table.trim_end().split_once('\n').unwrap();
    let begins = |at: &usize| header[..*at].ends_with("  ") && !header[*at..].starts_with(' ');
    let starts: Vec<usize> = (0..header.len()).filter(|at| *at == 0 || begins(at)).collect();
    let cut = |line: &str, at: usize| {
        let end = starts.iter().copied().find(|start| *start > at).unwrap_or(line.len());
        line.get(at..end.min(line.len())).unwrap_or_default().trim().to_owned()
    };
    starts.iter().map(|at| (cut(header, *at), cut(line, *at))).collect()
}

fn columns(row: &[(String, String)]) -> Vec<&str> {
    row.iter().map(|(column, _)| column.as_str()).collect()
}

fn cell<'a>(row: &'a [(String, String)], column: &str) -> &'a str {
    &row.iter().find(|(name, _)| name == column).unwrap().1
}

#[tokio::test]
async fn kubectl_explains_every_field() {
    let Some(scene) = Scene::begin().await else { return };
    let request = http::Request::get("/openapi/v3/apis/gaia.dev/v1alpha1").body(vec![]).unwrap();
    let document: Value = scene.client.request(request).await.unwrap();
    for (kind, resource) in
        [("TrustDomain", "td"), ("ServiceCertificate", "servicecertificates"), ("GaiaService", "gaiaservices")]
    {
        let schema = &document["components"]["schemas"][format!("dev.gaia.v1alpha1.{kind}")];
        let mut fields = vec![];
        unexplained(schema, kind, &mut fields);
        assert_eq!(fields, [""; 0], "fields without a description");
        // `kubectl explain` reads the same schema.
        let explained = async || scene.plane.kubectl(&["explain", "--recursive", resource]).await;
        let tree = wait::until("the API server publishes the new kind", SOON, explained).await.unwrap();
        assert!(tree.contains("\n    conditions\t<[]Object>\n      lastTransitionTime\t<string> -required-"), "{tree}");
        assert!(!tree.contains("<empty>"), "{tree}");
        let field = scene.plane.kubectl(&["explain", &format!("{resource}.spec")]).await.unwrap();
        assert!(!field.contains("<empty>"), "{field}");
    }
    scene.end().await;
}

/// The paths of fields below a schema that have no description.
fn unexplained(schema: &Value, path: &str, found: &mut Vec<String>) {
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}.{name}");
        // References are to Kubernetes' own types, and their description is in the referring field.
        if field["description"].as_str().is_none_or(str::is_empty) {
            found.push(path.clone());
        }
        unexplained(field, &path, found);
        unexplained(&field["items"], &path, found);
        unexplained(&field["additionalProperties"], &path, found);
    }
}

#[tokio::test]
async fn every_leaf_verifies_with_openssl_against_the_published_bundle_and_carries_its_names() {
    let Some(scene) = Scene::begin().await else { return };
    let allowed = json!([{
        "namespaces": [scene.namespace],
        "dnsNames": ["*.shop.example.com"],
        "ipRanges": ["10.0.0.0/8"],
    }]);
    scene.ready_domain(json!({ "allowedNames": allowed, "tokens": { "algorithm": "RS256" } })).await;
    let plain =
        [("rsa2048", "RSA", 2048), ("rsa3072", "RSA", 3072), ("ecdsa256", "ECDSA", 256), ("ecdsa384", "ECDSA", 384)];
    for (name, algorithm, size) in plain {
        let key = json!({ "privateKey": { "algorithm": algorithm, "size": size } });
        scene.create(scene.certificate(name, key)).await;
    }
    let more = json!({
        "extraDNSNames": ["www.shop.example.com"],
        "ipAddresses": ["10.1.2.3"],
        "headless": true,
        "serviceAccountName": "runner",
        "secretName": "named",
    });
    scene.create(scene.certificate("more", more)).await;
    scene.create(scene.service("orders", json!({}))).await;
    scene.wait_ready("ServiceCertificate", &["rsa2048", "rsa3072", "ecdsa256", "ecdsa384", "more", "orders"]).await;

    let bundle = scene.trust("ca.crt").await;
    let openssl = OpenSsl::new();
    for secret in ["rsa2048-tls", "rsa3072-tls", "ecdsa256-tls", "ecdsa384-tls", "named", "orders-tls"] {
        let chain = scene.secret_text(secret, "tls.crt").await;
        openssl.verify(&bundle, &chain).await;
        assert_eq!(scene.secret_text(secret, "ca.crt").await, bundle, "{secret}");
    }
    let (td, ns) = (&scene.domain, &scene.namespace);
    let orders = openssl.names(&scene.secret_text("orders-tls", "tls.crt").await).await;
    let own = |name: &str, account: &str| {
        let domains = [name.to_owned(), format!("{name}.{ns}"), format!("{name}.{ns}.svc")];
        let full = format!("{name}.{ns}.svc.cluster.local");
        let mut names: Vec<String> = domains.iter().chain([&full]).map(|name| format!("DNS:{name}")).collect();
        names.push(format!("URI:spiffe://{td}.example/ns/{ns}/sa/{account}"));
        names
    };
    assert_eq!(orders, sorted(own("orders", "orders")));
    let mut wanted = own("more", "runner");
    wanted.extend(["DNS:www.shop.example.com".to_owned(), "IP Address:10.1.2.3".to_owned()]);
    wanted.extend([format!("DNS:*.more.{ns}.svc"), format!("DNS:*.more.{ns}.svc.cluster.local")]);
    assert_eq!(openssl.names(&scene.secret_text("named", "tls.crt").await).await, sorted(wanted));

    let leaf = scene.secret_text("named", "tls.crt").await;
    let status = scene.get("ServiceCertificate", "more").await.unwrap()["status"].clone();
    assert_eq!(status["fingerprint"], openssl.fingerprint(&leaf).await);
    assert_eq!((&status["revision"], &status["secretName"]), (&json!(1), &json!("named")));
    scene.end().await;
}

fn sorted(mut names: Vec<String>) -> Vec<String> {
    names.sort();
    names
}

#[tokio::test]
async fn a_ca_that_was_brought_signs_leaves_that_verify() {
    let Some(scene) = Scene::begin().await else { return };
    let openssl = OpenSsl::new();
    let days = ["-days", "3000"];
    let subject = "/DC=example/DC=corp/O=Example Org/OU=Platform/OU=Security/CN=Root of all";
    openssl.self_signed("root", subject, &[&days[..], &CA_EXTENSIONS].concat()).await;
    let brought = scene.secret(
        OPERATOR_NAMESPACE,
        &format!("{}-brought", scene.domain),
        "kubernetes.io/tls",
        json!({ "tls.crt": openssl.read("root.crt"), "tls.key": openssl.read("root.key") }),
    );
    brought_ca_issues(&scene, &openssl, brought).await;
    scene.end().await;
}

#[tokio::test]
async fn an_intermediate_ca_that_was_brought_with_its_root_signs_leaves_that_verify() {
    let Some(scene) = Scene::begin().await else { return };
    let openssl = OpenSsl::new();
    let subject = "/DC=example/DC=corp/O=Example Org/OU=Platform/OU=Security/CN=Root of all";
    openssl.self_signed("root", subject, &[&["-days", "3000"][..], &CA_EXTENSIONS].concat()).await;
    let subject = "/DC=example/DC=corp/O=Example Org/OU=Platform/OU=Issuing/CN=Issuing CA";
    openssl.intermediate("issuing", subject, "root").await;
    let chain = openssl.read("issuing.crt") + &openssl.read("root.crt");
    let brought = scene.secret(
        OPERATOR_NAMESPACE,
        &format!("{}-brought", scene.domain),
        "kubernetes.io/tls",
        json!({ "tls.crt": chain, "tls.key": openssl.read("issuing.key"), "ca.crt": openssl.read("root.crt") }),
    );
    brought_ca_issues(&scene, &openssl, brought).await;
    let shipped = scene.secret_text("worker-tls", "tls.crt").await;
    assert_eq!(shipped.matches("BEGIN CERTIFICATE").count(), 2, "the leaf and the intermediate: {shipped}");
    scene.end().await;
}

async fn brought_ca_issues(scene: &Scene, openssl: &OpenSsl, brought: Value) {
    let name = brought["metadata"]["name"].clone();
    scene.create(brought).await;
    scene.ready_domain(json!({ "ca": { "existingSecretRef": { "name": name } } })).await;
    scene.create(scene.certificate("worker", json!({}))).await;
    scene.wait_ready("ServiceCertificate", &["worker"]).await;
    let bundle = scene.trust("ca.crt").await;
    assert_eq!(openssl.fingerprint(&bundle).await, openssl.fingerprint(&openssl.read("root.crt")).await);
    openssl.verify(&bundle, &scene.secret_text("worker-tls", "tls.crt").await).await;
}

#[tokio::test]
async fn a_renewal_is_done_once_for_each_value_of_the_annotation() {
    let Some(scene) = Scene::begin().await else { return };
    scene.ready_domain(json!({})).await;
    scene.create(scene.certificate("worker", json!({}))).await;
    scene.wait_ready("ServiceCertificate", &["worker"]).await;
    let first = serial(&scene).await;
    let annotate = |key: &str, value: &str| json!({ "metadata": { "annotations": { key: value } } });

    let mark = scene.mark().await;
    scene.patch("ServiceCertificate", "worker", annotate("gaia.dev/renew-requested-at", "monday")).await;
    let second = renewed(&scene, 2).await;
    assert_ne!(first, second);
    let once = ["create events worker", "patch secrets worker-tls", "patch servicecertificates/status worker"];
    scene.wrote(mark, &once).await;

    let mark = scene.mark().await;
    scene.patch("ServiceCertificate", "worker", annotate("somebody/elses", "note")).await;
    scene.patch("ServiceCertificate", "worker", annotate("gaia.dev/renew-requested-at", "monday")).await;
    assert_eq!(scene.writes(mark).await, [""; 0]);
    assert_eq!(serial(&scene).await, second);

    scene.patch("ServiceCertificate", "worker", annotate("gaia.dev/renew-requested-at", "tuesday")).await;
    assert_ne!(renewed(&scene, 3).await, second);
    scene.end().await;
}

async fn serial(scene: &Scene) -> Value {
    scene.get("ServiceCertificate", "worker").await.unwrap()["status"]["serialNumber"].clone()
}

async fn renewed(scene: &Scene, revision: i64) -> Value {
    let reported = async || {
        scene.get("ServiceCertificate", "worker").await.is_some_and(|found| found["status"]["revision"] == revision)
    };
    wait::until(&format!("revision {revision} is reported"), SOON, reported).await.unwrap();
    serial(scene).await
}

#[tokio::test]
async fn watch_namespaces_confine_the_operator() {
    let Some(plane) = Plane::own(&["watchNamespaces={mine}"]).await else { return };
    let options = plane.operator().await.env("GAIA_WATCH_NAMESPACES", "mine");
    let operator = OperatorProcess::start(options).unwrap();
    operator.wait_ready(SOON).await.unwrap();
    let mut mine = plane.scene().await;
    let other = plane.scene().await;
    mine.namespace = "mine".to_owned();
    mine.create(mine.trust_domain(json!({ "namespaceSelector": { "matchLabels": null } }))).await;
    mine.patch("TrustDomain", &mine.domain, json!({ "spec": { "namespaceSelector": { "matchLabels": null } } })).await;
    let theirs = crate::common::objects::merged(
        other.certificate("theirs", json!({})),
        json!({ "spec": { "trustDomainRef": { "name": mine.domain } } }),
    );
    mine.create(theirs).await;
    mine.create(mine.service("ours", json!({}))).await;
    mine.wait_ready("GaiaService", &["ours"]).await;

    // Labels of rings are repaired here too, although the operator's namespace is not one of the watched ones.
    let ring = format!("{}-ca-ring", mine.domain);
    let label = |scene: &Value| scene["metadata"]["labels"]["app.kubernetes.io/managed-by"].clone();
    let removed = json!({ "metadata": { "labels": { "app.kubernetes.io/managed-by": null } } });
    mine.patch_in(OPERATOR_NAMESPACE, "Secret", &ring, removed).await;
    let repaired = async || {
        let found = mine.get_in(OPERATOR_NAMESPACE, "Secret", &ring).await.unwrap();
        label(&found) == "gaia-operator"
    };
    wait::until("the ring has its label again", Duration::from_secs(5), repaired).await.unwrap();

    let touched = async || other.get("ServiceCertificate", "theirs").await.unwrap()["status"].clone();
    assert_eq!(touched().await, Value::Null);
    assert!(other.secrets().list(&ListParams::default()).await.unwrap().items.is_empty());
    let maps: kube::Api<ConfigMap> = kube::Api::namespaced(other.client.clone(), &other.namespace);
    assert!(maps.get_opt(&format!("{}-trust", mine.domain)).await.unwrap().is_none());
    let asked = plane.audit().by(OPERATOR, gaia_e2e::audit::AuditMark::default()).unwrap();
    assert!(asked.iter().all(|record| record.namespace != other.namespace));
    mine.end().await;
}
