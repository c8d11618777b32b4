//! The user's files: list, upload, download, and delete.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::multipart::{Field, Multipart, MultipartRejection};
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse as _, Redirect, Response};
use futures::stream;
use gaia_runtime::AnswerBody;
use http::header::{
    ACCEPT, ACCEPT_RANGES, CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_SECURITY_POLICY, CONTENT_TYPE,
    ETAG, HeaderName, IF_RANGE, LAST_MODIFIED, RANGE,
};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use jiff::Timestamp;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use tokio::sync::mpsc;

use crate::pages::user_error::{Service, UserError};
use crate::pages::{self, File, Frame, Notice};
use crate::sessions::accepted::AcceptedCredential;
use crate::sessions::session::Session;
use crate::site::{Site, User, wants_page};
use crate::upstream::Upstream;

#[derive(Debug, Default, Deserialize)]
pub(crate) struct Done {
    #[serde(default)]
    done: String,
}

/// Renders the page.
pub(crate) async fn show(
    State(site): State<Arc<Site>>,
    User(session): User,
    Query(Done { done }): Query<Done>,
) -> Response {
    let notice = match done.as_str() {
        "uploaded" => Some(Notice::good("Uploaded.")),
        "deleted" => Some(Notice::good("Deleted.")),
        _ => None,
    };
    list_page(&site, &session, StatusCode::OK, notice).await
}

/// Handles the form of browsers without our script.
pub(crate) async fn submit(
    State(site): State<Arc<Site>>,
    User(session): User,
    sent: Result<Multipart, MultipartRejection>,
) -> Response {
    let Ok(mut sent) = sent else { return UserError::BadForm.response(&site, Some(&session), true) };
    let mut uploaded = 0;
    loop {
        let uploading = match sent.next_field().await {
            Ok(Some(field)) if field.file_name().is_some_and(|name| !name.is_empty()) => {
                upload_field(&site, &session, field).await
            }
            Ok(Some(_)) => continue,
            Ok(None) if uploaded > 0 => return Redirect::to("/files?done=uploaded").into_response(),
            Ok(None) | Err(_) => Err(UserError::BadForm),
        };
        match uploading {
            Ok(()) => uploaded += 1,
            Err(user_error) => {
                let text = Some(user_error.notice());
                return user_error.when_to_retry(list_page(&site, &session, user_error.status(), text).await);
            }
        }
    }
}

/// Handles an upload of our script, with one file as the body.
pub(crate) async fn put(
    State(site): State<Arc<Site>>,
    User(session): User,
    Path(path): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    match upload(&site, &session, &path, headers.get(CONTENT_LENGTH), body).await {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(user_error) => user_error.response(&site, Some(&session), false),
    }
}

/// Downloads one file. asset-service never returns it as a page.
pub(crate) async fn download(
    State(site): State<Arc<Site>>,
    User(session): User,
    Path(path): Path<String>,
    method: Method,
    headers: HeaderMap,
) -> Response {
    let asked =
        [ACCEPT, RANGE, IF_RANGE].into_iter().filter_map(|name| Some((name.clone(), headers.get(name)?.clone())));
    let asked: HeaderMap = asked.collect();
    match call(&site, &session, method, &path, asked).await {
        Ok(answer) if answer.status().is_success() || answer.status() == StatusCode::RANGE_NOT_SATISFIABLE => {
            let (parts, body) = answer.into_parts();
            let mut response = Response::new(Body::new(body));
            *response.status_mut() = parts.status;
            for name in KEPT {
                if let Some(value) = parts.headers.get(name) {
                    response.headers_mut().insert(name.clone(), value.clone());
                }
            }
            // Set independent of asset-service, so that uploaded content cannot run under this origin.
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
            let sandbox = HeaderValue::from_static("default-src 'none'; sandbox");
            response.headers_mut().insert(CONTENT_SECURITY_POLICY, sandbox);
            response.headers_mut().entry(CONTENT_DISPOSITION).or_insert(HeaderValue::from_static("attachment"));
            response
        }
        Ok(answer) => {
            UserError::of_answer(Service::Files, &answer).response(&site, Some(&session), wants_page(&headers))
        }
        Err(user_error) => user_error.response(&site, Some(&session), wants_page(&headers)),
    }
}

/// Deletes one file; POST because forms have no other method for it.
pub(crate) async fn delete(State(site): State<Arc<Site>>, User(session): User, Path(path): Path<String>) -> Response {
    let deleted = match call(&site, &session, Method::DELETE, &path, HeaderMap::new()).await {
        Ok(answer) if answer.status().is_success() => Ok(()),
        Ok(answer) => Err(UserError::of_answer(Service::Files, &answer)),
        Err(user_error) => Err(user_error),
    };
    match deleted {
        Ok(()) => Redirect::to("/files?done=deleted").into_response(),
        Err(user_error) => {
            let page = list_page(&site, &session, user_error.status(), Some(user_error.notice())).await;
            user_error.when_to_retry(page)
        }
    }
}

async fn list_page(site: &Site, session: &Session, status: StatusCode, notice: Option<Notice>) -> Response {
    let Some(assets) = &site.assets else { return UserError::PageNotFound.response(site, Some(session), true) };
    let listed = list(assets, session, MAX_LISTED).await;
    let is_listed = listed.is_ok();
    let failed = listed.as_ref().err().copied();
    let (status, notice, list) = match listed {
        Ok(list) => (status, notice, list),
        // The first error is the one shown.
        Err(user_error) => (
            if status == StatusCode::OK { user_error.status() } else { status },
            notice.filter(|_| status != StatusCode::OK).or_else(|| Some(user_error.notice())),
            List::default(),
        ),
    };
    let files = list.assets.into_iter().map(|asset| File {
        href: encoded(&asset.path),
        path: asset.path,
        size: pages::size_text(asset.size),
        modified: asset.modified,
        modified_text: asset.modified.map(pages::time_text).unwrap_or_default(),
    });
    let list = pages::FileList {
        frame: Frame::new(site, Some(session), "files"),
        notice,
        is_shared: list.accepted == AcceptedCredential::ApiKey,
        is_listed,
        files: files.collect(),
        has_more: list.has_more,
    };
    let page = pages::page(status, &list);
    // With another status, the page reports an earlier error.
    match failed.filter(|user_error| user_error.status() == status) {
        Some(user_error) => user_error.when_to_retry(page),
        None => page,
    }
}

#[derive(Default, Deserialize)]
pub(crate) struct List {
    assets: Vec<Asset>,
    has_more: bool,
    /// The credential that asset-service accepted for this list.
    #[serde(skip)]
    pub(crate) accepted: AcceptedCredential,
}

#[derive(Deserialize)]
struct Asset {
    path: String,
    size: u64,
    modified: Option<Timestamp>,
}

/// Lists the user's files, at most `limit`.
pub(crate) async fn list(assets: &Upstream, session: &Session, limit: usize) -> Result<List, UserError> {
    let uri = assets.uri(&format!("/assets?limit={limit}"));
    let request = Request::builder().uri(uri).header(ACCEPT, "application/json").body(Bytes::new());
    let answer = assets.call(request.map_err(|_| UserError::BadName)?, session, READ, PATIENCE).await;
    let answer = answer.map_err(|error| UserError::of_error(Service::Files, &error))?;
    if answer.status() != StatusCode::OK {
        return Err(UserError::of_answer(Service::Files, &answer));
    }
    let away = || UserError::ServiceUnavailable(Service::Files);
    let accepted = answer.extensions().get::<AcceptedCredential>().copied().unwrap_or_default();
    let reading = Limited::new(answer.into_body(), MAX_LIST_BYTES).collect();
    let body = tokio::time::timeout(PATIENCE, reading).await.map_err(|_| away())?.map_err(|_| away())?;
    let list: List = serde_json::from_slice(&body.to_bytes()).map_err(|_| {
        tracing::warn!("asset-service returned a malformed list");
        away()
    })?;
    Ok(List { accepted, ..list })
}

async fn call(
    site: &Site,
    session: &Session,
    method: Method,
    path: &str,
    headers: HeaderMap,
) -> Result<http::Response<AnswerBody>, UserError> {
    let assets = site.assets.as_ref().ok_or(UserError::PageNotFound)?;
    let uri = assets.uri(&format!("/assets/{}", encoded(path)));
    let scope = if matches!(method, Method::GET | Method::HEAD) { READ } else { WRITE };
    let request = Request::builder().method(method).uri(uri).body(Bytes::new());
    let mut request = request.map_err(|_| UserError::BadName)?;
    *request.headers_mut() = headers;
    let answer = assets.call(request, session, scope, PATIENCE).await;
    answer.map_err(|error| UserError::of_error(Service::Files, &error))
}

async fn upload(
    site: &Site,
    session: &Session,
    path: &str,
    length: Option<&HeaderValue>,
    body: Body,
) -> Result<(), UserError> {
    let assets = site.assets.as_ref().ok_or(UserError::PageNotFound)?;
    let uri = assets.uri(&format!("/assets/{}", encoded(path)));
    let request = Request::builder().method(Method::PUT).uri(uri).body(body);
    let mut request = request.map_err(|_| UserError::BadName)?;
    if let Some(length) = length {
        request.headers_mut().insert(CONTENT_LENGTH, length.clone());
    }
    let answer = assets.call_streaming(request, session, WRITE).await;
    let answer = answer.map_err(|error| UserError::of_error(Service::Files, &error))?;
    if answer.status().is_success() { Ok(()) } else { Err(UserError::of_answer(Service::Files, &answer)) }
}

/// Uploads one file of a form as it arrives. If the form is aborted, the upload is aborted too, so that a truncated
/// file is never stored.
async fn upload_field(site: &Site, session: &Session, mut field: Field<'_>) -> Result<(), UserError> {
    let path = field.file_name().unwrap_or_default().to_owned();
    let (sender, receiver) = mpsc::channel(1);
    let pieces = stream::unfold(receiver, |mut receiver| async {
        match receiver.recv().await {
            Some(Piece::Of(bytes)) => Some((Ok(bytes), receiver)),
            Some(Piece::End) => None,
            None => Some((Err(io::Error::other("the form was aborted")), receiver)),
        }
    });
    let reading = async move {
        while let Ok(piece) = field.chunk().await {
            let is_end = piece.is_none();
            // A receiver that was dropped has already responded.
            if sender.send(piece.map_or(Piece::End, Piece::Of)).await.is_err() || is_end {
                return;
            }
        }
    };
    let ((), uploaded) = tokio::join!(reading, upload(site, session, &path, None, Body::from_stream(pieces)));
    uploaded
}

enum Piece {
    Of(Bytes),
    End,
}

/// Encodes a path for a URL, segment by segment, so that one name cannot become two segments.
fn encoded(path: &str) -> String {
    path.split('/')
        .map(|segment| utf8_percent_encode(segment, NOT_IN_SEGMENT).to_string())
        .collect::<Vec<_>>()
        .join("/")
}

/// RFC 3986, section 2.3: unreserved characters.
const NOT_IN_SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// Scopes of asset-service's routes.
const READ: &str = "assets:read";
const WRITE: &str = "assets:write";
const PATIENCE: Duration = Duration::from_secs(30);
/// Maximum number of files that asset-service lists at once.
const MAX_LISTED: usize = 1000;
const MAX_LIST_BYTES: usize = 4 * 1024 * 1024;
const KEPT: [&HeaderName; 6] =
    [&CONTENT_LENGTH, &CONTENT_RANGE, &CONTENT_DISPOSITION, &ETAG, &LAST_MODIFIED, &ACCEPT_RANGES];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_keeps_its_folders_and_nothing_else_of_it_has_a_meaning() {
        assert_eq!(encoded("photos/grüße #1?.txt"), "photos/gr%C3%BC%C3%9Fe%20%231%3F.txt");
        assert_eq!(encoded("50% & more"), "50%25%20%26%20more");
    }
}
