//! Refused requests that are repeated, and changes of the files that they were refused by.

use gaia_runtime::testing::{api_keys, policy};

use super::exchange::{API_KEY, JWT, USER, World, world};
use super::*;

/// Repeats of a refused request that no budget of an asker would allow.
const MANY: usize = 120;

impl World {
    async fn counted(&self, reason: &str) -> u64 {
        let metrics = get_plain(&format!("{}/metrics", self.service.admin)).await.1;
        let lines = metrics.lines().filter(|line| line.starts_with("gaia_token_issued_total") && line.contains(reason));
        lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok()).sum()
    }

    /// Mounts a file, and returns once it is in force.
    async fn mounts(&mut self, part: &str, name: &'static str, text: Vec<u8>) {
        let metrics = format!("{}/metrics", self.service.admin);
        let taken = async || reloads(&get_plain(&metrics).await.1, part);
        let before = taken().await;
        self.service.files.insert(name, text);
        self.service.mount.swap(&self.service.files);
        eventually("the file is taken", async || taken().await > before).await;
        // It is counted just before it is in force.
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }

    async fn status(&self, kind: &str, subject: &str, target: &str) -> StatusCode {
        self.exchange(&self.client("gateway"), kind, subject, target).await.0
    }
}

/// Kind: a budget that a repeated request draws on although its outcome is known.
#[tokio::test]
async fn a_repeated_refused_exchange_costs_its_asker_nothing() {
    let world = world().await;
    let gateway = world.client("gateway");
    let user = world.user_token();
    for (kind, subject, target, status) in [
        (JWT, "a.b.c", "asset-service", StatusCode::BAD_REQUEST),
        (JWT, user.as_str(), "chat-service", StatusCode::FORBIDDEN),
        (API_KEY, "no-such-key", "asset-service", StatusCode::BAD_REQUEST),
    ] {
        for number in 0..MANY {
            let (answered, _) = world.exchange(&gateway, kind, subject, target).await;
            assert_eq!(answered, status, "{kind} {target}: repeat {number}");
        }
    }
    let (status, answer) = world.exchange(&gateway, JWT, &user, "asset-service").await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    // Other credentials are evaluated again, and charged.
    let mut refused = 0;
    for number in 0..2 * MANY {
        let (status, _) = world.exchange(&gateway, JWT, &format!("a.b.{number}"), "asset-service").await;
        refused += usize::from(status == StatusCode::TOO_MANY_REQUESTS);
    }
    assert!(refused > 0, "made-up credentials are limited");
}

#[tokio::test]
async fn a_repeated_refused_service_token_costs_its_asker_nothing() {
    let world = world().await;
    let gateway = world.client("gateway");
    let refused = json!({ "service_name": "gateway", "target_service": "chat-service" });
    for number in 0..3 * MANY {
        assert_eq!(world.service.post(&gateway, &refused).await.0, StatusCode::FORBIDDEN, "repeat {number}");
    }
    let own = json!({ "service_name": "gateway", "target_service": "asset-service" });
    assert_eq!(world.service.post(&gateway, &own).await.0, StatusCode::OK);
    assert_eq!(world.counted("pair_not_granted").await, 3 * MANY as u64, "each is counted");
}

/// Kind: a refusal that outlasts a change of a file it was decided by.
#[tokio::test]
async fn a_remembered_refusal_ends_with_any_file_that_it_depends_on() {
    let (good, bad) = (StatusCode::OK, StatusCode::BAD_REQUEST);
    let mut world = world().await;
    let user = world.user_token();

    assert_eq!(world.status(JWT, &user, "chat-service").await, StatusCode::FORBIDDEN);
    let services = ["auth-service", "gateway", "asset-service", "chat-service", "web-service"];
    let pairs: [(&str, &str, &[&str]); 2] = [("gateway", "chat-service", &[]), ("gateway", "asset-service", &[])];
    world.mounts("grants", key::GRANTS, grants(&services, &pairs)).await;
    assert_eq!(world.status(JWT, &user, "chat-service").await, good);

    assert_eq!(world.status(API_KEY, "new-key", "asset-service").await, bad);
    world.mounts("api_keys", key::API_KEYS, api_keys(&[("new", "new-key", &[])])).await;
    assert_eq!(world.status(API_KEY, "new-key", "asset-service").await, good);

    let not_before = SystemClock.now() + jiff::SignedDuration::from_hours(1);
    let subject = DeniedSubject { sub: format!("user:supabase:{USER}"), not_before };
    let denylist = |subjects| serde_json::to_vec(&Denylist { subjects, ..Denylist::empty() }).unwrap();
    world.mounts("denylist", key::DENYLIST, denylist(vec![subject])).await;
    assert_eq!(world.status(JWT, &user, "asset-service").await, bad);
    world.mounts("denylist", key::DENYLIST, denylist(vec![])).await;
    assert_eq!(world.status(JWT, &user, "asset-service").await, good);

    let with = world.service.files[key::POLICY].clone();
    world.mounts("policy", key::POLICY, serde_json::to_vec(&policy("auth-service")).unwrap()).await;
    assert_eq!(world.status(JWT, &user, "asset-service").await, bad);
    world.mounts("policy", key::POLICY, with).await;
    assert_ne!(world.status(JWT, &user, "asset-service").await, bad, "its keys may have to be fetched again");
}

fn reloads(metrics: &str, part: &str) -> u64 {
    let part = format!(r#"gaia_mount_reloads_total{{part="{part}",result="taken"}} "#);
    metrics.lines().filter_map(|line| line.strip_prefix(&part)?.parse::<u64>().ok()).sum()
}
