//! Requests, at full speed or at a rate.

use std::time::Duration;

use anyhow::{Result, ensure};
use axum::body::Body;
use futures::StreamExt as _;
use futures::stream;
use gaia_runtime::MeshClient;
use gaia_runtime::testing::Platform;
use http::{Request, StatusCode, header};
use http_body_util::BodyExt as _;
use tokio::time::Instant;

use super::server::{CALLER, Server};

/// A client with the gateway's certificate and one connection.
pub(super) struct Requests {
    client: MeshClient,
    base: String,
}

impl Requests {
    pub(super) fn new(platform: &Platform, server: &Server) -> Self {
        Self { client: platform.client(Some(&platform.leaf(CALLER))), base: format!("https://{}", server.address) }
    }

    /// The duration of so many requests, with the tokens in turn.
    pub(super) async fn time(&self, path: &str, tokens: &[String], count: usize) -> Result<Duration> {
        let start = Instant::now();
        let all = stream::iter(0..count).map(|index| self.send(path, nth(tokens, index)));
        let mut answers = all.buffer_unordered(UNDER_WAY);
        while let Some(answer) = answers.next().await {
            answer?;
        }
        Ok(start.elapsed())
    }

    /// The 99th percentile in milliseconds at a rate, from the time when a request was due.
    pub(super) async fn p99_ms(&self, path: &str, tokens: &[String], rate: f64) -> Result<f64> {
        let start = Instant::now();
        let all = stream::iter(0_u32..LATENCIES).map(|index| async move {
            let due = start + Duration::from_secs_f64(f64::from(index) / rate);
            tokio::time::sleep_until(due).await;
            // tokio's timer is as coarse as the measured durations; both routes have the same one.
            self.send(path, nth(tokens, index as usize)).await?;
            Ok::<_, anyhow::Error>(due.elapsed())
        });
        let mut latencies = vec![];
        let mut answers = all.buffer_unordered(WAITING);
        while let Some(latency) = answers.next().await {
            latencies.push(latency?);
        }
        latencies.sort_unstable();
        let p99 = latencies[latencies.len() * 99 / 100];
        Ok(p99.as_secs_f64() * 1000.0)
    }

    async fn send(&self, path: &str, token: Option<&str>) -> Result<()> {
        let mut request = Request::get(format!("{}{path}", self.base));
        if let Some(token) = token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let answer = self.client.request(request.body(Body::empty())?).await?;
        ensure!(answer.status() == StatusCode::OK, "{path} answered {}", answer.status());
        answer.into_body().collect().await?;
        Ok(())
    }
}

fn nth(tokens: &[String], index: usize) -> Option<&str> {
    tokens.get(index % tokens.len().max(1)).map(String::as_str)
}

/// Enough to keep the server busy.
const UNDER_WAY: usize = 32;
/// More than are ever due before one is answered.
const WAITING: usize = 128;
/// Requests in a turn.
const LATENCIES: u32 = 2_000;
