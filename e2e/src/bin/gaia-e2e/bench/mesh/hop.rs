//! A request through gateway, against the same request through a proxy without authentication.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse as _, Response};
use clap::Parser as _;
use futures::StreamExt as _;
use futures::stream;
use gaia_api::SystemClock;
use gaia_api::names::key;
use gaia_auth_service::AuthService;
use gaia_e2e::progress;
use gaia_gateway::Gateway;
use gaia_runtime::MeshClient;
use gaia_runtime::testing::{Mount, Platform, api_keys, config, grants};
use http::{StatusCode, Uri};
use http_body_util::BodyExt as _;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::net::TcpListener;
use tokio::time::Instant;

use super::super::report::{Bound, Report};
use super::server::{CALLER, SERVICE, Server, on_a_thread};
use super::{TURNS, rate, turns};

pub(super) async fn measure(
    rounds: usize,
    platform: &Platform,
    dir: &Path,
    server: &Server,
    report: &mut Report,
) -> Result<()> {
    let auth = start_auth_service(platform, &dir.join("hop-auth"))?;
    let gateway = start_gateway(platform, &dir.join("hop-gateway"), auth, server)?;
    let bare = start_bare(platform, server)?;
    let client = Client::builder(TokioExecutor::new()).build_http();
    let (mut without, mut with) = (vec![], vec![]);
    time(&client, bare, WARM_UP).await?;
    time(&client, gateway, WARM_UP).await?;
    for round in 1..=rounds {
        progress::say(format_args!("round {round} of {rounds}: requests through a bare proxy and through gateway"));
        let ask = async |edge| time(&client, edge, REQUESTS).await;
        let [there, here] = turns(async || ask(bare).await, async || ask(gateway).await).await?;
        without.push(rate(REQUESTS * TURNS, there));
        with.push(rate(REQUESTS * TURNS, here));
    }
    let ratio: Vec<f64> = with.iter().zip(&without).map(|(with, without)| with / without).collect();
    report.section(format!("requests through gateway, {} a round, an API key each, audit on", REQUESTS * TURNS));
    report.figure("a proxy without authentication", "/s", &without);
    report.figure("gateway", "/s", &with);
    report.bounded("gateway's rate against the proxy without authentication", "", &ratio, Bound::AtLeast(0.7));
    Ok(())
}

async fn time(client: &Client<HttpConnector, Body>, edge: std::net::SocketAddr, count: usize) -> Result<Duration> {
    let uri: Uri = format!("http://{edge}/assets").parse()?;
    let start = Instant::now();
    let send = async || -> Result<()> {
        let request = Request::get(uri.clone()).header("x-api-key", KEY).body(Body::empty())?;
        let answer = client.request(request).await?;
        ensure!(answer.status() == StatusCode::OK, "{edge} answered {}", answer.status());
        answer.into_body().collect().await?;
        Ok(())
    };
    let mut all = stream::iter(0..count).map(|_| send()).buffer_unordered(UNDER_WAY);
    while let Some(done) = all.next().await {
        done?;
    }
    Ok(start.elapsed())
}

fn start_auth_service(platform: &Platform, dir: &Path) -> Result<std::net::SocketAddr> {
    let mut files = platform.mount("auth-service");
    files.insert(key::JWT_SIGNING_KEY, platform.signing_key().into_bytes());
    files.insert(key::GRANTS, grants(&[CALLER, SERVICE, "auth-service"], &[(CALLER, SERVICE, &[])]));
    files.insert(key::API_KEYS, api_keys(&[("bench", KEY, &[])]));
    let mount = Mount::new(dir, &files);
    let runtime = config("auth-service", dir);
    on_a_thread(async move || {
        let service = AuthService::start(
            gaia_auth_service::Config { runtime, login_forwards_address: false },
            Arc::new(SystemClock),
        )
        .await?;
        let address = service.runtime.mesh_address()?;
        let serving = async move {
            service.serve(std::future::pending()).await;
            drop(mount);
        };
        Ok((address, serving))
    })
}

fn start_gateway(
    platform: &Platform,
    dir: &Path,
    auth: std::net::SocketAddr,
    server: &Server,
) -> Result<std::net::SocketAddr> {
    let mut files = platform.mount(CALLER);
    files.insert(key::API_KEYS, api_keys(&[("bench", KEY, &[])]));
    let mount = Mount::new(dir, &files);
    let (auth, assets) = (format!("https://{auth}"), format!("https://{}", server.address));
    let flags = [
        ["--service-name", CALLER],
        ["--auth-url", &auth],
        ["--upstream-asset-service", &assets],
        ["--edge-address", "127.0.0.1:0"],
        ["--ip-rate", "0"],
        ["--account-rate", "0"],
    ];
    let mut parsed = gaia_gateway::Config::try_parse_from(["gateway"].into_iter().chain(flags.concat()))?;
    parsed.runtime = config(CALLER, dir);
    on_a_thread(async move || {
        let gateway = Gateway::start(parsed, Arc::new(SystemClock)).await?;
        let address = gateway.edge_address()?;
        let serving = async move {
            gateway.serve(std::future::pending()).await;
            drop(mount);
        };
        Ok((address, serving))
    })
}

/// The same client to the same server, without other functions.
fn start_bare(platform: &Platform, server: &Server) -> Result<std::net::SocketAddr> {
    let client = platform.client(Some(&platform.leaf(CALLER)));
    let to: Uri = format!("https://{}/open", server.address).parse()?;
    on_a_thread(async move || {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let app = Router::new().fallback(pass_on).with_state((client, to));
        let serving = async move {
            // It ends with the program.
            let _ = axum::serve(listener, app).await;
        };
        Ok((address, serving))
    })
}

async fn pass_on(State((client, to)): State<(MeshClient, Uri)>, mut request: Request) -> Response {
    *request.uri_mut() = to;
    request.headers_mut().remove(http::header::HOST);
    match client.request(request).await {
        Ok(answer) => answer.map(Body::new),
        Err(_) => StatusCode::BAD_GATEWAY.into_response(),
    }
}

const KEY: &str = "gk_bench_0123456789abcdef0123456789abcdef";
/// Requests in a turn.
const REQUESTS: usize = 1_000;
const WARM_UP: usize = 2_000;
const UNDER_WAY: usize = 32;
