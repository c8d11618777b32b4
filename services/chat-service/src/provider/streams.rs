//! Table tests of provider streams in `streams.json`: each is served over HTTP unchanged and read by [`Provider`].

use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::response::IntoResponse as _;
use axum::routing::post;
use clap::Parser as _;
use futures::StreamExt as _;
use serde::Deserialize;

use super::*;
use crate::Config;

#[derive(Debug, Deserialize)]
struct Table {
    streams: Vec<Recorded>,
}

#[derive(Debug, Clone, Deserialize)]
struct Recorded {
    provider: String,
    case: String,
    stream: Vec<Sent>,
    text: String,
    end: String,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
enum Sent {
    Pause(u64),
    Text(String),
}

fn table() -> Vec<Recorded> {
    serde_json::from_str::<Table>(include_str!("streams.json")).unwrap().streams
}

/// Starts a provider that responds with this stream.
async fn provider(stream: Vec<Sent>) -> Provider {
    encoding_provider(stream, None).await
}

/// The same with a `Content-Encoding`.
async fn encoding_provider(stream: Vec<Sent>, encoding: Option<&'static str>) -> Provider {
    let answer = move || {
        let pieces = futures::stream::iter(stream.clone()).filter_map(|sent| async {
            match sent {
                Sent::Pause(milliseconds) => {
                    tokio::time::sleep(Duration::from_millis(milliseconds)).await;
                    None
                }
                Sent::Text(text) => Some(Ok::<_, std::io::Error>(text)),
            }
        });
        let mut answer = ([(header::CONTENT_TYPE, "text/event-stream")], Body::from_stream(pieces)).into_response();
        if let Some(encoding) = encoding {
            answer.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static(encoding));
        }
        std::future::ready(answer)
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    let app = Router::new().route("/v1/chat/completions", post(answer));
    tokio::spawn(async move { axum::serve(listener, app).await });
    let arguments = ["chat-service", "--service-name", "chat-service", "--provider-url", &url];
    Provider::new(&Config::try_parse_from(arguments).unwrap().provider).unwrap()
}

/// Returns the text of an answer, and its finish reason or the code of its error.
async fn read(stream: Vec<Sent>) -> (String, &'static str) {
    let mut text = String::new();
    let mut answer = provider(stream).await.ask("m", &[]).await.unwrap();
    loop {
        match answer.next().await {
            Ok(Part::Text(more)) => text.push_str(&more),
            Ok(Part::End { finish_reason }) => return (text, finish_reason),
            Err(error) => return (text, error.code()),
        }
    }
}

#[tokio::test]
async fn the_stream_of_each_provider_is_read_to_its_end() {
    let rows = table();
    for name in ["OpenAI", "Azure", "Mistral", "Ollama", "vLLM", "SGLang", "llama.cpp", "LiteLLM"] {
        assert!(rows.iter().any(|row| row.provider == name), "no row of {name}");
    }
    let reading = rows.into_iter().map(|row| async move {
        let found = read(row.stream).await;
        (found != (row.text.clone(), row.end.as_str()))
            .then(|| format!("{}, {}: {found:?} is not {:?}, {}", row.provider, row.case, row.text, row.end))
    });
    let wrong: Vec<String> = futures::future::join_all(reading).await.into_iter().flatten().collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn encoded_stream_is_refused_before_it_is_read() {
    let stream = table().swap_remove(0).stream;
    for encoding in ["gzip", "br", "zstd"] {
        let asked = encoding_provider(stream.clone(), Some(encoding)).await.ask("m", &[]).await;
        assert!(matches!(asked, Err(ProviderError::NotAStream)), "{encoding}");
    }
    assert!(encoding_provider(stream, Some("identity")).await.ask("m", &[]).await.is_ok());
}

#[tokio::test]
async fn no_stream_that_is_cut_anywhere_is_reported_as_complete() {
    // An early reason is indistinguishable from the last one while nothing follows.
    for row in table().into_iter().filter(|row| row.end == "stop" && !row.case.contains("too early")) {
        let whole: Vec<Sent> = row.stream.into_iter().filter(|sent| matches!(sent, Sent::Text(_))).collect();
        for length in 0..whole.len() {
            let (text, end) = read(whole[..length].to_vec()).await;
            assert!(end != "stop" || text == row.text, "{}, {}: {text:?} {end}", row.provider, row.case);
        }
    }
}
