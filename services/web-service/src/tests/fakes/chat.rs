//! Stand-in for chat-service, and for gateway in front of all services.

use std::convert::Infallible;

use axum::body::Bytes;
use futures::stream;

use super::*;

pub(super) fn routes(routes: Routes, behind: &Arc<Behind>) -> Routes {
    let chat = |State(behind): State<Arc<Behind>>, headers: HeaderMap, Json(body): Json<Value>| async move {
        behind.judge(&headers)?;
        behind.state().chats.push(body);
        let (status, text) = behind.state().chat_answer;
        if status != 200 {
            return Err(StatusCode::from_u16(status).unwrap());
        }
        if headers["accept"] == "application/json" {
            return Ok::<_, StatusCode>(Json(json!({ "text": text, "finish_reason": "stop" })).into_response());
        }
        let events =
            ["event: delta\ndata: {\"text\": \"Bit\"}\n\n", "event: done\ndata: {\"finish_reason\": \"stop\"}\n\n"];
        let events = stream::iter(events.map(|event| Ok::<_, Infallible>(Bytes::from_static(event.as_bytes()))));
        Ok(([(CONTENT_TYPE, "text/event-stream")], Body::from_stream(events)).into_response())
    };
    routes.route("/chat", Access::Peer, post(chat).with_state(Arc::clone(behind)))
}

/// Routes of gateway: those of all services.
pub(super) fn gateway_routes(routes: Routes, behind: &Arc<Behind>) -> Routes {
    self::routes(asset_routes(auth_routes(routes, behind), behind), behind)
}
