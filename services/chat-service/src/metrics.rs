//! Metrics of chats. Label values are bounded: none comes from request data.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use tokio::time::Instant;

/// The metrics of chat-service.
#[derive(Debug, Clone)]
pub(crate) struct ChatMetrics {
    requests: Family<Labels, Counter>,
    durations: Family<Labels, Histogram>,
    first_text: Histogram,
    characters: Counter,
    streams: Gauge,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    result: &'static str,
}

/// One chat, counted when it ends: with its result, or as cancelled by the client.
#[derive(Debug)]
pub(crate) struct Account {
    metrics: ChatMetrics,
    began: Instant,
    has_text: bool,
    result: &'static str,
}

impl ChatMetrics {
    pub(crate) fn new() -> Self {
        Self {
            requests: Family::default(),
            durations: Family::new_with_constructor(|| Histogram::new(exponential_buckets(0.05, 2.0, 14))),
            first_text: Histogram::new(exponential_buckets(0.05, 2.0, 12)),
            characters: Counter::default(),
            streams: Gauge::default(),
        }
    }

    pub(crate) fn register(&self, registry: &mut Registry) {
        registry.register("gaia_chat_requests", "Chats, by result", self.requests.clone());
        registry.register("gaia_chat_duration_seconds", "Duration of chats", self.durations.clone());
        registry.register(
            "gaia_chat_first_text_seconds",
            "Time from the request to the first text of the answer",
            self.first_text.clone(),
        );
        registry.register("gaia_chat_streamed_characters", "Characters of answers", self.characters.clone());
        registry.register("gaia_chat_streams", "Chats in progress", self.streams.clone());
    }

    pub(crate) fn begin(&self) -> Account {
        self.streams.inc();
        Account { metrics: self.clone(), began: Instant::now(), has_text: false, result: CLIENT_GONE }
    }
}

impl Account {
    /// Records a part of the answer.
    pub(crate) fn text(&mut self, text: &str) {
        if !self.has_text {
            self.has_text = true;
            self.metrics.first_text.observe(self.began.elapsed().as_secs_f64());
        }
        self.metrics.characters.inc_by(text.chars().count() as u64);
    }

    /// Sets the result.
    pub(crate) fn came_to(&mut self, result: &'static str) {
        self.result = result;
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        let labels = Labels { result: self.result };
        self.metrics.requests.get_or_create(&labels).inc();
        self.metrics.durations.get_or_create(&labels).observe(self.began.elapsed().as_secs_f64());
        self.metrics.streams.dec();
    }
}

/// The client disconnected.
const CLIENT_GONE: &str = "client_gone";
