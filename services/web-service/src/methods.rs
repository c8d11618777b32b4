//! The ways of signing in that the issuer offers, remembered for a minute.

use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::login::{Login, Offered};
use crate::site::Client;

/// What was last known of the ways of signing in.
#[derive(Debug, Default)]
pub(crate) struct Methods(Mutex<Option<(Instant, Option<Offered>)>>);

impl Methods {
    /// Whether the issuer is known to have switched this provider off. While that cannot be told, it is not.
    pub(crate) async fn is_off(&self, provider: &str, login: &Login, client: Client) -> bool {
        // One request at a time, and of those that wait for it none asks again.
        let mut known = self.0.lock().await;
        let offered = match known.as_ref().filter(|(since, _)| since.elapsed() < KEPT) {
            Some((_, offered)) => offered.clone(),
            None => {
                let offered = login.methods(client).await.ok();
                *known = Some((Instant::now(), offered.clone()));
                offered
            }
        };
        offered.is_some_and(|offered| !offered.providers.iter().any(|name| name == provider))
    }
}

const KEPT: Duration = Duration::from_secs(60);
