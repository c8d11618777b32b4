//! An unchanged apply changes nothing, client-side and server-side: verified with kubectl on the real API server for every kind,
//! with every list filled and with required fields only.

use crate::common::Scene;
use serde_json::{Value, json};

#[tokio::test]
async fn an_unchanged_apply_changes_nothing() {
    let Some(scene) = Scene::begin().await else { return };
    scene.ready_domain(json!({})).await;
    let domain = |name: &str, spec: Value| {
        let mut spec = spec;
        spec["trustDomain"] = json!(format!("{name}.{}.example", scene.domain));
        json!({ "apiVersion": "gaia.dev/v1alpha1", "kind": "TrustDomain",
            "metadata": { "name": format!("{}-{name}", scene.domain) }, "spec": spec })
    };
    let in_namespace = |kind: &str, name: &str, spec: Value| {
        json!({ "apiVersion": "gaia.dev/v1alpha1", "kind": kind,
            "metadata": { "name": name, "namespace": scene.namespace }, "spec": spec })
    };
    let reference = json!({ "name": scene.domain });
    let restarted = json!([{ "kind": "Deployment", "name": "a" }, { "kind": "StatefulSet", "name": "b" }]);
    let template = json!({ "labels": { "team": "a" }, "annotations": { "note": "b" } });
    let manifests = [
        domain("least", json!({})),
        domain(
            "full",
            json!({
                "namespaceSelector": { "matchExpressions": [
                    { "key": "env", "operator": "Exists" }, { "key": "team", "operator": "In", "values": ["a"] }] },
                "allowedNames": [{ "namespaces": ["a"] }, { "namespaces": ["b"], "dnsNames": ["b.example"], "ipRanges": ["10.0.0.0/8"] }],
                "allowedEndpoints": [{ "namespaces": ["a"], "hosts": ["b.example", "*.example.com", "2001:db8::1"] },
                    { "namespaces": ["a", "b"], "hosts": ["c.example"], "cidrs": ["10.0.0.0/8", "fd00::/8"] },
                    { "namespaces": ["b"], "cidrs": ["192.0.2.0/24"] }],
                "ca": { "distrusted": [{ "fingerprint": "a".repeat(64) }, { "fingerprint": "b".repeat(64), "mode": "Immediate" }] },
                "tokens": { "algorithm": "ES256", "distrusted": [{ "kid": "a".repeat(43) }, { "kid": "b".repeat(43), "mode": "AfterReissue" }] },
                "revoked": { "leaves": ["c".repeat(64)], "jtis": ["j"], "subjects": [{ "sub": "s", "notBefore": "2026-01-01T00:00:00Z" }] },
                "userTokenIssuers": [
                    { "name": "a", "issuer": "https://a.example", "jwksURL": "https://a.example/jwks" },
                    { "name": "b", "issuer": "https://b.example", "verification": "Remote", "profile": "Generic",
                      "apiKeySecretRef": { "name": "k" }, "audiences": ["x"], "algorithms": ["RS256"],
                      "requiredClaims": { "tier": "gold" }, "clientIDs": ["app"], "maxTTL": "1h" }],
            }),
        ),
        in_namespace("ServiceCertificate", "least", json!({ "trustDomainRef": reference })),
        in_namespace(
            "ServiceCertificate",
            "full",
            json!({
                "trustDomainRef": reference, "extraDNSNames": ["full"], "ipAddresses": [], "usages": ["ClientAuth"],
                "subjectCommonName": "ServiceName", "secretTemplate": template, "privateKey": { "algorithm": "RSA" },
                "workload": { "port": 8443, "restartTargets": restarted },
            }),
        ),
        in_namespace("GaiaService", "least", json!({ "trustDomainRef": reference })),
        in_namespace("ServiceCertificate", "empty", json!({})),
        in_namespace("GaiaService", "nothing", json!({})),
        in_namespace(
            "GaiaService",
            "all",
            json!({
                "trustDomainRef": reference, "endpoints": ["127.0.0.1:1"],
                "callers": [{ "service": "least" }, { "service": "least", "namespace": "other", "scopes": ["a"], "onBehalfOf": true }],
                "certificate": { "extraDNSNames": ["all"], "usages": ["ServerAuth"], "subjectCommonName": "ServiceName",
                    "secretTemplate": template },
                "workload": { "restartTargets": restarted },
                "auth": { "sunsetTime": "2027-01-01T00:00:00+01:00",
                    "brownoutWindows": [{ "start": "2026-12-01T00:00:00Z", "duration": "1h" }],
                    "userTokens": { "issuers": ["a"], "scopes": ["b"] } },
            }),
        ),
    ];
    let count = manifests.len();
    let list = json!({ "apiVersion": "v1", "kind": "List", "items": manifests });
    let path = std::env::temp_dir().join(format!("gaia-{}-gitops.json", scene.namespace));
    std::fs::write(&path, list.to_string()).unwrap();
    let file = path.to_str().unwrap();
    let server_side = ["apply", "--server-side", "-f", file];
    for (how, again, nothing) in [
        (&["apply", "-f", file][..], &["apply", "-f", file][..], "unchanged"),
        (&server_side[..], &server_side[..], "serverside-applied"),
    ] {
        scene.plane.kubectl(how).await.unwrap();
        let before = generations(&scene).await;
        let said = scene.plane.kubectl(again).await.unwrap();
        assert_eq!(said.lines().filter(|line| line.ends_with(nothing)).count(), count, "{said}");
        assert_eq!(generations(&scene).await, before, "{again:?}");
        let difference = scene.plane.kubectl(&["diff", "-f", file]).await.unwrap();
        assert_eq!(difference, "", "what Argo CD would show as drift");
    }
    std::fs::remove_file(&path).unwrap();

    // Equal pairs are refused by the API server.
    let twice = in_namespace(
        "GaiaService",
        "twice",
        json!({ "callers": [{ "service": "a" }, { "service": "a", "scopes": ["x"] }] }),
    );
    let refused = scene.try_create(twice).await.unwrap_err().to_string();
    assert!(refused.contains("must not name the same service and namespace twice"), "{refused}");
    // Dates beyond the range of the types, and forms that only the API server accepts.
    for time in ["9999-12-31T23:59:59Z", "1969-12-31T23:59:59Z", "2026-01-01t00:00:00z", "2026-01-01T00:00:00,5Z"] {
        let service = in_namespace("GaiaService", "late", json!({ "auth": { "sunsetTime": time } }));
        assert!(scene.try_create(service).await.is_err(), "{time}");
    }
    // The wide view, without blanks in the names of columns.
    for (resource, name) in
        [("trustdomains", scene.domain.as_str()), ("servicecertificates", "least"), ("gaiaservices", "least")]
    {
        let table = scene.plane.kubectl(&["get", resource, name, "-n", &scene.namespace, "-o", "wide"]).await.unwrap();
        let header: Vec<&str> = table.lines().next().unwrap_or_default().split_whitespace().collect();
        for column in ["READY", "REASON", "AGE", "MESSAGE", "TRUST-DOMAIN", "ISSUER", "REVISION"] {
            assert!(header.contains(&column), "{resource}: {column} is not in {header:?}");
        }
    }
    scene.end().await;
}

/// The generations, which an apply with a change would have raised. TrustDomains of other tests are on the same API server.
async fn generations(scene: &Scene) -> String {
    let columns = "custom-columns=KIND:.kind,NAME:.metadata.name,GENERATION:.metadata.generation";
    let kinds = "trustdomains,servicecertificates,gaiaservices";
    let table = scene.plane.kubectl(&["get", kinds, "-n", &scene.namespace, "-o", columns]).await.unwrap();
    let of_others = |line: &&str| line.starts_with("TrustDomain ") && !line.contains(&scene.domain);
    table.lines().filter(|line| !of_others(line)).collect::<Vec<_>>().join("\n")
}
