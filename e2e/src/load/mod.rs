//! Traffic on a platform, with a result for every request: realistic callers, whose requests must not
//! fail during any rotation.
//!
//! A [`Load`] has two kinds of callers. The first is a service on gaia-runtime, [`Caller`], which calls with mutual TLS
//! and service tokens; the second is an external program with an API key, which reads only the mounted `ca.crt`.
//! Both put, get, list and delete small objects in asset-service, on kept connections and on new ones, and at intervals a
//! client with an unknown key calls, which must be refused. [`Negative`] verifies the same for credentials that are no longer valid.

mod account;
mod call;
mod caller;
mod negative;
mod report;
mod tls;
mod token;
mod worker;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use http::Uri;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};

pub use account::{Connection, Counts, Failure, Kind, Outcome, Record};
pub(crate) use call::in_words;
pub use caller::{Caller, CallerOptions, runtime_config};
pub use negative::{Negative, Verdict};
pub use report::Report;

use crate::services::ASSET_SERVICE;

use account::Account;
use tls::Outsider;
use token::Tokens;
use worker::{Role, Worker};

/// The callers of a load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Traffic {
    /// The service, with mutual TLS and a service token.
    Mtls,
    /// The external program, with an API key.
    ApiKey,
    /// Half of each.
    Both,
}

/// Options of a load.
#[derive(Clone)]
pub struct LoadOptions {
    /// The service that calls.
    pub caller: Arc<Caller>,
    /// The token issuer.
    pub auth_url: Uri,
    /// The called service.
    pub asset_url: Uri,
    /// The API key of the external program.
    pub api_key: Option<Arc<str>>,
    /// The callers.
    pub traffic: Traffic,
    /// Requests a second, all workers together. Each waits for its answer, so a slow platform gets fewer.
    pub rate: u32,
    /// The number of concurrent workers.
    pub workers: u32,
    /// The time after which the load ends.
    pub duration: Duration,
}

/// A platform under load. Dropping it ends the load in the middle of a request.
pub struct Load {
    account: Account,
    started: Instant,
    duration: Duration,
    stop: watch::Sender<bool>,
    workers: JoinSet<()>,
}

impl Load {
    /// Starts the workers.
    ///
    /// # Errors
    /// If the options are contradictory.
    pub fn start(options: LoadOptions) -> Result<Self> {
        let LoadOptions { caller, auth_url, asset_url, api_key, traffic, rate, workers: count, duration } = options;
        ensure!(rate > 0 && count > 0, "a load needs a rate and a number of workers above zero");
        let account = Account::new(Arc::clone(caller.clock()));
        let tokens = Arc::new(Tokens::new(Arc::clone(&caller), account.clone(), auth_url, ASSET_SERVICE));
        let (stop, stopped) = watch::channel(false);
        let started = Instant::now();
        let run = RUNS.fetch_add(1, Ordering::Relaxed);
        let mut workers = JoinSet::new();
        for index in 0..count {
            let is_service = match traffic {
                Traffic::Mtls => true,
                Traffic::ApiKey => false,
                Traffic::Both => index % 2 == 0,
            };
            let role = if is_service {
                Role::Service { caller: Arc::clone(&caller), tokens: Arc::clone(&tokens), kept: None }
            } else {
                let api_key = api_key.clone().context("calls with an API key need one")?;
                Role::Outsider { api_key }
            };
            let outsider = Outsider::new(&asset_url, caller.dir(), caller.hosts().clone(), Arc::clone(caller.clock()));
            let name = format!("{}-{run}-{index}", std::process::id());
            let worker = Worker::new(role, outsider, account.clone(), &asset_url, &name);
            let interval = Duration::from_secs(1) * count / rate;
            let first = started + interval * index / count;
            workers.spawn(work(worker, first, interval, started + duration, stopped.clone()));
        }
        Ok(Self { account, started, duration, stop, workers })
    }

    /// The counts of all completed requests.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.account.counts()
    }

    /// The counts of the completed requests of one kind.
    #[must_use]
    pub fn counts_of(&self, kind: Kind) -> Counts {
        self.account.counts_of(kind)
    }

    /// True if it has ended after its duration.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.started.elapsed() >= self.duration
    }

    /// Sends no further requests, waits for the open ones, and reports.
    pub async fn stop(self) -> Report {
        // The receivers may be gone: the load may have ended after its duration.
        let _ = self.stop.send(true);
        self.end().await
    }

    /// Waits until the load has ended after its duration, and reports.
    pub async fn end(mut self) -> Report {
        while self.workers.join_next().await.is_some() {}
        self.account.report(self.started.elapsed())
    }
}

async fn work(
    mut worker: Worker,
    first: Instant,
    interval: Duration,
    end: Instant,
    mut stopped: watch::Receiver<bool>,
) {
    let mut turns = tokio::time::interval_at(first, interval);
    // Slow answers are not followed by a burst of requests.
    turns.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            _ = turns.tick() => {}
            // An error means that the load was dropped.
            _ = stopped.wait_for(|stopped| *stopped) => return,
            () = tokio::time::sleep_until(end) => return,
        }
        worker.make_one().await;
    }
}

/// Loads of one process do not share objects.
static RUNS: AtomicU64 = AtomicU64::new(0);
/// Time-out of a request.
const TIMEOUT: Duration = Duration::from_secs(20);
