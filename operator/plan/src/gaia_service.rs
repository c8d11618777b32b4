//! GaiaService: its ServiceCertificate, the policy that its pods enforce, and the record of API-key usage.

mod child;
mod endpoints;
mod grants;
mod ledger;
pub(crate) mod mode;
mod modes;
mod policy;
mod targets;
pub(crate) mod user_tokens;
mod wanted;
mod warnings;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use gaia_api::crd::condition::{CERTIFICATE_READY, LEGACY_FREE, PLAIN_FREE, POLICY_PUBLISHED};
use gaia_api::crd::{
    AuthStatus, CertificateSummary, GaiaService, GaiaServiceStatus, ServiceCertificate, Truth, reason,
};
use gaia_api::ledger::LedgerRecord;
use gaia_api::names::{self, key};
use gaia_pki::sha256_hex;
use jiff::Timestamp;
use serde_json::Value;

use crate::api_key_usage::{LedgerObject, Legacy, Watch};
use crate::domain::DomainView;
use crate::gaia_service::mode::Effective;
use crate::instances::endpoint::Excluded;
use crate::instances::instance::Instance;
use crate::instances::lagging::{self, PolicyFile, ServedLeaf};
use crate::object::{DesiredObject, ObjectChange, ObjectFacts, ObjectKey, Ownership, immutable, not_owned, unreadable};
use crate::outcome::conditions::{Obstacles, Report, headline};
use crate::pacing::backoff::Failures;
use crate::pacing::shares::Cut;
use crate::plan::owner;
use crate::{Action, Event, Plan, Refusal, api_key_usage, projection, published};

pub use self::targets::UnreadableServices;
pub use self::wanted::wanted_certificate;
use self::wanted::was_settled;
pub use self::warnings::required_secrets;

/// The input of a decision about one GaiaService.
#[derive(Debug, Clone)]
pub struct Observed<'a> {
    /// It.
    pub service: &'a GaiaService,
    /// The TrustDomain it refers to.
    pub domain: DomainView<'a>,
    /// The ServiceCertificate of its name.
    pub child: Ownership<&'a ServiceCertificate>,
    /// ConfigMap `<service>-auth`.
    pub policy: Ownership<ObjectFacts>,
    /// True if another writer deleted that ConfigMap while the operator watched.
    pub policy_lost: bool,
    /// ConfigMap `<service>-ledger`.
    pub ledger: Ownership<LedgerObject>,
    /// True if another writer deleted that ConfigMap while the operator watched.
    pub ledger_lost: bool,
    /// The collected ledgers of its instances; none: they are not collected.
    pub watch: Option<Watch<'a>>,
    /// The GaiaServices of the TrustDomain that its callers name, in granted namespaces; others do no harm.
    pub callers: &'a [&'a GaiaService],
    /// The GaiaServices of the TrustDomain that name it among their callers, in granted namespaces, and the token issuer;
    /// others do no harm.
    pub targets: &'a [&'a GaiaService],
    /// Services of the TrustDomain that cannot be read, with the last content written for them.
    pub unreadable: UnreadableServices<'a>,
    /// The share of its namespace in `grants.json`, if its own entries do not fit in it.
    pub grants_cut: Option<&'a Cut>,
    /// Those Secrets of [`required_secrets`] that do not exist, by name.
    pub missing_secrets: BTreeSet<String>,
    /// Its instances.
    pub instances: Vec<&'a Instance>,
    /// Instances that use the Secret of its ServiceCertificate.
    pub certificate_users: Vec<&'a Instance>,
    /// The certificate in that Secret.
    pub leaf: Option<ServedLeaf>,
    /// Those of `spec.endpoints` that are no instances.
    pub excluded_endpoints: Vec<Excluded<'a>>,
    /// Attempts that failed.
    pub failures: Option<&'a Failures>,
}

/// The decision about a GaiaService.
#[derive(Debug, Clone, PartialEq)]
pub struct ServicePlan {
    /// The actions and the status.
    pub plan: Plan<GaiaServiceStatus>,
    /// True if the record holds all collected ledgers once the actions are done.
    pub is_recorded: bool,
}

/// Decides about one GaiaService.
#[must_use]
pub fn plan(observed: &Observed<'_>, now: Timestamp) -> ServicePlan {
    let (service, domain) = (observed.service, observed.domain.object);
    let mut legacy =
        api_key_usage::observe(service, &observed.ledger, observed.ledger_lost, observed.watch.as_ref(), now);
    let running = mode::effective(service, domain, &legacy, now);
    let next = legacy.next.take();
    let decision = decide(observed, next, &legacy, &running, now);
    let generation = observed.service.metadata.generation;
    let strict = legacy.stored.and_then(|record| record.strict);
    let thresholds = [legacy.legacy_free.changes_at, legacy.plain.changes_at, legacy.looks_again_at];
    let mut thresholds: Vec<Timestamp> =
        thresholds.into_iter().flatten().chain(strict.and_then(mode::forgotten_at)).collect();
    let is_foreign = observed.child == Ownership::Foreign
        || observed.policy == Ownership::Foreign
        || observed.ledger == Ownership::Foreign;
    if is_foreign || !observed.missing_secrets.is_empty() {
        thresholds.push(crate::pacing::backoff::saturating_add(now, FOREIGN_RECHECK));
    }
    let holding = observed.failures.filter(|failures| failures.holds_back(generation, RETRY_CAP, now));
    thresholds.extend(holding.map(|failures| failures.retry_at(RETRY_CAP)));
    let all = lagging::both(&observed.instances, &observed.certificate_users);
    let policy = published_policy(observed, &decision, now);
    let lagging = lagging::of(&all, &observed.domain, observed.leaf.as_ref(), policy.as_ref(), now);
    thresholds.extend(lagging.next);
    let mut status = status(observed, &decision, &legacy, &running, now);
    (status.lagging, status.lagging_count) = (lagging.named, lagging.count);
    let is_recorded = decision.is_recorded && (holding.is_none() || decision.actions.is_empty());
    let actions = if holding.is_some() { vec![] } else { decision.actions };
    let plan = Plan { actions, status, next_check: crate::plan::earliest(thresholds, now) };
    ServicePlan { plan, is_recorded }
}

#[derive(Default)]
struct Decision {
    actions: Vec<Action>,
    refusal: Option<Refusal>,
    policy_hash: Option<String>,
    policy_published: bool,
    is_recorded: bool,
}

fn decide(
    observed: &Observed<'_>,
    record: Option<LedgerRecord>,
    legacy: &Legacy<'_>,
    running: &Effective,
    now: Timestamp,
) -> Decision {
    let domain = match observed.domain.granted() {
        Ok(domain) => domain,
        Err(refusal) => return Decision { refusal: Some(refusal), ..Decision::default() },
    };
    let mut decision = Decision::default();
    match wanted::action(observed) {
        Ok(action) => decision.actions.extend(action),
        Err(refusal) => decision.refusal = Some(refusal),
    }
    // What ran is written down before something else does: a crash between the two must not forget it.
    match ledger::action(observed, record, legacy, running, now) {
        Ok(action) => {
            decision.is_recorded = true;
            decision.actions.extend(action);
        }
        Err(refusal) => decision.refusal = decision.refusal.or(Some(refusal)),
    }
    let (user_tokens, not_accepted) = user_tokens::accepted(observed.service, domain);
    decision.refusal = decision.refusal.or_else(|| running.refusal.clone()).or(not_accepted);
    let policy = match policy::text(observed, domain, running, user_tokens) {
        Ok(text) => text,
        Err(refusal) => {
            decision.refusal = Some(refusal);
            return decision;
        }
    };
    decision.policy_hash = Some(sha256_hex(policy.as_bytes()));
    match policy_action(observed, policy, modes::event(observed, running)) {
        Ok(change) => {
            decision.policy_published = change.is_none();
            decision.actions.extend(change.map(|change| Action::Write(Box::new(published::POLICY.date(change, now)))));
        }
        Err(refusal) => decision.refusal = decision.refusal.or(Some(refusal)),
    }
    decision
}

/// The policy that its instances are to enforce, if that is the one in its ConfigMap.
fn published_policy(observed: &Observed<'_>, decision: &Decision, now: Timestamp) -> Option<PolicyFile> {
    let file = published::POLICY.published(observed.policy.ours()?, now)?;
    let meta = &observed.service.metadata;
    let object = policy_key(meta.namespace.as_deref().unwrap_or_default(), meta.name.as_deref().unwrap_or_default());
    (Some(&file.hash) == decision.policy_hash.as_ref()).then_some(PolicyFile { object, file })
}

fn policy_key(namespace: &str, service: &str) -> ObjectKey {
    ObjectKey::config_map(namespace, names::policy(service))
}

fn policy_action(
    observed: &Observed<'_>,
    policy: String,
    mode_event: Option<Event>,
) -> Result<Option<ObjectChange>, Refusal> {
    let meta = &observed.service.metadata;
    let hash = sha256_hex(policy.as_bytes());
    let was_published = observed.service.status.as_ref().is_some_and(|status| status.policy_hash == Some(hash));
    let object = policy_key(meta.namespace.as_deref().unwrap_or_default(), meta.name.as_deref().unwrap_or_default());
    let desired = config_map(observed, object, "policy", (key::POLICY, policy));
    match &observed.policy {
        Ownership::Unreadable(why) => Err(unreadable(&desired.key, why)),
        Ownership::Absent if observed.policy_lost => {
            let message = format!("recreated {} after its deletion", desired.key);
            Ok(Some(desired.create().with_event(reason::REPAIRED, message)))
        }
        Ownership::Absent => Ok(Some(desired.create())),
        Ownership::Ours(facts) => match desired.change_from(facts) {
            Some(change) if facts.immutable && !change.data.is_empty() => Err(immutable(&desired.key)),
            // A policy changes with its service, and that is no repair.
            Some(change) if was_published => {
                let message = format!("{}: restored {}", desired.key, change.summary());
                Ok(Some(change.with_event(reason::REPAIRED, message)))
            }
            change => Ok(change.map(|change| ObjectChange { event: mode_event, ..change })),
        },
        Ownership::Foreign => Err(not_owned(&desired.key, None)),
    }
}

/// A ConfigMap of this service.
fn config_map(
    observed: &Observed<'_>,
    key: ObjectKey,
    component: &str,
    (name, content): (&str, String),
) -> DesiredObject {
    DesiredObject {
        owner: Some(owner("GaiaService", &observed.service.metadata)),
        ..projection::config_map(key, observed.domain.name, component, BTreeMap::from([(name.to_owned(), content)]))
    }
}

fn status(
    observed: &Observed<'_>,
    decision: &Decision,
    legacy: &Legacy<'_>,
    running: &Effective,
    now: Timestamp,
) -> GaiaServiceStatus {
    let service = observed.service;
    let before = service.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    let is_accepted = was_settled(service);
    let report = Report { before, is_accepted, generation: service.metadata.generation, now };
    let child = observed.child.ours().copied();
    let of_child = child.and_then(child::stalled);
    let obstacles = Obstacles {
        refusal: decision.refusal.as_ref().or(of_child.as_ref()),
        // A failure is reported while the failed work is still to be done.
        failures: observed.failures.filter(|_| !decision.actions.is_empty()),
        pending: decision
            .actions
            .first()
            .map(|action| (reason::RECONCILING, action.to_string()))
            .or_else(|| child.and_then(child::pending)),
    };
    let certificate_ready = child::ready(child);
    let ready = match (&certificate_ready, decision.policy_published) {
        (Ok(message), true) => Ok(message.clone()),
        (Err(problem), _) => Err(problem.clone()),
        (Ok(_), false) => Err((reason::RECONCILING, "the policy is not published yet".to_owned())),
    };
    let mut conditions = report.standard(ready, &obstacles);
    conditions.push(match certificate_ready {
        Ok(message) => report.condition(CERTIFICATE_READY, Truth::True, reason::READY, message),
        Err((reason, message)) => report.condition(CERTIFICATE_READY, Truth::False, reason, message),
    });
    conditions.push(if decision.policy_published {
        report.condition(POLICY_PUBLISHED, Truth::True, reason::PUBLISHED, String::new())
    } else {
        report.condition(POLICY_PUBLISHED, Truth::False, reason::RECONCILING, String::new())
    });
    conditions.push(child::served(&report, child));
    let condition = &legacy.legacy_free;
    conditions.push(report.condition(LEGACY_FREE, condition.truth, condition.reason, condition.message.clone()));
    let tls = modes::tls(observed, decision.policy_published, running, now);
    let plain = api_key_usage::plain_free(service, legacy, tls.as_ref().map(|tls| tls.mode), now);
    conditions.push(report.condition(PLAIN_FREE, plain.truth, plain.reason, plain.message));
    let mut warnings = warnings::of(observed);
    warnings.extend(grants::too_large(observed));
    warnings.extend(targets::too_large(observed));
    warnings.extend(endpoints::warnings(observed));
    conditions.extend(report.warnings(warnings));
    let (reason, message) = headline(&conditions);
    GaiaServiceStatus {
        observed_generation: service.metadata.generation,
        auth: Some(AuthStatus { mode: running.mode, desired_mode: mode::desired(service, observed.domain.object) }),
        tls,
        certificate: child.map(|child| CertificateSummary {
            name: child.metadata.name.clone().unwrap_or_default(),
            not_after: child.status.as_ref().and_then(|status| status.not_after),
            served: child.status.as_ref().and_then(|status| Some(status.served.as_ref()?.summary.clone())),
            issuer: child.status.as_ref().and_then(|status| status.issuer.clone()),
            revision: child.status.as_ref().and_then(|status| status.revision),
        }),
        legacy: api_key_usage::status(service, legacy.stored),
        policy_hash: decision.policy_hash.clone().filter(|_| decision.policy_published),
        reason,
        message,
        conditions,
        ..GaiaServiceStatus::default()
    }
}

fn value(object: &impl serde::Serialize) -> Value {
    // Gaia's own types have string keys only, so they always have a JSON form.
    serde_json::to_value(object).unwrap_or_default()
}

const MESH_PORT: i32 = 8443;
const RETRY_CAP: Duration = Duration::from_secs(600);
const FOREIGN_RECHECK: Duration = Duration::from_secs(10);
