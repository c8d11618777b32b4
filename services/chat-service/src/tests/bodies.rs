//! Incomplete requests, and the memory that they use.

use axum::body::Bytes;
use futures::StreamExt as _;
use tokio::task::JoinHandle;

use super::*;

/// A body that stalls after so many bytes.
fn unfinished(bytes: usize) -> Body {
    let piece = Bytes::from(vec![b' '; bytes]);
    Body::from_stream(futures::stream::iter([Ok::<_, std::io::Error>(piece)]).chain(futures::stream::pending()))
}

fn begin(service: &Service, bytes: usize) -> JoinHandle<Answer> {
    let caller = service.with_key(SHARED_KEY);
    tokio::spawn(async move { caller.post("text/event-stream", unfinished(bytes)).await })
}

#[tokio::test]
async fn a_request_has_its_place_before_its_body_is_taken() {
    let service = start_with(|config| config.chat_streams_per_subject = 2).await;
    let held = [begin(&service, 1000), begin(&service, 1000)];
    eventually("both have begun", async || service.metrics().await.contains("gaia_chat_streams 2\n")).await;
    let refused = service.with_key(SHARED_KEY).post("text/event-stream", unfinished(1000)).await;
    assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
    held.iter().for_each(JoinHandle::abort);
    let caller = service.with_key(SHARED_KEY);
    eventually("the places are free again", async || caller.ask("hello").await.0 == StatusCode::OK).await;
}

#[tokio::test]
async fn unfinished_requests_hold_so_much_together_and_the_others_are_told_to_come_back() {
    let service = start_with(|config| {
        config.chat_streams_per_subject = 100;
        config.provider.patience.memory = Duration::from_millis(200);
    })
    .await;
    // 500 KiB each: the share of one subject, half of 16 MiB, is enough for 16 of them.
    let requests: Vec<_> = (0..40).map(|_| begin(&service, 500 * 1024)).collect();
    let refused = || requests.iter().filter(|request| request.is_finished()).count();
    eventually("those without memory are refused", async || refused() >= 24).await;
    assert!(refused() < 40, "those with memory are not");
    let (waiting, ended): (Vec<_>, Vec<_>) = requests.into_iter().partition(|request| !request.is_finished());
    for request in ended {
        let answer = request.await.unwrap();
        assert_eq!(
            (answer.status(), &answer.headers()["retry-after"]),
            (StatusCode::SERVICE_UNAVAILABLE, &"1".parse().unwrap())
        );
        let problem: Value = serde_json::from_slice(&read(answer).await.1).unwrap();
        assert_eq!(problem["code"], "too_busy");
    }
    waiting.iter().for_each(JoinHandle::abort);
    let caller = service.with_key(SHARED_KEY);
    eventually("there is memory again", async || caller.ask("hello").await.0 == StatusCode::OK).await;
}
