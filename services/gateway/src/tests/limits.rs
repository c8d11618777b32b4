//! Size and rate limits.

use super::*;

#[tokio::test]
async fn one_address_that_asks_too_often_is_told_when_to_come_again() {
    let scene = Scene::open(&["--ip-rate", "1:3", "--trusted-proxies", "127.0.0.0/8"]).await;
    let ask = async |from: &str| scene.send("GET", "/assets", &[AS_KEY, &format!("X-Forwarded-For: {from}")], "").await;
    let mut statuses = Vec::new();
    for _ in 0..5 {
        statuses.push(ask("203.0.113.9").await);
    }
    let refused: Vec<&Answer> = statuses.iter().filter(|answer| answer.status == 429).collect();
    assert!(!refused.is_empty(), "{statuses:?}");
    assert_eq!(refused[0].header("retry-after"), Some("1"));
    assert_eq!(ask("6.6.6.6, 203.0.113.10").await.status, 200, "another client is not held for it");
    let scene = Scene::open(&["--ip-rate", "1:3"]).await;
    let mut statuses = Vec::new();
    for number in 0..10 {
        statuses
            .push(scene.send("GET", "/assets", &[&format!("X-Forwarded-For: 203.0.113.{number}")], "").await.status);
    }
    assert!(statuses.contains(&429), "untrusted proxies are ignored: {statuses:?}");
}

/// Kind: a flood of refused requests that no limit counts.
#[tokio::test]
async fn refused_paths_and_protocols_count_for_the_limit_of_an_address() {
    let refused = [("/assets/../x", "Accept: */*", 400), ("/assets", "Upgrade: websocket", 501)];
    for (path, header, status) in refused {
        let scene = Scene::open(&["--ip-rate", "1:3"]).await;
        let mut statuses = Vec::new();
        for _ in 0..6 {
            statuses.push(scene.get(path, header).await.status);
        }
        assert!(statuses.contains(&status) && statuses.contains(&429), "{path}: {statuses:?}");
    }
}

#[tokio::test]
async fn one_account_that_asks_too_often_does_not_keep_another_waiting() {
    let scene = Scene::open(&["--ip-rate", "0", "--account-rate", "1:3"]).await;
    let mut statuses = Vec::new();
    for _ in 0..5 {
        statuses.push(scene.get("/assets", AS_KEY).await.status);
    }
    assert!(statuses.contains(&200) && statuses.contains(&429), "{statuses:?}");
    assert_eq!(scene.get("/assets", "X-API-Key: reader-key-reader-key").await.status, 200);
}

/// Kind: an upstream sees gateway as one source, so one account's stalled requests use up the share of all accounts there.
#[tokio::test]
async fn stalled_uploads_of_one_account_leave_the_upstream_to_others() {
    let scene = Scene::open(&["--account-rate", "0", "--ip-rate", "0"]).await;
    let head = format!("PUT /assets/a HTTP/1.1\r\nHost: x\r\n{AS_KEY}\r\nContent-Length: 1000000\r\n\r\n");
    let mut stalled = Vec::new();
    for _ in 0..200 {
        let mut tcp = TcpStream::connect(scene.edge).await.unwrap();
        tcp.write_all(head.as_bytes()).await.unwrap();
        stalled.push(tcp);
    }
    let refused = async || {
        let (_, metrics) = get_plain(&format!("http://{}/metrics", scene.admin)).await;
        metrics.contains("gaia_gateway_refused_total{reason=\"in_progress\"}")
    };
    eventually("the account has used its share", refused).await;
    let busy = scene.send("PUT", "/assets/b", &[AS_KEY], &"x".repeat(100_000)).await;
    assert_eq!((busy.status, busy.header("retry-after")), (503, Some("1")), "{busy:?}");
    let other = scene.send("GET", "/assets", &["X-API-Key: reader-key-reader-key"], "").await;
    assert_eq!(other.status, 200, "{other:?}");
    drop(stalled);
    let is_free = async || scene.send("PUT", "/assets/b", &[AS_KEY], &"x".repeat(100_000)).await.status == 200;
    eventually("the share is free again", is_free).await;
}

/// Kind: a refusal before authentication that is counted and has no audit line; and a flood of them that writes one for each.
#[tokio::test]
async fn refusals_of_gateway_have_a_limited_number_of_audit_lines() {
    let lines = gaia_runtime::testing::AuditLines::record();
    let scene = Scene::open(&["--ip-rate", "1:60"]).await;
    for _ in 0..50 {
        scene.get("/assets/../x", "Accept: */*").await;
        scene.get("/assets", "Upgrade: websocket").await;
    }
    let refused: Vec<Value> = lines.written().into_iter().filter(|line| line["event"] == "request").collect();
    let refused: Vec<&Value> = refused.iter().filter(|line| line["result"] == "refused").collect();
    assert_eq!(refused.len(), 10, "{refused:?}");
    for reason in ["path", "websocket"] {
        assert!(refused.iter().any(|line| line["reason"] == reason), "{refused:?}");
    }
    assert!(refused.iter().all(|line| line["address"] == "127.0.0.1" && line["request_id"].is_string()), "{refused:?}");
}

#[tokio::test]
async fn signing_in_has_a_limit_of_its_own() {
    let scene = Scene::open(&["--sign-in-rate", "1:2"]).await;
    let mut statuses = Vec::new();
    for _ in 0..4 {
        statuses.push(scene.send("POST", "/auth/login", &[], "{}").await.status);
    }
    assert!(statuses.starts_with(&[401, 401]) && statuses.contains(&429), "{statuses:?}");
    assert_eq!(scene.get("/assets", AS_KEY).await.status, 200);
}

#[tokio::test]
async fn guessing_passwords_takes_nothing_from_sessions_behind_the_same_address() {
    let scene = Scene::open(&["--sign-in-rate", "1:2", "--refresh-rate", "1:30"]).await;
    let mut guesses = Vec::new();
    for _ in 0..10 {
        guesses.push(scene.send("POST", "/auth/login", &[], "{}").await.status);
    }
    assert!(guesses.contains(&429), "{guesses:?}");
    for _ in 0..12 {
        assert_ne!(scene.send("POST", "/auth/refresh", &[], "{}").await.status, 429);
    }
}

#[tokio::test]
async fn a_body_larger_than_allowed_is_refused_announced_or_not() {
    let scene = Scene::open(&["--max-body-bytes", "100000"]).await;
    let announced = scene.send("PUT", "/assets/a", &[AS_KEY], &"x".repeat(100_001)).await;
    assert_eq!(announced.status, 413);
    assert_eq!(scene.send("PUT", "/assets/a", &[AS_KEY], &"x".repeat(100_000)).await.status, 200);
    let chunk = format!("{:x}\r\n{}\r\n", 60_000, "x".repeat(60_000));
    let head = format!(
        "PUT /assets/a HTTP/1.1\r\nHost: x\r\n{AS_KEY}\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    );
    let answer = scene.raw(format!("{head}{chunk}{chunk}0\r\n\r\n")).await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    let answer = scene.raw(format!("{head}{chunk}0\r\n\r\n")).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert_eq!(scene.send("POST", "/auth/login", &[], &"x".repeat(20_000)).await.status, 413);
}

#[tokio::test]
async fn pages_of_listed_origins_may_call_and_their_browsers_ask_before_anybody_signs_in() {
    let scene = Scene::open(&["--cors-origins", "https://app.example.com,https://other.example.com"]).await;
    let preflight = async |origin: &str, target: &str| {
        let lines = [&format!("Origin: {origin}"), "Access-Control-Request-Method: PUT"];
        scene.send("OPTIONS", target, &lines, "").await
    };
    let answer = preflight("https://app.example.com", "/assets/a").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.header("access-control-allow-origin"), Some("https://app.example.com"));
    assert!(answer.header("access-control-allow-methods").unwrap().contains("PUT"));
    assert_eq!(answer.header("access-control-allow-credentials"), None);
    let allowed = answer.header("access-control-allow-headers").unwrap();
    for conditional in ["if-range", "if-match", "if-none-match", "if-modified-since", "if-unmodified-since"] {
        assert!(allowed.contains(conditional), "{conditional} is not in {allowed}");
    }
    let answer = preflight("https://evil.example.com", "/assets/a").await;
    assert_eq!(answer.header("access-control-allow-origin"), None);
    for header in ["traceparent", "tracestate", "baggage", "sentry-trace", "apikey", "x-client-info", "x-api-key"] {
        assert!(allowed.split(',').any(|allowed| allowed == header), "{header} is not in {allowed}");
    }
    let origin = ["Origin: https://app.example.com"];
    for answer in [
        preflight("https://app.example.com", "/assets/%2e%2e/a").await,
        scene.send("GET", "/assets/%2e%2e/a", &origin, "").await,
    ] {
        let allowed = answer.header("access-control-allow-origin");
        assert_eq!((answer.status, allowed), (400, Some("https://app.example.com")), "{answer:?}");
    }
    for (header, status) in [("Content-Type: application/grpc", 501), ("X-API-Key: guessed", 401)] {
        let answer = scene.send("GET", "/assets", &[origin[0], header], "").await;
        let allowed = answer.header("access-control-allow-origin");
        assert_eq!((answer.status, allowed), (status, Some("https://app.example.com")), "{answer:?}");
    }
    assert_eq!(scene.seen().len(), 0);
    let answer = scene.send("GET", "/assets", &["Origin: https://app.example.com"], "").await;
    assert_eq!((answer.status, answer.header("access-control-allow-origin")), (401, Some("https://app.example.com")));
    let answer = scene.send("GET", "/assets", &["Origin: https://app.example.com", AS_KEY], "").await;
    let exposed = answer.header("access-control-expose-headers").unwrap();
    assert!(["accept-ranges", "content-range", "etag"].iter().all(|name| exposed.contains(name)), "{exposed}");
    assert_eq!((answer.status, answer.header("access-control-allow-origin")), (200, Some("https://app.example.com")));
    let own = ["--cors-origins", "https://app.example.com", "--cors-credentials", "--cors-headers", "x-shop,X-Till"];
    let scene = Scene::open(&own).await;
    let answer = scene.send("OPTIONS", "/assets", &["Origin: https://app.example.com"], "").await;
    assert_eq!(answer.header("access-control-allow-credentials"), Some("true"));
    let allowed = answer.header("access-control-allow-headers").unwrap();
    assert!(allowed.contains("x-shop,x-till") && !allowed.contains("baggage"), "{allowed}");
}
