//! Objects that fill in every field of a spec.

use serde_json::{Value, json};

/// A TrustDomain.
pub fn trust_domain(name: &str) -> Value {
    json!({ "apiVersion": "gaia.dev/v1alpha1", "kind": "TrustDomain", "metadata": { "name": name }, "spec": {
        "trustDomain": format!("{name}.example"),
        "namespaceSelector": { "matchLabels": { "env": "a" }, "matchExpressions": [
            { "key": "env", "operator": "In", "values": ["a"] }, { "key": "team", "operator": "Exists" }] },
        "allowedNames": [{ "namespaces": ["b"], "dnsNames": ["b.example"], "ipRanges": ["10.0.0.0/8"] }],
        "certificateDefaults": { "duration": "2160h", "maxDuration": "4320h", "privateKey": { "algorithm": "RSA", "size": 2048 } },
        "auth": { "defaultMode": "Dual" },
        "ca": { "duration": "26280h", "rotationPeriod": "8760h", "rotationRevision": 1,
            "privateKey": { "algorithm": "ECDSA", "size": 256 }, "distrusted": [{ "fingerprint": "a".repeat(64), "mode": "Immediate" }] },
        "tokens": { "algorithm": "ES256", "audience": "a", "issuer": "b", "maxTTL": "10m", "rotationPeriod": "2160h",
            "rotationRevision": 1, "issuedBy": { "namespace": "b", "name": "auth" },
            "distrusted": [{ "kid": "a".repeat(43), "mode": "AfterReissue" }] },
        "propagation": { "minDelay": "2m", "deadline": "1h", "clockSkew": "1m", "requireAcknowledgement": false },
        "revoked": { "leaves": ["c".repeat(64)], "jtis": ["j"], "subjects": [{ "sub": "s", "notBefore": "2026-01-01T00:00:00Z" }] },
        "userTokenIssuers": [{ "name": "b", "issuer": "https://b.example", "jwksURL": "https://b.example/jwks", "verification": "Remote",
            "profile": "Generic", "apiKeySecretRef": { "name": "k" }, "audiences": ["x"], "algorithms": ["RS256"], "caBundle": "x",
            "requiredClaims": { "tier": "gold" }, "clientIDs": ["app"], "maxTTL": "1h" }],
    } })
}

/// A TrustDomain with a CA of its users.
pub fn with_own_ca(name: &str) -> Value {
    json!({ "apiVersion": "gaia.dev/v1alpha1", "kind": "TrustDomain", "metadata": { "name": name }, "spec": {
        "trustDomain": format!("{name}.example"), "ca": { "existingSecretRef": { "name": "own" } },
    } })
}

/// A ServiceCertificate.
pub fn certificate(namespace: &str, name: &str, domain: &str) -> Value {
    json!({ "apiVersion": "gaia.dev/v1alpha1", "kind": "ServiceCertificate", "metadata": { "namespace": namespace, "name": name }, "spec": {
        "trustDomainRef": { "name": domain }, "secretName": format!("{name}-own"), "serviceAccountName": "a",
        "extraDNSNames": ["full"], "ipAddresses": ["10.0.0.1"], "headless": true, "duration": "24h", "allowShortLived": false,
        "usages": ["ClientAuth"], "subjectCommonName": "ServiceName", "secretTemplate": template(),
        "privateKey": { "algorithm": "RSA", "size": 2048 }, "workload": workload(), "renewal": "Enabled", "deletionPolicy": "Delete",
    } })
}

/// A GaiaService.
pub fn service(namespace: &str, name: &str, domain: &str) -> Value {
    json!({ "apiVersion": "gaia.dev/v1alpha1", "kind": "GaiaService", "metadata": { "namespace": namespace, "name": name }, "spec": {
        "trustDomainRef": { "name": domain }, "serviceAccountName": "a", "endpoints": ["127.0.0.1:1"], "rotationWave": 1,
        "workload": workload(), "tls": { "mode": "Permissive" },
        "callers": [{ "service": "least", "namespace": "other", "scopes": ["a"], "onBehalfOf": true }],
        "certificate": { "secretName": format!("{name}-own"), "extraDNSNames": ["all"], "ipAddresses": ["10.0.0.1"], "headless": true,
            "duration": "24h", "allowShortLived": false, "privateKey": { "algorithm": "RSA", "size": 2048 }, "usages": ["ServerAuth"],
            "subjectCommonName": "ServiceName", "secretTemplate": template(), "renewal": "Enabled", "deletionPolicy": "Delete" },
        "auth": { "mode": "Dual", "legacyFreeFor": "720h", "deprecationHeaders": true, "apiKeysSecretRef": { "name": "keys" },
            "sunsetTime": "2027-01-01T00:00:00+01:00",
            "brownoutWindows": [{ "start": "2026-12-01T00:00:00Z", "duration": "1h" }],
            "userTokens": { "issuers": ["a"], "scopes": ["b"] } },
    } })
}

/// A pod that mounts trust and certificate in every way.
pub fn pod(domain: &str) -> Value {
    let trust = format!("{domain}-trust");
    let variable = json!([{ "name": "A", "valueFrom": { "secretKeyRef": { "name": "worker-tls", "key": "tls.crt", "optional": true } } }]);
    let container = json!({ "name": "app", "image": "example.com/app:1", "env": variable,
        "envFrom": [{ "configMapRef": { "name": trust, "optional": true } }],
        "volumeMounts": [{ "name": "gaia", "mountPath": "/etc/gaia", "subPath": "ca.crt" }] });
    let mut sidecar = container.clone();
    (sidecar["name"], sidecar["restartPolicy"]) = (json!("side"), json!("Always"));
    json!({ "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": "odd", "labels": { "app": "a" }, "annotations": { "gaia.dev/nudge": "1" }, "finalizers": ["example.com/a"] },
        "spec": { "containers": [container], "initContainers": [sidecar], "serviceAccountName": "default",
            "restartPolicy": "Always", "terminationGracePeriodSeconds": 30, "automountServiceAccountToken": false,
            "volumes": [
                { "name": "gaia", "projected": { "defaultMode": 292, "sources": [
                    { "secret": { "name": "worker-tls", "optional": true, "items": [{ "key": "tls.crt", "path": "tls.crt" }] } },
                    { "configMap": { "name": trust, "optional": true } }] } },
                { "name": "tls", "secret": { "secretName": "worker-tls", "optional": true } },
                { "name": "trust", "configMap": { "name": trust, "optional": true } }] } })
}

fn workload() -> Value {
    json!({ "port": 8443, "serverName": "a.example", "acknowledgement": "Required", "strategy": "Auto",
        "restartTargets": [{ "kind": "Deployment", "name": "a" }] })
}

fn template() -> Value {
    json!({ "labels": { "team": "a" }, "annotations": { "note": "b" } })
}
