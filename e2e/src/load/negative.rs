//! Checks that credentials that are no longer valid are refused.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use gaia_api::SpiffeId;
use gaia_api::crd::whole_seconds;
use gaia_api::names::{self, key};
use gaia_auth::issue::{ServiceClaims, Signer};
use gaia_pki::{Ca, KeySpec, LeafRequest, PrivateKey, Serial, Usage, Validity, issue_leaf};
use gaia_runtime::{CredentialsSnapshot, Hosts, MeshClient};
use http::Method;
use jiff::SignedDuration;
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client};
use rustls::pki_types::ServerName;
use serde_json::Value;

use crate::services::ASSET_SERVICE;
use gaia_stand_ins::random::random;

use super::call::{Credential, send};
use super::caller::Caller;
use super::tls::{self, LeafPem};

/// An attacker with a private key from a ring, whose credentials differ from valid ones only in
/// the key they are signed with. Tests check at any time whether they are still accepted.
pub struct Negative {
    key: Key,
    caller: Arc<Caller>,
}

enum Key {
    Ca(String, Box<Ca>),
    Signer(Box<Signer>),
}

/// The result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It was refused, with this message.
    Refused(String),
    /// It was accepted.
    Accepted,
    /// Neither: no answer, for example.
    Unclear(String),
}

impl Negative {
    /// Takes the key of a generation of the CA: that of `id`, or of the active one. It signs leaves for the caller's
    /// identity.
    ///
    /// # Errors
    /// If the ring has no such generation.
    pub async fn with_ca(
        client: &Client,
        operator_namespace: &str,
        trust_domain: &str,
        id: Option<&str>,
        caller: Arc<Caller>,
    ) -> Result<Self> {
        let stolen = Stolen::from_ring(client, operator_namespace, &names::ca_ring(trust_domain), id).await?;
        let chain = stolen.generation["chain"].as_str().context("the generation has no chain")?;
        let root = stolen.generation["root"].as_str().context("the generation has no root")?;
        let ca = Ca::load(chain.as_bytes(), &stolen.key, Some(root.as_bytes()))?;
        Ok(Self { key: Key::Ca(stolen.id, Box::new(ca)), caller })
    }

    /// With any CA: one that was never trusted, for example.
    #[must_use]
    pub fn with_any_ca(name: &str, ca: Ca, caller: Arc<Caller>) -> Self {
        Self { key: Key::Ca(name.to_owned(), Box::new(ca)), caller }
    }

    /// Takes a signing key: that of the generation `id`, or the active one. It signs tokens of the caller for
    /// asset-service, and presents the caller's valid leaf with them.
    ///
    /// # Errors
    /// If the ring has no such generation.
    pub async fn with_signing_key(
        client: &Client,
        operator_namespace: &str,
        trust_domain: &str,
        id: Option<&str>,
        caller: Arc<Caller>,
    ) -> Result<Self> {
        let stolen = Stolen::from_ring(client, operator_namespace, &names::signing_ring(trust_domain), id).await?;
        Ok(Self { key: Key::Signer(Box::new(Signer::from_pem(stolen.key.as_bytes())?)), caller })
    }

    /// With any signing key: one that was never published, for example.
    ///
    /// # Errors
    /// If its type is not one that tokens are signed with.
    pub fn with_any_signing_key(key: &PrivateKey, caller: Arc<Caller>) -> Result<Self> {
        Ok(Self { key: Key::Signer(Box::new(Signer::from_pem(key.to_pem().as_bytes())?)), caller })
    }

    /// The kind and id of the private key.
    #[must_use]
    pub fn key(&self) -> String {
        match &self.key {
            Key::Ca(id, _) => format!("CA {id}"),
            Key::Signer(signer) => format!("signing key {}", signer.kid()),
        }
    }

    /// Tries a new credential on one instance of a service, given by its DNS name and address. Leaves are tried on any
    /// service; tokens are for asset-service.
    ///
    /// # Errors
    /// If no credential can be issued any longer: the signature of an expired CA would prove nothing.
    pub async fn ask(&self, server_name: &str, address: SocketAddr) -> Result<Verdict> {
        match &self.key {
            Key::Ca(_, ca) => self.ask_with_leaf(ca, server_name, address).await,
            Key::Signer(signer) => self.ask_with_token(signer, server_name, address).await,
        }
    }

    /// For tests.
    ///
    /// # Errors
    /// Unless it is refused, with the result.
    pub async fn expect_refused(&self, server_name: &str, address: SocketAddr) -> Result<String> {
        match self.ask(server_name, address).await? {
            Verdict::Refused(words) => Ok(words),
            other => bail!("{} should be refused by {server_name} at {address}: {other:?}", self.key()),
        }
    }

    /// A service verifies a presented certificate also where none is required.
    async fn ask_with_leaf(&self, ca: &Ca, server_name: &str, address: SocketAddr) -> Result<Verdict> {
        let clock = self.caller.clock();
        let now = whole_seconds(clock.now());
        let not_after = ca.not_after().min(now + LIFE);
        ensure!(now < not_after, "{} has expired: that it is refused proves nothing", self.key());
        let (generation, private) = (self.generation()?, PrivateKey::generate(KeySpec::Ecdsa256)?);
        let request = LeafRequest {
            spiffe_id: generation.policy().service.spiffe_id.as_str(),
            dns_names: &[],
            ip_addresses: &[],
            usages: &[Usage::ClientAuth],
            serial: Serial::from_random(random()?),
            validity: Validity { not_before: (now - BACKDATED).max(ca.not_before()), not_after },
        };
        let (leaf, private) = (issue_leaf(ca, &request, &private)?, private.to_pem());
        let roots = self.read(key::CA_CERT)?;
        let pem = LeafPem { chain: leaf.chain_pem.as_bytes(), key: private.as_bytes() };
        let config = tls::config(&roots, Some(&pem), clock)?;
        let (name, for_greeting) = (ServerName::try_from(server_name.to_owned())?, config.clone());
        let verdict = tokio::task::spawn_blocking(move || tls::is_let_in(address, name, for_greeting)).await?;
        if verdict != Verdict::Accepted {
            return Ok(verdict);
        }
        // In Permissive a certificate that does not verify fails no handshake, and gives no peer: /health shows it no details.
        let hosts: Hosts = [(server_name.to_owned(), address)].into_iter().collect();
        let (client, url) = (MeshClient::new(config, hosts), format!("https://{server_name}/health"));
        Ok(match send(&client, Method::GET, &url, Credential::None, Bytes::new()).await {
            Ok(answer) if !answer.status.is_success() => Verdict::Unclear(answer.status.to_string()),
            Ok(answer) if String::from_utf8_lossy(&answer.body).contains("certificates") => Verdict::Accepted,
            Ok(_) => Verdict::Refused("no peer".to_owned()),
            Err(words) => Verdict::Unclear(words),
        })
    }

    async fn ask_with_token(&self, signer: &Signer, server_name: &str, address: SocketAddr) -> Result<Verdict> {
        let (chain, private, roots) = (self.read(key::TLS_CERT)?, self.read(key::TLS_KEY)?, self.read(key::CA_CERT)?);
        let pem = LeafPem { chain: &chain, key: &private };
        let hosts: Hosts = [(server_name.to_owned(), address)].into_iter().collect();
        let client = MeshClient::new(tls::config(&roots, Some(&pem), self.caller.clock())?, hosts);
        let token = signer.sign(&self.claims()?)?;
        let url = format!("https://{server_name}/assets");
        Ok(match send(&client, Method::GET, &url, Credential::Token(&token), Bytes::new()).await {
            Ok(answer) if answer.refuses_token => Verdict::Refused(answer.status.to_string()),
            Ok(answer) if answer.status.is_success() => Verdict::Accepted,
            Ok(answer) => Verdict::Unclear(answer.status.to_string()),
            Err(words) => Verdict::Unclear(words),
        })
    }

    /// The token that auth-service would issue to the caller now.
    fn claims(&self) -> Result<ServiceClaims> {
        let generation = self.generation()?;
        let (me, tokens) = (&generation.policy().service, &generation.policy().tokens);
        let now = self.caller.clock().now().as_second();
        let life = i64::try_from(tokens.max_ttl_seconds)?.min(LIFE.as_secs());
        Ok(ServiceClaims {
            iss: tokens.issuer.clone(),
            sub: me.spiffe_id.to_string(),
            client_id: me.spiffe_id.to_string(),
            service: me.name.clone(),
            aud: SpiffeId::workload(me.spiffe_id.trust_domain(), &me.namespace, ASSET_SERVICE).to_string(),
            jti: format!("{:032x}", u128::from_be_bytes(random()?)),
            iat: now,
            exp: now + life,
            scope: Some("assets:read".to_owned()),
        })
    }

    fn generation(&self) -> Result<Arc<CredentialsSnapshot>> {
        self.caller.generation().context("the caller has no leaf")
    }

    fn read(&self, name: &str) -> Result<Vec<u8>> {
        let path = self.caller.dir().join(name);
        std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))
    }
}

/// A generation of a ring, with its private key.
struct Stolen {
    id: String,
    generation: Value,
    key: String,
}

impl Stolen {
    async fn from_ring(client: &Client, namespace: &str, name: &str, id: Option<&str>) -> Result<Self> {
        let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
        let data = secrets.get(name).await?.data.unwrap_or_default();
        let ring = data.get(key::RING).with_context(|| format!("{namespace}/{name} holds no ring"))?;
        let ring: Value = serde_json::from_slice(&ring.0)?;
        let is_wanted = |generation: &&Value| match id {
            Some(id) => generation["id"] == id,
            None => generation["state"] == "Active",
        };
        let generation = ring["generations"].as_array().into_iter().flatten().find(is_wanted);
        let generation = generation.with_context(|| format!("{namespace}/{name} has no generation {id:?}"))?.clone();
        let id = generation["id"].as_str().context("the generation has no id")?.to_owned();
        let private = data.get(&format!("{id}.key")).with_context(|| format!("the key of {id} is gone"))?;
        let key = String::from_utf8(private.0.clone()).ok().context("the key is not PEM")?;
        Ok(Self { id, generation, key })
    }
}

const LIFE: SignedDuration = SignedDuration::from_mins(5);
const BACKDATED: SignedDuration = SignedDuration::from_mins(1);
