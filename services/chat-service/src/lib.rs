//! Gaia's chat-service: streams answers from a provider with OpenAI's chat completions API.
//!
//! `POST /chat` with the scope `chat:write`. gaia-auth authenticates the request before; the provider receives the
//! messages and this service's own key, and no credential of the caller.

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
use std::process::ExitCode;
use std::sync::Arc;

use gaia_api::Clock;
use gaia_runtime::{MemoryBudget, Routes, Runtime};

pub use config::Config;

use crate::api::Endpoint;
use crate::chat::Chats;
use crate::metrics::ChatMetrics;
use crate::provider::{Provider, ProviderConfigError};
use crate::slots::Slots;

/// Reason why the service did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The provider's configuration is unusable.
    #[error(transparent)]
    Provider(#[from] ProviderConfigError),
    /// The runtime did not start.
    #[error(transparent)]
    Runtime(#[from] gaia_runtime::StartError),
}

/// Runs chat-service as a process, configured by its flags and environment.
#[must_use]
pub fn main() -> ExitCode {
    gaia_runtime::main(ChatService::start, ChatService::serve)
}

/// A started chat-service with bound listeners.
#[derive(Debug)]
pub struct ChatService {
    /// The runtime that serves it.
    pub runtime: Runtime,
    routes: Routes,
}

impl ChatService {
    /// Loads the credential directory and binds the listeners. The provider is not called before the first question.
    ///
    /// # Errors
    /// [`StartError`] if an address cannot be bound, or the root certificates for the provider cannot be loaded.
    pub async fn start(config: Config, clock: Arc<dyn Clock>) -> Result<Self, StartError> {
        let metrics = ChatMetrics::new();
        let chats = Chats {
            provider: Provider::new(&config.provider)?,
            model: config.provider.provider_model,
            models: config.provider.provider_models,
            slots: Slots::new(config.chat_streams_per_subject, MAX_STREAMS),
            memory: MemoryBudget::new(MAX_HELD_BYTES, config.provider.patience.memory),
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

    /// Serves until `stop` resolves.
    pub async fn serve(self, stop: impl Future<Output = ()>) {
        self.runtime.serve(self.routes, stop).await;
    }
}

/// Maximum number of concurrent answers per instance.
const MAX_STREAMS: u32 = 1024;
/// Memory for questions not yet sent to the provider. Parsing and serializing takes a few times as much.
const MAX_HELD_BYTES: usize = 16 * 1024 * 1024;
