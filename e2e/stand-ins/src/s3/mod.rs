//! A store with the part of S3's protocol that a bucket of files needs: objects, lists in pages, uploads in parts,
//! conditions, and verified signatures.

mod signature;
mod xml;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, RawQuery, State};
use axum::response::{IntoResponse as _, Response};
use gaia_pki::sha256_hex;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use gaia_api::sync::lock;

/// Credentials of the bucket.
#[derive(Clone, Debug)]
pub struct Keys {
    /// The access key's id.
    pub id: String,
    /// The secret access key.
    pub secret: String,
}

/// A running store with one bucket, [`BUCKET`]. Dropping it stops it.
#[derive(Debug)]
pub struct S3 {
    address: SocketAddr,
    shared: Arc<Shared>,
    serving: JoinHandle<std::io::Result<()>>,
}

#[derive(Debug)]
struct Shared {
    keys: Mutex<Keys>,
    bucket: Mutex<Contents>,
    /// The delay before each request is processed.
    delay: Mutex<Duration>,
    /// The refusal of writes, if set.
    refusal: Mutex<Option<(StatusCode, &'static str)>>,
}

#[derive(Debug, Default)]
struct Contents {
    objects: BTreeMap<String, Bytes>,
    uploads: BTreeMap<String, BTreeMap<u32, Bytes>>,
    begun: u32,
    requests: u32,
    lists: u32,
}

impl S3 {
    /// Starts a store in this process, on loopback.
    ///
    /// # Errors
    /// If there is no free port.
    pub async fn start() -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.context("no free port on loopback")?;
        let address = listener.local_addr()?;
        let keys = Keys { id: "AKGAIA".to_owned(), secret: "s3cret/of+the=store".to_owned() };
        let shared = Arc::new(Shared {
            keys: Mutex::new(keys),
            bucket: Mutex::default(),
            delay: Mutex::default(),
            refusal: Mutex::default(),
        });
        let app = Router::new()
            .fallback(serve)
            .layer(DefaultBodyLimit::max(MAX_REQUEST_BYTES))
            .with_state(Arc::clone(&shared));
        let serving = tokio::spawn(async move { axum::serve(listener, app).await });
        Ok(Self { address, shared, serving })
    }

    /// The endpoint that its clients are configured with.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The accepted credentials, as AWS's credentials file.
    #[must_use]
    pub fn credentials_file(&self) -> String {
        let keys = lock(&self.shared.keys).clone();
        format!("[default]\naws_access_key_id = {}\naws_secret_access_key = {}\n", keys.id, keys.secret)
    }

    /// Accepts only this secret from now on.
    pub fn set_secret(&self, secret: &str) {
        secret.clone_into(&mut lock(&self.shared.keys).secret);
    }

    /// Delays each request from now on; a request that is aborted in the delay is not processed.
    pub fn set_delay(&self, delay: Duration) {
        *lock(&self.shared.delay) = delay;
    }

    /// Refuses each PUT from now on with this status and code; none: accepts them.
    pub fn refuse_writes(&self, refusal: Option<(StatusCode, &'static str)>) {
        *lock(&self.shared.refusal) = refusal;
    }

    /// The number of list requests.
    #[must_use]
    pub fn lists(&self) -> u32 {
        lock(&self.shared.bucket).lists
    }

    /// The keys of all objects.
    #[must_use]
    pub fn objects(&self) -> Vec<String> {
        lock(&self.shared.bucket).objects.keys().cloned().collect()
    }

    /// Uploads in parts that are neither completed nor aborted.
    #[must_use]
    pub fn open_uploads(&self) -> usize {
        lock(&self.shared.bucket).uploads.len()
    }

    /// The number of requests with a valid signature.
    #[must_use]
    pub fn requests(&self) -> u32 {
        lock(&self.shared.bucket).requests
    }
}

impl Drop for S3 {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn serve(
    State(shared): State<Arc<Shared>>,
    method: Method,
    uri: Uri,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let keys = lock(&shared.keys).clone();
    if !signature::is_good(&keys, &method, &uri, &headers, &body) {
        return refuse(StatusCode::FORBIDDEN, "SignatureDoesNotMatch");
    }
    let delay = *lock(&shared.delay);
    tokio::time::sleep(delay).await;
    let query: BTreeMap<String, String> = xml::query(query.as_deref().unwrap_or_default());
    let path = xml::decoded(uri.path());
    let Some(key) = path.strip_prefix('/').and_then(|path| path.strip_prefix(BUCKET)) else {
        return refuse(StatusCode::NOT_FOUND, "NoSuchBucket");
    };
    if let Some((status, code)) = *lock(&shared.refusal)
        && method == Method::PUT
    {
        return refuse(status, code);
    }
    let mut bucket = lock(&shared.bucket);
    bucket.requests += 1;
    match key.strip_prefix('/').filter(|key| !key.is_empty()) {
        Some(key) => bucket.object(&method, key, &query, &headers, body),
        None if method == Method::GET && query.get("list-type").is_some_and(|kind| kind == "2") => {
            bucket.lists += 1;
            bucket.list(&query)
        }
        None => refuse(StatusCode::NOT_IMPLEMENTED, "NotImplemented"),
    }
}

impl Contents {
    fn object(
        &mut self,
        method: &Method,
        key: &str,
        query: &BTreeMap<String, String>,
        headers: &HeaderMap,
        body: Bytes,
    ) -> Response {
        let upload = query.get("uploadId");
        match (method.as_str(), upload) {
            ("POST", None) if query.contains_key("uploads") => {
                self.begun += 1;
                let id = format!("upload-{}", self.begun);
                self.uploads.insert(id.clone(), BTreeMap::new());
                xml::answer("InitiateMultipartUploadResult", &[("UploadId", &id)])
            }
            ("PUT", Some(id)) => {
                let number = query.get("partNumber").and_then(|number| number.parse().ok());
                let (Some(parts), Some(number)) = (self.uploads.get_mut(id), number) else {
                    return refuse(StatusCode::NOT_FOUND, "NoSuchUpload");
                };
                let etag = etag(&body);
                parts.insert(number, body);
                [(header::ETAG, etag)].into_response()
            }
            ("POST", Some(id)) => {
                let Some(parts) = self.uploads.remove(id) else {
                    return refuse(StatusCode::NOT_FOUND, "NoSuchUpload");
                };
                let whole = Bytes::from(parts.into_values().collect::<Vec<_>>().concat());
                let etag = etag(&whole);
                self.objects.insert(key.to_owned(), whole);
                xml::answer("CompleteMultipartUploadResult", &[("ETag", &etag)])
            }
            ("DELETE", Some(id)) => match self.uploads.remove(id) {
                Some(_) => StatusCode::NO_CONTENT.into_response(),
                None => refuse(StatusCode::NOT_FOUND, "NoSuchUpload"),
            },
            ("PUT", None) => self.put(key, headers, body),
            ("GET" | "HEAD", None) => self.get(key, headers),
            ("DELETE", None) => {
                self.objects.remove(key);
                StatusCode::NO_CONTENT.into_response()
            }
            _ => refuse(StatusCode::NOT_IMPLEMENTED, "NotImplemented"),
        }
    }

    fn put(&mut self, key: &str, headers: &HeaderMap, body: Bytes) -> Response {
        let found = self.objects.get(key).map(|object| etag(object));
        let wanted = headers.get(header::IF_MATCH).map(HeaderValue::as_bytes);
        let is_other = wanted.is_some_and(|wanted| found.as_deref().map(str::as_bytes) != Some(wanted));
        if is_other || (headers.contains_key(header::IF_NONE_MATCH) && found.is_some()) {
            return refuse(StatusCode::PRECONDITION_FAILED, "PreconditionFailed");
        }
        let etag = etag(&body);
        self.objects.insert(key.to_owned(), body);
        [(header::ETAG, etag)].into_response()
    }

    /// The framework removes the body of an answer to HEAD.
    fn get(&self, key: &str, headers: &HeaderMap) -> Response {
        let Some(object) = self.objects.get(key) else { return refuse(StatusCode::NOT_FOUND, "NoSuchKey") };
        let etag = etag(object);
        let wanted = headers.get(header::IF_MATCH).map(HeaderValue::as_bytes);
        if wanted.is_some_and(|wanted| wanted != etag.as_bytes()) {
            return refuse(StatusCode::PRECONDITION_FAILED, "PreconditionFailed");
        }
        let size = object.len();
        let range = headers.get(header::RANGE).and_then(|value| value.to_str().ok()?.strip_prefix("bytes="));
        let range = range.and_then(|range| range.split_once('-'));
        let range = range.and_then(|(first, last)| Some((first.parse().ok()?, last.parse::<usize>().ok()?)));
        let fixed = [(header::ETAG, etag), (header::LAST_MODIFIED, "Thu, 01 Jan 2026 00:00:00 GMT".to_owned())];
        match range {
            Some((first, last)) if first < size => {
                let end = (last + 1).min(size);
                let range = format!("bytes {first}-{}/{size}", end - 1);
                let part = Body::from(object.slice(first..end));
                (StatusCode::PARTIAL_CONTENT, fixed, [(header::CONTENT_RANGE, range)], part).into_response()
            }
            _ => (fixed, Body::from(object.clone())).into_response(),
        }
    }

    fn list(&self, query: &BTreeMap<String, String>) -> Response {
        let text = |name: &str| query.get(name).map_or("", String::as_str);
        let after = text("continuation-token").max(text("start-after"));
        let mut found = self.objects.iter().filter(|(key, _)| key.starts_with(text("prefix")) && key.as_str() > after);
        let page: Vec<_> = found.by_ref().take(PAGE).collect();
        let next = found.next().and(page.last()).map(|(key, _)| key.as_str());
        xml::list(page.iter().map(|(key, object)| (key.as_str(), object.len(), etag(object))), next)
    }
}

fn etag(object: &[u8]) -> String {
    format!("\"{}\"", &sha256_hex(object)[..32])
}

fn refuse(status: StatusCode, code: &str) -> Response {
    (status, xml::answer("Error", &[("Code", code)])).into_response()
}

/// The only bucket.
pub const BUCKET: &str = "gaia-assets";
/// Small, so that lists have several pages.
const PAGE: usize = 3;
const MAX_REQUEST_BYTES: usize = 16 * 1024 * 1024;
