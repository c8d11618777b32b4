use gaia_runtime::testing::eventually;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;

use super::*;

type Answer = http::Response<hyper::body::Incoming>;

async fn ask(provider: &Provider, key: &str, message: &str, stream: bool) -> Answer {
    let messages = json!([{ "role": "system", "content": "be brief" }, { "role": "user", "content": message }]);
    let body = json!({ "model": "m", "messages": messages, "stream": stream }).to_string();
    let request = Request::post(format!("{}/chat/completions", provider.url()))
        .header(header::AUTHORIZATION, format!("Bearer {key}"))
        .body(Full::new(Bytes::from(body)))
        .unwrap();
    Client::builder(TokioExecutor::new()).build_http().request(request).await.unwrap()
}

async fn text(answer: Answer) -> String {
    String::from_utf8(answer.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

/// The text of a stream, joined from its deltas.
fn said(stream: &str) -> String {
    let events = stream.lines().filter_map(|line| line.strip_prefix("data: ")).filter(|data| *data != "[DONE]");
    let events = events.map(|data| serde_json::from_str::<Value>(data).unwrap());
    events.filter_map(|event| event["choices"][0]["delta"]["content"].as_str().map(str::to_owned)).collect()
}

#[tokio::test]
async fn a_question_is_echoed_whole_or_word_by_word() {
    let provider = Provider::start(ProviderOptions::default()).await.unwrap();
    let whole: Value = serde_json::from_str(&text(ask(&provider, KEY, "tell me", false).await).await).unwrap();
    assert_eq!(whole["choices"][0]["message"]["content"], "You said: tell me");
    let stream = text(ask(&provider, KEY, "tell me", true).await).await;
    assert_eq!(said(&stream), "You said: tell me");
    assert!(stream.contains(r#""finish_reason":"stop""#) && stream.ends_with("data: [DONE]\n\n"), "{stream}");
    assert_eq!(provider.open_answers(), 0);
}

#[tokio::test]
async fn only_its_key_is_taken_and_what_came_is_on_record() {
    let provider = Provider::start(ProviderOptions::default()).await.unwrap();
    assert_eq!(ask(&provider, "another", "hello", true).await.status(), StatusCode::UNAUTHORIZED);
    provider.set_key("another");
    assert_eq!(ask(&provider, "another", "hello", true).await.status(), StatusCode::OK);
    let received = provider.received();
    assert_eq!(received.len(), 2);
    assert_eq!(received[0].what, "POST /v1/chat/completions");
    assert_eq!(received[0].headers[header::AUTHORIZATION], "Bearer another");
}

#[tokio::test]
async fn it_misbehaves_when_it_is_asked_to() {
    let provider = Provider::start(ProviderOptions::default()).await.unwrap();
    let limited = ask(&provider, KEY, "!429 7", true).await;
    assert_eq!((limited.status().as_u16(), limited.headers()["retry-after"].to_str().unwrap()), (429, "7"));
    assert_eq!(ask(&provider, KEY, "!503", true).await.status().as_u16(), 503);
    assert!(ask(&provider, KEY, "!cut", true).await.into_body().collect().await.is_err());
    assert!(!text(ask(&provider, KEY, "!end", true).await).await.contains("[DONE]"));
    assert!(text(ask(&provider, KEY, "!error", true).await).await.contains(r#"data: {"error":"#));
    let stream = text(ask(&provider, KEY, "!oversized", true).await).await;
    assert!(stream.lines().any(|line| line.len() > 4 * 1024 * 1024));
}

#[tokio::test]
async fn whoever_hangs_up_ends_the_answer() {
    let provider = Provider::start(ProviderOptions::default()).await.unwrap();
    let mut stalled = ask(&provider, KEY, "!stall", true).await;
    stalled.body_mut().frame().await.unwrap().unwrap();
    assert_eq!(provider.open_answers(), 1);
    drop(stalled);
    let ended = async || provider.open_answers() == 0;
    eventually("the answer is given up", ended).await;
}
