//! The contract with GoTrue: recorded requests, each with the status and the error code of the answer.
//!
//! Without settings the table runs against the stand-in. A maintainer runs all of it against real servers of GoTrue 2.196:
//! `GAIA_E2E_GOTRUE_URL`, `GAIA_E2E_GOTRUE_KEY` and `GAIA_E2E_GOTRUE_SERVICE_KEY` name the one with default settings, and
//! `GAIA_E2E_GOTRUE_URL_<PROJECT>` one for each other `project` of the table (`V2`, `CAPTCHA`, `EMAIL_OFF`, `LIMITED`,
//! `SIGNUPS_OFF`), with the same keys. docs/supabase.md has their settings.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use gaia_api::{Clock as _, ManualClock, SystemClock};
use gaia_runtime::external::{self, Fetched};
use gaia_stand_ins::gotrue::{GoTrue, GoTrueOptions, ProjectSettings, RefreshTokens, totp, totp_secret};
use http::{Method, Request, StatusCode};
use jiff::SignedDuration;
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    name: String,
    /// The settings of the server.
    #[serde(default = "default_project")]
    project: String,
    /// Steps before the request.
    #[serde(default)]
    steps: Vec<String>,
    request: String,
    auth: Option<String>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    body: Option<Value>,
    status: u16,
    code: Option<String>,
    /// Fields that the answer has.
    #[serde(default)]
    has: Vec<String>,
    /// The field of the answer that is the same as before.
    same: Option<String>,
}

fn default_project() -> String {
    "default".to_owned()
}

/// One server: the stand-in, whose clock is set, or a real one.
struct Server {
    url: String,
    key: String,
    service_key: String,
    clock: Option<Arc<ManualClock>>,
    _stand_in: Option<GoTrue>,
}

/// Values that the steps of one row produced.
struct Story<'a> {
    server: &'a Server,
    /// Each row comes from an address of its own, where the server honours it.
    address: String,
    values: BTreeMap<&'static str, String>,
}

impl Server {
    async fn of(project: &str) -> Option<Self> {
        let variable = |name: &str| std::env::var(name).ok();
        if let Some(default) = variable("GAIA_E2E_GOTRUE_URL") {
            let url = match project {
                "default" => Some(default),
                other => variable(&format!("GAIA_E2E_GOTRUE_URL_{}", other.to_uppercase())),
            };
            let key = variable("GAIA_E2E_GOTRUE_KEY").unwrap_or_default();
            let service_key = variable("GAIA_E2E_GOTRUE_SERVICE_KEY").expect("the table needs the service key");
            let url = url?.trim_end_matches('/').to_owned();
            return Some(Self { url, key, service_key, clock: None, _stand_in: None });
        }
        let mut settings = ProjectSettings { forwarded_for: true, ..ProjectSettings::default() };
        match project {
            "default" => {}
            "v2" => settings.refresh_tokens = RefreshTokens::V2,
            "captcha" => settings.captcha = true,
            "email_off" => settings.email = false,
            "limited" => settings.token_limit = Some(150),
            "signups_off" => settings.signups = false,
            other => panic!("no such project: {other}"),
        }
        let clock = Arc::new(ManualClock::new(SystemClock.now()));
        let options = GoTrueOptions { settings, clock: Arc::<ManualClock>::clone(&clock), ..GoTrueOptions::default() };
        let gotrue = GoTrue::start(options).await.unwrap();
        Some(Self {
            url: gotrue.base_url().to_owned(),
            key: gotrue.anon_key().to_owned(),
            service_key: gotrue.service_role_key().to_owned(),
            clock: Some(clock),
            _stand_in: Some(gotrue),
        })
    }

    fn now(&self) -> jiff::Timestamp {
        self.clock.as_ref().map_or_else(|| SystemClock.now(), |clock| clock.now())
    }
}

impl Story<'_> {
    /// The text with the values of the steps in it.
    fn fill(&self, text: &str) -> String {
        self.values.iter().fold(text.to_owned(), |text, (name, value)| text.replace(&format!("{{{name}}}"), value))
    }

    async fn send(
        &self,
        request: &str,
        auth: Option<&str>,
        headers: &BTreeMap<String, String>,
        body: Option<&Value>,
    ) -> Fetched {
        let (method, path) = request.split_once(' ').unwrap();
        let uri = format!("{}{}", self.server.url, self.fill(path));
        let mut request = Request::builder()
            .method(method.parse::<Method>().unwrap())
            .uri(uri)
            .header("apikey", &self.server.key)
            .header("sb-forwarded-for", &self.address)
            .header("content-type", "application/json");
        let bearer = match auth {
            None => None,
            Some("user") => Some(self.values["access_token"].clone()),
            Some("service") => Some(self.server.service_key.clone()),
            Some(other) => Some(other.to_owned()),
        };
        if let Some(bearer) = bearer {
            request = request.header("authorization", format!("Bearer {bearer}"));
        }
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let body = match body {
            None => String::new(),
            Some(Value::String(text)) => text.clone(),
            Some(body) => self.fill(&body.to_string()),
        };
        external::send(request.body(Bytes::from(body)).unwrap(), None).await.unwrap()
    }

    /// A request of a step, which succeeds.
    async fn must(&self, request: &str, auth: Option<&str>, body: Value) -> Value {
        let answer = self.send(request, auth, &BTreeMap::new(), Some(&body)).await;
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        assert!(answer.status.is_success(), "{request}: {} {text}", answer.status);
        serde_json::from_str(&text).unwrap_or_default()
    }

    fn keep(&mut self, name: &'static str, value: &Value) {
        self.values.insert(name, value.as_str().unwrap_or_else(|| panic!("{name} is {value}")).to_owned());
    }

    fn keep_session(&mut self, session: &Value) {
        self.keep("access_token", &session["access_token"]);
        self.keep("refresh_token", &session["refresh_token"]);
    }

    async fn step(&mut self, step: &str) {
        let login = json!({ "email": "{email}", "password": "{password}" });
        match step {
            "user" | "unconfirmed_user" => {
                let mut user = login;
                user["email_confirm"] = (step == "user").into();
                let user = self.must("POST /admin/users", Some("service"), user).await;
                self.keep("user_id", &user["id"]);
            }
            "anonymous" => {
                let session = self.must("POST /signup", None, json!({})).await;
                self.keep_session(&session);
            }
            "sign_in" => {
                let session = self.must("POST /token?grant_type=password", None, login).await;
                self.keep_session(&session);
            }
            "refresh" => {
                let body = json!({ "refresh_token": "{refresh_token}" });
                let session = self.must("POST /token?grant_type=refresh_token", None, body).await;
                self.values.insert("old_refresh_token", self.values["refresh_token"].clone());
                self.keep_session(&session);
            }
            "keep" => drop(self.values.insert("kept_refresh_token", self.values["refresh_token"].clone())),
            "log_out" => drop(self.must("POST /logout", Some("user"), Value::Null).await),
            "ban" => {
                let ban = json!({ "ban_duration": "24h" });
                self.must("PUT /admin/users/{user_id}", Some("service"), ban).await;
            }
            "delete" => drop(self.must("DELETE /admin/users/{user_id}", Some("service"), json!({})).await),
            "wait" => match &self.server.clock {
                Some(clock) => clock.set(clock.now() + SignedDuration::from_secs(12)),
                None => tokio::time::sleep(Duration::from_secs(12)).await,
            },
            "spend_limit" => {
                let wrong = json!({ "email": "a@example.com", "password": "wrong" });
                for _ in 0..30 {
                    self.send("POST /token?grant_type=password", None, &BTreeMap::new(), Some(&wrong)).await;
                }
            }
            "enrol" => {
                let factor = json!({ "factor_type": "totp", "friendly_name": "phone" });
                let factor = self.must("POST /factors", Some("user"), factor).await;
                self.keep("factor_id", &factor["id"]);
                let secret = totp_secret(factor["totp"]["secret"].as_str().unwrap()).unwrap();
                self.values.insert("digits", totp(&secret, self.server.now()));
            }
            "challenge" => {
                let challenge = self.must("POST /factors/{factor_id}/challenge", Some("user"), json!({})).await;
                self.keep("challenge_id", &challenge["id"]);
            }
            "verify" => {
                let digits = json!({ "challenge_id": "{challenge_id}", "code": "{digits}" });
                let session = self.must("POST /factors/{factor_id}/verify", Some("user"), digits).await;
                self.keep_session(&session);
            }
            other => panic!("no such step: {other}"),
        }
    }
}

/// The first difference between an answer and its row.
fn difference(row: &Row, answer: &Fetched, before: &BTreeMap<&'static str, String>) -> Option<String> {
    let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    let code = body["error_code"].as_str().or_else(|| body["code"].as_str());
    let found = |path: &String| {
        let pointer = format!("/{}", path.replace('.', "/"));
        body.pointer(&pointer).is_some_and(|value| !value.is_null())
    };
    if answer.status.as_u16() != row.status || code != row.code.as_deref() {
        return Some(format!("{} {code:?}, not {} {:?}", answer.status.as_u16(), row.status, row.code));
    }
    if let Some(missing) = row.has.iter().find(|path| !found(path)) {
        return Some(format!("without {missing}: {body}"));
    }
    let same =
        row.same.as_ref().filter(|name| body[name.as_str()].as_str() != before.get(name.as_str()).map(String::as_str));
    if let Some(name) = same {
        return Some(format!("another {name}"));
    }
    let retries = answer.headers.contains_key("retry-after");
    (answer.status == StatusCode::TOO_MANY_REQUESTS && retries).then(|| "with Retry-After".to_owned())
}

#[tokio::test]
async fn login_server_answers_as_recorded() {
    let rows: Vec<Row> = serde_json::from_str(include_str!("support/gotrue.json")).unwrap();
    let mut servers: BTreeMap<String, Option<Server>> = BTreeMap::new();
    let (mut differences, mut passed, mut skipped) = (Vec::new(), 0, Vec::new());
    for (number, row) in rows.iter().enumerate() {
        if !servers.contains_key(&row.project) {
            servers.insert(row.project.clone(), Server::of(&row.project).await);
        }
        let Some(server) = &servers[&row.project] else {
            skipped.push(row.name.as_str());
            continue;
        };
        let email = format!("row-{number}-{}@example.com", SystemClock.now().as_nanosecond());
        let values = BTreeMap::from([
            ("EMAIL", email.to_uppercase()),
            ("email", email),
            ("password", "correct horse battery".to_owned()),
        ]);
        let mut story = Story { server, address: format!("198.51.{}.{}", number / 250, number % 250 + 1), values };
        for step in &row.steps {
            story.step(step).await;
        }
        let answer = story.send(&row.request, row.auth.as_deref(), &row.headers, row.body.as_ref()).await;
        match difference(row, &answer, &story.values) {
            Some(difference) => differences.push(format!("{}: {difference}", row.name)),
            None => passed += 1,
        }
    }
    assert!(differences.is_empty(), "{} of {} differ:\n{}", differences.len(), rows.len(), differences.join("\n"));
    assert!(skipped.is_empty(), "{passed} as recorded, and these have no server: {skipped:?}");
    assert!(passed >= 42, "the table has at least 42 rows");
}
