//! Loads the parts of the credential directory; a rejected part keeps its previous version in use.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use gaia_api::Clock;
use gaia_api::names::key;
use gaia_api::sync::lock;
use gaia_auth::tokens::KeySet;
use gaia_auth::{Authenticator, Denied, Rules};
use jiff::Timestamp;
use rustls::crypto::CryptoProvider;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use crate::client::mesh_client::Hosts;
use crate::credentials::directory::{Directory, Files};
use crate::credentials::parts::{self, Bundle, Jwks, Leaf, LoadedApiKeys, LoadedDenylist, LoadedPolicy};
use crate::credentials::snapshot::{CredentialsSnapshot, TakenParts};
use crate::credentials::watch::Watch;
use crate::observability::metrics::Metrics;

/// Files that one service reads in addition to the common ones.
pub trait ServiceFiles: Send + Sync + 'static {
    /// Returns their names in the credential directory.
    fn names(&self) -> &'static [&'static str];

    /// Loads the valid parts of newly read files, and keeps the previous version of the others. Returns the name of
    /// each part and, if it was rejected, the reason.
    fn take(&self, files: &Files, in_force: LoadedFiles<'_>) -> Vec<(&'static str, Result<(), String>)>;

    /// Returns the ID of the current signing key; none for services that do not sign.
    fn signing_kid(&self) -> Option<String> {
        None
    }
}

/// Loaded common parts that a service's own files are validated against.
#[derive(Debug, Clone, Copy)]
pub struct LoadedFiles<'a> {
    /// The platform's public keys; none if none were ever loaded.
    pub keys: Option<&'a KeySet>,
    /// The denylist; none if it was never readable.
    pub denied: Option<&'a Denied>,
}

/// A service without additional files.
impl ServiceFiles for () {
    fn names(&self) -> &'static [&'static str] {
        &[]
    }
    fn take(&self, _: &Files, _: LoadedFiles<'_>) -> Vec<(&'static str, Result<(), String>)> {
        Vec::new()
    }
}

/// The loaded parts.
#[derive(Default)]
struct Parts {
    bundle: Option<Arc<Bundle>>,
    policy: Option<Arc<LoadedPolicy>>,
    jwks: Option<Arc<Jwks>>,
    /// None while the only version seen is unreadable: then revocations are unknown.
    denylist: Option<Arc<LoadedDenylist>>,
    api_keys: Arc<LoadedApiKeys>,
    leaf: Option<Arc<Leaf>>,
}

impl Parts {
    /// Returns all parts that TLS requires; none while one of them was never loaded.
    fn taken(&self) -> Option<TakenParts> {
        Some(TakenParts {
            bundle: self.bundle.clone()?,
            leaf: self.leaf.clone()?,
            policy: self.policy.clone()?,
            denylist: self.denylist.clone()?,
            jwks: self.jwks.clone(),
            api_keys: Arc::clone(&self.api_keys),
        })
    }
}

/// Checks the credential directory periodically.
pub(crate) struct Reloader {
    directory: Directory,
    service_name: String,
    hosts: Hosts,
    service_files: Arc<dyn ServiceFiles>,
    provider: Arc<CryptoProvider>,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
    authenticator: Arc<Authenticator>,
    generations: watch::Sender<Option<Arc<CredentialsSnapshot>>>,
    parts: Parts,
    last_hash: String,
    refused: BTreeMap<&'static str, String>,
    reported: Refused,
    /// Time of the last warning about the expired leaf.
    expiry_warned: Option<Timestamp>,
}

/// Files that every service reads.
const COMMON_FILES: [&str; 7] =
    [key::TLS_CERT, key::TLS_KEY, key::CA_CERT, key::JWKS, key::DENYLIST, key::POLICY, key::API_KEYS];

/// Destinations of loaded parts.
pub(crate) struct Sinks {
    pub(crate) service_files: Arc<dyn ServiceFiles>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) authenticator: Arc<Authenticator>,
    pub(crate) generations: watch::Sender<Option<Arc<CredentialsSnapshot>>>,
    pub(crate) refused: Refused,
}

/// The rejected parts, each with the reason; clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Refused(Arc<Mutex<BTreeMap<&'static str, String>>>);

impl Refused {
    fn set(&self, refused: &BTreeMap<&'static str, String>) {
        lock(&self.0).clone_from(refused);
    }

    /// Returns the parts for a report, with truncated reasons, as they can quote a file.
    pub(crate) fn report(&self) -> BTreeMap<String, String> {
        let refused = lock(&self.0);
        let cut = |reason: &String| reason.chars().take(LONGEST_REASON).collect();
        refused.iter().map(|(part, reason)| ((*part).to_owned(), cut(reason))).collect()
    }
}

const LONGEST_REASON: usize = 256;
const EXPIRY_WARNING: jiff::SignedDuration = jiff::SignedDuration::from_hours(1);

/// Replaces a part, and logs the new one. An equal one is kept, so that everything derived from it is kept too.
fn replace<T>(part: &mut Option<Arc<T>>, new: T, is_same: impl Fn(&T, &T) -> bool, log: impl Fn(&T)) {
    if !part.as_ref().is_some_and(|old| is_same(&new, old)) {
        log(&new);
        *part = Some(Arc::new(new));
    }
}

impl Reloader {
    pub(crate) fn new(config: &crate::config::RuntimeConfig, sinks: Sinks) -> Self {
        let Sinks { service_files, clock, metrics, authenticator, generations, refused } = sinks;
        let names = COMMON_FILES.iter().chain(service_files.names()).copied().collect();
        Self {
            directory: Directory { path: config.dir.clone(), names, overrides: config.overrides.clone() },
            service_name: config.service_name.clone(),
            hosts: config.hosts.clone(),
            service_files,
            provider: Arc::new(rustls::crypto::aws_lc_rs::default_provider()),
            clock,
            metrics,
            authenticator,
            generations,
            parts: Parts::default(),
            last_hash: String::new(),
            refused: BTreeMap::new(),
            reported: refused,
            expiry_warned: None,
        }
    }

    /// Checks the directory every `interval`, and after change notifications where the system supports them, without
    /// end.
    pub(crate) async fn run(mut self, interval: std::time::Duration) {
        let mut ticks = tokio::time::interval(interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut watch = Watch::new(&self.directory.path);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = watch.changed() => {}
            }
            watch.renew();
            let directory = self.directory.clone();
            match tokio::task::spawn_blocking(move || directory.read()).await {
                Ok(Some(files)) => self.take(&files),
                Ok(None) => {
                    tracing::debug!("the credential directory is being written; reading it again at the next check");
                }
                // The panic message is not logged, because it can contain data of the files.
                Err(_) => tracing::error!("failed to read the credential directory"),
            }
        }
    }

    /// Loads the directory before anything is served.
    pub(crate) fn look(&mut self) {
        if let Some(files) = self.directory.read() {
            self.take(&files);
        }
    }

    /// Warns about an expired leaf, once and then every hour.
    fn warn_of_expiry(&mut self) {
        let now = self.clock.now();
        let Some(not_after) = self.parts.leaf.as_ref().map(|leaf| leaf.certificate.not_after()) else { return };
        let is_due = self.expiry_warned.is_none_or(|last| now.duration_since(last) >= EXPIRY_WARNING);
        if now <= not_after {
            self.expiry_warned = None;
        } else if is_due {
            self.expiry_warned = Some(now);
            tracing::warn!(
                %not_after,
                "the TLS certificate has expired and callers reject it: check that tls.crt is renewed and mounted"
            );
        }
    }

    /// Loads changed files. Unchanged files are validated again only while a part is rejected: a leaf that is not yet
    /// valid becomes valid with time.
    fn take(&mut self, files: &Files) {
        self.take_changed(files);
        self.warn_of_expiry();
    }

    fn take_changed(&mut self, files: &Files) {
        let is_same = self.last_hash == files.hash();
        if is_same && self.refused.is_empty() {
            return;
        }
        let before = self.refused.clone();
        self.take_parts(files, self.clock.now());
        self.reported.set(&self.refused);
        if is_same && before == self.refused {
            return;
        }
        self.last_hash = files.hash().to_owned();
        self.publish();
    }

    fn take_parts(&mut self, files: &Files, now: Timestamp) {
        let bundle = parts::bundle(files, now);
        if let Some(bundle) = self.judged("bundle", bundle) {
            replace(&mut self.parts.bundle, bundle, Bundle::is_same, Bundle::log_loaded);
        }
        let policy = parts::policy(files, &self.service_name);
        if let Some(policy) = self.judged("policy", policy) {
            replace(&mut self.parts.policy, policy, |new, old| new.hash == old.hash, LoadedPolicy::log_loaded);
        }
        if let Some(jwks) = self.judged("jwks", parts::jwks(files)) {
            replace(&mut self.parts.jwks, jwks, |new, old| new.text == old.text, Jwks::log_loaded);
        }
        match self.judged("denylist", parts::denylist(files)) {
            Some(Some(denylist)) => {
                let is_same = |new: &LoadedDenylist, old: &LoadedDenylist| new.hash == old.hash;
                replace(&mut self.parts.denylist, denylist, is_same, |_| tracing::info!("denylist loaded"));
            }
            Some(None) => drop(self.parts.denylist.get_or_insert_default()),
            None => {}
        }
        let api_keys = self.judged("api_keys", parts::api_keys(files));
        if let Some(api_keys) = api_keys.filter(|keys| keys.hash != self.parts.api_keys.hash) {
            self.parts.api_keys = Arc::new(api_keys);
        }
        if let Some(loaded) = &self.parts.policy {
            let issuers = self.parts.api_keys.table.check_issuers(&loaded.policy).map_err(|error| error.to_string());
            self.judged("api_key_records", issuers);
        }
        let leaf = match (&self.parts.bundle, &self.parts.policy) {
            (Some(bundle), Some(loaded)) => parts::leaf(files, bundle, &loaded.policy, &self.provider, now),
            _ => Err("ca.crt or policy.json is not loaded, so tls.crt cannot be validated".to_owned()),
        };
        if let Some(leaf) = self.judged("leaf", leaf) {
            replace(&mut self.parts.leaf, leaf, Leaf::is_same, Leaf::log_loaded);
        }
        let in_force = LoadedFiles {
            keys: self.parts.jwks.as_ref().map(|jwks| jwks.keys.as_ref()),
            denied: self.parts.denylist.as_ref().map(|denylist| denylist.denied.as_ref()),
        };
        for (part, result) in self.service_files.take(files, in_force) {
            self.judged(part, result);
        }
    }

    /// Records the result for a part. A rejection is logged once, not at every check.
    fn judged<T>(&mut self, part: &'static str, result: Result<T, String>) -> Option<T> {
        match result {
            Ok(value) => {
                self.metrics.part_reloaded(part, true);
                if self.refused.remove(part).is_some() {
                    tracing::info!(part, "part of the credential directory is valid again");
                }
                Some(value)
            }
            Err(reason) => {
                if self.refused.get(part) != Some(&reason) {
                    self.metrics.part_reloaded(part, false);
                    tracing::warn!(
                        part,
                        reason,
                        "part of the credential directory rejected; the previous version stays in use"
                    );
                    self.refused.insert(part, reason);
                }
                None
            }
        }
    }

    fn publish(&self) {
        let parts = &self.parts;
        if let (Some(loaded), Some(denylist)) = (&parts.policy, &parts.denylist) {
            let keys = parts.jwks.as_ref().map(|jwks| Arc::clone(&jwks.keys));
            let denied = Arc::clone(&denylist.denied);
            let rules = Rules::new(loaded.policy.clone(), keys, denied, parts.api_keys.table.clone());
            self.authenticator.replace(Arc::new(rules));
        }
        let Some(taken) = parts.taken() else {
            tracing::warn!("not ready: certificate, CA bundle or policy not loaded yet");
            return;
        };
        let before = self.generations.borrow().clone();
        if before.as_ref().is_some_and(|before| taken.are(&before.parts)) {
            return;
        }
        match CredentialsSnapshot::new(
            taken,
            before.as_deref(),
            &self.hosts,
            &self.provider,
            &self.clock,
            &self.metrics,
        ) {
            Ok(generation) => {
                let certificate = &generation.parts.leaf.certificate;
                self.metrics.serving_leaf_until(certificate.not_after());
                tracing::debug!(serial = certificate.serial(), "credentials snapshot activated");
                self.generations.send_replace(Some(Arc::new(generation)));
            }
            Err(error) => tracing::error!(error, "failed to create the TLS configuration"),
        }
    }
}
