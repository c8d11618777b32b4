//! `gaia-e2e migrate`: migrates a platform with one shared API key to mutual TLS and tokens, back, and
//! again, under load. Callers migrate one by one; each step lists the remaining users of the key.

mod callers;

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use gaia_api::{Clock as _, SystemClock};
use jiff::SignedDuration;
use serde_json::{Value, json};
use tokio::time::Instant;

use self::callers::{Callers, Counts};
use crate::ControlPlane;
use crate::five::{Five, How, NAMESPACE};
use crate::progress::tell;
use crate::wait::{self, Seen};

/// The result of the migration.
#[derive(Debug)]
pub struct Walk {
    /// Requests by caller.
    pub counts: Vec<(&'static str, Counts)>,
    /// Its duration.
    pub took: Duration,
}

impl Walk {
    /// True if every request had the result that its step specifies.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.counts.iter().all(|(_, counts)| counts.failed == 0 && counts.unexplained == 0 && counts.answered > 0)
    }
}

/// Runs the whole migration on an empty control plane.
///
/// # Errors
/// The step that failed, and the reason.
pub async fn walk(plane: ControlPlane) -> Result<Walk> {
    let started = Instant::now();
    tell("The old platform: one shared API key, plain HTTP between services.");
    let callers = json!([
        { "service": "gateway", "onBehalfOf": true },
        { "service": "web-service", "onBehalfOf": true },
        { "service": callers::BATCH },
    ]);
    let values = json!({
        "gaiaServices": { "auth": { "mode": "APIKeyOnly" } },
        "assetService": { "gaiaService": { "callers": callers } },
    });
    let five = Five::start(&plane, &values, How::PlainWithKey).await?;
    five.gotrue.add_user("ada@example.com", PASSWORD)?;
    let callers = Callers::start(&plane, &five).await?;
    let mut walker = Walker { plane, five, callers, user_token: String::new(), step: 0 };
    walker.all().await.with_context(|| format!("in step {}", walker.step))?;
    let Walker { plane, five, callers, user_token, .. } = walker;
    let counts = callers.stop().await;
    let walk = Walk { counts, took: started.elapsed() };
    for (who, counts) in &walk.counts {
        tell(format_args!(
            "{who:<14} {:>6} answered, {:>4} refused as announced, {} refused for no reason, {} failed",
            counts.answered, counts.explained, counts.unexplained, counts.failed
        ));
    }
    // The signature makes it a token; its claims may be logged.
    let signature = user_token.rsplit('.').next().unwrap_or_default();
    search_for_secrets(&plane, &five, &[&five.api_key, PASSWORD, signature]).await?;
    Ok(walk)
}

struct Walker {
    plane: ControlPlane,
    five: Five,
    callers: Callers,
    user_token: String,
    step: usize,
}

impl Walker {
    async fn all(&mut self) -> Result<()> {
        self.step("Everything is called with the key").await?;
        self.tls().await?;
        self.tokens().await?;
        self.deprecate().await?;
        self.brown_out().await?;
        self.ask_too_early().await?;
        self.tokens_alone(true).await?;
        self.back().await?;
        self.tokens_alone(false).await
    }

    async fn tls(&mut self) -> Result<()> {
        self.restart_callers(How::TlsWithKey).await?;
        self.callers.batch_over_tls();
        self.step("Every caller has moved to mutual TLS, still with the key").await
    }

    async fn tokens(&mut self) -> Result<()> {
        self.five.upgrade(&self.plane, &json!({ "gaiaServices": { "auth": { "mode": "Dual" } } })).await?;
        self.runs("Dual").await?;
        self.restart_callers(How::Tokens).await?;
        self.step("Keys and tokens are both taken; gateway and web-service have moved to tokens").await
    }

    async fn deprecate(&mut self) -> Result<()> {
        let sunset = SystemClock.now() + SignedDuration::from_hours(24 * 30);
        let auth = json!({ "auth": { "deprecationHeaders": true, "sunsetTime": sunset.round(jiff::Unit::Second)? } });
        self.five.upgrade(&self.plane, &json!({ "gaiaServices": auth })).await?;
        wait::until_true("users of the key get deprecation headers", SOON, async || {
            anyhow::Ok(self.callers.was_told_of_the_end())
        })
        .await?;
        self.step("Every answer to the key has the headers Deprecation and Sunset").await
    }

    async fn brown_out(&mut self) -> Result<()> {
        let start = (SystemClock.now() + SignedDuration::from_secs(8)).round(jiff::Unit::Second)?;
        let window = json!([{ "start": start, "duration": "10s" }]);
        self.callers.expect_refusals(true);
        self.five.upgrade(&self.plane, &json!({ "gaiaServices": { "auth": { "brownoutWindows": window } } })).await?;
        wait::until_true("the program from outside and the batch job were refused", SOON, async || {
            anyhow::Ok(self.callers.refused().len() == 2)
        })
        .await?;
        let refused = self.callers.refused();
        let end = start + SignedDuration::from_secs(12);
        wait::until_true("the window is over", SOON, async || anyhow::Ok(SystemClock.now() > end)).await?;
        self.answered_again(1).await?;
        self.callers.expect_refusals(false);
        tell(format_args!("   refused in the window: {}", refused.into_iter().collect::<Vec<_>>().join(", ")));
        self.user_token = self.callers.app_signs_in(&self.five).await?;
        self.step("In a brownout of ten seconds those who still use the key were found; the app signs its users in now")
            .await
    }

    async fn ask_too_early(&mut self) -> Result<()> {
        self.five.upgrade(&self.plane, &json!({ "assetService": { "gaiaService": only_tokens() } })).await?;
        let refused = async || -> Result<Seen<String>> {
            let service = self.service("asset-service").await?;
            let stalled = condition(&service, "Stalled");
            if stalled["reason"] == "LegacyKeysInUse" {
                return Ok(Seen::Yes(stalled["message"].as_str().unwrap_or_default().to_owned()));
            }
            Ok(Seen::NotYet(stalled.to_string()))
        };
        let look = async || match refused().await {
            Ok(seen) => seen,
            Err(error) => Seen::NotYet(format!("{error:#}")),
        };
        let message = wait::until("JWTOnly is refused", SOON, look).await?;
        let service = self.service("asset-service").await?;
        ensure!(service["status"]["auth"]["mode"] == "Dual", "the mode of before does not run: {}", service["status"]);
        // Strict was requested in the same edit: callers without a certificate must not be refused by it.
        ensure!(service["status"]["tls"]["mode"] == "Permissive", "Strict did not wait: {}", service["status"]);
        tell(format_args!("   JWTOnly was asked for and is refused: {message}"));
        self.callers.batch_with_tokens()?;
        self.step("The batch job uses tokens too: the key is unused").await
    }

    /// The first time the annotation replaces the evidence of a month, both for keys and for callers without a certificate.
    async fn tokens_alone(&mut self, by_force: bool) -> Result<()> {
        self.upgrade_all(&only_tokens()).await?;
        if by_force {
            for name in SERVICES {
                let generation = &self.service(name).await?["metadata"]["generation"];
                let annotation = format!("gaia.dev/force-mode=JWTOnly@{generation}");
                self.plane
                    .kubectl(&["annotate", "gaiaservice", name, "-n", NAMESPACE, "--overwrite", &annotation])
                    .await?;
            }
        }
        self.runs("JWTOnly").await?;
        self.step(if by_force {
            "Mutual TLS and tokens alone"
        } else {
            "And there again, without being forced: it ran today"
        })
        .await
    }

    async fn back(&mut self) -> Result<()> {
        self.upgrade_all(&json!({ "tls": { "mode": "Permissive" }, "auth": { "mode": "Dual" } })).await?;
        self.runs("Dual").await?;
        self.step("Back to both, at any time and without a failed request").await
    }

    /// Changes the calls of gateway and web-service to the others.
    async fn restart_callers(&self, how: How) -> Result<()> {
        for service in self.five.gateways.iter().chain([&self.five.web]) {
            self.five.restart(service, how).await?;
        }
        Ok(())
    }

    /// The same for every service, and for asset-service too, which has settings of its own by now.
    async fn upgrade_all(&mut self, wanted: &Value) -> Result<()> {
        let values = json!({ "gaiaServices": wanted, "assetService": { "gaiaService": wanted } });
        self.five.upgrade(&self.plane, &values).await
    }

    /// Waits until the operator reports that this mode is in force everywhere, and every process has loaded its policy.
    async fn runs(&self, mode: &str) -> Result<()> {
        for name in SERVICES {
            let runs = async || match self.service(name).await {
                Ok(service) if service["status"]["auth"]["mode"] == mode => Seen::Yes(()),
                Ok(service) => Seen::NotYet(service["status"].to_string()),
                Err(error) => Seen::NotYet(format!("{error:#}")),
            };
            wait::until(&format!("{name} runs {mode}"), SOON, runs).await?;
        }
        for (name, service) in self.five.services() {
            let taken = async || -> Result<()> {
                let policy: Value = serde_json::from_slice(&std::fs::read(service.dir().join("policy.json"))?)?;
                ensure!(policy["mode"] == mode, "it mounts {}", policy["mode"]);
                Ok(())
            };
            wait::until(&format!("{name} mounts {mode}"), SOON, taken).await?;
        }
        // Each polls its directory once a second.
        tokio::time::sleep(Duration::from_secs(3)).await;
        Ok(())
    }

    async fn service(&self, name: &str) -> Result<Value> {
        let text = self.plane.kubectl(&["get", "gaiaservice", name, "-n", NAMESPACE, "-o", "json"]).await?;
        Ok(serde_json::from_str(&text)?)
    }

    /// Some seconds under load, and then the platform's own report.
    async fn step(&mut self, what: &str) -> Result<()> {
        self.step += 1;
        self.answered_again(50).await?;
        tell(format_args!("\n{}. {what}", self.step));
        tell(indented(&self.plane.kubectl(&["get", "gaiaservices", "-n", NAMESPACE]).await?));
        tell(format_args!("   the key was used at asset-service by: {}", self.ledger().await?));
        if let Some(problem) = self.callers.problem() {
            bail!("{problem}");
        }
        Ok(())
    }

    /// Waits until all callers have so many more successful answers.
    async fn answered_again(&self, times: u64) -> Result<()> {
        let enough = self.callers.answered() + times;
        wait::until_true("all callers were answered again", SOON, async || {
            anyhow::Ok(self.callers.answered() >= enough)
        })
        .await
    }

    /// The users of the key at asset-service, and their last day.
    async fn ledger(&self) -> Result<String> {
        let path = r"jsonpath={.data.ledger\.json}";
        let get = ["get", "configmap", "asset-service-ledger", "-n", NAMESPACE, "--ignore-not-found", "-o", path];
        let ledger = self.plane.kubectl(&get).await?;
        if ledger.is_empty() {
            return Ok("nothing yet".to_owned());
        }
        let ledger: Value = serde_json::from_str(&ledger)?;
        let told = |entry: &Value| {
            let caller = &entry["caller"];
            let who = caller["spiffeId"].as_str().or(caller["address"].as_str()).unwrap_or("somebody");
            format!("{who} on {}", entry["date"].as_str().unwrap_or_default())
        };
        let entries: Vec<String> = ledger["entries"].as_array().into_iter().flatten().map(told).collect();
        Ok(entries.join(", "))
    }
}

/// Checks that no log, event, status or metric of the whole run holds a secret.
async fn search_for_secrets(plane: &ControlPlane, five: &Five, secrets: &[&str]) -> Result<()> {
    let mut places: Vec<(String, String)> = vec![];
    for (name, service) in five.services() {
        places.push((format!("the log of {name}"), std::fs::read_to_string(service.log())?));
        places.push((format!("the metrics of {name}"), service.metrics().await?));
    }
    places.push(("the log of the operator".to_owned(), std::fs::read_to_string(five.operator.log())?));
    let all = "trustdomains,gaiaservices,servicecertificates,configmaps,events";
    places.push(("what the API server shows".to_owned(), plane.kubectl(&["get", all, "-A", "-o", "json"]).await?));
    for (place, text) in &places {
        for secret in secrets {
            ensure!(!secret.is_empty() && !text.contains(secret), "{place} holds a secret");
        }
        ensure!(!text.contains("PRIVATE KEY"), "{place} holds a private key");
    }
    let bytes: usize = places.iter().map(|(_, text)| text.len()).sum();
    tell(format_args!(
        "No key, password or token is in the {} kB of logs, events, statuses and metrics.",
        bytes / 1000
    ));
    Ok(())
}

/// The spec of a service that accepts only tokens.
fn only_tokens() -> Value {
    json!({ "tls": { "mode": "Strict" }, "auth": { "mode": "JWTOnly", "brownoutWindows": [] } })
}

fn condition(object: &Value, type_: &str) -> Value {
    let conditions = object["status"]["conditions"].as_array().into_iter().flatten();
    conditions.into_iter().find(|condition| condition["type"] == type_).cloned().unwrap_or_default()
}

fn indented(text: &str) -> String {
    text.trim_end().lines().map(|line| format!("   {line}")).collect::<Vec<_>>().join("\n")
}

const SERVICES: [&str; 5] = ["auth-service", "asset-service", "chat-service", "gateway", "web-service"];
const PASSWORD: &str = "correct horse battery staple";
const SOON: Duration = Duration::from_secs(90);
