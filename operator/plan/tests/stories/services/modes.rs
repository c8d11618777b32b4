//! The way from API keys to tokens, as far as the operator decides it.

use super::*;
use gaia_api::crd::{AuthMode, BrownoutWindow, TlsMode, TlsSpec, UserTokenIssuer, UserTokensSpec};
use gaia_api::ledger::LedgerRecord;

const ASSETS: (&str, &str) = ("shop", "asset-service");

fn policy(world: &World) -> serde_json::Value {
    let text = &world.config_map(ASSETS.0, "asset-service-auth").unwrap().content["policy.json"];
    serde_json::from_str(text).unwrap()
}

fn mode(world: &World) -> (AuthMode, AuthMode) {
    let reported = world.reported(&service(ASSETS.0, ASSETS.1));
    let world::Status::Service(status) = reported else { panic!("it is a service") };
    let auth = status.auth.unwrap();
    (auth.mode, auth.desired_mode)
}

fn edit(world: &mut World, edit: impl FnOnce(&mut gaia_api::crd::AuthSpec)) {
    world.edit_service(&name(ASSETS.0, ASSETS.1), |found| edit(&mut found.spec.auth));
    world.settle();
}

/// asset-service takes API keys; its pods were just read for the first time.
fn with_keys() -> World {
    let mut world = fleet_of(GaiaServiceSpec { tls: TlsSpec { mode: TlsMode::Strict }, ..GaiaServiceSpec::default() });
    world.edit_service(&name(ASSETS.0, ASSETS.1), |found| {
        found.spec.auth.api_keys_secret_ref = Some(SecretRef { name: "asset-keys".to_owned() });
    });
    world.settle();
    world
}

fn ledger(world: &World) -> Option<LedgerRecord> {
    let text = world.config_map(ASSETS.0, "asset-service-ledger")?.content.get("ledger.json")?;
    Some(serde_json::from_str(text).unwrap())
}

fn legacy_free(world: &World, status: &str, reason: &str) -> String {
    says(world, &service(ASSETS.0, ASSETS.1), "LegacyFree", status, reason)
}

/// A minute after the other the operator reads what instances have seen.
fn minutes(world: &mut World, minutes: i64) {
    for _ in 0..minutes {
        world.advance(60);
        world.settle();
    }
}

/// Days without anything, each with a look.
fn days(world: &mut World, days: i64) {
    for _ in 0..days * 144 {
        world.advance(600);
        world.settle();
    }
}

#[test]
fn a_service_goes_from_keys_to_tokens_and_back() {
    let mut world = with_keys();
    assert_eq!(mode(&world), (AuthMode::Dual, AuthMode::Dual));
    let since = ledger(&world).unwrap().watched_since.unwrap();
    assert_eq!(since, world.now);
    let message = legacy_free(&world, "False", "NotWatched");
    let free_at = "LegacyFree not before 2026-01-31T12:00:00Z";
    assert_eq!(message, format!("no key was used since {since}, which is less than 720h; {free_at}"));
    edit(&mut world, |auth| auth.mode = Some(AuthMode::APIKeyOnly));
    assert_eq!(mode(&world), (AuthMode::APIKeyOnly, AuthMode::APIKeyOnly));
    assert_eq!(policy(&world)["mode"], "APIKeyOnly");

    // A key is used: the mode does not change, and the caller is named.
    world.use_key("shop-1", "app", "/assets");
    minutes(&mut world, 1);
    edit(&mut world, |auth| auth.mode = Some(AuthMode::JWTOnly));
    assert_eq!(mode(&world), (AuthMode::APIKeyOnly, AuthMode::JWTOnly));
    assert_eq!(policy(&world)["mode"], "APIKeyOnly");
    let message = says(&world, &service(ASSETS.0, ASSETS.1), "Stalled", "True", "LegacyKeysInUse");
    assert!(message.starts_with("spec.auth.mode: APIKeyOnly stays in force instead of JWTOnly"), "{message}");
    assert!(message.contains("key app by curl on /assets on 2026-01-01"), "{message}");
    says(&world, &service(ASSETS.0, ASSETS.1), "Ready", "True", "Ready");
    let world::Status::Service(status) = world.reported(&service(ASSETS.0, ASSETS.1)) else { panic!("a service") };
    let legacy = status.legacy.unwrap();
    assert_eq!(legacy.last_used_date.as_deref(), Some("2026-01-01"));
    assert_eq!(legacy.callers[0].caller, "curl on /assets");
    assert_eq!(policy(&world)["tlsMode"], "Strict");

    // No key was used for a month. Until its last minute the change is refused.
    days(&mut world, 30);
    world.now = at("2026-01-31T23:59:00Z");
    world.settle();
    legacy_free(&world, "False", "LegacyKeysInUse");
    minutes(&mut world, 1);
    legacy_free(&world, "True", "KeysUnused");
    assert_eq!(mode(&world), (AuthMode::JWTOnly, AuthMode::JWTOnly));
    says(&world, &service(ASSETS.0, ASSETS.1), "Stalled", "False", "Settled");

    // Back, and again within a day, although a key is used in between.
    edit(&mut world, |auth| auth.mode = Some(AuthMode::Dual));
    assert_eq!(policy(&world)["mode"], "Dual");
    world.use_key("shop-0", "app", "/assets");
    minutes(&mut world, 1);
    legacy_free(&world, "False", "LegacyKeysInUse");
    world.crash();
    edit(&mut world, |auth| auth.mode = Some(AuthMode::JWTOnly));
    assert_eq!(mode(&world), (AuthMode::JWTOnly, AuthMode::JWTOnly));
    edit(&mut world, |auth| auth.mode = Some(AuthMode::Dual));
    days(&mut world, 2);
    edit(&mut world, |auth| auth.mode = Some(AuthMode::JWTOnly));
    assert_eq!(mode(&world), (AuthMode::Dual, AuthMode::JWTOnly), "a day later the way is shut again");

    // Without keys there is nothing to wait for, and nothing to record.
    edit(&mut world, |auth| auth.api_keys_secret_ref = None);
    assert_eq!(mode(&world), (AuthMode::JWTOnly, AuthMode::JWTOnly));
    legacy_free(&world, "True", "NoKeys");
    assert_eq!(ledger(&world), None);
    sound(&world);
}

#[test]
fn what_was_seen_is_written_once_and_at_rest_nothing_is() {
    let mut world = with_keys();
    world.use_key("shop-0", "app", "/assets");
    world.advance(60);
    assert_eq!(doing(&mut world), ["patch ConfigMap shop/asset-service-ledger (data ledger.json)"]);
    for _ in 0..100 {
        world.use_key("shop-0", "app", "/assets");
        world.advance(60);
        assert_eq!(doing(&mut world), [""; 0], "the day is there already");
    }
    world.use_key("shop-1", "app", "/assets");
    world.advance(60);
    assert_eq!(doing(&mut world), [""; 0], "whichever of them saw it");
    world.advance(DAY);
    world.use_key("shop-1", "app", "/assets");
    assert_eq!(doing(&mut world).len(), 1, "another day");
    assert_eq!(ledger(&world).unwrap().entries.len(), 1);
    sound(&world);
}

#[test]
fn an_instance_that_is_gone_without_a_last_read_leaves_a_gap_and_one_that_was_read_at_its_end_leaves_none() {
    let mut world = with_keys();
    minutes(&mut world, 60);
    let since = ledger(&world).unwrap().watched_since;
    // It terminates in an orderly way: its final uses are read.
    world.pod("shop-0").ends = true;
    world.use_key("shop-0", "app", "/assets");
    world.advance(2);
    world.settle();
    world.stop("shop-0");
    world.settle();
    let record = ledger(&world).unwrap();
    assert_eq!((record.watched_since, record.gap, record.instances.len()), (since, None, 1));
    assert_eq!(record.entries.len(), 1);

    minutes(&mut world, 60);
    world.stop("shop-1");
    world.settle();
    let record = ledger(&world).unwrap();
    assert_eq!(record.watched_since, Some(world.now), "without instances, the period restarts at once");
    let what = record.gap.unwrap().what;
    assert!(what.ends_with("terminated without a final read"), "{what}");
    // A known use takes precedence over a possible one.
    legacy_free(&world, "False", "LegacyKeysInUse");
    days(&mut world, 31);
    let message = legacy_free(&world, "True", "KeysUnused");
    assert_eq!(message, "no key was used for 720h");
    sound(&world);
}

#[test]
fn a_process_that_is_started_anew_has_lost_what_it_saw() {
    let mut world = with_keys();
    world.restart("shop-0");
    world.settle();
    let message = legacy_free(&world, "False", "EvidenceGap");
    assert!(
        message.contains("which is less than 720h") && message.contains("terminated without a final read"),
        "{message}"
    );
    assert_eq!(ledger(&world).unwrap().watched_since, Some(world.now));
    assert_eq!(doing(&mut world), [""; 0]);
    sound(&world);
}

#[test]
fn an_instance_that_cannot_be_read_for_ten_minutes_stops_the_time_until_it_can() {
    let mut world = with_keys();
    world.pod("shop-0").sight = Sight::Refuses;
    minutes(&mut world, 10);
    legacy_free(&world, "False", "NotWatched");
    minutes(&mut world, 1);
    let message = legacy_free(&world, "False", "EvidenceGap");
    assert_eq!(
        message,
        "not every instance's ledger is read: the ledger of shop-0 could not be read for more than 10 minutes: \
         connection refused"
    );
    assert_eq!(ledger(&world).unwrap().watched_since, None);
    let before = world.log.len();
    days(&mut world, 1);
    assert_eq!(world.done_since(before), [""; 0], "a time that stands still is not written again");
    world.pod("shop-0").sight = Sight::Reports;
    world.advance(60);
    world.settle();
    assert_eq!(ledger(&world).unwrap().watched_since, Some(world.now));
    sound(&world);
}

#[test]
fn an_operator_that_is_started_anew_within_ten_minutes_goes_on_with_the_evidence_and_a_later_one_begins() {
    let mut world = with_keys();
    let since = ledger(&world).unwrap().watched_since;
    minutes(&mut world, 5);
    world.advance(590);
    world.crash();
    world.settle();
    let record = ledger(&world).unwrap();
    assert_eq!((record.watched_since, record.gap), (since, None));
    world.advance(611);
    world.crash();
    world.settle();
    let record = ledger(&world).unwrap();
    assert_eq!(record.watched_since, Some(world.now));
    assert!(record.gap.unwrap().what.starts_with("no operator collected"));

    // An instance that terminated in the gap had no final read, however short the gap was.
    world.advance(60);
    world.stop("shop-0");
    world.crash();
    world.settle();
    assert!(ledger(&world).unwrap().gap.unwrap().what.ends_with("terminated without a final read"));
    sound(&world);
}

#[test]
fn a_record_that_somebody_deletes_or_breaks_is_begun_anew_and_a_foreign_one_is_left() {
    let mut world = with_keys();
    minutes(&mut world, 10);
    let key = ObjectKey::config_map("shop", "asset-service-ledger");
    world.objects.remove(&key);
    world.memory.lost.insert(key.clone());
    world.settle();
    assert_eq!(ledger(&world).unwrap().gap.unwrap().what, "the record was deleted");
    legacy_free(&world, "False", "EvidenceGap");
    minutes(&mut world, 10);
    let stored = world.objects.get_mut(&key).unwrap();
    stored.content.insert("ledger.json".to_owned(), "{".to_owned());
    stored.touch(1_000_000);
    world.settle();
    assert_eq!(ledger(&world).unwrap().gap.unwrap().what, "the record could not be read");
    sound(&world);
}

#[test]
fn a_trust_domain_that_asks_for_tokens_alone_is_refused_by_a_service_that_speaks_plain_http() {
    let mut world = fleet();
    world.edit_domain(TD, |found| found.spec.auth.default_mode = AuthMode::JWTOnly);
    world.settle();
    assert_eq!(mode(&world), (AuthMode::Dual, AuthMode::JWTOnly));
    let message = says(&world, &service(ASSETS.0, ASSETS.1), "Stalled", "True", "TLSNotStrict");
    assert!(message.starts_with("spec.tls.mode: must be Strict for JWTOnly"), "{message}");
    assert!(message.contains("spec.auth.defaultMode of TrustDomain gaia"), "{message}");
    says(&world, &service(ASSETS.0, ASSETS.1), "Ready", "True", "Ready");
    assert_eq!((&policy(&world)["mode"], &policy(&world)["tlsMode"]), (&"Dual".into(), &"Permissive".into()));
    let strict = |found: &mut gaia_api::crd::GaiaService, mode| {
        found.spec.tls.mode = mode;
        found.spec.auth.legacy_free_for = Span::hours(0);
    };
    world.edit_service(&name(ASSETS.0, ASSETS.1), |found| strict(found, TlsMode::Strict));
    world.settle();
    assert_eq!(mode(&world), (AuthMode::JWTOnly, AuthMode::JWTOnly));

    // The way back to plain HTTP is over another mode.
    world.edit_service(&name(ASSETS.0, ASSETS.1), |found| strict(found, TlsMode::Permissive));
    world.settle();
    says(&world, &service(ASSETS.0, ASSETS.1), "Stalled", "True", "TLSNotStrict");
    assert_eq!((&policy(&world)["mode"], &policy(&world)["tlsMode"]), (&"JWTOnly".into(), &"Strict".into()));
    sound(&world);
}

#[test]
fn a_trust_domain_sets_the_mode_of_those_that_set_none() {
    let mut world = fleet();
    world.edit_domain(TD, |found| found.spec.auth.default_mode = AuthMode::APIKeyOnly);
    world.settle();
    assert_eq!(mode(&world), (AuthMode::APIKeyOnly, AuthMode::APIKeyOnly));
    edit(&mut world, |auth| auth.mode = Some(AuthMode::Dual));
    assert_eq!(mode(&world), (AuthMode::Dual, AuthMode::Dual));
    sound(&world);
}

#[test]
fn users_of_keys_are_told_and_refused_for_a_while() {
    let mut world = fleet();
    edit(&mut world, |auth| {
        auth.deprecation_headers = true;
        auth.sunset_time = Some(at("2026-06-30T00:00:00Z"));
        let window = |start: &str, minutes| BrownoutWindow { start: at(start), duration: Span::minutes(minutes) };
        auth.brownout_windows = vec![window("2026-05-02T09:00:00Z", 30), window("2026-04-01T09:00:00Z", 5)];
    });
    let rules = policy(&world)["apiKeys"].clone();
    assert_eq!(rules["deprecation"]["sunset"], "2026-06-30T00:00:00Z");
    let window = |start: &str, end: &str| serde_json::json!({ "start": start, "end": end });
    let windows = [
        window("2026-04-01T09:00:00Z", "2026-04-01T09:05:00Z"),
        window("2026-05-02T09:00:00Z", "2026-05-02T09:30:00Z"),
    ];
    assert_eq!(rules["brownouts"], serde_json::json!(windows));
    says(&world, &service(ASSETS.0, ASSETS.1), "Stalled", "False", "Settled");
    sound(&world);
}

#[test]
fn the_issuers_of_user_tokens_reach_every_policy_and_leave_it_also_where_another_one_is_missing() {
    let mut world = fleet();
    let issuer = |name: &str| -> UserTokenIssuer {
        let (url, keys) = (format!("https://{name}.example"), format!("https://{name}.example/jwks"));
        serde_json::from_value(serde_json::json!({ "name": name, "issuer": url, "jwksURL": keys })).unwrap()
    };
    world.edit_domain(TD, |found| found.spec.user_token_issuers = vec![issuer("supabase"), issuer("partner")]);
    let done = doing(&mut world);
    assert_eq!(
        done,
        [
            "patch ConfigMap auth/auth-service-auth (data policy.json)",
            "patch ConfigMap shop/asset-service-auth (data policy.json)"
        ]
    );
    let issuers = |world: &World| policy(world)["userTokens"]["issuers"].as_array().map_or(0, Vec::len);
    assert_eq!(issuers(&world), 2);

    edit(&mut world, |auth| {
        auth.user_tokens = Some(UserTokensSpec { issuers: vec!["partner".into()], scopes: vec!["assets:read".into()] });
    });
    let tokens = policy(&world)["userTokens"].clone();
    assert_eq!((&tokens["issuers"][0]["name"], &tokens["scopes"][0]), (&"partner".into(), &"assets:read".into()));
    assert_eq!(issuers(&world), 1);
    says(&world, &service(ASSETS.0, ASSETS.1), "Stalled", "False", "Settled");

    // An administrator who removes an issuer wants its tokens rejected, whatever a service still declares.
    world.edit_domain(TD, |found| found.spec.user_token_issuers.retain(|issuer| issuer.name == "supabase"));
    world.settle();
    assert_eq!(policy(&world).get("userTokens"), None);
    let message = says(&world, &service(ASSETS.0, ASSETS.1), "Stalled", "True", "UserTokenIssuerNotFound");
    assert!(message.contains("spec.auth.userTokens.issuers") && message.contains("\"partner\""), "{message}");
    says(&world, &service(ASSETS.0, ASSETS.1), "Ready", "True", "Ready");
    edit(&mut world, |auth| auth.user_tokens = None);
    says(&world, &service(ASSETS.0, ASSETS.1), "Stalled", "False", "Settled");
    assert_eq!(issuers(&world), 1);
    sound(&world);
}
