//! No byte of a private key leaves the operator except in the Secrets that hold it: not in logs, Events, statuses, metrics or
//! a core, whatever the API server answers.

use std::collections::{BTreeMap, HashSet};
use std::os::unix::process::ExitStatusExt as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use crate::common::conduct::{Call, Conduct, Verdict};
use crate::common::faults::fault::Fault;
use crate::common::faults::proxy::Proxy;
use crate::common::{OPERATOR_NAMESPACE, Plane, SOON, Scene};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use gaia_e2e::wait::{self, Seen};
use gaia_e2e::{OperatorOptions, OperatorProcess, http};
use k8s_openapi::api::core::v1::Secret;
use kube::api::ListParams;
use serde_json::json;

#[tokio::test]
async fn no_private_key_is_in_logs_events_statuses_metrics_or_a_core() {
    let Some(plane) = Plane::own(&[]).await else { return };
    let scene = plane.scene().await;
    let options = plane.operator().await.env("GAIA_LEADER_ELECTION", "false");
    // No directive adds the logs of libraries, which can quote answers.
    let options = options.env("GAIA_LOG", "trace,kube=trace,kube_client=trace,hyper=trace,h2=trace,rustls=trace");
    let answers = BrokenAnswers::default();
    let proxy = Proxy::start(&options.kubeconfig, plane.dir(), answers.clone()).await;
    let options = OperatorOptions { kubeconfig: proxy.kubeconfig.clone(), ..options };
    let operator = OperatorProcess::start(options).unwrap();
    scene.rotating(json!({ "tokens": { "maxTTL": "10s" } }), "1s").await;
    let mut keys = PrivateKeys::default();
    keys.collect(&scene).await;

    answers.active.store(true, Ordering::SeqCst);
    let mut round = 1;
    let every_fault = async || {
        round += 1;
        // Lists, watches, and the answers to creations and changes.
        proxy.forget_watches();
        scene.create(scene.certificate(&format!("new-{round}"), json!({}))).await;
        let _ = scene.secrets().delete("worker-tls", &kube::api::DeleteParams::default()).await;
        if round == 4 {
            operator.restart().unwrap();
        }
        keys.collect(&scene).await;
        let count = answers.count();
        let missing: Vec<Fault> =
            Fault::ALL.into_iter().filter(|fault| count.get(fault).is_none_or(|count| *count < 3)).collect();
        if missing.is_empty() && round > 6 { Seen::Yes(()) } else { Seen::NotYet(format!("{missing:?} of {count:?}")) }
    };
    wait::until("each fault was in three answers", SOON, every_fault).await.unwrap();
    answers.active.store(false, Ordering::SeqCst);

    // The operator recovers.
    operator.wait_ready(SOON).await.unwrap();
    scene.create(scene.certificate("last", json!({}))).await;
    let recovered = async || {
        // A watch whose answers are still broken ends.
        proxy.forget_watches();
        for name in ["worker", "new-2", "last"] {
            match scene.condition("ServiceCertificate", name, "Ready").await {
                Some(found) if found.status == "True" => {}
                other => return Seen::NotYet(format!("{name}: {other:?}")),
            }
        }
        Seen::Yes(())
    };
    wait::until("the certificates are ready", SOON, recovered).await.unwrap();
    keys.collect(&scene).await;

    let (_, ready) = http::get(&format!("http://{}/readyz", operator.admin_address())).await.unwrap();
    let kubectl = async |args: &[&str]| scene.plane.kubectl(args).await.unwrap();
    let places = BTreeMap::from([
        ("log", std::fs::read_to_string(operator.log()).unwrap()),
        ("metrics", operator.metrics().await.unwrap()),
        ("readyz", ready),
        ("events", kubectl(&["get", "events.events.k8s.io", "-A", "-o", "json"]).await),
        ("statuses", kubectl(&["get", "trustdomains,servicecertificates,gaiaservices", "-A", "-o", "json"]).await),
        ("ConfigMaps", kubectl(&["get", "configmaps", "-A", "-o", "json"]).await),
    ]);
    let secrets = kubectl(&["get", "secrets", "-n", OPERATOR_NAMESPACE, "-o", "json"]).await;
    assert!(keys.are_in(&secrets), "they are found where they are");
    assert!(places["log"].contains("cannot be read"), "the log reports broken answers");
    for (place, text) in &places {
        assert!(!keys.are_in(text), "a part of a private key is in the {place}");
    }

    let limits = std::fs::read_to_string(format!("/proc/{}/limits", operator.pid())).unwrap();
    let cores = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(cores.split_whitespace().nth(4), Some("0"), "{cores}");
    let pid = rustix::process::Pid::from_raw(i32::try_from(operator.pid()).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::ABORT).unwrap();
    let ended = async || operator.exit_status();
    let status = wait::until("the operator has crashed", SOON, ended).await.unwrap();
    assert!(status.signal().is_some() && !status.core_dumped(), "{status}");
}

/// While it is active, every second answer that could hold a key is broken, with all faults in turn.
#[derive(Clone, Default)]
struct BrokenAnswers {
    active: Arc<AtomicBool>,
    state: Arc<Mutex<(usize, BTreeMap<Fault, usize>)>>,
}

impl BrokenAnswers {
    /// The number of answers with each fault.
    fn count(&self) -> BTreeMap<Fault, usize> {
        self.state.lock().unwrap().1.clone()
    }
}

impl Conduct for BrokenAnswers {
    fn judge(&mut self, call: &Call) -> Verdict {
        if !self.active.load(Ordering::SeqCst) || !call.path.contains("/secrets") {
            return Verdict::Pass;
        }
        let mut state = self.state.lock().unwrap();
        state.0 += 1;
        // The least frequent fault so far: not every answer holds a key.
        let rarest = Fault::ALL.into_iter().min_by_key(|fault| state.1.get(fault).copied().unwrap_or_default());
        let by_turns = Fault::ALL[state.0 / 2 % Fault::ALL.len()];
        if state.0.is_multiple_of(2) {
            Verdict::Pass
        } else {
            Verdict::Break(rarest.filter(|_| call.is_watch).unwrap_or(by_turns))
        }
    }

    fn note_broken(&mut self, fault: Fault) {
        *self.state.lock().unwrap().1.entry(fault).or_default() += 1;
    }
}

/// Parts of the secret half of every private key, in PEM and in its base64.
#[derive(Default)]
struct PrivateKeys {
    windows: HashSet<Vec<u8>>,
}

impl PrivateKeys {
    /// Adds the keys of all Secrets of the scene and of the operator.
    async fn collect(&mut self, scene: &Scene) {
        for namespace in [scene.namespace.as_str(), OPERATOR_NAMESPACE] {
            let secrets: kube::Api<Secret> = kube::Api::namespaced(scene.client.clone(), namespace);
            for secret in secrets.list(&ListParams::default()).await.unwrap().items {
                secret.data.unwrap_or_default().into_values().for_each(|value| self.add(&value.0));
            }
        }
    }

    /// The private number of a P-256 key in PKCS#8 begins at byte 36 and has 32 bytes: at character 48 of the base64, which
    /// is in lines of 64.
    fn add(&mut self, pem: &[u8]) {
        let Some(body) = pem.strip_prefix(b"-----BEGIN PRIVATE KEY-----\n") else { return };
        let number = 28 + 48..28 + 48 + 1 + 42;
        let mut parts = vec![body[48..64].to_vec(), body[65..65 + 26].to_vec()];
        let encoded = BASE64_STANDARD.encode(pem);
        parts.push(encoded.as_bytes()[number.start * 4 / 3 + 2..number.end * 4 / 3 - 2].to_vec());
        for part in parts {
            self.windows.extend(part.windows(WINDOW).map(<[u8]>::to_vec));
        }
    }

    fn are_in(&self, text: &str) -> bool {
        text.as_bytes().windows(WINDOW).any(|window| self.windows.contains(window))
    }
}

const WINDOW: usize = 16;
