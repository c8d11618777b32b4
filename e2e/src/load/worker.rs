//! One worker of the load: it puts an object, gets it, finds it in the list and deletes it, repeatedly.

use std::sync::Arc;

use bytes::Bytes;
use gaia_runtime::{CredentialsSnapshot, MeshClient};
use http::{Method, StatusCode, Uri};
use serde_json::Value;
use tokio::time::Instant;

use super::account::{Account, Connection, Kind, Outcome, Record};
use super::call::{Answer, Credential, send};
use super::caller::Caller;
use super::tls::Outsider;
use super::token::Tokens;
use crate::services::ASSET_SERVICE;

/// A worker's credentials.
pub(super) enum Role {
    /// The service itself.
    Service {
        caller: Arc<Caller>,
        tokens: Arc<Tokens>,
        /// Its kept connections, and their generation.
        kept: Option<Box<KeptClient>>,
    },
    /// An external program, with an API key.
    Outsider { api_key: Arc<str> },
}

/// A client with kept connections, and their generation.
pub(super) struct KeptClient {
    of: Arc<CredentialsSnapshot>,
    client: MeshClient,
}

pub(super) struct Worker {
    role: Role,
    outsider: Outsider,
    account: Account,
    assets: Assets,
    made: u64,
    step: Step,
}

/// The objects of one worker: no two have the same.
struct Assets {
    url: String,
    name: String,
    content: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Put,
    Get,
    List,
    Delete,
}

impl Worker {
    pub(super) fn new(role: Role, outsider: Outsider, account: Account, asset_url: &Uri, name: &str) -> Self {
        let url = asset_url.to_string().trim_end_matches('/').to_owned();
        let assets = Assets { url, name: format!("load/{name}"), content: String::new() };
        Self { role, outsider, account, assets, made: 0, step: Step::Put }
    }

    /// Makes the next request, and records its result.
    pub(super) async fn make_one(&mut self) {
        self.made += 1;
        let connection = if self.made.is_multiple_of(ONE_NEW_IN) { Connection::New } else { Connection::Kept };
        if self.made.is_multiple_of(ONE_STRANGER_IN) {
            return self.as_stranger(connection).await;
        }
        if self.step == Step::Put {
            self.assets.content = format!("{} {}", self.assets.name, self.made);
        }
        let started = Instant::now();
        let (kind, outcome) = match &self.role {
            Role::Service { .. } => (Kind::Mtls, self.as_service(connection).await),
            Role::Outsider { .. } => (Kind::ApiKey, Some(self.as_outsider(connection).await)),
        };
        // Without a token there was no request; the results have it as a token that was not issued.
        let Some(outcome) = outcome else { return };
        let target = format!("{} asset-service", self.step.method());
        let is_ok = matches!(outcome, Outcome::Ok | Outcome::Retried);
        self.account.record(Record { kind, target, connection, outcome, took: started.elapsed() });
        // Steps after a failed one could only fail because of it.
        self.step = if is_ok { self.step.next() } else { Step::Put };
    }

    async fn as_service(&mut self, connection: Connection) -> Option<Outcome> {
        let Role::Service { caller, tokens, kept } = &mut self.role else { return None };
        let generation = caller.generation()?;
        let token = tokens.get(&generation).await?;
        let client = client_of(&generation, kept, connection);
        let first = self.assets.request(&client, self.step, Credential::Token(&token)).await;
        if !first.as_ref().is_ok_and(|answer| answer.refuses_token) {
            return Some(self.assets.judge(self.step, first));
        }
        let generation = caller.generation()?;
        let token = tokens.instead_of(&token, &generation).await?;
        let client = client_of(&generation, kept, connection);
        let second = self.assets.request(&client, self.step, Credential::Token(&token)).await;
        Some(match self.assets.judge(self.step, second) {
            Outcome::Ok => Outcome::Retried,
            Outcome::Failed(text) => Outcome::Failed(format!("{text}, with a second token")),
            other => other,
        })
    }

    async fn as_outsider(&mut self, connection: Connection) -> Outcome {
        let Role::Outsider { api_key } = &self.role else { return Outcome::Failed("it has no API key".to_owned()) };
        let answer = match self.outsider.client() {
            Ok(client) => {
                let client = if connection == Connection::New { client.apart() } else { client };
                self.assets.request(&client, self.step, Credential::ApiKey(api_key)).await
            }
            Err(why) => Err(why),
        };
        self.assets.judge(self.step, answer)
    }

    /// A request with an unknown key. Only a 401 is expected.
    async fn as_stranger(&mut self, connection: Connection) {
        let started = Instant::now();
        let answer = match self.outsider.client() {
            Ok(client) => {
                let client = if connection == Connection::New { client.apart() } else { client };
                self.assets.request(&client, Step::List, Credential::ApiKey(NOBODYS_KEY)).await
            }
            Err(why) => Err(why),
        };
        let outcome = match answer {
            Ok(answer) if answer.status == StatusCode::UNAUTHORIZED => Outcome::Ok,
            Ok(answer) if answer.status.is_success() => {
                Outcome::WronglyAccepted(format!("{} for an unknown key", answer.status))
            }
            Ok(answer) => Outcome::Failed(format!("{}, expected 401", answer.status)),
            Err(why) => Outcome::Failed(why),
        };
        let target = "GET asset-service".to_owned();
        self.account.record(Record { kind: Kind::Stranger, target, connection, outcome, took: started.elapsed() });
    }
}

/// The client of a generation for one request.
fn client_of(
    generation: &Arc<CredentialsSnapshot>,
    kept: &mut Option<Box<KeptClient>>,
    connection: Connection,
) -> MeshClient {
    match kept {
        _ if connection == Connection::New => generation.client(ASSET_SERVICE).apart(),
        Some(kept) if Arc::ptr_eq(&kept.of, generation) => kept.client.clone(),
        _ => {
            let client = generation.client(ASSET_SERVICE).apart();
            *kept = Some(Box::new(KeptClient { of: Arc::clone(generation), client: client.clone() }));
            client
        }
    }
}

impl Assets {
    async fn request(&self, client: &MeshClient, step: Step, credential: Credential<'_>) -> Result<Answer, String> {
        let url = if step == Step::List {
            format!("{}/assets", self.url)
        } else {
            format!("{}/assets/{}", self.url, self.name)
        };
        let body = if step == Step::Put { Bytes::from(self.content.clone()) } else { Bytes::new() };
        send(client, step.method(), &url, credential, body).await
    }

    /// Compares the answer with the expected one.
    fn judge(&self, step: Step, answer: Result<Answer, String>) -> Outcome {
        let answer = match answer {
            Ok(answer) => answer,
            Err(why) => return Outcome::Failed(why),
        };
        let is_right = match step {
            Step::Put => matches!(answer.status, StatusCode::CREATED | StatusCode::NO_CONTENT),
            Step::Get => answer.status == StatusCode::OK && answer.body == self.content,
            Step::List => answer.status == StatusCode::OK && self.is_listed(&answer.body),
            Step::Delete => answer.status == StatusCode::NO_CONTENT,
        };
        if is_right {
            return Outcome::Ok;
        }
        let start: String = String::from_utf8_lossy(&answer.body).chars().take(SHOWN_OF_A_BODY).collect();
        Outcome::Failed(format!("{}, {start:?}", answer.status))
    }

    fn is_listed(&self, body: &[u8]) -> bool {
        let list: Value = serde_json::from_slice(body).unwrap_or_default();
        list["assets"].as_array().is_some_and(|assets| assets.iter().any(|asset| asset["path"] == self.name.as_str()))
    }
}

impl Step {
    fn next(self) -> Self {
        match self {
            Self::Put => Self::Get,
            Self::Get => Self::List,
            Self::List => Self::Delete,
            Self::Delete => Self::Put,
        }
    }

    fn method(self) -> Method {
        match self {
            Self::Put => Method::PUT,
            Self::Get | Self::List => Method::GET,
            Self::Delete => Method::DELETE,
        }
    }
}

/// One in so many requests opens a new connection. Prime to the four steps, so that each of them does.
const ONE_NEW_IN: u64 = 5;
const ONE_STRANGER_IN: u64 = 19;
const NOBODYS_KEY: &str = "gk_load_00000000000000000000000000000000";
const SHOWN_OF_A_BODY: usize = 200;
