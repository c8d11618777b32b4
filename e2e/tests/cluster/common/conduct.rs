//! Treatment of an operator's calls through a [`Proxy`](super::faults::proxy::Proxy).

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use http::{Method, Request};
use kube::client::Body;

use super::faults::fault::Fault;

/// The relevant parts of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    pub method: Method,
    pub path: String,
    /// True if it is a write, apart from leases, events and the like.
    pub is_change: bool,
    /// True if it is a watch.
    pub is_watch: bool,
}

impl Call {
    pub fn of(request: &Request<Body>) -> Self {
        let path = request.uri().path().to_owned();
        let reads = [Method::GET, Method::HEAD, Method::OPTIONS].contains(request.method());
        let is_change = !reads && !path.contains("/leases") && !path.contains("/events");
        let is_watch = request.uri().query().is_some_and(|query| query.split('&').any(|part| part == "watch=true"));
        Self { method: request.method().clone(), path, is_change, is_watch }
    }
}

/// Treatment of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Pass,
    /// It is not sent; this is the answer.
    Refuse(u16),
    /// It is not sent; the answer is that of a watch which ends at once with 410 Gone.
    Forget,
    /// The API server executes it; if its answer holds a private key, the answer is broken.
    Break(Fault),
    /// The operator is killed; the API server never receives the call.
    KillBefore,
    /// The API server executes it; the operator is killed and never receives the answer.
    KillAfter,
}

/// Decides about each call.
pub trait Conduct: Send {
    fn judge(&mut self, call: &Call) -> Verdict;

    /// An answer was broken.
    fn note_broken(&mut self, _: Fault) {}

    /// Later edits follow from now on: earlier writes are not expected again.
    fn forget(&mut self) {}
}

/// The time of a kill.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// Before the API server receives the request.
    BeforeItIsSent,
    /// After the API server has executed it, before the operator receives the answer.
    AfterItIsDone,
}

impl Moment {
    fn verdict(self) -> Verdict {
        match self {
            Self::BeforeItIsSent => Verdict::KillBefore,
            Self::AfterItIsDone => Verdict::KillAfter,
        }
    }
}

/// Kills the operator once: at its change of that number, counted from 1.
pub struct AtChange {
    pub fatal: usize,
    pub moment: Moment,
    seen: usize,
}

impl AtChange {
    pub fn new(fatal: usize, moment: Moment) -> Self {
        Self { fatal, moment, seen: 0 }
    }
}

impl Conduct for AtChange {
    fn judge(&mut self, call: &Call) -> Verdict {
        self.seen += usize::from(call.is_change);
        if call.is_change && self.seen == self.fatal { self.moment.verdict() } else { Verdict::Pass }
    }
}

/// Kills the operator at each of its changes, in one run after the other.
///
/// A run has to repeat the changes at which earlier ones were killed, and those before: a ring is copied before it is replaced. So each
/// run is killed at its first new change.
pub struct AtEachChange {
    moment: Moment,
    /// The changes of earlier kills that are still missing, or, after they are done, the last of them.
    died_at: Vec<Call>,
}

impl AtEachChange {
    pub fn new(moment: Moment) -> Self {
        Self { moment, died_at: vec![] }
    }
}

impl Conduct for AtEachChange {
    fn judge(&mut self, call: &Call) -> Verdict {
        if !call.is_change {
            return Verdict::Pass;
        }
        let known = self.died_at.iter().position(|other| other == call);
        match (self.moment, known) {
            (Moment::BeforeItIsSent, Some(known)) => drop(self.died_at.swap_remove(known)),
            (Moment::AfterItIsDone, Some(_)) => {}
            (Moment::BeforeItIsSent, None) => {
                self.died_at.push(call.clone());
                return Verdict::KillBefore;
            }
            (Moment::AfterItIsDone, None) => {
                self.died_at = vec![call.clone()];
                return Verdict::KillAfter;
            }
        }
        Verdict::Pass
    }

    fn forget(&mut self) {
        self.died_at.clear();
    }
}

/// Kills the operator once it has replaced a certain object.
pub struct AfterReplacing {
    /// The end of that object's path.
    pub suffix: &'static str,
}

impl Conduct for AfterReplacing {
    fn judge(&mut self, call: &Call) -> Verdict {
        if call.method == Method::PUT && call.path.ends_with(self.suffix) { Verdict::KillAfter } else { Verdict::Pass }
    }
}

/// Faults of the API server, one after the other: refused calls, and the answers.
#[derive(Clone, Default)]
pub struct Weather {
    calls: Arc<AtomicUsize>,
    refused: Arc<AtomicUsize>,
    /// Three calls in ten are answered with 429, 503 or 500.
    pub overloaded: Arc<AtomicBool>,
    /// Every second change is answered with 409.
    pub contended: Arc<AtomicBool>,
    /// No watch can continue from its resourceVersion.
    pub forgetful: Arc<AtomicBool>,
    forgotten: Arc<Mutex<BTreeMap<String, Forgotten>>>,
}

/// The watches of a path.
#[derive(Default)]
struct Forgotten {
    /// The number of 410 answers.
    times: usize,
    /// The form of the 410, until everything is listed again.
    verdict: Option<Verdict>,
}

impl Weather {
    /// The number of refused calls.
    pub fn refused(&self) -> usize {
        self.refused.load(Ordering::SeqCst)
    }

    /// The number of new lists of each watch, by its path.
    pub fn forgotten(&self) -> BTreeMap<String, usize> {
        self.forgotten.lock().unwrap().iter().map(|(path, forgotten)| (path.clone(), forgotten.times)).collect()
    }

    /// A 410 is repeated: only a list helps.
    fn judge_watch(&self, call: &Call) -> Option<Verdict> {
        let mut all = self.forgotten.lock().unwrap();
        let forgotten = all.entry(call.path.clone()).or_default();
        if !call.is_watch {
            forgotten.verdict = None;
        } else if forgotten.verdict.is_none() && self.forgetful.load(Ordering::SeqCst) {
            // An API server may answer in either form.
            let is_first = forgotten.times.is_multiple_of(2);
            forgotten.verdict = Some(if is_first { Verdict::Refuse(410) } else { Verdict::Forget });
            forgotten.times += 1;
        }
        forgotten.verdict
    }
}

impl Conduct for Weather {
    fn judge(&mut self, call: &Call) -> Verdict {
        let is_bad = |day: &AtomicBool| day.load(Ordering::SeqCst);
        let refuse = |code| {
            self.refused.fetch_add(1, Ordering::SeqCst);
            Verdict::Refuse(code)
        };
        if is_bad(&self.overloaded) {
            // Random, but the same in every run.
            return match chance(self.calls.fetch_add(1, Ordering::SeqCst)) {
                0 => refuse(429),
                1 => refuse(503),
                2 => refuse(500),
                _ => Verdict::Pass,
            };
        }
        if call.method == Method::GET
            && let Some(verdict) = self.judge_watch(call)
        {
            return verdict;
        }
        if is_bad(&self.contended) && call.is_change && self.calls.fetch_add(1, Ordering::SeqCst).is_multiple_of(2) {
            return refuse(409);
        }
        Verdict::Pass
    }
}

/// A number from 0 to 9 (SplitMix64).
fn chance(n: usize) -> u64 {
    let mixed = (n as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (mixed ^ (mixed >> 31)) % 10
}
