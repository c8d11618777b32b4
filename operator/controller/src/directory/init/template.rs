//! The `gaia.yaml` of a new directory.

use std::fmt;
use std::fmt::Write as _;
use std::str::FromStr;

use crate::directory::DEFAULT_NAMESPACE;

/// An environment. It is part of the trust domain's name, so two environments never share a CA.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Environment {
    /// A developer's machine.
    Dev,
    /// Like production, for tests.
    Staging,
    /// Production.
    Production,
}

impl Environment {
    /// The SPIFFE trust domain of the environment.
    #[must_use]
    pub fn trust_domain(self) -> String {
        format!("{self}.gaia.local")
    }
}

impl fmt::Display for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Dev => "dev",
            Self::Staging => "staging",
            Self::Production => "production",
        })
    }
}

impl FromStr for Environment {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "dev" => Ok(Self::Dev),
            "staging" => Ok(Self::Staging),
            "production" => Ok(Self::Production),
            _ => Err("must be dev, staging or production".to_owned()),
        }
    }
}

/// A service of the platform: name, port of the mesh listener on this machine, and callers with `onBehalfOf`.
struct Service<'a> {
    name: &'a str,
    port: u16,
    callers: &'static [(&'static str, bool)],
}

/// The port of the first service that is not one of the five.
const FIRST_FREE_PORT: u16 = 8448;

/// The five services. The ports are those of `gaia local up`; in containers every service listens on 8443.
const SERVICES: [Service<'static>; 5] = [
    Service { name: "auth-service", port: 8443, callers: &[("gateway", false), ("web-service", false)] },
    Service { name: "asset-service", port: 8444, callers: &[("gateway", true), ("web-service", true)] },
    Service { name: "chat-service", port: 8445, callers: &[("gateway", true), ("web-service", true)] },
    Service { name: "gateway", port: 8446, callers: &[("web-service", true)] },
    Service { name: "web-service", port: 8447, callers: &[] },
];

/// The differences between the manifests of a new and of an adopted tree.
pub(super) struct Start<'a> {
    /// The mode of all services.
    pub(super) auth: &'static str,
    /// The TLS mode of all services.
    pub(super) tls: &'static str,
    /// The Secret of the API keys.
    pub(super) api_keys: Option<&'static str>,
    /// Lines of the TrustDomain's spec.
    pub(super) trust_domain: String,
    /// The algorithm of tokens, if it is not the default.
    pub(super) algorithm: Option<&'static str>,
    /// Further services.
    pub(super) more: Vec<&'a str>,
}

impl Start<'_> {
    /// A new platform: tokens and mutual TLS only.
    pub(super) fn fresh() -> Self {
        Self {
            auth: "JWTOnly",
            tls: "Strict",
            api_keys: None,
            trust_domain: String::new(),
            algorithm: None,
            more: vec![],
        }
    }
}

/// The manifests of the five services.
pub(super) fn manifests(environment: Environment, start: &Start<'_>) -> String {
    let trust_domain = environment.trust_domain();
    let Start { auth, tls, api_keys, trust_domain: more_fields, algorithm, more } = start;
    let algorithm = algorithm.map(|algorithm| format!("\n    algorithm: {algorithm}")).unwrap_or_default();
    let mut text = format!(
        "\
# The platform of this directory: the same manifests as in a cluster. Edit it; `gaia local run` reads changes
# within seconds, and refuses a file with a fault as a whole. Gaia never rewrites it.
apiVersion: gaia.dev/v1alpha1
kind: TrustDomain
metadata: {{name: gaia}}
spec:
  # Permanent. Another environment has a directory, a trust domain and a CA of its own.
  trustDomain: {trust_domain}
  namespaceSelector: {{}}
  tokens:
    issuedBy: {{namespace: {DEFAULT_NAMESPACE}, name: auth-service}}{algorithm}
  auth: {{defaultMode: {auth}}}
  # Programs read their files again every few seconds: no kubelet delays them.
  propagation: {{minDelay: 15s}}
  # Names beyond a service's own that certificates may have.
  allowedNames:
    - namespaces: [{DEFAULT_NAMESPACE}]
      dnsNames: [localhost]
      ipRanges: [127.0.0.0/8, \"::1/128\"]
{more_fields}"
    );
    // An adopted platform has users of its own.
    if environment == Environment::Dev && api_keys.is_none() {
        text.push_str(STAND_IN);
    }
    let is_known = |name: &str| SERVICES.iter().any(|service| service.name == name);
    let more = more.iter().copied().filter(|name| !is_known(name)).zip(FIRST_FREE_PORT..);
    let more = more.map(|(name, port)| Service { name, port, callers: &[] });
    for Service { name, port, callers } in SERVICES.into_iter().chain(more) {
        let _ = write!(
            text,
            "\
---
apiVersion: gaia.dev/v1alpha1
kind: GaiaService
metadata: {{name: {name}}}
spec:
  tls: {{mode: {tls}}}
  # Where its instances listen for other services; every address of a name is an instance.
  endpoints: [\"localhost:{port}\"]
  certificate:
    extraDNSNames: [localhost]
    ipAddresses: [127.0.0.1, \"::1\"]
"
        );
        if let Some(secret) = api_keys {
            let _ = writeln!(text, "  auth: {{apiKeysSecretRef: {{name: {secret}}}}}");
        }
        if !callers.is_empty() {
            text.push_str("  callers:\n");
        }
        for (caller, is_on_behalf) in callers {
            let more = if *is_on_behalf { ", onBehalfOf: true" } else { "" };
            let _ = writeln!(text, "    - {{service: {caller}{more}}}");
        }
    }
    text
}

/// The login server of development: the stand-in of `gaia local up`.
const STAND_IN: &str =
    "  # The stand-in for a login server, on loopback. A Supabase project has the issuer https://….supabase.co/auth/v1.
  userTokenIssuers:
    - name: supabase
      issuer: http://127.0.0.1:9999/auth/v1
      verification: JWKS
      jwksURL: http://127.0.0.1:9999/auth/v1/.well-known/jwks.json
";
