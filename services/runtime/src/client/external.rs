//! HTTP client for long exchanges with an external server, such as a chat provider or an object store.

use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::redirect::Policy;
use reqwest::{Certificate, Client};

/// Reason why the client cannot be created.
#[derive(Debug, thiserror::Error)]
pub enum OutsideClientError {
    /// The file with root certificates is unusable.
    #[error("cannot load the root certificates in {path}: {source}")]
    Roots {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// TLS cannot be set up.
    #[error("cannot create the HTTP client for external servers: {0}")]
    Client(reqwest::Error),
}

/// Creates a client that follows no proxy and no redirect, and verifies servers by the root certificates in `roots`,
/// otherwise by those of the system. A call ends if no data arrives for `silence`; without it, the caller limits the
/// time. [`is_outside_address`](crate::is_outside_address) decides which URLs may be called.
///
/// # Errors
/// [`OutsideClientError`] if there are no root certificates.
pub fn outside_client(roots: Option<&Path>, silence: Option<Duration>) -> Result<Client, OutsideClientError> {
    let mut builder = Client::builder()
        .redirect(Policy::none())
        .no_proxy()
        .referer(false)
        .connect_timeout(CONNECT_TIMEOUT)
        .user_agent(concat!("gaia/", env!("CARGO_PKG_VERSION")));
    if let Some(silence) = silence {
        builder = builder.read_timeout(silence);
    }
    if let Some(path) = roots {
        let failed = |source| OutsideClientError::Roots { path: path.to_owned(), source };
        let pem = std::fs::read(path).map_err(|error| failed(error.into()))?;
        let roots = Certificate::from_pem_bundle(&pem).map_err(|error| failed(error.into()))?;
        if roots.is_empty() {
            return Err(failed("the file has no certificates".into()));
        }
        builder = builder.tls_certs_only(roots);
    }
    builder.build().map_err(OutsideClientError::Client)
}

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
