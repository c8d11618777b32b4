//! Traffic on a platform, with an account of every request: callers as they are in real life, whose requests must not
//! fail whatever is rotated meanwhile.
//!
//! A [`Load`] plays two kinds of callers. The first is a service on gaia-runtime, [`Caller`], which calls with mutual TLS
//! and service tokens; the second is a program from outside with an API key, which knows nothing but the mounted `ca.crt`.
//! Both put, get, list and delete small objects in asset-service, on kept connections and on new ones, and now and then a
//! stranger comes by, who must be refused. [`Negative`] asks the same of credentials that were good once.

mod account;
mod call;
mod caller;
mod histogram;
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

/// Which callers a load plays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Traffic {
    /// The service, with mutual TLS and a service token.
    Mtls,
    /// The program from outside, with an API key.
    ApiKey,
    /// Half of each.
    Both,
}

/// How to put a platform under load.
#[derive(Clone)]
pub struct LoadOptions {
    /// The service that calls.
    pub caller: Arc<Caller>,
    /// Where tokens are issued.
    pub auth_url: Uri,
    /// What is called.
    pub asset_url: Uri,
    /// The API key of the program from outside.
    pub api_key: Option<Arc<str>>,
    /// Who calls.
    pub traffic: Traffic,
    /// Requests a second, all workers together. They wait for their answers, so a slow platform gets fewer.
    pub rate: u32,
    /// How many call at the same time.
    pub workers: u32,
    /// When the load ends by itself.
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
    /// If the options do not make sense.
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

    /// What all requests came to that are over.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.account.counts()
    }

    /// What the requests of one kind came to that are over.
    #[must_use]
    pub fn counts_of(&self, kind: Kind) -> Counts {
        self.account.counts_of(kind)
    }

    /// Whether it has ended by itself.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.started.elapsed() >= self.duration
    }

    /// Makes no further requests, waits for the answers to those under way, and reports.
    pub async fn stop(self) -> Report {
        // Nobody may be left to hear it: the load may have ended by itself.
        let _ = self.stop.send(true);
        self.end().await
    }

    /// Waits until the load has ended by itself, and reports.
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
    // Answers that were long in coming are not made up for by a burst of requests.
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
/// What a caller waits for an answer.
const TIMEOUT: Duration = Duration::from_secs(20);
