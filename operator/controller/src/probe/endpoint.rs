//! Probes of endpoints. A tenant chooses their hosts and ports, so a probe tells of its own instances only: every failure
//! has the same reason and takes the same time.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use gaia_api::Clock;
use gaia_plan::endpoint::{Host, NO_ANSWER, admits};
use gaia_plan::instance::Shown;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::dial::{self, Failure, Look};
use super::identity::Client;
use crate::world::{DialRules, Subject};

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
    /// How long after its start a failed probe ends. No attempt takes longer.
    failed_after: Duration,
}

/// Why an endpoint was not dialled, or what came of it.
enum Attempt {
    Refused,
    Unresolved,
    Looked(Box<Look>),
}

impl EndpointDialer {
    pub(super) fn new(resolver: Arc<dyn Resolver>) -> Self {
        Self { resolver, failed_after: dial::TOTAL }
    }

    /// Resolves the host once, checks every address, and dials those that were checked. None: an address is not allowed,
    /// and nothing was dialled.
    pub(super) async fn look(
        &self,
        subject: &Subject,
        rules: &DialRules,
        client: &Client,
        clock: &dyn Clock,
    ) -> Option<Look> {
        let end = Instant::now() + self.failed_after;
        let attempt = timeout_at(end, self.attempt(subject, rules, client, clock)).await;
        let look = match attempt.unwrap_or(Attempt::Unresolved) {
            Attempt::Looked(look) if look.failure.is_none() => return Some(*look),
            Attempt::Looked(look) => Some(uniform(*look, subject)),
            Attempt::Unresolved => Some(unanswered(subject)),
            Attempt::Refused => None,
        };
        sleep_until(end).await;
        look
    }

    async fn attempt(&self, subject: &Subject, rules: &DialRules, client: &Client, clock: &dyn Clock) -> Attempt {
        let addresses = match &subject.address.host {
            Host::Address(address) => Ok(vec![*address]),
            Host::Name(name) => self.resolver.resolve(name.clone()).await,
        };
        let addresses = addresses.unwrap_or_default();
        if !addresses.iter().all(|address| admits(&rules.grants, *address, &rules.api_server)) {
            return Attempt::Refused;
        }
        let mut last = Attempt::Unresolved;
        for address in addresses {
            let look = dial::look(subject, SocketAddr::new(address, subject.address.port), client, clock).await;
            if look.failure.is_none() {
                return Attempt::Looked(Box::new(look));
            }
            last = Attempt::Looked(Box::new(look));
        }
        last
    }
}

/// A failed look without what tells one failure from another. The leaf of a verified instance stays.
fn uniform(look: Look, subject: &Subject) -> Look {
    match look.seen {
        Ok(shown) if shown.is_verified => Look {
            seen: Ok(Shown { report: shown.report.map_err(|_| NO_ANSWER.to_owned()), ..shown }),
            ledger: look.ledger.map(|reading| reading.map_err(|_| NO_ANSWER.to_owned())),
            not_after: look.not_after,
            failure: Some(Failure::Endpoint),
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
    }
}

#[cfg(test)]
mod tests;
