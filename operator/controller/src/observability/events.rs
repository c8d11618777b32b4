//! Kubernetes Events: sent in the background, bounded by namespace, and repeated ones counted rather than sent again.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use gaia_api::Clock;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::{Event, EventSeries};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::Client;
use tokio::sync::Notify;

use crate::api_server::object::read_metadata;
use crate::api_server::{ApiServer, CallError, Resource, within};
use crate::observability::metrics::Metrics;
use crate::queue::fair::Fair;

/// An Event to publish about an object.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Notice {
    pub(crate) about: ObjectReference,
    pub(crate) warning: bool,
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

impl Notice {
    /// The namespace of its Event. Events about cluster-scoped objects live in namespace `default`.
    fn namespace(&self) -> &str {
        self.about.namespace.as_deref().unwrap_or("default")
    }

    /// The lane that it waits in: events of TrustDomains do not wait with those of a namespace.
    fn lane(&self) -> &str {
        self.about.namespace.as_deref().unwrap_or_default()
    }
}

/// Takes notices without waiting.
#[derive(Clone)]
pub(crate) struct Events {
    outbox: Arc<Outbox>,
    _open: Arc<Open>,
    metrics: Metrics,
}

/// Closes the outbox with the last handle.
struct Open(Arc<Outbox>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.lock().is_closed = true;
        self.0.changed.notify_waiters();
        self.0.changed.notify_one();
    }
}

impl Events {
    /// Sends notices in the background until the last handle is dropped.
    pub(crate) fn start(
        client: Client,
        instance: String,
        clock: Arc<dyn Clock>,
        metrics: Metrics,
    ) -> (Self, tokio::task::JoinHandle<()>) {
        let recorder = Recorder { api: ApiServer::new(client), instance, clock, recent: Mutex::new(VecDeque::new()) };
        Self::start_with(recorder, metrics)
    }

    /// The same with another receiver.
    pub(crate) fn start_with(sink: impl Sink, metrics: Metrics) -> (Self, tokio::task::JoinHandle<()>) {
        let outbox = Arc::new(Outbox::new());
        let sink = Arc::new(sink);
        let senders: Vec<_> = (0..SENDERS)
            .map(|_| tokio::spawn(send_all(Arc::clone(&sink), Arc::clone(&outbox), metrics.clone())))
            .collect();
        let sending = tokio::spawn(async move { drop(futures::future::join_all(senders).await) });
        let open = Arc::new(Open(Arc::clone(&outbox)));
        (Self { outbox, _open: open, metrics }, sending)
    }

    /// Queues a notice. If the queue is full, the newest notice of the namespace with the most notices is dropped.
    pub(crate) fn tell(&self, notice: Notice) {
        self.metrics.events_dropped.inc_by(self.outbox.push(notice));
    }
}

/// Notices that wait to be sent: in order within a namespace, and by [`Fair`] among namespaces.
struct Outbox {
    inner: Mutex<Waiting>,
    changed: Notify,
}

struct Waiting {
    notices: Fair<Notice>,
    is_closed: bool,
}

impl Outbox {
    fn new() -> Self {
        let inner = Waiting { notices: Fair::in_order(SENDERS), is_closed: false };
        Self { inner: Mutex::new(inner), changed: Notify::new() }
    }

    /// Returns the number of dropped notices.
    fn push(&self, notice: Notice) -> u64 {
        let mut inner = self.lock();
        let lane = notice.lane().to_owned();
        if inner.notices.waiting_in(&lane) >= MOST_OF_A_NAMESPACE {
            return 1;
        }
        inner.notices.push(&lane, notice);
        let is_too_much = inner.notices.waiting() > MOST;
        let longest = inner.notices.longest().filter(|_| is_too_much).map(str::to_owned);
        let dropped = longest.and_then(|lane| inner.notices.drop_newest(&lane));
        self.changed.notify_one();
        u64::from(dropped.is_some())
    }

    /// The next notice; its lane is to be released. None once the outbox is closed and empty.
    async fn next(&self) -> Option<Notice> {
        loop {
            let changed = self.changed.notified();
            {
                let mut inner = self.lock();
                if let Some(notice) = inner.notices.take() {
                    if inner.notices.can_take() {
                        self.changed.notify_one();
                    }
                    return Some(notice);
                }
                if inner.is_closed && inner.notices.waiting() == 0 {
                    self.changed.notify_one();
                    return None;
                }
            }
            changed.await;
        }
    }

    fn release(&self, lane: &str) {
        self.lock().notices.release(lane);
        self.changed.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A receiver of notices.
pub(crate) trait Sink: Send + Sync + 'static {
    /// Sends one.
    ///
    /// # Errors
    /// The cause, in Gaia's own words.
    fn send(&self, notice: &Notice) -> impl Future<Output = Result<(), String>> + Send;
}

/// Sends notices until the outbox is closed and empty.
async fn send_all(sink: Arc<impl Sink>, outbox: Arc<Outbox>, metrics: Metrics) {
    while let Some(notice) = outbox.next().await {
        if let Err(error) = sink.send(&notice).await {
            metrics.events_dropped.inc();
            tracing::warn!(%error, reason = notice.reason, "an event could not be sent");
        }
        outbox.release(notice.lane());
    }
}

impl Sink for Recorder {
    async fn send(&self, notice: &Notice) -> Result<(), String> {
        within(TIMEOUT, self.record(notice)).await.map_err(|error| error.to_string())
    }
}

struct Recorder {
    api: ApiServer,
    instance: String,
    clock: Arc<dyn Clock>,
    /// The last notices and the events they became, newest last.
    recent: Mutex<VecDeque<(Notice, Sent)>>,
}

#[derive(Clone)]
struct Sent {
    namespace: String,
    name: String,
    count: i32,
    at: Timestamp,
}

impl Recorder {
    async fn record(&self, notice: &Notice) -> Result<(), CallError> {
        let now = self.clock.now();
        if let Some(sent) = self.sent_before(notice, now) {
            return self.count(notice, sent, now).await;
        }
        let event = self.event(notice, now);
        let namespace = event.metadata.namespace.clone().unwrap_or_default();
        let made = self.api.create(Resource::EVENT, Some(&namespace), &event).await?;
        let made = read_metadata(&made).map_err(|fault| CallError::Answer(fault.to_string()))?;
        self.remember(notice, Sent { namespace, name: made.name.unwrap_or_default(), count: 1, at: now });
        Ok(())
    }

    async fn count(&self, notice: &Notice, mut sent: Sent, now: Timestamp) -> Result<(), CallError> {
        sent.count += 1;
        sent.at = now;
        let series = EventSeries { count: sent.count, last_observed_time: MicroTime(now) };
        let patch = serde_json::json!({ "series": series });
        self.api.patch(Resource::EVENT, Some(&sent.namespace), &sent.name, None, &patch).await?;
        self.remember(notice, sent);
        Ok(())
    }

    /// The Event that an equal notice was published as recently. It is stored again once its count is updated.
    fn sent_before(&self, notice: &Notice, now: Timestamp) -> Option<Sent> {
        let mut recent = self.recent();
        let position = recent.iter().position(|(known, sent)| known == notice && is_recent(sent, now))?;
        recent.remove(position).map(|(_, sent)| sent)
    }

    fn remember(&self, notice: &Notice, sent: Sent) {
        let mut recent = self.recent();
        if recent.len() == REMEMBERED {
            recent.pop_front();
        }
        recent.push_back((notice.clone(), sent));
    }

    fn recent(&self) -> MutexGuard<'_, VecDeque<(Notice, Sent)>> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn event(&self, notice: &Notice, now: Timestamp) -> Event {
        let about = &notice.about;
        Event {
            metadata: ObjectMeta {
                name: Some(format!("{}.{:x}", about.name.as_deref().unwrap_or("gaia"), now.as_nanosecond())),
                namespace: Some(notice.namespace().to_owned()),
                ..Default::default()
            },
            action: Some("Reconcile".to_owned()),
            event_time: Some(MicroTime(now)),
            note: Some(notice.message.chars().take(1000).collect()),
            reason: Some(notice.reason.to_owned()),
            regarding: Some(about.clone()),
            reporting_controller: Some("gaia.dev/gaia-operator".to_owned()),
            reporting_instance: Some(self.instance.clone()),
            type_: Some(if notice.warning { "Warning" } else { "Normal" }.to_owned()),
            ..Default::default()
        }
    }
}

fn is_recent(sent: &Sent, now: Timestamp) -> bool {
    gaia_plan::pacing::backoff::since(now, sent.at) < SERIES
}

const SENDERS: usize = 16;
/// Notices that wait in all.
const MOST: usize = 4096;
const MOST_OF_A_NAMESPACE: usize = 512;
const REMEMBERED: usize = 128;
const SERIES: Duration = Duration::from_secs(360);
const TIMEOUT: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    fn notice(namespace: &str, n: usize) -> Notice {
        let about = ObjectReference {
            namespace: Some(namespace.to_owned()).filter(|namespace| !namespace.is_empty()),
            name: Some(n.to_string()),
            ..Default::default()
        };
        Notice { about, warning: false, reason: "Repaired", message: String::new() }
    }

    fn name(notice: Option<Notice>) -> Option<(String, String)> {
        notice.map(|notice| (notice.lane().to_owned(), notice.about.name.unwrap_or_default()))
    }

    #[tokio::test(start_paused = true)]
    async fn events_of_one_namespace_wait_for_no_other() {
        let outbox = Outbox::new();
        for n in 0..400 {
            outbox.push(notice("busy", n));
        }
        outbox.push(notice("shop", 1));
        outbox.push(notice("", 2));
        // None of them is answered.
        let taken = [outbox.next().await, outbox.next().await, outbox.next().await].map(name);
        let expected = [("busy", "0"), ("shop", "1"), ("", "2")];
        assert_eq!(taken, expected.map(|(lane, name)| Some((lane.to_owned(), name.to_owned()))));
        let more = tokio::time::timeout(Duration::from_secs(60), outbox.next()).await;
        assert!(more.is_err(), "those of a namespace are sent in order");
        outbox.release("busy");
        assert_eq!(name(outbox.next().await), Some(("busy".to_owned(), "1".to_owned())));
    }

    #[test]
    fn a_namespace_with_too_many_events_drops_its_own() {
        let outbox = Outbox::new();
        let dropped: u64 = (0..600).map(|n| outbox.push(notice("busy", n))).sum();
        assert_eq!(dropped, 88);
        let dropped: u64 = (0..10)
            .flat_map(|lane| (0..512).map(move |n| (lane, n)))
            .map(|(lane, n)| outbox.push(notice(&format!("tenant-{lane}"), n)))
            .sum();
        assert_eq!(dropped, 512 + 5120 - 4096);
        assert_eq!(outbox.push(notice("shop", 1)), 1, "another one is dropped");
        assert_eq!(outbox.lock().notices.waiting_in("shop"), 1);
        assert_eq!(outbox.lock().notices.waiting(), 4096);
    }

    #[tokio::test(start_paused = true)]
    async fn what_waits_is_sent_before_the_outbox_ends() {
        let outbox = Arc::new(Outbox::new());
        let open = Open(Arc::clone(&outbox));
        outbox.push(notice("shop", 1));
        drop(open);
        assert!(outbox.next().await.is_some());
        assert!(outbox.next().await.is_none() && outbox.next().await.is_none());
    }
}
