//! The flags of all control planes, on loopback and on a node. Files are where [`Authority`] and
//! [`write_signing_key`] put them: in `pki` below the control plane's directory.
//!
//! [`Authority`]: crate::authority::Authority
//! [`write_signing_key`]: crate::authority::write_signing_key

use std::path::Path;

use anyhow::Result;

/// Writes the audit policy that [`apiserver_flags`] names.
pub(crate) fn write_audit_policy(dir: &Path) -> Result<()> {
    Ok(std::fs::write(dir.join(AUDIT_POLICY_FILE), AUDIT_POLICY)?)
}

/// kube-apiserver. Audit is always on: tests count requests in it, and benchmarks must not be faster than
/// production.
pub(crate) fn apiserver_flags(dir: &Path) -> Vec<String> {
    let files = [
        ("tls-cert-file", "pki/apiserver.crt"),
        ("tls-private-key-file", "pki/apiserver.key"),
        ("client-ca-file", "pki/ca.crt"),
        ("service-account-key-file", "pki/service-accounts.pub"),
        ("service-account-signing-key-file", "pki/service-accounts.key"),
        ("audit-policy-file", AUDIT_POLICY_FILE),
        ("audit-log-path", AUDIT_LOG),
    ];
    let mut flags = file_flags(dir, &files);
    flags.extend(
        [
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
            "--allow-privileged=true",
            // One file, however long the benchmark: rotation would hide requests from the reader.
            "--audit-log-maxsize=100000",
            "--profiling=false",
        ]
        .map(str::to_owned),
    );
    flags
}

/// kube-controller-manager.
pub(crate) fn controller_manager_flags(dir: &Path) -> Vec<String> {
    // No cluster-signing-cert-file: no test requests certificates, and each of the four signers would hold one of the 128
    // inotify instances that a user has by default, which kubelets need too.
    let files = [("service-account-private-key-file", "pki/service-accounts.key"), ("root-ca-file", "pki/ca.crt")];
    let mut flags = file_flags(dir, &files);
    flags.extend(
        [
            "--bind-address=127.0.0.1",
            "--leader-elect=false",
            "--use-service-account-credentials=true",
            // It creates a ServiceAccount per controller first, and its own limits stretch that over five seconds.
            "--kube-api-qps=1000",
            "--kube-api-burst=2000",
        ]
        .map(str::to_owned),
    );
    flags
}

fn file_flags(dir: &Path, files: &[(&str, &str)]) -> Vec<String> {
    files.iter().map(|(flag, file)| format!("--{flag}={}", dir.join(file).display())).collect()
}

/// The API server's audit log, one JSON object per line.
pub(crate) const AUDIT_LOG: &str = "audit.jsonl";
const AUDIT_POLICY_FILE: &str = "audit-policy.yaml";

/// The audit policy: metadata of all requests, no bodies.
const AUDIT_POLICY: &str = "\
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: Metadata
";
