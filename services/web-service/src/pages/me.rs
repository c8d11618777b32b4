//! The account page: the user's identity at the services, and the accepted credential.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use gaia_api::mount::AuthMode;
use http::StatusCode;

use crate::pages::{self, Frame, Known, files};
use crate::sessions::accepted::AcceptedCredential;
use crate::site::{Person, Site};

/// Renders the page.
pub(crate) async fn show(State(site): State<Arc<Site>>, Person { session, is_late }: Person) -> Response {
    let mut services = Vec::new();
    if let Some(chat) = &site.chat {
        services.push(Known { name: "chat-service", credential: known_as(chat.accepted(&session)) });
    }
    if let Some(assets) = &site.assets {
        // A list request has no side effects.
        let listed = if is_late { None } else { files::list(assets, &session, 1).await.ok() };
        let credential = listed
            .map_or("The service does not respond, or accepts neither credential.", |list| known_as(list.accepted));
        services.push(Known { name: "asset-service", credential });
    }
    let mode = site.generations.borrow().as_ref().map(|generation| generation.policy().mode);
    let issuer = site.issuer(|issuer| issuer.issuer.clone()).unwrap_or_else(|| session.issuer.clone());
    let me = pages::Me {
        frame: Frame::new(&site, Some(&session), "me"),
        is_late,
        email: session.email.as_deref(),
        subject: session.subject().to_string(),
        issuer: &issuer,
        since: session.since,
        since_text: pages::time_text(session.since),
        expires: session.expires,
        expires_text: pages::time_text(session.expires),
        services,
        mode: mode.map_or("unknown", AuthMode::as_str),
        mode_text: mode.map_or("", meaning),
        has_api_key: site.by_key.uses_api_key(),
    };
    pages::page(StatusCode::OK, &me)
}

fn known_as(accepted: AcceptedCredential) -> &'static str {
    match accepted {
        AcceptedCredential::Unknown => "Not called yet.",
        AcceptedCredential::Token => "With your JWT.",
        AcceptedCredential::ApiKey => "With the platform’s API key: the service does not accept your JWT yet.",
    }
}

fn meaning(mode: AuthMode) -> &'static str {
    match mode {
        AuthMode::APIKeyOnly => "API keys decide; tokens are not accepted yet",
        AuthMode::Dual => "tokens and API keys are accepted",
        AuthMode::JWTOnly => "tokens decide; API keys are no longer accepted",
    }
}
