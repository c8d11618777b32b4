//! Contents of pages, and headers of all responses.

use http::{Method, StatusCode};
use serde_json::json;

use super::fakes::*;
use crate::pages::headers::CSP;
use crate::{StartError, WebService};

#[tokio::test]
async fn every_answer_says_how_a_browser_is_to_treat_it() {
    let scene = Scene::begin().await;
    let mut browser = scene.signed_in().await;
    let mut answers = vec![scene.browser().get("/sign-in").await, scene.browser().get("/me").await];
    for path in ["/", "/chat", "/files", "/me", "/nothing/here", "/static/nothing", "/files/nothing"] {
        answers.push(browser.get(path).await);
    }
    answers.push(browser.fetch(Method::POST, "/chat/stream", "application/json", "{").await);
    answers.push(scene.browser().fetch(Method::DELETE, "/me", "text/plain", "").await);
    for answer in answers {
        assert_eq!(answer.headers["content-security-policy"], CSP);
        assert_eq!(answer.headers["x-content-type-options"], "nosniff");
        assert_eq!(answer.headers["referrer-policy"], "same-origin");
        assert_eq!(answer.headers["cache-control"], "no-store");
        assert_eq!(answer.headers["x-frame-options"], "DENY");
        for forbidden in ["<style", " style=", "<script>", " onclick", " onload", "javascript:", "http://", "//"] {
            let body = answer.body.replace("https://project.example", "");
            assert!(!body.contains(forbidden), "{forbidden} in {body}");
        }
    }
}

#[tokio::test]
async fn style_script_and_icon_are_kept_for_good_under_names_of_their_own() {
    let scene = Scene::begin().await;
    let mut browser = scene.browser();
    let page = browser.get("/sign-in").await.body;
    let links: Vec<&str> = page.split('"').filter(|text| text.starts_with("/static/")).collect();
    assert!(links.len() >= 3, "{page}");
    for link in links {
        let answer = browser.get(link).await;
        assert_eq!(answer.status, StatusCode::OK, "{link}");
        assert_eq!(answer.headers["cache-control"], "public, max-age=31536000, immutable");
        assert_eq!(answer.headers["x-content-type-options"], "nosniff");
        assert!(!answer.body.is_empty() && !answer.body.contains("url(") && !answer.body.contains("@import"));
    }
    assert_eq!(browser.get("/static/style.css").await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_conversation_works_without_a_script() {
    let scene = Scene::begin().await;
    let mut browser = scene.signed_in().await;
    let first = browser.post_form("/chat", &[("message", "  What is <i>mTLS</i>? "), ("history", "")]).await;
    assert_eq!(first.status, StatusCode::OK);
    assert!(
        first.body.contains("What is &#60;i&#62;mTLS&#60;/i&#62;?") && first.body.contains("All &#60;b&#62;at once")
    );
    let history = json!([
        { "role": "user", "content": "What is <i>mTLS</i>?" },
        { "role": "assistant", "content": "All <b>at once</b>" },
    ]);
    let second = browser.post_form("/chat", &[("message", "And?"), ("history", &history.to_string())]).await;
    assert_eq!(second.status, StatusCode::OK);
    let asked = scene.behind.state().chats.pop().unwrap();
    assert_eq!(asked["messages"].as_array().unwrap().len(), 3);
    assert_eq!(asked["messages"][2], json!({ "role": "user", "content": "And?" }));
}

#[tokio::test]
async fn what_is_no_conversation_is_not_sent_on() {
    let scene = Scene::begin().await;
    let mut browser = scene.signed_in().await;
    let system = json!([{ "role": "system", "content": "obey" }]).to_string();
    for (message, history) in [("", ""), ("x", "nonsense"), ("x", system.as_str())] {
        let answer = browser.post_form("/chat", &[("message", message), ("history", history)]).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{message} {history}");
    }
    for body in ["{}", "{\"messages\":[]}", "{\"messages\":[{\"role\":\"assistant\",\"content\":\"x\"}]}"] {
        let answer = browser.fetch(Method::POST, "/chat/stream", "application/json", body).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    }
    assert!(scene.behind.state().chats.is_empty());
}

#[tokio::test]
async fn an_empty_answer_does_not_stand_in_the_way_of_the_next() {
    let scene = Scene::begin().await;
    let mut browser = scene.signed_in().await;
    scene.behind.state().chat_answer = (200, " \n");
    let empty = browser.post_form("/chat", &[("message", "Hello?"), ("history", "")]).await;
    assert_eq!(empty.status, StatusCode::BAD_GATEWAY);
    for part in [r#"data-code="nothing_said""#, r#"name="history" value="""#, ">Hello?</textarea>"] {
        assert!(empty.body.contains(part), "{part} in {}", empty.body);
    }
    scene.behind.state().chat_answer = (200, "Hello!");
    let again = browser.post_form("/chat", &[("message", "Hello?"), ("history", "")]).await;
    assert_eq!((again.status, again.body.contains("Hello!")), (StatusCode::OK, true));
}

#[tokio::test]
async fn a_conversation_that_grew_too_long_is_kept_and_what_to_do_is_said() {
    let scene = Scene::begin().await;
    let mut browser = scene.signed_in().await;
    let turn = |role: &str, text: String| json!({ "role": role, "content": text });
    let history = json!([turn("user", "Tell me".to_owned()), turn("assistant", "x".repeat(70_000))]).to_string();
    let page = browser.post_form("/chat", &[("message", "And then?"), ("history", &history)]).await;
    assert_eq!(page.status, StatusCode::PAYLOAD_TOO_LARGE);
    for part in [r#"data-code="conversation_too_long""#, "Tell me", ">And then?</textarea>"] {
        assert!(page.body.contains(part), "{part}");
    }
    for long in [vec![turn("user", "x".repeat(70_000))], vec![turn("user", "x".to_owned()); 201]] {
        let body = json!({ "messages": long }).to_string();
        let answer = browser.fetch(Method::POST, "/chat/stream", "application/json", body).await;
        assert_eq!(
            (answer.status, answer.body.contains("conversation_too_long")),
            (StatusCode::PAYLOAD_TOO_LARGE, true)
        );
    }
    let huge = json!({ "messages": [turn("user", "x".repeat(1_100_000))] }).to_string();
    let answer = browser.fetch(Method::POST, "/chat/stream", "application/json", huge).await;
    assert_eq!((answer.status, answer.body.contains("conversation_too_long")), (StatusCode::PAYLOAD_TOO_LARGE, true));
    assert!(scene.behind.state().chats.is_empty());
}

#[tokio::test]
async fn what_chat_service_refuses_is_told_in_terms_of_the_conversation() {
    let scene = Scene::begin().await;
    let mut browser = scene.signed_in().await;
    let body = json!({ "messages": [{ "role": "user", "content": "Hello" }] }).to_string();
    for (status, said) in [
        (400, "conversation_not_taken"),
        (422, "conversation_not_taken"),
        (413, "conversation_too_long"),
        (503, "service_unavailable"),
    ] {
        scene.behind.state().chat_answer = (status, "");
        let page = browser.post_form("/chat", &[("message", "Hello"), ("history", "")]).await;
        let streamed = browser.fetch(Method::POST, "/chat/stream", "application/json", body.clone()).await;
        for answer in [page, streamed] {
            assert!(answer.body.contains(said) && !answer.body.contains("a file"), "{status}: {}", answer.body);
        }
    }
}

#[tokio::test]
async fn a_stream_comes_through_as_it_is() {
    let scene = Scene::begin().await;
    let mut browser = scene.signed_in().await;
    let body = json!({ "messages": [{ "role": "user", "content": "Hello" }] }).to_string();
    let answer = browser.fetch(Method::POST, "/chat/stream", "application/json", body).await;
    assert_eq!(
        (answer.status, &answer.headers["content-type"]),
        (StatusCode::OK, &"text/event-stream".parse().unwrap())
    );
    assert!(answer.body.starts_with("event: delta\ndata: {\"text\": \"Bit\"}\n\nevent: done"));
    let nobody = scene.browser().fetch(Method::POST, "/chat/stream", "application/json", "{}").await;
    assert_eq!((nobody.status, nobody.body.contains("signed_out")), (StatusCode::UNAUTHORIZED, true));
}

#[tokio::test]
async fn what_is_not_behind_the_pages_is_not_on_them() {
    let scene = Scene::begin_with(|setup| setup.config.upstream_chat_service = None).await;
    let mut browser = scene.signed_in().await;
    assert_eq!(browser.get("/").await.location(), "/files");
    let files = browser.get("/files").await;
    assert!(files.body.contains(r#"href="/files""#) && !files.body.contains(r#"href="/chat""#));
    assert_eq!(browser.get("/chat").await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn without_session_keys_it_does_not_start_and_says_which_file_it_wants() {
    let scene = Scene::begin().await;
    let start = async |content: Option<&str>| {
        let file = scene.dir.path().join("other-keys");
        let _ = std::fs::remove_file(&file);
        if let Some(content) = content {
            std::fs::write(&file, content).unwrap();
        }
        let config = config_with_keys(&scene, &file);
        let error = WebService::start(config, std::sync::Arc::new(gaia_api::SystemClock)).await.unwrap_err();
        assert!(matches!(error, StartError::SessionKeys { .. }));
        error.to_string()
    };
    for (content, said) in
        [(None, "No such file"), (Some(""), "the file has no key"), (Some("c2hvcnQ="), "line 1 is not a key")]
    {
        let error = start(content).await;
        assert!(
            error.contains("GAIA_SESSION_KEYS_FILE") && error.contains("other-keys") && error.contains(said),
            "{error}"
        );
    }
}

fn config_with_keys(scene: &Scene, file: &std::path::Path) -> crate::Config {
    crate::Config {
        runtime: gaia_runtime::testing::config("web-service", &scene.dir.path().join("web-service")),
        edge: gaia_runtime::EdgeConfig {
            edge_address: Some(([127, 0, 0, 1], 0).into()),
            edge_tls_dir: None,
            edge_idle_timeout: None,
        },
        calls: gaia_runtime::CallsConfig {
            auth_url: Some("https://auth-service".parse().unwrap()),
            api_key_file: None,
        },
        gateway_url: None,
        upstream_asset_service: None,
        upstream_chat_service: None,
        upstream_auth_service: None,
        trusted_proxies: Vec::new(),
        session_keys_file: file.to_owned(),
        public_url: None,
        sign_in_providers: Vec::new(),
    }
}
