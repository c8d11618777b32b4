//! Lists and watches, item by item.
//!
//! A list is parsed while it arrives, so that its size does not matter. An item that cannot be parsed is passed on as
//! unreadable and never ends the watch; one that cannot be identified makes the list incomplete.

use std::collections::VecDeque;
use std::marker::PhantomData;
use std::time::Duration;

use futures::Stream;
use http::Method;
use http_body_util::BodyExt as _;
use kube::client::Body;
use serde::Deserialize;
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::Resource;
use super::call::{ApiServer, CallError, body_error, refused, request};
use super::json::{LARGEST_OBJECT, ListSplitter, Malformed, Piece, member};
use super::object::{Fault, Object, Problem, Reading, parse, read};

/// A change that a watch reports.
#[derive(Debug)]
pub(crate) enum Change<K> {
    /// A list starts.
    Init,
    /// An object of the list.
    Listed(Reading<K>),
    /// The list has ended. Unless it is complete, objects that it does not contain may exist.
    Done { complete: bool },
    /// An object is there, or has changed.
    Applied(Reading<K>),
    /// An object is deleted, or no longer selected.
    Deleted(Reading<K>),
    /// An object exists that cannot be identified.
    Unidentified(Fault),
}

/// The reason why a watch broke.
pub(crate) type WatchError = CallError;

/// Which objects are watched.
#[derive(Debug, Clone)]
pub(crate) struct Selection {
    pub(crate) resource: Resource,
    /// None: everywhere.
    pub(crate) namespace: Option<String>,
    pub(crate) labels: Option<&'static str>,
    pub(crate) fields: Option<&'static str>,
}

/// A list followed by a watch, repeated without end.
pub(crate) struct Watch<K> {
    api: ApiServer,
    selection: Selection,
    state: State,
    kind: PhantomData<fn() -> K>,
}

enum State {
    /// No state is known.
    Empty,
    /// In between two pages; with the token of the next.
    BetweenPages {
        next: Option<String>,
        complete: bool,
    },
    Page(Page),
    /// The state is known up to that resource version.
    Listed(String),
    Watching(Lines),
}

/// A page of a list that arrives.
struct Page {
    body: Body,
    splitter: ListSplitter,
    pieces: VecDeque<Piece>,
    metadata: Option<ListMetadata>,
    complete: bool,
}

/// The events of a watch as they arrive.
struct Lines {
    body: Body,
    buffer: Zeroizing<Vec<u8>>,
    version: String,
    begun: Instant,
    is_silent: bool,
}

#[derive(Deserialize)]
struct ListMetadata {
    #[serde(rename = "resourceVersion")]
    resource_version: Option<String>,
    #[serde(rename = "continue")]
    next: Option<String>,
}

#[derive(Deserialize)]
struct StatusCode {
    code: u16,
}

impl<K: Object + Send + 'static> Watch<K> {
    pub(crate) fn new(api: ApiServer, selection: Selection) -> Self {
        Self { api, selection, state: State::Empty, kind: PhantomData }
    }

    /// The changes as a stream that never ends. After an error it continues, with a new list if necessary.
    pub(crate) fn stream(self) -> impl Stream<Item = Result<Change<K>, WatchError>> + Send {
        futures::stream::unfold(self, |mut watch| async move {
            let change = watch.next().await;
            Some((change, watch))
        })
    }

    async fn next(&mut self) -> Result<Change<K>, WatchError> {
        loop {
            let (change, state) = match std::mem::replace(&mut self.state, State::Empty) {
                State::Empty => {
                    self.state = State::BetweenPages { next: None, complete: true };
                    return Ok(Change::Init);
                }
                State::BetweenPages { next, complete } => (None, self.page(next.as_deref(), complete).await?),
                State::Page(page) => Self::read_page(page).await?,
                State::Listed(version) => (None, self.watch(version).await?),
                State::Watching(lines) => self.read_line(lines).await?,
            };
            self.state = state;
            if let Some(change) = change {
                return Ok(change);
            }
        }
    }

    async fn page(&mut self, next: Option<&str>, complete: bool) -> Result<State, WatchError> {
        let limit = page_size(self.selection.resource).to_string();
        let next = next.map(|next| ("continue", next));
        let pairs: Vec<_> = [("limit", limit.as_str())].into_iter().chain(next).collect();
        let request = self.get(&pairs)?;
        let response = super::call::within(LIST_TIMEOUT, self.api.send(request)).await?;
        Ok(State::Page(Page {
            body: response.into_body(),
            splitter: ListSplitter::new(),
            pieces: VecDeque::new(),
            metadata: None,
            complete,
        }))
    }

    async fn read_page(mut page: Page) -> Result<(Option<Change<K>>, State), WatchError> {
        let not_json = |_: Malformed| CallError::Answer("the list is not JSON".to_owned());
        loop {
            match page.pieces.pop_front() {
                Some(Piece::Item(item)) => {
                    let change = match read(Zeroizing::new(item)) {
                        Ok(reading) => Change::Listed(reading),
                        Err(fault) => {
                            page.complete = false;
                            Change::Unidentified(fault)
                        }
                    };
                    return Ok((Some(change), State::Page(page)));
                }
                Some(Piece::Oversized) => {
                    page.complete = false;
                    let fault = Fault { path: String::new(), problem: Problem::TooLarge };
                    return Ok((Some(Change::Unidentified(fault)), State::Page(page)));
                }
                Some(Piece::Metadata(text)) => {
                    page.metadata = parse(&text).ok();
                    continue;
                }
                None => {}
            }
            let frame = tokio::time::timeout(LIST_TIMEOUT, page.body.frame()).await;
            match frame.map_err(|_| CallError::Timeout(LIST_TIMEOUT.as_secs()))? {
                Some(Ok(frame)) => {
                    let Some(data) = frame.data_ref() else { continue };
                    let pieces = &mut page.pieces;
                    page.splitter.push(data, |piece| pieces.push_back(piece)).map_err(not_json)?;
                }
                Some(Err(error)) => return Err(CallError::Connection(body_error(&error))),
                None => break,
            }
        }
        page.splitter.finish().map_err(not_json)?;
        let no_version = || CallError::Answer("the list has no resource version".to_owned());
        let metadata = page.metadata.ok_or_else(no_version)?;
        if let Some(next) = metadata.next.filter(|next| !next.is_empty()) {
            return Ok((None, State::BetweenPages { next: Some(next), complete: page.complete }));
        }
        let version = metadata.resource_version.filter(|version| !version.is_empty()).ok_or_else(no_version)?;
        Ok((Some(Change::Done { complete: page.complete }), State::Listed(version)))
    }

    async fn watch(&mut self, version: String) -> Result<State, WatchError> {
        let seconds = WATCH_SECONDS.to_string();
        let request = self.get(&[
            ("watch", "true"),
            ("allowWatchBookmarks", "true"),
            ("timeoutSeconds", &seconds),
            ("resourceVersion", &version),
        ])?;
        let response = match super::call::within(LIST_TIMEOUT, self.api.send(request)).await {
            Ok(response) => response,
            Err(error) => {
                // After a 410 the API server no longer has the events since then: a new list is needed.
                if error.code() != Some(410) {
                    self.state = State::Listed(version);
                }
                return Err(error);
            }
        };
        let (body, buffer) = (response.into_body(), Zeroizing::new(vec![]));
        Ok(State::Watching(Lines { body, buffer, version, begun: Instant::now(), is_silent: true }))
    }

    /// The next event. If a line is not JSON, an event may be missing: a new list follows.
    async fn read_line(&mut self, mut lines: Lines) -> Result<(Option<Change<K>>, State), WatchError> {
        let Some(line) = lines.next().await? else {
            let version = lines.version;
            if lines.is_silent && lines.begun.elapsed() < SHORTEST_WATCH {
                self.state = State::Listed(version);
                return Err(CallError::Answer("the watch ended at once".to_owned()));
            }
            return Ok((None, State::Listed(version)));
        };
        lines.is_silent = false;
        let not_json = |_: Malformed| CallError::Answer("an event of the watch is not JSON".to_owned());
        let (kind, object) = (member(&line, "type").map_err(not_json)?, member(&line, "object").map_err(not_json)?);
        let text = |range: Option<std::ops::Range<usize>>| line.get(range.unwrap_or_default()).unwrap_or_default();
        let (kind, object) = (text(kind), text(object));
        match kind {
            br#""BOOKMARK""# => {
                lines.version = version(object).unwrap_or(lines.version);
                Ok((None, State::Watching(lines)))
            }
            br#""ERROR""# => {
                let code = parse::<StatusCode>(object).map_or(500, |status| status.code);
                if code != 410 {
                    self.state = State::Listed(lines.version);
                }
                Err(refused(code, object))
            }
            br#""ADDED""# | br#""MODIFIED""# | br#""DELETED""# => {
                let is_deleted = kind == br#""DELETED""#;
                match read(Zeroizing::new(object.to_vec())) {
                    Ok(reading) => {
                        lines.version = version_of(&reading).unwrap_or(lines.version);
                        let change = if is_deleted { Change::Deleted(reading) } else { Change::Applied(reading) };
                        Ok((Some(change), State::Watching(lines)))
                    }
                    Err(fault) => Err(CallError::Answer(format!("an event of the watch names no object: {fault}"))),
                }
            }
            _ => Err(CallError::Answer("an event of the watch has an unknown type".to_owned())),
        }
    }

    fn get(&self, pairs: &[(&str, &str)]) -> Result<http::Request<Body>, CallError> {
        let Selection { resource, namespace, labels, fields } = &self.selection;
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.extend_pairs(labels.map(|labels| ("labelSelector", labels)));
        query.extend_pairs(fields.map(|fields| ("fieldSelector", fields)));
        query.extend_pairs(pairs);
        let path = resource.collection(namespace.as_deref())?;
        request(Method::GET, format!("{path}?{}", query.finish()))
    }
}

impl Lines {
    /// The next line; none: the watch has ended.
    async fn next(&mut self) -> Result<Option<Zeroizing<Vec<u8>>>, WatchError> {
        let mut searched = 0;
        loop {
            let rest = self.buffer.get(searched..).unwrap_or_default();
            if let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                let after = self.buffer.get(searched + end + 1..).unwrap_or_default().to_vec();
                let mut line = std::mem::replace(&mut *self.buffer, after);
                line.truncate(searched + end);
                searched = 0;
                if line.iter().all(u8::is_ascii_whitespace) {
                    continue;
                }
                return Ok(Some(Zeroizing::new(line)));
            }
            searched = self.buffer.len();
            if searched > LARGEST_OBJECT {
                return Err(CallError::Answer("an event of the watch is too large".to_owned()));
            }
            match tokio::time::timeout(IDLE, self.body.frame()).await {
                Ok(Some(Ok(frame))) => self.buffer.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data)),
                // A watch that is silent or cut off is resumed at the last version.
                Err(_) | Ok(None | Some(Err(_))) => return Ok(None),
            }
        }
    }
}

fn version(bookmark: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Metadata {
        #[serde(rename = "resourceVersion")]
        resource_version: Option<String>,
    }
    let metadata = member(bookmark, "metadata").ok()??;
    parse::<Metadata>(bookmark.get(metadata)?).ok()?.resource_version.filter(|version| !version.is_empty())
}

fn version_of<K: Object>(reading: &Reading<K>) -> Option<String> {
    reading.metadata().resource_version.clone().filter(|version| !version.is_empty())
}

/// Objects with content are large; pages of them are a burden for the API server.
fn page_size(resource: Resource) -> u32 {
    if [Resource::SECRET, Resource::CONFIG_MAP].contains(&resource) { 100 } else { 500 }
}

const WATCH_SECONDS: u64 = 290;
/// A little longer than the API server keeps a watch open: a connection that is silent for so long is dead.
const IDLE: Duration = Duration::from_secs(WATCH_SECONDS + 5);
/// For the head of an answer, and between two pieces of it.
const LIST_TIMEOUT: Duration = Duration::from_secs(60);
/// A watch that ends earlier than this without an event is not restarted at once.
const SHORTEST_WATCH: Duration = Duration::from_secs(1);
