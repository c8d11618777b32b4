//! Probes of endpoints. A tenant chooses their hosts and ports, so a probe reveals only its own instances: every
//! failure has the same reason and takes the same time.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use gaia_api::Clock;
use gaia_plan::instances::endpoint::{Host, NO_ANSWER, admits};
use gaia_plan::instances::instance::Shown;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::dial::{self, Failure, Look};
use super::identity::Client;
use crate::cache::{DialRules, Subject};

/// Looks up the addresses of a name.
pub(super) trait Resolver: Send + Sync {
    fn resolve(&self, name: String) -> BoxFuture<'static, io::Result<Vec<IpAddr>>>;
}

/// The resolver of the operator's host.
pub(super) struct SystemResolver;

impl Resolver for SystemResolver {
    fn resolve(&self, name: String) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> {
        async move {
            let found = tokio::net::lookup_host((name, 0)).await?;
            Ok(found.map(|address| address.ip()).collect())
        }
        .boxed()
    }
}

/// Resolves, checks and dials endpoints.
pub(super) struct EndpointDialer {
    resolver: Arc<dyn Resolver>,
    /// The time from its start to the end of a failed probe. No attempt takes longer.
    failed_after: Duration,
}

/// The result of a probe of an endpoint.
pub(super) enum Outcome {
    /// An address is not allowed. No connection was opened.
    Refused,
    /// The addresses of a name. None was dialled.
    Resolved(BTreeSet<IpAddr>),
    Looked {
        look: Box<Look>,
        /// Of a name: the addresses that it has now.
        answer: BTreeSet<IpAddr>,
        /// True if the address refused the connection, or presented another SPIFFE ID.
        is_vacant: bool,
    },
}

impl EndpointDialer {
    pub(super) fn new(resolver: Arc<dyn Resolver>) -> Self {
        Self { resolver, failed_after: dial::TOTAL }
    }

    /// Resolves the name of an endpoint once, checks every address, and dials the address of the subject, if it is one.
    pub(super) async fn look(
        &self,
        subject: &Subject,
        rules: &DialRules,
        client: &Client,
        clock: &dyn Clock,
    ) -> Outcome {
        let end = Instant::now() + self.failed_after;
        let attempt = timeout_at(end, self.attempt(subject, rules, client, clock)).await;
        let outcome = match attempt {
            Ok(Outcome::Looked { look, answer, is_vacant }) if look.failure.is_some() => {
                Outcome::Looked { look: Box::new(uniform(*look, subject)), answer, is_vacant }
            }
            Ok(Outcome::Refused) => Outcome::Refused,
            Ok(outcome) => return outcome,
            Err(_) => {
                Outcome::Looked { look: Box::new(unanswered(subject)), answer: BTreeSet::new(), is_vacant: false }
            }
        };
        sleep_until(end).await;
        outcome
    }

    async fn attempt(&self, subject: &Subject, rules: &DialRules, client: &Client, clock: &dyn Clock) -> Outcome {
        let answer: BTreeSet<IpAddr> = match &rules.name {
            Some(name) => self.resolver.resolve(name.clone()).await.unwrap_or_default().into_iter().collect(),
            None => BTreeSet::new(),
        };
        let own = match &subject.address.host {
            Host::Address(address) => Some(*address),
            Host::Name(_) => None,
        };
        if !answer.iter().chain(&own).all(|address| admits(&rules.grants, *address, &rules.api_server)) {
            return Outcome::Refused;
        }
        match own {
            Some(address) => {
                let look = dial::look(subject, SocketAddr::new(address, subject.address.port), client, clock).await;
                let refuses = matches!(look.failure, Some(Failure::Refused | Failure::Unreachable));
                Outcome::Looked { is_vacant: refuses || look.is_other, look: Box::new(look), answer }
            }
            None if answer.is_empty() => {
                Outcome::Looked { look: Box::new(unanswered(subject)), answer, is_vacant: false }
            }
            None => Outcome::Resolved(answer),
        }
    }
}

/// A failed probe, without anything that distinguishes failures. The leaf of a verified instance is kept.
fn uniform(look: Look, subject: &Subject) -> Look {
    match look.seen {
        Ok(shown) if shown.is_verified => Look {
            seen: Ok(Shown { report: shown.report.map_err(|_| NO_ANSWER.to_owned()), ..shown }),
            ledger: look.ledger.map(|reading| reading.map_err(|_| NO_ANSWER.to_owned())),
            not_after: look.not_after,
            failure: Some(Failure::Endpoint),
            is_other: false,
        },
        _ => unanswered(subject),
    }
}

fn unanswered(subject: &Subject) -> Look {
    Look {
        seen: Err(NO_ANSWER.to_owned()),
        ledger: subject.has_ledger.then(|| Err(NO_ANSWER.to_owned())),
        not_after: None,
        failure: Some(Failure::Endpoint),
        is_other: false,
    }
}

#[cfg(test)]
mod tests;
