//! Gaia's chat-service: answers from a provider that speaks OpenAI's chat completions protocol, streamed.
//!
//! `POST /chat` with the scope `chat:write`. Who asks is settled before by gaia-auth; the provider sees the messages and
//! this service's own key, and nothing of the caller's credential.

mod api;
mod chat;
pub mod config;
pub mod error;
mod metrics;
pub mod provider;
pub mod question;
pub mod slots;
#[cfg(test)]
mod tests;

use std::future::Future;
use std::sync::Arc;

use gaia_api::Clock;
use gaia_runtime::{Room, Routes, Runtime};

pub use config::Config;

use crate::api::Endpoint;
use crate::chat::Chats;
use crate::metrics::ChatMetrics;
use crate::provider::{Provider, ProviderConfigError};
use crate::slots::Slots;

/// Why the service did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The provider cannot be called.
    #[error(transparent)]
    Provider(#[from] ProviderConfigError),
    /// The runtime did not start.
    #[error(transparent)]
    Runtime(#[from] gaia_runtime::StartError),
}

/// A started chat-service, with its addresses.
#[derive(Debug)]
pub struct ChatService {
    /// The runtime it is served by.
    pub runtime: Runtime,
    routes: Routes,
}

impl ChatService {
    /// Takes what is mounted and binds the addresses. The provider is not called before somebody asks.
    ///
    /// # Errors
    /// [`StartError`] if an address cannot be had, or there are no root certificates to verify the provider by.
    pub async fn start(config: Config, clock: Arc<dyn Clock>) -> Result<Self, StartError> {
        let metrics = ChatMetrics::new();
        let chats = Chats {
            provider: Provider::new(&config.provider)?,
            model: config.provider.provider_model,
            models: config.provider.provider_models,
            slots: Slots::new(config.chat_streams_per_subject, MAX_STREAMS),
            room: Room::new(MAX_HELD_BYTES, config.provider.patience.room),
            metrics: metrics.clone(),
            clock: Arc::clone(&clock),
            longest: config.provider.patience.whole,
        };
        let endpoint = Endpoint { chats, comment_after: config.provider.patience.comment_after };
        let register = |registry: &mut _| metrics.register(registry);
        let runtime = Runtime::start(config.runtime, clock, Arc::new(()), register).await?;
        let routes = api::routes(runtime.routes(), endpoint);
        Ok(Self { runtime, routes })
    }

    /// Serves until `stop` ends.
    pub async fn serve(self, stop: impl Future<Output = ()>) {
        self.runtime.serve(self.routes, stop).await;
    }
}

/// Answers under way in one instance.
const MAX_STREAMS: u32 = 1024;
/// Of questions that have not reached the provider yet. Parsed and written anew, they take a few times as much.
const MAX_HELD_BYTES: usize = 16 * 1024 * 1024;
