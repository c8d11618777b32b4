//! The endpoints of asset-service.

pub(crate) mod conditional;

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, Query, Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, put};
use gaia_auth::{Access, Principal, problem};
use gaia_runtime::Routes;
use gaia_runtime::rate::when_to_retry;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;

use crate::api::conditional::{Reading, Validators, check_read, check_write, is_conditional, wanted_range};
use crate::asset_path::AssetPath;
use crate::assets::moves::Moves;
use crate::assets::{Asset, Assets, Check, MAX_ASSET_BYTES, MAX_LISTED, Written};
use crate::error::AssetError;

#[derive(Debug, Serialize)]
struct List {
    assets: Vec<Asset>,
    has_more: bool,
}

/// The state of the handlers.
#[derive(Debug, Clone)]
pub(crate) struct Api {
    assets: Assets,
    moves: Arc<Moves>,
}

impl Api {
    pub(crate) fn new(assets: Assets, moves: Moves) -> Self {
        Self { assets, moves: Arc::new(moves) }
    }

    /// Returns the store, once the assets of the subject's API keys are the subject's own.
    async fn assets_of(&self, principal: &Principal) -> Result<&Assets, AssetError> {
        self.moves.settle(&self.assets, &principal.subject).await?;
        Ok(&self.assets)
    }
}

pub(crate) fn routes(routes: Routes, api: &Api) -> Routes {
    let (read, write) = (Access::Scopes(&["assets:read"]), Access::Scopes(&["assets:write"]));
    routes
        .route("/assets", read, get(list).with_state(api.clone()))
        .route(ASSET, read, get(download).with_state(api.clone()))
        .route(ASSET, write, put(upload).with_state(api.clone()))
        .route(ASSET, write, delete(remove).with_state(api.clone()))
}

async fn list(
    State(api): State<Api>,
    principal: Principal,
    Query(page): Query<Vec<(String, String)>>,
) -> Result<Json<List>, AssetError> {
    let (mut after, mut limit) = (None, MAX_LISTED);
    for (name, value) in page {
        match name.as_str() {
            "after" => after = Some(AssetPath::parse(&value).map_err(|_| AssetError::BadPage("after"))?),
            "limit" => {
                let number = value.parse().ok().filter(|number| (1..=MAX_LISTED).contains(number));
                limit = number.ok_or(AssetError::BadPage("limit"))?;
            }
            _ => {}
        }
    }
    let (assets, has_more) = api.assets_of(&principal).await?.list(&principal.subject, after.as_ref(), limit).await?;
    Ok(Json(List { assets, has_more }))
}

/// Handles GET, and HEAD without the asset itself.
async fn download(
    State(api): State<Api>,
    principal: Principal,
    Path(path): Path<String>,
    method: Method,
    conditions: HeaderMap,
) -> Result<Response, AssetError> {
    let path = AssetPath::parse(&path)?;
    let assets = api.assets_of(&principal).await?;
    let mut attempts = 0;
    loop {
        let meta = assets.head(&principal.subject, &path).await?;
        let validators = assets.validators(&meta);
        if check_read(&conditions, &validators)? == Reading::NotModified {
            return Ok(not_modified(&validators));
        }
        let mut headers = asset_headers(&path, &validators);
        // A range applies to GET only (RFC 9110, section 14.2).
        if method == Method::HEAD {
            headers.insert(header::CONTENT_LENGTH, meta.size.into());
            return Ok((headers, Body::empty()).into_response());
        }
        let range = wanted_range(&conditions, meta.size, &validators)?;
        let found = match assets.get(&meta, range.clone()).await {
            // The asset was written in between, so the conditions are evaluated again.
            Err(AssetError::Condition) if attempts < MAX_ATTEMPTS => {
                attempts += 1;
                continue;
            }
            found => found?,
        };
        let bytes = range.clone().unwrap_or(0..meta.size);
        headers.insert(header::CONTENT_LENGTH, (bytes.end - bytes.start).into());
        let mut status = StatusCode::OK;
        if let Some(range) = range {
            status = StatusCode::PARTIAL_CONTENT;
            let range = format!("bytes {}-{}/{}", range.start, range.end - 1, meta.size);
            headers.insert(header::CONTENT_RANGE, HeaderValue::try_from(range).unwrap_or(UNKNOWN_RANGE));
        }
        return Ok((status, headers, Body::from_stream(found.into_stream())).into_response());
    }
}

async fn upload(
    State(api): State<Api>,
    principal: Principal,
    Path(path): Path<String>,
    request: Request,
) -> Result<Response, AssetError> {
    let path = AssetPath::parse(&path)?;
    let (parts, body) = request.into_parts();
    // A part of an asset is refused (RFC 9110, section 14.5).
    if parts.headers.contains_key(header::CONTENT_RANGE) {
        return Err(AssetError::BadCondition);
    }
    let announced = parts.headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    if announced.is_some_and(|bytes: u64| bytes > MAX_ASSET_BYTES) {
        return Err(AssetError::TooLarge);
    }
    let assets = api.assets_of(&principal).await?.clone();
    // A handler is dropped when its client disconnects. This task continues: it sees the end of the body, and removes
    // uploaded data.
    let putting = tokio::spawn(async move {
        let check = check(&parts.headers);
        assets.put(&principal.subject, &path, announced, body, check.as_deref()).await
    });
    let put = putting.await.map_err(object_store::Error::from)??;
    let status = match put.written {
        Written::Created => StatusCode::CREATED,
        Written::Replaced => StatusCode::NO_CONTENT,
    };
    let etag = put.e_tag.and_then(|etag| HeaderValue::try_from(etag).ok());
    let headers: HeaderMap = etag.map(|etag| (header::ETAG, etag)).into_iter().collect();
    Ok((status, headers).into_response())
}

async fn remove(
    State(api): State<Api>,
    principal: Principal,
    Path(path): Path<String>,
    conditions: HeaderMap,
) -> Result<StatusCode, AssetError> {
    let path = AssetPath::parse(&path)?;
    api.assets_of(&principal).await?.delete(&principal.subject, &path, check(&conditions).as_deref()).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Returns the check for the conditions of a write, if it has any.
fn check(headers: &HeaderMap) -> Option<Box<Check<'_>>> {
    is_conditional(headers).then(|| -> Box<Check<'_>> { Box::new(|found| check_write(headers, found)) })
}

/// The response for the client; details go to the log.
impl IntoResponse for AssetError {
    fn into_response(self) -> Response {
        match &self {
            Self::Store(error) => tracing::error!(%error, "the object store failed"),
            Self::StoreFull(error) => tracing::error!(error, "the object store is full"),
            _ => {}
        }
        let (status, message) = self.answer();
        let mut response = problem(status, message);
        if let Self::RangeNotSatisfiable { size } = &self {
            let range = HeaderValue::try_from(format!("bytes */{size}")).unwrap_or(UNKNOWN_RANGE);
            response.headers_mut().insert(header::CONTENT_RANGE, range);
        }
        let is_busy = matches!(self, Self::Busy(_) | Self::Moving);
        when_to_retry(response, is_busy.then_some(BUSY_SECONDS))
    }
}

fn not_modified(validators: &Validators) -> Response {
    let mut headers = HeaderMap::new();
    validators.write(&mut headers);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(CACHE_CONTROL));
    (StatusCode::NOT_MODIFIED, headers).into_response()
}

fn asset_headers(path: &AssetPath, validators: &Validators) -> HeaderMap {
    let mut headers = download_headers(path.file_name());
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    validators.write(&mut headers);
    headers
}

/// Marks a download as a file to save, never a page, so that its content cannot run under this origin.
fn download_headers(file_name: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let fixed = |text| HeaderValue::from_static(text);
    headers.insert(header::CONTENT_TYPE, fixed("application/octet-stream"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, fixed("nosniff"));
    headers.insert(header::CONTENT_SECURITY_POLICY, fixed("default-src 'none'; sandbox"));
    headers.insert(header::CACHE_CONTROL, fixed(CACHE_CONTROL));
    // RFC 8187: any name, in characters that any parser accepts.
    let disposition = format!("attachment; filename*=UTF-8''{}", utf8_percent_encode(file_name, NOT_ATTR_CHAR));
    headers.insert(
        header::CONTENT_DISPOSITION,
        HeaderValue::try_from(disposition).unwrap_or_else(|_| fixed("attachment")),
    );
    headers
}

const CACHE_CONTROL: &str = "private, no-store";
const UNKNOWN_RANGE: HeaderValue = HeaderValue::from_static("bytes */*");
/// Attempts of a read while the asset is being written.
const MAX_ATTEMPTS: u32 = 3;
/// Retry time while the memory budget is exhausted.
const BUSY_SECONDS: u64 = 5;
const ASSET: &str = "/assets/{*path}";
/// RFC 8187, section 3.2.1, with the most common of the permitted characters.
const NOT_ATTR_CHAR: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
