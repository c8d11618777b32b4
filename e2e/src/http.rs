//! Plain HTTP on loopback: probes and metrics.

use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;

/// The status and body of a GET.
///
/// # Errors
/// If there is no answer within five seconds.
pub async fn get(url: &str) -> Result<(u16, String)> {
    let answer = tokio::time::timeout(TIMEOUT, request(url)).await;
    answer.map_err(anyhow::Error::from).flatten().with_context(|| format!("no answer from {url}"))
}

async fn request(url: &str) -> Result<(u16, String)> {
    let client: Client<_, Empty<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
    let response = client.get(url.parse()?).await?;
    let status = response.status().as_u16();
    let body = response.into_body().collect().await?.to_bytes();
    Ok((status, String::from_utf8_lossy(&body).into_owned()))
}

const TIMEOUT: Duration = Duration::from_secs(5);
