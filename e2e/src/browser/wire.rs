//! WebDriver's JSON over HTTP.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{Method, Request};
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;

/// A way to the driver at a port of this machine.
#[derive(Clone, Debug)]
pub(super) struct Wire {
    client: Client<HttpConnector, Full<Bytes>>,
    port: u16,
}

impl Wire {
    pub(super) fn new(port: u16) -> Self {
        Self { client: Client::builder(TokioExecutor::new()).build_http(), port }
    }

    pub(super) async fn get(&self, path: &str) -> Result<Value> {
        self.send(Method::GET, path, Bytes::new()).await
    }

    pub(super) async fn post(&self, path: &str, body: &Value) -> Result<Value> {
        self.send(Method::POST, path, Bytes::from(body.to_string())).await
    }

    /// The value of the answer; an error's is its text.
    async fn send(&self, method: Method, path: &str, body: Bytes) -> Result<Value> {
        let request = Request::builder()
            .method(method)
            .uri(format!("http://127.0.0.1:{}{path}", self.port))
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(body))?;
        let answering = async {
            let answer = self.client.request(request).await?;
            let status = answer.status();
            anyhow::Ok((status, answer.into_body().collect().await?.to_bytes()))
        };
        let (status, body) =
            tokio::time::timeout(PATIENCE, answering).await.context("the driver does not answer")??;
        let mut answer: Value = serde_json::from_slice(&body).context("the driver's answer is no JSON")?;
        let value = answer["value"].take();
        if !status.is_success() {
            bail!("{}: {}", value["error"], value["message"].as_str().unwrap_or_default());
        }
        Ok(value)
    }
}

/// More than the driver itself waits for a page or a script.
const PATIENCE: Duration = Duration::from_secs(120);
