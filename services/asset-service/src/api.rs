//! The endpoints of asset-service.

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, put};
use gaia_auth::{Access, Principal, problem};
use gaia_runtime::Routes;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;

use crate::asset_path::AssetPath;
use crate::assets::{Asset, AssetError, Assets, MAX_ASSET_BYTES, Written};

#[derive(Debug, Serialize)]
struct List {
    assets: Vec<Asset>,
    has_more: bool,
}

pub(crate) fn routes(routes: Routes, assets: &Assets) -> Routes {
    let (read, write) = (Access::Scopes(&["assets:read"]), Access::Scopes(&["assets:write"]));
    routes
        .route("/assets", read, get(list).with_state(assets.clone()))
        .route(ASSET, read, get(download).with_state(assets.clone()))
        .route(ASSET, write, put(upload).with_state(assets.clone()))
        .route(ASSET, write, delete(remove).with_state(assets.clone()))
}

async fn list(State(assets): State<Assets>, principal: Principal) -> Result<Json<List>, AssetError> {
    let (assets, has_more) = assets.list(&principal.subject).await?;
    Ok(Json(List { assets, has_more }))
}

async fn download(
    State(assets): State<Assets>,
    principal: Principal,
    Path(path): Path<String>,
) -> Result<Response, AssetError> {
    let path = AssetPath::parse(&path)?;
    let found = assets.get(&principal.subject, &path).await?;
    let mut headers = download_headers(path.file_name());
    headers.insert(header::CONTENT_LENGTH, found.meta.size.into());
    Ok((headers, Body::from_stream(found.into_stream())).into_response())
}

async fn upload(
    State(assets): State<Assets>,
    principal: Principal,
    Path(path): Path<String>,
    request: Request,
) -> Result<StatusCode, AssetError> {
    let path = AssetPath::parse(&path)?;
    let announced = request.headers().get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    if announced.is_some_and(|bytes: u64| bytes > MAX_ASSET_BYTES) {
        return Err(AssetError::TooLarge);
    }
    match assets.put(&principal.subject, &path, request.into_body()).await? {
        Written::Created => Ok(StatusCode::CREATED),
        Written::Replaced => Ok(StatusCode::NO_CONTENT),
    }
}

async fn remove(
    State(assets): State<Assets>,
    principal: Principal,
    Path(path): Path<String>,
) -> Result<StatusCode, AssetError> {
    assets.delete(&principal.subject, &AssetPath::parse(&path)?).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// What the caller sees of an error; the rest goes to the log.
impl IntoResponse for AssetError {
    fn into_response(self) -> Response {
        if let Self::Store(error) = &self {
            tracing::error!(%error, "the object store failed");
        }
        let (status, message) = self.answer();
        problem(status, message)
    }
}

/// A download is a file to keep, never a page: whatever is in it cannot run here under our name.
fn download_headers(file_name: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let fixed = |text| HeaderValue::from_static(text);
    headers.insert(header::CONTENT_TYPE, fixed("application/octet-stream"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, fixed("nosniff"));
    headers.insert(header::CONTENT_SECURITY_POLICY, fixed("default-src 'none'; sandbox"));
    headers.insert(header::CACHE_CONTROL, fixed("private, no-store"));
    // RFC 8187: any name, in characters that any parser takes.
    let disposition = format!("attachment; filename*=UTF-8''{}", utf8_percent_encode(file_name, NOT_ATTR_CHAR));
    headers.insert(
        header::CONTENT_DISPOSITION,
        HeaderValue::try_from(disposition).unwrap_or_else(|_| fixed("attachment")),
    );
    headers
}

const ASSET: &str = "/assets/{*path}";
/// RFC 8187, section 3.2.1, with the most common of the characters it allows.
const NOT_ATTR_CHAR: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
