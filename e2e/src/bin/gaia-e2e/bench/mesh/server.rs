//! A service with the same route twice, with and without authentication, on a thread of its own.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc;

use anyhow::{Context as _, Result};
use axum::routing::get;
use gaia_api::names::key;
use gaia_api::{Clock as _, SystemClock};
use gaia_auth::Access;
use gaia_auth::issue::ServiceClaims;
use gaia_runtime::Runtime;
use gaia_runtime::testing::{Mount, Platform, config, policy, spiffe_id};
use tokio::sync::oneshot;

/// Runs until it is dropped.
pub(super) struct Server {
    pub(super) address: SocketAddr,
    _stop: oneshot::Sender<()>,
}

impl Server {
    pub(super) fn start(platform: &Platform, dir: &Path) -> Result<Self> {
        let mut policy = policy(SERVICE);
        // Gateway calls on behalf of others too.
        policy.callers.iter_mut().for_each(|caller| caller.on_behalf_of = true);
        let mut files = platform.mount(SERVICE);
        files.insert(key::POLICY, serde_json::to_vec(&policy)?);
        let mount = Mount::new(dir, &files);
        let config = config(SERVICE, dir);
        let (stop, stopped) = oneshot::channel::<()>();
        let address = on_a_thread(async move || {
            let runtime = Runtime::start(config, Arc::new(SystemClock), Arc::new(()), |_| ()).await?;
            let address = runtime.mesh_address()?;
            let routes = runtime
                .routes()
                .route("/open", Access::Public, get(async || "ok"))
                .route("/assets", Access::Scopes(&["assets:read"]), get(async || "ok"))
                .route("/closed", Access::Scopes(&["orders:read"]), get(async || "ok"));
            let serving = async move {
                runtime.serve(routes, async { drop(stopped.await) }).await;
                drop(mount);
            };
            Ok((address, serving))
        })?;
        Ok(Self { address, _stop: stop })
    }
}

/// Starts something on one thread with a runtime of its own, and serves it there.
pub(super) fn on_a_thread<F>(
    start: impl AsyncFnOnce() -> Result<(SocketAddr, F)> + Send + 'static,
) -> Result<SocketAddr>
where
    F: Future<Output = ()>,
{
    let (started, address) = mpsc::channel();
    std::thread::Builder::new().name(SERVER_THREAD.to_owned()).spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let begun = runtime.map_err(anyhow::Error::from).and_then(|runtime| {
            let (address, serving) = runtime.block_on(start())?;
            Ok((runtime, address, serving))
        });
        match begun {
            Ok((runtime, address, serving)) => {
                let _ = started.send(Ok(address));
                runtime.block_on(serving);
            }
            Err(error) => drop(started.send(Err(error))),
        }
    })?;
    address.recv().context("the server's thread ended")?
}

/// Different tokens of the gateway for the server.
pub(super) fn tokens(platform: &Platform, count: usize) -> Result<Vec<String>> {
    let signer = platform.signer();
    let now = SystemClock.now().as_second();
    let token = |index: usize| {
        let caller = spiffe_id(CALLER).to_string();
        signer.sign(&ServiceClaims {
            iss: "gaia-platform".to_owned(),
            sub: caller.clone(),
            client_id: caller,
            service: CALLER.to_owned(),
            aud: spiffe_id(SERVICE).to_string(),
            jti: format!("bench-{index}"),
            iat: now,
            exp: now + 900,
            scope: Some("orders:read".to_owned()),
        })
    };
    (0..count).map(|index| token(index).context("signing failed")).collect()
}

/// The caller.
pub(super) const CALLER: &str = "gateway";
/// The target.
pub(super) const SERVICE: &str = "asset-service";
/// The name of each serving thread.
pub(super) const SERVER_THREAD: &str = "bench-server";
