//! A directory as `gaia local` writes it: one service, `gateway`, in namespace `default`.

use std::fs::Permissions;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use gaia_auth::issue::{ServiceClaims, Signer};
use gaia_pki::{
    Ca, CaRequest, Jwk, KeySpec, LeafRequest, PrivateKey, Serial, SigningAlgorithm, Usage, Validity, issue_leaf,
};
use jiff::{Timestamp, ToSpan as _};
use serde_json::{Value, json};
use tempfile::TempDir;

const MANIFESTS: &str = "apiVersion: gaia.dev/v1alpha1
kind: TrustDomain
metadata: {name: gaia}
spec: {trustDomain: gaia.local}
---
apiVersion: gaia.dev/v1alpha1
kind: ServiceCertificate
metadata: {name: gateway, namespace: default}
spec: {trustDomainRef: {name: gaia}}
";

pub struct Platform {
    pub dir: TempDir,
    pub ca: Ca,
    /// The certificate of `gateway`.
    pub leaf: String,
    pub leaf_key: String,
    pub signing_key: PrivateKey,
    pub jwk: Jwk,
    pub now: Timestamp,
}

impl Platform {
    pub fn new(now: Timestamp) -> Self {
        let ca = authority("Gaia CA 1", now);
        let (leaf, leaf_key) = leaf(&ca, "gateway", now, now + 2160.hours());
        let signing_key = PrivateKey::generate(KeySpec::Ecdsa256).unwrap();
        let jwk = Jwk::from_public_key(&signing_key.public_key(), SigningAlgorithm::Es256).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let platform = Self { dir, ca, leaf, leaf_key, signing_key, jwk, now };
        platform.write();
        platform
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// `--dir` and the path.
    pub fn option(&self) -> String {
        format!("--dir={}", self.path().display())
    }

    /// Writes an object.
    pub fn put(&self, plural: &str, namespace: &str, name: &str, object: &Value) {
        let folder = self.path().join(".gaia/objects").join(plural).join(namespace);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(format!("{name}.json")), object.to_string()).unwrap();
    }

    /// Writes a file at the root.
    pub fn file(&self, name: &str, content: &str) -> String {
        let path = self.path().join(name);
        std::fs::write(&path, content).unwrap();
        path.display().to_string()
    }

    /// A condition since an hour.
    pub fn condition(&self, type_: &str, status: &str, reason: &str) -> Value {
        let since = (self.now - 1.hour()).to_string();
        json!({"type": type_, "status": status, "reason": reason, "message": "text", "lastTransitionTime": since})
    }

    /// Changes a stored object.
    pub fn edit(&self, plural: &str, namespace: &str, name: &str, change: impl FnOnce(&mut Value)) {
        let path = self.path().join(".gaia/objects").join(plural).join(namespace).join(format!("{name}.json"));
        let mut object = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        change(&mut object);
        self.put(plural, namespace, name, &object);
    }

    /// Replaces the certificate of `gateway`, as stored and in its directory.
    pub fn replace_leaf(&self, certificate: &str, key: &str) {
        self.edit("secrets", "default", "gateway-tls", |secret| {
            secret["data"]["tls.crt"] = json!(STANDARD.encode(certificate));
            secret["data"]["tls.key"] = json!(STANDARD.encode(key));
        });
        std::fs::write(self.path().join("gateway/..data/tls.crt"), certificate).unwrap();
    }

    /// Sets the mode of a path.
    pub fn mode(&self, path: &str, mode: u32) {
        std::fs::set_permissions(self.path().join(path), Permissions::from_mode(mode)).unwrap();
    }

    fn files(&self, public: [(&str, &String); 3]) {
        let version = self.path().join("gateway/..version-1");
        std::fs::create_dir_all(&version).unwrap();
        symlink("..version-1", self.path().join("gateway/..data")).unwrap();
        for (name, content) in public.into_iter().chain([("tls.crt", &self.leaf), ("tls.key", &self.leaf_key)]) {
            std::fs::write(version.join(name), content).unwrap();
            symlink(format!("..data/{name}"), self.path().join("gateway").join(name)).unwrap();
        }
        symlink("..data/tls.crt", self.path().join("gateway/cert.pem")).unwrap();
        self.mode("gateway/..version-1/tls.key", 0o600);
        self.mode("gateway", 0o750);
        self.file("ca.pem", public[0].1);
        self.file("jwks.json", public[1].1);
        self.file(".gitignore", "*\n");
        self.file("gaia.yaml", MANIFESTS);
        std::fs::create_dir_all(self.path().join(".gaia/objects")).unwrap();
        self.mode(".gaia", 0o700);
        self.beat();
    }

    /// Raises the heartbeat of the engine.
    pub fn beat(&self) {
        std::fs::write(self.path().join(".gaia/heartbeat"), "1").unwrap();
        self.set_heartbeat(self.now);
    }

    pub fn set_heartbeat(&self, time: Timestamp) {
        let file = std::fs::File::options().append(true).open(self.path().join(".gaia/heartbeat")).unwrap();
        file.set_modified(time.into()).unwrap();
    }

    fn write(&self) {
        let since = self.now.to_string();
        let fingerprint = self.ca.certificate().fingerprint();
        let status = json!({
            "ca": {"active": {"id": "ca-one", "fingerprint": fingerprint, "state": "Active", "since": since,
                "notAfter": self.ca.not_after().to_string()}},
            "signingKeys": {"active": {"id": "key-one", "kid": self.jwk.kid(), "state": "Active", "since": since}},
            "conditions": [self.condition("Ready", "True", "Issued")],
        });
        let spec = json!({"trustDomain": "gaia.local", "tokens": {"issuer": "gaia-platform", "algorithm": "ES256"}});
        self.put("trustdomains", "_", "gaia", &json!({
            "apiVersion": "gaia.dev/v1alpha1", "kind": "TrustDomain", "metadata": {"name": "gaia"}, "spec": spec, "status": status,
        }));
        let root = self.ca.root().to_pem();
        let jwks = json!({"schemaVersion": 1, "keys": [self.jwk]}).to_string();
        let denylist = json!({"schemaVersion": 1, "leaves": [], "kids": [], "jtis": [], "subjects": []}).to_string();
        self.files([("ca.crt", &root), ("jwks.json", &jwks), ("denylist.json", &denylist)]);
        let trust = json!({"ca.crt": root, "jwks.json": jwks, "denylist.json": denylist});
        self.put("configmaps", "default", "gaia-trust", &json!({"metadata": {"name": "gaia-trust"}, "data": trust}));
        let encode = |text: &str| STANDARD.encode(text);
        let secret = json!({"tls.crt": encode(&self.leaf), "tls.key": encode(&self.leaf_key), "ca.crt": encode(&root)});
        self.put(
            "servicecertificates",
            "default",
            "gateway",
            &json!({
                "apiVersion": "gaia.dev/v1alpha1", "kind": "ServiceCertificate",
                "metadata": {"namespace": "default", "name": "gateway"},
                "spec": {"trustDomainRef": {"name": "gaia"}},
                "status": {"conditions": [self.condition("Ready", "True", "Issued")]},
            }),
        );
        self.put("secrets", "default", "gateway-tls", &json!({"metadata": {"name": "gateway-tls"}, "data": secret}));
    }
}

pub fn authority(name: &str, now: Timestamp) -> Ca {
    let key = PrivateKey::generate(KeySpec::Ecdsa256).unwrap();
    let request = CaRequest {
        common_name: name,
        trust_domain: "gaia.local",
        validity: Validity { not_before: now - 2000.hours(), not_after: now + 87_600.hours() },
        serial: Serial::from_random([1; 16]),
    };
    Ca::self_signed(&request, key).unwrap()
}

/// A token of `gateway` for `chat-service`.
pub fn token(platform: &Platform, claims: impl FnOnce(&mut ServiceClaims)) -> String {
    let caller = "spiffe://gaia.local/ns/default/sa/gateway".to_owned();
    let mut issued = ServiceClaims {
        iss: "gaia-platform".to_owned(),
        sub: caller.clone(),
        client_id: caller,
        service: "gateway".to_owned(),
        aud: "spiffe://gaia.local/ns/default/sa/chat-service".to_owned(),
        jti: "token-1".to_owned(),
        iat: platform.now.as_second(),
        exp: platform.now.as_second() + 600,
        scope: None,
    };
    claims(&mut issued);
    Signer::from_pem(platform.signing_key.to_pem().as_bytes()).unwrap().sign(&issued).unwrap()
}

/// A certificate and its key.
pub fn leaf(ca: &Ca, name: &str, now: Timestamp, not_after: Timestamp) -> (String, String) {
    let key = PrivateKey::generate(KeySpec::Ecdsa256).unwrap();
    let uri = format!("spiffe://gaia.local/ns/default/sa/{name}");
    let request = LeafRequest {
        dns_names: &[name.to_owned()],
        ip_addresses: &[],
        spiffe_id: &uri,
        usages: &[Usage::ServerAuth, Usage::ClientAuth],
        validity: Validity { not_before: now - 1.hour(), not_after },
        serial: Serial::from_random([2; 16]),
    };
    let leaf = issue_leaf(ca, &request, &key).unwrap();
    (leaf.chain_pem, key.to_pem().to_string())
}
