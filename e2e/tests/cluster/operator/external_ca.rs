//! Bring-your-own CAs (`spec.ca.existingSecretRef`): a new certificate, a renewed one, and a leaked one.

use std::time::Duration;

use crate::common::chronicle::{Chronicle, name_in};
use crate::common::openssl::{CA_EXTENSIONS, OpenSsl};
use crate::common::{OPERATOR_NAMESPACE, SOON, Scene};
use gaia_e2e::wait;
use serde_json::{Value, json};

#[tokio::test]
async fn a_new_certificate_in_the_secret_is_rotated_to() {
    let Some(scene) = Scene::begin().await else { return };
    let (openssl, seen) = begin(&scene).await;
    scene.patch_in(OPERATOR_NAMESPACE, "Secret", &secret_of(&scene), pair(&openssl, "second", "second")).await;
    // The Secret is not watched: it is read every ten seconds.
    seen.wait_for_states("ca", &["Removed", "Active"]).await;
    scene.wait_rotated().await;
    assert_eq!(name_in(&seen.ring("ca"), "Active").unwrap(), openssl.fingerprint(&openssl.read("second.crt")).await);
    openssl.verify(&openssl.read("second.crt"), &scene.secret_text("worker-tls", "tls.crt").await).await;
    assert_eq!(scene.trust("ca.crt").await.matches("BEGIN CERTIFICATE").count(), 1);
    ends_well(scene, seen).await;
}

/// Kind: a CA found by name or key. After a renewal with both, every certificate was re-issued repeatedly.
#[tokio::test]
async fn a_certificate_renewed_with_key_and_name_is_rotated_to_once_and_the_writes_end() {
    let Some(scene) = Scene::begin().await else { return };
    let (openssl, seen) = begin(&scene).await;
    let subject = ["-subj", "/CN=first", "-days", "3100", "-out", "renewed.crt"];
    openssl.run(&[&["req", "-x509", "-new", "-key", "first.key"][..], &subject, &CA_EXTENSIONS].concat()).await;
    scene.patch_in(OPERATOR_NAMESPACE, "Secret", &secret_of(&scene), pair(&openssl, "renewed", "first")).await;
    seen.wait_for_states("ca", &["Removed", "Active"]).await;
    scene.wait_rotated().await;
    assert_eq!(name_in(&seen.ring("ca"), "Active").unwrap(), openssl.fingerprint(&openssl.read("renewed.crt")).await);
    openssl.verify(&openssl.read("renewed.crt"), &scene.secret_text("worker-tls", "tls.crt").await).await;
    let revision = seen.revision("worker-tls");
    assert!(revision <= 2, "issued {revision} times");
    let mark = scene.mark().await;
    // The faulty operator wrote every two seconds.
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(scene.writes(mark).await, [""; 0]);
    scene.wait_ready("ServiceCertificate", &["worker"]).await;
    ends_well(scene, seen).await;
}

#[tokio::test]
async fn the_only_ca_is_refused_after_a_distrust_once_there_is_another() {
    let Some(scene) = Scene::begin().await else { return };
    let (openssl, seen) = begin(&scene).await;
    let domain = scene.domain.clone();
    let before = scene.trust("ca.crt").await;
    let leaked = name_in(&seen.ring("ca"), "Active").unwrap();
    let listed = json!({ "spec": { "ca": { "distrusted": [{ "fingerprint": leaked }] } } });
    scene.patch("TrustDomain", &domain, listed).await;
    let secret = secret_of(&scene);
    let next_step = format!("put a CA with a new key into Secret {OPERATOR_NAMESPACE}/{secret}");
    scene.wait_for_message("Stalled", "CADistrusted", &next_step).await;
    assert_eq!(name_in(&seen.ring("ca"), "Active"), Some(leaked), "there is no other one");
    assert_eq!(scene.trust("ca.crt").await, before);
    assert_eq!(scene.condition("TrustDomain", &domain, "Ready").await.unwrap().status, "True");

    scene.patch_in(OPERATOR_NAMESPACE, "Secret", &secret, pair(&openssl, "second", "second")).await;
    seen.wait_for_states("ca", &["Distrusted", "Active"]).await;
    scene.wait_rotated().await;
    scene.wait_for("TrustDomain", &domain, "Stalled=False", "Settled", SOON).await;
    openssl.verify(&openssl.read("second.crt"), &scene.secret_text("worker-tls", "tls.crt").await).await;
    assert_eq!(scene.trust("ca.crt").await, openssl.read("second.crt"), "the leaked CA is not trusted");
    ends_well(scene, seen).await;
}

#[tokio::test]
async fn a_brought_ca_that_cannot_sign_is_refused_and_its_successor_is_picked_up() {
    let Some(scene) = Scene::begin().await else { return };
    let openssl = OpenSsl::new();
    let long = ["-days", "3000"];
    openssl.self_signed("good", "/CN=good", &[&long[..], &CA_EXTENSIONS].concat()).await;
    let no_ca = ["-addext", "basicConstraints=critical,CA:FALSE"];
    openssl.self_signed("leaf", "/CN=leaf", &[&long[..], &no_ca].concat()).await;
    expired(&openssl).await;
    openssl.self_signed("soon", "/CN=soon", &[&["-days", "1"][..], &CA_EXTENSIONS].concat()).await;
    openssl.key("other").await;

    let secret = format!("{}-brought", scene.domain);
    scene.create(scene.trust_domain(json!({ "ca": { "existingSecretRef": { "name": secret } } }))).await;
    let mark = scene.mark().await;
    scene.create(scene.certificate("worker", json!({}))).await;
    let domain = scene.domain.clone();
    let refused = async |about: &str| {
        let what = format!("the Secret is refused: {about}");
        wait::until(&what, RECHECKED, async || {
            let seen = scene.condition("TrustDomain", &domain, "Stalled").await;
            let named = format!("spec.ca.existingSecretRef: Secret {OPERATOR_NAMESPACE}/{secret}: ");
            match seen {
                Some(seen)
                    if seen.reason == "CAInvalid"
                        && seen.message.starts_with(&named)
                        && seen.message.contains(about) =>
                {
                    Ok(())
                }
                other => Err(format!("{other:?}")),
            }
        })
        .await
        .unwrap();
    };
    refused("it does not exist").await;
    let of_texts = |certificate: &str, key: &str| json!({ "tls.crt": certificate, "tls.key": key });
    let first = of_texts("garbage", &openssl.read("good.key"));
    scene.create(scene.secret(OPERATOR_NAMESPACE, &secret, "Opaque", first)).await;
    refused("PEM").await;
    for (certificate, key, about) in [
        (openssl.read("good.crt"), openssl.read("other.key"), "key"),
        (openssl.read("leaf.crt"), openssl.read("leaf.key"), "CA"),
        (openssl.read("expired.crt"), openssl.read("expired.key"), "2021"),
    ] {
        let data = json!({ "stringData": of_texts(&certificate, &key) });
        scene.patch_in(OPERATOR_NAMESPACE, "Secret", &secret, data).await;
        refused(about).await;
    }
    // A valid CA that expires too soon for its certificates.
    let data = json!({ "stringData": of_texts(&openssl.read("soon.crt"), &openssl.read("soon.key")) });
    scene.patch_in(OPERATOR_NAMESPACE, "Secret", &secret, data).await;
    let within = RECHECKED;
    scene.wait_for("TrustDomain", &domain, "Stalled=True", "DurationNotPossible", within).await;
    let created: Vec<String> = scene.writes(mark).await.into_iter().filter(|write| is_object(write)).collect();
    assert_eq!(created, [""; 0], "nothing but events and statuses");

    let data = json!({ "stringData": of_texts(&openssl.read("good.crt"), &openssl.read("good.key")) });
    scene.patch_in(OPERATOR_NAMESPACE, "Secret", &secret, data).await;
    scene.wait_for("TrustDomain", &domain, "Ready=True", "Ready", within).await;
    scene.wait_for("ServiceCertificate", "worker", "Ready=True", "Ready", within).await;
    scene.end().await;
}

/// A TrustDomain whose CA is `first`; `second` is another one.
async fn begin(scene: &Scene) -> (OpenSsl, Chronicle) {
    let openssl = OpenSsl::new();
    for name in ["first", "second"] {
        openssl.self_signed(name, &format!("/CN={name}"), &[&["-days", "3000"][..], &CA_EXTENSIONS].concat()).await;
    }
    let secret = secret_of(scene);
    let data = pair(&openssl, "first", "first")["stringData"].clone();
    scene.create(scene.secret(OPERATOR_NAMESPACE, &secret, "Opaque", data)).await;
    let spec = json!({ "ca": { "existingSecretRef": { "name": secret } }, "tokens": { "maxTTL": "10s" } });
    let seen = scene.rotating(spec, "1s").await;
    (openssl, seen)
}

fn secret_of(scene: &Scene) -> String {
    format!("{}-brought", scene.domain)
}

fn pair(openssl: &OpenSsl, certificate: &str, key: &str) -> Value {
    let (certificate, key) = (openssl.read(&format!("{certificate}.crt")), openssl.read(&format!("{key}.key")));
    json!({ "stringData": { "tls.crt": certificate, "tls.key": key } })
}

async fn ends_well(scene: Scene, seen: Chronicle) {
    seen.catch_up().await;
    seen.nothing_twice();
    scene.end().await;
}

/// `openssl req` of before 3.4 cannot sign into the past, `openssl ca` can.
async fn expired(openssl: &OpenSsl) {
    openssl.key("expired").await;
    openssl.write("index.txt", "");
    openssl.write(
        "ca.cnf",
        "[ca]\ndefault_ca=d\n[d]\ndatabase=index.txt\nrand_serial=yes\nnew_certs_dir=.\ndefault_md=sha256\npolicy=p\n\
         x509_extensions=e\n[p]\ncommonName=supplied\n[e]\nbasicConstraints=critical,CA:TRUE\n\
         keyUsage=critical,keyCertSign,cRLSign\n",
    );
    openssl.run(&["req", "-new", "-key", "expired.key", "-subj", "/CN=expired", "-out", "expired.csr"]).await;
    let sign = ["ca", "-batch", "-selfsign", "-config", "ca.cnf", "-keyfile", "expired.key", "-in", "expired.csr"];
    let dates = ["-startdate", "20200101000000Z", "-enddate", "20210101000000Z", "-notext", "-out", "expired.crt"];
    openssl.run(&[&sign[..], &dates].concat()).await;
}

fn is_object(write: &str) -> bool {
    !write.starts_with("create events") && !write.starts_with("patch events") && !write.contains("/status ")
}

/// A Secret that is not watched is read every ten seconds, and the API server may be slow.
const RECHECKED: Duration = Duration::from_secs(35);
