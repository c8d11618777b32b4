//! Kubernetes Events: sent in the background, bounded, and repeated ones counted rather than sent again.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use gaia_api::Clock;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::{Event, EventSeries};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use tokio::sync::mpsc;

use crate::metrics::Metrics;

/// What is to be told about an object.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Notice {
    pub(crate) about: ObjectReference,
    pub(crate) warning: bool,
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

/// Takes notices without waiting.
#[derive(Clone)]
pub(crate) struct Events {
    sender: mpsc::Sender<Notice>,
    metrics: Metrics,
}

impl Events {
    /// Sends notices in the background until the last handle is dropped.
    pub(crate) fn start(
        client: Client,
        instance: String,
        clock: Arc<dyn Clock>,
        metrics: Metrics,
    ) -> (Self, tokio::task::JoinHandle<()>) {
        let (sender, receiver) = mpsc::channel(CAPACITY);
        let recorder = Recorder { client, instance, clock, metrics: metrics.clone(), recent: VecDeque::new() };
        (Self { sender, metrics }, tokio::spawn(recorder.run(receiver)))
    }

    /// Tells of something; drops it if too much is waiting already.
    pub(crate) fn tell(&self, notice: Notice) {
        if self.sender.try_send(notice).is_err() {
            self.metrics.events_dropped.inc();
        }
    }
}

struct Recorder {
    client: Client,
    instance: String,
    clock: Arc<dyn Clock>,
    metrics: Metrics,
    /// The last notices and the events they became, newest last.
    recent: VecDeque<(Notice, Sent)>,
}

#[derive(Clone)]
struct Sent {
    namespace: String,
    name: String,
    count: i32,
    at: Timestamp,
}

impl Recorder {
    async fn run(mut self, mut notices: mpsc::Receiver<Notice>) {
        while let Some(notice) = notices.recv().await {
            let sending = tokio::time::timeout(TIMEOUT, self.send(&notice));
            let failed = match sending.await {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(error.to_string()),
                Err(_) => Some("no answer".to_owned()),
            };
            if let Some(error) = failed {
                self.metrics.events_dropped.inc();
                tracing::warn!(error, reason = notice.reason, "an event could not be sent");
            }
        }
    }

    async fn send(&mut self, notice: &Notice) -> Result<(), kube::Error> {
        let now = self.clock.now();
        let position = self.recent.iter().position(|(known, sent)| known == notice && is_recent(sent, now));
        if let Some((_, sent)) = position.and_then(|index| self.recent.remove(index)) {
            return self.count(notice, sent, now).await;
        }
        let event = self.event(notice, now);
        let namespace = event.metadata.namespace.clone().unwrap_or_default();
        let api: Api<Event> = Api::namespaced(self.client.clone(), &namespace);
        let made = api.create(&PostParams::default(), &event).await?;
        self.remember(notice, Sent { namespace, name: made.metadata.name.unwrap_or_default(), count: 1, at: now });
        Ok(())
    }

    async fn count(&mut self, notice: &Notice, mut sent: Sent, now: Timestamp) -> Result<(), kube::Error> {
        sent.count += 1;
        sent.at = now;
        let series = EventSeries { count: sent.count, last_observed_time: MicroTime(now) };
        let api: Api<Event> = Api::namespaced(self.client.clone(), &sent.namespace);
        let patch = Patch::Merge(serde_json::json!({ "series": series }));
        api.patch(&sent.name, &PatchParams::default(), &patch).await?;
        self.remember(notice, sent);
        Ok(())
    }

    fn remember(&mut self, notice: &Notice, sent: Sent) {
        if self.recent.len() == REMEMBERED {
            self.recent.pop_front();
        }
        self.recent.push_back((notice.clone(), sent));
    }

    fn event(&self, notice: &Notice, now: Timestamp) -> Event {
        let about = &notice.about;
        // Events about cluster-scoped objects live in namespace default.
        let namespace = about.namespace.clone().unwrap_or_else(|| "default".to_owned());
        Event {
            metadata: ObjectMeta {
                name: Some(format!("{}.{:x}", about.name.as_deref().unwrap_or("gaia"), now.as_nanosecond())),
                namespace: Some(namespace),
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
    gaia_plan::backoff::since(now, sent.at) < SERIES
}

const CAPACITY: usize = 4096;
const REMEMBERED: usize = 128;
const SERIES: Duration = Duration::from_secs(360);
const TIMEOUT: Duration = Duration::from_secs(10);
