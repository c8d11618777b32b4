//! The API server's audit log, in which tests count requests.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use jiff::Timestamp;
use kube::Client;
use serde::Deserialize;

use crate::wait::{self, Seen};

/// The audit log of a control plane.
#[derive(Clone, Debug)]
pub struct AuditLog {
    path: PathBuf,
}

/// A position in the audit log: records before it are skipped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct AuditMark(u64);

/// One request to the API server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditRecord {
    /// `create`, `get`, `list`, `watch`, `update`, `patch`, `delete`, …
    pub verb: String,
    /// The user, after impersonation.
    pub user: String,
    /// The plural name, as in `secrets`; empty for paths like `/version`.
    pub resource: String,
    /// As in `status` or `token`; empty for the object itself.
    pub subresource: String,
    /// The API group; empty for the core group.
    pub group: String,
    /// Empty for objects of the cluster.
    pub namespace: String,
    /// Empty for collections, and for a create whose name the server chose.
    pub name: String,
    /// The path and query.
    pub uri: String,
    /// The client's name for itself.
    pub user_agent: String,
    /// The HTTP status; 0 while a watch runs.
    pub code: u16,
    /// `ResponseComplete`, `ResponseStarted` (a watch that runs) or `Panic`.
    pub stage: String,
    /// Time of the request.
    pub received: Timestamp,
    /// Time of the stage.
    pub completed: Timestamp,
}

impl AuditRecord {
    /// True if the request asked for a change.
    pub fn is_write(&self) -> bool {
        WRITES.contains(&self.verb.as_str())
    }

    /// True if the request was allowed and succeeded.
    pub fn succeeded(&self) -> bool {
        (200..300).contains(&self.code)
    }
}

/// `verb resource[/subresource] namespace/name -> code`, as in a message of a test.
impl std::fmt::Display for AuditRecord {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { verb, resource, subresource, namespace, name, code, user, .. } = self;
        let slash = if subresource.is_empty() { "" } else { "/" };
        write!(f, "{verb} {resource}{slash}{subresource} {namespace}/{name} -> {code} by {user}")
    }
}

impl AuditLog {
    /// The log in this file.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The end of the last complete line of the log at present. Requests that were just answered may not be in the log
    /// yet: call [`Self::settle`] first where that matters.
    pub fn mark(&self) -> AuditMark {
        AuditMark(File::open(&self.path).and_then(|mut file| complete_lines(&mut file)).unwrap_or_default())
    }

    /// Waits until a request sent by this function is in the log, so that all requests answered before are there too.
    /// Returns the mark behind it.
    ///
    /// # Errors
    /// If the API server does not answer.
    pub async fn settle(&self, client: &Client) -> Result<AuditMark> {
        static REQUESTS: AtomicU64 = AtomicU64::new(0);
        let number = REQUESTS.fetch_add(1, Ordering::Relaxed);
        let path = format!("/version?settle={}-{number}", std::process::id());
        let start = self.mark();
        client.request_text(http::Request::get(&path).body(Vec::new())?).await?;
        let logged = async || -> Result<bool> { Ok(self.since(start)?.iter().any(|record| record.uri == path)) };
        wait::until("our request is in the audit log", SOON, async || match logged().await {
            Ok(found) => Seen::from(found),
            Err(error) => Seen::NotYet(format!("{error:#}")),
        })
        .await?;
        Ok(self.mark())
    }

    /// All requests in the log, in the order of their answers.
    ///
    /// # Errors
    /// If the file cannot be read or a line is not a record.
    pub fn records(&self) -> Result<Vec<AuditRecord>> {
        self.since(AuditMark::default())
    }

    /// The requests behind a mark.
    ///
    /// # Errors
    /// If the file cannot be read or a line is not a record.
    pub fn since(&self, mark: AuditMark) -> Result<Vec<AuditRecord>> {
        self.iter_since(mark)?.collect()
    }

    /// The requests behind a mark, one by one: for logs that do not fit into memory.
    ///
    /// # Errors
    /// If the file cannot be opened.
    pub fn iter_since(&self, mark: AuditMark) -> Result<impl Iterator<Item = Result<AuditRecord>> + use<>> {
        let (file, complete) = self.open_at(mark)?;
        let path = self.path.clone();
        let lines = BufReader::new(file.take(complete)).lines();
        Ok(lines.map(move |line| parse(&line?).with_context(|| format!("in {}", path.display()))))
    }

    /// The requests behind a mark, and the mark behind them, for callers that poll.
    ///
    /// # Errors
    /// If the file cannot be read or a line is not a record.
    pub fn read_on(&self, mark: AuditMark) -> Result<(Vec<AuditRecord>, AuditMark)> {
        let (file, complete) = self.open_at(mark)?;
        let lines = BufReader::new(file.take(complete)).lines();
        let records = lines.map(|line| parse(&line?)).collect::<Result<_>>();
        let records = records.with_context(|| format!("in {}", self.path.display()))?;
        Ok((records, AuditMark(mark.0 + complete)))
    }

    /// The log from a mark on, and the number of bytes in complete lines.
    fn open_at(&self, mark: AuditMark) -> Result<(File, u64)> {
        let open = || format!("cannot read the audit log {}", self.path.display());
        let mut file = File::open(&self.path).with_context(open)?;
        file.seek(SeekFrom::Start(mark.0)).with_context(open)?;
        let complete = complete_lines(&mut file).with_context(open)?;
        file.seek(SeekFrom::Start(mark.0)).with_context(open)?;
        Ok((file, complete))
    }

    /// The requests behind `mark` that asked for a change, by users whose name starts with `user` (an exact name, or
    /// `system:serviceaccount:gaia-system:` for all of a namespace).
    ///
    /// # Errors
    /// If the file cannot be read or a line is not a record.
    pub fn writes_by(&self, user: &str, mark: AuditMark) -> Result<Vec<AuditRecord>> {
        let mut records = self.by(user, mark)?;
        records.retain(AuditRecord::is_write);
        Ok(records)
    }

    /// All requests behind `mark` by users whose name starts with `user`.
    ///
    /// # Errors
    /// If the file cannot be read or a line is not a record.
    pub fn by(&self, user: &str, mark: AuditMark) -> Result<Vec<AuditRecord>> {
        let keep = |record: &Result<AuditRecord>| record.as_ref().map_or(true, |record| record.user.starts_with(user));
        self.iter_since(mark)?.filter(keep).collect()
    }
}

/// The number of bytes in complete lines: the server may be in the middle of writing the last one.
fn complete_lines(file: &mut File) -> std::io::Result<u64> {
    let length = file.metadata()?.len();
    let start = file.stream_position()?;
    let mut end = length;
    let mut block = [0; 4096];
    while end > start {
        let size = (end - start).min(block.len() as u64);
        file.seek(SeekFrom::Start(end - size))?;
        let block = &mut block[..usize::try_from(size).unwrap_or_default()];
        file.read_exact(block)?;
        if let Some(newline) = block.iter().rposition(|byte| *byte == b'\n') {
            return Ok(end - size + newline as u64 + 1 - start);
        }
        end -= size;
    }
    Ok(0)
}

fn parse(line: &str) -> Result<AuditRecord> {
    let event: Event = serde_json::from_str(line).with_context(|| format!("not an audit record: {line}"))?;
    let object = event.object_ref.unwrap_or_default();
    Ok(AuditRecord {
        verb: event.verb,
        user: event.impersonated_user.unwrap_or(event.user).username,
        resource: object.resource,
        subresource: object.subresource,
        group: object.api_group,
        namespace: object.namespace,
        name: object.name,
        uri: event.request_uri,
        user_agent: event.user_agent,
        code: event.response_status.map_or(0, |status| status.code),
        stage: event.stage,
        received: event.request_received_timestamp,
        completed: event.stage_timestamp,
    })
}

/// The used fields of an `audit.k8s.io/v1` Event.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Event {
    verb: String,
    stage: String,
    #[serde(rename = "requestURI")]
    request_uri: String,
    user: User,
    impersonated_user: Option<User>,
    #[serde(default)]
    user_agent: String,
    object_ref: Option<ObjectRef>,
    response_status: Option<ResponseStatus>,
    request_received_timestamp: Timestamp,
    stage_timestamp: Timestamp,
}

#[derive(Deserialize)]
struct User {
    #[serde(default)]
    username: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ObjectRef {
    resource: String,
    subresource: String,
    api_group: String,
    namespace: String,
    name: String,
}

#[derive(Deserialize)]
struct ResponseStatus {
    #[serde(default)]
    code: u16,
}

const SOON: Duration = Duration::from_secs(10);
const WRITES: [&str; 5] = ["create", "update", "patch", "delete", "deletecollection"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_never_in_the_middle_of_a_line() {
        let dir = tempfile::tempdir().unwrap();
        let log = AuditLog::at(dir.path().join("audit.jsonl"));
        assert_eq!(log.mark().0, 0, "there is no log yet");
        std::fs::write(log.path(), "{}\n{\"verb\": \"ge").unwrap();
        assert_eq!(log.mark().0, 3);
    }
}
