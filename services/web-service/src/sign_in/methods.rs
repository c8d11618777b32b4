//! The issuer's sign-in methods, cached for a minute.

use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::sign_in::login::{Login, Offered};
use crate::site::Client;

/// The last known sign-in methods.
#[derive(Debug, Default)]
pub(crate) struct Methods(Mutex<Option<(Instant, Option<Offered>)>>);

impl Methods {
    /// Returns true if the issuer is known to have disabled this provider; false while that is unknown.
    pub(crate) async fn is_off(&self, provider: &str, login: &Login, client: Client) -> bool {
        // One request at a time; waiting requests use its result.
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
