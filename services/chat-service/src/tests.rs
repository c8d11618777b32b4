//! End-to-end tests of chat-service over real TLS, with a real provider that can misbehave.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use clap::Parser as _;
use gaia_api::names::key;
use gaia_api::{Clock as _, SystemClock};
use gaia_runtime::testing::{Mount, Platform, api_keys, config, eventually, get_plain, read};
use gaia_runtime::{AnswerBody, MeshClient};
use gaia_stand_ins::provider::{KEY, Provider, ProviderOptions};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::BodyExt as _;
use jiff::SignedDuration;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::provider::Patience;
use crate::{ChatService, Config};

mod bodies;

struct Service {
    platform: Platform,
    provider: Provider,
    url: String,
    admin: String,
    key_file: PathBuf,
    _dir: TempDir,
}

async fn start() -> Service {
    start_with(|_| ()).await
}

async fn start_with(change: impl FnOnce(&mut Config)) -> Service {
    let (platform, provider) = (Platform::new(), Provider::start(ProviderOptions::default()).await.unwrap());
    let mut files = platform.mount("chat-service");
    let keys = [("legacy", SHARED_KEY, &[][..]), ("other", "another-key", &[]), ("reader", "r", &["assets:read"])];
    files.insert(key::API_KEYS, api_keys(&keys));
    let dir = tempfile::tempdir().unwrap();
    let (mount, key_file) = (dir.path().join("mount"), dir.path().join("provider-key"));
    std::fs::create_dir(&mount).unwrap();
    std::fs::write(&key_file, format!("{KEY}\n")).unwrap();
    let _ = Mount::new(&mount, &files);
    let url = provider.url();
    let arguments = ["chat-service", "--service-name", "chat-service", "--provider-model", "echo-1", "--provider-url"];
    let mut parsed = Config::try_parse_from(arguments.into_iter().chain([url.as_str()])).unwrap();
    parsed.runtime = config("chat-service", &mount);
    parsed.provider.provider_key_file = Some(key_file.clone());
    change(&mut parsed);
    let service = ChatService::start(parsed, Arc::new(SystemClock)).await.unwrap();
    let url = format!("https://{}/chat", service.runtime.mesh_address().unwrap());
    let admin = format!("http://{}", service.runtime.admin_address().unwrap());
    tokio::spawn(service.serve(std::future::pending()));
    Service { platform, provider, url, admin, key_file, _dir: dir }
}

/// A client of the chat.
struct Caller {
    client: MeshClient,
    headers: HeaderMap,
    url: String,
}

impl Service {
    fn with_key(&self, key: &'static str) -> Caller {
        let headers = HeaderMap::from_iter([("x-api-key".parse().unwrap(), HeaderValue::from_static(key))]);
        Caller { client: self.platform.client(None), headers, url: self.url.clone() }
    }

    fn with_token(&self, token: &str) -> Caller {
        let headers = HeaderMap::from_iter([(header::AUTHORIZATION, format!("Bearer {token}").parse().unwrap())]);
        let client = self.platform.client(Some(&self.platform.leaf("gateway")));
        Caller { client, headers, url: self.url.clone() }
    }

    async fn metrics(&self) -> String {
        get_plain(&format!("{}/metrics", self.admin)).await.1
    }

    async fn counts(&self, result: &str, number: u32) {
        let line = format!("gaia_chat_requests_total{{result=\"{result}\"}} {number}\n");
        eventually(&line, async || self.metrics().await.contains(&line)).await;
    }
}

type Answer = Response<AnswerBody>;

impl Caller {
    async fn post(&self, accept: &'static str, body: impl Into<Body>) -> Answer {
        let mut request = Request::post(&self.url).body(body.into()).unwrap();
        *request.headers_mut() = self.headers.clone();
        request.headers_mut().insert(header::ACCEPT, HeaderValue::from_static(accept));
        self.client.request(request).await.unwrap()
    }

    /// Requests a stream.
    async fn say(&self, text: &str) -> Answer {
        self.post("text/event-stream", question(text)).await
    }

    /// Requests the whole answer.
    async fn ask(&self, text: &str) -> (StatusCode, Value) {
        let (status, body) = read(self.post("application/json", question(text)).await).await;
        (status, serde_json::from_slice(&body).unwrap())
    }
}

fn question(text: &str) -> String {
    json!({ "messages": [{ "role": "system", "content": "be brief" }, { "role": "user", "content": text }] })
        .to_string()
}

/// The events of a stream, each with its name and data.
async fn events(answer: Answer) -> Vec<(String, Value)> {
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(answer.headers()["content-type"], "text/event-stream");
    let text = String::from_utf8(read(answer).await.1).unwrap();
    let events = text.split("\n\n").filter(|event| !event.is_empty() && !event.starts_with(':'));
    let parse = |event: &str| {
        let (name, data) = event.split_once('\n').unwrap();
        let data = serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap();
        (name.strip_prefix("event: ").unwrap().to_owned(), data)
    };
    events.map(parse).collect()
}

fn said(events: &[(String, Value)]) -> String {
    events.iter().filter(|(name, _)| name == "delta").map(|(_, data)| data["text"].as_str().unwrap()).collect()
}

// ---- answers -------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn an_answer_is_streamed_as_it_comes_or_given_whole() {
    let service = start().await;
    let token = service.platform.service_token("gateway", "chat-service", Some("chat:write"));
    for caller in [service.with_key(SHARED_KEY), service.with_token(&token)] {
        let answer = caller.say("tell me more").await;
        assert_eq!(answer.headers()["cache-control"], "no-store");
        let events = events(answer).await;
        assert_eq!(said(&events), "You said: tell me more");
        assert!(events.len() > 4, "word by word: {events:?}");
        assert_eq!(*events.last().unwrap(), ("done".to_owned(), json!({ "finish_reason": "stop" })));
        let whole = caller.ask("tell me more").await;
        assert_eq!(whole, (StatusCode::OK, json!({ "text": "You said: tell me more", "finish_reason": "stop" })));
        assert_eq!(caller.ask("!length").await.1["finish_reason"], "length");
    }
    service.counts("completed", 4).await;
    service.counts("length", 2).await;
    let metrics = service.metrics().await;
    assert!(metrics.contains("gaia_chat_streamed_characters_total 122\n"), "{metrics}");
    assert!(metrics.contains("gaia_chat_streams 0\n"), "{metrics}");
}

#[tokio::test]
async fn the_provider_sees_the_messages_and_our_key_and_nothing_of_the_callers() {
    let service = start().await;
    let mut caller = service.with_key(SHARED_KEY);
    for (name, value) in [
        ("authorization", "Bearer another-key"),
        ("cookie", "session=secret"),
        ("x-forwarded-for", "10.0.0.1"),
        ("x-gaia-subject", "user:a:b"),
        ("x-anything", "secret"),
    ] {
        caller.headers.insert(name, HeaderValue::from_static(value));
    }
    caller.headers.remove("x-api-key");
    assert_eq!(caller.ask("hello").await.0, StatusCode::OK);
    let received = service.provider.received().pop().unwrap();
    let mut names: Vec<&str> = received.headers.keys().map(http::HeaderName::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["accept", "authorization", "content-length", "content-type", "host", "user-agent"]);
    assert_eq!(received.headers["authorization"], format!("Bearer {KEY}"));
    let body: Value = serde_json::from_slice(&received.body).unwrap();
    let messages = json!([{ "role": "system", "content": "be brief" }, { "role": "user", "content": "hello" }]);
    assert_eq!(body, json!({ "model": "echo-1", "messages": messages, "stream": true }));
}

#[tokio::test]
async fn the_key_is_read_anew_for_each_request() {
    let service = start().await;
    let caller = service.with_key(SHARED_KEY);
    service.provider.set_key("the-next-key");
    let refused = caller.ask("hello").await;
    assert_eq!((refused.0, &refused.1["code"]), (StatusCode::BAD_GATEWAY, &json!("provider_unavailable")));
    std::fs::write(&service.key_file, "the-next-key").unwrap();
    assert_eq!(caller.ask("hello").await.0, StatusCode::OK);
    for no_key in ["", "\n", "two\nlines", "nöt ascii", &"k".repeat(4097)] {
        std::fs::write(&service.key_file, no_key).unwrap();
        let (status, problem) = caller.ask("hello").await;
        assert_eq!((status, &problem["code"]), (StatusCode::SERVICE_UNAVAILABLE, &json!("provider_unavailable")));
    }
    std::fs::remove_file(&service.key_file).unwrap();
    assert_eq!(caller.ask("hello").await.0, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(service.provider.received().len(), 2, "without a key the provider is not called");
}

#[tokio::test]
async fn a_request_may_name_a_model_that_is_allowed() {
    let service = start_with(|config| config.provider.provider_models = vec!["other-2".to_owned()]).await;
    let caller = service.with_key(SHARED_KEY);
    let ask = async |model: &str| {
        let body = json!({ "messages": [{ "role": "user", "content": "a" }], "model": model }).to_string();
        read(caller.post("application/json", body).await).await
    };
    for model in ["other-2", "echo-1"] {
        assert_eq!(ask(model).await.0, StatusCode::OK);
        let received: Value = serde_json::from_slice(&service.provider.received().pop().unwrap().body).unwrap();
        assert_eq!(received["model"], model);
    }
    let (status, body) = ask("dear-1").await;
    let problem: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!((status, &problem["field"]), (StatusCode::BAD_REQUEST, &json!("model")));

    let without = start_with(|config| config.provider.provider_model = None).await;
    let (status, problem) = without.with_key(SHARED_KEY).ask("hello").await;
    assert_eq!((status, &problem["field"]), (StatusCode::BAD_REQUEST, &json!("model")));
}

// ---- requests that are refused -------------------------------------------------------------------------------------

#[tokio::test]
async fn who_may_not_chat_does_not() {
    let service = start().await;
    let token = service.platform.service_token("gateway", "chat-service", Some("assets:read"));
    for caller in [service.with_key("r"), service.with_token(&token)] {
        assert_eq!(caller.ask("hello").await.0, StatusCode::FORBIDDEN);
    }
    assert_eq!(service.with_key("wrong").ask("hello").await.0, StatusCode::UNAUTHORIZED);
    assert_eq!(service.provider.received().len(), 0);
}

#[tokio::test]
async fn a_request_that_is_wrong_is_told_which_field_it_is() {
    let service = start().await;
    let caller = service.with_key(SHARED_KEY);
    let body = json!({ "messages": [{ "role": "user", "content": "a" }, { "role": "robot", "content": "b" }] });
    let (status, problem) = read(caller.post("*/*", body.to_string()).await).await;
    let problem: Value = serde_json::from_slice(&problem).unwrap();
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert_eq!((&problem["code"], &problem["field"]), (&json!("invalid_request"), &json!("messages[1].role")));
    assert!(problem["detail"].as_str().unwrap().contains("unknown variant `robot`"), "{problem}");

    let (status, problem) = read(caller.post("*/*", vec![b' '; 600 * 1024]).await).await;
    let problem: Value = serde_json::from_slice(&problem).unwrap();
    assert_eq!((status, &problem["code"]), (StatusCode::PAYLOAD_TOO_LARGE, &json!("too_large")));
    assert_eq!(service.provider.received().len(), 0);
}

#[tokio::test]
async fn a_subject_has_so_many_answers_under_way_and_no_more() {
    let service = start_with(|config| config.chat_streams_per_subject = 2).await;
    let (caller, other) = (service.with_key(SHARED_KEY), service.with_key("another-key"));
    let held = [caller.say("!stall").await, caller.say("!stall").await];
    let answer = caller.say("hello").await;
    assert_eq!(
        (answer.status(), &answer.headers()["retry-after"]),
        (StatusCode::TOO_MANY_REQUESTS, &"1".parse().unwrap())
    );
    let problem: Value = serde_json::from_slice(&read(answer).await.1).unwrap();
    assert_eq!(problem["code"], "too_many_chats");
    assert_eq!(other.ask("hello").await.0, StatusCode::OK);
    drop(held);
    eventually("the places are free again", async || caller.ask("hello").await.0 == StatusCode::OK).await;
}

// ---- providers that fail -------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_provider_that_refuses_is_a_status_and_a_code() {
    let service = start().await;
    let caller = service.with_key(SHARED_KEY);
    for (wish, status, code, retry_after) in [
        ("!401", 502, "provider_unavailable", None),
        ("!403", 502, "provider_unavailable", None),
        ("!429 7", 429, "provider_rate_limited", Some("7")),
        ("!429 99999", 429, "provider_rate_limited", Some("3600")),
        ("!400", 422, "provider_refused", None),
        ("!404", 422, "provider_refused", None),
        ("!500", 502, "provider_unavailable", None),
        ("!503", 503, "provider_unavailable", Some("5")),
        ("!302", 502, "provider_unavailable", None),
    ] {
        for accept in ["text/event-stream", "application/json"] {
            let answer = caller.post(accept, question(wish)).await;
            assert_eq!(answer.status().as_u16(), status, "{wish}");
            let found = answer.headers().get(header::RETRY_AFTER).map(|value| value.to_str().unwrap().to_owned());
            assert_eq!(found.as_deref(), retry_after, "{wish}");
            let body = String::from_utf8(read(answer).await.1).unwrap();
            let problem: Value = serde_json::from_str(&body).unwrap();
            assert_eq!(problem["code"], code, "{wish}");
            assert!(!body.contains("hear") && !body.contains("key"), "what the provider said stays here: {body}");
        }
    }
    let received = service.provider.received();
    assert!(received.iter().all(|request| request.what.starts_with("POST")), "a redirect was followed");
}

#[tokio::test]
async fn a_provider_that_fails_in_the_middle_is_an_error_event() {
    let service = start_with(|config| config.provider.patience = brief(Duration::from_millis(300))).await;
    let caller = service.with_key(SHARED_KEY);
    for (wish, status, code) in [
        ("!error", 502, "provider_unavailable"),
        ("!cut", 502, "provider_interrupted"),
        ("!end", 502, "provider_interrupted"),
        ("!garbage", 502, "provider_interrupted"),
        ("!oversized", 502, "provider_interrupted"),
        ("!stall", 504, "provider_timeout"),
    ] {
        let events = events(caller.say(wish).await).await;
        assert_eq!(said(&events), "You said: ", "{wish}: what came before is not lost");
        let (name, data) = events.last().unwrap();
        assert_eq!((name.as_str(), &data["code"]), ("error", &json!(code)), "{wish}");
        assert!(data["message"].as_str().unwrap().len() > 10, "{data}");
        let (found, problem) = caller.ask(wish).await;
        assert_eq!((found.as_u16(), &problem["code"]), (status, &json!(code)), "{wish}");
    }
    service.counts("provider_interrupted", 8).await;
    assert_eq!(service.provider.open_answers(), 0);
}

#[tokio::test]
async fn a_provider_that_is_not_there_or_does_not_begin_is_not_waited_for() {
    let service = start_with(|config| config.provider.patience = brief(Duration::from_millis(300))).await;
    let (status, problem) = service.with_key(SHARED_KEY).ask("!late 600").await;
    assert_eq!((status, &problem["code"]), (StatusCode::GATEWAY_TIMEOUT, &json!("provider_timeout")));
    service.counts("provider_timeout", 1).await;

    let nobody = start_with(|config| config.provider.provider_url = "http://127.0.0.1:1/v1".parse().unwrap()).await;
    let (status, problem) = nobody.with_key(SHARED_KEY).ask("hello").await;
    assert_eq!((status, &problem["code"]), (StatusCode::BAD_GATEWAY, &json!("provider_unavailable")));
    nobody.counts("provider_unavailable", 1).await;
}

#[tokio::test]
async fn a_provider_that_is_silent_at_first_gets_time_and_the_caller_a_stream() {
    let patience = Patience {
        comment_after: Duration::from_millis(100),
        silence: Duration::from_millis(500),
        beginning: Duration::from_secs(60),
        ..Patience::default()
    };
    let service = start_with(|config| config.provider.patience = patience).await;
    let caller = service.with_key(SHARED_KEY);
    let begun = tokio::time::Instant::now();
    let answer = caller.say("!late 2").await;
    assert!(begun.elapsed() < Duration::from_millis(1500), "the stream begins before the provider's answer");
    let found = events(answer).await;
    assert_eq!(said(&found), "You said: !late 2");
    assert_eq!(*found.last().unwrap(), ("done".to_owned(), json!({ "finish_reason": "stop" })));

    let brief = Patience { beginning: Duration::from_millis(600), ..patience };
    let service = start_with(|config| config.provider.patience = brief).await;
    let found = events(service.with_key(SHARED_KEY).say("!late 60").await).await;
    assert_eq!((found.len(), &found[0].1["code"]), (1, &json!("provider_timeout")));
    service.counts("provider_timeout", 1).await;
}

#[tokio::test]
async fn a_provider_over_plain_http_is_started_only_where_that_was_asked_for() {
    let platform = Platform::new();
    let dir = tempfile::tempdir().unwrap();
    let _ = Mount::new(dir.path(), &platform.mount("chat-service"));
    for (more, error) in [
        (&[][..], Some("GAIA_PROVIDER_PLAIN_HTTP=true")),
        (&["--provider-plain-http"], None),
        (&["--provider-plain-http", "--provider-key-file=/key"], Some("GAIA_PROVIDER_KEY_OVER_PLAIN_HTTP=true")),
    ] {
        let arguments =
            ["chat-service", "--service-name", "chat-service", "--provider-url", "http://ollama.llm.svc:11434/v1"];
        let mut parsed = Config::try_parse_from(arguments.iter().chain(more)).unwrap();
        parsed.runtime = config("chat-service", dir.path());
        let started = ChatService::start(parsed, Arc::new(SystemClock)).await;
        match error {
            Some(words) => assert!(started.unwrap_err().to_string().contains(words)),
            None => assert!(started.is_ok()),
        }
    }
}

#[tokio::test]
async fn an_answer_does_not_go_on_for_ever() {
    let patience = Patience { whole: Duration::from_millis(300), ..Patience::default() };
    let service = start_with(|config| config.provider.patience = patience).await;
    let events = events(service.with_key(SHARED_KEY).say("!stall").await).await;
    assert_eq!(events.last().unwrap().1["code"], "provider_timeout");
}

#[tokio::test]
async fn a_stream_ends_with_the_credential_it_was_asked_for_with() {
    let service = start().await;
    let soon = SystemClock.now() + SignedDuration::from_secs(2);
    let token = service.platform.service_token_until("gateway", "chat-service", None, soon);
    let events = events(service.with_token(&token).say("!stall").await).await;
    assert_eq!(events.last().unwrap().1["code"], "credential_ended");
}

#[tokio::test]
async fn while_the_provider_is_silent_the_caller_hears_that_the_stream_lives() {
    let patience = Patience { comment_after: Duration::from_millis(50), ..Patience::default() };
    let service = start_with(|config| config.provider.patience = patience).await;
    let mut answer = service.with_key(SHARED_KEY).say("!stall").await;
    let mut text = String::new();
    while !text.contains("\n\n: the provider is silent\n\n") {
        let frame = answer.frame().await.unwrap().unwrap();
        text.push_str(std::str::from_utf8(&frame.into_data().unwrap()).unwrap());
    }
}

// ---- callers that leave --------------------------------------------------------------------------------------------

#[tokio::test]
async fn when_the_caller_leaves_the_provider_is_hung_up_on() {
    let service = start().await;
    let caller = service.with_key(SHARED_KEY);
    let mut answer = caller.say("!stall").await;
    answer.frame().await.unwrap().unwrap();
    assert_eq!(service.provider.open_answers(), 1);
    drop(answer);
    eventually("the provider is alone", async || service.provider.open_answers() == 0).await;
    service.counts("client_gone", 1).await;

    let waiting = tokio::spawn(async move { caller.say("!late 600").await.status() });
    eventually("the provider is asked", async || service.provider.open_answers() == 1).await;
    waiting.abort();
    eventually("the provider is alone again", async || service.provider.open_answers() == 0).await;
    service.counts("client_gone", 2).await;
}

fn brief(time: Duration) -> Patience {
    Patience { beginning: time, silence: time, ending: time, ..Patience::default() }
}

const SHARED_KEY: &str = "the-shared-key";
